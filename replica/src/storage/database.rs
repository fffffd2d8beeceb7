//! A disk: one RocksDB, one write-ahead log, and the side file.
//!
//! Writes go unsynced to the log's buffer; [`Database::sync`] makes all earlier ones durable at
//! once. Guarantees what [`Store`] promises, and that a folder is used by one process, one replica
//! and one cluster only. A read that finds damage and a write that fails stop the replica; what was
//! damaged is never served.
//!
//! | file in the folder | what it is |
//! |---|---|
//! | `lock` | held while a process uses the folder |
//! | `db/` | RocksDB |
//! | `durable` | what the last sync made durable, see [`durable`](super::durable) |

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use kvorum_protocol::data::LaneId;
use kvorum_protocol::message::Scan;
use kvorum_protocol::status::{ClusterId, Configuration, ConfigurationId, Member, ReplicaId};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBRecoveryMode, Direction, IteratorMode, LogLevel, Options, ReadOptions, WriteBatch,
    WriteOptions,
};
use serde::{Serialize, de::DeserializeOwned};

use super::durable::{Durable, SideFile};
use super::log::{Log, LogNumbers};
use super::record::{self, RecordError};
use super::rocks_log::{RocksLog, read_numbers};
use super::{Decided, Identity, ScanPage, Seen, Store, keys, scan};
use crate::state_machine::{Changes, Lane, Record, Table};

/// Memory for blocks read from disk, in bytes.
const BLOCK_CACHE_BYTES: usize = 16 << 20;
/// Memory for writes not yet in a table file, over all column families, in bytes.
const WRITE_BUFFERS_BYTES: usize = 32 << 20;
/// The write-ahead log is cut by flushing the oldest column family beyond this, in bytes; bounds
/// the time of a recovery.
const WAL_BYTES_MAX: u64 = 64 << 20;

/// Table files that RocksDB keeps open; the rest of the descriptors is for connections.
const OPEN_FILES_MAX: i32 = 256;

/// Called when the disk failed and the replica must not go on. Does not return in a process; a
/// test may unwind.
pub type OnFatal = Arc<dyn Fn(&str) + Send + Sync>;

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system does not let us.
    #[error("cannot use the data folder {folder}: {reason}")]
    Unusable {
        /// The folder.
        folder: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// Another process holds it.
    #[error("the data folder {folder} is in use by another process{holder}; stop that one first")]
    Locked {
        /// The folder.
        folder: PathBuf,
        /// Its id, when it is known.
        holder: String,
    },
    /// It belongs to another replica or cluster.
    #[error(
        "the data folder {folder} belongs to {found}, not to {wanted}; start this replica with a \
         folder of its own"
    )]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// Whose it is.
        found: String,
        /// Who wants it.
        wanted: String,
    },
    /// Something in it is damaged, or recovered less than was synced.
    #[error(
        "the data folder {folder} is damaged: {what}\n\
         This replica must not vote with it and does not start; a majority of the others goes on \
         without it.\nTo get the replica back, move the folder away (mv {folder} {folder}.damaged) \
         and start it again: it comes up empty, says so, and waits without a vote to be replaced."
    )]
    Damaged {
        /// The folder.
        folder: PathBuf,
        /// What is wrong, and in which file.
        what: String,
    },
    /// Written by a newer program.
    #[error("the data folder {folder} was written by a newer version: {what}; install that version")]
    Newer {
        /// The folder.
        folder: PathBuf,
        /// What shows it.
        what: String,
    },
}

/// Whose folder it is to be.
#[derive(Clone, Debug)]
pub struct Owner {
    /// The cluster.
    pub cluster: ClusterId,
    /// The replica's name.
    pub name: String,
    /// The first configuration; its slots give the replicas their ids.
    pub genesis: Vec<String>,
}

impl Owner {
    /// The first configuration.
    #[must_use]
    pub fn configuration(&self) -> Configuration {
        let member = |(slot, name): (u64, &String)| Member {
            replica: ReplicaId(slot),
            name: name.clone(),
        };
        Configuration {
            id: ConfigurationId(1),
            members: (1..).zip(&self.genesis).map(member).collect(),
        }
    }

    /// Who this replica is when it starts on an empty folder.
    #[must_use]
    pub fn newborn(&self, nonce: u64) -> Identity {
        let slot = self.genesis.iter().position(|name| *name == self.name);
        let slot = slot.expect("settings are validated: the replica is a member of the genesis");
        Identity {
            cluster: self.cluster,
            replica: ReplicaId(slot as u64 + 1),
            name: self.name.clone(),
            incarnation: 1,
            nonce,
        }
    }
}

/// The open disk. Clones share it.
#[derive(Clone)]
pub struct Database {
    pub(super) inner: Arc<Inner>,
    identity: Identity,
    configuration: Configuration,
    /// Kept here because each turn of the driver asks for it.
    applied: u64,
}

pub(super) struct Inner {
    db: DB,
    on_fatal: OnFatal,
    /// The numbers of the current configuration's log, which its handle keeps up to date. A mutex
    /// because the handle lives inside the library; both are used by the driver's thread only.
    pub(super) numbers: Mutex<LogNumbers>,
    /// Used by the sync thread only; a mutex because the type is shared with the driver's.
    side: Mutex<SideFile>,
    _lock: File,
}

impl Database {
    /// Opens a folder, or makes one, and records one more start of its replica.
    pub fn open(folder: &Path, owner: &Owner, nonce: u64, on_fatal: OnFatal) -> Result<Self, OpenError> {
        let unusable =
            |error: &dyn std::fmt::Display| OpenError::Unusable {
                folder: folder.to_owned(),
                reason: error.to_string(),
            };
        fs::create_dir_all(folder).map_err(|error| unusable(&error))?;
        let lock = take_lock(folder)?;
        let side_path = folder.join("durable");
        let is_new = !folder.join("db").join("CURRENT").exists();
        if is_new && side_path.exists() {
            let what = "db/ has no database, but `durable` says that there was one".to_owned();
            return Err(OpenError::Damaged { folder: folder.to_owned(), what });
        }
        let db = open_rocksdb(&folder.join("db")).map_err(|error| match error.kind() {
            rocksdb::ErrorKind::Corruption => {
                OpenError::Damaged { folder: folder.to_owned(), what: error.to_string() }
            }
            _ => unusable(&error),
        })?;
        let opened = Opened { folder, db };
        let (identity, configuration) = opened.recover(owner, nonce)?;
        let side = opened.open_side_file(&side_path, &configuration)?;
        let applied = opened.get(keys::APPLIED)?.unwrap_or(0);
        let (numbers, side) = (Mutex::default(), Mutex::new(side));
        let inner = Inner { db: opened.db, on_fatal, numbers, side, _lock: lock };
        Ok(Self { inner: Arc::new(inner), identity, configuration, applied })
    }

    /// Stops RocksDB's own threads and waits for them.
    pub fn close(&self) {
        if let Err(error) = self.inner.db.flush_wal(true) {
            self.inner.fatal("the write-ahead log could not be synced", &error);
        }
        self.inner.db.cancel_all_background_work(true);
    }

    /// RocksDB's own count of bytes in table files.
    #[must_use]
    pub fn table_bytes(&self) -> u64 {
        let live = keys::COLUMN_FAMILIES.iter().map(|name| {
            let family = self.inner.family(name);
            let property = rocksdb::properties::LIVE_SST_FILES_SIZE;
            self.inner.db.property_int_value_cf(family, property).ok().flatten().unwrap_or(0)
        });
        live.sum()
    }
}

impl Inner {
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
            Err(error) => self.fatal("a read failed", &error),
        };
        Some(self.decode(family, key, &bytes))
    }

    pub(super) fn decode<V: DeserializeOwned>(&self, family: &str, key: &[u8], bytes: &[u8]) -> V {
        record::decode(key, bytes).unwrap_or_else(|error| {
            self.fatal(&format!("in {family} under {}", key.escape_ascii()), &error)
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
                Err(error) => self.fatal("a read failed", &error),
            }
        }
    }

    /// The disk cannot be trusted any more: going on could break a promise already made.
    pub(super) fn fatal(&self, what: &str, error: &dyn std::fmt::Display) -> ! {
        (self.on_fatal)(&format!("{what}: {error}"));
        panic!("the disk failed: {what}: {error}");
    }
}

/// A database that is open but not yet known to be sound.
struct Opened<'a> {
    folder: &'a Path,
    db: DB,
}

impl Opened<'_> {
    fn get<V: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<V>, OpenError> {
        let family = self.db.cf_handle(keys::META).expect("opened with the database");
        let damaged = |what: String| OpenError::Damaged { folder: self.folder.to_owned(), what };
        let name = key.escape_ascii();
        let bytes = match self.db.get_pinned_cf(family, key) {
            Ok(bytes) => bytes,
            Err(error) => return Err(damaged(format!("{name} in db/: {error}"))),
        };
        let Some(bytes) = bytes else { return Ok(None) };
        match record::decode(key, &bytes) {
            Ok(value) => Ok(Some(value)),
            Err(error @ RecordError::Damaged) => Err(damaged(format!("{name} in db/: {error}"))),
            Err(error @ RecordError::Newer { .. }) => {
                Err(OpenError::Newer { folder: self.folder.to_owned(), what: error.to_string() })
            }
        }
    }

    /// Reads who the folder belongs to, or makes it the owner's; then records one more start.
    fn recover(&self, owner: &Owner, nonce: u64) -> Result<(Identity, Configuration), OpenError> {
        let found: Option<Identity> = self.get(keys::IDENTITY)?;
        let identity = match found {
            None => owner.newborn(nonce),
            Some(identity) if identity.cluster == owner.cluster && identity.name == owner.name => {
                Identity { incarnation: identity.incarnation + 1, nonce, ..identity }
            }
            Some(other) => {
                return Err(OpenError::Foreign {
                    folder: self.folder.to_owned(),
                    found: format!("{} of cluster {}", other.name, other.cluster),
                    wanted: format!("{} of cluster {}", owner.name, owner.cluster),
                });
            }
        };
        let configuration = self.get(keys::CONFIGURATION)?.unwrap_or_else(|| owner.configuration());
        let mut batch = WriteBatch::default();
        let family = self.db.cf_handle(keys::META).expect("opened with the database");
        put(&mut batch, family, keys::IDENTITY, &identity);
        put(&mut batch, family, keys::CONFIGURATION, &configuration);
        put(&mut batch, family, &keys::nonce(identity.incarnation), &nonce);
        let written = self.db.write_opt(batch, &WriteOptions::default());
        let synced = written.and_then(|()| self.db.flush_wal(true));
        synced.map_err(|error| OpenError::Unusable {
            folder: self.folder.to_owned(),
            reason: error.to_string(),
        })?;
        Ok((identity, configuration))
    }

    fn open_side_file(
        &self,
        path: &Path,
        configuration: &Configuration,
    ) -> Result<SideFile, OpenError> {
        let folder = self.folder.to_owned();
        let unusable = |error: std::io::Error| OpenError::Unusable {
            folder: self.folder.to_owned(),
            reason: error.to_string(),
        };
        let numbers = read_numbers(configuration.id, |key| self.get(key))?;
        let Some(numbers) = numbers else {
            // Nothing was ever promised, so no sync of a promise can be missing.
            if path.exists() {
                fs::remove_file(path).map_err(unusable)?;
            }
            return SideFile::create(path).map_err(unusable);
        };
        let opened = match path.exists() {
            true => SideFile::open(path).map_err(unusable)?,
            false => None,
        };
        let Some((side, synced)) = opened else {
            let what = "`durable` is missing or no slot of it is sound".to_owned();
            return Err(OpenError::Damaged { folder, what });
        };
        let recovered = Durable::of(configuration.id, &numbers);
        if recovered.covers(&synced) {
            return Ok(side);
        }
        let what = format!(
            "db/ holds less than was synced: promise {:?} and {} entries of round {:?}, where \
             `durable` says {:?} and {} of {:?}",
            recovered.promise,
            recovered.accepted,
            recovered.accepted_round,
            synced.promise,
            synced.accepted,
            synced.accepted_round,
        );
        Err(OpenError::Damaged { folder, what })
    }
}

fn take_lock(folder: &Path) -> Result<File, OpenError> {
    let path = folder.join("lock");
    let unusable =
        |reason: String| OpenError::Unusable { folder: folder.to_owned(), reason };
    let mut options = File::options();
    let file = options.create(true).truncate(false).read(true).write(true).open(&path);
    let file = file.map_err(|error| unusable(format!("{}: {error}", path.display())))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            let _ = fs::write(&path, std::process::id().to_string());
            Ok(file)
        }
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let holder = fs::read_to_string(&path).unwrap_or_default();
            let holder = match holder.trim() {
                "" => String::new(),
                pid => format!(" (process {pid})"),
            };
            Err(OpenError::Locked { folder: folder.to_owned(), holder })
        }
        Err(error) => Err(unusable(error.to_string())),
    }
}

fn open_rocksdb(path: &Path) -> Result<DB, rocksdb::Error> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // A torn tail is a crash; anything else is damage, and then it must not open.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    // Writes stay in the log's buffer until the sync that the driver asks for.
    options.set_manual_wal_flush(true);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_db_write_buffer_size(WRITE_BUFFERS_BYTES);
    options.set_max_background_jobs(2);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_keep_log_file_num(3);
    options.set_max_log_file_size(1 << 20);
    options.set_log_level(LogLevel::Warn);
    let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
    let families = keys::COLUMN_FAMILIES.map(|name| {
        ColumnFamilyDescriptor::new(name, family_options(name, &cache))
    });
    DB::open_cf_descriptors(&options, path, families)
}

fn family_options(name: &str, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    if name == keys::KEYS || name == keys::SESSIONS {
        table.set_bloom_filter(10.0, false);
    }
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(WRITE_BUFFERS_BYTES / 2);
    options.set_compression_type(DBCompressionType::Lz4);
    options
}

pub(super) fn put<V: Serialize>(batch: &mut WriteBatch, family: &ColumnFamily, key: &[u8], value: &V) {
    batch.put_cf(family, key, record::encode(key, value));
}

impl Table for Database {
    fn applied(&self) -> u64 {
        self.applied
    }

    fn key(&self, key: &[u8]) -> Option<Record> {
        let (revision, value): (u64, Bytes) = self.inner.get(keys::KEYS, key)?;
        Some(Record { revision, value })
    }

    fn lane(&self, lane: LaneId) -> Option<Lane> {
        self.inner.get(keys::SESSIONS, &keys::lane(lane))
    }

    fn lane_used_at(&self, index: u64) -> Option<LaneId> {
        self.inner.get(keys::SESSIONS, &keys::lane_use(index))
    }

    fn commit(&mut self, changes: Changes) {
        let mut batch = WriteBatch::default();
        let family = self.inner.family(keys::KEYS);
        for (key, record) in &changes.keys {
            match record {
                Some(record) => put(&mut batch, family, key, &(record.revision, &record.value)),
                None => batch.delete_cf(family, key),
            }
        }
        let family = self.inner.family(keys::SESSIONS);
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
        for index in &changes.void {
            batch.put_cf(self.inner.family(keys::VOID), index.to_be_bytes(), []);
        }
        put(&mut batch, self.inner.family(keys::META), keys::APPLIED, &changes.applied);
        self.inner.write(batch);
        self.applied = changes.applied;
    }
}

impl Store for Database {
    type Log = Log<RocksLog>;

    fn log(&self, configuration: ConfigurationId) -> Self::Log {
        Log(RocksLog::open(Arc::clone(&self.inner), configuration))
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn nonce_at(&self, incarnation: u64) -> Option<u64> {
        self.inner.get(keys::META, &keys::nonce(incarnation))
    }

    fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    fn seen(&self, peer: ReplicaId) -> Option<Seen> {
        self.inner.get(keys::META, &keys::peer(peer))
    }

    fn remember(&mut self, peer: ReplicaId, seen: Seen) {
        let mut batch = WriteBatch::default();
        put(&mut batch, self.inner.family(keys::META), &keys::peer(peer), &seen);
        self.inner.write(batch);
    }

    fn decided(
        &self,
        configuration: ConfigurationId,
        from: u64,
        to: u64,
        bytes_max: usize,
    ) -> Decided {
        let mut decided = Decided::default();
        let mut bytes = 0;
        let (first, end) = (keys::entry(configuration, from - 1), keys::entry(configuration, to));
        self.inner.each(keys::LOG, &first, Some(&end), |key, record| {
            bytes += record.len();
            let fits = bytes <= bytes_max || decided.entries.is_empty();
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
        let mut options = ReadOptions::default();
        if let Some(end) = scan::end(wanted) {
            options.set_iterate_upper_bound(end);
        }
        let mode = IteratorMode::From(scan::first(wanted), Direction::Forward);
        let family = self.inner.family(keys::KEYS);
        let records = self.inner.db.iterator_cf_opt(family, options, mode).map(|item| {
            let (key, record) = match item {
                Ok(item) => item,
                Err(error) => self.inner.fatal("a read failed", &error),
            };
            let (revision, value): (u64, Bytes) = self.inner.decode(keys::KEYS, &key, &record);
            (Bytes::from(key), Record { revision, value })
        });
        scan::page(wanted, records, self.applied)
    }

    fn durable(&self) -> Durable {
        let numbers = self.inner.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        Durable::of(self.configuration.id, &numbers)
    }

    fn sync(&self, durable: Durable) {
        if let Err(error) = self.inner.db.flush_wal(true) {
            self.inner.fatal("the write-ahead log could not be synced", &error);
        }
        let mut side = self.inner.side.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = side.write(durable) {
            self.inner.fatal("the side file could not be written", &error);
        }
    }
}
