//! Benchmark of the console on a screen: its first frame, idling, keys under load, pages of keys.
//!
//! Each row starts the program in a pseudo-terminal and measures at the terminal's other end: from
//! the key that is written to the screen that shows its effect. `load` and `keys in memory` start
//! this program on a cluster in memory, so their memory is that of the console and of the cluster
//! together. `KVORUM_BENCH_SECONDS` sets how long the timed rows take, by default 60.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark is no library")]
#![allow(clippy::cast_precision_loss, reason = "figures are printed with few digits")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use kvorum::app::{App, Settings};
use kvorum::backend::Backend;
use kvorum_harness::cluster::{Cluster, memory_kib};
use kvorum_harness::memory::Memory;
use kvorum_harness::terminal::{Terminal, kvorum, this_program};
use kvorum_protocol::client::Route;
use kvorum_protocol::{Key, Value};
use rand::RngExt;
use rustix::process::{Pid, Signal, kill_process};

/// The environment variable that sets the role of this program.
const ROLE: &str = "KVORUM_BENCH_ROLE";
/// Writes a second under load.
const LOAD: u64 = 5000;
/// Writes a second while the log is being filled.
const FILL: u64 = 50_000;
/// Clock ticks of a second in `/proc/PID/stat` (`USER_HZ`; the same on every Linux in use).
const TICKS: f64 = 100.0;
/// Puts in flight while the keys are written.
const PUTS: u64 = 200;

/// The amount of each kind of work.
struct Scale {
    time: Duration,
    starts: usize,
    entries: u64,
    keys: u64,
    pages: usize,
}

fn main() {
    if let Ok(role) = std::env::var(ROLE) {
        return be(&role);
    }
    // `cargo test --benches` only checks that the benchmark runs.
    let is_test = std::env::args().any(|argument| argument == "--test");
    let seconds = std::env::var("KVORUM_BENCH_SECONDS").ok().and_then(|text| text.parse().ok());
    let time = Duration::from_secs_f64(seconds.unwrap_or(if is_test { 1.0 } else { 60.0 }));
    let scale = match is_test {
        true => Scale { time, starts: 2, entries: 10_000, keys: 2000, pages: 2 },
        false => Scale { time, starts: 50, entries: 1_000_000, keys: 100_000, pages: 50 },
    };
    starts(&scale);
    idle(&scale);
    load(&scale);
    keys_in_memory(&scale);
    keys_on_replicas(&scale);
}

/// Runs a console on a cluster in memory: `load ENTRIES` or `keys COUNT`.
fn be(role: &str) {
    let (what, count) = role.split_once(' ').unwrap();
    let (is_load, count) = (what == "load", count.parse::<u64>().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let memory = Memory::new(3, if is_load { 0 } else { count });
        let loaded = Arc::clone(&memory);
        if is_load {
            tokio::spawn(async move {
                Arc::clone(&loaded).load(FILL, count).await;
                loaded.load(LOAD, u64::MAX).await;
            });
        }
        let attach = Box::new(move |_| -> kvorum::probe::Task<_> {
            let memory: Arc<dyn Backend> = Arc::<Memory>::clone(&memory);
            Box::pin(std::future::ready(Ok(memory)))
        });
        let console = kvorum::console::on_screen(App::new(Settings::default()), attach).unwrap();
        Box::pin(console.run()).await.unwrap();
    });
}

fn starts(scale: &Scale) {
    let mut took = times();
    for _ in 0..scale.starts {
        let folder = tempfile::tempdir().unwrap();
        let mut terminal = Terminal::local(folder.path());
        terminal.wait_for(" kvorum ");
        note(&mut took, terminal.began.elapsed());
        terminal.paste("q");
        terminal.wait_for_end();
    }
    print(&format!("first frame of `kvorum local`, {} starts", scale.starts), &took);
}

fn idle(scale: &Scale) {
    let folder = tempfile::tempdir().unwrap();
    let terminal = Terminal::local(folder.path());
    terminal.wait_for("3/3 ready");
    std::thread::sleep(Duration::from_secs(2).min(scale.time));
    let (began, before, frames) = (Instant::now(), cpu(terminal.process()), terminal.frames());
    std::thread::sleep(scale.time);
    let used = cpu(terminal.process()) - before;
    let took = began.elapsed().as_secs_f64();
    println!(
        "idle for {took:.0} s: {:.2} % of a core, {} frames, {} MiB",
        100.0 * used / took,
        terminal.frames() - frames,
        memory_kib(terminal.process(), "VmRSS").unwrap() / 1024,
    );
    end(terminal);
}

fn load(scale: &Scale) {
    let role = format!("load {}", scale.entries);
    let mut terminal = Terminal::start(this_program(&[], (ROLE, &role)));
    let is_full = |text: &str| {
        let mut numbers = text.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
        numbers.any(|number| number > scale.entries)
    };
    terminal.wait_until("how many entries there are", is_full);
    let (began, frames) = (Instant::now(), terminal.frames());
    std::thread::sleep(scale.time / 2);
    let frames = (terminal.frames() - frames) as f64 / began.elapsed().as_secs_f64();
    let before = cpu(terminal.process());
    let (mut took, began) = (times(), Instant::now());
    let mut random = rand::rng();
    terminal.paste(":");
    while began.elapsed() < scale.time / 2 {
        let mut typed = String::from("get k");
        terminal.press(&typed);
        terminal.wait_for(&typed);
        for _ in 0..40 {
            std::thread::sleep(Duration::from_millis(random.random_range(1..30)));
            let key = char::from(random.random_range(b'a'..=b'z'));
            typed.push(key);
            let pressed = Instant::now();
            terminal.paste(&key.to_string());
            terminal.wait_for(&typed);
            note(&mut took, pressed.elapsed());
        }
        terminal.paste("\u{15}");
        terminal.wait_until("an empty prompt", |text| !text.contains("get k"));
    }
    let used = 100.0 * (cpu(terminal.process()) - before) / began.elapsed().as_secs_f64();
    print(&format!("key to screen at {LOAD} writes a second"), &took);
    println!(
        "at {LOAD} writes a second, {} entries before: {frames:.1} frames a second without keys, \
         {used:.0} % of a core with them, {} MiB, at most {} MiB",
        scale.entries,
        memory_kib(terminal.process(), "VmRSS").unwrap() / 1024,
        memory_kib(terminal.process(), "VmHWM").unwrap() / 1024,
    );
    end(terminal);
}

fn keys_in_memory(scale: &Scale) {
    let role = format!("keys {}", scale.keys);
    let terminal = Terminal::start(this_program(&[], (ROLE, &role)));
    keys(terminal, scale, "in memory");
}

fn keys_on_replicas(scale: &Scale) {
    let cluster = Cluster::start(&[]);
    let client = cluster.client(Duration::from_secs(20));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for first in 0..PUTS {
            let (client, keys) = (Arc::clone(&client), scale.keys);
            tasks.spawn(async move {
                for number in (first..keys).step_by(usize::try_from(PUTS).unwrap()) {
                    let key = Key::from(format!("user:{number:07}"));
                    let value = Value::from(format!("value of {number}").into_bytes());
                    client.put(key, value, &Route::Any).await.unwrap();
                }
            });
        }
        tasks.join_all().await;
    });
    let terminal = Terminal::start(kvorum(&["--local", cluster.folder.to_str().unwrap()]));
    keys(terminal, scale, "on three replicas");
}

/// Measures opening, filtering and paging keys.
fn keys(mut terminal: Terminal, scale: &Scale, place: &str) {
    terminal.wait_for("3/3 ready");
    let (mut opened, mut filtered, mut paged) = (times(), times(), times());
    let pressed = Instant::now();
    terminal.paste("3z");
    terminal.wait_for("keys, page 1");
    note(&mut opened, pressed.elapsed());
    for page in 2..scale.pages + 2 {
        terminal.paste("G");
        terminal.wait_for(&format!("{:07}", 500 * (page - 1) - 1));
        let pressed = Instant::now();
        terminal.paste("\u{1b}[6~");
        terminal.wait_for(&format!("page {page}"));
        note(&mut paged, pressed.elapsed());
    }
    for number in 0..scale.pages {
        let text = format!("user:{:05}", number % usize::try_from(scale.keys / 100).unwrap());
        terminal.paste("/");
        terminal.press(&text);
        let pressed = Instant::now();
        terminal.paste("\r");
        terminal.wait_until(&text, |screen| {
            let rows = screen.matches(&text).count();
            screen.contains("100 keys, page 1") && rows > 10
        });
        note(&mut filtered, pressed.elapsed());
        let pressed = Instant::now();
        terminal.paste("\u{1b}");
        terminal.wait_for("500 keys, page 1");
        note(&mut opened, pressed.elapsed());
    }
    let what = format!("of {} keys {place}", scale.keys);
    print(&format!("open a page {what}"), &opened);
    print(&format!("filter {what}"), &filtered);
    print(&format!("next page {what}"), &paged);
    end(terminal);
}

fn end(mut terminal: Terminal) {
    kill_process(terminal.process(), Signal::TERM).unwrap();
    terminal.wait_for_end();
}

fn times() -> Histogram<u64> {
    Histogram::new(3).unwrap()
}

fn note(times: &mut Histogram<u64>, took: Duration) {
    times.record(u64::try_from(took.as_micros()).unwrap()).unwrap();
}

fn print(what: &str, times: &Histogram<u64>) {
    let ms = |quantile: f64| times.value_at_quantile(quantile) as f64 / 1000.0;
    println!(
        "{what}: p50 {:.1} p95 {:.1} p99 {:.1} max {:.1} ms ({} times)",
        ms(0.5),
        ms(0.95),
        ms(0.99),
        ms(1.0),
        times.len(),
    );
}

/// Returns the seconds of a core that a process has used.
fn cpu(process: Pid) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).unwrap();
    let fields = stat.rsplit_once(") ").unwrap().1;
    let ticks = fields.split(' ').skip(11).take(2).map(|field| field.parse::<f64>().unwrap());
    ticks.sum::<f64>() / TICKS
}
