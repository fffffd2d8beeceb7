//! Benchmark of full load for minutes: whether writes go on as fast as they began.
//!
//! Three real replicas with synced disks on this machine, and 256 clients, each with one request in
//! flight. First new keys again and again without a pause, then a few keys and all keys
//! overwritten, and all keys read; then a mixture of these for some minutes, a row a minute. The
//! benchmark looks for debt: work that was given to the disk and put off. Minutes are compared with
//! the first one.
//!
//! `KVORUM_NEW_ROWS` sets the number of rows of new keys, `KVORUM_MINUTES` the minutes of the
//! mixture, and `KVORUM_STATE_MIB` the size up to which that makes the state grow.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark is no library")]
#![allow(clippy::cast_precision_loss, reason = "figures are printed with few digits")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use kvorum_harness::cluster::{Cluster, number, random_value};
use kvorum_protocol::client::Route;
use kvorum_protocol::message::Consistency;
use kvorum_protocol::{Client, Key};
use tokio::task::JoinSet;

/// Bytes of a value; incompressible.
const VALUE_BYTES: usize = 1024;
/// Tasks with one request in flight each.
const CLIENTS: u64 = 256;
/// Keys that are overwritten again and again.
const HOT_KEYS: u64 = 25_600;
/// The highest latency that is distinguished, in microseconds.
const LATENCY_MAX_US: u64 = 60_000_000;

/// The requests that the clients send.
#[derive(Clone, Copy, PartialEq)]
enum Load {
    /// Puts of keys that do not exist.
    New,
    /// Puts of a few keys.
    Hot,
    /// Puts of any key.
    Scattered,
    /// Linearizable gets of any key.
    Read,
    /// A mixture: two of five new, the others one each; once there are enough keys, none is new.
    Mixed,
}

/// The cluster under load, and its number of keys.
struct Trial {
    client: Arc<Client>,
    keys: Arc<AtomicU64>,
    keys_max: u64,
}

/// Latencies of one row, in microseconds.
struct Latencies {
    puts: Histogram<u64>,
    gets: Histogram<u64>,
}

impl Latencies {
    fn new() -> Self {
        let none = || Histogram::new_with_max(LATENCY_MAX_US, 3).unwrap();
        Self { puts: none(), gets: none() }
    }
}

fn key(number: u64) -> Key {
    Key::from(format!("state/{number:010}"))
}

/// Runs one client until a time.
async fn one(trial: (Arc<Client>, Arc<AtomicU64>, u64), load: Load, until: Instant) -> Latencies {
    let (client, keys, keys_max) = trial;
    let mut latencies = Latencies::new();
    while Instant::now() < until {
        let there = keys.load(Ordering::Relaxed).max(1);
        let any = rand::random_range(0..there);
        let what = match (load, rand::random_range(0..5)) {
            (Load::Mixed, 0 | 1) if there < keys_max => Load::New,
            (Load::Mixed, 2) => Load::Hot,
            (Load::Mixed, 3) => Load::Read,
            (Load::Mixed, _) => Load::Scattered,
            (load, _) => load,
        };
        let began = Instant::now();
        let into = match what {
            Load::Read => {
                client.get(key(any), Consistency::Linearizable, &Route::Any).await.unwrap();
                &mut latencies.gets
            }
            _ => {
                let key = match what {
                    Load::New => key(keys.fetch_add(1, Ordering::Relaxed)),
                    Load::Hot => key(any % HOT_KEYS),
                    _ => key(any),
                };
                client.put(key, random_value(VALUE_BYTES), &Route::Any).await.unwrap();
                &mut latencies.puts
            }
        };
        let us = u64::try_from(began.elapsed().as_micros()).unwrap();
        into.record(us.min(LATENCY_MAX_US)).unwrap();
    }
    latencies
}

impl Trial {
    /// Runs a load for some time and prints a row about it; returns the requests per second.
    async fn row(&self, what: &str, load: Load, time: Duration) -> f64 {
        let before = self.client.status(&Route::Any).await.unwrap().ballot.number;
        let (began, mut tasks) = (Instant::now(), JoinSet::new());
        for _ in 0..CLIENTS {
            let trial = (Arc::clone(&self.client), Arc::clone(&self.keys), self.keys_max);
            tasks.spawn(one(trial, load, began + time));
        }
        let mut all = Latencies::new();
        for latencies in tasks.join_all().await {
            all.puts.add(latencies.puts).unwrap();
            all.gets.add(latencies.gets).unwrap();
        }
        let took = began.elapsed().as_secs_f64();
        let status = self.client.status(&Route::Any).await.unwrap();
        let per_second = (all.puts.len() + all.gets.len()) as f64 / took;
        let ms = |of: &Histogram<u64>, quantile| of.value_at_quantile(quantile) as f64 / 1000.0;
        let puts = |quantile| ms(&all.puts, quantile);
        println!(
            "{what:<26} {per_second:>9.0} {:>8.1} {:>8.1} {:>8.1} {:>8.1} {:>9} {:>8}",
            puts(0.5),
            puts(0.99),
            puts(1.0),
            ms(&all.gets, 0.99),
            status.ballot.number - before,
            self.keys.load(Ordering::Relaxed) / 1024,
        );
        per_second
    }
}

async fn run(rows: u64, minutes: u64, state_mib: u64, scale: f64) {
    let cluster = Cluster::start(&["--replicas=3"]);
    let client = cluster.client(Duration::from_secs(30));
    let trial = Trial { client, keys: Arc::default(), keys_max: state_mib * 1024 };
    let seconds = |seconds: f64| Duration::from_secs_f64(seconds * scale);
    println!(
        "{:<26} {:>9} {:>8} {:>8} {:>8} {:>8} {:>9} {:>8}",
        "load", "a second", "p50 ms", "p99 ms", "max ms", "get p99", "elections", "MiB"
    );
    for row in 0..rows {
        trial.row(&format!("new keys, row {}", row + 1), Load::New, seconds(20.0)).await;
    }
    trial.row("hot keys overwritten", Load::Hot, seconds(5.0)).await;
    trial.row("all keys overwritten", Load::Scattered, seconds(8.0)).await;
    trial.row("all keys read", Load::Read, seconds(5.0)).await;
    let mut first = None;
    for minute in 0..minutes {
        let what = format!("mixed, minute {}", minute + 1);
        let per_second = trial.row(&what, Load::Mixed, seconds(60.0)).await;
        let first = *first.get_or_insert(per_second);
        println!("{:>26} {:.2} of the first minute", "", per_second / first);
    }
}

fn main() {
    // `cargo test --benches` only checks that the benchmark runs.
    let is_test = std::env::args().any(|argument| argument == "--test");
    let (rows, minutes, scale) = if is_test { (1, 1, 0.01) } else { (7, 10, 1.0) };
    let rows = number("KVORUM_NEW_ROWS", rows);
    let minutes = number("KVORUM_MINUTES", minutes);
    let state = number("KVORUM_STATE_MIB", 4096);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(rows, minutes, state, scale));
}
