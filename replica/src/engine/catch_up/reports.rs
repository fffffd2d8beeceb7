//! Pure: what a replica that catches up reports to the others.
//!
//! Guarantees that a joiner reports only state that is durable.

use kvorum_protocol::status::ReplicaId;

use crate::engine::consensus::Consensus;
use crate::engine::context::Context;
use crate::engine::message::{After, PeerMessage};
use crate::engine::store::Store;
use crate::state::snapshot::{FetchRequest, SnapshotId};

/// Lets a source close a snapshot that it holds open for this replica.
pub(super) fn close_at<S: Store>(cx: &mut Context<S>, source: ReplicaId, snapshot: SnapshotId) {
    let message = PeerMessage::Fetch { call: 0, wanted: FetchRequest::Close { snapshot } };
    cx.send(source, message, After::Nothing);
}

/// Reports to the leader and to the source how far the state is here: until then the source
/// keeps the entries after it. Asks the leader for those entries, if they do not come by
/// themselves.
pub(super) fn ask_to_be_in_step<S: Store>(cx: &mut Context<S>, source: Option<ReplicaId>) {
    let known = cx.consensus.as_ref().and_then(Consensus::leader);
    let leader = known.filter(|(leader, is_in_step)| *leader != cx.me && !is_in_step);
    let leader = leader.map(|(leader, _)| leader);
    tell_state_to(cx, leader);
    tell_state_to(cx, source.filter(|source| Some(*source) != leader));
    if let Some((leader, consensus)) = leader.zip(cx.consensus.as_mut()) {
        consensus.reconnected(leader);
    }
}

/// Reports to a peer how far the state is here.
pub(super) fn tell_state_to<S: Store>(cx: &mut Context<S>, peer: Option<ReplicaId>) {
    let Some(to) = peer else { return };
    let message = PeerMessage::StateProgress { index: cx.store.applied() };
    cx.send(to, message, After::Earlier);
}

/// Reports to the linked peers how far this joiner has the state.
pub(in crate::engine) fn tell_state<S: Store>(cx: &mut Context<S>) {
    let index = cx.store.applied();
    for to in cx.peers.linked().collect::<Vec<_>>() {
        let message = PeerMessage::StateProgress { index };
        // The reported state is durable first, so that a quorum can count on it.
        cx.send(to, message, After::Sync);
    }
}
