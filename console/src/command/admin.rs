//! The commands `kill`, `hand-over`, `cut` and `heal`.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use kvorum_protocol::client::Route;
use kvorum_protocol::message::Admin;
use serde_json::json;
use tokio::time::sleep;

use super::{Context, print};
use crate::app::cluster::Cluster;
use crate::app::quorum::Consequence;
use crate::exit::{Exit, Failure};
use crate::message::HowToKill;
use crate::node::Node;
use crate::output::Said;
use crate::statuses::ask_all;

/// How long another replica may take to take over: longer than a leader tries to hand over.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(2);
/// The time between two checks which replica leads.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

pub async fn kill(
    context: &Context,
    node: &Node,
    how: HowToKill,
    yes: bool,
) -> Result<(), Failure> {
    let name = context.name(node).await?;
    let said = ask_all(&context.client).await?;
    let consequence = consequence(&name, &said);
    crate::note::note(&consequence);
    let is_sure = match how {
        _ if yes => true,
        HowToKill::Force => ask_name(&name)?,
        HowToKill::Now | HowToKill::Graceful => {
            ask(&format!("Kill {name} of {}? [y/N] ", context.platform.name()))?
        }
    };
    if !is_sure {
        return Err(Failure::new(Exit::NeedsYes, "nothing was killed; repeat with --yes"));
    }
    let how = context.platform.kill(&context.client, &name, how).await?;
    print(context.global.output, &format!("killed {name} {how}"), &json!({ "killed": name }))
}

/// Asks the user to type the name of a replica that is to be deleted by force.
fn ask_name(name: &str) -> Result<bool, Failure> {
    crate::note::note(
        "by force the pod's object goes at once, and the same replica may run twice for a while; \
         the store fences that, but waits for the first one's disk",
    );
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    eprint!("Type {name} to delete it by force: ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == name)
}

/// Describes the effect of a kill, as far as the replicas' statuses show it.
fn consequence(name: &str, said: &[Said]) -> String {
    let cluster = Cluster::of(said);
    let Consequence { is_leader, up, total, keeps, had, .. } = Consequence::of_kill(&cluster, name);
    let role = if is_leader { " (the leader)" } else { "" };
    let effect = match (keeps, had) {
        (true, _) if is_leader => {
            "a majority: writes stop until another one leads, well under a second"
        }
        (true, _) => "a majority: reads and writes go on",
        (false, true) => "NO majority: reads and writes stop until one is back",
        (false, false) => "NO majority, as there is none now",
    };
    format!("killing {name}{role} leaves {up} of {total} members, {effect}")
}

pub(super) fn ask(question: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    eprint!("{question}");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

pub async fn hand_over(context: &Context, node: Option<Node>) -> Result<(), Failure> {
    let leader = context.name(&Node::Leader).await?;
    let to = match &node {
        None => String::new(),
        Some(node) => context.name(node).await?,
    };
    if to == leader {
        return print(context.global.output, &format!("{leader} leads already"), &json!({}));
    }
    context.client.administer(Admin::HandOver { to }, &Route::Through(leader.clone())).await?;
    let now = taken_over(context, &leader).await?;
    let json = json!({ "from": leader, "to": now });
    print(context.global.output, &format!("{leader} handed over to {now}"), &json)
}

/// Returns the replica that took over from `leader`. Fails if none does in time: `leader` stays.
async fn taken_over(context: &Context, leader: &str) -> Result<String, Failure> {
    let began = Instant::now();
    loop {
        let status = context.client.status(&Route::Any).await?;
        if let Some(now) = status.leader.filter(|now| now != leader) {
            return Ok(now);
        }
        if began.elapsed() > HAND_OVER_PATIENCE {
            return Err(Failure::failed(format!(
                "{leader} leads on: nobody took over within {} s. See whether another one is in \
                 step (kvorum status), and try again",
                HAND_OVER_PATIENCE.as_secs()
            )));
        }
        sleep(LOOK_INTERVAL).await;
    }
}

pub async fn set_cut(
    context: &Context,
    node: &Node,
    peer: &Node,
    cut: bool,
) -> Result<(), Failure> {
    let (node, peer) = (context.name(node).await?, context.name(peer).await?);
    let admin = match cut {
        true => Admin::Cut { peer: peer.clone() },
        false => Admin::Heal { peer: peer.clone() },
    };
    context.client.administer(admin, &Route::Through(node.clone())).await?;
    let done = if cut { "cut" } else { "healed" };
    let json = json!({ "link": [&node, &peer], "is_cut": cut });
    print(context.global.output, &format!("{done} the link between {node} and {peer}"), &json)
}
