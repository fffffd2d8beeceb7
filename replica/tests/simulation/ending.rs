//! Decides whether a run may end, and describes one that never may.

use kvorum_protocol::status::ReplicaId;
use kvorum_replica::engine::store::{CopyStore, IdentityStore, StateStore};
use kvorum_replica::planner::ordinal;

use super::cluster::Cluster;
use super::node::Node;

impl Cluster {
    pub(super) fn has_converged(&self) -> bool {
        let members = self.checker.members();
        let counts = |node: &&Node| !node.lost_disk && members.contains(&node.id);
        let members_are_wanted = self.scaling.as_ref().is_none_or(|scaling| {
            let mut ordinals: Vec<_> = self.member_ordinals(members);
            ordinals.sort_unstable();
            ordinals == (0..scaling.wanted).collect::<Vec<_>>()
        });
        members_are_wanted
            && self.nodes.iter().filter(counts).all(|node| {
                let process = node.process.as_ref();
                process.is_some_and(|process| process.engine.applied() == self.checker.decided())
                    // A partial copy of a state that is no longer needed was dropped.
                    && node.disk.install().is_none()
            })
            && (!self.is_altered || self.has_healed())
    }

    /// Returns the ordinals of some replicas.
    pub(super) fn member_ordinals(&self, members: &[ReplicaId]) -> Vec<u32> {
        let nodes = self.nodes.iter().filter(|node| members.contains(&node.id));
        nodes.filter_map(|node| ordinal(&node.disk.identity().name)).collect()
    }

    /// Whether the altered state is the same everywhere again.
    fn has_healed(&self) -> bool {
        let first = &self.nodes[0].disk;
        self.nodes
            .iter()
            .all(|node| node.disk.quarantine().is_none() && node.disk.has_state_of(first))
    }

    pub(super) fn describe(&self) -> String {
        let wanted = self.scaling.as_ref().map(|scaling| scaling.wanted);
        let there = self.nodes.iter().filter(|node| !node.is_gone);
        let nodes: Vec<String> = there
            .map(|node| match &node.process {
                None => format!("{}#{} down", node.disk.identity().name, node.id.0),
                Some(process) => {
                    let status = process.engine.status();
                    let links: String =
                        status.links.iter().map(|l| if l.is_up { '+' } else { '-' }).collect();
                    format!(
                        "{}#{}{} {:?} c{} b{} d{}/a{} {links} {}{}",
                        status.name,
                        status.replica.0,
                        if node.lost_disk { " (lost)" } else { "" },
                        status.role,
                        status.configuration.id.0,
                        status.ballot.number,
                        status.decided,
                        status.accepted,
                        status.membership.waits.unwrap_or_default(),
                        status.trouble.unwrap_or_default(),
                    )
                }
            })
            .collect();
        format!(
            "{} of {} decided, members {:?} of {wanted:?}; {}",
            nodes.join("; "),
            self.checker.decided(),
            self.checker.members(),
            self.workload.describe()
        )
    }
}
