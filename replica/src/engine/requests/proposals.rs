//! Pure: the writes that wait for a decision.
//!
//! Guarantees that each waiting caller is answered once: with the outcome, or with *unknown* when
//! this replica stops leading or no majority accepts in time. Undecided writes are bounded by count
//! and by bytes, whether a caller still waits for them or not: all of them must be sent to any
//! replica that comes into step.

use std::collections::BTreeMap;

use kvorum_protocol::data::RequestId;
use kvorum_protocol::message::{Answer, Doubt};

use crate::engine::Origin;
use crate::limits::{PROPOSALS_BYTES_MAX, PROPOSALS_MAX};
use crate::state::entry::{Command, Entry};

/// Ticks that a write waits before its client gets the answer *unknown*.
const PATIENCE_TICKS: u64 = 500;

/// The writes that wait for a decision.
#[derive(Default)]
pub struct Proposals {
    /// The entries to be proposed in this turn.
    queue: Vec<Entry>,
    waiting: BTreeMap<RequestId, Waiting>,
    bytes: usize,
}

struct Waiting {
    /// The callers that wait; empty once they have waited too long.
    origins: Vec<Origin>,
    bytes: usize,
    deadline: u64,
}

impl Proposals {
    /// Adds a write; returns false when there are too many. A write that waits already is not
    /// proposed again: both callers get its outcome.
    pub fn add(
        &mut self,
        origin: Origin,
        user: Option<String>,
        command: Command,
        now: u64,
    ) -> bool {
        if let Some(waiting) = self.waiting.get_mut(&command.id) {
            if waiting.origins.is_empty() {
                waiting.deadline = now + PATIENCE_TICKS;
            }
            waiting.origins.push(origin);
            return true;
        }
        let bytes = command.operation.bytes();
        if self.waiting.len() >= PROPOSALS_MAX || self.bytes + bytes > PROPOSALS_BYTES_MAX {
            return false;
        }
        let waiting = Waiting { origins: vec![origin], bytes, deadline: now + PATIENCE_TICKS };
        self.bytes += bytes;
        self.waiting.insert(command.id, waiting);
        self.queue.push(Entry::of(user, command));
        true
    }

    /// Takes the entries to propose in this turn.
    pub fn take_queue(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.queue)
    }

    /// Refuses the queued writes, which were never proposed.
    pub fn refuse_queue(&mut self, refusal: &Answer, answer: &mut impl FnMut(Origin, Answer)) {
        for entry in self.take_queue() {
            let Some(command) = entry.command() else { continue };
            if let Some(waiting) = self.waiting.remove(&command.id) {
                self.bytes -= waiting.bytes;
                for origin in waiting.origins {
                    answer(origin, refusal.clone());
                }
            }
        }
    }

    /// Returns the number of waiting writes.
    #[must_use]
    pub fn count(&self) -> usize {
        self.waiting.len()
    }

    /// Answers the callers of a write that was applied.
    pub fn applied(
        &mut self,
        id: RequestId,
        told: &Answer,
        answer: &mut impl FnMut(Origin, Answer),
    ) {
        if let Some(waiting) = self.waiting.remove(&id) {
            self.bytes -= waiting.bytes;
            for origin in waiting.origins {
                answer(origin, told.clone());
            }
        }
    }

    /// Answers every caller with *unknown*, because this replica stopped leading: another leader
    /// decides the fate of the writes.
    pub fn abandon(&mut self, answer: &mut impl FnMut(Origin, Answer)) {
        self.queue.clear();
        self.bytes = 0;
        for waiting in std::mem::take(&mut self.waiting).into_values() {
            for origin in waiting.origins {
                answer(origin, Answer::Unknown(Doubt::LeaderChanged));
            }
        }
    }

    /// Answers the callers that have waited too long. Their writes may still be decided.
    pub fn expire(&mut self, now: u64, answer: &mut impl FnMut(Origin, Answer)) {
        for waiting in self.waiting.values_mut().filter(|waiting| waiting.deadline <= now) {
            for origin in waiting.origins.drain(..) {
                answer(origin, Answer::Unknown(Doubt::NoQuorum));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ClientKey;
    use kvorum_protocol::data::{ClientId, Condition, LaneId, Operation, Outcome};

    const MIB: usize = 1 << 20;

    fn put(number: u64) -> Command {
        let lane = LaneId { client: ClientId(1), number: 1 };
        let (key, value) = ("k".into(), vec![7; MIB - 1].into());
        let operation = Operation::Put { key, value, condition: Condition::Always };
        Command { id: RequestId { lane, sequence: number }, valid_until: u64::MAX, operation }
    }

    /// Without a majority, writes expire and new ones come: the log must not grow by that.
    #[test]
    fn what_nobody_waits_for_any_more_counts_until_it_is_decided() {
        let mut proposals = Proposals::default();
        let origin = Origin::Client { client: ClientKey(1), call: 1 };
        let most = (PROPOSALS_BYTES_MAX / MIB) as u64;
        let taken = (0..100).filter(|number| proposals.add(origin, None, put(*number), 0)).count();
        assert_eq!(taken as u64, most);
        let mut answers = Vec::new();
        proposals.expire(PATIENCE_TICKS, &mut |_, answer| answers.push(answer));
        assert_eq!(answers.len() as u64, most, "whoever waits is told");
        assert!(!proposals.add(origin, None, put(200), PATIENCE_TICKS), "they are not decided");
        proposals.expire(2 * PATIENCE_TICKS, &mut |_, _| panic!("they were told"));
        let told = Answer::Written(Outcome::Put { revision: 1 });
        proposals.applied(put(0).id, &told, &mut |_, _| panic!("nobody waits"));
        assert!(proposals.add(origin, None, put(200), PATIENCE_TICKS));
    }
}
