//! Tests of changing the number of real replicas, up and down, under load, while replicas are
//! killed and disks are lost.
//!
//! `KVORUM_SCALINGS` sets the number of random steps; the pauses between them are then at most five
//! seconds.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvorum_harness::cluster::{Cluster, PATIENCE, kvorum, leader, said, scan_all, status_when};
use kvorum_protocol::client::Route;
use kvorum_protocol::data::Outcome;
use kvorum_protocol::message::{Consistency, Scan};
use kvorum_protocol::status::{ClusterId, Configuration, Status};
use kvorum_protocol::{Client, Key, Value};
use kvorum_replica::marker::Marker;
use kvorum_replica::orchestrator::Folder;
use rand::RngExt;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{interval, sleep, timeout};

/// Longer than any configuration change.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long one step may take.
const STEP_MAX: Duration = Duration::from_secs(15);
/// Time between two writes of the client that measures.
const PACE: Duration = Duration::from_millis(5);
/// The writes to wait for where a cluster shall be under load.
const WRITES: usize = 100;
/// How long a file system may take to show a move.
const PAUSE: Duration = Duration::from_millis(50);

/// A client that writes every few milliseconds and tries each write until it is done.
struct Writer {
    stop: Arc<AtomicBool>,
    acknowledged: watch::Receiver<usize>,
    task: JoinHandle<Vec<(Key, u64, Instant)>>,
}

impl Writer {
    fn begin(client: &Arc<Client>, name: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (client, stopped) = (Arc::clone(client), Arc::clone(&stop));
        let (count, acknowledged) = watch::channel(0);
        let task = tokio::spawn(async move {
            let (mut written, mut pace) = (Vec::new(), interval(PACE));
            while !stopped.load(Ordering::Relaxed) {
                pace.tick().await;
                let key = Key::from(format!("key/{name}/{:06}", written.len()));
                match client.put(key.clone(), Value::from("v"), &Route::Any).await {
                    Ok(Outcome::Put { revision }) => written.push((key, revision, Instant::now())),
                    other => panic!("a client sees latency and no error: {other:?}"),
                }
                count.send_replace(written.len());
            }
            written
        });
        Self { stop, acknowledged, task }
    }

    /// Waits until as many more writes as half a second has room for are acknowledged.
    async fn goes_on(&self) {
        let mut acknowledged = self.acknowledged.clone();
        let until = *acknowledged.borrow() + WRITES;
        let reached = acknowledged.wait_for(|count| *count >= until);
        timeout(PATIENCE, reached).await.expect("writes are acknowledged").unwrap();
    }

    /// Returns the acknowledged writes, and when they were acknowledged.
    async fn end(self) -> Vec<(Key, u64, Instant)> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// Returns the longest time without an acknowledged write that ended after some moment and began
/// before another one, in milliseconds.
fn gap_ms(written: &[(Key, u64, Instant)], from: Instant, to: Instant) -> u128 {
    let pairs = written.windows(2).filter(|pair| pair[1].2 > from && pair[0].2 < to);
    pairs.map(|pair| (pair[1].2 - pair[0].2).as_millis()).max().unwrap_or(0)
}

fn median(mut values: Vec<u128>) -> u128 {
    values.sort_unstable();
    values[values.len() / 2]
}

/// Waits until there are as many members as desired and the leader serves.
async fn settled(client: &Client, replicas: usize) -> Status {
    let is_settled = |status: &Status| {
        status.configuration.members.len() == replicas
            && status.leader.as_ref() == Some(&status.name)
            && status.is_ready
    };
    status_when(client, &Route::Any, is_settled).await
}

/// Asserts that every acknowledged write is present.
async fn assert_all_there(client: &Client, written: &[(Key, u64, Instant)]) {
    let scan = Scan { keys_only: true, ..Scan::of("key/", Consistency::Linearizable) };
    let pairs = scan_all(client, scan, &Route::Any).await.into_iter();
    let found: BTreeMap<Key, u64> = pairs.map(|pair| (pair.key, pair.revision)).collect();
    for (key, revision, _) in written {
        assert_eq!(found.get(key), Some(revision), "{key:?}");
    }
}

fn scale(cluster: &Cluster, replicas: u32) {
    kvorum::local::scale(&cluster.folder, replicas).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn members_follow_the_number_wanted_and_clients_see_no_error() {
    let cluster = Cluster::start(&["--replicas=1"]);
    let client = cluster.client(DEADLINE);
    let writers = ["a", "b", "c"].map(|name| Writer::begin(&client, name));
    writers[0].goes_on().await;
    let mut steps = Vec::new();
    for replicas in [3, 5, 3, 1, 2, 1, 5, 1] {
        let before = client.status(&Route::Any).await.unwrap().configuration.id.0;
        let from = Instant::now();
        scale(&cluster, replicas);
        let status = settled(&client, replicas as usize).await;
        let took = from.elapsed();
        let changes = status.configuration.id.0 - before;
        assert!(took < STEP_MAX, "to {replicas}: {took:?}");
        assert!(changes == 1 || replicas > 1, "to one replica in one change, not {changes}");
        writers[0].goes_on().await;
        steps.push((replicas, took, from, Instant::now()));
    }
    let mut written = Vec::new();
    let mut gaps = Vec::new();
    for (place, writer) in writers.into_iter().enumerate() {
        let acknowledged = writer.end().await;
        if place == 0 {
            for (replicas, took, from, to) in &steps {
                let gap = gap_ms(&acknowledged, *from, *to);
                println!("to {replicas}: {} ms, write gap {gap} ms", took.as_millis());
                gaps.push(gap);
            }
        }
        written.extend(acknowledged);
    }
    println!("{} writes, write gap of a change: median {} ms", written.len(), median(gaps));
    assert_all_there(&client, &written).await;
}

/// Scales up and down faster than anything can follow, while some replicas that leave are killed.
#[tokio::test(flavor = "multi_thread")]
async fn random_steps_converge_and_lose_nothing() {
    let asked = std::env::var("KVORUM_SCALINGS").ok().map(|text| text.parse().unwrap());
    let (count, pause) = asked.map_or((8, 700), |count: u32| (count, 5000));
    let cluster = Cluster::start(&["--replicas=5"]);
    let client = cluster.client(Duration::from_secs(60));
    let writer = Writer::begin(&client, "w");
    scale(&cluster, 1);
    sleep(Duration::from_millis(500)).await;
    scale(&cluster, 5);
    settled(&client, 5).await;
    let (mut replicas, mut killed) = (5, 0);
    for _ in 0..count {
        let next = rand::rng().random_range(1..=7);
        scale(&cluster, next);
        // At most one of those that leave: a majority survives.
        if next + 1 < replicas && rand::rng().random_bool(0.5) {
            sleep(Duration::from_millis(rand::rng().random_range(0..100))).await;
            cluster.kill(&format!("kvorum-{}", replicas - 1));
            killed += 1;
        }
        replicas = next;
        sleep(Duration::from_millis(rand::rng().random_range(0..pause))).await;
    }
    let began = Instant::now();
    settled(&client, replicas as usize).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
    let written = writer.end().await;
    println!(
        "{count} steps, {killed} killed while they left, {} writes; settled {} ms after the last",
        written.len(),
        took.as_millis()
    );
    assert_all_there(&client, &written).await;
}

/// A replica whose folder is gone, the leader's included, is replaced without help.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_folder_is_replaced() {
    for replicas in [3, 5] {
        let cluster = Cluster::start(&[&format!("--replicas={replicas}")]);
        let client = cluster.client(DEADLINE);
        let writer = Writer::begin(&client, "w");
        let first = leader(&client).await;
        let follower = cluster.names().into_iter().find(|name| *name != first).unwrap();
        for name in [follower, first] {
            let before = client.status(&Route::Any).await.unwrap().configuration;
            let began = Instant::now();
            cluster.take_folder_away(&name);
            replaced(&client, &before, &name).await;
            println!("{name} of {replicas}: replaced after {} ms", began.elapsed().as_millis());
            assert!(began.elapsed() < STEP_MAX);
            fs::remove_dir_all(cluster.folder.join(format!("lost-{name}"))).unwrap();
        }
        let written = writer.end().await;
        assert_all_there(&client, &written).await;
    }
}

/// A replica that was away while all others were replaced knows none of their ids, and still comes
/// back.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_left_behind_finds_the_others() {
    let cluster = Cluster::start(&["--replicas=3"]);
    let client = cluster.client(DEADLINE);
    let writer = Writer::begin(&client, "w");
    let route = Route::Through("kvorum-2".to_owned());
    let before = status_when(&client, &route, |status| status.is_ready).await;
    let away = cluster.process("kvorum-2").unwrap();
    rustix::process::kill_process(away, rustix::process::Signal::STOP).unwrap();
    scale(&cluster, 2);
    settled(&client, 2).await;
    scale(&cluster, 4);
    let is_of_three = |status: &Status| status.configuration.members.len() == 3;
    status_when(&client, &Route::Any, |status| is_of_three(status) && status.is_ready).await;
    for name in ["kvorum-0", "kvorum-1"] {
        cluster.take_folder_away(name);
        replaced(&client, &before.configuration, name).await;
    }
    let began = Instant::now();
    rustix::process::kill_process(away, rustix::process::Signal::CONT).unwrap();
    let is_back = |status: &Status| status.is_ready && status.replica != before.replica;
    status_when(&client, &route, is_back).await;
    println!("back under a new id after {} ms", began.elapsed().as_millis());
    settled(&client, 4).await;
    let written = writer.end().await;
    assert_all_there(&client, &written).await;
}

/// A volume of another cluster, opened while the marker could not be read: its replica ends as soon
/// as the marker can be read.
#[test]
fn a_volume_of_another_cluster_is_refused_late() {
    let temporary = tempfile::tempdir().unwrap();
    let (old, here) = (temporary.path().join("old"), temporary.path().join("here"));
    Cluster::start_in(&old, &["--replicas=3"]).stop(rustix::process::Signal::TERM);
    fs::create_dir(&here).unwrap();
    fs::rename(old.join("kvorum-2"), here.join("kvorum-2")).unwrap();
    let set = r#"{"cluster": "00000000000000000000000000000001", "replicas": 3}"#;
    fs::write(here.join("statefulset.json"), set).unwrap();
    fs::write(here.join("marker.json"), "{").unwrap();

    let said = temporary.path().join("said");
    let mut command = kvorum();
    // It ends with this test, however the test ends.
    command.args(["replica", "--name=kvorum-2", "--disk-reserve=0", "--stop-with-stdin"]);
    command.stdin(std::process::Stdio::piped());
    command.arg(format!("--follow={}", here.display()));
    command.arg(format!("--data={}", here.join("kvorum-2").display()));
    for port in ["peers", "clients", "http"] {
        command.arg(format!("--listen-{port}=127.0.0.1:0"));
    }
    let mut child = command.stderr(fs::File::create(&said).unwrap()).spawn().unwrap();
    let until = |what: &str, holds: &mut dyn FnMut(&str) -> bool| {
        let began = Instant::now();
        while !holds(&fs::read_to_string(&said).unwrap()) {
            let said = fs::read_to_string(&said).unwrap();
            assert!(began.elapsed() < PATIENCE, "{what}: {said}");
            std::thread::sleep(PAUSE);
        }
    };
    until("it runs", &mut |said| said.contains("cannot tell whether the cluster has its marker"));
    let other = Marker::new(ClusterId(1), 1);
    // In one step: the replica makes a marker itself as soon as there is none.
    fs::create_dir(here.join("aside")).unwrap();
    Folder::new(&here.join("aside")).make_marker_now(other).unwrap();
    fs::rename(here.join("aside").join("marker.json"), here.join("marker.json")).unwrap();
    let mut code = None;
    until("it ends", &mut |_| {
        code = child.try_wait().unwrap();
        code.is_some()
    });
    assert_eq!(code.and_then(|status| status.code()), Some(1));
    let said = fs::read_to_string(&said).unwrap();
    assert!(said.contains("which the marker (") && said.contains(") names"), "{said}");
}

/// A replica with a damaged disk names the command that brings it back, and the command works.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_folder_comes_back_by_the_command_that_it_names() {
    let cluster = Cluster::start(&["--replicas=3"]);
    let client = cluster.client(DEADLINE);
    let writer = Writer::begin(&client, "w");
    let route = Route::Through("kvorum-1".to_owned());
    let before = status_when(&client, &route, |status| status.is_ready).await.replica;
    let folder = cluster.folder.join("kvorum-1");
    cluster.kill("kvorum-1");
    for table in fs::read_dir(folder.join("db")).unwrap() {
        let path = table.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("MANIFEST") {
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
    }
    let words = format!("(mv {0} {0}.damaged)", folder.display());
    let began = Instant::now();
    while !fs::read_to_string(folder.join("log")).unwrap_or_default().contains(&words) {
        assert!(began.elapsed() < PATIENCE, "it names the command");
        sleep(PAUSE).await;
        // It may have started again before the bit was flipped.
        cluster.kill("kvorum-1");
    }
    let moved = format!("{}.damaged", folder.display());
    assert!(std::process::Command::new("mv").arg(&folder).arg(moved).status().unwrap().success());
    status_when(&client, &route, |status| status.is_ready && status.replica != before).await;
    let written = writer.end().await;
    assert_all_there(&client, &written).await;
    println!("back after {} ms", began.elapsed().as_millis());
}

/// Three of five are to leave, and die before they have: nothing can be decided, the status names
/// the remedy, and the remedy works.
#[tokio::test(flavor = "multi_thread")]
async fn a_majority_killed_while_it_leaves_comes_back_when_scaled_up() {
    let cluster = Cluster::start(&["--replicas=5"]);
    let client = cluster.client(DEADLINE);
    let writer = Writer::begin(&client, "w");
    writer.goes_on().await;
    let written = writer.end().await;
    // Stopped first, so that none of them can leave in order.
    let leaving = ["kvorum-2", "kvorum-3", "kvorum-4"];
    for name in leaving {
        let process = cluster.process(name).unwrap();
        rustix::process::kill_process(process, rustix::process::Signal::STOP).unwrap();
    }
    scale(&cluster, 2);
    sleep(PAUSE * 6).await;
    for name in leaving {
        cluster.kill(name);
    }
    let began = Instant::now();
    let text = loop {
        let (status, out, _) = said(&cluster.run(&["status"]));
        if status == 4 && out.contains("scale") {
            break out;
        }
        assert!(began.elapsed() < PATIENCE, "it says what helps: {out}");
        sleep(PAUSE).await;
    };
    println!("{text}");
    scale(&cluster, 5);
    settled(&client, 5).await;
    assert_all_there(&client, &written).await;
    scale(&cluster, 2);
    settled(&client, 2).await;
    assert_all_there(&client, &written).await;
}

/// One of two replicas is lost for good: the other stops, names the way back, and it works.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_one_lost_is_recovered() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("cluster");
    let cluster = Cluster::start_in(&folder, &["--replicas=2"]);
    let client = cluster.client(DEADLINE);
    let writer = Writer::begin(&client, "w");
    writer.goes_on().await;
    let written = writer.end().await;
    cluster.take_folder_away("kvorum-1");
    let began = Instant::now();
    loop {
        let (_, out, _) = said(&cluster.run(&["status"]));
        if out.contains("kvorum recover") {
            println!("{out}");
            break;
        }
        assert!(began.elapsed() < PATIENCE, "it names the way back: {out}");
        sleep(PAUSE).await;
    }
    let digits =
        &kvorum::local::folder::StatefulSet::read(&folder).unwrap().cluster.to_string()[..8];
    cluster.stop(rustix::process::Signal::TERM);
    let recover = |words: &[&str]| {
        said(&kvorum().arg("recover").arg("--data").arg(&folder).args(words).output().unwrap())
    };
    let (code, out, err) = recover(&["--confirm", digits]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("1 of 2 replicas are left"), "{out}");
    let cluster = Cluster::start_in(&folder, &[]);
    let client = cluster.client(DEADLINE);
    settled(&client, 2).await;
    assert_all_there(&client, &written).await;
}

/// Waits until a name has a new id and its replica serves.
async fn replaced(client: &Client, before: &Configuration, name: &str) {
    let old = before.members.iter().find(|member| member.name == name).unwrap();
    let is_replaced = |status: &Status| {
        let members = &status.configuration.members;
        members.iter().any(|member| member.name == name && member.replica != old.replica)
    };
    status_when(client, &Route::Any, is_replaced).await;
    status_when(client, &Route::Through(name.to_owned()), |status| status.is_ready).await;
}

/// Leadership is handed over by the command, again and again.
#[tokio::test(flavor = "multi_thread")]
async fn planned_hand_overs_take_little() {
    let cluster = Cluster::start(&["--replicas=3"]);
    let client = cluster.client(DEADLINE);
    let mut gaps = Vec::new();
    for _ in 0..11 {
        let before = leader(&client).await;
        let writer = Writer::begin(&client, "w");
        sleep(PAUSE * 2).await;
        let from = Instant::now();
        let (status, out, text) = said(&cluster.run(&["hand-over", "--yes"]));
        if status != 0 {
            // A busy machine may be too slow; then the command reports it, and nothing has changed.
            assert!(text.contains(&format!("{before} leads on")), "{out}{text}");
            println!("{text}");
        }
        sleep(PAUSE * 2).await;
        let to = Instant::now();
        let written = writer.end().await;
        if status == 0 {
            gaps.push(gap_ms(&written, from, to));
        }
    }
    assert!(gaps.len() > 5, "most of them are done");
    println!(
        "{} of 11 hand-overs: write gap {} ms in the median, {gaps:?}",
        gaps.len(),
        median(gaps.clone())
    );
}

/// The leader's own ordinal is no longer desired.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_leaves_hands_over() {
    let cluster = Cluster::start(&["--replicas=3"]);
    let client = cluster.client(DEADLINE);
    let mut gaps = Vec::new();
    for _ in 0..3 {
        settled(&client, 3).await;
        let (status, _, text) = said(&cluster.run(&["hand-over", "kvorum-2", "--yes"]));
        assert_eq!(status, 0, "{text}");
        status_when(&client, &Route::Any, |s| s.leader.as_deref() == Some("kvorum-2")).await;
        let writer = Writer::begin(&client, "w");
        writer.goes_on().await;
        let from = Instant::now();
        scale(&cluster, 2);
        settled(&client, 2).await;
        writer.goes_on().await;
        let to = Instant::now();
        gaps.push(gap_ms(&writer.end().await, from, to));
        scale(&cluster, 3);
    }
    println!("the leader leaves: write gaps {gaps:?} ms");
}
