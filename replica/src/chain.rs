//! Pure: which configuration a state is in, and who was a member before.
//!
//! Guarantees that a configuration follows only the one before it. Does not know why members
//! change; `engine::configuring` says when.

use kvorum_protocol::status::{Configuration, ConfigurationId, Member};
use serde::{Deserialize, Serialize};

/// The configuration that a state is in; part of the replicated state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Chain {
    /// The configuration.
    pub current: Configuration,
    /// The index after which it began: that of the stop sign of the one before.
    pub began: u64,
    /// Everybody who was a member before and is none now. They may have to be told so.
    pub former: Vec<Member>,
}

impl Chain {
    /// That of a new cluster.
    #[must_use]
    pub fn new(genesis: Configuration) -> Self {
        Self { current: genesis, began: 0, former: Vec::new() }
    }

    /// The configuration whose log has the entry at an index, and the last index that it can have.
    /// Of earlier logs only the one before is known, and only while it is there.
    #[must_use]
    pub fn log_of(&self, index: u64) -> (ConfigurationId, u64) {
        match index > self.began {
            true => (self.current.id, u64::MAX),
            false => (ConfigurationId(self.current.id.0 - 1), self.began),
        }
    }

    /// After a stop sign at an index; `None` when it does not follow this configuration: another
    /// one came first.
    #[must_use]
    pub fn next(&self, next: &Configuration, at: u64) -> Option<Self> {
        if next.id.0 != self.current.id.0 + 1 {
            return None;
        }
        let known = self.former.iter().chain(&self.current.members);
        let former = known.filter(|member| next.name_of(member.replica).is_none());
        Some(Self { current: next.clone(), began: at, former: former.cloned().collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_protocol::status::ReplicaId;

    fn configuration(id: u32, members: &[u64]) -> Configuration {
        let member = |id: &u64| Member { replica: ReplicaId(*id), name: format!("kvorum-{id}") };
        Configuration { id: ConfigurationId(id), members: members.iter().map(member).collect() }
    }

    #[test]
    fn only_the_first_stop_sign_counts() {
        let genesis = Chain::new(configuration(1, &[1, 2, 3]));
        let second = genesis.next(&configuration(2, &[2, 3]), 7).unwrap();
        assert_eq!((second.began, second.former.len()), (7, 1));
        assert_eq!(second.next(&configuration(2, &[1, 2]), 8), None);
        let third = second.next(&configuration(3, &[3, 4]), 9).unwrap();
        let former: Vec<_> = third.former.iter().map(|member| member.replica.0).collect();
        assert_eq!(former, [1, 2]);
    }
}
