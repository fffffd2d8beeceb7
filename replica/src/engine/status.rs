//! Pure: a replica's status report about itself.
//!
//! Guarantees that a replica is reported ready only when it serves.

use kvorum_protocol::status::{Ballot, ReplicaId, Role, Status};
use omnipaxos::ballot_leader_election::Ballot as SlotBallot;

use super::Engine;
use super::consensus::Consensus;
use super::subscriptions::Turning;
use crate::storage::Store;

/// The most entries that a ready replica may lag behind the decided index it knows.
const READY_LAG_MAX: u64 = 1024;

impl<S: Store> Engine<S> {
    /// Returns the leader's name, when this replica is in step with it.
    pub fn leader_name(&self) -> Option<String> {
        self.cx.leader_name()
    }

    /// Returns the index up to which this replica has applied the log.
    pub fn applied(&self) -> u64 {
        self.cx.store.applied()
    }

    /// Returns the index up to which this replica cannot report what the entries did.
    pub(super) fn compacted(&self) -> u64 {
        self.log_begins_after().max(self.cx.store.since())
    }

    /// Returns the number of messages that were dropped because they are not allowed.
    pub fn dropped(&self) -> u64 {
        self.cx.consensus.as_ref().map_or(0, Consensus::dropped)
    }

    /// Returns the numbers of waiting writes and reads.
    pub fn waiting(&self) -> (usize, usize) {
        (self.proposals.count(), self.reads.count())
    }

    /// Returns this replica's status; the caller adds the times.
    pub fn status(&self) -> Status {
        let me = self.cx.store.identity();
        let applied = self.cx.store.applied();
        let role = self.cx.role();
        let (ballot, accepted, decided) = match &self.cx.consensus {
            // A copied state may be ahead of the log.
            Some(c) => (c.promise(), c.accepted().max(applied), c.decided().max(applied)),
            None => (SlotBallot::default(), applied, applied),
        };
        let leads = usize::try_from(ballot.pid).ok().and_then(|slot| slot.checked_sub(1));
        let leads = leads.and_then(|index| self.cx.configuration.members.get(index));
        let replica = leads.map_or(ReplicaId(0), |member| member.replica);
        Status {
            name: me.name.clone(),
            replica: self.cx.me,
            cluster: me.cluster,
            incarnation: me.incarnation,
            configuration: self.cx.configuration.clone(),
            role,
            leader: self.cx.leader_name(),
            ballot: Ballot { number: ballot.n, replica },
            accepted,
            decided,
            applied,
            compacted: self.compacted(),
            catching_up: self.catching_up(),
            is_ready: matches!(role, Role::Leader | Role::Follower)
                && decided - applied <= READY_LAG_MAX
                && !self.cx.leads_alone()
                && !self.cx.is_genesis()
                && self.cx.quarantine.is_none(),
            allows_faults: self.cx.options.allows_faults,
            version: self.cx.store.version().0,
            same_at: self.checking.same_at(),
            membership: self.membership(),
            links: self.cx.peers.links(),
            trouble: self.trouble(),
            monotonic_us: 0,
            wall_us: 0,
        }
    }

    /// Returns the part of the status that is sent at once when it changes.
    pub(super) fn turning(&self) -> Turning {
        Turning {
            role: self.cx.role(),
            leader: self.cx.leader(),
            ballot: self.cx.consensus.as_ref().map_or(0, |consensus| consensus.promise().n),
            link_changes: self.cx.peers.link_changes(),
        }
    }
}
