//! Pure: this replica's disk: its free space, detection that it is slow, and how a leader reacts
//! to that.
//!
//! A leader whose sync does not return should stop leading, if another member's sync does return.
//! Where all disks are busy, or all members share one, a change of leader does not help. So a
//! leader that waits long for a sync asks the other members to sync something and to answer, again
//! and again. For elections it falls silent (its heartbeats are not sent) when they have done so
//! several times, and recently, while its own sync has not returned and takes much longer than any
//! did in the last minutes: less may be luck, on a disk that they share. A follower goes on
//! answering heartbeats: the leader needs the answers to know of its majority.

use kvorum_protocol::message::Refusal;
use kvorum_protocol::status::ReplicaId;

use super::consensus::Consensus;
use super::context::Context;
use super::lately::Lately;
use super::message::{After, PeerMessage};
use crate::engine::store::Store;

/// Ticks after which a sync counts as slow.
pub const SLOW_TICKS: u64 = 25;
/// Ticks between two questions.
const ASK_TICKS: u64 = 10;
/// Ticks after which an unanswered question is asked again: a session may have ended.
const ASK_AGAIN_TICKS: u64 = 100;
/// How long an answer counts as recent, in ticks.
const ANSWER_TICKS: u64 = 50;

/// The fewest questions answered during one sync for its disk to count as slower.
const ANSWERED_MIN: u32 = 3;

/// A leader falls silent when its sync takes this many times as long as the longest recent slow
/// sync.
const SILENT_MARGIN: u64 = 3;
/// The lower bound of that time, in ticks.
const SILENT_TICKS_MIN: u64 = 50;
/// The upper bound of that time in ticks, whatever was seen recently: a disk that slow cannot
/// serve.
const SILENT_TICKS_MAX: u64 = 200;
/// How long a slow sync is remembered, in ticks: ten minutes. Work that keeps a disk busy comes and
/// goes.
const REMEMBERED_TICKS: u64 = 60_000;

/// Ticks for which writes are slowed before that is reported as trouble.
const TELL_TICKS: u64 = 1000;

/// The disk: its space, the sync under way, and the debt of deferred work.
pub(super) struct Disk {
    /// The number of the last question.
    number: u64,
    /// The tick at which it was last asked.
    asked: Option<u64>,
    /// The last question that a member answered.
    answered: u64,
    /// The tick of that answer, while the sync has not returned.
    answered_at: Option<u64>,
    /// The number of questions answered during this sync.
    answers: u32,
    /// The tick since which the sync under way is slow.
    slow_since: Option<u64>,
    /// The durations of recent slow syncs.
    slow: Lately<REMEMBERED_TICKS>,
    /// The tick since which writes are slowed because too much work was deferred.
    slows_since: Option<u64>,
    /// The bytes free and the bytes kept in reserve.
    free: u64,
    reserve: u64,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            number: 0,
            asked: None,
            answered: 0,
            answered_at: None,
            answers: 0,
            slow_since: None,
            slow: Lately::default(),
            slows_since: None,
            free: u64::MAX,
            reserve: 0,
        }
    }
}

impl Disk {
    /// Records the free space; returns whether the disk became full by it.
    pub(super) fn has_free(&mut self, free: u64, reserve: u64) -> bool {
        let was_full = self.is_full();
        (self.free, self.reserve) = (free, reserve);
        self.is_full() && !was_full
    }

    /// Whether less is free than is kept in reserve.
    pub(super) fn is_full(&self) -> bool {
        self.free < self.reserve
    }

    /// Returns the refusal of a write that needs space.
    pub(super) fn refusal(&self) -> Refusal {
        Refusal::DiskFull { free: self.free, reserve: self.reserve }
    }

    /// Records whether the disk's debt is so large that it slows writes.
    pub(super) fn owes(&mut self, slows_writes: bool, now: u64) {
        self.slows_since = slows_writes.then(|| self.slows_since.unwrap_or(now));
    }

    /// Returns the trouble to report about a full disk, or about slowed writes once they have
    /// lasted.
    pub(super) fn trouble(&self, now: u64) -> Option<String> {
        if self.is_full() {
            let (free, reserve) = (self.free, self.reserve);
            return Some(format!(
                "the disk is nearly full: {free} bytes are free and {reserve} are kept in reserve; \
                 make room, or give the volume more"
            ));
        }
        let lasts = self.slows_since.is_some_and(|since| now >= since + TELL_TICKS);
        let text = "more is written than the disk keeps up with, so writes are slowed; write less, \
                    or give it a faster disk or more of the processor";
        lasts.then(|| text.to_owned())
    }

    /// Whether this replica leads, or would lead, on a disk that is slower than another member's:
    /// its heartbeats should not be sent.
    pub(super) fn falls_silent<S: Store>(&self, cx: &Context<S>) -> bool {
        let Self { answers, answered_at, slow_since, slow, .. } = self;
        let bound = (slow.longest() * SILENT_MARGIN).clamp(SILENT_TICKS_MIN, SILENT_TICKS_MAX);
        let is_long = slow_since.is_some_and(|since| cx.now - since + SLOW_TICKS >= bound);
        let is_outdone = *answers >= ANSWERED_MIN
            && answered_at.is_some_and(|answered| cx.now <= answered + ANSWER_TICKS);
        is_long && is_outdone && would_lead(cx)
    }

    /// Records whether the sync under way is slow, and asks the other members about their disks if
    /// this replica would lead.
    pub(super) fn sync_is_slow<S: Store>(&mut self, cx: &mut Context<S>, is_slow: bool) {
        let (now, would_lead, disk) = (cx.now, would_lead(cx), self);
        if !is_slow {
            if let Some(since) = disk.slow_since.take() {
                disk.slow.see(now - since + SLOW_TICKS);
            }
            (disk.asked, disk.answered_at, disk.answers) = (None, None, 0);
            disk.answered = disk.number;
            return;
        }
        disk.slow_since.get_or_insert(now);
        let is_answered = disk.answered == disk.number;
        let wait = if is_answered { ASK_TICKS } else { ASK_AGAIN_TICKS };
        if !would_lead || disk.asked.is_some_and(|asked| now < asked + wait) {
            return;
        }
        disk.number += u64::from(is_answered);
        disk.asked = Some(now);
        let number = disk.number;
        for to in cx.peers.connected().collect::<Vec<_>>() {
            cx.send(to, PeerMessage::AskDisk { number }, After::Nothing);
        }
    }

    /// Advances the time by one tick.
    pub(super) fn tick(&mut self) {
        self.slow.tick();
    }

    /// Records that a peer's disk has synced while this one's sync has not returned.
    pub(super) fn works_elsewhere(&mut self, number: u64, now: u64) {
        if number == self.number && self.answered < number {
            (self.answered, self.answered_at) = (number, Some(now));
            self.answers += 1;
        }
    }
}

/// Whether this replica leads, or does as soon as a majority promises.
fn would_lead<S: Store>(cx: &Context<S>) -> bool {
    let leader = cx.consensus.as_ref().and_then(Consensus::leader);
    leader.is_some_and(|(leader, _)| leader == cx.me)
}

/// Answers a peer that waits for its disk, once this replica has synced.
pub(super) fn sync_for<S: Store>(cx: &mut Context<S>, peer: ReplicaId, number: u64) {
    cx.store.touch();
    let message = PeerMessage::DiskWorks { number };
    cx.send(peer, message, After::Sync);
}

#[cfg(test)]
mod tests {
    use omnipaxos::ballot_leader_election::Ballot;
    use omnipaxos::messages::Message;
    use omnipaxos::messages::sequence_paxos::{PaxosMessage, PaxosMsg, Prepare};

    use super::super::{Engine, Input, Options, Output, Session};
    use super::*;
    use crate::state::version::Version;
    use crate::storage::memory::Memory;

    /// Returns the first of two members, which would lead, and has sessions with the second and
    /// with a stranger.
    fn engine() -> Engine<Memory> {
        let options = Options { allows_faults: false, newest: Version::NEWEST, checksum_ticks: 0 };
        let mut engine = Engine::new(Memory::of_two(1), options);
        let there = Engine::new(Memory::of_two(2), options);
        let theirs = there.greet(ReplicaId(1), None).unwrap().mine;
        engine.step(Input::Met(theirs));
        for peer in [2, 9].map(ReplicaId) {
            engine.step(Input::PeerUp { peer, session: Session(peer.0) });
        }
        engine.parts.cx.consensus.as_mut().unwrap().lead();
        asked(&mut engine);
        engine
    }

    /// Returns the peers that are asked about their disks, with the question numbers.
    fn asked(engine: &mut Engine<Memory>) -> Vec<(u64, u64)> {
        let outputs = engine.turn(&|_| true).into_iter();
        let asked = outputs.filter_map(|output| match output {
            Output::Send { to, message: PeerMessage::AskDisk { number }, .. } => {
                Some((to.0, number))
            }
            _ => None,
        });
        asked.collect()
    }

    fn answer(engine: &mut Engine<Memory>, from: u64, number: u64) {
        let (peer, session) = (ReplicaId(from), Session(from));
        engine.step(Input::Peer { peer, session, message: PeerMessage::DiskWorks { number } });
    }

    /// Keeps a sync slow for `ticks` ticks; returns the questions that were asked.
    fn waits(engine: &mut Engine<Memory>, ticks: u64) -> Vec<(u64, u64)> {
        let tick = |_| {
            engine.step(Input::SyncIsSlow(true));
            engine.step(Input::Tick);
            asked(engine)
        };
        (0..ticks).flat_map(tick).collect()
    }

    /// Keeps a sync slow for `ticks` ticks, while the other member answers every question at once.
    fn is_outdone(engine: &mut Engine<Memory>, ticks: u64) {
        for _ in 0..ticks {
            for (_, number) in waits(engine, 1) {
                answer(engine, 2, number);
            }
        }
    }

    const LEAST: u64 = SILENT_TICKS_MIN - SLOW_TICKS;

    #[test]
    fn members_are_asked_again_and_again() {
        let mut engine = engine();
        assert_eq!(waits(&mut engine, ASK_AGAIN_TICKS), [(2, 1)], "members, once");
        assert_eq!(waits(&mut engine, 1), [(2, 1)], "once more: the answer may be lost");
        answer(&mut engine, 2, 0);
        assert_eq!(waits(&mut engine, ASK_TICKS), [], "an answer to another question");
        answer(&mut engine, 2, 1);
        assert_eq!(waits(&mut engine, 1), [(2, 2)]);
        engine.step(Input::SyncIsSlow(false));
        answer(&mut engine, 2, 2);
        assert_eq!(waits(&mut engine, 1), [(2, 3)], "its own sync returned first");
    }

    #[test]
    fn a_leader_falls_silent_on_a_disk_that_is_slower() {
        let mut engine = engine();
        is_outdone(&mut engine, LEAST - 1);
        assert!(!engine.falls_silent(), "not for long");
        is_outdone(&mut engine, 1);
        assert!(engine.falls_silent());
        waits(&mut engine, ANSWER_TICKS + 1);
        assert!(!engine.falls_silent(), "the others wait, too");
        engine.step(Input::SyncIsSlow(false));
        is_outdone(&mut engine, 1);
        assert!(!engine.falls_silent(), "its own sync returned");
    }

    #[test]
    fn what_was_slow_lately_is_waited_for() {
        let mut engine = engine();
        waits(&mut engine, LEAST);
        engine.step(Input::SyncIsSlow(false));
        let bound = SILENT_TICKS_MIN * SILENT_MARGIN - SLOW_TICKS;
        is_outdone(&mut engine, bound - 1);
        assert!(!engine.falls_silent());
        is_outdone(&mut engine, 1);
        assert!(engine.falls_silent());
        waits(&mut engine, 10_000);
        engine.step(Input::SyncIsSlow(false));
        is_outdone(&mut engine, SILENT_TICKS_MAX);
        assert!(engine.falls_silent(), "there is a bound");
    }

    #[test]
    fn who_follows_neither_asks_nor_falls_silent() {
        let mut engine = engine();
        is_outdone(&mut engine, SILENT_TICKS_MIN);
        assert!(engine.falls_silent(), "it leads");
        let n = Ballot::with(1, 99, 0, 2);
        let prepare = Prepare { n, decided_idx: 0, n_accepted: Ballot::default(), accepted_idx: 0 };
        let msg = PaxosMsg::Prepare(prepare);
        let message = Message::SequencePaxos(PaxosMessage { from: 2, to: 1, msg });
        let message =
            PeerMessage::Paxos { configuration: engine.parts.cx.configuration.id, message };
        engine.step(Input::Peer { peer: ReplicaId(2), session: Session(2), message });
        assert!(!engine.falls_silent(), "it follows");
        assert_eq!(waits(&mut engine, ASK_TICKS), []);
    }

    #[test]
    fn an_answer_waits_for_a_sync() {
        let mut engine = engine();
        let (peer, session) = (ReplicaId(2), Session(2));
        engine.step(Input::Peer { peer, session, message: PeerMessage::AskDisk { number: 4 } });
        let is_it = |output: &Output| {
            matches!(output, Output::Send { to: ReplicaId(2), after: After::Sync, message }
                if matches!(message, PeerMessage::DiskWorks { number: 4 }))
        };
        assert!(engine.turn(&|_| true).iter().any(is_it));
    }

    #[test]
    fn what_the_disk_owes_is_told_when_it_lasts() {
        let mut disk = Disk::default();
        disk.owes(true, 5);
        disk.owes(true, 900);
        assert_eq!(disk.trouble(900), None);
        assert!(disk.trouble(1005).is_some_and(|text| text.contains("writes are slowed")));
        disk.owes(false, 1100);
        assert_eq!(disk.trouble(3000), None);
    }
}
