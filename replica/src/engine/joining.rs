//! Pure: replicas that are no members: those that are to become members, and those that were.
//!
//! A joiner gets its id from the replicated state, copies the state, and tells how far it is. The
//! leader tells joiners, and those who left, in which configuration the cluster is and how far: so
//! a joiner goes on copying, and one that left learns that the cluster goes on without it.
//!
//! Guarantees that an id is given once, by an entry. Does not decide who becomes a member; the
//! [planner](crate::planner) does.

use kvorum_protocol::message::{Answer, Refusal};
use kvorum_protocol::name;
use kvorum_protocol::status::{ConfigurationId, ReplicaId};

use super::message::{Output, PeerMessage};
use super::{Engine, Origin};
use crate::chain::Standing;
use crate::entry::Entry;
use crate::planner;
use crate::storage::Store;
use crate::version::Version;

/// Ticks between two hints to those who are no members.
const HINT_TICKS: u64 = 3;
/// Joiners that wait for their id at a time; of more, the next is refused as overload.
const JOINS_MAX: usize = 64;

impl<S: Store> Engine<S> {
    /// What this replica is to the configuration that it knows last.
    pub(super) fn standing(&self) -> Standing {
        match self.is_member() {
            true => Standing::Member,
            false => self.store.chain().standing(self.me),
        }
    }

    /// Somebody without an id wants to become a member.
    pub(super) fn join(&mut self, origin: Origin, name: String, nonce: u64) {
        let refusal = if !self.is_leading() {
            Some(Refusal::NotLeader { leader: self.leader_name() })
        } else if let Err(none) = name::check(&name) {
            Some(Refusal::Unavailable(none.to_string()))
        } else if self.store.version() < Version::JOINERS {
            let (has, needs) = (self.store.version(), Version::JOINERS);
            Some(Refusal::Unavailable(format!(
                "the cluster has version {has}, and its members can change from version {needs} \
                 on: update every replica"
            )))
        } else if self.joins.len() >= JOINS_MAX {
            Some(Refusal::Overloaded)
        } else {
            (self.stops || self.hand_over.is_some()).then_some(Refusal::HandingOver)
        };
        if let Some(refusal) = refusal {
            return self.outbox.answer(origin, Answer::Refused(refusal));
        }
        self.joins.push((origin, nonce));
        if self.store.chain().id_of(nonce).is_none()
            && let Some(consensus) = &mut self.consensus
        {
            consensus.propose(vec![Entry::Join { name, nonce }]);
        }
        self.answer_joins();
    }

    /// Tells those who wait for an id, if they have one by now; what told it is decided.
    pub(super) fn answer_joins(&mut self) {
        if self.joins.is_empty() {
            return;
        }
        let chain = self.store.chain();
        let outbox = &mut self.outbox;
        self.joins.retain(|(origin, nonce)| {
            let Some(replica) = chain.id_of(*nonce) else { return true };
            let configuration = chain.current.clone();
            outbox.answer(*origin, Answer::Joined { replica, configuration });
            false
        });
    }

    /// This replica leads no more: those who wait for an id ask again.
    pub(super) fn abandon_joins(&mut self) {
        for (origin, _) in std::mem::take(&mut self.joins) {
            let refusal = Refusal::NotLeader { leader: None };
            self.outbox.answer(origin, Answer::Refused(refusal));
        }
    }

    /// Tells those who are no members how far the cluster is.
    pub(super) fn hint(&mut self) {
        if self.now.is_multiple_of(HINT_TICKS) && self.is_leading() {
            for peer in self.outbox.peers.guests().collect::<Vec<_>>() {
                self.tell_over(peer);
            }
        }
    }

    /// Whether a peer is no member and will not be one: this replica leads, has no change under
    /// way, and knows that the peer's ordinal is not wanted.
    pub(super) fn is_dismissed(&self, peer: ReplicaId) -> bool {
        let ordinal = planner::ordinal(self.outbox.peers.name(peer));
        let is_unwanted = self.scale_wanted().zip(ordinal).is_some_and(|(s, o)| !s.has(o));
        self.is_leading() && !self.stops && is_unwanted && !self.outbox.peers.is_member(peer)
    }

    /// A joiner is told how far the cluster is, and one that left that it goes on without it.
    pub(super) fn hinted(
        &mut self,
        peer: ReplicaId,
        configuration: ConfigurationId,
        index: u64,
        is_dismissed: bool,
    ) {
        if self.standing() == Standing::Joiner {
            self.may_go = is_dismissed;
        }
        match self.standing() {
            Standing::Joiner if index > self.store.applied() => {
                self.fetch_newer(peer, configuration, index);
            }
            Standing::Joiner => self.tell_state(),
            Standing::Retired => {
                let has_decided = (configuration, index) > (self.configuration.id, self.began);
                self.may_go |= has_decided;
            }
            Standing::Member => {}
        }
    }

    /// A joiner tells how far it has the state.
    pub(super) fn tell_state(&mut self) {
        let index = self.store.applied();
        for to in self.outbox.peers.linked().collect::<Vec<_>>() {
            let message = PeerMessage::HasState { index };
            // What it says is durable, so that a quorum can count on it.
            self.outbox.push(Output::Gated { to, message, durable: true });
        }
    }
}
