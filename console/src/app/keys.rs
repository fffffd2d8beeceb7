//! Pure: the keys pane: one page of keys, kept up to date from the log.
//!
//! Guarantees that at most one page is held, whatever the number of keys, and that only later
//! entries of the log change a page. Does not fetch pages; it states which one it needs.

use std::time::Duration;

use bytes::Bytes;
use kvorum_protocol::Key;
use kvorum_protocol::message::{EntryEvent, EntryKind, Page, Pair};

use crate::message::CallId;

/// Bytes of a value kept in a row.
const PREVIEW_BYTES: usize = 128;
/// Rows that a page may grow to through new keys before its end is cut off.
const ROWS_MAX: usize = 2000;
/// Pages that the user can go back.
const BACK_MAX: usize = 10_000;

/// The keys pane.
#[derive(Clone, Default, Debug)]
pub struct KeysPane {
    /// The prefix of the keys shown.
    pub prefix: Vec<u8>,
    /// The rows of the page.
    pub rows: Vec<Row>,
    /// The selected row.
    pub selected: usize,
    /// The log index that the page reflects.
    pub index: u64,
    /// Where this page begins; empty for the first.
    start: Vec<u8>,
    /// Where the next page begins; `None` on the last.
    next: Option<Key>,
    /// Where each of the previous pages begins.
    back: Vec<Vec<u8>>,
    /// The call that fetches the page.
    pub loading: Option<CallId>,
    /// Whether the page is loaded; false if it has to be fetched again.
    pub is_loaded: bool,
    /// When a page was last requested, on the console's clock.
    pub tried: Duration,
    /// Why the page could not be fetched.
    pub trouble: Option<String>,
    /// The key under inspection.
    pub inspected: Option<Inspected>,
}

/// One key in the page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// The key.
    pub key: Key,
    /// The first bytes of its value.
    pub preview: Bytes,
    /// The length of the whole value.
    pub value_bytes: u64,
    /// The index of its last write.
    pub revision: u64,
}

/// A key under inspection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inspected {
    /// The key.
    pub key: Key,
    /// The result; `None` while it is being requested.
    pub found: Option<Found>,
    /// The call that requests it.
    pub call: CallId,
    /// The number of lines scrolled down.
    pub scroll: usize,
}

/// The result of inspecting a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The pair from a linearizable read; `None` if the key does not exist.
    pub pair: Option<Pair>,
    /// The revision that each replica holds, or why it could not be read.
    pub nodes: Vec<(String, Result<Option<u64>, String>)>,
}

impl KeysPane {
    /// Returns the selected row.
    #[must_use]
    pub fn selection(&self) -> Option<&Row> {
        self.rows.get(self.selected)
    }

    /// Returns where the current page begins.
    #[must_use]
    pub fn start(&self) -> &[u8] {
        &self.start
    }

    /// Returns the number of the page, from 1, and whether another one follows.
    #[must_use]
    pub fn page(&self) -> (usize, bool) {
        (self.back.len() + 1, self.next.is_some())
    }

    /// Shows the keys with another prefix, from the first one on.
    pub fn set_prefix(&mut self, prefix: &[u8]) {
        *self = Self { prefix: prefix.to_vec(), ..Self::default() };
    }

    /// Turns to the next page; returns whether there is one.
    pub fn turn_on(&mut self) -> bool {
        let Some(next) = self.next.take() else { return false };
        if self.back.len() < BACK_MAX {
            self.back.push(std::mem::take(&mut self.start));
        }
        self.start = next.0.to_vec();
        self.selected = 0;
        true
    }

    /// Turns to the previous page; returns whether there is one.
    pub fn turn_back(&mut self) -> bool {
        let Some(start) = self.back.pop() else { return false };
        self.start = start;
        self.selected = 0;
        true
    }

    /// Turns to the first page.
    pub fn turn_to_first(&mut self) {
        self.back.clear();
        self.start.clear();
        self.selected = 0;
    }

    /// Takes in a page and the log entries after it.
    pub fn fill<'a>(&mut self, page: Page, later: impl Iterator<Item = &'a EntryEvent>) {
        let selected = self.selection().map(|row| row.key.clone());
        let row = |pair: Pair| Row {
            value_bytes: pair.value.0.len() as u64,
            preview: Bytes::copy_from_slice(&pair.value.0[..pair.value.0.len().min(PREVIEW_BYTES)]),
            key: pair.key,
            revision: pair.revision,
        };
        self.rows = page.pairs.into_iter().map(row).collect();
        self.next = page.next;
        self.index = page.index;
        self.is_loaded = true;
        self.trouble = None;
        for entry in later {
            self.apply(entry);
        }
        let found = selected.and_then(|key| self.rows.iter().position(|row| row.key == key));
        self.selected = found.unwrap_or(self.selected);
        self.clamp();
    }

    /// Takes in one log entry, if it concerns this page and is later than it.
    pub fn apply(&mut self, entry: &EntryEvent) {
        let Some(key) = entry.key.as_ref().filter(|_| entry.took_effect) else { return };
        let is_here = key.0.starts_with(&self.prefix)
            && key.0[..] >= self.start[..]
            && self.next.as_ref().is_none_or(|next| key < next);
        if !self.is_loaded || !is_here || entry.index <= self.index {
            return;
        }
        self.index = entry.index;
        let place = self.rows.binary_search_by(|row| row.key.cmp(key));
        match (entry.kind, place) {
            (EntryKind::Put, place) => {
                let row = Row {
                    key: key.clone(),
                    preview: entry.preview.clone().unwrap_or_default().0,
                    value_bytes: entry.value_bytes,
                    revision: entry.index,
                };
                match place {
                    Ok(place) => self.rows[place] = row,
                    Err(place) => {
                        self.rows.insert(place, row);
                        self.selected += usize::from(place <= self.selected && self.rows.len() > 1);
                    }
                }
            }
            (EntryKind::Delete, Ok(place)) => {
                self.rows.remove(place);
                self.selected -= usize::from(place < self.selected);
            }
            _ => {}
        }
        if self.rows.len() > ROWS_MAX {
            self.next = self.rows.pop().map(|row| row.key);
        }
        // A page that has lost all its keys is fetched again, as the keys after it move up.
        self.is_loaded = !(self.rows.is_empty() && self.next.is_some());
        self.clamp();
    }

    fn clamp(&mut self) {
        self.selected = self.selected.min(self.rows.len().saturating_sub(1));
    }

    /// Moves the selection; returns false if it would leave the page.
    pub fn step(&mut self, by: isize) -> bool {
        let last = self.rows.len().saturating_sub(1);
        let to = self.selected.saturating_add_signed(by);
        let leaves = match by {
            by if by > 0 => self.selected == last && self.next.is_some(),
            _ => self.selected == 0 && !self.back.is_empty(),
        };
        self.selected = to.min(last);
        !leaves
    }

    /// Returns the first row to draw so that the selection is within the given number of rows.
    #[must_use]
    pub fn first_drawn(&self, rows: usize) -> usize {
        (self.selected + 1).saturating_sub(rows.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_protocol::Value;

    fn page(keys: &[&str], next: Option<&str>, index: u64) -> Page {
        let pair = |key: &&str| Pair {
            key: Key::from((*key).to_owned()),
            value: Value::from("v"),
            revision: 1,
        };
        let next = next.map(|key| Key::from(key.to_owned()));
        Page { pairs: keys.iter().map(pair).collect(), next, index }
    }

    fn change(index: u64, kind: EntryKind, key: &str) -> EntryEvent {
        EntryEvent {
            index,
            kind,
            key: Some(Key::from(key.to_owned())),
            preview: (kind == EntryKind::Put).then(|| Value::from("new")),
            value_bytes: 3,
            took_effect: true,
        }
    }

    fn names(pane: &KeysPane) -> Vec<String> {
        pane.rows.iter().map(|row| String::from_utf8_lossy(&row.key.0).into_owned()).collect()
    }

    #[test]
    fn a_page_goes_with_the_log() {
        let mut pane = KeysPane::default();
        pane.apply(&change(1, EntryKind::Put, "a"));
        assert!(pane.rows.is_empty(), "there is no page yet");
        let later = [change(4, EntryKind::Put, "early"), change(6, EntryKind::Put, "c")];
        pane.fill(page(&["b", "d"], Some("m"), 5), later.iter());
        assert_eq!(names(&pane), ["b", "c", "d"]);
        pane.selected = 2;
        pane.apply(&change(7, EntryKind::Put, "a"));
        assert_eq!(pane.selection().map(|row| &row.key), Some(&Key::from("d")));
        let mut emptied = pane.clone();
        for (index, key) in (8..).zip(["a", "b", "c", "d"]) {
            assert!(emptied.is_loaded);
            emptied.apply(&change(index, EntryKind::Delete, key));
        }
        assert!(!emptied.is_loaded, "more keys follow, so the page is read again");
        pane.apply(&change(8, EntryKind::Delete, "c"));
        pane.apply(&change(9, EntryKind::Put, "z"));
        pane.apply(&change(10, EntryKind::Put, "b"));
        assert_eq!(names(&pane), ["a", "b", "d"]);
        assert_eq!(pane.rows[1].revision, 10);
        let void = EntryEvent { took_effect: false, ..change(11, EntryKind::Delete, "b") };
        pane.apply(&void);
        assert_eq!(names(&pane), ["a", "b", "d"]);
    }

    #[test]
    fn pages_are_turned_at_their_ends() {
        let mut pane = KeysPane::default();
        pane.fill(page(&["a", "b"], Some("c"), 5), std::iter::empty());
        assert!(pane.step(1));
        assert!(!pane.step(1), "the next page is wanted");
        assert!(pane.turn_on());
        assert_eq!((pane.start(), pane.page().0), (&b"c"[..], 2));
        pane.fill(page(&["c"], None, 6), std::iter::empty());
        assert!(pane.step(1), "the last page ends");
        assert!(!pane.turn_on());
        assert!(!pane.step(-1));
        assert!(pane.turn_back());
        assert_eq!(pane.start(), b"");
        assert!(!pane.turn_back());
    }
}
