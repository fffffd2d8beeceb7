//! Pure: the question before an act: what it is, what it would do, and how it is answered.
//!
//! Tiers by computed consequence, not by verb: an act that keeps the quorum takes a `y`; one that
//! loses it takes the typed name of what is acted upon. Guarantees that nothing but these answers
//! gives the call out, that a dialog whose facts changed wants its answer anew, and that it closes
//! by itself. Does not carry out the call.

use std::time::Duration;

use kvorum_protocol::Condition;

use super::cluster::{Cluster, short};
use super::quorum::Consequence;
use crate::arguments::DemoName;
use crate::message::{Call, HowToKill, Now, Source};
use crate::output;

/// A dialog without an answer closes after this time.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// An answer so soon after the facts changed was meant for the facts before.
const SETTLE: Duration = Duration::from_millis(500);

/// A question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dialog {
    /// What is done on yes; `None` when it cannot be done.
    pub act: Option<Act>,
    /// What is asked.
    pub title: String,
    /// What it would do.
    pub lines: Vec<String>,
    /// What it takes.
    pub tier: Tier,
    /// What was typed of the name.
    pub typed: String,
    /// When it closes by itself.
    pub until: Duration,
    /// The facts that the answer is about.
    facts: Facts,
    /// When they last changed.
    changed: Option<Duration>,
    /// The incarnation of the replica that is meant.
    incarnation: Option<u64>,
}

/// What would make another answer of a yes. How far somebody lags changes all the time and is not
/// among it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Facts {
    is_leader: bool,
    up: usize,
    total: usize,
    keeps: bool,
    had: bool,
}

/// A dialog's words: its title, its lines, what it takes, and the facts behind them.
type Words = (String, Vec<String>, Tier, Facts);

/// What a dialog does on yes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Act {
    /// A call.
    Call(Call),
    /// Many cuts at once.
    Cuts {
        /// What it is called.
        name: String,
        /// The links.
        cuts: Vec<(String, String)>,
    },
    /// The demo, which kills the leader.
    Demo(DemoName),
}

/// What an act takes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Tier {
    /// A `y`.
    Yes,
    /// The typed name.
    Name,
    /// It cannot be done.
    Never,
}

/// What became of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The dialog stays.
    Stay,
    /// It closes and nothing is done.
    Cancel,
    /// It closes and this is done.
    Act(Act),
}

impl Dialog {
    /// The dialog of an act.
    #[must_use]
    pub fn new(act: Act, cluster: &Cluster, last_gap_us: Option<u64>, now: Now) -> Self {
        let mut dialog = Self { act: Some(act), ..Self::blank(now) };
        dialog.incarnation = dialog.subject().and_then(|node| incarnation(cluster, node));
        dialog.describe(cluster, last_gap_us);
        dialog
    }

    /// A dialog that says why something cannot be done.
    #[must_use]
    pub fn refusal(title: &str, why: &str, now: Now) -> Self {
        let (title, lines) = (title.to_owned(), vec![why.to_owned()]);
        Self { title, lines, tier: Tier::Never, ..Self::blank(now) }
    }

    fn blank(now: Now) -> Self {
        Self {
            act: None,
            title: String::new(),
            lines: Vec::new(),
            tier: Tier::Yes,
            typed: String::new(),
            until: now.monotonic + PATIENCE,
            facts: Facts::default(),
            changed: None,
            incarnation: None,
        }
    }

    /// The replica that is killed.
    fn subject(&self) -> Option<&str> {
        match &self.act {
            Some(Act::Call(Call::Kill { node, .. })) => Some(node),
            _ => None,
        }
    }

    /// The word that has to be typed.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.act {
            Some(Act::Call(Call::Kill { node, .. } | Call::Cut { node, .. })) => node.clone(),
            Some(Act::Call(Call::Scale { replicas })) => replicas.to_string(),
            _ => "yes".to_owned(),
        }
    }

    fn describe(&mut self, cluster: &Cluster, last_gap_us: Option<u64>) {
        let (title, lines, tier, facts) = match &self.act {
            Some(Act::Call(call)) => describe_call(call, cluster, last_gap_us),
            Some(Act::Cuts { name, cuts }) => describe_cuts(name, cuts, cluster),
            Some(Act::Demo(DemoName::Failover)) => describe_demo(cluster),
            Some(Act::Demo(DemoName::Scale)) => describe_walk(cluster),
            None => return,
        };
        (self.title, self.lines, self.tier, self.facts) = (title, lines, tier, facts);
    }

    /// Looks at the facts again; a note when the dialog has to close.
    pub fn refresh(
        &mut self,
        cluster: &Cluster,
        last_gap_us: Option<u64>,
        now: Now,
    ) -> Option<String> {
        if now.monotonic >= self.until {
            return Some("no answer: nothing was done".to_owned());
        }
        if let (Some(node), Some(known)) = (self.subject(), self.incarnation)
            && incarnation(cluster, node).is_some_and(|current| current != known)
        {
            return Some(format!("{} was started again meanwhile: nothing was done", short(node)));
        }
        let before = self.facts.clone();
        self.describe(cluster, last_gap_us);
        if before != self.facts {
            self.changed = Some(now.monotonic);
            self.typed.clear();
        }
        None
    }

    /// Whether the facts have just changed, so that an answer would be for the facts before.
    #[must_use]
    pub fn is_unsettled(&self, now: Now) -> bool {
        self.changed.is_some_and(|changed| now.monotonic < changed + SETTLE)
    }

    /// Takes a typed character.
    pub fn typed(&mut self, character: char, now: Now) -> Answer {
        match self.tier {
            Tier::Never => Answer::Cancel,
            Tier::Yes => match character {
                'y' if !self.is_unsettled(now) => {
                    self.act.take().map_or(Answer::Cancel, Answer::Act)
                }
                'n' | 'N' => Answer::Cancel,
                _ => Answer::Stay,
            },
            Tier::Name => {
                if self.typed.chars().count() < self.name().chars().count() {
                    self.typed.push(character);
                }
                Answer::Stay
            }
        }
    }

    /// Takes Enter: no, unless the name was typed.
    pub fn entered(&mut self, now: Now) -> Answer {
        if self.tier == Tier::Name && self.typed == self.name() && !self.is_unsettled(now) {
            return self.act.take().map_or(Answer::Cancel, Answer::Act);
        }
        Answer::Cancel
    }

    /// Changes how a replica is killed.
    pub fn other_way(&mut self, cluster: &Cluster, last_gap_us: Option<u64>) {
        if let Some(Act::Call(Call::Kill { how, .. })) = &mut self.act {
            *how = match how {
                HowToKill::Now => HowToKill::Graceful,
                HowToKill::Graceful => HowToKill::Now,
                // Whoever asked for it did so by its name.
                HowToKill::Force => HowToKill::Force,
            };
            self.describe(cluster, last_gap_us);
        }
    }
}

fn incarnation(cluster: &Cluster, node: &str) -> Option<u64> {
    Some(cluster.node(node)?.status.as_ref()?.incarnation)
}

/// What a call that can be asked about does: title, lines, tier.
fn describe_call(call: &Call, cluster: &Cluster, last_gap_us: Option<u64>) -> Words {
    let key_of = |key: &kvorum_protocol::Key| output::preview(&key.0);
    match call {
        Call::Kill { node, how } => describe_kill(node, *how, cluster, last_gap_us),
        Call::Scale { replicas } => describe_scale(*replicas, cluster),
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

fn describe_kill(node: &str, how: HowToKill, cluster: &Cluster, last_gap_us: Option<u64>) -> Words {
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

fn describe_scale(replicas: u32, cluster: &Cluster) -> Words {
    let count = usize::try_from(replicas).unwrap_or(usize::MAX).min(1000);
    let after = Consequence::of_scale(cluster, count);
    let now = cluster.wanted();
    let mut lines = vec![format!("Now {now}, then {replicas}; {} must agree.", after.quorum)];
    if count < now {
        let names: Vec<String> = cluster
            .nodes()
            .filter(|node| node.ordinal() >= count)
            .map(super::cluster::Node::short)
            .collect();
        lines.push(format!("{} leave and their pods end.", names.join(", ")));
    }
    lines.push(verdict(&after));
    (format!("Scale to {replicas}?"), lines, tier(&after), facts(&after))
}

fn describe_cuts(name: &str, cuts: &[(String, String)], cluster: &Cluster) -> Words {
    let after = Consequence::of_cuts(cluster, cuts);
    let links = cuts.iter().map(|(a, b)| format!("{}–{}", short(a), short(b)));
    let lines = vec![
        format!("Cuts {}.", links.collect::<Vec<_>>().join(", ")),
        verdict(&after),
        "The cuts stay until they are healed (H).".to_owned(),
    ];
    (format!("Cut links as in '{name}'?"), lines, tier(&after), facts(&after))
}

fn describe_demo(cluster: &Cluster) -> Words {
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

fn describe_walk(cluster: &Cluster) -> Words {
    let after = Consequence::of_scale(cluster, 1);
    let lines = vec![
        "Writes 200 times a second under keys of its own, scales to 5".to_owned(),
        format!("replicas, to 1, and back to {}, reads all again, and", cluster.wanted()),
        "removes its keys.".to_owned(),
        verdict(&after),
    ];
    ("Run the scaling demo on this cluster?".to_owned(), lines, tier(&after), facts(&after))
}

/// The facts of a consequence.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::testing::{cluster_of, down, status_of};
    use crate::message::Seen;

    fn at(ms: u64) -> Now {
        Now { monotonic: Duration::from_millis(ms), wall_us: 0 }
    }

    fn kill(cluster: &Cluster, node: &str) -> Dialog {
        let call = Call::Kill { node: node.to_owned(), how: HowToKill::Now };
        Dialog::new(Act::Call(call), cluster, Some(412_000), at(0))
    }

    #[test]
    fn a_kill_says_what_it_does_and_takes_a_y() {
        let cluster = cluster_of(3);
        let mut dialog = kill(&cluster, "kvorum-0");
        assert_eq!(dialog.title, "Kill n1 kvorum-0?");
        let text = dialog.lines.join("\n");
        for part in ["LEADER", "412 ms", "2 of 3 voters up", "quorum KEPT", "(•) now"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(dialog.tier, Tier::Yes);
        for character in ['Y', 'x', ' ', 'k'] {
            assert_eq!(dialog.typed(character, at(1)), Answer::Stay);
        }
        let mut other = dialog.clone();
        assert_eq!(other.entered(at(1)), Answer::Cancel, "Enter is no");
        dialog.other_way(&cluster, None);
        assert!(dialog.lines.join("\n").contains("hands leadership over"));
        assert!(matches!(
            dialog.typed('y', at(1)),
            Answer::Act(Act::Call(Call::Kill { how: HowToKill::Graceful, .. }))
        ));
    }

    #[test]
    fn losing_the_quorum_takes_the_typed_name() {
        let mut cluster = cluster_of(3);
        down(&mut cluster, 2);
        let mut dialog = kill(&cluster, "kvorum-1");
        assert_eq!(dialog.tier, Tier::Name);
        for character in "y".chars() {
            assert_eq!(dialog.typed(character, at(1)), Answer::Stay);
        }
        assert_eq!(dialog.clone().entered(at(1)), Answer::Cancel, "that is not the name");
        dialog.typed.clear();
        for character in "kvorum-1".chars() {
            dialog.typed(character, at(1));
        }
        assert!(matches!(dialog.entered(at(1)), Answer::Act(_)));
    }

    #[test]
    fn changed_facts_want_a_new_answer_and_a_restart_closes() {
        let mut cluster = cluster_of(3);
        let mut dialog = kill(&cluster, "kvorum-0");
        down(&mut cluster, 1);
        assert_eq!(dialog.refresh(&cluster, None, at(1000)), None);
        assert_eq!(dialog.tier, Tier::Name);
        let mut back = status_of(3, 1);
        back.incarnation += 1;
        cluster.observe(at(0), &Seen::Status(Box::new(back)));
        assert_eq!(dialog.refresh(&cluster, None, at(2000)), None);
        assert_eq!(dialog.typed('y', at(2100)), Answer::Stay, "too soon after the change");
        assert!(matches!(dialog.clone().typed('y', at(2600)), Answer::Act(_)));
        let mut again = status_of(3, 0);
        again.incarnation += 1;
        cluster.observe(at(0), &Seen::Status(Box::new(again)));
        assert!(dialog.refresh(&cluster, None, at(2700)).is_some());
        let mut dialog = kill(&cluster, "kvorum-0");
        assert!(dialog.refresh(&cluster, None, at(29_000)).is_none());
        assert!(dialog.refresh(&cluster, None, at(30_000)).is_some());
    }
}
