//! The command `scale`: changes the number of replicas, and follows the change.
//!
//! Guarantees that the number is changed only after the effect was shown; then it reports each step
//! until the members are those wanted. Interrupting it then changes nothing: the cluster goes on.

use std::time::{Duration, Instant};

use kvorum_protocol::client::Route;
use kvorum_protocol::limits::MEMBERS_MAX;
use kvorum_protocol::status::{Role, Status};
use serde_json::json;
use tokio::time::sleep;

use super::{Context, print};
use crate::app::cluster::Cluster;
use crate::app::quorum::Consequence;
use crate::exit::{Exit, Failure};
use crate::statuses::ask_all;

/// The time between two checks.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How long the members may take to become those wanted.
const PATIENCE: Duration = Duration::from_secs(120);

pub async fn scale(context: &Context, replicas: u32, yes: bool) -> Result<(), Failure> {
    if replicas > MEMBERS_MAX {
        return Err(Failure::usage(format!(
            "{replicas} replicas are not possible; a cluster has 0 to {MEMBERS_MAX}"
        )));
    }
    let before = match context.client.status(&Route::Any).await {
        Ok(status) => status,
        Err(error) => return start(context, replicas, error.into()).await,
    };
    let now = before.configuration.members.len();
    let wanted = before.membership.wanted;
    if usize::try_from(replicas) == Ok(now) && wanted.is_none_or(|wanted| wanted == replicas) {
        let text = format!("there are {now} replicas already");
        return print(context.global.output, &text, &json!({ "replicas": now }));
    }
    crate::note::note(consequence(now, replicas));
    let said = ask_all(&context.client).await?;
    let then = usize::try_from(replicas).unwrap_or(usize::MAX);
    if replicas > 0 && !Consequence::of_scale(&Cluster::of(&said), then).keeps {
        crate::note::note(
            "NO majority of the members, or of those that stay, is there: nothing changes until \
             one is",
        );
    }
    let shrinks = usize::try_from(replicas).is_ok_and(|replicas| replicas < now);
    let question = format!("Scale {} to {replicas}? [y/N] ", context.platform.name());
    if shrinks && !yes && !super::admin::ask(&question)? {
        return Err(Failure::new(Exit::NeedsYes, "nothing was changed; repeat with --yes"));
    }
    change(context, replicas, before.configuration.id.0).await
}

/// Scales up a cluster in which no replica answers, or which has no replicas.
async fn start(context: &Context, replicas: u32, why: Failure) -> Result<(), Failure> {
    match context.platform.wanted() {
        Ok(wanted) if why.exit == Exit::Unavailable && replicas > wanted => {
            crate::note::note(match wanted {
                0 => format!("from 0 to {replicas} replicas: the cluster goes on with what it has"),
                _ => format!("no replica answers; {wanted} were wanted, {replicas} are now"),
            });
            change(context, replicas, 0).await
        }
        _ => Err(why),
    }
}

/// Changes the number, and reports the steps that follow the given configuration.
async fn change(context: &Context, replicas: u32, configuration: u32) -> Result<(), Failure> {
    context.platform.scale(replicas).await?;
    let began = Instant::now();
    if replicas > 0 {
        follow(context, replicas, configuration).await?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let text = match replicas {
        0 => "no replica is wanted: all stop, and keep what they have".to_owned(),
        1 => format!("one replica after {seconds:.1} s"),
        _ => format!("{replicas} replicas after {seconds:.1} s"),
    };
    print(context.global.output, &text, &json!({ "replicas": replicas, "seconds": seconds }))
}

/// Describes the effect of another number of replicas.
fn consequence(now: usize, replicas: u32) -> String {
    let then = usize::try_from(replicas).unwrap_or(usize::MAX);
    let tolerance = then.saturating_sub(1) / 2;
    match then {
        0 => format!("from {now} to 0 replicas: the cluster stops, and keeps its members and data"),
        1 => format!("from {now} to 1 replica: it is the only one that has what is written"),
        2 => format!("from {now} to 2 replicas: if one of them is gone, nothing is decided"),
        _ => format!(
            "from {now} to {replicas} replicas: {tolerance} of them may be gone, and the others go \
             on"
        ),
    }
}

/// Reports each step until the members are those wanted.
async fn follow(context: &Context, replicas: u32, configuration: u32) -> Result<(), Failure> {
    let began = Instant::now();
    let mut told = Told { configuration, ..Told::default() };
    loop {
        if let Ok(status) = context.client.status(&Route::Any).await
            && status.role == Role::Leader
        {
            for line in told.steps(&status) {
                crate::note::note(format!("{:>6.1} s  {line}", began.elapsed().as_secs_f64()));
            }
            let count = u32::try_from(status.configuration.members.len());
            let is_done = count == Ok(replicas) && status.membership.leaving.is_empty();
            if is_done && status.membership.wanted == Some(replicas) && status.is_ready {
                return Ok(());
            }
        }
        if began.elapsed() > PATIENCE {
            let why = told.waits.unwrap_or_else(|| "no leader says how far it is".to_owned());
            let message = format!(
                "the members are not those wanted after {PATIENCE:?}: {why}. The cluster goes on \
                 with it; look with 'kvorum status'"
            );
            return Err(Failure::new(Exit::Unavailable, message));
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// The steps that were reported already.
#[derive(Default)]
struct Told {
    configuration: u32,
    joining: Vec<String>,
    waits: Option<String>,
}

impl Told {
    /// Returns the steps that are new, and records them as reported.
    fn steps(&mut self, status: &Status) -> Vec<String> {
        let mut steps = Vec::new();
        for joiner in status.membership.joiners.iter().filter(|joiner| joiner.is_linked) {
            let step = match joiner.index {
                0 => format!("{} copies the state", joiner.name),
                _ => format!("{} has the state", joiner.name),
            };
            if !self.joining.contains(&step) {
                self.joining.push(step.clone());
                steps.push(step);
            }
        }
        let id = status.configuration.id.0;
        if id > self.configuration {
            self.configuration = id;
            let members = status.configuration.members.iter().map(|m| m.name.as_str());
            let members = members.collect::<Vec<_>>().join(", ");
            steps.push(format!("configuration {id}: {members}"));
        }
        if status.membership.waits != self.waits {
            self.waits.clone_from(&status.membership.waits);
            steps.extend(self.waits.clone());
        }
        steps
    }
}
