//! Pure: whose disk is slow, and what is done about it.
//!
//! A leader whose sync does not return should lead no more, if another one's does. Where all disks
//! are busy, or all are one, a change of leader helps nobody. So who waits long for a sync asks the
//! other members to sync something and to answer, again and again. A leader falls silent, for
//! elections, when that was done several times while its own sync has not returned, and it has
//! taken much longer than any did lately: less may be luck, on a disk that they share. Who only
//! follows goes on answering: the leader needs it to know of its majority.

use kvorum_protocol::status::ReplicaId;

use super::Engine;
use super::consensus::Consensus;
use super::lately::Lately;
use super::message::{Output, PeerMessage};
use crate::storage::Store;

/// Ticks after which the others are asked again: a session may have ended.
const ASK_TICKS: u64 = 100;

/// Questions that are answered during one sync before its disk counts as slower.
const ANSWERED_MIN: u32 = 3;

/// A leader falls silent when a sync is slow for so many times as long as any was lately,
const SILENT_MARGIN: u64 = 3;
/// and for so many ticks at least,
const SILENT_TICKS_MIN: u64 = 25;
/// and at most.
const SILENT_TICKS_MAX: u64 = 500;

/// Ticks for which writes are slowed before that is told as trouble.
const TELL_TICKS: u64 = 1000;

/// What is known of the sync under way, and of what the disk owes.
#[derive(Default)]
pub(super) struct SlowDisk {
    /// The number of the last question.
    number: u64,
    /// When it was asked last, while nobody has answered.
    asked: Option<u64>,
    /// Questions that somebody answered, while the sync has not returned.
    answered: u32,
    /// Since when the sync under way is slow.
    slow_since: Option<u64>,
    /// How long others were.
    slow: Lately,
    /// Since when writes are slowed because too much work was put off.
    slows_since: Option<u64>,
}

impl SlowDisk {
    /// The disk owes so much that it slows writes, or it does not.
    pub(super) fn owes(&mut self, slows_writes: bool, now: u64) {
        self.slows_since = slows_writes.then(|| self.slows_since.unwrap_or(now));
    }

    /// What there is to say of that, once it has lasted.
    pub(super) fn trouble(&self, now: u64) -> Option<String> {
        let lasts = self.slows_since.is_some_and(|since| now >= since + TELL_TICKS);
        let text = "more is written than the disk keeps up with, so writes are slowed; write less, \
                    or give it a faster disk or more of the processor";
        lasts.then(|| text.to_owned())
    }
}

impl<S: Store> Engine<S> {
    /// Whether this replica leads, or would, on a disk that is slower than another member's: its
    /// heartbeats should not leave.
    #[must_use]
    pub fn falls_silent(&self) -> bool {
        let leader = self.consensus.as_ref().and_then(Consensus::leader);
        self.has_slower_disk() && leader.is_some_and(|(leader, _)| leader == self.me)
    }

    fn has_slower_disk(&self) -> bool {
        let SlowDisk { answered, slow_since, slow, .. } = &self.slow_disk;
        let bound = (slow.longest() * SILENT_MARGIN).clamp(SILENT_TICKS_MIN, SILENT_TICKS_MAX);
        *answered >= ANSWERED_MIN && slow_since.is_some_and(|since| self.now >= since + bound)
    }

    /// The sync under way takes long, or it is over.
    pub(super) fn sync_is_slow(&mut self, is_slow: bool) {
        let (now, disk) = (self.now, &mut self.slow_disk);
        if !is_slow {
            if let Some(since) = disk.slow_since.take() {
                disk.slow.see(now - since);
            }
            (disk.asked, disk.answered) = (None, 0);
            return;
        }
        disk.slow_since.get_or_insert(now);
        let waits = disk.asked.is_some_and(|asked| now < asked + ASK_TICKS);
        if waits || disk.answered >= ANSWERED_MIN {
            return;
        }
        disk.number += u64::from(disk.asked.is_none());
        disk.asked = Some(now);
        let number = disk.number;
        for to in self.outbox.peers.connected().collect::<Vec<_>>() {
            self.outbox.push(Output::Send { to, message: PeerMessage::AskDisk { number } });
        }
    }

    /// Lets a tick pass.
    pub(super) fn tick_disk(&mut self) {
        self.slow_disk.slow.tick();
    }

    /// A peer waits for its disk, and asks how this one does.
    pub(super) fn disk_asked(&mut self, peer: ReplicaId, number: u64) {
        self.store.touch();
        let message = PeerMessage::DiskWorks { number };
        self.outbox.push(Output::Gated { to: peer, message, durable: true });
    }

    /// A peer's disk did what this one has not.
    pub(super) fn disk_works(&mut self, number: u64) {
        let disk = &mut self.slow_disk;
        if disk.asked.is_some() && number == disk.number {
            (disk.asked, disk.answered) = (None, disk.answered + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use omnipaxos::ballot_leader_election::Ballot;
    use omnipaxos::messages::Message;
    use omnipaxos::messages::sequence_paxos::{PaxosMessage, PaxosMsg, Prepare};

    use super::super::{Input, Options, Session};
    use super::*;
    use crate::storage::memory::Memory;
    use crate::version::Version;

    /// The first of two members, which has sessions with the second and with a stranger.
    fn engine() -> Engine<Memory> {
        let options = Options { allows_faults: false, newest: Version::NEWEST, checksum_ticks: 0 };
        let mut engine = Engine::new(Memory::of_two(1), options);
        let (theirs, _) = Engine::new(Memory::of_two(2), options).introduce(ReplicaId(1));
        engine.meet(&theirs);
        for peer in [2, 9].map(ReplicaId) {
            engine.step(Input::PeerUp { peer, session: Session(peer.0) });
        }
        engine
    }

    /// Whom it asks how their disks do.
    fn asked(engine: &mut Engine<Memory>) -> Vec<(u64, u64)> {
        let outputs = engine.turn(&|_| true).into_iter();
        let asked = outputs.filter_map(|output| match output {
            Output::Send { to, message: PeerMessage::AskDisk { number } } => Some((to.0, number)),
            _ => None,
        });
        asked.collect()
    }

    fn answer(engine: &mut Engine<Memory>, from: u64, number: u64) {
        let (peer, session) = (ReplicaId(from), Session(from));
        engine.step(Input::Peer { peer, session, message: PeerMessage::DiskWorks { number } });
    }

    /// A sync has been slow for so many ticks.
    fn waits(engine: &mut Engine<Memory>, ticks: u64) {
        engine.step(Input::SyncIsSlow(true));
        for _ in 0..ticks {
            engine.step(Input::Tick);
        }
    }

    /// A sync is slow while the other one answers all questions.
    fn is_outdone(engine: &mut Engine<Memory>) {
        for _ in 0..ANSWERED_MIN {
            engine.step(Input::SyncIsSlow(true));
            let [(2, number)] = asked(engine)[..] else { panic!("it asks") };
            answer(engine, 2, number);
        }
    }

    #[test]
    fn a_disk_is_slower_when_another_one_did_again_what_it_has_not() {
        let mut engine = engine();
        assert_eq!(asked(&mut engine), [], "no sync takes long");
        for number in 1..=u64::from(ANSWERED_MIN) {
            assert!(!engine.has_slower_disk(), "all may be slow");
            engine.step(Input::SyncIsSlow(true));
            engine.step(Input::SyncIsSlow(true));
            assert_eq!(asked(&mut engine), [(2, number)], "members, once");
            answer(&mut engine, 9, number);
            answer(&mut engine, 2, number - 1);
            engine.step(Input::SyncIsSlow(true));
            assert_eq!(asked(&mut engine), [], "by strangers, or to a question before");
            answer(&mut engine, 2, number);
            answer(&mut engine, 2, number);
        }
        assert!(!engine.has_slower_disk(), "not for long");
        waits(&mut engine, SILENT_TICKS_MIN);
        assert!(engine.has_slower_disk());
        assert_eq!(asked(&mut engine), [], "it is known");
        engine.step(Input::SyncIsSlow(false));
        assert!(!engine.has_slower_disk(), "its own sync returned");
        engine.step(Input::SyncIsSlow(true));
        assert_eq!(asked(&mut engine), [(2, 4)]);
        engine.step(Input::SyncIsSlow(false));
        answer(&mut engine, 2, 4);
        engine.step(Input::SyncIsSlow(true));
        assert_eq!(asked(&mut engine), [(2, 5)], "its own sync returned first");
    }

    #[test]
    fn a_question_is_asked_again_when_its_answer_may_be_lost() {
        let mut engine = engine();
        engine.step(Input::SyncIsSlow(true));
        assert_eq!(asked(&mut engine), [(2, 1)]);
        for _ in 0..ASK_TICKS {
            engine.step(Input::Tick);
        }
        engine.step(Input::SyncIsSlow(true));
        assert_eq!(asked(&mut engine), [(2, 1)]);
    }

    #[test]
    fn what_was_slow_lately_is_waited_for() {
        let mut engine = engine();
        waits(&mut engine, 40);
        engine.step(Input::SyncIsSlow(false));
        asked(&mut engine);
        is_outdone(&mut engine);
        waits(&mut engine, 40 * SILENT_MARGIN - 1);
        assert!(!engine.has_slower_disk());
        waits(&mut engine, 1);
        assert!(engine.has_slower_disk());
        waits(&mut engine, 10_000);
        engine.step(Input::SyncIsSlow(false));
        asked(&mut engine);
        is_outdone(&mut engine);
        waits(&mut engine, SILENT_TICKS_MAX);
        assert!(engine.has_slower_disk(), "there is a bound");
    }

    #[test]
    fn who_follows_does_not_fall_silent() {
        let mut engine = engine();
        is_outdone(&mut engine);
        waits(&mut engine, SILENT_TICKS_MIN);
        assert!(engine.falls_silent(), "it would lead");
        let n = Ballot::with(1, 99, 0, 2);
        let prepare = Prepare { n, decided_idx: 0, n_accepted: Ballot::default(), accepted_idx: 0 };
        let msg = PaxosMsg::Prepare(prepare);
        let message = Message::SequencePaxos(PaxosMessage { from: 2, to: 1, msg });
        let message = PeerMessage::Paxos { configuration: engine.configuration.id, message };
        engine.step(Input::Peer { peer: ReplicaId(2), session: Session(2), message });
        assert!(engine.has_slower_disk() && !engine.falls_silent(), "it follows");
        engine.consensus.as_mut().unwrap().lead();
        assert!(engine.falls_silent(), "it leads");
        engine.step(Input::SyncIsSlow(false));
        assert!(!engine.falls_silent());
    }

    #[test]
    fn an_answer_waits_for_a_sync() {
        let mut engine = engine();
        let (peer, session) = (ReplicaId(2), Session(2));
        engine.step(Input::Peer { peer, session, message: PeerMessage::AskDisk { number: 4 } });
        let is_it = |output: &Output| {
            matches!(output, Output::Gated { to: ReplicaId(2), durable: true, message }
                if matches!(message, PeerMessage::DiskWorks { number: 4 }))
        };
        assert!(engine.turn(&|_| true).iter().any(is_it));
    }

    #[test]
    fn what_the_disk_owes_is_told_when_it_lasts() {
        let mut disk = SlowDisk::default();
        disk.owes(true, 5);
        disk.owes(true, 900);
        assert_eq!(disk.trouble(900), None);
        assert!(disk.trouble(1005).is_some_and(|text| text.contains("writes are slowed")));
        disk.owes(false, 1100);
        assert_eq!(disk.trouble(3000), None);
    }
}
