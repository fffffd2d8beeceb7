//! Where whoever watches a cluster tells the console what it sees.
//!
//! Guarantees that what waits for the console is bounded: who tells it something waits.

use tokio::sync::mpsc;

use crate::exit::Stop;
use crate::message::{Event, Seen};

/// Events that wait for the console. When it is full, whoever tells it something waits.
pub const EVENTS_MAX: usize = 256;

/// Where a backend tells what it sees.
#[derive(Clone)]
pub struct Sink {
    events: mpsc::Sender<Event>,
}

impl Sink {
    /// A sink into the console's events.
    #[must_use]
    pub fn new(events: mpsc::Sender<Event>) -> Self {
        Self { events }
    }

    /// Tells something. False when nobody listens any more.
    pub async fn tell(&self, seen: Seen) -> bool {
        self.events.send(Event::Seen(seen)).await.is_ok()
    }

    /// Tells that the cluster is not there any more, and why.
    pub async fn lost(&self, why: Stop) {
        let _ = self.events.send(Event::NotAttached(why)).await;
    }

    /// Ends when nobody listens any more.
    pub async fn closed(&self) {
        self.events.closed().await;
    }
}
