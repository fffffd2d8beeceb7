//! A local cluster of real processes, as `kvorum local` runs it, for tests.

use std::fs;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvorum_protocol::client::{Options, Route};
use kvorum_protocol::message::{Pair, Scan};
use kvorum_protocol::status::Status;
use kvorum_protocol::{Client, Key, Value};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::task::JoinSet;

pub use crate::PATIENCE;
use crate::{SETTINGS, program};

/// Returns a command for the program under test.
pub fn kvorum() -> Command {
    let mut command = Command::new(program());
    without_settings(&mut command);
    command
}

/// Returns a command for the program under test, started by a shell after a line of commands.
pub fn kvorum_after(line: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{line}; exec \"$0\" \"$@\"")).arg(program());
    without_settings(&mut command);
    command
}

/// Removes the settings of this machine's user from a command's environment.
fn without_settings(command: &mut Command) {
    for name in SETTINGS {
        command.env_remove(name);
    }
}

/// Returns the last lines of each replica's log, for a test that fails.
fn log_tails(folder: &Path) -> String {
    const LINES: usize = 25;
    let tail = |entry: fs::DirEntry| {
        let log = fs::read_to_string(entry.path().join("log")).ok()?;
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LINES)..].join("\n");
        Some(format!("{}\n{tail}\n", entry.file_name().display()))
    };
    fs::read_dir(folder).into_iter().flatten().flatten().filter_map(tail).collect()
}

/// A running local cluster; dropping it ends its processes.
pub struct Cluster {
    /// The folder of all its replicas.
    pub folder: PathBuf,
    supervisor: Child,
    /// The folder's owner, removed when the cluster has ended.
    temporary: Option<TempDir>,
}

impl Cluster {
    /// Starts a cluster in a new folder and waits until it serves.
    pub fn start(arguments: &[&str]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join("cluster");
        let mut cluster = Self::start_in(&folder, arguments);
        cluster.temporary = Some(temporary);
        cluster
    }

    /// Starts a cluster in a folder and waits until it serves.
    pub fn start_in(folder: &Path, arguments: &[&str]) -> Self {
        Self::start_by(kvorum(), folder, arguments)
    }

    /// Does the same with a command of the test's own for the program.
    pub fn start_by(mut kvorum: Command, folder: &Path, arguments: &[&str]) -> Self {
        let mut supervisor = kvorum
            .args(["local", "--no-console", "--disk-reserve=1MiB", "--data"])
            .arg(folder)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(supervisor.stdout.take().unwrap());
        let welcome = out.lines().map_while(Result::ok).find(|line| line.contains("serve after"));
        assert!(welcome.is_some(), "the cluster serves; its logs end so:\n{}", log_tails(folder));
        Self { folder: folder.canonicalize().unwrap(), supervisor, temporary: None }
    }

    /// Returns the process that keeps the replicas running.
    pub fn supervisor(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.supervisor.id()).unwrap()).unwrap()
    }

    /// Returns the process of a replica.
    pub fn process(&self, name: &str) -> Option<Pid> {
        kvorum::local::folder::process_of(&self.folder.join(name))
    }

    /// Kills a replica by SIGKILL.
    pub fn kill(&self, name: &str) {
        if let Some(process) = self.process(name) {
            // It may have died by itself in the meantime.
            let _ = kill_process(process, Signal::KILL);
        }
    }

    /// Returns a client of the cluster.
    pub fn client(&self, deadline: Duration) -> Arc<Client> {
        let options = Options { deadline, ..Options::default() };
        kvorum::local::client(&self.folder, options).unwrap()
    }

    /// Returns a client with a certificate in a folder.
    pub fn client_by(&self, certificate: &Path, deadline: Duration) -> Client {
        let mut options = Options { deadline, ..Options::default() };
        options.dial.encryption = kvorum::credentials::of_folder(certificate).unwrap();
        Client::new(kvorum::local::resolve(&self.folder), options)
    }

    /// Takes a replica's folder away while it runs, to `lost-NAME`, and kills the replica.
    pub fn take_folder_away(&self, name: &str) {
        let (folder, lost) = (self.folder.join(name), self.folder.join(format!("lost-{name}")));
        fs::rename(&folder, &lost).unwrap();
        fs::create_dir(&folder).unwrap();
        // The process that holds the lock is the one that is killed.
        fs::rename(lost.join("lock"), folder.join("lock")).unwrap();
        self.kill(name);
    }

    /// Returns the folder of the certificate with which everything is allowed.
    pub fn tls_dir(&self) -> PathBuf {
        self.folder.join("tls").join("client-admin")
    }

    /// Runs a command line on the cluster.
    pub fn run(&self, words: &[&str]) -> Output {
        kvorum().arg("--local").arg(&self.folder).args(words).output().unwrap()
    }

    /// Stops the cluster by a signal, and waits until it has ended.
    pub fn stop(mut self, signal: Signal) {
        kill_process(self.supervisor(), signal).unwrap();
        self.supervisor.wait().unwrap();
    }

    /// Stops the cluster and moves its folder.
    pub fn end_and_move_to(mut self, folder: &Path) {
        kill_process(self.supervisor(), Signal::TERM).unwrap();
        self.supervisor.wait().unwrap();
        std::fs::rename(&self.folder, folder).unwrap();
    }

    /// Returns the names of its replicas, in order.
    pub fn names(&self) -> Vec<String> {
        kvorum::local::folder::StatefulSet::read(&self.folder).unwrap().members()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = kill_process(self.supervisor(), Signal::TERM);
        let _ = self.supervisor.wait();
    }
}

/// Waits until something is so.
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Returns the leader's name, once there is one.
pub async fn leader(client: &Client) -> String {
    let status = status_when(client, &Route::Any, |status| status.leader.is_some()).await;
    status.leader.unwrap()
}

/// Returns a replica's status, once it is as desired.
pub async fn status_when(
    client: &Client,
    route: &Route,
    is_wanted: impl Fn(&Status) -> bool,
) -> Status {
    status_within(client, route, PATIENCE, is_wanted).await
}

/// Returns a replica's status, once it is as desired, within the given time.
pub async fn status_within(
    client: &Client,
    route: &Route,
    patience: Duration,
    is_wanted: impl Fn(&Status) -> bool,
) -> Status {
    let began = Instant::now();
    loop {
        if let Ok(status) = client.status(route).await
            && is_wanted(&status)
        {
            return status;
        }
        assert!(began.elapsed() < patience, "a status as wanted, at {route:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Returns all pairs of a scan, read page by page.
pub async fn scan_all(client: &Client, scan: Scan, route: &Route) -> Vec<Pair> {
    let (mut pairs, mut next) = (Vec::new(), Some(scan));
    while let Some(scan) = next {
        let page = client.scan(scan.clone(), route).await.unwrap();
        next = scan.after(&page);
        pairs.extend(page.pairs);
    }
    pairs
}

/// Puts the keys of a range of numbers by so many writers, as fast as possible; returns how many a
/// second.
pub async fn fill(
    client: &Arc<Client>,
    numbers: Range<u64>,
    writers: u64,
    key: fn(u64) -> Key,
    value: fn(u64) -> Value,
) -> f64 {
    let (began, mut tasks) = (Instant::now(), JoinSet::new());
    for first in numbers.clone().take(usize::try_from(writers).unwrap()) {
        let (client, end) = (Arc::clone(client), numbers.end);
        tasks.spawn(async move {
            for number in (first..end).step_by(usize::try_from(writers).unwrap()) {
                client.put(key(number), value(number), &Route::Any).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    f64::from(u32::try_from(numbers.count()).unwrap()) / began.elapsed().as_secs_f64()
}

/// Returns a figure about a process's memory, such as `VmHWM`, in KiB; `None` when it has ended.
pub fn memory_kib(process: Pid, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero())).ok()?;
    let of_name = |line: &str| line.strip_prefix(name)?.strip_prefix(':').map(str::to_owned);
    let line = status.lines().find_map(of_name)?;
    line.split_whitespace().next()?.parse().ok()
}

/// Returns a command's exit status and, as text, its output and errors.
pub fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// Returns a number from the environment, or the given default.
pub fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// Returns a value that does not compress.
pub fn random_value(bytes: usize) -> Value {
    let mut value = vec![0; bytes];
    rand::fill(&mut value[..]);
    Value::from(value)
}
