//! Benchmark of how steady a leader is beside work that keeps the processors and the disk busy, and
//! how soon another one leads when it is killed.
//!
//! Three real replicas with synced disks on this machine, 200 writes a second. First the leader is
//! killed by SIGKILL, again and again, on a quiet machine: how long after the signal is the next
//! write acknowledged? Then, for some minutes, a thread writes files of a gibibyte beside the data,
//! synced and removed again, and two threads compile: a row a minute shows how often the leader
//! changed, and the longest time without an acknowledged write.
//!
//! `KVORUM_KILLS` sets how often the leader is killed, `KVORUM_MINUTES` how long the work goes on,
//! and `KVORUM_FILE_MIB` how large its files are. Compilations need `rustc` on the path; without it
//! the threads just compute.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark is no library")]
#![allow(clippy::cast_precision_loss, reason = "figures are printed with few digits")]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use kvorum_harness::cluster::{Cluster, leader, number, status_when};
use kvorum_protocol::client::Route;
use kvorum_protocol::status::Status;
use kvorum_protocol::{Client, Key, Value};

/// Writes a second, and the clients that take turns with them.
const PER_SECOND: f64 = 200.0;
const CLIENTS: usize = 64;
/// Functions of the program to compile: some seconds of work.
const FUNCTIONS: usize = 2_000;
/// Gaps longer than this are counted.
const GAP: Duration = Duration::from_millis(300);
/// The highest latency that is distinguished, in microseconds.
const LATENCY_MAX_US: u64 = 60_000_000;

/// The results of the writes since the last look.
struct Seen {
    acknowledged: Instant,
    gap: Duration,
    gaps: u64,
    latencies: Histogram<u64>,
}

impl Seen {
    fn new(acknowledged: Instant) -> Self {
        let latencies = Histogram::new_with_max(LATENCY_MAX_US, 3).unwrap();
        Self { acknowledged, gap: Duration::ZERO, gaps: 0, latencies }
    }

    fn acknowledge(&mut self, due: Instant) {
        let gap = self.acknowledged.elapsed();
        self.acknowledged = Instant::now();
        self.gap = self.gap.max(gap);
        self.gaps += u64::from(gap > GAP);
        let us = u64::try_from(due.elapsed().as_micros()).unwrap();
        self.latencies.record(us.min(LATENCY_MAX_US)).unwrap();
    }
}

/// Starts writes at a fixed rate that go on as long as the process lives.
fn begin_load(client: &Arc<Client>) -> Arc<Mutex<Seen>> {
    let seen = Arc::new(Mutex::new(Seen::new(Instant::now())));
    let (began, next) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    for _ in 0..CLIENTS {
        let (client, seen, next) = (Arc::clone(client), Arc::clone(&seen), Arc::clone(&next));
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let due = began + Duration::from_secs_f64(number as f64 / PER_SECOND);
                tokio::time::sleep_until(due.into()).await;
                let key = Key::from(format!("load/{}", number % 1000));
                client.put(key, Value::from("steady"), &Route::Any).await.unwrap();
                seen.lock().unwrap().acknowledge(due);
            }
        });
    }
    seen
}

/// The work beside the cluster, which goes on until this is dropped.
struct Disturbance {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Disturbance {
    fn begin(folder: &Path, file_mib: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let writer = (Arc::clone(&stop), folder.join("large"));
        let mut threads = vec![thread::spawn(move || write_files(&writer.0, &writer.1, file_mib))];
        for number in 0..2 {
            let (stop, folder) = (Arc::clone(&stop), folder.join(format!("compiled-{number}")));
            threads.push(thread::spawn(move || compile(&stop, &folder)));
        }
        Self { stop, threads }
    }
}

impl Drop for Disturbance {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

fn write_files(stop: &AtomicBool, path: &Path, mib: u64) {
    let mut block = vec![0; 1 << 20];
    rand::fill(&mut block[..]);
    while !stop.load(Ordering::Relaxed) {
        let mut file = File::create(path).unwrap();
        for _ in 0..mib {
            file.write_all(&block).unwrap();
        }
        file.sync_all().unwrap();
        fs::remove_file(path).unwrap();
    }
}

fn compile(stop: &AtomicBool, folder: &PathBuf) {
    fs::create_dir_all(folder).unwrap();
    let mut program = String::from("#![allow(dead_code)]\n");
    for number in 0..FUNCTIONS {
        writeln!(
            program,
            "pub fn f{number}(v: &mut Vec<(u64, String)>) {{ \
             v.push(({number}, format!(\"{{:?}}\", v))); v.sort(); \
             v.retain(|(n, s)| *n != {number} || s.len() > {number}); }}"
        )
        .unwrap();
    }
    fs::write(folder.join("lib.rs"), program).unwrap();
    while !stop.load(Ordering::Relaxed) {
        let mut rustc = Command::new("rustc");
        rustc.args(["--crate-type=lib", "-O", "--edition=2021", "lib.rs"]).current_dir(folder);
        let compiled = rustc.stdout(Stdio::null()).stderr(Stdio::null()).status();
        if compiled.is_err() {
            let until = Instant::now() + Duration::from_secs(1);
            while Instant::now() < until {
                std::hint::spin_loop();
            }
        }
    }
}

async fn all_are_linked(cluster: &Cluster, client: &Client) {
    let is_linked = |s: &Status| s.is_ready && s.links.iter().all(|link| link.is_up);
    for name in cluster.names() {
        status_when(client, &Route::Through(name), is_linked).await;
    }
}

/// Kills the leader again and again; returns the times until the next write, in milliseconds.
async fn kill_leaders(cluster: &Cluster, client: &Client, times: u64) -> Vec<f64> {
    let mut took = Vec::new();
    for number in 0..times {
        all_are_linked(cluster, client).await;
        let leader = leader(client).await;
        client.put(Key::from("kill"), Value::from("before"), &Route::Any).await.unwrap();
        let began = Instant::now();
        cluster.kill(&leader);
        let key = Key::from(format!("kill/{number}"));
        client.put(key, Value::from("after"), &Route::Any).await.unwrap();
        took.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    took.sort_by(f64::total_cmp);
    took
}

async fn run(kills: u64, minutes: f64, file_mib: u64) {
    let cluster = Cluster::start(&["--replicas=3"]);
    let client = cluster.client(Duration::from_secs(30));
    let took = kill_leaders(&cluster, &client, kills).await;
    if let Some(most) = took.last() {
        let (median, p90) = (took[took.len() / 2], took[took.len() * 9 / 10]);
        println!(
            "{kills} leaders killed; ms to the next write: median {median:.0}, p90 {p90:.0}, \
             most {most:.0}"
        );
    }
    all_are_linked(&cluster, &client).await;
    let work = tempfile::tempdir_in(cluster.folder.parent().unwrap()).unwrap();
    let seen = begin_load(&client);
    let _disturbance = Disturbance::begin(work.path(), file_mib);
    println!(
        "{:<8} {:>7} {:>8} {:>9} {:>9} {:>12} {:>8}  leader",
        "minute", "writes", "p50 ms", "p99 ms", "gap ms", "gaps>300 ms", "changes"
    );
    let (mut left, mut minute) = (minutes, 0);
    let mut ballot = client.status(&Route::Any).await.unwrap().ballot.number;
    while left > 0.0 {
        let time = left.min(1.0);
        (left, minute) = (left - time, minute + 1);
        let now = Instant::now();
        let before = seen.lock().unwrap().acknowledged.min(now);
        *seen.lock().unwrap() = Seen::new(before);
        tokio::time::sleep(Duration::from_secs_f64(time * 60.0)).await;
        let status = client.status(&Route::Any).await.unwrap();
        let seen = seen.lock().unwrap();
        let ms = |quantile| seen.latencies.value_at_quantile(quantile) as f64 / 1000.0;
        println!(
            "{minute:<8} {:>7} {:>8.1} {:>9.1} {:>9.0} {:>12} {:>8}  {}",
            seen.latencies.len(),
            ms(0.5),
            ms(0.99),
            seen.gap.as_secs_f64() * 1000.0,
            seen.gaps,
            status.ballot.number - ballot,
            status.leader.unwrap_or_default(),
        );
        ballot = status.ballot.number;
    }
}

fn main() {
    // `cargo test --benches` only checks that the benchmark runs.
    let is_test = std::env::args().any(|argument| argument == "--test");
    let (kills, minutes, mib) = if is_test { (2, 0, 16) } else { (200, 60, 1024) };
    let minutes = number("KVORUM_MINUTES", minutes) as f64;
    let minutes = if is_test { 0.05 } else { minutes };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (kills, mib) = (number("KVORUM_KILLS", kills), number("KVORUM_FILE_MIB", mib));
    runtime.block_on(run(kills, minutes, mib));
}
