//! Pure: the state as it is transferred to a replica that is behind, and into a backup.
//!
//! A snapshot is the state at one applied index. The replica that serves it holds it open, and it
//! is read in chunks: the accounts, then the lanes, then the keys, each in order. The copying side
//! requests one chunk after the other, each from where the last one ended, so neither side holds
//! more than a chunk.
//!
//! Guarantees nothing about how it is read or stored; `storage` does.

use bytes::Bytes;
use kvorum_protocol::data::{LaneId, Value};
use kvorum_protocol::message::{Answer, Refusal, SnapshotName};
use kvorum_protocol::status::{ConfigurationId, ReplicaId};
use serde::{Deserialize, Serialize};

use crate::state::accounts::Accounts;
use crate::state::chain::Chain;
use crate::state::entry::Entry;
use crate::state::machine::{Lane, Record};
use crate::state::version::Version;

/// The name of a snapshot, unique for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SnapshotId {
    /// The nonce of the serving replica's start: a snapshot ends with its process.
    pub nonce: u64,
    /// The snapshot's number in that process.
    pub number: u64,
}

/// The description of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Header {
    /// The index as of which it shows the state.
    pub applied: u64,
    /// The approximate number of keys.
    pub items: u64,
    /// The cluster's version as of that index.
    pub version: Version,
    /// The configuration chain as of that index.
    pub chain: Chain,
}

/// One record of a snapshot: a lane, a key, or the accounts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Item {
    /// A lane's session record.
    Lane(LaneId, Lane),
    /// A key and its record.
    Key(Bytes, Record),
    /// The users, roles and rights, if there are any.
    Accounts(Accounts),
}

impl Item {
    /// Returns the cursor after it.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        match self {
            Self::Lane(lane, _) => Cursor::Lane(*lane),
            Self::Key(key, _) => Cursor::Key(key.clone()),
            Self::Accounts(_) => Cursor::Accounts,
        }
    }

    /// Returns the approximate number of bytes that it takes in memory and on the wire.
    #[must_use]
    pub fn weight(&self) -> usize {
        const OVERHEAD: usize = 64;
        match self {
            Self::Lane(..) => OVERHEAD,
            Self::Key(key, record) => OVERHEAD + key.len() + record.value.len(),
            Self::Accounts(accounts) => OVERHEAD + accounts.bytes(),
        }
    }
}

/// The position after which a chunk begins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Cursor {
    /// The beginning: the first chunk.
    Start,
    /// After this lane.
    Lane(LaneId),
    /// After this key; all lanes come before all keys.
    Key(Bytes),
    /// After the accounts, which come first.
    Accounts,
}

impl Cursor {
    /// Decodes a cursor that a client sends back; `None` when it is not one that this program
    /// issued.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [] => Some(Self::Start),
            bytes => postcard::from_bytes(bytes).ok(),
        }
    }
}

impl From<SnapshotName> for SnapshotId {
    fn from(name: SnapshotName) -> Self {
        Self { nonce: name.nonce, number: name.number }
    }
}

fn bytes_of(value: &impl Serialize) -> Bytes {
    Bytes::from(postcard::to_stdvec(value).expect("plain data serializes into memory"))
}

/// Returns the number of keys among the items.
#[must_use]
pub fn keys_in(items: &[Item]) -> u64 {
    items.iter().filter(|item| matches!(item, Item::Key(..))).count() as u64
}

/// Decodes a part of a backup that was sent to a client; `None` when it is not one.
#[must_use]
pub fn items_of(part: &[u8]) -> Option<Vec<Item>> {
    match postcard::take_from_bytes(part) {
        Ok((items, [])) => Some(items),
        _ => None,
    }
}

/// The checksum of a state, or of a part of one: the sum of its items' hashes (XXH3, 128 bits), so
/// that neither their order nor their division into chunks matters.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Digest(u128);

impl Digest {
    /// Returns the checksum with these items added.
    #[must_use]
    pub fn with(self, items: &[Item]) -> Self {
        let mut sum = self.0;
        for item in items {
            sum = sum.wrapping_add(xxhash_rust::xxh3::xxh3_128(&bytes_of(item)));
        }
        Self(sum)
    }
}

/// The mark of a state that must not be used, because it differs from a majority's state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Quarantine {
    /// The index as of which the difference was found.
    pub index: u64,
    /// The replicas that had the majority's state, from which it may be copied.
    pub sound: Vec<ReplicaId>,
}

/// A part of a state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Chunk {
    /// The items, in order.
    pub items: Vec<Item>,
    /// The position after which the next chunk begins; `None` for the last one.
    pub next: Option<Cursor>,
}

impl Chunk {
    /// Cuts a chunk of about this many bytes, but at least one item, from the rest of a state.
    pub fn cut(mut rest: impl Iterator<Item = Item>, bytes_max: usize) -> Self {
        let (mut items, mut bytes) = (Vec::new(), 0);
        while bytes < bytes_max {
            let Some(item) = rest.next() else { return Self { items, next: None } };
            bytes += item.weight();
            items.push(item);
        }
        let next = items.last().map(Item::cursor);
        Self { items, next }
    }

    /// Returns the approximate number of bytes of its items.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.items.iter().map(Item::weight).sum()
    }
}

/// A read request that is served beside the replica's own work.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FetchRequest {
    /// A snapshot of the state as it is now.
    Snapshot,
    /// A chunk of an open snapshot.
    Chunk {
        /// The snapshot.
        snapshot: SnapshotId,
        /// The position after which the chunk begins.
        after: Cursor,
    },
    /// Decided entries of one configuration, up to its stop sign.
    Entries {
        /// The configuration that the requester is in.
        configuration: ConfigurationId,
        /// The first index.
        from: u64,
    },
    /// The end of a snapshot: nothing more is read from it.
    Close {
        /// The snapshot.
        snapshot: SnapshotId,
    },
}

/// The reply to a read request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FetchResponse {
    /// An open snapshot.
    Snapshot {
        /// Its name.
        snapshot: SnapshotId,
        /// Its description.
        header: Header,
    },
    /// A chunk.
    Chunk(Chunk),
    /// Decided entries, as many as fit into a chunk.
    Entries {
        /// The index of the first entry.
        from: u64,
        /// The entries, in order.
        entries: Vec<Entry>,
        /// The decided index of the serving replica.
        decided: u64,
    },
    /// The snapshot was closed, or the entries are compacted.
    Gone,
    /// Too many snapshots are open.
    Busy,
}

impl FetchResponse {
    /// Returns the reply with entries of one configuration's log: entries after its stop sign never
    /// take effect, and a requester that is at `from` in another configuration must not see these
    /// entries.
    #[must_use]
    pub fn entries_of(
        read: ConfigurationId,
        wanted: ConfigurationId,
        from: u64,
        mut entries: Vec<Entry>,
        decided: u64,
    ) -> Self {
        let is_seal = |entry: &Entry| matches!(entry, Entry::StopSign(next) if next.id > read);
        let seal = entries.iter().position(is_seal);
        match seal {
            _ if read < wanted => Self::Busy,
            _ if read > wanted || (entries.is_empty() && from <= decided) => Self::Gone,
            None => Self::Entries { from, entries, decided },
            Some(seal) => {
                entries.truncate(seal + 1);
                let decided = decided.max(from + seal as u64);
                Self::Entries { from, entries, decided }
            }
        }
    }

    /// Returns the reply to a client.
    #[must_use]
    pub fn answer(self) -> Answer {
        match self {
            Self::Snapshot { snapshot: SnapshotId { nonce, number }, header } => Answer::Snapshot {
                snapshot: SnapshotName { nonce, number },
                index: header.applied,
                keys: header.items,
            },
            Self::Chunk(chunk) => Answer::Part {
                keys: keys_in(&chunk.items),
                next: chunk.next.as_ref().map(|next| Value(bytes_of(next))),
                part: Value(bytes_of(&chunk.items)),
            },
            Self::Busy => Answer::Refused(Refusal::Overloaded),
            Self::Entries { .. } | Self::Gone => Answer::Refused(Refusal::SnapshotGone),
        }
    }
}

/// A copy of state to this replica that is under way, kept beside its current state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Install {
    /// The snapshot that is copied.
    pub snapshot: SnapshotId,
    /// The snapshot's description.
    pub header: Header,
    /// The position after which the next chunk begins; `None` when the copy is complete.
    pub after: Option<Cursor>,
    /// The number of lanes and keys copied so far.
    pub items: u64,
    /// The approximate number of bytes copied so far.
    pub bytes: u64,
}

impl Install {
    /// Returns a copy that has just begun.
    #[must_use]
    pub fn of(snapshot: SnapshotId, header: Header) -> Self {
        Self { snapshot, header, after: Some(Cursor::Start), items: 0, bytes: 0 }
    }

    /// Returns the copy with one more chunk.
    #[must_use]
    pub fn after(self, chunk: &Chunk) -> Self {
        let items = self.items + chunk.items.len() as u64;
        let bytes = self.bytes + chunk.weight() as u64;
        Self { after: chunk.next.clone(), items, bytes, ..self }
    }
}

/// A step of a copy; each is one write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InstallWrite {
    /// Begins anew: everything copied before is removed.
    Begin(Install),
    /// The next chunk.
    Chunk(Chunk),
    /// The copied state replaces the current one, and ends a quarantine.
    Switch,
    /// The current state must not be used any more, and the copy so far is removed.
    Quarantine(Quarantine),
    /// The copy is given up.
    Drop,
}

/// The open snapshots of a replica. Used by one thread, which is not the driver's.
pub trait Snapshots {
    /// Serves a read request. `number` names the snapshot that it opens, if it opens one. Closing a
    /// snapshot has no reply.
    fn read(&mut self, wanted: &FetchRequest, number: u64) -> Option<FetchResponse>;
}
