//! Simulations of whole clusters in one thread: seeded, replayable, with delays, loss, cuts and
//! crashes.
//!
//! A seed determines everything. `KVORUM_SEEDS=from..to` runs other seeds than CI does; a failing
//! seed prints its number, its shrunk form, and its last events. `KVORUM_SEEDS=n..n+1` runs it
//! again; a seed in `regressions.txt` is always run.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod checker;
mod cluster;
mod copies;
mod ending;
mod event;
mod faults;
mod links;
mod marker;
mod node;
mod regressions;
mod rules;
mod scaling;
mod scenarios;
mod scripts;
mod shrinking;
mod strays;
mod workload;

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};

use cluster::Cluster;
use kvorum_protocol::status::ReplicaId;
use rules::{Rules, Tally};
use shrinking::shrink;

/// Seeds that CI runs.
const SEEDS: Range<u64> = 0..1000;
/// Events of one seed.
const STEPS: u32 = 6000;
/// Seeds within which a removed rule must show.
const CONTROL_SEEDS: u64 = 12_000;

fn seeds(otherwise: Range<u64>) -> Range<u64> {
    let Ok(text) = std::env::var("KVORUM_SEEDS") else { return otherwise };
    let bounds = text.split_once("..").map(|(from, to)| (from.parse(), to.parse()));
    match bounds {
        Some((Ok(from), Ok(to))) => from..to,
        _ => panic!("KVORUM_SEEDS is from..to, and '{text}' is not"),
    }
}

/// Seeds of clusters that are scaled again and again, and events of one: twice as many, because
/// most have more replicas.
const SCALING_SEEDS: Range<u64> = 0..300;
const SCALING_STEPS: u32 = 12_000;

/// The kind of cluster that is simulated.
#[derive(Clone, Copy)]
enum World {
    /// Any cluster.
    Any,
    /// A cluster that is scaled again and again.
    Scaled,
}

impl World {
    fn make(self, seed: u64, rules: Rules) -> Cluster {
        match self {
            Self::Any => Cluster::new(seed, rules),
            Self::Scaled => Cluster::scaled_at_random(seed, rules),
        }
    }

    fn steps(self) -> u32 {
        match self {
            Self::Any => STEPS,
            Self::Scaled => SCALING_STEPS,
        }
    }
}

/// Runs a seed; a panic of the product counts as a violation.
fn run(world: World, seed: u64, rules: Rules) -> Result<Tally, String> {
    quietly(|| world.make(seed, rules).run(world.steps()))
}

fn quietly<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    std::panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("a panic: {}", text.unwrap_or_default()))
    })
}

/// Runs a seed again, and returns its last events.
fn last_events(world: World, seed: u64, rules: Rules) -> String {
    let mut cluster = world.make(seed, rules).traced();
    let _ = quietly(|| cluster.run(world.steps()));
    cluster.history()
}

/// Runs seeds on all cores, and returns the sum of their tallies.
fn run_all(world: World, seeds: Range<u64>, rules: Rules) -> Tally {
    let next = AtomicU64::new(seeds.start);
    let worker = || {
        let mut tally = Tally::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return tally;
            }
            // Progress of a long run, which can be stopped and continued from here.
            if seed.is_multiple_of(1000) && seeds.end - seeds.start > 1000 {
                println!("seed {seed}");
            }
            match run(world, seed, rules) {
                Ok(one) => tally.add(&one),
                Err(why) => {
                    let events = last_events(world, seed, rules);
                    let shrunk =
                        shrink(world, seed, rules).map_or_else(String::new, |it| it.to_string());
                    panic!("seed {seed}: {why}\n{shrunk}\nlast events:\n{events}");
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let mut total = Tally::default();
        for worker in workers {
            match worker.join() {
                Ok(tally) => total.add(&tally),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        total
    })
}

#[test]
fn a_cluster_keeps_its_promises() {
    let seeds = seeds(SEEDS);
    let total = run_all(World::Any, seeds.clone(), Rules::default());
    println!("{} seeds", seeds.end - seeds.start);
    for (what, count) in total.list() {
        println!("{count:>12} {what}");
        let is_rare = seeds.end - seeds.start < 200;
        assert!(count > 0 || is_rare, "the workload reaches {what}");
    }
}

/// From one replica to seven and back, by any jump, under load and with all other faults: no
/// acknowledged write is lost, no lost disk votes again, and the members become the wanted ones.
#[test]
fn a_cluster_scales() {
    let seeds = seeds(SCALING_SEEDS);
    let total = run_all(World::Scaled, seeds.clone(), Rules::default());
    println!("{} seeds", seeds.end - seeds.start);
    for (what, count) in total.list() {
        println!("{count:>12} {what}");
    }
    let is_rare = seeds.end - seeds.start < 200;
    for count in [total.left, total.killed_leavers, total.lost_disks, total.joined] {
        assert!(count > 0 || is_rare, "{total:?}");
    }
}

#[test]
fn a_seed_replays_bit_for_bit() {
    for seed in 0..5 {
        for world in [World::Any, World::Scaled] {
            let (rules, again) = (Rules::default(), Rules::default());
            let (first, second) = (run(world, seed, rules), run(world, seed, again));
            assert_eq!(first.unwrap(), second.unwrap(), "seed {seed}");
            let trace = last_events(world, seed, rules);
            assert_eq!(trace, last_events(world, seed, rules), "seed {seed}");
        }
    }
}

/// A leader whose disk is slow keeps leading; one whose disk is stalled, or that is paused, is
/// replaced, and comes back.
#[test]
fn a_slow_leader_stays_and_a_stalled_one_is_replaced() {
    type Fault = fn(&mut Cluster, ReplicaId);
    let cases: [(&str, bool, Fault); 3] = [
        ("slow", false, |cluster, leader| cluster.slow_down(leader, 20_000_000)),
        ("stalled", true, |cluster, leader| cluster.stall(leader, 5_000_000)),
        ("paused", true, |cluster, leader| cluster.pause_for(leader, 5_000_000)),
    ];
    for (name, is_replaced, fault) in cases {
        let mut slowest = 0;
        for seed in 0..50 {
            let mut cluster = Cluster::without_faults(seed);
            cluster.pass(3_000_000).unwrap();
            let leader = cluster.leader().expect("a calm cluster has a leader");
            fault(&mut cluster, leader);
            let mut waited = 0;
            while waited < 20_000_000 && cluster.leader().is_none_or(|now| now == leader) {
                cluster.pass(10_000).unwrap();
                waited += 10_000;
            }
            assert_eq!(waited < 20_000_000, is_replaced, "{name}, seed {seed}");
            slowest = slowest.max(waited);
        }
        if is_replaced {
            println!("{name}: replaced after at most {} simulated ms", slowest / 1000);
            // Overdue after half a second, then an election.
            assert!(slowest < 2_000_000, "{name}: {slowest}");
        }
    }
}

/// Runs seeds with a rule removed until one shows it.
fn without(with: impl FnOnce(&mut Rules)) {
    without_in(World::Any, with);
}

fn without_in(world: World, with: impl FnOnce(&mut Rules)) {
    let mut rules = Rules::default();
    with(&mut rules);
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let fails = |seed: u64| run(world, seed, rules).err().map(|why| (seed, why));
    let known = regressions::seeds_of(&name).into_iter().find_map(fails);
    let found = known.or_else(|| {
        println!("{name}: no seed of regressions.txt shows it any more");
        (0..CONTROL_SEEDS).find_map(fails)
    });
    let (seed, why) = found.expect("the harness finds what the missing rule does");
    let why: String = why.chars().take(300).collect();
    println!("{name} {seed}\n{rules:?}: {why}");
    assert!(run(world, seed, Rules::default()).is_ok(), "with the rule seed {seed} is sound");
}

#[test]
fn without_the_sync_gate_a_message_leaves_too_early() {
    without(|rules| rules.gates_messages = false);
}

/// The same, when only what clients can see is checked.
#[test]
fn without_the_sync_gate_what_was_decided_is_lost() {
    without(|rules| (rules.gates_messages, rules.checks_messages) = (false, false));
}

/// A leader's entries leave before its sync; the acceptance of one follower makes no majority yet.
#[test]
fn with_a_leader_that_counts_what_is_not_synced_decisions_are_not_durable() {
    without(|rules| rules.engine.counts_what_is_synced = false);
}

/// The same, when only what clients can see is checked.
#[test]
fn with_a_leader_that_counts_what_is_not_synced_what_was_decided_is_lost() {
    without(|rules| {
        rules.engine.counts_what_is_synced = false;
        rules.checks_messages = false;
    });
}

/// A replica forgot its promises, and votes anyway.
#[test]
fn without_memory_of_disks_what_was_decided_is_lost() {
    without(|rules| rules.knows_disks = false);
}

#[test]
fn with_syncs_begun_before_the_messages_a_message_leaves_too_early() {
    without(|rules| rules.syncs_after_taking = false);
}

/// A leader does not know yet what an earlier one acknowledged.
#[test]
fn without_the_read_barrier_a_read_is_stale() {
    without(|rules| rules.engine.has_read_barrier = false);
}

/// A probe that was answered before another replica was elected confirms a later read.
#[test]
fn without_rounds_a_read_is_stale() {
    without(|rules| rules.engine.tells_rounds = false);
}

#[test]
fn without_lanes_a_write_is_done_twice() {
    without(|rules| rules.engine.lanes.finds_repetitions = false);
}

#[test]
fn with_lanes_forgotten_early_a_write_is_done_twice() {
    without(|rules| rules.engine.lanes.forgets_after = 4);
}

/// A frame of an old session makes a replica forget what it accepted.
#[test]
fn with_frames_of_old_sessions_replicas_go_wrong() {
    without(|rules| rules.engine.tells_sessions = false);
}

#[test]
fn with_the_applied_index_in_a_write_of_its_own_replicas_differ() {
    without(|rules| rules.writes_state_at_once = false);
}

/// What a crash takes of the state is nowhere.
#[test]
fn with_a_log_cut_before_the_state_is_on_the_disk_it_is_lost() {
    without(|rules| rules.keeps_what_the_disk_lacks = false);
}

/// Some of the compacted entries are nowhere after a crash.
#[test]
fn with_a_log_cut_before_its_entries_are_applied_state_is_lost() {
    without(|rules| rules.engine.compacts_what_is_applied = false);
}

/// A message compacted a replica's log, and the replica has no state to go with it.
#[test]
fn without_waiting_for_state_entries_are_nowhere() {
    without(|rules| rules.engine.waits_for_state = false);
}

/// An altered state stays different.
#[test]
fn without_quarantine_replicas_differ() {
    without(|rules| rules.engine.quarantines = false);
}

/// The replicas compare states as of different indexes, and sound ones seem altered.
#[test]
fn with_checksums_at_some_other_index_the_sound_are_quarantined() {
    without(|rules| rules.engine.checks_at_the_index = false);
}

/// The next configuration begins at another index at each replica.
#[test]
fn with_entries_after_a_stop_sign_replicas_differ() {
    without(|rules| rules.engine.seals = false);
}

/// A single replica acknowledges writes that a power loss undoes.
#[test]
fn with_a_configuration_of_one_that_does_not_wait_for_its_sync_a_write_is_lost() {
    without_in(World::Scaled, |rules| rules.engine.solo_waits_for_sync = false);
}

/// Replicas that left its ended configuration confirm to a leader that it still leads.
#[test]
fn with_reads_that_ignore_the_configuration_one_is_stale() {
    without_in(World::Scaled, |rules| {
        rules.engine.reads_know_configuration = false;
        // Replicas that left would not answer one that is not a member where they are.
        (rules.engine.knows_speakers, rules.has_strays) = (false, false);
    });
}

/// The members after a change lack writes that were acknowledged before it.
#[test]
fn with_a_change_that_does_not_wait_for_those_who_come_next_they_lack_writes() {
    without_in(World::Scaled, |rules| rules.engine.seals_what_heirs_have = false);
}

/// The next members lack the last entries before the change, and those that have them stay silent.
#[test]
fn with_those_who_left_silent_a_cluster_is_stuck() {
    without_in(World::Scaled, |rules| rules.engine.tells_ends = false);
}

/// A joiner reports that a sound state differs, that a read is confirmed, or that a configuration
/// is over.
#[test]
fn with_joiners_whose_word_counts_replicas_go_wrong() {
    without_in(World::Scaled, |rules| rules.engine.knows_speakers = false);
}

/// A configuration begins at a replica's current index, whatever that is.
#[test]
fn with_messages_that_start_a_configuration_replicas_differ() {
    without_in(World::Scaled, |rules| rules.engine.frames_start_nothing = false);
}

/// A copy of a running disk, brought back, has forgotten what its replica accepted since.
#[test]
fn with_copies_that_are_taken_for_the_disk_what_was_decided_is_lost() {
    without(|rules| rules.engine.compares_epochs = false);
}

#[test]
fn without_the_whitelist_a_message_does_harm() {
    without(|rules| rules.engine.has_whitelist = false);
}
