//! Benchmark of the effect of heavy work on the latency of other clients' writes.
//!
//! Three real replicas with synced disks on this machine. Writes come at a fixed rate, a quarter of
//! the cluster's capacity, and their latency counts from when they were due. First nothing else
//! happens; then a replica that was away copies the whole state, then a million keys are read by
//! pages, again and again, deleted one by one, and searched for after they are gone. The figures
//! are the ratios of one run.
//!
//! `KVORUM_STATE_MIB` sets the size of the state, and `KVORUM_BULK_KEYS` the number of keys that
//! are read and deleted.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark is no library")]
#![allow(clippy::cast_precision_loss, reason = "figures are printed with few digits")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use hdrhistogram::Histogram;
use kvorum_harness::cluster::{
    Cluster, fill, leader, number, random_value, status_when, status_within,
};
use kvorum_protocol::client::Route;
use kvorum_protocol::data::Outcome;
use kvorum_protocol::message::{Consistency, Scan};
use kvorum_protocol::status::{Role, Status};
use kvorum_protocol::{Client, Key, Value};
use rustix::process::{Signal, kill_process};
use tokio::task::JoinSet;

/// Bytes of one value of the load and of the state; incompressible.
const VALUE_BYTES: usize = 1024;
/// Keys that the load writes again and again.
const LOAD_KEYS: u64 = 1000;
/// Writers of the load, and of the fill.
const WRITERS: u64 = 64;
/// Deletes in flight at a time: background cleanup is not urgent.
const DELETES: usize = 4;
/// Writes while a replica is away: more than the log keeps, so that the replica needs the state.
const AWAY_WRITES: u64 = 200_000;
/// How long a copy of the whole state may take.
const COPY_PATIENCE: Duration = Duration::from_secs(300);
/// How long RocksDB is left alone after a fill: remaining compactions would count as calm.
const SETTLE: Duration = Duration::from_secs(30);
/// The highest latency that is distinguished, in microseconds.
const LATENCY_MAX_US: u64 = 60_000_000;

/// The load: writes that are due at fixed times, until it is stopped.
struct Load {
    tasks: JoinSet<Histogram<u64>>,
    stop: Arc<AtomicBool>,
}

impl Load {
    fn begin(client: &Arc<Client>, per_second: f64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (began, next) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for _ in 0..WRITERS * 4 {
            let (client, stop, next) = (Arc::clone(client), Arc::clone(&stop), Arc::clone(&next));
            tasks.spawn(async move {
                let mut latencies = Histogram::<u64>::new_with_max(LATENCY_MAX_US, 3).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let due = began + Duration::from_secs_f64(number as f64 / per_second);
                    tokio::time::sleep_until(due.into()).await;
                    let key = Key::from(format!("load/{}", number % LOAD_KEYS));
                    let outcome =
                        client.put(key, random_value(VALUE_BYTES), &Route::Any).await.unwrap();
                    assert!(matches!(outcome, Outcome::Put { .. }), "{outcome:?}");
                    let us = u64::try_from(due.elapsed().as_micros()).unwrap();
                    latencies.record(us.min(LATENCY_MAX_US)).unwrap();
                }
                latencies
            });
        }
        Self { tasks, stop }
    }

    async fn end(self) -> Histogram<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Histogram::<u64>::new_with_max(LATENCY_MAX_US, 3).unwrap();
        for latencies in self.tasks.join_all().await {
            all.add(latencies).unwrap();
        }
        all
    }
}

/// The rate of the load, and the calm latency that rows are compared with.
struct Report {
    per_second: f64,
    calm_ms: Option<f64>,
}

impl Report {
    /// Runs some work beside the load, and prints a row about it.
    async fn row(&mut self, client: &Arc<Client>, what: &str, work: impl Future<Output = ()>) {
        let ballot = client.status(&Route::Any).await.unwrap().ballot.number;
        let (load, began) = (Load::begin(client, self.per_second), Instant::now());
        work.await;
        let (took, latencies) = (began.elapsed().as_secs_f64(), load.end().await);
        let ms = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
        let calm = *self.calm_ms.get_or_insert(ms(0.99));
        let elections = client.status(&Route::Any).await.unwrap().ballot.number - ballot;
        println!(
            "{what:<34} {took:>7.1} {:>8} {:>8.2} {:>8.2} {:>8.2} {:>6.2} {elections:>9}",
            latencies.len(),
            ms(0.5),
            ms(0.99),
            latencies.max() as f64 / 1000.0,
            ms(0.99) / calm,
        );
    }
}

/// Reads all pages of a prefix; returns the number of keys.
async fn read_all(client: &Client, prefix: &str) -> u64 {
    let (mut count, mut next) = (0, Some(Scan::of(prefix, Consistency::Linearizable)));
    while let Some(scan) = next {
        let page = client.scan(scan.clone(), &Route::Any).await.unwrap();
        count += page.pairs.len() as u64;
        next = scan.after(&page);
    }
    count
}

async fn delete_all(client: &Client, prefix: &str) {
    let scan = Scan { keys_only: true, ..Scan::of(prefix, Consistency::Linearizable) };
    let mut next = Some(scan);
    while let Some(scan) = next {
        let page = client.scan(scan.clone(), &Route::Any).await.unwrap();
        next = scan.after(&page);
        let deletes = futures::stream::iter(page.pairs);
        let deletes = deletes.map(|pair| async {
            let outcome = client.delete(pair.key, &Route::Any).await.unwrap();
            assert!(matches!(outcome, Outcome::Deleted { existed: true, .. }), "{outcome:?}");
        });
        deletes.buffer_unordered(DELETES).collect::<()>().await;
    }
}

async fn run(state_mib: u64, bulk: u64, calm: Duration, settle: Duration) {
    let cluster = Cluster::start(&["--replicas=3"]);
    let client = cluster.client(Duration::from_secs(30));
    let state_key = |number| Key::from(format!("state/{number:08}"));
    let away_key = |number| Key::from(format!("away/{}", number % 1000));
    let bulk_key = |number| Key::from(format!("bulk/{number:08}"));
    let random = |_| random_value(VALUE_BYTES);
    let peak = fill(&client, 0..state_mib * 1024, WRITERS, state_key, random).await;
    println!("{state_mib} MiB of state; {peak:.0} puts a second at the peak");
    println!(
        "{:<34} {:>7} {:>8} {:>8} {:>8} {:>8} {:>6} {:>9}",
        "beside the load", "s", "writes", "p50 ms", "p99 ms", "max ms", "ratio", "elections"
    );
    let mut report = Report { per_second: peak / 4.0, calm_ms: None };
    tokio::time::sleep(settle).await;
    report.row(&client, "nothing", tokio::time::sleep(calm)).await;

    let leader = leader(&client).await;
    let away = cluster.names().into_iter().find(|name| *name != leader).unwrap();
    let process = cluster.process(&away).unwrap();
    kill_process(process, Signal::STOP).unwrap();
    let writes = AWAY_WRITES.min(state_mib * 1024);
    fill(&client, 0..writes, WRITERS, away_key, random).await;
    tokio::time::sleep(settle).await;
    // Without it, each write waits for the slower of two replicas instead of the second of three.
    report.row(&client, "a replica is away", tokio::time::sleep(calm)).await;
    let route = Route::Through(away);
    let copy = async {
        kill_process(process, Signal::CONT).unwrap();
        let is_copying = |status: &Status| status.catching_up.is_some();
        status_when(&client, &route, is_copying).await;
        let is_in_step = |s: &Status| s.role == Role::Follower && s.is_ready;
        status_within(&client, &route, COPY_PATIENCE, is_in_step).await;
    };
    report.row(&client, "a replica copies the state", copy).await;
    report.row(&client, "nothing", tokio::time::sleep(calm)).await;

    let small = |_| Value::from("small");
    fill(&client, 0..bulk, WRITERS, bulk_key, small).await;
    tokio::time::sleep(settle).await;
    let reading = async {
        // As long as the other rows, so that one pause of the disk does not count for all of it.
        let began = Instant::now();
        while began.elapsed() < calm {
            assert_eq!(read_all(&client, "bulk/").await, bulk);
        }
    };
    report.row(&client, &format!("{bulk} keys are read by pages"), reading).await;
    report.row(&client, &format!("{bulk} keys are deleted"), delete_all(&client, "bulk/")).await;
    let in_vain = async {
        for _ in 0..20 {
            assert_eq!(read_all(&client, "bulk/").await, 0);
        }
    };
    report.row(&client, "they are looked for 20 times", in_vain).await;
    report.row(&client, "nothing", tokio::time::sleep(calm)).await;
}

fn main() {
    // `cargo test --benches` only checks that the benchmark runs.
    let is_test = std::env::args().any(|argument| argument == "--test");
    let (state, bulk, calm) = if is_test { (96, 2_000, 0.2) } else { (1024, 1_000_000, 15.0) };
    let (state, bulk) = (number("KVORUM_STATE_MIB", state), number("KVORUM_BULK_KEYS", bulk));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let settle = if is_test { Duration::ZERO } else { SETTLE };
    runtime.block_on(run(state, bulk, Duration::from_secs_f64(calm), settle));
}
