//! One configuration's log in RocksDB.
//!
//! Guarantees that each call is one batch, that the log has no hole, and that a hole found on disk
//! stops the replica. Keeps the newest entries in memory, so that recently written entries can be
//! sent and applied without reading them back.

use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard, PoisonError};

use kvorum_protocol::status::ConfigurationId;
use rocksdb::WriteBatch;

use super::keys::{self, LogField};
use super::{Inner, Number, put, read_numbers, record};
use crate::state::entry::Entry;
use crate::storage::log::{LogDisk, LogNumbers, LogWrite};
use crate::storage::segments::Segments;

/// The size of the newest entries kept in memory, in bytes. A follower that lacks no more than
/// these when it reconnects is brought into step without a read of the disk.
const TAIL_BYTES_MAX: usize = 8 << 20;

/// A suffix longer than this is removed by one range tombstone instead of one for each entry;
/// few range tombstones are cheap, many slow down every iterator.
const POINT_DELETES_MAX: usize = 1024;

/// One configuration's log.
pub struct RocksLog {
    inner: Arc<Inner>,
    configuration: ConfigurationId,
    numbers: LogNumbers,
    tail: Tail,
}

/// The newest entries.
#[derive(Default)]
struct Tail {
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Tail {
    fn push(&mut self, entry: Entry) {
        self.bytes += entry.weight();
        self.entries.push_back(entry);
        while self.bytes > TAIL_BYTES_MAX {
            self.pop_oldest();
        }
    }

    fn pop_oldest(&mut self) {
        let oldest = self.entries.pop_front();
        self.bytes -= oldest.map_or(0, |entry| entry.weight());
    }

    fn pop(&mut self) {
        let newest = self.entries.pop_back();
        self.bytes -= newest.map_or(0, |entry| entry.weight());
    }
}

impl RocksLog {
    pub(super) fn open(inner: Arc<Inner>, configuration: ConfigurationId) -> Self {
        let get = |key: &[u8]| Ok::<_, std::convert::Infallible>(inner.get(keys::META, key));
        let Ok(numbers) = read_numbers(configuration, get);
        let numbers = numbers.unwrap_or_default();
        assert!(
            numbers.compacted <= numbers.decided && numbers.decided <= numbers.accepted,
            "the indexes of a log are in order: {numbers:?}"
        );
        let segments = Segments::new(inner.limits, numbers.compacted);
        *inner.numbers.lock().unwrap_or_else(PoisonError::into_inner) = numbers;
        *inner.segments.lock().unwrap_or_else(PoisonError::into_inner) = segments;
        let mut log = Self { inner, configuration, numbers, tail: Tail::default() };
        log.look_through();
        log
    }

    /// Reads the whole log once, which verifies it and finds the positions of its bytes.
    fn look_through(&mut self) {
        let inner = Arc::clone(&self.inner);
        let mut segments = inner.segments.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tail = Tail::default();
        self.each(self.numbers.compacted, self.numbers.accepted, |entry| {
            segments.push(entry.weight());
            tail.push(entry);
        });
        self.tail = tail;
    }

    /// Visits the entries at positions `from..to`.
    fn each(&self, from: usize, to: usize, mut visit: impl FnMut(Entry)) {
        let mut next = from;
        let (first, end) = (self.key(from), self.key(to));
        self.inner.each(keys::LOG, &first, Some(&end), |key, record| {
            let is_next = key == keys::entry(self.configuration, next as u64);
            if is_next {
                next += 1;
                visit(self.inner.decode(keys::LOG, key, record));
            }
            is_next
        });
        if next != to {
            self.inner.damaged(&format!("the log has a hole: entry {next} is missing"));
        }
    }

    fn segments(&self) -> MutexGuard<'_, Segments> {
        self.inner.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append_at(&mut self, batch: &mut WriteBatch, from: usize, entries: Vec<Entry>) {
        assert!(from <= self.numbers.accepted, "a log has no hole: {from} in {:?}", self.numbers);
        let family = self.inner.family(keys::LOG);
        let removed = self.numbers.accepted - from;
        if removed > POINT_DELETES_MAX {
            let (first, end) = (self.key(from), self.key(self.numbers.accepted));
            batch.delete_range_cf(family, first, end);
        } else {
            for position in from..self.numbers.accepted {
                batch.delete_cf(family, self.key(position));
            }
        }
        for _ in 0..removed.min(self.tail.entries.len()) {
            self.tail.pop();
        }
        let mut segments = self.inner.segments.lock().unwrap_or_else(PoisonError::into_inner);
        segments.truncate(from);
        for (position, entry) in (from..).zip(entries) {
            let key = self.key(position);
            batch.put_cf(family, key, record::encode_for(entry.version(), &key, &entry));
            segments.push(entry.weight());
            self.tail.push(entry);
        }
    }

    fn key(&self, position: usize) -> [u8; 12] {
        keys::entry(self.configuration, position as u64)
    }

    fn put_number(&self, batch: &mut WriteBatch, field: LogField, number: Number) {
        let key = keys::log_field(self.configuration, field);
        put(batch, self.inner.family(keys::META), &key, &number);
    }

    fn apply(&mut self, batch: &mut WriteBatch, write: LogWrite) {
        match write {
            LogWrite::AppendAt(from, entries) => {
                let end = from + entries.len();
                self.append_at(batch, from, entries);
                self.numbers.accepted = end;
                self.put_number(batch, LogField::Accepted, Number::Index(end as u64));
            }
            LogWrite::Promise(ballot) => {
                self.numbers.promise = Some(ballot);
                self.put_number(batch, LogField::Promise, Number::of(ballot));
            }
            LogWrite::AcceptedRound(ballot) => {
                self.numbers.accepted_round = Some(ballot);
                self.put_number(batch, LogField::AcceptedRound, Number::of(ballot));
            }
            LogWrite::Decided(decided) => {
                self.numbers.decided = decided;
                self.put_number(batch, LogField::Decided, Number::Index(decided as u64));
            }
            LogWrite::Compact(index) => self.compact(batch, index),
        }
    }

    fn compact(&mut self, batch: &mut WriteBatch, index: usize) {
        if index <= self.numbers.compacted {
            return;
        }
        let (first, end) = (self.key(self.numbers.compacted), self.key(index));
        batch.delete_range_cf(self.inner.family(keys::LOG), first, end);
        let (first, end) = (0u64.to_be_bytes(), (index as u64 + 1).to_be_bytes());
        batch.delete_range_cf(self.inner.family(keys::VOID), first, end);
        self.segments().compact(index);
        self.numbers.compacted = index;
        self.numbers.accepted = self.numbers.accepted.max(index);
        let kept = self.numbers.accepted - index;
        while self.tail.entries.len() > kept {
            self.tail.pop_oldest();
        }
        self.put_number(batch, LogField::Compacted, Number::Index(index as u64));
        let accepted = Number::Index(self.numbers.accepted as u64);
        self.put_number(batch, LogField::Accepted, accepted);
    }

    fn read_disk(&self, from: usize, to: usize) -> Vec<Entry> {
        let mut entries = Vec::with_capacity(to - from);
        self.each(from, to, |entry| entries.push(entry));
        entries
    }
}

impl LogDisk for RocksLog {
    fn write(&mut self, writes: Vec<LogWrite>) {
        let mut batch = WriteBatch::default();
        let compacted = self.numbers.compacted;
        for write in writes {
            self.apply(&mut batch, write);
        }
        self.inner.write(batch);
        if self.numbers.compacted > compacted {
            // Files are removed up to the last removed key, not up to the first kept one.
            self.inner.to_drop().log = Some(self.key(self.numbers.compacted - 1));
        }
        *self.inner.numbers.lock().unwrap_or_else(PoisonError::into_inner) = self.numbers;
    }

    fn numbers(&self) -> LogNumbers {
        self.numbers
    }

    fn read(&self, from: usize, to: usize) -> Vec<Entry> {
        let tail_first = self.numbers.accepted - self.tail.entries.len();
        let from_disk = from..to.min(tail_first);
        let mut entries = match from_disk.is_empty() {
            true => Vec::with_capacity(to - from),
            false => self.read_disk(from_disk.start, from_disk.end),
        };
        let (first, end) = (from.max(tail_first) - tail_first, to.max(tail_first) - tail_first);
        entries.extend(self.tail.entries.range(first..end).cloned());
        entries
    }

    fn sendable(&self) -> usize {
        self.segments().sendable()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use kvorum_protocol::status::ClusterId;

    use super::*;
    use crate::engine::store::{LogLimits, LogStore, SyncStore};
    use crate::state::version::Version;
    use crate::storage::Database;
    use crate::storage::rocks::open::{NewIdentity, Owner};

    const CONFIGURATION: ConfigurationId = ConfigurationId(1);

    /// Opens a folder as its replica's database.
    pub fn open(folder: &std::path::Path, nonce: u64) -> Database {
        let (cluster, name) = (ClusterId(1), "kvorum-0".to_owned());
        let newborn = Some(NewIdentity::given(cluster, &name, std::slice::from_ref(&name)));
        let owner = Owner { cluster: Some(cluster), name, newest: Version::NEWEST, newborn };
        let on_fatal = Arc::new(|what: &str| panic!("{what}"));
        Database::open(folder, &owner, nonce, LogLimits::default(), on_fatal).unwrap()
    }

    /// Wherever a table file ends, compaction removes no entry that is kept.
    #[test]
    fn a_cut_at_the_end_of_a_file_leaves_its_last_entry() {
        for cut in [9, 10, 11] {
            let folder = tempfile::tempdir().unwrap();
            let database = open(folder.path(), 1);
            let mut log = database.log(CONFIGURATION).0;
            log.write(vec![LogWrite::AppendAt(0, vec![Entry::Noop; 10])]);
            let (db, family) = (&database.inner.db, database.inner.family(keys::LOG));
            db.flush_cf(family).unwrap();
            db.compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
            let later = vec![Entry::Noop; 10];
            log.write(vec![LogWrite::AppendAt(10, later), LogWrite::Decided(20)]);
            log.write(vec![LogWrite::Compact(cut)]);
            database.sync(database.durable());
            let files = db.live_files().unwrap();
            let is_there = files.iter().any(|file| file.column_family_name == keys::LOG);
            assert_eq!(is_there, cut == 9, "a file of which nothing stays goes at once");
            drop((log, database));
            let database = open(folder.path(), 2);
            let log = database.log(CONFIGURATION).0;
            assert_eq!(log.read(cut, 20).len(), 20 - cut);
        }
    }
}
