//! One RocksDB and its state in memory: the base of all parts of a disk.
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
pub mod open;
pub mod open_error;
pub mod record;
pub mod seed;
mod snapshots;
mod starts;
pub mod tables;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvorum_protocol::status::ConfigurationId;
use omnipaxos::ballot_leader_election::Ballot;
use rocksdb::{ColumnFamily, DB, Direction, IteratorMode, ReadOptions, WriteBatch, WriteOptions};
use serde::{Serialize, de::DeserializeOwned};

use super::durable::SideFile;
use super::log::LogNumbers;
use super::segments::Segments;
use crate::engine::store::LogLimits;
use crate::state::chain::Chain;
use keys::{Generation, LogField};
use open_error::OpenError;

/// A callback for when the disk failed and the replica must not go on. It does not return in a
/// process; a test may unwind.
pub type OnFatal = Arc<dyn Fn(&str) + Send + Sync>;

/// The database and its numbers.
pub(super) struct Inner {
    pub(super) folder: PathBuf,
    pub(super) db: DB,
    pub(super) on_fatal: OnFatal,
    /// The numbers of the current configuration's log, which its handle keeps up to date. A mutex
    /// because the handle lives inside the library; both are used by the driver's thread only.
    pub(super) numbers: Mutex<LogNumbers>,
    /// The positions of that log's bytes.
    pub(super) segments: Mutex<Segments>,
    pub(super) limits: LogLimits,
    /// The chain as it was last written; changed only by the driver's thread.
    pub(super) chain: Mutex<Chain>,
    /// The generation, which selects the column families that hold the state.
    pub(super) generation: AtomicU64,
    /// The files that the next sync may remove.
    pub(super) to_drop: Mutex<ToDrop>,
    /// Used only by the sync thread; a mutex because the type is shared with the driver's thread.
    pub(super) side: Mutex<SideFile>,
}

/// Files that are no longer needed once the write that made them obsolete is synced.
#[derive(Default)]
pub(super) struct ToDrop {
    /// The last of the log's keys whose files may be removed.
    pub(super) log: Option<[u8; 12]>,
    /// A generation that holds no state, whose files may all be removed.
    pub(super) generation: Option<Generation>,
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

    /// Puts the chain into a batch, with the beginning of the configuration if it is a new one: its
    /// log has nothing before it.
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

    /// Makes the same change in memory, after that batch was written.
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

/// Reads the numbers of a log with `get`; `None` when nothing was ever written to it. The accepted
/// index is stored beside the entries, in the same batch.
pub(super) fn read_numbers<E>(
    configuration: ConfigurationId,
    get: impl Fn(&[u8]) -> Result<Option<Number>, E>,
) -> Result<Option<LogNumbers>, E> {
    let field = |field| get(&keys::log_field(configuration, field));
    let index = |number: Option<Number>| number.map_or(0, Number::index);
    let numbers = LogNumbers {
        promise: field(LogField::Promise)?.map(Number::ballot),
        accepted_round: field(LogField::AcceptedRound)?.map(Number::ballot),
        decided: index(field(LogField::Decided)?),
        compacted: index(field(LogField::Compacted)?),
        accepted: index(field(LogField::Accepted)?),
    };
    Ok((numbers != LogNumbers::default()).then_some(numbers))
}

/// One of a log's numbers, as it is stored.
#[derive(Clone, Copy, serde::Serialize, serde::Deserialize)]
pub(super) enum Number {
    /// A ballot: configuration, number, priority, slot.
    Ballot(u32, u32, u32, u64),
    /// An index.
    Index(u64),
}

impl Number {
    pub(super) fn of(ballot: Ballot) -> Self {
        Self::Ballot(ballot.config_id, ballot.n, ballot.priority, ballot.pid)
    }

    pub(super) fn ballot(self) -> Ballot {
        match self {
            Self::Ballot(configuration, n, priority, pid) => {
                Ballot::with(configuration, n, priority, pid)
            }
            Self::Index(_) => Ballot::default(),
        }
    }

    pub(super) fn index(self) -> usize {
        match self {
            Self::Index(index) => usize::try_from(index).expect("indexes fit the address space"),
            Self::Ballot(..) => 0,
        }
    }
}
