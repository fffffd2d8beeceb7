//! Pure: whose disk is slow, and what is done about it.
//!
//! A leader whose sync does not return should lead no more, if another one's does. Where all disks
//! are busy, or all are one, a change of leader helps nobody. So who waits long for a sync asks the
//! other members to sync something and to answer; it falls silent, for elections, only when one has
//! answered while its own sync is still under way.

use kvorum_protocol::status::ReplicaId;

use super::Engine;
use super::message::{Output, PeerMessage};
use crate::storage::Store;

/// Ticks after which the others are asked again: a session may have ended.
const ASK_TICKS: u64 = 100;

/// Ticks for which writes are slowed before that is told as trouble.
const TELL_TICKS: u64 = 1000;

/// What is known of the sync under way, and of what the disk owes.
#[derive(Default)]
pub(super) struct SlowDisk {
    /// The number of the question; each slow sync has its own.
    number: u64,
    /// When the others were asked last, while the sync has not returned.
    asked: Option<u64>,
    /// Whether somebody answered.
    is_slower: bool,
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
    /// Whether this disk is slower than another member's: heartbeats should not leave.
    #[must_use]
    pub fn has_slower_disk(&self) -> bool {
        self.slow_disk.is_slower
    }

    /// The sync under way takes long, or it is over.
    pub(super) fn sync_is_slow(&mut self, is_slow: bool) {
        let (now, disk) = (self.now, &mut self.slow_disk);
        if !is_slow {
            (disk.asked, disk.is_slower) = (None, false);
            return;
        }
        if disk.asked.is_some_and(|asked| now < asked + ASK_TICKS) {
            return;
        }
        disk.number += u64::from(disk.asked.is_none());
        disk.asked = Some(now);
        let number = disk.number;
        for to in self.outbox.peers.connected().collect::<Vec<_>>() {
            self.outbox.push(Output::Send { to, message: PeerMessage::AskDisk { number } });
        }
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
        disk.is_slower |= disk.asked.is_some() && number == disk.number;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Input, Options, Session};
    use super::*;
    use crate::storage::memory::Memory;
    use crate::version::Version;

    /// The first of two members, which has sessions with the second and with a stranger.
    fn engine() -> Engine<Memory> {
        let options = Options { allows_faults: false, newest: Version::NEWEST, checksum_ticks: 0 };
        let mut engine = Engine::new(Memory::of_two(1), options);
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

    #[test]
    fn a_disk_is_slower_when_another_one_did_what_it_has_not() {
        let mut engine = engine();
        assert_eq!(asked(&mut engine), [], "no sync takes long");
        engine.step(Input::SyncIsSlow(true));
        engine.step(Input::SyncIsSlow(true));
        assert_eq!(asked(&mut engine), [(2, 1)], "members, once");
        assert!(!engine.has_slower_disk(), "all may be slow");
        answer(&mut engine, 9, 1);
        assert!(!engine.has_slower_disk(), "a stranger's word");
        engine.step(Input::SyncIsSlow(false));
        answer(&mut engine, 2, 1);
        assert!(!engine.has_slower_disk(), "its own sync returned first");
        engine.step(Input::SyncIsSlow(true));
        assert_eq!(asked(&mut engine), [(2, 2)]);
        answer(&mut engine, 2, 1);
        assert!(!engine.has_slower_disk(), "an answer to the question before");
        answer(&mut engine, 2, 2);
        assert!(engine.has_slower_disk());
        engine.step(Input::SyncIsSlow(false));
        assert!(!engine.has_slower_disk());
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
