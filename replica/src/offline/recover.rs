//! The replicas that are left of a cluster whose majority is lost, and a new disk with the state of
//! the one that got furthest.
//!
//! The replica that got furthest, by its configuration, then by the ballot and length of its log,
//! provides the state: what it had applied, and every write that it had accepted, because any of
//! them may have been acknowledged; unless another one had copied more than that. It need not be a
//! member any more, nor one yet: a replica that left kept what was decided until then, and one that
//! joined has copied it.
//!
//! Guarantees that replicas are judged as they judge each other: one that another one, or the
//! marker, remembers with a later disk gets no vote. Does not know what the user accepts.

use std::io;
use std::path::{Path, PathBuf};

use kvorum_protocol::status::{Configuration, ConfigurationId, ReplicaId};

use crate::engine::store::{
    CopyStore, IdentityStore, LogLimits, LogStore, PeerRecord, StateStore, Store,
};
use crate::marker::{Claim, Mark, Marker};
use crate::state::chain::{Chain, Standing};
use crate::state::entry::Entry;
use crate::state::machine::Table;
use crate::state::snapshot::{Cursor, FetchRequest, FetchResponse, Snapshots};
use crate::storage::log::{LogDisk, LogNumbers};
use crate::storage::rocks::open::Owner;
use crate::storage::rocks::seed::Seed;
use crate::storage::{Ballot, Database, OnFatal, OpenError};

/// The name reported for the marker when it remembers a later disk.
const MARKER: &str = "the cluster's marker";

/// A replica whose state is left.
pub struct Survivor {
    name: String,
    replica: ReplicaId,
    chain: Chain,
    database: Database,
    numbers: LogNumbers,
    outdated_by: Option<String>,
}

/// What was found in the folder of a replica.
pub enum Find {
    /// The folder does not exist.
    Nothing,
    /// The replica is lost, for this reason.
    Lost(String),
    /// The replica is left.
    Left(Box<Survivor>),
}

/// The reason why it cannot be said whether a replica is lost.
#[derive(Debug, thiserror::Error)]
pub enum Unsure {
    /// The folder belongs to another replica.
    #[error("{} belongs to {found}, and here should be {wanted}", folder.display())]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// The replica that it belongs to.
        found: String,
        /// The replica that it should belong to.
        wanted: String,
    },
    /// The folder cannot be opened now, but may be another time.
    #[error(transparent)]
    Closed(OpenError),
    /// The folder cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Looks for a replica in its folder. `on_fatal` is called if the disk turns out to be damaged
/// later.
///
/// # Errors
/// When it cannot be said whether the replica is lost.
pub fn find(data: &Path, name: &str, owner: &Owner, on_fatal: OnFatal) -> Result<Find, Unsure> {
    // Opening a database that does not exist would create it.
    if !Database::is_in(data)? {
        let lost = || Find::Lost(format!("{} holds no database", data.display()));
        return Ok(if data.exists() { lost() } else { Find::Nothing });
    }
    let owner = Owner { newborn: None, ..owner.clone() };
    let opened = Database::open(data, &owner, rand::random(), LogLimits::default(), on_fatal);
    let database = match opened {
        Ok(database) => database,
        Err(error @ (OpenError::Damaged { .. } | OpenError::Uninitialized { .. })) => {
            return Ok(Find::Lost(error.to_string()));
        }
        Err(OpenError::Foreign { folder, found, wanted }) => {
            return Err(Unsure::Foreign { folder, found, wanted });
        }
        Err(
            error @ (OpenError::Unusable { .. }
            | OpenError::Locked { .. }
            | OpenError::Newer { .. }),
        ) => return Err(Unsure::Closed(error)),
    };
    if database.quarantine().is_some() {
        return Ok(Find::Lost("its state differed from that of the majority".to_owned()));
    }
    let (chain, replica) = (database.chain(), database.identity().replica);
    let numbers = database.log(chain.current.id).0.numbers();
    let name = name.to_owned();
    let survivor = Survivor { name, replica, chain, database, numbers, outdated_by: None };
    Ok(Find::Left(Box::new(survivor)))
}

impl Survivor {
    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its standing in the configuration that it knows.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.chain.standing(self.replica)
    }

    /// Returns the replica, or the marker, that remembers a later disk of it, if any: it gets no
    /// vote then.
    #[must_use]
    pub fn outdated_by(&self) -> Option<&str> {
        self.outdated_by.as_deref()
    }

    /// Returns its progress: by the later configuration, then the later ballot, then the longer
    /// log.
    fn reach(&self) -> (ConfigurationId, Option<Ballot>, usize) {
        (self.chain.current.id, self.numbers.accepted_round, self.numbers.accepted)
    }

    /// Whether it votes in its configuration, as far as it knows.
    #[must_use]
    pub fn votes(&self) -> bool {
        self.standing() == Standing::Member
    }

    /// Whether it holds any state to continue with: a joiner begins with none.
    fn has_state(&self) -> bool {
        self.votes() || self.database.applied() > 0
    }

    /// Whether it continues the disk that a peer remembers, as replicas judge each other.
    fn continues(&self, seen: PeerRecord) -> bool {
        let start = self.database.start(seen.incarnation);
        start.is_some_and(|start| start.secret.key() == seen.key && start.reaches() >= seen.epoch)
    }

    /// Returns the claim that it would make to the marker.
    fn claim(&self, solo: Option<ConfigurationId>) -> Claim {
        let epoch = self.database.epoch();
        self.database.claim(Mark { solo, epoch, ..Mark::default() })
    }

    /// Returns the last index that it has.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.database.applied().max(self.numbers.accepted as u64)
    }

    /// Returns the last index that it knows to be decided.
    #[must_use]
    pub fn decided(&self) -> u64 {
        self.database.applied().max(self.numbers.decided as u64)
    }

    /// Whether the cluster's marker lets it decide alone.
    fn is_let(&self, marker: &Marker) -> bool {
        let claim = self.claim(Some(self.chain.current.id));
        marker.claim(claim, &self.database.history(marker)).is_ok()
    }

    /// Makes a new disk, for `owner`, with its state and the entries that it accepted after it.
    ///
    /// # Errors
    /// A sentence that says what cannot be read or written.
    pub fn copy_to(&self, folder: &Path, owner: &Owner, on_fatal: OnFatal) -> Result<(), String> {
        let unreadable = || format!("the state of {} cannot be read", self.name);
        let (nonce, applied) = (rand::random(), self.database.applied());
        let seed = Seed::begin(folder, owner, nonce, applied, on_fatal);
        let mut seed = seed.map_err(|error| error.to_string())?;
        let mut snapshots = self.database.snapshots();
        let Some(FetchResponse::Snapshot { snapshot, .. }) =
            snapshots.read(&FetchRequest::Snapshot, 1)
        else {
            return Err(unreadable());
        };
        let mut after = Some(Cursor::Start);
        while let Some(cursor) = after {
            let wanted = FetchRequest::Chunk { snapshot, after: cursor };
            let Some(FetchResponse::Chunk(chunk)) = snapshots.read(&wanted, 0) else {
                return Err(unreadable());
            };
            after = chunk.next;
            seed.add(chunk.items);
        }
        let end = seed.end(&self.tail());
        end.map(drop).ok_or_else(|| "indexes do not go so far".to_owned())
    }

    /// Returns the entries that it accepted and has not applied.
    fn tail(&self) -> Vec<Entry> {
        let first = usize::try_from(self.database.applied()).expect("indexes fit in memory");
        let log = self.database.log(self.chain.current.id);
        match first < self.numbers.accepted {
            true => log.0.read(first, self.numbers.accepted),
            false => Vec::new(),
        }
    }
}

/// The replicas that are left of a cluster.
pub struct Left {
    /// The replica that got furthest.
    best: Survivor,
    /// The others.
    others: Vec<Survivor>,
    /// The number of members of the latest configuration among them that get a vote.
    members: usize,
}

impl Left {
    /// Picks the replica that got furthest; returns `None` when none of them has any state.
    #[must_use]
    pub fn of(mut all: Vec<Survivor>) -> Option<Self> {
        let places = || (0..all.len()).rev().filter(|place| all[*place].has_state());
        let longest = places().max_by_key(|place| all[*place].reach())?;
        let furthest = places().max_by_key(|place| all[*place].database.applied())?;
        // An applied entry was decided, whatever a log says.
        let is_ahead = all[furthest].database.applied() > all[longest].end();
        let latest = &all[longest].chain.current;
        let is_member =
            |one: &&Survivor| latest.name_of(one.replica).is_some() && one.outdated_by.is_none();
        let members = all.iter().filter(is_member).count();
        // The latest configuration is the one that the longest log is in.
        let best = all.swap_remove(if is_ahead { furthest } else { longest });
        Some(Self { best, others: all, members })
    }

    /// Returns the replica that got furthest.
    #[must_use]
    pub fn best(&self) -> &Survivor {
        &self.best
    }

    /// Returns the number of members of the latest configuration that are left and get a vote.
    #[must_use]
    pub fn members(&self) -> usize {
        self.members
    }

    /// Returns the number of members of the latest configuration.
    #[must_use]
    pub fn total(&self) -> usize {
        self.best.chain.current.members.len()
    }

    /// Whether the cluster can serve with what is left: a majority of the latest configuration is
    /// there, and at least one of its members has reached that configuration. Where all are still
    /// in earlier ones, only replicas that left know how it began, and those are never started.
    #[must_use]
    pub fn can_serve(&self, marker: Option<&Marker>) -> bool {
        let latest = self.best.chain.current.id;
        let own = marker.filter(|marker| marker.cluster == self.best.database.identity().cluster);
        if own.is_some_and(|marker| marker.configuration > latest) {
            // Entries may have been decided that no replica here has.
            return false;
        }
        let is_in = |one: &&Survivor| one.chain.current.id == latest && one.votes();
        let all = std::iter::once(&self.best).chain(&self.others);
        match (all.clone().find(is_in), self.total()) {
            _ if self.members <= self.total() / 2 => false,
            (None, _) => false,
            (Some(only), 1) => marker.is_none_or(|marker| only.is_let(marker)),
            (Some(_), _) => true,
        }
    }

    /// Closes the disks. RocksDB removes files by their names when it does: those must still be its
    /// own files.
    pub fn close(self) {
        for one in std::iter::once(self.best).chain(self.others) {
            one.database.close();
        }
    }
}

/// Returns the latest configuration among the replicas that have state: that of the longest log.
#[must_use]
pub fn latest(all: &[Survivor]) -> Option<&Configuration> {
    let with_state = all.iter().rev().filter(|one| one.has_state());
    with_state.max_by_key(|one| one.reach()).map(|one| &one.chain.current)
}

/// Marks the replicas of which another replica, or the marker, remembers a later disk.
pub fn judge(all: &mut [Survivor], marker: Option<&Marker>) {
    let knows_better = |one: &Survivor, by: &Survivor| {
        by.database.seen(one.replica).is_some_and(|seen| !one.continues(seen))
    };
    let outdated_by = |one: &Survivor| {
        let by_one = all.iter().find(|by| knows_better(one, by)).map(|by| by.name.clone());
        let is_behind = |marker: &Marker| {
            marker.check_reach(one.claim(None), &one.database.history(marker)).is_err()
        };
        let by_marker = || marker.is_some_and(is_behind).then(|| MARKER.to_owned());
        by_one.or_else(by_marker)
    };
    let found: Vec<_> = all.iter().map(outdated_by).collect();
    for (one, by) in all.iter_mut().zip(found) {
        one.outdated_by = by;
    }
}
