//! A disk: one RocksDB, one write-ahead log, and the side file.
//!
//! Writes go unsynced to the log's buffer; [`Database::sync`] makes all earlier ones durable at
//! once. Guarantees what [`Store`] promises, and that a folder is used by one replica of one
//! cluster; that it is used by one process, the folder's [lock](super::lock) guarantees. A read
//! that finds damage and a write that fails stop the replica; what was damaged is never served.
//!
//! | file in the folder | what it is |
//! |---|---|
//! | `lock` | held while a process uses the folder, see [`lock`](super::lock) |
//! | `db/` | RocksDB |
//! | `durable` | what the last sync made durable, see [`durable`](super::durable) |

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use kvorum_protocol::data::LaneId;
use kvorum_protocol::message::Scan;
use kvorum_protocol::status::{ConfigurationId, ReplicaId};
use rocksdb::{ColumnFamily, DB, Direction, IteratorMode, ReadOptions, WriteBatch, WriteOptions};
use serde::{Serialize, de::DeserializeOwned};

use super::durable::{Durable, SideFile};
use super::framing::look_through;
use super::keys::{Generation, LogField};
use super::log::{Log, LogNumbers};
use super::open::{OpenError, Opened, Owner, is_damage};
use super::record;
use super::rocks_log::{Number, RocksLog};
use super::rocks_snapshots::RocksSnapshots;
use super::segments::{LogLimits, Segments};
use super::tables::{Debt, open_rocksdb};
use super::{Decided, Identity, ScanPage, Seen, Store, keys};
use crate::chain::Chain;
use crate::snapshot::{Install, InstallWrite, Quarantine};
use crate::start::{Epoch, Start};
use crate::state_machine::{Changes, Lane, Record, Table};
use crate::version::Version;

/// Called when the disk failed and the replica must not go on. Does not return in a process; a
/// test may unwind.
pub type OnFatal = Arc<dyn Fn(&str) + Send + Sync>;

/// The open disk. Clones share it.
#[derive(Clone)]
pub struct Database {
    pub(super) inner: Arc<Inner>,
    pub(super) identity: Identity,
    pub(super) epoch: Epoch,
    /// Kept here because each turn of the driver asks for it.
    pub(super) applied: u64,
    pub(super) since: u64,
    pub(super) version: Version,
}

pub(super) struct Inner {
    folder: PathBuf,
    pub(super) db: DB,
    on_fatal: OnFatal,
    /// The numbers of the current configuration's log, which its handle keeps up to date. A mutex
    /// because the handle lives inside the library; both are used by the driver's thread only.
    pub(super) numbers: Mutex<LogNumbers>,
    /// Where the bytes of that log stand.
    pub(super) segments: Mutex<Segments>,
    pub(super) limits: LogLimits,
    /// As it was written; changed by the driver's thread only.
    chain: Mutex<Chain>,
    /// Which column families hold the state.
    generation: AtomicU64,
    /// What files the next sync may remove.
    to_drop: Mutex<ToDrop>,
    /// Used by the sync thread only; a mutex because the type is shared with the driver's.
    side: Mutex<SideFile>,
}

/// Files that nobody needs any more once the write that says so is synced.
#[derive(Default)]
pub(super) struct ToDrop {
    /// Of the log, those up to this key, itself included.
    pub(super) log: Option<[u8; 12]>,
    /// All of a generation that holds no state.
    pub(super) generation: Option<Generation>,
}

impl Database {
    /// Whether a replica's folder holds a database.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn is_in(folder: &Path) -> io::Result<bool> {
        folder.join("db").join("CURRENT").try_exists()
    }

    /// Opens a folder, or makes one, and records one more start of its replica.
    pub fn open(
        folder: &Path,
        owner: &Owner,
        nonce: u64,
        limits: LogLimits,
        on_fatal: OnFatal,
    ) -> Result<Self, OpenError> {
        let unusable = |error: &dyn std::fmt::Display| OpenError::Unusable {
            folder: folder.to_owned(),
            reason: error.to_string(),
        };
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
        let side = opened.open_side_file(&side_path, &chain.current)?;
        let applied = opened.get(keys::APPLIED)?.unwrap_or(0);
        let since = opened.get(keys::SINCE)?.unwrap_or(0);
        let generation = opened.get(keys::GENERATION)?.unwrap_or(0);
        let inner = Inner {
            folder: folder.to_owned(),
            numbers: Mutex::new(opened.numbers(chain.current.id)?),
            db: opened.db,
            on_fatal,
            segments: Mutex::new(Segments::new(limits, 0)),
            limits,
            chain: Mutex::new(chain),
            generation: AtomicU64::new(generation),
            to_drop: Mutex::default(),
            side: Mutex::new(side),
        };
        Ok(Self { inner: Arc::new(inner), identity, epoch, applied, since, version })
    }

    /// Stops RocksDB's own threads and waits for them.
    pub fn close(&self) {
        if let Err(error) = self.inner.db.flush_wal(true) {
            self.inner.fatal("the write-ahead log could not be synced", &error);
        }
        self.inner.db.cancel_all_background_work(true);
    }
}

impl Inner {
    pub(super) fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    pub(super) fn set_generation(&self, generation: Generation) {
        self.generation.store(generation.0, Ordering::Release);
    }

    pub(super) fn chain(&self) -> MutexGuard<'_, Chain> {
        self.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The configuration whose log has the entry at an index, and the last index that it can have.
    pub(super) fn log_of(&self, index: u64) -> (ConfigurationId, u64) {
        self.chain().log_of(index)
    }

    /// Puts the chain into a batch, and the beginning of a configuration if it is another one now:
    /// its log has nothing before it.
    pub(super) fn put_chain(&self, batch: &mut WriteBatch, next: &Chain) {
        let meta = self.family(keys::META);
        put(batch, meta, keys::CONFIGURATION, next);
        if next.current.id == self.chain().current.id {
            return;
        }
        for field in [LogField::Decided, LogField::Compacted, LogField::Accepted] {
            let key = keys::log_field(next.current.id, field);
            put(batch, meta, &key, &Number::Index(next.began));
        }
    }

    /// The same, after that batch was written.
    pub(super) fn enter(&self, next: Chain) {
        if next.current.id == self.chain().current.id {
            *self.chain() = next;
            return;
        }
        let position = usize::try_from(next.began).expect("indexes fit the address space");
        let (decided, compacted, accepted) = (position, position, position);
        *self.numbers() = LogNumbers { decided, compacted, accepted, ..LogNumbers::default() };
        let mut segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        *segments = Segments::new(self.limits, position);
        *self.chain() = next;
    }

    pub(super) fn numbers(&self) -> MutexGuard<'_, LogNumbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn to_drop(&self) -> MutexGuard<'_, ToDrop> {
        self.to_drop.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("every column family was opened with the database")
    }

    pub(super) fn write(&self, batch: WriteBatch) {
        if let Err(error) = self.db.write_opt(batch, &WriteOptions::default()) {
            self.fatal("a write failed", &error);
        }
    }

    pub(super) fn get<V: DeserializeOwned>(&self, family: &str, key: &[u8]) -> Option<V> {
        let bytes = match self.db.get_pinned_cf(self.family(family), key) {
            Ok(bytes) => bytes?,
            Err(error) => self.read_failed(&error),
        };
        Some(self.decode(family, key, &bytes))
    }

    pub(super) fn decode<V: DeserializeOwned>(&self, family: &str, key: &[u8], bytes: &[u8]) -> V {
        record::decode(key, bytes).unwrap_or_else(|error| {
            self.damaged(&format!("in {family} under {}: {error}", key.escape_ascii()))
        })
    }

    /// Visits records from a key on, in order, until `visit` says to stop.
    pub(super) fn each(
        &self,
        family: &str,
        from: &[u8],
        until: Option<&[u8]>,
        mut visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) {
        let mut options = ReadOptions::default();
        if let Some(until) = until {
            options.set_iterate_upper_bound(until);
        }
        let mode = IteratorMode::From(from, Direction::Forward);
        for item in self.db.iterator_cf_opt(self.family(family), options, mode) {
            match item {
                Ok((key, record)) if visit(&key, &record) => {}
                Ok(_) => return,
                Err(error) => self.read_failed(&error),
            }
        }
    }

    pub(super) fn read_failed(&self, error: &rocksdb::Error) -> ! {
        match is_damage(error) {
            true => self.damaged(error.as_ref()),
            false => self.fatal("a read failed", error),
        }
    }

    /// What was written is not there any more: the end, with what helps.
    pub(super) fn damaged(&self, what: &str) -> ! {
        let (folder, what) = (self.folder.clone(), what.to_owned());
        self.fatal("a read found damage", &OpenError::Damaged { folder, what });
    }

    /// The disk cannot be trusted any more: going on could break a promise already made.
    pub(super) fn fatal(&self, what: &str, error: &dyn std::fmt::Display) -> ! {
        (self.on_fatal)(&format!("{what}: {error}"));
        panic!("the disk failed: {what}: {error}");
    }
}

pub(super) fn put<V: Serialize>(
    batch: &mut WriteBatch,
    family: &ColumnFamily,
    key: &[u8],
    value: &V,
) {
    batch.put_cf(family, key, record::encode(key, value));
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
        self.inner.get(self.inner.generation().sessions(), &keys::lane(lane))
    }

    fn lane_used_at(&self, index: u64) -> Option<LaneId> {
        self.inner.get(self.inner.generation().sessions(), &keys::lane_use(index))
    }

    fn commit(&mut self, changes: Changes) {
        let mut batch = WriteBatch::default();
        let family = self.inner.family(self.inner.generation().keys());
        for (key, record) in &changes.keys {
            match record {
                Some(record) => put(&mut batch, family, key, &(record.revision, &record.value)),
                None => batch.delete_cf(family, key),
            }
        }
        let family = self.inner.family(self.inner.generation().sessions());
        for (lane, remembered) in &changes.lanes {
            match remembered {
                Some(remembered) => put(&mut batch, family, &keys::lane(*lane), remembered),
                None => batch.delete_cf(family, keys::lane(*lane)),
            }
        }
        for (index, lane) in &changes.uses {
            match lane {
                Some(lane) => put(&mut batch, family, &keys::lane_use(*index), lane),
                None => batch.delete_cf(family, keys::lane_use(*index)),
            }
        }
        let meta = self.inner.family(keys::META);
        if changes.beside_log {
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
        if let Some(next) = &changes.chain {
            self.inner.put_chain(&mut batch, next);
        }
        self.inner.write(batch);
        self.applied = changes.applied;
        if let Some(next) = changes.chain {
            self.inner.enter(next);
        }
    }
}

impl Store for Database {
    type Log = Log<RocksLog>;
    type Snapshots<'a> = RocksSnapshots<'a>;

    fn log(&self, configuration: ConfigurationId) -> Self::Log {
        Log(RocksLog::open(Arc::clone(&self.inner), configuration))
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn nonce_at(&self, incarnation: u64) -> Option<u64> {
        self.inner.get(keys::META, &keys::nonce(incarnation))
    }

    fn drop_old_logs(&mut self) {
        let mut batch = WriteBatch::default();
        for (family, first, end) in keys::logs_before(self.inner.chain().current.id) {
            batch.delete_range_cf(self.inner.family(family), first, end);
        }
        self.inner.write(batch);
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

    fn touch(&mut self) {
        self.inner.touch();
    }

    fn debt(&self) -> Debt {
        self.inner.debt()
    }

    fn seen(&self, peer: ReplicaId) -> Option<Seen> {
        self.inner.seen(peer)
    }

    fn remember(&mut self, peer: ReplicaId, seen: Seen) {
        self.inner.remember(peer, seen);
    }

    fn decided(&self, from: u64, to: u64, bytes_max: usize) -> Decided {
        let mut decided = Decided::default();
        let mut bytes = 0;
        let (configuration, last) = self.inner.log_of(from);
        let end = keys::entry(configuration, to.min(last));
        let first = keys::entry(configuration, from - 1);
        self.inner.each(keys::LOG, &first, Some(&end), |key, record| {
            bytes += record.len();
            // What was cut leaves a gap, and its place is not for what comes after.
            let next = from - 1 + decided.entries.len() as u64;
            let fits = (bytes <= bytes_max || decided.entries.is_empty())
                && *key == keys::entry(configuration, next);
            if fits {
                decided.entries.push(self.inner.decode(keys::LOG, key, record));
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

    fn scan(&self, wanted: &Scan) -> ScanPage {
        loop {
            let (generation, page) = self.inner.scan(wanted);
            // The files of a state that was replaced meanwhile may be gone.
            if generation == self.inner.generation() {
                return page;
            }
        }
    }

    fn durable(&self) -> Durable {
        let writes = self.inner.db.latest_sequence_number();
        Durable::of(self.inner.chain().current.id, &self.inner.numbers(), writes)
    }

    fn limits(&self) -> LogLimits {
        self.inner.limits
    }

    fn excess(&self, pinned: Option<u64>) -> Option<u64> {
        let segments = self.inner.segments.lock().unwrap_or_else(PoisonError::into_inner);
        let pinned = pinned.and_then(|index| usize::try_from(index).ok());
        segments.excess(pinned, || self.inner.state_bytes()).map(|position| position as u64)
    }

    fn since(&self) -> u64 {
        self.since
    }

    fn version(&self) -> Version {
        self.version
    }

    fn quarantine(&self) -> Option<Quarantine> {
        self.inner.get(keys::META, keys::QUARANTINE)
    }

    fn install(&self) -> Option<Install> {
        self.inner.get(keys::META, keys::INSTALL)
    }

    fn write_install(&mut self, step: InstallWrite) {
        self.install_step(step);
    }

    fn snapshots(&self) -> RocksSnapshots<'_> {
        RocksSnapshots::new(&self.inner, self.identity.nonce)
    }

    fn sync(&self, durable: Durable) {
        let to_drop = std::mem::take(&mut *self.inner.to_drop());
        if let Err(error) = self.inner.db.flush_wal(true) {
            self.inner.fatal("the write-ahead log could not be synced", &error);
        }
        let mut side = self.inner.side.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = side.write(durable) {
            self.inner.fatal("the side file could not be written", &error);
        }
        self.inner.drop_files(&to_drop);
    }
}
