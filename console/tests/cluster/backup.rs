//! Tests of a backup taken during writes, and of the cluster restored from it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kvorum::local::folder::StatefulSet;
use kvorum_harness::cluster::{Cluster, kvorum, said, scan_all, status_when};
use kvorum_protocol::client::Route;
use kvorum_protocol::data::{ClientId, Condition, LaneId, Operation, Outcome, RequestId};
use kvorum_protocol::message::{Consistency, Scan};
use kvorum_protocol::status::{ClusterId, Configuration, ConfigurationId, Member, ReplicaId};
use kvorum_protocol::{Client, Key, Value};
use kvorum_replica::engine::store::{LogLimits, SyncStore};
use kvorum_replica::state::entry::{Command, Entry};
use kvorum_replica::state::machine::{LaneMemory, Source, apply, run_length};
use kvorum_replica::storage::rocks::open::{NewIdentity, Owner};
use kvorum_replica::storage::rocks::seed::LEAP;
use kvorum_replica::storage::{Database, OnFatal};
use tokio::task::JoinSet;

const WRITERS: u64 = 8;
const KEYS: u64 = 500;
const DEADLINE: Duration = Duration::from_secs(30);

/// The writes to each key: its value by revision, none for a delete.
type Written = BTreeMap<Key, BTreeMap<u64, Option<Value>>>;

/// Puts and deletes until told to stop; each writer has its own keys.
async fn load(client: Arc<Client>, stop: Arc<AtomicBool>) -> Written {
    let mut tasks = JoinSet::new();
    for writer in 0..WRITERS {
        let (client, stop) = (Arc::clone(&client), Arc::clone(&stop));
        tasks.spawn(async move {
            let mut written = Vec::new();
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let key = Key::from(format!("{writer}/{:03}", number % KEYS));
                if number % 7 == 6 {
                    let outcome = client.delete(key.clone(), &Route::Any).await.unwrap();
                    let Outcome::Deleted { revision, .. } = outcome else { panic!("{outcome:?}") };
                    written.push((key, revision, None));
                } else {
                    let value = Value::from(format!("{number}").repeat(300));
                    let outcome = client.put(key.clone(), value.clone(), &Route::Any).await;
                    let Ok(Outcome::Put { revision }) = outcome else { panic!("{outcome:?}") };
                    written.push((key, revision, Some(value)));
                }
            }
            written
        });
    }
    let mut all = Written::new();
    for (key, revision, value) in tasks.join_all().await.into_iter().flatten() {
        all.entry(key).or_default().insert(revision, value);
    }
    all
}

/// Returns all keys with their revisions and values.
async fn all(client: &Client) -> BTreeMap<Key, (u64, Value)> {
    let scan = Scan::of("", Consistency::Linearizable);
    let pairs = scan_all(client, scan, &Route::Any).await.into_iter();
    pairs.map(|pair| (pair.key, (pair.revision, pair.value))).collect()
}

fn restore(file: &Path, folder: &Path) -> std::process::Output {
    kvorum().arg("restore").arg(file).arg("--data").arg(folder).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_the_state_at_its_index() {
    let cluster = Cluster::start(&["--replicas=3"]);
    let client = cluster.client(DEADLINE);
    let stop = Arc::new(AtomicBool::new(false));
    let writers = tokio::spawn(load(client, Arc::clone(&stop)));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup");
    let path = file.to_str().unwrap().to_owned();
    let taken = tokio::task::spawn_blocking(move || {
        let taken = cluster.run(&["-o", "json", "backup", &path]);
        (cluster, taken)
    });
    let (cluster, taken) = taken.await.unwrap();
    let (status, out, err) = said(&taken);
    assert_eq!(status, 0, "{err}");
    let index = serde_json::from_str::<serde_json::Value>(&out).unwrap()["index"].as_u64().unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Relaxed);
    let written = writers.await.unwrap();
    let last = written.values().filter_map(|w| w.last_key_value()).map(|(r, _)| *r).max().unwrap();
    assert!(last > index, "writes went on after index {index}");
    drop(cluster);

    let new = folder.path().join("new");
    let (status, _, err) = said(&restore(&file, &new.join("")));
    assert_eq!(status, 0, "with a slash at the end: {err}");
    let left = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut left: Vec<_> = left.collect();
    left.sort();
    assert_eq!(left, ["backup", "new"], "nothing else is left beside them");
    let cluster = Cluster::start_in(&new, &[]);
    let client = cluster.client(DEADLINE);
    let mut expected = BTreeMap::new();
    for (key, revisions) in &written {
        if let Some((revision, Some(value))) = revisions.range(..=index).next_back() {
            expected.insert(key.clone(), (*revision, value.clone()));
        }
    }
    assert!(!expected.is_empty());
    assert!(all(&client).await == expected, "exactly the state at index {index}");
    let outcome = client.put("new".into(), "value".into(), &Route::Any).await.unwrap();
    assert!(matches!(outcome, Outcome::Put { revision } if revision > index), "indexes go on");
}

#[test]
fn a_backup_that_is_not_whole_makes_no_cluster() {
    let cluster = Cluster::start(&["--replicas=3"]);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let file = path("backup");
    assert_eq!(said(&cluster.run(&["put", "key", "value"])).0, 0);
    assert_eq!(said(&cluster.run(&["backup", file.to_str().unwrap()])).0, 0);
    let (status, _, err) = said(&cluster.run(&["backup", file.to_str().unwrap()]));
    assert_eq!(status, 2, "a file is not overwritten: {err}");

    let sound = std::fs::read(&file).unwrap();
    let mut altered = sound.clone();
    altered[sound.len() - 1] ^= 1;
    let cases = [
        ("cut", sound[..sound.len() - 1].to_vec(), "cut"),
        ("altered", altered, "damaged"),
        ("foreign", b"something else entirely".to_vec(), "no backup"),
    ];
    for (name, bytes, why) in cases {
        std::fs::write(path(name), bytes).unwrap();
        let (status, _, err) = said(&restore(&path(name), &path("new")));
        assert_eq!(status, 1, "{name}: {err}");
        assert!(err.contains(why), "{name}: {err}");
        assert!(!path("new").exists(), "{name}: nothing was made");
    }
    let (status, _, err) = said(&restore(&file, folder.path()));
    assert_eq!((status, err.contains("not empty")), (2, true), "{err}");
    let (status, _, err) = said(&restore(&file, &file));
    assert_eq!((status, err.contains("another folder")), (2, true), "{err}");

    // A link to an empty folder, which may be on another disk, stays a link.
    let (empty, link) = (path("empty"), path("link"));
    std::fs::create_dir(&empty).unwrap();
    std::os::unix::fs::symlink(&empty, &link).unwrap();
    let (status, _, err) = said(&restore(&file, &link));
    assert_eq!(status, 0, "{err}");
    assert!(link.is_symlink() && empty.join("statefulset.json").exists());
    assert!(!empty.join(".restoring").exists(), "what it was made in is gone");

    // The folder of an interrupted restore does not count as empty: no other cluster begins in it.
    let begun = path("begun");
    std::fs::create_dir_all(begun.join(".restoring/kvorum-0")).unwrap();
    let local = kvorum().args(["local", "--no-console", "--data"]).arg(&begun).output().unwrap();
    let (status, _, err) = said(&local);
    assert_eq!((status, err.contains("was broken off")), (2, true), "{err}");
    assert!(!begun.join("statefulset.json").exists());
    let (status, _, err) = said(&restore(&file, &begun));
    assert_eq!(status, 0, "{err}");
}

/// Two of three folders are gone. The third one's data lives on, under a new id, once the first
/// digits of the old one are given.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_cluster_goes_on() {
    let cluster = Cluster::start(&["--replicas=3"]);
    let client = cluster.client(DEADLINE);
    for number in 0..200 {
        let key = Key::from(format!("key/{number:03}"));
        client.put(key, Value::from(number.to_string()), &Route::Any).await.unwrap();
    }
    let before = all(&client).await;
    for name in cluster.names() {
        let in_step = |s: &kvorum_protocol::Status| s.applied >= 201;
        status_when(&client, &Route::Through(name), in_step).await;
    }
    let path = cluster.folder.clone();
    let recover = |words: &[&str]| {
        said(&kvorum().args(["recover", "--data"]).arg(&path).args(words).output().unwrap())
    };
    let (status, _, err) = recover(&[]);
    assert_eq!((status, err.contains("runs in")), (1, true), "the cluster runs: {err}");
    let kept = tempfile::tempdir().unwrap();
    let folder = kept.path().join("cluster");
    cluster.end_and_move_to(&folder);
    let recover = |words: &[&str]| {
        said(&kvorum().args(["recover", "--data"]).arg(&folder).args(words).output().unwrap())
    };
    let (status, _, err) = recover(&[]);
    assert_eq!((status, err.contains("nothing needs to be recovered")), (2, true), "{err}");

    std::fs::remove_dir_all(folder.join("kvorum-0")).unwrap();
    // A replica that cannot be inspected is not lost.
    let lock = std::fs::File::open(folder.join("kvorum-2").join("lock")).unwrap();
    let held = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    rustix::fs::flock(&lock, held).unwrap();
    let (status, _, err) = recover(&[]);
    assert_eq!((status, err.contains("may not be lost")), (1, true), "{err}");
    drop(lock);
    // Nor is a replica of a cluster that the file does not name.
    let (file, other) = (folder.join("statefulset.json"), ClusterId(1).to_string());
    let set = std::fs::read_to_string(&file).unwrap();
    let cluster = StatefulSet::read(&folder).unwrap().cluster.to_string();
    std::fs::write(&file, set.replace(&cluster, &other)).unwrap();
    let (status, _, err) = recover(&[]);
    assert_eq!((status, err.contains("may not be lost")), (1, true), "{err}");
    assert!(err.contains(&cluster) && err.contains(&other), "both are named: {err}");
    std::fs::write(&file, set).unwrap();
    std::fs::remove_dir_all(folder.join("kvorum-2")).unwrap();
    let (status, out, err) = recover(&["--confirm", "1234"]);
    assert_eq!(status, 7, "{err}");
    assert!(out.contains("1 of 3 replicas are left") && out.contains("are lost"), "{out}");
    assert!(out.contains("kvorum-0: not in") && out.contains("kvorum-2: not in"), "{out}");
    let digits = err.trim().rsplit(' ').next().unwrap().to_owned();
    // Something else is in the place where the old folder is to be kept.
    let old = kept.path().join(format!("cluster.lost-{digits}"));
    std::fs::create_dir(&old).unwrap();
    let (status, _, err) = recover(&["--confirm", &digits]);
    assert_eq!((status, err.contains("is there already")), (2, true), "{err}");
    std::fs::remove_dir(&old).unwrap();
    let (status, out, err) = recover(&["--confirm", &digits]);
    assert_eq!(status, 0, "{out}{err}");
    assert!(old.join("kvorum-1").exists(), "the old folder is kept");
    assert_eq!(StatefulSet::read(&old).unwrap().cluster.to_string(), cluster);
    assert!(!kept.path().join("cluster.recovering").exists(), "nothing is left aside");
    let cluster = Cluster::start_in(&folder, &[]);
    let client = cluster.client(DEADLINE);
    assert!(all(&client).await == before, "all that it had is there");
}

/// Three replicas become one, whose volume is then lost. The others, which left, hold everything
/// that was decided until then, and go on with it.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_had_left_give_what_they_hold() {
    let kept = tempfile::tempdir().unwrap();
    let folder = kept.path().join("cluster");
    let cluster = Cluster::start_in(&folder, &["--replicas=3"]);
    let client = cluster.client(DEADLINE);
    for number in 0..50 {
        let key = Key::from(format!("key/{number:03}"));
        client.put(key, Value::from(number.to_string()), &Route::Any).await.unwrap();
    }
    let before = all(&client).await;
    let (status, _, err) = said(&cluster.run(&["scale", "1", "--yes"]));
    assert_eq!(status, 0, "{err}");
    // Until they have left, they do not know that they have.
    while cluster.process("kvorum-1").is_some() || cluster.process("kvorum-2").is_some() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.stop(rustix::process::Signal::TERM);
    let recover = |words: &[&str]| {
        said(&kvorum().args(["recover", "--data"]).arg(&folder).args(words).output().unwrap())
    };
    let (status, _, err) = recover(&[]);
    assert_eq!((status, err.contains("nothing needs to be recovered")), (2, true), "{err}");
    std::fs::remove_dir_all(folder.join("kvorum-0")).unwrap();
    let (status, out, err) = recover(&[]);
    assert_eq!((status, out.contains("0 of 1 replicas are left")), (7, true), "{out}{err}");
    assert!(out.contains("(it had left the cluster)"), "{out}");
    let digits = err.trim().rsplit(' ').next().unwrap().to_owned();
    let (status, out, err) = recover(&["--confirm", &digits]);
    assert_eq!(status, 0, "{out}{err}");
    let cluster = Cluster::start_in(&folder, &[]);
    let client = cluster.client(DEADLINE);
    assert!(all(&client).await == before, "nothing is lost");
    let outcome = client.put("new".into(), "value".into(), &Route::Any).await.unwrap();
    assert!(matches!(outcome, Outcome::Put { revision } if revision > LEAP), "{outcome:?}");
}

/// Creates the volume of one replica, which has applied some entries.
fn volume(path: &Path, set: &StatefulSet, replica: u64, genesis: &Configuration, has: &[Entry]) {
    let newborn =
        NewIdentity { cluster: set.cluster, replica: ReplicaId(replica), members: genesis.clone() };
    let name = path.file_name().unwrap().to_str().unwrap();
    let owner = Owner { newborn: Some(newborn), ..set.owner(name) };
    let on_fatal: OnFatal = Arc::new(|what: &str| panic!("{what}"));
    let opened = Database::open(path, &owner, 1, LogLimits::default(), on_fatal);
    let mut database = opened.unwrap();
    let (mut first, mut rest) = (1, has);
    while !rest.is_empty() {
        let (run, after) = rest.split_at(run_length(rest));
        apply(&mut database, LaneMemory::default(), Source::Peer, first, run);
        (first, rest) = (first + run.len() as u64, after);
    }
    database.sync(database.durable());
    database.close();
}

/// Every replica that knows the last configuration has left it, and its only member lacks entries
/// decided before it: the cluster goes on from the state of those that left.
#[tokio::test(flavor = "multi_thread")]
async fn members_that_lack_the_state_keep_nobody_from_recovering() {
    let kept = tempfile::tempdir().unwrap();
    let folder = kept.path().join("cluster");
    std::fs::create_dir(&folder).unwrap();
    let set = StatefulSet { cluster: ClusterId(7 << 96), replicas: 1 };
    set.write(&folder).unwrap();
    let member = |replica, ordinal| Member {
        replica: ReplicaId(replica),
        name: format!("kvorum-{ordinal}"),
    };
    let configuration = |id, members| Configuration { id: ConfigurationId(id), members };
    let genesis = configuration(1, vec![member(1, 0), member(2, 1), member(3, 2)]);
    let put = |number: u32| {
        let lane = LaneId { client: ClientId(1), number };
        let operation = Operation::Put {
            key: Key::from(format!("key/{number}")),
            value: "value".into(),
            condition: Condition::Always,
        };
        let id = RequestId { lane, sequence: 1 };
        Entry::Command(Command { id, valid_until: 1000, operation })
    };
    let join = Entry::Join { name: "kvorum-0".to_owned(), nonce: 5 };
    let seal = Entry::StopSign(configuration(2, vec![member(4, 0)]));
    let decided = [put(1), join, put(2), put(3), seal];
    volume(&folder.join("kvorum-0"), &set, 4, &genesis, &decided[..3]);
    for (ordinal, replica) in [(1, 2), (2, 3)] {
        volume(&folder.join(format!("kvorum-{ordinal}")), &set, replica, &genesis, &decided);
    }
    let recover = |words: &[&str]| {
        said(&kvorum().args(["recover", "--data"]).arg(&folder).args(words).output().unwrap())
    };
    let (status, out, err) = recover(&[]);
    assert_eq!((status, out.contains("none of them has got")), (7, true), "{out}{err}");
    let digits = err.trim().rsplit(' ').next().unwrap().to_owned();
    let (status, out, err) = recover(&["--confirm", &digits]);
    assert_eq!(status, 0, "{out}{err}");
    let cluster = Cluster::start_in(&folder, &[]);
    let keys = all(&cluster.client(DEADLINE)).await;
    let revisions: Vec<_> = keys.values().map(|(revision, _)| *revision).collect();
    assert_eq!(revisions, [1, 3, 4], "each key, as it was");
}

/// An older copy of the only replica's volume may not decide, and goes on through `recover`.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_only_replica_goes_on() {
    let kept = tempfile::tempdir().unwrap();
    let (folder, copy) = (kept.path().join("cluster"), kept.path().join("copy"));
    let put = |cluster: &Cluster, key: &str| {
        let (status, _, err) = said(&cluster.run(&["put", key, "value"]));
        assert_eq!(status, 0, "{err}");
    };
    let cluster = Cluster::start_in(&folder, &["--replicas=1"]);
    put(&cluster, "before");
    cluster.stop(rustix::process::Signal::TERM);
    let mut cp = std::process::Command::new("cp");
    assert!(cp.arg("-r").arg(folder.join("kvorum-0")).arg(&copy).status().unwrap().success());
    let recover = |words: &[&str]| {
        said(&kvorum().args(["recover", "--data"]).arg(&folder).args(words).output().unwrap())
    };
    let (status, _, err) = recover(&[]);
    assert_eq!((status, err.contains("nothing needs to be recovered")), (2, true), "{err}");
    let cluster = Cluster::start_in(&folder, &[]);
    put(&cluster, "after");
    cluster.stop(rustix::process::Signal::TERM);
    std::fs::remove_dir_all(folder.join("kvorum-0")).unwrap();
    std::fs::rename(&copy, folder.join("kvorum-0")).unwrap();
    let (status, out, err) = recover(&[]);
    assert_eq!(
        (status, out.contains("an older copy of the only replica")),
        (7, true),
        "{out}{err}"
    );
    let digits = err.trim().rsplit(' ').next().unwrap().to_owned();
    let (status, out, err) = recover(&["--confirm", &digits]);
    assert_eq!(status, 0, "{out}{err}");
    let cluster = Cluster::start_in(&folder, &[]);
    assert_eq!(said(&cluster.run(&["get", "before"])).0, 0);
    assert_eq!(said(&cluster.run(&["get", "after"])).0, 3, "it was written later");
}

/// Clients cannot use up the room for snapshots that replicas need to catch up.
#[tokio::test(flavor = "multi_thread")]
async fn clients_have_few_snapshots_open() {
    use kvorum_protocol::message::{Answer, SnapshotRequest};
    const MOST: usize = 4;
    let cluster = Cluster::start(&["--replicas=3"]);
    let client = cluster.client(Duration::from_secs(2));
    let route = Route::Through("kvorum-1".to_owned());
    let mut open = Vec::new();
    for _ in 0..MOST {
        let answer = client.snapshot(SnapshotRequest::Open, &route).await.unwrap();
        let Answer::Snapshot { snapshot, .. } = answer else { panic!("{answer:?}") };
        open.push(snapshot);
    }
    let refused = client.snapshot(SnapshotRequest::Open, &route).await;
    assert!(refused.is_err(), "{refused:?}");
    let close = SnapshotRequest::Close { snapshot: open[0] };
    assert_eq!(client.snapshot(close, &route).await.unwrap(), Answer::Done);
    client.snapshot(SnapshotRequest::Open, &route).await.unwrap();
    let gone = SnapshotRequest::Part { snapshot: open[0], after: Value::from("") };
    assert!(client.snapshot(gone, &route).await.is_err(), "it was closed");
}
