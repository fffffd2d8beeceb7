//! Pure: the planning by which a leader adapts the members to the desired replica count.
//!
//! At intervals the leader checks which replicas are wanted, linked and in step, and does what the
//! [planner](crate::planner) says. Guarantees that one change is under way at a time, and that no
//! member is removed because of an outdated replica count: before a removal the count is looked up
//! again, by the leader, or by a peer when the leader gets no answer. Does not know where the
//! desired count comes from.

use kvorum_protocol::status::{Member, ReplicaId};

use crate::engine::consensus::Consensus;
use crate::engine::context::Context;
use crate::engine::message::{After, Output, PeerMessage, ScaleRead};
use crate::engine::store::Store;
use crate::planner::{self, Candidate, Plan, Scale, View};

/// Ticks between two plans.
const PLAN_TICKS: u64 = 3;

/// How long a count that was read is valid, in ticks.
const READ_HOLDS_TICKS: u64 = 50;
/// Ticks after which an unanswered read is repeated, and the peers are asked too.
const READ_AGAIN_TICKS: u64 = 300;

/// One read of the desired replica count.
struct ScaleReading {
    number: u64,
    asked_at: u64,
    is_answered: bool,
}

impl Default for ScaleReading {
    fn default() -> Self {
        Self { number: 0, asked_at: 0, is_answered: true }
    }
}

/// The state of the leader's planning, and of a follower's reports to the leader.
#[derive(Default)]
pub(in crate::engine) struct Planning {
    /// The reason why the members differ from those wanted.
    waits: Option<String>,
    /// The tick since which some joiner could have become a member.
    addable_since: Option<u64>,
    /// The last read of the desired replica count.
    read: ScaleReading,
    /// The tick until which its answer is valid.
    sure_until: u64,
    /// The leader and the count of this follower's last report.
    told: Option<(ReplicaId, Scale)>,
}

impl Planning {
    /// Records the desired replica count that the orchestrator reported. If it answers a peer's
    /// request, it is sent to that peer.
    pub(in crate::engine) fn want<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        wanted: Option<Scale>,
        read: Option<ScaleRead>,
    ) {
        cx.wanted = wanted;
        let (Some(read), Some(wanted)) = (read, wanted) else { return };
        if read.asker == cx.me {
            self.scale_read(cx, wanted, read.number);
        } else {
            let message = PeerMessage::ScaleReport { wanted, number: Some(read.number) };
            cx.send(read.asker, message, After::Earlier);
        }
    }

    /// Handles a peer's report of the desired replica count.
    pub(in crate::engine) fn told_wanted<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        wanted: Scale,
        number: Option<u64>,
    ) {
        match number {
            Some(number) => self.scale_read(cx, wanted, number),
            // The count may be older than the known one: it is only a reason to read it.
            None if cx.is_leading() && cx.wanted != Some(wanted) => self.read_scale(cx),
            None => {}
        }
    }

    fn scale_read<S: Store>(&mut self, cx: &mut Context<S>, wanted: Scale, number: u64) {
        if number == self.read.number {
            self.read.is_answered = true;
            cx.wanted = Some(wanted);
            self.sure_until = cx.now + READ_HOLDS_TICKS;
        }
    }

    /// Repeats a leader's read that got no answer, and asks the peers too: an answer is sent only
    /// once.
    pub(in crate::engine) fn advance_read<S: Store>(&mut self, cx: &mut Context<S>) {
        let last = &self.read;
        if !last.is_answered && cx.now >= last.asked_at + READ_AGAIN_TICKS && cx.is_leading() {
            self.read_scale(cx);
        }
    }

    /// Reads the desired replica count again, unless a read is under way.
    fn read_scale<S: Store>(&mut self, cx: &mut Context<S>) {
        let last = &self.read;
        if !last.is_answered && cx.now < last.asked_at + READ_AGAIN_TICKS {
            return;
        }
        let (number, is_unanswered) = (last.number + 1, !last.is_answered);
        self.read = ScaleReading { number, asked_at: cx.now, is_answered: false };
        cx.push(Output::ReadScale(ScaleRead { asker: cx.me, number }));
        if is_unanswered {
            let peers: Vec<_> = cx.peers.connected().collect();
            for to in peers {
                let message = PeerMessage::ReadScale { number };
                cx.send(to, message, After::Earlier);
            }
        }
    }

    /// Reports the desired replica count to the leader, which may be cut off from the orchestrator,
    /// unless it was reported already.
    pub(in crate::engine) fn advance_telling<S: Store>(&mut self, cx: &mut Context<S>) {
        let Some((leader, _)) = cx.leader() else { return };
        let told = cx.wanted.map(|wanted| (leader, wanted));
        if leader == cx.me || told == self.told {
            return;
        }
        self.told = told;
        if let Some((to, wanted)) = told {
            let message = PeerMessage::ScaleReport { wanted, number: None };
            cx.send(to, message, After::Earlier);
        }
    }

    /// Whether the desired replica count is known well enough to make `next` the members; looks it
    /// up again if it is not.
    pub(in crate::engine) fn is_sure<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        next: &[Member],
    ) -> bool {
        let is_sure = !cx.rules.looks_again() || !removes(cx, next) || self.sure_until >= cx.now;
        if !is_sure {
            self.read_scale(cx);
        }
        is_sure
    }

    /// Makes a plan, if this replica leads and one is due. `late` says why the last try to change
    /// the members failed.
    pub(super) fn plan<S: Store>(&mut self, cx: &Context<S>, late: Option<&str>) -> Option<Plan> {
        if !cx.now.is_multiple_of(PLAN_TICKS) || !cx.is_leading() || is_adrift(cx) {
            return None;
        }
        let chain = cx.store.chain();
        let joiners: Vec<_> = chain.joiners.iter().map(|j| candidate(cx, &j.member)).collect();
        let wanted = cx.wanted;
        let is_wanted = |one: &Candidate| {
            wanted.zip(planner::ordinal(&one.member.name)).is_some_and(|(scale, o)| scale.has(o))
        };
        let is_fit = |one: &Candidate| one.is_linked && one.has_state && is_wanted(one);
        let is_addable = joiners.iter().any(is_fit);
        let since = self.addable_since.filter(|_| is_addable);
        self.addable_since = is_addable.then(|| since.unwrap_or(cx.now));
        let view = View {
            wanted,
            leader: cx.me,
            members: chain.current.members.iter().map(|member| candidate(cx, member)).collect(),
            joiners,
            is_genesis: cx.is_genesis(),
            waited_ticks: self.addable_since.map_or(0, |since| cx.now - since),
        };
        let plan = planner::plan(&view);
        self.waits = match &plan {
            Plan::Wait(why) => Some(why.to_string()),
            Plan::Change(_) => late.map(str::to_owned),
            Plan::Stay | Plan::HandOver(_) => None,
        };
        Some(plan)
    }

    /// Returns the reason why the members differ from those wanted.
    pub(super) fn waits(&self) -> Option<&String> {
        self.waits.as_ref()
    }
}

/// Whether `next` lacks a member whose ordinal is no longer wanted.
fn removes<S: Store>(cx: &Context<S>, next: &[Member]) -> bool {
    let is_left = |member: &Member| !next.contains(member) && cx.is_unwanted(&member.name);
    cx.configuration.members.iter().any(is_left)
}

/// Returns what the planner has to know of a replica.
fn candidate<S: Store>(cx: &Context<S>, member: &Member) -> Candidate {
    let replica = member.replica;
    Candidate {
        member: member.clone(),
        is_linked: cx.is_there(replica),
        has_state: cx.has_state(replica),
        silent_ticks: cx.peers.silent_ticks(replica, cx.now),
    }
}

/// Whether this leader's view of the members may be outdated: it has decided entries still to
/// apply, or its state is in quarantine.
fn is_adrift<S: Store>(cx: &Context<S>) -> bool {
    let decided = cx.consensus.as_ref().map_or(0, Consensus::decided);
    cx.store.applied() < decided || cx.quarantine.is_some()
}
