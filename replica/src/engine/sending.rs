//! Pure: sends state and entries to replicas that are behind, and to clients that make a backup.
//!
//! A separate thread reads the requested data, which is sent as it comes; the requester sets the
//! pace. Guarantees that a snapshot that is not being read is closed after a while, and that a
//! state in quarantine is not sent.

pub(super) mod questions;

use std::collections::BTreeMap;

use kvorum_protocol::status::ReplicaId;

use super::context::Context;
use super::message::{Asker, Origin, Output, PeerMessage};
use crate::engine::store::Store;
use crate::state::snapshot::{FetchRequest, FetchResponse, SnapshotId};
use questions::Questions;

/// Ticks after which a snapshot that is not being read is closed, and entries that are not being
/// fetched may be cut: long enough for a process to restart and continue.
const IDLE_TICKS: u64 = 3000;

/// The most snapshots that clients may have open together. Replicas that are behind need some too,
/// and cannot wait for slow clients.
const CLIENT_SNAPSHOTS_MAX: usize = 4;

/// The snapshots and entries that are being sent.
#[derive(Default)]
pub(super) struct Sending {
    snapshots: BTreeMap<SnapshotId, Fetched>,
    /// The entries that each peer fetches.
    entries: BTreeMap<ReplicaId, Fetched>,
    opened: u64,
    /// Reads from the disk that are under way outside the engine.
    pub(super) questions: Questions,
}

/// A fetch under way: the index after which the fetcher will need entries, and the tick of its last
/// request.
struct Fetched {
    index: u64,
    used: u64,
    /// The peer, or `None` for a client.
    by: Option<ReplicaId>,
}

impl Sending {
    /// Returns the lowest index after which a fetcher still needs entries.
    pub(super) fn pinned(&self) -> Option<u64> {
        let fetched = self.snapshots.values().chain(self.entries.values());
        fetched.map(|fetched| fetched.index).min()
    }

    fn client_snapshots(&self) -> usize {
        self.snapshots.values().filter(|fetched| fetched.by.is_none()).count()
    }

    /// Returns the number that names the snapshot, if this request opens one.
    pub(super) fn number(&mut self, wanted: &FetchRequest) -> u64 {
        self.opened += u64::from(*wanted == FetchRequest::Snapshot);
        self.opened
    }

    /// Records that a peer has the state: it needs no entries that this replica would keep for it.
    pub(super) fn has_state(&mut self, peer: ReplicaId) {
        self.entries.remove(&peer);
    }

    /// Keeps the records of known peers only.
    pub(super) fn retain(&mut self, is_known: impl Fn(ReplicaId) -> bool) {
        self.entries.retain(|peer, _| is_known(*peer));
    }

    /// Handles a request for state or log entries, from a peer or from a client that makes a
    /// backup.
    pub(super) fn fetch<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        origin: Origin,
        wanted: FetchRequest,
    ) {
        let used = cx.now;
        if cx.quarantine.is_some() && !matches!(wanted, FetchRequest::Close { .. }) {
            // This state must not be copied; a peer gets another replica's.
            return tell_found(cx, origin, FetchResponse::Busy);
        }
        match &wanted {
            FetchRequest::Entries { from, .. } => {
                let index = from.saturating_sub(1);
                if let Origin::Peer { peer, .. } = origin {
                    let fetched = Fetched { index, used, by: Some(peer) };
                    self.entries.insert(peer, fetched);
                }
            }
            FetchRequest::Chunk { snapshot, .. } => match self.snapshots.get_mut(snapshot) {
                Some(fetched) => fetched.used = used,
                // No thread is needed to find that it is gone.
                None => return tell_found(cx, origin, FetchResponse::Gone),
            },
            FetchRequest::Snapshot => {
                if let Origin::Peer { peer, .. } = origin {
                    // The entries that it requested before are gone, and it reads one snapshot at a
                    // time.
                    self.entries.remove(&peer);
                    self.close_those(cx, |fetched| fetched.by == Some(peer));
                }
                let by_client = matches!(origin, Origin::Client { .. });
                if by_client && self.client_snapshots() >= CLIENT_SNAPSHOTS_MAX {
                    return cx.answer(origin, FetchResponse::Busy.answer());
                }
            }
            FetchRequest::Close { snapshot } => {
                // A snapshot that is not open needs no thread to close it.
                if self.snapshots.remove(snapshot).is_some() {
                    close_snapshot(cx, *snapshot);
                }
                return;
            }
        }
        if !self.questions.begin(origin) {
            return tell_found(cx, origin, FetchResponse::Busy);
        }
        let (asker, number) = (Asker::Other(origin), self.number(&wanted));
        cx.push(Output::Read { asker, wanted, number });
    }

    /// Handles the result of a read for a client or a peer.
    pub(super) fn found<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        origin: Origin,
        found: FetchResponse,
    ) {
        self.questions.end(origin);
        if let FetchResponse::Snapshot { snapshot, header } = &found {
            let by = match origin {
                Origin::Peer { peer, .. } => Some(peer),
                Origin::Client { .. } => None,
            };
            let fetched = Fetched { index: header.applied, used: cx.now, by };
            self.snapshots.insert(*snapshot, fetched);
        }
        tell_found(cx, origin, found);
    }

    /// Closes snapshots that are no longer read, and forgets fetches of entries that have stalled.
    pub(super) fn expire<S: Store>(&mut self, cx: &mut Context<S>) {
        let now = cx.now;
        let is_idle = |fetched: &Fetched| now > fetched.used + IDLE_TICKS;
        self.entries.retain(|_, fetched| !is_idle(fetched));
        self.close_those(cx, is_idle);
    }

    /// Closes every snapshot that is being sent.
    pub(super) fn close_snapshots<S: Store>(&mut self, cx: &mut Context<S>) {
        self.close_those(cx, |_| true);
    }

    /// Closes the open snapshots that match.
    fn close_those<S: Store>(&mut self, cx: &mut Context<S>, is_one: impl Fn(&Fetched) -> bool) {
        let those = self.snapshots.iter().filter(|(_, fetched)| is_one(fetched));
        for snapshot in those.map(|(snapshot, _)| *snapshot).collect::<Vec<_>>() {
            self.snapshots.remove(&snapshot);
            close_snapshot(cx, snapshot);
        }
    }
}

/// Answers a question for state or entries.
fn tell_found<S: Store>(cx: &mut Context<S>, origin: Origin, found: FetchResponse) {
    match origin {
        Origin::Peer { peer, session, call } => {
            cx.reply(peer, session, PeerMessage::Fetched { call, found });
        }
        Origin::Client { .. } => cx.answer(origin, found.answer()),
    }
}

/// Closes a snapshot that a reading thread holds open.
pub(super) fn close_snapshot<S: Store>(cx: &mut Context<S>, snapshot: SnapshotId) {
    let (asker, wanted) = (Asker::Own { call: 0 }, FetchRequest::Close { snapshot });
    cx.push(Output::Read { asker, wanted, number: 0 });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::message::{ClientKey, Session};
    use crate::engine::store::StateStore;
    use crate::engine::tests::Cluster;
    use crate::state::machine::Table;
    use crate::state::snapshot::Header;

    #[test]
    fn clients_leave_snapshots_to_peers() {
        let mut cluster = Cluster::of(3);
        let (leader, others) = cluster.roles();
        let parts = cluster.parts(leader);
        let (applied, chain) = (parts.cx.store.applied(), parts.cx.store.chain());
        let header = Header { applied, items: 0, version: parts.cx.store.version(), chain };
        for number in 0..CLIENT_SNAPSHOTS_MAX as u64 {
            let origin = Origin::Client { client: ClientKey(number), call: 1 };
            parts.sending.fetch(&mut parts.cx, origin, FetchRequest::Snapshot);
            let (snapshot, header) = (SnapshotId { nonce: 1, number }, header.clone());
            parts.sending.found(
                &mut parts.cx,
                origin,
                FetchResponse::Snapshot { snapshot, header },
            );
        }
        parts.cx.outputs.clear();
        let client = Origin::Client { client: ClientKey(99), call: 1 };
        parts.sending.fetch(&mut parts.cx, client, FetchRequest::Snapshot);
        let reads = |outputs: &[Output]| outputs.iter().any(|it| matches!(it, Output::Read { .. }));
        assert!(!reads(&parts.cx.outputs), "it is answered that this replica is busy");
        let peer = Origin::Peer { peer: others[0], session: Session(1), call: 1 };
        parts.sending.fetch(&mut parts.cx, peer, FetchRequest::Snapshot);
        assert!(reads(&parts.cx.outputs));
    }

    #[test]
    fn entries_that_are_fetched_are_kept_for_a_while() {
        let mut cluster = Cluster::of(3);
        let (leader, others) = cluster.roles();
        let parts = cluster.parts(leader);
        let peer = Origin::Peer { peer: others[0], session: Session(1), call: 1 };
        let configuration = parts.cx.configuration.id;
        parts.sending.fetch(&mut parts.cx, peer, FetchRequest::Entries { configuration, from: 5 });
        assert_eq!(parts.sending.pinned(), Some(4));
        parts.cx.now += IDLE_TICKS + 1;
        parts.sending.expire(&mut parts.cx);
        assert_eq!(parts.sending.pinned(), None);
    }
}
