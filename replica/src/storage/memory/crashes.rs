//! Crashes of a disk in memory, and looks at what would survive one: for tests and simulation.
//!
//! Guarantees that a crash keeps a prefix of the writes, and of the state only what was written as
//! a whole; what is missing is applied again from the log.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use kvorum_protocol::status::{ConfigurationId, ReplicaId};

use super::image::Write;
use super::{Disk, Memory};
use crate::engine::store::{PeerRecord, StateStore};
use crate::state::entry::Entry;
use crate::state::machine::{LaneMemory, Record, Table};
use crate::storage::log::LogNumbers;
use crate::storage::replay::replay;

impl Memory {
    /// Returns the same disk, started again after a crash that kept the first `kept` unsynced
    /// writes. With an odd nonce, a state that was written later survives too.
    ///
    /// # Panics
    /// When entries are missing: the log was cut, and the state does not have them.
    #[must_use]
    pub fn restart(&self, kept: usize, nonce: u64) -> Self {
        let mut old = self.disk();
        let later = old.persisted_after(kept).filter(|_| !nonce.is_multiple_of(2));
        old.sync(kept);
        let mut durable = old.durable.clone().expect("only a crashable disk is restarted");
        if let Some(later) = later {
            durable.persisted = Some(later);
        }
        durable.fall_back();
        let (tears_state, cuts_freely, lanes) = (old.tears_state, old.cuts_freely, old.lanes);
        drop(old);
        let of = Disk::of(durable.clone(), Some(durable));
        let fresh = Disk { tears_state, cuts_freely, lanes, ..of };
        let mut identity = self.identity.clone();
        identity.incarnation += 1;
        identity.nonce = nonce;
        let mut memory = Self::with(fresh, identity);
        memory.replay(lanes);
        memory
    }

    /// Brings the state to where the log is.
    fn replay(&mut self, lanes: LaneMemory) {
        let chain = self.chain();
        let has_log = self.disk().current.logs.contains_key(&chain.current.id);
        if chain.began > 0 && !has_log {
            self.disk().write(Write::Begin);
        }
        let decided = |memory: &Self, id| memory.disk().current.numbers(id).decided as u64;
        if self.quarantine().is_none() {
            replay(self, lanes, decided).expect("no log is cut beyond the state");
        }
        if self.applied() > decided(self, self.configuration_id()) {
            self.disk().write(Write::MarkCopied);
        }
    }

    /// Writes the state to the disk as it is.
    pub fn persist(&self) {
        self.disk().persist();
    }

    /// Sets the memory of lanes with which entries are applied again after a crash.
    pub fn replays_with(&self, lanes: LaneMemory) {
        self.disk().lanes = lanes;
    }

    /// Lets the log be cut without regard to what is written of the state: for a negative control.
    pub fn cut_freely(&self) {
        self.disk().cuts_freely = true;
    }

    /// Returns another disk with the contents of a copy that is taken now: the durable writes, and
    /// the first `kept` writes that no sync has covered.
    #[must_use]
    pub fn copied(&self, kept: usize) -> Self {
        let old = self.disk();
        let mut image = old.durable.clone().expect("only a crashable disk is copied");
        old.unsynced.iter().take(kept).for_each(|write| image.apply(write.clone()));
        let (tears_state, cuts_freely, lanes) = (old.tears_state, old.cuts_freely, old.lanes);
        drop(old);
        let of = Disk::of(image.clone(), Some(image));
        let disk = Disk { tears_state, cuts_freely, lanes, ..of };
        Self { disk: Arc::new(Mutex::new(disk)), ..self.clone() }
    }

    /// Returns the record of a peer that would survive a crash for certain.
    #[must_use]
    pub fn durably_seen(&self, peer: ReplicaId) -> Option<PeerRecord> {
        let disk = self.disk();
        let image = disk.durable.as_ref().expect("only a crashable disk is asked");
        image.seen.get(&peer).copied()
    }

    /// Lets the state be written to the disk without its applied index, as if its parts were
    /// written one by one: for a negative control.
    pub fn tear_state(&self) {
        self.disk().tears_state = true;
    }

    /// Whether another replica has the same keys and lanes, as of the same index.
    #[must_use]
    pub fn has_state_of(&self, other: &Self) -> bool {
        let theirs = other.disk().current.clone();
        let ours = &self.disk().current;
        ours.state == theirs.state && ours.applied == theirs.applied
    }

    /// Changes a key without the replica's knowledge, durably too: for a test.
    pub fn alter(&self, key: &Bytes) {
        let mut disk = self.disk();
        let Disk { current, durable, .. } = &mut *disk;
        for image in [Some(current), durable.as_mut()].into_iter().flatten() {
            let record = Record { revision: 1, value: Bytes::new() };
            if let Some(persisted) = &mut image.persisted {
                persisted.state.keys.insert(key.clone(), record.clone());
            }
            image.state.keys.insert(key.clone(), record);
        }
    }

    /// Returns the entries of the log that are not applied.
    #[must_use]
    pub fn unapplied(&self) -> Vec<Entry> {
        let id = self.configuration_id();
        let disk = self.disk();
        let applied = usize::try_from(disk.current.applied).expect("indexes fit");
        disk.current.entries(id, applied, disk.current.numbers(id).accepted)
    }

    /// Returns the number of writes that no sync has covered.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.disk().unsynced.len()
    }

    /// Makes the first `count` unsynced writes durable.
    pub fn sync_writes(&self, count: usize) {
        self.disk().sync(count);
    }

    /// Returns the numbers of a configuration's log that would survive a crash for certain.
    #[must_use]
    pub fn durable_numbers(&self, configuration: ConfigurationId) -> LogNumbers {
        let disk = self.disk();
        let image = disk.durable.as_ref().expect("only a crashable disk is asked");
        image.numbers(configuration)
    }

    /// Whether the effect of this entry would survive a crash for certain: the entry itself, or,
    /// where it is compacted, a state that includes it.
    #[must_use]
    pub fn durably_has(&self, index: u64, is_it: impl Fn(&Entry) -> bool) -> bool {
        let disk = self.disk();
        let image = disk.durable.as_ref().expect("only a crashable disk is asked");
        let position = usize::try_from(index - 1).expect("indexes fit the address space");
        let (configuration, _) = image.log_of(index);
        let entry_in = |id| image.entries(id, position, position + 1).pop();
        // The state may be made anew from logs of before the last two configurations.
        let mut logs = image.logs.keys().rev().filter(|id| **id <= configuration);
        let entry = logs.find_map(|id| entry_in(*id));
        let is_in_state =
            index <= image.persisted_at() && (entry.is_none() || index <= image.since);
        is_in_state || entry.is_some_and(|entry| is_it(&entry))
    }
}
