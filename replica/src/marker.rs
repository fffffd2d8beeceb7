//! Pure: the cluster's marker, a record outside of any replica's volume.
//!
//! It is made once, by the replica that begins the cluster; so no second cluster begins beside it.
//! And it names the replica that may decide alone, in a configuration of one, so that a volume
//! which was brought back from an older copy does not.
//!
//! Guarantees nothing by itself: an orchestrator keeps it, and replaces it only if it still is what
//! a claim was judged by.

use kvorum_protocol::status::{ClusterId, ConfigurationId, ReplicaId};
use serde::{Deserialize, Serialize};

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
}

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

impl Marker {
    /// Judges whether a replica may decide alone. `proof` is the nonce that its volume has for the
    /// incarnation that the marker names. The marker as it then has to be.
    ///
    /// # Errors
    /// Why it may not.
    pub fn claim(
        &self,
        cluster: ClusterId,
        claim: Solo,
        proof: Option<u64>,
    ) -> Result<Self, Refused> {
        if self.cluster != cluster {
            return Err(Refused::OtherCluster(self.cluster));
        }
        if let Some(named) = self.solo {
            let (marked, claimed) = (named.configuration.0, claim.configuration.0);
            if claimed < marked {
                return Err(Refused::Newer { marked, claimed });
            }
            let continues = claim.replica == named.replica
                && claim.incarnation >= named.incarnation
                && proof == Some(named.nonce);
            if claimed == marked && !continues {
                return Err(Refused::Forked { marked: named.incarnation });
            }
        }
        Ok(Self { solo: Some(claim), ..self.clone() })
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

    #[test]
    fn only_who_continues_decides_alone() {
        let cluster = ClusterId(7);
        let marker = Marker { cluster, nonce: 1, solo: None };
        let solo = |configuration, incarnation, nonce| Solo {
            configuration: ConfigurationId(configuration),
            replica: ReplicaId(1),
            incarnation,
            nonce,
        };
        let marker = marker.claim(cluster, solo(1, 1, 10), None).unwrap();
        assert!(marker.claim(cluster, solo(1, 1, 10), Some(10)).is_ok(), "the same start");
        let marker = marker.claim(cluster, solo(1, 2, 20), Some(10)).unwrap();
        let copy = marker.claim(cluster, solo(1, 2, 30), None);
        assert_eq!(copy, Err(Refused::Forked { marked: 2 }), "a copy of incarnation 1");
        let older = marker.claim(cluster, solo(1, 1, 10), Some(10));
        assert_eq!(older, Err(Refused::Forked { marked: 2 }));
        let marker = marker.claim(cluster, solo(2, 2, 20), Some(20)).unwrap();
        let left = marker.claim(cluster, solo(1, 3, 40), Some(20));
        assert_eq!(left, Err(Refused::Newer { marked: 2, claimed: 1 }), "others decide by now");
        let other = marker.claim(ClusterId(8), solo(9, 9, 9), None);
        assert_eq!(other, Err(Refused::OtherCluster(cluster)));
    }
}
