//! A disk: the journal, one RocksDB, and the side file.
//!
//! The log goes to the [journal](crate::storage::journal). The state that it leads to goes to
//! RocksDB's memory, from where it is written in the background, whole up to some index; the rest
//! is [replayed](crate::storage::replay) when the folder is opened again. What the log does not
//! lead to goes through RocksDB's own log. Nothing waits for the disk but [`Database::sync`], which
//! makes all earlier writes durable at once. Guarantees what a [store](crate::engine::store)
//! promises, and that a folder is used by one replica of one cluster. The folder's
//! [lock](super::lock) guarantees that it is used by one process. A read that finds damage and a
//! write that fails stop the replica; damaged data is never served.
//!
//! | file in the folder | contents |
//! |---|---|
//! | `lock` | held while a process uses the folder, see [`lock`](super::lock) |
//! | `journal/` | the logs, see [`journal`](crate::storage::journal) |
//! | `db/` | RocksDB |
//! | `durable` | what the last sync made durable, see [`durable`](crate::storage::durable) |

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use kvorum_protocol::data::LaneId;
use kvorum_protocol::message::{Page, Scan};
use kvorum_protocol::status::{ConfigurationId, ReplicaId};
use rocksdb::WriteBatch;

use super::framing::look_through;
use super::lanes::Lanes;
use super::log::DiskLog;
use super::open::{Opened, Owner};
use super::open_error::OpenError;
use super::snapshots::RocksSnapshots;
use super::tables::open_rocksdb;
use super::{Inner, OnFatal, Progress, is_damage, keys, put};
use crate::engine::store::{
    CopyStore, Debt, Decided, Identity, IdentityStore, LogLimits, LogStore, PeerRecord, StateStore,
    SyncStore,
};
use crate::state::accounts::Accounts;
use crate::state::chain::Chain;
use crate::state::machine::{Changes, Lane, LaneMemory, Record, Table};
use crate::state::snapshot::{Install, InstallWrite, Quarantine};
use crate::state::start::{Epoch, Start};
use crate::state::version::Version;
use crate::storage::durable::Durable;
use crate::storage::journal::frame::Frame;
use crate::storage::log::Log;
use crate::storage::replay::replay;
use crate::storage::segments::Segments;

/// The open disk. Clones share it.
#[derive(Clone)]
pub struct Database {
    pub(super) inner: Arc<Inner>,
    pub(super) identity: Identity,
    pub(super) epoch: Epoch,
    /// Kept here because the driver reads it in each turn.
    pub(super) applied: u64,
    pub(super) since: u64,
    pub(super) version: Version,
    pub(super) accounts: Arc<Accounts>,
    pub(super) lanes: Lanes,
}

impl Database {
    /// Whether a replica's folder holds a database.
    ///
    /// # Errors
    /// The file system's error.
    pub fn is_in(folder: &Path) -> io::Result<bool> {
        folder.join("db").join("CURRENT").try_exists()
    }

    /// Opens or creates a folder, and records one more start of its replica.
    pub fn open(
        folder: &Path,
        owner: &Owner,
        nonce: u64,
        limits: LogLimits,
        on_fatal: OnFatal,
    ) -> Result<Self, OpenError> {
        let unusable = |error: &dyn std::fmt::Display| OpenError::unusable(folder, error);
        fs::create_dir_all(folder).map_err(|error| unusable(&error))?;
        let side_path = folder.join("durable");
        let is_new = !Self::is_in(folder).unwrap_or(false);
        if is_new && side_path.exists() {
            let what = "db/ has no database, but `durable` says that there was one".to_owned();
            return Err(OpenError::Damaged { folder: folder.to_owned(), what });
        }
        if let Some(file) = look_through(&folder.join("db")).map_err(|error| unusable(&error))? {
            let what =
                format!("a record of {} has a type or length that it never had", file.display());
            return Err(OpenError::Damaged { folder: folder.to_owned(), what });
        }
        let db = open_rocksdb(&folder.join("db")).map_err(|error| match is_damage(&error) {
            true => OpenError::Damaged { folder: folder.to_owned(), what: error.to_string() },
            false => unusable(&error),
        })?;
        let opened = Opened { folder, recovered: db.latest_sequence_number(), db };
        let version = opened.version(owner)?;
        let (identity, epoch, chain) = opened.recover(owner, nonce, version)?;
        let (journal, side) = opened.open_journal(&side_path, chain.current.id)?;
        let applied = opened.get(keys::APPLIED)?.unwrap_or(0);
        let since = opened.get(keys::SINCE)?.unwrap_or(0);
        let generation = opened.get(keys::GENERATION)?.unwrap_or(0);
        let logged = opened.db.latest_sequence_number();
        let inner = Inner {
            folder: folder.to_owned(),
            journal,
            db: opened.db,
            on_fatal,
            segments: Mutex::new(Segments::new(limits, 0)),
            limits,
            chain: Mutex::new(chain),
            generation: AtomicU64::new(generation),
            to_drop: Mutex::default(),
            progress: Progress::new(logged),
            side: Mutex::new(side),
        };
        let (inner, accounts, lanes) = (Arc::new(inner), Arc::default(), Lanes::default());
        let mut database =
            Self { inner, identity, epoch, applied, since, version, accounts, lanes };
        database.inner.is_persisted(applied);
        database.read_accounts();
        Lanes::drop_uses(&database.inner);
        database.replay(folder)?;
        Ok(database)
    }

    /// Brings the state to where the log is.
    fn replay(&mut self, folder: &Path) -> Result<(), OpenError> {
        let chain = self.chain();
        if chain.began > 0 && self.inner.journal.numbers(chain.current.id).is_none() {
            // The state was written, and then the power went before its log began.
            self.inner.begin_log(&chain);
        }
        let decided = |database: &Self, id| {
            database.inner.journal.numbers(id).map_or(0, |numbers| numbers.decided as u64)
        };
        // A state in quarantine must not change.
        if self.quarantine().is_none() {
            replay(self, LaneMemory::default(), decided).map_err(|missing| OpenError::Damaged {
                folder: folder.to_owned(),
                what: missing.to_string(),
            })?;
        }
        if self.applied > decided(self, self.configuration_id()) {
            self.mark_copied();
        }
        Ok(())
    }

    /// Records that the state may be ahead of the log, as a copied one is.
    fn mark_copied(&mut self) {
        if self.since < self.applied {
            self.since = self.applied;
            let mut batch = WriteBatch::default();
            put(&mut batch, self.inner.family(keys::META), keys::SINCE, &self.since);
            self.inner.write(batch);
        }
    }

    /// Reads the accounts of the current state.
    pub(super) fn read_accounts(&mut self) {
        let found: Option<Accounts> =
            self.inner.get(self.inner.generation().sessions(), keys::ACCOUNTS);
        self.accounts = Arc::new(found.unwrap_or_default());
    }

    /// Stops RocksDB's own threads and waits for them.
    pub fn close(&self) {
        self.sync(self.durable());
        self.inner.db.cancel_all_background_work(true);
    }
}

impl Table for Database {
    fn applied(&self) -> u64 {
        self.applied
    }

    fn chain(&self) -> Chain {
        self.inner.chain().clone()
    }

    fn configuration_id(&self) -> ConfigurationId {
        self.inner.chain().current.id
    }

    fn key(&self, key: &[u8]) -> Option<Record> {
        let (revision, value): (u64, Bytes) =
            self.inner.get(self.inner.generation().keys(), key)?;
        Some(Record { revision, value })
    }

    fn lane(&self, lane: LaneId) -> Option<Lane> {
        let read = || self.inner.get(self.inner.generation().sessions(), &keys::lane(lane));
        self.lanes.get(lane).or_else(read)
    }

    fn accounts(&self) -> Arc<Accounts> {
        Arc::clone(&self.accounts)
    }

    fn commit(&mut self, changes: Changes) {
        if changes.from_peer {
            // Nothing leads to them again: they are durable like the log, and so is what is before.
            self.inner.persist();
        }
        let mut batch = WriteBatch::default();
        let family = self.inner.family(self.inner.generation().keys());
        for (key, record) in &changes.keys {
            match record {
                Some(record) => put(&mut batch, family, key, &(record.revision, &record.value)),
                None => batch.delete_cf(family, key),
            }
        }
        let family = self.inner.family(self.inner.generation().sessions());
        self.lanes.sweep(&self.inner, &mut batch, changes.applied, changes.forgotten);
        for (id, lane) in changes.lanes {
            put(&mut batch, family, &keys::lane(id), &lane);
            self.lanes.insert(id, lane);
        }
        if let Some(accounts) = changes.accounts {
            put(&mut batch, family, keys::ACCOUNTS, &*accounts);
            self.accounts = accounts;
        }
        let meta = self.inner.family(keys::META);
        if changes.from_peer {
            put(&mut batch, meta, keys::SINCE, &changes.applied);
            self.since = changes.applied;
        } else {
            for index in &changes.void {
                batch.put_cf(self.inner.family(keys::VOID), index.to_be_bytes(), []);
            }
        }
        if let Some(version) = changes.version.filter(|version| *version > self.version) {
            put(&mut batch, meta, keys::VERSION, &version);
            self.version = version;
        }
        put(&mut batch, meta, keys::APPLIED, &changes.applied);
        if changes.forgotten > 0 {
            put(&mut batch, meta, keys::FORGOTTEN, &changes.forgotten);
        }
        if let Some(next) = &changes.chain {
            self.inner.put_chain(&mut batch, next);
        }
        self.applied = changes.applied;
        if changes.from_peer {
            self.inner.write(batch);
            self.inner.is_persisted(self.applied);
        } else {
            self.inner.write_state(batch);
        }
        if let Some(next) = changes.chain {
            self.inner.enter(next);
        }
    }
}

impl LogStore for Database {
    type Log = Log<DiskLog>;

    fn log(&self, configuration: ConfigurationId) -> Self::Log {
        Log(DiskLog::open(Arc::clone(&self.inner), configuration))
    }

    fn drop_old_logs(&mut self) {
        self.inner.journal.append(&Frame::Drop(self.inner.chain().current.id));
    }

    fn decided(&self, from: u64, to: u64, bytes_max: usize) -> Decided {
        let mut decided = Decided::default();
        let mut bytes = 0;
        let (configuration, last) = self.inner.log_of(from);
        let position = |index| usize::try_from(index).expect("indexes fit the address space");
        let (first, end) = (position(from - 1), position(to.min(last)));
        self.inner.each_entry(configuration, first, end, |entry| {
            bytes += entry.weight();
            let fits = bytes <= bytes_max || decided.entries.is_empty();
            if fits {
                decided.entries.push(entry);
            }
            fits
        });
        let last = from + decided.entries.len() as u64;
        self.inner.each(keys::VOID, &from.to_be_bytes(), Some(&last.to_be_bytes()), |key, _| {
            decided.void.extend(key.try_into().map(u64::from_be_bytes));
            true
        });
        decided
    }

    fn limits(&self) -> LogLimits {
        self.inner.limits
    }

    fn excess(&self, pinned: Option<u64>) -> Option<u64> {
        let segments = self.inner.segments.lock().unwrap_or_else(PoisonError::into_inner);
        let pinned = pinned.and_then(|index| usize::try_from(index).ok());
        segments.excess(pinned, || self.inner.state_bytes()).map(|position| position as u64)
    }

    fn copied_at(&self) -> u64 {
        self.since
    }
}

impl StateStore for Database {
    fn scan(&self, wanted: &Scan) -> Page {
        loop {
            let (generation, page) = self.inner.scan(wanted);
            // If the state was replaced meanwhile, the files of the old one may be gone.
            if generation == self.inner.generation() {
                return page;
            }
        }
    }

    fn version(&self) -> Version {
        self.version
    }

    fn quarantine(&self) -> Option<Quarantine> {
        self.inner.get(keys::META, keys::QUARANTINE)
    }

    fn persisted(&self) -> u64 {
        self.inner.persisted_at(self.applied)
    }

    fn persist_soon(&mut self) {
        self.inner.persist_soon(self.applied);
    }
}

impl IdentityStore for Database {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn nonce_at(&self, incarnation: u64) -> Option<u64> {
        self.inner.get(keys::META, &keys::nonce(incarnation))
    }

    fn start(&self, incarnation: u64) -> Option<Start> {
        self.inner.start(incarnation)
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn begin_epoch(&mut self) {
        self.write_epoch();
    }

    fn seen(&self, peer: ReplicaId) -> Option<PeerRecord> {
        self.inner.seen(peer)
    }

    fn remember(&mut self, peer: ReplicaId, seen: PeerRecord) {
        self.inner.remember(peer, seen);
    }
}

impl CopyStore for Database {
    type Snapshots<'a> = RocksSnapshots<'a>;

    fn install(&self) -> Option<Install> {
        self.inner.get(keys::META, keys::INSTALL)
    }

    fn write_install(&mut self, step: InstallWrite) {
        self.install_step(step);
    }

    fn snapshots(&self) -> RocksSnapshots<'_> {
        RocksSnapshots::new(&self.inner, self.identity.nonce)
    }
}

impl SyncStore for Database {
    type Durable = Durable;

    fn durable(&self) -> Durable {
        let Inner { journal, .. } = &*self.inner;
        let id = self.inner.chain().current.id;
        Durable::of(id, &self.inner.numbers(), self.inner.logged(), journal.end())
    }

    fn sync(&self, durable: Durable) {
        // A process that stops syncs beside the sync that is under way.
        let mut side = self.inner.side.lock().unwrap_or_else(PoisonError::into_inner);
        let to_drop = self.inner.to_drop().take();
        // What the journal says may build on what the database says, and is written after it.
        let (taken, is_touched) = (self.inner.journal.take(), self.inner.progress.take_touch());
        let needs_disk = is_touched && taken.is_empty();
        self.inner.sync_database();
        if let Err(error) = self.inner.journal.write(taken) {
            self.inner.fatal("the journal could not be synced", &error);
        }
        if let Err(error) = side.write(durable, needs_disk) {
            self.inner.fatal("the side file could not be written", &error);
        }
        if let Some(generation) = to_drop {
            self.inner.drop_files(generation);
        }
    }

    fn touch(&mut self) {
        self.inner.progress.touch();
    }

    fn debt(&self) -> Debt {
        self.inner.debt()
    }
}
