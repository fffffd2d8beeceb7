//! Benchmark of a local cluster under load: puts a second, their latency, and syncs for each put.
//!
//! Three real replicas with synced disks on this machine, closed loop: each client has one put in
//! flight. The figures are meaningful only beside others of the same run on the same machine.
//! `KVORUM_BENCH_SECONDS` sets how long each row takes.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark is no library")]
#![allow(clippy::cast_precision_loss, reason = "figures are printed with few digits")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use kvorum_harness::cluster::Cluster;
use kvorum_protocol::client::Route;
use kvorum_protocol::message::Consistency;
use kvorum_protocol::{Client, Key, Value};
use kvorum_replica::transport::addresses::{Addresses, FILE_NAME};
use tokio::task::JoinSet;

/// Bytes of one value: incompressible, and the size that etcd's own benchmark uses.
const VALUE_BYTES: usize = 1024;
/// Keys that each client writes in turn.
const KEYS: u64 = 100;
/// The highest latency that is distinguished, in microseconds.
const LATENCY_MAX_US: u64 = 60_000_000;

#[derive(Clone, Copy)]
enum Load {
    Puts,
    Gets,
}

fn main() {
    // `cargo test --benches` only checks that the benchmark runs.
    let is_test = std::env::args().any(|argument| argument == "--test");
    let seconds = std::env::var("KVORUM_BENCH_SECONDS").ok().and_then(|text| text.parse().ok());
    let time = Duration::from_secs_f64(seconds.unwrap_or(if is_test { 0.2 } else { 10.0 }));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let cluster = Cluster::start(&[]);
    println!(
        "{:<6} {:>7} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10}",
        "load", "clients", "per s", "p50 ms", "p90 ms", "p99 ms", "max ms", "syncs/op"
    );
    for (name, load) in [("puts", Load::Puts), ("gets", Load::Gets)] {
        for clients in [1, 16, 256] {
            let client = cluster.client(Duration::from_secs(20));
            let before = syncs(&cluster);
            let began = Instant::now();
            let latencies = runtime.block_on(run(client, load, clients, time));
            let took = began.elapsed().as_secs_f64();
            let done = latencies.len();
            let syncs = (syncs(&cluster) - before) as f64 / done as f64;
            let ms = |us: u64| us as f64 / 1000.0;
            println!(
                "{name:<6} {clients:>7} {:>9.0} {:>9.2} {:>9.2} {:>9.2} {:>9.2} {syncs:>10.3}",
                done as f64 / took,
                ms(latencies.value_at_quantile(0.5)),
                ms(latencies.value_at_quantile(0.9)),
                ms(latencies.value_at_quantile(0.99)),
                ms(latencies.max()),
            );
        }
    }
}

async fn run(client: Arc<Client>, load: Load, clients: u64, time: Duration) -> Histogram<u64> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for number in 0..clients {
        let (client, stop) = (Arc::clone(&client), Arc::clone(&stop));
        tasks.spawn(async move {
            let mut latencies = Histogram::<u64>::new_with_max(LATENCY_MAX_US, 3).unwrap();
            let mut value = vec![0; VALUE_BYTES];
            for turn in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let key = Key::from(format!("key/{number}/{}", turn % KEYS));
                rand::fill(&mut value[..]);
                let began = Instant::now();
                match load {
                    Load::Puts => drop(
                        client.put(key, Value::from(value.clone()), &Route::Any).await.unwrap(),
                    ),
                    Load::Gets => {
                        drop(
                            client.get(key, Consistency::Linearizable, &Route::Any).await.unwrap(),
                        );
                    }
                }
                let us = u64::try_from(began.elapsed().as_micros()).unwrap();
                latencies.record(us.min(LATENCY_MAX_US)).unwrap();
            }
            latencies
        });
    }
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let mut all = Histogram::<u64>::new_with_max(LATENCY_MAX_US, 3).unwrap();
    for latencies in tasks.join_all().await {
        all.add(latencies).unwrap();
    }
    all
}

/// Returns the number of syncs of all replicas so far, according to their metrics.
fn syncs(cluster: &Cluster) -> u64 {
    let of = |name: &String| {
        let addresses = Addresses::read(&cluster.folder.join(name).join(FILE_NAME)).unwrap();
        let mut stream = TcpStream::connect(addresses.http).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("kvorum_syncs_total "));
        line.unwrap().parse::<u64>().unwrap()
    };
    cluster.names().iter().map(of).sum()
}
