//! Where replicas were reached, and where other replicas say they are.
//!
//! Names may be gone for a while when the replicas are not. Guarantees that an address is taken for
//! a replica of the cluster that it was one of, and that as much is remembered as there are
//! replicas. Does not dial.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::Endpoint;
use crate::message::Address;
use crate::status::ClusterId;

/// How long what a replica said of the others is good enough.
const ASK_INTERVAL: Duration = Duration::from_secs(10);
/// Others of which one replica is believed to know.
const OTHERS_MAX: usize = 16;

/// What a client remembers.
#[derive(Default)]
pub(super) struct Remembered {
    /// By the address that was dialed.
    reached: HashMap<String, (SocketAddr, ClusterId)>,
    /// By name.
    told: Vec<(String, SocketAddr)>,
    /// Whose replicas those are.
    cluster: Option<ClusterId>,
    asked_at: Option<Instant>,
}

impl Remembered {
    /// A replica was reached by an address, there.
    pub(super) fn reached(&mut self, address: &str, at: SocketAddr, cluster: ClusterId) {
        self.reached.insert(address.to_owned(), (at, cluster));
    }

    /// Whether it is time to ask where the others are; then somebody does.
    pub(super) fn is_to_ask(&mut self, now: Instant) -> bool {
        let is_due = self.asked_at.is_none_or(|at| now >= at + ASK_INTERVAL);
        if is_due {
            self.asked_at = Some(now);
        }
        is_due
    }

    /// A replica of that cluster says where the others are. One that knows nobody says nothing.
    pub(super) fn told(&mut self, others: Vec<Address>, cluster: ClusterId) {
        let others = others.into_iter().take(OTHERS_MAX);
        let told: Vec<_> =
            others.filter_map(|other| Some((other.name, other.clients.parse().ok()?))).collect();
        if !told.is_empty() {
            (self.told, self.cluster) = (told, Some(cluster));
        }
    }

    /// Where the replica of an endpoint may be, if its address leads nowhere; `name` is what it
    /// answered with, or is known by.
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

    /// The cluster that must be at an address that nobody gave, but another replica.
    pub(super) fn cluster_at(&self, address: &str) -> Option<ClusterId> {
        let is_told = self.told.iter().any(|(_, at)| at.to_string() == address);
        self.cluster.filter(|_| is_told)
    }

    /// The others that no endpoint is known to lead to.
    pub(super) fn others(&self, is_known: impl Fn(&str) -> bool) -> Vec<Endpoint> {
        let others = self.told.iter().filter(|(name, _)| !is_known(name));
        let endpoint = |(name, at): &(String, SocketAddr)| Endpoint {
            name: Some(name.clone()),
            address: at.to_string(),
        };
        others.map(endpoint).collect()
    }

    /// Forgets all other addresses.
    pub(super) fn retain(&mut self, is_known: impl Fn(&String) -> bool) {
        self.reached.retain(|address, _| is_known(address));
    }
}

/// The first part of an address that begins with a name: a replica's in its headless Service.
pub(super) fn host_name(address: &str) -> Option<&str> {
    let first = address.split(['.', ':']).next()?;
    first.starts_with(|c: char| c.is_ascii_alphabetic()).then_some(first)
}
