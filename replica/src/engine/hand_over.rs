//! Pure: hands leadership over to another replica.
//!
//! The leader stops proposing, waits until the target has accepted everything, then asks it to
//! lead; a candidate that is too far behind asks a peer that is ahead of it.
//!
//! Guarantees that a hand-over ends: the target leads, or the leader gives up after a while and
//! continues to lead.

use kvorum_protocol::message::Refusal;
use kvorum_protocol::status::{ConfigurationId, ReplicaId};
use omnipaxos::ballot_leader_election::Ballot;

use super::context::{Context, LAG_MAX};
use super::message::{After, PeerMessage};
use super::notice::Notice;
use super::restarts::Restarts;
use crate::engine::store::Store;
use crate::planner;

/// The time limit of a hand-over, in ticks, after which the leader continues to lead.
const HAND_OVER_TICKS: u64 = 100;
/// Ticks after which the target is asked again: it may not have been in step the first time.
const ASK_AGAIN_TICKS: u64 = 10;

/// The hand-over of this replica's leadership, if one is under way.
#[derive(Default)]
pub(super) struct HandOver {
    under_way: Option<Transfer>,
}

/// A hand-over under way.
struct Transfer {
    target: ReplicaId,
    deadline: u64,
    /// The earliest time to ask the target.
    next_ask: u64,
}

/// Returns a sort key for how soon a peer departs: the lowest stays longest. A peer that is about
/// to stop goes first, then one that is not wanted. Of the others an orchestrator takes the highest
/// ordinal first, in each rollout and each scale-down; so when this replica is about to be
/// restarted itself, the replicas above it have been, and those below are next.
fn departure<S: Store>(
    cx: &Context<S>,
    restarts: &Restarts,
    peer: ReplicaId,
) -> (bool, bool, bool, Option<u32>, ReplicaId) {
    let name = cx.peers.name(peer);
    let (ordinal, is_unwanted) = (planner::ordinal(name), cx.is_unwanted(name));
    let own = planner::ordinal(&cx.store.identity().name);
    let is_next = restarts.is_to_restart() && ordinal < own;
    (restarts.is_stopping(peer, cx.now), is_unwanted, is_next, ordinal, peer)
}

/// Handles a request to lead: from a leader, if this replica is in step with it, or from a
/// candidate that is far behind.
pub(super) fn asked_to_lead<S: Store>(
    cx: &mut Context<S>,
    configuration: ConfigurationId,
    ballot: Ballot,
    by_leader: bool,
) {
    let Some(consensus) = &mut cx.consensus else { return };
    let is_in_step = consensus.leader().is_some_and(|(_, is_accepting)| is_accepting);
    let is_meant = configuration == cx.configuration.id && consensus.promise() == ballot;
    if is_meant && is_in_step == by_leader {
        consensus.lead_if_asked();
    }
}

impl HandOver {
    /// Whether a hand-over is under way. Nothing is proposed meanwhile.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Abandons the hand-over: this replica no longer leads.
    pub(super) fn abandon(&mut self) {
        self.under_way = None;
    }

    /// Begins to hand leadership over: to the target if one is given, else to the replica in step
    /// that stays longest, or to the one that is nearest to being in step.
    pub(super) fn begin<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        restarts: &Restarts,
        target: Option<ReplicaId>,
    ) -> Result<(), Refusal> {
        let leader = cx.leader_name();
        let Some(consensus) = &cx.consensus else { return Err(Refusal::NoLeader) };
        if consensus.ballot_if_leading().is_none() {
            return Err(Refusal::NotLeader { leader });
        }
        let reach = |peer: &ReplicaId| consensus.accepted_by(*peer).unwrap_or(0);
        let in_step =
            |peer: &ReplicaId| reach(peer).saturating_add(LAG_MAX) >= consensus.accepted();
        let peers = || cx.peers.connected();
        let best = peers().filter(in_step).min_by_key(|peer| departure(cx, restarts, *peer));
        let best = best.or_else(|| peers().max_by_key(reach));
        let target = target.filter(|target| cx.peers.session(*target).is_some()).or(best);
        let Some(target) = target else { return Err(Refusal::NoQuorum) };
        let to = cx.peers.name(target).to_owned();
        cx.notice(Notice::HandingOver { to });
        let deadline = cx.now + HAND_OVER_TICKS;
        self.under_way = Some(Transfer { target, deadline, next_ask: cx.now });
        Ok(())
    }

    /// Advances a hand-over: waits until the target has accepted everything, then asks it to lead.
    pub(super) fn advance<S: Store>(&mut self, cx: &mut Context<S>) {
        let Some(hand_over) = &mut self.under_way else { return };
        let Some(consensus) = &cx.consensus else { return };
        let Some(ballot) = consensus.ballot_if_leading() else { return };
        if cx.now >= hand_over.deadline {
            self.under_way = None;
        } else if cx.now >= hand_over.next_ask
            && consensus.accepted_by(hand_over.target) == Some(consensus.accepted())
        {
            hand_over.next_ask = cx.now + ASK_AGAIN_TICKS;
            let message =
                PeerMessage::TransferLeadership { configuration: cx.configuration.id, ballot };
            cx.send(hand_over.target, message, After::Earlier);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tests::Cluster;

    #[test]
    fn leadership_goes_to_who_is_asked_for_or_to_who_stays_longest() {
        let mut cluster = Cluster::of(3);
        let (leader, others) = cluster.roles();
        let last = *others.last().unwrap();
        cluster.parts(leader).begin_hand_over(Some(last)).unwrap();
        cluster.settle();
        cluster.pass(10);
        assert_eq!(cluster.roles().0, last);
        cluster.parts(last).begin_hand_over(None).unwrap();
        cluster.pass(10);
        let lowest = [1, 2, 3].map(ReplicaId).into_iter().find(|id| *id != last);
        assert_eq!(Some(cluster.roles().0), lowest, "the lowest ordinal stays longest");
    }

    #[test]
    fn a_hand_over_ends_though_its_target_is_silent() {
        let mut cluster = Cluster::of(3);
        let (leader, others) = cluster.roles();
        let follower = cluster.parts(others[0]);
        assert!(follower.begin_hand_over(None).is_err(), "it does not lead");
        let parts = cluster.parts(leader);
        parts.begin_hand_over(Some(others[0])).unwrap();
        parts.cx.now += HAND_OVER_TICKS;
        parts.hand_over.advance(&mut parts.cx);
        assert!(!parts.hand_over.is_under_way());
    }
}
