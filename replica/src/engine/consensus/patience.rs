//! Pure: decides how long silence lasts before it counts as a failure.
//!
//! When a leader's process dies its session ends, which is reported at once. Silence on a session
//! that is up is a slower sign, and a doubtful one: where processors or disks are busy all replicas
//! answer late, and another leader would be as late as this one. So the length of a round of
//! heartbeats follows the answer times seen lately. Only the answers that make a majority count: a
//! single replica that is stopped or cut off makes the others no more patient, and a leader that
//! alone is late is replaced.
//!
//! Does not know which replica leads.

use std::collections::{BTreeSet, VecDeque};

use omnipaxos::messages::Message;
use omnipaxos::messages::ballot_leader_election::{BLEMessage, HeartbeatMsg};

use crate::engine::lately::Lately;
use crate::state::entry::Entry;

/// Ticks of a round of heartbeats when all peers answer at once. A failed leader is replaced after
/// two to three rounds; a round trip, the peer's turn included, must fit into one.
pub const ROUND_TICKS: u64 = 10;
/// Ticks of the longest round.
pub const ROUND_TICKS_MAX: u64 = 60;
/// The ratio of a round's length to the longest wait for answers that was seen lately.
const MARGIN: u64 = 3;
/// Ticks for which a wait is remembered.
const REMEMBERED_TICKS: u64 = 6_000;
/// The number of rounds whose late answers are still counted.
const ROUNDS_MAX: usize = 16;

/// A round of heartbeats that this replica began.
#[derive(Clone)]
struct Round {
    number: u32,
    began: u64,
    answered: BTreeSet<u64>,
}

/// The answer times seen lately, which determine how long a round lasts.
#[derive(Clone)]
pub struct Patience {
    now: u64,
    /// The number of other members' answers that make a majority.
    needed: usize,
    rounds: VecDeque<Round>,
    /// The longest wait for the answers of a majority.
    waits: Lately<REMEMBERED_TICKS>,
    /// The logical time that has passed and was not spent: each tick adds [`ROUND_TICKS`] times the
    /// speed, and a tick that passes for the round spends the round's length.
    unspent: u64,
}

impl Patience {
    /// Creates the patience for a configuration of `members` members.
    #[must_use]
    pub fn new(members: usize) -> Self {
        let (rounds, waits) = (VecDeque::new(), Lately::default());
        Self { now: 0, needed: members / 2, rounds, waits, unspent: 0 }
    }

    /// Adopts the waits seen in another configuration: it may have been as busy as this one.
    pub fn learn(&mut self, seen: &Self) {
        self.waits.clone_from(&seen.waits);
    }

    /// Lets a tick pass, at `speed` times the normal speed; while it is quiet, as slowly as may be.
    /// Returns how many ticks pass for the round under way.
    pub fn tick(&mut self, speed: u64, is_quiet: bool) -> u64 {
        self.now += 1;
        self.waits.tick();
        let cost = if is_quiet { ROUND_TICKS_MAX } else { self.round_ticks() };
        // What was saved for a longer round must not end this one early.
        self.unspent = self.unspent.min(cost - 1) + speed * ROUND_TICKS;
        let passed = self.unspent / cost;
        self.unspent %= cost;
        passed
    }

    /// Returns the current length of a round, in ticks.
    #[must_use]
    pub fn round_ticks(&self) -> u64 {
        (self.waits.longest() * MARGIN).clamp(ROUND_TICKS, ROUND_TICKS_MAX)
    }

    /// Notes an outgoing message.
    pub fn sends(&mut self, message: &Message<Entry>) {
        if let Message::BLE(BLEMessage { msg: HeartbeatMsg::Request(asked), .. }) = message {
            self.asked(asked.round);
        }
    }

    /// Notes an incoming message. Returns whether it counts: a peer answers once in a round, and a
    /// repeated answer must not count twice.
    #[must_use]
    pub fn takes(&mut self, message: &Message<Entry>) -> bool {
        match message {
            Message::BLE(BLEMessage { from, msg: HeartbeatMsg::Reply(reply), .. }) => {
                self.answered(reply.round, *from)
            }
            _ => true,
        }
    }

    /// Records that a round began: its request is on its way to a peer.
    fn asked(&mut self, number: u32) {
        if self.rounds.back().is_some_and(|round| round.number == number) {
            return;
        }
        if self.rounds.len() == ROUNDS_MAX {
            self.rounds.pop_front();
        }
        self.rounds.push_back(Round { number, began: self.now, answered: BTreeSet::new() });
    }

    /// Records a peer's answer in a round. Returns whether it is the peer's first.
    fn answered(&mut self, number: u32, slot: u64) -> bool {
        let (now, needed) = (self.now, self.needed);
        // An answer to a round that has not begun does not count; one to an old round passes here,
        // and is ignored later.
        let last = self.rounds.back().map(|round| round.number);
        let Some(round) = self.rounds.iter_mut().find(|round| round.number == number) else {
            return last.is_some_and(|last| number < last);
        };
        let is_new = round.answered.insert(slot);
        if is_new && round.answered.len() == needed {
            self.waits.see(now - round.began);
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets ticks pass; returns how many of them passed for rounds.
    fn pass(patience: &mut Patience, ticks: u64, speed: u64) -> u64 {
        (0..ticks).map(|_| patience.tick(speed, false)).sum()
    }

    #[test]
    fn a_round_lasts_as_long_as_a_majority_needs() {
        // The number of members, the ticks after which each answer comes, and the resulting length
        // of a round.
        let cases = [
            (3, vec![0, 0], 10),
            (3, vec![3, 500], 10),
            (3, vec![8, 500], 24),
            (3, vec![500, 500], 60),
            (5, vec![0, 12, 500, 500], 36),
            (2, vec![15], 45),
        ];
        for (members, waits, expected) in cases {
            let mut patience = Patience::new(members);
            patience.asked(1);
            for (slot, wait) in (2..).zip(&waits) {
                let passed = patience.now;
                pass(&mut patience, wait - passed.min(*wait), 1);
                patience.answered(1, slot);
                patience.answered(1, slot);
            }
            assert_eq!(patience.round_ticks(), expected, "{members} members, {waits:?}");
        }
    }

    #[test]
    fn what_was_seen_is_forgotten() {
        let mut patience = Patience::new(3);
        patience.asked(1);
        assert_eq!(pass(&mut patience, 20, 1), 20);
        patience.answered(1, 2);
        assert_eq!(pass(&mut patience, 600, 1), 100, "a sixth of the speed");
        assert_eq!(pass(&mut patience, 600, 3), 300, "in a hurry");
        assert_eq!((0..600).map(|_| patience.tick(1, true)).sum::<u64>(), 100, "quiet");
        pass(&mut patience, REMEMBERED_TICKS, 1);
        assert_eq!(patience.round_ticks(), ROUND_TICKS);
        assert_eq!(pass(&mut patience, 100, 3), 300);
        patience.answered(7, 2);
        assert_eq!(patience.round_ticks(), ROUND_TICKS, "a round that nobody began");
    }

    #[test]
    fn a_peer_answers_once_in_a_round() {
        let mut patience = Patience::new(5);
        patience.asked(1);
        assert!(patience.answered(1, 2) && patience.answered(1, 3));
        assert!(!patience.answered(1, 2));
        patience.asked(2);
        assert!(patience.answered(2, 2));
        assert!(!patience.answered(3, 3), "it was not asked yet");
    }
}
