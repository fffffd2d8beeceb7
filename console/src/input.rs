//! Keys and lines, read on a thread of their own.
//!
//! Guarantees that a terminal that is gone is told as the end and never read again: crossterm
//! would go round and round on it. The thread looks first whether there is something, and whether
//! the other end still is. Does not know what keys mean.

use std::io::{self, BufRead};

use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::mpsc;

use crate::message::Event;

/// Keys that wait for the console. When it is full, reading waits.
const KEYS_MAX: usize = 1024;
/// Longest line that is read where there is no screen.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// What came in; the end is the end of the channel.
pub type Input = mpsc::Receiver<Event>;

/// Reads keys from the terminal.
///
/// # Errors
/// When no thread can be started.
pub fn keys() -> io::Result<Input> {
    let (sender, keys) = mpsc::channel(KEYS_MAX);
    std::thread::Builder::new().name("keys".to_owned()).spawn(move || read_keys(&sender))?;
    Ok(keys)
}

fn read_keys(keys: &mpsc::Sender<Event>) {
    while wait_for_keys() {
        // Everything that is there; what is incomplete stays with crossterm.
        while crossterm::event::poll(std::time::Duration::ZERO).unwrap_or(false) {
            let Ok(event) = crossterm::event::read() else { return };
            let event = match event {
                crossterm::event::Event::Key(key) => Event::Key(key),
                crossterm::event::Event::Paste(text) => Event::Paste(text),
                // The size is asked for when the system says that it has changed.
                _ => continue,
            };
            if keys.blocking_send(event).is_err() {
                return;
            }
        }
    }
}

/// Waits until there are keys; false when there never will be.
fn wait_for_keys() -> bool {
    let stdin = io::stdin();
    loop {
        let mut ends = [PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut ends, None) {
            Ok(_) => {
                let is = ends[0].revents();
                let is_gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
                return !is.intersects(is_gone) && is.contains(PollFlags::IN);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Reads lines from standard input.
///
/// # Errors
/// When no thread can be started.
pub fn lines() -> io::Result<Input> {
    let (sender, lines) = mpsc::channel(KEYS_MAX);
    std::thread::Builder::new().name("lines".to_owned()).spawn(move || {
        let mut stdin = io::BufReader::new(io::stdin());
        loop {
            let mut line = Vec::new();
            let mut bounded = io::Read::take(&mut stdin, LINE_BYTES_MAX);
            match bounded.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.blocking_send(Event::Line(text)).is_err() {
                return;
            }
        }
    })?;
    Ok(lines)
}
