//! Tests that a replica whose state was altered behind its back is detected, quarantined and
//! rebuilt, while the cluster serves.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kvorum::local::folder::StatefulSet;
use kvorum_harness::cluster::{Cluster, said, scan_all, status_when};
use kvorum_protocol::client::Route;
use kvorum_protocol::data::Outcome;
use kvorum_protocol::message::{Consistency, Scan};
use kvorum_protocol::status::Status;
use kvorum_protocol::{Client, Key, Value};
use kvorum_replica::engine::store::{LogLimits, SyncStore};
use kvorum_replica::state::machine::{Changes, Record, Table};
use kvorum_replica::storage::Database;
use rustix::process::Signal;

/// Keys written beforehand; enough that a checksum takes several chunks.
const KEYS: u32 = 3000;
const DEADLINE: Duration = Duration::from_secs(10);
const OFTEN: [&str; 1] = ["--replica-arg=--checksum-seconds=1"];

fn key(number: u32) -> Key {
    Key::from(format!("key/{number:05}"))
}

fn value(number: u32) -> Value {
    Value::from(format!("{number}").repeat(60))
}

/// Gives a key another value and changes nothing else: each record is valid.
fn alter(cluster: &Path, name: &str, key: &Key, value: &'static str) {
    let set = StatefulSet::read(cluster).unwrap();
    let (owner, folder) = (set.owner(name), cluster.join(name));
    let on_fatal = Arc::new(|what: &str| panic!("{what}"));
    let limits = LogLimits::default();
    let mut database = Database::open(&folder, &owner, 1, limits, on_fatal).unwrap();
    let revision = database.key(&key.0).unwrap().revision;
    let record = Record { revision, value: Bytes::from(value) };
    let applied = database.applied();
    let keys = BTreeMap::from([(key.0.clone(), Some(record))]);
    database.commit(Changes { keys, applied, ..Changes::default() });
    database.sync(database.durable());
    database.close();
}

/// Starts a cluster with the given number of keys, one of them altered at one replica, that
/// compares states often.
async fn altered(folder: &Path, replicas: u32, keys: u32) -> Cluster {
    let cluster = Cluster::start_in(folder, &[&format!("--replicas={replicas}")]);
    let client = cluster.client(DEADLINE);
    for number in 0..keys {
        client.put(key(number), value(number), &Route::Any).await.unwrap();
    }
    drop(client);
    cluster.stop(Signal::TERM);
    alter(folder, "kvorum-1", &key(7), "altered");
    Cluster::start_in(folder, &OFTEN)
}

/// Writes a key and reads it back, again and again; returns how often.
async fn serve(client: Arc<Client>, stop: Arc<AtomicBool>) -> u64 {
    let key = Key::from("served");
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return number;
        }
        let value = Value::from(number.to_string());
        let put = client.put(key.clone(), value.clone(), &Route::Any).await.unwrap();
        let Outcome::Put { revision } = put else { panic!("{put:?}") };
        let got = client.get(key.clone(), Consistency::Linearizable, &Route::Any).await.unwrap();
        let got = got.unwrap();
        assert_eq!((got.value, got.revision), (value, revision));
    }
    unreachable!("there are numbers enough")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_state_is_found_and_rebuilt_while_the_cluster_serves() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("cluster");
    let cluster = altered(&folder, 3, KEYS).await;
    let client = cluster.client(DEADLINE);
    let stop = Arc::new(AtomicBool::new(false));
    let serving = tokio::spawn(serve(Arc::clone(&client), Arc::clone(&stop)));
    let log = || std::fs::read_to_string(folder.join("kvorum-1").join("log")).unwrap();
    let is_same = |status: &Status| status.same_at > 0;
    let compared = status_when(&client, &Route::Any, is_same).await.same_at;
    stop.store(true, Ordering::Relaxed);
    println!("{} writes and reads meanwhile; same at {compared}", serving.await.unwrap());
    assert!(log().contains("the state differs from the majority's"), "{}", log());
    assert!(log().contains("the state was copied"), "{}", log());
    let route = Route::Through("kvorum-1".to_owned());
    let status = client.status(&route).await.unwrap();
    assert!(status.is_ready && status.trouble.is_none(), "{status:?}");
    let pairs = scan_all(&client, Scan::of("key/", Consistency::Local), &route).await;
    let expected = (0..KEYS).map(|number| (key(number), value(number)));
    assert!(pairs.into_iter().map(|pair| (pair.key, pair.value)).eq(expected), "as it was");
}

/// Two replicas cannot know which of them is right: an alarm is raised, and both go on.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_a_difference_is_an_alarm() {
    let temporary = tempfile::tempdir().unwrap();
    let cluster = altered(&temporary.path().join("cluster"), 2, 10).await;
    let client = cluster.client(DEADLINE);
    let is_alarmed = |status: &Status| {
        status.trouble.as_ref().is_some_and(|trouble| trouble.contains("no majority had the same"))
    };
    let status = status_when(&client, &Route::Any, is_alarmed).await;
    assert!(status.is_ready, "{status:?}");
    client.put(key(2), value(2), &Route::Any).await.unwrap();
    let (_, out, _) = said(&cluster.run(&["status"]));
    assert!(out.contains("no majority had the same"), "{out}");
}
