//! Pure: the cluster's marker, a record outside of any replica's volume.
//!
//! It is made once, by the replica that begins the cluster; so no second cluster begins beside it.
//! It names the replica that may decide alone, in a configuration of one, and knows how far disks
//! had got that could not tell all of their peers; so a volume that was brought back from an older
//! copy is told apart even when nobody else remembers. It knows the latest configuration that has
//! a leader, too: in an earlier one nothing can be decided any more, but by copies of its members'
//! volumes.
//!
//! Guarantees nothing by itself: an orchestrator keeps it, and replaces it only if it still is what
//! a claim was judged by.

use std::collections::BTreeMap;

use kvorum_protocol::status::{ClusterId, ConfigurationId, ReplicaId};
use serde::{Deserialize, Serialize};

use crate::start::Epoch;

/// The marker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Marker {
    /// The cluster.
    #[serde(with = "digits")]
    pub cluster: ClusterId,
    /// Drawn by the replica that began it.
    pub nonce: u64,
    /// Who decides alone, or did last.
    pub solo: Option<Solo>,
    /// The latest configuration that has had a leader, as one told; 0 before any did. Every earlier
    /// one is over.
    #[serde(default = "nothing")]
    pub configuration: ConfigurationId,
    /// How far disks had got that could not tell all members, by replica.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reached: BTreeMap<ReplicaId, Reached>,
}

fn nothing() -> ConfigurationId {
    ConfigurationId(0)
}

/// Replicas of which the marker knows how far they got; of more, those that told longest ago are
/// forgotten. A member tells whenever another one is not linked, so they left long ago.
const REACHED_MAX: usize = 16;

/// Who decides alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Solo {
    /// In which configuration.
    pub configuration: ConfigurationId,
    /// Who.
    pub replica: ReplicaId,
    /// Which of its starts.
    pub incarnation: u64,
    /// That start's nonce.
    pub nonce: u64,
}

/// Why a replica may not decide alone.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// The cluster has gone on without this volume.
    #[error(
        "the cluster's marker names configuration {marked}, and this volume is at {claimed}: it is \
         an older copy, and writes that were acknowledged later are elsewhere; bring back the \
         newest volume, or go on with this one by `kvorum recover` (on Kubernetes: remove the \
         ConfigMap with the marker)"
    )]
    Newer {
        /// The marker's.
        marked: u32,
        /// The volume's.
        claimed: u32,
    },
    /// Another start of the same replica came in between.
    #[error(
        "the cluster's marker names another start of this replica (incarnation {marked}): this \
         volume is an older copy, or is in use twice; bring back the newest volume, or go on with \
         this one by `kvorum recover` (on Kubernetes: remove the ConfigMap with the marker)"
    )]
    Forked {
        /// The marker's incarnation.
        marked: u64,
    },
    /// The marker is another cluster's.
    #[error("the marker is that of cluster {0}: this volume belongs to another one")]
    OtherCluster(ClusterId),
}

/// How far a replica's disk had got when the marker was told last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reached {
    /// Which of its starts told.
    pub incarnation: u64,
    /// That start's nonce.
    pub nonce: u64,
    /// The epoch of the disk.
    pub epoch: Epoch,
    /// Rises with each replica that tells: who told last has the highest.
    #[serde(default)]
    pub turn: u64,
}

/// What a replica wants the marker to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mark {
    /// The configuration in which it wants to decide alone, if it does.
    pub solo: Option<ConfigurationId>,
    /// The configuration in which it leads, if a majority of that has its beginning.
    pub leads: Option<ConfigurationId>,
    /// The epoch of its disk, which is durable.
    pub epoch: Epoch,
}

/// What a replica tells the marker, and asks of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Who.
    pub replica: ReplicaId,
    /// Which of its starts.
    pub incarnation: u64,
    /// That start's nonce.
    pub nonce: u64,
    /// The epoch in which the writes ended that this start found on its disk.
    pub began: Epoch,
    /// The configuration that its disk is in.
    pub chain: ConfigurationId,
    /// What the marker is to know.
    pub mark: Mark,
}

impl Marker {
    /// That of a cluster which begins.
    #[must_use]
    pub fn new(cluster: ClusterId, nonce: u64) -> Self {
        let configuration = nothing();
        Self { cluster, nonce, solo: None, configuration, reached: BTreeMap::new() }
    }

    /// The latest configuration in which something may have been decided. A replica alone that
    /// decides who comes next is named in that configuration before.
    fn latest(&self) -> ConfigurationId {
        self.solo.map_or(self.configuration, |solo| solo.configuration.max(self.configuration))
    }

    /// Judges what a replica asks for. `proof` is the nonce that its volume has for the incarnation
    /// that the marker names. The marker as it then has to be.
    ///
    /// # Errors
    /// Why it must not be.
    pub fn claim(
        &self,
        cluster: ClusterId,
        claim: Claim,
        proof: Option<u64>,
    ) -> Result<Self, Refused> {
        if self.cluster != cluster {
            return Err(Refused::OtherCluster(self.cluster));
        }
        let Claim { replica, incarnation, nonce, mark, .. } = claim;
        if let Some(claimed) = mark.solo.filter(|claimed| *claimed < self.latest()) {
            return Err(Refused::Newer { marked: self.latest().0, claimed: claimed.0 });
        }
        if let Some((named, claimed)) = self.solo.zip(mark.solo) {
            let continues = claim.replica == named.replica
                && claim.incarnation >= named.incarnation
                && proof == Some(named.nonce);
            if claimed == named.configuration && !continues {
                return Err(Refused::Forked { marked: named.incarnation });
            }
        }
        self.check_reach(claim)?;
        let solo =
            mark.solo.map(|configuration| Solo { configuration, replica, incarnation, nonce });
        let configuration = self.configuration.max(mark.leads.unwrap_or(nothing()));
        let mut next = Self { solo: solo.or(self.solo), configuration, ..self.clone() };
        // What a start told first may arrive last.
        let told = self.reached.get(&replica).filter(|told| told.incarnation == incarnation);
        let epoch = told.map_or(mark.epoch, |told| told.epoch.max(mark.epoch));
        let last = self.reached.values().map(|told| told.turn).max().unwrap_or(0);
        // Who was the last keeps its turn, lest the marker change each time that it tells.
        let turn = told.filter(|told| told.turn == last).map_or(last.saturating_add(1), |t| t.turn);
        next.reached.insert(replica, Reached { incarnation, nonce, epoch, turn });
        next.forget_longest_ago(replica);
        Ok(next)
    }

    /// Keeps it small: who told longest ago left, or is told of again when it matters.
    fn forget_longest_ago(&mut self, claimant: ReplicaId) {
        while self.reached.len() > REACHED_MAX {
            let keeps = |replica: ReplicaId| {
                replica == claimant || self.solo.is_some_and(|solo| solo.replica == replica)
            };
            let others = self.reached.iter().filter(|(replica, _)| !keeps(**replica));
            let first = others.min_by_key(|(_, told)| told.turn).map(|(replica, _)| *replica);
            let Some(first) = first else { return };
            self.reached.remove(&first);
        }
    }

    /// Whether a volume continues what the marker was told of it.
    ///
    /// # Errors
    /// When it is an older copy, or another start of the same volume told the marker since.
    pub fn check_reach(&self, claim: Claim) -> Result<(), Refused> {
        let Some(told) = self.reached.get(&claim.replica) else { return Ok(()) };
        let is_same = told.incarnation == claim.incarnation && told.nonce == claim.nonce;
        let is_later = told.incarnation < claim.incarnation && told.epoch <= claim.began;
        match is_same || is_later {
            true => Ok(()),
            false => Err(Refused::Forked { marked: told.incarnation }),
        }
    }
}

/// A cluster's id as the digits that people see: JSON has no numbers of that size.
mod digits {
    use super::ClusterId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(id: &ClusterId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(deserializer: D) -> Result<ClusterId, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId(7);

    /// A claim of replica 1 to decide alone.
    fn claim(configuration: u32, incarnation: u64, nonce: u64) -> Claim {
        Claim {
            replica: ReplicaId(1),
            incarnation,
            nonce,
            began: Epoch(incarnation * 10),
            chain: ConfigurationId(configuration),
            mark: Mark {
                solo: Some(ConfigurationId(configuration)),
                leads: None,
                epoch: Epoch(incarnation * 10 + 1),
            },
        }
    }

    /// The same with an epoch.
    fn at(epoch: u64, claim: Claim) -> Claim {
        Claim { mark: Mark { epoch: Epoch(epoch), ..claim.mark }, ..claim }
    }

    /// The same with other wishes to decide alone.
    fn wants(solo: Option<ConfigurationId>, claim: Claim) -> Claim {
        Claim { mark: Mark { solo, ..claim.mark }, ..claim }
    }

    /// A marker that was lost and made anew is told by the leader.
    #[test]
    fn nobody_decides_alone_before_the_latest_configuration() {
        let mut leader = wants(None, Claim { replica: ReplicaId(2), ..claim(3, 1, 5) });
        leader.mark.leads = Some(ConfigurationId(3));
        let marker = Marker::new(CLUSTER, 1).claim(CLUSTER, leader, None).unwrap();
        let copy = marker.claim(CLUSTER, claim(1, 2, 20), None);
        assert_eq!(copy, Err(Refused::Newer { marked: 3, claimed: 1 }));
        leader.mark.leads = None;
        let later = marker.claim(CLUSTER, leader, None).unwrap();
        assert_eq!(later.latest(), ConfigurationId(3), "it is not forgotten");
        let alone = marker.claim(CLUSTER, claim(4, 1, 10), None).unwrap();
        assert_eq!(alone.latest(), ConfigurationId(4));
    }

    #[test]
    fn only_who_continues_decides_alone() {
        let marker = Marker::new(CLUSTER, 1);
        let marker = marker.claim(CLUSTER, claim(1, 1, 10), None).unwrap();
        assert!(marker.claim(CLUSTER, claim(1, 1, 10), Some(10)).is_ok(), "the same start");
        let marker = marker.claim(CLUSTER, claim(1, 2, 20), Some(10)).unwrap();
        let copy = marker.claim(CLUSTER, claim(1, 2, 30), None);
        assert_eq!(copy, Err(Refused::Forked { marked: 2 }), "a copy of incarnation 1");
        let older = marker.claim(CLUSTER, claim(1, 1, 10), Some(10));
        assert_eq!(older, Err(Refused::Forked { marked: 2 }));
        let marker = marker.claim(CLUSTER, claim(2, 2, 20), Some(20)).unwrap();
        let left = marker.claim(CLUSTER, claim(1, 3, 40), Some(20));
        assert_eq!(left, Err(Refused::Newer { marked: 2, claimed: 1 }), "others decide by now");
        let other = marker.claim(ClusterId(8), claim(9, 9, 99), None);
        assert_eq!(other, Err(Refused::OtherCluster(CLUSTER)));
    }

    /// A copy of the current start has its nonce, and lacks what was written since.
    #[test]
    fn a_copy_of_the_current_start_is_refused() {
        let marker = Marker::new(CLUSTER, 1);
        let marker = marker.claim(CLUSTER, claim(1, 1, 10), None).unwrap();
        let later = at(15, claim(1, 1, 10));
        let marker = marker.claim(CLUSTER, later, Some(10)).unwrap();
        let copy = Claim { began: Epoch(12), ..claim(1, 2, 20) };
        for configuration in [Some(ConfigurationId(1)), Some(ConfigurationId(5)), None] {
            let told = marker.claim(CLUSTER, wants(configuration, copy), Some(10));
            assert_eq!(told, Err(Refused::Forked { marked: 1 }), "{configuration:?}");
        }
        let whole = Claim { began: Epoch(15), ..copy };
        assert!(marker.claim(CLUSTER, whole, Some(10)).is_ok());
    }

    #[test]
    fn an_epoch_that_arrives_late_takes_none_back() {
        let marker = [15, 12].into_iter().fold(Marker::new(CLUSTER, 1), |marker, epoch| {
            marker.claim(CLUSTER, at(epoch, claim(1, 1, 10)), Some(10)).unwrap()
        });
        let copy = Claim { began: Epoch(12), ..claim(1, 2, 20) };
        assert_eq!(marker.check_reach(copy), Err(Refused::Forked { marked: 1 }));
    }

    #[test]
    fn it_is_read_as_earlier_programs_wrote_it_and_stays_small() {
        let old = r#"{"cluster":"00000000000000000000000000000007","nonce":1,"solo":null}"#;
        let mut marker: Marker = serde_json::from_str(old).unwrap();
        assert_eq!(marker, Marker::new(CLUSTER, 1));
        for replica in 1..100 {
            let claim = wants(None, Claim { replica: ReplicaId(replica), ..claim(1, 1, 1) });
            marker = marker.claim(CLUSTER, claim, None).unwrap();
        }
        assert_eq!(marker.reached.len(), REACHED_MAX);
        // The oldest of all tells again, and then so many others as fit beside it.
        for replica in [1].into_iter().chain(100..100 + REACHED_MAX as u64 - 1) {
            let claim = wants(None, Claim { replica: ReplicaId(replica), ..claim(1, 1, 1) });
            marker = marker.claim(CLUSTER, claim, None).unwrap();
            assert_eq!(marker.claim(CLUSTER, claim, None).as_ref(), Ok(&marker), "told twice");
        }
        assert!(marker.reached.contains_key(&ReplicaId(1)));
        let text = serde_json::to_string(&marker).unwrap();
        assert_eq!(serde_json::from_str::<Marker>(&text).unwrap(), marker);
    }
}
