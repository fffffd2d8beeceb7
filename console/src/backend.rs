//! Where replicas run: the seam between the console and a cluster.
//!
//! | module | what it is |
//! |---|---|
//! | [`cluster`] | real replicas, by their client ports; in Kubernetes, local, or at addresses |
//! | [`watch`] | one connection for each replica, that never fails but reports |
//! | [`memory`] | a cluster in memory, for tests and benchmarks |
//!
//! Guarantees of every backend: a call ends, and says what came of it; watching never fails and
//! goes on until its sink is closed. Nothing destructive is done but by [`Backend::call`].

pub mod cluster;
pub mod memory;
pub mod strangers;
pub mod watch;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::exit::Stop;
use crate::message::{Call, Event, Place, Reply, Seen};
use crate::probe::Store;

/// Events that wait for the console. When it is full, whoever tells it something waits.
pub const EVENTS_MAX: usize = 256;

/// A future of a backend.
pub type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

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

/// A cluster that the console can watch and use.
pub trait Backend: Send + Sync + 'static {
    /// Where the replicas are and what can be done with them there.
    fn place(&self) -> Place;

    /// Tells what is seen of the cluster, until the sink is closed.
    fn watch(self: Arc<Self>, sink: Sink) -> Task<()>;

    /// Does one thing with the cluster.
    fn call(self: Arc<Self>, call: Call) -> Task<Result<Reply, Stop>>;

    /// Where the write probe writes.
    fn store(self: Arc<Self>) -> Arc<dyn Store>;

    /// Ends what the console started for itself. Bounded in time by the backend.
    fn stop(self: Arc<Self>) -> Task<()>;
}
