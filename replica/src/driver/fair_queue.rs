//! Pure: the reads and writes of clients that wait for their turn.
//!
//! The engine gets a bounded number of them at a time, of reads, writes and scans apart. The next
//! ones wait here: those of each party in a queue of its own, of which each gives one in turn.
//! (Fair queueing, J. Nagle, RFC 970, 1985; all requests of a kind count alike.) Guarantees that
//! the requests of a party wait for what the engine has and for their turn, however many another
//! party sends; that one which has waited for too long is refused and never done; and that what a
//! closed connection asked for is forgotten. Does not know what a request does.

use std::collections::{HashMap, VecDeque};

use kvorum_protocol::message::{Consistency, Request};

use crate::engine::{ClientKey, Input};
use crate::limits::{KIND_BYTES_MAX, SCANS_MAX};
use crate::shares::room::AccountId;

/// The most reads, and the most writes, that the engine has at a time. A sync takes a few hundred
/// when it is busiest; more would only wait there, where nobody can overtake them.
const UNDER_WAY_MAX: usize = 1024;
/// The most scans that the engine has at a time. One thread serves them.
const SCANS_UNDER_WAY_MAX: usize = 32;
/// The most requests of one party and kind that wait.
const WAITING_MAX: usize = 4 * UNDER_WAY_MAX;
/// The time in microseconds for which the first of a party's requests may wait while others are
/// added.
const WAIT_MAX_US: u64 = 250_000;
/// The time in microseconds after which a request that waits is refused: its client's patience is
/// over, or nearly.
const LATE_US: u64 = 2 * WAIT_MAX_US;

const _: () = assert!(SCANS_UNDER_WAY_MAX < SCANS_MAX);

/// The kinds of requests, which do not wait for each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Read,
    Write,
    Scan,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Scan];

    /// Returns the most requests of the kind that the engine has at a time.
    fn most(self) -> usize {
        match self {
            Self::Read | Self::Write => UNDER_WAY_MAX,
            Self::Scan => SCANS_UNDER_WAY_MAX,
        }
    }

    /// Returns the kind of a request; `None` of one that does not wait: the others are few, and
    /// some of them say how busy the replica is.
    fn of(request: &Request) -> Option<Self> {
        match request {
            Request::Write { .. } => Some(Self::Write),
            // Any state will do, also when the engine has to keep all others waiting.
            Request::Get { consistency: Consistency::Local, .. } => None,
            Request::Get { .. } | Request::Access(_) => Some(Self::Read),
            Request::Scan(_) => Some(Self::Scan),
            Request::Status
            | Request::Subscribe(_)
            | Request::Admin(_)
            | Request::Snapshot(_)
            | Request::Addresses => None,
        }
    }
}

/// What becomes of a request.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "most of them are the engine's at once")]
pub enum Turn {
    /// It is the engine's now.
    Now(Input),
    /// It waits.
    Later,
    /// Too many of its party wait, the first one for this many microseconds.
    Refused {
        /// How long the first one has waited.
        waits_us: u64,
    },
}

/// A call that has waited for too long.
#[derive(PartialEq, Eq, Debug)]
pub struct Late {
    /// The connection.
    pub client: ClientKey,
    /// The call's number.
    pub call: u64,
    /// How long it has waited, in microseconds.
    pub waits_us: u64,
}

/// The requests that wait, and the calls that the engine has.
#[derive(Default)]
pub struct FairQueue {
    /// The line of each kind, in the order of [`Kind::ALL`].
    lines: [Line; Kind::ALL.len()],
    /// The calls that the engine has, each with its kind and weight. A closed connection's stay
    /// until they are answered: the engine has them still.
    under_way: HashMap<(ClientKey, u64), (Kind, usize)>,
    /// The parties of connections of which something waits.
    parties: HashMap<ClientKey, AccountId>,
}

/// The requests of one kind.
#[derive(Default)]
struct Line {
    under_way: usize,
    bytes: usize,
    /// The parties of which requests wait, in the order of their turns.
    turns: VecDeque<AccountId>,
    waiting: HashMap<AccountId, VecDeque<Waiting>>,
}

struct Waiting {
    since_us: u64,
    client: ClientKey,
    call: u64,
    weight: usize,
    input: Input,
}

impl Line {
    /// Whether the engine takes another request of this weight.
    fn has_room(&self, most: usize, weight: usize) -> bool {
        self.under_way == 0 || self.under_way < most && self.bytes + weight <= KIND_BYTES_MAX
    }

    fn first(&self) -> Option<&Waiting> {
        self.waiting.get(self.turns.front()?)?.front()
    }

    fn add(&mut self, party: AccountId, waiting: Waiting, now_us: u64) -> Turn {
        let queue = self.waiting.entry(party).or_default();
        let first = queue.front().map(|first| now_us.saturating_sub(first.since_us));
        if queue.len() >= WAITING_MAX || first > Some(WAIT_MAX_US) {
            return Turn::Refused { waits_us: first.unwrap_or(0) };
        }
        if queue.is_empty() {
            self.turns.push_back(party);
        }
        queue.push_back(waiting);
        Turn::Later
    }

    /// Takes the request whose turn it is.
    fn take(&mut self) -> Option<Waiting> {
        let party = self.turns.pop_front()?;
        let queue = self.waiting.get_mut(&party)?;
        let next = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&party);
        } else {
            self.turns.push_back(party);
        }
        next
    }

    /// Removes the requests of a party of which `is_over` holds, and returns them.
    fn remove(&mut self, party: AccountId, is_over: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
        let Some(queue) = self.waiting.get_mut(&party) else { return Vec::new() };
        let (over, left): (Vec<_>, Vec<_>) = std::mem::take(queue).into_iter().partition(is_over);
        *queue = left.into();
        if queue.is_empty() {
            self.waiting.remove(&party);
            self.turns.retain(|other| *other != party);
        }
        over
    }
}

impl FairQueue {
    fn line(&mut self, kind: Kind) -> &mut Line {
        &mut self.lines[kind as usize]
    }

    /// Adds a call of a party, at a time in microseconds.
    pub fn add(&mut self, party: AccountId, input: Input, now_us: u64) -> Turn {
        let Input::Client { client, call, request, .. } = &input else { return Turn::Now(input) };
        let Some(kind) = Kind::of(request) else { return Turn::Now(input) };
        let (client, call, weight) = (*client, *call, request.weight());
        let line = self.line(kind);
        if line.turns.is_empty() && line.has_room(kind.most(), weight) {
            self.begin(kind, (client, call), weight);
            return Turn::Now(input);
        }
        let waiting = Waiting { since_us: now_us, client, call, weight, input };
        let turn = line.add(party, waiting, now_us);
        if matches!(turn, Turn::Later) {
            self.parties.insert(client, party);
        }
        turn
    }

    /// Returns the kind of which a request waits that the engine takes.
    fn next_kind(&self) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| {
            let line = &self.lines[*kind as usize];
            line.first().is_some_and(|first| line.has_room(kind.most(), first.weight))
        })
    }

    /// Whether a request waits that the engine takes.
    #[must_use]
    pub fn has_next(&self) -> bool {
        self.next_kind().is_some()
    }

    /// Takes the request whose turn it is, if the engine takes it.
    pub fn next(&mut self) -> Option<Input> {
        let kind = self.next_kind()?;
        let next = self.line(kind).take()?;
        self.begin(kind, (next.client, next.call), next.weight);
        Some(next.input)
    }

    fn begin(&mut self, kind: Kind, call: (ClientKey, u64), weight: usize) {
        if self.under_way.insert(call, (kind, weight)).is_none() {
            let line = self.line(kind);
            line.under_way += 1;
            line.bytes += weight;
        }
    }

    /// Records that a call is answered.
    pub fn answered(&mut self, client: ClientKey, call: u64) {
        if let Some((kind, weight)) = self.under_way.remove(&(client, call)) {
            let line = self.line(kind);
            line.under_way -= 1;
            line.bytes -= weight;
        }
    }

    /// Takes the calls that have waited for too long: they are refused.
    pub fn take_late(&mut self, now_us: u64) -> Vec<Late> {
        let waits_us = |waiting: &Waiting| now_us.saturating_sub(waiting.since_us);
        let mut late = Vec::new();
        for line in &mut self.lines {
            let is_late =
                |queue: &VecDeque<_>| queue.front().is_some_and(|w| waits_us(w) > LATE_US);
            let parties = line.waiting.iter().filter(|(_, queue)| is_late(queue));
            let parties: Vec<_> = parties.map(|(party, _)| *party).collect();
            let over = |party| line.remove(party, |waiting| waits_us(waiting) > LATE_US);
            late.extend(parties.into_iter().flat_map(over).map(|over| Late {
                client: over.client,
                call: over.call,
                waits_us: waits_us(&over),
            }));
        }
        late
    }

    /// Forgets what a connection that ended asked for.
    pub fn gone(&mut self, client: ClientKey) {
        let Some(party) = self.parties.remove(&client) else { return };
        for line in &mut self.lines {
            drop(line.remove(party, |waiting| waiting.client == client));
        }
    }

    /// Returns for how long the first of all requests has waited, in microseconds.
    #[must_use]
    pub fn waits_us(&self, now_us: u64) -> u64 {
        let queues = self.lines.iter().flat_map(|line| line.waiting.values());
        let firsts = queues.filter_map(VecDeque::front);
        firsts.map(|first| now_us.saturating_sub(first.since_us)).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
