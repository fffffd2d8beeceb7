//! Tests of state copies, configuration changes and log writes in any order: RocksDB and the
//! in-memory model must agree at each step on all that the engine can see, or the simulation proves
//! nothing about real disks.

use kvorum_protocol::status::{Configuration, Member};
use kvorum_replica::engine::store::SyncStore;
use kvorum_replica::state::chain::Chain;
use kvorum_replica::state::snapshot::{Chunk, Cursor, Header, Item, Quarantine, SnapshotId};

use super::*;

/// One write, with numbers that are fitted to the disk when the write is made.
#[derive(Clone, Debug)]
enum Step {
    Log(Call),
    Commit {
        from_peer: bool,
        changes_members: bool,
    },
    /// A copy of a configuration. `later` counts from the one before this disk's configuration, and
    /// `further` from a few indexes before its applied index.
    Begin {
        later: u32,
        further: u64,
    },
    Chunk {
        keys: u8,
        is_last: bool,
    },
    Switch,
    Drop,
    Quarantine,
    DropOldLogs,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let commit = (any::<bool>(), prop::bool::weighted(0.3))
        .prop_map(|(from_peer, changes)| Step::Commit { from_peer, changes_members: changes });
    prop_oneof![
        4 => call().prop_map(Step::Log),
        4 => commit,
        3 => (0..4u32, 0..8u64).prop_map(|(later, further)| Step::Begin { later, further }),
        4 => (0..4u8, any::<bool>()).prop_map(|(keys, is_last)| Step::Chunk { keys, is_last }),
        4 => Just(Step::Switch),
        1 => Just(Step::Drop),
        1 => Just(Step::Quarantine),
        1 => Just(Step::DropOldLogs),
        1 => Just(Step::Reopen),
    ]
}

fn members(id: u32) -> Configuration {
    let member = |id: u64| Member { replica: ReplicaId(id), name: format!("kvorum-{}", id - 1) };
    let members = [1, 2, u64::from(id) + 2].map(member).to_vec();
    Configuration { id: ConfigurationId(id), members }
}

/// Returns a joiner that was given a configuration which others reached long before.
fn joiner() -> Owner {
    let (cluster, replica) = (ClusterId(1), ReplicaId(40));
    let newborn = Some(NewIdentity { cluster, replica, members: members(5) });
    Owner { newborn, ..owner() }
}

fn open_as(owner: &Owner, folder: &Path, nonce: u64) -> Database {
    let on_fatal = Arc::new(|what: &str| panic!("{what}"));
    Database::open(folder, owner, nonce, LogLimits::default(), on_fatal).unwrap()
}

fn model_of(owner: &Owner) -> Memory {
    let newborn = owner.newborn.clone().expect("it is new");
    let identity = owner.identity(&newborn, 1);
    Memory::crashable(identity, newborn.members, LogLimits::default())
}

fn item(key: u8, revision: u64) -> Item {
    Item::Key(Bytes::from(vec![b'k', key]), Record { revision, value: Bytes::from("copied") })
}

/// Performs a step, if it is possible: the engine performs no other.
fn take<S: Store>(store: &mut S, step: &Step) {
    let (applied, chain) = (store.applied(), store.chain());
    let install = store.install();
    match step {
        // A log is cut only where the state has what goes.
        Step::Log(Call::Trim(more))
            if (store.log(chain.current.id).get_compacted_idx().unwrap() + more) as u64
                > applied => {}
        Step::Log(call) => make(&mut store.log(chain.current.id), call),
        Step::Commit { from_peer, changes_members } => {
            let next = members(chain.current.id.0 + 1);
            let chain = changes_members.then(|| chain.next(&next, applied + 1)).flatten();
            store.commit(Changes { from_peer: *from_peer, chain, ..changes(applied + 1) });
        }
        Step::Begin { later, further } => {
            let id = (chain.current.id.0 + later).saturating_sub(1).max(1);
            let copied = (applied + further).saturating_sub(3).max(1);
            let began = copied.saturating_sub(2);
            let chain = Chain { current: members(id), began, ..chain };
            let header = Header { applied: copied, items: 0, version: Version::NEWEST, chain };
            let install = Install::of(SnapshotId { nonce: 3, number: 4 }, header);
            store.write_install(InstallWrite::Begin(install));
        }
        Step::Chunk { keys, is_last } => {
            let Some(install) = install.filter(|install| install.after.is_some()) else { return };
            let revision = install.header.applied;
            let items: Vec<_> = (0..*keys).map(|key| item(key, revision)).collect();
            let next = (!is_last).then(|| items.last().map_or(Cursor::Start, Item::cursor));
            store.write_install(InstallWrite::Chunk(Chunk { items, next }));
        }
        // A copy that is behind the state is of no use.
        Step::Switch
            if install.as_ref().is_some_and(|install| {
                install.after.is_none() && install.header.applied >= applied
            }) =>
        {
            store.write_install(InstallWrite::Switch);
        }
        Step::Drop if install.is_some() => store.write_install(InstallWrite::Drop),
        Step::Quarantine => {
            let quarantine = Quarantine { index: applied, sound: vec![ReplicaId(2)] };
            store.write_install(InstallWrite::Quarantine(quarantine));
        }
        Step::DropOldLogs => store.drop_old_logs(),
        Step::Switch | Step::Drop | Step::Reopen => {}
    }
}

/// Returns all that the engine, a lagging peer and a reader can see of a disk.
fn shown<S: Store>(store: &S) -> String {
    let (chain, mut snapshots) = (store.chain(), store.snapshots());
    let current = chain.current.id;
    let opened = snapshots.read(&FetchRequest::Snapshot, 7);
    let Some(FetchResponse::Snapshot { snapshot, header }) = opened else { panic!("{opened:?}") };
    let chunk = snapshots.read(&FetchRequest::Chunk { snapshot, after: Cursor::Start }, 0);
    let ids = [current.0 - 1, current.0, current.0 + 1];
    let wanted = |id, from| FetchRequest::Entries { configuration: ConfigurationId(id), from };
    let entries: Vec<_> = ids
        .into_iter()
        .flat_map(|id| (1..12).map(move |from| (id, from)))
        .map(|(id, from)| snapshots.read(&wanted(id, from), 0))
        .collect();
    let numbers = (store.applied(), store.copied_at(), store.version());
    format!(
        "{chain:?}\n{numbers:?} {:?} {:?}\n{:?} {:?}\n{chunk:?}\n{entries:?}\n{:?}\n{}",
        store.install(),
        store.quarantine(),
        (header.applied, header.version),
        header.chain == chain,
        store.decided(chain.began + 1, chain.began + 6, usize::MAX),
        view(&store.log(current)),
    )
}

/// Performs the same steps on both disks, and compares them.
fn compare(owner: &Owner, steps: &[Step]) -> Result<(), TestCaseError> {
    let folder = tempfile::tempdir().unwrap();
    let mut nonce = 1;
    let mut disk = open_as(owner, folder.path(), nonce);
    let mut model = model_of(owner);
    for (number, step) in steps.iter().enumerate() {
        take(&mut disk, step);
        take(&mut model, step);
        if matches!(step, Step::Reopen) {
            disk.sync(disk.durable());
            drop(disk);
            nonce += 1;
            disk = open_as(owner, folder.path(), nonce);
            // A database that is closed writes its state.
            model.persist();
            model = model.restart(model.unsynced(), nonce);
        }
        let (disk, model) = (shown(&disk), shown(&model));
        prop_assert_eq!(disk, model, "after {:?}", &steps[..=number]);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_copy_on_disk_is_the_copy_in_memory(
        steps in prop::collection::vec(step(), 1..40),
        joins in any::<bool>(),
    ) {
        compare(&if joins { joiner() } else { owner() }, &steps)?;
    }
}

/// A joiner was given a configuration, and copies a state of the one before.
#[test]
fn what_a_joiner_was_told_stays_when_it_copies_what_is_older() {
    let copy = [
        Step::Begin { later: 0, further: 20 },
        Step::Chunk { keys: 2, is_last: true },
        Step::Switch,
    ];
    compare(&joiner(), &copy).unwrap();
}

/// A cut at an index that the log was cut at already changes nothing. The state goes back here,
/// which the engine never asks for, so that what a cut removes shows.
#[test]
fn a_cut_that_is_not_new_changes_nothing() {
    let commit = |changes_members| Step::Commit { from_peer: false, changes_members };
    let steps = [
        commit(false),
        commit(false),
        commit(true),
        Step::Begin { later: 2, further: 0 },
        Step::Chunk { keys: 0, is_last: true },
        Step::Log(Call::Trim(0)),
        Step::Switch,
        Step::Log(Call::Append(vec![0, 0, 0])),
    ];
    compare(&owner(), &steps).unwrap();
}
