//! Snapshots of a disk in memory.
//!
//! Guarantees what [`Snapshots`] promises. A snapshot is a copy of the keys that shares only the
//! values with the state, so it costs memory for the time of a transfer.

use std::collections::BTreeMap;

use kvorum_protocol::status::ConfigurationId;

use super::Memory;
use super::image::State;
use crate::engine::store::{IdentityStore, LogStore};
use crate::state::entry::Entry;
use crate::state::machine::Table;
use crate::state::snapshot::{FetchRequest, FetchResponse, Header, SnapshotId, Snapshots};

/// The open snapshots of a disk in memory.
pub struct MemorySnapshots {
    memory: Memory,
    open: BTreeMap<SnapshotId, State>,
}

impl MemorySnapshots {
    pub(super) fn new(memory: Memory) -> Self {
        Self { memory, open: BTreeMap::new() }
    }

    fn entries(&self, wanted: ConfigurationId, from: u64) -> FetchResponse {
        let bytes_max = self.memory.limits().chunk;
        let current = self.memory.configuration_id();
        let numbers = self.memory.disk().current.numbers(current);
        let decided = numbers.decided as u64;
        let (configuration, _) = self.memory.disk().current.log_of(from);
        let entries: Vec<Entry> = match from <= decided {
            true => self.memory.decided(from, decided, bytes_max).entries,
            false => Vec::new(),
        };
        FetchResponse::entries_of(configuration, wanted, from, entries, decided)
    }
}

impl Snapshots for MemorySnapshots {
    fn read(&mut self, wanted: &FetchRequest, number: u64) -> Option<FetchResponse> {
        Some(match wanted {
            FetchRequest::Snapshot => {
                let nonce = self.memory.identity().nonce;
                let disk = self.memory.disk();
                let image = &disk.current;
                let items = image.state.keys.len() as u64;
                let snapshot = SnapshotId { nonce, number };
                self.open.insert(snapshot, image.state.clone());
                let (applied, version) = (image.applied, image.version);
                let chain = image.chain.clone();
                let header = Header { applied, items, version, chain };
                FetchResponse::Snapshot { snapshot, header }
            }
            FetchRequest::Chunk { snapshot, after } => match self.open.get(snapshot) {
                Some(state) => FetchResponse::Chunk(state.chunk(after, self.memory.limits().chunk)),
                None => FetchResponse::Gone,
            },
            FetchRequest::Entries { configuration, from } => self.entries(*configuration, *from),
            FetchRequest::Close { snapshot } => {
                self.open.remove(snapshot);
                return None;
            }
        })
    }
}
