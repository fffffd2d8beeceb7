//! Pure: the keys of each column family, in the order that iteration needs.
//!
//! | column family | key | record |
//! |---|---|---|
//! | `log` | configuration (4 bytes), position (8) | an entry |
//! | `meta` | see the functions below | identity, peers, the log's indexes |
//! | `keys` | the user's key | revision and value |
//! | `sessions` | `l` + lane, `u` + index | a lane; which lane was last used at an index |
//! | `void` | index (8) | empty: a command that changed no key |
//!
//! Numbers are big endian, so that bytes and numbers have the same order.

use kvorum_protocol::data::LaneId;
use kvorum_protocol::status::{ConfigurationId, ReplicaId};

/// Entries by configuration and position.
pub const LOG: &str = "log";
/// Identity, peers, and the log's indexes.
pub const META: &str = "meta";
/// The users' keys.
pub const KEYS: &str = "keys";
/// Lanes.
pub const SESSIONS: &str = "sessions";
/// Commands that changed no key.
pub const VOID: &str = "void";
/// All column families but RocksDB's own default.
pub const COLUMN_FAMILIES: [&str; 5] = [LOG, META, KEYS, SESSIONS, VOID];

/// `meta`: the last applied index.
pub const APPLIED: &[u8] = b"applied";
/// `meta`: who this replica is.
pub const IDENTITY: &[u8] = b"identity";
/// `meta`: the configuration it is in.
pub const CONFIGURATION: &[u8] = b"configuration";

/// One of the numbers that belong to a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogField {
    /// The highest ballot promised.
    Promise,
    /// The ballot in which the log was last accepted.
    AcceptedRound,
    /// The decided index.
    Decided,
    /// The compacted index.
    Compacted,
    /// The accepted index.
    Accepted,
}

/// `log`: an entry's key. `position` counts from 0, as the library does.
#[must_use]
pub fn entry(configuration: ConfigurationId, position: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&configuration.0.to_be_bytes());
    key[4..].copy_from_slice(&position.to_be_bytes());
    key
}

/// `meta`: one number of a log.
#[must_use]
pub fn log_field(configuration: ConfigurationId, field: LogField) -> Vec<u8> {
    let name: &[u8] = match field {
        LogField::Promise => b"promise",
        LogField::AcceptedRound => b"accepted-round",
        LogField::Decided => b"decided",
        LogField::Compacted => b"compacted",
        LogField::Accepted => b"accepted",
    };
    [b"log/", &configuration.0.to_be_bytes()[..], b"/", name].concat()
}

/// `meta`: what is remembered of a peer.
#[must_use]
pub fn peer(replica: ReplicaId) -> Vec<u8> {
    [b"peer/", &replica.0.to_be_bytes()[..]].concat()
}

/// `meta`: this replica's nonce at one of its incarnations.
#[must_use]
pub fn nonce(incarnation: u64) -> Vec<u8> {
    [b"nonce/", &incarnation.to_be_bytes()[..]].concat()
}

/// `sessions`: a lane.
#[must_use]
pub fn lane(lane: LaneId) -> [u8; 21] {
    let mut key = [b'l'; 21];
    key[1..17].copy_from_slice(&lane.client.0.to_be_bytes());
    key[17..].copy_from_slice(&lane.number.to_be_bytes());
    key
}

/// `sessions`: the lane last used at an index.
#[must_use]
pub fn lane_use(index: u64) -> [u8; 9] {
    let mut key = [b'u'; 9];
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn entries_are_ordered_by_configuration_then_position(
            a in any::<(u32, u64)>(), b in any::<(u32, u64)>(),
        ) {
            let key = |(c, p): (u32, u64)| entry(ConfigurationId(c), p);
            prop_assert_eq!(key(a).cmp(&key(b)), a.cmp(&b));
        }
    }
}
