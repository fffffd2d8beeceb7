//! Pure: a check that the promises to a candidate are consistent.
//!
//! Of the logs that a majority promises, the library takes the one that was written in the highest
//! ballot, and of several such logs the longest (the Omni-Paxos paper, section 4.1). By the
//! protocol, that log holds every entry that any replica of the majority knows to be chosen, and a
//! promise carries its log whenever that log is further than the candidate's own. The library
//! relies on both, and panics where a peer errs.
//!
//! Guarantees that the counted promises add up to a log that holds every entry they report as
//! chosen. Knows one ballot.

use std::collections::BTreeSet;

use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::messages::Message;
use omnipaxos::messages::sequence_paxos::{PaxosMessage, PaxosMsg, Prepare, Promise};

use crate::engine::validity::end_of;
use crate::state::entry::Entry;

/// The rank of a log: the ballot in which its end was accepted, and its length.
type Rank = (Ballot, usize);

/// The result of checking a promise against the candidate's Prepare and the promises before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sum {
    /// The promise fits, and is counted.
    Fits,
    /// The peer reports more entries as chosen than any promised log has: this peer errs, or an
    /// earlier one, or the candidate. The candidate cannot tell which, and must not lead in this
    /// ballot.
    Beyond,
    /// The promise came too late: the candidate must not lead in this ballot.
    Over,
    /// As `Over`, but sent again: no other replica came to lead, so all peers must be asked again.
    OverLong,
    /// The promise is impossible.
    Wrong,
}

/// The promises to a candidate's ballot.
pub struct Promises {
    ballot: Ballot,
    own: Rank,
    /// The rank of the furthest log, the candidate's own included.
    furthest: Rank,
    /// The number of entries known to be chosen.
    decided: usize,
    /// The slots whose logs start from compacted state.
    on_state: BTreeSet<u64>,
    /// Set once the candidate must not lead in this ballot: the slots that promised it since.
    over: Option<BTreeSet<u64>>,
}

impl Promises {
    /// Begins to count when the candidate sends its Prepare, if `message` is one. The candidate
    /// sends the same Prepare to every peer, and again to those that do not answer.
    pub fn ask(promises: &mut Option<Self>, message: &Message<Entry>) {
        let Message::SequencePaxos(message) = message else { return };
        let PaxosMsg::Prepare(Prepare { n, decided_idx, n_accepted, accepted_idx }) = message.msg
        else {
            return;
        };
        if promises.as_ref().is_none_or(|promises| promises.ballot < n) {
            let own = (n_accepted, accepted_idx);
            let on_state = BTreeSet::new();
            let (furthest, decided) = (own, decided_idx);
            *promises = Some(Self { ballot: n, own, furthest, decided, on_state, over: None });
        }
    }

    /// Whether these are the promises to a ballot.
    #[must_use]
    pub fn is_of(&self, ballot: Ballot) -> bool {
        self.ballot == ballot
    }

    /// Whether a message withdraws a promise whose log starts from compacted state. The library
    /// would then continue with that log, but forget how much of it is chosen, and would keep a log
    /// that begins after the entries it knows to be chosen.
    #[must_use]
    pub fn is_withdrawn_by(&self, message: &Message<Entry>) -> bool {
        let Message::SequencePaxos(PaxosMessage { from, msg, .. }) = message else { return false };
        self.on_state.contains(from)
            && match msg {
                PaxosMsg::PrepareReq(_) => true,
                PaxosMsg::NotAccepted(refused) => refused.n > self.ballot,
                _ => false,
            }
    }

    /// Whether a slot has promised a log that starts from compacted state. A peer sends its promise
    /// again after a long wait, and the library would take the first one back.
    #[must_use]
    pub fn has_on_state(&self, from: u64) -> bool {
        self.on_state.contains(&from)
    }

    /// Counts a promise from a slot, if it is consistent.
    pub fn count(&mut self, from: u64, promise: &Promise<Entry>) -> Sum {
        let theirs = (promise.n_accepted, promise.accepted_idx);
        let (furthest, decided) =
            (self.furthest.max(theirs), self.decided.max(promise.decided_idx));
        let has_log = match &promise.log_sync {
            Some(log) => theirs > self.own && end_of(log) == promise.accepted_idx,
            None => theirs <= self.own,
        };
        let is_possible = promise.n == self.ballot && promise.n_accepted <= promise.n && has_log;
        if !is_possible {
            return Sum::Wrong;
        }
        if decided > furthest.1 {
            // The reports of earlier peers carry as much weight as this peer's.
            return match promise.decided_idx > furthest.1 {
                true => {
                    self.over.get_or_insert_default().insert(from);
                    Sum::Beyond
                }
                false => Sum::Wrong,
            };
        }
        if let Some(over) = &mut self.over {
            return if over.insert(from) { Sum::Over } else { Sum::OverLong };
        }
        (self.furthest, self.decided) = (furthest, decided);
        if promise.log_sync.as_ref().is_some_and(|log| log.decided_snapshot.is_some()) {
            self.on_state.insert(from);
        }
        Sum::Fits
    }
}

#[cfg(test)]
mod tests {
    use omnipaxos::messages::sequence_paxos::{NotAccepted, PrepareReq};
    use omnipaxos::storage::SnapshotType;
    use omnipaxos::util::LogSync;

    use super::*;
    use crate::state::entry::NoSnapshot;

    const CANDIDATE: Ballot = Ballot { config_id: 1, n: 9, priority: 0, pid: 1 };

    fn accepted_in(n: u32) -> Ballot {
        Ballot { n, ..CANDIDATE }
    }

    /// Returns a promise of a log that was accepted in ballot `n` and has `accepted_idx` entries,
    /// of which `decided_idx` are known to be chosen. The log itself comes with it, beginning at
    /// `from`.
    fn promise(
        n: u32,
        accepted_idx: usize,
        decided_idx: usize,
        from: Option<usize>,
    ) -> Promise<Entry> {
        let log_sync = from.map(|sync_idx| LogSync {
            decided_snapshot: None,
            suffix: vec![Entry::Noop; accepted_idx - sync_idx],
            sync_idx,
            stopsign: None,
        });
        Promise { n: CANDIDATE, n_accepted: accepted_in(n), decided_idx, accepted_idx, log_sync }
    }

    /// Returns the promises to a candidate whose own log was accepted in ballot 5: ten entries,
    /// eight of them chosen.
    fn promises() -> Promises {
        let prepare = |n| {
            let (n_accepted, accepted_idx, decided_idx) = (accepted_in(5), 10, 8);
            let msg = PaxosMsg::Prepare(Prepare { n, decided_idx, n_accepted, accepted_idx });
            Message::SequencePaxos(PaxosMessage { from: 1, to: 2, msg })
        };
        let mut promises = None;
        Promises::ask(&mut promises, &prepare(accepted_in(7)));
        Promises::ask(&mut promises, &prepare(CANDIDATE));
        promises.unwrap()
    }

    #[test]
    fn promises_by_the_protocol_fit() {
        for honest in [
            vec![promise(5, 10, 10, None), promise(4, 20, 2, None)],
            vec![promise(5, 12, 9, Some(10)), promise(5, 12, 12, Some(10))],
            vec![promise(6, 9, 9, Some(8)), promise(6, 11, 10, Some(8)), promise(5, 10, 8, None)],
            // The second log is further, though shorter; it holds all chosen entries.
            vec![promise(6, 14, 8, Some(8)), promise(7, 9, 9, Some(8)), promise(6, 20, 8, Some(8))],
        ] {
            let mut promises = promises();
            assert!(
                honest.iter().all(|promise| promises.count(2, promise) == Sum::Fits),
                "{honest:?}"
            );
        }
    }

    #[test]
    fn promises_that_do_not_add_up_are_refused() {
        use Sum::{Beyond, Fits, Wrong};
        let other_end = Promise { accepted_idx: 13, ..promise(5, 12, 9, Some(10)) };
        let other_ballot = Promise { n: accepted_in(8), ..promise(5, 10, 8, None) };
        for (last, sum, why) in [
            (promise(6, 12, 9, None), Wrong, "a further log does not come with it"),
            (promise(4, 12, 9, Some(8)), Wrong, "a log comes that is not further"),
            (promise(5, 10, 9, Some(8)), Wrong, "a log comes that is as far"),
            (promise(6, 5, 5, Some(3)), Wrong, "it lacks what the candidate knows is chosen"),
            (promise(5, 10, 11, None), Beyond, "more is chosen than any log has"),
            (other_end, Wrong, "the log ends elsewhere"),
            (other_ballot, Wrong, "it answers another question"),
            (promise(10, 12, 9, Some(8)), Wrong, "its log is of a later ballot than it promises"),
        ] {
            assert_eq!(promises().count(2, &last), sum, "{why}");
        }
        let mut promises = promises();
        assert_eq!(promises.count(2, &promise(5, 12, 12, Some(10))), Fits);
        let lacks = promise(6, 11, 9, Some(8));
        assert_eq!(promises.count(2, &lacks), Wrong, "it lacks what another says is chosen");
        let has = promise(6, 12, 9, Some(8));
        assert_eq!(promises.count(2, &has), Fits, "what was refused is not counted");
    }

    /// The peer that errs came first: neither its log nor the candidate's shows all that is chosen.
    #[test]
    fn a_ballot_in_which_more_is_chosen_than_was_promised_is_over() {
        use Sum::{Beyond, Fits, Over, OverLong};
        let mut promises = promises();
        let (errs, knows) = (promise(6, 11, 9, Some(8)), promise(5, 12, 12, Some(10)));
        let has_less = promise(5, 10, 10, None);
        let told = [(2, &errs), (3, &knows), (4, &has_less), (3, &knows), (4, &has_less)];
        let sums = told.map(|(slot, promise)| promises.count(slot, promise));
        assert_eq!(sums, [Fits, Beyond, Over, Beyond, OverLong]);
    }

    #[test]
    fn a_promise_on_state_is_not_taken_back() {
        let mut promises = promises();
        let from = |from, msg| Message::SequencePaxos(PaxosMessage { from, to: 1, msg });
        let asks = || PaxosMsg::PrepareReq(PrepareReq { n: accepted_in(1) });
        let mut on_state = promise(6, 60, 50, Some(50));
        on_state.log_sync.as_mut().unwrap().decided_snapshot =
            Some(SnapshotType::Complete(NoSnapshot));
        assert_eq!(promises.count(2, &promise(6, 12, 9, Some(8))), Sum::Fits);
        assert_eq!(promises.count(3, &on_state), Sum::Fits);
        assert_eq!([2, 3].map(|slot| promises.has_on_state(slot)), [false, true]);
        assert!(!promises.is_withdrawn_by(&from(2, asks())), "it did not stand on state");
        for (msg, is_withdrawn) in [
            (asks(), true),
            (PaxosMsg::Promise(on_state.clone()), false),
            (PaxosMsg::NotAccepted(NotAccepted { n: accepted_in(10) }), true),
            (PaxosMsg::NotAccepted(NotAccepted { n: accepted_in(8) }), false),
        ] {
            assert_eq!(promises.is_withdrawn_by(&from(3, msg)), is_withdrawn);
        }
    }
}
