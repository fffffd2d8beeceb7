//! Pure: the consensus library's storage trait, on top of the operations that a disk must have.
//!
//! Guarantees that every call of the library is one atomic write, that nothing is written
//! needlessly, that the unused parts of the library (snapshots, stop signs) leave no trace, and
//! that a suffix that is too long for one message is not read: `Entry::Placeholder` stands for it.
//! Does not know a disk; a [`LogDisk`] does, and stops the replica rather than fail.

use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::storage::{StopSign, Storage, StorageOp, StorageResult};
use serde::{Deserialize, Serialize};

use crate::state::entry::{Entry, NoSnapshot};

/// The numbers of a log. Indexes count entries as if the log had never been compacted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LogNumbers {
    /// The highest promised ballot; `None` before the first promise.
    pub promise: Option<Ballot>,
    /// The ballot in which the log was last accepted.
    pub accepted_round: Option<Ballot>,
    /// The number of entries known to be chosen.
    pub decided: usize,
    /// The number of entries removed by compaction.
    pub compacted: usize,
    /// The number of entries written, including the compacted ones.
    pub accepted: usize,
}

/// A change of a log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum LogWrite {
    /// Removes every entry at and after the position, then appends.
    AppendAt(usize, Vec<Entry>),
    /// Sets the promise.
    Promise(Ballot),
    /// Sets the accepted round.
    AcceptedRound(Ballot),
    /// Sets the decided index.
    Decided(usize),
    /// Removes every entry before the position.
    Compact(usize),
}

/// The operations that a disk must have for a log.
pub trait LogDisk {
    /// Makes all changes, in order, or after a crash none of them.
    fn write(&mut self, writes: Vec<LogWrite>);
    /// Returns the numbers as of the last write.
    fn numbers(&self) -> LogNumbers;
    /// Returns the entries at positions `from..to`, all of which exist.
    fn read(&self, from: usize, to: usize) -> Vec<Entry>;
    /// Returns the position from which on the log may be sent in one message.
    fn sendable(&self) -> usize;
}

/// A log, as the library uses it.
pub struct Log<D>(pub D);

impl<D: LogDisk> Log<D> {
    /// Translates the library's operations to ours; `end` is the end of the log after those so far.
    fn translate(&self, ops: Vec<StorageOp<Entry>>) -> Vec<LogWrite> {
        let mut end = self.0.numbers().accepted;
        let mut writes = Vec::with_capacity(ops.len());
        for op in ops {
            let append = match op {
                StorageOp::AppendEntry(entry) => Some((end, vec![entry])),
                StorageOp::AppendEntries(entries) => Some((end, entries)),
                StorageOp::AppendOnPrefix(from, entries) => Some((from, entries)),
                StorageOp::SetPromise(ballot) => {
                    writes.push(LogWrite::Promise(ballot));
                    None
                }
                StorageOp::SetAcceptedRound(ballot) => {
                    writes.push(LogWrite::AcceptedRound(ballot));
                    None
                }
                StorageOp::SetDecidedIndex(decided) => {
                    writes.push(LogWrite::Decided(decided));
                    None
                }
                StorageOp::Trim(index) => {
                    writes.push(LogWrite::Compact(index));
                    None
                }
                // `Trim` always accompanies it with the same index.
                StorageOp::SetCompactedIdx(_) | StorageOp::SetSnapshot(_) => None,
                StorageOp::SetStopsign(stop_sign) => {
                    assert!(stop_sign.is_none(), "the library's own stop sign is never proposed");
                    None
                }
            };
            if let Some((from, entries)) = append {
                let is_nothing = from == end && entries.is_empty();
                end = from + entries.len();
                if !is_nothing {
                    writes.push(LogWrite::AppendAt(from, entries));
                }
            }
        }
        writes
    }
}

impl<D: LogDisk> Storage<Entry> for Log<D> {
    fn write_atomically(&mut self, ops: Vec<StorageOp<Entry>>) -> StorageResult<()> {
        let writes = self.translate(ops);
        if !writes.is_empty() {
            self.0.write(writes);
        }
        Ok(())
    }

    fn append_entry(&mut self, entry: Entry) -> StorageResult<()> {
        self.write_atomically(vec![StorageOp::AppendEntry(entry)])
    }

    fn append_entries(&mut self, entries: Vec<Entry>) -> StorageResult<()> {
        self.write_atomically(vec![StorageOp::AppendEntries(entries)])
    }

    fn append_on_prefix(&mut self, from: usize, entries: Vec<Entry>) -> StorageResult<()> {
        self.write_atomically(vec![StorageOp::AppendOnPrefix(from, entries)])
    }

    fn set_promise(&mut self, ballot: Ballot) -> StorageResult<()> {
        self.write_atomically(vec![StorageOp::SetPromise(ballot)])
    }

    fn set_decided_idx(&mut self, decided: usize) -> StorageResult<()> {
        self.write_atomically(vec![StorageOp::SetDecidedIndex(decided)])
    }

    fn get_decided_idx(&self) -> StorageResult<usize> {
        Ok(self.0.numbers().decided)
    }

    fn set_accepted_round(&mut self, ballot: Ballot) -> StorageResult<()> {
        self.write_atomically(vec![StorageOp::SetAcceptedRound(ballot)])
    }

    fn get_accepted_round(&self) -> StorageResult<Option<Ballot>> {
        Ok(self.0.numbers().accepted_round)
    }

    fn get_entries(&self, from: usize, to: usize) -> StorageResult<Vec<Entry>> {
        let numbers = self.0.numbers();
        let exist = from >= numbers.compacted && from < to && to <= numbers.accepted;
        Ok(if exist { self.0.read(from, to) } else { Vec::new() })
    }

    fn get_log_len(&self) -> StorageResult<usize> {
        let numbers = self.0.numbers();
        Ok(numbers.accepted - numbers.compacted)
    }

    /// The library calls this only to bring a peer into step.
    fn get_suffix(&self, from: usize) -> StorageResult<Vec<Entry>> {
        let accepted = self.0.numbers().accepted;
        match from < self.0.sendable() && from < accepted {
            true => Ok(vec![Entry::Placeholder { end: accepted }]),
            false => self.get_entries(from, accepted),
        }
    }

    fn get_promise(&self) -> StorageResult<Option<Ballot>> {
        Ok(self.0.numbers().promise)
    }

    fn set_stopsign(&mut self, stop_sign: Option<StopSign>) -> StorageResult<()> {
        self.write_atomically(vec![StorageOp::SetStopsign(stop_sign)])
    }

    fn get_stopsign(&self) -> StorageResult<Option<StopSign>> {
        Ok(None)
    }

    fn trim(&mut self, index: usize) -> StorageResult<()> {
        self.write_atomically(vec![StorageOp::Trim(index)])
    }

    fn set_compacted_idx(&mut self, index: usize) -> StorageResult<()> {
        self.write_atomically(vec![StorageOp::SetCompactedIdx(index)])
    }

    fn get_compacted_idx(&self) -> StorageResult<usize> {
        Ok(self.0.numbers().compacted)
    }

    fn set_snapshot(&mut self, _: Option<NoSnapshot>) -> StorageResult<()> {
        Ok(())
    }

    fn get_snapshot(&self) -> StorageResult<Option<NoSnapshot>> {
        Ok(None)
    }
}
