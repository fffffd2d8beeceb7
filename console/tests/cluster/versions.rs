//! Tests of replicas of two versions side by side: one after the other is replaced by a newer
//! program, and the cluster's version rises after the last one.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvorum::local::folder::StatefulSet;
use kvorum_harness::cluster::{PATIENCE, kvorum, status_when};
use kvorum_protocol::client::{Options, Route};
use kvorum_protocol::status::{ClusterId, Status};
use kvorum_protocol::{Client, Key, Value};
use kvorum_replica::state::version::Version;
use rustix::process::{Pid, Signal, kill_process};

const HOLD: &str = "--hold-version=1";

/// Replicas in the folders of a local cluster, each started separately.
struct Replicas {
    folder: PathBuf,
    set: StatefulSet,
    running: Vec<(String, Child)>,
}

impl Replicas {
    fn spawn(&mut self, name: &str, arguments: &[&str]) {
        let folder = self.folder.display();
        let child = kvorum()
            .args(["replica", "--stop-with-stdin", "--checksum-seconds=1", "--disk-reserve=1MiB"])
            .arg("--tls=off")
            .arg(format!("--name={name}"))
            .arg(format!("--cluster={}", self.set.cluster))
            .arg(format!("--members={}", self.set.members().join(",")))
            .arg(format!("--peers-from={folder}"))
            .arg(format!("--data={folder}/{name}"))
            .args(["peers", "clients", "http"].map(|port| format!("--listen-{port}=127.0.0.1:0")))
            .args(arguments)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        self.running.push((name.to_owned(), child));
    }

    /// Ends a replica gracefully.
    fn end(&mut self, name: &str) {
        let position = self.running.iter().position(|(running, _)| running == name).unwrap();
        let (_, child) = self.running.remove(position);
        let process = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process(process, Signal::TERM).unwrap();
        let (code, said) = ended(child);
        assert_eq!(code, Some(143), "{name} ended otherwise: {said}");
    }

    /// Returns the error output of a replica that does not start.
    fn failure(&mut self) -> String {
        let (_, child) = self.running.pop().unwrap();
        let (code, said) = ended(child);
        assert_eq!(code, Some(1), "it started: {said}");
        said
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

/// Waits for the end of a replica; returns its exit code and its output.
fn ended(mut child: Child) -> (Option<i32>, String) {
    // `wait` would close its input, and with `--stop-with-stdin` that alone would end it.
    let began = Instant::now();
    let mut code = None;
    while code.is_none() {
        if began.elapsed() > PATIENCE {
            child.kill().unwrap();
        }
        code = child.try_wait().unwrap().map(|status| status.code());
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (code.flatten(), said)
}

fn client(folder: &Path) -> Arc<Client> {
    let options = Options { deadline: Duration::from_secs(20), ..Options::default() };
    kvorum::local::client(folder, options).unwrap()
}

/// Writes until told to stop, without a failure; returns the number of writes.
async fn write(client: Arc<Client>, stop: Arc<AtomicBool>) -> u64 {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let value = Value::from(count.to_string());
        client.put(Key::from("written"), value, &Route::Any).await.unwrap();
        count += 1;
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_replaced_one_by_one_by_a_newer_program() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("cluster");
    std::fs::create_dir(&folder).unwrap();
    // Changing members is newer than the oldest version, so the members are given.
    let set = StatefulSet { cluster: ClusterId(rand::random()), replicas: 3 };
    set.write(&folder).unwrap();
    let names = set.members();
    let mut replicas = Replicas { folder: folder.clone(), set, running: Vec::new() };
    for name in &names {
        replicas.spawn(name, &[HOLD]);
    }
    let client = client(&folder);
    let is_ready = |version: u8| {
        move |status: &Status| {
            let is_linked = status.links.iter().all(|link| link.is_up);
            status.is_ready && is_linked && status.version == version
        }
    };
    let through = |name: &String| Route::Through(name.clone());
    for name in &names {
        status_when(&client, &through(name), is_ready(1)).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn(write(Arc::clone(&client), Arc::clone(&stop)));
    for (replaced, name) in names.iter().enumerate() {
        replicas.end(name);
        replicas.spawn(name, &[]);
        let version = if replaced + 1 < names.len() { 1 } else { Version::NEWEST.0 };
        status_when(&client, &through(name), is_ready(version)).await;
    }
    for name in &names {
        status_when(&client, &through(name), is_ready(Version::NEWEST.0)).await;
    }
    // A feature of the new version is in use: the states are compared.
    status_when(&client, &Route::Any, |status| status.same_at > 0).await;
    stop.store(true, Ordering::Relaxed);
    println!("{} writes meanwhile, none failed", writing.await.unwrap());

    // There is no way back: neither its disk nor its peers accept the older program.
    replicas.end(&names[0]);
    replicas.spawn(&names[0], &[HOLD]);
    let failure = replicas.failure();
    assert!(failure.contains("was written by a newer version"), "{failure}");
    let newest = format!("its cluster has version {}, and this is 1", Version::NEWEST);
    assert!(failure.contains(&newest), "{failure}");
}
