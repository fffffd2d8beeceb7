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

use super::message::{Asker, Output, PeerMessage};
use super::notice::Notice;
use super::{Consensus, Engine};
use crate::entry::Entry;
use crate::snapshot::{Cursor, Digest, Found, InstallWrite, Quarantine, SnapshotId, Wanted};
use crate::storage::Store;
use crate::version::Version;

/// Ticks between two chunks that are read for a checksum. Bounds the rate to 12 MiB a second.
const CHUNK_TICKS: u64 = 4;
/// The time that applying waits for a snapshot, in ticks; then this replica skips the checksum.
const OPENING_TICKS: u64 = 100;
/// Ticks between two checks whether the cluster's version can be raised.
const VERSION_TICKS: u64 = 100;

/// The state of the checksum comparison on this replica.
#[derive(Default)]
pub(super) struct Checking {
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

/// One pass over the state, and then over the log.
struct Pass {
    index: u64,
    digest: Digest,
    /// The next item to read.
    wanted: Wanted,
    call: u64,
    is_waiting: bool,
    began: u64,
}

impl Checking {
    /// Returns the last index at which all members' states were the same.
    pub(super) fn same_at(&self) -> u64 {
        self.same_at
    }

    /// Returns the index at which no majority of the members had the same state, if that is the
    /// latest result.
    pub(super) fn differ_at(&self) -> Option<u64> {
        self.differ_at
    }
}

impl<S: Store> Engine<S> {
    /// Whether applying waits for a snapshot at exactly the applied index.
    pub(super) fn is_opening(&self) -> bool {
        let pass = self.checking.pass.as_ref().filter(|_| self.cx.rules.checks_at_the_index);
        pass.is_some_and(|pass| pass.wanted == Wanted::Snapshot)
    }

    /// Begins a pass: a checksum entry was applied.
    pub(super) fn begin_pass(&mut self, index: u64) {
        self.end_pass();
        let (digest, wanted, began) = (Digest::default(), Wanted::Snapshot, self.cx.now);
        let pass = Pass { index, digest, wanted, call: 0, is_waiting: false, began };
        self.checking.pass = Some(pass);
        self.read_on();
    }

    fn end_pass(&mut self) {
        let pass = self.checking.pass.take();
        if let Some(Pass { wanted: Wanted::Chunk { snapshot, .. }, .. }) = pass {
            self.close_snapshot(snapshot);
        }
    }

    pub(super) fn close_snapshot(&mut self, snapshot: SnapshotId) {
        let (asker, wanted) = (Asker::Own { call: 0 }, Wanted::Close { snapshot });
        self.cx.push(Output::Read { asker, wanted, number: 0 });
    }

    fn read_on(&mut self) {
        let Some(pass) = &mut self.checking.pass else { return };
        self.checking.calls += 1;
        (pass.call, pass.is_waiting) = (self.checking.calls, true);
        let (asker, wanted) = (Asker::Own { call: pass.call }, pass.wanted.clone());
        let number = self.sending.number(&wanted);
        self.cx.push(Output::Read { asker, wanted, number });
    }

    /// Handles the result of a read that a pass requested.
    pub(super) fn pass_found(&mut self, call: u64, found: Found) {
        let pass = self.checking.pass.as_mut();
        let Some(pass) = pass.filter(|pass| pass.is_waiting && pass.call == call) else {
            // The snapshot came too late.
            if let Found::Snapshot { snapshot, .. } = found {
                self.close_snapshot(snapshot);
            }
            return;
        };
        pass.is_waiting = false;
        match (&pass.wanted, found) {
            (Wanted::Snapshot, Found::Snapshot { snapshot, header }) => {
                pass.wanted = Wanted::Chunk { snapshot, after: Cursor::Start };
                // A copied state may have been installed in between.
                if header.applied != pass.index && self.cx.rules.checks_at_the_index {
                    self.end_pass();
                }
            }
            (&Wanted::Chunk { snapshot, .. }, Found::Chunk(chunk)) => {
                pass.digest = pass.digest.with(&chunk.items);
                match chunk.next {
                    Some(after) => pass.wanted = Wanted::Chunk { snapshot, after },
                    None => {
                        self.checking.untold = Some((pass.index, pass.digest));
                        let compacted = self.cx.consensus.as_ref().map_or(0, Consensus::compacted);
                        let (configuration, from) = (self.cx.configuration.id, compacted + 1);
                        pass.wanted = Wanted::Entries { configuration, from };
                        self.close_snapshot(snapshot);
                    }
                }
            }
            (&Wanted::Entries { configuration, .. }, Found::Entries { from, entries, decided }) => {
                let next = from + entries.len() as u64;
                pass.wanted = Wanted::Entries { configuration, from: next };
                if entries.is_empty() || next > decided {
                    self.checking.pass = None;
                }
            }
            // The state was replaced, the log was cut, or too many snapshots are open.
            _ => self.end_pass(),
        }
    }

    /// Advances checksums and versions. To be called once a tick.
    pub(super) fn advance_checking(&mut self) {
        self.tell_checksum();
        self.propose_own();
        match &self.checking.pass {
            Some(pass) if self.is_opening() && self.cx.now > pass.began + OPENING_TICKS => {
                self.end_pass();
            }
            Some(pass) if !pass.is_waiting && self.cx.now.is_multiple_of(CHUNK_TICKS) => {
                self.read_on();
            }
            _ => {}
        }
        if self.cx.quarantine.is_some() {
            if self.cx.is_leading() && self.hand_over.is_none() {
                let _ = self.begin_hand_over(None);
            }
            self.begin_rebuild();
        }
    }

    /// On the leader, raises the cluster's version when every member's program knows a higher one,
    /// and proposes a checksum entry when it is due.
    fn propose_own(&mut self) {
        let Some(consensus) = &mut self.cx.consensus else { return };
        let interval = self.cx.options.checksum_ticks;
        if consensus.ballot_if_leading().is_none() || self.hand_over.is_some() {
            self.checking.due = self.cx.now + interval;
            return;
        }
        let version = self.cx.store.version();
        if self.cx.now.is_multiple_of(VERSION_TICKS)
            && let Some(higher) = self.cx.peers.higher_than(version)
        {
            consensus.propose(vec![Entry::Version(higher)]);
        }
        let is_ready = self.checking.pass.is_none() && self.cx.quarantine.is_none();
        let is_due = interval > 0 && self.cx.now >= self.checking.due;
        if is_due && is_ready && version >= Version::CHECKSUMS {
            self.checking.due = self.cx.now + interval;
            consensus.propose(vec![Entry::Checksum]);
        }
    }

    /// Sends this replica's checksum to the leader, once a leader is known and reachable.
    fn tell_checksum(&mut self) {
        let Some((index, digest)) = self.checking.untold else { return };
        let Some((leader, true)) = self.cx.leader() else { return };
        if leader == self.cx.me {
            self.checking.untold = None;
            self.checksum_told(leader, index, digest);
        } else if self.cx.peers.session(leader).is_some() {
            self.checking.untold = None;
            let message = PeerMessage::Checksum { index, digest };
            self.cx.push(Output::Send { to: leader, message });
        }
    }

    /// Records the checksum that a replica reported.
    pub(super) fn checksum_told(&mut self, replica: ReplicaId, index: u64, digest: Digest) {
        // No replica can be ahead of the log; an index beyond it would hide all later reports.
        let is_known = index <= self.cx.last_known();
        let checking = &mut self.checking;
        if index > checking.index && is_known {
            checking.index = index;
            checking.told.clear();
        }
        if index == checking.index {
            checking.told.insert(replica, digest);
            self.compare();
        }
    }

    fn compare(&mut self) {
        let Checking { index, told, .. } = &self.checking;
        let (index, members) = (*index, self.cx.configuration.members.len());
        let are_all = told.len() == members;
        let count = |digest: &Digest| told.values().filter(|other| *other == digest).count();
        let Some(digest) = told.values().find(|digest| 2 * count(digest) > members) else {
            if are_all {
                self.checking.differ_at = Some(index);
                self.cx.notice(Notice::Differ { index });
            }
            return;
        };
        let with = |is_same| {
            let told = told.iter().filter(move |(_, other)| (*other == digest) == is_same);
            told.map(|(replica, _)| *replica).collect::<Vec<_>>()
        };
        let (sound, others) = (with(true), with(false));
        if are_all && others.is_empty() {
            (self.checking.same_at, self.checking.differ_at) = (index, None);
        }
        for other in others {
            let sound = sound.clone();
            if other == self.cx.me {
                self.differs(index, sound);
            } else {
                let message = PeerMessage::Differs { index, sound };
                self.cx.push(Output::Send { to: other, message });
            }
        }
    }

    /// Quarantines this replica: its state differs from a majority's.
    pub(super) fn differs(&mut self, index: u64, sound: Vec<ReplicaId>) {
        // The result says nothing about a state that was copied since.
        let is_news = self.cx.quarantine.is_none() && index > self.cx.store.since();
        if !is_news || !self.cx.rules.quarantines {
            return;
        }
        self.cx.notice(Notice::Quarantined { index });
        let quarantine = Quarantine { index, sound };
        self.cx.store.write_install(InstallWrite::Quarantine(quarantine.clone()));
        (self.cx.quarantine, self.quarantined_since) = (Some(quarantine), self.cx.now);
        self.end_pass();
        self.close_snapshots();
        // Requests that wait here for an outcome must not get one from this state.
        self.deposed();
        self.fetching = None;
        self.begin_rebuild();
    }
}
