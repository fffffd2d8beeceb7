//! Tests of real replicas, killed by real signals, under load.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::proxy::Proxy;
use kvorum_harness::cluster::{Cluster, PATIENCE, leader, scan_all, status_when};
use kvorum_protocol::client::{Options, Route};
use kvorum_protocol::data::Outcome;
use kvorum_protocol::message::{Consistency, Event, Refusal, Scan, Subscription};
use kvorum_protocol::status::{ReplicaId, Status};
use kvorum_protocol::{Client, ClientError, Key, Value};
use rustix::process::Signal;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;

/// Longer than any failover, so that no request ends with an unknown outcome.
const DEADLINE: Duration = Duration::from_secs(20);

fn key(writer: u64, number: u64) -> Key {
    Key::from(format!("key/{writer}/{number:06}"))
}

/// Runs writers that put new keys until told to stop; returns the acknowledged keys and revisions.
async fn load(
    client: Arc<Client>,
    writers: u64,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    generation: u64,
) -> BTreeMap<Key, u64> {
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let (client, stop) = (Arc::clone(&client), Arc::clone(&stop));
        let acknowledged = Arc::clone(&acknowledged);
        tasks.spawn(async move {
            let mut written = Vec::new();
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let key = key(generation * 1000 + writer, number);
                match client.put(key.clone(), Value::from("v"), &Route::Any).await {
                    Ok(Outcome::Put { revision }) => {
                        written.push((key, revision));
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(other) => panic!("{key:?}: {other:?}"),
                    // Everything was killed at once: the write may or may not have happened.
                    Err(_) => {}
                }
            }
            written
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

/// Returns the revision of every key in the cluster, read by pages.
async fn all(client: &Client) -> BTreeMap<Key, u64> {
    let scan = Scan { keys_only: true, ..Scan::of("key/", Consistency::Linearizable) };
    let pairs = scan_all(client, scan, &Route::Any).await.into_iter();
    pairs.map(|pair| (pair.key, pair.revision)).collect()
}

/// Returns how often each key was changed, according to the log.
async fn effects(client: &Client, until: u64) -> BTreeMap<Key, u32> {
    let from = |from| Subscription::Log { from };
    let mut events = match client.subscribe(from(1), &Route::Any).await {
        // A replica that joined copied the state that the cluster was created with.
        Err(ClientError::Refused { refusal: Refusal::Compacted { from: next }, .. }) => {
            client.subscribe(from(next), &Route::Any).await.unwrap()
        }
        opened => opened.unwrap(),
    };
    let mut effects = BTreeMap::new();
    while let Some(event) = events.next().await {
        let Event::Entry(entry) = event else { continue };
        if let Some(key) = entry.key.filter(|_| entry.took_effect) {
            *effects.entry(key).or_default() += 1;
        }
        if entry.index >= until {
            break;
        }
    }
    effects
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_when_the_leader_is_killed() {
    let cluster = Cluster::start(&[]);
    let client = cluster.client(DEADLINE);
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writing = tokio::spawn(load(client.clone(), 8, stop.clone(), count.clone(), 0));
    for _ in 0..3 {
        let victim = leader(&client).await;
        let before = client.status(&Route::Through(victim.clone())).await.unwrap();
        cluster.kill(&victim);
        let killed = Instant::now();
        let at_kill = count.load(Ordering::Relaxed);
        // Some writes in flight are still answered; eight more than that are new.
        while count.load(Ordering::Relaxed) < at_kill + 16 {
            assert!(killed.elapsed() < PATIENCE, "writes go on");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let gap = killed.elapsed();
        let route = Route::Through(victim.clone());
        let is_back = |s: &Status| s.incarnation > before.incarnation && s.is_ready;
        status_when(&client, &route, is_back).await;
        println!("{victim}: writes again after {gap:?}, back after {:?}", killed.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    let acknowledged = writing.await.unwrap();
    let found = all(&client).await;
    for (key, revision) in acknowledged {
        assert_eq!(found.get(&key), Some(&revision), "{key:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_all_are_killed_ten_times() {
    let cluster = Cluster::start(&[]);
    let mut acknowledged = BTreeMap::new();
    for generation in 0..10 {
        let client = cluster.client(Duration::from_secs(2));
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writing =
            tokio::spawn(load(client.clone(), 8, stop.clone(), count.clone(), generation));
        let began = Instant::now();
        while count.load(Ordering::Relaxed) < 200 {
            assert!(began.elapsed() < PATIENCE, "writes go on after restart {generation}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for name in cluster.names() {
            cluster.kill(&name);
        }
        stop.store(true, Ordering::Relaxed);
        acknowledged.extend(writing.await.unwrap());
    }
    let client = cluster.client(DEADLINE);
    let found = all(&client).await;
    for (key, revision) in &acknowledged {
        assert_eq!(found.get(key), Some(revision), "{key:?}");
    }
    let end = client.status(&Route::Any).await.unwrap().applied;
    let twice: Vec<_> = effects(&client, end).await.into_iter().filter(|(_, n)| *n > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    println!("{} acknowledged, {} there", acknowledged.len(), found.len());
}

/// A write, then a read through another replica: never a stale value.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_elsewhere_sees_what_was_written() {
    const READS: u64 = 10_000;
    const TASKS: u64 = 16;
    let cluster = Arc::new(Cluster::start(&[]));
    let client = cluster.client(DEADLINE);
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let killer = {
        let (cluster, client, stop) = (cluster.clone(), client.clone(), stop.clone());
        tokio::spawn(async move {
            let mut kills = 0;
            while !stop.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(700)).await;
                let victim = leader(&client).await;
                cluster.kill(&victim);
                kills += 1;
            }
            kills
        })
    };
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (client, done, names) = (client.clone(), done.clone(), cluster.names());
        tasks.spawn(async move {
            let key = Key::from(format!("key/{task}"));
            for number in 0..READS / TASKS {
                let value = Value::from(number.to_string());
                let written = client.put(key.clone(), value.clone(), &Route::Any).await.unwrap();
                let Outcome::Put { revision } = written else { panic!("{written:?}") };
                let through = names[usize::try_from(number + task).unwrap() % names.len()].clone();
                let route = Route::Through(through);
                let read =
                    client.get(key.clone(), Consistency::Linearizable, &route).await.unwrap();
                let read = read.expect("what was written is there");
                assert_eq!((read.value, read.revision), (value, revision));
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let kills = killer.await.unwrap();
    println!("{} reads, {kills} leaders killed", done.load(Ordering::Relaxed));
    assert!(kills >= 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_writes_over_cut_connections_are_applied_once() {
    const WRITES: u64 = 4_000;
    const IN_FLIGHT: u64 = 64;
    let cluster = Cluster::start(&[]);
    let direct = cluster.client(DEADLINE);
    let mut proxies = Vec::new();
    for name in cluster.names() {
        proxies.push(Proxy::start(cluster.folder.join(name)).await);
    }
    let addresses: Vec<String> = proxies.iter().map(|proxy| proxy.address.clone()).collect();
    let mut options = Options { deadline: DEADLINE, ..Options::default() };
    kvorum::local::encrypted(&cluster.folder, &mut options).unwrap();
    let client = Arc::new(Client::of_addresses(&addresses, options));
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (client, next) = (client.clone(), next.clone());
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= WRITES {
                    return;
                }
                let outcome = client.put(key(0, number), Value::from("v"), &Route::Any).await;
                assert!(matches!(outcome, Ok(Outcome::Put { .. })), "{outcome:?}");
            }
        });
    }
    let mut cuts = 0;
    while !tasks.is_empty() {
        tokio::select! {
            done = tasks.join_next() => done.map_or((), Result::unwrap),
            () = tokio::time::sleep(Duration::from_millis(20 + cuts * 7 % 30)) => {
                cuts += 1;
                proxies.iter().for_each(Proxy::cut);
            }
        }
    }
    let end = direct.status(&Route::Any).await.unwrap().applied;
    let effects = effects(&direct, end).await;
    println!("{WRITES} writes, {cuts} cuts, {end} entries");
    assert!(cuts >= 3);
    assert_eq!(effects.len() as u64, WRITES);
    assert!(effects.values().all(|times| *times == 1));
}

/// More than a link may queue: it arrives as one synchronization.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_missed_much_comes_back() {
    const WRITES: u64 = 160;
    let cluster = Cluster::start(&[]);
    let client = cluster.client(DEADLINE);
    let leads = leader(&client).await;
    let away = cluster.names().into_iter().find(|name| *name != leads).unwrap();
    let process = cluster.process(&away).unwrap();
    rustix::process::kill_process(process, Signal::STOP).unwrap();
    let value = Value::from(vec![7; 1 << 20]);
    for number in 0..WRITES {
        client.put(key(0, number), value.clone(), &Route::Any).await.unwrap();
    }
    rustix::process::kill_process(process, Signal::CONT).unwrap();
    let applied = client.status(&Route::Any).await.unwrap().applied;
    let began = Instant::now();
    let route = Route::Through(away);
    status_when(&client, &route, |status| status.is_ready && status.applied >= applied).await;
    println!("{WRITES} MiB missed, in step after {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_storage_serves_until_a_process_dies() {
    let cluster = Cluster::start(&["--storage=memory"]);
    let client = cluster.client(DEADLINE);
    for number in 0..100 {
        client.put(key(0, number), Value::from("v"), &Route::Any).await.unwrap();
    }
    let route = Route::Through("kvorum-0".into());
    let read = client.get(key(0, 7), Consistency::Linearizable, &route).await.unwrap();
    assert_eq!(read.unwrap().value, Value::from("v"));
    assert_eq!(all(&client).await.len(), 100);
    // A memory replica that restarts has lost its disk; it must not vote as if it had not, and
    // comes back as another replica.
    let follower = cluster.names().into_iter().find(|name| name != "kvorum-0").unwrap();
    let before = id_of(&client, &follower).await;
    cluster.kill(&follower);
    client.put(key(0, 1), Value::from("w"), &Route::Any).await.unwrap();
    let route = Route::Through(follower.clone());
    status_when(&client, &route, |status| status.is_ready && status.replica != before).await;
    let read = client.get(key(0, 1), Consistency::Linearizable, &route).await.unwrap();
    assert_eq!(read.unwrap().value, Value::from("w"));
}

/// Returns the id that a name has now.
async fn id_of(client: &Client, name: &str) -> ReplicaId {
    let status = client.status(&Route::Any).await.unwrap();
    let member = status.configuration.members.iter().find(|member| member.name == name);
    member.unwrap().replica
}

/// A replica whose folder was emptied must not vote as if it had not been: it is another replica.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_with_an_emptied_folder_comes_back_as_another_one() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start_in(folder.path(), &[]);
    let client = cluster.client(DEADLINE);
    client.put(key(0, 1), Value::from("v"), &Route::Any).await.unwrap();
    let before = id_of(&client, "kvorum-1").await;
    cluster.stop(Signal::TERM);
    std::fs::remove_dir_all(folder.path().join("kvorum-1")).unwrap();
    let cluster = Cluster::start_in(folder.path(), &[]);
    let client = cluster.client(DEADLINE);
    let read = client.get(key(0, 1), Consistency::Linearizable, &Route::Any).await.unwrap();
    assert_eq!(read.unwrap().value, Value::from("v"), "the others go on");
    let route = Route::Through("kvorum-1".into());
    status_when(&client, &route, |status| status.is_ready && status.replica != before).await;
    let read = client.get(key(0, 1), Consistency::Linearizable, &route).await.unwrap();
    assert_eq!(read.unwrap().value, Value::from("v"));
}

/// A small file system that can grow; unmounted when dropped.
struct Small {
    folder: tempfile::TempDir,
}

impl Small {
    /// Mounts one; `None` where this process may not mount.
    fn mount(size: &str) -> Option<Self> {
        let small = Self { folder: tempfile::tempdir().unwrap() };
        small.run(&["mount", "-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])?;
        Some(small)
    }

    fn grow(&self, size: &str) {
        self.run(&["mount", "-o", &format!("remount,size={size}")]).unwrap();
    }

    fn run(&self, words: &[&str]) -> Option<()> {
        let mut command = std::process::Command::new(words[0]);
        let output = command.args(&words[1..]).arg(self.folder.path()).output();
        output.is_ok_and(|output| output.status.success()).then_some(())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = self.run(&["umount", "-l"]);
    }
}

/// The disks fill up until nothing can be written, not even what a start needs. When there is room
/// again, the replicas go on by themselves.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_nothing_that_was_acknowledged() {
    // RocksDB sets 36 MiB aside for each replica; with less, nothing is ever acknowledged.
    let Some(small) = Small::mount("150m") else {
        println!("skipped: this process may not mount a file system");
        return;
    };
    let cluster = Cluster::start_in(&small.folder.path().join("cluster"), &[]);
    let client = cluster.client(Duration::from_secs(2));
    let value = Value(bytes::Bytes::from(vec![0x5a; 512 << 10]));
    let mut acknowledged = Vec::new();
    let why = loop {
        assert!(acknowledged.len() < 1000, "the disk is full at some time");
        let key = key(0, acknowledged.len() as u64);
        match client.put(key.clone(), value.clone(), &Route::Any).await {
            Ok(Outcome::Put { revision }) => acknowledged.push((key, revision)),
            Ok(other) => panic!("{key:?}: {other:?}"),
            Err(error) => break error,
        }
    };
    println!("{} writes acknowledged, then: {why}", acknowledged.len());
    small.grow("1g");
    for name in cluster.names() {
        // The free space is checked once a second.
        let has_room = |status: &Status| status.is_ready && status.trouble.is_none();
        status_when(&client, &Route::Through(name), has_room).await;
    }
    assert!(!acknowledged.is_empty());
    for (key, revision) in acknowledged {
        let pair = client.get(key.clone(), Consistency::Linearizable, &Route::Any).await.unwrap();
        let pair = pair.unwrap_or_else(|| panic!("{key:?} was acknowledged"));
        assert_eq!((pair.revision, pair.value), (revision, value.clone()));
    }
    client.put(key(1, 0), value, &Route::Any).await.unwrap();
}
