//! Pure: when ticks are due.
//!
//! A tick is due every ten milliseconds; while nobody wants anything of the replica, several pass
//! at once, so that an idle machine is not woken for each. Guarantees that what arrives meanwhile
//! comes after the ticks that have passed by then, and that ticks which were missed because this
//! thread did not run are not made up for: nobody was late but this thread.

use std::time::Duration;

/// The time between two ticks.
pub const TICK: Duration = Duration::from_millis(super::TICK_MS);

/// The most ticks that pass at once.
const QUIET_TICKS: u32 = 10;

/// The next ticks. Times are since some moment.
#[derive(Clone, Copy)]
pub struct Pace {
    /// When the last one passed.
    last: Duration,
    /// How many pass together.
    together: u32,
}

impl Pace {
    /// Begins at a time.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self { last: now, together: 1 }
    }

    /// Returns when the next ticks are due.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.last + TICK * self.together
    }

    /// Returns how many ticks have passed although they are not due yet.
    #[must_use]
    pub fn take_passed(&mut self, now: Duration) -> u32 {
        if now >= self.deadline() {
            // All but the last one: what arrived beside that was not late.
            let passed = self.together - 1;
            if passed > 0 {
                *self = Self { last: now.saturating_sub(TICK), together: 1 };
            }
            return passed;
        }
        let passed = now.saturating_sub(self.last).as_millis() / TICK.as_millis();
        let passed = u32::try_from(passed).unwrap_or(0);
        self.last += TICK * passed;
        self.together -= passed;
        passed
    }

    /// Returns how many ticks are due.
    #[must_use]
    pub fn take_due(&mut self, now: Duration) -> u32 {
        if now < self.deadline() {
            return 0;
        }
        let due = self.together;
        *self = Self::new(now);
        due
    }

    /// Has the next ticks pass together while it is quiet, and one by one otherwise.
    pub fn set_quiet(&mut self, is_quiet: bool) {
        self.together = if is_quiet { QUIET_TICKS } else { 1 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_pass_one_by_one_or_together() {
        let at = Duration::from_millis;
        let mut pace = Pace::new(at(0));
        assert_eq!((pace.take_passed(at(9)), pace.take_due(at(9))), (0, 0));
        assert_eq!((pace.take_passed(at(11)), pace.take_due(at(11))), (0, 1));
        assert_eq!(pace.take_due(at(300)), 1, "what was missed is not made up for");
        pace.set_quiet(true);
        assert_eq!(pace.deadline(), at(400));
        assert_eq!(pace.take_passed(at(335)), 3, "something arrived");
        pace.set_quiet(false);
        assert_eq!(pace.deadline(), at(340), "and ended the quiet");
        pace.set_quiet(true);
        assert_eq!((pace.take_passed(at(500)), pace.take_due(at(500))), (9, 1));
        assert_eq!(pace.deadline(), at(510));
    }
}
