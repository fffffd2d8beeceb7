//! A disk in memory: for `--storage memory`, and for tests and simulation, where it can crash.
//!
//! The log is `omnipaxos_storage`'s own `MemoryStorage`, guarded where that would underflow, so it
//! is also the model that the RocksDB log is checked against.
//!
//! Guarantees what a [store](crate::engine::store) promises: every call is one write, and a crash
//! keeps a prefix of the writes that no sync covered. The state falls back to where it was last
//! written as a whole, which may even be ahead of that prefix, and is [replayed](super::replay).
//! Does not survive its process; a replica that restarts on an empty disk has lost its disk and is
//! treated so.

mod crashes;
mod image;
mod snapshots;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use kvorum_protocol::data::LaneId;
use kvorum_protocol::message::{Page, Scan};
use kvorum_protocol::status::{Configuration, ConfigurationId, ReplicaId};

use super::durable::Durable;
use super::journal::frame::Place;
use super::log::{Log, LogDisk, LogNumbers, LogWrite};
use super::scan;
use crate::engine::store::{
    CopyStore, Decided, Identity, IdentityStore, LogLimits, LogStore, PeerRecord, StateStore,
    SyncStore,
};
use crate::state::accounts::Accounts;
use crate::state::chain::Chain;
use crate::state::entry::Entry;
use crate::state::machine::{Changes, Lane, LaneMemory, Record, Table};
use crate::state::snapshot::{Install, InstallWrite, Quarantine};
use crate::state::start::{Epoch, Secret, Start};
use crate::state::version::Version;
use image::{Image, Persisted, Write};
pub use snapshots::MemorySnapshots;

/// The disk, including the writes that no sync has covered yet.
struct Disk {
    current: Image,
    /// The image that survives a crash for certain; kept only if crashes are to be simulated.
    durable: Option<Image>,
    unsynced: VecDeque<Write>,
    /// Whether the state is written to the disk without its applied index: for a negative control.
    tears_state: bool,
    /// Whether the log is cut without regard to what is written of the state: for a negative
    /// control.
    cuts_freely: bool,
    /// The memory of lanes with which entries are applied again.
    lanes: LaneMemory,
}

/// Indexes after which the state is written to a disk that can crash.
const PERSIST_ENTRIES: u64 = 12;

/// A disk in memory. Clones share it, so that a test keeps the disk of a replica that it crashes.
#[derive(Clone)]
pub struct Memory {
    /// A mutex because the log, the state and a test share the disk; never held across a call out
    /// of this module.
    disk: Arc<Mutex<Disk>>,
    identity: Identity,
    /// The secret of this start; without one, as in tests, it is derived from the nonce.
    secret: Option<Secret>,
}

impl Memory {
    /// Creates an empty disk for the life of one process.
    #[must_use]
    pub fn new(identity: Identity, genesis: Configuration) -> Self {
        let current = Image::told(LogLimits::default(), genesis, identity.replica);
        Self::with(Disk::of(current, None), identity)
    }

    /// Returns the same disk, with a secret for its only start.
    #[must_use]
    pub fn with_secret(self, secret: Secret) -> Self {
        Self { secret: Some(secret), ..self }
    }

    /// Creates an empty disk that can crash, and whose log is compacted according to the limits.
    #[must_use]
    pub fn crashable(identity: Identity, genesis: Configuration, limits: LogLimits) -> Self {
        let image = Image::told(limits, genesis, identity.replica).crashable();
        Self::with(Disk::of(image.clone(), Some(image)), identity)
    }

    /// Creates an empty disk that can crash, for replica 1 or 2 of a new cluster.
    #[cfg(test)]
    pub(crate) fn of_two(replica: u64) -> Self {
        Self::of_cluster(replica, 2)
    }

    /// Creates an empty disk that can crash, for the only replica of a new cluster.
    #[cfg(test)]
    pub(crate) fn of_one() -> Self {
        Self::of_cluster(1, 1)
    }

    /// Creates an empty disk that can crash, for one of the replicas of a new cluster.
    #[cfg(test)]
    pub(crate) fn of_cluster(replica: u64, replicas: u64) -> Self {
        use kvorum_protocol::status::{ClusterId, Member};
        let member = |id: u64| Member { replica: ReplicaId(id), name: format!("kvorum-{id}") };
        let members = (1..=replicas).map(member).collect();
        let configuration = Configuration { id: ConfigurationId(1), members };
        let identity = Identity {
            cluster: ClusterId(9),
            replica: ReplicaId(replica),
            name: format!("kvorum-{replica}"),
            incarnation: 1,
            nonce: 100 + replica,
        };
        Self::crashable(identity, configuration, LogLimits::default())
    }

    fn with(disk: Disk, identity: Identity) -> Self {
        let (incarnation, nonce) = (identity.incarnation, identity.nonce);
        let (disk, secret) = (Arc::new(Mutex::new(disk)), None);
        let memory = Self { disk, identity, secret };
        memory.disk().write(Write::Start(incarnation, nonce));
        memory
    }

    /// Returns the same disk after its replica, whose id is retired, has got a new id.
    #[must_use]
    pub fn rejoin(&self, replica: ReplicaId, nonce: u64) -> Self {
        let mut memory = self.clone();
        memory.identity = Identity { replica, incarnation: 1, nonce, ..self.identity.clone() };
        memory.disk().persist();
        memory.disk().write(Write::Rejoin(nonce));
        memory
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    fn of(current: Image, durable: Option<Image>) -> Self {
        Self {
            current,
            durable,
            unsynced: VecDeque::new(),
            tears_state: false,
            cuts_freely: false,
            lanes: LaneMemory::default(),
        }
    }

    /// Returns the state that was last written after the first `kept` unsynced writes, if one was.
    fn persisted_after(&self, kept: usize) -> Option<Box<Persisted>> {
        let later = |write: &Write| matches!(write, Write::Persist | Write::PersistTorn);
        let last = self.unsynced.iter().rposition(later).filter(|last| *last >= kept)?;
        let mut image = self.durable.clone()?;
        self.unsynced.iter().take(last + 1).for_each(|write| image.apply(write.clone()));
        image.persisted
    }

    fn write(&mut self, write: Write) {
        self.current.apply(write.clone());
        if self.durable.is_some() {
            self.unsynced.push_back(write);
        }
    }

    fn persist(&mut self) {
        self.write(if self.tears_state { Write::PersistTorn } else { Write::Persist });
    }

    fn sync(&mut self, count: usize) {
        let Some(durable) = &mut self.durable else { return };
        for write in self.unsynced.drain(..count) {
            durable.apply(write);
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Identity { name, incarnation, .. } = &self.identity;
        write!(f, "a disk of {name}, start {incarnation}, {:?}", self.disk().current.epoch)
    }
}

/// One configuration's log on a disk in memory.
pub struct MemoryLog {
    memory: Memory,
    configuration: ConfigurationId,
}

impl LogDisk for MemoryLog {
    fn write(&mut self, writes: Vec<LogWrite>) {
        let mut disk = self.memory.disk();
        let persisted = disk.current.persisted_at();
        let cuts =
            |write: &LogWrite| matches!(write, LogWrite::Compact(at) if *at as u64 > persisted);
        if writes.iter().any(cuts) && !disk.cuts_freely {
            disk.persist();
        }
        disk.write(Write::Log(self.configuration, writes));
    }

    fn numbers(&self) -> LogNumbers {
        self.memory.disk().current.numbers(self.configuration)
    }

    fn read(&self, from: usize, to: usize) -> Vec<Entry> {
        self.memory.disk().current.entries(self.configuration, from, to)
    }

    fn sendable(&self) -> usize {
        let disk = self.memory.disk();
        disk.current.logs.get(&self.configuration).map_or(0, |log| log.segments.sendable())
    }
}

impl Table for Memory {
    fn applied(&self) -> u64 {
        self.disk().current.applied
    }

    fn chain(&self) -> Chain {
        self.disk().current.chain.clone()
    }

    fn configuration_id(&self) -> ConfigurationId {
        self.disk().current.chain.current.id
    }

    fn key(&self, key: &[u8]) -> Option<Record> {
        self.disk().current.state.keys.get(key).cloned()
    }

    fn lane(&self, lane: LaneId) -> Option<Lane> {
        self.disk().current.state.lanes.get(&lane).copied()
    }

    fn accounts(&self) -> Arc<Accounts> {
        Arc::clone(&self.disk().current.state.accounts)
    }

    fn commit(&mut self, changes: Changes) {
        let mut disk = self.disk();
        let is_due = disk.current.applied / PERSIST_ENTRIES != changes.applied / PERSIST_ENTRIES;
        if is_due || changes.from_peer {
            disk.persist();
        }
        disk.write(Write::Table(changes));
    }
}

impl LogStore for Memory {
    type Log = Log<MemoryLog>;

    fn log(&self, configuration: ConfigurationId) -> Self::Log {
        Log(MemoryLog { memory: self.clone(), configuration })
    }

    fn drop_old_logs(&mut self) {
        self.disk().write(Write::DropOldLogs);
    }

    fn decided(&self, from: u64, to: u64, bytes_max: usize) -> Decided {
        let disk = self.disk();
        let (configuration, last) = disk.current.log_of(from);
        let to = to.min(last);
        let mut decided = Decided::default();
        let mut bytes = 0;
        for position in from - 1..to {
            let position = usize::try_from(position).expect("positions fit the address space");
            let entry = disk.current.entries(configuration, position, position + 1).pop();
            let Some(entry) = entry else { break };
            bytes += entry.weight();
            if bytes > bytes_max && !decided.entries.is_empty() {
                break;
            }
            decided.entries.push(entry);
        }
        let last = from + decided.entries.len() as u64;
        decided.void = disk.current.void.range(from..last).copied().collect();
        decided
    }

    fn limits(&self) -> LogLimits {
        self.disk().current.limits
    }

    fn excess(&self, pinned: Option<u64>) -> Option<u64> {
        let id = self.configuration_id();
        let disk = self.disk();
        let log = disk.current.logs.get(&id)?;
        let pinned = pinned.and_then(|index| usize::try_from(index).ok());
        log.segments.excess(pinned, || 0).map(|position| position as u64)
    }

    fn copied_at(&self) -> u64 {
        self.disk().current.since
    }
}

impl StateStore for Memory {
    fn scan(&self, wanted: &Scan) -> Page {
        let disk = self.disk();
        let first = Bytes::copy_from_slice(scan::first(wanted));
        let end = scan::end(wanted);
        let records = disk
            .current
            .state
            .keys
            .range(first..)
            .take_while(|(key, _)| end.as_ref().is_none_or(|end| key.as_ref() < end.as_slice()))
            .map(|(key, record)| (key.clone(), record.clone()));
        scan::page(wanted, records, disk.current.applied)
    }

    fn version(&self) -> Version {
        self.disk().current.version
    }

    fn quarantine(&self) -> Option<Quarantine> {
        self.disk().current.quarantine.clone()
    }

    fn persist_soon(&mut self) {
        if self.persisted() < self.applied() {
            self.persist();
        }
    }

    fn persisted(&self) -> u64 {
        let disk = self.disk();
        if disk.cuts_freely { disk.current.applied } else { disk.current.persisted_at() }
    }
}

impl IdentityStore for Memory {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn nonce_at(&self, incarnation: u64) -> Option<u64> {
        self.disk().current.nonces.get(&incarnation).copied()
    }

    fn start(&self, incarnation: u64) -> Option<Start> {
        let disk = self.disk();
        let Image { nonces, began, .. } = &disk.current;
        let secret = match self.secret.filter(|_| incarnation == self.identity.incarnation) {
            Some(secret) => secret,
            None => Secret::of_nonce(*nonces.get(&incarnation)?),
        };
        let until = incarnation.checked_add(1).and_then(|next| began.get(&next).copied());
        Some(Start { secret, began: *began.get(&incarnation)?, until })
    }

    fn epoch(&self) -> Epoch {
        self.disk().current.epoch
    }

    fn begin_epoch(&mut self) {
        let next = self.epoch().next();
        self.disk().write(Write::Epoch(next));
    }

    fn seen(&self, peer: ReplicaId) -> Option<PeerRecord> {
        self.disk().current.seen.get(&peer).copied()
    }

    fn remember(&mut self, peer: ReplicaId, seen: PeerRecord) {
        self.disk().write(Write::Remember(peer, seen));
    }
}

impl CopyStore for Memory {
    type Snapshots<'a> = MemorySnapshots;

    fn install(&self) -> Option<Install> {
        self.disk().current.install.clone()
    }

    fn write_install(&mut self, step: InstallWrite) {
        self.disk().write(Write::Install(step));
    }

    fn snapshots(&self) -> MemorySnapshots {
        MemorySnapshots::new(self.clone())
    }
}

impl SyncStore for Memory {
    type Durable = Durable;

    fn durable(&self) -> Durable {
        let id = self.configuration_id();
        Durable::of(id, &self.disk().current.numbers(id), 0, Place::default())
    }

    /// Does nothing: no write outlives the process, synced or not.
    fn sync(&self, _: Durable) {}

    /// Does nothing: there is no disk that could be gone.
    fn touch(&mut self) {}
}
