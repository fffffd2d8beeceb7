//! Asks all endpoints for their status at once, of whatever cluster they are.
//!
//! Guarantees that each endpoint is in the result, with its replica's status or the reason why
//! there is none, and that no wait exceeds the given limit. The result binds the client to no
//! cluster.

use std::time::Duration;

use futures::stream::FuturesUnordered;
use tokio::time::timeout;
use tokio_stream::StreamExt;

use super::{Client, Endpoint};
use crate::message::{Answer, Request};
use crate::status::Status;

/// Time limit for all replicas when asked whether they serve.
const SERVING_PATIENCE: Duration = Duration::from_secs(1);

/// An endpoint with the status of its replica, or the reason why there is none.
pub type Surveyed = (Endpoint, Result<Status, String>);

impl Client {
    /// Returns the status of the replica at each endpoint.
    pub async fn survey(&self, patience: Duration) -> Vec<Surveyed> {
        let asked = self.attempts.endpoints().into_iter().map(|endpoint| async move {
            let told = match timeout(patience, self.ask_at(&endpoint.address)).await {
                Ok(told) => told,
                Err(_) => Err(format!("no answer within {patience:?}")),
            };
            (endpoint, told)
        });
        let mut told: Vec<_> = asked.collect::<FuturesUnordered<_>>().collect().await;
        told.sort_by(|(a, _), (b, _)| (&a.name, &a.address).cmp(&(&b.name, &b.address)));
        told
    }

    async fn ask_at(&self, address: &str) -> Result<Status, String> {
        let connection = self.attempts.visit(address).await.map_err(|error| error.to_string())?;
        match connection.call(Request::Status).await {
            Ok(Answer::Status(status)) => Ok(*status),
            Ok(_) => Err("its answer makes no sense".to_owned()),
            Err(lost) => Err(lost.to_string()),
        }
    }

    /// Returns the status of a replica that serves, and binds the client to its cluster.
    pub(super) async fn serving(&self) -> Option<Status> {
        let told = self.survey(SERVING_PATIENCE).await.into_iter();
        let ready = told.filter_map(|(_, told)| told.ok()).find(|status| status.is_ready)?;
        self.heard(&ready).is_ok().then_some(ready)
    }
}
