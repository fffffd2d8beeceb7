//! `status`: what each replica says about itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kvorum_protocol::Client;
use kvorum_protocol::client::Route;
use kvorum_protocol::status::Status;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Context, print};
use crate::exit::{Exit, Stop};
use crate::output::{self, Said};

/// How long one replica is waited for when others have answered.
const STATUS_PATIENCE: Duration = Duration::from_secs(1);

pub async fn status(context: &Context) -> Result<(), Stop> {
    let said = ask_all(&context.client).await?;
    let json = said.iter().map(|(name, s)| output::status_json(name, s.as_ref().map_err(|w| &**w)));
    let json = serde_json::Value::Array(json.collect());
    match context.global.output {
        crate::arguments::Format::Jsonl => {
            for status in json.as_array().into_iter().flatten() {
                print(context.global.output, "", status)?;
            }
        }
        format => print(format, &output::status_table(&said), &json)?,
    }
    let ready = said.iter().filter(|(_, s)| s.as_ref().is_ok_and(|s| s.is_ready)).count();
    match ready > said.len() / 2 {
        true => Ok(()),
        false => {
            let message = format!("{ready} of {} replicas are ready, no majority", said.len());
            Err(Stop::new(Exit::Unavailable, message))
        }
    }
}

/// Asks every member, and everybody who is to become one, at once.
pub(crate) async fn ask_all(client: &Arc<Client>) -> Result<Vec<Said>, Stop> {
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
