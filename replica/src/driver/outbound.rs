//! The messages to peers that wait for a sync, for a link, or to be written.
//!
//! Guarantees that they are bounded, for each peer and for all together: a peer that does not
//! accept what is sent to it loses its session, and both sides start over with what is missing. The
//! other peers keep theirs.

use kvorum_protocol::status::ReplicaId;
use omnipaxos::messages::Message;
use tracing::warn;

use super::Driver;
use crate::engine::store::Store;
use crate::engine::{After, Input, PeerMessage, Session};
use crate::limits::{OUTBOUND_BYTES_MAX, PEER_BYTES_MAX};

impl<S: Store + Clone + Send + 'static> Driver<S> {
    /// Sends a message once its condition is met. A heartbeat of a leader that has to fall silent
    /// is dropped.
    pub(super) fn send(&mut self, to: ReplicaId, message: PeerMessage, after: After) {
        let is_heartbeat = matches!(&message, PeerMessage::Paxos { message: Message::BLE(_), .. });
        if is_heartbeat && self.engine.falls_silent() {
            return;
        }
        if self.count(to, &message)
            && let Some(message) = self.gate.push(to, message, after)
        {
            self.push(to, message);
        }
    }

    /// Hands a message that was counted to the link.
    pub(super) fn push(&mut self, to: ReplicaId, message: PeerMessage) {
        if let Some((_, link)) = self.links.get(&to) {
            link.push(message);
        }
    }

    /// Counts a message to a peer from now until it is written. Returns whether it may wait.
    fn count(&mut self, to: ReplicaId, message: &PeerMessage) -> bool {
        let Some((_, link)) = self.links.get(&to) else { return false };
        let has_room = link.count(message);
        let waiting = self.links.iter().map(|(peer, (_, link))| (*peer, link.waiting()));
        let full = if has_room { overfull(to, waiting) } else { Some(to) };
        if let Some(full) = full
            && let Some((session, _)) = self.links.get(&full)
        {
            warn!(peer = full.0, "too much waits for a peer; its session ends");
            self.link_down(full, *session);
        }
        full != Some(to)
    }

    /// Ends a session: messages that wait for it will never leave.
    pub(super) fn link_down(&mut self, peer: ReplicaId, session: Session) {
        if self.links.get(&peer).is_some_and(|(current, _)| *current == session) {
            self.links.remove(&peer);
            self.gate.drop_peer(peer);
            self.engine.step(Input::PeerDown { peer, session });
        }
    }
}

/// Returns the peer for which too much waits after something was added for `to`: `to` itself, or,
/// when the total is over its bound, the peer that has most.
fn overfull(
    to: ReplicaId,
    waiting: impl Iterator<Item = (ReplicaId, usize)> + Clone,
) -> Option<ReplicaId> {
    let own = waiting.clone().find(|(peer, _)| *peer == to).map_or(0, |(_, bytes)| bytes);
    if own > PEER_BYTES_MAX {
        return Some(to);
    }
    let all: usize = waiting.clone().map(|(_, bytes)| bytes).sum();
    let most = waiting.max_by_key(|(_, bytes)| *bytes).filter(|_| all > OUTBOUND_BYTES_MAX);
    most.map(|(peer, _)| peer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{MEMBERS_MAX, MESSAGE_BYTES_MAX, PROPOSALS_BYTES_MAX};
    use std::collections::BTreeMap;

    /// Adds bytes for each peer in turn; returns the peers that lost their sessions.
    fn ended(adds: &[(u64, usize)]) -> Vec<u64> {
        let (mut waiting, mut ended) = (BTreeMap::new(), Vec::new());
        for (to, bytes) in adds {
            *waiting.entry(ReplicaId(*to)).or_default() += bytes;
            let all = waiting.iter().map(|(peer, bytes)| (*peer, *bytes));
            if let Some(full) = overfull(ReplicaId(*to), all) {
                waiting.remove(&full);
                ended.push(full.0);
            }
            assert!(waiting.values().sum::<usize>() <= OUTBOUND_BYTES_MAX);
        }
        ended
    }

    #[test]
    fn who_does_not_read_loses_its_session_and_the_others_keep_theirs() {
        let window = PROPOSALS_BYTES_MAX;
        let peers = 2..=MEMBERS_MAX as u64;
        let turn: Vec<_> = peers.map(|peer| (peer, window)).collect();
        assert!(ended(&turn).is_empty(), "all that is undecided, to six peers");
        assert!(
            ended(&[(2, MESSAGE_BYTES_MAX), (2, window)]).is_empty(),
            "a synchronization, and it"
        );
        assert_eq!(ended(&[(2, window), (2, window), (2, window), (2, window)]), [2]);
        let mut stopped = vec![(2, window), (2, window)];
        stopped.extend(turn.iter().filter(|(peer, _)| *peer != 2));
        assert_eq!(ended(&stopped), [2], "one that was stopped has most");
    }
}
