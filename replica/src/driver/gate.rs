//! Pure: messages that wait for a sync.
//!
//! A message that reports a durable fact leaves only after a sync that began after the message was
//! taken from the engine (so the sync covers every write that the message reports) has returned.
//!
//! Guarantees, as the driver's invariants I1 to I4 require: a held message leaves after such a sync
//! and not before; the messages to one peer leave in the order in which they came; messages of a
//! session that ended never leave.

use std::collections::{BTreeSet, VecDeque};

use kvorum_protocol::status::ReplicaId;

use crate::engine::{After, PeerMessage, Written};
use crate::limits::HELD_BYTES_MAX;

struct Held {
    to: ReplicaId,
    message: PeerMessage,
    after: After,
}

/// Messages that wait for a sync.
#[derive(Default)]
pub struct Gate {
    held: VecDeque<Held>,
    bytes: usize,
    /// Number of held messages that the sync under way covers.
    covered: Option<usize>,
    /// The latest write that the engine waits for and that no sync covers yet.
    written: Option<Written>,
    /// The latest such write that the sync under way covers.
    syncing: Option<Written>,
}

impl Gate {
    /// Takes a message in; returns it when it may leave at once.
    pub fn push(
        &mut self,
        to: ReplicaId,
        message: PeerMessage,
        after: After,
    ) -> Option<PeerMessage> {
        let is_free = match after {
            After::Nothing => true,
            After::Earlier => self.held.iter().all(|held| held.to != to),
            After::Sync => false,
        };
        if is_free {
            return Some(message);
        }
        self.bytes += message.weight();
        self.held.push_back(Held { to, message, after });
        None
    }

    /// Records a write that the engine waits for: it is to be reported when it is synced.
    pub fn wait_for(&mut self, written: Written) {
        self.written = Some(self.written.map_or(written, |earlier| earlier.and(written)));
    }

    /// Begins a sync if one is due and none is under way.
    pub fn begin(&mut self) -> bool {
        let waits =
            self.written.is_some() || self.held.iter().any(|held| held.after == After::Sync);
        let is_due = self.covered.is_none() && waits;
        if is_due {
            self.covered = Some(self.held.len());
            self.syncing = self.written.take();
        }
        is_due
    }

    /// Returns what was waited for and is now synced, if anything. Must be called before
    /// [`complete`](Self::complete).
    pub fn take_synced(&mut self) -> Option<Written> {
        self.syncing.take()
    }

    /// Ends the sync under way: returns the messages that may leave.
    pub fn complete(&mut self) -> Vec<(ReplicaId, PeerMessage)> {
        let covered = self.covered.take().unwrap_or(0);
        let mut free: Vec<Held> = self.held.drain(..covered).collect();
        let mut blocked = BTreeSet::new();
        for held in std::mem::take(&mut self.held) {
            if held.after == After::Sync || blocked.contains(&held.to) {
                blocked.insert(held.to);
                self.held.push_back(held);
            } else {
                free.push(held);
            }
        }
        self.bytes -= free.iter().map(|held| held.message.weight()).sum::<usize>();
        free.into_iter().map(|held| (held.to, held.message)).collect()
    }

    /// Drops the messages held for a peer whose session ended.
    pub fn drop_peer(&mut self, peer: ReplicaId) {
        if let Some(covered) = &mut self.covered {
            *covered -= self.held.iter().take(*covered).filter(|held| held.to == peer).count();
        }
        self.held.retain(|held| held.to != peer);
        self.bytes = self.held.iter().map(|held| held.message.weight()).sum();
    }

    /// Whether so much is held that no further input should be taken.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bytes > HELD_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::start::Epoch;
    use kvorum_protocol::status::ConfigurationId;
    use omnipaxos::ballot_leader_election::Ballot;

    const A: ReplicaId = ReplicaId(1);
    const B: ReplicaId = ReplicaId(2);

    fn message(call: u64) -> PeerMessage {
        PeerMessage::ReadIndex { call }
    }

    fn calls(messages: Vec<(ReplicaId, PeerMessage)>) -> Vec<u64> {
        let call = |(_, message)| match message {
            PeerMessage::ReadIndex { call } => call,
            other => panic!("only such messages were pushed, not {other:?}"),
        };
        messages.into_iter().map(call).collect()
    }

    #[test]
    fn a_message_waits_for_a_sync_that_began_after_it() {
        let mut gate = Gate::default();
        assert!(gate.push(A, message(1), After::Sync).is_none());
        assert!(gate.begin());
        assert!(gate.push(A, message(2), After::Sync).is_none());
        assert!(!gate.begin(), "one sync at a time");
        assert_eq!(calls(gate.complete()), [1]);
        assert!(gate.begin());
        assert_eq!(calls(gate.complete()), [2]);
        assert!(!gate.begin(), "nothing waits");
    }

    #[test]
    fn a_message_that_tells_nothing_durable_only_keeps_its_place() {
        let mut gate = Gate::default();
        assert!(gate.push(A, message(1), After::Earlier).is_some());
        assert!(gate.push(A, message(2), After::Sync).is_none());
        assert!(gate.push(A, message(3), After::Earlier).is_none(), "it must not overtake");
        assert!(
            gate.push(B, message(4), After::Earlier).is_some(),
            "another peer's order is another"
        );
        assert!(gate.begin());
        assert!(gate.push(A, message(5), After::Earlier).is_none());
        assert_eq!(calls(gate.complete()), [2, 3, 5]);
        assert!(!gate.begin());
    }

    #[test]
    fn a_configuration_of_one_waits_for_a_sync_that_began_after_it_wrote() {
        let (configuration, epoch) = (ConfigurationId(1), Epoch::default());
        let ballot = Ballot::default();
        let written = |index| Written { configuration, ballot, index, round: 0, epoch };
        let mut gate = Gate::default();
        gate.wait_for(written(1));
        assert!(gate.begin());
        gate.wait_for(written(2));
        gate.wait_for(written(3));
        // A replica that lost its vote has no log to wait for; what else was waited for stays.
        let round = 7;
        gate.wait_for(Written { round, ..written(0) });
        assert_eq!(gate.take_synced(), Some(written(1)));
        assert!(gate.complete().is_empty());
        assert!(gate.begin());
        assert_eq!(gate.take_synced(), Some(Written { round, ..written(3) }));
        gate.complete();
        assert!(!gate.begin());
    }

    #[test]
    fn what_is_held_for_an_ended_session_never_leaves() {
        let mut gate = Gate::default();
        gate.push(A, message(1), After::Sync);
        gate.push(B, message(2), After::Sync);
        assert!(gate.begin());
        gate.push(A, message(3), After::Sync);
        gate.drop_peer(A);
        gate.push(A, message(4), After::Sync);
        assert_eq!(calls(gate.complete()), [2], "the new session's message was not covered");
        assert!(gate.begin());
        assert_eq!(calls(gate.complete()), [4]);
    }
}
