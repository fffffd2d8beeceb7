//! The addresses at which replicas were reached, and those that other replicas reported.
//!
//! Names may fail to resolve for a while although the replicas are up. Guarantees that an address
//! is taken for a replica of the cluster that it belonged to, and that memory grows only with the
//! number of replicas. Does not dial.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::Endpoint;
use crate::message::Address;
use crate::status::ClusterId;

/// How long a replica's report of the others' addresses is good enough.
const ASK_INTERVAL: Duration = Duration::from_secs(10);
/// Most addresses that are accepted from one replica.
const OTHERS_MAX: usize = 16;

/// The addresses that a client remembers.
#[derive(Default)]
pub(super) struct Remembered {
    /// The address that was reached and its cluster, by the address that was dialed.
    reached: HashMap<String, (SocketAddr, ClusterId)>,
    /// The reported addresses, with the replicas' names.
    told: Vec<(String, SocketAddr)>,
    /// The cluster of the reported replicas.
    cluster: Option<ClusterId>,
    asked_at: Option<Instant>,
}

impl Remembered {
    /// Records that a replica of `cluster` was reached at `at` by dialing `address`.
    pub(super) fn reached(&mut self, address: &str, at: SocketAddr, cluster: ClusterId) {
        self.reached.insert(address.to_owned(), (at, cluster));
    }

    /// Whether it is time to ask where the others are; if so, the caller does.
    pub(super) fn is_to_ask(&mut self, now: Instant) -> bool {
        let is_due = self.asked_at.is_none_or(|at| now >= at + ASK_INTERVAL);
        if is_due {
            self.asked_at = Some(now);
        }
        is_due
    }

    /// Records the others' addresses as a replica of `cluster` reported them. An empty report
    /// changes nothing.
    pub(super) fn told(&mut self, others: Vec<Address>, cluster: ClusterId) {
        let others = others.into_iter().take(OTHERS_MAX);
        let told: Vec<_> =
            others.filter_map(|other| Some((other.name, other.clients.parse().ok()?))).collect();
        if !told.is_empty() {
            (self.told, self.cluster) = (told, Some(cluster));
        }
    }

    /// Returns where the replica of an endpoint may be, if its address leads nowhere; `name` is the
    /// name it answered with, or is known by.
    pub(super) fn of(
        &self,
        endpoint: &Endpoint,
        name: Option<&str>,
    ) -> Option<(SocketAddr, ClusterId)> {
        let name = name.or_else(|| host_name(&endpoint.address));
        let told = self.told.iter().find(|(told, _)| name == Some(told.as_str()));
        let told = told.and_then(|(_, at)| Some((*at, self.cluster?)));
        told.or_else(|| self.reached.get(&endpoint.address).copied())
    }

    /// Returns the cluster that must be at an address that came from another replica, not from the
    /// caller.
    pub(super) fn cluster_at(&self, address: &str) -> Option<ClusterId> {
        let is_told = self.told.iter().any(|(_, at)| at.to_string() == address);
        self.cluster.filter(|_| is_told)
    }

    /// Returns the reported replicas that no endpoint is known to lead to.
    pub(super) fn others(&self, is_known: impl Fn(&str) -> bool) -> Vec<Endpoint> {
        let others = self.told.iter().filter(|(name, _)| !is_known(name));
        let endpoint = |(name, at): &(String, SocketAddr)| Endpoint {
            name: Some(name.clone()),
            address: at.to_string(),
        };
        others.map(endpoint).collect()
    }

    /// Forgets the addresses that are not known.
    pub(super) fn retain(&mut self, is_known: impl Fn(&String) -> bool) {
        self.reached.retain(|address, _| is_known(address));
    }
}

/// Returns the first part of an address that begins with a name: a replica's in its headless
/// Service.
pub(super) fn host_name(address: &str) -> Option<&str> {
    let first = address.split(['.', ':']).next()?;
    first.starts_with(|c: char| c.is_ascii_alphabetic()).then_some(first)
}
