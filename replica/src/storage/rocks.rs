//! One RocksDB, one journal, and what of them is in memory: the base of all parts of a disk.
//!
//! Guarantees that a read that finds damage and a write that fails stop the replica; damaged data
//! is never served. Does not know the meaning of the records.

pub mod database;
mod framing;
mod install;
pub mod keys;
mod lanes;
pub mod lock;
pub mod log;
mod migration;
pub mod open;
pub mod open_error;
pub mod record;
pub mod seed;
mod snapshots;
mod starts;
pub mod tables;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvorum_protocol::status::ConfigurationId;
use rocksdb::{
    ColumnFamily, DB, Direction, FlushOptions, IteratorMode, ReadOptions, ReadTier, WriteBatch,
    WriteOptions,
};
use serde::{Serialize, de::DeserializeOwned};

use super::durable::SideFile;
use super::journal::frame::Frame;
use super::journal::{Journal, ReadError};
use super::log::LogNumbers;
use super::segments::Segments;
use crate::engine::store::LogLimits;
use crate::state::chain::Chain;
use crate::state::entry::Entry;
use keys::Generation;
use open_error::OpenError;

/// A callback for when the disk failed and the replica must not go on. It does not return in a
/// process; a test may unwind.
pub type OnFatal = Arc<dyn Fn(&str) + Send + Sync>;

/// The database and its numbers.
pub(super) struct Inner {
    pub(super) folder: PathBuf,
    pub(super) db: DB,
    pub(super) on_fatal: OnFatal,
    pub(super) journal: Journal,
    /// The positions of the current log's bytes. A mutex because the log's handle lives inside the
    /// library; both are used by the driver's thread only.
    pub(super) segments: Mutex<Segments>,
    pub(super) limits: LogLimits,
    /// The chain as it was last written; changed only by the driver's thread.
    pub(super) chain: Mutex<Chain>,
    /// The generation, which selects the column families that hold the state.
    pub(super) generation: AtomicU64,
    /// The generation that holds no state, whose files the next sync may remove.
    pub(super) to_drop: Mutex<Option<Generation>>,
    pub(super) progress: Progress,
    /// Held for as long as a sync takes: there is one at a time.
    pub(super) side: Mutex<SideFile>,
}

/// How far what was written is on the disk.
#[derive(Default)]
pub(super) struct Progress {
    /// Whether something went through the database's own log since the last sync.
    is_logged: AtomicBool,
    /// The database's sequence number of the last such write.
    logged: AtomicU64,
    /// Whether the next sync must need the disk.
    is_touched: AtomicBool,
    /// The applied index when the state was last asked to be written.
    asked: AtomicU64,
    /// Whether some of the state is in memory only.
    is_volatile: AtomicBool,
    /// The index up to which the state is known to survive without the journal.
    persisted: AtomicU64,
    /// The applied index when that was last looked up.
    looked_up: AtomicU64,
}

impl Progress {
    /// Begins after a sync, with the sequence number of the last write.
    pub(super) fn new(logged: u64) -> Self {
        Self { logged: AtomicU64::new(logged), ..Self::default() }
    }

    pub(super) fn touch(&self) {
        self.is_touched.store(true, Ordering::Release);
    }

    pub(super) fn take_touch(&self) -> bool {
        self.is_touched.swap(false, Ordering::AcqRel)
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

    /// Returns the configuration whose log has the entry at an index, and the last index that this
    /// log can have.
    pub(super) fn log_of(&self, index: u64) -> (ConfigurationId, u64) {
        self.chain().log_of(index)
    }

    /// Puts the chain into a batch.
    pub(super) fn put_chain(&self, batch: &mut WriteBatch, next: &Chain) {
        put(batch, self.family(keys::META), keys::CONFIGURATION, next);
    }

    /// Makes the same change in memory, after that batch was written. The log of a configuration
    /// that is new has nothing before its begin; one that was there before a restart stays.
    pub(super) fn enter(&self, next: Chain) {
        if next.current.id != self.chain().current.id
            && self.journal.numbers(next.current.id).is_none()
        {
            self.begin_log(&next);
        }
        *self.chain() = next;
    }

    /// Begins the log of a chain's current configuration.
    pub(super) fn begin_log(&self, chain: &Chain) {
        let begin = usize::try_from(chain.began).expect("indexes fit the address space");
        let (decided, compacted, accepted) = (begin, begin, begin);
        let numbers = LogNumbers { decided, compacted, accepted, ..LogNumbers::default() };
        self.journal.append(&Frame::Log(chain.current.id, numbers));
        let mut segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        *segments = Segments::new(self.limits, begin);
    }

    /// Returns the numbers of the current log.
    pub(super) fn numbers(&self) -> LogNumbers {
        self.journal.numbers(self.chain().current.id).unwrap_or_default()
    }

    /// Visits the entries at positions `from..to` of a log, until `visit` returns false or the log
    /// does not have the next one.
    pub(super) fn each_entry(
        &self,
        id: ConfigurationId,
        from: usize,
        to: usize,
        visit: impl FnMut(Entry) -> bool,
    ) {
        match self.journal.each(id, from, to, visit) {
            Ok(()) => {}
            Err(ReadError::Damaged(what)) => self.damaged(&what),
            Err(ReadError::Io(error)) => self.fatal("the journal could not be read", &error),
        }
    }

    pub(super) fn to_drop(&self) -> MutexGuard<'_, Option<Generation>> {
        self.to_drop.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("every column family was opened with the database")
    }

    /// Writes what the next sync must make durable.
    pub(super) fn write(&self, batch: WriteBatch) {
        self.write_with(batch, &WriteOptions::default());
        self.progress.logged.store(self.db.latest_sequence_number(), Ordering::Release);
        self.progress.is_logged.store(true, Ordering::Release);
    }

    /// Writes what can be made anew from the journal, or need not survive.
    pub(super) fn write_state(&self, batch: WriteBatch) {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.progress.is_volatile.store(true, Ordering::Release);
        self.write_with(batch, &options);
    }

    fn write_with(&self, batch: WriteBatch, options: &WriteOptions) {
        if let Err(error) = self.db.write_opt(batch, options) {
            self.fatal("a write failed", &error);
        }
    }

    /// Returns the sequence number of the last write that the next sync makes durable.
    pub(super) fn logged(&self) -> u64 {
        self.progress.logged.load(Ordering::Acquire)
    }

    /// Makes the writes that went through the database's own log durable.
    pub(super) fn sync_database(&self) {
        if self.progress.is_logged.swap(false, Ordering::AcqRel)
            && let Err(error) = self.db.flush_wal(true)
        {
            self.fatal("the write-ahead log could not be synced", &error);
        }
    }

    /// Returns the index up to which the state survives a crash without the journal.
    pub(super) fn persisted(&self) -> u64 {
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::Persisted);
        let read = self.db.get_pinned_cf_opt(self.family(keys::META), keys::APPLIED, &options);
        let found = match read {
            Ok(bytes) => bytes.map(|bytes| self.decode(keys::META, keys::APPLIED, &bytes)),
            Err(error) => self.read_failed(&error),
        };
        let found: u64 = found.unwrap_or(0);
        self.progress.persisted.fetch_max(found, Ordering::AcqRel).max(found)
    }

    /// The same, looked up once for each applied index.
    pub(super) fn persisted_at(&self, applied: u64) -> u64 {
        match self.progress.looked_up.swap(applied, Ordering::AcqRel) == applied {
            true => self.progress.persisted.load(Ordering::Acquire),
            false => self.persisted(),
        }
    }

    /// Records that the state is durable after the next sync, whatever the journal holds.
    pub(super) fn is_persisted(&self, applied: u64) {
        self.progress.persisted.fetch_max(applied, Ordering::AcqRel);
    }

    /// Has the state written to the disk, unless that was asked for and is not done.
    pub(super) fn persist_soon(&self, applied: u64) {
        if self.progress.asked.load(Ordering::Acquire) > self.persisted() {
            return;
        }
        self.progress.asked.store(applied, Ordering::Release);
        let mut options = FlushOptions::default();
        options.set_wait(false);
        self.flush(&options);
    }

    /// Writes the state that is in memory only to the disk, and waits for that.
    pub(super) fn persist(&self) {
        if !self.progress.is_volatile.swap(false, Ordering::AcqRel) {
            return;
        }
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.flush(&options);
    }

    fn flush(&self, options: &FlushOptions) {
        let families = keys::COLUMN_FAMILIES.map(|name| self.family(name));
        if let Err(error) = self.db.flush_cfs_opt(&families, options) {
            self.fatal("the state could not be written", &error);
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

    /// Visits records from a key on, in order, until `visit` returns false.
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

    /// Stops the replica because written data is lost or changed, with a message that says what
    /// helps.
    pub(super) fn damaged(&self, what: &str) -> ! {
        let (folder, what) = (self.folder.clone(), what.to_owned());
        self.fatal("a read found damage", &OpenError::Damaged { folder, what });
    }

    /// Stops the replica because the disk cannot be trusted: going on could break a promise already
    /// made.
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

/// Whether the error means changed files rather than unavailable ones: a missing file is damage, a
/// full disk is not.
pub(super) fn is_damage(error: &rocksdb::Error) -> bool {
    use rocksdb::ErrorKind::{Corruption, IOError, InvalidArgument, NotFound, NotSupported};
    match error.kind() {
        Corruption | NotFound | InvalidArgument | NotSupported => true,
        IOError => error.as_ref().contains("No such file"),
        _ => false,
    }
}
