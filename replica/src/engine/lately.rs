//! Pure: the longest of something that was seen lately.

use std::collections::VecDeque;

/// Parts of the time; the oldest is forgotten as a whole.
const PARTS: u64 = 10;

/// The longest that was seen, in ticks, by part of the time; the current part is the last.
#[derive(Clone, Debug)]
pub struct Lately {
    longest: VecDeque<u64>,
    part_ticks: u64,
    ticks: u64,
}

impl Lately {
    /// Remembers for so many ticks, or a tenth less.
    #[must_use]
    pub fn over(ticks: u64) -> Self {
        let longest = (0..PARTS).map(|_| 0).collect();
        Self { longest, part_ticks: ticks / PARTS, ticks: 0 }
    }

    /// Lets a tick pass.
    pub fn tick(&mut self) {
        self.ticks += 1;
        if self.ticks.is_multiple_of(self.part_ticks) {
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
    fn the_longest_is_kept_for_its_time() {
        let mut lately = Lately::over(1000);
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
