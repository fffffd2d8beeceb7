//! Pure: the timing of a failover by four stamps: killed, noticed, elected, first write.
//!
//! All stamps are wall times in microseconds: by the console's clock for the kill and the writes,
//! by the reporting replica's clock for the rest. Guarantees that the stamps are right whatever the
//! order in which the reports arrive, because each carries its own time. Does not know the
//! difference between the machines' clocks; on one machine there is none.

use std::collections::{BTreeSet, VecDeque};

use kvorum_protocol::Status;
use kvorum_protocol::status::{Reign, Role};

use crate::message::Ack;

/// Acknowledgements kept to find the first one after an election: ten seconds of the probe.
const ACKS_MAX: usize = 2048;

/// The last failover, and the state needed to time the next one.
#[derive(Clone, Debug, Default)]
pub struct Failover {
    /// The last known leader, its reign, and its incarnation.
    leader: Option<(String, Reign, u64)>,
    /// Replicas that were seen linked with it.
    linked: BTreeSet<String>,
    /// Replicas that were linked with the previous leader and have not reported losing it.
    late: BTreeSet<String>,
    acks: VecDeque<u64>,
    /// The failover in progress, or the last one.
    pub last: Option<Stamps>,
}

/// The stamps of one failover, in microseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamps {
    /// The leader before the failover.
    pub from: String,
    /// When this console killed it, if it did.
    pub killed: Option<u64>,
    /// When a replica first saw its link to the leader gone.
    pub noticed: Option<u64>,
    /// The new leader, the number of its ballot, and when it was elected.
    pub elected: Option<(String, u32, u64)>,
    /// The time of the last acknowledged write before, and of the first one after the election.
    pub writes: Option<(u64, u64)>,
}

impl Stamps {
    /// Returns the time without an acknowledged write, in microseconds.
    #[must_use]
    pub fn gap_us(&self) -> Option<u64> {
        self.writes.map(|(before, after)| after.saturating_sub(before))
    }

    /// Records that a replica saw its link to the leader gone: the earliest time counts.
    fn noticed_at(&mut self, wall_us: u64) {
        self.noticed = Some(self.noticed.map_or(wall_us, |known| known.min(wall_us)));
    }

    /// Whether the leader gave leadership away: nobody killed it, and nobody had lost it when the
    /// next one was elected.
    #[must_use]
    pub fn is_handed_over(&self) -> bool {
        self.killed.is_none() && self.noticed.is_none() && self.elected.is_some()
    }

    /// Returns the first stamp that is present.
    #[must_use]
    pub fn began(&self) -> Option<u64> {
        self.killed.or(self.noticed).or(self.elected.as_ref().map(|(_, _, at)| *at))
    }

    /// Returns each stamp with its name, in order.
    #[must_use]
    pub fn list(&self) -> [(&'static str, Option<u64>); 4] {
        [
            ("killed", self.killed),
            ("noticed", self.noticed),
            ("elected", self.elected.as_ref().map(|(_, _, at)| *at)),
            ("first write", self.writes.map(|(_, after)| after)),
        ]
    }
}

impl Failover {
    /// Records that this console killed a replica; `led` says whether that replica reports leading.
    pub fn killed(&mut self, node: &str, led: bool, wall_us: u64) {
        if led || self.leader.as_ref().is_some_and(|(leader, ..)| leader == node) {
            let from = node.to_owned();
            self.last = Some(Stamps { from, killed: Some(wall_us), ..Stamps::default() });
        }
    }

    /// Takes in a replica's status.
    pub fn status(&mut self, status: &Status) {
        // Two leaders may have the same number; the higher replica id makes the higher ballot.
        let is_later = self.leader.as_ref().is_none_or(|(_, known, _)| status.reign() > *known);
        if status.role == Role::Leader && is_later {
            let leads = (status.name.clone(), status.reign(), status.incarnation);
            let before = self.leader.replace(leads);
            // A leader that is elected again, with a higher ballot of its own, succeeds no other
            // leader unless it died in between; nor does the first leader of another configuration.
            let before = before.filter(|(from, reign, start)| {
                let is_another = *from != status.name || *start != status.incarnation;
                is_another && reign.0 == status.reign().0
            });
            if let Some((from, ..)) = before {
                self.late = std::mem::take(&mut self.linked);
                self.elected(from, status);
                // It may have noticed and been elected in one turn, and reported both at once.
                self.noticed_before(status);
            }
            return;
        }
        self.noticed_before(status);
        let Some((leader, ..)) = &self.leader else { return };
        let Some(link) = status.links.iter().find(|link| link.peer == *leader) else { return };
        // A replica that has just started has not lost a link.
        if link.is_up {
            self.linked.insert(status.name.clone());
        } else if self.linked.remove(&status.name) {
            self.noticed(status.wall_us);
        }
    }

    /// Records that a replica was restarted: its earlier links do not count.
    pub fn started(&mut self, node: &str) {
        self.linked.remove(node);
    }

    fn noticed(&mut self, wall_us: u64) {
        let from = self.leader.as_ref().map(|(leader, ..)| leader.clone()).unwrap_or_default();
        let is_under_way =
            self.last.as_ref().is_some_and(|last| last.elected.is_none() && last.from == from);
        // The next leader may lose a link, too, before one of its writes is acknowledged.
        let is_killed = |last: &Stamps| last.killed.is_some() && last.writes.is_none();
        if !is_under_way && self.last.as_ref().is_some_and(is_killed) {
            return;
        }
        if !is_under_way {
            self.last = Some(Stamps { from, ..Stamps::default() });
        }
        if let Some(last) = &mut self.last {
            last.noticed_at(wall_us);
        }
    }

    /// Records a late notice. Each replica reports over its own connection, so a report of the lost
    /// leader may arrive after that of the next leader.
    fn noticed_before(&mut self, status: &Status) {
        let Some(last) = &mut self.last else { return };
        let is_lost = status.links.iter().any(|link| link.peer == last.from && !link.is_up);
        let is_before = last.elected.as_ref().is_some_and(|(_, _, at)| status.wall_us <= *at);
        if is_lost && self.late.remove(&status.name) && is_before {
            last.noticed_at(status.wall_us);
        }
    }

    fn elected(&mut self, from: String, status: &Status) {
        let (name, number) = (status.name.clone(), status.ballot.number);
        // Of two candidates with the same number, the lower one may lead for an instant: that is
        // one election, and its time is that of the first of them.
        let is_same = |last: &Stamps| last.elected.as_ref().is_none_or(|(_, n, _)| *n == number);
        // A leader that is replaced before a write is acknowledged has not ended the failover.
        let is_under_way = |last: &Stamps| last.killed.is_some() && last.writes.is_none();
        let mut stamps = match self.last.take() {
            Some(last) if is_same(&last) || is_under_way(&last) => last,
            _ => Stamps { from, ..Stamps::default() },
        };
        let known = stamps.elected.as_ref().filter(|_| is_same(&stamps));
        let at = known.map_or(status.wall_us, |(_, _, at)| *at);
        stamps.elected = Some((name, number, at));
        self.last = Some(stamps);
        self.find_first_write();
    }

    /// Takes in an acknowledged write of the probe.
    pub fn acknowledged(&mut self, ack: &Ack) {
        if self.acks.len() == ACKS_MAX {
            self.acks.pop_front();
        }
        self.acks.push_back(ack.wall_us);
        self.find_first_write();
    }

    fn find_first_write(&mut self) {
        let Some(last) = self.last.as_mut().filter(|last| last.writes.is_none()) else { return };
        let Some((_, _, elected)) = last.elected else { return };
        let after = self.acks.iter().position(|ack| *ack >= elected);
        if let Some(after) = after.filter(|after| *after > 0) {
            last.writes = Some((self.acks[after - 1], self.acks[after]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::testing::status_of;
    use std::time::Duration;

    fn ack(wall_us: u64) -> Ack {
        Ack { at: Duration::from_micros(wall_us), wall_us, took: Duration::ZERO }
    }

    /// A report about one failover, with its own time.
    type Piece = Box<dyn Fn(&mut Failover)>;

    fn pieces() -> [Piece; 4] {
        let mut noticed = status_of(3, 1);
        noticed.links[0].is_up = false;
        noticed.wall_us = 1_200;
        let mut later = noticed.clone();
        later.name = "kvorum-2".into();
        later.wall_us = 1_300;
        let mut elected = status_of(3, 2);
        elected.role = Role::Leader;
        elected.ballot.number += 1;
        elected.wall_us = 1_500;
        [
            Box::new(move |failover| failover.status(&later)),
            Box::new(move |failover| failover.status(&noticed)),
            Box::new(move |failover| failover.status(&elected)),
            Box::new(|failover| {
                for at in [990, 1_700, 1_710] {
                    failover.acknowledged(&ack(at));
                }
            }),
        ]
    }

    #[test]
    fn the_stamps_are_right_in_any_order() {
        let orders =
            [[0, 1, 2, 3], [1, 0, 2, 3], [3, 0, 1, 2], [1, 3, 0, 2], [2, 0, 1, 3], [0, 2, 3, 1]];
        for order in orders {
            let mut failover = Failover::default();
            (0..3).for_each(|place| failover.status(&status_of(3, place)));
            failover.killed("kvorum-0", true, 1_000);
            let pieces = pieces();
            for piece in order {
                let piece: usize = piece;
                pieces[piece](&mut failover);
            }
            let last = failover.last.expect("there was a failover");
            let stamps = last.list().map(|(_, stamp)| stamp);
            assert_eq!(stamps, [Some(1_000), Some(1_200), Some(1_500), Some(1_700)], "{order:?}");
            assert_eq!(last.gap_us(), Some(710));
        }
    }

    #[test]
    fn who_notices_and_is_elected_in_one_turn_has_noticed() {
        let mut failover = Failover::default();
        (0..3).for_each(|place| failover.status(&status_of(3, place)));
        failover.killed("kvorum-0", true, 1_000);
        let mut elected = status_of(3, 2);
        (elected.role, elected.wall_us, elected.links[0].is_up) = (Role::Leader, 1_500, false);
        elected.ballot.number += 1;
        failover.status(&elected);
        assert_eq!(failover.last.and_then(|last| last.noticed), Some(1_500));
    }

    #[test]
    fn two_leaders_of_one_number_are_one_failover() {
        let mut failover = Failover::default();
        (0..3).for_each(|place| failover.status(&status_of(3, place)));
        failover.killed("kvorum-0", true, 1_000);
        failover.acknowledged(&ack(990));
        for (place, at) in [(1, 1_500), (2, 1_600)] {
            let mut elected = status_of(3, place);
            (elected.role, elected.wall_us) = (Role::Leader, at);
            elected.ballot.number += 1;
            elected.ballot.replica = elected.replica;
            failover.status(&elected);
        }
        failover.acknowledged(&ack(1_700));
        let last = failover.last.clone().expect("there was a failover");
        assert_eq!(last.killed, Some(1_000));
        assert_eq!(last.elected, Some(("kvorum-2".to_owned(), 3, 1_500)));
        assert_eq!(last.gap_us(), Some(710));
        let mut later = status_of(3, 1);
        later.role = Role::Leader;
        later.ballot.number += 2;
        failover.status(&later);
        assert_eq!(
            failover.last.map(|last| last.killed),
            Some(None),
            "another number, another one"
        );
    }

    #[test]
    fn a_leader_without_a_write_ends_no_failover() {
        let mut failover = Failover::default();
        let status = |place: usize, number, wall_us| {
            let mut status = status_of(3, place);
            (status.role, status.ballot.number, status.wall_us) = (Role::Leader, number, wall_us);
            status.ballot.replica = status.replica;
            status
        };
        failover.status(&status(0, 1, 1));
        failover.acknowledged(&ack(5));
        failover.killed("kvorum-0", true, 10);
        failover.status(&status(1, 2, 20));
        // Another replica loses its link to that leader at once.
        let mut third = status_of(3, 2);
        third.links.iter_mut().for_each(|link| link.is_up = true);
        failover.status(&third);
        third.links.iter_mut().for_each(|link| link.is_up = false);
        failover.status(&third);
        failover.status(&status(2, 3, 30));
        failover.acknowledged(&ack(35));
        let last = failover.last.unwrap();
        assert_eq!((last.killed, last.writes), (Some(10), Some((5, 35))));
        assert_eq!(last.elected, Some(("kvorum-2".to_owned(), 3, 30)));
    }

    #[test]
    fn who_comes_back_has_not_noticed_anything_and_a_new_ballot_is_no_new_leader() {
        let mut failover = Failover::default();
        (0..3).for_each(|place| failover.status(&status_of(3, place)));
        failover.started("kvorum-1");
        let mut starting = status_of(3, 1);
        starting.links[0].is_up = false;
        failover.status(&starting);
        let mut again = status_of(3, 0);
        again.ballot.number += 3;
        failover.status(&again);
        assert_eq!(failover.last, None);
    }

    #[test]
    fn a_leader_that_died_may_be_elected_again() {
        let mut failover = Failover::default();
        (0..3).for_each(|place| failover.status(&status_of(3, place)));
        failover.acknowledged(&ack(990));
        failover.killed("kvorum-0", true, 1_000);
        let mut again = status_of(3, 0);
        (again.wall_us, again.incarnation) = (1_500, again.incarnation + 1);
        again.ballot.number += 1;
        failover.status(&again);
        failover.acknowledged(&ack(1_700));
        let last = failover.last.expect("there was a failover");
        assert_eq!((last.killed, last.writes), (Some(1_000), Some((990, 1_700))));
        assert_eq!(last.elected, Some(("kvorum-0".to_owned(), again.ballot.number, 1_500)));
    }

    #[test]
    fn a_killed_follower_is_no_failover_and_the_first_leader_neither() {
        let mut failover = Failover::default();
        failover.status(&status_of(3, 0));
        failover.killed("kvorum-1", false, 1_000);
        assert_eq!(failover.last, None);
    }
}
