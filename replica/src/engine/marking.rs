//! Pure: what the cluster's marker lets a configuration of one do.
//!
//! Guarantees that a lone replica which another one has replaced loses its vote when it next hears
//! of the marker, which it asks for every second; and that one which does not hear goes on, and
//! says so. Does not know who keeps the marker.

use kvorum_protocol::status::ConfigurationId;
use kvorum_protocol::weight::bounded;

use super::Engine;
use super::consensus::Consensus;
use super::message::{Output, Verdict};
use super::solo::Written;
use crate::start::Epoch;
use crate::storage::Store;

/// Ticks after which the marker is asked for again: whoever keeps it may be out of reach, and
/// another replica may have taken this one's place.
const MARK_TICKS: u64 = 100;

/// Who remembers another disk, when the marker does.
const MARKER: &str = "the cluster's marker";

impl<S: Store> Engine<S> {
    /// What a configuration of one has to ask for.
    pub(super) fn take_solo(&mut self) {
        let (now, asked) = (self.now, self.mark_asked);
        let configuration = self.configuration.id;
        let Some(solo) = self.consensus.as_mut().and_then(Consensus::solo) else { return };
        let is_unsynced = solo.take_unsynced().is_some();
        if !self.rules.asks_marker {
            solo.marked(ConfigurationId(configuration.0 + 1));
        }
        let (wanted, marked) = (solo.wants_mark(), solo.marked_in());
        if is_unsynced {
            let written = self.written();
            self.outbox.push(Output::Sync(written));
        }
        let is_due = |configuration: &ConfigurationId| {
            asked.is_none_or(|(last, at)| last < *configuration || now >= at + MARK_TICKS)
        };
        let renews = marked.filter(|marked| is_due(marked) || self.is_witness_due());
        if let Some(configuration) = wanted.filter(is_due).or(renews)
            && self.rules.asks_marker
        {
            self.mark_asked = Some((configuration, now));
            self.tell_marker(Some(configuration));
        }
    }

    /// A sync returned.
    pub(super) fn wrote(&mut self, written: Written) {
        self.epoch_is_durable(written.epoch);
        let is_current = written.configuration == self.configuration.id;
        let solo = self.consensus.as_mut().and_then(Consensus::solo);
        if let Some(solo) = solo.filter(|_| is_current) {
            solo.synced(written.index);
            self.reads.confirm_synced(written.round);
        }
    }

    /// The marker names this replica in a configuration, or must not; and it has an epoch.
    pub(super) fn marked(
        &mut self,
        configuration: Option<ConfigurationId>,
        epoch: Epoch,
        verdict: Verdict,
    ) {
        match (&verdict, configuration) {
            (Verdict::Done, _) => self.is_witnessed(epoch),
            (Verdict::Refused(why), None) if self.rules.compares_epochs => {
                self.mark_refused = Some(why.clone());
                return self.lose_vote(MARKER.to_owned());
            }
            _ => {}
        }
        let Some(configuration) = configuration else { return };
        let Some(solo) = self.consensus.as_mut().and_then(Consensus::solo) else { return };
        let serves = solo.may_decide();
        match verdict {
            Verdict::Done => {
                solo.marked(configuration);
                self.mark_refused = None;
            }
            Verdict::Refused(why) if serves && self.rules.renews_mark => {
                self.mark_refused = Some(why);
                self.lose_vote(MARKER.to_owned());
            }
            // The words may be another system's.
            Verdict::Refused(why) | Verdict::Unreachable(why) => {
                self.mark_refused = Some(bounded(why));
            }
        }
    }
}
