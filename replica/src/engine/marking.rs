//! Pure: applies what the cluster's marker permits a replica to do.
//!
//! Guarantees that a replica votes in no configuration once it knows that a later one has a leader:
//! nothing can be decided there, except by copies of volumes that were taken before; that a lone
//! replica that another one has replaced loses its vote when it next hears from the marker, which
//! it asks every second; and that one that does not hear from it goes on, and reports so. A marker
//! of another cluster says nothing about this one's disks: a replica that decides alone waits until
//! the marker is corrected, and the others do not need it. Does not know what keeps the marker.

use kvorum_protocol::status::ConfigurationId;
use kvorum_protocol::weight::bounded;

use super::Engine;
use super::consensus::Consensus;
use super::message::{Output, Verdict};
use super::solo::Written;
use crate::marker::Mark;
use crate::storage::Store;

/// Ticks after which the marker is asked again: it may have been out of reach, and another replica
/// may have taken this one's place.
const MARK_TICKS: u64 = 100;

/// Ticks between two requests for the entries or state that lead to a later configuration.
const ASK_TICKS: u64 = 25;

/// The name reported for the marker when it remembers another disk.
const MARKER: &str = "the cluster's marker";

impl<S: Store> Engine<S> {
    /// Requests the syncs and marks that a configuration of one needs.
    pub(super) fn take_solo(&mut self) {
        let (now, asked) = (self.cx.now, self.mark_asked);
        let configuration = self.cx.configuration.id;
        let Some(solo) = self.cx.consensus.as_mut().and_then(Consensus::solo) else { return };
        let is_unsynced = solo.take_unsynced().is_some();
        if !self.cx.rules.asks_marker {
            solo.marked(ConfigurationId(configuration.0 + 1));
        }
        let (wanted, marked) = (solo.wants_mark(), solo.marked_in());
        if is_unsynced {
            let written = self.written();
            self.cx.push(Output::Sync(written));
        }
        let is_due = |configuration: &ConfigurationId| {
            asked.is_none_or(|(last, at)| last < *configuration || now >= at + MARK_TICKS)
        };
        let renews = marked.filter(|marked| is_due(marked) || self.is_witness_due());
        if let Some(configuration) = wanted.filter(is_due).or(renews)
            && self.cx.rules.asks_marker
        {
            self.mark_asked = Some((configuration, now));
            self.tell_marker(Some(configuration));
        }
    }

    /// Records that a sync returned.
    pub(super) fn wrote(&mut self, written: Written) {
        self.epoch_is_durable(written.epoch);
        let is_current = written.configuration == self.cx.configuration.id;
        let solo = self.cx.consensus.as_mut().and_then(Consensus::solo);
        if let Some(solo) = solo.filter(|_| is_current) {
            solo.synced(written.index);
            self.reads.confirm_synced(written.round);
        }
    }

    /// Handles the result of a report to the marker.
    pub(super) fn marked(&mut self, mark: Mark, verdict: Verdict) {
        match (&verdict, mark.solo) {
            (Verdict::Done, _) => self.is_witnessed(mark),
            (Verdict::Lost, _) => {
                self.mark_asked = None;
                return self.renew_witness();
            }
            (Verdict::Foreign(why), _) => return self.unmarked(why.clone()),
            (Verdict::Over(latest), _) => return self.ends_before(*latest),
            (Verdict::Refused(why), None) if self.cx.rules.compares_epochs => {
                self.cx.fences.mark_refused = Some(why.clone());
                return self.lose_vote(MARKER.to_owned());
            }
            _ => {}
        }
        let Some(configuration) = mark.solo else { return };
        let Some(solo) = self.cx.consensus.as_mut().and_then(Consensus::solo) else { return };
        let serves = solo.may_decide();
        match verdict {
            Verdict::Done => {
                solo.marked(configuration);
                self.cx.fences.mark_refused = None;
            }
            Verdict::Refused(why) if serves && self.cx.rules.renews_mark => {
                self.cx.fences.mark_refused = Some(why);
                self.lose_vote(MARKER.to_owned());
            }
            // The text may come from another system.
            Verdict::Refused(why) | Verdict::Unreachable(why) => {
                self.cx.fences.mark_refused = Some(bounded(why));
            }
            Verdict::Foreign(_) | Verdict::Over(_) | Verdict::Lost => {}
        }
    }

    /// Handles a marker that names another cluster, whatever this replica had asked of it. A lone
    /// replica stops deciding: the other cluster may serve clients at this place, and the two must
    /// not do so at once.
    fn unmarked(&mut self, why: String) {
        self.forget_witness();
        if let Some(solo) = self.cx.consensus.as_mut().and_then(Consensus::solo) {
            solo.unmarked();
            self.cx.fences.mark_refused = Some(why);
        }
    }

    /// Records that a configuration has a leader, as the marker reports: every earlier one is over.
    fn ends_before(&mut self, latest: ConfigurationId) {
        self.cx.fences.latest = self.cx.fences.latest.max(latest);
        if self.cx.is_over() {
            self.stop_voting();
        }
    }

    /// Asks the linked peers in turn for what leads to a later configuration, if this one is over.
    /// No peer hears of this replica otherwise: it sends nothing in its own configuration.
    pub(super) fn advance_past_end(&mut self) {
        if !self.cx.is_over() || !self.cx.now.is_multiple_of(ASK_TICKS) {
            return;
        }
        let linked: Vec<_> = self.cx.peers.linked().collect();
        let turn = usize::try_from(self.cx.now / ASK_TICKS).unwrap_or(0);
        if !linked.is_empty() {
            let peer = linked[turn % linked.len()];
            self.fetch_newer(peer, self.cx.fences.latest, self.cx.store.applied() + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_protocol::status::ReplicaId;

    use crate::engine::{Input, Options};
    use crate::storage::memory::Memory;
    use crate::version::Version;

    fn engine() -> Engine<Memory> {
        let options = Options { allows_faults: false, newest: Version::NEWEST, checksum_ticks: 0 };
        let mut engine = Engine::new(Memory::of_two(1), options);
        engine.cx.peers.met(ReplicaId(2), Version::NEWEST);
        engine.gather();
        assert!(engine.cx.consensus.is_some());
        engine
    }

    #[test]
    fn nobody_votes_in_a_configuration_that_is_over() {
        let mut engine = engine();
        let own = engine.cx.configuration.id;
        let over = |latest| Input::Marked { mark: Mark::default(), verdict: Verdict::Over(latest) };
        engine.step(over(own));
        assert!(engine.cx.consensus.is_some(), "it is the latest");
        engine.step(over(ConfigurationId(own.0 + 2)));
        engine.gather();
        assert!(engine.cx.consensus.is_none());
        let trouble = engine.status().trouble.unwrap();
        assert!(trouble.contains("which is over"), "{trouble}");
    }

    /// The report of a leader may be answered first, and take the place of the question.
    #[test]
    fn a_lone_replica_waits_whatever_was_asked() {
        let options = Options { allows_faults: false, newest: Version::NEWEST, checksum_ticks: 0 };
        let mut engine = Engine::new(Memory::of_one(), options);
        engine.gather();
        let solo = Some(engine.cx.configuration.id);
        let asked = Mark { solo, ..Mark::default() };
        engine.step(Input::Marked { mark: asked, verdict: Verdict::Done });
        assert!(engine.cx.is_leading());
        let foreign = Verdict::Foreign("another cluster".to_owned());
        let reported = Mark { leads: solo, ..Mark::default() };
        engine.step(Input::Marked { mark: reported, verdict: foreign });
        assert!(!engine.cx.is_leading() && engine.cx.fences.mark_refused.is_some());
        engine.step(Input::Marked { mark: asked, verdict: Verdict::Done });
        assert!(engine.cx.is_leading() && engine.cx.fences.mark_refused.is_none());
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
            engine.gather();
            assert_eq!(engine.cx.consensus.is_some(), votes);
        }
    }

    /// The marker may answer slowly, and the process be stopped meanwhile.
    #[test]
    fn a_copy_that_ends_withdraws_what_it_told() {
        let mut engine = engine();
        assert_eq!(engine.end_epoch(), None, "nobody took this start");
        engine.lose_vote("kvorum-1".to_owned());
        engine.withdraw();
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
                    engine.epoch_kept(peer, engine.epochs.durable());
                }
            }
            std::mem::take(&mut told)
        };
        assert!(pass(&mut engine, true).is_empty());
        engine.cx.peers.set_cut(peer, false);
        assert_eq!(pass(&mut engine, false), [engine.cx.store.epoch()], "as if it hung");
    }
}
