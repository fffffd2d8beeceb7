//! Pure: the sealing of a configuration, once a majority of the next members has every entry.
//!
//! Every write acknowledged before a change must be held by the members that remain after it: the
//! others may leave for good. So the leader stops proposing for a moment, as for a hand-over, and
//! waits until a majority of the next members durably has all its entries and it has applied them
//! itself; then it proposes the stop sign. Thus the stop sign names no replica whose id an earlier
//! entry took away. Meanwhile writes wait in the queue.
//!
//! Guarantees that this ends: with the stop sign, or after a while the leader resumes serving,
//! reports which members delayed it, and tries again later with more patience. Does not know why
//! the members change.

use kvorum_protocol::message::{Answer, Refusal};
use kvorum_protocol::status::{Configuration, ConfigurationId, Member};

use super::planning::Planning;
use crate::engine::context::Context;
use crate::engine::notice::Notice;
use crate::engine::requests::proposals::Proposals;
use crate::engine::store::Store;
use crate::planner::Scale;
use crate::state::chain::Standing;
use crate::state::entry::Entry;

/// Ticks that writes may wait for the next members at the first try: a change must not stop the
/// service for longer than a quarter of a second.
const SEAL_TICKS: u64 = 25;
/// The upper limit of that wait in ticks; each failed try doubles it for the next one: a slow disk
/// makes a change slow, but not impossible.
const SEAL_TICKS_MAX: u64 = 200;
/// Ticks from a failed try to the next one, as a multiple of the failed try's limit: most of the
/// time goes to serving.
const REST: u64 = 4;

/// A configuration that is about to be sealed.
struct Sealing {
    next: Configuration,
    /// The desired replica count when this began.
    wanted: Option<Scale>,
    deadline: u64,
}

/// The tries to seal this configuration.
#[derive(Default)]
pub(in crate::engine) struct Seals {
    under_way: Option<Sealing>,
    /// Whether this replica proposed the end of the configuration: it proposes nothing after it.
    has_proposed: bool,
    /// The number of failed tries.
    failed: u32,
    /// The tick at which the next try may begin.
    again_at: u64,
    /// The reason why the last try failed.
    why: Option<String>,
}

impl Seals {
    /// Whether a try is under way. Nothing is proposed meanwhile, so that the next members come
    /// into step.
    pub(in crate::engine) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Whether this replica proposed the end of the configuration: it proposes nothing after it.
    pub(in crate::engine) fn has_proposed(&self) -> bool {
        self.has_proposed
    }

    /// Whether a change is under way or proposed.
    pub(super) fn is_busy(&self) -> bool {
        self.has_proposed || self.is_under_way()
    }

    /// Returns why the members have not changed yet, if a try failed.
    pub(in crate::engine) fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    fn patience(&self) -> u64 {
        (SEAL_TICKS << self.failed.min(8)).min(SEAL_TICKS_MAX)
    }

    /// Begins to seal the configuration, if this replica leads, no change is under way, and a
    /// majority of the new members is linked and nearly has the state: a quorum must never wait for
    /// a member that has to catch up first.
    pub(in crate::engine) fn begin<S: Store>(&mut self, cx: &Context<S>, members: Vec<Member>) {
        let next = Configuration { id: ConfigurationId(cx.configuration.id.0 + 1), members };
        let fit = next.members.iter().filter(|member| cx.is_fit(member)).count();
        let is_ready = cx.is_leading() && !self.is_busy() && fit >= next.quorum();
        if is_ready && cx.now >= self.again_at {
            let deadline = cx.now + self.patience();
            let wanted = cx.wanted;
            self.under_way = Some(Sealing { next, wanted, deadline });
        }
    }

    /// Seals the configuration as soon as a majority of the next members has every entry.
    pub(in crate::engine) fn advance<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        planning: &mut Planning,
        proposals: &mut Proposals,
    ) {
        let Some(sealing) = &self.under_way else { return };
        let (members, quorum) = (&sealing.next.members, sealing.next.quorum());
        let (has, lacks): (Vec<_>, Vec<_>) =
            members.iter().partition(|member| has_everything(cx, member));
        let have_all = has.len() >= quorum || !cx.rules.seals_what_heirs_have();
        let is_applied = cx.store.applied() >= cx.last_known();
        if have_all && is_applied {
            self.seal(cx, planning, proposals);
        } else if cx.now >= sealing.deadline {
            let names: Vec<_> = lacks.iter().map(|member| member.name.as_str()).collect();
            let late = if have_all { "the leader".to_owned() } else { names.join(", ") };
            let why = format!(
                "the members change when {quorum} of the new ones have all that was written, and \
                 {late} did not get the last of it in time; that is tried again: look at their \
                 disks and at the network if it goes on"
            );
            self.why = Some(why);
            self.again_at = cx.now + REST * self.patience();
            self.failed += 1;
            self.under_way = None;
        }
    }

    /// Proposes the stop sign, if the desired replica count has not changed since this began; the
    /// count is looked up again when it may have.
    fn seal<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        planning: &mut Planning,
        proposals: &mut Proposals,
    ) {
        let Some(Sealing { next, wanted, deadline }) = self.under_way.take() else { return };
        let chain = cx.store.chain();
        let may_come = |one: &Member| chain.standing(one.replica) != Standing::Retired;
        if wanted != cx.wanted || !next.members.iter().all(may_come) {
            return;
        }
        if !planning.is_sure(cx, &next.members) {
            let still = Some(Sealing { next, wanted, deadline });
            self.under_way = still.filter(|_| cx.now < deadline);
            return;
        }
        if !cx.is_leading() {
            return;
        }
        self.has_proposed = true;
        let names = next.members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>();
        let notice = Notice::Configuring { id: next.id.0, members: names.join(",") };
        cx.notice(notice);
        cx.propose(Entry::StopSign(next));
        let mut answer = |origin, answer| cx.answer(origin, answer);
        // These writes were never proposed; the next leader takes them.
        proposals.refuse_queue(&Answer::Refused(Refusal::HandingOver), &mut answer);
    }

    /// Abandons the try under way and forgets the failed ones: this replica hands leadership over.
    pub(in crate::engine) fn abandon(&mut self) {
        *self = Self { has_proposed: self.has_proposed, ..Self::default() };
    }

    /// Forgets everything: this replica no longer leads, or leads in another configuration.
    pub(in crate::engine) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Records that this replica leads from now on, and whether an earlier leader's change of the
    /// configuration is among the entries that it found in its log.
    pub(in crate::engine) fn leads(&mut self, has_proposed: bool) {
        self.has_proposed = has_proposed;
    }
}

/// Whether a replica durably has every entry that this leader has. For members it is known what
/// they accepted; other replicas report the index up to which they have the state. Of what is
/// decided, this leader itself may lack some: others may have been a majority without it.
fn has_everything<S: Store>(cx: &Context<S>, member: &Member) -> bool {
    let Some(consensus) = &cx.consensus else { return false };
    let all = consensus.accepted();
    let reach = match member.replica {
        me if me == cx.me => consensus.durable(),
        peer if cx.peers.is_member(peer) => consensus.accepted_by(peer).unwrap_or(0),
        // No replica can have more than exists.
        peer => cx.peers.state_of(peer).filter(|index| *index <= all).unwrap_or(0),
    };
    reach >= all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tests::Cluster;

    #[test]
    fn a_configuration_ends_when_a_majority_of_the_next_has_everything() {
        let mut cluster = Cluster::of(3);
        let (leader, others) = cluster.roles();
        let put = cluster.put(leader, "a");
        let parts = cluster.parts(leader);
        let stays = |member: &&Member| member.replica != others[1];
        let members: Vec<_> =
            parts.cx.configuration.members.iter().filter(stays).cloned().collect();
        parts.membership.configure(&parts.cx, members.clone(), true);
        assert!(!parts.membership.seals.is_under_way(), "a hand-over is under way");
        parts.membership.configure(&parts.cx, members.clone(), false);
        assert!(parts.membership.seals.is_under_way());
        cluster.settle();
        let cx = &cluster.parts(leader).cx;
        assert_eq!(
            (cx.configuration.id, &cx.configuration.members),
            (ConfigurationId(2), &members)
        );
        let refused = Answer::Refused(Refusal::HandingOver);
        assert_eq!(cluster.answer(put), Some(&refused), "it was never proposed");
    }

    /// Each try is given more time than the last one.
    #[test]
    fn a_try_ends_when_the_next_members_are_late() {
        let mut cluster = Cluster::of(3);
        let (leader, _) = cluster.roles();
        let parts = cluster.parts(leader);
        parts.cx.propose(Entry::Noop);
        let members = parts.cx.configuration.members.clone();
        let first = parts.membership.seals.patience();
        parts.membership.configure(&parts.cx, members, false);
        parts.cx.now += first;
        parts.membership.advance_seals(&mut parts.cx, &mut parts.requests.proposals);
        let seals = &parts.membership.seals;
        assert!(!seals.is_busy() && seals.patience() == 2 * first);
        assert!(seals.why().is_some_and(|why| why.contains("in time")));
    }
}
