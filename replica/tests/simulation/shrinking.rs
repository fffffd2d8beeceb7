//! Shrinks a failing seed: leaves out faults, clients and steps while it still fails.
//!
//! Each fault of a seed has its own random numbers, so a run without it is otherwise the same.
//! Guarantees that the result fails too; not that nothing else could be left out.

use std::collections::BTreeSet;

use super::rules::Rules;
use super::{World, quietly};

/// Most runs; the best result by then is good enough.
const RUNS_MAX: u32 = 400;

/// The part of a seed that a run has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Faults that do not happen, by number.
    pub without: BTreeSet<u32>,
    /// The number of clients that send requests, from the first on.
    pub clients: usize,
    /// Events before the faults end.
    pub steps: u32,
}

impl Limits {
    /// Returns the limits that leave nothing out.
    pub fn none(world: World) -> Self {
        Self { without: BTreeSet::new(), clients: usize::MAX, steps: world.steps() }
    }
}

/// A failing run, as short as it could be made.
pub struct Shrunk {
    pub limits: Limits,
    /// The reason why it fails.
    pub why: String,
    /// The faults that it still has, in the words of a script.
    pub faults: Vec<String>,
}

/// A failing seed, and the number of tries to shrink it.
struct Shrinking {
    world: World,
    seed: u64,
    rules: Rules,
    runs: u32,
    best: Limits,
}

/// Shrinks a failing seed; `None` when it does not fail.
pub fn shrink(world: World, seed: u64, rules: Rules) -> Option<Shrunk> {
    let best = Limits::none(world);
    let mut shrinking = Shrinking { world, seed, rules, runs: 0, best };
    let (_, faults) = shrinking.run(&shrinking.best.clone());
    shrinking.drop_faults(u32::try_from(faults.len()).expect("faults are few"));
    shrinking.drop_clients();
    shrinking.drop_steps();
    let limits = shrinking.best.clone();
    let (outcome, faults) = shrinking.run(&limits);
    outcome.err().map(|why| Shrunk { limits, why, faults })
}

impl Shrinking {
    /// Runs the seed within limits, and returns the outcome and the faults.
    fn run(&self, limits: &Limits) -> (Result<(), String>, Vec<String>) {
        let mut cluster = self.world.make(self.seed, self.rules).limited(limits);
        let outcome = quietly(|| cluster.run(limits.steps).map(|_| ()));
        (outcome, cluster.faults_so_far())
    }

    /// Adopts the limits, if the seed still fails.
    fn take_if_it_fails(&mut self, limits: Limits) -> bool {
        self.runs += 1;
        let fails = self.runs <= RUNS_MAX && self.run(&limits).0.is_err();
        if fails {
            self.best = limits;
        }
        fails
    }

    /// Leaves out faults: ever smaller runs of them, down to single ones (Zeller and Hildebrandt,
    /// "Simplifying and isolating failure-inducing input", 2002, section 3).
    fn drop_faults(&mut self, count: u32) {
        let mut size = count.div_ceil(2).max(1);
        loop {
            let mut from = 1;
            while from <= count {
                let mut less = self.best.clone();
                less.without.extend(from..(from + size).min(count + 1));
                if less != self.best {
                    self.take_if_it_fails(less);
                }
                from += size;
            }
            if size == 1 {
                return;
            }
            size = size.div_ceil(2);
        }
    }

    fn drop_clients(&mut self) {
        for clients in 0..8 {
            if self.take_if_it_fails(Limits { clients, ..self.best.clone() }) {
                return;
            }
        }
    }

    fn drop_steps(&mut self) {
        let mut less = self.best.steps / 2;
        while less > 0 {
            let steps = self.best.steps - less;
            if steps == 0 || !self.take_if_it_fails(Limits { steps, ..self.best.clone() }) {
                less /= 2;
            } else {
                less = less.min(self.best.steps / 2);
            }
        }
    }
}

impl std::fmt::Display for Shrunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "shrunk to {} faults, {} steps", self.faults.len(), self.limits.steps)?;
        match self.limits.clients {
            usize::MAX => writeln!(f, "and all clients: {}", self.why)?,
            clients => writeln!(f, "and {clients} clients: {}", self.why)?,
        }
        self.faults.iter().try_for_each(|fault| writeln!(f, "{fault}"))
    }
}

/// A message that leaves before the facts it reports are durable shows with hardly any fault.
#[test]
fn a_failing_seed_becomes_short() {
    let rules = Rules { gates_messages: false, ..Rules::default() };
    let fails = |seed: &u64| super::run(World::Any, *seed, rules).is_err();
    let seed = (0..100).find(fails).expect("the missing rule shows at once");
    let shrunk = shrink(World::Any, seed, rules).expect("it fails");
    println!("seed {seed} {shrunk}");
    let limits = Limits::none(World::Any);
    assert!(shrunk.faults.len() < 10 && shrunk.limits.steps < limits.steps, "{:?}", shrunk.limits);
}
