//! Pure: which replicas should be members, given how many are wanted.
//!
//! Members are named `BASE-ORDINAL`, all with one base. Scale are the ordinals from `start` on, as
//! many as there are to be `replicas`. A member whose ordinal is not wanted leaves; a joiner whose
//! ordinal is wanted becomes a member when it has the state; a joiner with the name of a member
//! that has been silent for a while takes its place, for it has another disk. Being dead is never a
//! reason to leave. A joiner of any other name never becomes a member.
//!
//! Guarantees that it plans a change only if a majority of the new members is linked and has the
//! state, so that a quorum never grows before its members hold the data; that a plan has one member
//! for each ordinal and [`MEMBERS_MAX`] at most, whatever is wanted; and that whatever keeps it
//! from changing the members is said in a sentence, with what helps.

use std::fmt;

use kvorum_protocol::status::{Member, ReplicaId};
use serde::{Deserialize, Serialize};

/// Ticks for which a member must have been silent before somebody takes its place.
pub const REPLACE_TICKS: u64 = 200;
/// Ticks for which those who could become members wait for others, so that all do at once.
pub const TOGETHER_TICKS: u64 = 200;

/// Members that a cluster has at most: with more, each write waits for more disks, and nothing is
/// gained. Of those wanted beyond it, the ones with the highest ordinals do not become members.
pub const MEMBERS_MAX: u32 = kvorum_protocol::limits::MEMBERS_MAX;

/// How many replicas are wanted, as an orchestrator says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Scale {
    /// The first ordinal.
    pub start: u32,
    /// How many from there on; 0 for a cluster that is to stop, not to shrink.
    pub replicas: u32,
}

impl Scale {
    /// Whether an ordinal is wanted.
    #[must_use]
    pub fn has(self, ordinal: u32) -> bool {
        (self.start..self.start.saturating_add(self.replicas)).contains(&ordinal)
    }
}

/// The ordinal in a name: `2` of `kvorum-2`.
#[must_use]
pub fn ordinal(name: &str) -> Option<u32> {
    let (_, digits) = name.rsplit_once('-')?;
    let is_plain = digits == "0" || !digits.starts_with('0');
    digits.parse().ok().filter(|_| is_plain && digits.bytes().all(|digit| digit.is_ascii_digit()))
}

/// What comes before the ordinal in a name: `kvorum` of `kvorum-2`.
fn base(name: &str) -> Option<&str> {
    ordinal(name)?;
    name.rsplit_once('-').map(|(base, _)| base)
}

/// Whether a replica of that name can become a member beside these: its name is made as theirs are.
#[must_use]
pub fn belongs(name: &str, members: &[Member]) -> bool {
    let theirs = members.first().and_then(|member| base(&member.name));
    theirs.is_some() && base(name) == theirs
}

/// A member or a joiner, as the leader sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Who.
    pub member: Member,
    /// Whether there is a link to it (the leader has one to itself).
    pub is_linked: bool,
    /// Whether it has the state, but for what is just under way.
    pub has_state: bool,
    /// For how many ticks there has been no link.
    pub silent_ticks: u64,
}

impl Candidate {
    fn is_fit(&self) -> bool {
        self.is_linked && self.has_state
    }
}

/// All that a plan is made of.
#[derive(Clone, Debug)]
pub struct View {
    /// How many are wanted; `None` when nobody says.
    pub wanted: Option<Scale>,
    /// The leader.
    pub leader: ReplicaId,
    /// The members.
    pub members: Vec<Candidate>,
    /// Those who are to become members.
    pub joiners: Vec<Candidate>,
    /// The cluster has never served: it begins with one member, and serves when a majority of those
    /// wanted are.
    pub is_genesis: bool,
    /// For how many ticks somebody could have become a member.
    pub waited_ticks: u64,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Plan {
    /// The members are those wanted, or nobody says how many are.
    Stay,
    /// They are not, and cannot be yet.
    Wait(Why),
    /// The leader is to leave: first another one should lead.
    HandOver(ReplicaId),
    /// These should be the members.
    Change(Vec<Member>),
}

/// Why the members are not those wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Why {
    /// None is wanted: a cluster is stopped that way, and keeps its members.
    Stopped,
    /// A member's name has no ordinal.
    NoOrdinal(String),
    /// Replicas that are wanted have not come, or do not have the state yet.
    Joining(Vec<String>),
    /// More are wanted than can be members.
    TooMany(u32),
    /// A majority of the new members must be there first.
    Blocked {
        /// How many of them have to be there.
        need: usize,
        /// How many are.
        have: usize,
        /// Those that are not, by name.
        missing: Vec<String>,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => write!(f, "no replica is wanted, so the members stay as they are"),
            Self::NoOrdinal(name) => write!(
                f,
                "'{name}' does not end in an ordinal, as in kvorum-0: the members cannot follow a \
                 number of replicas"
            ),
            Self::Joining(names) => {
                write!(f, "waiting for {}: not started, or without the state", names.join(", "))
            }
            Self::TooMany(wanted) => write!(
                f,
                "{wanted} replicas are wanted, and a cluster has {MEMBERS_MAX} members at most: \
                 scale down to {MEMBERS_MAX} or less"
            ),
            Self::Blocked { need, have, missing } => write!(
                f,
                "{have} of the new members are there and in step, and {need} must be: start {} \
                 again, or scale back up",
                missing.join(", ")
            ),
        }
    }
}

/// Plans.
#[must_use]
pub fn plan(view: &View) -> Plan {
    let Some(wanted) = view.wanted else { return Plan::Stay };
    let unnamed = view.members.iter().find(|one| ordinal(&one.member.name).is_none());
    if let Some(one) = unnamed {
        return Plan::Wait(Why::NoOrdinal(one.member.name.clone()));
    }
    if wanted.replicas == 0 {
        return Plan::Wait(Why::Stopped);
    }
    let is_wanted = |one: &&Candidate| ordinal(&one.member.name).is_some_and(|o| wanted.has(o));
    let members: Vec<_> = view.members.iter().map(|one| one.member.clone()).collect();
    let belongs = |one: &&Candidate| belongs(&one.member.name, &members);
    let joiners: Vec<_> = view.joiners.iter().filter(is_wanted).filter(belongs).collect();
    let in_place_of = |one: &Candidate| {
        let mut joiners = joiners.iter().filter(|joiner| joiner.member.name == one.member.name);
        let is_silent = !one.is_linked && one.silent_ticks >= REPLACE_TICKS;
        joiners.find(|joiner| is_silent && joiner.is_fit()).copied()
    };
    let stay = view.members.iter().filter(is_wanted);
    let mut target: Vec<&Candidate> = stay.map(|one| in_place_of(one).unwrap_or(one)).collect();
    let has = |target: &[&Candidate], name: &str| target.iter().any(|one| one.member.name == name);
    let mut new: Vec<_> = joiners.iter().copied().filter(|joiner| joiner.is_fit()).collect();
    new.sort_by_key(|one| ordinal(&one.member.name));
    for joiner in new {
        if target.len() < MEMBERS_MAX as usize && !has(&target, &joiner.member.name) {
            target.push(joiner);
        }
    }
    // Whoever cannot come is not waited for when others leave, or for ever.
    let absent = absent(view, wanted, &target);
    let grows = target.len() > view.members.len() || is_genesis_short(view, wanted, &target);
    if !absent.is_empty()
        && ((grows && view.waited_ticks < TOGETHER_TICKS)
            || is_genesis_short(view, wanted, &target))
    {
        return Plan::Wait(Why::Joining(absent));
    }
    decide(view, target, absent)
}

/// The names that are wanted and not among the new members.
fn absent(view: &View, wanted: Scale, target: &[&Candidate]) -> Vec<String> {
    let first = view.members.first().map_or("", |one| one.member.name.as_str());
    let base = first.rsplit_once('-').map_or(first, |(base, _)| base);
    let most = wanted.replicas.min(MEMBERS_MAX);
    let names = (0..most).map(|n| format!("{base}-{}", wanted.start.saturating_add(n)));
    names.filter(|name| target.iter().all(|one| one.member.name != *name)).collect()
}

/// A cluster that has never served begins with a majority of those wanted.
fn is_genesis_short(view: &View, wanted: Scale, target: &[&Candidate]) -> bool {
    view.is_genesis && target.len() < wanted.replicas.min(MEMBERS_MAX) as usize / 2 + 1
}

fn decide(view: &View, mut target: Vec<&Candidate>, absent: Vec<String>) -> Plan {
    target.sort_by_key(|one| ordinal(&one.member.name));
    let ids = |all: &[&Candidate]| all.iter().map(|one| one.member.replica).collect::<Vec<_>>();
    let (mut now, mut then) = (ids(&view.members.iter().collect::<Vec<_>>()), ids(&target));
    now.sort_unstable();
    then.sort_unstable();
    // A cluster of one that was just made serves from its second configuration on.
    if now == then && !view.is_genesis {
        return match view.wanted {
            _ if !absent.is_empty() => Plan::Wait(Why::Joining(absent)),
            Some(wanted) if wanted.replicas > MEMBERS_MAX => {
                Plan::Wait(Why::TooMany(wanted.replicas))
            }
            _ => Plan::Stay,
        };
    }
    let need = target.len() / 2 + 1;
    let (fit, unfit): (Vec<&Candidate>, Vec<&Candidate>) =
        target.iter().copied().partition(|one| one.is_fit());
    if target.is_empty() || fit.len() < need {
        let missing = unfit.iter().map(|one| one.member.name.clone()).chain(absent).collect();
        return Plan::Wait(Why::Blocked { need, have: fit.len(), missing });
    }
    if !then.contains(&view.leader) {
        let is_member = |one: &&&Candidate| now.contains(&one.member.replica);
        return match fit.iter().find(is_member) {
            Some(heir) => Plan::HandOver(heir.member.replica),
            // All members leave at once: whoever leads ends the configuration.
            None => Plan::Change(target.into_iter().map(|one| one.member.clone()).collect()),
        };
    }
    Plan::Change(target.into_iter().map(|one| one.member.clone()).collect())
}

#[cfg(test)]
#[path = "planner/tests.rs"]
mod tests;
