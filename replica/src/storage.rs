//! The storage of a replica: its log, its state, and its identity.
//!
//! [`Store`] is what the engine needs of a disk. It has two implementations: [`Database`] on
//! RocksDB and [`Memory`](memory::Memory). Both guarantee that each call is one atomic write, that
//! after a crash the surviving writes are a prefix of those made, and that everything written
//! before a sync began has survived once the sync returned. A write that fails never returns: the
//! replica stops.
//!
//! Does not know when a sync is due; the driver does.

pub mod durable;
pub mod log;
pub mod memory;
pub mod rocks;
pub mod scan;
pub mod segments;

use kvorum_protocol::message::Scan;
use kvorum_protocol::status::{ClusterId, ConfigurationId, ReplicaId};
use serde::{Deserialize, Serialize};

use crate::marker::{Claim, History, Mark, Marker, Past};
use crate::state::entry::Entry;
use crate::state::machine::Table;
use crate::state::snapshot::{Install, InstallWrite, Quarantine, Snapshots};
use crate::state::start::{Epoch, Start, StartKey};
use crate::state::version::Version;

use durable::Durable;
/// A ballot, as the log stores it.
pub use omnipaxos::ballot_leader_election::Ballot;
pub use rocks::OnFatal;
pub use rocks::database::Database;
pub use rocks::open_error::OpenError;
use rocks::tables::Debt;
use segments::LogLimits;

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
pub struct Seen {
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

/// A page of keys.
pub type ScanPage = kvorum_protocol::message::Page;

/// The operations that the engine needs of a disk.
pub trait Store: Table {
    /// The log of one configuration, as the consensus library uses it.
    type Log: omnipaxos::storage::Storage<Entry>;
    /// The reader of snapshots.
    type Snapshots<'a>: Snapshots
    where
        Self: 'a;

    /// Opens the log of a configuration.
    fn log(&self, configuration: ConfigurationId) -> Self::Log;
    /// Returns this replica's identity.
    fn identity(&self) -> &Identity;
    /// Returns the nonce of one of this replica's starts.
    fn nonce_at(&self, incarnation: u64) -> Option<u64>;
    /// Returns one of this replica's starts.
    fn start(&self, incarnation: u64) -> Option<Start>;
    /// Returns the disk's epoch.
    fn epoch(&self) -> Epoch;
    /// Returns this start's claim on the cluster's marker.
    fn claim(&self, mark: Mark) -> Claim {
        let Identity { cluster, replica, incarnation, nonce, .. } = *self.identity();
        let chain = self.chain().current.id;
        Claim { cluster, replica, incarnation, nonce, chain, mark }
    }
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
    /// Begins the next epoch.
    fn begin_epoch(&mut self);
    /// Writes a record without meaning, so that the next sync needs the disk.
    fn touch(&mut self);
    /// Removes the logs of earlier configurations.
    fn drop_old_logs(&mut self);
    /// Returns what is remembered of a peer.
    fn seen(&self, peer: ReplicaId) -> Option<Seen>;
    /// Remembers a peer's start.
    fn remember(&mut self, peer: ReplicaId, seen: Seen);
    /// Returns how much work the disk has put off; none if all work is done at once.
    fn debt(&self) -> Debt {
        Debt::default()
    }
    /// Returns the decided entries with indexes `from..=to`, as many as fit into `bytes_max`, but
    /// at least one. All are of one configuration: the current one, or the previous one while its
    /// log is kept. Returns none when the first entry was compacted.
    fn decided(&self, from: u64, to: u64, bytes_max: usize) -> Decided;
    /// Returns a page of keys as of the index that is applied when it is read. May be called from
    /// any thread.
    fn scan(&self, scan: &Scan) -> ScanPage;
    /// Returns how much of the log is kept, and how much is sent at once.
    fn limits(&self) -> LogLimits;
    /// Returns the index up to which the log should be compacted, if it is long enough. `pinned` is
    /// the index from which a peer still fetches entries, if one does.
    fn excess(&self, pinned: Option<u64>) -> Option<u64>;
    /// Returns the index up to which the state was copied. Up to it, the disk does not know whether
    /// an entry of the log took effect.
    fn since(&self) -> u64;
    /// Returns the cluster's version, as of the applied index.
    fn version(&self) -> Version;
    /// Returns why the current state must not be used, if it must not.
    fn quarantine(&self) -> Option<Quarantine>;
    /// Returns the copy of state that is under way.
    fn install(&self) -> Option<Install>;
    /// Takes a step of a copy.
    fn write_install(&mut self, step: InstallWrite);
    /// Opens the reader of snapshots, for a thread of its own.
    fn snapshots(&self) -> Self::Snapshots<'_>;
    /// Returns what a sync that begins now will make durable.
    fn durable(&self) -> Durable;
    /// Makes every earlier write durable. May be called from another thread than the one that
    /// writes.
    fn sync(&self, durable: Durable);
}
