//! What the engine and its driver need of a disk, in traits by who needs it.
//!
//! | trait | who needs it |
//! |---|---|
//! | [`LogStore`] | `replication` and `logs`: the log of a configuration, and where it is cut |
//! | [`StateStore`] | whoever reads the state: requests, scans, versions, quarantine |
//! | [`IdentityStore`] | introductions, peers and marking: who this replica is, and whom it met |
//! | [`CopyStore`] | `catch_up`, `sending` and `scrub`: copies and snapshots of the state |
//! | [`SyncStore`] | the driver: syncs, and the work that the disk has put off |
//!
//! [`Store`] is all of them. [Storage](crate::storage) implements them on a disk and in memory.
//! Both guarantee that each call is one atomic write; that after a crash the surviving writes to
//! the log are a prefix of those made, and the state is the one that the log leads to, or is marked
//! as copied; and that everything written before a sync began has survived once the sync returned.
//! A write that fails never returns: the replica stops.

use kvorum_protocol::message::{Page, Scan};
use kvorum_protocol::status::{ClusterId, ConfigurationId, ReplicaId};
use serde::{Deserialize, Serialize};

use crate::limits::SYNC_BYTES_MAX;
use crate::marker::{Claim, History, Mark, Marker, Past};
use crate::state::entry::Entry;
use crate::state::machine::Table;
use crate::state::snapshot::{Install, InstallWrite, Quarantine, Snapshots};
use crate::state::start::{Epoch, Start, StartKey};
use crate::state::version::Version;

/// A replica's identity. It is stored on its volume and nowhere else.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// The replica's id, for ever.
    pub replica: ReplicaId,
    /// The replica's name, such as `kvorum-0`.
    pub name: String,
    /// The number of starts on this volume, from 1.
    pub incarnation: u64,
    /// The nonce of this start, drawn anew at each one: a public name for it.
    pub nonce: u64,
}

/// The record of a peer: the last of its starts that this replica saw, and how far its disk got.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerRecord {
    /// The start's incarnation.
    pub incarnation: u64,
    /// The public key of that start.
    pub key: StartKey,
    /// The latest epoch of its disk that the peer reported.
    pub epoch: Epoch,
}

/// Decided entries of the log, as a subscription reads them.
#[derive(Clone, Default, Debug)]
pub struct Decided {
    /// The entries, in order.
    pub entries: Vec<Entry>,
    /// The indexes among them that changed no key.
    pub void: Vec<u64>,
}

/// The limits for keeping and sending the log, in bytes as `Entry::weight` counts them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogLimits {
    /// The newest entries that stay when the log is compacted: a peer that lacks no more gets
    /// entries.
    pub window: u64,
    /// The log is compacted when it exceeds `window` by this much: compactions are large and rare,
    /// because each leaves a range tombstone.
    pub step: u64,
    /// The most that one message of the consensus library carries of the entries that a peer lacks;
    /// a peer that lacks more fetches them in chunks first.
    pub sync: u64,
    /// The size of one chunk of state or of entries.
    pub chunk: usize,
    /// The size of a segment: the precision with which positions are known.
    pub segment: u64,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            window: 48 << 20,
            step: 16 << 20,
            sync: SYNC_BYTES_MAX as u64,
            chunk: 512 << 10,
            segment: 1 << 20,
        }
    }
}

impl LogLimits {
    /// Returns the limits of a log that keeps this much, in the proportions of the default.
    #[must_use]
    pub fn keeping(window: u64) -> Self {
        let default = Self::default();
        let of = |most: u64, parts: u64| most.min(window / parts).max(1);
        Self {
            window,
            step: of(u64::MAX, 3),
            sync: of(default.sync, 6),
            chunk: usize::try_from(of(default.chunk as u64, 4)).expect("chunks are small"),
            segment: of(default.segment, 48),
        }
    }
}

/// The disk's debt: work that was put off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Debt {
    /// The bytes that have to be merged before the levels are in proportion; an estimate.
    pub bytes: u64,
    /// The number of level 0 files of the family that has most.
    pub files: u64,
    /// Whether writes are slowed or stopped until the debt is smaller.
    pub slows_writes: bool,
}

/// The logs of a replica.
pub trait LogStore {
    /// The log of one configuration, as the consensus library uses it.
    type Log: omnipaxos::storage::Storage<Entry>;

    /// Opens the log of a configuration.
    fn log(&self, configuration: ConfigurationId) -> Self::Log;
    /// Removes the logs of earlier configurations.
    fn drop_old_logs(&mut self);
    /// Returns the decided entries with indexes `from..=to`, as many as fit into `bytes_max`, but
    /// at least one. All are of one configuration: the current one, or the previous one while its
    /// log is kept. Returns none when the first entry was compacted.
    fn decided(&self, from: u64, to: u64, bytes_max: usize) -> Decided;
    /// Returns how much of the log is kept, and how much is sent at once.
    fn limits(&self) -> LogLimits;
    /// Returns the index up to which the log should be compacted, if it is long enough. `pinned` is
    /// the index from which a peer still fetches entries, if one does.
    fn excess(&self, pinned: Option<u64>) -> Option<u64>;
    /// Returns the index up to which the state was copied. Up to it, the disk does not know whether
    /// an entry of the log took effect, and the state may be ahead of the log.
    fn copied_at(&self) -> u64;
}

/// The replicated state, beyond the table that decided entries change.
pub trait StateStore: Table {
    /// Returns a page of keys as of the index that is applied when it is read. May be called from
    /// any thread.
    fn scan(&self, scan: &Scan) -> Page;
    /// Returns the cluster's version, as of the applied index.
    fn version(&self) -> Version;
    /// Returns why the current state must not be used, if it must not.
    fn quarantine(&self) -> Option<Quarantine>;
    /// Returns the index up to which the state survives a crash by itself. What was applied after
    /// it is made anew from the log, which must be kept from there on.
    fn persisted(&self) -> u64;
    /// Has the state written to the disk soon, so that the log can be cut. Does not wait for it.
    fn persist_soon(&mut self);
}

/// The identity of a replica, its starts, and what it remembers of its peers'.
pub trait IdentityStore {
    /// Returns this replica's identity.
    fn identity(&self) -> &Identity;
    /// Returns the nonce of one of this replica's starts.
    fn nonce_at(&self, incarnation: u64) -> Option<u64>;
    /// Returns one of this replica's starts.
    fn start(&self, incarnation: u64) -> Option<Start>;
    /// Returns the disk's epoch.
    fn epoch(&self) -> Epoch;
    /// Begins the next epoch.
    fn begin_epoch(&mut self);
    /// Returns what is remembered of a peer.
    fn seen(&self, peer: ReplicaId) -> Option<PeerRecord>;
    /// Remembers a peer's start.
    fn remember(&mut self, peer: ReplicaId, seen: PeerRecord);
    /// Returns what this disk records of one of its starts, for the cluster's marker to judge by.
    fn past(&self, incarnation: u64) -> Option<Past> {
        let nonce = self.nonce_at(incarnation)?;
        Some(Past { nonce, until: self.start(incarnation)?.reaches() })
    }
    /// Returns what this disk records of the starts that a marker names.
    fn history(&self, marker: &Marker) -> History {
        let named = marker.names(self.identity().replica).into_iter();
        named.filter_map(|incarnation| Some((incarnation, self.past(incarnation)?))).collect()
    }
}

/// Copies of the state: the one that this replica takes, and those that it gives.
pub trait CopyStore {
    /// The reader of snapshots.
    type Snapshots<'a>: Snapshots
    where
        Self: 'a;

    /// Returns the copy of state that is under way.
    fn install(&self) -> Option<Install>;
    /// Takes a step of a copy.
    fn write_install(&mut self, step: InstallWrite);
    /// Opens the reader of snapshots, for a thread of its own.
    fn snapshots(&self) -> Self::Snapshots<'_>;
}

/// What has to be durable, and when.
pub trait SyncStore {
    /// The extent of the writes that a sync makes durable.
    type Durable: Send + 'static;

    /// Returns what a sync that begins now will make durable.
    fn durable(&self) -> Self::Durable;
    /// Makes every earlier write durable. May be called from another thread than the one that
    /// writes.
    fn sync(&self, durable: Self::Durable);
    /// Writes a record without meaning, so that the next sync needs the disk.
    fn touch(&mut self);
    /// Returns how much work the disk has put off; none if all work is done at once.
    fn debt(&self) -> Debt {
        Debt::default()
    }
}

/// Everything that a replica needs of its disk.
pub trait Store: LogStore + StateStore + IdentityStore + CopyStore + SyncStore {
    /// Returns this start's claim on the cluster's marker.
    fn claim(&self, mark: Mark) -> Claim {
        let Identity { cluster, replica, incarnation, nonce, .. } = *self.identity();
        let chain = self.chain().current.id;
        Claim { cluster, replica, incarnation, nonce, chain, mark }
    }
}

impl<S: LogStore + StateStore + IdentityStore + CopyStore + SyncStore> Store for S {}
