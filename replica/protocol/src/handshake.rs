//! Pure: the first exchange on a client's connection.
//!
//! The client sends a [`ClientHello`], the replica answers with a [`ServerHello`]. Guarantees that
//! two programs that do not speak the same protocol find out here, with a human-readable message.

use serde::{Deserialize, Serialize};

use crate::authentication::{Authentication, Unauthenticated};
use crate::status::ClusterId;
use crate::{WIRE_VERSION, WIRE_VERSION_OLDEST};

/// The first bytes of either side's first frame.
pub const MAGIC: [u8; 8] = *b"kvorum/c";

/// The client's first frame.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClientHello {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// The lowest wire version that the client speaks.
    pub version_min: u16,
    /// The highest wire version that the client speaks.
    pub version_max: u16,
    /// The cluster that the client wants; `None` for any cluster.
    pub cluster: Option<ClusterId>,
    /// Says which user the client is: an [`Authentication`] in bytes; empty when its certificate
    /// does.
    pub authentication: Vec<u8>,
}

impl ClientHello {
    /// Returns a hello with this crate's versions.
    #[must_use]
    pub fn new(cluster: Option<ClusterId>) -> Self {
        Self {
            magic: MAGIC,
            version_min: WIRE_VERSION_OLDEST,
            version_max: WIRE_VERSION,
            cluster,
            authentication: Vec::new(),
        }
    }

    /// Returns the hello of a client that says which user it is.
    #[must_use]
    pub fn of(self, authentication: Option<&Authentication>) -> Self {
        let authentication = authentication.map(Authentication::to_bytes).unwrap_or_default();
        Self { authentication, ..self }
    }
}

/// The replica's answer to the client's hello.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerHello {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// The welcome, or the reason for the refusal.
    pub verdict: Result<Welcome, HandshakeRefusal>,
}

/// The welcome of a replica that accepts the client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// The wire version that both use.
    pub version: u16,
    /// The replica's name.
    pub name: String,
    /// The cluster that the replica belongs to.
    pub cluster: ClusterId,
    /// The name of the leader that the replica knows.
    pub leader: Option<String>,
    /// The index up to which the replica has applied the log, for `valid_until`.
    pub applied: u64,
    /// The longest frame that the replica accepts, in bytes.
    pub frame_bytes_max: u64,
}

/// The reason why a replica refuses a client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum HandshakeRefusal {
    /// There is no common wire version.
    #[error(
        "it speaks wire version {server}, and this program speaks {client_min} to {client_max}; \
         install matching versions"
    )]
    Version {
        /// The replica's version.
        server: u16,
        /// The client's lowest version.
        client_min: u16,
        /// The client's highest version.
        client_max: u16,
    },
    /// The replica belongs to another cluster.
    #[error(
        "it belongs to cluster {server}, not to {asked}: a cluster that was restored, recovered or \
         made anew has an id of its own, and what is known of the old one (revisions, indexes) \
         means nothing there; to use the new one, start this program again"
    )]
    OtherCluster {
        /// The replica's cluster.
        server: ClusterId,
        /// The cluster that the client wants.
        asked: ClusterId,
    },
    /// The replica has reached its limit of connections.
    #[error("it has {most} connections already, as many as it takes; try again later")]
    TooManyConnections {
        /// The limit.
        most: u32,
    },
    /// The replica talks only to those that encrypt.
    #[error(
        "it takes encrypted connections only, and this program has no certificate of its cluster; \
         give it the folder of one with --tls-dir DIR"
    )]
    NotEncrypted,
    /// The replica does not know which user the client is.
    #[error("{0}")]
    Unauthenticated(Unauthenticated),
}

/// Checks a client's hello, and returns the wire version to use.
///
/// # Errors
/// The reason for the refusal, to be sent back.
pub fn judge(hello: &ClientHello, cluster: ClusterId) -> Result<u16, HandshakeRefusal> {
    let version = hello.version_max.min(WIRE_VERSION);
    if version < hello.version_min.max(WIRE_VERSION_OLDEST) {
        return Err(HandshakeRefusal::Version {
            server: WIRE_VERSION,
            client_min: hello.version_min,
            client_max: hello.version_max,
        });
    }
    match hello.cluster {
        Some(asked) if asked != cluster => {
            Err(HandshakeRefusal::OtherCluster { server: cluster, asked })
        }
        _ => Ok(version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_is_judged_by_version_and_cluster() {
        let here = ClusterId(7);
        let ours = ClientHello::new(None);
        let first = ClientHello { version_min: 1, version_max: 1, ..ours.clone() };
        let newer = ClientHello {
            version_min: WIRE_VERSION + 1,
            version_max: WIRE_VERSION + 2,
            ..ours.clone()
        };
        let nothing = ClientHello { version_min: 0, version_max: 0, ..ours.clone() };
        let broad = ClientHello { version_min: 1, version_max: 9, ..ours.clone() };
        let other = ClientHello::new(Some(ClusterId(8)));
        assert_eq!(judge(&ours, here), Ok(WIRE_VERSION));
        assert_eq!(judge(&broad, here), Ok(WIRE_VERSION));
        assert_eq!(judge(&first, here), Ok(1));
        assert!(matches!(judge(&newer, here), Err(HandshakeRefusal::Version { .. })));
        assert!(matches!(judge(&nothing, here), Err(HandshakeRefusal::Version { .. })));
        assert!(matches!(judge(&other, here), Err(HandshakeRefusal::OtherCluster { .. })));
    }
}
