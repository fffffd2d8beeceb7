//! The commands `log` and `watch`: decided entries, in order, each once, across failures.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use kvorum_protocol::ClientError;
use kvorum_protocol::client::{Events, Route};
use kvorum_protocol::message::{Event, Subscription};
use serde_json::json;

use super::{Context, print};
use crate::arguments::Format;
use crate::exit::Failure;
use crate::node::Node;
use crate::output;
use tokio_stream::StreamExt;

/// The time between two attempts to resume while the cluster is away.
const RETRY: Duration = Duration::from_millis(500);
/// The number of entries that `log` shows when no start index is given.
const LOG_ENTRIES: u64 = 20;

pub async fn log(
    context: &Context,
    from: Option<u64>,
    follow: bool,
    node: Option<Node>,
) -> Result<(), Failure> {
    let route = context.route(node.as_ref()).await?;
    let status = context.client.status(&route).await?;
    // Stay with one replica's log: another replica may not have applied as much.
    let route = Route::Through(status.name);
    let applied = status.applied;
    // Entries that were compacted, or copied with a snapshot, cannot be shown.
    let tail = (applied + 1).saturating_sub(LOG_ENTRIES).max(status.compacted + 1);
    let from = from.unwrap_or(tail).max(1);
    if !follow && from > applied {
        crate::note::note(format!(
            "the log ends at index {applied}; use --follow to wait for more"
        ));
        return Ok(());
    }
    let until = if follow { u64::MAX } else { applied };
    let log = |from| Subscription::Log { from };
    let wait = if follow { Duration::MAX } else { Duration::ZERO };
    follow_from(context, &route, from, until, wait, log).await
}

pub async fn watch(
    context: &Context,
    prefix: OsString,
    from: Option<u64>,
    node: Option<Node>,
    wait: Option<Duration>,
) -> Result<(), Failure> {
    let route = context.route(node.as_ref()).await?;
    let prefix = prefix.as_bytes().to_vec();
    let keys = |from| Subscription::Keys { prefix: prefix.clone(), from };
    let wait = wait.unwrap_or(Duration::MAX);
    follow_from(context, &route, from.unwrap_or(0), u64::MAX, wait, keys).await
}

/// Follows a subscription until an index is shown. When the connection is lost, it resumes where it
/// was, at a replica that the route allows; when none answers, it waits up to `wait` for one.
async fn follow_from(
    context: &Context,
    route: &Route,
    mut next: u64,
    until: u64,
    wait: Duration,
    subscription: impl Fn(u64) -> Subscription,
) -> Result<(), Failure> {
    let mut events = context.client.subscribe(subscription(next), route).await?;
    loop {
        next = next.max(events.from);
        while let Some(event) = events.next().await {
            match &event {
                Event::Entry(entry) => {
                    show(context, &output::entry_line(entry), &output::entry_json(entry))?;
                    next = entry.index + 1;
                }
                Event::Key(change) => {
                    show(context, &output::change_line(change), &output::change_json(change))?;
                    next = change.index + 1;
                }
                Event::Compacted { from } => {
                    let message = format!(
                        "{} has the log from index {from} on only; read the keys anew",
                        events.node()
                    );
                    return Err(Failure::failed(message));
                }
                Event::Progress { next: told } => next = *told,
                Event::Status(_) => {}
            }
            if next > until {
                return Ok(());
            }
        }
        crate::note::note(format!("lost {}; going on from index {next}", events.node()));
        events = resume(context, route, wait, || subscription(next)).await?;
    }
}

/// Subscribes again; waits up to `wait` for a cluster that is away.
async fn resume(
    context: &Context,
    route: &Route,
    wait: Duration,
    subscription: impl Fn() -> Subscription,
) -> Result<Events, Failure> {
    let began = Instant::now();
    let mut is_told = false;
    loop {
        match context.client.subscribe(subscription(), route).await {
            Ok(events) => return Ok(events),
            Err(error @ ClientError::Unavailable { .. }) if began.elapsed() < wait => {
                if !is_told {
                    crate::note::note(format!("{error}; waiting for the cluster"));
                }
                is_told = true;
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn show(context: &Context, line: &str, json: &serde_json::Value) -> Result<(), Failure> {
    // An endless document is no document: every format but text prints one object per line.
    let format = match context.global.output {
        Format::Json | Format::Jsonl => Format::Jsonl,
        format => format,
    };
    print(format, line, &json!(json))
}
