//! Tests of `kvorum certs`: certificates made, shown and replaced, by hand and under load.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use kvorum::credentials;
use kvorum_harness::cluster::{Cluster, PATIENCE, kvorum, said, wait_for};
use kvorum_protocol::client::{Options, Route};
use kvorum_protocol::status::ClusterId;
use kvorum_protocol::{Client, Key, Value};
use kvorum_replica::transport::addresses::{Addresses, FILE_NAME};
use kvorum_tls::{
    Authority, CA_FILE, CERTIFICATE_FILE, Description, Encryption, Fingerprint, KEY_FILE, Tls,
    read_folder,
};
use rustix::process::{Signal, kill_process};
use serde_json::Value as Json;

/// The time that programs get to read their certificates: longer than they take to look again.
const PAUSE: &str = "--pause=15s";
/// The permissions of others.
const OTHERS: u32 = 0o077;

/// The results of a writer.
#[derive(Default, Debug)]
struct Written {
    writes: u64,
    failures: Vec<String>,
    longest_gap: Duration,
}

/// A program that writes through a client until it is told to stop.
struct Writer {
    stop: Arc<AtomicBool>,
    writing: tokio::task::JoinHandle<Written>,
}

impl Writer {
    fn start(cluster: &Cluster, encryption: Encryption) -> Self {
        let options = Options { deadline: PATIENCE, dial: encryption.into(), ..Options::default() };
        let client = kvorum::local::client(&cluster.folder, options).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let writing = tokio::spawn(write(client, Arc::clone(&stop)));
        Self { stop, writing }
    }

    async fn end(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        self.writing.await.unwrap()
    }
}

async fn write(client: Arc<Client>, stop: Arc<AtomicBool>) -> Written {
    let mut written = Written::default();
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let value = Value::from(written.writes.to_string());
        match client.put(Key::from("written"), value, &Route::Any).await {
            Ok(_) => {
                written.writes += 1;
                written.longest_gap = written.longest_gap.max(last.elapsed());
                last = Instant::now();
            }
            Err(error) => {
                written.failures.push(error.to_string());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    written
}

fn command(cluster: &Cluster, words: &[&str]) -> Command {
    let mut command = kvorum();
    command.arg("--local").arg(&cluster.folder).arg("certs").args(words);
    command
}

/// Runs a command beside what the test does meanwhile.
async fn run(mut command: Command) -> (i32, String, String) {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await;
    said(&output.unwrap())
}

/// Returns what `certs show` says of a cluster, one object for each certificate.
fn shown(output: &Output) -> Vec<Json> {
    serde_json::from_slice::<Json>(&output.stdout).unwrap().as_array().unwrap().clone()
}

fn show(cluster: &Cluster) -> Vec<Json> {
    shown(&command(cluster, &["show", "-o", "json"]).output().unwrap())
}

/// Returns the fingerprints of the certificates at the places that begin so.
fn fingerprints(rows: &[Json], start: &str) -> Vec<String> {
    let is_there = |row: &&Json| row["place"].as_str().unwrap().starts_with(start);
    let print = |row: &Json| row["fingerprint"].as_str().unwrap_or_default().to_owned();
    rows.iter().filter(is_there).map(print).collect()
}

fn trusted(cluster: &Cluster) -> Vec<Fingerprint> {
    let file = cluster.folder.join("tls").join("ca").join(CA_FILE);
    let all = Description::read_all(&fs::read_to_string(file).unwrap()).unwrap();
    all.iter().map(|one| one.fingerprint).collect()
}

/// Returns every part of the authority's secret.
fn parts(cluster: &Cluster) -> Vec<String> {
    let entries = fs::read_dir(cluster.folder.join("tls").join("ca")).unwrap();
    let mut all: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

fn endpoints(cluster: &Cluster) -> String {
    let names = cluster.names().into_iter();
    let at = names.map(|name| Addresses::read(&cluster.folder.join(name).join(FILE_NAME)).unwrap());
    at.map(|addresses| addresses.clients).collect::<Vec<_>>().join(",")
}

/// Runs a command with the certificate in a folder.
fn with(tls_dir: &Path, cluster: &Cluster, words: &[&str]) -> (i32, String, String) {
    let mut command = kvorum();
    command.args(["--timeout", "3s", "--endpoints", &endpoints(cluster), "--tls-dir"]).arg(tls_dir);
    said(&command.args(words).output().unwrap())
}

/// Every replica and every client gets another certificate, and no write fails.
#[tokio::test(flavor = "multi_thread")]
async fn leaves_are_replaced_under_load() {
    let cluster = Cluster::start(&["--replicas=3"]);
    let before = show(&cluster);
    assert_eq!(before.len(), 6, "{before:?}");
    assert!(before.iter().all(|row| row["state"] == "valid"), "{before:?}");
    let writer = Writer::start(&cluster, credentials::of_folder(&cluster.tls_dir()).unwrap());
    let (code, out, err) = run(command(&cluster, &["rotate"])).await;
    assert_eq!(code, 0, "{out}{err}");
    let after = show(&cluster);
    let written = writer.end().await;
    println!("leaves: {written:?}");
    assert!(written.writes > 0 && written.failures.is_empty(), "{written:?}");
    let tls = cluster.folder.join("tls");
    let place = |name: &str| tls.join(name).display().to_string();
    let authority = place("ca");
    assert_eq!(fingerprints(&before, &authority), fingerprints(&after, &authority));
    let clients = [place("client-admin"), place("client-view")];
    let replicas = cluster.names();
    for start in replicas.iter().chain(&clients) {
        let (before, after) = (fingerprints(&before, start), fingerprints(&after, start));
        assert_eq!((before.len(), after.len()), (1, 1), "{start}");
        assert_ne!(before, after, "{start}");
    }
}

/// The authority is replaced under load, no write of a program that reads its certificate now and
/// then fails, and a certificate by the old one is refused.
#[tokio::test(flavor = "multi_thread")]
async fn the_authority_is_replaced_under_load() {
    let cluster = Cluster::start(&["--replicas=3"]);
    let old = trusted(&cluster);
    let copy = tempfile::tempdir().unwrap();
    for file in [CA_FILE, CERTIFICATE_FILE, KEY_FILE] {
        fs::copy(cluster.tls_dir().join(file), copy.path().join(file)).unwrap();
    }
    let unasked = said(&command(&cluster, &["rotate", "--authority"]).output().unwrap());
    assert_eq!((unasked.0, parts(&cluster).len()), (7, 2), "{}", unasked.2);
    let writer = Writer::start(&cluster, credentials::of_folder(&cluster.tls_dir()).unwrap());
    let rotate = ["rotate", "--authority", "--yes", PAUSE];
    let (code, out, err) = run(command(&cluster, &rotate)).await;
    assert_eq!(code, 0, "{out}{err}");
    let written = writer.end().await;
    println!("authority: {written:?}\n{err}");
    assert!(written.writes > 0 && written.failures.is_empty(), "{written:?}");
    for step in ["step 1 of 3", "step 2 of 3", "step 3 of 3"] {
        assert!(err.contains(step), "{step}: {err}");
    }
    let new = trusted(&cluster);
    assert!(new.len() == 1 && new != old, "{old:?} {new:?}");
    assert_eq!(parts(&cluster), ["ca.crt", "ca.key"]);
    let rows = show(&cluster);
    let is_by_new = |row: &Json| row["authority"] == new[0].to_string().as_str();
    assert!(rows.len() == 6 && rows.iter().all(is_by_new), "{rows:?}");
    assert_eq!(said(&cluster.run(&["put", "a", "1"])).0, 0);
    let (code, _, err) = with(copy.path(), &cluster, &["get", "a"]);
    assert_eq!(code, 6, "{err}");
}

/// The pause has a use: a program that does not get to read its certificate anew is shut out.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_pause_writes_fail() {
    let cluster = Cluster::start(&["--replicas=3"]);
    let tls = Tls::new(read_folder(&cluster.tls_dir()).unwrap());
    let writer = Writer::start(&cluster, Encryption::Require(Arc::clone(&tls)));
    let rotate = ["rotate", "--authority", "--yes", "--pause=0s"];
    let (code, out, err) = run(command(&cluster, &rotate)).await;
    assert_eq!(code, 0, "{out}{err}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    tls.replace(read_folder(&cluster.tls_dir()).unwrap());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let written = writer.end().await;
    println!("without a pause: {} writes, {} failures", written.writes, written.failures.len());
    assert!(!written.failures.is_empty(), "{written:?}");
}

/// Starts a replacement, and kills it when it says so.
fn kill_at(cluster: &Cluster, words: &[&str], said: &str) {
    let mut command = command(cluster, words);
    let mut child: Child = command.stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines.map_while(Result::ok).find(|line| line.contains(said));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(line.is_some(), "{said}");
}

/// It is killed at each step, and goes on; it stops where that is asked for, so that copies of
/// certificates can be handed out; and goes on then.
#[test]
fn a_replacement_that_is_interrupted_goes_on() {
    let cluster = Cluster::start(&["--replicas=3"]);
    assert_eq!(said(&cluster.run(&["put", "a", "1"])).0, 0);
    let old = trusted(&cluster);
    let make = |out: &Path| {
        let out = out.display().to_string();
        said(&command(&cluster, &["make", "--client=admin", "--out", &out]).output().unwrap())
    };
    let copies = tempfile::tempdir().unwrap();
    let (early, late) = (copies.path().join("early"), copies.path().join("late"));
    assert_eq!(make(&early).0, 0);
    let rotate = ["rotate", "--authority", "--yes", "--pause=0s"];
    kill_at(&cluster, &["rotate", "--authority", "--yes", "--pause=1h"], "step 1 of 3");
    assert_eq!(trusted(&cluster).len(), 2);
    assert_eq!(said(&cluster.run(&["put", "a", "2"])).0, 0);
    let prepare = ["rotate", "--authority", "--prepare"];
    let (code, out, err) = said(&command(&cluster, &prepare).output().unwrap());
    assert!(code == 0 && out.contains("good before and after"), "{out}{err}");
    assert_eq!(trusted(&cluster).len(), 2);
    assert!(said(&command(&cluster, &["show"]).output().unwrap()).2.contains("step 1 of 3"));
    assert_eq!(make(&late).0, 0);
    let uses = |copy: &Path| with(&copy.join("client-admin"), &cluster, &["get", "a"]).0;
    assert_eq!((uses(&early), uses(&late)), (0, 0), "both are let in");
    kill_at(&cluster, &rotate, "step 2 of 3");
    assert_eq!(said(&command(&cluster, &prepare).output().unwrap()).0, 2, "it is too late");
    kill_at(&cluster, &rotate, "step 3 of 3");
    let (code, out, err) = said(&command(&cluster, &rotate).output().unwrap());
    assert!(code == 0 && out.contains("nobody trusts the old one"), "{out}{err}");
    let new = trusted(&cluster);
    assert!(new.len() == 1 && new != old, "{new:?}");
    assert_eq!(parts(&cluster), ["ca.crt", "ca.key"]);
    assert_eq!((uses(&early), uses(&late)), (6, 0));
}

/// A replica that does not answer holds up every step, and is named.
#[test]
fn a_replica_that_is_down_is_waited_for() {
    let cluster = Cluster::start(&["--replicas=3"]);
    let old = trusted(&cluster);
    let process = cluster.process("kvorum-2").unwrap();
    let rotate = ["rotate", "--authority", "--yes", "--pause=0s", "--wait=3s"];
    let is_held_up = |words: &[&str], place: &str| {
        kill_process(process, Signal::STOP).unwrap();
        let (code, out, err) = said(&command(&cluster, words).output().unwrap());
        kill_process(process, Signal::CONT).unwrap();
        assert_eq!(code, 4, "{out}{err}");
        let last = err.lines().last().unwrap();
        assert!(last.contains("kvorum-2 does not answer") && last.contains(place), "{err}");
        assert!(!last.contains("kvorum-0") && !last.contains("kvorum-1"), "{err}");
    };
    is_held_up(&rotate, "Nothing was changed");
    is_held_up(&["rotate", "--wait=3s"], "Nothing was changed");
    assert_eq!((trusted(&cluster), parts(&cluster).len()), (old, 2));
    kill_at(&cluster, &["rotate", "--authority", "--yes", "--pause=1h"], "step 1 of 3");
    is_held_up(&rotate, "step 1 of 3");
    kill_at(&cluster, &rotate, "step 2 of 3");
    is_held_up(&rotate, "step 2 of 3");
    assert_eq!(trusted(&cluster).len(), 2);
    assert_eq!(said(&command(&cluster, &rotate[..4]).output().unwrap()).0, 0);
    assert_eq!(trusted(&cluster).len(), 1);
}

/// A certificate for one more user, by the cluster's own authority, in private files; nothing is
/// overwritten unasked.
#[test]
fn a_user_of_ones_own_gets_a_certificate() {
    let cluster = Cluster::start(&["--replicas=1"]);
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out");
    let make = |more: &[&str]| {
        let mut command = command(&cluster, &["make", "--client=app", "--days=10", "--out"]);
        said(&command.arg(&out).args(more).output().unwrap())
    };
    let (code, told, err) = make(&[]);
    assert!(code == 0 && told.contains("kvorum://local/client/app"), "{told}{err}");
    let own = out.join("client-app");
    for (path, is_folder) in [(out.clone(), true), (own.clone(), true)] {
        assert!(path.is_dir() == is_folder);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & OTHERS, 0);
    }
    for file in [CA_FILE, CERTIFICATE_FILE, KEY_FILE] {
        let mode = fs::metadata(own.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let days = read_folder(&own).unwrap().certificate.not_after;
    let days = days.duration_since(SystemTime::now()).unwrap().as_secs() / (24 * 3600);
    assert_eq!(days, 9, "and some hours");
    // It is let in as that user, who has no right yet.
    let (code, _, err) = with(&own, &cluster, &["put", "a", "1"]);
    assert!(code == 6 && err.contains("app has no right"), "{err}");
    let before = fs::read(own.join(KEY_FILE)).unwrap();
    let (code, _, err) = make(&[]);
    assert!(code == 1 && err.contains("is there already"), "{err}");
    assert_eq!(fs::read(own.join(KEY_FILE)).unwrap(), before);
    assert_eq!(make(&["--replace"]).0, 0);
    assert_ne!(fs::read(own.join(KEY_FILE)).unwrap(), before);
}

/// A cluster that nobody orchestrates runs with certificates of an authority of one's own.
#[test]
fn replicas_of_ones_own_get_certificates() {
    let place = tempfile::tempdir().unwrap();
    let (out, data) = (place.path().join("certs"), place.path().join("data"));
    let make = |words: &[&str]| {
        let mut command = kvorum();
        command.args(["certs", "make", "--cluster=shop", "--out"]).arg(&out).args(words);
        said(&command.output().unwrap())
    };
    let replicas = ["--replica=kvorum-0=127.0.0.1,localhost", "--replica=kvorum-1"];
    assert_eq!(make(&[&replicas[..], &["--client=admin"]].concat()).0, 0);
    let authority = fs::read(out.join("ca").join("ca.key")).unwrap();
    assert_eq!(make(&["--client=view"]).0, 0, "with the same authority");
    assert_eq!(fs::read(out.join("ca").join("ca.key")).unwrap(), authority);
    let mut other = kvorum();
    other.args(["certs", "make", "--cluster=other", "--client=a", "--out"]).arg(&out);
    let (code, _, err) = said(&other.output().unwrap());
    assert!(code == 2 && err.contains("and not one of other"), "{err}");
    let mut running: Vec<Child> = Vec::new();
    let id = ClusterId(rand::random());
    for name in ["kvorum-0", "kvorum-1"] {
        let own = data.join(name);
        let child = kvorum()
            .args(["replica", "--stop-with-stdin", "--disk-reserve=1MiB"])
            .args(["--members=kvorum-0,kvorum-1", &format!("--name={name}")])
            .arg(format!("--cluster={id}"))
            .arg(format!("--peers-from={}", data.display()))
            .arg(format!("--data={}", own.display()))
            .arg(format!("--tls-dir={}", out.join(name).display()))
            .args(["peers", "clients", "http"].map(|port| format!("--listen-{port}=127.0.0.1:0")))
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        running.push(child.unwrap());
    }
    let at = |name: &str| Addresses::read(&data.join(name).join(FILE_NAME));
    wait_for("both listen", || at("kvorum-0").is_ok() && at("kvorum-1").is_ok());
    let endpoints = [at("kvorum-0").unwrap().clients, at("kvorum-1").unwrap().clients].join(",");
    let with = |user: &str, words: &[&str]| {
        let mut command = kvorum();
        command.args(["--timeout=20s", "--endpoints", &endpoints, "--tls-dir"]);
        said(&command.arg(out.join(format!("client-{user}"))).args(words).output().unwrap())
    };
    let (put, get) = (with("admin", &["put", "a", "1"]), with("view", &["get", "a"]));
    let rows = with("view", &["certs", "show"]);
    for mut child in running {
        let _ = child.kill();
        child.wait().unwrap();
    }
    assert_eq!((put.0, get.0, get.1.trim()), (0, 0, "1"), "{put:?} {get:?}");
    assert_eq!(rows.0, 0, "{rows:?}");
    for who in ["kvorum://shop/replica/kvorum-0", "kvorum://shop/replica/kvorum-1"] {
        assert!(rows.1.contains(who), "{rows:?}");
    }
    let mut show = kvorum();
    let rows = shown(&show.args(["certs", "show", "-o", "json"]).arg(&out).output().unwrap());
    assert_eq!(rows.len(), 5, "{rows:?}");
    assert!(rows.iter().all(|row| row["state"] == "valid" && row["problem"].is_null()));
}

/// A certificate of no use is named, with the reason.
#[test]
fn certificates_of_no_use_are_named() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out");
    let mut make = kvorum();
    make.args(["certs", "make", "--cluster=c", "--client=a", "--client=b", "--out"]).arg(&out);
    assert_eq!(said(&make.output().unwrap()).0, 0);
    let (a, b) = (out.join("client-a"), out.join("client-b"));
    let show = |path: &Path| {
        let (code, out, err) = said(&kvorum().args(["certs", "show"]).arg(path).output().unwrap());
        (code, out + &err)
    };
    assert_eq!(show(&out).0, 0);
    let whole = |file| fs::read(a.join(file)).unwrap();
    let other = Authority::generate("c", SystemTime::now());
    let key = fs::read(b.join(KEY_FILE)).unwrap();
    for (file, broken, expected) in [
        (KEY_FILE, key.as_slice(), "does not fit"),
        (KEY_FILE, b"", "no key"),
        (CA_FILE, b"no PEM", "no certificate in it"),
        (CA_FILE, other.bundle().as_bytes(), "none of the authorities"),
        (CERTIFICATE_FILE, b"-----BEGIN CERTIFICATE-----\nAA", "does not parse"),
    ] {
        let before = whole(file);
        fs::write(a.join(file), broken).unwrap();
        let (code, told) = show(&out);
        assert!(code == 1 && told.contains(expected), "{file} {expected}: {told}");
        assert!(told.contains(&a.display().to_string()), "{told}");
        fs::write(a.join(file), before).unwrap();
    }
    assert_eq!(show(&out).0, 0);
    fs::set_permissions(a.join(KEY_FILE), fs::Permissions::from_mode(0o644)).unwrap();
    let (code, told) = show(&a);
    assert!(code == 1 && told.contains("may be read") && told.contains("chmod 600"), "{told}");
    fs::remove_file(a.join(CERTIFICATE_FILE)).unwrap();
    fs::set_permissions(a.join(KEY_FILE), fs::Permissions::from_mode(0o600)).unwrap();
    let (code, told) = show(&a);
    assert!(code == 1 && told.contains(CERTIFICATE_FILE), "{told}");
    let (code, told) = show(&b.join(KEY_FILE));
    assert!(code == 1 && told.contains("it is a key"), "{told}");
    assert_eq!(show(&b.join(CERTIFICATE_FILE)).0, 0);
    let empty = place.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert_eq!(show(&empty).0, 3);
}
