//! Pure: the longest duration of some event that was seen lately.

use std::collections::VecDeque;

/// The number of parts of the time window; the oldest part is forgotten as a whole.
const PARTS: u64 = 10;

/// The longest duration seen in the last `TICKS` ticks, or a tenth less, by part of that time; the
/// current part is the last.
#[derive(Clone, Debug)]
pub struct Lately<const TICKS: u64> {
    longest: VecDeque<u64>,
    ticks: u64,
}

impl<const TICKS: u64> Default for Lately<TICKS> {
    fn default() -> Self {
        Self { longest: (0..PARTS).map(|_| 0).collect(), ticks: 0 }
    }
}

impl<const TICKS: u64> Lately<TICKS> {
    /// Lets a tick pass.
    pub fn tick(&mut self) {
        self.ticks += 1;
        if self.ticks.is_multiple_of(TICKS / PARTS) {
            self.longest.pop_front();
            self.longest.push_back(0);
        }
    }

    /// Records an event that took `ticks` ticks.
    pub fn see(&mut self, ticks: u64) {
        if let Some(longest) = self.longest.back_mut() {
            *longest = ticks.max(*longest);
        }
    }

    /// Returns the longest duration, in ticks; 0 if none was seen.
    #[must_use]
    pub fn longest(&self) -> u64 {
        self.longest.iter().max().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_is_kept_for_its_time() {
        let mut lately = Lately::<1000>::default();
        for ticks in [3, 9, 4] {
            lately.see(ticks);
        }
        assert_eq!(lately.longest(), 9);
        for _ in 0..100 {
            lately.tick();
        }
        lately.see(5);
        assert_eq!(lately.longest(), 9);
        for _ in 0..900 {
            lately.tick();
        }
        assert_eq!(lately.longest(), 5, "the first part is forgotten");
        for _ in 0..100 {
            lately.tick();
        }
        assert_eq!(lately.longest(), 0);
    }
}
