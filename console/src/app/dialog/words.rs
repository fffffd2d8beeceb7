//! Pure: the text of each question: its title, what the act would do, and the answer it takes.
//!
//! Does not know how it is answered.

use kvorum_protocol::{Condition, Key};

use super::{Facts, Tier, Words};
use crate::app::cluster::{Cluster, Node, short};
use crate::app::quorum::Consequence;
use crate::message::{Call, HowToKill, Source};
use crate::output;

/// Returns the words for a call that needs confirmation.
pub(super) fn of_call(call: &Call, cluster: &Cluster, last_gap_us: Option<u64>) -> Words {
    let key_of = |key: &Key| output::preview(&key.0);
    match call {
        Call::Kill { node, how } => of_kill(node, *how, cluster, last_gap_us),
        Call::Scale { replicas } => of_scale(*replicas, cluster),
        Call::Delete { key, condition, .. } => {
            let mut lines = vec!["The key and its value go; u brings them back.".to_owned()];
            if let Condition::AtRevision(revision) = condition {
                lines.push(format!("Only if its last write is still revision {revision}."));
            }
            (format!("Delete {}?", key_of(key)), lines, Tier::Yes, Facts::default())
        }
        Call::Put { key, value, condition, .. } => {
            let value = match value {
                Source::Bytes(bytes) => output::preview(bytes),
                Source::File(path) => format!("the bytes of {}", path.display()),
                Source::StandardInput => "what standard input says".to_owned(),
            };
            let mut lines = vec![format!("Its value becomes {value}.")];
            if let Condition::AtRevision(revision) = condition {
                lines.push(format!("Only if its last write is still revision {revision}."));
            }
            (format!("Put {}?", key_of(key)), lines, Tier::Yes, Facts::default())
        }
        Call::HandOver { from, to } => {
            let to = match to {
                Some(to) => format!("{} {to}", short(to)),
                None => "the replica that is best in step".to_owned(),
            };
            let lines = vec![
                format!("{} {from} stops proposing, waits until {to}", short(from)),
                "has everything, and lets it lead. Writes wait for an instant.".to_owned(),
            ];
            ("Hand leadership over?".to_owned(), lines, Tier::Yes, Facts::default())
        }
        Call::Cut { node, peer } => {
            let after = Consequence::of_cut(cluster, node, peer);
            let mut lines = vec![verdict(&after)];
            lines.push("The cut stays until it is healed (h, H for all).".to_owned());
            (
                format!("Cut the link {}–{}?", short(node), short(peer)),
                lines,
                tier(&after),
                facts(&after),
            )
        }
        Call::Heal { node, peer } => {
            let lines = vec!["The two replicas talk to each other again.".to_owned()];
            (
                format!("Heal the link {}–{}?", short(node), short(peer)),
                lines,
                Tier::Yes,
                Facts::default(),
            )
        }
        Call::Get { .. }
        | Call::Scan { .. }
        | Call::Inspect { .. }
        | Call::Batch { .. }
        | Call::Logs { .. } => ("Go on?".to_owned(), Vec::new(), Tier::Yes, Facts::default()),
    }
}

fn of_kill(node: &str, how: HowToKill, cluster: &Cluster, last_gap_us: Option<u64>) -> Words {
    let after = Consequence::of_kill(cluster, node);
    let mut lines = Vec::new();
    match (after.is_leader, how) {
        (true, HowToKill::Now | HowToKill::Force) => {
            lines.push("It is the LEADER: writes stop until a new one is elected".to_owned());
            lines.push(match last_gap_us {
                Some(gap) => format!("(last failover: {} ms without writes).", gap / 1000),
                None => "(well under a second, as a rule).".to_owned(),
            });
        }
        (true, HowToKill::Graceful) => {
            lines.push("It is the LEADER: it hands leadership over first.".to_owned());
        }
        (false, _) => lines.push("It is not the leader.".to_owned()),
    }
    lines.push(verdict(&after));
    let behind: Vec<String> =
        after.behind.iter().map(|(name, lag)| format!("{} is {lag} behind", short(name))).collect();
    if !behind.is_empty() {
        lines.push(format!("({}).", behind.join(", ")));
    }
    lines.push(String::new());
    let is_pod = cluster.node(node).is_some_and(|node| node.pod.is_some());
    let (by_now, by_graceful) = match is_pod {
        true => ("1 s of grace", "its own grace"),
        false => ("SIGKILL", "SIGTERM"),
    };
    let ways =
        |now, graceful| format!("how  {now} now, {by_now}    {graceful} graceful, {by_graceful}");
    let (way, least) = match how {
        HowToKill::Now => (ways("(•)", "( )"), Tier::Yes),
        HowToKill::Graceful => (ways("( )", "(•)"), Tier::Yes),
        HowToKill::Force => {
            lines.push("Its pod is replaced even while its processes still run.".to_owned());
            ("how  by force".to_owned(), Tier::Name)
        }
    };
    lines.push(way);
    let title = format!("Kill {} {node}?", short(node));
    (title, lines, tier(&after).max(least), facts(&after))
}

fn of_scale(replicas: u32, cluster: &Cluster) -> Words {
    let count = usize::try_from(replicas).unwrap_or(usize::MAX).min(1000);
    let after = Consequence::of_scale(cluster, count);
    let now = cluster.wanted();
    let mut lines = vec![format!("Now {now}, then {replicas}; {} must agree.", after.quorum)];
    if count < now {
        let names: Vec<String> =
            cluster.nodes().filter(|node| node.ordinal() >= count).map(Node::short).collect();
        lines.push(format!("{} leave and their pods end.", names.join(", ")));
    }
    lines.push(verdict(&after));
    (format!("Scale to {replicas}?"), lines, tier(&after), facts(&after))
}

pub(super) fn of_cuts(name: &str, cuts: &[(String, String)], cluster: &Cluster) -> Words {
    let after = Consequence::of_cuts(cluster, cuts);
    let links = cuts.iter().map(|(a, b)| format!("{}–{}", short(a), short(b)));
    let lines = vec![
        format!("Cuts {}.", links.collect::<Vec<_>>().join(", ")),
        verdict(&after),
        "The cuts stay until they are healed (H).".to_owned(),
    ];
    (format!("Cut links as in '{name}'?"), lines, tier(&after), facts(&after))
}

pub(super) fn of_demo(cluster: &Cluster) -> Words {
    let leader = cluster.leader().unwrap_or_default().to_owned();
    let after = Consequence::of_kill(cluster, &leader);
    let lines = vec![
        "Writes 200 times a second under keys of its own, kills the".to_owned(),
        format!("leader {} by SIGKILL, waits until it is back, reads all", short(&leader)),
        "again, and removes its keys.".to_owned(),
        verdict(&after),
    ];
    ("Run the failover demo on this cluster?".to_owned(), lines, tier(&after), facts(&after))
}

pub(super) fn of_walk(cluster: &Cluster) -> Words {
    let after = Consequence::of_scale(cluster, 1);
    let lines = vec![
        "Writes 200 times a second under keys of its own, scales to 5".to_owned(),
        format!("replicas, to 1, and back to {}, reads all again, and", cluster.wanted()),
        "removes its keys.".to_owned(),
        verdict(&after),
    ];
    ("Run the scaling demo on this cluster?".to_owned(), lines, tier(&after), facts(&after))
}

/// Returns the facts of a consequence.
fn facts(after: &Consequence) -> Facts {
    let Consequence { is_leader, up, total, keeps, had, .. } = *after;
    Facts { is_leader, up, total, keeps, had }
}

fn tier(after: &Consequence) -> Tier {
    if after.keeps { Tier::Yes } else { Tier::Name }
}

fn verdict(after: &Consequence) -> String {
    let Consequence { up, total, quorum, .. } = after;
    let count = format!("After: {up} of {total} voters up, {quorum} needed");
    match (after.had, after.keeps) {
        (_, true) => format!("{count}: quorum KEPT."),
        (true, false) => format!("{count}: quorum LOST."),
        (false, false) => format!("{count}: there is NO quorum now either."),
    }
}
