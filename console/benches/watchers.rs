//! Benchmark of many watchers: how long after a change is acknowledged does each of those that
//! watch it hear of it?
//!
//! Three real replicas with synced disks on this machine. The watchers share one client, which has
//! one connection to each replica, and are spread over the replicas. Changes are made at a fixed
//! rate. In the first row each watcher watches a prefix of its own; in the second there are few,
//! and each watches everything.
//!
//! `KVORUM_WATCHERS` sets how many there are, `KVORUM_CHANGES` how many changes are made a second,
//! and `KVORUM_BENCH_SECONDS` how long.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark is no library")]
#![allow(clippy::cast_precision_loss, reason = "figures are printed with few digits")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use kvorum_harness::cluster::{Cluster, number};
use kvorum_protocol::client::{Events, Route};
use kvorum_protocol::message::{Event, Subscription};
use kvorum_protocol::{Client, Key, Value};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;

/// The clients that take turns with the changes.
const CLIENTS: usize = 256;
/// Watchers that open their subscription at the same time.
const OPENING: usize = 256;
/// Watchers of everything.
const OF_ALL: usize = 30;
/// How long events may take to come after the last change.
const PATIENCE: Duration = Duration::from_secs(10);

/// When each change was acknowledged, and when the last watcher heard of it, in microseconds since
/// the begin.
struct Seen {
    began: Instant,
    acknowledged: Vec<AtomicU64>,
    heard: Vec<AtomicU64>,
    /// The number of events that came.
    events: AtomicU64,
}

impl Seen {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap()
    }

    /// Notes that a watcher heard of a change.
    fn hear(&self, change: usize) {
        let now = self.now();
        self.events.fetch_add(1, Ordering::Relaxed);
        self.heard[change].fetch_max(now, Ordering::Relaxed);
    }
}

fn prefix(watcher: u64) -> String {
    format!("watched/{watcher:06}/")
}

async fn listen(mut events: Events, seen: Arc<Seen>) {
    while let Some(event) = events.next().await {
        if let Event::Key(change) = event {
            let value = change.value.unwrap();
            seen.hear(std::str::from_utf8(&value.0).unwrap().trim().parse().unwrap());
        }
    }
    panic!("a subscription ended");
}

/// Opens subscriptions to these prefixes, spread over the replicas.
async fn watch(client: &Arc<Client>, names: &[String], prefixes: Vec<String>) -> Vec<Events> {
    let (mut opened, mut opening) = (Vec::new(), JoinSet::new());
    for (prefix, name) in prefixes.into_iter().zip(names.iter().cycle()) {
        if opening.len() == OPENING {
            opened.push(opening.join_next().await.unwrap().unwrap());
        }
        let (client, route) = (Arc::clone(client), Route::Through(name.clone()));
        let keys = Subscription::Watch { prefix: prefix.into_bytes(), from: 0 };
        opening.spawn(async move { client.subscribe(keys, &route).await.unwrap() });
    }
    opened.extend(opening.join_all().await);
    opened
}

/// Makes changes at a fixed rate, each under the prefix of one watcher.
async fn change(client: &Arc<Client>, seen: &Arc<Seen>, watchers: u64, per_second: u64) {
    let next = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (client, seen, next) = (Arc::clone(client), Arc::clone(seen), Arc::clone(&next));
        clients.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let index = usize::try_from(number).unwrap();
                if index >= seen.acknowledged.len() {
                    return;
                }
                let due = seen.began + Duration::from_secs_f64(number as f64 / per_second as f64);
                tokio::time::sleep_until(due.into()).await;
                let key = format!("{}key", prefix(number.wrapping_mul(7919) % watchers));
                let value = Value(format!("{number:<100}").into());
                client.put(Key::from(key), value, &Route::Any).await.unwrap();
                seen.acknowledged[index].store(seen.now(), Ordering::Relaxed);
            }
        });
    }
    clients.join_all().await;
}

/// Makes changes and prints how late they were heard of.
async fn row(
    cluster: &Cluster,
    client: &Arc<Client>,
    prefixes: Vec<String>,
    (watchers, seconds): (u64, u64),
) {
    let per_second = number("KVORUM_CHANGES", 2_000);
    let watching = prefixes.len();
    let changes = usize::try_from(per_second * seconds).unwrap();
    let hearers = if watchers == watching as u64 { 1 } else { watching };
    let (began, none) = (Instant::now(), || (0..changes).map(|_| AtomicU64::new(0)).collect());
    let opened = watch(client, &cluster.names(), prefixes).await;
    let opening = began.elapsed();
    let seen = Arc::new(Seen {
        began: Instant::now(),
        acknowledged: none(),
        heard: none(),
        events: AtomicU64::new(0),
    });
    let mut listeners = JoinSet::new();
    for events in opened {
        listeners.spawn(listen(events, Arc::clone(&seen)));
    }
    change(client, &seen, watchers, per_second).await;
    let took = seen.began.elapsed();
    let deadline = Instant::now() + PATIENCE;
    let expected = (changes * hearers) as u64;
    while seen.events.load(Ordering::Relaxed) < expected {
        assert!(Instant::now() < deadline, "{} of {expected}", seen.events.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    listeners.abort_all();
    let mut delays = Histogram::<u64>::new_with_max(60_000_000, 3).unwrap();
    for (heard, acknowledged) in seen.heard.iter().zip(&seen.acknowledged) {
        let heard = heard.load(Ordering::Relaxed);
        delays.record(heard.saturating_sub(acknowledged.load(Ordering::Relaxed))).unwrap();
    }
    let ms = |quantile| delays.value_at_quantile(quantile) as f64 / 1000.0;
    println!(
        "{watching:>8} {:>9.1} {:>9.0} {:>9.0} {:>8.2} {:>8.2} {:>8.2}",
        opening.as_secs_f64(),
        changes as f64 / took.as_secs_f64(),
        (changes * hearers) as f64 / took.as_secs_f64(),
        ms(0.5),
        ms(0.99),
        delays.max() as f64 / 1000.0,
    );
}

async fn run(watchers: u64, seconds: u64) {
    let cluster = Cluster::start(&["--replicas=3"]);
    let client = cluster.client(Duration::from_secs(30));
    client.put(Key::from("first"), Value::from("0"), &Route::Any).await.unwrap();
    println!(
        "{:>8} {:>9} {:>9} {:>9} {:>8} {:>8} {:>8}",
        "watchers", "opened s", "changes/s", "events/s", "p50 ms", "p99 ms", "max ms"
    );
    row(&cluster, &client, (0..watchers).map(prefix).collect(), (watchers, seconds)).await;
    row(&cluster, &client, vec!["watched/".to_owned(); OF_ALL], (watchers, seconds)).await;
}

fn main() {
    // `cargo test --benches` only checks that the benchmark runs.
    let is_test = std::env::args().any(|argument| argument == "--test");
    let (watchers, seconds) = if is_test { (100, 1) } else { (10_000, 20) };
    let watchers = number("KVORUM_WATCHERS", watchers);
    let seconds = number("KVORUM_BENCH_SECONDS", seconds);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(watchers, seconds));
}
