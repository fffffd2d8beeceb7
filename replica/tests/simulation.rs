//! Whole clusters in one thread: seeded, replayable, with delays, loss, cuts and crashes.
//!
//! A seed decides everything. `KVORUM_SEEDS=from..to` runs other seeds than CI does; a failing
//! seed prints its number and is run again by `KVORUM_SEEDS=n..n+1`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "simulation/checker.rs"]
mod checker;
#[path = "simulation/cluster.rs"]
mod cluster;
#[path = "simulation/event.rs"]
mod event;
#[path = "simulation/node.rs"]
mod node;
#[path = "simulation/rules.rs"]
mod rules;
#[path = "simulation/workload.rs"]
mod workload;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use cluster::Cluster;
use rules::{Rules, Tally};

/// Seeds that CI runs.
const SEEDS: Range<u64> = 0..1000;
/// Events of one seed.
const STEPS: u32 = 6000;
/// A rule that was taken out must show within so many seeds.
const CONTROL_SEEDS: u64 = 200;

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("KVORUM_SEEDS") else { return SEEDS };
    let bounds = text.split_once("..").map(|(from, to)| (from.parse(), to.parse()));
    match bounds {
        Some((Ok(from), Ok(to))) => from..to,
        _ => panic!("KVORUM_SEEDS is from..to, and '{text}' is not"),
    }
}

fn run(seed: u64, rules: Rules) -> Result<Tally, String> {
    Cluster::new(seed, rules).run(STEPS)
}

#[test]
fn a_cluster_keeps_its_promises() {
    let seeds = seeds();
    let next = AtomicU64::new(seeds.start);
    let worker = || {
        let mut tally = Tally::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return tally;
            }
            match run(seed, Rules::default()) {
                Ok(one) => tally.add(&one),
                Err(violation) => panic!("seed {seed}: {violation}"),
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let total = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let mut total = Tally::default();
        for worker in workers {
            match worker.join() {
                Ok(tally) => total.add(&tally),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        total
    });
    println!("{} seeds: {total:?}", seeds.end - seeds.start);
    assert!(total.decided > 0 && total.writes > 0 && total.reads > 0 && total.crashes > 0);
    assert!(total.lost_disks > 0 || seeds.end - seeds.start < 100);
}

#[test]
fn a_seed_replays_bit_for_bit() {
    for seed in 0..5 {
        let (first, second) = (run(seed, Rules::default()), run(seed, Rules::default()));
        assert_eq!(first.unwrap(), second.unwrap(), "seed {seed}");
    }
}

/// Runs seeds with a rule taken out until one shows it.
fn control(rules: Rules) {
    let found = (0..CONTROL_SEEDS).find_map(|seed| run(seed, rules).err().map(|why| (seed, why)));
    let (seed, why) = found.expect("the harness finds what the missing rule does");
    println!("{rules:?}: seed {seed}: {why}");
}

#[test]
fn without_the_sync_gate_a_message_leaves_too_early() {
    control(Rules { gates_messages: false, ..Rules::default() });
}

/// The same, when only what clients can see is checked.
#[test]
fn without_the_sync_gate_what_was_decided_is_lost() {
    control(Rules { gates_messages: false, checks_messages: false, ..Rules::default() });
}

/// A replica that forgot its promises, and votes all the same.
#[test]
fn without_memory_of_disks_what_was_decided_is_lost() {
    control(Rules { knows_disks: false, ..Rules::default() });
}

#[test]
fn with_syncs_begun_before_the_messages_a_message_leaves_too_early() {
    control(Rules { syncs_after_taking: false, ..Rules::default() });
}
