//! The room of calls that were received, held until their answers have left.
//!
//! Guarantees that a call's room is returned once, with its answer or at the end of its connection.
//! Does not know how much room there is.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

/// The calls of one connection, each with its room.
#[derive(Default)]
pub(super) struct Held {
    /// Locked for one map operation, by the task that reads and the one that writes.
    calls: Mutex<HashMap<u64, OwnedSemaphorePermit>>,
}

impl Held {
    fn calls<T>(&self, with: impl FnOnce(&mut HashMap<u64, OwnedSemaphorePermit>) -> T) -> T {
        with(&mut self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a call is still unanswered. Its number must not be reused before it is answered.
    pub(super) fn has(&self, call: u64) -> bool {
        self.calls(|calls| calls.contains_key(&call))
    }

    /// Holds a call's room.
    pub(super) fn hold(&self, call: u64, room: OwnedSemaphorePermit) {
        self.calls(|calls| drop(calls.insert(call, room)));
    }

    /// Returns the room of a call that is answered, if it had any, for the writer of the answer.
    pub(super) fn take(&self, call: u64) -> Option<OwnedSemaphorePermit> {
        self.calls(|calls| calls.remove(&call))
    }

    /// Takes all held room of a closed connection, for the driver, which still has its calls.
    pub(super) fn take_all(&self) -> Option<OwnedSemaphorePermit> {
        let calls = self.calls(std::mem::take);
        calls.into_values().reduce(|mut all, one| {
            all.merge(one);
            all
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::sync::Semaphore;

    #[test]
    fn room_is_given_back_by_an_answer_or_at_the_end() {
        let room = Arc::new(Semaphore::new(100));
        let take = |bytes| Arc::clone(&room).try_acquire_many_owned(bytes);
        let held = Held::default();
        for (call, bytes) in [(1, 60), (2, 40)] {
            held.hold(call, take(bytes).expect("there is room"));
        }
        assert!(take(1).is_err(), "an answer that waits keeps its request's room");
        assert!(held.has(1) && !held.has(3));
        let leaving = held.take(1);
        assert_eq!((room.available_permits(), held.has(1)), (0, false), "it is being written");
        drop(leaving);
        assert_eq!(room.available_permits(), 60);
        let rest = held.take_all();
        assert_eq!(room.available_permits(), 60, "the driver has the request still");
        drop(rest);
        assert_eq!(room.available_permits(), 100);
    }
}
