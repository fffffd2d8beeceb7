//! RocksDB's table files: how they are written, and how much of that work is pending.
//!
//! Writes go to memory, few of them to the write-ahead log too. In the background the memory of all
//! families is flushed at once, each to a file of level 0, and files are merged into lower levels.
//! That can be put off a little, but not for ever: the rate limit keeps up with the writes, or the
//! writes are slowed before the background work falls far behind. Guarantees that families whose
//! files are tiny slow no writes, and that what is on the disk of all families is of one moment.

use std::path::Path;

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBRecoveryMode, LogLevel, Options, properties, properties::PropName,
};

use super::keys::Generation;
use super::{Inner, keys};
use crate::engine::store::Debt;
use crate::limits::{BLOCK_CACHE_BYTES, WRITE_BUFFERS_BYTES};

/// The size of the write-ahead log, in bytes, beyond which it is cut by flushing the oldest column
/// family; bounds the time of a recovery.
const WAL_BYTES_MAX: u64 = 64 << 20;

/// The most bytes of a table file being written that may wait in the system's memory.
const TABLE_SYNC_BYTES: u64 = 512 << 10;

/// The highest rate for writing table files, in bytes a second. They are written at a twentieth of
/// it, and faster only as long as there is more to write: RocksDB adjusts the rate each second.
const TABLE_RATE_MAX: i64 = 1 << 30;
/// The period for which a part of that rate is granted, in microseconds: half a MiB at the slowest
/// rate.
const TABLE_RATE_PERIOD_US: i64 = 10_000;
/// One in this many parts goes to compaction even while a flush waits.
const TABLE_RATE_FAIRNESS: i32 = 10;

/// The most buffers of a family: the one that is filled, and those that wait to be flushed. Writes
/// stop when all are full: large values fill one faster than it is flushed at the slowest rate.
const BUFFERS_MAX: i32 = 4;

/// The number of threads for table files: one flushes, the others merge.
const BACKGROUND_JOBS: i32 = 3;

/// The number of level 0 files of keys beyond which writes are slowed; twice as many stop them.
/// These files are large, and the value is RocksDB's own.
const KEYS_FILES_MAX: i32 = 20;
/// The same for records that are small, or deleted before they are merged: their files are made
/// whenever the write-ahead log is cut.
const OTHER_FILES_MAX: i32 = 60;

/// The most table files that RocksDB keeps open; the other descriptors are for connections.
const OPEN_FILES_MAX: i32 = 256;

pub(super) fn open_rocksdb(path: &Path) -> Result<DB, rocksdb::Error> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // The surviving writes must be a prefix, over several log files too: a mode that tolerates a
    // torn tail of each file would leave a hole between two. The side file detects a prefix that
    // ends before what was synced.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_track_and_verify_wals_in_manifest(true);
    // What does not go through the log would otherwise be there of one family and not of another.
    options.set_atomic_flush(true);
    // Writes stay in the log's buffer until the sync that the driver asks for.
    options.set_manual_wal_flush(true);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_db_write_buffer_size(WRITE_BUFFERS_BYTES);
    // At normal priority: at a lower one the threads get no time while others keep the processors
    // busy, and the work that they put off stops the writes in the end.
    options.set_max_background_jobs(BACKGROUND_JOBS);
    // Table files go to the disk as they are written, not all at once when they are synced: the
    // log's syncs would wait for that.
    options.set_bytes_per_sync(TABLE_SYNC_BYTES);
    // A flush has 16 MiB: in one go it takes a core, and the disk, from requests that wait for a
    // sync.
    options.set_auto_tuned_ratelimiter(TABLE_RATE_MAX, TABLE_RATE_PERIOD_US, TABLE_RATE_FAIRNESS);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_keep_log_file_num(3);
    options.set_max_log_file_size(1 << 20);
    options.set_log_level(LogLevel::Warn);
    let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
    let families = keys::COLUMN_FAMILIES
        .map(|name| ColumnFamilyDescriptor::new(name, family_options(name, &cache)));
    DB::open_cf_descriptors(&options, path, families)
}

fn family_options(name: &str, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    // Indexes and filters are read in parts, like data: those of a whole file have hundreds of KiB,
    // and a few of them would push everything else out of the cache.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_pin_top_level_index_and_filter(true);
    if keys::is_looked_up(name) {
        table.set_bloom_filter(10.0, false);
    }
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(WRITE_BUFFERS_BYTES / 2);
    options.set_max_write_buffer_number(BUFFERS_MAX);
    let files = if keys::holds_keys(name) { KEYS_FILES_MAX } else { OTHER_FILES_MAX };
    options.set_level_zero_slowdown_writes_trigger(files);
    options.set_level_zero_stop_writes_trigger(2 * files);
    options.set_compression_type(DBCompressionType::Lz4);
    options
}

impl Inner {
    /// Returns how much work is put off.
    pub(super) fn debt(&self) -> Debt {
        let level_0 = properties::num_files_at_level(0);
        let of = |family: &str, name: &PropName| {
            let value = self.db.property_int_value_cf(self.family(family), name);
            value.ok().flatten().unwrap_or(0)
        };
        let is = |name| self.db.property_int_value(name).ok().flatten().unwrap_or(0) > 0;
        let families = keys::COLUMN_FAMILIES;
        let bytes = families.map(|name| of(name, properties::ESTIMATE_PENDING_COMPACTION_BYTES));
        let files = families.map(|name| of(name, &level_0));
        Debt {
            bytes: bytes.into_iter().sum(),
            files: files.into_iter().max().unwrap_or(0),
            slows_writes: is(properties::ACTUAL_DELAYED_WRITE_RATE)
                || is(properties::IS_WRITE_STOPPED),
        }
    }

    /// Removes whole files of a generation that holds no state, sooner than RocksDB would.
    pub(super) fn drop_files(&self, generation: Generation) {
        for family in [generation.keys(), generation.sessions()] {
            let dropped =
                self.db.delete_file_in_range_cf(self.family(family), &[][..], &keys::end());
            if let Err(error) = dropped {
                self.fatal("files could not be removed", &error);
            }
        }
    }
}
