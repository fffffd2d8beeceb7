//! Pure: a configuration of one replica, which the consensus library does not support.
//!
//! The replica leads from its start. An entry is decided when a sync that began after it was
//! written has returned: the sync is the quorum.
//!
//! Two replicas could each believe to be the only one: a volume that was restored from an older
//! copy does not know the members that came later. So nothing is decided before the cluster's
//! [marker](crate::marker), outside of any volume, names this replica in this configuration; and no
//! stop sign is decided before the marker names it in the next one, because from there on others
//! decide.
//!
//! Guarantees that what is decided is durable, and that ballots increase from start to start.

use kvorum_protocol::status::ConfigurationId;
use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::storage::Storage;

use crate::state::entry::Entry;
use crate::state::start::Epoch;

/// A failing storage stops the replica; it returns no error.
const NEVER_FAILS: &str = "a failing disk does not return";

/// The contents of the disk, durable once a sync that begins after them has returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// The configuration.
    pub configuration: ConfigurationId,
    /// The ballot that was promised.
    pub ballot: Ballot,
    /// The index up to which the leader of that ballot has written its log; 0 at the others.
    pub index: u64,
    /// The last round of reads that was asked for.
    pub round: u64,
    /// The epoch of the disk.
    pub epoch: Epoch,
}

impl Written {
    /// Returns what one sync covers that began after this and something else were written.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let log = |written: &Self| (written.configuration, written.ballot, written.index);
        let (round, epoch) = (self.round.max(other.round), self.epoch.max(other.epoch));
        let (configuration, ballot, index) = log(&self).max(log(&other));
        Self { configuration, ballot, index, round, epoch }
    }
}

/// The consensus instance of a configuration of one.
pub struct SoleVoter<L> {
    log: L,
    id: ConfigurationId,
    ballot: Ballot,
    /// The number of entries that a sync made durable.
    synced: u64,
    /// The number of entries for which a sync was requested.
    asked: u64,
    /// The latest configuration in which the marker names this replica.
    marked: Option<ConfigurationId>,
    /// The index just before the first stop sign that is not decided.
    seal: Option<u64>,
    /// Whether an entry is decided only after its sync; false in a negative control.
    waits_for_sync: bool,
}

impl<L: Storage<Entry>> SoleVoter<L> {
    /// Starts from the contents of the log.
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

    /// Returns the ballot in which the replica leads, which it does once it may decide.
    pub fn ballot(&self) -> Ballot {
        self.ballot
    }

    /// Whether the marker names this replica in this configuration.
    pub fn may_decide(&self) -> bool {
        self.marked >= Some(self.id)
    }

    /// Returns the number of entries written.
    pub fn accepted(&self) -> u64 {
        let length = self.log.get_log_len().expect(NEVER_FAILS);
        self.compacted() + length as u64
    }

    /// Returns the number of entries decided.
    pub fn decided(&self) -> u64 {
        self.log.get_decided_idx().expect(NEVER_FAILS) as u64
    }

    /// Returns the number of entries no longer in the log.
    pub fn compacted(&self) -> u64 {
        self.log.get_compacted_idx().expect(NEVER_FAILS) as u64
    }

    /// Returns the entries after `from`, up to `to`.
    pub fn entries(&self, from: u64, to: u64) -> Vec<Entry> {
        match from < to {
            true => self.log.get_entries(position(from), position(to)).expect(NEVER_FAILS),
            false => Vec::new(),
        }
    }

    /// Appends entries to the log.
    pub fn propose(&mut self, entries: Vec<Entry>) {
        self.look_for_seal(self.accepted(), &entries);
        self.log.append_entries(entries).expect(NEVER_FAILS);
        if !self.waits_for_sync {
            self.synced = self.accepted();
            self.decide();
        }
    }

    /// Returns the index up to which a sync is needed and not requested yet, and records the
    /// request.
    pub fn take_unsynced(&mut self) -> Option<u64> {
        let accepted = self.accepted();
        let is_new = accepted > self.asked.max(self.synced);
        self.asked = accepted.max(self.asked);
        is_new.then_some(accepted)
    }

    /// Records that a sync returned that began after the entries up to an index were written.
    pub fn synced(&mut self, index: u64) {
        self.synced = self.synced.max(index);
        self.decide();
    }

    /// Returns the configuration in which the marker has to name this replica, so that it can go
    /// on.
    pub fn wants_mark(&self) -> Option<ConfigurationId> {
        let needed = match self.seal {
            None => self.id,
            // If the stop sign were lost, this replica would be left behind its own marker.
            Some(seal) if self.synced <= seal => return None,
            Some(_) => ConfigurationId(self.id.0 + 1),
        };
        (self.marked < Some(needed)).then_some(needed)
    }

    /// Records that the marker names this replica in a configuration.
    pub fn marked(&mut self, configuration: ConfigurationId) {
        self.marked = self.marked.max(Some(configuration));
        self.decide();
    }

    /// Records that the marker no longer names any replica of this cluster: nothing is decided
    /// until it does.
    pub fn unmarked(&mut self) {
        self.marked = None;
    }

    /// Returns the latest configuration in which the marker names this replica, if it may decide.
    pub fn marked_in(&self) -> Option<ConfigurationId> {
        self.marked.filter(|_| self.may_decide())
    }

    /// Whether the log holds a stop sign that was not decided when it was found.
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
