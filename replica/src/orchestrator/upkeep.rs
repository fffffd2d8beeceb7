//! Keeps the cluster's marker in its place for as long as the cluster lives.
//!
//! Guarantees that a marker which is lost is made anew by the leader, within
//! [`marker_interval`](Orchestrator::marker_interval), and at once when a replica asks to join;
//! that what it knew is told again, also when an older one was put back; that one which names
//! another cluster is never touched; and that people are told. What is told is the
//! [keeper](super::Keeper)'s.
//!
//! Only a leader that is ready does so: a replica of a cluster that never served must not put its
//! own in the place of one that a person has just removed.

use std::sync::Arc;

use kvorum_protocol::status::{ClusterId, Role, Status};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::warn;

use super::{Happening, Orchestrator, OrchestratorError, Scale, mark};
use crate::driver::ClientEvent;
use crate::engine::{Input, Verdict};
use crate::marker::Mark;

/// Keeps the marker of one cluster.
pub struct Upkeep {
    /// Who keeps it.
    pub orchestrator: Orchestrator,
    /// The cluster.
    pub cluster: ClusterId,
    /// This replica's name.
    pub name: String,
    /// What it says of itself.
    pub status: watch::Receiver<Option<Arc<Status>>>,
    /// Its driver.
    pub driver: mpsc::Sender<ClientEvent>,
}

/// What became of a look at the marker.
#[derive(PartialEq, Eq, Debug)]
enum Seen {
    /// It is there.
    There,
    /// It was gone.
    Made,
    /// It names another cluster.
    Other(ClusterId),
}

impl Upkeep {
    /// Does so until the replica ends.
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

    async fn look(&self) -> Result<Seen, OrchestratorError> {
        let is_gone = self.orchestrator.marker().await?.is_none();
        if is_gone {
            // Whoever removes a cluster removes its marker too, while it still ends.
            match self.orchestrator.wanted().await {
                Ok(Scale { replicas: 0, .. }) => return Ok(Seen::There),
                Err(OrchestratorError::Gone(why)) => return Err(OrchestratorError::Gone(why)),
                _ => {}
            }
        }
        let marked = mark(&self.orchestrator, self.cluster).await?;
        let own = self.status.borrow().as_ref().map(|status| status.configuration.id);
        if marked.cluster == self.cluster && own > Some(marked.configuration) {
            // Made anew, or put back: what it knew has to be told again.
            let input = Input::Marked { mark: Mark::default(), verdict: Verdict::Lost };
            let _ = self.driver.send(ClientEvent::Input { input, permit: None }).await;
        }
        Ok(match (marked.cluster == self.cluster, is_gone) {
            (false, _) => Seen::Other(marked.cluster),
            (true, true) => Seen::Made,
            (true, false) => Seen::There,
        })
    }

    /// What people should hear of a look.
    fn explain(&self, seen: &Result<Seen, OrchestratorError>) -> Option<String> {
        let (place, cluster) = (self.orchestrator.marker_place(), self.cluster);
        match seen {
            Ok(Seen::There) => None,
            Ok(Seen::Made) => Some(format!(
                "the cluster's marker, {place}, was gone, and is made anew; without it, a replica \
                 that loses its volume could begin another cluster"
            )),
            Ok(Seen::Other(other)) => Some(format!(
                "the marker, {place}, names cluster {other}, and the replicas here serve cluster \
                 {cluster}: two clusters have begun at one place. If this one is to stay, remove \
                 the volumes and replicas of the other one, and then the marker, which is made anew"
            )),
            Err(error) => Some(format!(
                "the cluster's marker, {place}, cannot be looked at, and a replica that loses its \
                 volume could begin another cluster if it is gone: {error}"
            )),
        }
    }

    async fn tell(&self, note: String) {
        warn!("{note}");
        if let Some(herald) = self.orchestrator.herald(&self.name) {
            herald.tell(Happening { is_warning: true, reason: "Marker", note, name: None }).await;
        }
    }
}

/// Waits until somebody asks to join who did not before; whether the replica has ended instead.
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
