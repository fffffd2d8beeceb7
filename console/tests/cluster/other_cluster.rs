//! Tests of two clusters where the operator expects one: behind one address after a restore, and
//! beside each other after a replica lost its record of the existing one.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use kvorum::local::folder::{StatefulSet, process_of};
use kvorum_harness::cluster::{
    Cluster, PATIENCE, kvorum, kvorum_after, leader, said, status_when, wait_for,
};
use kvorum_protocol::client::{Options, Route};
use kvorum_protocol::data::{Condition, Operation, Outcome};
use kvorum_protocol::status::ClusterId;
use kvorum_protocol::{Client, Key, Value};
use kvorum_replica::marker::Marker;
use kvorum_replica::orchestrator;
use kvorum_replica::storage::rocks::seed::LEAP;
use kvorum_replica::transport::addresses::{Addresses, FILE_NAME};
use rustix::process::{Pid, Signal, kill_process};

/// One replica by itself, whose client port stays the same across restarts.
struct Alone(Child);

impl Alone {
    fn start(folder: &Path, port: u16) -> Self {
        let set = StatefulSet::read(folder).unwrap();
        let mut command = kvorum();
        command.args(["replica", "--name=kvorum-0", "--disk-reserve=0", "--tls=off"]);
        command.arg(format!("--cluster={}", set.cluster));
        command.arg(format!("--follow={}", folder.display()));
        command.arg(format!("--data={}", folder.join("kvorum-0").display()));
        command.arg(format!("--listen-clients=127.0.0.1:{port}"));
        command.args(["--listen-peers=127.0.0.1:0", "--listen-http=127.0.0.1:0"]);
        Self(command.stderr(Stdio::null()).spawn().unwrap())
    }

    fn stop(mut self) {
        let process = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        kill_process(process, Signal::TERM).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for a command to end by itself; returns its exit status and its error output.
fn ended(mut child: Child) -> (i32, String) {
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(began.elapsed() < PATIENCE, "it ends by itself");
        std::thread::sleep(Duration::from_millis(10));
    };
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (status.code().unwrap_or(-1), text)
}

async fn put(client: &Client, key: String) -> u64 {
    let outcome = client.put(Key::from(key), Value::from("value"), &Route::Any).await.unwrap();
    let Outcome::Put { revision } = outcome else { panic!("{outcome:?}") };
    revision
}

/// A backup, more writes, a restore, and the new cluster behind the old one's address: clients of
/// the old one get an error, whatever they do, and no revision is used twice.
#[tokio::test(flavor = "multi_thread")]
async fn time_goes_forward_across_a_restore() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    fs::create_dir(&old).unwrap();
    StatefulSet { cluster: ClusterId(7), replicas: 1 }.write(&old).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let options = || Options { deadline: PATIENCE, ..Options::default() };
    let client = Client::of_addresses(std::slice::from_ref(&address), options());
    let run = |words: &[&str]| {
        said(&kvorum().args(["--endpoints", &address]).args(words).output().unwrap())
    };
    let begin = |words: &[&str]| {
        let mut command = kvorum();
        command.args(["--endpoints", &address, "--timeout", "60s"]).args(words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };

    let replica = Alone::start(&old, port);
    put(&client, "w/c".to_owned()).await;
    let file = folder.path().join("backup");
    let (status, _, err) = run(&["backup", file.to_str().unwrap()]);
    assert_eq!(status, 0, "{err}");
    let mut watch = begin(&["watch", "w/"]);
    let events = begin(&["-o", "jsonl", "events"]);
    let mut changes = BufReader::new(watch.stdout.take().unwrap()).lines();
    // It reports the changes after its start.
    let first = std::thread::spawn(move || {
        let line = changes.next().unwrap().unwrap();
        (line, changes)
    });
    let mut last = 0;
    while !first.is_finished() {
        last = put(&client, "w/c".to_owned()).await;
    }
    let (line, _changes) = first.join().unwrap();
    assert!(line.contains("w/c"), "{line}");
    assert_eq!(client.cluster(), Some(ClusterId(7)), "the one that served it");
    replica.stop();

    let mut restore = kvorum();
    restore.arg("restore").arg(&file).arg("--data").arg(&new).args(["--replicas", "1"]);
    let (status, out, err) = said(&restore.output().unwrap());
    assert_eq!(status, 0, "{out}{err}");
    let other = StatefulSet::read(&new).unwrap().cluster;
    assert!(other != ClusterId(7) && out.contains(&other.to_string()), "{out}");
    let _replica = Alone::start(&new, port);
    for (what, child) in [("watch", watch), ("events", events)] {
        let (status, err) = ended(child);
        assert_ne!(status, 0, "{what}: {err}");
        let says_so = [&other, &ClusterId(7)].iter().all(|id| err.contains(&id.to_string()));
        assert!(says_so && err.contains("start this program again"), "{what}: {err}");
    }
    let told = client.put(Key::from("a"), Value::from("b"), &Route::Any).await.unwrap_err();
    assert!(told.to_string().contains("it belongs to cluster"), "{told}");

    let client = Client::of_addresses(std::slice::from_ref(&address), options());
    let condition = Condition::AtRevision(last);
    let (key, value) = (Key::from("w/c"), Value::from("lost"));
    let stale = Operation::Put { key, value, condition };
    let outcome = client.write(stale, &Route::Any).await.unwrap();
    assert!(matches!(outcome, Outcome::ConditionFailed { .. }), "{outcome:?}");
    let revision = put(&client, "w/d".to_owned()).await;
    assert!(revision > LEAP, "revision {revision}, and the old cluster gave {last}");
    let (status, _, err) = run(&["watch", "w/", "--from", &last.to_string()]);
    assert_eq!((status, err.contains("read the keys anew")), (1, true), "{err}");
}

/// Replaces the marker's cluster, as replicas replace it: they may be about to write it, too.
async fn mark_for(cluster: ClusterId, folder: &Path) {
    let place = orchestrator::Folder::new(folder);
    loop {
        let marker = place.marker_now().unwrap().expect("the cluster has a marker");
        let other = Marker { cluster, ..marker.clone() };
        if place.replace_marker(&marker, &other).await.unwrap() {
            return;
        }
    }
}

fn marker_of(folder: &Path) -> Option<String> {
    fs::read_to_string(folder.join("marker.json")).ok()
}

/// A lost marker is made anew while the cluster lives.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_marker_is_made_anew() {
    let cluster = Cluster::start(&["--replicas=3"]);
    let id = StatefulSet::read(&cluster.folder).unwrap().cluster.to_string();
    fs::remove_file(cluster.folder.join("marker.json")).unwrap();
    let is_there = || marker_of(&cluster.folder).is_some_and(|marker| marker.contains(&id));
    wait_for("the marker is there again", is_there);
    let logs = || cluster.names().into_iter().map(|name| cluster.folder.join(name).join("log"));
    let says_so = |log: std::path::PathBuf| {
        let log = fs::read_to_string(log);
        log.is_ok_and(|log| log.contains("is made anew") && log.contains("marker.json"))
    };
    wait_for("people are told", || logs().any(says_so));
    // A marker of another cluster is left as it is.
    mark_for(ClusterId(9), &cluster.folder).await;
    let says_so = |log: std::path::PathBuf| {
        fs::read_to_string(log).is_ok_and(|log| log.contains("two clusters have begun"))
    };
    wait_for("people are told of the other one", || logs().any(says_so));
    let marked = marker_of(&cluster.folder).unwrap();
    assert!(marked.contains(&ClusterId(9).to_string()), "{marked}");
    let (status, out, _) = said(&cluster.run(&["doctor"]));
    assert_eq!((status, out.contains("the marker names another one")), (1, true), "{out}");
}

/// A lone replica answers nothing while its marker is replaced by that of another cluster.
#[tokio::test(flavor = "multi_thread")]
async fn a_lone_replica_waits_while_the_marker_is_another_clusters() {
    let cluster = Cluster::start(&["--replicas=1"]);
    assert_eq!(said(&cluster.run(&["put", "a", "1"])).0, 0);
    mark_for(ClusterId(9), &cluster.folder).await;
    let get = || said(&cluster.run(&["get", "a", "--timeout", "500ms"]));
    wait_for("it serves no more", || get().0 != 0);
    let (_, out, _) = said(&cluster.run(&["status", "--output", "json"]));
    assert!(out.contains("two clusters have begun at one place"), "{out}");
    mark_for(StatefulSet::read(&cluster.folder).unwrap().cluster, &cluster.folder).await;
    wait_for("it serves again", || (get().0, get().1.trim()) == (0, "1"));
}

/// Without a marker and with its volume lost, the first replica joins the others, which serve.
#[tokio::test(flavor = "multi_thread")]
async fn no_second_cluster_begins_beside_a_living_one() {
    let cluster = Cluster::start(&["--replicas=3"]);
    assert_eq!(said(&cluster.run(&["put", "a", "1"])).0, 0);
    kill_process(cluster.supervisor(), Signal::STOP).unwrap();
    let process = cluster.process("kvorum-0").unwrap();
    cluster.kill("kvorum-0");
    wait_for("its folder is free", || process_of(&cluster.folder.join("kvorum-0")).is_none());
    fs::remove_dir_all(cluster.folder.join("kvorum-0")).unwrap();
    let client = cluster.client(PATIENCE);
    leader(&client).await;
    let _ = fs::remove_file(cluster.folder.join("marker.json"));
    kill_process(cluster.supervisor(), Signal::CONT).unwrap();
    let route = Route::Through("kvorum-0".to_owned());
    let joined = status_when(&client, &route, |status| status.is_ready).await;
    assert!(joined.replica.0 > 3, "another id: {}", joined.replica.0);
    assert_ne!(cluster.process("kvorum-0"), Some(process));
    let log = fs::read_to_string(cluster.folder.join("kvorum-0").join("log")).unwrap();
    assert!(!log.contains("begins the cluster"), "{log}");
    let (status, out, err) = said(&cluster.run(&["get", "a", "kvorum-0"]));
    assert_eq!((status, out.trim()), (0, "1"), "{err}");
}

/// A new replica finds the cluster without its marker.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_its_marker_grows() {
    let cluster = Cluster::start(&["--replicas=3"]);
    fs::remove_file(cluster.folder.join("marker.json")).unwrap();
    let (status, out, err) = said(&cluster.run(&["scale", "4", "--yes"]));
    assert_eq!(status, 0, "{out}{err}");
    let is_there = || marker_of(&cluster.folder).is_some();
    wait_for("the marker is there again", is_there);
}

/// A stopped process that is resumed when the test ends, however it ends.
struct Resumed(Pid);

impl Drop for Resumed {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// One replica of a cluster that does not serve, among those of one that does.
#[test]
fn two_clusters_at_one_place_are_said_and_the_one_that_serves_is_used() {
    let serves = Cluster::start(&["--replicas=3"]);
    // As on Kubernetes, where both would find the same Secrets.
    let beside = tempfile::tempdir().unwrap();
    let tls = beside.path().join("tls");
    let mut copy = std::process::Command::new("cp");
    copy.arg("-a").arg(serves.folder.join("tls")).arg(&tls);
    assert!(copy.status().unwrap().success());
    let other = Cluster::start_in(beside.path(), &["--replicas=3"]);
    for (cluster, value) in [(&serves, "right"), (&other, "wrong")] {
        assert_eq!(said(&cluster.run(&["put", "a", value])).0, 0);
    }
    let id = |cluster: &Cluster| StatefulSet::read(&cluster.folder).unwrap().cluster.to_string();
    let at = |cluster: &Cluster, name: &str| {
        Addresses::read(&cluster.folder.join(name).join(FILE_NAME)).unwrap().clients
    };
    let all = [at(&other, "kvorum-0"), at(&serves, "kvorum-1"), at(&serves, "kvorum-2")].join(",");
    kill_process(other.supervisor(), Signal::STOP).unwrap();
    let _resumed = Resumed(other.supervisor());
    for name in ["kvorum-1", "kvorum-2"] {
        other.kill(name);
    }
    let run = |words: &[&str]| {
        let mut command = kvorum();
        command.args(["--timeout", "20s", "--endpoints", &all, "--tls-dir"]).arg(serves.tls_dir());
        said(&command.args(words).output().unwrap())
    };
    let alone = at(&other, "kvorum-0");
    wait_for("one without the others serves nobody", || {
        let mut command = kvorum();
        command.args(["--endpoints", &alone, "status", "--tls-dir"]).arg(serves.tls_dir());
        said(&command.output().unwrap()).0 == 4
    });
    for words in [&["get", "a"][..], &["get", "a", "kvorum-1"], &["get", "a", "n3"]] {
        let (status, out, err) = run(words);
        assert_eq!((status, out.trim()), (0, "right"), "{words:?}: {err}");
    }
    let (status, out, err) = run(&["status"]);
    assert_eq!(status, 1, "{out}{err}");
    let names = serves.names();
    assert!(
        names.iter().all(|name| out.lines().any(|line| line.trim_start().starts_with(name))),
        "{out}"
    );
    assert!(err.contains("of 2 clusters") && err.contains("way back"), "{err}");
    assert!(err.contains(&format!("{}, which serves: kvorum-1, kvorum-2", id(&serves))), "{err}");
    assert!(err.contains(&format!("{}: kvorum-0", id(&other))), "{err}");
    let (_, out, _) = run(&["doctor"]);
    assert!(out.contains("of 2 clusters") && out.contains("end kvorum-0 there"), "{out}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup");
    let (status, _, err) = run(&["backup", file.to_str().unwrap()]);
    assert_eq!(status, 0, "{err}");
    let bytes = fs::read(&file).unwrap();
    let has = |what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
    assert!(has(b"right") && !has(b"wrong"), "a backup of the one that serves");
}

/// Checks which files of a cluster and its backup other users of the machine can read.
#[test]
fn nobody_else_can_read_what_is_kept() {
    use std::os::unix::fs::PermissionsExt;
    fn open_to_others(path: &Path, found: &mut Vec<String>) {
        let mode = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata.permissions().mode() & 0o7777,
            // The replica removed it since the folder was read.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => panic!("{}: {error}", path.display()),
        };
        if mode & 0o077 != 0 {
            found.push(format!("{} {mode:o}", path.display()));
        }
        if path.is_dir() {
            for entry in fs::read_dir(path).into_iter().flatten() {
                open_to_others(&entry.unwrap().path(), found);
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let (data, file) = (folder.path().join("cluster"), folder.path().join("backup"));
    // Independent of the umask.
    let careless = || kvorum_after("umask 000");
    let cluster = Cluster::start_by(careless(), &data, &["--replicas=1"]);
    assert_eq!(said(&cluster.run(&["put", "a", "1"])).0, 0);
    let made = careless().arg("--local").arg(&data).arg("backup").arg(&file).output().unwrap();
    let made = said(&made);
    assert_eq!(made.0, 0, "{}", made.2);
    let mut found = Vec::new();
    open_to_others(&data, &mut found);
    open_to_others(&file, &mut found);
    assert!(found.is_empty(), "{found:#?}");
    cluster.stop(Signal::TERM);
    let loosen = |folder: &Path| {
        let loosen = std::process::Command::new("chmod").args(["-R", "go+rX"]).arg(folder).status();
        assert!(loosen.unwrap().success());
    };
    // A key that others could read may be theirs by now, and is not used.
    let key = data.join("tls").join("ca").join("ca.key");
    loosen(&key);
    let refused = careless().args(["local", "--no-console", "--data"]).arg(&data).output().unwrap();
    let (code, _, err) = said(&refused);
    assert!(code == 1 && err.contains("ca.key may be read") && err.contains("chmod 600"), "{err}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    // Permissions left by an older program are tightened when the folder is opened.
    loosen(&data.join("kvorum-0"));
    let cluster = Cluster::start_in(&data, &[]);
    open_to_others(&data, &mut found);
    assert!(found.is_empty(), "{found:#?}");
    drop(cluster);
}
