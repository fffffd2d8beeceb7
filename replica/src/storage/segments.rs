//! Pure: the positions of a log's bytes.
//!
//! The log is compacted, and its newest part is sent, by bytes. So the position where the newest
//! entries of a given size begin is known, to within a segment. Guarantees that an answer is a
//! position in the log. After entries were removed from within a segment, its bytes are an
//! estimate.

use std::collections::VecDeque;

use crate::engine::store::LogLimits;

/// A run of consecutive entries.
#[derive(Clone, Copy, Debug)]
struct Segment {
    entries: usize,
    bytes: u64,
}

impl Segment {
    /// Returns the bytes of some of its entries, as an estimate.
    fn share(&self, entries: usize) -> u64 {
        self.bytes * entries as u64 / self.entries.max(1) as u64
    }

    fn remove(&mut self, entries: usize) {
        self.bytes -= self.share(entries);
        self.entries -= entries;
    }
}

/// The entries of a log, in segments.
#[derive(Clone, Debug)]
pub struct Segments {
    limits: LogLimits,
    segments: VecDeque<Segment>,
    bytes: u64,
    end: usize,
}

impl Segments {
    /// Returns the segments of an empty log that begins at a position.
    #[must_use]
    pub fn new(limits: LogLimits, begin: usize) -> Self {
        Self { limits, segments: VecDeque::new(), bytes: 0, end: begin }
    }

    /// Adds one entry at the end.
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

    /// Removes the entries at and after a position.
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

    /// Removes the entries before a position; a log that ends before it then begins there.
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

    /// Returns the position where the newest entries begin that together have at most this many
    /// bytes.
    fn newest(&self, bytes: u64) -> usize {
        let (mut position, mut left) = (self.end, bytes);
        for segment in self.segments.iter().rev() {
            let Some(rest) = left.checked_sub(segment.bytes) else { break };
            left = rest;
            position -= segment.entries;
        }
        position
    }

    /// Returns the position from which on the log may be sent in one message.
    #[must_use]
    pub fn sendable(&self) -> usize {
        self.newest(self.limits.sync)
    }

    /// Returns the number of bytes from a position on, to within a segment.
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

    /// Returns the position up to which the log should be compacted, if it is long enough. `pinned`
    /// is the first position that a peer still fetches: everything from there on is kept, unless
    /// that is more than several windows and more than `state`, the bytes of the state that would
    /// be copied instead.
    #[must_use]
    pub fn excess(&self, pinned: Option<usize>, state: impl FnOnce() -> u64) -> Option<usize> {
        /// The most windows that a fetch under way may keep in the log, whatever the size of the
        /// state.
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
