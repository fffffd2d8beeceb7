//! Pure: the log pane: the entries held, which of them are shown, and from where.
//!
//! Guarantees that memory is bounded however long the log is, and that a view that does not follow
//! stays in place while entries arrive. Does not fetch entries.

use std::collections::VecDeque;

use kvorum_protocol::message::{EntryEvent, EntryKind};

/// Entries kept; older ones are available through `kvorum log --from`. With keys and previews of
/// usual length they take about ten megabytes.
pub const ENTRIES_MAX: usize = 50_000;

/// The log pane.
#[derive(Clone, Default, Debug)]
pub struct LogPane {
    entries: VecDeque<EntryEvent>,
    /// The filter that selects the entries shown.
    pub filter: Filter,
    /// The index of the last entry shown, if the view does not follow.
    anchor: Option<u64>,
    /// Entries passing the filter that arrived since then.
    pub unseen: u64,
    /// The replica whose log it is.
    pub node: String,
}

/// A filter for the lines shown.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Filter {
    /// The text that a line must contain, or must not contain after a `!`; empty for all lines.
    pub text: String,
}

impl Filter {
    /// Whether a line with these parts is shown, according to whether a part contains the text.
    #[must_use]
    pub fn shows(&self, parts: &[&[u8]]) -> bool {
        let (wanted, holds) = match self.text.strip_prefix('!') {
            Some(rest) => (rest.as_bytes(), false),
            None => (self.text.as_bytes(), true),
        };
        let found = |part: &&[u8]| {
            wanted.is_empty() || part.windows(wanted.len()).any(|window| window == wanted)
        };
        wanted.is_empty() || parts.iter().any(found) == holds
    }
}

impl LogPane {
    /// Takes in entries, in order.
    pub fn push(&mut self, node: &str, entries: Vec<EntryEvent>) {
        node.clone_into(&mut self.node);
        for entry in entries {
            if self.entries.back().is_some_and(|last| entry.index <= last.index) {
                continue;
            }
            if self.entries.len() == ENTRIES_MAX {
                self.entries.pop_front();
            }
            if self.anchor.is_some() && self.shows(&entry) {
                self.unseen += 1;
            }
            self.entries.push_back(entry);
        }
    }

    /// Clears the pane, because the next entries do not continue the ones held.
    pub fn reset(&mut self) {
        self.entries.clear();
        self.follow();
    }

    /// Returns the index of the last entry held.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.entries.back().map_or(0, |entry| entry.index)
    }

    /// Returns how many entries are held.
    #[must_use]
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// Returns the entries after an index.
    pub fn after(&self, index: u64) -> impl Iterator<Item = &EntryEvent> {
        let first = self.entries.partition_point(|entry| entry.index <= index);
        self.entries.range(first..)
    }

    /// Whether the view follows the log.
    #[must_use]
    pub fn follows(&self) -> bool {
        self.anchor.is_none()
    }

    /// Follows the log.
    pub fn follow(&mut self) {
        self.anchor = None;
        self.unseen = 0;
    }

    /// Stops following the log.
    pub fn freeze(&mut self) {
        if self.anchor.is_none() {
            self.anchor = Some(self.last());
        }
    }

    /// Sets another filter.
    pub fn set_filter(&mut self, text: &str) {
        self.filter = Filter { text: text.to_owned() };
        self.unseen = 0;
    }

    fn shows(&self, entry: &EntryEvent) -> bool {
        let key = entry.key.as_ref().map_or(&b""[..], |key| &key.0);
        let value = entry.preview.as_ref().map_or(&b""[..], |value| &value.0);
        self.filter.shows(&[key, value, kind(entry.kind).as_bytes()])
    }

    /// Returns the entries to draw on the given number of lines, the oldest first.
    #[must_use]
    pub fn window(&self, lines: usize) -> Vec<&EntryEvent> {
        let end = match self.anchor {
            None => self.entries.len(),
            Some(anchor) => self.entries.partition_point(|entry| entry.index <= anchor),
        };
        let mut shown: Vec<&EntryEvent> =
            self.entries.range(..end).rev().filter(|entry| self.shows(entry)).take(lines).collect();
        // At the very top the window is filled with later entries.
        if shown.len() < lines && self.anchor.is_some() {
            let rest = self.entries.range(end..).filter(|entry| self.shows(entry));
            let more: Vec<_> = rest.take(lines - shown.len()).collect();
            shown.reverse();
            shown.extend(more);
            return shown;
        }
        shown.reverse();
        shown
    }

    /// Moves the view by the given number of shown entries; up if negative.
    pub fn scroll(&mut self, by: isize) {
        let last = self.last();
        let anchor = self.anchor.unwrap_or(last);
        let at = self.entries.partition_point(|entry| entry.index <= anchor);
        let count = by.unsigned_abs();
        let target = if by < 0 {
            // The entry at the bottom once the window has moved up; the first one stays.
            let above = self.entries.range(..at).rev().filter(|entry| self.shows(entry));
            above.map(|entry| entry.index).take(count + 1).last()
        } else {
            let below = self.entries.range(at..).filter(|entry| self.shows(entry));
            below.map(|entry| entry.index).take(count).last()
        };
        match target {
            Some(index) if index < last || by < 0 => self.anchor = Some(index),
            Some(_) => self.follow(),
            None if by > 0 => self.follow(),
            None => {}
        }
    }

    /// Goes to the oldest entry held.
    pub fn to_top(&mut self) {
        self.anchor = self.entries.front().map(|entry| entry.index);
    }
}

/// Returns the kind of an entry, in one word.
#[must_use]
pub fn kind(kind: EntryKind) -> &'static str {
    crate::output::kind(kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::testing::entry;

    fn pane(entries: u64) -> LogPane {
        let mut pane = LogPane::default();
        pane.push("kvorum-0", (1..=entries).map(entry).collect());
        pane
    }

    fn shown(pane: &LogPane, lines: usize) -> Vec<u64> {
        pane.window(lines).iter().map(|entry| entry.index).collect()
    }

    #[test]
    fn it_follows_until_one_moves_up_and_again_at_the_end() {
        let mut pane = pane(10);
        assert_eq!(shown(&pane, 3), [8, 9, 10]);
        pane.scroll(-2);
        assert_eq!((shown(&pane, 3), pane.follows()), (vec![6, 7, 8], false));
        pane.push("kvorum-0", vec![entry(11), entry(12)]);
        assert_eq!((shown(&pane, 3), pane.unseen), (vec![6, 7, 8], 2));
        pane.scroll(1);
        assert_eq!(shown(&pane, 3), [7, 8, 9]);
        pane.scroll(5);
        assert_eq!((shown(&pane, 3), pane.follows()), (vec![10, 11, 12], true));
        pane.scroll(-100);
        assert_eq!(shown(&pane, 3), [1, 2, 3]);
        pane.follow();
        pane.freeze();
        pane.push("kvorum-0", vec![entry(13)]);
        assert_eq!(shown(&pane, 2), [11, 12]);
    }

    #[test]
    fn a_filter_shows_what_it_says_and_scrolls_by_what_it_shows() {
        let mut pane = pane(30);
        pane.set_filter("key-2");
        assert_eq!(shown(&pane, 3), [27, 28, 29]);
        pane.scroll(-3);
        assert_eq!(shown(&pane, 3), [24, 25, 26]);
        pane.set_filter("!key");
        assert!(shown(&pane, 3).is_empty());
        pane.set_filter("!");
        pane.follow();
        assert_eq!(shown(&pane, 2), [29, 30]);
    }

    #[test]
    fn memory_is_bounded_and_repeats_are_dropped() {
        let mut pane = pane(ENTRIES_MAX as u64 + 7);
        assert_eq!(pane.count(), ENTRIES_MAX);
        pane.push("kvorum-1", vec![entry(3)]);
        assert_eq!(pane.last(), ENTRIES_MAX as u64 + 7);
        assert_eq!(pane.after(ENTRIES_MAX as u64 + 5).count(), 2);
        pane.reset();
        pane.push("kvorum-1", vec![entry(3)]);
        assert_eq!(pane.last(), 3);
    }
}
