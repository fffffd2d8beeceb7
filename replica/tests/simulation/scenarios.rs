//! Scenarios of a cluster that is scaled, one event at a time: each on many seeds, with clients
//! that read and write all the while.

use kvorum_protocol::status::Role;

use super::cluster::Cluster;
use super::{Rules, quietly};

/// Seeds of each scenario.
const SEEDS: u64 = 20;

type Scenario = fn(&mut Cluster) -> Result<(), String>;

/// Waits until the members are the wanted ones, and one of them leads.
fn settle(cluster: &mut Cluster, replicas: u32) -> Result<(), String> {
    let wanted: Vec<_> = (0..replicas).collect();
    cluster.until(&format!("{replicas} members"), |cluster| {
        cluster.members() == wanted && leader(cluster).is_some()
    })
}

fn expect(holds: bool, what: &str, cluster: &Cluster) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("{what}: {}", cluster.describe())) }
}

/// Returns the ordinal that leads.
fn leader(cluster: &Cluster) -> Option<u32> {
    let leads = |ordinal: &u32| {
        let engine = cluster.replica_of(*ordinal).and_then(|id| cluster.engine(id));
        engine.is_some_and(|engine| engine.status().role == Role::Leader)
    };
    (0..7).find(leads)
}

/// Runs a scenario that begins with `replicas` replicas; then the invariants of any run must hold.
fn play(replicas: u32, scenario: Scenario) {
    play_to_end(replicas, scenario, |cluster| cluster.run(3000).map(|_| ()));
}

/// Runs a scenario that ends in its own way.
fn play_to_end(replicas: u32, scenario: Scenario, end: Scenario) {
    for seed in 0..SEEDS {
        let mut cluster = Cluster::of_wanted(seed, replicas, Rules::default());
        let played = quietly(|| {
            settle(&mut cluster, replicas)?;
            scenario(&mut cluster)?;
            end(&mut cluster)
        });
        if let Err(why) = played {
            panic!("seed {seed}: {why}");
        }
    }
}

#[test]
fn three_become_five_at_once() {
    play(3, |cluster| {
        let before = cluster.configurations();
        cluster.scale_to(5);
        settle(cluster, 5)?;
        expect(cluster.configurations() <= before + 2, "one or two changes", cluster)
    });
}

/// The first replica leads, and keeps leading while others come and go.
#[test]
fn growing_and_shrinking_moves_leadership_only_from_who_leaves() {
    play(3, |cluster| {
        expect(leader(cluster) == Some(0), "the first leads", cluster)?;
        for replicas in [5, 3, 7, 2, 1, 4] {
            cluster.scale_to(replicas);
            settle(cluster, replicas)?;
            cluster.pass(1_000_000)?;
            expect(leader(cluster) == Some(0), "it leads on", cluster)?;
        }
        Ok(())
    });
}

/// Replicas are restarted one after the other, as in a rollout: leadership moves once, from the
/// leader to the lowest that stays.
#[test]
fn a_rollout_moves_leadership_once() {
    play(3, |cluster| {
        cluster.pass(1_000_000)?;
        for (ordinal, then) in [(2, 0), (1, 0), (0, 1)] {
            cluster.request_stop(ordinal)?;
            cluster.until("leave", |cluster| cluster.may_go(ordinal))?;
            cluster.kill(ordinal);
            settle(cluster, 3)?;
            cluster.pass(1_500_000)?;
            expect(leader(cluster) == Some(then), &format!("{then} leads"), cluster)?;
        }
        Ok(())
    });
}

#[test]
fn a_leader_that_leaves_hands_over_first() {
    play(5, |cluster| {
        let before = cluster.configurations();
        for _ in 0..400 {
            if leader(cluster) == Some(4) {
                break;
            }
            if let Some(ordinal) = leader(cluster) {
                cluster.kill(ordinal);
            }
            cluster.pass(300_000)?;
        }
        settle(cluster, 5)?;
        cluster.scale_to(3);
        settle(cluster, 3)?;
        expect(cluster.configurations() == before + 1, "one change", cluster)
    });
}

#[test]
fn five_become_one_in_one_change() {
    play(5, |cluster| {
        let before = cluster.configurations();
        cluster.scale_to(1);
        settle(cluster, 1)?;
        expect(cluster.configurations() == before + 1, "one change", cluster)
    });
}

/// The only replica that would be left is down: the others keep serving.
#[test]
fn nobody_leaves_before_those_who_stay_are_there() {
    play(5, |cluster| {
        cluster.keep_down(0, 3_000_000);
        cluster.scale_to(1);
        cluster.pass(2_500_000)?;
        expect(cluster.members().len() == 5, "all are members still", cluster)?;
        expect(leader(cluster).is_some(), "one of them leads", cluster)?;
        settle(cluster, 1)
    });
}

/// All replicas that were to leave are killed at once: the cluster stops, reports the remedy, and
/// the remedy helps.
#[test]
fn a_majority_killed_while_it_leaves_comes_back_when_scaled_up() {
    play(5, |cluster| {
        // Stopped in the same moment, so that none has left.
        for ordinal in 1..5 {
            cluster.keep_down(ordinal, 0);
        }
        cluster.scale_to(1);
        cluster.pass(4_000_000)?;
        let trouble = cluster.trouble_of(0).unwrap_or_default();
        expect(trouble.contains("scale back up to 3 replicas"), &trouble, cluster)?;
        cluster.scale_to(3);
        settle(cluster, 3)?;
        cluster.scale_to(1);
        settle(cluster, 1)
    });
}

#[test]
fn down_and_up_within_a_moment() {
    play(5, |cluster| {
        cluster.scale_to(1);
        cluster.pass(40_000)?;
        cluster.scale_to(5);
        settle(cluster, 5)
    });
}

/// The first replica is dead, and stays a member: the others are enough.
#[test]
fn down_past_a_dead_one() {
    play(5, |cluster| {
        cluster.keep_down(0, 2_500_000);
        cluster.scale_to(3);
        cluster.until("three members", |cluster| cluster.members() == [0, 1, 2])?;
        settle(cluster, 3)
    });
}

#[test]
fn a_killed_one_comes_back_as_who_it_was() {
    play(3, |cluster| {
        let before = cluster.replica_of(1);
        cluster.kill(1);
        settle(cluster, 3)?;
        expect(cluster.replica_of(1) == before, "the same id", cluster)
    });
}

#[test]
fn a_lost_volume_is_replaced_in_one_change() {
    play(3, |cluster| {
        let (before, was) = (cluster.configurations(), cluster.replica_of(1));
        cluster.destroy(1);
        cluster.until("another id", |cluster| {
            let now = cluster.replica_of(1).filter(|now| Some(*now) != was);
            now.is_some_and(|now| cluster.has_member(now))
        })?;
        settle(cluster, 3)?;
        expect(cluster.configurations() == before + 1, "one change", cluster)
    });
}

/// Two of three replicas are to be restarted: the second waits until the first is back. When all
/// are asked to end, all may.
#[test]
fn restarts_take_turns() {
    play(3, |cluster| {
        let may_go = |cluster: &Cluster, ordinal| cluster.may_go(ordinal);
        cluster.request_stop(1)?;
        cluster.until("leave for the first", |cluster| may_go(cluster, 1))?;
        cluster.request_stop(2)?;
        cluster.pass(1_000_000)?;
        expect(!may_go(cluster, 2), "the second waits", cluster)?;
        cluster.kill(1);
        cluster.pass(10_000)?;
        expect(!may_go(cluster, 2), "the second waits for the first", cluster)?;
        cluster.until("leave for the second", |cluster| may_go(cluster, 2))?;
        expect(leader(cluster).is_some(), "the cluster serves", cluster)?;
        cluster.kill(2);
        settle(cluster, 3)?;
        cluster.pass(1_000_000)?;
        for ordinal in 0..3 {
            cluster.request_stop(ordinal)?;
        }
        cluster.until("leave for all", |cluster| (0..3).all(|ordinal| may_go(cluster, ordinal)))
    });
}

/// One of three replicas is down, and another one is to be restarted: it has to wait.
#[test]
fn a_restart_waits_for_a_dead_one() {
    play(3, |cluster| {
        cluster.keep_down(0, 3_000_000);
        cluster.pass(500_000)?;
        cluster.request_stop(2)?;
        cluster.pass(2_000_000)?;
        expect(!cluster.may_go(2), "it waits", cluster)?;
        cluster.until("leave", |cluster| cluster.may_go(2))?;
        cluster.kill(2);
        settle(cluster, 3)
    });
}

/// Two volumes of three are lost: the cluster stops, and reports the way to recover.
#[test]
fn a_lost_majority_stops_and_says_so() {
    let lose = |cluster: &mut Cluster| {
        cluster.pass(500_000)?;
        cluster.destroy(1);
        cluster.destroy(2);
        cluster.pass(4_000_000)
    };
    play_to_end(3, lose, |cluster| {
        let trouble = cluster.trouble_of(0).unwrap_or_default();
        expect(trouble.contains("kvorum recover"), &trouble, cluster)?;
        expect(cluster.members().len() == 3, "no change", cluster)
    });
}

/// A dead replica whose volume exists stays a member, however long it is dead.
#[test]
fn being_dead_is_no_reason_to_leave() {
    play(3, |cluster| {
        let before = cluster.configurations();
        cluster.keep_down(2, 8_000_000);
        cluster.pass(7_000_000)?;
        expect(cluster.configurations() == before, "no change", cluster)?;
        settle(cluster, 3)
    });
}

/// The orchestrator is unreachable, then reports another number.
#[test]
fn a_silent_orchestrator_changes_nothing() {
    play(3, |cluster| {
        let before = cluster.configurations();
        cluster.set_silent(true);
        cluster.pass(3_000_000)?;
        expect(leader(cluster).is_some(), "it serves", cluster)?;
        expect(cluster.configurations() == before, "no change", cluster)?;
        cluster.scale_to(5);
        cluster.pass(1_000_000)?;
        expect(cluster.members().len() == 3, "nobody was told", cluster)?;
        cluster.set_silent(false);
        settle(cluster, 5)
    });
}

/// No replica is wanted: all stop, and come back with their identities.
#[test]
fn to_nothing_and_back() {
    play(3, |cluster| {
        let before = cluster.configurations();
        cluster.scale_to(0);
        for ordinal in 0..3 {
            cluster.kill(ordinal);
        }
        cluster.pass(2_000_000)?;
        expect(leader(cluster).is_none(), "nobody runs", cluster)?;
        cluster.scale_to(3);
        settle(cluster, 3)?;
        expect(cluster.configurations() == before, "no change", cluster)
    });
}

/// One of five replicas is restarted: it reports what is missing, and all is well when that comes.
#[test]
fn to_nothing_and_back_to_too_few() {
    play(5, |cluster| {
        cluster.scale_to(0);
        for ordinal in 0..5 {
            cluster.kill(ordinal);
        }
        cluster.pass(1_000_000)?;
        cluster.scale_to(1);
        cluster.pass(6_000_000)?;
        let trouble = cluster.trouble_of(0).unwrap_or_default();
        expect(trouble.contains("1 of 5 members are there, 3 are needed"), &trouble, cluster)?;
        cluster.scale_to(5);
        settle(cluster, 5)
    });
}

/// The leader has an outdated number, and its looks get no answer: no replica is removed.
fn hears_an_old_number(cluster: &mut Cluster) -> Result<(), String> {
    cluster.set_silent(true);
    for _ in 0..20 {
        for ordinal in 0..5 {
            cluster.say(ordinal, 3)?;
        }
        cluster.pass(200_000)?;
    }
    expect(cluster.members().len() == 5, "all are members still", cluster)?;
    cluster.set_silent(false);
    settle(cluster, 5)
}

#[test]
fn an_old_number_removes_nobody() {
    play(5, hears_an_old_number);
}

#[test]
fn without_a_second_look_an_old_number_removes_members() {
    let mut rules = Rules::default();
    rules.engine.looks_again = false;
    let mut cluster = Cluster::of_wanted(0, 5, rules);
    let played = quietly(|| {
        settle(&mut cluster, 5)?;
        hears_an_old_number(&mut cluster)
    });
    assert!(played.unwrap_err().contains("all are members still"));
}

/// Only the leader cannot see how many replicas are wanted: the others report it.
#[test]
fn a_leader_that_is_not_told_hears_it_from_the_others() {
    play(3, |cluster| {
        cluster.set_deaf(leader(cluster));
        cluster.scale_to(5);
        cluster.until("5 members", |cluster| cluster.members().len() == 5)?;
        cluster.scale_to(3);
        cluster.until("3 members", |cluster| cluster.members().len() == 3)?;
        cluster.set_deaf(None);
        settle(cluster, 3)
    });
}
