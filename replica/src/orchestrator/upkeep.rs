//! Keeps the cluster's marker in its place for as long as the cluster lives.
//!
//! Guarantees that a lost marker is created anew by the leader, within
//! [`marker_interval`](Orchestrator::marker_interval), and at once when a replica asks to join;
//! that its contents are reported again, also when an older marker was put back; that a marker
//! which names another cluster is never touched; and that operators are notified. The contents are
//! reported by the [writer](super::MarkerWriter).
//!
//! Only a ready leader creates it: a replica of a cluster that never served must not put its own
//! marker in the place of one that an operator has just removed.

use std::sync::Arc;

use kvorum_protocol::status::{ClusterId, Role, Status};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::warn;

use super::{ClusterEvent, Orchestrator, OrchestratorError, Scale, mark};
use crate::driver::ControlEvent;
use crate::engine::{Input, Verdict};
use crate::marker::Mark;

/// A task that keeps the marker of one cluster in its place.
pub struct Upkeep {
    /// The orchestrator that keeps the marker.
    pub orchestrator: Orchestrator,
    /// The cluster's id.
    pub cluster: ClusterId,
    /// This replica's name.
    pub name: String,
    /// This replica's latest status.
    pub status: watch::Receiver<Option<Arc<Status>>>,
    /// This replica's driver.
    pub driver: mpsc::Sender<ControlEvent>,
}

/// The result of a check of the marker.
#[derive(PartialEq, Eq, Debug)]
enum MarkerState {
    /// The marker is there.
    There,
    /// The marker was gone, and was created anew.
    Made,
    /// The marker names another cluster.
    Other(ClusterId),
}

impl Upkeep {
    /// Runs until the replica ends.
    pub async fn keep(mut self) {
        let (mut joiners, mut said) = (Vec::new(), None);
        loop {
            tokio::select! {
                () = sleep(self.orchestrator.marker_interval()) => {}
                ended = somebody_joins(&mut self.status, &mut joiners) => if ended {
                    return;
                },
            }
            let leads = |status: &Status| status.role == Role::Leader && status.is_ready;
            if !self.status.borrow().as_ref().is_some_and(|status| leads(status)) {
                said = None;
                continue;
            }
            let what = self.explain(&self.look().await);
            if what != said
                && let Some(note) = &what
            {
                self.tell(note.clone()).await;
            }
            said = what;
        }
    }

    async fn look(&self) -> Result<MarkerState, OrchestratorError> {
        let is_gone = self.orchestrator.marker().await?.is_none();
        if is_gone {
            // An operator who removes a cluster removes its marker too, while the cluster is still
            // ending.
            match self.orchestrator.wanted().await {
                Ok(Scale { replicas: 0, .. }) => return Ok(MarkerState::There),
                Err(OrchestratorError::Gone(why)) => return Err(OrchestratorError::Gone(why)),
                _ => {}
            }
        }
        let marked = mark(&self.orchestrator, self.cluster).await?;
        let own = self.status.borrow().as_ref().map(|status| status.configuration.id);
        if marked.cluster == self.cluster && own > Some(marked.configuration) {
            // Created anew, or put back: its contents have to be reported again.
            let input = Input::Marked { mark: Mark::default(), verdict: Verdict::Lost };
            let _ = self.driver.send(ControlEvent::Input(input)).await;
        }
        Ok(match (marked.cluster == self.cluster, is_gone) {
            (false, _) => MarkerState::Other(marked.cluster),
            (true, true) => MarkerState::Made,
            (true, false) => MarkerState::There,
        })
    }

    /// Returns the message for operators about a check, if one is due.
    fn explain(&self, seen: &Result<MarkerState, OrchestratorError>) -> Option<String> {
        let (place, cluster) = (self.orchestrator.marker_place(), self.cluster);
        match seen {
            Ok(MarkerState::There) => None,
            Ok(MarkerState::Made) => Some(format!(
                "the cluster's marker, {place}, was gone, and is made anew; without it, a replica \
                 that loses its volume could begin another cluster"
            )),
            Ok(MarkerState::Other(other)) => Some(format!(
                "the marker, {place}, names cluster {other}, and the replicas here serve cluster \
                 {cluster}: two clusters have begun at one place. If this one is to stay, remove \
                 the volumes and replicas of the other one, and then the marker (on Kubernetes: \
                 empty its ConfigMap), which is made anew"
            )),
            Err(error) => Some(format!(
                "the cluster's marker, {place}, cannot be kept, and without it a replica that \
                 loses its volume could begin another cluster: {error}"
            )),
        }
    }

    async fn tell(&self, note: String) {
        warn!("{note}");
        if let Some(recorder) = self.orchestrator.recorder(&self.name) {
            recorder
                .tell(ClusterEvent { is_warning: true, reason: "Marker", note, name: None })
                .await;
        }
    }
}

/// Waits until a replica asks to join that did not before; returns whether this replica ended
/// instead.
async fn somebody_joins(
    status: &mut watch::Receiver<Option<Arc<Status>>>,
    known: &mut Vec<String>,
) -> bool {
    loop {
        if status.changed().await.is_err() {
            return true;
        }
        let now = status.borrow_and_update().clone();
        let joiners = now.iter().flat_map(|status| &status.membership.joiners);
        let joiners: Vec<_> = joiners.map(|joiner| joiner.name.clone()).collect();
        let is_news = joiners.iter().any(|name| !known.contains(name));
        *known = joiners;
        if is_news {
            return false;
        }
    }
}
