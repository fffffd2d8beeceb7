//! Pure: the keys of each column family, in the order that iteration needs.
//!
//! | column family | key | record |
//! |---|---|---|
//! | `meta` | see the functions below | identity, members, starts, peers |
//! | `keys`, `keys.1` | the user's key | revision and value |
//! | `sessions`, `sessions.1` | `l` + lane | a lane |
//! | | `accounts` | the users, roles and rights |
//! | `void` | index (8) | empty: a command that changed no key |
//!
//! Numbers are big endian, so that bytes and numbers have the same order. `keys` and `sessions`
//! exist twice: one holds the state, and the other the state that is being copied, if any. A family
//! `log` is there and empty: in folders of before December 2026 it held what is in the journal now.

use kvorum_protocol::data::{ClientId, LaneId};
use kvorum_protocol::limits::KEY_BYTES_MAX;
use kvorum_protocol::status::ReplicaId;
use serde::{Deserialize, Serialize};

/// Only in older folders: entries by configuration (4 bytes) and position (8).
pub const LOG: &str = "log";
/// Identity, members, starts, peers.
pub const META: &str = "meta";
/// The users' keys, by parity of the generation.
const KEYS: [&str; 2] = ["keys", "keys.1"];
/// Lanes, by parity of the generation.
const SESSIONS: [&str; 2] = ["sessions", "sessions.1"];
/// Commands that changed no key.
pub const VOID: &str = "void";
/// All column families but RocksDB's own default.
pub const COLUMN_FAMILIES: [&str; 7] =
    [LOG, META, KEYS[0], SESSIONS[0], VOID, KEYS[1], SESSIONS[1]];

/// `meta`: the last applied index.
pub const APPLIED: &[u8] = b"applied";
/// `meta`: lanes that were last used at this index or before are forgotten.
pub const FORGOTTEN: &[u8] = b"forgotten";
/// `meta`: the index up to which the state was copied.
pub const SINCE: &[u8] = b"since";
/// `meta`: the number of times that a copied state replaced the current one.
pub const GENERATION: &[u8] = b"generation";
/// `meta`: the progress of a copy.
pub const INSTALL: &[u8] = b"install";
/// `meta`: the cluster's version.
pub const VERSION: &[u8] = b"version";
/// `meta`: the reason why the state must not be used; absent while it may be used.
pub const QUARANTINE: &[u8] = b"quarantine";
/// `meta`: the disk's epoch.
pub const EPOCH: &[u8] = b"epoch";
/// `meta`: present when the logs are in a journal.
pub const JOURNAL: &[u8] = b"journal";
/// `meta`: this replica's identity.
pub const IDENTITY: &[u8] = b"identity";
/// `meta`: the configuration chain: the current configuration, former members and joiners.
pub const CONFIGURATION: &[u8] = b"configuration";

/// The number of times that a copied state replaced the current one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Generation(pub u64);

impl Generation {
    /// Returns the generation whose column families are free, to which a copy is written.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Returns the column family of its keys.
    #[must_use]
    pub fn keys(self) -> &'static str {
        KEYS[usize::from(self.0 % 2 == 1)]
    }

    /// Returns the column family of its lanes.
    #[must_use]
    pub fn sessions(self) -> &'static str {
        SESSIONS[usize::from(self.0 % 2 == 1)]
    }
}

/// Whether a column family holds users' keys.
#[must_use]
pub fn holds_keys(family: &str) -> bool {
    KEYS.contains(&family)
}

/// Whether a column family's records are looked up one by one.
#[must_use]
pub fn is_looked_up(family: &str) -> bool {
    holds_keys(family) || SESSIONS.contains(&family)
}

/// Returns a key that sorts after every key of `keys` and `sessions`.
#[must_use]
pub fn end() -> Vec<u8> {
    vec![0xff; KEY_BYTES_MAX + 1]
}

/// `meta`: returns the key of the record of a peer.
#[must_use]
pub fn met(replica: ReplicaId) -> Vec<u8> {
    [b"met/", &replica.0.to_be_bytes()[..]].concat()
}

/// `meta`: returns the key of the same record as written by programs that knew a start by its
/// nonce.
#[must_use]
pub fn peer(replica: ReplicaId) -> Vec<u8> {
    [b"peer/", &replica.0.to_be_bytes()[..]].concat()
}

/// `meta`: returns the key of one start of this replica.
#[must_use]
pub fn start(incarnation: u64) -> Vec<u8> {
    [b"start/", &incarnation.to_be_bytes()[..]].concat()
}

/// `meta`: the range of all starts, as the first key and the key after the last.
pub const STARTS: (&[u8], &[u8]) = (b"start/", b"start0");

/// `meta`: returns the key of this replica's nonce at one of its incarnations.
#[must_use]
pub fn nonce(incarnation: u64) -> Vec<u8> {
    [b"nonce/", &incarnation.to_be_bytes()[..]].concat()
}

/// `sessions`: returns the key of a lane.
#[must_use]
pub fn lane(lane: LaneId) -> [u8; 21] {
    let mut key = [b'l'; 21];
    key[1..17].copy_from_slice(&lane.client.0.to_be_bytes());
    key[17..].copy_from_slice(&lane.number.to_be_bytes());
    key
}

/// `sessions`: returns the lane of a key that [`lane`] made; `None` for any other key.
#[must_use]
pub fn lane_of(key: &[u8]) -> Option<LaneId> {
    let (client, number) = key.strip_prefix(b"l")?.split_first_chunk()?;
    let client = ClientId(u128::from_be_bytes(*client));
    Some(LaneId { client, number: u32::from_be_bytes(number.try_into().ok()?) })
}

/// `sessions`: the users, roles and rights; before every lane.
pub const ACCOUNTS: &[u8] = b"accounts";

/// `sessions`: the first key that a lane may have.
pub const LANES: &[u8] = b"l";

/// `sessions`: the first key after every lane.
pub const LANES_END: &[u8] = b"m";

/// `sessions`: the first key of records that only programs from before December 2026 wrote, by
/// index: the lane that was last used there.
pub const LANE_USES: &[u8] = b"u";

/// `sessions`: the first key after every such record.
pub const LANE_USES_END: &[u8] = b"v";
