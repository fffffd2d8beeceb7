//! Pure: a cluster's chain of configurations: the current one, the former members and the joiners.
//!
//! Guarantees that a configuration follows only the one directly before it, and that a replica's id
//! is assigned only once. Does not know why members change; `engine::configuring` decides when.

use kvorum_protocol::status::{Configuration, ConfigurationId, Member, ReplicaId};
use serde::{Deserialize, Serialize};

/// The most former members that are remembered; beyond it, the oldest are forgotten. They are kept
/// so that they can be notified that they left. A former member that is forgotten before that
/// notices it because no peer talks to it any more.
const FORMER_MAX: usize = 16;

/// The most joiners that are remembered; beyond it, the oldest are forgotten and have to ask for
/// another id.
const JOINERS_MAX: usize = 16;

/// A replica that has an id and becomes a member once it has the state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Joiner {
    /// The joiner's id and name.
    pub member: Member,
    /// A number that the joiner drew when it asked for an id. It gets the same id when it asks
    /// again.
    pub nonce: u64,
}

/// A replica's role in a configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// A member: it votes.
    Member,
    /// A joiner: it copies the state and then becomes a member.
    Joiner,
    /// A former member: its id never votes again.
    Retired,
}

/// The current configuration and what is remembered around it; part of the replicated state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Chain {
    /// The current configuration.
    pub current: Configuration,
    /// The index after which it began: the index of the previous configuration's stop sign.
    pub began: u64,
    /// Former members. They may have to be notified that they left.
    pub former: Vec<Member>,
    /// The replicas that are to become members.
    pub joiners: Vec<Joiner>,
    /// The id that the next joiner gets.
    pub next_replica: ReplicaId,
}

impl Chain {
    /// The longer of the two bounds on `former` and `joiners`.
    pub const OTHERS_MAX: usize = if FORMER_MAX > JOINERS_MAX { FORMER_MAX } else { JOINERS_MAX };

    /// Returns the chain of a new cluster.
    #[must_use]
    pub fn new(genesis: Configuration) -> Self {
        let last = genesis.members.iter().map(|member| member.replica.0).max().unwrap_or(0);
        let (former, joiners) = (Vec::new(), Vec::new());
        let next_replica = ReplicaId(last + 1);
        Self { current: genesis, began: 0, former, joiners, next_replica }
    }

    /// Returns the chain of a replica that was given its id and the members, and has no state yet.
    #[must_use]
    pub fn told(members: Configuration, replica: ReplicaId) -> Self {
        let chain = Self::new(members);
        match chain.current.name_of(replica) {
            Some(_) => chain,
            // A replica with a later id may have become a member before this one.
            None => Self { next_replica: replica, ..chain },
        }
    }

    /// Returns the configuration whose log has the entry at an index, and the last index that this
    /// log can have. Of the earlier logs only the previous one is known, and only while it is kept.
    #[must_use]
    pub fn log_of(&self, index: u64) -> (ConfigurationId, u64) {
        match index > self.began {
            true => (self.current.id, u64::MAX),
            false => (ConfigurationId(self.current.id.0 - 1), self.began),
        }
    }

    /// Returns a replica's role. An id that was assigned later than this chain belongs to a joiner,
    /// which does not have the state yet.
    #[must_use]
    pub fn standing(&self, replica: ReplicaId) -> Standing {
        let joins = replica >= self.next_replica
            || self.joiners.iter().any(|joiner| joiner.member.replica == replica);
        match self.current.name_of(replica) {
            Some(_) => Standing::Member,
            None if joins => Standing::Joiner,
            None => Standing::Retired,
        }
    }

    /// Returns all replicas that this one may have to talk to.
    pub fn known(&self) -> impl Iterator<Item = &Member> {
        let joiners = self.joiners.iter().map(|joiner| &joiner.member);
        self.current.members.iter().chain(joiners).chain(&self.former)
    }

    /// Returns the id that was assigned to the joiner with this nonce.
    #[must_use]
    pub fn id_of(&self, nonce: u64) -> Option<ReplicaId> {
        let joiner = self.joiners.iter().find(|joiner| joiner.nonce == nonce);
        joiner.map(|joiner| joiner.member.replica)
    }

    /// Assigns an id to a replica that has none and wants to join. For each name the last request
    /// counts: an earlier joiner of the same name has lost its volume.
    #[must_use]
    pub fn join(mut self, name: &str, nonce: u64) -> Self {
        if self.id_of(nonce).is_none() {
            self.joiners.retain(|joiner| joiner.member.name != name);
            let member = Member { replica: self.next_replica, name: name.to_owned() };
            self.next_replica.0 += 1;
            self.joiners.push(Joiner { member, nonce });
            forget_oldest(&mut self.joiners, JOINERS_MAX);
        }
        self
    }

    /// Returns the chain after a stop sign at an index; `None` when the stop sign does not follow
    /// this configuration, because another one came first.
    #[must_use]
    pub fn next(self, next: &Configuration, at: u64) -> Option<Self> {
        if next.id.0 != self.current.id.0 + 1 {
            return None;
        }
        let known = self.former.into_iter().chain(self.current.members);
        // A new member under a name replaces the earlier member of that name.
        let is_gone = |member: &Member| next.members.iter().all(|other| other.name != member.name);
        let mut former: Vec<_> = known.filter(is_gone).collect();
        forget_oldest(&mut former, FORMER_MAX);
        let mut joiners = self.joiners;
        joiners.retain(|joiner| next.name_of(joiner.member.replica).is_none());
        Some(Self { current: next.clone(), began: at, former, joiners, ..self })
    }
}

fn forget_oldest<T>(all: &mut Vec<T>, most: usize) {
    all.drain(..all.len().saturating_sub(most));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(id: u32, members: &[u64]) -> Configuration {
        let member = |id: &u64| Member { replica: ReplicaId(*id), name: format!("kvorum-{id}") };
        Configuration { id: ConfigurationId(id), members: members.iter().map(member).collect() }
    }

    #[test]
    fn only_the_first_stop_sign_counts() {
        let genesis = Chain::new(configuration(1, &[1, 2, 3]));
        let second = genesis.next(&configuration(2, &[2, 3]), 7).unwrap();
        assert_eq!((second.began, second.former.len()), (7, 1));
        assert_eq!(second.clone().next(&configuration(2, &[1, 2]), 8), None);
        let third = second.next(&configuration(3, &[3, 4]), 9).unwrap();
        let former: Vec<_> = third.former.iter().map(|member| member.replica.0).collect();
        assert_eq!(former, [1, 2]);
        assert_eq!(third.standing(ReplicaId(4)), Standing::Member);
        assert_eq!(third.standing(ReplicaId(1)), Standing::Retired);
        assert_eq!(third.standing(ReplicaId(9)), Standing::Joiner);
        let told = Chain::told(configuration(7, &[1, 9]), ReplicaId(5));
        assert_eq!(told.standing(ReplicaId(5)), Standing::Joiner, "though a later id is a member");
        let told = Chain::told(configuration(1, &[1, 2]), ReplicaId(1));
        assert_eq!((told.standing(ReplicaId(1)), told.next_replica.0), (Standing::Member, 3));
    }

    #[test]
    fn an_id_is_given_once() {
        let genesis = Chain::new(configuration(1, &[1, 2]));
        let chain = genesis.join("kvorum-3", 70).join("kvorum-4", 71).join("kvorum-3", 70);
        assert_eq!((chain.id_of(70), chain.id_of(71)), (Some(ReplicaId(3)), Some(ReplicaId(4))));
        // It lost its disk before it became a member.
        let chain = chain.join("kvorum-3", 72);
        assert_eq!((chain.id_of(70), chain.id_of(72)), (None, Some(ReplicaId(5))));
        assert_eq!(chain.standing(ReplicaId(5)), Standing::Joiner);
        let mut next = configuration(2, &[1, 2, 5]);
        next.members[2].name = "kvorum-3".to_owned();
        let chain = chain.next(&next, 9).unwrap();
        assert_eq!(chain.standing(ReplicaId(5)), Standing::Member);
        assert_eq!(chain.standing(ReplicaId(4)), Standing::Joiner);
        assert_eq!(chain.next_replica, ReplicaId(6));
    }

    #[test]
    fn what_is_remembered_of_others_is_bounded() {
        let mut chain = Chain::new(configuration(1, &[1, 2]));
        for nonce in 0..100 {
            chain = chain.join(&format!("other-{nonce}"), nonce);
        }
        assert_eq!(chain.joiners.len(), JOINERS_MAX);
        assert_eq!(chain.id_of(99), Some(ReplicaId(102)));
        for id in 2..102 {
            let next = configuration(id, &[u64::from(id), u64::from(id) + 1]);
            chain = chain.next(&next, u64::from(id)).unwrap();
        }
        assert_eq!(chain.former.len(), FORMER_MAX);
    }
}
