//! Backends: the interface between the console and a cluster.
//!
//! | module | what it is |
//! |---|---|
//! | [`cluster`] | real replicas, by their client ports; in Kubernetes, local, or at addresses |
//! | [`watch`] | one connection per replica, which never fails but reports |
//!
//! Guarantees of every backend: a call ends and reports its outcome; watching never fails and
//! continues until its sink is closed. Only [`Backend::call`] does anything destructive.

pub mod cluster;
pub mod strangers;
pub mod watch;

use std::sync::Arc;

use crate::exit::Failure;
use crate::message::{Call, Place, Reply};
use crate::probe::{Store, Task};
use crate::sink::Sink;

/// A cluster that the console can watch and use.
pub trait Backend: Send + Sync + 'static {
    /// Returns where the replicas are and what can be done with them there.
    fn place(&self) -> Place;

    /// Reports what is seen of the cluster, until the sink is closed.
    fn watch(self: Arc<Self>, sink: Sink) -> Task<()>;

    /// Carries out one call on the cluster.
    fn call(self: Arc<Self>, call: Call) -> Task<Result<Reply, Failure>>;

    /// Returns the store that the write probe writes to.
    fn store(self: Arc<Self>) -> Arc<dyn Store>;

    /// Stops what the console started for itself. Bounded in time by the backend.
    fn stop(self: Arc<Self>) -> Task<()>;
}
