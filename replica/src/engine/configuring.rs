//! Pure: from one configuration to the next.
//!
//! A change of the members is an entry: the first stop sign that is decided seals its
//! configuration, and the next one begins at the following index, on every replica, with a log of
//! its own. Whoever applies it leaves the instance of the consensus library behind and starts one
//! for the next configuration, if it is a member. Whoever has not, and still speaks of the sealed
//! one, is told that it is over, and fetches what it lacks like any replica that is behind.
//!
//! Guarantees that nothing decided in a configuration beyond its stop sign takes effect, that a
//! message never starts an instance, and that a log is removed only when the next configuration has
//! decided an entry. The library's own stop signs are not used: it counts one twice when a replica
//! that has it is brought into step. Does not know why the members change.

use kvorum_protocol::status::{Configuration, ConfigurationId, Member, ReplicaId};

use super::Engine;
use super::consensus::Consensus;
use super::message::{Notice, Output, PeerMessage};
use crate::entry::Entry;
use crate::storage::Store;

/// The library has no configuration of one.
const MEMBERS_MIN: usize = 2;

impl<S: Store> Engine<S> {
    /// Whether this replica is a member of the configuration it knows last.
    pub(super) fn is_member(&self) -> bool {
        self.configuration.name_of(self.me).is_some()
    }

    /// Proposes the next configuration, if this replica leads, no change is under way, and a
    /// majority of the new members is linked and has what is decided: a quorum must never wait for
    /// one that has to catch up first.
    pub(super) fn configure(&mut self, members: Vec<Member>) {
        let next = Configuration { id: ConfigurationId(self.configuration.id.0 + 1), members };
        let Some(consensus) = &mut self.consensus else { return };
        let is_free = consensus.ballot_if_leading().is_some() && !self.stops;
        let decided = consensus.decided();
        let has_all = |replica: ReplicaId| {
            let accepted = consensus.accepted_by(replica).unwrap_or(0);
            replica == self.me
                || (self.outbox.peers.session(replica).is_some() && accepted >= decided)
        };
        let ready = next.members.iter().filter(|member| has_all(member.replica)).count();
        if is_free && next.members.len() >= MEMBERS_MIN && ready >= next.quorum() {
            self.stops = true;
            consensus.propose(vec![Entry::StopSign(next)]);
        }
    }

    /// Goes on in the configuration that the state is in by now.
    pub(super) fn enter(&mut self) {
        if self.store.configuration_id() == self.configuration.id {
            return;
        }
        let chain = self.store.chain();
        // What the library has to say still, to those who do not know it yet.
        self.take_messages();
        self.deposed();
        self.old_log = Some(self.log_begins_after());
        self.consensus = None;
        self.outbox.peers.reconfigure(&chain, self.me, &self.store);
        (self.configuration, self.began) = (chain.current, chain.began);
        self.outbox.notice(Notice::Configured { configuration: self.configuration.clone() });
        for peer in self.outbox.peers.linked().collect::<Vec<_>>() {
            self.tell_over(peer);
        }
        if !self.is_member() {
            // What comes after is not for this replica: its program may not even know it.
            self.fetching = None;
        }
        self.gather();
    }

    /// A peer speaks of a configuration that is not this replica's.
    pub(super) fn other_configuration(&mut self, peer: ReplicaId, theirs: ConfigurationId) {
        if theirs < self.configuration.id {
            self.tell_over(peer);
        } else {
            // What made the next one is at the peer.
            let index = self.store.applied() + 1;
            self.fetch_newer(peer, theirs, index);
        }
    }

    fn tell_over(&mut self, peer: ReplicaId) {
        let message =
            PeerMessage::Over { configuration: self.configuration.id, index: self.store.applied() };
        self.outbox.push(Output::Gated { to: peer, message, durable: false });
    }

    /// A peer is in a newer configuration: this one's is over.
    pub(super) fn over(&mut self, peer: ReplicaId, configuration: ConfigurationId, index: u64) {
        if configuration > self.configuration.id {
            self.fetch_newer(peer, configuration, index);
        }
    }

    /// Removes the logs of earlier configurations, once this one has decided something.
    pub(super) fn forget_old_logs(&mut self) {
        if self.old_log.is_some() && self.store.applied() > self.began {
            self.store.drop_old_logs();
            self.old_log = None;
        }
    }

    /// The index up to which no log has the entries any more.
    pub(super) fn log_begins_after(&self) -> u64 {
        let current = self.consensus.as_ref().map_or(self.began, Consensus::compacted);
        self.old_log.unwrap_or(current)
    }
}
