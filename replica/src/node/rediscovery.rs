//! Detects that every known peer was replaced while a replica was away, and rediscovers the
//! cluster.
//!
//! The peers that a replica knows may all be replaced while it is away: the same names answer,
//! under ids that it has never met, and each side rejects the other. So a replica that is not ready
//! for a while asks the replicas through their client ports, as a replica without an identity does.
//!
//! Guarantees that only a later configuration counts. A replica that is not one of its members is
//! superseded: ids are assigned once, so no later configuration has it either. Until it has another
//! id it continues to vote, because others may need what it accepted. Does not ask for that id.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use kvorum_protocol::Client;
use kvorum_protocol::client::{Options, Resolve, Route};
use kvorum_protocol::status::{Configuration, Status};
use kvorum_tls::Encryption;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;
use tracing::info;

use crate::driver::ControlEvent;
use crate::engine::Input;
use crate::orchestrator::Orchestrator;

/// How long a replica is not ready before it asks, and the time between two such requests.
const PATIENCE: Duration = Duration::from_secs(2);

/// Waits until a replica is superseded; each time it is stranded before that, the driver receives
/// the later configuration's members. Never returns after the replica has ended.
pub async fn superseded(
    orchestrator: &Orchestrator,
    encryption: &Encryption,
    name: &str,
    mut status: watch::Receiver<Option<Arc<Status>>>,
    driver: &mpsc::Sender<ControlEvent>,
) {
    let others = orchestrator.clients(name);
    loop {
        let Some(stranded) = stranded(&mut status).await else {
            return std::future::pending().await;
        };
        let Some(newer) = newer(&others, encryption, &stranded).await else { continue };
        let is_over = newer.name_of(stranded.replica).is_none();
        info!(own = stranded.configuration.id.0, newer = newer.id.0, is_over, "was left behind");
        let configuration = Some(newer.id);
        let input = Input::Learned { members: newer.members, configuration };
        let _ = driver.send(ControlEvent::Input(input)).await;
        if is_over {
            return;
        }
    }
}

/// Returns the status of a replica that has not been ready for a while; `None` when it ended.
async fn stranded(status: &mut watch::Receiver<Option<Arc<Status>>>) -> Option<Arc<Status>> {
    // Readiness, not the role: a lone leader may not know that its configuration is over.
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

/// Returns the latest configuration that any replica reports to clients, if it is later than the
/// replica's own.
async fn newer(others: &Resolve, encryption: &Encryption, own: &Status) -> Option<Configuration> {
    let dial = encryption.clone().into();
    let options = Options { cluster: Some(own.cluster), deadline: PATIENCE, dial };
    let client = &Client::new(Arc::clone(others), options);
    let names = others().into_iter().filter_map(|endpoint| endpoint.name);
    let ask = |name| async move { client.status(&Route::Through(name)).await };
    let told: Vec<_> = names.map(ask).collect::<FuturesUnordered<_>>().collect().await;
    let told = told.into_iter().filter_map(Result::ok).map(|status| status.configuration);
    told.filter(|told| told.id > own.configuration.id).max_by_key(|told| told.id)
}
