//! The statuses of a cluster's replicas, requested all at once.
//!
//! Guarantees that a replica that hangs delays a command by less than a second, or, where the way
//! to the replicas is slow, by as long as two of those that answer take.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

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

/// Returns the time to wait for one replica after another one took `first` to answer: over a slow
/// way each takes long, and silence would be mistaken for absence.
fn patience(first: Duration) -> Duration {
    STATUS_PATIENCE.max(first * 2)
}

/// Asks every replica that is there, of whatever cluster, and every other member.
pub async fn ask_everybody(client: &Arc<Client>) -> Result<Vec<Said>, Failure> {
    let began = Instant::now();
    let first = client.status(&Route::Any).await;
    let patience = patience(began.elapsed());
    let members = async {
        match first {
            Ok(first) => Ok(ask_from(client, first, patience).await),
            Err(error) => Err(Failure::from(error)),
        }
    };
    let (members, there) = tokio::join!(members, client.survey(patience));
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
    let began = Instant::now();
    let first = client.status(&Route::Any).await?;
    Ok(ask_from(client, first, patience(began.elapsed())).await)
}

/// Asks every member and every linked joiner that a status names.
async fn ask_from(client: &Arc<Client>, first: Status, patience: Duration) -> Vec<Said> {
    let said = ask_those(client, &first, patience).await;
    // The first replica may have left, and know only the members of that time.
    let statuses = said.iter().filter_map(|(_, status)| status.as_ref().ok());
    let newest = statuses.max_by_key(|status| status.configuration.id).cloned();
    match newest.filter(|newest| newest.configuration.id > first.configuration.id) {
        Some(newest) => ask_those(client, &newest, patience).await,
        None => said,
    }
}

/// Asks the members and joiners that a status names.
async fn ask_those(client: &Arc<Client>, status: &Status, patience: Duration) -> Vec<Said> {
    let mut asked = JoinSet::new();
    let members = status.configuration.members.iter().map(|member| &member.name);
    let joiners = status.membership.joiners.iter().filter(|joiner| joiner.is_linked);
    let names: BTreeSet<_> = members.chain(joiners.map(|joiner| &joiner.name)).collect();
    for name in names.into_iter().cloned() {
        let client = Arc::clone(client);
        asked.spawn(async move {
            let route = Route::Through(name.clone());
            let said = match timeout(patience, client.status(&route)).await {
                Ok(Ok(status)) => Ok(status),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no answer within {patience:.1?}")),
            };
            (name, said)
        });
    }
    let mut said = asked.join_all().await;
    said.sort_by(|(a, _), (b, _)| a.cmp(b));
    said
}
