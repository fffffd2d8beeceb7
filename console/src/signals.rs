//! The signals that a console or a local cluster responds to.
//!
//! Guarantees that a signal stays ignored if the process was started with it ignored: `nohup` does
//! so, and a shell that runs a script does so for its background jobs. Where the system does not
//! show which signals are ignored, as outside Linux, none is assumed to be.

use std::future::poll_fn;
use std::task::{Context, Poll};

use rustix::process::{self, Signal};
use tokio::signal::unix::{self, SignalKind, signal};

use crate::exit::Failure;

/// Signals that have the same meaning.
struct Any(Vec<unix::Signal>);

impl Any {
    /// Listens for the signals that are not ignored.
    fn of(signals: &[Signal]) -> Result<Self, Failure> {
        let ignored = ignored();
        let heard = signals.iter().filter(|signal| !has(ignored, **signal));
        let listen = |heard: &Signal| signal(SignalKind::from_raw(heard.as_raw()));
        Ok(Self(heard.map(listen).collect::<Result<_, _>>()?))
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self.0.iter_mut().any(|signal| signal.poll_recv(context).is_ready()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

/// The signals that end the program: SIGINT, SIGTERM and SIGHUP.
pub struct EndSignals(Any);

impl EndSignals {
    /// Listens for these signals from now on.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn new() -> Result<Self, Failure> {
        Any::of(&[Signal::INT, Signal::TERM, Signal::HUP]).map(Self)
    }

    /// Waits for the next one of them.
    pub async fn next(&mut self) {
        poll_fn(|context| self.0.poll(context)).await;
    }
}

/// The meaning of a signal for the console.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// The console is to end.
    End,
    /// The console is to stop until it is continued, as by Ctrl-Z.
    Suspend,
    /// The console was continued, after it was stopped.
    GoOn,
    /// The terminal was resized.
    Resized,
}

/// The signals that a console responds to.
pub struct ConsoleSignals([(Request, Any); 4]);

impl ConsoleSignals {
    /// Listens for these signals from now on.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn new() -> Result<Self, Failure> {
        Ok(Self([
            (Request::End, EndSignals::new()?.0),
            (Request::Suspend, Any::of(&[Signal::TSTP])?),
            (Request::GoOn, Any::of(&[Signal::CONT])?),
            (Request::Resized, Any::of(&[Signal::WINCH])?),
        ]))
    }

    /// Waits for the next signal, and returns its meaning.
    pub async fn next(&mut self) -> Request {
        poll_fn(|context| {
            let is_told = self
                .0
                .iter_mut()
                .find_map(|(told, any)| any.poll(context).is_ready().then_some(*told));
            is_told.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// Whether there is a shell that can continue this process once it has stopped: then the process
/// belongs to a job of its own. A process that is stopped without such a shell is never continued.
#[must_use]
pub fn may_suspend() -> bool {
    process::getsid(None).is_ok_and(|session| session != process::getpgrp())
}

/// Asks the whole job to stop, as the terminal does for Ctrl-Z; arrives as [`Request::Suspend`].
pub fn ask_to_suspend() {
    let _ = process::kill_current_process_group(Signal::TSTP);
}

/// Stops this process until it is continued.
pub fn suspend() {
    // SIGTSTP is listened for, so it does not stop the process itself.
    let _ = process::kill_process(process::getpid(), Signal::STOP);
}

/// Makes a write beyond the file size limit (`ulimit -f`) fail with an error from here on.
///
/// # Errors
/// When the system does not allow it.
pub fn outlive_large_files() -> Result<(), Failure> {
    // Listening once is enough: a signal that was listened for never ends the process again.
    Any::of(&[Signal::XFSZ]).map(drop)
}

/// A description of what happened to the process.
fn ignored() -> u64 {
    std::fs::read_to_string("/proc/self/status").map_or(0, |status| ignored_in(&status))
}

fn ignored_in(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn has(signals: u64, signal: Signal) -> bool {
    (signals >> (signal.as_raw() - 1)) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_read_from_the_systems_words() {
        let status = "Name:\tkvorum\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000003\n";
        let ignored = ignored_in(status);
        assert!(has(ignored, Signal::HUP) && has(ignored, Signal::INT));
        assert!(!has(ignored, Signal::TERM));
        assert_eq!(ignored_in("Name:\tkvorum\n"), 0);
    }
}
