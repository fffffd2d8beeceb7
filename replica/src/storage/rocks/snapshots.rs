//! Reads snapshots of a database, and entries of its log, beside the driver.
//!
//! Guarantees that a snapshot shows the state at one index, whatever is written meanwhile. A
//! snapshot whose files may be gone, because a copied state replaced the one that it shows, is
//! reported as closed. Reads leave the block cache unchanged.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvorum_protocol::message::{Page, Scan};
use kvorum_protocol::status::ConfigurationId;
use rocksdb::{DB, Direction, IteratorMode, ReadOptions, SnapshotWithThreadMode};
use serde::de::DeserializeOwned;

use super::Inner;
use super::keys::{self, Generation};
use crate::state::accounts::Accounts;
use crate::state::chain::Chain;
use crate::state::entry::Entry;
use crate::state::machine::Record;
use crate::state::snapshot::{
    Chunk, Cursor, FetchRequest, FetchResponse, Header, Item, SnapshotId, Snapshots,
};
use crate::state::version::Version;
use crate::storage::scan;

/// The most snapshots open at once: each keeps old records from being removed.
const SNAPSHOTS_MAX: usize = 8;

/// An open snapshot.
struct Open<'a> {
    snapshot: SnapshotWithThreadMode<'a, DB>,
    generation: Generation,
}

/// The open snapshots of a database.
pub struct RocksSnapshots<'a> {
    inner: &'a Inner,
    nonce: u64,
    open: BTreeMap<SnapshotId, Open<'a>>,
}

impl<'a> RocksSnapshots<'a> {
    pub(super) fn new(inner: &'a Inner, nonce: u64) -> Self {
        Self { inner, nonce, open: BTreeMap::new() }
    }

    fn open(&mut self, number: u64) -> FetchResponse {
        self.open.retain(|_, open| open.generation == self.inner.generation());
        if self.open.len() >= SNAPSHOTS_MAX {
            return FetchResponse::Busy;
        }
        let inner = self.inner;
        let open = Open::new(inner);
        // They are always changed together, and the snapshot sees them together.
        let applied = open.meta(inner, keys::APPLIED);
        let version: Version = open.meta(inner, keys::VERSION);
        let generation = open.generation;
        let chain = open.chain(inner);
        let family = inner.family(generation.keys());
        let items = inner.db.property_int_value_cf(family, rocksdb::properties::ESTIMATE_NUM_KEYS);
        let items = items.ok().flatten().unwrap_or(0);
        let name = SnapshotId { nonce: self.nonce, number };
        self.open.insert(name, open);
        FetchResponse::Snapshot {
            snapshot: name,
            header: Header { applied, items, version, chain },
        }
    }

    fn chunk(&self, snapshot: SnapshotId, after: &Cursor) -> FetchResponse {
        let Some(open) = self.open.get(&snapshot) else { return FetchResponse::Gone };
        let lanes = match after {
            Cursor::Start | Cursor::Accounts => Some(keys::LANES.to_vec()),
            Cursor::Lane(lane) => Some([&keys::lane(*lane)[..], &[0]].concat()),
            Cursor::Key(_) => None,
        };
        let keys = match after {
            Cursor::Key(key) => [key, &[0][..]].concat(),
            _ => Vec::new(),
        };
        let inner = self.inner;
        let sessions = open.generation.sessions();
        let forgotten: u64 = open.meta(inner, keys::FORGOTTEN);
        let lanes = lanes.into_iter().flat_map(|from| {
            open.records(inner, sessions, &from, keys::LANES_END.to_vec())
                .map(|(key, record)| inner.lane_in(sessions, &key, &record))
                .filter(|(_, lane)| lane.last_use > forgotten)
                .map(|(id, lane)| Item::Lane(id, lane))
        });
        let records = open.keys(inner, &keys, keys::end());
        let keys = records.map(|(key, record)| Item::Key(key, record));
        let accounts = match after {
            Cursor::Start => open.accounts(inner).map(Item::Accounts),
            _ => None,
        };
        let items = accounts.into_iter().chain(lanes).chain(keys);
        let chunk = Chunk::cut(items, inner.limits.chunk);
        // Its files are removed only after the switch: a chunk that was read before it is complete.
        match open.generation == inner.generation() {
            true => FetchResponse::Chunk(chunk),
            false => FetchResponse::Gone,
        }
    }

    fn entries(&self, wanted: ConfigurationId, from: u64) -> FetchResponse {
        let inner = self.inner;
        let decided = inner.numbers().decided as u64;
        let (configuration, last) = inner.log_of(from);
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        let position = |index| usize::try_from(index).expect("indexes fit the address space");
        inner.each_entry(configuration, position(from - 1), position(decided.min(last)), |entry| {
            bytes += entry.weight();
            entries.push(entry);
            bytes < inner.limits.chunk
        });
        // The log may have been compacted.
        FetchResponse::entries_of(configuration, wanted, from, entries, decided)
    }
}

impl<'a> Open<'a> {
    fn new(inner: &'a Inner) -> Self {
        let open = Self { snapshot: inner.db.snapshot(), generation: Generation::default() };
        let generation = open.meta(inner, keys::GENERATION);
        Self { generation, ..open }
    }

    fn chain(&self, inner: &Inner) -> Chain {
        let (family, key) = (inner.family(keys::META), keys::CONFIGURATION);
        match self.snapshot.get_pinned_cf(family, key) {
            Ok(Some(bytes)) => inner.decode(keys::META, key, &bytes),
            Ok(None) => inner.damaged("in meta: configuration is not there"),
            Err(error) => inner.read_failed(&error),
        }
    }

    fn accounts(&self, inner: &Inner) -> Option<Accounts> {
        let sessions = self.generation.sessions();
        match self.snapshot.get_pinned_cf(inner.family(sessions), keys::ACCOUNTS) {
            Ok(bytes) => bytes.map(|bytes| inner.decode(sessions, keys::ACCOUNTS, &bytes)),
            Err(error) => inner.read_failed(&error),
        }
    }

    fn meta<V: DeserializeOwned + Default>(&self, inner: &Inner, key: &[u8]) -> V {
        match self.snapshot.get_pinned_cf(inner.family(keys::META), key) {
            Ok(bytes) => bytes.map_or_else(V::default, |b| inner.decode(keys::META, key, &b)),
            Err(error) => inner.read_failed(&error),
        }
    }

    /// Iterates over keys and their records from a key on.
    fn keys<'i>(
        &'i self,
        inner: &'i Inner,
        from: &[u8],
        end: Vec<u8>,
    ) -> impl Iterator<Item = (Bytes, Record)> + use<'i, 'a> {
        let family = self.generation.keys();
        self.records(inner, family, from, end).map(|(key, record)| {
            let (revision, value): (u64, Bytes) = inner.decode(family, &key, &record);
            (Bytes::from(key), Record { revision, value })
        })
    }

    fn records<'i>(
        &'i self,
        inner: &'i Inner,
        family: &str,
        from: &[u8],
        end: Vec<u8>,
    ) -> impl Iterator<Item = (Box<[u8]>, Box<[u8]>)> + use<'i, 'a> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(end);
        options.fill_cache(false);
        let mode = IteratorMode::From(from, Direction::Forward);
        let records = self.snapshot.iterator_cf_opt(inner.family(family), options, mode);
        records.map(|item| match item {
            Ok(item) => item,
            Err(error) => inner.read_failed(&error),
        })
    }
}

impl Inner {
    /// Returns the estimated size of the keys on the disk, in bytes.
    pub(super) fn state_bytes(&self) -> u64 {
        let (family, size) =
            (self.generation().keys(), rocksdb::properties::ESTIMATE_LIVE_DATA_SIZE);
        self.db.property_int_value_cf(self.family(family), size).ok().flatten().unwrap_or(0)
    }

    /// Reads a page of keys; returns it with the generation that it was read from.
    pub(super) fn scan(&self, wanted: &Scan) -> (Generation, Page) {
        let open = Open::new(self);
        let end = scan::end(wanted).unwrap_or_else(keys::end);
        let records = open.keys(self, scan::first(wanted), end);
        let page = scan::page(wanted, records, open.meta(self, keys::APPLIED));
        (open.generation, page)
    }
}

impl Snapshots for RocksSnapshots<'_> {
    fn read(&mut self, wanted: &FetchRequest, number: u64) -> Option<FetchResponse> {
        Some(match wanted {
            FetchRequest::Snapshot => self.open(number),
            FetchRequest::Chunk { snapshot, after } => self.chunk(*snapshot, after),
            FetchRequest::Entries { configuration, from } => self.entries(*configuration, *from),
            FetchRequest::Close { snapshot } => {
                self.open.remove(snapshot);
                return None;
            }
        })
    }
}
