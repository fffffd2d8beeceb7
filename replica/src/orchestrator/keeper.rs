//! Carries the driver's wishes about the cluster's marker to whoever keeps it.
//!
//! Guarantees that each wish is answered, with what became of it. Does not judge a claim; the
//! [marker](crate::marker) does.

use kvorum_protocol::status::ClusterId;
use tokio::sync::{mpsc, oneshot};
use tracing::error;

use super::{Orchestrator, OrchestratorError, claim};
use crate::driver::{ClientEvent, PeerEvent};
use crate::engine::Input;
use crate::marker::Solo;

/// Keeps the cluster's marker up to date, as the driver wants it.
pub struct Keeper {
    /// Who keeps it.
    pub orchestrator: Orchestrator,
    /// The cluster.
    pub cluster: ClusterId,
    /// Where the volume's proofs are.
    pub driver: mpsc::Sender<PeerEvent>,
    /// Where answers go.
    pub clients: mpsc::Sender<ClientEvent>,
}

impl Keeper {
    /// Does so until nobody wishes anything any more.
    pub async fn keep(self, mut wanted: mpsc::Receiver<Solo>) {
        while let Some(wish) = wanted.recv().await {
            let driver = &self.driver;
            let proof = |incarnation| async move {
                let (reply, answer) = oneshot::channel();
                driver.send(PeerEvent::Proof { incarnation, reply }).await.ok()?;
                answer.await.ok().flatten()
            };
            let verdict = match claim(&self.orchestrator, self.cluster, wish, proof).await {
                Ok(()) => Ok(()),
                Err(OrchestratorError::Refused(why)) => Err(why.to_string()),
                Err(OrchestratorError::Unreachable(why) | OrchestratorError::Gone(why)) => Err(
                    format!("the cluster's marker cannot be had, and is asked for again: {why}"),
                ),
            };
            if let Err(why) = &verdict {
                error!("{why}");
            }
            let input = Input::Marked { configuration: wish.configuration, verdict };
            if self.clients.send(ClientEvent::Input { input, permit: None }).await.is_err() {
                return;
            }
        }
    }
}
