//! Pure: plans which replicas should be members, given the desired scale.
//!
//! Members are named `BASE-ORDINAL`, all with one base. The scale is the range of `replicas`
//! ordinals from `start` on. A member whose ordinal is not wanted leaves; a joiner whose ordinal is
//! wanted becomes a member when it has the state; a joiner with the name of a member that has been
//! silent for a while replaces that member, for it has another disk. Being dead is never a reason
//! to leave. A joiner with any other name never becomes a member.
//!
//! Guarantees that it plans a change only if a majority of the new members is linked and has the
//! state, so that a quorum never grows before its members hold the data; that a plan has one member
//! for each ordinal and [`MEMBERS_MAX`] at most, whatever is wanted; and that the reason for not
//! changing the members is given in a sentence, with a remedy.

use std::fmt;

use kvorum_protocol::status::{Member, ReplicaId};
use serde::{Deserialize, Serialize};

/// How long a member must have been silent before a joiner replaces it, in ticks.
pub const REPLACE_TICKS: u64 = 200;
/// How long replicas that could become members wait for others, so that all do at once, in ticks.
pub const TOGETHER_TICKS: u64 = 200;

/// The most members of a cluster: with more, each write waits for more disks, and nothing is
/// gained. If more are wanted, the replicas with the highest ordinals do not become members.
pub const MEMBERS_MAX: u32 = kvorum_protocol::limits::MEMBERS_MAX;

/// The desired scale, as an orchestrator reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Scale {
    /// The first ordinal.
    pub start: u32,
    /// The number of ordinals from there on; 0 for a cluster that is to stop, not to shrink.
    pub replicas: u32,
}

impl Scale {
    /// Whether an ordinal is wanted.
    #[must_use]
    pub fn has(self, ordinal: u32) -> bool {
        (self.start..self.start.saturating_add(self.replicas)).contains(&ordinal)
    }
}

/// Returns the ordinal in a name: `2` for `kvorum-2`.
#[must_use]
pub fn ordinal(name: &str) -> Option<u32> {
    let (_, digits) = name.rsplit_once('-')?;
    let is_plain = digits == "0" || !digits.starts_with('0');
    digits.parse().ok().filter(|_| is_plain && digits.bytes().all(|digit| digit.is_ascii_digit()))
}

/// Returns the part of a name before the ordinal: `kvorum` for `kvorum-2`.
fn base(name: &str) -> Option<&str> {
    ordinal(name)?;
    name.rsplit_once('-').map(|(base, _)| base)
}

/// Whether a replica of that name can become a member beside these: its name must have the same
/// base.
#[must_use]
pub fn belongs(name: &str, members: &[Member]) -> bool {
    let theirs = members.first().and_then(|member| base(&member.name));
    theirs.is_some() && base(name) == theirs
}

/// A member or a joiner, as the leader sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// The replica's id and name.
    pub member: Member,
    /// Whether there is a link to it (the leader counts as linked to itself).
    pub is_linked: bool,
    /// Whether it has the state, except for entries that are just under way.
    pub has_state: bool,
    /// The time without a link, in ticks.
    pub silent_ticks: u64,
}

impl Candidate {
    fn is_fit(&self) -> bool {
        self.is_linked && self.has_state
    }
}

/// The input of a plan.
#[derive(Clone, Debug)]
pub struct View {
    /// The desired scale; `None` when no orchestrator reports one.
    pub wanted: Option<Scale>,
    /// The leader.
    pub leader: ReplicaId,
    /// The members.
    pub members: Vec<Candidate>,
    /// The replicas that are to become members.
    pub joiners: Vec<Candidate>,
    /// Whether the cluster has never served: it begins with one member, and serves once a majority
    /// of the wanted replicas are members.
    pub is_genesis: bool,
    /// How long a joiner could have become a member, in ticks.
    pub waited_ticks: u64,
}

/// The next step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Plan {
    /// The members are those wanted, or no desired scale is known.
    Stay,
    /// The members are not those wanted, and cannot be yet.
    Wait(Why),
    /// The leader is to leave: first it hands over leadership to this member.
    HandOver(ReplicaId),
    /// The members should change to these.
    Change(Vec<Member>),
}

/// The reason why the members are not those wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Why {
    /// No replica is wanted: a cluster is stopped that way, and keeps its members.
    Stopped,
    /// A member's name has no ordinal.
    NoOrdinal(String),
    /// Wanted replicas have not asked to join, or do not have the state yet.
    Joining(Vec<String>),
    /// More are wanted than can be members.
    TooMany(u32),
    /// A majority of the new members must be linked and have the state first.
    Blocked {
        /// How many of the new members must be fit.
        need: usize,
        /// How many are.
        have: usize,
        /// The names of the new members that are not.
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

/// Plans the next step from a view.
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
    // An absent replica never delays others that leave, and delays those that join only for a
    // while.
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

/// Returns the wanted names that are not among the new members.
fn absent(view: &View, wanted: Scale, target: &[&Candidate]) -> Vec<String> {
    let first = view.members.first().map_or("", |one| one.member.name.as_str());
    let base = first.rsplit_once('-').map_or(first, |(base, _)| base);
    let most = wanted.replicas.min(MEMBERS_MAX);
    let names = (0..most).map(|n| format!("{base}-{}", wanted.start.saturating_add(n)));
    names.filter(|name| target.iter().all(|one| one.member.name != *name)).collect()
}

/// Whether a cluster that has never served lacks a majority of the wanted replicas.
fn is_genesis_short(view: &View, wanted: Scale, target: &[&Candidate]) -> bool {
    view.is_genesis && target.len() < wanted.replicas.min(MEMBERS_MAX) as usize / 2 + 1
}

fn decide(view: &View, mut target: Vec<&Candidate>, absent: Vec<String>) -> Plan {
    target.sort_by_key(|one| ordinal(&one.member.name));
    let ids = |all: &[&Candidate]| all.iter().map(|one| one.member.replica).collect::<Vec<_>>();
    let (mut now, mut then) = (ids(&view.members.iter().collect::<Vec<_>>()), ids(&target));
    now.sort_unstable();
    then.sort_unstable();
    // A cluster of one that was just created serves from its second configuration on.
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
            // All members leave at once: the current leader ends the configuration.
            None => Plan::Change(target.into_iter().map(|one| one.member.clone()).collect()),
        };
    }
    Plan::Change(target.into_iter().map(|one| one.member.clone()).collect())
}

#[cfg(test)]
#[path = "planner/tests.rs"]
mod tests;
