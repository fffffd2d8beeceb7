//! Pure: the rules that say from which peers each message counts.
//!
//! A session proves that a peer has an id; it does not prove that the peer may direct other
//! replicas. Every requester gets an id, so a joiner's message makes a replica do nothing but
//! answer it.
//!
//! | message from a peer | senders from which it counts |
//! |---|---|
//! | consensus of this configuration, probes and their answers | a member |
//! | relayed writes and reads, looks, the desired count, checksums, leave to stop | a member |
//! | a request that this replica should lead | the leader of the ballot it has promised |
//! | a report that this replica's state differs | the leader |
//! | the end of a configuration, or what belongs to a later one | a member, or one elsewhere |
//! | how far its disk has got | a member, or one elsewhere |
//! | up to where it has the state | a member or a joiner |
//! | what belongs to an earlier configuration, or a request for state | any peer: it is answered |
//! | an answer | the peer that was asked: it counts by its number |
//!
//! A replica *elsewhere* was a member, or is one of a later configuration, according to this
//! replica's own state, or to a replica that was asked through its client port.
//!
//! Guarantees that state is copied only from members and replicas elsewhere. Does not know whether
//! an id is held by the right replica; [`peers`](super::peers) does.

use std::collections::BTreeSet;

use kvorum_protocol::status::{ConfigurationId, Member, ReplicaId};

use super::message::PeerMessage;
use crate::state::chain::Chain;

/// The standing of a peer, as far as this replica knows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Speaker {
    /// A replica that the state does not know: its id was given later, or it left long ago.
    Stranger,
    /// A replica that has an id and is to become a member.
    Joiner,
    /// A former member, or a member of a later configuration as reported through a client port.
    Elsewhere,
    /// A member of this configuration.
    Member,
    /// The member whose ballot this replica has promised last.
    Leader,
}

/// The configuration of a message, relative to this replica's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Era {
    /// An earlier configuration, which is over.
    Earlier,
    /// This replica's configuration.
    Same,
    /// A later configuration, which this replica has not reached.
    Later,
}

impl Era {
    /// Returns the position of `theirs` relative to `ours`.
    #[must_use]
    pub fn of(theirs: ConfigurationId, ours: ConfigurationId) -> Self {
        match theirs.cmp(&ours) {
            std::cmp::Ordering::Less => Self::Earlier,
            std::cmp::Ordering::Equal => Self::Same,
            std::cmp::Ordering::Greater => Self::Later,
        }
    }
}

/// Whether a message counts from a peer of this standing, by the table above.
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
        | PeerMessage::UserRelay { .. }
        | PeerMessage::ReadIndex { .. }
        | PeerMessage::ReadScale { .. }
        | PeerMessage::ScaleReport { .. }
        | PeerMessage::Checksum { .. }
        | PeerMessage::RequestStop { .. }
        | PeerMessage::AskDisk { .. }
        | PeerMessage::DiskWorks { .. }
        | PeerMessage::PermitStop => from >= Speaker::Member,
        PeerMessage::TransferLeadership { .. }
        | PeerMessage::DeferLeadership { .. }
        | PeerMessage::StateDiffers { .. } => from == Speaker::Leader,
        PeerMessage::ConfigurationOver { .. } | PeerMessage::Epoch { .. } => {
            from >= Speaker::Elsewhere
        }
        PeerMessage::StateProgress { .. } => from >= Speaker::Member || from == Speaker::Joiner,
        // Every linked peer is sent the epoch; only the members' answers count.
        PeerMessage::Fetch { .. } | PeerMessage::EpochKept { .. } => true,
        PeerMessage::Fetched { .. }
        | PeerMessage::RelayAnswer { .. }
        | PeerMessage::ReadIndexAnswer { .. } => true,
    }
}

/// The replicas by their standing.
#[derive(Default)]
pub(super) struct Standings {
    members: BTreeSet<ReplicaId>,
    former: BTreeSet<ReplicaId>,
    joiners: BTreeSet<ReplicaId>,
    /// The members of a later configuration, as reported through a client port, and its number, if
    /// it was given.
    learned: BTreeSet<ReplicaId>,
    later: Option<ConfigurationId>,
}

impl Standings {
    pub(super) fn of(chain: &Chain) -> Self {
        let mut standings = Self::default();
        standings.know(chain);
        standings
    }

    /// Takes the standings from the state.
    pub(super) fn know(&mut self, chain: &Chain) {
        let ids = |members: &[Member]| members.iter().map(|member| member.replica).collect();
        self.members = ids(&chain.current.members);
        self.former = ids(&chain.former);
        self.joiners = chain.joiners.iter().map(|joiner| joiner.member.replica).collect();
        if self.later.is_some_and(|later| later <= chain.current.id) {
            self.later = None;
        }
    }

    /// Records the members that a replica reported through its client port. They are those of a
    /// later configuration if it has a number.
    pub(super) fn learn(&mut self, members: &[Member], later: Option<ConfigurationId>) {
        if later >= self.later {
            self.learned = members.iter().map(|member| member.replica).collect();
            self.later = later;
        }
    }

    /// Records a later configuration that a peer whose message counts has mentioned.
    pub(super) fn hear(&mut self, configuration: ConfigurationId, ours: ConfigurationId) {
        self.later = self.later.max(Some(configuration).filter(|theirs| *theirs > ours));
    }

    /// Forgets the later configuration: the replica that was asked does not know of one.
    pub(super) fn forget_later(&mut self) {
        self.later = None;
    }

    /// Returns the configuration that this replica was notified of and has not reached.
    pub(super) fn later(&self) -> Option<ConfigurationId> {
        self.later
    }

    /// Whether a replica was a member, and is not known to be one now.
    pub(super) fn is_former(&self, peer: ReplicaId) -> bool {
        let is_one = self.members.contains(&peer) || self.learned.contains(&peer);
        self.former.contains(&peer) && !is_one
    }

    pub(super) fn speaker(&self, peer: ReplicaId) -> Speaker {
        match peer {
            _ if self.members.contains(&peer) => Speaker::Member,
            _ if self.former.contains(&peer) || self.learned.contains(&peer) => Speaker::Elsewhere,
            _ if self.joiners.contains(&peer) => Speaker::Joiner,
            _ => Speaker::Stranger,
        }
    }
}

#[cfg(test)]
#[path = "standing/tests.rs"]
mod tests;
