//! Pure: compares the replicas' states by checksum, and quarantines a replica whose state differs.
//!
//! At intervals the leader proposes a checksum entry. Each replica that applies it opens a snapshot
//! at that index, reads it slowly, computes its checksum and sends it to the leader. Then it reads
//! its log, so that damage to entries that no request reads is found too. The leader compares the
//! checksums. A replica that differs from a strict majority of the members is quarantined: it
//! serves no read, gives its state to no peer, does not lead, and copies the state of a sound
//! replica. Meanwhile it still votes: what it promised and accepted is in its log, where each
//! record has its own checksum.
//!
//! Guarantees that a checksum is of the state as of its entry, and that without a strict majority
//! no replica is quarantined: that raises an alarm instead. Does not find state that was corrupted
//! before another replica copied it: both then have the same checksum.

use std::collections::BTreeMap;

use kvorum_protocol::status::ReplicaId;

use super::consensus::Consensus;
use super::context::Context;
use super::message::{After, Asker, Output, PeerMessage};
use super::notice::Notice;
use super::sending::{Sending, close_snapshot};
use crate::engine::store::Store;
use crate::state::entry::Entry;
use crate::state::snapshot::{Cursor, Digest, FetchRequest, FetchResponse};
use crate::state::version::Version;

/// Ticks between two chunks that are read for a checksum. Bounds the rate to 12 MiB a second.
const CHUNK_TICKS: u64 = 4;
/// The time that applying waits for a snapshot, in ticks; then this replica skips the checksum.
const OPENING_TICKS: u64 = 100;
/// Ticks between two checks whether the cluster's version can be raised.
const VERSION_TICKS: u64 = 100;

/// The state of the checksum comparison on this replica.
#[derive(Default)]
pub(super) struct Scrub {
    /// When the next checksum entry is due, if this replica leads then.
    due: u64,
    pass: Option<Pass>,
    calls: u64,
    /// This replica's checksum and its index, until they are sent to the leader.
    untold: Option<(u64, Digest)>,
    /// The newest index for which checksums were reported, and the checksums by replica.
    index: u64,
    told: BTreeMap<ReplicaId, Digest>,
    /// The last index at which all members' states were the same.
    same_at: u64,
    /// The index at which no majority had the same state, if that is the latest result.
    differ_at: Option<u64>,
}

/// A difference between the replicas' states.
pub(super) struct Difference {
    pub(super) index: u64,
    /// The replicas that had the majority's state.
    pub(super) sound: Vec<ReplicaId>,
    /// The replicas that did not.
    pub(super) others: Vec<ReplicaId>,
}

/// One pass over the state, and then over the log.
struct Pass {
    index: u64,
    digest: Digest,
    /// The next item to read.
    wanted: FetchRequest,
    call: u64,
    is_waiting: bool,
    began: u64,
}

impl Scrub {
    /// Returns the last index at which all members' states were the same.
    pub(super) fn same_at(&self) -> u64 {
        self.same_at
    }

    /// Returns the index at which no majority of the members had the same state, if that is the
    /// latest result.
    pub(super) fn differ_at(&self) -> Option<u64> {
        self.differ_at
    }

    /// Whether applying waits for a snapshot at exactly the applied index.
    pub(super) fn is_opening<S: Store>(&self, cx: &Context<S>) -> bool {
        let pass = self.pass.as_ref().filter(|_| cx.rules.checks_at_the_index());
        pass.is_some_and(|pass| pass.wanted == FetchRequest::Snapshot)
    }

    /// Begins a pass: a checksum entry was applied.
    pub(super) fn begin_pass<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        sending: &mut Sending,
        index: u64,
    ) {
        self.end_pass(cx);
        let (digest, wanted, began) = (Digest::default(), FetchRequest::Snapshot, cx.now);
        let pass = Pass { index, digest, wanted, call: 0, is_waiting: false, began };
        self.pass = Some(pass);
        self.read_on(cx, sending);
    }

    /// Ends the pass under way.
    pub(super) fn end_pass<S: Store>(&mut self, cx: &mut Context<S>) {
        let pass = self.pass.take();
        if let Some(Pass { wanted: FetchRequest::Chunk { snapshot, .. }, .. }) = pass {
            close_snapshot(cx, snapshot);
        }
    }

    fn read_on<S: Store>(&mut self, cx: &mut Context<S>, sending: &mut Sending) {
        let Some(pass) = &mut self.pass else { return };
        self.calls += 1;
        (pass.call, pass.is_waiting) = (self.calls, true);
        let (asker, wanted) = (Asker::Own { call: pass.call }, pass.wanted.clone());
        let number = sending.number(&wanted);
        cx.push(Output::Read { asker, wanted, number });
    }

    /// Handles the result of a read that a pass requested.
    pub(super) fn found<S: Store>(&mut self, cx: &mut Context<S>, call: u64, found: FetchResponse) {
        let pass = self.pass.as_mut();
        let Some(pass) = pass.filter(|pass| pass.is_waiting && pass.call == call) else {
            // The snapshot came too late.
            if let FetchResponse::Snapshot { snapshot, .. } = found {
                close_snapshot(cx, snapshot);
            }
            return;
        };
        pass.is_waiting = false;
        match (&pass.wanted, found) {
            (FetchRequest::Snapshot, FetchResponse::Snapshot { snapshot, header }) => {
                pass.wanted = FetchRequest::Chunk { snapshot, after: Cursor::Start };
                // A copied state may have been installed in between.
                if header.applied != pass.index && cx.rules.checks_at_the_index() {
                    self.end_pass(cx);
                }
            }
            (&FetchRequest::Chunk { snapshot, .. }, FetchResponse::Chunk(chunk)) => {
                pass.digest = pass.digest.with(&chunk.items);
                match chunk.next {
                    Some(after) => pass.wanted = FetchRequest::Chunk { snapshot, after },
                    None => {
                        self.untold = Some((pass.index, pass.digest));
                        let compacted = cx.consensus.as_ref().map_or(0, Consensus::compacted);
                        let (configuration, from) = (cx.configuration.id, compacted + 1);
                        pass.wanted = FetchRequest::Entries { configuration, from };
                        close_snapshot(cx, snapshot);
                    }
                }
            }
            (
                &FetchRequest::Entries { configuration, .. },
                FetchResponse::Entries { from, entries, decided },
            ) => {
                let next = from + entries.len() as u64;
                pass.wanted = FetchRequest::Entries { configuration, from: next };
                if entries.is_empty() || next > decided {
                    self.pass = None;
                }
            }
            // The state was replaced, the log was cut, or too many snapshots are open.
            _ => self.end_pass(cx),
        }
    }

    /// Advances checksums and versions. To be called once a tick, after
    /// [`tell`](Self::tell).
    pub(super) fn advance<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        sending: &mut Sending,
        hands_over: bool,
    ) {
        self.propose_own(cx, hands_over);
        match &self.pass {
            Some(pass) if self.is_opening(cx) && cx.now > pass.began + OPENING_TICKS => {
                self.end_pass(cx);
            }
            Some(pass) if !pass.is_waiting && cx.now.is_multiple_of(CHUNK_TICKS) => {
                self.read_on(cx, sending);
            }
            _ => {}
        }
    }

    /// On the leader, raises the cluster's version when every member's program knows a higher one,
    /// and proposes a checksum entry when it is due.
    fn propose_own<S: Store>(&mut self, cx: &mut Context<S>, hands_over: bool) {
        let Some(consensus) = &mut cx.consensus else { return };
        let interval = cx.options.checksum_ticks;
        if consensus.ballot_if_leading().is_none() || hands_over {
            self.due = cx.now + interval;
            return;
        }
        let version = cx.store.version();
        if cx.now.is_multiple_of(VERSION_TICKS)
            && let Some(higher) = cx.peers.higher_than(version)
        {
            consensus.propose(vec![Entry::Version(higher)]);
        }
        let is_ready = self.pass.is_none() && cx.quarantine.is_none();
        let is_due = interval > 0 && cx.now >= self.due;
        if is_due && is_ready && version >= Version::CHECKSUMS {
            self.due = cx.now + interval;
            consensus.propose(vec![Entry::Checksum]);
        }
    }

    /// Sends this replica's checksum to the leader, once a leader is known and reachable. A leader
    /// records its own.
    pub(super) fn tell<S: Store>(&mut self, cx: &mut Context<S>) -> Option<Difference> {
        let (index, digest) = self.untold?;
        let (leader, is_in_step) = cx.leader()?;
        if !is_in_step {
            return None;
        }
        if leader == cx.me {
            self.untold = None;
            return self.told(cx, leader, index, digest);
        }
        if cx.peers.session(leader).is_some() {
            self.untold = None;
            let message = PeerMessage::Checksum { index, digest };
            cx.send(leader, message, After::Nothing);
        }
        None
    }

    /// Records the checksum that a replica reported. Returns the difference that it shows.
    pub(super) fn told<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        replica: ReplicaId,
        index: u64,
        digest: Digest,
    ) -> Option<Difference> {
        // No replica can be ahead of the log; an index beyond it would hide all later reports.
        let is_known = index <= cx.last_known();
        if index > self.index && is_known {
            self.index = index;
            self.told.clear();
        }
        if index != self.index {
            return None;
        }
        self.told.insert(replica, digest);
        self.compare(cx)
    }

    fn compare<S: Store>(&mut self, cx: &mut Context<S>) -> Option<Difference> {
        let Self { index, told, .. } = self;
        let (index, members) = (*index, cx.configuration.members.len());
        let are_all = told.len() == members;
        let count = |digest: &Digest| told.values().filter(|other| *other == digest).count();
        let Some(digest) = told.values().find(|digest| 2 * count(digest) > members) else {
            if are_all {
                self.differ_at = Some(index);
                cx.notice(Notice::Differ { index });
            }
            return None;
        };
        let with = |is_same| {
            let told = told.iter().filter(move |(_, other)| (*other == digest) == is_same);
            told.map(|(replica, _)| *replica).collect::<Vec<_>>()
        };
        let (sound, others) = (with(true), with(false));
        if are_all && others.is_empty() {
            (self.same_at, self.differ_at) = (index, None);
        }
        (!others.is_empty()).then_some(Difference { index, sound, others })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tests::Cluster;
    use crate::state::machine::Record;
    use crate::state::snapshot::Item;

    fn digest(revision: u64) -> Digest {
        let record = Record { value: bytes::Bytes::new(), revision };
        Digest::default().with(&[Item::Key(bytes::Bytes::new(), record)])
    }

    #[test]
    fn a_strict_majority_is_right() {
        let mut cluster = Cluster::of(3);
        let (leader, others) = cluster.roles();
        let parts = cluster.parts(leader);
        let index = parts.cx.last_known();
        let mut told = |replica, of| parts.scrub.told(&mut parts.cx, replica, index, digest(of));
        assert!(told(leader, 1).is_none() && told(others[0], 2).is_none(), "one to one");
        let Difference { mut sound, others: wrong, .. } = told(others[1], 1).unwrap();
        sound.sort_unstable_by_key(|replica| *replica != leader);
        assert_eq!((sound, wrong), (vec![leader, others[1]], vec![others[0]]));
        let parts = cluster.parts(leader);
        assert!(parts.scrub.told(&mut parts.cx, leader, index + 99, digest(1)).is_none());
        assert_eq!(parts.scrub.index, index, "no replica is ahead of the log");
    }

    #[test]
    fn without_a_majority_nobody_is_right() {
        let mut cluster = Cluster::of(3);
        let (leader, others) = cluster.roles();
        let parts = cluster.parts(leader);
        let index = parts.cx.last_known();
        for (of, replica) in [leader, others[0], others[1]].into_iter().enumerate() {
            let digest = digest(of as u64);
            assert!(parts.scrub.told(&mut parts.cx, replica, index, digest).is_none());
        }
        assert_eq!(parts.scrub.differ_at(), Some(index));
    }
}
