//! Tests of how a member handles messages that no honest peer sends, or sends that often.

use kvorum_protocol::status::{ClusterId, ConfigurationId, Member};
use omnipaxos::messages::sequence_paxos::{Prepare, PrepareReq, Promise};
use omnipaxos::storage::SnapshotType;
use omnipaxos::util::LogSync;

use super::outbidding::WAIT_TICKS as OUTBID_TICKS;
use super::*;
use crate::engine::store::{Identity, LogLimits, LogStore};
use crate::state::entry::NoSnapshot;
use crate::storage::log::Log;
use crate::storage::memory::{Memory, MemoryLog};

/// The first of some members, and the messages it sent last, with the slots that they are for.
struct First {
    consensus: Consensus<Log<MemoryLog>>,
    sent: Vec<(u64, PaxosMsg<Entry>)>,
}

impl First {
    fn of(size: u64) -> Self {
        let member = |id| Member { replica: ReplicaId(id), name: format!("kvorum-{id}") };
        let members = (1..=size).map(member).collect();
        let configuration = Configuration { id: ConfigurationId(1), members };
        let (cluster, replica, name) = (ClusterId(9), ReplicaId(1), "kvorum-1".to_owned());
        let identity = Identity { cluster, replica, name, incarnation: 1, nonce: 1 };
        let disk = Memory::crashable(identity, configuration.clone(), LogLimits::default());
        let log = disk.log(configuration.id);
        let consensus = Consensus::start(&configuration, replica, log, Rules::default());
        Self { consensus, sent: Vec::new() }
    }

    /// A member that is a candidate, in a ballot of a later round.
    fn candidate(size: u64) -> Self {
        let mut member = Self::of(size);
        while member.consensus.promise().n < 9 {
            member.consensus.lead();
        }
        member.take();
        member
    }

    /// A member that leads, and has `entries` entries that the others lack.
    fn leader(entries: usize) -> Self {
        let mut member = Self::candidate(3);
        assert_eq!(member.hear(2, member.has_nothing()), Handled::Taken);
        member.consensus.propose(vec![Entry::Noop; entries]);
        member.take();
        member
    }

    /// Lets ticks pass in which no heartbeats come.
    fn wait(&mut self, ticks: u64) {
        (0..ticks).for_each(|_| self.consensus.tick_outbidding());
    }

    /// Returns the ballot of a slot in some round.
    fn ballot(&self, n: u32, pid: u64) -> Ballot {
        Ballot { n, pid, ..self.consensus.promise() }
    }

    /// Returns the promise of a peer that has no log.
    fn has_nothing(&self) -> PaxosMsg<Entry> {
        let n = self.consensus.promise();
        let n_accepted = Ballot::default();
        let promise = Promise { n, n_accepted, decided_idx: 0, accepted_idx: 0, log_sync: None };
        PaxosMsg::Promise(promise)
    }

    /// Returns the promise of a log that was accepted in some round, beginning where the
    /// candidate's own ends.
    fn has_log(&self, round: u32, accepted_idx: usize, decided_idx: usize) -> Promise<Entry> {
        let suffix = vec![Entry::Noop; accepted_idx];
        let log = LogSync { decided_snapshot: None, suffix, sync_idx: 0, stopsign: None };
        let (n, n_accepted) = (self.consensus.promise(), self.ballot(round, 2));
        Promise { n, n_accepted, decided_idx, accepted_idx, log_sync: Some(log) }
    }

    fn hear(&mut self, from: u64, msg: PaxosMsg<Entry>) -> Handled {
        let message = Message::SequencePaxos(PaxosMessage { from, to: 1, msg });
        self.consensus.handle(ReplicaId(from), message, u64::MAX)
    }

    fn take(&mut self) {
        let mut sent = Vec::new();
        self.consensus.take(
            |_| None,
            |to, message, _| {
                if let Message::SequencePaxos(message) = message {
                    sent.push((to.0, message.msg));
                }
            },
        );
        self.sent = sent;
    }

    /// Returns how many of the sent messages match.
    fn count(&self, is_it: impl Fn(u64, &PaxosMsg<Entry>) -> bool) -> usize {
        self.sent.iter().filter(|(to, msg)| is_it(*to, msg)).count()
    }
}

/// The candidate's own promise and a faulty one hide chosen entries: the peer that knows of them
/// must lead.
#[test]
fn a_candidate_yields_to_whoever_knows_of_more() {
    let mut member = First::candidate(5);
    let errs = PaxosMsg::Promise(member.has_log(6, 1, 0));
    let knows = PaxosMsg::Promise(member.has_log(5, 2, 2));
    assert_eq!(member.hear(2, errs), Handled::Taken);
    let ballot = member.consensus.promise();
    assert_eq!(member.hear(3, knows), Handled::Outrun { ballot });
}

/// The candidate itself lacks chosen entries: its log is of a later ballot, and no other log comes.
#[test]
fn a_candidate_yields_where_its_own_log_is_too_short() {
    let mut member = First::candidate(5);
    for slot in [2, 3] {
        assert_eq!(member.hear(slot, member.has_nothing()), Handled::Taken);
    }
    member.consensus.propose(vec![Entry::Noop]);
    member.consensus.lead();
    member.take();
    let knows = Promise { log_sync: None, ..member.has_log(5, 2, 2) };
    let ballot = member.consensus.promise();
    assert_eq!(member.hear(2, PaxosMsg::Promise(knows)), Handled::Outrun { ballot });
    for slot in [3, 4, 5] {
        assert_eq!(member.hear(slot, member.has_nothing()), Handled::Taken);
    }
    assert_eq!(member.consensus.ballot_if_leading(), None, "it must not lead in this ballot");
    assert_eq!(member.hear(3, member.has_nothing()), Handled::Taken);
    assert!(member.consensus.promise() > ballot, "nobody else came to lead");
}

/// A replica that others ask to lead raises the number by one each time.
#[test]
fn nobody_is_made_to_use_up_the_numbers() {
    let mut member = First::leader(3);
    let before = member.consensus.promise().n;
    for time in 0..(1 << 20) + 10 {
        member.consensus.lead_if_asked();
        if time % 1024 == 0 {
            member.take();
        }
    }
    assert_eq!(member.consensus.promise().n - before, (1 << 20) - before);
}

#[test]
fn a_promise_on_state_may_come_twice() {
    let mut member = First::candidate(5);
    let mut on_state = member.has_log(5, 60, 50);
    let log = on_state.log_sync.as_mut().expect("it has one");
    (log.sync_idx, log.decided_snapshot) = (50, Some(SnapshotType::Complete(NoSnapshot)));
    log.suffix.truncate(10);
    let asked = member.consensus.promise();
    for _ in 0..3 {
        member.take();
        let again = PaxosMsg::Promise(on_state.clone());
        assert_eq!(member.hear(2, again), Handled::Taken);
    }
    assert_eq!(member.consensus.promise(), asked, "it waited long, and took nothing back");
    let restarted = PaxosMsg::PrepareReq(PrepareReq { n: member.ballot(1, 2) });
    assert_eq!(member.hear(2, restarted), Handled::Taken);
    assert!(member.consensus.promise() > asked, "that one did");
}

/// Each answer would hold all entries that the peer lacks.
#[test]
fn a_leader_answers_one_promise_of_each_in_a_turn() {
    let mut member = First::leader(3);
    for _ in 0..100 {
        let promise = member.has_nothing();
        assert_eq!(member.hear(3, promise), Handled::Taken);
    }
    let answers =
        |member: &First| member.count(|to, msg| to == 3 && matches!(msg, PaxosMsg::AcceptSync(_)));
    member.take();
    assert_eq!(answers(&member), 1);
    member.take();
    assert_eq!(answers(&member), 1, "the last one counts: what it promised before may be over");
    member.take();
    assert_eq!(answers(&member), 0);
}

/// A session ended between two promises, which came together. The answer to the first one reached a
/// peer that asked to start over; only the second one shows that it is in step.
#[test]
fn whoever_starts_over_in_a_turn_is_answered() {
    let mut member = First::leader(3);
    let starts_over = PaxosMsg::PrepareReq(PrepareReq { n: member.consensus.promise() });
    let promise = member.has_nothing();
    for msg in [promise.clone(), starts_over.clone(), promise.clone()] {
        assert_eq!(member.hear(3, msg), Handled::Taken);
    }
    member.take();
    member.consensus.propose(vec![Entry::Noop]);
    member.take();
    let is_told = |to, msg: &PaxosMsg<Entry>| to == 3 && matches!(msg, PaxosMsg::AcceptDecide(_));
    assert_eq!(member.count(is_told), 1, "it is in step");
    for msg in [promise.clone(), promise, starts_over] {
        assert_eq!(member.hear(3, msg), Handled::Taken);
    }
    member.take();
    member.consensus.propose(vec![Entry::Noop]);
    member.take();
    assert_eq!(member.count(is_told), 0, "it starts over");
}

#[test]
fn whoever_is_asked_again_and_again_promises_once_in_a_turn() {
    let mut member = First::leader(3);
    let n_accepted = Ballot::default();
    for n in 10..110 {
        let n = member.ballot(n, 2);
        let prepare = Prepare { n, decided_idx: 0, n_accepted, accepted_idx: 0 };
        assert_eq!(member.hear(2, PaxosMsg::Prepare(prepare)), Handled::Taken);
    }
    for expected in [Some(10), Some(109), None] {
        member.take();
        let promised = member.sent.iter().filter_map(|(_, msg)| match msg {
            PaxosMsg::Promise(made) => Some(made.n.n),
            _ => None,
        });
        assert_eq!(promised.collect::<Vec<_>>(), Vec::from_iter(expected));
    }
}

#[test]
fn a_ballot_far_above_is_outbid_in_one_step() {
    let mut member = First::leader(3);
    let (leads, far) = (member.consensus.promise(), member.ballot(500_000, 2));
    assert_eq!(member.hear(2, PaxosMsg::PrepareReq(PrepareReq { n: far })), Handled::Taken);
    assert_eq!(member.consensus.promise(), leads, "perhaps somebody leads there");
    member.wait(OUTBID_TICKS);
    let above = member.consensus.promise();
    assert_eq!((above.n, above.pid), (500_001, 1));
    member.take();
    for slot in [2, 3] {
        let asks = |to, msg: &PaxosMsg<Entry>| {
            to == slot && matches!(msg, PaxosMsg::Prepare(asked) if asked.n == above)
        };
        assert_eq!(member.count(asks), 1, "{slot}");
    }
    assert_eq!(member.count(|_, msg| matches!(msg, PaxosMsg::Promise(_))), 0);
}

/// A leader that was stopped or cut off hears of the ballot of the next leader, which prepares it.
#[test]
fn a_leader_that_is_prepared_meanwhile_outbids_nobody() {
    let mut member = First::leader(3);
    let next = member.ballot(10, 3);
    member.hear(2, PaxosMsg::PrepareReq(PrepareReq { n: next }));
    member.wait(OUTBID_TICKS - 1);
    let n_accepted = Ballot::default();
    let prepare = Prepare { n: next, decided_idx: 0, n_accepted, accepted_idx: 0 };
    member.hear(3, PaxosMsg::Prepare(prepare));
    member.wait(2 * OUTBID_TICKS);
    assert_eq!(member.consensus.promise(), next);
}

#[test]
fn the_numbers_of_ballots_are_not_used_up_at_once() {
    let mut member = First::leader(3);
    let n_accepted = Ballot::default();
    for leap in [1 << 31, 1 << 24, 1 << 20, 1 << 10, 1].into_iter().cycle().take(10_000) {
        let n = member.ballot(member.consensus.promise().n.saturating_add(leap), 2);
        let prepare = Prepare { n, decided_idx: 0, n_accepted, accepted_idx: 0 };
        member.hear(2, PaxosMsg::Prepare(prepare));
    }
    let number = member.consensus.promise().n;
    assert!(number < 1 << 21, "{number}");
}
