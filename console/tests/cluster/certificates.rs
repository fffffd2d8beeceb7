//! Tests of who gets in with which certificate, and of certificates that change under load.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use kvorum::credentials;
use kvorum::local::folder::StatefulSet;
use kvorum_harness::cluster::{Cluster, PATIENCE, kvorum, said, status_when, wait_for};
use kvorum_protocol::client::{Options, Route};
use kvorum_protocol::status::{ClusterId, Status};
use kvorum_protocol::{Client, Key, Value};
use kvorum_replica::transport::addresses::{Addresses, FILE_NAME};
use kvorum_tls::{
    Authority, CA_FILE, CERTIFICATE_FILE, CLIENT_LIFETIME, Encryption, Identity, KEY_FILE, Tls,
    read_folder, write_private,
};
use rustix::process::{Pid, Signal, kill_process};

/// The word that all certificates of a local cluster have in common.
pub const WORD: &str = "local";
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

pub fn authority(cluster: &Path) -> Authority {
    let read = |file| fs::read_to_string(cluster.join("tls").join("ca").join(file)).unwrap();
    Authority::from_pem(&read(CA_FILE), &read("ca.key")).unwrap()
}

/// Makes the folder of a certificate, trusting what `bundle` says.
fn make(folder: &Path, by: &Authority, bundle: &str, identity: &Identity, now: SystemTime) {
    let issued = by.issue(identity, &[], now, CLIENT_LIFETIME);
    fs::create_dir_all(folder).unwrap();
    for (file, text) in
        [(CA_FILE, bundle), (CERTIFICATE_FILE, &issued.certificate), (KEY_FILE, &issued.key)]
    {
        write_private(&folder.join(file), text, false).unwrap();
    }
}

/// Each stranger is refused with one sentence and one line in a replica's log, and changes nothing.
#[test]
fn strangers_are_refused_with_a_sentence_and_a_line() {
    let cluster = Cluster::start(&["--replicas=3"]);
    assert_eq!(said(&cluster.run(&["put", "a", "1"])).0, 0);
    let at = Addresses::read(&cluster.folder.join("kvorum-0").join(FILE_NAME)).unwrap();
    let (now, ours) = (SystemTime::now(), authority(&cluster.folder));
    let theirs = Authority::generate(WORD, now);
    let folder = tempfile::tempdir().unwrap();
    let admin = Identity::client(WORD, "admin");
    let other = Identity::client("elsewhere", "admin");
    let replica = Identity::replica(WORD, "kvorum-1");
    let app = Identity::client(WORD, "app");
    let view = Identity::client(WORD, "view");
    let cases = [
        ("another authority's", &theirs, &admin, now, "does not trust the authority", "has signed"),
        ("over", &ours, &admin, now - YEAR, "certificate is over", "is over"),
        ("not yet valid", &ours, &admin, now + YEAR, "not valid yet", "not valid yet"),
        ("another cluster's", &ours, &other, now, "not of this cluster", "not one that it lets in"),
        ("a replica's", &ours, &replica, now, "no right to write", "replica kvorum-1"),
        ("an unknown user's", &ours, &app, now, "app has no right here", "user=\"app\""),
        ("one who may look", &ours, &view, now, "view has no right to write", "view"),
    ];
    // Of the one that is talked to.
    let log = || fs::read_to_string(cluster.folder.join("kvorum-0").join("log")).unwrap();
    for (who, by, identity, made, told, logged) in cases {
        let own = folder.path().join(who);
        // Each trusts the cluster's authority, and its own.
        let trusted = format!("{}{}", ours.bundle(), theirs.bundle());
        make(&own, by, &trusted, identity, made);
        let before = log().len();
        let mut command = kvorum();
        command.args(["--timeout", "2s", "--endpoints", &at.clients, "put", "a", "2", "--tls-dir"]);
        let (code, out, err) = said(&command.arg(&own).output().unwrap());
        assert_eq!(code, 6, "{who}: {out}{err}");
        assert!(err.lines().last().is_some_and(|line| line.contains(told)), "{who}: {err}");
        let refusals = || {
            let lines = log().split_off(before);
            let refused = lines.lines().filter(|line| line.contains("allowed=false"));
            refused.map(str::to_owned).collect::<Vec<_>>()
        };
        // The line comes when the connection has ended, which may be after the command.
        wait_for("a line of the refusal", || !refusals().is_empty());
        assert!(refusals().iter().all(|line| line.contains(logged)), "{who}: {:?}", refusals());
        // A client that is let in asks for the other addresses beside what it was asked.
        assert!(refusals().len() <= 2, "{who}: {:?}", refusals());
    }
    let plain = ["--timeout", "2s", "--endpoints", &at.clients, "get", "a"];
    let (code, _, err) = said(&kvorum().args(plain).output().unwrap());
    assert_eq!(code, 6, "{err}");
    assert!(err.contains("takes encrypted connections only"), "{err}");
    assert_eq!(said(&cluster.run(&["get", "a"])).1.trim(), "1", "nothing has changed");
}

/// A user who may look can do nothing else, by whatever command.
#[test]
fn one_who_may_look_can_do_nothing_else() {
    let cluster = Cluster::start(&["--replicas=3", "--allow-faults"]);
    assert_eq!(said(&cluster.run(&["put", "a", "1"])).0, 0);
    let names = cluster.names().into_iter();
    let at = names.map(|name| Addresses::read(&cluster.folder.join(name).join(FILE_NAME)).unwrap());
    let at = at.map(|addresses| addresses.clients).collect::<Vec<_>>().join(",");
    let view = cluster.folder.join("tls").join("client-view");
    let backup = tempfile::tempdir().unwrap();
    let file = backup.path().join("backup");
    let run = |words: &[&str]| {
        let mut command = kvorum();
        command.args(["--timeout", "3s", "--endpoints", &at, "--tls-dir"]).arg(&view);
        said(&command.args(words).output().unwrap())
    };
    let (get, scan) = (["get", "a"], ["scan"]);
    for words in [&get[..], &scan, &["status"], &["whoami"], &["get", "a", "--local-read"]] {
        let (code, out, err) = run(words);
        assert_eq!(code, 0, "{words:?}: {out}{err}");
    }
    let refused: [&[&str]; 10] = [
        &["backup", file.to_str().unwrap()],
        &["user", "list"],
        &["grant", "app", "write", "a"],
        &["put", "a", "2"],
        &["put", "a", "2", "--if-absent"],
        &["delete", "a"],
        &["hand-over"],
        &["cut", "kvorum-0", "kvorum-1"],
        &["kill", "kvorum-0", "--yes"],
        &["bench", "--time", "1s"],
    ];
    for words in refused {
        let (code, out, err) = run(words);
        assert_eq!(code, 6, "{words:?}: {out}{err}");
    }
    assert_eq!(said(&cluster.run(&["get", "a"])).1.trim(), "1");
    assert_eq!(cluster.names().len(), 3);
}

/// Writes through a client until told to stop; returns the number of writes. None may fail.
async fn write(client: Arc<Client>, stop: Arc<AtomicBool>, written: Arc<AtomicU64>) {
    while !stop.load(Ordering::Relaxed) {
        let number = written.fetch_add(1, Ordering::Relaxed);
        let value = Value::from(number.to_string());
        client.put(Key::from("written"), value, &Route::Any).await.unwrap();
    }
}

/// Replicas that each are a process of their own, in the folder of a local cluster.
struct Replicas {
    folder: PathBuf,
    id: ClusterId,
    running: Vec<(String, Child)>,
}

impl Replicas {
    fn spawn(&mut self, name: &str, mode: &str) {
        let folder = self.folder.display();
        let child = kvorum()
            .args(["replica", "--stop-with-stdin", "--disk-reserve=1MiB"])
            .arg(format!("--name={name}"))
            .arg(format!("--cluster={}", self.id))
            .arg(format!("--follow={folder}"))
            .arg(format!("--data={folder}/{name}"))
            .arg(format!("--tls={mode}"))
            .args(["peers", "clients", "http"].map(|port| format!("--listen-{port}=127.0.0.1:0")))
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.running.push((name.to_owned(), child));
    }

    fn end(&mut self, name: &str) {
        let position = self.running.iter().position(|(running, _)| running == name).unwrap();
        let (_, mut child) = self.running.remove(position);
        let process = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process(process, Signal::TERM).unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        for (_, child) in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A cluster whose connections are plain gets them encrypted without a failed write: one restart of
/// each replica that accepts both, and one that requires it.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_cluster_moves_over() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("cluster");
    fs::create_dir(&folder).unwrap();
    let id = ClusterId(rand::random());
    let set = StatefulSet { cluster: id, replicas: 3 };
    set.write(&folder).unwrap();
    let names = set.members();
    let mut replicas = Replicas { folder: folder.clone(), id, running: Vec::new() };
    for name in &names {
        replicas.spawn(name, "off");
    }
    let client = |encryption: Encryption| {
        let options = Options { deadline: PATIENCE, dial: encryption.into(), cluster: Some(id) };
        Arc::new(Client::new(kvorum::local::resolve(&folder), options))
    };
    let is_whole = |status: &Status| {
        let is_linked = status.links.len() == 2 && status.links.iter().all(|link| link.is_up);
        status.is_ready && is_linked
    };
    let plain = client(Encryption::Off);
    for name in &names {
        status_when(&plain, &Route::Through(name.clone()), is_whole).await;
    }
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let writing = tokio::spawn(write(Arc::clone(&plain), Arc::clone(&stop), Arc::clone(&written)));
    for name in &names {
        replicas.end(name);
        replicas.spawn(name, "accept");
        status_when(&plain, &Route::Through(name.clone()), is_whole).await;
    }
    // Clients move before the second restart.
    stop.store(true, Ordering::Relaxed);
    writing.await.unwrap();
    let admin = folder.join("tls").join("client-admin");
    let encrypted = client(Encryption::Require(Tls::new(read_folder(&admin).unwrap())));
    stop.store(false, Ordering::Relaxed);
    let writing = write(Arc::clone(&encrypted), Arc::clone(&stop), Arc::clone(&written));
    let writing = tokio::spawn(writing);
    for name in &names {
        replicas.end(name);
        replicas.spawn(name, "require");
        status_when(&encrypted, &Route::Through(name.clone()), is_whole).await;
    }
    stop.store(true, Ordering::Relaxed);
    writing.await.unwrap();
    assert!(written.load(Ordering::Relaxed) > 0);
    let refused = client(Encryption::Off).status(&Route::Any).await.unwrap_err();
    assert!(refused.to_string().contains("encrypted connections only"), "{refused}");
}

/// The authority of a running cluster is replaced in steps, and no write fails: first all trust
/// both, then the new one signs, then the old one is gone.
#[tokio::test(flavor = "multi_thread")]
async fn an_authority_is_replaced_under_load() {
    let cluster = Cluster::start(&["--replicas=3"]);
    let mut options = Options { deadline: PATIENCE, ..Options::default() };
    options.dial.encryption = credentials::of_folder(&cluster.tls_dir()).unwrap();
    let Encryption::Require(tls) = options.dial.encryption.clone() else { panic!("encrypted") };
    let client = kvorum::local::client(&cluster.folder, options).unwrap();
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let writing = tokio::spawn(write(Arc::clone(&client), Arc::clone(&stop), Arc::clone(&written)));
    let old = authority(&cluster.folder);
    let new = Authority::generate(WORD, SystemTime::now());
    let both = format!("{}{}", old.bundle(), new.bundle());
    let ca = cluster.folder.join("tls").join("ca");
    let steps = [
        ("trust both", both.as_str(), old.key()),
        ("the new one signs", &both, new.key()),
        ("only the new one", new.bundle(), new.key()),
    ];
    let admin = cluster.tls_dir();
    for (step, bundle, key) in steps {
        let before = read_folder(&admin).unwrap();
        let own = |name: &String| {
            let file = cluster.folder.join(name).join("tls").join(CERTIFICATE_FILE);
            fs::read_to_string(file).unwrap()
        };
        let owns: Vec<_> = cluster.names().iter().map(own).collect();
        write_private(&ca.join(CA_FILE), bundle, false).unwrap();
        write_private(&ca.join("ca.key"), &key, false).unwrap();
        // The next step is for when all replicas have taken this one.
        let renewed = loop {
            match read_folder(&admin) {
                Ok(read) if !read.is_same(&before) => break read,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        tls.replace(renewed);
        for (name, before) in cluster.names().into_iter().zip(owns) {
            while own(&name) == before {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            status_when(&client, &Route::Through(name), |status| status.is_ready).await;
        }
        println!("{step}: {} writes so far", written.load(Ordering::Relaxed));
    }
    stop.store(true, Ordering::Relaxed);
    writing.await.unwrap();
    assert_eq!(said(&cluster.run(&["put", "a", "1"])).0, 0);
}
