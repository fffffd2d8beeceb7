//! Tests that a replica that was away for long gets the state from the others, over real processes.
//!
//! `KVORUM_STATE_MIB` sets the size of the state, and `KVORUM_OVERWRITES` how often keys are
//! overwritten; the defaults are small, so that the tests take seconds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kvorum_harness::cluster::{
    Cluster, PATIENCE, fill, leader, memory_kib, number, said, status_when,
};
use kvorum_protocol::client::Route;
use kvorum_protocol::message::{Consistency, Scan};
use kvorum_protocol::status::{Role, Status};
use kvorum_protocol::{Client, Key, Value};
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinSet;

/// The size of the state: much more than the log keeps.
const STATE_MIB: u64 = 128;
const VALUE_BYTES: usize = 1024;
const WRITERS: u64 = 64;

/// The number of overwrites: more log than is kept.
const OVERWRITES: u64 = 110_000;
/// Keys that are overwritten.
const OVERWRITTEN: u64 = 1000;

fn state_mib() -> u64 {
    number("KVORUM_STATE_MIB", STATE_MIB)
}

/// Returns a value that does not compress and is determined by its number.
fn value(number: u64) -> Value {
    let mut bytes = Vec::with_capacity(VALUE_BYTES);
    let mut word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while bytes.len() < VALUE_BYTES {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        bytes.extend(word.to_le_bytes());
    }
    Value::from(bytes)
}

fn key(number: u64) -> Key {
    Key::from(format!("key/{number:08}"))
}

/// Writes much more than the log keeps while a follower is stopped; returns the leader, the
/// follower, and the number of keys.
async fn fill_without_one(cluster: &Cluster, client: &Arc<Client>) -> (String, String, u64) {
    let leader = leader(client).await;
    let names = cluster.names();
    let away = names.iter().find(|name| **name != leader).unwrap().clone();
    // While it joins, the others keep the data that it fetches.
    let has_joined = |s: &Status| is_in_step(s) && s.catching_up.is_none();
    status_when(client, &Route::Through(away.clone()), has_joined).await;
    stop(cluster.process(&away).unwrap());
    let count = state_mib() * 1024;
    fill(client, 0..count, WRITERS, key, value).await;
    (leader, away, count)
}

/// Returns the memory of a process that is its own, in KiB.
fn memory(process: Pid) -> u64 {
    memory_kib(process, "RssAnon").unwrap_or(0)
}

/// Stops a process. The supervisor restarts a process that dies, so a replica is stopped to be
/// away.
fn stop(process: Pid) {
    kill_process(process, Signal::STOP).unwrap();
}

fn is_in_step(status: &Status) -> bool {
    status.role == Role::Follower && status.is_ready
}

/// Asserts that a replica holds everything that was written, by its own local reads.
async fn assert_has_all(client: &Client, name: &str, count: u64) {
    let route = Route::Through(name.to_owned());
    let (mut next, mut page_of) = (0, Some(Scan::of("key/", Consistency::Local)));
    // A page at a time: the state may be large.
    while let Some(scan) = page_of {
        let page = client.scan(scan.clone(), &route).await.unwrap();
        page_of = scan.after(&page);
        for pair in page.pairs {
            assert_eq!((pair.key, pair.value), (key(next), value(next)));
            next += 1;
        }
    }
    assert_eq!(next, count);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_away_for_long_copies_the_state() {
    let cluster = Cluster::start(&["--replicas=3"]);
    let client = cluster.client(Duration::from_secs(30));
    let (leader, away, count) = fill_without_one(&cluster, &client).await;
    let sender = cluster.process(&leader).unwrap();
    let before = memory(sender);

    // Its folder holds next to nothing; it starts again and is far behind.
    let began = Instant::now();
    cluster.kill(&away);
    let route = Route::Through(away.clone());
    let behind = status_when(&client, &route, |s| {
        s.catching_up.as_ref().is_some_and(|c| c.items > 0 && c.items_expected > 0)
    });
    let behind = behind.await;
    assert!(!behind.is_ready, "a replica that is behind is not ready");
    let why = behind.trouble.unwrap();
    assert!(why.contains("copies what it lacks"), "it says why: {why}");
    let (_, table, _) = said(&cluster.run(&["status"]));
    assert!(table.contains(" keys are there"), "it says how far: {table}");
    let hasty = cluster.client(Duration::from_secs(1));
    let refused = hasty.get(key(0), Consistency::Linearizable, &route).await;
    assert!(refused.is_err(), "it has not caught up: {refused:?}");

    // Killed at random points, it resumes where it was.
    let (mut copied, mut resumed_at) = (0, Vec::new());
    let (mut sends, mut receives) = (0, 0);
    for kill in 0..10 {
        tokio::time::sleep(Duration::from_millis(150 + 37 * kill)).await;
        cluster.kill(&away);
        let resumed = status_when(&client, &route, |s| {
            is_in_step(s) || s.catching_up.as_ref().is_some_and(|c| c.items > 0)
        });
        let Some(now) = resumed.await.catching_up.map(|c| c.items) else { break };
        assert!(now >= copied, "{now} items after {copied}: it began anew");
        copied = now;
        resumed_at.push(now);
        receives = receives.max(cluster.process(&away).map_or(0, memory));
    }
    println!("killed, it went on at {resumed_at:?} of {count} keys");
    assert!(!resumed_at.is_empty(), "it was killed while it copied");
    loop {
        sends = sends.max(memory(sender));
        receives = receives.max(cluster.process(&away).map_or(0, memory));
        if client.status(&route).await.is_ok_and(|status| is_in_step(&status)) {
            break;
        }
        assert!(began.elapsed() < 6 * PATIENCE, "the copy comes to its end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!(
        "{} MiB copied in {:?}; sender's memory {} MiB more, receiver's {} MiB in all",
        state_mib(),
        began.elapsed(),
        sends.saturating_sub(before) / 1024,
        receives / 1024
    );
    fill(&client, count..count + 100, WRITERS, key, value).await;
    assert_has_all(&client, &away, count + 100).await;
}

/// If the replica that it copies from is gone, the rest comes from another one, and writes go on
/// with it: it is then needed for a majority.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_comes_to_its_end_without_its_source() {
    let cluster = Cluster::start(&["--replicas=3"]);
    let client = cluster.client(Duration::from_secs(60));
    let (_, away, count) = fill_without_one(&cluster, &client).await;
    cluster.kill(&away);
    let route = Route::Through(away.clone());
    let copies = |s: &Status| s.catching_up.as_ref().is_some_and(|c| c.items > 0);
    let source = status_when(&client, &route, copies).await.catching_up.unwrap().from;
    let stopped = cluster.process(&source).unwrap();
    stop(stopped);
    let began = Instant::now();
    status_when(&client, &route, is_in_step).await;
    println!("in step {:?} after its source {source} was stopped", began.elapsed());
    fill(&client, count..count + 100, WRITERS, key, value).await;
    assert_has_all(&client, &away, count + 100).await;
    kill_process(stopped, Signal::CONT).unwrap();
    // The source may even lead again.
    let route = Route::Through(source);
    status_when(&client, &route, |status| status.is_ready).await;
}

fn bytes_in(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().filter_map(Result::ok);
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
        Ok(metadata) => metadata.len(),
        // Removed in the meantime.
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

/// The disk holds little more than the keys, however often they are overwritten, and a replica
/// restarts soon.
#[tokio::test(flavor = "multi_thread")]
async fn overwritten_keys_leave_nothing_behind() {
    /// Space beyond the live data: the log, the write-ahead log, and data not merged yet.
    const SLACK_BYTES: u64 = 256 << 20;
    let count = number("KVORUM_OVERWRITES", OVERWRITES);
    let cluster = Cluster::start(&["--replicas=3"]);
    let client = cluster.client(Duration::from_secs(30));
    let mut tasks = JoinSet::new();
    for writer in 0..WRITERS {
        let client = Arc::clone(&client);
        tasks.spawn(async move {
            for number in (0..count).filter(|number| number % WRITERS == writer) {
                let key = key(number % OVERWRITTEN);
                client.put(key, value(number), &Route::Any).await.unwrap();
            }
        });
    }
    let (mut disk, mut most) = (0, 0);
    while !tasks.is_empty() {
        while tasks.try_join_next().is_some() {}
        disk = disk.max(bytes_in(&cluster.folder.join("kvorum-0")));
        most = most.max(cluster.process("kvorum-0").map_or(0, memory));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let live = OVERWRITTEN * VALUE_BYTES as u64;
    assert!(disk <= 5 * live / 2 + SLACK_BYTES, "{disk} bytes on the disk for {live} that live");
    let route = Route::Through("kvorum-0".to_owned());
    let status = client.status(&route).await.unwrap();
    assert!(status.compacted > 0, "the log was cut");
    let began = Instant::now();
    cluster.kill("kvorum-0");
    let is_back = |s: &Status| s.incarnation > status.incarnation && s.is_ready;
    status_when(&client, &route, is_back).await;
    println!(
        "{count} overwrites: at most {} MiB on the disk, {} MiB of memory; back {:?} after a kill",
        disk >> 20,
        most >> 10,
        began.elapsed()
    );
}
