//! Pure: what clients want to be told.
//!
//! A subscription is a cursor into the decided log; its events are read from the log when its
//! connection has room. So a slow reader costs no memory, misses nothing, and slows nobody.
//!
//! Guarantees that each subscription gets every decided entry (or change of a key) from its index
//! on, in order, once. Does not keep entries itself.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvorum_protocol::data::{Operation, Value};
use kvorum_protocol::limits::SUBSCRIPTIONS_MAX;
use kvorum_protocol::message::{EntryEvent, Event, KeyEvent, Refusal, ServerFrame, Subscription};
use kvorum_protocol::status::{ReplicaId, Role, Status};

use super::ClientKey;
use crate::entry::{Command, Entry};
use crate::storage::{Decided, Store};

/// Bytes of entries that one subscription is given in one turn, at most one entry more.
const CURSOR_BYTES_MAX: usize = 256 << 10;
/// Bytes of entries that all subscriptions are given in one turn; the others have the next turn.
const TURN_BYTES_MAX: usize = 4 << 20;
/// Bytes of a value that the log pane is shown.
const PREVIEW_BYTES: usize = 128;
/// Ticks between two statuses that differ by no more than indexes.
const STATUS_TICKS: u64 = 10;

/// What is told at once when it changes, so that the time in the status is the time of the change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turning {
    /// What the replica does.
    pub role: Role,
    /// Whom it follows, and whether it is in step.
    pub leader: Option<(ReplicaId, bool)>,
    /// The ballot number that it promised.
    pub ballot: u32,
    /// How often a link began, ended, was cut or healed.
    pub link_changes: u64,
}

/// One subscription.
enum Cursor {
    Status { last: Option<Box<Status>> },
    Log { next: u64 },
    Keys { prefix: Vec<u8>, next: u64 },
}

/// All subscriptions.
#[derive(Default)]
pub struct Subscriptions {
    cursors: BTreeMap<(ClientKey, u64), Cursor>,
    /// Where the next turn begins, when this one ended before everyone was served.
    resume: Option<(ClientKey, u64)>,
    /// When a status was last told, in ticks, and how things stood.
    told: Option<(u64, Turning)>,
}

impl Subscriptions {
    /// Opens a subscription; the index from which it tells.
    ///
    /// # Errors
    /// When the index is compacted, or the connection has too many.
    pub fn open(
        &mut self,
        client: ClientKey,
        call: u64,
        subscription: Subscription,
        compacted: u64,
        applied: u64,
    ) -> Result<u64, Refusal> {
        let open = self.cursors.range((client, 0)..=(client, u64::MAX)).count();
        if open >= SUBSCRIPTIONS_MAX {
            let most = u32::try_from(SUBSCRIPTIONS_MAX).expect("the limit is small");
            return Err(Refusal::TooManySubscriptions { most });
        }
        let begin = |from: u64| match from {
            0 => Ok(applied + 1),
            from if from <= compacted => Err(Refusal::Compacted { from: compacted + 1 }),
            from => Ok(from),
        };
        let (cursor, from) = match subscription {
            Subscription::Status => (Cursor::Status { last: None }, applied),
            Subscription::Log { from } => {
                let next = begin(from)?;
                (Cursor::Log { next }, next)
            }
            Subscription::Keys { prefix, from } => {
                let next = begin(from)?;
                (Cursor::Keys { prefix, next }, next)
            }
        };
        self.cursors.insert((client, call), cursor);
        Ok(from)
    }

    /// Ends one subscription.
    pub fn cancel(&mut self, client: ClientKey, call: u64) {
        self.cursors.remove(&(client, call));
    }

    /// Ends a connection's subscriptions.
    pub fn client_gone(&mut self, client: ClientKey) {
        self.cursors.retain(|(owner, _), _| *owner != client);
    }

    /// Whether some were not come to in the last turn.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.resume.is_some()
    }

    /// Whether anyone wants statuses.
    #[must_use]
    pub fn want_status(&self) -> bool {
        self.cursors.values().any(|cursor| matches!(cursor, Cursor::Status { .. }))
    }

    /// Whether a status is to be told now: something turned, or it is time. Asked once a turn.
    pub fn is_status_due(&mut self, now: u64, turning: Turning) -> bool {
        let is_due = self.told.is_none_or(|(at, last)| last != turning || now >= at + STATUS_TICKS);
        if is_due {
            self.told = Some((now, turning));
        }
        is_due
    }

    /// Tells a status to those who want it, unless nothing but the time has changed.
    pub fn tell_status(
        &mut self,
        status: &Status,
        has_room: &dyn Fn(ClientKey) -> bool,
        send: &mut dyn FnMut(ClientKey, ServerFrame),
    ) {
        for ((client, call), cursor) in &mut self.cursors {
            let Cursor::Status { last } = cursor else { continue };
            let is_news = last.as_ref().is_none_or(|last| {
                let (monotonic_us, wall_us) = (last.monotonic_us, last.wall_us);
                **last != Status { monotonic_us, wall_us, ..status.clone() }
            });
            if is_news && has_room(*client) {
                *last = Some(Box::new(status.clone()));
                let event = Event::Status(Box::new(status.clone()));
                send(*client, ServerFrame::Event { call: *call, event });
            }
        }
    }

    /// Tells what was decided, to those who have room for it.
    pub fn tell_log<S: Store>(
        &mut self,
        store: &S,
        compacted: u64,
        has_room: &dyn Fn(ClientKey) -> bool,
        send: &mut dyn FnMut(ClientKey, ServerFrame),
    ) {
        let applied = store.applied();
        // Most subscriptions stand at the same index: the log is read once for all of them.
        let mut read: BTreeMap<u64, Decided> = BTreeMap::new();
        let mut ended = Vec::new();
        let mut bytes = 0;
        let begin = self.resume.take();
        // Those that the last turn did not come to are first.
        let (late, early): (Vec<_>, Vec<_>) =
            self.cursors.iter_mut().partition(|(id, _)| begin.is_none_or(|begin| **id >= begin));
        for (id, cursor) in late.into_iter().chain(early) {
            let (client, call) = *id;
            if bytes >= TURN_BYTES_MAX {
                self.resume = Some(*id);
                break;
            }
            let (next, prefix) = match cursor {
                Cursor::Status { .. } => continue,
                Cursor::Log { next } => (next, None),
                Cursor::Keys { prefix, next } => (next, Some(prefix)),
            };
            if *next > applied || !has_room(client) {
                continue;
            }
            if *next <= compacted {
                let event = Event::Compacted { from: compacted + 1 };
                send(client, ServerFrame::Event { call, event });
                ended.push(*id);
                continue;
            }
            let first = *next;
            let decided = read
                .entry(first)
                .or_insert_with(|| store.decided(first, applied, CURSOR_BYTES_MAX));
            bytes += decided.entries.iter().map(Entry::weight).sum::<usize>();
            for (index, entry) in (first..).zip(&decided.entries) {
                let took_effect = decided.void.binary_search(&index).is_err();
                let event = match prefix.as_ref() {
                    None => Some(Event::Entry(entry_event(index, entry, took_effect))),
                    Some(prefix) if took_effect => key_event(index, entry, prefix).map(Event::Key),
                    Some(_) => None,
                };
                if let Some(event) = event {
                    send(client, ServerFrame::Event { call, event });
                }
                *next = index + 1;
            }
        }
        for id in ended {
            self.cursors.remove(&id);
        }
    }
}

fn entry_event(index: u64, entry: &Entry, took_effect: bool) -> EntryEvent {
    let (key, value) = match entry {
        Entry::Command(Command { operation: Operation::Put { key, value, .. }, .. }) => {
            (Some(key.clone()), Some(&value.0))
        }
        Entry::Command(Command { operation: Operation::Delete { key, .. }, .. }) => {
            (Some(key.clone()), None)
        }
        _ => (None, None),
    };
    let preview = |value: &Bytes| Value(value.slice(..value.len().min(PREVIEW_BYTES)));
    EntryEvent {
        index,
        kind: entry.kind(),
        key,
        preview: value.map(preview),
        value_bytes: value.map_or(0, |value| value.len() as u64),
        took_effect,
    }
}

fn key_event(index: u64, entry: &Entry, prefix: &[u8]) -> Option<KeyEvent> {
    let Entry::Command(command) = entry else { return None };
    let (key, value) = match &command.operation {
        Operation::Put { key, value, .. } => (key, Some(value.clone())),
        Operation::Delete { key, .. } => (key, None),
    };
    key.0.starts_with(prefix).then(|| KeyEvent { index, key: key.clone(), value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_told_at_once_and_progress_ten_times_a_second() {
        let calm = Turning { role: Role::Follower, leader: None, ballot: 1, link_changes: 0 };
        let cases = [
            (0, calm, true),
            (0, calm, false),
            (STATUS_TICKS - 1, calm, false),
            (STATUS_TICKS, calm, true),
            (STATUS_TICKS, Turning { link_changes: 1, ..calm }, true),
            (STATUS_TICKS, Turning { link_changes: 1, ..calm }, false),
            (STATUS_TICKS + 1, Turning { role: Role::Leader, ..calm }, true),
            (STATUS_TICKS + 2, Turning { role: Role::Leader, ..calm }, false),
            (2 * STATUS_TICKS + 1, Turning { role: Role::Leader, ..calm }, true),
        ];
        let mut subscriptions = Subscriptions::default();
        for (now, turning, is_due) in cases {
            assert_eq!(subscriptions.is_status_due(now, turning), is_due, "{now} {turning:?}");
        }
    }
}
