//! Pure: what a leader counts as accepted: of its own log, what a sync made durable.
//!
//! A leader's entries leave for its followers beside its own sync, not after it (the rule I5 of the
//! driver). The library counts the leader's own acceptance as soon as an entry is in its log, so an
//! acceptance of a follower could complete a majority that is not durable. Guarantees that the
//! library learns of a follower's acceptance of an entry only when a sync here has covered the
//! entry, or when a majority of followers has accepted it, which needs no leader.

use std::collections::BTreeMap;

use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::storage::Storage;

use super::{Consensus, Instance};
use crate::state::entry::Entry;

/// The acceptances of a leader's entries, in one ballot.
#[derive(Default)]
pub(super) struct Acceptances {
    ballot: Ballot,
    /// The index up to which a sync covers this replica's log, and the one up to which a sync was
    /// requested.
    synced: u64,
    asked: u64,
    followers: BTreeMap<u64, Follower>,
}

/// The acceptance of one follower.
#[derive(Default)]
struct Follower {
    /// The index up to which it has accepted.
    accepted: u64,
    /// The index up to which the library has learned of it.
    passed: u64,
}

impl Acceptances {
    /// Begins to lead in a ballot: what is in the log may be another one's, and not be synced.
    pub(super) fn lead(&mut self, ballot: Ballot) {
        if self.ballot != ballot {
            *self = Self { ballot, ..Self::default() };
        }
    }

    /// Returns whether a sync is needed that was not requested yet, and records the request.
    pub(super) fn take_unsynced(&mut self, accepted: u64) -> bool {
        let is_new = accepted > self.asked;
        self.asked = self.asked.max(accepted);
        is_new
    }

    /// Records that a sync covers the log up to an index, if it was requested in this ballot.
    pub(super) fn synced(&mut self, ballot: Ballot, index: u64) {
        if self.ballot == ballot {
            self.synced = self.synced.max(index);
        }
    }

    /// Returns the index up to which a sync covers the log, as far as is known in a ballot.
    pub(super) fn durable_in(&self, ballot: Ballot) -> u64 {
        if self.ballot == ballot { self.synced } else { 0 }
    }

    /// Records that a follower has accepted the log up to an index.
    pub(super) fn accepted(&mut self, slot: u64, index: u64) {
        let follower = self.followers.entry(slot).or_default();
        follower.accepted = follower.accepted.max(index);
    }

    /// Forgets a follower, with which everything starts over.
    pub(super) fn forget(&mut self, slot: u64) {
        self.followers.remove(&slot);
    }

    /// Returns the acceptances that the library may learn of now, each with its slot, in a
    /// configuration where `majority` members decide. Those of the highest index come first: the
    /// library looks for a majority at just the index that it learns of.
    pub(super) fn take(&mut self, majority: usize) -> Vec<(u64, u64)> {
        let mut all: Vec<u64> = self.followers.values().map(|one| one.accepted).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        let without_this = all.get(majority - 1).copied().unwrap_or(0);
        let most = self.synced.max(without_this);
        let due = self.followers.iter_mut().filter_map(|(slot, follower)| {
            let index = follower.accepted.min(most);
            let is_new = index > follower.passed;
            follower.passed = follower.passed.max(index);
            is_new.then_some((*slot, index))
        });
        let mut due: Vec<_> = due.collect();
        due.sort_by_key(|(_, index)| std::cmp::Reverse(*index));
        due
    }

    /// Returns the ballot that they are of.
    pub(super) fn ballot(&self) -> Ballot {
        self.ballot
    }
}

impl<L: Storage<Entry>> Consensus<L> {
    /// Returns whether this replica leads, and has written entries that no sync was requested for
    /// yet; records the request.
    pub fn take_unsynced(&mut self) -> bool {
        let (leads, accepted) = (self.ballot_if_leading(), self.accepted());
        if let Instance::Solo(solo) = &mut self.instance {
            return solo.take_unsynced().is_some();
        }
        leads.is_some_and(|ballot| {
            self.acceptances.lead(ballot);
            self.acceptances.take_unsynced(accepted)
        })
    }

    /// Returns what a leader has written, for a sync to make durable: its ballot, and an index; the
    /// index is 0 at a replica that does not lead.
    #[must_use]
    pub fn written(&self) -> (Ballot, u64) {
        let is_solo = matches!(self.instance, Instance::Solo(_));
        let counts = is_solo || self.ballot_if_leading().is_some();
        (self.promise(), if counts { self.accepted() } else { 0 })
    }

    /// Returns the index up to which this leader durably has the log.
    #[must_use]
    pub fn durable(&self) -> u64 {
        match &self.instance {
            Instance::Solo(solo) => solo.decided(),
            Instance::Paxos(_) => {
                self.ballot_if_leading().map_or(0, |ballot| self.acceptances.durable_in(ballot))
            }
        }
    }

    /// Records that a sync returned that began after the entries up to an index were written, by
    /// the leader of a ballot.
    pub fn synced(&mut self, ballot: Ballot, index: u64) {
        match &mut self.instance {
            Instance::Solo(solo) => solo.synced(index),
            Instance::Paxos(_) => {
                self.acceptances.synced(ballot, index);
                self.pass_acceptances();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAJORITY: usize = 2;

    fn leader(n: u32) -> Acceptances {
        let mut acceptances = Acceptances::default();
        acceptances.lead(Ballot::with(1, n, 0, 1));
        acceptances
    }

    #[test]
    fn a_follower_counts_up_to_the_leaders_sync() {
        let mut leader = leader(3);
        leader.accepted(2, 10);
        assert_eq!(leader.take(MAJORITY), []);
        leader.synced(leader.ballot, 7);
        assert_eq!(leader.take(MAJORITY), [(2, 7)]);
        assert_eq!(leader.take(MAJORITY), [], "once");
        leader.synced(leader.ballot, 12);
        assert_eq!(leader.take(MAJORITY), [(2, 10)]);
    }

    #[test]
    fn a_majority_of_followers_needs_no_leader() {
        let mut leader = leader(3);
        leader.accepted(2, 10);
        leader.accepted(3, 8);
        assert_eq!(leader.take(MAJORITY), [(2, 8), (3, 8)]);
        assert_eq!(leader.take(3), [], "two are no majority of five");
    }

    /// Of five, the library has to find that 18 is accepted by three.
    #[test]
    fn the_highest_index_is_learned_of_first() {
        let mut leader = leader(3);
        for (slot, index) in [(2, 15), (3, 18), (4, 20)] {
            leader.accepted(slot, index);
        }
        leader.synced(leader.ballot, 20);
        assert_eq!(leader.take(3), [(4, 20), (3, 18), (2, 15)]);
    }

    #[test]
    fn what_was_synced_in_another_ballot_does_not_count() {
        let mut leader = leader(3);
        let before = leader.ballot;
        leader.synced(before, 10);
        leader.lead(Ballot::with(1, 4, 0, 1));
        leader.synced(before, 10);
        leader.accepted(2, 10);
        assert_eq!(leader.take(MAJORITY), []);
        assert!(leader.take_unsynced(10) && !leader.take_unsynced(10));
    }

    #[test]
    fn a_follower_that_starts_over_is_forgotten() {
        let mut leader = leader(3);
        leader.accepted(2, 10);
        leader.forget(2);
        leader.synced(leader.ballot, 10);
        assert_eq!(leader.take(MAJORITY), []);
    }
}
