//! Forwards the driver's claims on the cluster's marker to the orchestrator that keeps it.
//!
//! Guarantees that each claim is answered with its verdict. Does not judge a claim; the
//! [marker](crate::marker) does.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tracing::{error, warn};

use super::{Orchestrator, OrchestratorError, claim, known_better};
use crate::driver::ControlEvent;
use crate::engine::{Input, Verdict};
use crate::marker::{Claim, Mark, Past};

/// The time between two reads of a marker that is out of reach.
const ASK_INTERVAL: Duration = Duration::from_secs(3);

/// A task that keeps the cluster's marker up to date, as the driver wants it.
pub struct MarkerWriter {
    /// The orchestrator that keeps the marker.
    pub orchestrator: Orchestrator,
    /// The driver, which reads the volume and takes the verdicts.
    pub driver: mpsc::Sender<ControlEvent>,
}

impl MarkerWriter {
    /// Runs until every sender of claims is gone, and the last claim is answered. With `unasked`,
    /// also asks whether the marker knows more than the disk, and retries for as long as it takes.
    pub async fn keep(self, wanted: mpsc::Receiver<Claim>, unasked: Option<Claim>) {
        let (asking, carrying) = (self.ask(unasked), self.carry(wanted));
        tokio::pin!(carrying);
        tokio::select! {
            () = &mut carrying => {}
            () = asking => carrying.await,
        }
    }

    async fn ask(&self, unasked: Option<Claim>) {
        let Some(claim) = unasked else { return };
        loop {
            match known_better(&self.orchestrator, claim, |start| self.past(start)).await {
                // The marker may become this cluster's again, and knows the disk then.
                Ok(Some(verdict @ Verdict::Foreign(_))) => {
                    self.tell(claim.mark, verdict).await;
                }
                Ok(Some(verdict)) => {
                    self.tell(claim.mark, verdict).await;
                    return;
                }
                Ok(None) | Err(OrchestratorError::Ended) => return,
                Err(_) => {}
            }
            sleep(ASK_INTERVAL).await;
        }
    }

    /// Reports a verdict to the driver; returns whether the driver is still there.
    async fn tell(&self, mark: Mark, verdict: Verdict) -> bool {
        let input = Input::Marked { mark, verdict };
        self.driver.send(ControlEvent::Input(input)).await.is_ok()
    }

    /// Asks the driver what the volume records of one of its starts. Returns an error if the driver
    /// has ended: an answer must not look as if the volume lacked the start.
    async fn past(&self, incarnation: u64) -> Result<Option<Past>, OrchestratorError> {
        let (reply, answer) = oneshot::channel();
        let event = ControlEvent::Past { incarnation, reply };
        self.driver.send(event).await.map_err(|_| OrchestratorError::Ended)?;
        answer.await.map_err(|_| OrchestratorError::Ended)
    }

    async fn carry(&self, mut wanted: mpsc::Receiver<Claim>) {
        // The last trouble: the claim is repeated every second, and the log needs to show it once.
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
