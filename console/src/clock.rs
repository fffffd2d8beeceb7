//! The console's clocks.

use std::time::{Instant, SystemTime};

use crate::message::Now;

/// The source of the time since the console began and of the time of day.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
}

impl Clock {
    /// Creates a clock that begins now.
    #[must_use]
    pub fn start() -> Self {
        Self { began: Instant::now() }
    }

    /// Returns the current time.
    #[must_use]
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let wall_us = u64::try_from(wall.as_micros()).unwrap_or(u64::MAX);
        Now { monotonic: self.began.elapsed(), wall_us }
    }
}
