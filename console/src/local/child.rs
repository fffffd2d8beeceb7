//! One replica of a local cluster, as a child process that is restarted when it dies.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use kvorum_protocol::status::ClusterId;
use kvorum_replica::transport::addresses::FILE_NAME;
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::folder::cannot_make;
use super::{Plan, Report};
use crate::exit::Failure;
use crate::tail::tail;

/// The first pause before a dead replica is restarted.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause; reached when a replica dies repeatedly.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The lifetime beyond which a dead replica is restarted after the first pause.
const STEADY: Duration = Duration::from_secs(1);
/// The time that a replica may take after SIGTERM: one that is no longer wanted waits until the
/// others go on without it.
const LEAVE_PATIENCE: Duration = Duration::from_secs(300);
/// The time that a replica may take once it was asked to end at once.
const END_PATIENCE: Duration = Duration::from_secs(30);
/// The size beyond which a log is moved aside, over the older one, when its replica starts.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// The place where the replicas of a cluster are.
#[derive(Clone, Debug)]
pub struct Place {
    /// The cluster's folder.
    pub path: PathBuf,
    /// The cluster's id.
    pub cluster: ClusterId,
}

/// The ways to make a replica end.
pub struct Ends {
    /// An end by SIGTERM: the others go on, with a new process in its place or without it.
    pub stop: CancellationToken,
    /// An orderly end, together with all other replicas.
    pub quit: CancellationToken,
    /// An immediate end, of a replica that is already ending.
    pub hurry: CancellationToken,
}

/// A replica to keep running.
pub struct Child {
    name: String,
    folder: PathBuf,
    program: PathBuf,
    arguments: Vec<OsString>,
    report: Report,
}

impl Child {
    /// Starts a replica and keeps it running until `stop`; the task then ends with the replica.
    pub fn supervise(
        folder: &Place,
        name: String,
        plan: &Plan,
        ends: Ends,
        report: Report,
    ) -> Result<JoinHandle<()>, Failure> {
        let own = folder.path.join(&name);
        fs::create_dir_all(&own).map_err(|error| cannot_make(&own, &error))?;
        let program = std::env::current_exe()?;
        let arguments = arguments(folder, &name, &own, plan);
        let child = Self { name, folder: own, program, arguments, report };
        Ok(tokio::spawn(child.keep_running(ends)))
    }

    async fn keep_running(self, ends: Ends) {
        let is_over = || ends.stop.is_cancelled() || ends.quit.is_cancelled();
        let mut pause = PAUSE_MIN;
        let mut said = String::new();
        while !is_over() {
            let began = Instant::now();
            let line = match self.run_once(&ends).await {
                Ok(_) if is_over() => break,
                Ok(status) => format!("ended ({status}): {}", last_words(&self.log())),
                Err(error) => {
                    format!("could not be started in {}: {error}", self.folder.display())
                }
            };
            // A replica that dies repeatedly for the same reason is reported once.
            if line != said {
                (self.report)(&self.name, &line);
            }
            said = line;
            pause = if began.elapsed() > STEADY { PAUSE_MIN } else { pause };
            tokio::select! {
                () = sleep(pause) => {}
                () = ends.stop.cancelled() => {}
                () = ends.quit.cancelled() => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn run_once(&self, ends: &Ends) -> io::Result<std::process::ExitStatus> {
        // No peer and no client should dial the addresses of the last process.
        let _ = fs::remove_file(self.folder.join(FILE_NAME));
        let mut command = Command::new(&self.program);
        // The replica gets its settings by its arguments; the shell's variables are for `kvorum`.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("KVORUM_") && !text.starts_with("KVORUM_LOG") {
                command.env_remove(&name);
            }
        }
        command
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(open_log(&self.log())?)
            // A Ctrl-C at the terminal is for `kvorum`, which stops its replicas in order.
            .process_group(0);
        let mut child = tokio::process::Command::from(command).spawn()?;
        // Held while the replica is to run: the replica ends when this pipe closes.
        let pipe = child.stdin.take();
        tokio::select! {
            status = child.wait() => return status,
            () = ends.quit.cancelled() => {}
            () = ends.stop.cancelled() => {
                let process = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
                let _ = process.map(|process| kill_process(process, Signal::TERM));
            }
        }
        // A replica that is no longer wanted stops waiting for the others when they are to end too.
        tokio::select! {
            status = child.wait() => return status,
            () = ends.quit.cancelled() => {}
            () = sleep(LEAVE_PATIENCE) => {}
        }
        drop(pipe);
        tokio::select! {
            status = child.wait() => return status,
            () = ends.hurry.cancelled() => {}
            () = sleep(END_PATIENCE) => {}
        }
        child.start_kill()?;
        child.wait().await
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }
}

/// Returns the last line of a replica's log, if it has one.
pub fn last_line(log: &Path) -> Option<String> {
    /// Enough bytes for the longest message that a replica ends with.
    const BYTES: u64 = 4096;
    let (text, _) = tail(log, BYTES).ok()?;
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(crate::output::line(line.as_bytes()))
}

/// Returns why a replica ended, or where its log is.
fn last_words(log: &Path) -> String {
    match last_line(log) {
        Some(line) if line.starts_with("kvorum-replica: ") => {
            line.trim_start_matches("kvorum-replica: ").to_owned()
        }
        _ => format!("see {}", log.display()),
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    if fs::metadata(path).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
        fs::rename(path, path.with_extension("old"))?;
    }
    File::options().create(true).append(true).open(path)
}

fn arguments(folder: &Place, name: &str, own: &Path, plan: &Plan) -> Vec<OsString> {
    let storage = plan.storage.to_possible_value();
    let storage = storage.map_or(String::new(), |value| value.get_name().to_owned());
    let mut arguments = vec![
        "replica".to_owned(),
        format!("--name={name}"),
        format!("--cluster={}", folder.cluster),
        format!("--storage={storage}"),
        format!("--disk-reserve={}", plan.disk_reserve),
        "--stop-with-stdin".to_owned(),
    ];
    for port in ["peers", "clients", "http"] {
        arguments.push(format!("--listen-{port}=127.0.0.1:0"));
    }
    if plan.allow_faults {
        arguments.push("--allow-faults".to_owned());
    }
    arguments.push(format!("--tls={}", plan.tls));
    arguments.extend(plan.replica_arguments.iter().cloned());
    let mut arguments: Vec<OsString> = arguments.into_iter().map(OsString::from).collect();
    // A path need not be UTF-8.
    for (option, path) in [("--follow=", folder.path.as_path()), ("--data=", own)] {
        let mut argument = OsString::from(option);
        argument.push(path);
        arguments.push(argument);
    }
    arguments
}
