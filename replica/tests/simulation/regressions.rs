//! Seeds that once failed, and those that show what a missing rule does, kept in a file.

use super::rules::Rules;
use super::{World, run};

/// `WHAT SEED`, a line each; the rest of a line says why.
const FILE: &str = include_str!("regressions.txt");

/// The seeds of a world, or of a test that takes a rule out.
pub fn seeds_of(what: &str) -> Vec<u64> {
    let lines = FILE.lines().filter(|line| !line.starts_with('#'));
    let words = lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?, words.next()?.parse().expect("a seed is a number")))
    });
    words.filter(|(name, _)| *name == what).map(|(_, seed)| seed).collect()
}

/// Whatever was mended stays mended.
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
