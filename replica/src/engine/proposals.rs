//! Pure: writes that wait for a decision.
//!
//! Guarantees that whoever waits is answered once: with the outcome, or with *unknown* when this
//! replica stops leading or no majority accepts in time. Bounded by count and by bytes.

use std::collections::BTreeMap;

use kvorum_protocol::data::{Outcome, RequestId};
use kvorum_protocol::message::{Answer, Doubt};

use super::Origin;
use crate::entry::{Command, Entry};

/// Most writes that wait; the next one is refused as overload.
const WRITES_MAX: usize = 16 * 1024;
/// Most bytes of keys and values in writes that wait; the next one is refused as overload.
const BYTES_MAX: usize = 64 << 20;
/// Ticks that a write waits before its client is told that nobody knows.
const PATIENCE_TICKS: u64 = 500;

/// Writes that wait for a decision.
#[derive(Default)]
pub struct Proposals {
    /// To be proposed in this turn.
    queue: Vec<Entry>,
    waiting: BTreeMap<RequestId, Waiting>,
    bytes: usize,
}

struct Waiting {
    origins: Vec<Origin>,
    bytes: usize,
    deadline: u64,
}

impl Proposals {
    /// Takes a write in; false when there are too many. One that waits already is not proposed
    /// again: both callers get its outcome.
    pub fn add(&mut self, origin: Origin, command: Command, now: u64) -> bool {
        if let Some(waiting) = self.waiting.get_mut(&command.id) {
            waiting.origins.push(origin);
            return true;
        }
        let bytes = command.operation.bytes();
        if self.waiting.len() >= WRITES_MAX || self.bytes + bytes > BYTES_MAX {
            return false;
        }
        let waiting = Waiting { origins: vec![origin], bytes, deadline: now + PATIENCE_TICKS };
        self.bytes += bytes;
        self.waiting.insert(command.id, waiting);
        self.queue.push(Entry::Command(command));
        true
    }

    /// What to propose in this turn.
    pub fn take_queue(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.queue)
    }

    /// How many writes wait.
    #[must_use]
    pub fn count(&self) -> usize {
        self.waiting.len()
    }

    /// A write was applied: whoever waited for it is answered.
    pub fn applied(
        &mut self,
        id: RequestId,
        outcome: Outcome,
        answer: &mut impl FnMut(Origin, Answer),
    ) {
        if let Some(waiting) = self.waiting.remove(&id) {
            self.bytes -= waiting.bytes;
            for origin in waiting.origins {
                answer(origin, Answer::Written(outcome));
            }
        }
    }

    /// This replica stopped leading: some other leader decides what becomes of the writes.
    pub fn abandon(&mut self, answer: &mut impl FnMut(Origin, Answer)) {
        self.queue.clear();
        self.bytes = 0;
        for waiting in std::mem::take(&mut self.waiting).into_values() {
            for origin in waiting.origins {
                answer(origin, Answer::Unknown(Doubt::LeaderChanged));
            }
        }
    }

    /// Answers writes that have waited too long.
    pub fn expire(&mut self, now: u64, answer: &mut impl FnMut(Origin, Answer)) {
        let late: Vec<RequestId> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.deadline <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            if let Some(waiting) = self.waiting.remove(&id) {
                self.bytes -= waiting.bytes;
                for origin in waiting.origins {
                    answer(origin, Answer::Unknown(Doubt::NoQuorum));
                }
            }
        }
    }
}
