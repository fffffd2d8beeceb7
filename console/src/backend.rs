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

use std::sync::Arc;

use crate::exit::Stop;
use crate::message::{Call, Place, Reply};
use crate::probe::{Store, Task};
use crate::sink::Sink;

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
