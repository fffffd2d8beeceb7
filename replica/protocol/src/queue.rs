//! The queue of a subscription's events, from its connection to whoever reads it.
//!
//! Guarantees that it takes a bounded part of memory; the sender is told when it is full. Does not
//! know what becomes of the subscription then.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::sync::mpsc;

use crate::message::Event;

/// Bytes of events beyond which a queue is full. One event always fits.
pub(crate) const QUEUE_BYTES_MAX: usize = 1 << 20;

/// The sending end.
pub(crate) struct Queue {
    events: mpsc::UnboundedSender<Event>,
    bytes: Arc<AtomicUsize>,
}

/// The receiving end.
pub(crate) struct Queued {
    events: mpsc::UnboundedReceiver<Event>,
    bytes: Arc<AtomicUsize>,
}

/// No event is accepted: the reader is too slow, or gone.
#[derive(Debug)]
pub(crate) struct NoRoom;

/// Creates a queue.
pub(crate) fn queue() -> (Queue, Queued) {
    let (sender, events) = mpsc::unbounded_channel();
    let bytes = Arc::new(AtomicUsize::new(0));
    (Queue { events: sender, bytes: Arc::clone(&bytes) }, Queued { events, bytes })
}

impl Queue {
    /// Queues an event, if there is room for it.
    pub(crate) fn push(&self, event: Event) -> Result<(), NoRoom> {
        let (queued, weight) = (self.bytes.load(Ordering::Acquire), event.weight());
        if queued > 0 && queued + weight > QUEUE_BYTES_MAX {
            return Err(NoRoom);
        }
        self.bytes.fetch_add(weight, Ordering::AcqRel);
        self.events.send(event).or(Err(NoRoom))
    }
}

impl Queued {
    /// Returns the next event; `None` when the other end is gone and everything was read.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let event = ready!(self.events.poll_recv(cx));
        if let Some(event) = &event {
            self.bytes.fetch_sub(event.weight(), Ordering::AcqRel);
        }
        Poll::Ready(event)
    }
}
