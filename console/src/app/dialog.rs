//! Pure: the confirmation dialog before an act: its question, the consequences, and the answer.
//!
//! The tier follows from the computed consequence, not from the verb: an act that keeps the quorum
//! takes a `y`; one that loses it takes the typed name of its subject. Guarantees that only these
//! answers release the call, that an answer counts only once the question could be read, that a
//! dialog whose facts changed requires a new answer, and that it closes by itself. Does not carry
//! out the call.

mod words;

use std::time::Duration;

use super::cluster::{Cluster, short};
use crate::arguments::DemoName;
use crate::message::{Call, HowToKill, Now};

/// A dialog without an answer closes after this time.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// A key pressed this soon after the question appeared came before the user could read it.
pub const READING: Duration = Duration::from_millis(300);
/// An answer this soon after the facts changed was meant for the old facts.
const SETTLE: Duration = Duration::from_millis(500);

/// A confirmation dialog.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dialog {
    /// The act to carry out on yes; `None` if it cannot be carried out.
    pub act: Option<Act>,
    /// The question.
    pub title: String,
    /// The consequences.
    pub lines: Vec<String>,
    /// The answer it requires.
    pub tier: Tier,
    /// The part of the name typed so far.
    pub typed: String,
    /// When it closes by itself.
    pub until: Duration,
    /// The facts that the answer is about.
    facts: Facts,
    /// When answers to these facts begin to count.
    settles: Duration,
    /// Whether the facts changed since the question was asked.
    has_changed: bool,
    /// The incarnation of the replica to be killed.
    incarnation: Option<u64>,
}

/// The facts that a yes depends on. Replication lag changes all the time and is not among them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Facts {
    is_leader: bool,
    up: usize,
    total: usize,
    keeps: bool,
    had: bool,
}

/// A dialog's content: its title, its lines, its tier, and the facts behind them.
type Words = (String, Vec<String>, Tier, Facts);

/// The act that a dialog carries out on yes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Act {
    /// A single call.
    Call(Call),
    /// Several cuts at once.
    Cuts {
        /// The name of the set of cuts.
        name: String,
        /// The links to cut.
        cuts: Vec<(String, String)>,
    },
    /// A demo; the failover demo kills the leader.
    Demo(DemoName),
}

/// The answer that an act requires.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Tier {
    /// A `y`.
    Yes,
    /// The typed name.
    Name,
    /// It cannot be done.
    Never,
}

/// The effect of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The dialog stays.
    Stay,
    /// It closes and nothing is done.
    Cancel,
    /// It closes and this act is carried out.
    Act(Act),
}

impl Dialog {
    /// Opens the dialog of an act.
    #[must_use]
    pub fn new(act: Act, cluster: &Cluster, last_gap_us: Option<u64>, now: Now) -> Self {
        let mut dialog = Self { act: Some(act), ..Self::blank(now) };
        dialog.incarnation = dialog.subject().and_then(|node| incarnation(cluster, node));
        dialog.describe(cluster, last_gap_us);
        dialog
    }

    /// Opens a dialog that says why something cannot be done.
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
            settles: now.monotonic + READING,
            has_changed: false,
            incarnation: None,
        }
    }

    /// Returns the replica to be killed.
    fn subject(&self) -> Option<&str> {
        match &self.act {
            Some(Act::Call(Call::Kill { node, .. })) => Some(node),
            _ => None,
        }
    }

    /// Returns the word that must be typed.
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
            Some(Act::Call(call)) => words::of_call(call, cluster, last_gap_us),
            Some(Act::Cuts { name, cuts }) => words::of_cuts(name, cuts, cluster),
            Some(Act::Demo(DemoName::Failover)) => words::of_demo(cluster),
            Some(Act::Demo(DemoName::Scale)) => words::of_walk(cluster),
            None => return,
        };
        (self.title, self.lines, self.tier, self.facts) = (title, lines, tier, facts);
    }

    /// Checks the facts again. Returns a note if the dialog has to close.
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
            (self.settles, self.has_changed) = (now.monotonic + SETTLE, true);
            self.typed.clear();
        }
        None
    }

    /// Whether the facts have just changed, so that an answer would be meant for the old facts.
    #[must_use]
    pub fn is_unsettled(&self, now: Now) -> bool {
        self.has_changed && !self.takes_answers(now)
    }

    /// Whether the question with these facts has been shown long enough to be answered.
    fn takes_answers(&self, now: Now) -> bool {
        now.monotonic >= self.settles
    }

    /// Counts the question as read, unless its facts have changed since: an answer typed as a line
    /// is deliberate, however soon it comes.
    pub fn is_read(&mut self) {
        if !self.has_changed {
            self.settles = Duration::ZERO;
        }
    }

    /// Handles a typed character.
    pub fn typed(&mut self, character: char, now: Now) -> Answer {
        match self.tier {
            Tier::Never => Answer::Cancel,
            Tier::Yes => match character {
                'y' if self.takes_answers(now) => {
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

    /// Handles Enter: it means no, unless the name was typed.
    pub fn entered(&mut self, now: Now) -> Answer {
        if self.tier == Tier::Name && self.typed == self.name() && self.takes_answers(now) {
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
                // A forced kill was requested by name, so it stays.
                HowToKill::Force => HowToKill::Force,
            };
            self.describe(cluster, last_gap_us);
        }
    }
}

fn incarnation(cluster: &Cluster, node: &str) -> Option<u64> {
    Some(cluster.node(node)?.status.as_ref()?.incarnation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::testing::{cluster_of, down, status_of};
    use crate::message::Observation;

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
            assert_eq!(dialog.typed(character, at(400)), Answer::Stay);
        }
        let mut other = dialog.clone();
        assert_eq!(other.entered(at(400)), Answer::Cancel, "Enter is no");
        assert_eq!(dialog.typed('y', at(299)), Answer::Stay, "nobody has read it");
        dialog.other_way(&cluster, None);
        assert!(dialog.lines.join("\n").contains("hands leadership over"));
        assert!(matches!(
            dialog.typed('y', at(300)),
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
            assert_eq!(dialog.typed(character, at(400)), Answer::Stay);
        }
        assert_eq!(dialog.clone().entered(at(400)), Answer::Cancel, "that is not the name");
        dialog.typed.clear();
        for character in "kvorum-1".chars() {
            dialog.typed(character, at(100));
        }
        assert!(matches!(dialog.clone().entered(at(300)), Answer::Act(_)));
        assert_eq!(dialog.entered(at(299)), Answer::Cancel, "nobody has read it");
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
        cluster.observe(at(0), &Observation::Status(Box::new(back)));
        assert_eq!(dialog.refresh(&cluster, None, at(2000)), None);
        assert_eq!(dialog.typed('y', at(2100)), Answer::Stay, "too soon after the change");
        assert!(matches!(dialog.clone().typed('y', at(2600)), Answer::Act(_)));
        let mut again = status_of(3, 0);
        again.incarnation += 1;
        cluster.observe(at(0), &Observation::Status(Box::new(again)));
        assert!(dialog.refresh(&cluster, None, at(2700)).is_some());
        let mut dialog = kill(&cluster, "kvorum-0");
        assert!(dialog.refresh(&cluster, None, at(29_000)).is_none());
        assert!(dialog.refresh(&cluster, None, at(30_000)).is_some());
    }
}
