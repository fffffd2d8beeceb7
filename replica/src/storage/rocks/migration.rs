//! Moves the logs of a folder of before December 2026 out of RocksDB and into a journal.
//!
//! Guarantees that after a crash the folder is an old one or a new one: the journal is made aside,
//! and the record that says so is written when it is whole. A program that knows no journal refuses
//! the folder from its first start with this one on.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use kvorum_protocol::status::ConfigurationId;
use omnipaxos::ballot_leader_election::Ballot;
use rocksdb::{Direction, IteratorMode, WriteBatch, WriteOptions};
use serde::{Deserialize, Serialize};

use super::open::{HAS_JOURNAL, Opened};
use super::open_error::OpenError;
use super::{keys, put, record};
use crate::state::entry::Entry;
use crate::storage::journal::Journal;
use crate::storage::journal::frame::Frame;
use crate::storage::journal::recovery::Recovered;
use crate::storage::log::{LogNumbers, LogWrite};

/// The bytes of entries after which they are written to the journal.
const BATCH_BYTES: usize = 4 << 20;

/// One of a log's numbers, as it was stored.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum Number {
    /// A ballot: configuration, number, priority, slot.
    Ballot(u32, u32, u32, u64),
    /// An index.
    Index(u64),
}

impl Number {
    fn ballot(self) -> Option<Ballot> {
        match self {
            Self::Ballot(configuration, n, priority, pid) => {
                Some(Ballot::with(configuration, n, priority, pid))
            }
            Self::Index(_) => None,
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Index(index) => usize::try_from(index).expect("indexes fit the address space"),
            Self::Ballot(..) => 0,
        }
    }
}

/// Returns the key of one number of a log.
fn number_key(id: ConfigurationId, name: &str) -> Vec<u8> {
    [b"log/", &id.0.to_be_bytes()[..], b"/", name.as_bytes()].concat()
}

/// Returns the key of an entry.
fn entry_key(id: ConfigurationId, position: usize) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&id.0.to_be_bytes());
    key[4..].copy_from_slice(&(position as u64).to_be_bytes());
    key
}

impl Opened<'_> {
    /// Reads the numbers of a log that is in the database; `None` when nothing was ever written to
    /// it.
    pub(super) fn old_numbers(&self, id: ConfigurationId) -> Result<Option<LogNumbers>, OpenError> {
        let number = |name| self.get::<Number>(&number_key(id, name));
        let index = |name| number(name).map(|number| number.map_or(0, Number::index));
        let numbers = LogNumbers {
            promise: number("promise")?.and_then(Number::ballot),
            accepted_round: number("accepted-round")?.and_then(Number::ballot),
            decided: index("decided")?,
            compacted: index("compacted")?,
            accepted: index("accepted")?,
        };
        Ok((numbers != LogNumbers::default()).then_some(numbers))
    }

    /// Moves the logs to a journal in a folder.
    pub(super) fn migrate(&self, folder: &Path) -> Result<(), OpenError> {
        let unusable = |error: io::Error| OpenError::unusable(self.folder, &error);
        let aside = folder.with_extension("new");
        let remove = |folder: &Path| match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        let make = || {
            remove(&aside)?;
            remove(folder)?;
            fs::create_dir(&aside)?;
            Journal::open(&aside, Recovered::empty())
        };
        let journal = make().map_err(unusable)?;
        let ids = self.old_logs()?;
        tracing::info!(logs = ids.len(), "moves the log out of the database");
        for id in ids {
            self.move_log(&journal, id)?;
        }
        journal
            .write(journal.take())
            .and_then(|()| fs::rename(&aside, folder))
            .and_then(|()| File::open(self.folder)?.sync_all())
            .map_err(unusable)?;
        self.forget_old_logs()
    }

    /// Returns the configurations whose logs are in the database.
    fn old_logs(&self) -> Result<Vec<ConfigurationId>, OpenError> {
        let meta = self.db.cf_handle(keys::META).expect("opened with the database");
        let mut ids = Vec::new();
        for item in self.db.iterator_cf(meta, IteratorMode::From(b"log/", Direction::Forward)) {
            let (key, _) = item.map_err(|error| self.damaged(error.to_string()))?;
            let Some(rest) = key.strip_prefix(b"log/") else { break };
            let id = rest.first_chunk().map(|id| ConfigurationId(u32::from_be_bytes(*id)));
            ids.extend(id.filter(|id| ids.last() != Some(id)));
        }
        Ok(ids)
    }

    fn move_log(&self, journal: &Journal, id: ConfigurationId) -> Result<(), OpenError> {
        let numbers = self.old_numbers(id)?.unwrap_or_default();
        let mut next = numbers.compacted;
        journal.append(&Frame::Log(id, LogNumbers { accepted: next, ..numbers }));
        let log = self.db.cf_handle(keys::LOG).expect("opened with the database");
        let from = entry_key(id, next);
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let write = |from: usize, entries: Vec<Entry>| {
            journal.append(&Frame::Writes(id, vec![LogWrite::AppendAt(from, entries)]));
            journal.write(journal.take()).map_err(|error| OpenError::unusable(self.folder, &error))
        };
        for item in self.db.iterator_cf(log, IteratorMode::From(&from, Direction::Forward)) {
            let (key, bytes_of) = item.map_err(|error| self.damaged(error.to_string()))?;
            if next == numbers.accepted || *key != entry_key(id, next) {
                break;
            }
            let entry: Entry = record::decode(&key, &bytes_of)
                .map_err(|error| self.damaged(format!("entry {next} in db/: {error}")))?;
            (next, bytes) = (next + 1, bytes + entry.weight());
            entries.push(entry);
            if bytes >= BATCH_BYTES {
                write(next - entries.len(), std::mem::take(&mut entries))?;
                bytes = 0;
            }
        }
        if next != numbers.accepted {
            return Err(self.damaged(format!("the log has a hole: entry {next} is missing")));
        }
        write(next - entries.len(), entries)
    }

    /// Records that the logs are in the journal, and removes them from the database.
    fn forget_old_logs(&self) -> Result<(), OpenError> {
        let family = |name| self.db.cf_handle(name).expect("opened with the database");
        let (mut batch, meta) = (WriteBatch::default(), family(keys::META));
        put(&mut batch, meta, keys::JOURNAL, &HAS_JOURNAL);
        batch.delete_range_cf(meta, &b"log/"[..], &b"log0"[..]);
        batch.delete_range_cf(family(keys::LOG), &[][..], &[0xff; 12][..]);
        let written = self.db.write_opt(batch, &WriteOptions::default());
        let synced = written.and_then(|()| self.db.flush_wal(true));
        synced.map_err(|error| OpenError::unusable(self.folder, &error))
    }
}

#[cfg(test)]
#[path = "migration/tests.rs"]
mod tests;
