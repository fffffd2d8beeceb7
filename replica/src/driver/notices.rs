//! What the engine reports for the replica's log.

use std::sync::atomic::Ordering;

use tracing::info;

use super::Driver;
use crate::engine::Notice;
use crate::engine::store::Store;

impl<S: Store + Clone + Send + 'static> Driver<S> {
    /// Writes a report to the log.
    pub(super) fn notice(&self, notice: &Notice) {
        match notice {
            Notice::Dropped { what } => {
                self.outlets.metrics.strange.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(what, "dropped");
            }
            Notice::Gathered => {
                let status = self.engine.status();
                info!(
                    accepted = status.accepted,
                    decided = status.decided,
                    applied = status.applied,
                    ballot = status.ballot.number,
                    "votes from here on"
                );
            }
            Notice::Linked { peer } => info!(peer, "linked"),
            Notice::LinkLost { peer } => info!(peer, "link lost"),
            Notice::Leading { ballot, accepted } => info!(ballot, accepted, "leads"),
            Notice::Deposed { ballot } => info!(ballot, "leads no more"),
            Notice::Following { leader, ballot, decided } => {
                info!(leader, ballot, decided, "follows");
            }
            Notice::Disowned { by } => {
                tracing::error!(
                    by,
                    "this replica's disk is not the one its peers remember: it must not vote"
                );
            }
            Notice::HandingOver { to } => info!(to, "hands leadership over"),
            Notice::Configuring { id, members } => info!(id, members, "proposes other members"),
            Notice::Configured { configuration } => {
                let members = configuration.members.iter().map(|member| member.name.as_str());
                let members = members.collect::<Vec<_>>().join(",");
                info!(id = configuration.id.0, members, "the members have changed");
            }
            Notice::Compacted { index } => info!(index, "the log was cut"),
            Notice::Behind { of, by } => info!(of, by, "lacks entries, and fetches them"),
            Notice::Quarantined { index } => {
                tracing::error!(index, "the state differs from the majority's: it is copied anew");
            }
            Notice::Differ { index } => {
                tracing::error!(index, "the replicas' states differ, and no majority has the same");
            }
            Notice::Copied { index, bytes } => info!(index, bytes, "the state was copied"),
        }
    }
}
