//! What the replicas of a cluster say about themselves, asked all at once.
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

use crate::exit::Stop;
use crate::output::Said;

/// How long one replica is waited for when others have answered: with some that hang, a command
/// still answers within a second, the time to find one that does not included.
const STATUS_PATIENCE: Duration = Duration::from_millis(700);

/// Asks everybody who is there, of whatever cluster, and whoever else is a member.
pub async fn ask_everybody(client: &Arc<Client>) -> Result<Vec<Said>, Stop> {
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

/// Adds what somebody says who was asked whatever it is.
fn add(said: &mut Vec<Said>, name: String, told: Result<Status, String>) {
    let is_known = said.iter().any(|(other, known)| match (known, &told) {
        (Ok(known), Ok(told)) => *other == name && known.cluster == told.cluster,
        _ => *other == name && told.is_err(),
    });
    // Who does not answer as a member may do as what it is.
    let refused = said.iter_mut().find(|(other, known)| *other == name && known.is_err());
    match refused {
        _ if is_known => {}
        Some(refused) => refused.1 = told,
        None => said.push((name, told)),
    }
}

/// Asks every member, and everybody who is to become one, at once.
pub async fn ask_all(client: &Arc<Client>) -> Result<Vec<Said>, Stop> {
    let first = client.status(&Route::Any).await?;
    let said = ask_those(client, &first).await;
    // Whoever was asked first may have left, and know only who was a member then.
    let statuses = said.iter().filter_map(|(_, status)| status.as_ref().ok());
    let newest = statuses.max_by_key(|status| status.configuration.id).cloned();
    match newest.filter(|newest| newest.configuration.id > first.configuration.id) {
        Some(newest) => Ok(ask_those(client, &newest).await),
        None => Ok(said),
    }
}

/// Asks those whom a status names.
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
