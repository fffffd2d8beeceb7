//! Pure: a replica's status report about itself.
//!
//! Guarantees that a replica is reported ready only when it serves.

use kvorum_protocol::status::{Ballot, ReplicaId, Role, Status};
use omnipaxos::ballot_leader_election::Ballot as SlotBallot;

use super::context::Context;
use super::health::Health;
use super::logs::Logs;
use super::restarts::Restarts;
use crate::engine::requests::subscriptions::Turning;
use crate::engine::store::Store;

/// The most entries that a ready replica may lag behind the decided index it knows.
const READY_LAG_MAX: u64 = 1024;

/// Returns this replica's status; the caller adds the times.
pub(super) fn status<S: Store>(
    cx: &Context<S>,
    health: &Health<'_>,
    logs: &Logs,
    restarts: &Restarts,
) -> Status {
    let me = cx.store.identity();
    let applied = cx.store.applied();
    let role = cx.role();
    let (ballot, accepted, decided) = match &cx.consensus {
        // A copied state may be ahead of the log.
        Some(c) => (c.promise(), c.accepted().max(applied), c.decided().max(applied)),
        None => (SlotBallot::default(), applied, applied),
    };
    let leads = usize::try_from(ballot.pid).ok().and_then(|slot| slot.checked_sub(1));
    let leads = leads.and_then(|index| cx.configuration.members.get(index));
    let replica = leads.map_or(ReplicaId(0), |member| member.replica);
    Status {
        name: me.name.clone(),
        replica: cx.me,
        cluster: me.cluster,
        incarnation: me.incarnation,
        configuration: cx.configuration.clone(),
        role,
        leader: cx.leader_name(),
        ballot: Ballot { number: ballot.n, replica },
        accepted,
        decided,
        applied,
        compacted: logs.compacted(cx),
        catching_up: health.catch_up.progress(cx),
        is_ready: matches!(role, Role::Leader | Role::Follower)
            && decided - applied <= READY_LAG_MAX
            && !cx.leads_alone()
            && !cx.is_genesis()
            && cx.quarantine.is_none(),
        allows_faults: cx.options.allows_faults,
        version: cx.store.version().0,
        same_at: health.scrub.same_at(),
        membership: health.membership.status(cx, restarts),
        links: cx.peers.links(),
        trouble: health.trouble(cx),
        monotonic_us: cx.time.monotonic_us,
        wall_us: cx.time.wall_us,
    }
}

/// Returns the part of the status that is sent at once when it changes.
pub(super) fn turning<S: Store>(cx: &Context<S>) -> Turning {
    Turning {
        role: cx.role(),
        leader: cx.leader(),
        ballot: cx.consensus.as_ref().map_or(0, |consensus| consensus.promise().n),
        link_changes: cx.peers.link_changes(),
    }
}
