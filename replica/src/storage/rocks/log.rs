//! One configuration's log, in the journal.
//!
//! Guarantees that each call is one frame, that the log has no hole, that it is cut no further than
//! the state on the disk, and that a hole found on disk stops the replica. Keeps the newest entries
//! in memory, so that recently written entries can be sent and applied without reading them back.

use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard, PoisonError};

use kvorum_protocol::status::ConfigurationId;
use rocksdb::WriteBatch;

use super::{Inner, keys};
use crate::state::entry::Entry;
use crate::storage::journal::frame::Frame;
use crate::storage::log::{LogDisk, LogNumbers, LogWrite};
use crate::storage::segments::Segments;

/// The size of the newest entries kept in memory, in bytes. A follower that lacks no more than
/// these when it reconnects is brought into step without a read of the disk.
const TAIL_BYTES_MAX: usize = 8 << 20;

/// One configuration's log.
pub struct DiskLog {
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

impl DiskLog {
    pub(super) fn open(inner: Arc<Inner>, configuration: ConfigurationId) -> Self {
        let numbers = inner.journal.numbers(configuration).unwrap_or_default();
        assert!(
            numbers.compacted <= numbers.decided && numbers.decided <= numbers.accepted,
            "the indexes of a log are in order: {numbers:?}"
        );
        let mut segments = Segments::new(inner.limits, numbers.compacted);
        let mut tail = Tail::default();
        // This verifies the log, too.
        inner.each_entry(configuration, numbers.compacted, numbers.accepted, |entry| {
            segments.push(entry.weight());
            tail.push(entry);
            true
        });
        *inner.segments.lock().unwrap_or_else(PoisonError::into_inner) = segments;
        Self { inner, configuration, numbers, tail }
    }

    fn segments(&self) -> MutexGuard<'_, Segments> {
        self.inner.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a write in memory, after it went to the journal.
    fn apply(&mut self, write: LogWrite) {
        match write {
            LogWrite::AppendAt(from, entries) => {
                let removed = self.numbers.accepted - from;
                for _ in 0..removed.min(self.tail.entries.len()) {
                    self.tail.pop();
                }
                self.numbers.accepted = from + entries.len();
                let mut segments =
                    self.inner.segments.lock().unwrap_or_else(PoisonError::into_inner);
                segments.truncate(from);
                for entry in entries {
                    segments.push(entry.weight());
                    self.tail.push(entry);
                }
            }
            LogWrite::Compact(index) if index > self.numbers.compacted => {
                self.segments().compact(index);
                self.numbers.compacted = index;
                self.numbers.accepted = self.numbers.accepted.max(index);
                while self.tail.entries.len() > self.numbers.accepted - index {
                    self.tail.pop_oldest();
                }
            }
            LogWrite::Promise(ballot) => self.numbers.promise = Some(ballot),
            LogWrite::AcceptedRound(ballot) => self.numbers.accepted_round = Some(ballot),
            LogWrite::Decided(decided) => self.numbers.decided = decided,
            LogWrite::Compact(_) => {}
        }
    }

    /// Prepares a cut: the state must be on the disk up to there, and what is known of the entries
    /// that go is removed with them.
    fn prepare_cut(&self, writes: &[LogWrite]) {
        let cuts = writes.iter().filter_map(|write| match write {
            LogWrite::Compact(index) => Some(*index),
            _ => None,
        });
        let Some(index) = cuts.max().filter(|index| *index > self.numbers.compacted) else {
            return;
        };
        if index as u64 > self.inner.persisted() {
            self.inner.persist();
        }
        let mut batch = WriteBatch::default();
        let (first, end) = (0u64.to_be_bytes(), (index as u64 + 1).to_be_bytes());
        batch.delete_range_cf(self.inner.family(keys::VOID), first, end);
        self.inner.write_state(batch);
    }

    fn read_disk(&self, from: usize, to: usize) -> Vec<Entry> {
        let mut entries = Vec::with_capacity(to - from);
        self.inner.each_entry(self.configuration, from, to, |entry| {
            entries.push(entry);
            true
        });
        if entries.len() != to - from {
            let next = from + entries.len();
            self.inner.damaged(&format!("the log has a hole: entry {next} is missing"));
        }
        entries
    }
}

impl LogDisk for DiskLog {
    fn write(&mut self, writes: Vec<LogWrite>) {
        self.prepare_cut(&writes);
        let frame = Frame::Writes(self.configuration, writes);
        self.inner.journal.append(&frame);
        if let Frame::Writes(_, writes) = frame {
            for write in writes {
                self.apply(write);
            }
        }
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
    use crate::engine::store::LogLimits;
    use crate::state::version::Version;
    use crate::storage::Database;
    use crate::storage::rocks::open::{NewIdentity, Owner};

    /// Opens a folder as its replica's database.
    pub fn open(folder: &std::path::Path, nonce: u64) -> Database {
        let (cluster, name) = (ClusterId(1), "kvorum-0".to_owned());
        let newborn = Some(NewIdentity::given(cluster, &name, std::slice::from_ref(&name)));
        let owner = Owner { cluster: Some(cluster), name, newest: Version::NEWEST, newborn };
        let on_fatal = Arc::new(|what: &str| panic!("{what}"));
        Database::open(folder, &owner, nonce, LogLimits::default(), on_fatal).unwrap()
    }
}
