//! Tests of many watchers in one program.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use kvorum_harness::cluster::{Cluster, PATIENCE};
use kvorum_protocol::client::{Events, Route};
use kvorum_protocol::message::{Event, KeyEvent, Subscription};
use kvorum_protocol::{Client, Key, Value};
use tokio::time::timeout;
use tokio_stream::StreamExt;

const DEADLINE: Duration = Duration::from_secs(20);
const WATCHERS: usize = 900;

/// Returns the number of sockets that this process has open.
fn sockets() -> usize {
    let files = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let links = files.filter_map(|file| fs::read_link(file.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}

async fn watch(client: &Client, prefix: &str, route: &Route) -> Events {
    let prefix = prefix.as_bytes().to_vec();
    client.subscribe(Subscription::Watch { prefix, from: 0 }, route).await.unwrap()
}

async fn next(events: &mut Events) -> KeyEvent {
    loop {
        match timeout(PATIENCE, events.next()).await.expect("there is one") {
            Some(Event::Key(change)) => return change,
            Some(Event::Progress { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn put(client: &Arc<Client>, key: String, bytes: usize) {
    let value = Value(vec![b'x'; bytes].into());
    client.put(Key::from(key), value, &Route::Any).await.unwrap();
}

/// They share a connection to each replica, and each hears of its own keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_watchers_take_few_connections() {
    let cluster = Cluster::start(&["--replicas=3"]);
    let client = cluster.client(DEADLINE);
    put(&client, "first".to_owned(), 1).await;
    let (before, names) = (sockets(), cluster.names());
    let mut watchers = Vec::new();
    for watcher in 0..WATCHERS {
        let route = Route::Through(names[watcher % names.len()].clone());
        watchers.push(watch(&client, &format!("watched/{watcher}/"), &route).await);
    }
    let more = sockets() - before;
    assert!(more <= 2 * names.len(), "{more} connections");
    for watcher in 0..WATCHERS {
        put(&client, format!("watched/{watcher}/key"), 1).await;
    }
    for (watcher, events) in watchers.iter_mut().enumerate() {
        assert_eq!(next(events).await.key, Key::from(format!("watched/{watcher}/key")));
    }
}

/// It is put off, and misses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_does_not_read_slows_no_other() {
    const VALUES: usize = 60;
    let cluster = Cluster::start(&["--replicas=3"]);
    let client = cluster.client(DEADLINE);
    put(&client, "first".to_owned(), 1).await;
    let route = Route::Through(cluster.names()[0].clone());
    let mut slow = watch(&client, "", &route).await;
    let mut other = watch(&client, "k", &route).await;
    for number in 0..VALUES {
        put(&client, format!("k{number}"), 100_000).await;
        assert_eq!(next(&mut other).await.key, Key::from(format!("k{number}")));
    }
    for number in 0..VALUES {
        assert_eq!(next(&mut slow).await.key, Key::from(format!("k{number}")));
    }
}
