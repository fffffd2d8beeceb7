//! Pure: the planning by which a leader adapts the members to the desired replica count.
//!
//! At intervals the leader checks which replicas are wanted, linked and in step, and does what the
//! [planner](crate::planner) says. Guarantees that one change is under way at a time, and that no
//! member is removed because of an outdated replica count: before a removal the count is looked up
//! again, by the leader, or by a peer when the leader gets no answer. Does not know where the
//! desired count comes from.

use kvorum_protocol::status::{JoinerStatus, Member, Membership, ReplicaId};

use super::Engine;
use super::consensus::Consensus;
use super::message::{Look, Output, PeerMessage};
use crate::chain::Standing;
use crate::planner::{self, Candidate, Plan, Scale, View};
use crate::storage::Store;

/// Ticks between two plans.
const PLAN_TICKS: u64 = 3;
/// The most entries that a replica's state may lack for a configuration change to begin, or for the
/// replica to lead: so few arrive within a moment.
pub(super) const LAG_MAX: u64 = 1024;

/// How long the answer to a look is valid, in ticks.
const LOOK_HOLDS_TICKS: u64 = 50;
/// Ticks after which an unanswered look is repeated, and the peers are asked too.
const LOOK_AGAIN_TICKS: u64 = 300;

/// A look: one query of the desired replica count.
struct Looking {
    number: u64,
    asked_at: u64,
    is_answered: bool,
}

impl Default for Looking {
    fn default() -> Self {
        Self { number: 0, asked_at: 0, is_answered: true }
    }
}

/// The state of the leader's planning, and of a follower's reports to the leader.
#[derive(Default)]
pub(super) struct Planning {
    wanted: Option<Scale>,
    /// The reason why the members differ from those wanted.
    waits: Option<String>,
    /// The tick since which some joiner could have become a member.
    addable_since: Option<u64>,
    /// The last look at the desired replica count.
    look: Looking,
    /// The tick until which its answer is valid.
    sure_until: u64,
    /// The leader and the count of this follower's last report.
    told: Option<(ReplicaId, Scale)>,
}

impl<S: Store> Engine<S> {
    /// Records the desired replica count that the orchestrator reported. If it answers a peer's
    /// look, it is sent to that peer.
    pub(super) fn want(&mut self, wanted: Option<Scale>, look: Option<Look>) {
        self.planning.wanted = wanted;
        let (Some(look), Some(wanted)) = (look, wanted) else { return };
        if look.asker == self.cx.me {
            self.looked(wanted, look.number);
        } else {
            let message = PeerMessage::Wanted { wanted, number: Some(look.number) };
            self.cx.push(Output::Gated { to: look.asker, message, durable: false });
        }
    }

    /// Handles a peer's report of the desired replica count.
    pub(super) fn told_wanted(&mut self, wanted: Scale, number: Option<u64>) {
        match number {
            Some(number) => self.looked(wanted, number),
            // The count may be older than the known one: it is only a reason to look.
            None if self.cx.is_leading() && self.planning.wanted != Some(wanted) => self.look(),
            None => {}
        }
    }

    fn looked(&mut self, wanted: Scale, number: u64) {
        if number == self.planning.look.number {
            self.planning.look.is_answered = true;
            self.planning.wanted = Some(wanted);
            self.planning.sure_until = self.cx.now + LOOK_HOLDS_TICKS;
        }
    }

    /// Repeats a leader's look that got no answer, and asks the peers too: an answer is sent only
    /// once.
    pub(super) fn advance_look(&mut self) {
        let last = &self.planning.look;
        if !last.is_answered
            && self.cx.now >= last.asked_at + LOOK_AGAIN_TICKS
            && self.cx.is_leading()
        {
            self.look();
        }
    }

    /// Looks up the desired replica count again, unless a look is under way.
    fn look(&mut self) {
        let last = &self.planning.look;
        if !last.is_answered && self.cx.now < last.asked_at + LOOK_AGAIN_TICKS {
            return;
        }
        let (number, is_unanswered) = (last.number + 1, !last.is_answered);
        self.planning.look = Looking { number, asked_at: self.cx.now, is_answered: false };
        self.cx.push(Output::Look(Look { asker: self.cx.me, number }));
        if is_unanswered {
            let peers: Vec<_> = self.cx.peers.connected().collect();
            for to in peers {
                let message = PeerMessage::Look { number };
                self.cx.push(Output::Gated { to, message, durable: false });
            }
        }
    }

    /// Reports the desired replica count to the leader, which may be cut off from the orchestrator,
    /// unless it was reported already.
    pub(super) fn advance_telling(&mut self) {
        let Some((leader, _)) = self.cx.leader() else { return };
        let told = self.planning.wanted.map(|wanted| (leader, wanted));
        if leader == self.cx.me || told == self.planning.told {
            return;
        }
        self.planning.told = told;
        if let Some((to, wanted)) = told {
            let message = PeerMessage::Wanted { wanted, number: None };
            self.cx.push(Output::Gated { to, message, durable: false });
        }
    }

    /// Whether the desired replica count is known well enough to make `next` the members; looks it
    /// up again if it is not.
    pub(super) fn is_sure(&mut self, next: &[Member]) -> bool {
        let is_sure = !self.cx.rules.looks_again
            || !self.removes(next)
            || self.planning.sure_until >= self.cx.now;
        if !is_sure {
            self.look();
        }
        is_sure
    }

    /// Whether `next` lacks a member whose ordinal is no longer wanted.
    fn removes(&self, next: &[Member]) -> bool {
        let is_left = |member: &&Member| {
            let ordinal = planner::ordinal(&member.name);
            let wanted = self.planning.wanted.zip(ordinal);
            !next.contains(member) && wanted.is_some_and(|(wanted, o)| !wanted.has(o))
        };
        self.cx.configuration.members.iter().any(|member| is_left(&member))
    }

    /// Returns the desired replica count, as reported to this replica.
    pub(super) fn scale_wanted(&self) -> Option<Scale> {
        self.planning.wanted
    }

    fn candidate(&self, member: &Member) -> Candidate {
        let replica = member.replica;
        Candidate {
            member: member.clone(),
            is_linked: self.cx.is_there(replica),
            has_state: self.cx.has_state(replica),
            silent_ticks: self.cx.peers.silent_ticks(replica, self.cx.now),
        }
    }

    /// Makes a plan and begins to carry it out, if one is due.
    pub(super) fn advance_planning(&mut self) {
        let is_quiet = self.stops || self.seals.is_under_way() || self.hand_over.is_some();
        let is_mine = self.cx.is_leading() && !is_quiet;
        if !self.cx.now.is_multiple_of(PLAN_TICKS) || !is_mine || self.is_adrift() {
            return;
        }
        let chain = self.cx.store.chain();
        let joiners: Vec<_> = chain.joiners.iter().map(|j| self.candidate(&j.member)).collect();
        let wanted = self.planning.wanted;
        let is_wanted = |one: &Candidate| {
            wanted.zip(planner::ordinal(&one.member.name)).is_some_and(|(scale, o)| scale.has(o))
        };
        let is_fit = |one: &Candidate| one.is_linked && one.has_state && is_wanted(one);
        let is_addable = joiners.iter().any(is_fit);
        let since = self.planning.addable_since.filter(|_| is_addable);
        self.planning.addable_since = is_addable.then(|| since.unwrap_or(self.cx.now));
        let view = View {
            wanted,
            leader: self.cx.me,
            members: chain.current.members.iter().map(|member| self.candidate(member)).collect(),
            joiners,
            is_genesis: self.cx.is_genesis(),
            waited_ticks: self.planning.addable_since.map_or(0, |since| self.cx.now - since),
        };
        let plan = planner::plan(&view);
        self.planning.waits = match &plan {
            Plan::Wait(why) => Some(why.to_string()),
            Plan::Change(_) => self.seals.why(),
            Plan::Stay | Plan::HandOver(_) => None,
        };
        match plan {
            Plan::Stay | Plan::Wait(_) => {}
            Plan::HandOver(to) => drop(self.begin_hand_over(Some(to))),
            Plan::Change(members) => {
                if self.is_sure(&members) {
                    self.configure(members);
                }
            }
        }
    }

    /// Whether this leader's view of the members may be outdated: it has decided entries still to
    /// apply, or its state is in quarantine.
    fn is_adrift(&self) -> bool {
        let decided = self.cx.consensus.as_ref().map_or(0, Consensus::decided);
        self.cx.store.applied() < decided || self.cx.quarantine.is_some()
    }

    /// Returns the membership for status output.
    pub(super) fn membership(&self) -> Membership {
        let chain = self.cx.store.chain();
        let wanted = self.planning.wanted;
        let joiner = |member: &Member| JoinerStatus {
            name: member.name.clone(),
            index: self.cx.peers.state_of(member.replica).unwrap_or(0),
            is_linked: self.cx.peers.session(member.replica).is_some(),
        };
        let leaves = |member: &&Member| {
            let ordinal = planner::ordinal(&member.name);
            wanted.zip(ordinal).is_some_and(|(wanted, o)| wanted.replicas > 0 && !wanted.has(o))
        };
        let leaving = chain.current.members.iter().filter(leaves);
        Membership {
            wanted: wanted.map(|wanted| wanted.replicas),
            joiners: chain.joiners.iter().map(|j| joiner(&j.member)).collect(),
            leaving: leaving.map(|member| member.name.clone()).collect(),
            waits: self.planning.waits.clone().filter(|_| self.cx.is_leading()),
            may_go: match self.cx.standing() {
                Standing::Member => self.stopping.may(),
                Standing::Joiner | Standing::Retired => self.may_go,
            },
        }
    }
}
