//! A login plugin of a kubeconfig, and a process that supervises it.
//!
//! The Kubernetes library runs plugins itself, waits for as long as they take, and leaves them
//! running when the wait is abandoned. So this program runs once more in between: [`guard`] puts it
//! in the plugin's place, and there [`run`] starts the plugin. Guarantees that a plugin that does
//! not answer is ended with everything that it started, when its time is over or when the process
//! that waits for it is gone. Does not know what plugins say: they have the same standard streams.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use kube::config::ExecConfig;
use rustix::process::{Pid, Signal, getppid, kill_process_group};

/// The time that a login plugin may take.
pub const LOGIN_PATIENCE: Duration = Duration::from_secs(15);
/// The exit code of the supervising process when the plugin cannot be run, as in shells.
pub const NOT_RUN: u8 = 127;
/// Its exit code when the plugin was ended, as with `timeout`.
const ENDED: u8 = 124;
/// The first argument of the supervising process.
const WORD: &str = "login-plugin";
/// The interval between two checks of the plugin.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Puts this program in the place of a login plugin, to supervise it; returns the plugin's name.
pub fn guard(plugin: &mut ExecConfig) -> Option<String> {
    let name = plugin.command.clone()?;
    let program = std::env::current_exe().ok();
    // The library accepts text only; if the path is not text, the plugin runs unsupervised.
    if let Some(program) = program.and_then(|path| path.into_os_string().into_string().ok()) {
        let words = [WORD.to_owned(), name.clone()].into_iter();
        plugin.args = Some(words.chain(plugin.args.take().unwrap_or_default()).collect());
        plugin.command = Some(program);
    }
    Some(name)
}

/// Returns the plugin and its arguments, when this process is to supervise one.
#[must_use]
pub fn guarded(mut arguments: impl Iterator<Item = OsString>) -> Option<Vec<OsString>> {
    (arguments.nth(1)? == WORD).then(|| arguments.collect())
}

/// Runs a plugin and returns its exit code.
#[must_use]
pub fn run(plugin: &[OsString]) -> ExitCode {
    let [program, arguments @ ..] = plugin else {
        eprintln!("kvorum {WORD} is what kvorum starts itself, with a login plugin's command line");
        return ExitCode::from(2);
    };
    let waits = getppid();
    match Command::new(program).args(arguments).process_group(0).spawn() {
        Ok(child) => ExitCode::from(watch(child, || getppid() == waits)),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(NOT_RUN)
        }
    }
}

/// Waits for a plugin until its time is over or the waiting process is gone; then ends it, with all
/// of its process group.
fn watch(mut child: Child, is_waited_for: impl Fn() -> bool) -> u8 {
    let began = Instant::now();
    while began.elapsed() < LOGIN_PATIENCE && is_waited_for() {
        match child.try_wait() {
            Ok(Some(status)) => return code(status),
            Ok(None) => std::thread::sleep(LOOK_INTERVAL),
            Err(_) => break,
        }
    }
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
    ENDED
}

/// Returns the exit code that shells give to a process that ended so.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_keeps_its_words() {
        let words = ["get-token".to_owned(), "-v".to_owned()];
        let mut plugin: ExecConfig = serde_json::from_str(r#"{"command": "aws"}"#).unwrap();
        plugin.args = Some(words.to_vec());
        assert_eq!(guard(&mut plugin).as_deref(), Some("aws"));
        let line = [plugin.command.unwrap()].into_iter().chain(plugin.args.unwrap());
        let found = guarded(line.map(OsString::from)).unwrap();
        assert_eq!(found, ["aws", "get-token", "-v"].map(OsString::from));
        assert_eq!(guarded(["kvorum", "get", WORD].map(OsString::from).into_iter()), None);
    }

    #[test]
    fn a_plugin_that_nobody_waits_for_ends_with_what_it_started() {
        let mut shell = Command::new("sh");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("process");
        shell.args(["-c", "sleep 600 & echo $! > \"$0\"; wait"]).arg(&file);
        let child = shell.process_group(0).spawn().unwrap();
        let said = || std::fs::read_to_string(&file).ok().filter(|text| text.ends_with('\n'));
        assert_eq!(watch(child, || said().is_none()), ENDED);
        let process = said().unwrap().trim().parse().ok().and_then(Pid::from_raw).unwrap();
        let began = Instant::now();
        while rustix::process::test_kill_process(process).is_ok() && !is_zombie(process) {
            assert!(began.elapsed() < LOGIN_PATIENCE, "what it started is gone");
        }
    }

    /// Whether a process has ended and has not been reaped.
    fn is_zombie(process: Pid) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()));
        stat.is_ok_and(|stat| stat.contains(") Z "))
    }

    #[test]
    fn a_plugin_ends_as_it_ends() {
        for (line, expected) in [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137)] {
            let child = Command::new("sh").args(["-c", line]).spawn().unwrap();
            assert_eq!(watch(child, || true), expected, "{line}");
        }
    }
}
