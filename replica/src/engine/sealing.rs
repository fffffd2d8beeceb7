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

use super::Engine;
use super::notice::Notice;
use crate::chain::Standing;
use crate::entry::Entry;
use crate::planner::Scale;
use crate::storage::Store;

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

/// The state of the tries to seal this configuration.
#[derive(Default)]
pub(super) struct Seals {
    under_way: Option<Sealing>,
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
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Returns why the members have not changed yet, if a try failed.
    pub(super) fn why(&self) -> Option<String> {
        self.why.clone()
    }

    fn patience(&self) -> u64 {
        (SEAL_TICKS << self.failed.min(8)).min(SEAL_TICKS_MAX)
    }
}

impl<S: Store> Engine<S> {
    /// Begins to seal the configuration, if this replica leads, no change is under way, and a
    /// majority of the new members is linked and nearly has the state: a quorum must never wait for
    /// a member that has to catch up first.
    pub(super) fn configure(&mut self, members: Vec<Member>) {
        let next = Configuration { id: ConfigurationId(self.cx.configuration.id.0 + 1), members };
        let fit = next.members.iter().filter(|member| self.cx.is_fit(member)).count();
        let is_free = !self.stops && !self.seals.is_under_way() && self.hand_over.is_none();
        let is_ready = self.cx.is_leading() && is_free && fit >= next.quorum();
        if is_ready && self.cx.now >= self.seals.again_at {
            let deadline = self.cx.now + self.seals.patience();
            let wanted = self.scale_wanted();
            self.seals.under_way = Some(Sealing { next, wanted, deadline });
        }
    }

    /// Whether a replica durably has every entry that this leader has. For members it is known what
    /// they accepted; other replicas report the index up to which they have the state. This leader
    /// itself durably has the decided entries.
    fn has_everything(&self, member: &Member) -> bool {
        let Some(consensus) = &self.cx.consensus else { return false };
        let all = consensus.accepted();
        let reach = match member.replica {
            me if me == self.cx.me => consensus.decided(),
            peer if self.cx.peers.is_member(peer) => consensus.accepted_by(peer).unwrap_or(0),
            // No replica can have more than exists.
            peer => self.cx.peers.state_of(peer).filter(|index| *index <= all).unwrap_or(0),
        };
        reach >= all
    }

    /// Seals the configuration as soon as a majority of the next members has every entry.
    pub(super) fn advance_sealing(&mut self) {
        let Some(sealing) = &self.seals.under_way else { return };
        let (members, quorum) = (&sealing.next.members, sealing.next.quorum());
        let (has, lacks): (Vec<_>, Vec<_>) =
            members.iter().partition(|member| self.has_everything(member));
        let have_all = has.len() >= quorum || !self.cx.rules.seals_what_heirs_have;
        let is_applied = self.cx.store.applied() >= self.cx.last_known();
        if have_all && is_applied {
            self.seal();
        } else if self.cx.now >= sealing.deadline {
            let names: Vec<_> = lacks.iter().map(|member| member.name.as_str()).collect();
            let late = if have_all { "the leader".to_owned() } else { names.join(", ") };
            let why = format!(
                "the members change when {quorum} of the new ones have all that was written, and \
                 {late} did not get the last of it in time; that is tried again: look at their \
                 disks and at the network if it goes on"
            );
            self.seals.why = Some(why);
            self.seals.again_at = self.cx.now + REST * self.seals.patience();
            self.seals.failed += 1;
            self.seals.under_way = None;
        }
    }

    /// Proposes the stop sign, if the desired replica count has not changed since this began; the
    /// count is looked up again when it may have.
    fn seal(&mut self) {
        let Some(Sealing { next, wanted, deadline }) = self.seals.under_way.take() else { return };
        let chain = self.cx.store.chain();
        let may_come = |one: &Member| chain.standing(one.replica) != Standing::Retired;
        if wanted != self.scale_wanted() || !next.members.iter().all(may_come) {
            return;
        }
        if !self.is_sure(&next.members) {
            let still = Some(Sealing { next, wanted, deadline });
            self.seals.under_way = still.filter(|_| self.cx.now < deadline);
            return;
        }
        if !self.cx.is_leading() {
            return;
        }
        self.stops = true;
        let names = next.members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>();
        let notice = Notice::Configuring { id: next.id.0, members: names.join(",") };
        self.cx.notice(notice);
        self.cx.propose(Entry::StopSign(next));
        let mut answer = |origin, answer| self.cx.answer(origin, answer);
        // These writes were never proposed; the next leader takes them.
        self.proposals.refuse_queue(&Answer::Refused(Refusal::HandingOver), &mut answer);
    }

    /// Abandons the try under way and forgets the failed ones: this replica no longer leads, leads
    /// in another configuration, or hands leadership over.
    pub(super) fn abandon_sealing(&mut self) {
        self.seals = Seals::default();
    }
}
