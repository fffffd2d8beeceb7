//! Pure: the cluster's marker, a record kept outside every replica's volume.
//!
//! It is created once, by the replica that begins the cluster, so that no second cluster begins
//! beside it. It names the replica that may decide alone, in a configuration of one. It records the
//! epochs that disks had reached when they could not notify all of their peers, so that a volume
//! that was restored from an older copy is detected even when no peer remembers. It also records
//! the latest configuration that has had a leader: in an earlier one nothing can be decided any
//! more, except by copies of its members' volumes.
//!
//! Guarantees nothing by itself: an orchestrator keeps it, and replaces it only if it still equals
//! the marker that a claim was judged against.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_protocol::status::{ClusterId, ConfigurationId, ReplicaId};
use serde::{Deserialize, Serialize};

use crate::state::start::Epoch;

/// The cluster's marker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Marker {
    /// The cluster that the marker belongs to.
    #[serde(with = "digits")]
    pub cluster: ClusterId,
    /// A number that was drawn by the replica that began the cluster.
    pub nonce: u64,
    /// The replica that decides alone, or was the last to do so, if there is one.
    pub solo: Option<SoleVoterClaim>,
    /// The latest configuration that has had a leader, as that leader reported; 0 before any did.
    /// Every earlier configuration is over.
    #[serde(default = "nothing")]
    pub configuration: ConfigurationId,
    /// The epochs that disks had reached when they could not notify all members, by replica.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reached: BTreeMap<ReplicaId, Reached>,
}

fn nothing() -> ConfigurationId {
    ConfigurationId(0)
}

/// The most replicas whose epochs the marker records; beyond it, those that reported longest ago
/// are forgotten. A member reports whenever another member is not linked, so those left long ago.
const REACHED_MAX: usize = 16;

/// The replica that decides alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SoleVoterClaim {
    /// The latest configuration in which it may decide.
    pub configuration: ConfigurationId,
    /// The replica's id.
    pub replica: ReplicaId,
    /// The incarnation of the start that claimed the marker.
    pub incarnation: u64,
    /// The nonce of that start.
    pub nonce: u64,
}

/// The reason why a claim on the marker is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// The cluster has gone on without this volume.
    #[error(
        "the cluster's marker names configuration {marked}, and this volume is at {claimed}: it is \
         an older copy, and writes that were acknowledged later are elsewhere; bring back the \
         newest volume, or go on with this one by `kvorum recover` (on Kubernetes: empty the \
         ConfigMap with the marker)"
    )]
    Newer {
        /// The latest configuration that the marker knows.
        marked: u32,
        /// The configuration in which the replica wanted to decide alone.
        claimed: u32,
    },
    /// Another start of the same replica has claimed the marker in between.
    #[error(
        "the cluster's marker names another start of this replica (incarnation {marked}): this \
         volume is an older copy, or is in use twice; bring back the newest volume, or go on with \
         this one by `kvorum recover` (on Kubernetes: empty the ConfigMap with the marker)"
    )]
    Forked {
        /// The marker's incarnation.
        marked: u64,
    },
    /// The marker belongs to another cluster and says nothing about this one.
    #[error(
        "the cluster's marker names cluster {marked}, and this replica is one of cluster {own}: \
         two clusters have begun at one place, and while one marker stands for both, nobody \
         decides alone in this one; if it is the one to stay, remove the volumes and replicas of \
         the other one, and then the marker (on Kubernetes: empty its ConfigMap), which is made \
         anew"
    )]
    OtherCluster {
        /// The cluster that the marker names.
        marked: ClusterId,
        /// The cluster that the replica's volume belongs to.
        own: ClusterId,
    },
}

/// The epoch that a replica's disk had reached when it last reported to the marker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reached {
    /// The latest report.
    #[serde(flatten)]
    pub told: Report,
    /// A counter that rises with each replica that reports: the latest reporter has the highest.
    #[serde(default)]
    pub turn: u64,
    /// The last report of an earlier start. It is restored if the start that replaced it turns out
    /// to run on a copy of the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Report>,
}

/// The report of one start of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The start's incarnation.
    pub incarnation: u64,
    /// The start's nonce.
    pub nonce: u64,
    /// The epoch that the disk had reached.
    pub epoch: Epoch,
}

/// The update that a replica wants to make to the marker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mark {
    /// The configuration in which it wants to decide alone, if it does.
    pub solo: Option<ConfigurationId>,
    /// The configuration in which it leads, if a majority of its members has its beginning.
    pub leads: Option<ConfigurationId>,
    /// The epoch of its disk, which is durable.
    pub epoch: Epoch,
    /// Set when a peer remembers more of this disk than it holds: the reports of this start do not
    /// count.
    pub withdraws: bool,
}

/// A replica's report to the marker together with its request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// The cluster that the replica's volume belongs to.
    pub cluster: ClusterId,
    /// The replica's id.
    pub replica: ReplicaId,
    /// The incarnation of the current start.
    pub incarnation: u64,
    /// The nonce of the current start.
    pub nonce: u64,
    /// The configuration that its disk is in.
    pub chain: ConfigurationId,
    /// The update to make.
    pub mark: Mark,
}

/// One of a volume's starts, as recorded on the volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Past {
    /// The start's nonce.
    pub nonce: u64,
    /// The epoch in which its writes end on the volume; for the current start, later than every
    /// epoch.
    pub until: Epoch,
}

/// A volume's own starts among those that the marker names, by incarnation.
pub type History = BTreeMap<u64, Past>;

impl Marker {
    /// Returns the marker of a new cluster.
    #[must_use]
    pub fn new(cluster: ClusterId, nonce: u64) -> Self {
        let configuration = nothing();
        Self { cluster, nonce, solo: None, configuration, reached: BTreeMap::new() }
    }

    /// Returns the latest configuration in which something may have been decided. A replica that
    /// decides alone is named here in the next configuration before it decides the stop sign that
    /// begins it.
    fn latest(&self) -> ConfigurationId {
        self.solo.map_or(self.configuration, |solo| solo.configuration.max(self.configuration))
    }

    /// Returns the latest configuration that has had a leader, if it is later than the given one,
    /// which is then over.
    #[must_use]
    pub fn after(&self, configuration: ConfigurationId) -> Option<ConfigurationId> {
        Some(self.configuration).filter(|latest| *latest > configuration)
    }

    /// Returns the incarnations by which a replica's claims are judged: its volume must have them.
    #[must_use]
    pub fn names(&self, replica: ReplicaId) -> BTreeSet<u64> {
        let solo = self.solo.filter(|solo| solo.replica == replica);
        let reached = self.reached.get(&replica).map(|reached| reached.told.incarnation);
        solo.map(|solo| solo.incarnation).into_iter().chain(reached).collect()
    }

    /// Judges a replica's claim by its volume's history of the starts that the marker
    /// [names](Self::names). Returns the marker to write.
    ///
    /// # Errors
    /// The reason why the claim is refused.
    pub fn claim(&self, claim: Claim, history: &History) -> Result<Self, Refused> {
        self.check_cluster(claim)?;
        let Claim { replica, incarnation, nonce, mark, .. } = claim;
        if mark.withdraws {
            return Ok(self.without(claim));
        }
        if let Some(claimed) = mark.solo.filter(|claimed| *claimed < self.latest()) {
            return Err(Refused::Newer { marked: self.latest().0, claimed: claimed.0 });
        }
        if let Some((named, claimed)) = self.solo.zip(mark.solo) {
            let continues = claim.replica == named.replica
                && claim.incarnation >= named.incarnation
                && history.get(&named.incarnation).is_some_and(|had| had.nonce == named.nonce);
            if claimed == named.configuration && !continues {
                return Err(Refused::Forked { marked: named.incarnation });
            }
        }
        self.check_reach(claim, history)?;
        let solo = mark.solo.map(|configuration| SoleVoterClaim {
            configuration,
            replica,
            incarnation,
            nonce,
        });
        let configuration = self.configuration.max(mark.leads.unwrap_or(nothing()));
        let mut next = Self { solo: solo.or(self.solo), configuration, ..self.clone() };
        // The reports of one start may arrive out of order.
        let latest = self.reached.get(&replica);
        let own = latest.filter(|latest| latest.told.incarnation == incarnation);
        let before = own.map_or(latest.map(|latest| latest.told), |own| own.before);
        let epoch = own.map_or(mark.epoch, |own| own.told.epoch.max(mark.epoch));
        let last = self.reached.values().map(|told| told.turn).max().unwrap_or(0);
        // The latest reporter keeps its turn, so that its repeated reports do not change the
        // marker.
        let turn = own.filter(|own| own.turn == last).map_or(last.saturating_add(1), |t| t.turn);
        let told = Report { incarnation, nonce, epoch };
        next.reached.insert(replica, Reached { told, turn, before });
        next.forget_longest_ago(replica);
        Ok(next)
    }

    /// Returns the marker without the reports of one start, which is a copy's. The volume itself,
    /// once it is back, has what was reported before. Reports of other starts in the copy's history
    /// stay: they may be the volume's own.
    fn without(&self, claim: Claim) -> Self {
        let mut next = self.clone();
        let Some(reached) = next.reached.get(&claim.replica).copied() else { return next };
        if (reached.told.incarnation, reached.told.nonce) == (claim.incarnation, claim.nonce) {
            next.reached.remove(&claim.replica);
            let before = reached.before.map(|told| Reached { told, before: None, ..reached });
            next.reached.extend(before.map(|before| (claim.replica, before)));
        }
        next
    }

    /// Bounds the marker's size: the replica that reported longest ago has left, or reports again
    /// when it matters.
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

    fn check_cluster(&self, claim: Claim) -> Result<(), Refused> {
        match self.cluster == claim.cluster {
            true => Ok(()),
            false => Err(Refused::OtherCluster { marked: self.cluster, own: claim.cluster }),
        }
    }

    /// Checks that a volume continues what was reported to the marker about it.
    ///
    /// # Errors
    /// When the volume is an older copy, or another start of the same volume has reported since;
    /// and when the marker belongs to another cluster, whose replicas may have the same ids.
    pub fn check_reach(&self, claim: Claim, history: &History) -> Result<(), Refused> {
        self.check_cluster(claim)?;
        let Some(Reached { told, .. }) = self.reached.get(&claim.replica) else { return Ok(()) };
        // A copy continues with epochs and starts of its own. What counts is whether it has every
        // write of the start that reported, never how far it has got since.
        let has_all = |had: &Past| had.nonce == told.nonce && told.epoch <= had.until;
        let continues = claim.incarnation >= told.incarnation
            && history.get(&told.incarnation).is_some_and(has_all);
        match continues {
            true => Ok(()),
            false => Err(Refused::Forked { marked: told.incarnation }),
        }
    }
}

/// A cluster's id as the digits that are shown to users: JSON has no numbers of that size.
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

    /// Returns a claim of replica 1 to decide alone.
    fn claim(configuration: u32, incarnation: u64, nonce: u64) -> Claim {
        Claim {
            cluster: CLUSTER,
            replica: ReplicaId(1),
            incarnation,
            nonce,
            chain: ConfigurationId(configuration),
            mark: Mark {
                solo: Some(ConfigurationId(configuration)),
                leads: None,
                epoch: Epoch(incarnation * 10 + 1),
                withdraws: false,
            },
        }
    }

    /// Returns the same claim with another epoch.
    fn at(epoch: u64, claim: Claim) -> Claim {
        Claim { mark: Mark { epoch: Epoch(epoch), ..claim.mark }, ..claim }
    }

    /// Returns the same claim with another configuration in which to decide alone.
    fn wants(solo: Option<ConfigurationId>, claim: Claim) -> Claim {
        Claim { mark: Mark { solo, ..claim.mark }, ..claim }
    }

    /// Returns a claim together with its volume's history: its own start, and earlier ones by
    /// incarnation, nonce and end.
    fn with(earlier: &[(u64, u64, u64)], claim: Claim) -> (Claim, History) {
        let past = |(incarnation, nonce, until)| (incarnation, Past { nonce, until: Epoch(until) });
        let own = (claim.incarnation, claim.nonce, u64::MAX);
        (claim, earlier.iter().copied().chain([own]).map(past).collect())
    }

    fn judge(marker: &Marker, (claim, history): &(Claim, History)) -> Result<Marker, Refused> {
        marker.claim(*claim, history)
    }

    /// A marker that was lost and created anew learns the configuration from the leader.
    #[test]
    fn nobody_decides_alone_before_the_latest_configuration() {
        let mut leader = wants(None, Claim { replica: ReplicaId(2), ..claim(3, 1, 5) });
        leader.mark.leads = Some(ConfigurationId(3));
        let marker = judge(&Marker::new(CLUSTER, 1), &with(&[], leader)).unwrap();
        let copy = judge(&marker, &with(&[(1, 10, 15)], claim(1, 2, 20)));
        assert_eq!(copy, Err(Refused::Newer { marked: 3, claimed: 1 }));
        leader.mark.leads = None;
        let later = judge(&marker, &with(&[], leader)).unwrap();
        assert_eq!(later.latest(), ConfigurationId(3), "it is not forgotten");
        let alone = judge(&marker, &with(&[], claim(4, 1, 10))).unwrap();
        assert_eq!(alone.latest(), ConfigurationId(4));
    }

    #[test]
    fn only_who_continues_decides_alone() {
        let marker = Marker::new(CLUSTER, 1);
        let first = with(&[], claim(1, 1, 10));
        let marker = judge(&marker, &first).unwrap();
        assert!(judge(&marker, &first).is_ok(), "the same start");
        let marker = judge(&marker, &with(&[(1, 10, 11)], claim(1, 2, 20))).unwrap();
        let copy = judge(&marker, &with(&[(1, 10, 11)], claim(1, 2, 30)));
        assert_eq!(copy, Err(Refused::Forked { marked: 2 }), "a copy of incarnation 1");
        assert_eq!(judge(&marker, &first), Err(Refused::Forked { marked: 2 }));
        let marker = judge(&marker, &with(&[(1, 10, 11)], claim(2, 2, 20))).unwrap();
        let left = judge(&marker, &with(&[(2, 20, 21)], claim(1, 3, 40)));
        assert_eq!(left, Err(Refused::Newer { marked: 2, claimed: 1 }), "others decide by now");
    }

    /// Replicas of different clusters may have the same ids.
    #[test]
    fn a_marker_knows_nothing_of_another_cluster() {
        let own = ClusterId(8);
        let marker = judge(&Marker::new(CLUSTER, 1), &with(&[], claim(1, 1, 10))).unwrap();
        let (claim, history) = with(&[], claim(1, 1, 99));
        let claim = Claim { cluster: own, ..claim };
        let refused = Refused::OtherCluster { marked: CLUSTER, own };
        assert_eq!(marker.check_reach(claim, &history), Err(refused.clone()));
        assert_eq!(marker.claim(claim, &history), Err(refused.clone()));
        let withdraws = Claim { mark: Mark { withdraws: true, ..claim.mark }, ..claim };
        assert_eq!(marker.claim(withdraws, &history), Err(refused));
    }

    /// A copy of the current start has its nonce, but lacks what was written since. It may have
    /// been started many times by now, and may be in an epoch that is as late as any.
    #[test]
    fn a_copy_of_the_current_start_is_refused_however_often_it_starts() {
        let marker = judge(&Marker::new(CLUSTER, 1), &with(&[], claim(1, 1, 10))).unwrap();
        let marker = judge(&marker, &with(&[], at(15, claim(1, 1, 10)))).unwrap();
        let copies = [
            with(&[(1, 10, 12)], claim(1, 2, 20)),
            with(&[(1, 10, 12), (2, 20, 40)], at(50, claim(1, 3, 30))),
            with(&[(1, 11, 90)], claim(1, 2, 20)),
        ];
        for (copy, history) in copies {
            for configuration in [Some(ConfigurationId(1)), Some(ConfigurationId(5)), None] {
                let told = judge(&marker, &(wants(configuration, copy), history.clone()));
                assert_eq!(told, Err(Refused::Forked { marked: 1 }), "{copy:?} {configuration:?}");
            }
        }
        for whole in [
            with(&[(1, 10, 15)], claim(1, 2, 20)),
            with(&[(1, 10, 15), (2, 20, 16)], claim(1, 3, 30)),
        ] {
            assert!(judge(&marker, &whole).is_ok(), "{whole:?}");
        }
    }

    /// Two copies among three members accept each other and report to the marker, until the third
    /// detects that they are copies.
    #[test]
    fn what_a_copy_told_is_withdrawn() {
        let whole = |incarnation, nonce, earlier: &[_]| {
            with(earlier, wants(None, claim(1, incarnation, nonce)))
        };
        let marker = judge(&Marker::new(CLUSTER, 1), &whole(1, 10, &[])).unwrap();
        let copy = whole(2, 77, &[(1, 10, 11)]);
        let misled = judge(&marker, &copy).unwrap();
        let back = whole(2, 20, &[(1, 10, 15)]);
        assert_eq!(judge(&misled, &back), Err(Refused::Forked { marked: 2 }));
        let withdraw = |(claim, history): &(Claim, History)| {
            let mark = Mark { withdraws: true, ..claim.mark };
            (Claim { mark, ..*claim }, history.clone())
        };
        let mended = judge(&misled, &withdraw(&copy)).unwrap();
        let told = |marker: &Marker| marker.reached[&ReplicaId(1)].told;
        assert_eq!((told(&mended), told(&mended) == told(&misled)), (told(&marker), false));
        assert!(judge(&mended, &back).is_ok());
        let later = judge(&mended, &back).unwrap();
        assert_eq!(judge(&later, &withdraw(&copy)).as_ref(), Ok(&later), "it told nothing");
        // A copy of all that the marker knows has the reporting starts too: they are the volume's.
        let fresh = withdraw(&whole(3, 78, &[(1, 10, 15), (2, 20, 30)]));
        assert_eq!(judge(&later, &fresh).as_ref(), Ok(&later), "the volume's own report stays");
        let none = judge(&marker, &withdraw(&whole(1, 10, &[]))).unwrap();
        assert!(none.reached.is_empty());
    }

    #[test]
    fn an_epoch_that_arrives_late_takes_none_back() {
        let marker = [15, 12].into_iter().fold(Marker::new(CLUSTER, 1), |marker, epoch| {
            judge(&marker, &with(&[], at(epoch, claim(1, 1, 10)))).unwrap()
        });
        let (copy, history) = with(&[(1, 10, 12)], claim(1, 2, 20));
        assert_eq!(marker.check_reach(copy, &history), Err(Refused::Forked { marked: 1 }));
    }

    #[test]
    fn it_is_read_as_earlier_programs_wrote_it_and_stays_small() {
        let old = r#"{"cluster":"00000000000000000000000000000007","nonce":1,"solo":null}"#;
        let mut marker: Marker = serde_json::from_str(old).unwrap();
        assert_eq!(marker, Marker::new(CLUSTER, 1));
        let reached = r#","reached":{"3":{"incarnation":4,"nonce":5,"epoch":6}}}"#;
        let later: Marker = serde_json::from_str(&old.replace('}', reached)).unwrap();
        let told = Report { incarnation: 4, nonce: 5, epoch: Epoch(6) };
        assert_eq!(later.reached[&ReplicaId(3)], Reached { told, turn: 0, before: None });
        for replica in 1..100 {
            let claim = wants(None, Claim { replica: ReplicaId(replica), ..claim(1, 1, 1) });
            marker = judge(&marker, &with(&[], claim)).unwrap();
        }
        assert_eq!(marker.reached.len(), REACHED_MAX);
        // The oldest of all reports again, and then as many others as fit beside it.
        for replica in [1].into_iter().chain(100..100 + REACHED_MAX as u64 - 1) {
            let claim = wants(None, Claim { replica: ReplicaId(replica), ..claim(1, 1, 1) });
            let claim = with(&[], claim);
            marker = judge(&marker, &claim).unwrap();
            assert_eq!(judge(&marker, &claim).as_ref(), Ok(&marker), "told twice");
        }
        assert!(marker.reached.contains_key(&ReplicaId(1)));
        let text = serde_json::to_string(&marker).unwrap();
        assert_eq!(serde_json::from_str::<Marker>(&text).unwrap(), marker);
    }
}
