//! Carries the driver's wishes about the cluster's marker to whoever keeps it.
//!
//! Guarantees that each wish is answered, with what became of it. Does not judge a claim; the
//! [marker](crate::marker) does.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tracing::{error, warn};

use super::{Orchestrator, OrchestratorError, claim, known_better};
use crate::driver::{ClientEvent, PeerEvent};
use crate::engine::{Input, Verdict};
use crate::marker::{Claim, Mark, Past};

/// Time between two questions to a marker that is out of reach.
const ASK_INTERVAL: Duration = Duration::from_secs(3);

/// Keeps the cluster's marker up to date, as the driver wants it.
pub struct Keeper {
    /// Who keeps it.
    pub orchestrator: Orchestrator,
    /// Who reads the volume.
    pub driver: mpsc::Sender<PeerEvent>,
    /// Where answers go.
    pub clients: mpsc::Sender<ClientEvent>,
}

impl Keeper {
    /// Does so until nobody wishes anything any more. With a claim, asks first, for as long as it
    /// takes, whether the marker knows the disk better.
    pub async fn keep(self, wanted: mpsc::Receiver<Claim>, unasked: Option<Claim>) {
        tokio::join!(self.ask(unasked), self.carry(wanted));
    }

    async fn ask(&self, unasked: Option<Claim>) {
        let Some(claim) = unasked else { return };
        let told = loop {
            match known_better(&self.orchestrator, claim, |start| self.past(start)).await {
                Ok(told) => break told,
                Err(OrchestratorError::Ended) => return,
                Err(_) => sleep(ASK_INTERVAL).await,
            }
        };
        if let Some(verdict) = told {
            self.tell(claim.mark, verdict).await;
        }
    }

    /// Tells the driver what came of something; whether it is there still.
    async fn tell(&self, mark: Mark, verdict: Verdict) -> bool {
        let input = Input::Marked { mark, verdict };
        self.clients.send(ClientEvent::Input { input, permit: None }).await.is_ok()
    }

    /// Asks the driver what the volume has of one of its starts. Of one that has ended nothing is
    /// known: it must not look as if the volume lacked the start.
    async fn past(&self, incarnation: u64) -> Result<Option<Past>, OrchestratorError> {
        let (reply, answer) = oneshot::channel();
        let event = PeerEvent::Past { incarnation, reply };
        self.driver.send(event).await.map_err(|_| OrchestratorError::Ended)?;
        answer.await.map_err(|_| OrchestratorError::Ended)
    }

    async fn carry(&self, mut wanted: mpsc::Receiver<Claim>) {
        // What went wrong last: it is asked again every second, and people need to hear it once.
        let mut trouble = String::new();
        while let Some(wish) = wanted.recv().await {
            let told = claim(&self.orchestrator, wish, |start| self.past(start));
            let verdict = match told.await {
                Ok(Some(latest)) => {
                    self.tell(wish.mark, Verdict::Over(latest)).await;
                    Verdict::Done
                }
                Ok(None) => Verdict::Done,
                Err(OrchestratorError::Ended) => return,
                Err(OrchestratorError::Refused(why)) => why.into(),
                Err(why) => Verdict::Unreachable(format!(
                    "the cluster's marker cannot be had, and is asked for again: {why}"
                )),
            };
            match &verdict {
                Verdict::Done | Verdict::Over(_) | Verdict::Lost => trouble.clear(),
                Verdict::Refused(why) | Verdict::Foreign(why) | Verdict::Unreachable(why)
                    if trouble == *why => {}
                Verdict::Refused(why) | Verdict::Foreign(why) => {
                    error!("{why}");
                    trouble.clone_from(why);
                }
                Verdict::Unreachable(why) => {
                    warn!("{why}");
                    trouble.clone_from(why);
                }
            }
            if !self.tell(wish.mark, verdict).await {
                return;
            }
        }
    }
}
