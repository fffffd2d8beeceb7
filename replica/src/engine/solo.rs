//! Pure: a configuration of one replica, which the consensus library refuses.
//!
//! The replica leads from its start. An entry is decided when a sync that began after it was
//! written has returned: the sync is the quorum.
//!
//! Two replicas could each believe to be the one: a volume that was brought back from an older
//! copy knows nothing of the members that came later. So nothing is decided before the cluster's
//! [marker](crate::marker), outside of any volume, names this replica in this configuration; and
//! no stop sign before it names it in the next one, because from there on others decide.
//!
//! Guarantees that what is decided is durable, and that ballots rise from start to start.

use kvorum_protocol::status::ConfigurationId;
use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::storage::Storage;

use crate::entry::Entry;
use crate::start::Epoch;

/// A storage that fails stops the replica; it does not say so.
const NEVER_FAILS: &str = "a failing disk does not return";

/// What is on the disk, and durable when a sync that begins after it has returned. Of two the later
/// one has at least as much of everything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Written {
    /// The configuration.
    pub configuration: ConfigurationId,
    /// The index up to which a configuration of one has written its log; 0 in a larger one.
    pub index: u64,
    /// The round of reads that was asked for last.
    pub round: u64,
    /// The epoch of the disk.
    pub epoch: Epoch,
}

/// An instance of a configuration of one.
pub struct Solo<L> {
    log: L,
    id: ConfigurationId,
    ballot: Ballot,
    /// Entries that a sync made durable.
    synced: u64,
    /// Entries whose sync was asked for.
    asked: u64,
    /// The latest configuration in which the marker names this replica.
    marked: Option<ConfigurationId>,
    /// The first index after which a stop sign lies that is not decided.
    seal: Option<u64>,
    /// An entry is decided as soon as it is written, for a negative control.
    waits_for_sync: bool,
}

impl<L: Storage<Entry>> Solo<L> {
    /// Starts from what the log holds.
    pub fn start(id: ConfigurationId, mut log: L, waits_for_sync: bool) -> Self {
        let last = log.get_promise().expect(NEVER_FAILS).unwrap_or_default();
        let ballot = Ballot::with(id.0, last.n + 1, 0, 1);
        log.set_promise(ballot).expect(NEVER_FAILS);
        log.set_accepted_round(ballot).expect(NEVER_FAILS);
        let mut solo =
            Self { log, id, ballot, synced: 0, asked: 0, marked: None, seal: None, waits_for_sync };
        let (decided, accepted) = (solo.decided(), solo.accepted());
        solo.synced = decided;
        let tail = solo.entries(decided, accepted);
        solo.look_for_seal(decided, &tail);
        solo
    }

    /// The ballot in which it leads, which it does once it may decide.
    pub fn ballot(&self) -> Ballot {
        self.ballot
    }

    /// Whether the marker names this replica in this configuration.
    pub fn may_decide(&self) -> bool {
        self.marked >= Some(self.id)
    }

    /// Entries written.
    pub fn accepted(&self) -> u64 {
        let length = self.log.get_log_len().expect(NEVER_FAILS);
        self.compacted() + length as u64
    }

    /// Entries decided.
    pub fn decided(&self) -> u64 {
        self.log.get_decided_idx().expect(NEVER_FAILS) as u64
    }

    /// Entries no longer in the log.
    pub fn compacted(&self) -> u64 {
        self.log.get_compacted_idx().expect(NEVER_FAILS) as u64
    }

    /// The entries after `from`, up to `to`.
    pub fn entries(&self, from: u64, to: u64) -> Vec<Entry> {
        match from < to {
            true => self.log.get_entries(position(from), position(to)).expect(NEVER_FAILS),
            false => Vec::new(),
        }
    }

    /// Appends to the log.
    pub fn propose(&mut self, entries: Vec<Entry>) {
        self.look_for_seal(self.accepted(), &entries);
        self.log.append_entries(entries).expect(NEVER_FAILS);
        if !self.waits_for_sync {
            self.synced = self.accepted();
            self.decide();
        }
    }

    /// Up to where a sync is wanted that was not asked for yet.
    pub fn take_unsynced(&mut self) -> Option<u64> {
        let accepted = self.accepted();
        let is_new = accepted > self.asked.max(self.synced);
        self.asked = accepted.max(self.asked);
        is_new.then_some(accepted)
    }

    /// A sync returned that began after the entries up to an index were written.
    pub fn synced(&mut self, index: u64) {
        self.synced = self.synced.max(index);
        self.decide();
    }

    /// In which configuration the marker has to name this replica, so that it can go on.
    pub fn wants_mark(&self) -> Option<ConfigurationId> {
        let needed = match self.seal {
            None => self.id,
            // Were it lost, this replica would be left behind its own marker.
            Some(seal) if self.synced <= seal => return None,
            Some(_) => ConfigurationId(self.id.0 + 1),
        };
        (self.marked < Some(needed)).then_some(needed)
    }

    /// The marker names this replica in a configuration.
    pub fn marked(&mut self, configuration: ConfigurationId) {
        self.marked = self.marked.max(Some(configuration));
        self.decide();
    }

    /// The marker names nobody of this cluster any more: nothing is decided until it does.
    pub fn unmarked(&mut self) {
        self.marked = None;
    }

    /// The latest configuration in which the marker names this replica, if it may decide.
    pub fn marked_in(&self) -> Option<ConfigurationId> {
        self.marked.filter(|_| self.may_decide())
    }

    /// Whether a stop sign is in the log that was not decided when it was found.
    pub fn has_seal(&self) -> bool {
        self.seal.is_some()
    }

    /// Removes entries up to an index from the log.
    pub fn compact(&mut self, index: u64) {
        self.log.trim(position(index)).expect(NEVER_FAILS);
    }

    fn look_for_seal(&mut self, before: u64, entries: &[Entry]) {
        let is_seal =
            |entry: &Entry| matches!(entry, Entry::StopSign(next) if next.id.0 == self.id.0 + 1);
        if self.seal.is_none()
            && let Some(at) = entries.iter().position(is_seal)
        {
            self.seal = Some(before + at as u64);
        }
    }

    fn decide(&mut self) {
        if !self.may_decide() {
            return;
        }
        let is_open = self.marked > Some(self.id);
        let most = self.seal.filter(|_| !is_open).unwrap_or(u64::MAX);
        let decided = self.synced.min(most);
        if decided > self.decided() {
            self.log.set_decided_idx(position(decided)).expect(NEVER_FAILS);
        }
    }
}

fn position(index: u64) -> usize {
    usize::try_from(index).expect("indexes fit the address space")
}
