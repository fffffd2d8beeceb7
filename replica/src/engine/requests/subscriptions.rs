//! Pure: clients' subscriptions to decided entries and to statuses.
//!
//! A subscription is a cursor into the decided log; its events are read from the log when its
//! connection has room. So a slow reader costs no memory, misses nothing, and slows no other
//! reader. Those that were sent everything stand at one index: the log is read once for all of
//! them, and an entry costs what it concerns ([`ByKey`]). The others are sent what they lack, those
//! that are furthest behind first, until all are in step.
//!
//! Guarantees that each subscription gets every decided entry (or change of a key) from its index
//! on, in order, once, and that one which asks for progress is never far from the position it last
//! reported. Does not keep entries itself.

mod behind;
mod by_key;
mod events;
mod statuses;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kvorum_protocol::access::KeyRange;
use kvorum_protocol::limits::SUBSCRIPTIONS_MAX;
use kvorum_protocol::message::{Event, Refusal, ServerFrame, Subscription};

use crate::engine::ClientKey;
use crate::engine::store::{Decided, Store};
use crate::limits::{
    PREFIXES_BYTES_MAX, SUBSCRIPTIONS_MAX as ALL_SUBSCRIPTIONS_MAX, TURN_BYTES_MAX,
};
use crate::state::accounts::Accounts;
use crate::state::rights::{Touch, User, judge_all};
use by_key::ByKey;
use events::{News, news};
use statuses::Statuses;
pub use statuses::Turning;

/// The most subscriptions to statuses on one connection: each is sent a status of its own.
const STATUSES_MAX: usize = 16;
/// The most bytes of entries that are read at a time, plus at most one entry.
const CURSOR_BYTES_MAX: usize = 256 << 10;
/// Bytes of the log after which a subscription that has no event to send reports its position, if
/// the log keeps enough.
const SILENT_BYTES_MAX: u64 = 1 << 20;
/// The same, as a part of what the log keeps: a client that loses the connection can go on from
/// there.
const SILENT_PART: u64 = 4;

/// The key of a subscription: the connection, and the call that opened it.
type Id = (ClientKey, u64);

/// Where a subscription stands.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// It was sent everything up to `told_to`.
    InStep {
        /// What had passed when it was last sent something.
        heard: u64,
    },
    /// It was not: there was no room or no time, or its first entry is yet to come.
    Apart {
        /// The index of the next entry.
        next: u64,
        /// Bytes of the log that it was sent nothing of.
        silent: usize,
    },
}

/// A subscription to decided entries.
struct Cursor {
    place: Place,
    /// The prefix of the keys whose changes are sent; `None` for every entry.
    prefix: Option<Arc<[u8]>>,
    /// Whether progress is reported.
    reports: bool,
    /// The subscriber.
    user: User,
}

impl Cursor {
    /// Returns what its events show.
    fn touches(&self) -> Touch<'static> {
        let range = |prefix: &Arc<[u8]>| KeyRange::prefix(prefix);
        Touch::Read(self.prefix.as_ref().map_or_else(KeyRange::all, range))
    }

    fn bytes(&self) -> usize {
        self.prefix.as_ref().map_or(0, |prefix| prefix.len())
    }
}

/// The subscriptions of one connection.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Share {
    count: usize,
    /// The total size of their prefixes, in bytes.
    bytes: usize,
}

/// What one turn may send.
pub struct Turn<'a> {
    /// The index up to which entries are no longer in the log.
    pub compacted: u64,
    /// Whether a connection accepts another event.
    pub has_room: &'a dyn Fn(ClientKey) -> bool,
    /// Sends a frame.
    pub send: &'a mut dyn FnMut(ClientKey, ServerFrame),
}

impl Turn<'_> {
    /// Reads entries from the log; returns none when the first was compacted.
    fn read<S: Store>(&self, store: &S, first: u64, last: u64) -> Decided {
        match first > self.compacted {
            true => store.decided(first, last, CURSOR_BYTES_MAX),
            false => Decided::default(),
        }
    }

    fn event(&mut self, (client, call): Id, event: Event) -> usize {
        let frame = ServerFrame::Event { call, event };
        let bytes = frame.weight();
        (self.send)(client, frame);
        bytes
    }
}

/// All subscriptions.
#[derive(Default)]
pub struct Subscriptions {
    /// The subscriptions to decided entries.
    cursors: BTreeMap<Id, Cursor>,
    /// Those that were sent everything up to `told_to`.
    in_step: ByKey,
    told_to: u64,
    /// Those that were not, of each connection, and all of them by what they are told.
    due: BTreeMap<ClientKey, BTreeSet<u64>>,
    behind: ByKey,
    /// Those whose first entry is yet to come, by its index.
    later: BTreeSet<(u64, Id)>,
    /// The total size of their prefixes, in bytes.
    bytes: usize,
    /// Whether the turn ended before all that have room were told everything.
    is_late: bool,
    /// The subscriptions to statuses.
    pub statuses: Statuses,
    /// What each connection has that has some.
    shares: BTreeMap<ClientKey, Share>,
    /// The accounts by which all subscriptions were judged last.
    judged_by: Option<Arc<Accounts>>,
}

impl Subscriptions {
    /// Opens a subscription; returns the index from which it sends.
    ///
    /// # Errors
    /// When the index is compacted, or there are too many. A connection may have as many as are
    /// left for all others (Choudhury, Hahne: Dynamic Queue Length Thresholds for Shared-Memory
    /// Packet Switches, 1998): so one that has taken all it could leaves room for others.
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
        let left = ALL_SUBSCRIPTIONS_MAX - (self.cursors.len() + self.statuses.len());
        let own = self.shares.get(&client).copied().unwrap_or_default();
        let too_many = match u32::try_from(own.count).expect("the limit is small") {
            0 => Refusal::Overloaded,
            most => Refusal::TooManySubscriptions { most },
        };
        if own.count >= left.min(SUBSCRIPTIONS_MAX) {
            return Err(too_many);
        }
        let (from, prefix, reports) = match subscription {
            Subscription::Status if self.statuses.of(client).count() >= STATUSES_MAX => {
                return Err(too_many);
            }
            Subscription::Status => {
                self.statuses.open(id, user);
                self.shares.entry(client).or_default().count += 1;
                return Ok(applied);
            }
            Subscription::Log { from } => (from, None, false),
            Subscription::Keys { prefix, from } => (from, Some(prefix), false),
            Subscription::Watch { prefix, from } => (from, Some(prefix), true),
        };
        let next = match from {
            0 => applied + 1,
            from if from <= compacted => return Err(Refusal::Compacted { from: compacted + 1 }),
            from => from,
        };
        let (place, prefix) = (Place::Apart { next, silent: 0 }, prefix.map(Arc::from));
        let cursor = Cursor { place, prefix, reports, user };
        if own.bytes + cursor.bytes() > PREFIXES_BYTES_MAX - self.bytes {
            return Err(too_many);
        }
        self.bytes += cursor.bytes();
        let share = self.shares.entry(client).or_default();
        *share = Share { count: share.count + 1, bytes: share.bytes + cursor.bytes() };
        self.cursors.insert(id, cursor);
        self.becomes_due(id);
        Ok(next)
    }

    /// Ends one subscription.
    pub fn cancel(&mut self, client: ClientKey, call: u64) {
        let id = (client, call);
        let is_status = self.statuses.cancel(id);
        let cursor = self.cursors.remove(&id);
        if let Some(cursor) = &cursor {
            self.bytes -= cursor.bytes();
            match cursor.place {
                Place::InStep { heard } => {
                    self.in_step.remove(id, cursor.prefix.as_ref());
                    self.in_step.ignore(id, heard);
                }
                Place::Apart { next, .. } => {
                    self.later.remove(&(next, id));
                    self.not_due(id, cursor.prefix.as_ref());
                }
            }
        }
        if is_status || cursor.is_some() {
            let bytes = cursor.map_or(0, |cursor| cursor.bytes());
            match self.shares.get_mut(&client) {
                Some(Share { count, bytes: own }) if *count > 1 => {
                    (*count, *own) = (*count - 1, *own - bytes);
                }
                _ => drop(self.shares.remove(&client)),
            }
        }
    }

    fn becomes_due(&mut self, id: Id) {
        let Some(cursor) = self.cursors.get(&id) else { return };
        self.due.entry(id.0).or_default().insert(id.1);
        self.behind.insert(id, cursor.prefix.as_ref());
    }

    fn not_due(&mut self, id: Id, prefix: Option<&Arc<[u8]>>) {
        self.behind.remove(id, prefix);
        if let Some(calls) = self.due.get_mut(&id.0) {
            calls.remove(&id.1);
            if calls.is_empty() {
                self.due.remove(&id.0);
            }
        }
    }

    /// Ends a connection's subscriptions.
    pub fn client_gone(&mut self, client: ClientKey) {
        let cursors = self.cursors.range((client, 0)..=(client, u64::MAX)).map(|(id, _)| *id);
        let all: Vec<Id> = cursors.chain(self.statuses.of(client)).collect();
        for (client, call) in all {
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
        let statuses = self.statuses.users();
        let statuses = statuses.filter(|(_, user)| is_forbidden(user, Touch::Observe));
        let clients = cursors.map(|(id, _)| id.0).chain(statuses.map(|(client, _)| client));
        let clients: BTreeSet<ClientKey> = clients.collect();
        for client in &clients {
            self.client_gone(*client);
        }
        clients
    }

    /// Whether some subscriptions were not served in the last turn.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.is_late
    }

    /// Whether some subscriptions were not sent everything.
    #[must_use]
    pub fn is_anybody_behind(&self) -> bool {
        !self.due.is_empty()
    }

    /// Sends the decided entries to the subscriptions that have room for them.
    pub fn tell_log<S: Store>(&mut self, store: &S, turn: &mut Turn<'_>) {
        self.tell_in_step(store, turn);
        while let Some((next, id)) = self.later.first().copied()
            && next <= self.told_to + 1
        {
            self.later.remove(&(next, id));
            self.becomes_due(id);
        }
        self.tell_due(store, turn);
    }

    /// Sends what was applied to those that are in step.
    fn tell_in_step<S: Store>(&mut self, store: &S, turn: &mut Turn<'_>) {
        let applied = store.applied();
        let mut bytes = 0;
        self.is_late = false;
        while self.told_to < applied {
            if self.in_step.is_empty() {
                self.told_to = applied;
                return;
            }
            if bytes >= TURN_BYTES_MAX / 2 {
                self.is_late = true;
                return;
            }
            let first = self.told_to + 1;
            let decided = turn.read(store, first, applied);
            if decided.entries.is_empty() {
                // A copied state came instead of the entries. Each is told so.
                self.all_fall_behind(first);
                self.told_to = applied;
                return;
            }
            let silent_max = silent_bytes_max(store);
            for news in news(first, &decided) {
                bytes += news.weight();
                self.tell_entry(&news, &mut bytes, turn);
                self.told_to = news.index;
                self.report_progress(silent_max, &mut bytes, turn);
                if bytes >= TURN_BYTES_MAX / 2 {
                    break;
                }
            }
        }
    }

    /// Sends an entry to those of the ones in step that it concerns. Those without room fall
    /// behind, and so do all others once the turn has sent enough.
    fn tell_entry(&mut self, news: &News<'_>, bytes: &mut usize, turn: &mut Turn<'_>) {
        let interested = self.in_step.interested(news.key());
        self.in_step.pass(news.weight());
        for id in interested {
            if *bytes >= TURN_BYTES_MAX / 2 || !(turn.has_room)(id.0) {
                self.falls_behind(id, news.index);
                continue;
            }
            *bytes += turn.event(id, news.event(self.cursors[&id].prefix.is_some()));
            self.hears(id);
        }
    }

    /// Reports the position to those that heard nothing for long. Those for which there is no room
    /// are told it when there is.
    fn report_progress(&mut self, silent_max: usize, bytes: &mut usize, turn: &mut Turn<'_>) {
        let next = self.told_to + 1;
        for id in self.in_step.overdue(silent_max) {
            if *bytes >= TURN_BYTES_MAX / 2 || !(turn.has_room)(id.0) {
                self.falls_behind(id, next);
                continue;
            }
            *bytes += turn.event(id, Event::Progress { next });
            self.hears(id);
        }
    }

    /// Records that a subscription that is in step was sent something.
    fn hears(&mut self, id: Id) {
        let Some(cursor) = self.cursors.get_mut(&id) else { return };
        if let Place::InStep { heard } = &mut cursor.place
            && cursor.reports
        {
            self.in_step.ignore(id, *heard);
            *heard = self.in_step.heard_before(0);
            self.in_step.listen(id, *heard);
        }
    }

    /// Records that a subscription was sent everything.
    fn catches_up(&mut self, id: Id, silent: usize) {
        let Some(cursor) = self.cursors.get(&id) else { return };
        self.not_due(id, cursor.prefix.clone().as_ref());
        let Some(cursor) = self.cursors.get_mut(&id) else { return };
        let heard = self.in_step.heard_before(silent);
        cursor.place = Place::InStep { heard };
        self.in_step.insert(id, cursor.prefix.as_ref());
        if cursor.reports {
            self.in_step.listen(id, heard);
        }
    }

    /// Records that a subscription was not sent an entry.
    fn falls_behind(&mut self, id: Id, next: u64) {
        let Some(cursor) = self.cursors.get_mut(&id) else { return };
        if let Place::InStep { heard } = cursor.place {
            let silent = self.in_step.silent_since(heard);
            cursor.place = Place::Apart { next, silent };
            self.in_step.remove(id, cursor.prefix.as_ref());
            self.in_step.ignore(id, heard);
            self.becomes_due(id);
        }
    }

    fn all_fall_behind(&mut self, next: u64) {
        for id in self.cursors.keys().copied().collect::<Vec<_>>() {
            self.falls_behind(id, next);
        }
    }
}

/// Returns the bytes of the log after which a subscription without events reports its position.
fn silent_bytes_max<S: Store>(store: &S) -> usize {
    let bytes = (store.limits().window / SILENT_PART).min(SILENT_BYTES_MAX);
    usize::try_from(bytes).expect("it is below a MiB")
}
