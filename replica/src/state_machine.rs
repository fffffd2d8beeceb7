//! Pure: applies decided entries to keys and lanes.
//!
//! Guarantees that every replica that applies the same entries ends in the same state and finds
//! the same outcomes; that a command takes effect at most once; and that the state and the applied
//! index change in one commit. It has no clock, no randomness and no error: an entry has an
//! outcome or the replica must not go on.
//!
//! Does not know where state is kept; its [`Table`] does.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvorum_protocol::data::{Condition, Key, LaneId, Operation, Outcome, RequestId};
use kvorum_protocol::limits::SESSION_ENTRIES;
use kvorum_protocol::status::ConfigurationId;
use serde::{Deserialize, Serialize};

use crate::chain::Chain;
use crate::entry::{Command, Entry};
use crate::version::Version;

/// A key's value and the index of its last write.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The decided index of the write.
    pub revision: u64,
    /// The value.
    pub value: Bytes,
}

/// What is remembered of a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lane {
    /// The last request of the lane that was applied.
    pub sequence: u64,
    /// What it came to.
    pub outcome: Outcome,
    /// The index at which it was applied.
    pub last_use: u64,
}

/// What is remembered of lanes, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneMemory {
    /// A request may be applied up to so many entries after the index that its client knew.
    pub session_entries: u64,
    /// A lane is forgotten so many entries after its last use: more than the above.
    pub forgets_after: u64,
    /// Repetitions are found at all.
    pub finds_repetitions: bool,
}

impl Default for LaneMemory {
    fn default() -> Self {
        Self::of(SESSION_ENTRIES)
    }
}

impl LaneMemory {
    /// The memory that suits a session of so many entries.
    #[must_use]
    pub fn of(session_entries: u64) -> Self {
        let forgets_after = session_entries + 1;
        Self { session_entries, forgets_after, finds_repetitions: true }
    }
}

/// Where the state is kept.
pub trait Table {
    /// The last index whose changes are in the table; 0 when there is none.
    fn applied(&self) -> u64;
    /// The configuration that the table is in.
    fn chain(&self) -> Chain;
    /// Its id, without a copy of the rest.
    fn configuration_id(&self) -> ConfigurationId {
        self.chain().current.id
    }
    /// A key's record.
    fn key(&self, key: &[u8]) -> Option<Record>;
    /// What is remembered of a lane.
    fn lane(&self, lane: LaneId) -> Option<Lane>;
    /// The lane whose last use was at this index.
    fn lane_used_at(&self, index: u64) -> Option<LaneId>;
    /// Makes all changes, or after a crash none; later commits never survive earlier ones.
    fn commit(&mut self, changes: Changes);
}

/// All that a run of entries changes.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Changes {
    /// New records; `None` removes the key.
    pub keys: BTreeMap<Bytes, Option<Record>>,
    /// What is remembered of lanes from now on; `None` forgets the lane.
    pub lanes: BTreeMap<LaneId, Option<Lane>>,
    /// By index of last use: the lane, or `None` where that is no longer its last use.
    pub uses: BTreeMap<u64, Option<LaneId>>,
    /// Indexes of commands that changed no key: repeated, expired, or their condition failed.
    pub void: Vec<u64>,
    /// The cluster's version from now on, if it changes.
    pub version: Option<Version>,
    /// The chain from the next index on, if it changes.
    pub chain: Option<Chain>,
    /// The last index applied.
    pub applied: u64,
    /// The entries came from a peer, and are not in this replica's log.
    pub beside_log: bool,
}

/// Where the entries of a run come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// This replica's log.
    Log,
    /// A peer, because they are not in the log.
    Peer,
}

/// One applied entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its index.
    pub index: u64,
    /// The request it carries and what it came to; `None` for entries of the cluster itself.
    pub outcome: Option<(RequestId, Outcome)>,
}

/// How many of some entries are one run: what follows a stop sign is in another configuration, and
/// between a checksum entry and the next one a snapshot is opened.
#[must_use]
pub fn run_length(entries: &[Entry]) -> usize {
    let ends_run = |entry: &Entry| matches!(entry, Entry::StopSign(_) | Entry::Checksum);
    entries.iter().position(ends_run).map_or(entries.len(), |position| position + 1)
}

/// Applies a run of decided entries, the first of which has index `applied + 1`, in one commit.
///
/// # Panics
/// When the run does not continue what is applied: going on would make the replicas differ.
pub fn apply<T: Table>(
    table: &mut T,
    memory: LaneMemory,
    source: Source,
    first: u64,
    entries: &[Entry],
) -> Vec<Applied> {
    assert_eq!(first, table.applied() + 1, "entries are applied in order, each once");
    let mut run = Run { table, memory, changes: Changes::default() };
    let mut results = Vec::with_capacity(entries.len());
    for (index, entry) in (first..).zip(entries) {
        run.evict(index);
        let outcome = match entry {
            Entry::Noop | Entry::Checksum => None,
            Entry::StopSign(next) => {
                if let Some(chain) = run.chain().next(next, index) {
                    run.changes.chain = Some(chain);
                }
                None
            }
            Entry::Join { name, nonce } => {
                run.changes.chain = Some(run.chain().join(name, *nonce));
                None
            }
            Entry::Version(version) => {
                run.changes.version = run.changes.version.max(Some(*version));
                None
            }
            Entry::Elsewhere { .. } => panic!("a stand-in for entries is never in a log"),
            Entry::Command(command) => Some((command.id, run.command(index, command))),
        };
        results.push(Applied { index, outcome });
    }
    let mut changes = run.changes;
    changes.applied = first + entries.len() as u64 - 1;
    changes.beside_log = source == Source::Peer;
    table.commit(changes);
    results
}

/// A run of entries on top of a table that does not have them yet.
struct Run<'a, T> {
    table: &'a T,
    memory: LaneMemory,
    changes: Changes,
}

impl<T: Table> Run<'_, T> {
    /// The chain as it is now.
    fn chain(&self) -> Chain {
        self.changes.chain.clone().unwrap_or_else(|| self.table.chain())
    }

    /// Forgets the lane that was last used so long ago that whatever it repeats has expired.
    fn evict(&mut self, index: u64) {
        let Some(last_use) = index.checked_sub(self.memory.forgets_after) else { return };
        let lane = match self.changes.uses.get(&last_use) {
            Some(changed) => *changed,
            None => self.table.lane_used_at(last_use),
        };
        if let Some(lane) = lane {
            self.changes.lanes.insert(lane, None);
            self.changes.uses.insert(last_use, None);
        }
    }

    fn command(&mut self, index: u64, command: &Command) -> Outcome {
        let lane = command.id.lane;
        let known = match self.changes.lanes.get(&lane) {
            Some(changed) => *changed,
            None => self.table.lane(lane),
        };
        if let Some(known) = known
            && command.id.sequence <= known.sequence
            && self.memory.finds_repetitions
        {
            // A repetition. Nobody waits for one that a later request of its lane has overtaken.
            self.changes.void.push(index);
            return known.outcome;
        }
        if index > command.valid_until {
            self.changes.void.push(index);
            return Outcome::Expired;
        }
        let outcome = self.operate(index, &command.operation);
        if let Some(known) = known {
            self.changes.uses.insert(known.last_use, None);
        }
        let used = Lane { sequence: command.id.sequence, outcome, last_use: index };
        self.changes.lanes.insert(lane, Some(used));
        self.changes.uses.insert(index, Some(lane));
        outcome
    }

    fn operate(&mut self, index: u64, operation: &Operation) -> Outcome {
        let (key, condition) = match operation {
            Operation::Put { key, condition, .. } | Operation::Delete { key, condition } => {
                (key, *condition)
            }
        };
        let is_delete = matches!(operation, Operation::Delete { .. });
        let current = match condition {
            Condition::Always if !is_delete => None,
            _ => self.revision(key),
        };
        let holds = match condition {
            Condition::Always => true,
            Condition::Absent => current.is_none(),
            Condition::AtRevision(revision) => current == Some(revision),
        };
        match operation {
            _ if !holds => {
                self.changes.void.push(index);
                Outcome::ConditionFailed { current }
            }
            Operation::Put { key, value, .. } => {
                let record = Record { revision: index, value: value.0.clone() };
                self.changes.keys.insert(key.0.clone(), Some(record));
                Outcome::Put { revision: index }
            }
            Operation::Delete { key, .. } => {
                match current {
                    Some(_) => drop(self.changes.keys.insert(key.0.clone(), None)),
                    None => self.changes.void.push(index),
                }
                Outcome::Deleted { revision: index, existed: current.is_some() }
            }
        }
    }

    fn revision(&self, key: &Key) -> Option<u64> {
        match self.changes.keys.get(&key.0) {
            Some(changed) => changed.as_ref().map(|record| record.revision),
            None => self.table.key(&key.0).map(|record| record.revision),
        }
    }
}

#[cfg(test)]
#[path = "state_machine/tests.rs"]
mod tests;
