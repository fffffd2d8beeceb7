//! Pure: clients' subscriptions to decided entries and to statuses.
//!
//! A subscription is a cursor into the decided log; its events are read from the log when its
//! connection has room. So a slow reader costs no memory, misses nothing, and slows no other
//! reader. Subscriptions that are up to date cost nothing until there is more to send.
//!
//! Guarantees that each subscription gets every decided entry (or change of a key) from its index
//! on, in order, once, and that one which asks for progress is never far from the position it last
//! reported. Does not keep entries itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use kvorum_protocol::access::KeyRange;
use kvorum_protocol::data::{Operation, Value};
use kvorum_protocol::limits::SUBSCRIPTIONS_MAX;
use kvorum_protocol::message::{EntryEvent, Event, KeyEvent, Refusal, ServerFrame, Subscription};
use kvorum_protocol::status::{ReplicaId, Role, Status};

use crate::engine::ClientKey;
use crate::engine::store::{Decided, Store};
use crate::limits::{
    PREFIXES_BYTES_MAX, SUBSCRIPTIONS_MAX as ALL_SUBSCRIPTIONS_MAX, TURN_BYTES_MAX,
};
use crate::state::accounts::Accounts;
use crate::state::entry::Entry;
use crate::state::rights::{Touch, User, judge_all};

/// The most bytes of entries that one subscription is sent in one turn, plus at most one entry.
const CURSOR_BYTES_MAX: usize = 256 << 10;
/// Bytes of the log after which a subscription that has no event to send reports its position. Less
/// than the shortest log keeps: a client that loses the connection can continue from there.
const SILENT_BYTES_MAX: usize = 16 << 10;
/// Bytes of a value that are sent to the log pane.
const PREVIEW_BYTES: usize = 128;
/// Ticks between two statuses that differ by no more than indexes.
const STATUS_TICKS: u64 = 10;

/// The part of the status that is sent at once when it changes, so that the time in the status is
/// the time of the change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turning {
    /// The replica's role.
    pub role: Role,
    /// The leader that it follows, and whether it is in step.
    pub leader: Option<(ReplicaId, bool)>,
    /// The number of the ballot that it promised.
    pub ballot: u32,
    /// The number of times that a link began, ended, was cut or healed.
    pub link_changes: u64,
}

/// The key of a subscription: the connection, and the call that opened it.
type Id = (ClientKey, u64);

/// A subscription to decided entries.
struct Cursor {
    next: u64,
    /// The prefix of the keys whose changes are sent; `None` for every entry.
    prefix: Option<Vec<u8>>,
    /// Bytes of the log that were skipped without an event; `None` if progress is never reported.
    silent: Option<usize>,
    /// The subscriber.
    user: User,
}

/// A subscription to statuses.
struct StatusCursor {
    /// The number of the status that was sent last.
    told: u64,
    /// The subscriber.
    user: User,
}

impl Cursor {
    /// Returns what its events show.
    fn touches(&self) -> Touch<'static> {
        let range = |prefix: &Vec<u8>| KeyRange::prefix(prefix);
        Touch::Read(self.prefix.as_ref().map_or_else(KeyRange::all, range))
    }

    fn bytes(&self) -> usize {
        self.prefix.as_ref().map_or(0, Vec::len)
    }

    /// Counts skipped bytes; returns whether it is time to report the position.
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
    /// The subscriptions to decided entries.
    cursors: BTreeMap<Id, Cursor>,
    /// Those of them that were not sent everything up to `told_to`: there was no room, or no time.
    due: BTreeSet<Id>,
    /// The index up to which all others were sent everything.
    told_to: u64,
    /// The total size of their prefixes, in bytes.
    bytes: usize,
    /// The subscription at which the next turn begins, when this one ended before all were served.
    resume: Option<Id>,
    /// The subscriptions to statuses.
    statuses: BTreeMap<Id, StatusCursor>,
    /// The accounts by which all subscriptions were judged last.
    judged_by: Option<Arc<Accounts>>,
    /// The last status that was new, and its number.
    news: Option<Status>,
    number: u64,
    /// The tick at which a status was last sent, and the `Turning` at that time.
    told: Option<(u64, Turning)>,
}

impl Subscriptions {
    /// Opens a subscription; returns the index from which it sends.
    ///
    /// # Errors
    /// When the index is compacted, or there are too many.
    pub fn open(
        &mut self,
        (client, call): (ClientKey, u64),
        user: User,
        subscription: Subscription,
        compacted: u64,
        applied: u64,
    ) -> Result<u64, Refusal> {
        let id = (client, call);
        // The client chooses the number: if it uses one twice, the later subscription replaces the
        // earlier.
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
                self.statuses.insert(id, StatusCursor { told: 0, user });
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
        let cursor = Cursor { next, prefix, silent, user };
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

    /// Ends the subscriptions to which their users have no right any more, if the accounts have
    /// changed since the last time; returns the connections of these.
    pub fn judge(&mut self, accounts: &Arc<Accounts>) -> BTreeSet<ClientKey> {
        if self.judged_by.as_ref().is_some_and(|last| Arc::ptr_eq(last, accounts)) {
            return BTreeSet::new();
        }
        self.judged_by = Some(Arc::clone(accounts));
        let is_forbidden =
            |user: &User, touch: Touch<'_>| judge_all(accounts, user, &[touch]).is_err();
        let cursors = self.cursors.iter();
        let cursors = cursors.filter(|(_, cursor)| is_forbidden(&cursor.user, cursor.touches()));
        let statuses = self.statuses.iter();
        let statuses = statuses.filter(|(_, cursor)| is_forbidden(&cursor.user, Touch::Observe));
        let clients = cursors.map(|(id, _)| id.0).chain(statuses.map(|(id, _)| id.0));
        let clients: BTreeSet<ClientKey> = clients.collect();
        for client in &clients {
            self.client_gone(*client);
        }
        clients
    }

    /// Whether some subscriptions were not served in the last turn.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.resume.is_some()
    }

    /// Whether any client wants statuses.
    #[must_use]
    pub fn want_status(&self) -> bool {
        !self.statuses.is_empty()
    }

    /// Whether a status is to be sent now: `turning` changed, or it is time. To be called once a
    /// turn.
    pub fn is_status_due(&mut self, now: u64, turning: Turning) -> bool {
        let is_due = self.told.is_none_or(|(at, last)| last != turning || now >= at + STATUS_TICKS);
        if is_due {
            self.told = Some((now, turning));
        }
        is_due
    }

    /// Returns the subscriptions to which a status is to be sent: it is new to them, and they have
    /// room. A status in which only the time has changed is not new.
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
            .filter(|((client, _), cursor)| cursor.told < number && has_room(*client));
        due.map(|(id, cursor)| {
            cursor.told = number;
            *id
        })
        .collect()
    }

    /// Sends the decided entries to the subscriptions that have room for them.
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
        // The subscriptions that the last turn did not reach come first.
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

fn key_event(index: u64, entry: &Entry, prefix: &[u8]) -> Option<KeyEvent> {
    let (key, value) = match &entry.command()?.operation {
        Operation::Put { key, value, .. } => (key, Some(value.clone())),
        Operation::Delete { key, .. } => (key, None),
        Operation::Access(_) => return None,
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
