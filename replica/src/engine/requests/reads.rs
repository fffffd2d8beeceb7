//! Pure: linearizable reads by ReadIndex.
//!
//! The leader records R = max(decided, barrier) and asks its peers whether they still promise its
//! ballot. When a majority (itself included) confirms that, a read is served once R is applied. One
//! round confirms every read that came before it began; an answer counts for its own round only.
//! After Ongaro's thesis, section 6.4, with OmniPaxos ballots in place of terms.
//!
//! Guarantees that no read is served before its round was confirmed and its index applied, both in
//! one configuration: a read that crosses a configuration change starts over. Writes nothing and
//! uses no clock for safety.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kvorum_protocol::message::Request;
use kvorum_protocol::status::ReplicaId;
use omnipaxos::ballot_leader_election::Ballot;

use crate::engine::Origin;
use crate::limits::{READS_BYTES_MAX, READS_MAX};
use crate::state::rights::User;

/// Ticks that a read may wait.
const PATIENCE_TICKS: u64 = 200;
/// Ticks after which an unconfirmed round is asked again: the link may have been down when a probe
/// was sent.
const ROUND_TICKS: u64 = 20;

/// A waiting read.
#[derive(Debug)]
pub struct Read {
    /// The client or follower that asked.
    pub origin: Origin,
    /// The request, such as a get or a scan; `None` for a follower that wants only the index.
    pub request: Option<Request>,
    /// The user whose rights are judged where the read is served.
    pub user: User,
    /// The tick at which the read is given up.
    pub deadline: u64,
    /// Its share of the limits on waiting reads, wherever it waits.
    room: Option<Room>,
}

impl Read {
    /// Returns a read that arrived at tick `now`.
    #[must_use]
    pub fn new(origin: Origin, request: Option<Request>, now: u64) -> Self {
        let deadline = now + PATIENCE_TICKS;
        Self { origin, request, user: User::Anonymous, deadline, room: None }
    }

    /// Returns the read of a user.
    #[must_use]
    pub fn by(self, user: User) -> Self {
        Self { user, ..self }
    }

    fn weight(&self) -> usize {
        self.request.as_ref().map_or(0, Request::weight)
    }
}

/// The number of waiting reads, and their bytes.
#[derive(Default, Debug)]
struct Waiting {
    count: AtomicUsize,
    bytes: AtomicUsize,
}

/// One read's share of those; released when the read is dropped.
#[derive(Debug)]
struct Room {
    bytes: usize,
    waiting: Arc<Waiting>,
}

impl Room {
    fn take(bytes: usize, waiting: &Arc<Waiting>) -> Self {
        waiting.count.fetch_add(1, Ordering::Relaxed);
        waiting.bytes.fetch_add(bytes, Ordering::Relaxed);
        Self { bytes, waiting: Arc::clone(waiting) }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.waiting.count.fetch_sub(1, Ordering::Relaxed);
        self.waiting.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// All waiting reads.
#[derive(Default)]
pub struct Reads {
    /// The reads that are not yet in a round.
    queued: Vec<Read>,
    round: Option<Round>,
    /// The confirmed reads, by the index that must be applied first.
    confirmed: BTreeMap<u64, VecDeque<Read>>,
    next_round: u64,
    /// The totals of all these reads, and of those for which the leader was asked.
    waiting: Arc<Waiting>,
}

struct Round {
    number: u64,
    ballot: Ballot,
    index: u64,
    confirmed_by: BTreeSet<ReplicaId>,
    reads: Vec<Read>,
    began: u64,
}

/// A round about which the peers are asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question {
    /// The number of the round.
    pub round: u64,
    /// The leader's ballot.
    pub ballot: Ballot,
}

impl Reads {
    /// Whether there is room for a read.
    #[must_use]
    pub fn has_room(&self, read: &Read) -> bool {
        let bytes = self.waiting.bytes.load(Ordering::Relaxed);
        self.count() < READS_MAX && bytes + read.weight() <= READS_BYTES_MAX
    }

    /// Adds a read; there must be room, or it must have had room before.
    pub fn add(&mut self, mut read: Read) {
        self.hold(&mut read);
        self.queued.push(read);
    }

    fn hold(&self, read: &mut Read) {
        if read.room.is_none() {
            read.room = Some(Room::take(read.weight(), &self.waiting));
        }
    }

    /// Returns the number of waiting reads.
    #[must_use]
    pub fn count(&self) -> usize {
        self.waiting.count.load(Ordering::Relaxed)
    }

    /// Begins a round for the queued reads, or repeats one that stays unanswered; a round that
    /// waits for this replica's own sync is not repeated. `ballot` is the leader's, `index` its
    /// current read index.
    pub fn ask(
        &mut self,
        (ballot, index): (Ballot, u64),
        now: u64,
        is_alone: bool,
    ) -> Option<Question> {
        if let Some(round) = &mut self.round {
            if is_alone || now < round.began + ROUND_TICKS {
                return None;
            }
            self.queued.splice(0..0, std::mem::take(&mut round.reads));
        }
        if self.queued.is_empty() {
            self.round = None;
            return None;
        }
        self.next_round += 1;
        self.round = Some(Round {
            number: self.next_round,
            ballot,
            index,
            confirmed_by: BTreeSet::new(),
            reads: std::mem::take(&mut self.queued),
            began: now,
        });
        Some(Question { round: self.next_round, ballot })
    }

    /// Returns the number of the last round.
    #[must_use]
    pub fn round(&self) -> u64 {
        self.next_round
    }

    /// Counts a peer's confirmation of a round. `promise` is the leader's own; `quorum` includes
    /// the leader.
    pub fn confirm(&mut self, peer: ReplicaId, answer: Question, promise: Ballot, quorum: usize) {
        let Some(round) = &mut self.round else { return };
        if round.number != answer.round || round.ballot != answer.ballot || promise != round.ballot
        {
            return;
        }
        round.confirmed_by.insert(peer);
        if round.confirmed_by.len() + 1 >= quorum
            && let Some(round) = self.round.take()
        {
            self.confirmed.entry(round.index).or_default().extend(round.reads);
        }
    }

    /// Confirms a lone replica's round: a sync that began after the round was asked for has
    /// returned, so the replica still owns its disk.
    pub fn confirm_synced(&mut self, number: u64) {
        if let Some(round) = self.round.take_if(|round| round.number <= number) {
            self.confirmed.entry(round.index).or_default().extend(round.reads);
        }
    }

    /// Confirms reads at an index: the one that the leader sent to this follower, or 0 for any
    /// state.
    pub fn confirm_at(&mut self, index: u64, mut reads: Vec<Read>) {
        for read in &mut reads {
            self.hold(read);
        }
        self.confirmed.entry(index).or_default().extend(reads);
    }

    /// Takes the reads that wait for a round, for a follower to ask its leader.
    pub fn take_queued(&mut self) -> Vec<Read> {
        std::mem::take(&mut self.queued)
    }

    /// Whether reads wait for a round.
    #[must_use]
    pub fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    /// Takes one read whose index is applied, with the index.
    pub fn next_ready(&mut self, applied: u64) -> Option<(u64, Read)> {
        loop {
            let mut first = self.confirmed.first_entry().filter(|first| *first.key() <= applied)?;
            match first.get_mut().pop_front() {
                Some(read) => return Some((*first.key(), read)),
                None => drop(first.remove()),
            }
        }
    }

    /// Whether a read could be served.
    #[must_use]
    pub fn has_ready(&self, applied: u64) -> bool {
        self.confirmed.first_key_value().is_some_and(|(index, _)| *index <= applied)
    }

    /// Takes the reads that no majority confirmed, because this replica stopped leading.
    pub fn abandon(&mut self) -> Vec<Read> {
        let mut reads = std::mem::take(&mut self.queued);
        reads.extend(self.round.take().into_iter().flat_map(|round| round.reads));
        reads
    }

    /// Takes the reads that were confirmed in the previous configuration and not served. Its leader
    /// may have been confirmed by members that did not know yet that it was over, while the next
    /// one decided more. Reads of any state, at index 0, continue.
    pub fn take_confirmed(&mut self) -> Vec<Read> {
        let confirmed = self.confirmed.split_off(&1);
        confirmed.into_values().flatten().collect()
    }

    /// Takes the reads that have waited too long.
    pub fn expire(&mut self, now: u64) -> Vec<Read> {
        let mut late = Vec::new();
        let mut sift = |reads: &mut Vec<Read>| {
            late.extend(reads.extract_if(.., |read| read.deadline <= now));
        };
        sift(&mut self.queued);
        self.round.iter_mut().for_each(|round| sift(&mut round.reads));
        for reads in self.confirmed.values_mut() {
            let mut all: Vec<Read> = std::mem::take(reads).into();
            sift(&mut all);
            *reads = all.into();
        }
        late
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ClientKey;

    fn read() -> Read {
        Read::new(Origin::Client { client: ClientKey(1), call: 1 }, None, 0)
    }

    fn ballot(n: u32) -> Ballot {
        Ballot::with(1, n, 0, 1)
    }

    #[test]
    fn an_answer_counts_for_its_own_round_and_ballot_only() {
        let mut reads = Reads::default();
        reads.add(read());
        let first = reads.ask((ballot(1), 5), 0, false).unwrap();
        let later = reads.ask((ballot(1), 5), ROUND_TICKS, false).unwrap();
        let peer = ReplicaId(2);
        reads.confirm(peer, first, ballot(1), 2);
        assert!(!reads.has_ready(9), "an answer of an earlier round");
        let other = Question { ballot: ballot(2), ..later };
        reads.confirm(peer, other, ballot(1), 2);
        assert!(!reads.has_ready(9), "an answer for another ballot");
        reads.confirm(peer, later, ballot(2), 2);
        assert!(!reads.has_ready(9), "the leader itself promised another ballot");
        reads.confirm(peer, later, ballot(1), 2);
        assert!(!reads.has_ready(4), "not applied yet");
        assert!(reads.next_ready(5).is_some());
    }

    #[test]
    fn a_lone_replica_waits_for_a_sync_that_began_later() {
        let mut reads = Reads::default();
        reads.add(read());
        let first = reads.ask((ballot(1), 5), 0, true).unwrap();
        assert_eq!(reads.ask((ballot(1), 5), 10 * ROUND_TICKS, true), None, "it is not repeated");
        reads.confirm_synced(first.round - 1);
        assert!(!reads.has_ready(9), "that sync began before");
        reads.confirm_synced(first.round);
        assert!(reads.next_ready(9).is_some());
    }

    #[test]
    fn a_peer_counts_once_and_a_read_waits_for_the_next_round() {
        let mut reads = Reads::default();
        reads.add(read());
        let question = reads.ask((ballot(1), 5), 0, false).unwrap();
        reads.add(read());
        reads.confirm(ReplicaId(2), question, ballot(1), 3);
        reads.confirm(ReplicaId(2), question, ballot(1), 3);
        assert!(!reads.has_ready(9), "one of four is no majority of five");
        reads.confirm(ReplicaId(3), question, ballot(1), 3);
        assert!(reads.next_ready(9).is_some());
        assert!(reads.next_ready(9).is_none(), "the later read was not confirmed");
        assert!(reads.has_queued());
    }

    #[test]
    fn reads_that_wait_are_bounded_by_what_they_hold() {
        use kvorum_protocol::limits::KEY_BYTES_MAX;
        use kvorum_protocol::message::Consistency;
        let mut reads = Reads::default();
        let get = || {
            let (key, consistency) = (vec![7; KEY_BYTES_MAX].into(), Consistency::Linearizable);
            let origin = Origin::Client { client: ClientKey(1), call: 1 };
            Read::new(origin, Some(Request::Get { key, consistency }), 0)
        };
        while reads.has_room(&get()) {
            reads.add(get());
        }
        let count = reads.count();
        assert!(count * KEY_BYTES_MAX <= READS_BYTES_MAX, "{count} long ones");
        let asked = reads.take_queued();
        assert!(!reads.has_room(&get()), "those for which the leader is asked wait too");
        reads.confirm_at(5, asked);
        assert_eq!(reads.count(), count, "and are counted once");
        while reads.next_ready(5).is_some() {}
        assert_eq!((reads.count(), reads.has_room(&get())), (0, true));
        while reads.has_room(&read()) {
            reads.add(read());
        }
        assert_eq!(reads.count(), READS_MAX);
        assert_eq!(reads.expire(PATIENCE_TICKS).len(), READS_MAX);
        assert_eq!(reads.count(), 0, "those given up are gone");
    }
}
