//! A cluster of replicas on this machine: one child process each.
//!
//! `kvorum` starts itself again, once for each replica, and starts a replica again when it dies.
//! Guarantees that no replica outlives it: a child ends when the pipe to its standard input does,
//! which the system closes even when `kvorum` is killed by SIGKILL. One process uses a folder at a
//! time. Does not know what replicas do.

mod child;
pub mod folder;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvorum_protocol::Client;
use kvorum_protocol::client::{Endpoint, Options};
use kvorum_replica::addresses::{Addresses, FILE_NAME};
use kvorum_replica::settings::parse_bytes;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::arguments::{Global, Local};
use crate::command::ask_all;
use crate::exit::{Exit, Stop};
use crate::output;
use child::Child;
use folder::{Folder, StatefulSet};

/// How long a new cluster may take until it serves.
const SERVING_PATIENCE: Duration = Duration::from_secs(30);
/// How long all are waited for before a majority will do.
const STRAGGLER_PATIENCE: Duration = Duration::from_secs(2);
/// Time between two looks at the cluster.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Time between two looks for the status table.
const TABLE_INTERVAL: Duration = Duration::from_secs(1);

/// A client of the local cluster in a folder.
pub fn client(folder: &Path, options: Options) -> Result<Arc<Client>, Stop> {
    let set = StatefulSet::read(folder)?;
    let (folder, names) = (folder.to_owned(), set.members());
    let options = Options { cluster: Some(set.cluster), ..options };
    // Read anew each time: a replica that was started again listens elsewhere.
    let resolve = move || {
        let endpoint = |name: &String| {
            let file = folder.join(name).join(FILE_NAME);
            let addresses = Addresses::read(&file).ok()?;
            Some(Endpoint { name: Some(name.clone()), address: addresses.clients })
        };
        names.iter().filter_map(endpoint).collect()
    };
    Ok(Arc::new(Client::new(Arc::new(resolve), options)))
}

/// Kills one replica of a local cluster; how it was done.
pub fn kill(folder: &Path, name: &str, graceful: bool) -> Result<&'static str, Stop> {
    let process = folder::process_of(&folder.join(name))
        .ok_or_else(|| Stop::failed(format!("{name} does not run now")))?;
    let (signal, how) = match graceful {
        true => (rustix::process::Signal::TERM, "by SIGTERM"),
        false => (rustix::process::Signal::KILL, "by SIGKILL"),
    };
    let killed = rustix::process::kill_process(process, signal);
    killed.map(|()| how).map_err(|error| Stop::failed(format!("cannot kill {name}: {error}")))
}

/// Runs a local cluster until it is told to stop.
pub async fn run(local: Local, global: &Global) -> Result<(), Stop> {
    let began = Instant::now();
    parse_bytes(&local.disk_reserve).map_err(Stop::usage)?;
    let path = match &local.data {
        Some(path) => path.clone(),
        None => folder::default_path()?,
    };
    let folder = Folder::open(&path, local.replicas)?;
    let mut told = StopSignals::new()?;
    let mut children = Vec::new();
    for name in folder.set.members() {
        let stop = CancellationToken::new();
        let child = Child::supervise(&folder, name, &local, stop.clone())?;
        children.push((stop, child));
    }
    let client = client(&folder.path, Options { deadline: global.timeout, ..Options::default() })?;
    let serving = async {
        let ready = wait_until_serving(&client).await?;
        say(&welcome(&folder, ready, began.elapsed()));
        match local.no_console {
            true => std::future::pending().await,
            false => show_status(&client).await,
        }
    };
    let result = tokio::select! {
        result = serving => result,
        () = told.next() => Ok(()),
    };
    crate::note("stopping the replicas");
    // In order, the last one first, as a StatefulSet does. The task ends when its replica has.
    for (stop, child) in children.into_iter().rev() {
        stop.cancel();
        let _ = child.await;
    }
    result
}

/// The signals that end a local cluster.
struct StopSignals {
    signals: [tokio::signal::unix::Signal; 3],
}

impl StopSignals {
    fn new() -> Result<Self, Stop> {
        Ok(Self {
            signals: [
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            ],
        })
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Waits until all replicas are ready, or a majority is and the others take too long. How many are.
async fn wait_until_serving(client: &Arc<Client>) -> Result<usize, Stop> {
    let began = Instant::now();
    loop {
        let said = ask_all(client).await.unwrap_or_default();
        let ready = said.iter().filter(|(_, s)| s.as_ref().is_ok_and(|s| s.is_ready)).count();
        let is_enough = match began.elapsed() < STRAGGLER_PATIENCE {
            true => ready == said.len(),
            false => ready > said.len() / 2,
        };
        if ready > 0 && is_enough {
            return Ok(ready);
        }
        if began.elapsed() > SERVING_PATIENCE {
            let table = output::status_table(&said);
            let message = format!(
                "the cluster does not serve after {SERVING_PATIENCE:?}; each replica's log is in \
                 its folder\n{table}"
            );
            return Err(Stop::new(Exit::Unavailable, message));
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// Says something on standard output. The cluster goes on when nobody reads it any more.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

fn welcome(folder: &Folder, ready: usize, took: Duration) -> String {
    let names = folder.set.members();
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
        _ => format!("  kvorum --local {path} put color blue"),
    });
    lines.push("Ctrl-C stops the cluster; its data stays.".to_owned());
    lines.join("\n")
}

/// Prints the status table whenever something other than an index changes.
async fn show_status(client: &Arc<Client>) -> Result<(), Stop> {
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
