//! Pure: the events that an entry is for its subscribers.

use bytes::Bytes;
use kvorum_protocol::data::{Operation, Value};
use kvorum_protocol::message::{EntryEvent, KeyEvent};

use crate::state::entry::Entry;

/// Bytes of a value that are sent to the log pane.
const PREVIEW_BYTES: usize = 128;

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
