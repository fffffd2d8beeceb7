//! Pure: the prediction of whether the quorum survives an act.
//!
//! A set of replicas can decide if one of those that are up is linked with enough others to form a
//! majority of all, itself included (the Omni-Paxos paper calls it quorum-connected, section 4).
//! Guarantees that the prediction follows only from what the replicas report. Does not know how
//! long an election takes.

use std::collections::BTreeSet;

use kvorum_protocol::status::Role;

use super::cluster::Cluster;

/// A replica that lags by more entries is reported as behind; under load every one lags by some.
pub const BEHIND: u64 = 500;

/// The voters, as far as they are known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Electorate {
    voters: Vec<Voter>,
    /// Broken or cut links, as pairs of positions in `voters`.
    broken: BTreeSet<(usize, usize)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Voter {
    name: String,
    is_up: bool,
}

/// The state after an act.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Consequence {
    /// Whether a replica that is acted upon is the current leader.
    pub is_leader: bool,
    /// Voters that are up afterwards.
    pub up: usize,
    /// Voters afterwards.
    pub total: usize,
    /// The number of voters needed for a majority.
    pub quorum: usize,
    /// Whether the voters can decide afterwards.
    pub keeps: bool,
    /// Whether the voters can decide now.
    pub had: bool,
    /// Replicas that are up afterwards and lag: the name and the number of entries.
    pub behind: Vec<(String, u64)>,
}

impl Electorate {
    /// Returns the voters of a cluster.
    #[must_use]
    pub fn of(cluster: &Cluster) -> Self {
        let nodes: Vec<_> = cluster.nodes().filter(|node| cluster.is_member(&node.name)).collect();
        let voter = |node: &&super::cluster::Node| Voter {
            name: node.name.clone(),
            is_up: node.is_live()
                && node
                    .status
                    .as_ref()
                    .is_some_and(|s| !matches!(s.role, Role::Outside | Role::Gathering)),
        };
        let mut broken = BTreeSet::new();
        for (place, node) in nodes.iter().enumerate().filter(|(_, node)| node.is_live()) {
            for link in node.status.iter().flat_map(|status| &status.links) {
                let peer = nodes.iter().position(|peer| peer.name == link.peer);
                if let Some(peer) = peer.filter(|_| !link.is_up || link.is_cut) {
                    broken.insert((place.min(peer), place.max(peer)));
                }
            }
        }
        Self { voters: nodes.iter().map(voter).collect(), broken }
    }

    /// Returns how many voters form a majority.
    #[must_use]
    pub fn quorum(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// Whether the voters can still decide without the given replica.
    #[must_use]
    pub fn can_decide(&self, without: Option<&str>) -> bool {
        let lives = |place: &usize| {
            let voter = &self.voters[*place];
            voter.is_up && without != Some(voter.name.as_str())
        };
        let up: Vec<usize> = (0..self.voters.len()).filter(lives).collect();
        up.iter().any(|center| {
            let carries =
                |peer: &&usize| !self.broken.contains(&(*center.min(*peer), *center.max(*peer)));
            up.iter().filter(carries).count() >= self.quorum()
        })
    }

    /// Returns how many voters are up, without the given one.
    #[must_use]
    pub fn up(&self, without: Option<&str>) -> usize {
        let counts = |v: &&Voter| v.is_up && without != Some(v.name.as_str());
        self.voters.iter().filter(counts).count()
    }

    /// Returns the same voters with one more link broken.
    #[must_use]
    pub fn with_cut(&self, node: &str, peer: &str) -> Self {
        let place = |name: &str| self.voters.iter().position(|voter| voter.name == name);
        let mut cut = self.clone();
        if let (Some(a), Some(b)) = (place(node), place(peer)) {
            cut.broken.insert((a.min(b), a.max(b)));
        }
        cut
    }

    /// Returns the first voters up to the given number, filled up with new ones.
    #[must_use]
    pub fn scaled(&self, replicas: usize) -> Self {
        let mut scaled = self.clone();
        // Voters are ordered by their ordinals; new ones count as up once they have caught up.
        scaled.voters.truncate(replicas);
        for ordinal in scaled.voters.len()..replicas {
            scaled.voters.push(Voter { name: format!("new-{ordinal}"), is_up: true });
        }
        scaled
    }
}

impl Consequence {
    /// Predicts the state after killing a replica.
    #[must_use]
    pub fn of_kill(cluster: &Cluster, node: &str) -> Self {
        let electorate = Electorate::of(cluster);
        let lags = |other: &&super::cluster::Node| other.name != node && other.is_live();
        let behind = |other: &super::cluster::Node| {
            let lag = cluster.lag(other).filter(|lag| *lag > BEHIND)?;
            Some((other.name.clone(), lag))
        };
        Self {
            is_leader: cluster.leader() == Some(node),
            up: electorate.up(Some(node)),
            total: electorate.voters.len(),
            quorum: electorate.quorum(),
            keeps: electorate.can_decide(Some(node)),
            had: electorate.can_decide(None),
            behind: cluster.nodes().filter(lags).filter_map(behind).collect(),
        }
    }

    /// Predicts the state after changing the number of replicas.
    #[must_use]
    pub fn of_scale(cluster: &Cluster, replicas: usize) -> Self {
        let electorate = Electorate::of(cluster);
        let after = electorate.scaled(replicas);
        let leaves = electorate.voters.iter().skip(replicas);
        Self {
            is_leader: leaves.clone().any(|v| cluster.leader() == Some(v.name.as_str())),
            up: after.up(None),
            total: replicas,
            quorum: after.quorum(),
            // The old majority must agree to the new configuration, and the new majority must be
            // able to go on.
            keeps: electorate.can_decide(None) && after.can_decide(None),
            had: electorate.can_decide(None),
            behind: Vec::new(),
        }
    }

    /// Predicts the state after cutting a link.
    #[must_use]
    pub fn of_cut(cluster: &Cluster, node: &str, peer: &str) -> Self {
        Self::of_cuts(cluster, &[(node.to_owned(), peer.to_owned())])
    }

    /// Predicts the state after cutting several links.
    #[must_use]
    pub fn of_cuts(cluster: &Cluster, cuts: &[(String, String)]) -> Self {
        let electorate = Electorate::of(cluster);
        let cut = |electorate: Electorate, (a, b): &(String, String)| electorate.with_cut(a, b);
        let after = cuts.iter().fold(electorate.clone(), cut);
        let ends = cuts.iter().flat_map(|(a, b)| [a, b]);
        Self {
            is_leader: ends.clone().any(|end| cluster.leader() == Some(end.as_str())),
            up: electorate.up(None),
            total: electorate.voters.len(),
            quorum: electorate.quorum(),
            keeps: after.can_decide(None),
            had: electorate.can_decide(None),
            behind: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::testing::{cluster_of, down, status_of};
    use crate::message::{Now, Observation};

    /// Checks all up and down states of 1 to 7 replicas and each victim against counting.
    #[test]
    fn the_prediction_is_right_in_every_state() {
        for total in 1..=7_usize {
            for state in 0..1_u32 << total {
                let is_up = |place: usize| state & (1 << place) != 0;
                let mut cluster = cluster_of(total);
                for place in (0..total).filter(|place| !is_up(*place)) {
                    down(&mut cluster, place);
                }
                for victim in 0..total {
                    let left = (0..total).filter(|p| *p != victim && is_up(*p)).count();
                    let told = Consequence::of_kill(&cluster, &format!("kvorum-{victim}"));
                    let now = (0..total).filter(|p| is_up(*p)).count();
                    assert_eq!(told.keeps, 2 * left > total, "{total} {state:b} {victim}");
                    assert_eq!(told.had, 2 * now > total, "{total} {state:b}");
                    assert_eq!((told.up, told.total), (left, total));
                }
            }
        }
    }

    /// The quorum-loss scenario of the Omni-Paxos paper: every replica is linked with one only.
    #[test]
    fn a_star_lives_by_its_center() {
        let mut cluster = cluster_of(5);
        for place in 0..5 {
            let mut status = status_of(5, place);
            for link in &mut status.links {
                link.is_up = place == 2 || link.peer == "kvorum-2";
            }
            cluster.observe(Now::default(), &Observation::Status(Box::new(status)));
        }
        assert!(Electorate::of(&cluster).can_decide(None), "the center sees all");
        assert!(!Consequence::of_kill(&cluster, "kvorum-2").keeps, "and nobody else does");
        assert!(Consequence::of_kill(&cluster, "kvorum-0").keeps);
        assert!(Consequence::of_kill(&cluster, "kvorum-2").had);
    }

    #[test]
    fn a_cut_counts_and_so_does_a_replica_that_may_not_vote() {
        let cluster = cluster_of(3);
        assert!(Consequence::of_cut(&cluster, "kvorum-0", "kvorum-1").keeps);
        let mut cluster = cluster_of(3);
        let mut outside = status_of(3, 1);
        outside.role = Role::Outside;
        cluster.observe(Now::default(), &Observation::Status(Box::new(outside)));
        assert!(Consequence::of_kill(&cluster, "kvorum-1").keeps);
        assert!(!Consequence::of_kill(&cluster, "kvorum-2").keeps);
        assert!(!Consequence::of_cut(&cluster, "kvorum-0", "kvorum-2").keeps);
    }

    #[test]
    fn scaling_needs_both_majorities() {
        let mut cluster = cluster_of(5);
        assert!(Consequence::of_scale(&cluster, 3).keeps);
        down(&mut cluster, 0);
        down(&mut cluster, 1);
        assert!(Consequence::of_scale(&cluster, 5).keeps);
        assert!(!Consequence::of_scale(&cluster, 3).keeps, "one of the first three is up");
        assert!(Consequence::of_scale(&cluster, 6).keeps);
    }
}
