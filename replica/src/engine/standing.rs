//! Pure: from whom each message counts.
//!
//! A session proves that a peer has an id; it does not prove that the peer may lead anybody
//! anywhere. Whoever asks gets an id, so what a joiner says makes nobody do anything but answer it.
//!
//! | what a peer says | from whom it counts |
//! |---|---|
//! | consensus of this configuration, probes and their answers | a member |
//! | relayed writes and reads, looks, what is wanted, checksums, leave to stop | a member |
//! | that this replica should lead | whoever's ballot it has promised |
//! | that this replica's state differs | the leader |
//! | that a configuration is over, or what belongs to a later one | a member, or one elsewhere |
//! | how far its disk has got | a member, or one elsewhere |
//! | up to where it has the state | a member or a joiner |
//! | what belongs to an earlier configuration, or asks for state | anybody: it is answered |
//! | an answer | whoever was asked: it counts by its number |
//!
//! One *elsewhere* was a member, or is one of a later configuration, as this replica's own state
//! has it, or as somebody said whom it asked by clients' means.
//!
//! Guarantees that state is copied only from members and those elsewhere. Does not know whether an
//! id is in the right hands; [`peers`](super::peers) does.

use std::collections::BTreeSet;

use kvorum_protocol::message::{Answer, Refusal};
use kvorum_protocol::status::{ConfigurationId, Member, ReplicaId};

use super::Engine;
use super::message::{Origin, PeerMessage, Session};
use super::reads::Read;
use crate::chain::Chain;
use crate::storage::Store;

/// Who a peer is, as far as this replica knows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Speaker {
    /// Nobody that the state knows: its id was given later, or left long ago.
    Stranger,
    /// It has an id, and is to become a member.
    Joiner,
    /// It was a member before, or is one of a later configuration, as clients are told.
    Elsewhere,
    /// A member of this configuration.
    Member,
    /// The member whose ballot this replica has promised last.
    Leader,
}

/// Which configuration a message speaks of, seen from this replica's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Era {
    /// An earlier one, which is over.
    Earlier,
    /// This replica's.
    Same,
    /// A later one, which it has not come to.
    Later,
}

impl Era {
    /// Where a configuration is, seen from another one.
    #[must_use]
    pub fn of(theirs: ConfigurationId, ours: ConfigurationId) -> Self {
        match theirs.cmp(&ours) {
            std::cmp::Ordering::Less => Self::Earlier,
            std::cmp::Ordering::Equal => Self::Same,
            std::cmp::Ordering::Greater => Self::Later,
        }
    }
}

/// Whether a message counts that comes from such a peer: the table above.
#[must_use]
pub fn counts(message: &PeerMessage, from: Speaker, ours: ConfigurationId) -> bool {
    match message {
        PeerMessage::Paxos { configuration, .. } => match Era::of(*configuration, ours) {
            Era::Earlier => true,
            Era::Same => from >= Speaker::Member,
            Era::Later => from >= Speaker::Elsewhere,
        },
        PeerMessage::Probe { .. }
        | PeerMessage::ProbeAnswer { .. }
        | PeerMessage::Relay { .. }
        | PeerMessage::ReadIndex { .. }
        | PeerMessage::Look { .. }
        | PeerMessage::Wanted { .. }
        | PeerMessage::Checksum { .. }
        | PeerMessage::AskToStop { .. }
        | PeerMessage::AskDisk { .. }
        | PeerMessage::DiskWorks { .. }
        | PeerMessage::MayStop => from >= Speaker::Member,
        PeerMessage::Lead { .. } | PeerMessage::Yield { .. } | PeerMessage::Differs { .. } => {
            from == Speaker::Leader
        }
        PeerMessage::Over { .. } | PeerMessage::Epoch { .. } => from >= Speaker::Elsewhere,
        PeerMessage::HasState { .. } => from >= Speaker::Member || from == Speaker::Joiner,
        // Everybody linked is told of epochs; what counts is what members say to that.
        PeerMessage::Fetch { .. } | PeerMessage::EpochKept { .. } => true,
        PeerMessage::Found { .. }
        | PeerMessage::RelayAnswer { .. }
        | PeerMessage::ReadIndexAnswer { .. } => true,
    }
}

/// Who is known for what.
#[derive(Default)]
pub(super) struct Standings {
    members: BTreeSet<ReplicaId>,
    former: BTreeSet<ReplicaId>,
    joiners: BTreeSet<ReplicaId>,
    /// The members of a later configuration, as somebody said who was asked by clients' means, and
    /// its number, if it was told.
    learned: BTreeSet<ReplicaId>,
    later: Option<ConfigurationId>,
}

impl Standings {
    pub(super) fn of(chain: &Chain) -> Self {
        let mut standings = Self::default();
        standings.know(chain);
        standings
    }

    /// The state says who is who.
    pub(super) fn know(&mut self, chain: &Chain) {
        let ids = |members: &[Member]| members.iter().map(|member| member.replica).collect();
        self.members = ids(&chain.current.members);
        self.former = ids(&chain.former);
        self.joiners = chain.joiners.iter().map(|joiner| joiner.member.replica).collect();
        if self.later.is_some_and(|later| later <= chain.current.id) {
            self.later = None;
        }
    }

    /// Somebody said by clients' means who the members are, of a later configuration if it has a
    /// number.
    pub(super) fn learn(&mut self, members: &[Member], later: Option<ConfigurationId>) {
        if later >= self.later {
            self.learned = members.iter().map(|member| member.replica).collect();
            self.later = later;
        }
    }

    /// Somebody whose word counts speaks of a configuration.
    pub(super) fn hear(&mut self, configuration: ConfigurationId, ours: ConfigurationId) {
        self.later = self.later.max(Some(configuration).filter(|theirs| *theirs > ours));
    }

    /// Whoever was asked does not know of a later configuration.
    pub(super) fn forget_later(&mut self) {
        self.later = None;
    }

    /// The configuration that this replica was told of and has not come to.
    pub(super) fn later(&self) -> Option<ConfigurationId> {
        self.later
    }

    /// Whether a replica was a member, and nobody says that it is one.
    pub(super) fn is_former(&self, peer: ReplicaId) -> bool {
        let is_one = self.members.contains(&peer) || self.learned.contains(&peer);
        self.former.contains(&peer) && !is_one
    }

    fn speaker(&self, peer: ReplicaId) -> Speaker {
        match peer {
            _ if self.members.contains(&peer) => Speaker::Member,
            _ if self.former.contains(&peer) || self.learned.contains(&peer) => Speaker::Elsewhere,
            _ if self.joiners.contains(&peer) => Speaker::Joiner,
            _ => Speaker::Stranger,
        }
    }
}

impl<S: Store> Engine<S> {
    /// Who a peer is.
    pub(super) fn speaker(&self, peer: ReplicaId) -> Speaker {
        match self.standings.speaker(peer) {
            Speaker::Member if self.leader().is_some_and(|(leader, _)| leader == peer) => {
                Speaker::Leader
            }
            speaker => speaker,
        }
    }

    /// Whether a message of a peer counts.
    pub(super) fn listens(&self, peer: ReplicaId, message: &PeerMessage) -> bool {
        let speaker = self.speaker(peer);
        counts(message, speaker, self.configuration.id) || !self.rules.knows_speakers
    }

    /// A message does not count. Who passes something on for a client is told so, and whoever is
    /// not ends its session or asks again.
    pub(super) fn turn_away(&mut self, peer: ReplicaId, session: Session, message: PeerMessage) {
        let refusal = Refusal::NotLeader { leader: None };
        match message {
            PeerMessage::Relay { call, .. } => {
                let origin = Origin::Peer { peer, session, call };
                self.outbox.answer(origin, Answer::Refused(refusal));
            }
            PeerMessage::ReadIndex { call } => {
                let read = Read::new(Origin::Peer { peer, session, call }, None, self.now);
                self.outbox.refuse_read(&read, refusal);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "standing/tests.rs"]
mod tests;
