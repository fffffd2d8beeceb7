//! Pure: the events that an entry is for its subscribers.

use bytes::Bytes;
use kvorum_protocol::data::{Operation, Value};
use kvorum_protocol::message::{EntryEvent, Event, KeyEvent};

use crate::engine::store::Decided;
use crate::state::entry::Entry;

/// Bytes of a value that are sent to the log pane.
const PREVIEW_BYTES: usize = 128;

/// A decided entry, as subscriptions are told of it.
pub struct News<'a> {
    /// Its index.
    pub index: u64,
    entry: &'a Entry,
    took_effect: bool,
    change: Option<KeyEvent>,
}

impl News<'_> {
    /// Returns the bytes of the entry.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.entry.weight()
    }

    /// Returns the key that it changes, if it changes one.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.change.as_ref().map(|change| &change.key.0[..])
    }

    /// Returns the event for a subscription that it concerns: to keys, or to every entry.
    #[must_use]
    pub fn event(&self, is_of_keys: bool) -> Event {
        match self.change.as_ref().filter(|_| is_of_keys) {
            Some(change) => Event::Key(change.clone()),
            None => Event::Entry(entry_event(self.index, self.entry, self.took_effect)),
        }
    }
}

/// Returns what decided entries, the first of which has this index, are for subscriptions.
pub fn news(first: u64, decided: &Decided) -> impl Iterator<Item = News<'_>> {
    (first..).zip(&decided.entries).map(|(index, entry)| {
        let took_effect = decided.void.binary_search(&index).is_err();
        let change = if took_effect { key_event(index, entry) } else { None };
        News { index, entry, took_effect, change }
    })
}

/// Returns the event of an entry for those that follow the log.
#[must_use]
pub fn entry_event(index: u64, entry: &Entry, took_effect: bool) -> EntryEvent {
    let (key, value) = match entry.command().map(|command| &command.operation) {
        Some(Operation::Put { key, value, .. }) => (Some(key.clone()), Some(&value.0)),
        Some(Operation::Delete { key, .. }) => (Some(key.clone()), None),
        Some(Operation::Access(_)) | None => (None, None),
    };
    // A copy: a slice would keep the whole value in memory as long as the event waits.
    let preview =
        |value: &Bytes| Value(Bytes::copy_from_slice(&value[..value.len().min(PREVIEW_BYTES)]));
    EntryEvent {
        index,
        kind: entry.kind(),
        key,
        preview: value.map(preview),
        value_bytes: value.map_or(0, |value| value.len() as u64),
        took_effect,
    }
}

/// Returns the change of a key that an entry makes if it takes effect.
#[must_use]
pub fn key_event(index: u64, entry: &Entry) -> Option<KeyEvent> {
    let (key, value) = match &entry.command()?.operation {
        Operation::Put { key, value, .. } => (key, Some(value.clone())),
        Operation::Delete { key, .. } => (key, None),
        Operation::Access(_) => return None,
    };
    Some(KeyEvent { index, key: key.clone(), value })
}
