//! A replica that finds its cluster no more.
//!
//! While a replica was away, everybody whom it knows may have been replaced: the same names answer,
//! under ids that it has never met, and they turn each other away. So a replica that is not ready
//! for a while asks whoever serves clients, as one does that has no identity yet.
//!
//! Guarantees that only a later configuration counts. A replica that is none of its members is
//! superseded: ids are given once, so no later one has it either. Until it has another id it goes
//! on voting, because others may need what it accepted. Does not ask for that id.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kvorum_protocol::Client;
use kvorum_protocol::client::{Options, Resolve, Route};
use kvorum_protocol::status::{Configuration, Status};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tracing::info;

use crate::driver::ClientEvent;
use crate::engine::Input;
use crate::orchestrator::Orchestrator;

/// How long a replica is not ready before it asks, and the time between two times that it does.
const PATIENCE: Duration = Duration::from_secs(2);

/// Waits until a replica is superseded, and lets it learn of the members meanwhile, each time that
/// it is stranded. Never ends when the replica does.
pub async fn superseded(
    orchestrator: &Orchestrator,
    name: &str,
    mut status: watch::Receiver<Option<Arc<Status>>>,
    driver: &mpsc::Sender<ClientEvent>,
) {
    let others = orchestrator.clients(name);
    loop {
        let Some(stranded) = stranded(&mut status).await else {
            return std::future::pending().await;
        };
        let Some(newer) = newer(&others, &stranded).await else { continue };
        let is_over = newer.name_of(stranded.replica).is_none();
        info!(own = stranded.configuration.id.0, newer = newer.id.0, is_over, "was left behind");
        let configuration = Some(newer.id);
        let input = Input::Learned { members: newer.members, configuration };
        let _ = driver.send(ClientEvent::Input { input, permit: None }).await;
        if is_over {
            return;
        }
    }
}

/// What a replica says of itself that has not been ready for a while; `None` when it ended.
async fn stranded(status: &mut watch::Receiver<Option<Arc<Status>>>) -> Option<Arc<Status>> {
    // One that leads alone, and does not know that it is over, still takes itself for the leader.
    let is_ready = |status: &Option<Arc<Status>>| status.as_ref().is_some_and(|s| s.is_ready);
    loop {
        let waited = timeout(PATIENCE, status.wait_for(is_ready)).await;
        match waited.map(|ready| ready.map(drop)) {
            Ok(ready) => {
                ready.ok()?;
                sleep(PATIENCE).await;
            }
            Err(_) => {
                if let Some(stranded) = status.borrow().clone() {
                    return Some(stranded);
                }
            }
        }
    }
}

/// The latest configuration that anybody who serves clients knows, if it is later than the
/// replica's own.
async fn newer(others: &Resolve, own: &Status) -> Option<Configuration> {
    let options = Options { cluster: Some(own.cluster), deadline: PATIENCE, ..Options::default() };
    let client = &Client::new(Arc::clone(others), options);
    let names = others().into_iter().filter_map(|endpoint| endpoint.name);
    let ask = |name| async move { client.status(&Route::Through(name)).await };
    let told: Vec<_> = names.map(ask).collect::<FuturesUnordered<_>>().collect().await;
    let told = told.into_iter().filter_map(Result::ok).map(|status| status.configuration);
    told.filter(|told| told.id > own.configuration.id).max_by_key(|told| told.id)
}
