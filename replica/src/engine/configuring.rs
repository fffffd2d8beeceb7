//! Pure: moves a replica from one configuration to the next.
//!
//! A configuration change is an entry: the first stop sign that is decided seals its configuration,
//! and the next one begins at the following index, on every replica, with a log of its own. A
//! replica that applies it leaves the instance of the consensus library behind and starts one for
//! the next configuration, if it is a member. A replica that has not applied it, and still sends
//! messages of the sealed configuration, is notified that it is over, and fetches what it lacks
//! like any replica that is behind.
//!
//! Guarantees that nothing decided in a configuration beyond its stop sign takes effect, that a
//! message never starts an instance, and that a log is removed only when the next configuration has
//! decided an entry. The library's own stop signs are not used: it counts one twice when a replica
//! that has it is brought into step. Does not know why the members change.

use kvorum_protocol::message::Refusal;
use kvorum_protocol::status::{ConfigurationId, Member, ReplicaId};

use super::Engine;
use super::consensus::Consensus;
use super::message::{Output, PeerMessage};
use super::notice::Notice;
use crate::chain::Standing;
use crate::state_machine::Changes;
use crate::storage::Store;

impl<S: Store> Engine<S> {
    /// Enters the configuration that the state is in now.
    pub(super) fn enter(&mut self) {
        if self.cx.store.configuration_id() == self.cx.configuration.id {
            return;
        }
        let chain = self.cx.store.chain();
        let led = self.cx.is_leading();
        let stays = |member: &Member| chain.current.name_of(member.replica).is_some();
        let leads_on = self.cx.configuration.members.iter().any(stays);
        self.cx.standings.know(&chain);
        // The library's remaining messages go to the peers that do not know of the change yet.
        self.take_messages();
        self.deposed();
        // A replica that joins has no log of the previous configuration.
        let begins_after = self.cx.consensus.as_ref().map(Consensus::compacted);
        self.old_log = Some(begins_after.unwrap_or(chain.began));
        if let Some(consensus) = self.cx.consensus.take() {
            self.patience = consensus.patience().clone();
        }
        self.cx.peers.reconfigure(&chain, self.cx.me, &self.cx.store, self.cx.now);
        self.cx.tell_known();
        self.forget_strangers();
        (self.cx.configuration, self.cx.began) = (chain.current, chain.began);
        if self.cx.rules.reads_know_configuration {
            self.start_reads_over();
        }
        (self.mark_asked, self.cx.fences.mark_refused) = (None, None);
        self.cx.notice(Notice::Configured { configuration: self.cx.configuration.clone() });
        for peer in self.cx.peers.linked().collect::<Vec<_>>() {
            self.tell_over(peer);
        }
        if self.cx.standing() == Standing::Retired {
            // Later entries are not for this replica: its program may not even know their version.
            self.close_copied();
            self.fetching = None;
        }
        self.gather();
        match &mut self.cx.consensus {
            // The old leader knows best how far the log is, so the change does not have to wait for
            // an election.
            Some(consensus) if led => consensus.lead_on(),
            Some(consensus) if leads_on => consensus.hold_back(),
            Some(_) | None => {}
        }
    }

    /// Restarts the confirmation of reads that were confirmed in the previous configuration, or for
    /// which its leader was asked.
    fn start_reads_over(&mut self) {
        let mut reads = self.reads.take_confirmed();
        reads.extend(self.relays.take_reads());
        for read in reads {
            if read.request.is_some() && self.cx.is_member() {
                self.reads.add(read);
            } else {
                self.cx.refuse_read(&read, Refusal::NotLeader { leader: None });
            }
        }
    }

    /// Handles a change of the chain that did not change the configuration: a replica is to join.
    pub(super) fn know_joiners(&mut self) {
        let chain = self.cx.store.chain();
        self.cx.standings.know(&chain);
        if self.cx.peers.reconfigure(&chain, self.cx.me, &self.cx.store, self.cx.now) {
            self.cx.tell_known();
            self.forget_strangers();
        }
        self.answer_joins();
    }

    /// Drops the records about replicas that are not known any more.
    pub(super) fn forget_strangers(&mut self) {
        let (peers, me) = (&self.cx.peers, self.cx.me);
        self.sending.retain(|peer| peers.knows(peer));
        self.stopping.retain(|peer| peer == me || peers.knows(peer));
    }

    /// Records replicas that were reported to this one and that its state does not know yet: they
    /// are the members, of a later configuration if it has a number. This replica fetches from them
    /// the entries that led there.
    pub(super) fn learned(&mut self, members: &[Member], configuration: Option<ConfigurationId>) {
        let later = configuration.filter(|configuration| {
            *configuration > self.cx.configuration.id && self.cx.rules.tells_ends
        });
        self.cx.standings.learn(members, later);
        if self.cx.peers.learn(members, self.cx.me, &self.cx.store, self.cx.now) {
            self.cx.tell_known();
        }
    }

    /// Handles a message from a peer that is in another configuration than this replica.
    pub(super) fn other_configuration(&mut self, peer: ReplicaId, theirs: ConfigurationId) {
        if theirs < self.cx.configuration.id {
            self.tell_over(peer);
        } else {
            // The peer has the entry that made the next configuration.
            let index = self.cx.store.applied() + 1;
            self.fetch_newer(peer, theirs, index);
            if !self.cx.rules.frames_start_nothing {
                self.start_without_state(theirs);
            }
        }
    }

    /// Violates the protocol on purpose, for a negative control: begins the next configuration
    /// because a message names it, at whatever index this replica is.
    fn start_without_state(&mut self, next: ConfigurationId) {
        let (mut chain, applied) = (self.cx.store.chain(), self.cx.store.applied());
        if self.cx.is_member() && next.0 == chain.current.id.0 + 1 {
            (chain.current.id, chain.began) = (next, applied);
            self.cx.store.commit(Changes { chain: Some(chain), applied, ..Changes::default() });
            self.enter();
        }
    }

    pub(super) fn tell_over(&mut self, peer: ReplicaId) {
        let (configuration, index) = (self.cx.configuration.id, self.cx.store.applied());
        let is_dismissed = self.is_dismissed(peer);
        let message = PeerMessage::Over { configuration, index, is_dismissed };
        self.cx.push(Output::Gated { to: peer, message, durable: false });
    }

    /// Handles a peer's report that it is in a newer configuration: this replica's is over.
    pub(super) fn over(&mut self, peer: ReplicaId, configuration: ConfigurationId, index: u64) {
        if configuration > self.cx.configuration.id {
            self.fetch_newer(peer, configuration, index);
        }
    }

    /// Removes the logs of earlier configurations, once this one has decided an entry.
    pub(super) fn forget_old_logs(&mut self) {
        let is_over = self.cx.store.applied() > self.cx.began || !self.cx.rules.keeps_sealed_log;
        if self.old_log.is_some() && is_over {
            self.cx.store.drop_old_logs();
            self.old_log = None;
        }
    }

    /// Returns the index up to which no log has the entries any more.
    pub(super) fn log_begins_after(&self) -> u64 {
        let left = self.left_log.unwrap_or(self.cx.began);
        let current = self.cx.consensus.as_ref().map_or(left, Consensus::compacted);
        self.old_log.unwrap_or(current)
    }
}
