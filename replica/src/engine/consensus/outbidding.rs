//! Pure: when a leader that heard of a higher ballot is to be elected once more, above it.
//!
//! A peer that asks to be prepared may have promised a higher ballot than the one that leads: of
//! two candidates at once, the one that lost crashed or was cut off. The library leaves such a peer
//! behind for ever, for it ignores the leader and the leader ignores it. So the leader is elected
//! once more, above both. But perhaps it is the leader that was stopped or cut off, and another one
//! leads in that ballot by now. That one prepares it within a moment; so it waits for one.
//!
//! Guarantees that a leader which waited leads above every ballot that it heard of, or no more.

use omnipaxos::ballot_leader_election::Ballot;

use super::super::patience::ROUND_TICKS;

/// Ticks for which a leader waits for another one to prepare it: a message each way and a sync at
/// each end, with time to spare. For so long the peer that asked is left out.
pub(super) const WAIT_TICKS: u64 = 3 * ROUND_TICKS;

/// The highest ballot that a leader heard of and has not come above.
#[derive(Default)]
pub(super) struct Outbidding {
    above: Option<Ballot>,
    /// Ticks that are left to wait.
    left: u64,
}

impl Outbidding {
    /// A peer has promised a ballot above the one in which this replica leads.
    pub fn hear(&mut self, ballot: Ballot) {
        if self.above.is_none() {
            self.left = WAIT_TICKS;
        }
        self.above = self.above.max(Some(ballot));
    }

    /// Lets a tick pass for a replica that leads in a ballot, if it does: the ballot to come above
    /// now.
    pub fn tick(&mut self, leads: Option<Ballot>) -> Option<Ballot> {
        self.above = self.above.filter(|above| leads.is_some_and(|ballot| ballot < *above));
        let above = self.above?;
        self.left = self.left.saturating_sub(1);
        if self.left > 0 {
            return None;
        }
        // It may take several steps.
        self.left = WAIT_TICKS;
        Some(above)
    }
}
