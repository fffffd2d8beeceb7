//! The lanes of a client: at most one undecided write in each.
//!
//! Guarantees that a lane is used by one write at a time, and never again after a write whose
//! outcome stayed unknown.

use std::sync::{Mutex, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::data::{ClientId, LaneId, RequestId};

/// Most writes that one client has in flight; the next one waits for a lane.
const LANES_MAX: usize = 1024;

/// All lanes of one client.
pub(super) struct Lanes {
    client: ClientId,
    /// Held for one push or pop, by callers on any thread.
    free: Mutex<Free>,
    permits: Semaphore,
}

struct Free {
    lanes: Vec<(u32, u64)>,
    next_number: u32,
}

/// A lane in use. Dropped without being given back, it is never used again.
pub(super) struct Lane<'a> {
    id: LaneId,
    sequence: u64,
    _permit: SemaphorePermit<'a>,
}

impl Lane<'_> {
    /// Returns the id of the lane's next write.
    pub(super) fn next(&mut self) -> RequestId {
        self.sequence += 1;
        RequestId { lane: self.id, sequence: self.sequence }
    }
}

impl Lanes {
    pub(super) fn new() -> Self {
        Self {
            client: ClientId(rand::random()),
            free: Mutex::new(Free { lanes: Vec::new(), next_number: 0 }),
            permits: Semaphore::new(LANES_MAX),
        }
    }

    /// Returns a lane that no write is in; waits for one if all are in use.
    pub(super) async fn take(&self) -> Lane<'_> {
        let permit = self.permits.acquire().await.expect("the semaphore is never closed");
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, sequence) = free.lanes.pop().unwrap_or_else(|| {
            free.next_number += 1;
            (free.next_number, 0)
        });
        Lane { id: LaneId { client: self.client, number }, sequence, _permit: permit }
    }

    /// Takes back a lane whose write is decided or was refused.
    pub(super) fn give_back(&self, lane: Lane<'_>) {
        let Lane { id, sequence, .. } = lane;
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.lanes.push((id.number, sequence));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lane_returns_only_when_given_back() {
        let lanes = Lanes::new();
        let mut first = lanes.take().await;
        let mut second = lanes.take().await;
        let (a, b) = (first.next(), second.next());
        assert_ne!(a.lane, b.lane);
        lanes.give_back(first);
        drop(second);
        let mut third = lanes.take().await;
        assert_eq!(third.next(), RequestId { lane: a.lane, sequence: 2 });
        let mut fourth = lanes.take().await;
        let fourth = fourth.next();
        assert!(fourth.lane != a.lane && fourth.lane != b.lane);
    }
}
