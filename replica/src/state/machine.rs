//! Pure: applies decided entries to keys and lanes.
//!
//! Guarantees that all replicas that apply the same entries end in the same state and find the same
//! outcomes; that a command takes effect at most once; and that the state and the applied index
//! change in one commit. It has no clock, no randomness and no error: an entry has an outcome or
//! the replica must not go on.
//!
//! Does not know where state is kept; its [`Table`] does.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kvorum_protocol::access::AccessChange;
use kvorum_protocol::data::{Condition, Key, LaneId, Operation, Outcome, RequestId};
use kvorum_protocol::limits::SESSION_ENTRIES;
use kvorum_protocol::status::ConfigurationId;
use serde::{Deserialize, Serialize};

use crate::state::accounts::Accounts;
use crate::state::chain::Chain;
use crate::state::entry::{Command, Entry};
use crate::state::rights::{User, judge_all, touches_of};
use crate::state::version::Version;

/// A key's value and the index of its last write.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The decided index of the write.
    pub revision: u64,
    /// The value.
    pub value: Bytes,
}

/// A lane's session record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lane {
    /// The sequence number of the lane's last applied request.
    pub sequence: u64,
    /// The outcome of that request.
    pub outcome: Outcome,
    /// The index at which that request was applied.
    pub last_use: u64,
}

/// The rules for remembering lanes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneMemory {
    /// A request may be applied up to this many entries after the index that its client knew.
    pub session_entries: u64,
    /// A lane is forgotten this many entries after its last use; more than `session_entries`, so
    /// that by then every repetition of its request has expired.
    pub forgets_after: u64,
    /// Whether repeated requests are detected at all.
    pub finds_repetitions: bool,
}

impl Default for LaneMemory {
    fn default() -> Self {
        Self::of(SESSION_ENTRIES)
    }
}

impl LaneMemory {
    /// Returns the rules that suit a session of this many entries.
    #[must_use]
    pub fn of(session_entries: u64) -> Self {
        let forgets_after = session_entries + 1;
        Self { session_entries, forgets_after, finds_repetitions: true }
    }
}

/// The storage of the state.
pub trait Table {
    /// Returns the last index whose changes are in the table; 0 when there is none.
    fn applied(&self) -> u64;
    /// Returns the configuration chain that the table is in.
    fn chain(&self) -> Chain;
    /// Returns the current configuration's id, without a copy of the rest.
    fn configuration_id(&self) -> ConfigurationId {
        self.chain().current.id
    }
    /// Returns a key's record.
    fn key(&self, key: &[u8]) -> Option<Record>;
    /// Returns a lane's session record; the record of a lane that is forgotten may still be there.
    fn lane(&self, lane: LaneId) -> Option<Lane>;
    /// Returns the users, their roles and rights.
    fn accounts(&self) -> Arc<Accounts>;
    /// Makes all changes, or after a crash none; a later commit never survives without the earlier
    /// ones.
    fn commit(&mut self, changes: Changes);
}

/// The changes of a run of entries.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Changes {
    /// New records; `None` removes the key.
    pub keys: BTreeMap<Bytes, Option<Record>>,
    /// New session records.
    pub lanes: BTreeMap<LaneId, Lane>,
    /// Lanes that were last used at this index or before are forgotten.
    pub forgotten: u64,
    /// Indexes of commands that changed no key: they were repeated, expired or forbidden, their
    /// condition failed, they deleted an absent key, or they are about users.
    pub void: Vec<u64>,
    /// The new users, roles and rights, if they change.
    pub accounts: Option<Arc<Accounts>>,
    /// The cluster's new version, if it changes.
    pub version: Option<Version>,
    /// The chain from the next index on, if it changes.
    pub chain: Option<Chain>,
    /// The last index applied.
    pub applied: u64,
    /// Whether the entries came from a peer and are not in this replica's log.
    pub from_peer: bool,
}

/// The origin of a run of entries.
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
    /// The request that it carries and its outcome; `None` for entries of the cluster itself.
    pub outcome: Option<(RequestId, Outcome)>,
}

/// Returns how many of the entries form one run: entries after a stop sign are in another
/// configuration, and a snapshot is opened after each checksum entry.
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
            Entry::Placeholder { .. } => panic!("a stand-in for entries is never in a log"),
            Entry::Command(command) => Some((command.id, run.command(index, None, command))),
            Entry::UserCommand { user, command } => {
                Some((command.id, run.command(index, Some(user), command)))
            }
        };
        results.push(Applied { index, outcome });
    }
    let mut changes = run.changes;
    changes.applied = first + entries.len() as u64 - 1;
    changes.forgotten = changes.applied.saturating_sub(memory.forgets_after);
    changes.from_peer = source == Source::Peer;
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
    /// Returns the chain as changed by the run so far.
    fn chain(&self) -> Chain {
        self.changes.chain.clone().unwrap_or_else(|| self.table.chain())
    }

    /// Applies a command; of a user whose rights are to be judged, if one is given.
    fn command(&mut self, index: u64, user: Option<&String>, command: &Command) -> Outcome {
        let lane = command.id.lane;
        let known = self.changes.lanes.get(&lane).copied().or_else(|| self.table.lane(lane));
        // A copied state may come from a faulty peer, with a use that is yet to come.
        let age = |known: &Lane| index.saturating_sub(known.last_use);
        let known = known.filter(|known| age(known) < self.memory.forgets_after);
        if let Some(known) = known
            && command.id.sequence <= known.sequence
            && self.memory.finds_repetitions
        {
            // A repetition. No client waits for one that a later request of its lane has overtaken.
            self.changes.void.push(index);
            return known.outcome;
        }
        if index > command.valid_until {
            self.changes.void.push(index);
            return Outcome::Expired;
        }
        let outcome = match user {
            // A right may have been taken away after the request was let in.
            Some(user) if !self.allows(user, &command.operation) => {
                self.changes.void.push(index);
                Outcome::Forbidden
            }
            _ => self.operate(index, &command.operation),
        };
        let used = Lane { sequence: command.id.sequence, outcome, last_use: index };
        self.changes.lanes.insert(lane, used);
        outcome
    }

    fn operate(&mut self, index: u64, operation: &Operation) -> Outcome {
        let (key, condition, value) = match operation {
            Operation::Access(change) => return self.change_access(index, change),
            Operation::Put { key, value, condition } => (key, *condition, Some(value)),
            Operation::Delete { key, condition } => (key, *condition, None),
        };
        let current = match condition {
            Condition::Always if value.is_some() => None,
            _ => self.revision(key),
        };
        let holds = match condition {
            Condition::Always => true,
            Condition::Absent => current.is_none(),
            Condition::AtRevision(revision) => current == Some(revision),
        };
        match value {
            _ if !holds => {
                self.changes.void.push(index);
                Outcome::ConditionFailed { current }
            }
            Some(value) => {
                let record = Record { revision: index, value: value.0.clone() };
                self.changes.keys.insert(key.0.clone(), Some(record));
                Outcome::Put { revision: index }
            }
            None => {
                match current {
                    Some(_) => drop(self.changes.keys.insert(key.0.clone(), None)),
                    None => self.changes.void.push(index),
                }
                Outcome::Deleted { revision: index, existed: current.is_some() }
            }
        }
    }

    /// Returns the accounts as changed by the run so far.
    fn accounts(&self) -> Arc<Accounts> {
        self.changes.accounts.clone().unwrap_or_else(|| self.table.accounts())
    }

    fn allows(&self, user: &str, operation: &Operation) -> bool {
        let user = User::Client(user.into());
        judge_all(&self.accounts(), &user, &touches_of(operation)).is_ok()
    }

    fn change_access(&mut self, index: u64, change: &AccessChange) -> Outcome {
        self.changes.void.push(index);
        match self.accounts().after(index, change) {
            Ok(next) => {
                self.changes.accounts = Some(Arc::new(next));
                Outcome::AccessChanged
            }
            Err(error) => Outcome::AccessUnchanged(error),
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
#[path = "machine/tests.rs"]
mod tests;
