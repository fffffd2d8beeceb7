//! A folder that begins with a given state, for a new cluster made from another cluster's state.
//!
//! Guarantees that a replica which starts with it has that state, an empty log after it, and no
//! promise. Keys keep their revisions, but the log continues [far above](LEAP) the state's index,
//! so that no index is assigned twice; everything before is compacted. Data that belongs only to
//! the old cluster is left out: its members, their changes, and its memory of its clients. All
//! members of the new cluster begin with the same state: a member that began empty would decide
//! differently what the others already hold.

use std::path::Path;

use kvorum_protocol::limits::SESSION_ENTRIES;
use rocksdb::WriteBatch;

use super::keys;
use super::lanes::Lanes;
use super::open::Owner;
use super::open_error::OpenError;
use super::{OnFatal, put};
use crate::engine::store::{CopyStore, IdentityStore, LogLimits, LogStore, StateStore, SyncStore};
use crate::storage::Database;
use crate::storage::log::{LogDisk, LogWrite};
use kvorum_protocol::status::ClusterId;

use crate::state::entry::Entry;
use crate::state::machine::{self, LaneMemory, Source, Table};
use crate::state::snapshot::{Chunk, Header, Install, InstallWrite, Item, SnapshotId};
use crate::state::version::Version;

/// The distance above a state's last index after which the cluster made from it continues. The old
/// cluster may have decided more after that state was taken, and clients know those indexes as
/// revisions: a conditional write with one of them must fail in the new cluster, and a client that
/// watched the old cluster must not take the new cluster's changes for its next ones. Deciding that
/// many entries would take more than a day at ten thousand writes a second. A larger number of
/// decided entries would be harmless only where clients know which cluster they belong to.
pub const LEAP: u64 = 1_000_000_000;

/// The most by which it continues even further, depending on the new cluster's id: of two clusters
/// made from one state, the second must not assign the first one's indexes again.
pub const SPREAD: u64 = 1 << 43;

/// The upper bound of indexes: JSON has no whole numbers beyond it. A state whose cluster might
/// pass it is rejected; it would have been restored a thousand times.
pub const INDEX_MAX: u64 = 1 << 53;

// A write that was promised to be void after some index of the old cluster is void in the new one.
const _: () = assert!(SESSION_ENTRIES < LEAP && LEAP + SPREAD < INDEX_MAX);

/// Whether a cluster made from a state as of an index can continue.
#[must_use]
pub fn can_leap(index: u64) -> bool {
    index < INDEX_MAX - LEAP - SPREAD
}

/// Returns the index after which a cluster made from a state as of `index` continues; `None` when
/// indexes do not reach that far.
#[must_use]
pub fn leap(index: u64, cluster: ClusterId) -> Option<u64> {
    let spread = u64::try_from(cluster.0 % u128::from(SPREAD)).expect("it is below 64 bits");
    can_leap(index).then(|| index + LEAP + spread)
}

/// A folder that is being created.
pub struct Seed {
    database: Database,
}

impl Seed {
    /// Begins a replica's folder with a state as of an index.
    pub fn begin(
        folder: &Path,
        owner: &Owner,
        nonce: u64,
        index: u64,
        on_fatal: OnFatal,
    ) -> Result<Self, OpenError> {
        let mut database = Database::open(folder, owner, nonce, LogLimits::default(), on_fatal)?;
        let chain = database.chain();
        let header = Header { applied: index, items: 0, version: Version::OLDEST, chain };
        let install = Install::of(SnapshotId { nonce, number: 0 }, header);
        database.write_install(InstallWrite::Begin(install));
        Ok(Self { database })
    }

    /// Adds items to the state.
    pub fn add(&mut self, items: Vec<Item>) {
        self.database.write_install(InstallWrite::Chunk(Chunk { items, next: None }));
    }

    /// Completes the folder: applies the writes among the entries after the state, and makes
    /// everything durable. Returns the index after which the replica continues; `None`, without a
    /// sync, when there is no such index.
    #[must_use]
    pub fn end(mut self, tail: &[Entry]) -> Option<u64> {
        let database = &mut self.database;
        database.write_install(InstallWrite::Switch);
        let (first, writes) = (database.applied() + 1, writes_of(tail));
        if !writes.is_empty() {
            let lanes = LaneMemory::default();
            machine::apply(database, lanes, Source::Peer, first, &writes);
        }
        let after = leap(database.applied(), database.identity().cluster)?;
        database.leap(after);
        let position = usize::try_from(after).expect("indexes fit the address space");
        let mut log = self.database.log(self.database.chain().current.id);
        log.0.write(vec![LogWrite::Compact(position), LogWrite::Decided(position)]);
        self.database.sync(self.database.durable());
        self.database.close();
        Some(after)
    }
}

/// Returns what a new cluster takes from the entries that another one had accepted: the writes,
/// each at its index. Joins, versions and checksums do not concern it. A stop sign is the last
/// entry of its configuration that can take effect.
fn writes_of(tail: &[Entry]) -> Vec<Entry> {
    let before_seal = tail.iter().take_while(|entry| !matches!(entry, Entry::StopSign(_)));
    let write = |entry: &Entry| match entry {
        Entry::Command(_) | Entry::UserCommand { .. } => entry.clone(),
        _ => Entry::Noop,
    };
    before_seal.map(write).collect()
}

impl Database {
    /// Continues after a later index. All session records are removed: an earlier write that is
    /// repeated is void there, because it is valid only up to an index below.
    fn leap(&mut self, after: u64) {
        let (mut batch, meta) = (WriteBatch::default(), self.inner.family(keys::META));
        let lanes = self.inner.family(self.inner.generation().sessions());
        batch.delete_range_cf(lanes, keys::LANES.to_vec(), keys::end());
        put(&mut batch, meta, keys::APPLIED, &after);
        put(&mut batch, meta, keys::SINCE, &after);
        self.inner.write(batch);
        self.lanes = Lanes::default();
        let (version, chain) = (self.version(), self.chain());
        self.set_copied(&Header { applied: after, items: 0, version, chain });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kvorum_protocol::data::{ClientId, Condition, LaneId, Operation, Outcome, RequestId};
    use kvorum_protocol::status::{Configuration, ConfigurationId, Member, ReplicaId};

    use super::*;
    use crate::engine::store::{LogStore, StateStore};
    use crate::state::entry::Command;
    use crate::state::machine::{Lane, Record};
    use crate::storage::rocks::open::NewIdentity;

    const INDEX: u64 = 16;

    fn owner() -> Owner {
        let (cluster, name) = (ClusterId(7), "kvorum-0".to_owned());
        let newborn = Some(NewIdentity::given(cluster, &name, std::slice::from_ref(&name)));
        Owner { cluster: Some(cluster), name, newest: Version::NEWEST, newborn }
    }

    fn lane(number: u32) -> LaneId {
        LaneId { client: ClientId(1), number }
    }

    fn put_of(number: u32, key: &'static str, valid_until: u64) -> Entry {
        let condition = Condition::Always;
        let operation = Operation::Put { key: key.into(), value: key.into(), condition };
        let id = RequestId { lane: lane(number), sequence: 1 };
        Entry::Command(Command { id, valid_until, operation })
    }

    /// Creates a folder with one key and one lane as of an index, and a tail; opens it again.
    fn seeded(folder: &Path, tail: &[Entry]) -> Database {
        let on_fatal: OnFatal = Arc::new(|what: &str| panic!("{what}"));
        let begun = Seed::begin(folder, &owner(), 1, INDEX, Arc::clone(&on_fatal));
        let mut seed = begun.expect("a folder can be made");
        let record = Record { revision: 9, value: "old".into() };
        let used = Lane { sequence: 1, outcome: Outcome::Put { revision: 9 }, last_use: 9 };
        seed.add(vec![Item::Lane(lane(1), used), Item::Key("k".into(), record)]);
        seed.end(tail).expect("indexes go so far");
        let opened = Database::open(folder, &owner(), 2, LogLimits::default(), on_fatal);
        opened.expect("what was made can be opened")
    }

    #[test]
    fn no_index_is_given_twice() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut database = seeded(folder.path(), &[]);
        let numbers = database.log(ConfigurationId(1)).0.numbers();
        let after = leap(INDEX, ClusterId(7)).expect("indexes go so far");
        assert_eq!(after, INDEX + LEAP + 7);
        assert_eq!((database.applied(), database.copied_at()), (after, after));
        let position = usize::try_from(after).expect("it fits");
        assert_eq!(
            (numbers.compacted, numbers.decided, numbers.accepted),
            (position, position, position)
        );
        assert_eq!(database.key(b"k").map(|record| record.revision), Some(9), "of before");
        assert_eq!(database.lane(lane(1)), None, "it would stay for ever");
        // Earlier writes, which the old cluster applied or not: they have expired.
        let again = [put_of(1, "k", 9 + SESSION_ENTRIES), put_of(2, "k", INDEX + SESSION_ENTRIES)];
        let memory = LaneMemory::default();
        let applied = machine::apply(&mut database, memory, Source::Log, after + 1, &again);
        let outcomes: Vec<_> = applied.iter().filter_map(|one| one.outcome).collect();
        assert!(outcomes.iter().all(|(_, outcome)| *outcome == Outcome::Expired), "{outcomes:?}");
        assert_eq!(database.key(b"k").map(|record| record.revision), Some(9), "untouched");
    }

    #[test]
    fn a_tail_brings_writes_and_no_members() {
        let member = |id| Member { replica: ReplicaId(id), name: format!("kvorum-{id}") };
        let next = Configuration { id: ConfigurationId(2), members: vec![member(5), member(6)] };
        let tail = [
            put_of(1, "again", u64::MAX),
            Entry::Join { name: "kvorum-5".to_owned(), nonce: 5 },
            Entry::Version(Version(200)),
            Entry::Checksum,
            put_of(2, "written", u64::MAX),
            Entry::StopSign(next),
            put_of(3, "after the seal", u64::MAX),
        ];
        let folder = tempfile::tempdir().expect("a folder");
        let database = seeded(folder.path(), &tail);
        let chain = database.chain();
        assert_eq!((chain.current.id, chain.current.members.len()), (ConfigurationId(1), 1));
        assert_eq!((chain.joiners.len(), chain.next_replica), (0, ReplicaId(2)));
        assert_eq!(database.version(), Version::OLDEST);
        assert!(database.key(b"again").is_none(), "its lane was known: it had been done");
        assert_eq!(database.key(b"written").map(|record| record.revision), Some(INDEX + 5));
        assert!(database.key(b"after the seal").is_none());
        assert_eq!(Some(database.applied()), leap(INDEX + 5, ClusterId(7)));
    }

    #[test]
    fn indexes_have_an_end() {
        let cluster = ClusterId(u128::MAX);
        assert_eq!(leap(16, cluster), Some(16 + LEAP + SPREAD - 1));
        let ends = [INDEX_MAX - LEAP - SPREAD, u64::MAX];
        assert_eq!(ends.map(|index| leap(index, cluster)), [None, None]);
    }

    #[test]
    fn two_clusters_of_one_state_give_other_indexes() {
        let after = |id| leap(16, ClusterId(id)).expect("indexes go so far");
        let [one, other] = [after(rand::random()), after(rand::random())];
        assert!(one.abs_diff(other) > 1_000_000, "{one}, {other}");
    }
}
