//! The room of calls that were received, held until their answers have left.
//!
//! Guarantees that a call's room is returned once, with its answer or at the end of its connection.
//! Does not know how much room there is.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::shares::room::Room;

/// The calls of one connection, each with its room.
#[derive(Default)]
pub(super) struct Held {
    /// Locked for one map operation, by the task that reads and the one that writes.
    calls: Mutex<HashMap<u64, Room>>,
}

impl Held {
    fn calls<T>(&self, with: impl FnOnce(&mut HashMap<u64, Room>) -> T) -> T {
        with(&mut self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a call is still unanswered. Its number must not be reused before it is answered.
    pub(super) fn has(&self, call: u64) -> bool {
        self.calls(|calls| calls.contains_key(&call))
    }

    /// Holds a call's room.
    pub(super) fn hold(&self, call: u64, room: Room) {
        self.calls(|calls| drop(calls.insert(call, room)));
    }

    /// Returns the room of a call that is answered, if it had any, for the writer of the answer.
    pub(super) fn take(&self, call: u64) -> Option<Room> {
        self.calls(|calls| calls.remove(&call))
    }

    /// Takes all held room of a closed connection, for the driver, which still has its calls.
    pub(super) fn take_all(&self) -> Vec<Room> {
        self.calls(std::mem::take).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shares::Party;
    use crate::shares::room::Budget;

    #[test]
    fn room_is_given_back_by_an_answer_or_at_the_end() {
        let budget = Budget::new(100);
        let account = budget.account(Party::at([127, 0, 0, 1].into()));
        let take = |bytes| budget.take(&account, bytes);
        let held = Held::default();
        for (call, bytes) in [(1, 50), (2, 38)] {
            held.hold(call, take(bytes).expect("there is room"));
        }
        assert!(take(1).is_none(), "an answer that waits keeps its request's room");
        assert!(held.has(1) && !held.has(3));
        let leaving = held.take(1);
        assert!(take(1).is_none() && !held.has(1), "it is being written");
        drop(leaving);
        drop(take(50).expect("it has left"));
        let rest = held.take_all();
        assert!(take(87).is_none(), "the driver has the request still");
        drop(rest);
        assert!(take(87).is_some());
    }
}
