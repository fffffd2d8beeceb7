//! Pure: what clients want to be told.
//!
//! A subscription is a cursor into the decided log; its events are read from the log when its
//! connection has room. So a slow reader costs no memory, misses nothing, and slows nobody. Those
//! that were told everything cost nothing until there is more to tell.
//!
//! Guarantees that each subscription gets every decided entry (or change of a key) from its index
//! on, in order, once, and that one which asks for it is never far from where it said it stands.
//! Does not keep entries itself.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kvorum_protocol::data::{Operation, Value};
use kvorum_protocol::limits::SUBSCRIPTIONS_MAX;
use kvorum_protocol::message::{EntryEvent, Event, KeyEvent, Refusal, ServerFrame, Subscription};
use kvorum_protocol::status::{ReplicaId, Role, Status};

use super::ClientKey;
use crate::entry::{Command, Entry};
use crate::limits::{
    PREFIXES_BYTES_MAX, SUBSCRIPTIONS_MAX as ALL_SUBSCRIPTIONS_MAX, TURN_BYTES_MAX,
};
use crate::storage::{Decided, Store};

/// Bytes of entries that one subscription is given in one turn, at most one entry more.
const CURSOR_BYTES_MAX: usize = 256 << 10;
/// Bytes of the log after which a subscription that has nothing to tell says where it stands. Less
/// than the shortest log keeps: whoever loses the connection can go on from there.
const SILENT_BYTES_MAX: usize = 16 << 10;
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

/// Which subscription: the connection, and the call that opened it.
type Id = (ClientKey, u64);

/// A subscription to what is decided.
struct Cursor {
    next: u64,
    /// Only changes of keys with this prefix; `None` for every entry.
    prefix: Option<Vec<u8>>,
    /// Bytes of the log that were passed over without a word; `None` if that is never told.
    silent: Option<usize>,
}

impl Cursor {
    fn bytes(&self) -> usize {
        self.prefix.as_ref().map_or(0, Vec::len)
    }

    /// Counts what was passed over; whether it is time to tell where it stands.
    fn passes_over(&mut self, bytes: usize) -> bool {
        let Some(silent) = &mut self.silent else { return false };
        *silent += bytes;
        let is_due = *silent >= SILENT_BYTES_MAX;
        if is_due {
            *silent = 0;
        }
        is_due
    }
}

/// All subscriptions.
#[derive(Default)]
pub struct Subscriptions {
    /// Those to what is decided.
    cursors: BTreeMap<Id, Cursor>,
    /// Those of them that were not told everything up to `told_to`: there was no room, or no time.
    due: BTreeSet<Id>,
    /// Up to where all others were told.
    told_to: u64,
    /// Bytes of their prefixes.
    bytes: usize,
    /// Where the next turn begins, when this one ended before everyone was served.
    resume: Option<Id>,
    /// Those to statuses, and the number of the one that each was told last.
    statuses: BTreeMap<Id, u64>,
    /// The last status that was news, and its number.
    news: Option<Status>,
    number: u64,
    /// When a status was last told, in ticks, and how things stood.
    told: Option<(u64, Turning)>,
}

impl Subscriptions {
    /// Opens a subscription; the index from which it tells.
    ///
    /// # Errors
    /// When the index is compacted, or there are too many.
    pub fn open(
        &mut self,
        client: ClientKey,
        call: u64,
        subscription: Subscription,
        compacted: u64,
        applied: u64,
    ) -> Result<u64, Refusal> {
        let id = (client, call);
        // The number is the client's: one that it uses twice stands for the later subscription.
        self.cancel(client, call);
        let own = (client, 0)..=(client, u64::MAX);
        let open = self.cursors.range(own.clone()).count() + self.statuses.range(own).count();
        if open >= SUBSCRIPTIONS_MAX {
            let most = u32::try_from(SUBSCRIPTIONS_MAX).expect("the limit is small");
            return Err(Refusal::TooManySubscriptions { most });
        }
        if self.cursors.len() + self.statuses.len() >= ALL_SUBSCRIPTIONS_MAX {
            return Err(Refusal::Overloaded);
        }
        let (from, prefix, silent) = match subscription {
            Subscription::Status => {
                self.statuses.insert(id, 0);
                return Ok(applied);
            }
            Subscription::Log { from } => (from, None, None),
            Subscription::Keys { prefix, from } => (from, Some(prefix), None),
            Subscription::Watch { prefix, from } => (from, Some(prefix), Some(0)),
        };
        let next = match from {
            0 => applied + 1,
            from if from <= compacted => return Err(Refusal::Compacted { from: compacted + 1 }),
            from => from,
        };
        let cursor = Cursor { next, prefix, silent };
        if self.bytes + cursor.bytes() > PREFIXES_BYTES_MAX {
            return Err(Refusal::Overloaded);
        }
        self.bytes += cursor.bytes();
        self.cursors.insert(id, cursor);
        self.due.insert(id);
        Ok(next)
    }

    /// Ends one subscription.
    pub fn cancel(&mut self, client: ClientKey, call: u64) {
        let id = (client, call);
        self.statuses.remove(&id);
        self.due.remove(&id);
        if let Some(cursor) = self.cursors.remove(&id) {
            self.bytes -= cursor.bytes();
        }
    }

    /// Ends a connection's subscriptions.
    pub fn client_gone(&mut self, client: ClientKey) {
        let own = (client, 0)..=(client, u64::MAX);
        let cursors = self.cursors.range(own.clone()).map(|(id, _)| *id);
        let all = cursors.chain(self.statuses.range(own).map(|(id, _)| *id));
        for (client, call) in all.collect::<Vec<_>>() {
            self.cancel(client, call);
        }
    }

    /// Whether some were not come to in the last turn.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.resume.is_some()
    }

    /// Whether anyone wants statuses.
    #[must_use]
    pub fn want_status(&self) -> bool {
        !self.statuses.is_empty()
    }

    /// Whether a status is to be told now: something turned, or it is time. Asked once a turn.
    pub fn is_status_due(&mut self, now: u64, turning: Turning) -> bool {
        let is_due = self.told.is_none_or(|(at, last)| last != turning || now >= at + STATUS_TICKS);
        if is_due {
            self.told = Some((now, turning));
        }
        is_due
    }

    /// Those to whom a status is to be told: it is news to them, and they have room. A status in
    /// which nothing but the time has changed is no news.
    pub fn take_status_due(
        &mut self,
        status: &Status,
        has_room: &dyn Fn(ClientKey) -> bool,
    ) -> Vec<(ClientKey, u64)> {
        let is_news = self.news.as_ref().is_none_or(|last| {
            let (monotonic_us, wall_us) = (last.monotonic_us, last.wall_us);
            *last != Status { monotonic_us, wall_us, ..status.clone() }
        });
        if is_news {
            self.news = Some(status.clone());
            self.number += 1;
        }
        let number = self.number;
        let due = self
            .statuses
            .iter_mut()
            .filter(|((client, _), told)| **told < number && has_room(*client));
        due.map(|(id, told)| {
            *told = number;
            *id
        })
        .collect()
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
        if applied > self.told_to {
            self.told_to = applied;
            self.due.extend(self.cursors.keys());
        }
        // Most subscriptions stand at the same index: the log is read once for all of them.
        let mut read: BTreeMap<u64, Decided> = BTreeMap::new();
        let mut bytes = 0;
        let begin = self.resume.take().unwrap_or((ClientKey(0), 0));
        // Those that the last turn did not come to are first.
        let late = self.due.range(begin..).copied();
        let order: Vec<Id> = late.chain(self.due.range(..begin).copied()).collect();
        for id in order {
            let (client, call) = id;
            if bytes >= TURN_BYTES_MAX {
                self.resume = Some(id);
                break;
            }
            if !has_room(client) {
                continue;
            }
            let Some(cursor) = self.cursors.get_mut(&id) else { continue };
            if cursor.next > applied {
                self.due.remove(&id);
                continue;
            }
            if cursor.next <= compacted {
                let event = Event::Compacted { from: compacted + 1 };
                send(client, ServerFrame::Event { call, event });
                self.cancel(client, call);
                continue;
            }
            let first = cursor.next;
            let decided = read
                .entry(first)
                .or_insert_with(|| store.decided(first, applied, CURSOR_BYTES_MAX));
            bytes += decided.entries.iter().map(Entry::weight).sum::<usize>();
            for (index, entry) in (first..).zip(&decided.entries) {
                let took_effect = decided.void.binary_search(&index).is_err();
                let event = match cursor.prefix.as_ref() {
                    None => Some(Event::Entry(entry_event(index, entry, took_effect))),
                    Some(prefix) if took_effect => key_event(index, entry, prefix).map(Event::Key),
                    Some(_) => None,
                };
                cursor.next = index + 1;
                let event = match event {
                    Some(event) => {
                        cursor.silent = cursor.silent.map(|_| 0);
                        Some(event)
                    }
                    None => cursor
                        .passes_over(entry.weight())
                        .then_some(Event::Progress { next: cursor.next }),
                };
                if let Some(event) = event {
                    send(client, ServerFrame::Event { call, event });
                }
            }
            if cursor.next > applied {
                self.due.remove(&id);
            }
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
    // A copy: a slice would keep the whole value as long as the event waits.
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
