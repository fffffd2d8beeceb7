//! The one cluster that a client belongs to.
//!
//! Behind an address another cluster may come up: one that was restored from a backup, or newly
//! created. Its revisions and indexes mean nothing to a client that knows those of the first. So a
//! client belongs, for its life, to the cluster that served it first, and rejects every other one.
//!
//! | what a replica did for a client of no cluster | is that its cluster from now on |
//! |---|---|
//! | it answered | yes |
//! | it may have taken a write or an act, whose answer was lost | yes |
//! | it refused, for now or for good | no: where several clusters answer, another one may serve |
//! | it reported its status, and is not ready | no |
//!
//! Guarantees that data from one cluster is never mixed with data from another.

use std::sync::OnceLock;

use crate::connection::{ConnectError, Connection};
use crate::handshake::HandshakeRefusal;
use crate::message::{Answer, Request};
use crate::status::ClusterId;

/// The cluster that a client belongs to, once it is known.
pub(super) struct Pin(OnceLock<ClusterId>);

impl Pin {
    /// Creates a pin on a cluster, or on the first that serves.
    pub(super) fn new(cluster: Option<ClusterId>) -> Self {
        Self(cluster.map_or_else(OnceLock::new, OnceLock::from))
    }

    /// Returns the cluster.
    pub(super) fn get(&self) -> Option<ClusterId> {
        self.0.get().copied()
    }

    /// Whether a cluster is the client's, or may become it.
    pub(super) fn admits(&self, cluster: ClusterId) -> bool {
        self.get().is_none_or(|pinned| pinned == cluster)
    }

    /// Records a cluster, and whether it has served. An error when the client belongs to another.
    pub(super) fn heard(
        &self,
        server: ClusterId,
        has_served: bool,
    ) -> Result<(), HandshakeRefusal> {
        let asked = match has_served {
            true => *self.0.get_or_init(|| server),
            false => self.get().unwrap_or(server),
        };
        match asked == server {
            true => Ok(()),
            false => Err(HandshakeRefusal::OtherCluster { server, asked }),
        }
    }

    /// Whether a connection that serves is to the client's cluster.
    pub(super) fn holds(&self, connection: &Connection) -> bool {
        self.heard(connection.welcome().cluster, true).is_ok()
    }

    /// Records the result of a call: its answer, or none.
    pub(super) fn heard_of(
        &self,
        connection: &Connection,
        changes: bool,
        answer: Option<&Answer>,
    ) -> Result<(), HandshakeRefusal> {
        let has_served = match answer {
            None => changes,
            Some(Answer::Refused(_)) => false,
            Some(Answer::Status(status)) => status.is_ready,
            Some(_) => true,
        };
        self.heard(connection.welcome().cluster, has_served)
    }

    /// Returns the connection, if it is to a cluster that may be the client's.
    pub(super) fn admit(
        &self,
        connection: Connection,
        address: &str,
    ) -> Result<Connection, ConnectError> {
        match self.heard(connection.welcome().cluster, false) {
            Ok(()) => Ok(connection),
            Err(refusal) => Err(ConnectError::Refused { address: address.to_owned(), refusal }),
        }
    }
}

/// Whether a request may change something.
pub(super) fn changes(request: &Request) -> bool {
    match request {
        Request::Write { .. } | Request::Admin(_) => true,
        Request::Get { .. }
        | Request::Scan(_)
        | Request::Status
        | Request::Addresses
        | Request::Access(_)
        | Request::Subscribe(_)
        | Request::Snapshot(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_belongs_to_the_first_cluster_that_serves_it() {
        let (first, second) = (ClusterId(1), ClusterId(2));
        let pin = Pin::new(None);
        assert_eq!((pin.heard(first, false), pin.get()), (Ok(()), None), "it served nobody");
        assert!(pin.admits(first) && pin.admits(second));
        assert_eq!((pin.heard(second, true), pin.get()), (Ok(()), Some(second)));
        let refused = HandshakeRefusal::OtherCluster { server: first, asked: second };
        for has_served in [true, false] {
            assert_eq!(pin.heard(first, has_served), Err(refused.clone()));
            assert_eq!(pin.heard(second, has_served), Ok(()));
        }
        assert!(!pin.admits(first));
        let given = Pin::new(Some(first));
        assert!(given.heard(second, true).is_err(), "it was given one");
    }
}
