//! Benchmark beside etcd: the same requests, by the same harness, in turn.
//!
//! Three replicas of each on this machine, both with synced disks and without encryption; one
//! client program for both. Rows of both alternate, so that what else the machine does meets both;
//! what counts are the ratios of a run. `ETCD` names etcd's program, `KVORUM_ROUNDS` the number of
//! rounds, `KVORUM_BENCH_SECONDS` how long each row takes, `KVORUM_ROWS` a part of the names of the
//! rows to measure, and `KVORUM_PICTURE` the file for a picture of the ratios.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark is no library")]
#![allow(clippy::cast_precision_loss, reason = "figures are printed with few digits")]

mod etcd;
mod etcd_client;
mod picture;
mod servers;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use kvorum_harness::cluster::{Cluster, number, random_value};
use kvorum_protocol::client::Route;
use kvorum_protocol::message::Consistency;
use kvorum_protocol::{Client, Key};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use etcd::Etcd;
use etcd_client::EtcdClient;
use servers::{Servers, Usage};

/// Keys that are written, by turns.
const KEYS: u64 = 10_000;
/// The highest latency that is distinguished, in microseconds.
const LATENCY_MAX_US: u64 = 60_000_000;
/// Time for a store to settle between two rows.
const REST: Duration = Duration::from_millis(500);

/// A row of the table.
#[derive(Clone, Copy)]
struct Row {
    load: Load,
    clients: u64,
    value_bytes: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Load {
    /// Puts, each client with one in flight.
    Put,
    /// Puts that are due at a fixed rate, each second this many, their latency counted from when
    /// they are due.
    PutAt(u64),
    /// Linearizable gets, each client with one in flight.
    Get,
}

const ROWS: [Row; 12] = [
    Row { load: Load::Put, clients: 1, value_bytes: 1024 },
    Row { load: Load::Put, clients: 16, value_bytes: 1024 },
    Row { load: Load::Put, clients: 256, value_bytes: 1024 },
    Row { load: Load::Put, clients: 500, value_bytes: 1024 },
    Row { load: Load::PutAt(1000), clients: 256, value_bytes: 1024 },
    Row { load: Load::Get, clients: 1, value_bytes: 1024 },
    Row { load: Load::Get, clients: 16, value_bytes: 1024 },
    Row { load: Load::Get, clients: 256, value_bytes: 1024 },
    Row { load: Load::Get, clients: 500, value_bytes: 1024 },
    Row { load: Load::Put, clients: 256, value_bytes: 64 },
    Row { load: Load::Put, clients: 4, value_bytes: 100_000 },
    Row { load: Load::Put, clients: 16, value_bytes: 1_000_000 },
];

impl Row {
    fn name(&self) -> String {
        let size = match self.value_bytes {
            1024 => String::new(),
            bytes if bytes >= 1_000_000 => format!(" {} MB", bytes / 1_000_000),
            bytes if bytes >= 1000 => format!(" {} kB", bytes / 1000),
            bytes => format!(" {bytes} B"),
        };
        match self.load {
            Load::Put => format!("put{size}, {}", self.clients),
            Load::PutAt(rate) => format!("put{size} at {rate}/s"),
            Load::Get => format!("get{size}, {}", self.clients),
        }
    }
}

/// A way to one of the stores.
#[derive(Clone)]
enum Store {
    Kvorum(Arc<Client>),
    Etcd(EtcdClient),
}

impl Store {
    async fn put(&mut self, key: String, bytes: usize) {
        let value = random_value(bytes);
        match self {
            Self::Kvorum(client) => {
                client.put(Key::from(key), value, &Route::Any).await.unwrap();
            }
            Self::Etcd(client) => client.put(&key, &value.0).await.unwrap(),
        }
    }

    async fn get(&mut self, key: String) {
        match self {
            Self::Kvorum(client) => {
                let key = Key::from(key);
                client.get(key, Consistency::Linearizable, &Route::Any).await.unwrap();
            }
            Self::Etcd(client) => drop(client.get(&key).await.unwrap()),
        }
    }
}

/// What one store showed in one row.
struct Figures {
    latencies: Histogram<u64>,
    seconds: f64,
    usage: Usage,
}

impl Figures {
    fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.seconds
    }

    fn ms(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1000.0
    }

    fn each(&self, what: f64) -> f64 {
        what / self.latencies.len().max(1) as f64
    }
}

fn main() {
    // `cargo test --benches` only checks that the benchmark runs, where there is an etcd.
    let is_test = std::env::args().any(|argument| argument == "--test");
    let (rounds, seconds) = if is_test { (1, 1) } else { (5, 5) };
    let rounds = number("KVORUM_ROUNDS", rounds);
    let time = Duration::from_secs(number("KVORUM_BENCH_SECONDS", seconds));
    let Some(etcd) = Etcd::start() else {
        println!("there is no etcd: name its program with ETCD");
        return;
    };
    let kvorum = Cluster::start(&["--replicas=3", "--tls=off"]);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let client = kvorum.client(Duration::from_secs(30));
    let other = runtime.block_on(etcd.client());
    let replicas = kvorum.names().iter().map(|name| kvorum.process(name).unwrap()).collect();
    let stores = [
        (Store::Kvorum(client), Servers(replicas)),
        (Store::Etcd(other), Servers(etcd.processes())),
    ];
    println!("kvorum {}, {}; {rounds} rounds", env!("CARGO_PKG_VERSION"), etcd.version());
    let wanted = std::env::var("KVORUM_ROWS").unwrap_or_default();
    let rows = ROWS.into_iter().filter(|row| row.name().contains(&wanted));
    let mut results: Vec<(Row, Vec<[Figures; 2]>)> = rows.map(|row| (row, Vec::new())).collect();
    for _ in 0..rounds {
        for (row, rounds) in &mut results {
            let pair = [0, 1].map(|store| {
                let (store, servers) = &stores[store];
                runtime.block_on(measure(store, servers, *row, time))
            });
            rounds.push(pair);
        }
    }
    print(&results, &stores.map(|(_, servers)| servers.peak_mib()));
    if let Ok(path) = std::env::var("KVORUM_PICTURE") {
        let bars = results.iter().map(|(row, rounds)| (row.name(), ratio(rounds)));
        let title = format!("requests a second beside {}", etcd.version());
        std::fs::write(path, picture::draw(&title, &bars.collect::<Vec<_>>())).unwrap();
    }
}

async fn measure(store: &Store, servers: &Servers, row: Row, time: Duration) -> Figures {
    tokio::time::sleep(REST).await;
    let before = servers.usage();
    let began = Instant::now();
    let latencies = run(store, row, time).await;
    let seconds = began.elapsed().as_secs_f64();
    Figures { latencies, seconds, usage: servers.usage() - before }
}

async fn run(store: &Store, row: Row, time: Duration) -> Histogram<u64> {
    let start = Instant::now();
    let until = start + time;
    let turns = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..row.clients {
        let (mut store, turns) = (store.clone(), Arc::clone(&turns));
        tasks.spawn(async move {
            let mut latencies = histogram();
            loop {
                let turn = turns.fetch_add(1, Ordering::Relaxed);
                let mut began = Instant::now();
                if let Load::PutAt(rate) = row.load {
                    began = start + Duration::from_secs_f64(turn as f64 / rate as f64);
                }
                if began >= until {
                    return latencies;
                }
                if matches!(row.load, Load::PutAt(_)) {
                    sleep_until(began.into()).await;
                }
                let key = format!("key/{:06}", turn.wrapping_mul(7919) % KEYS);
                match row.load {
                    Load::Get => store.get(key).await,
                    Load::Put | Load::PutAt(_) => store.put(key, row.value_bytes).await,
                }
                let us = u64::try_from(began.elapsed().as_micros()).unwrap();
                latencies.record(us.min(LATENCY_MAX_US)).unwrap();
            }
        });
    }
    let mut all = histogram();
    for latencies in tasks.join_all().await {
        all.add(latencies).unwrap();
    }
    all
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LATENCY_MAX_US, 3).unwrap()
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// Returns the ratio of each round, from the smallest to the largest.
fn ratios(rounds: &[[Figures; 2]]) -> Vec<f64> {
    let ratio = |[ours, theirs]: &[Figures; 2]| ours.per_second() / theirs.per_second();
    let mut ratios: Vec<f64> = rounds.iter().map(ratio).collect();
    ratios.sort_by(f64::total_cmp);
    ratios
}

fn ratio(rounds: &[[Figures; 2]]) -> f64 {
    median(ratios(rounds))
}

/// Prints the table: medians of the rounds, Kvorum's first, and the ratios of the rounds. Processor
/// time and KiB written to the disk are of all three servers together, for each request.
fn print(results: &[(Row, Vec<[Figures; 2]>)], peak_mib: &[u64; 2]) {
    println!("| load, clients | a second | ratio of each round | p50 ms | p99 ms | CPU ms | KiB |");
    println!("|---|---|---|---|---|---|---|");
    for (row, rounds) in results {
        let of = |store: usize, what: &dyn Fn(&Figures) -> f64| {
            median(rounds.iter().map(|pair| what(&pair[store])).collect())
        };
        let both = |what: &dyn Fn(&Figures) -> f64, digits: usize| {
            format!("{:.digits$} / {:.digits$}", of(0, what), of(1, what))
        };
        let ratios: Vec<_> = ratios(rounds).iter().map(|ratio| format!("{ratio:.2}")).collect();
        println!(
            "| {} | {} | {} | {} | {} | {} | {} |",
            row.name(),
            both(&|figures| figures.per_second(), 0),
            ratios.join(", "),
            both(&|figures| figures.ms(0.5), 2),
            both(&|figures| figures.ms(0.99), 1),
            both(&|figures| figures.each(figures.usage.cpu_ms), 3),
            both(&|figures| figures.each(figures.usage.written_kib), 1),
        );
    }
    println!("memory at the most, MiB: {} / {}", peak_mib[0], peak_mib[1]);
}
