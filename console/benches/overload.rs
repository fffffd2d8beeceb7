//! Benchmark of overload: how much is served when ten times as much is asked for, and what is left
//! for a client that asks for little?
//!
//! Three real replicas with synced disks on this machine, puts of 1 KiB in a closed loop. The first
//! row is a load at the peak; the second, of ten times as many writers. The third is a modest
//! client of its own user alone, and the last two are both at the same time.
//!
//! `KVORUM_WRITERS` sets how many writers reach the peak, and `KVORUM_BENCH_SECONDS` how long each
//! row takes.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark is no library")]
#![allow(clippy::cast_precision_loss, reason = "figures are printed with few digits")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use kvorum_harness::cluster::{Cluster, number, random_value, said, status_when};
use kvorum_protocol::client::Route;
use kvorum_protocol::{Client, Key};
use tokio::task::JoinSet;

/// How many times the writers that reach the peak.
const TIMES: u64 = 10;
/// The writers that share a connection.
const SHARING: u64 = 500;
/// The writers of the modest client.
const MODEST: u64 = 16;
/// How long a client tries one write.
const DEADLINE: Duration = Duration::from_secs(30);
const VALUE_BYTES: usize = 1024;
/// The longest time that a histogram holds, in microseconds.
const LONGEST_US: u64 = 60_000_000;

/// Makes users that may write, with their certificates.
fn make_users(cluster: &Cluster, folder: &Path, users: &[&str]) {
    let run = |words: &[&str]| {
        let (status, out, err) = said(&cluster.run(words));
        assert_eq!(status, 0, "{words:?}: {out}{err}");
    };
    for user in users {
        run(&["grant", user, "readwrite", "bench/", "--prefix"]);
        run(&["certs", "make", "--client", user, "--out", folder.to_str().unwrap()]);
    }
}

/// The writers of one user.
#[derive(Clone, Copy)]
struct Load {
    user: &'static str,
    writers: u64,
}

/// The result of a load.
struct Served {
    latencies: Histogram<u64>,
    failed: u64,
}

async fn write(clients: Vec<Arc<Client>>, load: Load, until: Instant) -> Served {
    let (value, failed) = (random_value(VALUE_BYTES), Arc::new(AtomicU64::new(0)));
    let mut writers = JoinSet::new();
    for writer in 0..load.writers {
        let client = Arc::clone(&clients[usize::try_from(writer / SHARING).unwrap()]);
        let (user, value, failed) = (load.user, value.clone(), Arc::clone(&failed));
        writers.spawn(async move {
            let mut took = Vec::new();
            while Instant::now() < until {
                let began = Instant::now();
                let key = Key::from(format!("bench/{user}/{writer}/{}", took.len() % 16));
                match client.put(key, value.clone(), &Route::Any).await {
                    Ok(_) if Instant::now() < until => took.push(began.elapsed()),
                    Ok(_) => {}
                    Err(_) => drop(failed.fetch_add(1, Ordering::Relaxed)),
                }
            }
            took
        });
    }
    let mut latencies = Histogram::new_with_max(LONGEST_US, 3).unwrap();
    for took in writers.join_all().await.into_iter().flatten() {
        latencies.saturating_record(u64::try_from(took.as_micros()).unwrap());
    }
    Served { latencies, failed: failed.load(Ordering::Relaxed) }
}

/// Runs loads at the same time, and prints and returns what was served of each, a second.
async fn row(cluster: &Cluster, folder: &Path, loads: &[Load], seconds: u64) -> Vec<f64> {
    let mut all = JoinSet::new();
    let until = Instant::now() + Duration::from_secs(seconds);
    for (place, load) in loads.iter().enumerate() {
        let certificate = folder.join(format!("client-{}", load.user));
        let clients = (0..load.writers.div_ceil(SHARING))
            .map(|_| Arc::new(cluster.client_by(&certificate, DEADLINE)))
            .collect();
        let load = *load;
        all.spawn(async move { (place, write(clients, load, until).await) });
    }
    let mut served = all.join_all().await;
    served.sort_by_key(|(place, _)| *place);
    let mut rates = Vec::new();
    for ((_, served), load) in served.iter().zip(loads) {
        let rate = served.latencies.len() as f64 / seconds as f64;
        let ms = |quantile| served.latencies.value_at_quantile(quantile) as f64 / 1000.0;
        println!(
            "{:>8} {:>8} {rate:>9.0} {:>8.1} {:>8.1} {:>8.0} {:>7}",
            load.user,
            load.writers,
            ms(0.5),
            ms(0.99),
            ms(1.0),
            served.failed
        );
        rates.push(rate);
    }
    rates
}

async fn run(writers: u64, seconds: u64) {
    let cluster = Cluster::start(&["--replicas=3"]);
    let folder = tempfile::tempdir().unwrap();
    make_users(&cluster, folder.path(), &["greedy", "modest"]);
    let client = cluster.client(DEADLINE);
    let leads = |status: &kvorum_protocol::status::Status| status.leader.is_some();
    let before = status_when(&client, &Route::Any, leads).await;
    let greedy = |writers| Load { user: "greedy", writers };
    let modest = || Load { user: "modest", writers: MODEST };
    println!(
        "{:>8} {:>8} {:>9} {:>8} {:>8} {:>8} {:>7}",
        "user", "writers", "writes/s", "p50 ms", "p99 ms", "max ms", "failed"
    );
    let peak = row(&cluster, folder.path(), &[greedy(writers)], seconds).await[0];
    let over = row(&cluster, folder.path(), &[greedy(TIMES * writers)], seconds).await[0];
    let alone = row(&cluster, folder.path(), &[modest()], seconds).await[0];
    let both = [greedy(TIMES * writers), modest()];
    let both = row(&cluster, folder.path(), &both, seconds).await;
    let after = client.status(&Route::Any).await.unwrap();
    println!("served of the peak: {:.2}", over / peak);
    println!("served of the peak, with the modest client: {:.2}", (both[0] + both[1]) / peak);
    println!("the modest client beside the load, of what it has alone: {:.2}", both[1] / alone);
    println!("changes of leader: {}", after.ballot.number - before.ballot.number);
}

fn main() {
    // `cargo test --benches` only checks that the benchmark runs.
    let is_test = std::env::args().any(|argument| argument == "--test");
    let (writers, seconds) = if is_test { (50, 1) } else { (500, 10) };
    let writers = number("KVORUM_WRITERS", writers);
    let seconds = number("KVORUM_BENCH_SECONDS", seconds);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(writers, seconds));
}
