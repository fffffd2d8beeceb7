//! One test suite for both disks: RocksDB must behave as the in-memory model does, across
//! reopening.

mod copying;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use kvorum_protocol::access::AccessChange;
use kvorum_protocol::data::{ClientId, Condition, LaneId, Operation, Outcome, RequestId};
use kvorum_protocol::message::{Consistency, Scan};
use kvorum_protocol::status::{ClusterId, ConfigurationId, ReplicaId};
use kvorum_replica::engine::store::{
    CopyStore, IdentityStore, LogLimits, LogStore, PeerRecord, StateStore, Store, SyncStore,
};
use kvorum_replica::state::accounts::Accounts;
use kvorum_replica::state::entry::{Command, Entry};
use kvorum_replica::state::machine::{Changes, Lane, Record, Table};
use kvorum_replica::state::snapshot::{
    FetchRequest, FetchResponse, Install, InstallWrite, Snapshots,
};
use kvorum_replica::state::start::{Epoch, Secret};
use kvorum_replica::state::version::Version;
use kvorum_replica::storage::memory::Memory;
use kvorum_replica::storage::rocks::open::{NewIdentity, Owner};
use kvorum_replica::storage::{Database, OpenError};
use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::storage::{Storage, StorageOp};
use proptest::prelude::*;

const CONFIGURATION: ConfigurationId = ConfigurationId(1);

fn newborn() -> NewIdentity {
    owner().newborn.expect("the owner is a member")
}

fn owner() -> Owner {
    let genesis = ["kvorum-0", "kvorum-1"].map(str::to_owned).to_vec();
    let newest = Version::NEWEST;
    let newborn = Some(NewIdentity::given(ClusterId(1), "kvorum-0", &genesis));
    Owner { cluster: Some(ClusterId(1)), name: "kvorum-0".to_owned(), newest, newborn }
}

fn open(folder: &Path, nonce: u64) -> Database {
    let on_fatal = Arc::new(|what: &str| panic!("{what}"));
    Database::open(folder, &owner(), nonce, LogLimits::default(), on_fatal).unwrap()
}

fn memory() -> Memory {
    let (owner, newborn) = (owner(), newborn());
    Memory::new(owner.identity(&newborn, 1), newborn.members)
}

/// One call of the library, with numbers that are fitted to the log when the call is made.
#[derive(Clone, Debug)]
enum Call {
    Append(Vec<u8>),
    Sync { keep: usize, entries: Vec<u8>, round: u32 },
    Promise(u32),
    Decide(usize),
    Trim(usize),
    Reopen,
}

fn call() -> impl Strategy<Value = Call> {
    let entries = || proptest::collection::vec(any::<u8>(), 0..6);
    prop_oneof![
        4 => entries().prop_map(Call::Append),
        2 => (0..8usize, entries(), 1..9u32)
            .prop_map(|(keep, entries, round)| Call::Sync { keep, entries, round }),
        1 => (1..9u32).prop_map(Call::Promise),
        2 => (0..6usize).prop_map(Call::Decide),
        1 => (0..6usize).prop_map(Call::Trim),
        1 => Just(Call::Reopen),
    ]
}

fn entry(byte: u8) -> Entry {
    let lane = LaneId { client: ClientId(u128::from(byte)), number: 0 };
    let id = RequestId { lane, sequence: 1 };
    let key = vec![byte; usize::from(byte)].into();
    let operation = Operation::Delete { key, condition: Condition::Always };
    Entry::Command(Command { id, valid_until: 7, operation })
}

fn ballot(n: u32) -> Ballot {
    Ballot::with(1, n, 0, 2)
}

/// Makes a call; the indexes are kept as the library keeps them.
fn make<L: Storage<Entry>>(log: &mut L, call: &Call) {
    let compacted = log.get_compacted_idx().unwrap();
    let decided = log.get_decided_idx().unwrap();
    let accepted = compacted + log.get_log_len().unwrap();
    let entries = |bytes: &[u8]| bytes.iter().map(|byte| entry(*byte)).collect::<Vec<_>>();
    match call {
        Call::Append(bytes) => log.append_entries(entries(bytes)).unwrap(),
        Call::Sync { keep, entries: bytes, round } => {
            let from = (decided + keep).min(accepted);
            let ops = vec![
                StorageOp::SetAcceptedRound(ballot(*round)),
                StorageOp::SetDecidedIndex(decided),
                StorageOp::AppendOnPrefix(from, entries(bytes)),
            ];
            log.write_atomically(ops).unwrap();
        }
        Call::Promise(n) => log.set_promise(ballot(*n)).unwrap(),
        Call::Decide(more) => log.set_decided_idx((decided + more).min(accepted)).unwrap(),
        Call::Trim(more) => {
            let index = (compacted + more).min(decided);
            log.write_atomically(vec![StorageOp::Trim(index), StorageOp::SetCompactedIdx(index)])
                .unwrap();
        }
        Call::Reopen => {}
    }
}

/// Returns everything that the library can see of a log.
fn view<L: Storage<Entry>>(log: &L) -> String {
    let compacted = log.get_compacted_idx().unwrap();
    let len = log.get_log_len().unwrap();
    let all = compacted + len;
    let ranges: Vec<Vec<Entry>> = [(compacted, all), (compacted + len / 2, all), (all, all + 1)]
        .iter()
        .map(|(from, to)| log.get_entries(*from, *to).unwrap())
        .collect();
    format!(
        "{:?} {:?} {:?} {compacted} {len} {ranges:?} {:?}",
        log.get_promise().unwrap(),
        log.get_accepted_round().unwrap(),
        log.get_decided_idx().unwrap(),
        log.get_suffix(compacted + len / 3).unwrap(),
    )
}

proptest! {
    // A failing case is printed whole; it is not saved to a file.
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_log_on_disk_is_the_log_in_memory(calls in proptest::collection::vec(call(), 1..40)) {
        let folder = tempfile::tempdir().unwrap();
        let mut nonce = 1;
        let mut database = open(folder.path(), nonce);
        let mut model = memory();
        // A log is cut only where the state has what goes.
        let copied = || Changes { from_peer: true, applied: 10_000, ..Changes::default() };
        database.commit(copied());
        model.commit(copied());
        let (mut disk, mut expected) = (database.log(CONFIGURATION), model.log(CONFIGURATION));
        for call in &calls {
            make(&mut disk, call);
            make(&mut expected, call);
            if matches!(call, Call::Reopen) {
                database.sync(database.durable());
                drop((disk, database));
                nonce += 1;
                database = open(folder.path(), nonce);
                disk = database.log(CONFIGURATION);
            }
            prop_assert_eq!(view(&disk), view(&expected), "after {:?}", call);
        }
    }
}

fn everything() -> Scan {
    Scan::of("", Consistency::Local)
}

fn changes(applied: u64) -> Changes {
    let lane = LaneId { client: ClientId(9), number: 1 };
    let outcome = Outcome::Put { revision: applied };
    let record = |value: &str| Some(Record { revision: applied, value: value.to_owned().into() });
    Changes {
        from_peer: false,
        keys: BTreeMap::from([
            (Bytes::from("a"), record("1")),
            (Bytes::from("b"), if applied.is_multiple_of(2) { record("2") } else { None }),
            (Bytes::from(format!("c/{applied}")), record("3")),
        ]),
        lanes: BTreeMap::from([(lane, Lane { sequence: applied, outcome, last_use: applied })]),
        forgotten: 0,
        void: if applied.is_multiple_of(3) { vec![applied] } else { vec![] },
        accounts: applied.is_multiple_of(3).then(|| {
            let user = format!("u{applied}");
            let added = Accounts::default().after(applied, &AccessChange::AddUser { user });
            Arc::new(added.expect("it is the first"))
        }),
        version: None,
        chain: None,
        applied,
    }
}

/// Returns a store's answers, which must be the same for both disks, before and after reopening.
fn answers<S: Store>(store: &S) -> String {
    let lane = LaneId { client: ClientId(9), number: 1 };
    let scan = |prefix: &str, from: &str, limit| Scan {
        from: from.into(),
        limit,
        ..Scan::of(prefix, Consistency::Local)
    };
    let keys = ["a", "b", "c/3", "d"].map(|key| store.key(key.as_bytes()));
    let scans = [scan("", "", 0), scan("c/", "", 2), scan("", "b", 0), scan("z", "", 0)];
    let decided = store.decided(1, 6, usize::MAX);
    format!(
        "{} {:?} {keys:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        store.applied(),
        store.accounts(),
        store.lane(lane),
        scans.map(|scan| store.scan(&scan)),
        store.seen(ReplicaId(2)),
        store.seen(ReplicaId(3)),
        decided,
        store.decided(2, 6, 1),
    )
}

#[test]
fn the_state_on_disk_is_the_state_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let mut database = open(folder.path(), 1);
    let mut model = memory();
    let fill = |log: &mut dyn Storage<Entry>| {
        log.set_promise(ballot(1)).unwrap();
        log.append_entries((1..=6).map(entry).collect()).unwrap();
        log.set_decided_idx(6).unwrap();
    };
    fill(&mut database.log(CONFIGURATION));
    fill(&mut model.log(CONFIGURATION));
    for applied in 1..=6 {
        database.commit(changes(applied));
        model.commit(changes(applied));
    }
    let key = Secret::of_nonce(4).key();
    let seen = PeerRecord { incarnation: 3, key, epoch: Epoch(5) };
    database.remember(ReplicaId(2), seen);
    model.remember(ReplicaId(2), seen);
    assert_eq!(answers(&database), answers(&model));
    database.sync(database.durable());
    drop(database);
    assert_eq!(answers(&open(folder.path(), 2)), answers(&model));
}

#[test]
fn a_folder_remembers_its_replica_and_each_of_its_starts() {
    let folder = tempfile::tempdir().unwrap();
    for (incarnation, nonce) in [(1, 11), (2, 22), (3, 33)] {
        let database = open(folder.path(), nonce);
        assert_eq!(database.identity().incarnation, incarnation);
        assert_eq!(database.identity().nonce, nonce);
        assert_eq!(database.nonce_at(1), Some(11));
        assert_eq!(database.nonce_at(incarnation), Some(nonce));
        assert_eq!(database.chain().current, newborn().members);
    }
    let other = Owner { name: "kvorum-1".to_owned(), ..owner() };
    let on_fatal = Arc::new(|what: &str| panic!("{what}"));
    let refused =
        Database::open(folder.path(), &other, 4, LogLimits::default(), on_fatal).err().unwrap();
    assert!(matches!(refused, OpenError::Foreign { .. }), "{refused}");
}

/// A process that dies loses the writes that no sync covered, and none before them.
#[test]
fn a_process_that_dies_keeps_what_was_synced() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path(), 1);
    let mut log = database.log(CONFIGURATION);
    log.set_promise(ballot(1)).unwrap();
    log.append_entries((1..=3).map(entry).collect()).unwrap();
    database.sync(database.durable());
    log.append_entries((4..=6).map(entry).collect()).unwrap();
    // A copy of the folder is what a disk holds when the power goes.
    let copy = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(format!("{}/.", folder.path().display()))
        .arg(copy.path())
        .status();
    assert!(copied.unwrap().success());
    let recovered = open(copy.path(), 2).log(CONFIGURATION);
    let len = recovered.get_log_len().unwrap();
    assert_eq!(len, 3, "the write buffer was never in the file");
    assert_eq!(recovered.get_promise().unwrap(), Some(ballot(1)));
}

/// A process that stops syncs while another sync is under way.
#[test]
fn syncs_beside_each_other_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path(), 1);
    let mut log = database.log(CONFIGURATION);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..50).for_each(|_| database.sync(database.durable())));
        }
        for byte in 0..200 {
            log.append_entry(entry(byte)).unwrap();
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
    });
    database.sync(database.durable());
    drop((log, database));
    let log = open(folder.path(), 2).log(CONFIGURATION);
    assert_eq!(log.get_entries(0, 200).unwrap(), (0..200).map(entry).collect::<Vec<_>>());
}

/// A sync that only has to need the disk leaves nothing behind.
#[test]
fn a_touch_takes_no_space() {
    let folder = tempfile::tempdir().unwrap();
    let mut database = open(folder.path(), 1);
    let size = |folder: &Path| -> u64 {
        let files = std::fs::read_dir(folder.join("journal")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
    };
    database.log(CONFIGURATION).append_entry(entry(1)).unwrap();
    database.sync(database.durable());
    let before = size(folder.path());
    for _ in 0..20 {
        database.touch();
        database.sync(database.durable());
    }
    assert_eq!(size(folder.path()), before);
}

/// Entries that are long and change nothing fill the log, and not the state's memory.
#[test]
fn a_log_can_be_cut_soon_after_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut database = open(folder.path(), 1);
    let mut log = database.log(CONFIGURATION);
    log.append_entries((1..=6).map(entry).collect()).unwrap();
    log.set_decided_idx(6).unwrap();
    database.commit(changes(6));
    assert_eq!(database.persisted(), 0);
    database.persist_soon();
    let begun = std::time::Instant::now();
    for applied in 7.. {
        // It is looked up when more was applied.
        log.append_entry(entry(1)).unwrap();
        database.commit(changes(applied));
        if database.persisted() >= 6 {
            break;
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(20));
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// A state that is copied chunk by chunk, with restarts of the replica in between, equals the
/// source state; before it is complete, the old state is in effect.
#[test]
fn a_copied_state_is_the_state_that_was_copied() {
    let limits = LogLimits { chunk: 4000, ..LogLimits::default() };
    let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let on_fatal = || Arc::new(|what: &str| panic!("{what}"));
    let at =
        |folder: &Path, nonce| Database::open(folder, &owner(), nonce, limits, on_fatal()).unwrap();
    let mut source = at(there.path(), 1);
    for applied in 1..=500 {
        source.commit(changes(applied));
    }
    let mut snapshots = source.snapshots();
    let Some(FetchResponse::Snapshot { snapshot, header }) =
        snapshots.read(&FetchRequest::Snapshot, 1)
    else {
        panic!("a snapshot is open");
    };
    // Later writes are not in the snapshot.
    let mut later = source.clone();
    later.commit(changes(501));

    let mut target = at(here.path(), 1);
    target.commit(changes(1));
    let old = target.scan(&everything());
    target.write_install(InstallWrite::Begin(Install::of(snapshot, header.clone())));
    let mut chunks = 0;
    while let Some(after) = target.install().and_then(|install| install.after) {
        let wanted = FetchRequest::Chunk { snapshot, after };
        let Some(FetchResponse::Chunk(chunk)) = snapshots.read(&wanted, 0) else {
            panic!("it is open")
        };
        target.write_install(InstallWrite::Chunk(chunk));
        chunks += 1;
        assert_eq!(target.scan(&everything()).pairs, old.pairs, "the old state, until it is whole");
        if chunks % 3 == 0 {
            target.sync(target.durable());
            drop(target);
            target = at(here.path(), 2 + chunks);
        }
    }
    assert!(chunks > 5, "{chunks}");
    target.write_install(InstallWrite::Switch);
    let scratch = tempfile::tempdir().unwrap();
    let mut plain = at(scratch.path(), 1);
    (1..=500).for_each(|applied| plain.commit(changes(applied)));
    let lane = LaneId { client: ClientId(9), number: 1 };
    for nonce in [98, 99] {
        assert_eq!((target.applied(), target.copied_at(), target.install()), (500, 500, None));
        assert_eq!(target.scan(&everything()), plain.scan(&everything()));
        assert_eq!(target.lane(lane), plain.lane(lane));
        target.sync(target.durable());
        drop(target);
        target = at(here.path(), nonce);
    }
    // The replica goes on from there, and its state can be replaced by another copy.
    target.commit(changes(501));
    assert_eq!(target.scan(&everything()), later.scan(&everything()));
    target.write_install(InstallWrite::Begin(Install::of(snapshot, header)));
    target.write_install(InstallWrite::Drop);
    assert_eq!(target.scan(&everything()), later.scan(&everything()));
}

/// A compacted log begins at its compaction index, whatever is requested, and its entries stay.
#[test]
fn a_log_that_was_cut_holds_what_comes_after() {
    let limits = LogLimits { window: 4000, step: 2000, sync: 1000, chunk: 500, segment: 500 };
    let folder = tempfile::tempdir().unwrap();
    let open = |nonce| {
        let on_fatal = Arc::new(|what: &str| panic!("{what}"));
        Database::open(folder.path(), &owner(), nonce, limits, on_fatal).unwrap()
    };
    let mut database = open(1);
    database.commit(Changes { from_peer: true, applied: 200, ..Changes::default() });
    let mut log = database.log(CONFIGURATION);
    for _ in 0..200 {
        log.append_entries(vec![Entry::Noop]).unwrap();
    }
    log.set_decided_idx(200).unwrap();
    assert_eq!(
        log.get_suffix(100).unwrap(),
        [Entry::Placeholder { end: 200 }],
        "too long to travel"
    );
    assert_eq!(log.get_suffix(195).unwrap().len(), 5);
    let cut = usize::try_from(database.excess(None).unwrap()).unwrap();
    assert!((130..145).contains(&cut), "{cut}: entries of 64 bytes");
    log.trim(cut).unwrap();
    assert_eq!(database.excess(None), None);
    database.sync(database.durable());
    assert_eq!(log.get_entries(cut - 1, 200).unwrap(), []);
    let mut snapshots = database.snapshots();
    let from = cut as u64;
    let wanted = |from| FetchRequest::Entries { configuration: CONFIGURATION, from };
    assert_eq!(snapshots.read(&wanted(from), 0), Some(FetchResponse::Gone));
    let found = snapshots.read(&wanted(from + 1), 0);
    let Some(FetchResponse::Entries { entries, decided: 200, .. }) = found else {
        panic!("{found:?}")
    };
    assert_eq!(entries.len(), 8, "a chunk of them");
    drop(snapshots);
    drop((log, database));
    let database = open(2);
    let log = database.log(CONFIGURATION);
    assert_eq!(log.get_compacted_idx().unwrap(), cut);
    assert_eq!(log.get_entries(cut, 200).unwrap().len(), 200 - cut);
    assert_eq!(log.get_log_len().unwrap(), 200 - cut);
}
