//! Tests of bit flips on a disk: every change is detected before it is served or voted on.
//!
//! Each round flips one random bit in one random file of a closed folder, opens it and reads
//! everything. Either the replica is stopped with the reason, or all data is unchanged.
//! `KVORUM_FLIPS` sets the number of rounds; a failing one prints its seed, file and bit.

use std::collections::BTreeMap;
use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use kvorum_protocol::data::{ClientId, Condition, Key, LaneId, Operation, RequestId, Value};
use kvorum_protocol::message::{Consistency, Page, Scan};
use kvorum_protocol::status::{ClusterId, ConfigurationId, ReplicaId};
use kvorum_replica::engine::store::{
    IdentityStore, LogLimits, LogStore, PeerRecord, StateStore, SyncStore,
};
use kvorum_replica::state::entry::{Command, Entry};
use kvorum_replica::state::machine::{self, LaneMemory, Source, Table};
use kvorum_replica::state::start::{Epoch, Secret};
use kvorum_replica::state::version::Version;
use kvorum_replica::storage::rocks::open::{NewIdentity, Owner};
use kvorum_replica::storage::{Database, OpenError};
use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::storage::{Storage, StorageOp};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const CONFIGURATION: ConfigurationId = ConfigurationId(1);
/// Entries written before the last start, so that they are in table files.
const IN_TABLES: u64 = 400;
/// Entries that are in the journal only.
const IN_LOG: u64 = 200;
/// Number of flips in CI.
const FLIPS: u64 = 1000;

/// All data that a replica reads from its disk.
#[derive(PartialEq, Debug)]
struct State {
    applied: u64,
    page: Page,
    entries: Vec<Entry>,
    void: Vec<u64>,
    promise: Option<Ballot>,
    round: Option<Ballot>,
    decided: usize,
    lanes: Vec<Option<machine::Lane>>,
    seen: Option<PeerRecord>,
    nonces: BTreeMap<u64, Option<u64>>,
    incarnation: u64,
}

fn owner() -> Owner {
    let genesis = ["kvorum-0", "kvorum-1"].map(str::to_owned).to_vec();
    let newest = Version::NEWEST;
    let newborn = Some(NewIdentity::given(ClusterId(1), "kvorum-0", &genesis));
    Owner { cluster: Some(ClusterId(1)), name: "kvorum-0".to_owned(), newest, newborn }
}

fn open(folder: &Path) -> Result<Database, OpenError> {
    let on_fatal = Arc::new(|what: &str| panic!("{what}"));
    Database::open(folder, &owner(), 7, LogLimits::default(), on_fatal)
}

fn entry(number: u64) -> Entry {
    let lane = LaneId { client: ClientId(u128::from(number % 50)), number: 0 };
    let id = RequestId { lane, sequence: number };
    let key = Key::from(format!("key-{:04}", number % 300));
    // Some are void: their condition does not hold.
    let condition = if number.is_multiple_of(7) { Condition::Absent } else { Condition::Always };
    let value = Value(Bytes::from(vec![u8::try_from(number % 251).unwrap(); 200]));
    let operation = Operation::Put { key, value, condition };
    Entry::Command(Command { id, valid_until: 1 << 20, operation })
}

/// Appends, decides and applies entries, and syncs.
fn fill(database: &mut Database, numbers: std::ops::Range<u64>) {
    let mut log = database.log(CONFIGURATION);
    let ballot = Ballot::with(1, 3, 0, 2);
    log.set_promise(ballot).unwrap();
    log.write_atomically(vec![StorageOp::SetAcceptedRound(ballot)]).unwrap();
    for first in numbers.clone().step_by(10) {
        let entries: Vec<Entry> = (first..first + 10).map(entry).collect();
        log.append_entries(entries.clone()).unwrap();
        log.set_decided_idx(usize::try_from(first + 10).unwrap()).unwrap();
        machine::apply(database, LaneMemory::default(), Source::Log, first + 1, &entries);
        database.sync(database.durable());
    }
    // The last writes do not belong to the log.
    database.remember(
        ReplicaId(2),
        PeerRecord { incarnation: numbers.end, key: Secret::of_nonce(5).key(), epoch: Epoch(1) },
    );
    database.sync(database.durable());
}

fn read(database: &Database) -> State {
    let log = database.log(CONFIGURATION);
    let decided = log.get_decided_idx().unwrap();
    let length = log.get_log_len().unwrap() as u64;
    let all = database.decided(1, length, usize::MAX);
    let lane = |client| database.lane(LaneId { client: ClientId(client), number: 0 });
    State {
        applied: database.applied(),
        page: database.scan(&Scan::of("", Consistency::Local)),
        entries: log.get_entries(0, decided).unwrap(),
        void: all.void,
        promise: log.get_promise().unwrap(),
        round: log.get_accepted_round().unwrap(),
        decided,
        lanes: (0..50).map(lane).collect(),
        seen: database.seen(ReplicaId(2)),
        nonces: (1..4).map(|start| (start, database.nonce_at(start))).collect(),
        incarnation: database.identity().incarnation,
    }
}

impl State {
    /// Returns the names of the parts that differ.
    fn differs_from(&self, other: &Self) -> Vec<&'static str> {
        let same = [
            ("applied", self.applied == other.applied),
            ("keys", self.page == other.page),
            ("entries", self.entries == other.entries),
            ("void", self.void == other.void),
            ("promise", self.promise == other.promise && self.round == other.round),
            ("decided", self.decided == other.decided),
            ("lanes", self.lanes == other.lanes),
            ("seen", self.seen == other.seen),
            ("nonces", self.nonces == other.nonces),
            ("incarnation", self.incarnation == other.incarnation),
        ];
        same.into_iter().filter(|(_, is_same)| !is_same).map(|(name, _)| name).collect()
    }
}

/// Creates a folder with table files, a journal, a write-ahead log and a side file, as a process
/// leaves it that is killed, and returns it with the state that is read from it.
fn make() -> (tempfile::TempDir, State) {
    let [folder, killed, intact] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let mut database = open(folder.path()).unwrap();
    fill(&mut database, 0..IN_TABLES);
    drop(database);
    let mut database = open(folder.path()).unwrap();
    fill(&mut database, IN_TABLES..IN_TABLES + IN_LOG);
    copy(folder.path(), killed.path());
    copy(killed.path(), intact.path());
    let expected = read(&open(intact.path()).unwrap());
    assert_eq!(expected.applied, IN_TABLES + IN_LOG, "what was in memory is made anew");
    (killed, expected)
}

/// Returns the files that matter, by their path in the folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = vec![PathBuf::from("durable")];
    for entry in fs::read_dir(folder.join("db")).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        // RocksDB's own log file and its list of settings are not read back.
        let matters = !name.starts_with("LOG") && !name.starts_with("OPTIONS") && name != "LOCK";
        if matters && entry.metadata().unwrap().len() > 0 {
            files.push(Path::new("db").join(name));
        }
    }
    for entry in fs::read_dir(folder.join("journal")).unwrap().map(Result::unwrap) {
        files.push(Path::new("journal").join(entry.file_name()));
    }
    files.sort();
    files
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from.join("durable"), to.join("durable")).unwrap();
    for part in ["db", "journal"] {
        fs::create_dir_all(to.join(part)).unwrap();
        for entry in fs::read_dir(from.join(part)).unwrap().map(Result::unwrap) {
            fs::copy(entry.path(), to.join(part).join(entry.file_name())).unwrap();
        }
    }
}

/// The result of one flipped bit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Came {
    RefusedAtStart,
    StoppedAtRead,
    Harmless,
}

fn flip(original: &Path, expected: &State, seed: u64) -> (String, Came) {
    let mut random = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    copy(original, folder.path());
    let files = files(folder.path());
    let file = &files[random.random_range(0..files.len())];
    let mut bytes = fs::read(folder.path().join(file)).unwrap();
    let bit = random.random_range(0..bytes.len() * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
    fs::write(folder.path().join(file), bytes).unwrap();
    let name = file.display().to_string();
    let what = format!("seed {seed}: {name}, bit {bit}");
    let opened = std::panic::catch_unwind(AssertUnwindSafe(|| open(folder.path())));
    let database = match opened {
        Ok(Ok(database)) => database,
        Ok(Err(refusal)) => {
            assert_helps(&what, &refusal.to_string());
            return (name, Came::RefusedAtStart);
        }
        Err(panic) => {
            assert_helps(&what, panic.downcast_ref::<String>().unwrap());
            return (name, Came::RefusedAtStart);
        }
    };
    match std::panic::catch_unwind(AssertUnwindSafe(|| read(&database))) {
        Ok(state) => {
            let differs = state.differs_from(expected);
            assert!(differs.is_empty(), "{what}: what changed is served: {differs:?}");
            (name, Came::Harmless)
        }
        Err(panic) => {
            assert_helps(&what, panic.downcast_ref::<String>().unwrap());
            (name, Came::StoppedAtRead)
        }
    }
}

/// Asserts that the error says what is damaged, and how to recover.
fn assert_helps(what: &str, said: &str) {
    let helps = said.contains("is damaged: ") && said.contains("move the folder away");
    assert!(helps, "{what}: it says what to do: {said}");
}

#[test]
fn a_flipped_bit_is_never_served() {
    let flips = std::env::var("KVORUM_FLIPS").ok().and_then(|text| text.parse().ok());
    let (original, expected) = make();
    assert_eq!(expected.entries.len() as u64, IN_TABLES + IN_LOG);
    assert!(!expected.void.is_empty() && expected.seen.is_some());
    let mut counts: BTreeMap<(String, Came), u32> = BTreeMap::new();
    for seed in 0..flips.unwrap_or(FLIPS) {
        let (name, came) = flip(original.path(), &expected, seed);
        let kind = Path::new(&name)
            .extension()
            .map_or(name.clone(), |extension| format!("*.{}", extension.to_string_lossy()));
        let kind = if name.starts_with("journal") { "journal".to_owned() } else { kind };
        let kind = if kind.contains("MANIFEST") { "MANIFEST".to_owned() } else { kind };
        *counts.entry((kind, came)).or_default() += 1;
    }
    println!("{counts:#?}");
    let noticed = counts.keys().filter(|(_, came)| *came != Came::Harmless).count();
    assert!(noticed >= 4, "most kinds of files are covered: {counts:?}");
}

/// A crash may leave arbitrary bytes after the last synced write.
#[test]
fn a_torn_tail_loses_nothing() {
    let (original, expected) = make();
    for seed in 0..200 {
        let mut random = StdRng::seed_from_u64(seed);
        let folder = tempfile::tempdir().unwrap();
        copy(original.path(), folder.path());
        let part = if seed % 2 == 0 { "db" } else { "journal" };
        let logs = files(folder.path()).into_iter().filter(|file| file.starts_with(part));
        let newest = logs.filter(|file| file.extension().is_some_and(|e| e == "log")).max();
        let path = folder.path().join(newest.unwrap());
        let mut bytes = fs::read(&path).unwrap();
        let length = random.random_range(1..70_000);
        match random.random_range(0..3) {
            0 => bytes.resize(bytes.len() + length, 0),
            1 => bytes.extend((0..length).map(|_| random.random::<u8>())),
            // Record headers of every type, without valid data after them.
            _ => bytes.extend((0..length).map(|at| match at % 7 {
                6 => random.random_range(0..=132),
                5 => 0,
                _ => random.random(),
            })),
        }
        fs::write(&path, bytes).unwrap();
        let database = open(folder.path()).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert_eq!(read(&database), expected, "seed {seed}");
    }
}
