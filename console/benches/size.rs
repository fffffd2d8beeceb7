//! Benchmark of a large state: whether requests, a start and a copy take what they take when the
//! state is small.
//!
//! Three real replicas with synced disks on this machine; half of the values have 100 bytes, the
//! others 1 KiB. The same rows, of requests for any key, when there are few keys and when there are
//! many. Then a replica is killed and started again; and one loses its disk, so that a new replica
//! copies the whole state, beside what the disk takes: the same bytes in one synced file.
//!
//! `KVORUM_KEYS` sets the number of keys (20 million are 10.5 GiB of state for each replica), and
//! `KVORUM_BENCH_SECONDS` how long each row takes.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark is no library")]
#![allow(clippy::cast_precision_loss, reason = "figures are printed with few digits")]

use std::fs::{self, File};
use std::io::Write as _;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use kvorum_harness::cluster::{
    Cluster, fill, leader, memory_kib, number, random_value, status_within,
};
use kvorum_protocol::client::Route;
use kvorum_protocol::message::{Consistency, Scan};
use kvorum_protocol::status::{Role, Status};
use kvorum_protocol::{Client, Key, Value};
use tokio::task::JoinSet;

/// Tasks with one request in flight each.
const CLIENTS: u64 = 256;
/// The keys of the small state.
const FEW_KEYS: u64 = 10_000;
/// Bytes of a value, by turns; incompressible.
const VALUE_BYTES: [usize; 2] = [100, 1024];
/// Bytes of a key.
const KEY_BYTES: u64 = 16;
/// Keys of one page.
const PAGE_KEYS: u32 = 100;
/// The highest latency that is distinguished, in microseconds.
const LATENCY_MAX_US: u64 = 60_000_000;
/// How long a replica may take to copy the state.
const COPY_PATIENCE: Duration = Duration::from_secs(1800);
/// Time for background work to end.
const REST: Duration = Duration::from_secs(10);
const MIB: f64 = 1024.0 * 1024.0;

#[derive(Clone, Copy)]
enum Load {
    Put,
    Get,
    Scan,
}

fn key(number: u64) -> Key {
    Key::from(format!("key/{number:012}"))
}

fn value(number: u64) -> Value {
    random_value(VALUE_BYTES[usize::from(number % 2 == 1)])
}

async fn request(client: &Client, load: Load, number: u64) {
    match load {
        Load::Put => drop(client.put(key(number), value(number), &Route::Any).await.unwrap()),
        Load::Get => {
            let got = client.get(key(number), Consistency::Linearizable, &Route::Any).await;
            assert!(got.unwrap().is_some(), "key {number} is there");
        }
        Load::Scan => {
            let all = Scan::of("key/", Consistency::Linearizable);
            let page = Scan { limit: PAGE_KEYS, from: key(number).0.to_vec(), ..all };
            assert!(!client.scan(page, &Route::Any).await.unwrap().pairs.is_empty());
        }
    }
}

/// Runs requests for any of so many keys; returns how many a second, and prints a row.
async fn row(client: &Arc<Client>, load: Load, keys: u64, seconds: u64) -> f64 {
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut tasks = JoinSet::new();
    for _ in 0..CLIENTS {
        let client = Arc::clone(client);
        tasks.spawn(async move {
            let mut latencies = Histogram::<u64>::new_with_max(LATENCY_MAX_US, 3).unwrap();
            while Instant::now() < until {
                let (number, began) = (rand::random_range(0..keys), Instant::now());
                request(&client, load, number).await;
                latencies.saturating_record(u64::try_from(began.elapsed().as_micros()).unwrap());
            }
            latencies
        });
    }
    let mut all = Histogram::<u64>::new_with_max(LATENCY_MAX_US, 3).unwrap();
    for latencies in tasks.join_all().await {
        all.add(latencies).unwrap();
    }
    let name = match load {
        Load::Put => "put",
        Load::Get => "get",
        Load::Scan => "scan of 100",
    };
    let (rate, ms) = (all.len() as f64 / seconds as f64, |q| all.value_at_quantile(q) as f64 / 1e3);
    println!("{keys:>10} {name:>12} {rate:>9.0} {:>8.1} {:>8.1}", ms(0.5), ms(0.99));
    rate
}

/// Runs the rows; returns the rates.
async fn rows(client: &Arc<Client>, keys: u64, seconds: u64) -> [f64; 3] {
    let put = row(client, Load::Put, keys, seconds).await;
    let get = row(client, Load::Get, keys, seconds).await;
    [put, get, row(client, Load::Scan, keys, seconds).await]
}

/// Writes the keys of a range of numbers, each once.
async fn fill_with(client: &Arc<Client>, numbers: Range<u64>) {
    let (began, keys) = (Instant::now(), numbers.end);
    let rate = fill(client, numbers, 2 * CLIENTS, key, value).await;
    println!("filled with {keys} keys in {:.0} s: {rate:.0}/s", began.elapsed().as_secs_f64());
}

fn folder_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map_while(Result::ok);
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    bytes.sum()
}

/// Writes one synced file; returns how many MiB a second the disk takes.
fn disk_mib_per_second(folder: &Path, bytes: u64) -> f64 {
    let (path, mut part) = (folder.join("written"), vec![0; 8 << 20]);
    rand::fill(&mut part[..]);
    let began = Instant::now();
    let mut file = File::create(&path).unwrap();
    for _ in 0..bytes / part.len() as u64 {
        file.write_all(&part).unwrap();
    }
    file.sync_all().unwrap();
    let rate = bytes as f64 / MIB / began.elapsed().as_secs_f64();
    fs::remove_file(path).unwrap();
    rate
}

/// Kills a replica, and takes its disk away if asked to; returns how long after that it is ready.
async fn ready_again(cluster: &Cluster, client: &Client, name: &str, without_disk: bool) -> f64 {
    let route = Route::Through(name.to_owned());
    let of = |status: &Status| (status.replica, status.incarnation);
    let before = of(&client.status(&route).await.unwrap());
    if without_disk {
        cluster.take_folder_away(name);
    } else {
        cluster.kill(name);
    }
    let began = Instant::now();
    let is_back =
        |status: &Status| of(status) != before && status.role == Role::Follower && status.is_ready;
    status_within(client, &route, COPY_PATIENCE, is_back).await;
    began.elapsed().as_secs_f64()
}

async fn run(keys: u64, seconds: u64) {
    let cluster = Cluster::start(&["--replicas=3", "--tls=off"]);
    let client = cluster.client(Duration::from_secs(60));
    fill_with(&client, 0..FEW_KEYS).await;
    println!("{:>10} {:>12} {:>9} {:>8} {:>8}", "keys", "load", "a second", "p50 ms", "p99 ms");
    let small = rows(&client, FEW_KEYS, seconds).await;
    fill_with(&client, FEW_KEYS..keys).await;
    tokio::time::sleep(REST).await;
    let large = rows(&client, keys, seconds).await;
    let ratios = [0, 1, 2].map(|load| large[load] / small[load]);
    println!(
        "of the small state's: puts {:.2}, gets {:.2}, scans {:.2}",
        ratios[0], ratios[1], ratios[2]
    );
    for name in cluster.names() {
        let bytes = folder_bytes(&cluster.folder.join(&name)) as f64;
        let peak = memory_kib(cluster.process(&name).unwrap(), "VmHWM").unwrap() / 1024;
        println!("{name}: {:.0} MiB on the disk, memory {peak} MiB at most", bytes / MIB);
    }
    let leads = leader(&client).await;
    let name = cluster.names().into_iter().find(|name| *name != leads).unwrap();
    let took = ready_again(&cluster, &client, &name, false).await;
    println!("killed and ready again after {took:.1} s");
    let bytes = (0..2).map(|turn| VALUE_BYTES[turn] as u64 + KEY_BYTES).sum::<u64>() * keys / 2;
    let disk = disk_mib_per_second(&cluster.folder, bytes);
    let took = ready_again(&cluster, &client, &name, true).await;
    let copied = bytes as f64 / MIB / took;
    println!(
        "a new replica is in step after {took:.1} s: {copied:.0} MiB of keys and values a second, \
         {:.2} of the {disk:.0} that the disk takes",
        copied / disk
    );
}

fn main() {
    // `cargo test --benches` only checks that the benchmark runs.
    let is_test = std::env::args().any(|argument| argument == "--test");
    let (keys, seconds) = if is_test { (20_000, 1) } else { (2_000_000, 10) };
    let keys = number("KVORUM_KEYS", keys).max(FEW_KEYS);
    let seconds = number("KVORUM_BENCH_SECONDS", seconds);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(keys, seconds));
}
