//! The channel on which a watcher of a cluster reports to the console.
//!
//! Guarantees that the number of events waiting for the console is bounded: a sender waits.

use tokio::sync::mpsc;

use crate::exit::Failure;
use crate::message::{Event, Observation};

/// The number of events that may wait for the console. When it is reached, senders wait.
pub const EVENTS_MAX: usize = 256;

/// The sender with which a backend reports what it sees.
#[derive(Clone)]
pub struct Sink {
    events: mpsc::Sender<Event>,
}

impl Sink {
    /// Creates a sink into the console's events.
    #[must_use]
    pub fn new(events: mpsc::Sender<Event>) -> Self {
        Self { events }
    }

    /// Reports something. Returns false when the receiver is gone.
    pub async fn tell(&self, seen: Observation) -> bool {
        self.events.send(Event::Observation(seen)).await.is_ok()
    }

    /// Reports that the cluster is no longer there, and why.
    pub async fn lost(&self, why: Failure) {
        let _ = self.events.send(Event::NotAttached(why)).await;
    }

    /// Waits until the receiver is gone.
    pub async fn closed(&self) {
        self.events.closed().await;
    }
}
