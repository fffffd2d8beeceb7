//! The statuses of a cluster's replicas, requested all at once.
//!
//! Guarantees that a replica that hangs delays a command by less than a second.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kvorum_protocol::Client;
use kvorum_protocol::client::Route;
use kvorum_protocol::status::Status;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::exit::Failure;
use crate::output::Said;

/// The time to wait for one replica when others have answered: even if some hang, a command answers
/// within a second, including the time to find one that does not hang.
const STATUS_PATIENCE: Duration = Duration::from_millis(700);

/// Asks every replica that is there, of whatever cluster, and every other member.
pub async fn ask_everybody(client: &Arc<Client>) -> Result<Vec<Said>, Failure> {
    let (members, there) = tokio::join!(ask_all(client), client.survey(STATUS_PATIENCE));
    let mut said = match members {
        Ok(said) => said,
        Err(stop) if there.iter().all(|(_, told)| told.is_err()) => return Err(stop),
        Err(_) => Vec::new(),
    };
    for (endpoint, told) in there {
        let Some(name) = told.as_ref().map_or(endpoint.name, |told| Some(told.name.clone())) else {
            continue;
        };
        add(&mut said, name, told);
    }
    said.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(said)
}

/// Adds the reply of a replica that was asked at its endpoint, of whatever cluster it is.
fn add(said: &mut Vec<Said>, name: String, told: Result<Status, String>) {
    let is_known = said.iter().any(|(other, known)| match (known, &told) {
        (Ok(known), Ok(told)) => *other == name && known.cluster == told.cluster,
        _ => *other == name && told.is_err(),
    });
    // A replica that does not answer as a member may answer at its endpoint.
    let refused = said.iter_mut().find(|(other, known)| *other == name && known.is_err());
    match refused {
        _ if is_known => {}
        Some(refused) => refused.1 = told,
        None => said.push((name, told)),
    }
}

/// Asks every member and every linked joiner at once.
pub async fn ask_all(client: &Arc<Client>) -> Result<Vec<Said>, Failure> {
    let first = client.status(&Route::Any).await?;
    let said = ask_those(client, &first).await;
    // The first replica may have left, and know only the members of that time.
    let statuses = said.iter().filter_map(|(_, status)| status.as_ref().ok());
    let newest = statuses.max_by_key(|status| status.configuration.id).cloned();
    match newest.filter(|newest| newest.configuration.id > first.configuration.id) {
        Some(newest) => Ok(ask_those(client, &newest).await),
        None => Ok(said),
    }
}

/// Asks the members and joiners that a status names.
async fn ask_those(client: &Arc<Client>, status: &Status) -> Vec<Said> {
    let mut asked = JoinSet::new();
    let members = status.configuration.members.iter().map(|member| &member.name);
    let joiners = status.membership.joiners.iter().filter(|joiner| joiner.is_linked);
    let names: BTreeSet<_> = members.chain(joiners.map(|joiner| &joiner.name)).collect();
    for name in names.into_iter().cloned() {
        let client = Arc::clone(client);
        asked.spawn(async move {
            let route = Route::Through(name.clone());
            let said = match timeout(STATUS_PATIENCE, client.status(&route)).await {
                Ok(Ok(status)) => Ok(status),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no answer within {STATUS_PATIENCE:?}")),
            };
            (name, said)
        });
    }
    let mut said = asked.join_all().await;
    said.sort_by(|(a, _), (b, _)| a.cmp(b));
    said
}
