//! A cluster of replicas on this machine: one child process each.
//!
//! `kvorum` starts itself again, once for each replica, and restarts a replica that dies.
//! Guarantees that no replica outlives it: a child ends when the pipe to its standard input does,
//! which the system closes even when `kvorum` is killed by SIGKILL. One process uses a folder at a
//! time. Does not know what replicas do.

mod child;
pub mod folder;
mod pods;
pub mod recover;
pub mod restore;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvorum_protocol::Client;
use kvorum_protocol::client::{Endpoint, Options, Resolve};
use kvorum_replica::node::certificates;
use kvorum_replica::node::settings::{StorageKind, parse_bytes};
use kvorum_replica::transport::addresses::{Addresses, FILE_NAME};
use kvorum_tls::Mode;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::arguments::{DISK_RESERVE, Global, Local};
use crate::credentials;
use crate::exit::{Exit, Failure};
use crate::login;
use crate::output;
use crate::signals::EndSignals;
use crate::statuses::ask_all;
use child::Place;
use folder::{Folder, REPLICAS_MAX, StatefulSet};
use pods::Pods;

/// How long a new cluster may take until it serves.
const SERVING_PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait for all replicas before a majority is enough.
const STRAGGLER_PATIENCE: Duration = Duration::from_secs(10);
/// The time between two checks of the cluster.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long the replicas together may take for an orderly stop.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// The time between two checks for the status table.
const TABLE_INTERVAL: Duration = Duration::from_secs(1);

/// Creates a client of the local cluster in a folder, encrypting as `options` say, or, where they
/// do not, with the certificate that the cluster provides.
pub fn client(folder: &Path, options: Options) -> Result<Arc<Client>, Failure> {
    let set = StatefulSet::read(folder)?;
    let mut options = Options { cluster: Some(set.cluster), ..options };
    encrypted(folder, &mut options)?;
    Ok(Arc::new(Client::new(resolve(folder), options)))
}

/// Lets options that do not encrypt use the certificate that the cluster in a folder provides, if
/// it does.
///
/// # Errors
/// When that is of no use.
pub fn encrypted(folder: &Path, options: &mut Options) -> Result<(), Failure> {
    if options.dial.encryption.tls().is_none() {
        options.dial.encryption = credentials::of_local(folder)?;
    }
    Ok(())
}

/// Returns a lookup of the addresses where the replicas of a local cluster listen.
pub fn resolve(folder: &Path) -> Resolve {
    let folder = folder.to_owned();
    // Read anew each time: a restarted replica listens elsewhere, and there may be more or fewer
    // replicas than before.
    let resolve = move || {
        let endpoint = |name: String| {
            let file = folder.join(&name).join(FILE_NAME);
            let addresses = Addresses::read(&file).ok()?;
            Some(Endpoint { name: Some(name), address: addresses.clients })
        };
        (0..REPLICAS_MAX).map(folder::name).filter_map(endpoint).collect()
    };
    Arc::new(resolve)
}

/// Returns a lookup of the replicas of a local cluster that are wanted, or still run, by name.
pub fn names(folder: &Path) -> Arc<dyn Fn() -> Vec<String> + Send + Sync> {
    let folder = folder.to_owned();
    Arc::new(move || {
        let wanted = StatefulSet::read(&folder).map_or(0, |set| set.replicas);
        let runs = |name: &String| folder.join(name).join(FILE_NAME).exists();
        let all = (0..REPLICAS_MAX).map(|ordinal| (ordinal, folder::name(ordinal)));
        let there = all.filter(|(ordinal, name)| *ordinal < wanted || runs(name));
        there.map(|(_, name)| name).collect()
    })
}

/// Returns a lookup of the replicas of a local cluster that are wanted, or whose process runs.
pub fn alive(folder: &Path) -> Arc<dyn Fn() -> Vec<String> + Send + Sync> {
    let folder = folder.to_owned();
    Arc::new(move || {
        let wanted = StatefulSet::read(&folder).map_or(0, |set| set.replicas);
        let runs = |name: &String| folder::process_of(&folder.join(name)).is_some();
        let all = (0..REPLICAS_MAX).map(|ordinal| (ordinal, folder::name(ordinal)));
        let there = all.filter(|(ordinal, name)| *ordinal < wanted || runs(name));
        there.map(|(_, name)| name).collect()
    })
}

/// Writes how many replicas a local cluster should have; the running cluster follows.
pub fn scale(folder: &Path, replicas: u32) -> Result<(), Failure> {
    if replicas > REPLICAS_MAX {
        return Err(Failure::usage(format!(
            "{replicas} replicas are not possible; a local cluster has 0 to {REPLICAS_MAX}"
        )));
    }
    let set = StatefulSet { replicas, ..StatefulSet::read(folder)? };
    set.write(folder).map_err(|error| Failure::failed(format!("{}: {error}", folder.display())))
}

/// Kills one replica of a local cluster; returns how it was done.
pub fn kill(folder: &Path, name: &str, graceful: bool) -> Result<&'static str, Failure> {
    let process = folder::process_of(&folder.join(name))
        .ok_or_else(|| Failure::failed(format!("{name} does not run now")))?;
    let (signal, how) = match graceful {
        true => (rustix::process::Signal::TERM, "by SIGTERM"),
        false => (rustix::process::Signal::KILL, "by SIGKILL"),
    };
    let killed = rustix::process::kill_process(process, signal);
    killed.map(|()| how).map_err(|error| Failure::failed(format!("cannot kill {name}: {error}")))
}

/// The settings with which a local cluster is started.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The folder; the default one if not given.
    pub data: Option<PathBuf>,
    /// The number of replicas; if not given, as many as there are, or 3.
    pub replicas: Option<u32>,
    /// The storage in which the replicas keep their data.
    pub storage: StorageKind,
    /// Whether links may be cut and replicas crashed.
    pub allow_faults: bool,
    /// The space that each replica keeps free on the disk.
    pub disk_reserve: String,
    /// Whether connections are encrypted.
    pub tls: Mode,
    /// More arguments for each replica.
    pub replica_arguments: Vec<String>,
}

impl From<&Local> for Plan {
    fn from(local: &Local) -> Self {
        Self {
            data: local.data.clone(),
            replicas: local.replicas,
            storage: local.storage,
            allow_faults: local.allow_faults,
            disk_reserve: local.disk_reserve.clone(),
            tls: local.tls,
            replica_arguments: local.replica_arguments.clone(),
        }
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            data: None,
            replicas: None,
            storage: StorageKind::Disk,
            allow_faults: false,
            disk_reserve: DISK_RESERVE.to_owned(),
            tls: Mode::Require,
            replica_arguments: Vec::new(),
        }
    }
}

/// A callback for reports about a replica's process: its name, and what happened.
pub type Report = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// A local cluster whose replicas this process keeps running.
pub struct Running {
    /// Its folder.
    pub folder: Folder,
    /// The task that starts and ends replicas as the folder says, until `quit` is cancelled.
    orchestration: JoinHandle<()>,
    quit: CancellationToken,
    /// From its cancellation on, the replicas are killed instead of stopped.
    hurry: CancellationToken,
}

impl Running {
    /// Starts the replicas.
    pub async fn start(plan: &Plan, report: &Report) -> Result<Self, Failure> {
        parse_bytes(&plan.disk_reserve).map_err(Failure::usage)?;
        let path = match &plan.data {
            Some(path) => path.clone(),
            None => folder::default_path()?,
        };
        let mut folder = Folder::open(&path, plan.replicas)?;
        if plan.storage == StorageKind::Memory {
            folder.renew()?;
        }
        let provided = certificates::provide(&folder.path, plan.tls).await;
        provided.map_err(|why| Failure::failed(format!("no certificates: {why}")))?;
        let (quit, hurry) = (CancellationToken::new(), CancellationToken::new());
        let place = Place { path: folder.path.clone(), cluster: folder.set.cluster };
        let (plan, report) = (plan.clone(), Arc::clone(report));
        let (all, at_once) = (quit.clone(), hurry.clone());
        let running = BTreeMap::new();
        let said = BTreeMap::new();
        let pods = Pods { place, plan, report, quit: all, hurry: at_once, said, running };
        let orchestration = tokio::spawn(pods.keep(folder.set.replicas));
        Ok(Self { folder, orchestration, quit, hurry })
    }

    /// Stops the replicas, all at once; kills those that still run after `patience`. Acknowledged
    /// writes are synced in either case.
    pub async fn stop(self, patience: Duration) {
        self.quit.cancel();
        let mut orchestration = self.orchestration;
        if tokio::time::timeout(patience, &mut orchestration).await.is_err() {
            self.hurry.cancel();
            let _ = orchestration.await;
        }
    }
}

/// Runs a local cluster without a console, until a signal ends it.
pub async fn run(local: Local, global: &Global) -> Result<(), Failure> {
    let began = Instant::now();
    let mut told = EndSignals::new()?;
    let report: Report = Arc::new(|name, what| crate::note::note(format!("{name} {what}")));
    let running = Running::start(&Plan::from(&local), &report).await?;
    let folder = &running.folder;
    let dial = login::own(global)?.dial()?;
    let options = Options { deadline: global.timeout, dial, ..Options::default() };
    let client = client(&folder.path, options)?;
    let serving = async {
        let ready = wait_until_serving(&client, folder).await?;
        say(&welcome(folder, ready, began.elapsed()));
        match local.no_console {
            true => std::future::pending().await,
            false => show_status(&client).await,
        }
    };
    let result = tokio::select! {
        result = serving => result,
        () = told.next() => Ok(()),
    };
    crate::note::note("stopping the replicas");
    running.stop(STOP_PATIENCE).await;
    result
}

/// Waits until all wanted replicas are ready, or a majority is and the others take too long.
/// Returns the number that are ready.
async fn wait_until_serving(client: &Arc<Client>, folder: &Folder) -> Result<usize, Failure> {
    let began = Instant::now();
    let names = StatefulSet::read(&folder.path).map_or(Vec::new(), |set| set.members());
    let wanted = names.len();
    loop {
        let said = ask_all(client).await.unwrap_or_default();
        let ready = said.iter().filter(|(_, s)| s.as_ref().is_ok_and(|s| s.is_ready)).count();
        let is_enough = match began.elapsed() < STRAGGLER_PATIENCE {
            true => ready >= wanted,
            false => ready > wanted / 2,
        };
        if ready > 0 && is_enough {
            return Ok(ready);
        }
        if began.elapsed() > SERVING_PATIENCE {
            let silent = names.iter().filter(|name| !said.iter().any(|(one, _)| one == *name));
            let last = |name: &String| {
                let line = child::last_line(&folder.path.join(name).join("log"));
                format!("{name}: {}\n", line.unwrap_or_else(|| "has not begun".to_owned()))
            };
            let (table, last) = (output::status_table(&said), silent.map(last).collect::<String>());
            let message = format!(
                "the cluster does not serve after {SERVING_PATIENCE:?}; each replica's log is in \
                 its folder\n{table}{last}"
            );
            return Err(Failure::new(Exit::Unavailable, message));
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// Prints text to standard output. The cluster goes on when the reader is gone.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

fn welcome(folder: &Folder, ready: usize, took: Duration) -> String {
    let names = StatefulSet::read(&folder.path).map_or(0, |set| set.replicas);
    let names: Vec<_> = (0..names).map(folder::name).collect();
    let path = folder.path.display();
    let count = match ready == names.len() {
        true => format!("{ready} replicas"),
        false => format!("{ready} of {} replicas", names.len()),
    };
    let mut lines = vec![format!("{count} serve after {:.1} s, in {path}", took.as_secs_f64())];
    for name in &names {
        if let Ok(addresses) = Addresses::read(&folder.path.join(name).join(FILE_NAME)) {
            let (clients, http) = (addresses.clients, addresses.http);
            lines.push(format!("  {name}  clients {clients}  probes http://{http}"));
        }
    }
    lines.push("In another terminal:".to_owned());
    lines.push(match folder::default_path() {
        Ok(default) if default == folder.path => "  kvorum put color blue".to_owned(),
        _ => format!("  kvorum --local {} put color blue", output::shell_path(&folder.path)),
    });
    let admin = folder.path.join("tls").join("client-admin");
    if admin.exists() {
        lines.push("Other programs, at these addresses:".to_owned());
        lines.push(format!("  --tls-dir {}", output::shell_path(&admin)));
    }
    lines.push("Ctrl-C stops the cluster; its data stays.".to_owned());
    lines.join("\n")
}

/// Prints the status table whenever something other than an index changes.
async fn show_status(client: &Arc<Client>) -> Result<(), Failure> {
    let mut last = Vec::new();
    loop {
        let said = ask_all(client).await.unwrap_or_default();
        let shape: Vec<_> = said
            .iter()
            .map(|(name, status)| {
                let status = status.as_ref().ok();
                (name.clone(), status.map(|s| (s.role, s.is_ready, s.ballot, s.incarnation)))
            })
            .collect();
        if shape != last {
            say(&format!("\n{}", output::status_table(&said)));
            last = shape;
        }
        sleep(TABLE_INTERVAL).await;
    }
}
