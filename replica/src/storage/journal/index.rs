//! Pure: what a journal holds of each log, and where.
//!
//! Guarantees that an entry is looked for only where its last version lies: an entry that was
//! overwritten is never found, whatever lies beside it. Keeps one place for some KiB of entries, so
//! that the memory it takes does not depend on how small they are. Does not know files.

use std::collections::{BTreeMap, VecDeque};

use kvorum_protocol::status::ConfigurationId;

use super::frame::{Frame, Place};
use crate::state::entry::Entry;
use crate::storage::log::{LogNumbers, LogWrite};

/// The bytes after which another block begins.
const BLOCK_BYTES: u64 = 16 << 10;

/// A run of frames that together append consecutive entries, from the one at `first` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    /// The position of its first entry.
    pub first: usize,
    /// Where its first frame lies.
    pub at: Place,
}

/// One log.
#[derive(Clone, Default, Debug)]
struct LogIndex {
    numbers: LogNumbers,
    blocks: VecDeque<Block>,
}

/// The logs of a journal.
#[derive(Clone, Default, Debug)]
pub struct Index {
    logs: BTreeMap<ConfigurationId, LogIndex>,
}

/// A gap among the entries that a log should have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hole {
    /// The log.
    pub configuration: ConfigurationId,
    /// The position of the first entry that is missing.
    pub position: usize,
}

impl Index {
    /// Records a frame that lies at a place.
    pub fn add(&mut self, frame: &Frame, at: Place) {
        match frame {
            // What the earlier files left is known already, except from the first file.
            Frame::Log(id, numbers) => {
                let left = LogIndex { numbers: *numbers, blocks: VecDeque::new() };
                self.logs.entry(*id).or_insert(left);
            }
            Frame::Writes(id, writes) => {
                let log = self.logs.entry(*id).or_default();
                for write in writes {
                    log.write(write, at);
                }
            }
            Frame::Drop(before) => self.logs = self.logs.split_off(before),
        }
    }

    /// Whether a frame says of a log what the frames before it came to.
    #[must_use]
    pub fn agrees(&self, frame: &Frame) -> bool {
        match frame {
            Frame::Log(id, numbers) => self.numbers(*id).is_none_or(|known| known == *numbers),
            Frame::Writes(..) | Frame::Drop(_) => true,
        }
    }

    /// Returns the numbers of a log; `None` when nothing was ever written to it.
    #[must_use]
    pub fn numbers(&self, id: ConfigurationId) -> Option<LogNumbers> {
        self.logs.get(&id).map(|log| log.numbers)
    }

    /// Returns the newest configuration that has a log.
    #[must_use]
    pub fn newest(&self) -> Option<ConfigurationId> {
        self.logs.keys().next_back().copied()
    }

    /// Returns frames that say where each log stands: the first ones of a file.
    pub fn standing(&self) -> impl Iterator<Item = Frame> {
        self.logs.iter().map(|(id, log)| Frame::Log(*id, log.numbers))
    }

    /// Returns the first file that an entry of a log lies in; `None` when there is no entry.
    #[must_use]
    pub fn first_file(&self) -> Option<u64> {
        self.logs.values().filter_map(|log| log.blocks.front()).map(|block| block.at.file).min()
    }

    /// Returns the block that holds the entry at a position, and the one after it.
    #[must_use]
    pub fn block_of(&self, id: ConfigurationId, position: usize) -> Option<(Block, Option<Block>)> {
        let log = self.logs.get(&id)?;
        let numbers = log.numbers;
        if !(numbers.compacted..numbers.accepted).contains(&position) {
            return None;
        }
        let after = log.blocks.partition_point(|block| block.first <= position);
        let block = log.blocks.get(after.checked_sub(1)?)?;
        Some((*block, log.blocks.get(after).copied()))
    }

    /// Returns the first entry that is missing although a log's numbers say that it is there.
    #[must_use]
    pub fn hole(&self) -> Option<Hole> {
        self.logs.iter().find_map(|(id, LogIndex { numbers, blocks })| {
            let is_covered = match blocks.front() {
                Some(block) => block.first <= numbers.compacted,
                None => numbers.compacted == numbers.accepted,
            };
            (!is_covered).then_some(Hole { configuration: *id, position: numbers.compacted })
        })
    }
}

impl LogIndex {
    fn write(&mut self, write: &LogWrite, at: Place) {
        let numbers = &mut self.numbers;
        match write {
            LogWrite::AppendAt(from, entries) => self.append(*from, entries.len(), at),
            LogWrite::Promise(ballot) => numbers.promise = Some(*ballot),
            LogWrite::AcceptedRound(ballot) => numbers.accepted_round = Some(*ballot),
            LogWrite::Decided(decided) => numbers.decided = *decided,
            LogWrite::Compact(position) => self.compact(*position),
        }
    }

    fn append(&mut self, from: usize, count: usize, at: Place) {
        let is_cut = from < self.numbers.accepted;
        while self.blocks.back().is_some_and(|block| block.first >= from && is_cut) {
            self.blocks.pop_back();
        }
        if self.blocks.back().is_some_and(|last| last.at == at) {
            // A frame is read as a whole.
            self.numbers.accepted = from + count;
            return;
        }
        // What was cut lies in the block before: it would be found if the next began later.
        let is_far = self.blocks.back().is_none_or(|last| {
            last.at.file != at.file || at.offset >= last.at.offset + BLOCK_BYTES
        });
        if is_cut || is_far {
            self.blocks.push_back(Block { first: from, at });
        }
        self.numbers.accepted = from + count;
    }

    fn compact(&mut self, position: usize) {
        let numbers = &mut self.numbers;
        if position <= numbers.compacted {
            return;
        }
        numbers.compacted = position;
        if position >= numbers.accepted {
            numbers.accepted = position;
            self.blocks.clear();
        }
        while self.blocks.get(1).is_some_and(|next| next.first <= position) {
            self.blocks.pop_front();
        }
    }
}

/// Returns the entries that a frame leaves appended to a log, and the position of the first: a
/// write may remove what an earlier one of the same frame appended.
#[must_use]
pub fn appended(frame: Frame, id: ConfigurationId) -> (usize, Vec<Entry>) {
    let (mut first, mut appended) = (0, Vec::new());
    let Frame::Writes(of, writes) = frame else { return (first, appended) };
    for write in writes {
        match write {
            LogWrite::AppendAt(from, entries) if of == id => {
                if from < first || appended.is_empty() {
                    (first, appended) = (from, entries);
                } else {
                    appended.truncate(from - first);
                    appended.extend(entries);
                }
            }
            _ => {}
        }
    }
    (first, appended)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: ConfigurationId = ConfigurationId(1);

    fn at(offset: u64) -> Place {
        Place { file: 1, offset }
    }

    fn append(from: usize, count: usize) -> Frame {
        Frame::Writes(ID, vec![LogWrite::AppendAt(from, vec![Entry::Noop; count])])
    }

    fn compact(position: usize) -> Frame {
        Frame::Writes(ID, vec![LogWrite::Compact(position)])
    }

    fn block(first: usize, offset: u64) -> Block {
        Block { first, at: at(offset) }
    }

    #[test]
    fn a_block_holds_some_kib() {
        let mut index = Index::default();
        for frame in 0..10 {
            index.add(&append(frame * 5, 5), at(frame as u64 * BLOCK_BYTES / 4));
        }
        let next = Some(block(20, BLOCK_BYTES));
        assert_eq!(index.block_of(ID, 0), Some((block(0, 0), next)));
        assert_eq!(index.block_of(ID, 19), Some((block(0, 0), next)));
        assert_eq!(index.block_of(ID, 49), Some((block(40, 2 * BLOCK_BYTES), None)));
        assert_eq!(index.block_of(ID, 50), None);
        assert_eq!(index.block_of(ConfigurationId(2), 0), None);
    }

    #[test]
    fn what_was_overwritten_lies_in_no_block() {
        let mut index = Index::default();
        index.add(&append(0, 5), at(0));
        index.add(&append(5, 5), at(100));
        index.add(&append(7, 1), at(200));
        assert_eq!(index.block_of(ID, 6), Some((block(0, 0), Some(block(7, 200)))));
        assert_eq!(index.block_of(ID, 7), Some((block(7, 200), None)));
        assert_eq!(index.block_of(ID, 8), None);
        // Removed, and nothing appended; what is appended next has the same place in the log.
        index.add(&append(2, 0), at(300));
        index.add(&append(2, 1), at(400));
        assert_eq!(index.block_of(ID, 2), Some((block(2, 300), None)));
    }

    #[test]
    fn a_cut_gives_files_back_and_leaves_no_hole() {
        let mut index = Index::default();
        for file in 1..=4 {
            index.add(&append((file - 1) * 10, 10), Place { file: file as u64, offset: 0 });
        }
        assert_eq!(index.first_file(), Some(1));
        for (position, first) in [(9, 1), (10, 2), (35, 4)] {
            index.add(&compact(position), Place { file: 4, offset: 50 });
            assert_eq!((index.first_file(), index.hole()), (Some(first), None), "{position}");
        }
        index.add(&compact(60), Place { file: 4, offset: 60 });
        assert_eq!((index.first_file(), index.hole()), (None, None), "beyond the end");
        index.add(&append(60, 1), Place { file: 4, offset: 70 });
        assert_eq!(index.first_file(), Some(4));
    }

    #[test]
    fn entries_of_a_file_that_is_gone_are_missed() {
        let mut index = Index::default();
        let numbers = LogNumbers { compacted: 3, accepted: 9, ..LogNumbers::default() };
        index.add(&Frame::Log(ID, numbers), at(0));
        index.add(&append(9, 4), at(40));
        assert_eq!(index.hole(), Some(Hole { configuration: ID, position: 3 }));
        index.add(&compact(9), at(80));
        assert_eq!(index.hole(), None, "they were cut since");
    }

    #[test]
    fn a_frame_that_removes_what_it_appended_shows_what_is_left() {
        let all = |writes| {
            let (first, entries) = appended(Frame::Writes(ID, writes), ID);
            (first, entries)
        };
        let (a, b) = (Entry::Noop, Entry::Checksum);
        let more =
            |from, entry: &Entry, count| LogWrite::AppendAt(from, vec![entry.clone(); count]);
        assert_eq!(
            all(vec![more(5, &a, 2), more(7, &b, 1)]),
            (5, vec![a.clone(), a.clone(), b.clone()])
        );
        assert_eq!(all(vec![more(5, &a, 3), more(6, &b, 1)]), (5, vec![a.clone(), b.clone()]));
        assert_eq!(all(vec![more(5, &a, 3), more(2, &b, 1)]), (2, vec![b.clone()]));
        let mut index = Index::default();
        index.add(&Frame::Writes(ID, vec![more(0, &a, 3), more(1, &b, 1)]), at(0));
        assert_eq!(index.block_of(ID, 0), Some((block(0, 0), None)), "one frame is one block");
        assert_eq!(index.block_of(ID, 2), None);
        let other = Frame::Writes(ConfigurationId(9), vec![more(5, &a, 2)]);
        assert_eq!(appended(other, ID).1, []);
    }
}
