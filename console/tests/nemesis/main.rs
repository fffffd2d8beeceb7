//! Test of real replicas under every fault at once, with a checker of the clients' history.
//!
//! Clients put, put on conditions, delete and get; meanwhile replicas are killed, stopped and cut
//! off. Then everything is healed, and the history must be linearizable: nothing acknowledged is
//! lost, nothing is done twice, no read is stale, and nothing reported as not done was done.
//! `KVORUM_NEMESIS_SECONDS` sets the duration; the figures are printed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kvorum_checker::{Asked, History, Told};
use kvorum_harness::cluster::{Cluster, leader, status_when};
use kvorum_protocol::client::{ClientError, Route};
use kvorum_protocol::data::{Condition, Operation, Outcome};
use kvorum_protocol::message::{Admin, Consistency};
use kvorum_protocol::{Client, Key, Value};
use rand::RngExt;
use rand::rngs::StdRng;
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// The number of clients.
const CLIENTS: u64 = 8;
/// Keys in use at a time; after a while other keys replace them, so that no history is long.
const KEYS: u64 = 4;
/// How long a set of keys is used.
const TURN: Duration = Duration::from_secs(5);
/// How long a client tries one request.
const DEADLINE: Duration = Duration::from_secs(3);
/// Writes that outrun a replica: several times the log that is kept.
const OUTRUN_WRITES: u32 = 800;
/// How long the leader is stopped.
const AWAY: Duration = Duration::from_secs(5);
/// How long the test takes by default, in seconds.
const SECONDS: u64 = 20;

/// The state that all clients share.
struct World {
    began: Instant,
    history: Mutex<History>,
    /// When each acknowledged write was called and answered.
    acknowledged: Mutex<Vec<(Instant, Instant)>>,
    is_over: AtomicBool,
    /// The consistency of the reads.
    reads: Consistency,
}

impl World {
    fn new(reads: Consistency) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            history: Mutex::default(),
            acknowledged: Mutex::default(),
            is_over: AtomicBool::new(false),
            reads,
        })
    }

    fn work(self: &Arc<Self>, cluster: &Cluster) -> JoinSet<()> {
        let mut workers = JoinSet::new();
        for number in 0..CLIENTS {
            let client = cluster.client(DEADLINE);
            workers.spawn(work(Arc::clone(self), client, cluster.names(), number));
        }
        workers
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap()
    }
}

async fn work(world: Arc<World>, client: Arc<Client>, names: Vec<String>, number: u64) {
    let mut random: StdRng = rand::make_rng();
    let mut revision = 1;
    for turn in 0.. {
        if world.is_over.load(Ordering::Relaxed) {
            return;
        }
        let epoch = world.began.elapsed().as_secs() / TURN.as_secs();
        let key = Key::from(format!("key-{epoch}-{}", random.random_range(0..KEYS)));
        let route = match random.random_range(0..3) {
            0 => Route::Through(names[random.random_range(0..names.len())].clone()),
            _ => Route::Any,
        };
        let condition = match random.random_range(0..8) {
            0 => Condition::Absent,
            1 => Condition::AtRevision(revision),
            _ => Condition::Always,
        };
        let value = Value::from(format!("{number}/{turn:0>200}").into_bytes());
        let asked = match random.random_range(0..10) {
            0..4 => Asked::Get(key.clone()),
            4 => Asked::Write(Operation::Delete { key: key.clone(), condition }),
            _ => Asked::Write(Operation::Put { key: key.clone(), value, condition }),
        };
        revision = ask(&world, &client, &route, asked).await.unwrap_or(revision);
        sleep(Duration::from_millis(random.random_range(2..15))).await;
    }
}

/// Sends a request and records its outcome; returns the revision that was reported.
async fn ask(world: &World, client: &Client, route: &Route, asked: Asked) -> Option<u64> {
    let (called, at) = (Instant::now(), world.now());
    let op = world.history.lock().unwrap().called(at, asked.clone());
    let told = match asked {
        Asked::Get(key) => {
            let got = client.get(key, world.reads, route).await;
            got.map(|pair| Told::Value(pair.map(|pair| (pair.value, pair.revision))))
        }
        Asked::Write(operation) => client.write(operation, route).await.map(Told::Written),
    };
    let at = world.now();
    let mut history = world.history.lock().unwrap();
    match told {
        Ok(told) => {
            history.told(op, at, told.clone());
            match told {
                Told::Written(outcome) => {
                    world.acknowledged.lock().unwrap().push((called, Instant::now()));
                    match outcome {
                        Outcome::Put { revision } => Some(revision),
                        _ => None,
                    }
                }
                Told::Value(pair) => pair.map(|(_, revision)| revision),
            }
        }
        Err(ClientError::Unknown { .. }) => None,
        // The client reports that it did not happen; the checker relies on that.
        Err(_) => {
            history.withdrawn(op);
            None
        }
    }
}

/// Causes one fault and ends it; returns its name, and whether a majority stayed connected.
async fn fault(cluster: &Cluster, client: &Client, random: &mut StdRng) -> (&'static str, bool) {
    let names = cluster.names();
    let victim = names[random.random_range(0..names.len())].clone();
    let other = names.iter().find(|name| **name != victim).unwrap().clone();
    let pause = Duration::from_millis(random.random_range(100..2500));
    match random.random_range(0..9) {
        0 => cluster.kill(&victim),
        1 => {
            cluster.kill(&leader(client).await);
            return ("the leader is killed", true);
        }
        2 => {
            for name in &names {
                cluster.kill(name);
            }
            return ("all are killed", false);
        }
        3 => {
            stop(cluster, &victim, pause).await;
            return ("one is stopped", true);
        }
        4 => {
            stop(cluster, &leader(client).await, AWAY).await;
            return ("the leader is stopped for 5 s", true);
        }
        5 | 6 => {
            let cut = Admin::Cut { peer: other.clone() };
            if client.administer(cut, &Route::Through(victim.clone())).await.is_ok() {
                sleep(pause).await;
            }
            let heal = Admin::Heal { peer: other };
            let _ = client.administer(heal, &Route::Through(victim)).await;
            return ("a link is cut", true);
        }
        7 => {
            bring_copy(cluster, &victim, pause).await;
            // It was away for longer than a restart takes: the next fault would take the majority.
            status_when(client, &Route::Through(victim), |status| status.is_ready).await;
            return ("one runs on a copy of its folder", true);
        }
        _ => {
            let to = Admin::HandOver { to: victim };
            let _ = client.administer(to, &Route::Any).await;
            return ("leadership is handed over", true);
        }
    }
    ("one is killed", true)
}

/// Stops a process for a while, as a machine does that swaps or migrates.
async fn stop(cluster: &Cluster, name: &str, time: Duration) {
    let Some(process) = cluster.process(name) else { return };
    let _ = kill_process(process, Signal::STOP);
    sleep(time).await;
    let _ = kill_process(process, Signal::CONT);
}

/// Copies a replica's folder while it runs, and some time later lets it run on the copy; then puts
/// its own folder back.
async fn bring_copy(cluster: &Cluster, name: &str, time: Duration) {
    let place = cluster.folder.join(name);
    let kept = tempfile::tempdir_in(cluster.folder.parent().unwrap()).unwrap();
    let [own, copy, ended] = ["own", "copy", "ended"].map(|name| kept.path().join(name));
    let process = running(cluster, name).await;
    kill_process(process, Signal::STOP).unwrap();
    assert!(Command::new("cp").arg("-a").args([&place, &copy]).status().unwrap().success());
    kill_process(process, Signal::CONT).unwrap();
    for (moves, comes) in [(&own, &copy), (&ended, &own)] {
        sleep(time).await;
        let process = running(cluster, name).await;
        kill_process(process, Signal::STOP).unwrap();
        std::fs::rename(&place, moves).unwrap();
        std::fs::rename(comes, &place).unwrap();
        kill_process(process, Signal::KILL).unwrap();
    }
}

/// Waits until a replica has a process.
async fn running(cluster: &Cluster, name: &str) -> Pid {
    loop {
        match cluster.process(name) {
            Some(process) => return process,
            None => sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Stops the leader until the others' logs no longer hold the entries that it lacks. (The clients
/// above soon all wait for it, and write little meanwhile.)
async fn outrun(cluster: &Cluster, client: &Client) {
    let process = cluster.process(&leader(client).await).unwrap();
    kill_process(process, Signal::STOP).unwrap();
    let value = Value::from("away".repeat(100));
    for number in 0..OUTRUN_WRITES {
        // Separate keys, which are in no history.
        let _ = client.put(Key::from(format!("away-{number}")), value.clone(), &Route::Any).await;
    }
    kill_process(process, Signal::CONT).unwrap();
}

/// Returns the time from a moment to the first acknowledgement of a write called after it.
fn resumed(world: &World, from: Instant) -> Option<Duration> {
    let acknowledged = world.acknowledged.lock().unwrap();
    let later = acknowledged.iter().filter(|(called, _)| *called >= from);
    later.map(|(_, answered)| *answered - from).min()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_see_is_linearizable_under_every_fault() {
    let seconds = std::env::var("KVORUM_NEMESIS_SECONDS").ok().and_then(|text| text.parse().ok());
    let time = Duration::from_secs(seconds.unwrap_or(SECONDS));
    // A short log, so that a replica that was away copies the state, and frequent comparisons.
    let settings = ["--log-keep=64KiB", "--checksum-seconds=1"];
    let settings = settings.map(|setting| format!("--replica-arg={setting}"));
    let cluster = Cluster::start(&["--allow-faults", &settings[0], &settings[1]]);
    let names = cluster.names();
    let world = World::new(Consistency::Linearizable);
    let workers = world.work(&cluster);
    let nemesis = cluster.client(DEADLINE);
    let mut random: StdRng = rand::make_rng();
    let mut faults: BTreeMap<&str, Vec<Instant>> = BTreeMap::new();
    let mut kept = Vec::new();
    while world.began.elapsed() < time {
        sleep(Duration::from_millis(random.random_range(500..2000))).await;
        let from = Instant::now();
        let (name, has_majority) = fault(&cluster, &nemesis, &mut random).await;
        faults.entry(name).or_default().push(from);
        kept.extend(has_majority.then_some((name, from)));
    }
    outrun(&cluster, &nemesis).await;
    for name in &names {
        status_when(&nemesis, &Route::Through(name.clone()), |status| status.is_ready).await;
    }
    world.is_over.store(true, Ordering::Relaxed);
    workers.join_all().await;
    let last = world.began.elapsed().as_secs() / TURN.as_secs();
    for key in (0..=last).flat_map(|epoch| (0..KEYS).map(move |key| format!("key-{epoch}-{key}"))) {
        ask(&world, &nemesis, &Route::Any, Asked::Get(Key::from(key))).await;
    }
    for (name, times) in &faults {
        let resumed = times.iter().filter_map(|from| resumed(&world, *from)).max();
        println!("{:>4} times {name}: writes went on after at most {resumed:?}", times.len());
    }
    let checked = world.history.lock().unwrap().check().unwrap_or_else(|why| panic!("{why}"));
    println!("{checked:?}, writes acknowledged {}", world.acknowledged.lock().unwrap().len());
    assert!(checked.answered > 100, "there was something to check");
    let said = |part: &str| {
        let logs = names.iter().map(|name| cluster.folder.join(name).join("log"));
        logs.map(|log| std::fs::read_to_string(log).unwrap().matches(part).count()).sum::<usize>()
    };
    let copies = said("the state was copied");
    println!("{copies} states copied");
    assert!(copies > 0, "whoever was away for long copied the state");
    assert_eq!(said("the state differs") + said("states differ"), 0, "all are the same");
    let worst = kept.iter().filter_map(|(name, from)| Some((resumed(&world, *from)?, *name))).max();
    println!("where a majority stayed connected, writes went on after at most {worst:?}");
}

/// The same checker must detect stale reads without a majority's confirmation. One replica is cut
/// off, so that its state is certain to be stale.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_of_whatever_a_replica_has_are_found_stale() {
    let cluster = Cluster::start(&["--allow-faults"]);
    let client = cluster.client(DEADLINE);
    let (leader, names) = (leader(&client).await, cluster.names());
    let cut_off = names.iter().find(|name| **name != leader).unwrap();
    for peer in names.iter().filter(|name| *name != cut_off) {
        let cut = Admin::Cut { peer: peer.clone() };
        client.administer(cut, &Route::Through(cut_off.clone())).await.unwrap();
    }
    for _ in 0..10 {
        let world = World::new(Consistency::Local);
        let workers = world.work(&cluster);
        sleep(Duration::from_secs(2)).await;
        world.is_over.store(true, Ordering::Relaxed);
        workers.join_all().await;
        // Each round begins without keys, as the checker assumes.
        for key in 0..KEYS {
            let key = Key::from(format!("key-0-{key}"));
            client.delete(key, &Route::Any).await.unwrap();
        }
        if let Err(why) = world.history.lock().unwrap().check() {
            println!("{}", why.to_string().chars().take(200).collect::<String>());
            return;
        }
    }
    panic!("local reads beside writes are stale now and then");
}
