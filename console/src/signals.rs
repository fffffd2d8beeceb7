//! The signals that a console or a local cluster answers to.
//!
//! Guarantees that one which whoever started the program wants ignored stays ignored: `nohup` does
//! so, and a shell that runs a script for its jobs in the background. Where the system does not
//! show which are ignored, as outside Linux, none is taken to be.

use std::future::poll_fn;
use std::task::{Context, Poll};

use rustix::process::{self, Signal};
use tokio::signal::unix::{self, SignalKind, signal};

use crate::exit::Stop;

/// Signals that mean the same.
struct Any(Vec<unix::Signal>);

impl Any {
    /// Listens for those that are not ignored.
    fn of(signals: &[Signal]) -> Result<Self, Stop> {
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

/// SIGINT, SIGTERM and SIGHUP.
pub struct EndSignals(Any);

impl EndSignals {
    /// Listens for them from now on.
    ///
    /// # Errors
    /// When the system does not let it.
    pub fn new() -> Result<Self, Stop> {
        Any::of(&[Signal::INT, Signal::TERM, Signal::HUP]).map(Self)
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        poll_fn(|context| self.0.poll(context)).await;
    }
}

/// What a console is told by a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// To end.
    End,
    /// To stop until it is told to go on, as by Ctrl-Z.
    Suspend,
    /// That it goes on, after it was stopped.
    GoOn,
    /// That the terminal has another size.
    Resized,
}

/// The signals that a console answers to.
pub struct ConsoleSignals([(Told, Any); 4]);

impl ConsoleSignals {
    /// Listens for them from now on.
    ///
    /// # Errors
    /// When the system does not let it.
    pub fn new() -> Result<Self, Stop> {
        Ok(Self([
            (Told::End, EndSignals::new()?.0),
            (Told::Suspend, Any::of(&[Signal::TSTP])?),
            (Told::GoOn, Any::of(&[Signal::CONT])?),
            (Told::Resized, Any::of(&[Signal::WINCH])?),
        ]))
    }

    /// What the next one tells.
    pub async fn next(&mut self) -> Told {
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

/// Whether there is a shell that can let this process go on once it has stopped: it belongs to a
/// job of its own then. Who is stopped without one never goes on.
#[must_use]
pub fn may_suspend() -> bool {
    process::getsid(None).is_ok_and(|session| session != process::getpgrp())
}

/// Asks the whole job to stop, as the terminal does for Ctrl-Z; it comes back as [`Told::Suspend`].
pub fn ask_to_suspend() {
    let _ = process::kill_current_process_group(Signal::TSTP);
}

/// Stops this process until it is told to go on.
pub fn suspend() {
    // The signal that asks for it is listened for, so it does not stop anybody itself.
    let _ = process::kill_process(process::getpid(), Signal::STOP);
}

/// Makes a write beyond the limit of a file's size (`ulimit -f`) fail with an error from here on.
///
/// # Errors
/// When the system does not let it.
pub fn outlive_large_files() -> Result<(), Stop> {
    // Listening once is enough: a signal that was listened for ends nobody again.
    Any::of(&[Signal::XFSZ]).map(drop)
}

/// The signals that are ignored, a bit each.
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
