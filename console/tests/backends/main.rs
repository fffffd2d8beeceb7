//! Tests of the console in a real terminal on special backends: one that panics, one under load.
//!
//! This program starts itself in a pseudo-terminal; `ROLE` then makes it a console. Local clusters
//! start it once more as their replicas.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvorum::app::{App, Settings};
use kvorum::backend::Backend;
use kvorum::backend::cluster::RealCluster;
use kvorum::exit::{Exit, Failure};
use kvorum::local::Plan;
use kvorum::message::{Call, Place, Reply};
use kvorum::probe::Store;
use kvorum::probe::Task;
use kvorum::sink::Sink;
use kvorum_harness::memory::Memory;
use kvorum_harness::terminal::{END, Terminal, replicas, this_program, wait_until_gone};

/// The environment variable that sets the role of this program.
const ROLE: &str = "KVORUM_TEST_ROLE";
/// The minimum time between two frames of data that the console guarantees.
const DATA_INTERVAL: Duration = Duration::from_millis(100);
/// Writes a second under load.
const LOAD: u64 = 5000;

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|word| word == "replica") {
        return kvorum::run();
    }
    if let Ok(role) = std::env::var(ROLE) {
        be(&role);
        return ExitCode::SUCCESS;
    }
    for place in ["call", "watch", "thread", "blocking", "loop"] {
        a_panic_gives_the_terminal_back_and_leaves_no_process(place);
        println!("a panic in {place} gives the terminal back and leaves no process ... ok");
    }
    data_is_drawn_at_most_ten_times_a_second();
    println!("data is drawn at most ten times a second ... ok");
    ExitCode::SUCCESS
}

/// Runs a console on the backend of a role: `load`, or `WHERE FOLDER` for one that panics.
fn be(role: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (place, folder) = role.split_once(' ').unwrap_or((role, ""));
    let (place, folder) = (place.to_owned(), folder.to_owned());
    let attach = Box::new(move |_| -> Task<Result<Arc<dyn Backend>, Failure>> {
        if place == "load" {
            let memory = Memory::new(3, 0);
            tokio::spawn(Arc::clone(&memory).load(LOAD, u64::MAX));
            let memory: Arc<dyn Backend> = memory;
            return Box::pin(std::future::ready(Ok(memory)));
        }
        let plan = Plan {
            data: Some(Path::new(&folder).to_owned()),
            disk_reserve: "1MiB".to_owned(),
            ..Plan::default()
        };
        let place = place.clone();
        Box::pin(async move {
            let started = RealCluster::start(&plan, Duration::from_secs(5), None).await?;
            let backend: Arc<dyn Backend> = Arc::new(Panics { inner: Arc::new(started), place });
            Ok(backend)
        })
    });
    runtime.block_on(async {
        let console = kvorum::console::on_screen(App::new(Settings::default()), attach).unwrap();
        Box::pin(console.run()).await.unwrap();
    });
}

/// A cluster whose backend panics on a request to get a key.
struct Panics {
    inner: Arc<RealCluster>,
    place: String,
}

impl Backend for Panics {
    fn place(&self) -> Place {
        self.inner.place()
    }

    fn watch(self: Arc<Self>, sink: Sink) -> Task<()> {
        if self.place != "watch" {
            return Arc::clone(&self.inner).watch(sink);
        }
        Box::pin(async move {
            let watch = Arc::clone(&self.inner).watch(sink);
            let _ = tokio::time::timeout(Duration::from_secs(1), watch).await;
            panic!("in a watch");
        })
    }

    fn call(self: Arc<Self>, call: Call) -> Task<Result<Reply, Failure>> {
        if !matches!(call, Call::Get { .. }) {
            return Arc::clone(&self.inner).call(call);
        }
        match self.place.as_str() {
            "call" => return Box::pin(async { panic!("in a call") }),
            "thread" => drop(std::thread::spawn(|| panic!("in a thread"))),
            "blocking" => drop(tokio::task::spawn_blocking(|| panic!("in blocking"))),
            // The console's loop itself creates the future.
            "loop" => panic!("in the loop"),
            _ => {}
        }
        Box::pin(std::future::pending())
    }

    fn store(self: Arc<Self>) -> Arc<dyn Store> {
        Arc::clone(&self.inner).store()
    }

    fn stop(self: Arc<Self>) -> Task<()> {
        Arc::clone(&self.inner).stop()
    }
}

fn a_panic_gives_the_terminal_back_and_leaves_no_process(place: &str) {
    let folder = tempfile::tempdir().unwrap();
    let role = format!("{place} {}", folder.path().to_str().unwrap());
    let mut terminal = Terminal::start(this_program(&[], (ROLE, &role)));
    let mut running = Vec::new();
    // In the watch the panic happens by itself.
    if place != "watch" {
        terminal.wait_for("3/3 ready");
        running = replicas(folder.path());
        assert_eq!(running.len(), 3, "{place}");
        terminal.press(":get a\r");
    }
    let (took, status) = terminal.wait_for_end();
    assert_eq!(status, u32::from(Exit::Bug as u8), "{place}");
    assert!(place == "watch" || took < END, "{place}: {took:?}");
    assert!(terminal.is_restored() && terminal.has_plain_line(), "{place}");
    let said = terminal.text();
    assert!(said.contains("this is a bug in kvorum") && said.contains("panicked"), "{said}");
    wait_until_gone(&running, place);
}

fn data_is_drawn_at_most_ten_times_a_second() {
    let mut terminal = Terminal::start(this_program(&[], (ROLE, "load")));
    terminal.wait_for("3/3 ready");
    let (began, before) = (Instant::now(), terminal.frames());
    std::thread::sleep(Duration::from_secs(3));
    let drawn = terminal.frames() - before;
    // One more frame may be in progress at each end.
    let most = began.elapsed().as_millis() / DATA_INTERVAL.as_millis() + 2;
    assert!(u128::from(drawn) <= most && drawn > 0, "{drawn} frames, at most {most}");
    terminal.press("q");
    terminal.wait_for_end();
    assert!(terminal.is_restored());
}
