//! Tests of copies of volumes, taken while their replicas run and put back later: writes
//! acknowledged in between are not lost, no client reads old values, and no two replicas serve
//! beside each other.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kvorum_harness::cluster::{Cluster, PATIENCE, kvorum, said};
use kvorum_replica::orchestrator::Folder;
use kvorum_replica::transport::addresses::{Addresses, FILE_NAME};
use rustix::process::{Pid, Signal, kill_process};

/// The pause between two checks.
const PAUSE: Duration = Duration::from_millis(50);
/// Long enough for everything that a replica does once a second.
const SECONDS: Duration = Duration::from_secs(3);

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

fn put(cluster: &Cluster, value: &str) {
    let put = said(&cluster.run(&["--timeout", "20s", "put", "a", value]));
    assert_eq!(put.0, 0, "{put:?}");
}

/// Waits until a command prints the expected output, and returns it.
fn until(cluster: &Cluster, words: &[&str], is_it: impl Fn(&str) -> bool) -> String {
    let began = Instant::now();
    loop {
        let (code, out, err) = said(&cluster.run(words));
        if code == 0 && is_it(&out) {
            return out;
        }
        assert!(began.elapsed() < PATIENCE, "{words:?}: {out}{err}");
        std::thread::sleep(PAUSE);
    }
}

/// Copies a folder as if in an instant.
fn copy_while_it_runs(cluster: &Cluster, name: &str, to: &Path) {
    let process = cluster.process(name).unwrap();
    kill_process(process, Signal::STOP).unwrap();
    copy(&cluster.folder.join(name), to);
    kill_process(process, Signal::CONT).unwrap();
}

fn wait_until_ended(folder: &Path, name: &str) {
    let began = Instant::now();
    while kvorum::local::folder::process_of(&folder.join(name)).is_some() {
        assert!(began.elapsed() < PATIENCE, "{name} ends");
        std::thread::sleep(PAUSE);
    }
}

fn bring_back(cluster_folder: &Path, name: &str, from: &Path) {
    fs::remove_dir_all(cluster_folder.join(name)).unwrap();
    fs::rename(from, cluster_folder.join(name)).unwrap();
}

#[test]
fn a_copy_of_the_only_volume_serves_nothing() {
    let kept = tempfile::tempdir().unwrap();
    let (folder, aside) = (kept.path().join("cluster"), kept.path().join("copy"));
    let cluster = Cluster::start_in(&folder, &["--replicas=1"]);
    put(&cluster, "1");
    copy_while_it_runs(&cluster, "kvorum-0", &aside);
    put(&cluster, "2");
    cluster.stop(Signal::TERM);
    bring_back(&folder, "kvorum-0", &aside);
    // Each start begins epochs of its own, and that does not make the copy the volume again.
    for start in 1..=3 {
        serves_nothing(&folder, start);
    }
}

/// Runs a cluster that need not serve until its status is as expected; then inspects and ends it.
fn run_until(folder: &Path, is_it: impl Fn(&str) -> bool, look: impl FnOnce(&str)) {
    let mut supervisor = kvorum()
        .args(["local", "--no-console", "--disk-reserve=1MiB", "--data"])
        .arg(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    let status = loop {
        let status = run_in(folder, &["status"]).1;
        if is_it(&status) {
            break status;
        }
        assert!(began.elapsed() < PATIENCE, "{status}");
        std::thread::sleep(PAUSE);
    };
    look(&status);
    let process = Pid::from_raw(i32::try_from(supervisor.id()).unwrap()).unwrap();
    kill_process(process, Signal::TERM).unwrap();
    supervisor.wait().unwrap();
}

fn run_in(folder: &Path, words: &[&str]) -> (i32, String, String) {
    said(&kvorum().arg("--local").arg(folder).args(words).output().unwrap())
}

/// Checks that a cluster from an old copy reports that it is one, and neither reads nor writes.
fn serves_nothing(folder: &Path, start: u32) {
    let is_told = |status: &str| status.contains("older copy");
    run_until(folder, is_told, |status| {
        assert!(status.contains("kvorum recover"), "start {start}: {status}");
        for words in [&["get", "a"][..], &["get", "a", "--local-read"], &["put", "a", "3"]] {
            let told = run_in(folder, &[&["--timeout", "1s"], words].concat());
            assert_ne!(told.0, 0, "start {start}: {words:?}: {told:?}");
        }
    });
}

/// Of the two replicas that hold the write, one is away when the copy of the other one is put back.
/// The third replica was away while the write was acknowledged.
#[test]
fn a_copy_of_one_of_three_does_not_vote_and_is_replaced() {
    let kept = tempfile::tempdir().unwrap();
    let (folder, aside) = (kept.path().join("cluster"), kept.path().join("copy"));
    let cluster = Cluster::start_in(&folder, &["--replicas=3"]);
    put(&cluster, "1");
    let signal = |name: &str, signal| {
        kill_process(cluster.process(name).unwrap(), signal).unwrap();
    };
    copy_while_it_runs(&cluster, "kvorum-2", &aside);
    signal("kvorum-1", Signal::STOP);
    std::thread::sleep(SECONDS);
    put(&cluster, "2");
    kill_process(cluster.supervisor(), Signal::STOP).unwrap();
    signal("kvorum-2", Signal::KILL);
    wait_until_ended(&folder, "kvorum-2");
    bring_back(&folder, "kvorum-2", &aside);
    signal("kvorum-0", Signal::STOP);
    signal("kvorum-1", Signal::CONT);
    kill_process(cluster.supervisor(), Signal::CONT).unwrap();
    nobody_reads(&cluster, &["kvorum-1", "kvorum-2"], "1");
    signal("kvorum-0", Signal::CONT);
    until(&cluster, &["--timeout", "2s", "get", "a"], |out| out.trim() == "2");
    // The others are a majority: the copy gets another id, and the state.
    until(&cluster, &["status"], |out| out.matches("2 of 2").count() == 3);
    until(&cluster, &["get", "a", "kvorum-2", "--local-read"], |out| out.trim() == "2");
}

/// Starts a second process on a folder, beside the cluster.
fn start_on(cluster: &Cluster, data: &Path) -> Child {
    let id = kvorum::local::folder::StatefulSet::read(&cluster.folder).unwrap().cluster;
    let mut command = kvorum();
    command.args(["replica", "--name=kvorum-0", "--disk-reserve=0"]);
    command.arg(format!("--cluster={id}"));
    command.arg(format!("--follow={}", cluster.folder.display()));
    command.arg(format!("--data={}", data.display()));
    for port in ["peers", "clients", "http"] {
        command.arg(format!("--listen-{port}=127.0.0.1:0"));
    }
    command.stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn two_lone_replicas_do_not_serve_beside_each_other() {
    let kept = tempfile::tempdir().unwrap();
    let aside = kept.path().join("copy");
    let cluster = Cluster::start(&["--replicas=1"]);
    put(&cluster, "1");
    // Until the marker knows all about the volume, so that the copy is as good as the volume.
    std::thread::sleep(SECONDS);
    copy_while_it_runs(&cluster, "kvorum-0", &aside);
    let _ = fs::remove_file(aside.join(FILE_NAME));
    let mut second = start_on(&cluster, &aside);
    let began = Instant::now();
    let listening = loop {
        if let Ok(addresses) = Addresses::read(&aside.join(FILE_NAME)) {
            break addresses.clients;
        }
        assert!(began.elapsed() < PATIENCE, "the second one starts");
        std::thread::sleep(PAUSE);
    };
    let by = |endpoint: &str, words: &[&str]| {
        let mut command = kvorum();
        command.args(["--timeout", "1s", "--endpoints", endpoint, "--tls-dir"]);
        said(&command.arg(cluster.tls_dir()).args(words).output().unwrap())
    };
    let first = Addresses::read(&cluster.folder.join("kvorum-0").join(FILE_NAME)).unwrap().clients;
    std::thread::sleep(SECONDS);
    // Whichever it is, at most one of them serves.
    let serves = |endpoint: &str| {
        let (put, get) = (by(endpoint, &["put", "b", endpoint]), by(endpoint, &["get", "a"]));
        let local = by(endpoint, &["get", "a", "--local-read"]);
        assert_eq!([put.0, get.0, local.0].iter().filter(|code| **code == 0).count() % 3, 0);
        put.0 == 0
    };
    assert!(serves(&first) != serves(&listening), "exactly one of the two serves");
    second.kill().unwrap();
    second.wait().unwrap();
}

fn scale(cluster: &Cluster, replicas: u32) {
    kvorum::local::scale(&cluster.folder, replicas).unwrap();
    let links = format!("{0} of {0}", replicas - 1);
    until(cluster, &["status"], |out| {
        let told = |what: &str| out.contains(&format!("{replicas} {what}"));
        told("member") && told("wanted") && out.matches(&links).count() == replicas as usize
    });
}

/// Replaces replicas with copies while their cluster keeps running.
fn replace_while_it_runs(cluster: &Cluster, copies: &[(&str, &Path)]) {
    kill_process(cluster.supervisor(), Signal::STOP).unwrap();
    for (name, copy) in copies {
        cluster.kill(name);
        wait_until_ended(&cluster.folder, name);
        bring_back(&cluster.folder, name, copy);
    }
    kill_process(cluster.supervisor(), Signal::CONT).unwrap();
}

/// Checks for a while that no read at the given replicas returns the given value.
fn nobody_reads<N: AsRef<str>>(cluster: &Cluster, names: &[N], value: &str) {
    let began = Instant::now();
    while began.elapsed() < 2 * SECONDS {
        for name in names {
            let got = said(&cluster.run(&["--timeout", "1s", "get", "a", name.as_ref()]));
            assert_ne!(got.1.trim(), value, "an acknowledged write is lost: {got:?}");
        }
    }
}

fn recover(folder: &Path, words: &[&str]) -> (i32, String, String) {
    said(&kvorum().args(["recover", "--data"]).arg(folder).args(words).output().unwrap())
}

/// The marker is lost, and made anew from what its cluster knows.
#[test]
fn a_copy_from_before_the_cluster_grew_serves_nothing() {
    let kept = tempfile::tempdir().unwrap();
    let aside = kept.path().join("copy");
    let cluster = Cluster::start(&["--replicas=1"]);
    put(&cluster, "1");
    copy_while_it_runs(&cluster, "kvorum-0", &aside);
    scale(&cluster, 3);
    put(&cluster, "2");
    let folder = Folder::new(&cluster.folder);
    folder.forget_marker().unwrap();
    let began = Instant::now();
    while folder.marker_now().unwrap().is_none_or(|marker| marker.configuration.0 <= 1) {
        assert!(began.elapsed() < PATIENCE, "the leader tells what it knows");
        std::thread::sleep(PAUSE);
    }
    replace_while_it_runs(&cluster, &[("kvorum-0", &aside)]);
    nobody_reads(&cluster, &cluster.names(), "1");
    until(&cluster, &["get", "a", "kvorum-0", "--local-read"], |out| out.trim() == "2");
}

/// Replicas that left and joined again are a majority of an ended configuration; `recover` finds
/// the replica that is current.
#[test]
fn copies_of_a_majority_of_what_is_over_do_not_vote() {
    let kept = tempfile::tempdir().unwrap();
    let at = |name: &str| kept.path().join(name);
    let (folder, one, two) = (at("cluster"), at("one"), at("two"));
    let cluster = Cluster::start_in(&folder, &["--replicas=3"]);
    put(&cluster, "1");
    copy_while_it_runs(&cluster, "kvorum-1", &one);
    copy_while_it_runs(&cluster, "kvorum-2", &two);
    scale(&cluster, 1);
    scale(&cluster, 3);
    put(&cluster, "2");
    std::thread::sleep(SECONDS);
    replace_while_it_runs(&cluster, &[("kvorum-1", &one), ("kvorum-2", &two)]);
    nobody_reads(&cluster, &cluster.names(), "1");
    let status = said(&cluster.run(&["status"])).1;
    // The marker may also have recorded the volumes before their replicas left.
    let is_told = status.contains("which is over") || status.contains("older copy");
    assert!(is_told, "{status}");
    let id = kvorum::local::folder::StatefulSet::read(&folder).unwrap().cluster.to_string();
    cluster.stop(Signal::TERM);
    assert_eq!(recover(&folder, &[]).0, 7);
    assert_eq!(recover(&folder, &["--confirm", &id[..8]]).0, 0);
    let cluster = Cluster::start_in(&folder, &[]);
    until(&cluster, &["get", "a"], |out| out.trim() == "2");
    cluster.stop(Signal::TERM);
}

/// A majority of folders is present, and one of them gets no vote.
#[test]
fn recover_does_not_count_a_copy() {
    let kept = tempfile::tempdir().unwrap();
    let (folder, aside) = (kept.path().join("cluster"), kept.path().join("copy"));
    let cluster = Cluster::start_in(&folder, &["--replicas=2"]);
    put(&cluster, "1");
    std::thread::sleep(SECONDS);
    copy_while_it_runs(&cluster, "kvorum-1", &aside);
    put(&cluster, "2");
    std::thread::sleep(SECONDS);
    cluster.stop(Signal::TERM);
    let (code, out, err) = recover(&folder, &[]);
    assert!(code == 2 && err.contains("nothing needs to be recovered"), "{out}{err}");
    bring_back(&folder, "kvorum-1", &aside);
    let (code, out, err) = recover(&folder, &[]);
    assert!(code == 7 && out.contains("it gets no vote"), "{out}{err}");
}

/// Ends all replicas at once, as a power loss does.
fn kill_all(cluster: Cluster) {
    let (folder, names) = (cluster.folder.clone(), cluster.names());
    kill_process(cluster.supervisor(), Signal::STOP).unwrap();
    for name in &names {
        cluster.kill(name);
    }
    cluster.stop(Signal::KILL);
    for name in &names {
        wait_until_ended(&folder, name);
    }
}

/// Copies of a majority accept each other, and report to the marker, until the third replica
/// rejects them. Then the volumes themselves are put back.
#[test]
fn volumes_serve_again_for_which_copies_stood() {
    let kept = tempfile::tempdir().unwrap();
    let folder = kept.path().join("cluster");
    let place = |what: &str, name: &str| kept.path().join(format!("{what}-{name}"));
    let cluster = Cluster::start_in(&folder, &["--replicas=3"]);
    put(&cluster, "1");
    let names = ["kvorum-1", "kvorum-2"];
    for name in names {
        copy_while_it_runs(&cluster, name, &place("copy", name));
    }
    put(&cluster, "2");
    std::thread::sleep(SECONDS);
    kill_all(cluster);
    for name in names {
        fs::rename(folder.join(name), place("volume", name)).unwrap();
        fs::rename(place("copy", name), folder.join(name)).unwrap();
    }
    let are_out = |status: &str| status.matches("outside").count() == 2;
    run_until(&folder, are_out, |_| std::thread::sleep(SECONDS));
    for name in names {
        fs::rename(folder.join(name), place("copy", name)).unwrap();
        fs::rename(place("volume", name), folder.join(name)).unwrap();
    }
    let cluster = Cluster::start_in(&folder, &[]);
    until(&cluster, &["get", "a"], |out| out.trim() == "2");
    until(&cluster, &["status"], |out| out.matches("2 of 2").count() == 3);
}
