//! The record of who was let in and who was not: one structured line for each refusal, and with
//! `--audit all` one for each request that was let in.
//!
//! Guarantees that no flood of refusals fills the log, or hides those of another host in it: each
//! host has a number of lines a second, all hosts together another one, and what is left out is
//! counted in a line of its own.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvorum_protocol::message::Request;
use tracing::{info, warn};

use crate::shares::host_of;
use crate::state::rights::{Touch, User, touches};

/// Most bytes of what a request touches in a line.
const SHOWN_BYTES_MAX: usize = 256;
/// The time for which lines are counted.
const WINDOW: Duration = Duration::from_secs(1);
/// Most lines about refusals of one host in a window.
const HOST_LINES_MAX: u32 = 20;
/// Most lines about refusals in a window, and so most hosts that are counted.
const LINES_MAX: u32 = 200;

/// The record of refusals.
#[derive(Default)]
pub(super) struct Refusals {
    /// Locked to count one line.
    window: Mutex<Option<Window>>,
}

/// What becomes of a line about a refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Line {
    Recorded,
    /// It is left out, as the first one of its window.
    FirstLeftOut,
    LeftOut,
}

/// The lines of one second.
struct Window {
    began: Instant,
    lines: u32,
    left_out: u64,
    of_hosts: HashMap<IpAddr, u32>,
}

impl Window {
    fn new(began: Instant) -> Self {
        Self { began, lines: 0, left_out: 0, of_hosts: HashMap::new() }
    }

    /// Counts a line about a host, if there is room for it.
    fn count(&mut self, host: IpAddr) -> Line {
        let of_host = self.of_hosts.get(&host).copied().unwrap_or(0);
        if self.lines < LINES_MAX && of_host < HOST_LINES_MAX {
            self.lines += 1;
            self.of_hosts.insert(host, of_host + 1);
            return Line::Recorded;
        }
        self.left_out += 1;
        if self.left_out == 1 { Line::FirstLeftOut } else { Line::LeftOut }
    }

    /// Says how many lines were left out.
    fn sum_up(&self) {
        let left_out = self.left_out;
        if left_out > 0 {
            warn!(target: "audit", allowed = false, left_out, "more refusals than are recorded");
        }
    }
}

impl Refusals {
    /// Records that a connection was refused.
    pub(super) fn connection(self: &Arc<Self>, from: SocketAddr, why: &str) {
        if self.is_recorded(from) {
            warn!(target: "audit", allowed = false, %from, why, "connection");
        }
    }

    /// Records that a request was refused: who wanted to do it, and the right that is missing.
    pub(super) fn request(self: &Arc<Self>, user: &User, from: SocketAddr, right: &str) {
        if self.is_recorded(from) {
            let user = user.to_string();
            warn!(target: "audit", allowed = false, user, %from, right, "request");
        }
    }

    fn is_recorded(self: &Arc<Self>, from: SocketAddr) -> bool {
        let line = self.count(from, Instant::now());
        if line == Line::FirstLeftOut {
            let refusals = Arc::clone(self);
            tokio::spawn(async move {
                tokio::time::sleep(WINDOW).await;
                drop(refusals.current(Instant::now()));
            });
        }
        line == Line::Recorded
    }

    fn count(&self, from: SocketAddr, now: Instant) -> Line {
        let mut window = self.current(now);
        window.get_or_insert_with(|| Window::new(now)).count(host_of(from.ip()))
    }

    /// Returns the current window, if there is one; of one whose time is over, says how many lines
    /// were left out.
    fn current(&self, now: Instant) -> MutexGuard<'_, Option<Window>> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(over) = window.take_if(|window| now >= window.began + WINDOW) {
            over.sum_up();
        }
        window
    }
}

/// Records a request that is passed on: who makes it, and what it touches. It may still be refused,
/// by another line.
pub(super) fn request(user: &User, from: SocketAddr, request: &Request) {
    let user = user.to_string();
    let touched = touches(request);
    let what = touched.iter().map(describe).collect::<Vec<_>>().join(", ");
    info!(target: "audit", user, %from, what, "request");
}

/// Describes what a request touches; keys are escaped, and cut.
fn describe(touch: &Touch<'_>) -> String {
    let mut text = match touch {
        Touch::Read(range) => format!("read {range}"),
        Touch::Write(range) => format!("write {range}"),
        Touch::Observe => "see the replicas".to_owned(),
        Touch::Own => "see its own rights".to_owned(),
        Touch::Operate => "operate the cluster".to_owned(),
        Touch::Administer => "administer users, or copy everything".to_owned(),
        Touch::Join(name) => format!("join as {}", name.escape_default()),
    };
    // Whatever is in it is escaped, and so of one byte each.
    text.truncate(SHOWN_BYTES_MAX);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_host_hides_no_other() {
        let refusals = Refusals::default();
        let began = Instant::now();
        let shown = |host: &str, times, at: Instant| {
            let from = SocketAddr::new(host.parse().unwrap(), 1);
            (0..times).filter(|_| refusals.count(from, at) == Line::Recorded).count()
        };
        let left_out = || refusals.window.lock().unwrap().as_ref().unwrap().left_out;
        assert_eq!(shown("192.0.2.1", 10_000, began), HOST_LINES_MAX as usize);
        assert_eq!(shown("192.0.2.2", 2, began), 2);
        assert_eq!(left_out(), 9_980);
        // Addresses of one network of IPv6 are one host.
        let ours = |n: u32| shown(&format!("2001:db8::{n}"), 1, began);
        assert_eq!((1..100).map(ours).sum::<usize>(), HOST_LINES_MAX as usize);
        let others = |n: u32| shown(&format!("198.51.100.{n}"), 20, began);
        let all = (1..100).map(others).sum::<usize>();
        assert_eq!(all + 2 * HOST_LINES_MAX as usize + 2, LINES_MAX as usize);
        assert_eq!(shown("192.0.2.1", 1, began + WINDOW), 1);
        assert_eq!(left_out(), 0);
    }
}
