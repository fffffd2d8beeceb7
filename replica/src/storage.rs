//! What a replica keeps: the log, the state, and who it is.
//!
//! [`Store`] is what the engine needs of a disk. Two exist: [`Database`] on RocksDB and
//! [`Memory`](memory::Memory). Both guarantee that each call is one atomic write, that after a
//! crash the surviving writes are a prefix of those made, and that everything made before a sync
//! began has survived once it returned. A write that fails never returns: the replica stops.
//!
//! Does not know when a sync is due; the driver does.

pub mod database;
pub mod durable;
mod framing;
mod install;
pub mod keys;
pub mod lock;
pub mod log;
pub mod memory;
pub mod open;
pub mod open_error;
pub mod record;
mod rocks;
pub mod rocks_log;
mod rocks_snapshots;
pub mod scan;
pub mod seed;
pub mod segments;
mod starts;
pub mod tables;

use kvorum_protocol::message::Scan;
use kvorum_protocol::status::{ClusterId, ConfigurationId, ReplicaId};
use serde::{Deserialize, Serialize};

use crate::entry::Entry;
use crate::marker::{Claim, History, Mark, Marker, Past};
use crate::snapshot::{Install, InstallWrite, Quarantine, Snapshots};
use crate::start::{Epoch, Start, StartKey};
use crate::state_machine::Table;
use crate::version::Version;

pub use database::Database;
use durable::Durable;
/// A ballot as a log has it.
pub use omnipaxos::ballot_leader_election::Ballot;
pub use open_error::OpenError;
pub use rocks::OnFatal;
use segments::LogLimits;
use tables::Debt;

/// Who a replica is. Lives on its volume and nowhere else.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Who it is, for ever.
    pub replica: ReplicaId,
    /// Its name, such as `kvorum-0`.
    pub name: String,
    /// How often it was started on this volume, from 1.
    pub incarnation: u64,
    /// Drawn anew at each start; a name for it that anybody may know.
    pub nonce: u64,
}

/// What is remembered of a peer: the last of its starts that this replica saw, and how far it got.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// Its incarnation.
    pub incarnation: u64,
    /// What that start is known by.
    pub key: StartKey,
    /// The latest epoch of its disk that it told.
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

/// What the engine needs of a disk.
pub trait Store: Table {
    /// The log of one configuration, as the library uses it.
    type Log: omnipaxos::storage::Storage<Entry>;
    /// Reads snapshots.
    type Snapshots<'a>: Snapshots
    where
        Self: 'a;

    /// Opens the log of a configuration.
    fn log(&self, configuration: ConfigurationId) -> Self::Log;
    /// Who this replica is.
    fn identity(&self) -> &Identity;
    /// The nonce that this replica had at one of its incarnations.
    fn nonce_at(&self, incarnation: u64) -> Option<u64>;
    /// One of this replica's starts.
    fn start(&self, incarnation: u64) -> Option<Start>;
    /// The disk's epoch.
    fn epoch(&self) -> Epoch;
    /// What this start tells the cluster's marker, or asks of it.
    fn claim(&self, mark: Mark) -> Claim {
        let Identity { cluster, replica, incarnation, nonce, .. } = *self.identity();
        let chain = self.chain().current.id;
        Claim { cluster, replica, incarnation, nonce, chain, mark }
    }
    /// What this disk has of one of its starts, for the cluster's marker to judge by.
    fn past(&self, incarnation: u64) -> Option<Past> {
        let nonce = self.nonce_at(incarnation)?;
        Some(Past { nonce, until: self.start(incarnation)?.reaches() })
    }
    /// What it has of those starts that a marker names.
    fn history(&self, marker: &Marker) -> History {
        let named = marker.names(self.identity().replica).into_iter();
        named.filter_map(|incarnation| Some((incarnation, self.past(incarnation)?))).collect()
    }
    /// Begins the next epoch.
    fn begin_epoch(&mut self);
    /// Writes something, so that the next sync needs the disk.
    fn touch(&mut self);
    /// Removes the logs of earlier configurations.
    fn drop_old_logs(&mut self);
    /// What is remembered of a peer.
    fn seen(&self, peer: ReplicaId) -> Option<Seen>;
    /// Remembers a peer.
    fn remember(&mut self, peer: ReplicaId, seen: Seen);
    /// How much work the disk has put off; nothing, where all is done at once.
    fn debt(&self) -> Debt {
        Debt::default()
    }
    /// The decided entries with indexes `from..=to`, as many as fit into `bytes_max` and are of one
    /// configuration, at least one; of this configuration, or of the one before while its log is
    /// there. None when the first was cut.
    fn decided(&self, from: u64, to: u64, bytes_max: usize) -> Decided;
    /// A page of keys as of the index that is applied when it is read; from any thread.
    fn scan(&self, scan: &Scan) -> ScanPage;
    /// How much of the log is kept, and how much travels at once.
    fn limits(&self) -> LogLimits;
    /// The index up to which the log should be cut, if it is long enough; `pinned` is an index from
    /// which on somebody still fetches entries.
    fn excess(&self, pinned: Option<u64>) -> Option<u64>;
    /// Up to this index the state was copied; whether an entry of the log up to there took effect
    /// is not known here.
    fn since(&self) -> u64;
    /// The cluster's version, as of the applied index.
    fn version(&self) -> Version;
    /// Why the state that is here must not be used, if it must not.
    fn quarantine(&self) -> Option<Quarantine>;
    /// State that is being copied here.
    fn install(&self) -> Option<Install>;
    /// Takes a step of copying.
    fn write_install(&mut self, step: InstallWrite);
    /// Opens what reads snapshots; for a thread of its own.
    fn snapshots(&self) -> Self::Snapshots<'_>;
    /// What a sync that begins now will make durable.
    fn durable(&self) -> Durable;
    /// Makes every earlier write durable. May be called from another thread than the writes.
    fn sync(&self, durable: Durable);
}
