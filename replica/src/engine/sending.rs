//! Pure: state and entries for replicas that are behind, and the compaction of the log.
//!
//! A separate thread reads the requested data, which is sent as it comes; the requester sets the
//! pace. Guarantees that a snapshot that is not being read is closed after a while, that the log is
//! cut only before what is applied, and that entries still being fetched are not cut unless the log
//! becomes several windows long, and longer than the state.

use std::collections::BTreeMap;

use kvorum_protocol::status::ReplicaId;

use super::message::{Asker, Output, PeerMessage};
use super::notice::Notice;
use super::{Engine, Origin};
use crate::snapshot::{Found, SnapshotId, Wanted};
use crate::storage::Store;

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
    fn pinned(&self) -> Option<u64> {
        let fetched = self.snapshots.values().chain(self.entries.values());
        fetched.map(|fetched| fetched.index).min()
    }

    fn client_snapshots(&self) -> usize {
        self.snapshots.values().filter(|fetched| fetched.by.is_none()).count()
    }

    /// Returns the number that names the snapshot, if this request opens one.
    pub(super) fn number(&mut self, wanted: &Wanted) -> u64 {
        self.opened += u64::from(*wanted == Wanted::Snapshot);
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
}

impl<S: Store> Engine<S> {
    /// Handles a request for state or log entries, from a peer or from a client that makes a
    /// backup.
    pub(super) fn fetch(&mut self, origin: Origin, wanted: Wanted) {
        let used = self.cx.now;
        if self.cx.quarantine.is_some() && !matches!(wanted, Wanted::Close { .. }) {
            // This state must not be copied; a peer gets another replica's.
            return self.tell_found(origin, Found::Busy);
        }
        match &wanted {
            Wanted::Entries { from, .. } => {
                let index = from.saturating_sub(1);
                if let Origin::Peer { peer, .. } = origin {
                    let fetched = Fetched { index, used, by: Some(peer) };
                    self.sending.entries.insert(peer, fetched);
                }
            }
            Wanted::Chunk { snapshot, .. } => match self.sending.snapshots.get_mut(snapshot) {
                Some(fetched) => fetched.used = used,
                // No thread is needed to find that it is gone.
                None => return self.tell_found(origin, Found::Gone),
            },
            Wanted::Snapshot => {
                if let Origin::Peer { peer, .. } = origin {
                    // The entries that it requested before are gone, and it reads one snapshot at a
                    // time.
                    self.sending.entries.remove(&peer);
                    self.close_those(|fetched| fetched.by == Some(peer));
                }
                let by_client = matches!(origin, Origin::Client { .. });
                if by_client && self.sending.client_snapshots() >= CLIENT_SNAPSHOTS_MAX {
                    return self.cx.answer(origin, Found::Busy.answer());
                }
            }
            Wanted::Close { snapshot } => {
                // A snapshot that is not open needs no thread to close it.
                if self.sending.snapshots.remove(snapshot).is_some() {
                    self.close_snapshot(*snapshot);
                }
                return;
            }
        }
        if !self.questions.begin(origin) {
            return self.tell_found(origin, Found::Busy);
        }
        let (asker, number) = (Asker::Other(origin), self.sending.number(&wanted));
        self.cx.push(Output::Read { asker, wanted, number });
    }

    /// Handles the result of a read.
    pub(super) fn found(&mut self, asker: Asker, found: Found) {
        let origin = match asker {
            Asker::Other(origin) => origin,
            Asker::Own { call } => return self.pass_found(call, found),
        };
        self.questions.end(origin);
        if let Found::Snapshot { snapshot, header } = &found {
            let by = match origin {
                Origin::Peer { peer, .. } => Some(peer),
                Origin::Client { .. } => None,
            };
            let fetched = Fetched { index: header.applied, used: self.cx.now, by };
            self.sending.snapshots.insert(*snapshot, fetched);
        }
        self.tell_found(origin, found);
    }

    fn tell_found(&mut self, origin: Origin, found: Found) {
        match origin {
            Origin::Peer { peer, session, call } => {
                self.cx.reply(peer, session, PeerMessage::Found { call, found });
            }
            Origin::Client { .. } => self.cx.answer(origin, found.answer()),
        }
    }

    /// Closes snapshots that are no longer read, and forgets fetches of entries that have stalled.
    pub(super) fn expire_snapshots(&mut self) {
        let now = self.cx.now;
        let is_idle = |fetched: &Fetched| now > fetched.used + IDLE_TICKS;
        self.sending.entries.retain(|_, fetched| !is_idle(fetched));
        self.close_those(is_idle);
    }

    /// Closes every snapshot that is being sent.
    pub(super) fn close_snapshots(&mut self) {
        self.close_those(|_| true);
    }

    /// Closes the open snapshots that match.
    fn close_those(&mut self, is_one: impl Fn(&Fetched) -> bool) {
        let those = self.sending.snapshots.iter().filter(|(_, fetched)| is_one(fetched));
        for snapshot in those.map(|(snapshot, _)| *snapshot).collect::<Vec<_>>() {
            self.sending.snapshots.remove(&snapshot);
            self.close_snapshot(snapshot);
        }
    }

    /// Cuts the log where it is longer than it need be.
    pub(super) fn compact(&mut self) {
        let Some(consensus) = &mut self.cx.consensus else { return };
        let excess = self.cx.store.excess(self.sending.pinned());
        let Some(cut) = excess.max(self.rebuilt_at) else { return };
        // The applied changes precede this cut in the disk's single order of writes.
        let known = consensus.decided().min(self.cx.store.applied());
        let cut = if self.cx.rules.compacts_what_is_applied { cut } else { consensus.decided() };
        let is_allowed = known >= cut || !self.cx.rules.compacts_what_is_applied;
        if is_allowed && cut > consensus.compacted() {
            consensus.compact(cut);
            self.cx.notice(Notice::Compacted { index: cut });
            self.rebuilt_at = None;
        }
    }
}
