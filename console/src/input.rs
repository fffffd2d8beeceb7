//! Keys and lines of input, read on threads of their own.
//!
//! Guarantees that the loss of the terminal is reported as the end of input. crossterm loops
//! forever on a lost terminal, so the reading thread first checks that the other end is still
//! there; as that can go between the check and the read, another thread only waits for it. Does not
//! know what keys mean.

use std::io::{self, BufRead};
use std::time::Duration;

use crossterm::event::KeyEvent;
use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

use crate::message::Event;

/// The number of events that may wait for the console. When it is reached, reading waits.
const EVENTS_MAX: usize = 64;
/// The maximum number of keys reported as one burst.
const BURST_KEYS_MAX: usize = 1024;
/// How long a check for more keys takes; with a zero time-out crossterm does not check.
const LOOK: Duration = Duration::from_millis(1);
/// The longest line, in bytes, that is read where there is no screen.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// The source of input events.
pub struct Input {
    events: mpsc::Receiver<Event>,
    /// Notified when the terminal is gone; `None` where there is none.
    gone: Option<oneshot::Receiver<()>>,
}

impl Input {
    /// Returns the next event; `None` at the end, after which it must not be called again.
    pub async fn recv(&mut self) -> Option<Event> {
        let gone = async {
            match &mut self.gone {
                Some(gone) => drop(gone.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            event = self.events.recv() => event,
            () = gone => None,
        }
    }

    /// Returns the next event, if it is there already.
    pub fn try_recv(&mut self) -> Result<Event, TryRecvError> {
        self.events.try_recv()
    }
}

/// Reads keys from the terminal.
///
/// # Errors
/// When no thread can be started.
pub fn keys() -> io::Result<Input> {
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    let (ends, gone) = oneshot::channel();
    std::thread::Builder::new().name("keys".to_owned()).spawn(move || read_keys(&sender))?;
    std::thread::Builder::new().name("hang-up".to_owned()).spawn(move || {
        // The end is reported whatever is polled for; keys are not polled for here.
        while wait_for(PollFlags::empty()).is_ok_and(|is| is.is_empty()) {}
        let _ = ends.send(());
    })?;
    Ok(Input { events, gone: Some(gone) })
}

fn read_keys(events: &mpsc::Sender<Event>) {
    while wait_for_keys() {
        let mut keys = Vec::new();
        // Takes everything that is there; crossterm keeps what is incomplete.
        while keys.len() < BURST_KEYS_MAX && crossterm::event::poll(LOOK).unwrap_or(false) {
            let Ok(event) = crossterm::event::read() else { return };
            match event {
                crossterm::event::Event::Key(key) => keys.push(key),
                crossterm::event::Event::Paste(text) => {
                    let is_told = tell(events, std::mem::take(&mut keys));
                    if !is_told || events.blocking_send(Event::Paste(text)).is_err() {
                        return;
                    }
                }
                // The size is read when the system reports that it has changed.
                _ => {}
            }
        }
        if !tell(events, keys) {
            return;
        }
    }
}

/// Sends keys that arrived together; returns false when the receiver is gone.
fn tell(events: &mpsc::Sender<Event>, keys: Vec<KeyEvent>) -> bool {
    let event = match keys[..] {
        [] => return true,
        [key] => Event::Key(key),
        _ => Event::Burst(keys),
    };
    events.blocking_send(event).is_ok()
}

/// Waits until there are keys; returns false when there never will be.
fn wait_for_keys() -> bool {
    let is_gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
    let is = wait_for(PollFlags::IN);
    is.is_ok_and(|is| !is.intersects(is_gone) && is.contains(PollFlags::IN))
}

/// Waits until standard input is ready as wanted, or its other end is gone.
fn wait_for(wanted: PollFlags) -> rustix::io::Result<PollFlags> {
    let stdin = io::stdin();
    loop {
        let mut ends = [PollFd::new(&stdin, wanted)];
        match poll(&mut ends, None) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.map(|_| ends[0].revents()),
        }
    }
}

/// Reads lines from standard input.
///
/// # Errors
/// When no thread can be started.
pub fn lines() -> io::Result<Input> {
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    std::thread::Builder::new().name("lines".to_owned()).spawn(move || {
        let mut stdin = io::BufReader::new(io::stdin());
        while let Ok(Some(read)) = read_line(&mut stdin, LINE_BYTES_MAX) {
            let event = read.map_or_else(Event::NoLine, Event::Line);
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    })?;
    Ok(Input { events, gone: None })
}

/// Reads a line, or the reason why it is not valid; `None` at the end. A line that is too long is
/// read to its end, so that its tail is not taken for a line.
fn read_line(from: &mut impl BufRead, most: u64) -> io::Result<Option<Result<String, String>>> {
    let mut line = Vec::new();
    if io::Read::take(&mut *from, most).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.len() as u64 == most && !line.ends_with(b"\n") && !from.fill_buf()?.is_empty() {
        from.skip_until(b'\n')?;
        return Ok(Some(Err(format!(
            "a line of more than {most} bytes is none, and none of it was done; values that long \
             are for 'kvorum put KEY @FILE'"
        ))));
    }
    Ok(Some(String::from_utf8(line).map(|line| line.trim_end().to_owned()).map_err(|_| {
        "a line that is not UTF-8 is none, and none of it was done; write other bytes as \\xHH \
         between double quotes"
            .to_owned()
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_whole_or_not_at_all() {
        let mut from: &[u8] = b"put a 1\nput long aaaa\nput b 2\nput k \xff\nexactly 8\nlast";
        let mut read = Vec::new();
        while let Some(line) = read_line(&mut from, 10).unwrap() {
            read.push(line.map_err(|why| why.chars().take(28).collect::<String>()));
        }
        let line = |text: &str| Ok(text.to_owned());
        let long = Err("a line of more than 10 bytes".to_owned());
        let bytes = Err("a line that is not UTF-8 is ".to_owned());
        let expected =
            [line("put a 1"), long, line("put b 2"), bytes, line("exactly 8"), line("last")];
        assert_eq!(read, expected);
    }
}
