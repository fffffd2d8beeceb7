//! Pure: the state as it travels, to a replica that is behind and into a backup.
//!
//! A snapshot is the state at one applied index, held open by the replica that serves it and read
//! in chunks: first the lanes, then the keys, each in order. Whoever copies asks for one chunk
//! after the other, from where the last one ended; so neither side holds more than a chunk.
//!
//! Guarantees nothing about how it is read or stored; `storage` does.

use bytes::Bytes;
use kvorum_protocol::data::{LaneId, Value};
use kvorum_protocol::message::{Answer, Refusal, SnapshotName};
use kvorum_protocol::status::{ConfigurationId, ReplicaId};
use serde::{Deserialize, Serialize};

use crate::chain::Chain;
use crate::entry::Entry;
use crate::state_machine::{Lane, Record};
use crate::version::Version;

/// Names a snapshot for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SnapshotId {
    /// The nonce of the serving replica's start: a snapshot ends with its process.
    pub nonce: u64,
    /// Its number in that process.
    pub number: u64,
}

/// What a snapshot is of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Header {
    /// The index as of which it shows the state.
    pub applied: u64,
    /// About how many keys it has.
    pub items: u64,
    /// The cluster's version then.
    pub version: Version,
    /// The configuration after it.
    pub chain: Chain,
}

/// One thing of a state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Item {
    /// What is remembered of a lane.
    Lane(LaneId, Lane),
    /// A key and its record.
    Key(Bytes, Record),
}

impl Item {
    /// The cursor after it.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        match self {
            Self::Lane(lane, _) => Cursor::Lane(*lane),
            Self::Key(key, _) => Cursor::Key(key.clone()),
        }
    }

    /// About how many bytes it takes in memory and on the wire.
    #[must_use]
    pub fn weight(&self) -> usize {
        const OVERHEAD: usize = 64;
        match self {
            Self::Lane(..) => OVERHEAD,
            Self::Key(key, record) => OVERHEAD + key.len() + record.value.len(),
        }
    }
}

/// After what a chunk begins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Cursor {
    /// Nothing: the first chunk.
    Start,
    /// This lane.
    Lane(LaneId),
    /// This key; every lane comes before it.
    Key(Bytes),
}

impl Cursor {
    /// Reads what a client was told; `None` when it was told something else.
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

/// How many keys are among the items.
#[must_use]
pub fn keys_in(items: &[Item]) -> u64 {
    items.iter().filter(|item| matches!(item, Item::Key(..))).count() as u64
}

/// Reads the part of a backup that a client was given; `None` when it is none.
#[must_use]
pub fn items_of(part: &[u8]) -> Option<Vec<Item>> {
    match postcard::take_from_bytes(part) {
        Ok((items, [])) => Some(items),
        _ => None,
    }
}

/// A checksum of a state, or of a part of one: the sum of its things' hashes (XXH3, 128 bits), so
/// that neither their order nor how they were cut into chunks matters.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Digest(u128);

impl Digest {
    /// That of both: what was added up so far, and these.
    #[must_use]
    pub fn with(self, items: &[Item]) -> Self {
        let mut sum = self.0;
        for item in items {
            sum = sum.wrapping_add(xxhash_rust::xxh3::xxh3_128(&bytes_of(item)));
        }
        Self(sum)
    }
}

/// A state that must not be used: it differs from that of a majority.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Quarantine {
    /// The index as of which it was found to differ.
    pub index: u64,
    /// The replicas that had the majority's state, from which it may be copied.
    pub sound: Vec<ReplicaId>,
}

/// A part of a state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Chunk {
    /// What is in it, in order.
    pub items: Vec<Item>,
    /// Where the next one begins; `None` after the last.
    pub next: Option<Cursor>,
}

impl Chunk {
    /// Cuts a chunk of about so many bytes, at least one item, from what is left of a state.
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

    /// About how many bytes it takes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.items.iter().map(Item::weight).sum()
    }
}

/// Something to be read beside the replica's own work.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Wanted {
    /// A snapshot of the state as it is now.
    Snapshot,
    /// A chunk of an open snapshot.
    Chunk {
        /// Which one.
        snapshot: SnapshotId,
        /// After what.
        after: Cursor,
    },
    /// Decided entries of one configuration: the last is its stop sign.
    Entries {
        /// The configuration that whoever asks is in.
        configuration: ConfigurationId,
        /// The first index.
        from: u64,
    },
    /// Nothing more of a snapshot.
    Close {
        /// Which one.
        snapshot: SnapshotId,
    },
}

/// What was read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Found {
    /// An open snapshot.
    Snapshot {
        /// Its name.
        snapshot: SnapshotId,
        /// What it is of.
        header: Header,
    },
    /// A chunk.
    Chunk(Chunk),
    /// Decided entries, as many as a chunk holds.
    Entries {
        /// The first one's index.
        from: u64,
        /// The entries, in order.
        entries: Vec<Entry>,
        /// The index up to which entries were decided here.
        decided: u64,
    },
    /// The snapshot was closed, or the entries are compacted.
    Gone,
    /// Too many snapshots are open.
    Busy,
}

impl Found {
    /// What was read of a configuration's log: entries after its stop sign never take effect, and
    /// whoever is at `from` in another configuration must not see these.
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

    /// What a client is told.
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

/// State that is being copied to this replica, beside the one that it has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Install {
    /// What is copied.
    pub snapshot: SnapshotId,
    /// What it is of.
    pub header: Header,
    /// After what the next chunk begins; `None` when all is there.
    pub after: Option<Cursor>,
    /// How many lanes and keys are there.
    pub items: u64,
    /// About how many bytes they have.
    pub bytes: u64,
}

impl Install {
    /// The beginning of a copy.
    #[must_use]
    pub fn of(snapshot: SnapshotId, header: Header) -> Self {
        Self { snapshot, header, after: Some(Cursor::Start), items: 0, bytes: 0 }
    }

    /// How far it is with one more chunk.
    #[must_use]
    pub fn after(self, chunk: &Chunk) -> Self {
        let items = self.items + chunk.items.len() as u64;
        let bytes = self.bytes + chunk.weight() as u64;
        Self { after: chunk.next.clone(), items, bytes, ..self }
    }
}

/// A step of copying; each is one write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InstallWrite {
    /// Begins anew: whatever was copied before is gone.
    Begin(Install),
    /// The next chunk.
    Chunk(Chunk),
    /// The copied state takes the place of the one that was there, and ends a quarantine.
    Switch,
    /// The state that is here must not be used any more, nor what was copied so far.
    Quarantine(Quarantine),
    /// Copying is given up.
    Drop,
}

/// Snapshots that are open at a replica. Used by one thread, which is not the driver's.
pub trait Snapshots {
    /// Reads something. `number` names a snapshot that is opened by it. Nobody waits for a snapshot
    /// to be closed: of that there is nothing to tell.
    fn read(&mut self, wanted: &Wanted, number: u64) -> Option<Found>;
}
