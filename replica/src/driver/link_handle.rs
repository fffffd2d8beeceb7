//! The queues of messages that wait to be written to a peer.
//!
//! Guarantees that urgent messages have a lane of their own, that each lane keeps its order, and
//! that waiting messages are counted until they are written. Does not know when too much waits: the
//! driver adds up the counts, and ends a session by dropping its handle.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::engine::PeerMessage;
use crate::limits::URGENT_BYTES_MAX;

/// The sending end of a session, for the driver. Dropping it ends the session.
pub struct LinkHandle {
    urgent: mpsc::UnboundedSender<PeerMessage>,
    ordinary: mpsc::UnboundedSender<PeerMessage>,
    queued: Arc<Queued>,
    end: CancellationToken,
}

/// Bytes that wait in each lane, including the message that is being written.
#[derive(Default)]
struct Queued {
    urgent: AtomicUsize,
    ordinary: AtomicUsize,
}

impl Queued {
    fn lane(&self, is_urgent: bool) -> &AtomicUsize {
        if is_urgent { &self.urgent } else { &self.ordinary }
    }
}

impl LinkHandle {
    /// Creates both ends of a session's queues. `end` ends the session, and is cancelled with it.
    pub(crate) fn new(end: CancellationToken) -> (Self, Queues) {
        let (urgent, urgent_queue) = mpsc::unbounded_channel();
        let (ordinary, ordinary_queue) = mpsc::unbounded_channel();
        let queued = Arc::new(Queued::default());
        let queues =
            Queues { urgent: urgent_queue, ordinary: ordinary_queue, queued: Arc::clone(&queued) };
        (Self { urgent, ordinary, queued, end }, queues)
    }

    /// Counts a message that will be pushed now or later; returns false when too many urgent ones
    /// wait. Those have room of their own: they are small, and must not wait for a long
    /// synchronization.
    pub fn count(&self, message: &PeerMessage) -> bool {
        let is_urgent = message.is_urgent();
        let waits = self.queued.lane(is_urgent).fetch_add(message.weight(), Ordering::Relaxed);
        !is_urgent || waits <= URGENT_BYTES_MAX
    }

    /// Queues a message that was counted before.
    pub fn push(&self, message: PeerMessage) {
        let lane = if message.is_urgent() { &self.urgent } else { &self.ordinary };
        // The end of a session is reported by its own event.
        let _ = lane.send(message);
    }

    /// Returns the bytes of ordinary messages that were counted and are not written yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queued.ordinary.load(Ordering::Relaxed)
    }
}

impl Drop for LinkHandle {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// The queues of a session, for its writer.
pub(crate) struct Queues {
    pub urgent: mpsc::UnboundedReceiver<PeerMessage>,
    pub ordinary: mpsc::UnboundedReceiver<PeerMessage>,
    queued: Arc<Queued>,
}

impl Queues {
    /// Subtracts a message's weight from the count after the message is written.
    pub fn written(&self, weight: usize, is_urgent: bool) {
        self.queued.lane(is_urgent).fetch_sub(weight, Ordering::Relaxed);
    }
}
