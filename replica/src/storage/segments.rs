//! Pure: how many bytes of the log stand where.
//!
//! The log is cut, and its newest part is sent, by bytes; so it is known, to within a segment,
//! where its newest so many bytes begin. Guarantees that an answer is a position in the log.
//! Where entries were removed from within a segment, its bytes are an estimate.

use std::collections::VecDeque;

use crate::limits::SYNC_BYTES_MAX;

/// How much of the log is kept and how much travels at once, in bytes as `Entry::weight` counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogLimits {
    /// Newest entries that stay when the log is cut: a peer that lacks no more gets entries.
    pub window: u64,
    /// The log is cut when it has so much more: cuts are large and rare, because each leaves a
    /// range tombstone.
    pub step: u64,
    /// Most that a message of the consensus library carries of what a peer lacks; whoever lacks
    /// more fetches it in chunks first.
    pub sync: u64,
    /// One chunk of state or of entries.
    pub chunk: usize,
    /// What is known to within so much.
    pub segment: u64,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            window: 48 << 20,
            step: 16 << 20,
            sync: SYNC_BYTES_MAX as u64,
            chunk: 512 << 10,
            segment: 1 << 20,
        }
    }
}

impl LogLimits {
    /// Those of a log of which so much is kept, in the proportions of the default.
    #[must_use]
    pub fn keeping(window: u64) -> Self {
        let default = Self::default();
        let of = |most: u64, parts: u64| most.min(window / parts).max(1);
        Self {
            window,
            step: of(u64::MAX, 3),
            sync: of(default.sync, 6),
            chunk: usize::try_from(of(default.chunk as u64, 4)).expect("chunks are small"),
            segment: of(default.segment, 48),
        }
    }
}

/// A run of entries.
#[derive(Clone, Copy, Debug)]
struct Segment {
    entries: usize,
    bytes: u64,
}

impl Segment {
    /// The bytes of some of its entries.
    fn share(&self, entries: usize) -> u64 {
        self.bytes * entries as u64 / self.entries.max(1) as u64
    }

    fn remove(&mut self, entries: usize) {
        self.bytes -= self.share(entries);
        self.entries -= entries;
    }
}

/// A log's entries, in segments.
#[derive(Clone, Debug)]
pub struct Segments {
    limits: LogLimits,
    segments: VecDeque<Segment>,
    bytes: u64,
    end: usize,
}

impl Segments {
    /// Of an empty log that begins at a position.
    #[must_use]
    pub fn new(limits: LogLimits, begin: usize) -> Self {
        Self { limits, segments: VecDeque::new(), bytes: 0, end: begin }
    }

    /// One more entry at the end.
    pub fn push(&mut self, bytes: usize) {
        self.end += 1;
        self.bytes += bytes as u64;
        match self.segments.back_mut() {
            Some(last) if last.bytes < self.limits.segment => {
                last.entries += 1;
                last.bytes += bytes as u64;
            }
            _ => self.segments.push_back(Segment { entries: 1, bytes: bytes as u64 }),
        }
    }

    /// Entries at and after a position were removed.
    pub fn truncate(&mut self, position: usize) {
        while self.end > position
            && let Some(last) = self.segments.back_mut()
        {
            let removed = last.entries.min(self.end - position);
            self.bytes -= last.share(removed);
            last.remove(removed);
            self.end -= removed;
            if last.entries == 0 {
                self.segments.pop_back();
            }
        }
    }

    /// Entries before a position were removed; the log may end before it, and then begins there.
    pub fn compact(&mut self, position: usize) {
        let mut begin = self.begin();
        while begin < position
            && let Some(first) = self.segments.front_mut()
        {
            let removed = first.entries.min(position - begin);
            begin += removed;
            self.bytes -= first.share(removed);
            first.remove(removed);
            if first.entries == 0 {
                self.segments.pop_front();
            }
        }
        self.end = self.end.max(position);
    }

    fn begin(&self) -> usize {
        self.end - self.segments.iter().map(|segment| segment.entries).sum::<usize>()
    }

    /// Where the newest entries begin that together have at most so many bytes.
    fn newest(&self, bytes: u64) -> usize {
        let (mut position, mut left) = (self.end, bytes);
        for segment in self.segments.iter().rev() {
            let Some(rest) = left.checked_sub(segment.bytes) else { break };
            left = rest;
            position -= segment.entries;
        }
        position
    }

    /// Where that part of the log begins which may travel in one message.
    #[must_use]
    pub fn sendable(&self) -> usize {
        self.newest(self.limits.sync)
    }

    /// Bytes from a position on, to within a segment.
    fn bytes_from(&self, position: usize) -> u64 {
        let (mut begin, mut bytes) = (self.end, 0);
        for segment in self.segments.iter().rev() {
            if begin <= position {
                break;
            }
            begin -= segment.entries;
            bytes += segment.bytes;
        }
        bytes
    }

    /// Up to where the log should be cut, if it is long enough. `pinned` is the first position that
    /// somebody still fetches: from there on all is kept, unless it is several windows and more
    /// than the state, of so many bytes, that would have to be copied instead.
    #[must_use]
    pub fn excess(&self, pinned: Option<usize>, state: impl FnOnce() -> u64) -> Option<usize> {
        /// Windows that a fetch under way may make of the log, whatever the size of the state.
        const PINNED_WINDOWS: u64 = 4;
        let LogLimits { window, step, .. } = self.limits;
        let cut = self.newest(window);
        let Some(pinned) = pinned.filter(|pinned| *pinned < cut) else {
            return (self.bytes > window + step).then_some(cut);
        };
        let needed = self.bytes_from(pinned);
        if needed > PINNED_WINDOWS * window && needed > state() {
            return Some(cut);
        }
        (self.bytes > needed + step).then_some(pinned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: LogLimits = LogLimits { window: 100, step: 50, sync: 40, chunk: 10, segment: 10 };

    fn of(entries: usize) -> Segments {
        let mut segments = Segments::new(LIMITS, 7);
        (0..entries).for_each(|_| segments.push(5));
        segments
    }

    #[test]
    fn positions_follow_bytes() {
        let segments = of(100);
        assert_eq!((segments.begin(), segments.end, segments.bytes), (7, 107, 500));
        assert_eq!(segments.sendable(), 107 - 8, "eight entries of five bytes");
        assert_eq!(segments.excess(None, || 0), Some(107 - 20));
        assert_eq!(of(30).excess(None, || 0), None, "not beyond window and step");
        assert_eq!(of(31).excess(None, || 0), Some(38 - 20 + 1), "to within a segment");
    }

    #[test]
    fn what_is_fetched_is_kept_for_a_while() {
        let small = || 0;
        assert_eq!(of(60).excess(Some(10), small), None, "three windows are kept");
        assert_eq!(of(60).excess(Some(60), small), Some(67 - 20), "it needs less than the window");
        assert_eq!(of(91).excess(Some(10), small), Some(98 - 20 + 1), "and then no more");
        assert_eq!(of(91).excess(Some(10), || 460), None, "to copy the state would be more");
        assert_eq!(of(191).excess(Some(10), || 460), Some(198 - 20 + 1), "now it is less");
        assert_eq!(of(91).excess(Some(40), small), Some(40), "nobody needs what is before it");
    }

    #[test]
    fn cut_at_either_end_it_still_adds_up() {
        let mut segments = of(100);
        segments.truncate(50);
        assert_eq!((segments.begin(), segments.end, segments.bytes), (7, 50, 215));
        segments.compact(40);
        assert_eq!((segments.begin(), segments.end, segments.bytes), (40, 50, 50));
        segments.compact(60);
        assert_eq!((segments.begin(), segments.end, segments.bytes), (60, 60, 0));
        segments.push(5);
        assert_eq!((segments.begin(), segments.sendable()), (60, 60));
        segments.truncate(60);
        assert_eq!((segments.begin(), segments.end, segments.bytes), (60, 60, 0));
    }
}
