//! Tests of replicas' memory under clients and peers that read nothing: far below the pod's limit.
//!
//! `KVORUM_MEMORY_SECONDS` sets for how long the large test loads the replicas, by default a few
//! seconds.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::wire::{PLAIN, addresses, answer, client, resident_mib, send, try_client};
use bytes::Bytes;
use kvorum_harness::cluster::{Cluster, said};
use kvorum_protocol::data::{ClientId, Condition, Key, LaneId, Operation, RequestId, Value};
use kvorum_protocol::message::{
    Answer, ClientFrame, Refusal, Request, Scan, SnapshotRequest, Subscription,
};
use kvorum_replica::limits::SUM_BYTES_MAX;
use rustix::process::{Signal, kill_process};

/// The memory that no replica may exceed, in MiB.
const MOST: u64 = (SUM_BYTES_MAX >> 20) as u64;
const MIB: usize = 1 << 20;
/// How long a joiner is watched at most.
const JOINER_PATIENCE: Duration = Duration::from_secs(25);

fn seconds() -> Duration {
    let seconds = std::env::var("KVORUM_MEMORY_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(6))
}

/// Puts values of nearly a mebibyte.
fn fill(cluster: &Cluster, count: u64) {
    let file = cluster.folder.join("value");
    fs::write(&file, vec![b'x'; MIB - 1]).unwrap();
    let value = format!("@{}", file.display());
    for number in 0..count {
        let put = said(&cluster.run(&["--timeout", "20s", "put", &format!("k{number}"), &value]));
        assert_eq!(put.0, 0, "{put:?}");
    }
}

/// Returns the most memory that each replica takes until the condition holds, in MiB, by name.
fn watch(cluster: &Cluster, names: &[&str], until: impl Fn() -> bool) -> BTreeMap<String, u64> {
    let mut most = BTreeMap::new();
    while !until() {
        for name in names {
            if let Some(mib) = cluster.process(name).and_then(resident_mib) {
                let entry: &mut u64 = most.entry((*name).to_owned()).or_default();
                *entry = mib.max(*entry);
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    most
}

fn assert_little(most: &BTreeMap<String, u64>, what: &str) {
    println!("{what}: at most {most:?} MiB");
    assert!(most.values().all(|mib| *mib < MOST), "{what}: {most:?} MiB");
}

/// A thousand parts of a snapshot, requested by a few bytes each.
#[test]
fn parts_that_nobody_reads_take_little() {
    let cluster = Cluster::start(&["--replicas=3", PLAIN]);
    fill(&cluster, 8);
    let mut stream = client(&addresses(&cluster, "kvorum-1").clients);
    let opened = answer(&mut stream, 1, Request::Snapshot(SnapshotRequest::Open));
    let Answer::Snapshot { snapshot, .. } = opened else { panic!("{opened:?}") };
    for call in 2..1024 {
        let request = Request::Snapshot(SnapshotRequest::Part { snapshot, after: Value::from("") });
        if send(&mut stream, &ClientFrame::Call { call, request }).is_err() {
            break;
        }
    }
    let (began, patience) = (Instant::now(), seconds());
    let most = watch(&cluster, &["kvorum-1"], || began.elapsed() > patience);
    assert_little(&most, "parts that nobody reads");
    assert_eq!(said(&cluster.run(&["put", "a", "1", "kvorum-1"])).0, 0, "it serves others");
}

/// Prefixes, bounds and positions of a mebibyte are refused and not kept.
#[test]
fn long_prefixes_and_bounds_are_refused() {
    use kvorum_protocol::message::Consistency::Local;
    let cluster = Cluster::start(&["--replicas=3", PLAIN]);
    let at = addresses(&cluster, "kvorum-1").clients;
    let long = || vec![7; MIB];
    let snapshot = kvorum_protocol::message::SnapshotName { nonce: 1, number: 1 };
    let requests = || {
        [
            Request::Subscribe(Subscription::Keys { prefix: long(), from: 0 }),
            Request::Scan(Scan::of(long(), Local)),
            Request::Scan(Scan { from: long(), ..Scan::of("", Local) }),
            Request::Scan(Scan { until: long(), ..Scan::of("", Local) }),
            Request::Get { key: Key::from(long()), consistency: Local },
            Request::Snapshot(SnapshotRequest::Part { snapshot, after: Value::from(long()) }),
        ]
    };
    let mut held = Vec::new();
    for _ in 0..10 {
        let mut stream = client(&at);
        for (call, request) in (0..).zip(requests()) {
            let told = answer(&mut stream, call, request);
            assert!(matches!(told, Answer::Refused(Refusal::Limit(_))), "{told:?}");
        }
        held.push(stream);
    }
    let mib = cluster.process("kvorum-1").and_then(resident_mib).unwrap();
    println!("long prefixes and bounds: {mib} MiB");
    assert!(mib < MOST, "{mib} MiB");
}

/// Writes values of a mebibyte and reads no answer, until told to end. Reconnects whenever it is
/// disconnected or its data is not read for a while.
fn write_and_never_read(at: &str, number: u64, ends: &AtomicBool, sent: &AtomicU64) {
    let value = Bytes::from(vec![7; MIB - 64]);
    for life in 1.. {
        if ends.load(Ordering::Relaxed) {
            return;
        }
        let Some(mut stream) = try_client(at) else {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let lane = LaneId { client: ClientId(u128::from(number)), number: life };
        for sequence in 1.. {
            let key = Key::from(format!("load-{}", number % 32));
            let (value, condition) = (Value(value.clone()), Condition::Always);
            let operation = Operation::Put { key, value, condition };
            let id = RequestId { lane, sequence };
            let request = Request::Write { id, valid_until: u64::MAX, operation };
            let call = ClientFrame::Call { call: sequence, request };
            if ends.load(Ordering::Relaxed) || send(&mut stream, &call).is_err() {
                break;
            }
            sent.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Everything at once: 256 clients that write and never read, a follower that is stopped, and a
/// replica that joins and copies the state.
#[test]
fn all_bounds_together_are_below_the_limit() {
    let cluster = Cluster::start(&["--replicas=3"]);
    fill(&cluster, 48);
    let status = said(&cluster.run(&["status"])).1;
    let named = |what: &str| {
        let line = status.lines().find(|line| line.contains(what)).unwrap();
        line.split_whitespace().next().unwrap().to_owned()
    };
    let (leader, follower) = (named("leader"), named("follower"));
    let leaders = addresses(&cluster, &leader).clients;
    let others = ["kvorum-0", "kvorum-1", "kvorum-2"].map(|name| addresses(&cluster, name).clients);
    let stopped = cluster.process(&follower).unwrap();
    kill_process(stopped, Signal::STOP).unwrap();
    let stopped_at = addresses(&cluster, &follower).clients;
    let others: Vec<_> = others.into_iter().filter(|at| *at != stopped_at).collect();
    let (ends, sent, began) = (AtomicBool::new(false), AtomicU64::new(0), Instant::now());
    let most = std::thread::scope(|scope| {
        for number in 0..256u64 {
            // Most go to the leader, as those of valid clients do.
            let at = if number % 4 == 0 { &others[usize::from(number % 8 >= 4)] } else { &leaders };
            let (ends, sent) = (&ends, &sent);
            scope.spawn(move || write_and_never_read(at, number, ends, sent));
        }
        let scaling = scope.spawn(|| said(&cluster.run(&["scale", "4", "--yes"])));
        let names = ["kvorum-0", "kvorum-1", "kvorum-2", "kvorum-3"];
        let most = watch(&cluster, &names, || {
            // Under such a load a joiner may copy for a long time; by then its memory was measured.
            let is_over = scaling.is_finished() || began.elapsed() > JOINER_PATIENCE;
            is_over && began.elapsed() > seconds()
        });
        ends.store(true, Ordering::Relaxed);
        kill_process(stopped, Signal::CONT).unwrap();
        println!("scaled: {:?}", scaling.join().unwrap());
        most
    });
    println!("{} MiB were sent in {:?}", sent.load(Ordering::Relaxed), began.elapsed());
    assert_little(&most, "256 clients, a stopped follower and a joiner");
    assert!(most.contains_key("kvorum-3"), "the joiner was there");
    let put = said(&cluster.run(&["--timeout", "20s", "put", "after", "1"]));
    assert_eq!(put.0, 0, "{put:?}");
}
