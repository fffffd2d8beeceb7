//! Pure: applies what the cluster's marker permits a replica to do.
//!
//! Guarantees that a replica votes in no configuration once it knows that a later one has a leader:
//! nothing can be decided there, except by copies of volumes that were taken before; that a lone
//! replica that another one has replaced loses its vote when it next hears from the marker, which
//! it asks every second; and that one that does not hear from it goes on, and reports so. A marker
//! of another cluster says nothing about this one's disks: a replica that decides alone waits until
//! the marker is corrected, and the others do not need it. Does not know what keeps the marker.

pub(super) mod epochs;

use kvorum_protocol::status::{ConfigurationId, ReplicaId};
use kvorum_protocol::weight::bounded;

use super::consensus::Consensus;
use super::context::Context;
use super::message::Verdict;
use crate::engine::store::Store;
use crate::marker::Mark;
use epochs::Epochs;

/// Ticks after which the marker is asked again: it may have been out of reach, and another replica
/// may have taken this one's place.
const MARK_TICKS: u64 = 100;

/// Ticks between two requests for the entries or state that lead to a later configuration.
const ASK_TICKS: u64 = 25;

/// The name reported for the marker when it remembers another disk.
const MARKER: &str = "the cluster's marker";

/// This replica's reports to the marker.
#[derive(Default)]
pub(super) struct Marking {
    pub(super) epochs: Epochs,
    /// The configuration in which the marker was last asked to name this replica, and the tick.
    asked: Option<(ConfigurationId, u64)>,
}

/// A loss of this replica's vote.
pub(super) enum Lost {
    /// Its disk is not the one that the named peer, or the marker, remembers.
    OtherDisk(String),
    /// Its configuration is over.
    Over,
}

impl Marking {
    /// Forgets what was asked in the previous configuration.
    pub(super) fn enter<S: Store>(&mut self, cx: &mut Context<S>) {
        (self.asked, cx.fences.mark_refused) = (None, None);
    }

    /// Requests the marks that a configuration of one needs.
    pub(super) fn take_solo<S: Store>(&mut self, cx: &mut Context<S>) {
        let (now, asked) = (cx.now, self.asked);
        let configuration = cx.configuration.id;
        let Some(solo) = cx.consensus.as_mut().and_then(Consensus::solo) else { return };
        if !cx.rules.asks_marker() {
            solo.marked(ConfigurationId(configuration.0 + 1));
        }
        let (wanted, marked) = (solo.wants_mark(), solo.marked_in());
        let is_due = |configuration: &ConfigurationId| {
            asked.is_none_or(|(last, at)| last < *configuration || now >= at + MARK_TICKS)
        };
        let renews = marked.filter(|marked| is_due(marked) || self.epochs.is_witness_due(cx));
        if let Some(configuration) = wanted.filter(is_due).or(renews)
            && cx.rules.asks_marker()
        {
            self.asked = Some((configuration, now));
            self.epochs.tell_marker(cx, Some(configuration));
        }
    }

    /// Handles the result of a report to the marker. Returns whether the vote is lost by it.
    #[must_use]
    pub(super) fn marked<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        mark: Mark,
        verdict: Verdict,
    ) -> Option<Lost> {
        match (&verdict, mark.solo) {
            (Verdict::Done, _) => self.epochs.is_witnessed(mark),
            (Verdict::Lost, _) => {
                self.asked = None;
                self.epochs.renew_witness();
                return None;
            }
            (Verdict::Foreign(why), _) => {
                self.unmarked(cx, why.clone());
                return None;
            }
            (Verdict::Over(latest), _) => {
                // Every earlier configuration is over.
                cx.fences.latest = cx.fences.latest.max(*latest);
                return cx.is_over().then_some(Lost::Over);
            }
            (Verdict::Refused(why), None) if cx.rules.compares_epochs() => {
                cx.fences.mark_refused = Some(why.clone());
                return Some(Lost::OtherDisk(MARKER.to_owned()));
            }
            _ => {}
        }
        let configuration = mark.solo?;
        let solo = cx.consensus.as_mut().and_then(Consensus::solo)?;
        let serves = solo.may_decide();
        match verdict {
            Verdict::Done => {
                solo.marked(configuration);
                cx.fences.mark_refused = None;
            }
            Verdict::Refused(why) if serves && cx.rules.renews_mark() => {
                cx.fences.mark_refused = Some(why);
                return Some(Lost::OtherDisk(MARKER.to_owned()));
            }
            // The text may come from another system.
            Verdict::Refused(why) | Verdict::Unreachable(why) => {
                cx.fences.mark_refused = Some(bounded(why));
            }
            Verdict::Foreign(_) | Verdict::Over(_) | Verdict::Lost => {}
        }
        None
    }

    /// Handles a marker that names another cluster, whatever this replica had asked of it. A lone
    /// replica stops deciding: the other cluster may serve clients at this place, and the two must
    /// not do so at once.
    fn unmarked<S: Store>(&mut self, cx: &mut Context<S>, why: String) {
        self.epochs.forget_witness();
        if let Some(solo) = cx.consensus.as_mut().and_then(Consensus::solo) {
            solo.unmarked();
            cx.fences.mark_refused = Some(why);
        }
    }
}

/// Returns the next linked peer, in turn, to ask for what leads to a later configuration, if this
/// one is over and it is time to. No peer hears of this replica otherwise: it sends nothing in its
/// own configuration.
pub(super) fn peer_past_end<S: Store>(cx: &Context<S>) -> Option<ReplicaId> {
    if !cx.is_over() || !cx.now.is_multiple_of(ASK_TICKS) {
        return None;
    }
    let linked: Vec<_> = cx.peers.linked().collect();
    let turn = usize::try_from(cx.now / ASK_TICKS).unwrap_or(0);
    (!linked.is_empty()).then(|| linked[turn % linked.len()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::store::IdentityStore;
    use kvorum_protocol::status::ReplicaId;

    use crate::engine::{Engine, Input, Options, Output};
    use crate::state::version::Version;
    use crate::storage::memory::Memory;

    fn engine() -> Engine<Memory> {
        let options = Options { allows_faults: false, newest: Version::NEWEST, checksum_ticks: 0 };
        let mut engine = Engine::new(Memory::of_two(1), options);
        engine.parts.cx.peers.met(ReplicaId(2), Version::NEWEST);
        engine.parts.replication.start_voting(&mut engine.parts.cx);
        assert!(engine.parts.cx.consensus.is_some());
        engine
    }

    #[test]
    fn nobody_votes_in_a_configuration_that_is_over() {
        let mut engine = engine();
        let own = engine.parts.cx.configuration.id;
        let over = |latest| Input::Marked { mark: Mark::default(), verdict: Verdict::Over(latest) };
        engine.step(over(own));
        assert!(engine.parts.cx.consensus.is_some(), "it is the latest");
        engine.step(over(ConfigurationId(own.0 + 2)));
        engine.parts.replication.start_voting(&mut engine.parts.cx);
        assert!(engine.parts.cx.consensus.is_none());
        let trouble = engine.status().trouble.unwrap();
        assert!(trouble.contains("which is over"), "{trouble}");
    }

    /// The report of a leader may be answered first, and take the place of the question.
    #[test]
    fn a_lone_replica_waits_whatever_was_asked() {
        let options = Options { allows_faults: false, newest: Version::NEWEST, checksum_ticks: 0 };
        let mut engine = Engine::new(Memory::of_one(), options);
        engine.parts.replication.start_voting(&mut engine.parts.cx);
        let solo = Some(engine.parts.cx.configuration.id);
        let asked = Mark { solo, ..Mark::default() };
        engine.step(Input::Marked { mark: asked, verdict: Verdict::Done });
        assert!(engine.parts.cx.is_leading());
        let foreign = Verdict::Foreign("another cluster".to_owned());
        let reported = Mark { leads: solo, ..Mark::default() };
        engine.step(Input::Marked { mark: reported, verdict: foreign });
        assert!(!engine.parts.cx.is_leading() && engine.parts.cx.fences.mark_refused.is_some());
        engine.step(Input::Marked { mark: asked, verdict: Verdict::Done });
        assert!(engine.parts.cx.is_leading() && engine.parts.cx.fences.mark_refused.is_none());
    }

    /// A copy of a disk loses its vote; a marker of another cluster proves no copy.
    #[test]
    fn the_marker_of_another_cluster_takes_no_vote() {
        for (verdict, votes) in [
            (Verdict::Foreign("another cluster".to_owned()), true),
            (Verdict::Refused("an older copy".to_owned()), false),
        ] {
            let mut engine = engine();
            engine.step(Input::Marked { mark: Mark::default(), verdict });
            engine.parts.replication.start_voting(&mut engine.parts.cx);
            assert_eq!(engine.parts.cx.consensus.is_some(), votes);
        }
    }

    /// The marker may answer slowly, and the process be stopped meanwhile.
    #[test]
    fn a_copy_that_ends_withdraws_what_it_told() {
        let mut engine = engine();
        assert_eq!(engine.end_epoch(), None, "nobody took this start");
        engine.parts.lose_vote("kvorum-1".to_owned());
        engine.parts.marking.epochs.withdraw();
        let withdraws = Mark { withdraws: true, ..Mark::default() };
        assert_eq!(engine.end_epoch(), Some(withdraws));
        engine.step(Input::Marked { mark: withdraws, verdict: Verdict::Done });
        assert_eq!(engine.end_epoch(), None, "the marker knows");
    }

    /// A linked peer that does not confirm an epoch may hang, or its disk may.
    #[test]
    fn the_marker_is_told_what_a_peer_does_not_keep() {
        let (mut engine, peer) = (engine(), ReplicaId(2));
        engine.step(Input::PeerUp { peer, session: super::super::Session(1) });
        let mut told = Vec::new();
        let mut pass = |engine: &mut Engine<Memory>, keeps: bool| {
            for _ in 0..50 {
                engine.step(Input::Tick);
                for output in engine.turn(&|_| true) {
                    match output {
                        Output::Sync(written) => engine.step(Input::Synced(written)),
                        Output::Mark(mark) => told.push(mark.epoch),
                        _ => {}
                    }
                }
                if keeps {
                    {
                        let parts = &mut engine.parts;
                        let durable = parts.marking.epochs.durable();
                        parts.marking.epochs.kept(peer, durable, parts.cx.now);
                    };
                }
            }
            std::mem::take(&mut told)
        };
        assert!(pass(&mut engine, true).is_empty());
        engine.parts.cx.peers.set_cut(peer, false);
        assert_eq!(pass(&mut engine, false), [engine.parts.cx.store.epoch()], "as if it hung");
    }
}
