//! Pure: leave to stop for a while, so that restarts never take a majority away.
//!
//! A replica that was asked to terminate, and will be restarted, hands leadership over and asks the
//! leader for leave (permission). The leader gives it while a majority is available without that
//! replica and those that have leave already; a leave ends when the replica is linked again, or
//! after a while. When all ask at the same time, the cluster is being stopped, not restarted: all
//! may stop. Clusters of one or two members cannot do without any of them, so their members never
//! wait.
//!
//! Guarantees nothing about safety: a process may be killed at any time.

use std::collections::BTreeMap;

use kvorum_protocol::status::{Member, ReplicaId};

use super::context::Context;
use super::message::{After, PeerMessage};
use crate::engine::store::Store;
use crate::state::chain::Standing;

/// Ticks between two requests.
const ASK_TICKS: u64 = 5;
/// How long a leave is valid, in ticks, if the replica does not come back before.
const LEAVE_TICKS: u64 = 6000;
/// How long a stop request stays valid, in ticks.
const ASKING_TICKS: u64 = 100;
/// Ticks for which a new leader only listens: the replicas that have leave report it.
const LISTEN_TICKS: u64 = 4 * ASK_TICKS;
/// The number of members up to which none can be done without.
const FEW: usize = 2;

/// The replicas that want to restart, and those that may stop for it.
#[derive(Default)]
pub(super) struct Restarts {
    /// Whether this replica was asked to terminate.
    is_wanted: bool,
    /// Whether this replica may stop.
    may: bool,
    /// The tick of each replica's last request.
    asked: BTreeMap<ReplicaId, u64>,
    /// The tick at which each replica got leave.
    given: BTreeMap<ReplicaId, u64>,
    /// The tick at which this replica began to lead.
    leads_since: u64,
}

impl Restarts {
    /// Whether this replica may stop.
    pub(super) fn may(&self) -> bool {
        self.may
    }

    /// Records that this replica leads from now on.
    pub(super) fn leads(&mut self, now: u64) {
        self.leads_since = now;
    }

    /// Keeps the records of known replicas only.
    pub(super) fn retain(&mut self, is_known: impl Fn(ReplicaId) -> bool) {
        self.asked.retain(|peer, _| is_known(*peer));
        self.given.retain(|peer, _| is_known(*peer));
    }

    /// Forgets a replica's request and leave, because it is linked: if it had stopped, it is back.
    pub(super) fn is_back(&mut self, peer: ReplicaId) {
        self.given.remove(&peer);
        self.asked.remove(&peer);
    }
}

impl Restarts {
    /// Records that this replica was asked to terminate and will be restarted, and asks for leave.
    /// Returns whether it should hand leadership over first.
    #[must_use]
    pub(super) fn wants_stop<S: Store>(&mut self, cx: &mut Context<S>) -> bool {
        self.is_wanted = true;
        self.ask(cx)
    }

    /// Whether this replica was asked to terminate, and will be restarted.
    pub(super) fn is_to_restart(&self) -> bool {
        self.is_wanted
    }

    /// Asks for leave again, if it is time to. Returns whether this replica should hand leadership
    /// over first.
    #[must_use]
    pub(super) fn advance<S: Store>(&mut self, cx: &mut Context<S>) -> bool {
        self.is_wanted && cx.now.is_multiple_of(ASK_TICKS) && self.ask(cx)
    }

    /// Asks the leader for leave. A leader has nobody to ask: it returns true, and asks the next
    /// leader once it has handed over.
    fn ask<S: Store>(&mut self, cx: &mut Context<S>) -> bool {
        let votes = cx.standing() == Standing::Member && cx.consensus.is_some();
        if !votes || cx.configuration.members.len() == 1 {
            self.may = true;
        } else if cx.is_leading() {
            // If no replica can lead instead, only a stop of the whole cluster is a reason.
            self.asked.insert(cx.me, cx.now);
            self.may |= self.all_stop(cx);
            return true;
        } else if let Some((leader, _)) = cx.leader() {
            // A replica that is not in step yet may have leave already, from an earlier leader.
            let message = PeerMessage::RequestStop { has_leave: self.may };
            cx.send(leader, message, After::Earlier);
        }
        false
    }

    /// Handles a peer's request for leave to stop, or its report that an earlier leader gave it.
    pub(super) fn asked<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        peer: ReplicaId,
        has_leave: bool,
    ) {
        if !cx.is_leading() {
            return;
        }
        self.asked.insert(peer, cx.now);
        if has_leave {
            self.given.insert(peer, cx.now);
        } else if self.lets_stop(cx, peer) {
            self.given.insert(peer, cx.now);
            let message = PeerMessage::PermitStop;
            cx.send(peer, message, After::Earlier);
        }
    }

    /// Records that the leader gave leave.
    pub(super) fn may_stop(&mut self) {
        self.may |= self.is_wanted;
    }

    /// Whether a peer is about to stop, as far as this replica knows.
    pub(super) fn is_stopping(&self, peer: ReplicaId, now: u64) -> bool {
        let asked = self.asked.get(&peer);
        asked.is_some_and(|at| now <= at + ASKING_TICKS)
    }

    /// Whether this replica and every member linked to it ask at the same time.
    fn all_stop<S: Store>(&self, cx: &Context<S>) -> bool {
        let asks = |replica| self.is_stopping(replica, cx.now);
        asks(cx.me) && cx.peers.connected().all(asks)
    }

    fn lets_stop<S: Store>(&self, cx: &Context<S>, peer: ReplicaId) -> bool {
        let members = &cx.configuration.members;
        if cx.now < self.leads_since + LISTEN_TICKS {
            return false;
        }
        if members.len() <= FEW || !cx.peers.is_member(peer) || self.all_stop(cx) {
            return true;
        }
        let has_leave = |replica: ReplicaId| {
            let given = self.given.get(&replica);
            replica == peer || given.is_some_and(|at| cx.now <= at + LEAVE_TICKS)
        };
        let stays = |member: &&Member| !has_leave(member.replica) && cx.is_fit(member);
        members.iter().filter(stays).count() >= cx.configuration.quorum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tests::Cluster;

    /// A majority of three stays when one is away.
    #[test]
    fn one_of_three_gets_leave_at_a_time() {
        let mut cluster = Cluster::of(3);
        let (leader, others) = cluster.roles();
        let (first, second) = (others[0], others[1]);
        cluster.pass(usize::try_from(LISTEN_TICKS).unwrap());
        for replica in [first, second] {
            let parts = cluster.parts(replica);
            assert!(!parts.restarts.wants_stop(&mut parts.cx), "it does not lead");
            cluster.settle();
        }
        assert!(cluster.parts(first).restarts.may());
        assert!(!cluster.parts(second).restarts.may(), "two of three would be away");
        cluster.parts(first).restarts = Restarts::default();
        cluster.parts(leader).restarts.is_back(first);
        cluster.pass(usize::try_from(ASK_TICKS).unwrap());
        assert!(cluster.parts(second).restarts.may(), "the first one is back");
    }

    #[test]
    fn all_may_stop_when_all_want_to() {
        let mut cluster = Cluster::of(3);
        let (leader, others) = cluster.roles();
        cluster.pass(usize::try_from(LISTEN_TICKS).unwrap());
        for replica in [others[0], others[1], leader] {
            let parts = cluster.parts(replica);
            let hands_over = parts.restarts.wants_stop(&mut parts.cx);
            assert_eq!(hands_over, replica == leader);
        }
        cluster.pass(2 * usize::try_from(ASK_TICKS).unwrap());
        for replica in [leader, others[0], others[1]] {
            assert!(cluster.parts(replica).restarts.may(), "{replica:?}");
        }
    }
}
