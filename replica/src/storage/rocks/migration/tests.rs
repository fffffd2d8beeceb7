//! Tests that an older folder keeps its log, also when the move was broken off.

use kvorum_protocol::data::{ClientId, Condition, LaneId, Operation, RequestId};
use rocksdb::WriteBatch;

use super::*;
use crate::engine::store::{LogStore, SyncStore};
use crate::state::entry::Command;
use crate::state::machine::{self, LaneMemory, Source, Table};
use crate::storage::Database;
use crate::storage::log::LogDisk;
use crate::storage::rocks::log::tests::open;

const ID: ConfigurationId = ConfigurationId(1);

fn entry(number: u64) -> Entry {
    let id = RequestId { lane: LaneId { client: ClientId(7), number: 0 }, sequence: number };
    let key = format!("key-{number}").into();
    let operation = Operation::Put { key, value: "value".into(), condition: Condition::Always };
    Entry::Command(Command { id, valid_until: 1 << 20, operation })
}

/// Makes a folder as an older program left it: entries 3 to 9 in the database, 7 of all applied.
fn old_folder(folder: &Path) {
    let mut database = open(folder, 1);
    let entries: Vec<_> = (1..=9).map(entry).collect();
    machine::apply(&mut database, LaneMemory::default(), Source::Peer, 1, &entries[..7]);
    let inner = &database.inner;
    let (mut batch, log) = (WriteBatch::default(), inner.family(keys::LOG));
    for (position, entry) in entries.iter().enumerate().skip(2) {
        let key = entry_key(ID, position);
        batch.put_cf(log, key, record::encode_for(entry.version(), &key, entry));
    }
    let meta = inner.family(keys::META);
    let numbers = [
        ("promise", Number::Ballot(1, 5, 0, 1)),
        ("accepted-round", Number::Ballot(1, 4, 0, 1)),
        ("decided", Number::Index(8)),
        ("compacted", Number::Index(2)),
        ("accepted", Number::Index(9)),
    ];
    for (name, number) in numbers {
        put(&mut batch, meta, &number_key(ID, name), &number);
    }
    batch.delete_cf(meta, keys::JOURNAL);
    inner.write(batch);
    database.sync(database.durable());
    drop(database);
    fs::remove_dir_all(folder.join("journal")).expect("it is there");
}

fn assert_moved(database: &Database) {
    let log = database.log(ID).0;
    let expected = LogNumbers {
        promise: Some(Ballot::with(1, 5, 0, 1)),
        accepted_round: Some(Ballot::with(1, 4, 0, 1)),
        decided: 8,
        compacted: 2,
        accepted: 9,
    };
    assert_eq!(log.numbers(), expected);
    assert_eq!(log.read(2, 9), (3..=9).map(entry).collect::<Vec<_>>());
    assert_eq!(database.applied(), 8, "what was decided is applied");
    assert!(database.key(b"key-8").is_some() && database.key(b"key-9").is_none());
    let (inner, mut left) = (&database.inner, 0);
    inner.each(keys::LOG, &[], None, |_, _| {
        left += 1;
        true
    });
    assert_eq!(left, 0, "the database has no log any more");
}

#[test]
fn an_older_folder_keeps_its_log() {
    let folder = tempfile::tempdir().expect("a folder");
    old_folder(folder.path());
    assert_moved(&open(folder.path(), 2));
    assert_moved(&open(folder.path(), 3));
}

#[test]
fn a_move_that_was_broken_off_begins_anew() {
    for half in ["journal", "journal.new"] {
        let folder = tempfile::tempdir().expect("a folder");
        old_folder(folder.path());
        fs::create_dir(folder.path().join(half)).expect("it can be made");
        fs::write(folder.path().join(half).join("0000000001.log"), b"half").expect("it can");
        assert_moved(&open(folder.path(), 2));
    }
}

#[test]
fn an_older_program_refuses_the_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = open(folder.path(), 1);
    let inner = &database.inner;
    let found = inner.db.get_cf(inner.family(keys::META), keys::IDENTITY).expect("it can be read");
    assert!(found.expect("there is one")[0] > record::RECORD_VERSION);
}
