//! Pure: the contents of a disk in memory.
//!
//! Guarantees that the same writes make the same image, so that a crash leaves the image of a
//! prefix of the writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use kvorum_protocol::data::LaneId;
use kvorum_protocol::status::{Configuration, ConfigurationId, ReplicaId};
use omnipaxos::storage::Storage;
use omnipaxos_storage::memory_storage::MemoryStorage;

use crate::engine::store::{LogLimits, PeerRecord};
use crate::state::accounts::Accounts;
use crate::state::chain::Chain;
use crate::state::entry::Entry;
use crate::state::machine::{Changes, Lane, Record};
use crate::state::snapshot::{Chunk, Cursor, Install, InstallWrite, Item, Quarantine};
use crate::state::start::Epoch;
use crate::state::version::Version;
use crate::storage::log::{LogNumbers, LogWrite};
use crate::storage::segments::Segments;

/// The wrapped storage's promise, on which this module relies.
const MEMORY_NEVER_FAILS: &str = "memory storage never fails";

/// Keys, the session records of lanes, and the accounts.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct State {
    pub keys: BTreeMap<Bytes, Record>,
    pub lanes: BTreeMap<LaneId, Lane>,
    pub accounts: Arc<Accounts>,
}

/// One configuration's log.
#[derive(Clone)]
pub struct ImageLog {
    storage: MemoryStorage<Entry>,
    pub segments: Segments,
}

/// The state as it was last written to the disk as a whole.
#[derive(Clone)]
pub struct Persisted {
    pub state: State,
    void: BTreeSet<u64>,
    pub applied: u64,
    version: Version,
    chain: Chain,
}

/// The contents of the disk.
#[derive(Clone)]
pub struct Image {
    pub limits: LogLimits,
    pub logs: BTreeMap<ConfigurationId, ImageLog>,
    pub state: State,
    pub void: BTreeSet<u64>,
    pub applied: u64,
    pub since: u64,
    pub version: Version,
    /// The configuration chain; at first the one that the replica was given.
    pub chain: Chain,
    /// What survives a crash of the state; kept only if crashes are to be simulated.
    pub persisted: Option<Box<Persisted>>,
    pub quarantine: Option<Quarantine>,
    pub install: Option<Install>,
    /// The state that is being copied.
    pub aside: State,
    pub seen: BTreeMap<ReplicaId, PeerRecord>,
    pub nonces: BTreeMap<u64, u64>,
    pub epoch: Epoch,
    /// The epoch in which each start began, by incarnation.
    pub began: BTreeMap<u64, Epoch>,
}

/// One write, as a crash may keep or lose it.
#[derive(Clone)]
pub enum Write {
    Log(ConfigurationId, Vec<LogWrite>),
    Table(Changes),
    Install(InstallWrite),
    Remember(ReplicaId, PeerRecord),
    /// A start, by its incarnation and its nonce.
    Start(u64, u64),
    Epoch(Epoch),
    /// The replica gets a new id, with this first nonce.
    Rejoin(u64),
    DropOldLogs,
    /// The state is written to the disk as it is.
    Persist,
    /// The same, without the applied index: for a negative control.
    PersistTorn,
    /// The state may be ahead of the log, as a copied one is.
    MarkCopied,
    /// The log of the current configuration begins.
    Begin,
}

impl Image {
    /// Returns the empty disk of a replica that was given the members.
    pub fn told(limits: LogLimits, members: Configuration, replica: ReplicaId) -> Self {
        Self {
            limits,
            logs: BTreeMap::new(),
            state: State::default(),
            void: BTreeSet::new(),
            applied: 0,
            since: 0,
            version: Version::default(),
            chain: Chain::told(members, replica),
            persisted: None,
            quarantine: None,
            install: None,
            aside: State::default(),
            seen: BTreeMap::new(),
            nonces: BTreeMap::new(),
            epoch: Epoch::default(),
            began: BTreeMap::new(),
        }
    }

    pub fn apply(&mut self, write: Write) {
        match write {
            Write::Log(configuration, writes) => {
                let empty = || ImageLog {
                    storage: MemoryStorage::default(),
                    segments: Segments::new(self.limits, 0),
                };
                let log = self.logs.entry(configuration).or_insert_with(empty);
                for write in writes {
                    if let LogWrite::Compact(position) = write
                        && position > log.compacted()
                    {
                        self.void = self.void.split_off(&(position as u64 + 1));
                    }
                    log.apply(write);
                }
            }
            Write::Table(changes) => self.commit(changes),
            Write::Install(step) => self.install(step),
            Write::Remember(peer, seen) => drop(self.seen.insert(peer, seen)),
            Write::Start(incarnation, nonce) => {
                self.nonces.insert(incarnation, nonce);
                self.began.insert(incarnation, self.epoch);
                self.epoch = self.epoch.next();
            }
            Write::Epoch(epoch) => self.epoch = epoch,
            Write::Rejoin(nonce) => {
                self.nonces = BTreeMap::from([(1, nonce)]);
                self.began = BTreeMap::from([(1, self.epoch)]);
                self.since = self.applied;
            }
            Write::MarkCopied => self.since = self.since.max(self.applied),
            Write::Persist => self.persist(),
            Write::PersistTorn => {
                let applied = self.persisted_at();
                self.persist();
                if let Some(persisted) = &mut self.persisted {
                    persisted.applied = applied;
                }
            }
            Write::Begin => self.begin_log(),
            Write::DropOldLogs => self.logs = self.logs.split_off(&self.id()),
        }
    }

    fn commit(&mut self, changes: Changes) {
        for (key, record) in changes.keys {
            match record {
                Some(record) => self.state.keys.insert(key, record),
                None => self.state.keys.remove(&key),
            };
        }
        self.state.lanes.extend(changes.lanes);
        self.state.lanes.retain(|_, lane| lane.last_use > changes.forgotten);
        if let Some(accounts) = changes.accounts {
            self.state.accounts = accounts;
        }
        if changes.from_peer {
            self.since = changes.applied;
        } else {
            self.void.extend(changes.void);
        }
        self.version = self.version.max(changes.version.unwrap_or_default());
        self.applied = changes.applied;
        if let Some(next) = changes.chain {
            self.enter(next);
        }
        if changes.from_peer {
            self.persist();
        }
    }

    /// Writes the state to the disk.
    fn persist(&mut self) {
        if let Some(persisted) = &mut self.persisted {
            **persisted = Persisted {
                state: self.state.clone(),
                void: self.void.clone(),
                applied: self.applied,
                version: self.version,
                chain: self.chain.clone(),
            };
        }
    }

    /// Keeps from here on what survives of the state.
    pub fn crashable(mut self) -> Self {
        self.persisted = Some(Box::new(Persisted {
            state: State::default(),
            void: BTreeSet::new(),
            applied: 0,
            version: self.version,
            chain: self.chain.clone(),
        }));
        self.persist();
        self
    }

    /// Loses what a crash takes of the state.
    pub fn fall_back(&mut self) {
        let Some(persisted) = self.persisted.as_deref().cloned() else { return };
        let Persisted { state, void, applied, version, chain } = persisted;
        (self.state, self.void, self.applied) = (state, void, applied);
        (self.version, self.chain) = (version, chain);
    }

    /// Returns the index up to which the state survives a crash.
    pub fn persisted_at(&self) -> u64 {
        self.persisted.as_ref().map_or(self.applied, |persisted| persisted.applied)
    }

    fn install(&mut self, step: InstallWrite) {
        match step {
            InstallWrite::Begin(install) => {
                self.aside = State::default();
                self.install = Some(install);
            }
            InstallWrite::Chunk(chunk) => {
                let install = self.install.take().expect("a chunk belongs to a copy");
                self.install = Some(install.after(&chunk));
                self.aside.extend(chunk.items);
            }
            InstallWrite::Switch => {
                let install = self.install.take().expect("a copy is switched to once");
                self.state = std::mem::take(&mut self.aside);
                self.applied = install.header.applied;
                self.since = install.header.applied;
                self.version = install.header.version;
                let chain = install.header.chain;
                if self.id() <= chain.current.id {
                    self.enter(chain);
                }
                self.quarantine = None;
                self.void = self.void.split_off(&(self.since + 1));
                self.persist();
            }
            InstallWrite::Quarantine(quarantine) => {
                self.quarantine = Some(quarantine);
                self.drop_install();
            }
            InstallWrite::Drop => self.drop_install(),
        }
    }

    fn id(&self) -> ConfigurationId {
        self.chain.current.id
    }

    fn enter(&mut self, next: Chain) {
        let is_new = !self.logs.contains_key(&next.current.id) && self.id() != next.current.id;
        self.chain = next;
        if is_new {
            self.begin_log();
        }
    }

    /// Begins the log of the current configuration.
    fn begin_log(&mut self) {
        let position = usize::try_from(self.chain.began).expect("indexes fit the address space");
        let mut log = ImageLog {
            storage: MemoryStorage::default(),
            segments: Segments::new(self.limits, position),
        };
        log.apply(LogWrite::Compact(position));
        log.apply(LogWrite::Decided(position));
        self.logs.insert(self.id(), log);
    }

    /// Returns the configuration whose log has the entry at an index, and the last index that this
    /// log can have.
    pub fn log_of(&self, index: u64) -> (ConfigurationId, u64) {
        self.chain.log_of(index)
    }

    fn drop_install(&mut self) {
        self.aside = State::default();
        self.install = None;
    }

    pub fn numbers(&self, configuration: ConfigurationId) -> LogNumbers {
        let Some(ImageLog { storage, .. }) = self.logs.get(&configuration) else {
            return LogNumbers::default();
        };
        let compacted = storage.get_compacted_idx().expect(MEMORY_NEVER_FAILS);
        LogNumbers {
            promise: storage.get_promise().expect(MEMORY_NEVER_FAILS),
            accepted_round: storage.get_accepted_round().expect(MEMORY_NEVER_FAILS),
            decided: storage.get_decided_idx().expect(MEMORY_NEVER_FAILS),
            compacted,
            accepted: compacted + storage.get_log_len().expect(MEMORY_NEVER_FAILS),
        }
    }

    /// Returns the entries at positions `from..to`, or none if some of them do not exist.
    pub fn entries(&self, configuration: ConfigurationId, from: usize, to: usize) -> Vec<Entry> {
        let numbers = self.numbers(configuration);
        match self.logs.get(&configuration) {
            Some(log) if from >= numbers.compacted && to <= numbers.accepted => {
                log.storage.get_entries(from, to).expect(MEMORY_NEVER_FAILS)
            }
            _ => Vec::new(),
        }
    }
}

impl State {
    fn extend(&mut self, items: Vec<Item>) {
        for item in items {
            match item {
                Item::Lane(id, lane) => drop(self.lanes.insert(id, lane)),
                Item::Key(key, record) => drop(self.keys.insert(key, record)),
                Item::Accounts(accounts) => self.accounts = Arc::new(accounts),
            }
        }
    }

    /// Returns the chunk after a cursor, of about this many bytes.
    pub fn chunk(&self, after: &Cursor, bytes_max: usize) -> Chunk {
        use std::ops::Bound::{Excluded, Unbounded};
        let lanes = match after {
            Cursor::Start | Cursor::Accounts => Some(Unbounded),
            Cursor::Lane(lane) => Some(Excluded(*lane)),
            Cursor::Key(_) => None,
        };
        let keys = match after {
            Cursor::Key(key) => Excluded(key.clone()),
            _ => Unbounded,
        };
        let lanes = lanes.into_iter().flat_map(|from| self.lanes.range((from, Unbounded)));
        let lanes = lanes.map(|(id, lane)| Item::Lane(*id, *lane));
        let keys = self.keys.range((keys, Unbounded));
        let keys = keys.map(|(key, record)| Item::Key(key.clone(), record.clone()));
        let is_first = *after == Cursor::Start && !self.accounts.is_empty();
        let accounts = is_first.then(|| Item::Accounts(Accounts::clone(&self.accounts)));
        Chunk::cut(accounts.into_iter().chain(lanes).chain(keys), bytes_max)
    }
}

impl ImageLog {
    fn compacted(&self) -> usize {
        self.storage.get_compacted_idx().expect(MEMORY_NEVER_FAILS)
    }

    fn apply(&mut self, write: LogWrite) {
        let log = &mut self.storage;
        let written = match write {
            LogWrite::AppendAt(from, entries) => {
                let compacted = log.get_compacted_idx().expect(MEMORY_NEVER_FAILS);
                let end = compacted + log.get_log_len().expect(MEMORY_NEVER_FAILS);
                assert!((compacted..=end).contains(&from), "a log has no holes");
                self.segments.truncate(from);
                for entry in &entries {
                    self.segments.push(entry.weight());
                }
                log.append_on_prefix(from, entries)
            }
            LogWrite::Promise(ballot) => log.set_promise(ballot),
            LogWrite::AcceptedRound(ballot) => log.set_accepted_round(ballot),
            LogWrite::Decided(decided) => log.set_decided_idx(decided),
            LogWrite::Compact(index) => {
                self.segments.compact(index);
                // `trim` underflows below the index already compacted.
                match index > log.get_compacted_idx().expect(MEMORY_NEVER_FAILS) {
                    true => log.trim(index).and_then(|()| log.set_compacted_idx(index)),
                    false => Ok(()),
                }
            }
        };
        written.expect(MEMORY_NEVER_FAILS);
    }
}
