//! Seeds that once failed, and seeds that show the effect of a missing rule, kept in a file.

use super::rules::Rules;
use super::{World, run};

/// Lines of `WHAT SEED`; the rest of a line is the reason.
const FILE: &str = include_str!("regressions.txt");

/// Returns the seeds of a world, or of a test that removes a rule.
pub fn seeds_of(what: &str) -> Vec<u64> {
    let lines = FILE.lines().filter(|line| !line.starts_with('#'));
    let words = lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?, words.next()?.parse().expect("a seed is a number")))
    });
    words.filter(|(name, _)| *name == what).map(|(_, seed)| seed).collect()
}

/// Fixed failures stay fixed.
#[test]
fn seeds_that_failed_stay_sound() {
    for (name, world) in [("any", World::Any), ("scaled", World::Scaled)] {
        let seeds = seeds_of(name);
        assert!(!seeds.is_empty(), "there are seeds of {name}");
        for seed in seeds {
            if let Err(why) = run(world, seed, Rules::default()) {
                panic!("seed {seed} of {name} fails again: {why}");
            }
        }
    }
}
