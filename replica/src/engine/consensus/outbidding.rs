//! Pure: decides when a leader that heard of a higher ballot is to be elected once more, above it.
//!
//! A peer that asks to be prepared may have promised a higher ballot than the one that leads: of
//! two simultaneous candidates, the one that lost crashed or was cut off. The library leaves such a
//! peer behind for ever, because it ignores the leader and the leader ignores it. So the leader is
//! elected once more, above both. But perhaps it was the leader that was stopped or cut off, and
//! another replica leads in that ballot by now. That one would prepare it within a moment; so the
//! leader waits for as long.
//!
//! Guarantees that a leader that waited leads above every ballot that it heard of, or does not lead
//! any more.

use omnipaxos::ballot_leader_election::Ballot;

use super::patience::ROUND_TICKS;

/// Ticks for which a leader waits for another one to prepare it: a message each way and a sync at
/// each end, with time to spare. During that time the peer that asked is left out.
pub(super) const WAIT_TICKS: u64 = 3 * ROUND_TICKS;

/// The highest ballot that a leader heard of and has not yet outbid.
#[derive(Default)]
pub(super) struct Outbidding {
    above: Option<Ballot>,
    /// Ticks left to wait.
    left: u64,
}

impl Outbidding {
    /// Records that a peer has promised a ballot above the one in which this replica leads.
    pub fn hear(&mut self, ballot: Ballot) {
        if self.above.is_none() {
            self.left = WAIT_TICKS;
        }
        self.above = self.above.max(Some(ballot));
    }

    /// Lets a tick pass. `leads` is the ballot in which this replica leads, if it does. Returns the
    /// ballot to outbid now.
    pub fn tick(&mut self, leads: Option<Ballot>) -> Option<Ballot> {
        self.above = self.above.filter(|above| leads.is_some_and(|ballot| ballot < *above));
        let above = self.above?;
        self.left = self.left.saturating_sub(1);
        if self.left > 0 {
            return None;
        }
        // Outbidding may take several steps.
        self.left = WAIT_TICKS;
        Some(above)
    }
}
