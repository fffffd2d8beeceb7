//! Pure: the longest of something that was seen in the last ten minutes.
//!
//! Work that keeps a machine busy comes and goes by minutes. What it made wait once it makes wait
//! again, and a bound that was learned should outlive the calm between.

use std::collections::VecDeque;

/// Ticks of a part of the time; the oldest part is forgotten as a whole.
const PART_TICKS: u64 = 6000;
const PARTS: usize = 10;

/// The longest that was seen, in ticks, by part of the time; the current part is the last.
#[derive(Clone, Debug)]
pub struct Lately {
    longest: VecDeque<u64>,
    ticks: u64,
}

impl Default for Lately {
    fn default() -> Self {
        Self { longest: VecDeque::from(vec![0; PARTS]), ticks: 0 }
    }
}

impl Lately {
    /// Lets a tick pass.
    pub fn tick(&mut self) {
        self.ticks += 1;
        if self.ticks.is_multiple_of(PART_TICKS) {
            self.longest.pop_front();
            self.longest.push_back(0);
        }
    }

    /// Sees one that took so many ticks.
    pub fn see(&mut self, ticks: u64) {
        if let Some(longest) = self.longest.back_mut() {
            *longest = ticks.max(*longest);
        }
    }

    /// The longest.
    #[must_use]
    pub fn longest(&self) -> u64 {
        self.longest.iter().max().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_is_kept_for_ten_minutes() {
        let mut lately = Lately::default();
        for ticks in [3, 9, 4] {
            lately.see(ticks);
        }
        assert_eq!(lately.longest(), 9);
        for _ in 0..PART_TICKS {
            lately.tick();
        }
        lately.see(5);
        assert_eq!(lately.longest(), 9);
        for _ in 0..PART_TICKS * (PARTS as u64 - 1) {
            lately.tick();
        }
        assert_eq!(lately.longest(), 5, "the first minute is over for ten");
        for _ in 0..PART_TICKS {
            lately.tick();
        }
        assert_eq!(lately.longest(), 0);
    }
}
