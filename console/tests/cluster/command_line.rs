//! Tests of the command line as a user types it, on a real local cluster.

use std::process::Stdio;
use std::time::{Duration, Instant};

use kvorum_harness::cluster::{Cluster, PATIENCE, kvorum, said};
use kvorum_replica::transport::addresses::{Addresses, FILE_NAME};
use rustix::process::{Signal, kill_process};

/// A command line, its exit status, and a part of its output.
type Case<'a> = (&'a [&'a str], i32, &'a str);

fn check(cluster: &Cluster, cases: &[Case<'_>]) {
    for (words, exit, part) in cases {
        let (code, out, err) = said(&cluster.run(words));
        assert_eq!(code, *exit, "{words:?}\n{out}{err}");
        let lines = err.lines().filter(|line| !line.contains(": using ")).count();
        assert!(lines <= 1 || words.contains(&"kill"), "{words:?} says it in one line\n{err}");
        assert!(out.contains(part) || err.contains(part), "{words:?} says {part}\n{out}{err}");
    }
}

#[test]
fn every_command_line_of_the_seed_works() {
    let cluster = Cluster::start(&[]);
    check(
        &cluster,
        &[
            (&["put", "a", "1"], 0, "put a at revision"),
            (&["put", "a", "1", "8002"], 0, "put a at revision"),
            (&["get", "a", "8001"], 0, "1"),
            (&["get", "a"], 0, "1"),
            (&["delete", "a"], 0, "deleted a"),
            (&["delete", "a", "8003"], 3, "there is no key a"),
            (&["get", "a", "8003"], 3, "there is no key a"),
        ],
    );
}

#[test]
fn keys_and_values_of_any_kind() {
    let cluster = Cluster::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        format!("@{}", path.display())
    };
    let binary: Vec<u8> = (0..=255).collect();
    let largest: Vec<u8> = binary.iter().copied().cycle().take(1 << 20).collect();
    let too_long = file("too-long", &[&largest[..], b"x"].concat());
    let (binary_file, largest_file) = (file("binary", &binary), file("largest", &largest));
    let long_key = "k".repeat(4097);
    let longest_key = "k".repeat(4096);
    check(
        &cluster,
        &[
            (&["put", "bin", &binary_file], 0, "put bin"),
            (&["get", "bin"], 0, "\0\u{1}"),
            (&["put", "big", &largest_file], 0, "put big"),
            (&["put", "big", &too_long], 2, "1048577 bytes; a value has at most 1048576"),
            (&["put", &longest_key, "v"], 0, "put kkk"),
            (&["put", &long_key, "v"], 2, "4097 bytes; a key has at most 4096"),
            (&["put", "", "v"], 2, "the key is empty"),
            (&["get", ""], 2, "the key is empty"),
            (&["put", "f", "@/nowhere"], 2, "cannot read /nowhere"),
            (&["put", "at", "@@home"], 0, "put at"),
            (&["get", "at"], 0, "@home"),
            (&["put", "empty", ""], 0, "put empty"),
            (&["put", "once", "1", "--if-absent"], 0, "put once"),
            (&["put", "once", "2", "--if-absent"], 1, "not done: once has revision"),
            (&["put", "never", "2", "--if-revision", "7"], 1, "not done: there is no key never"),
            (&["scan", "a", "-o", "jsonl"], 0, r#"{"key":"at""#),
            (&["scan", "--limit", "2"], 0, "go on with --from"),
        ],
    );
    assert_eq!(cluster.run(&["get", "bin", "-o", "raw"]).stdout, binary);
    assert_eq!(cluster.run(&["get", "big", "-o", "raw"]).stdout, largest);
}

#[test]
fn what_makes_no_sense_is_said_in_one_line() {
    let cluster = Cluster::start(&[]);
    check(
        &cluster,
        &[
            (&["get", "a", "n9"], 2, "there is no node n9; the nodes are kvorum-0, kvorum-1"),
            (&["put", "a", "b", "c"], 2, "'c' is not a node"),
            (&["kill", "n1"], 7, "repeat with --yes"),
            (&["kill", "any", "--yes"], 2, "'any' is no particular node"),
            (&["cut", "n1", "n2"], 6, "faults are not allowed here"),
            (&["--readonly", "put", "a", "1"], 6, "read-only session"),
            (&["--timeout", "0s", "get", "a"], 2, "a request needs some time"),
            (&["put", "a", "b", "c"], 2, "a value with blanks needs quotes"),
            (&["put", "a"], 2, "required arguments were not provided: <VALUE>"),
            (&["pu", "a"], 2, "unrecognized subcommand 'pu'"),
            (&["get", "a", "-o", "foo"], 2, "invalid value 'foo'"),
        ],
    );
    let (_, _, err) = said(&cluster.run(&["put", "a", "b", "c"]));
    assert_eq!(err.lines().count(), 1, "{err}");

    let addresses =
        |name: &str| Addresses::read(&cluster.folder.join(name).join(FILE_NAME)).unwrap();
    let first = addresses("kvorum-0");
    let direct = |endpoints: &str| {
        let words = ["--timeout", "1s", "--endpoints", endpoints, "put", "a", "1", "--tls-dir"];
        said(&kvorum().args(words).arg(cluster.tls_dir()).output().unwrap())
    };
    let cases = [
        (first.clients.as_str(), 0, "put a"),
        ("", 2, "--endpoints is empty"),
        ("nonsense", 2, "'nonsense' in --endpoints is not HOST:PORT"),
        (first.http.as_str(), 1, "is not a Kvorum replica's client port"),
        (first.peers.as_str(), 1, "is not a Kvorum replica's client port"),
        ("127.0.0.1:1", 4, "cannot reach 127.0.0.1:1"),
    ];
    for (endpoints, exit, part) in cases {
        let (code, out, err) = direct(endpoints);
        assert_eq!(code, exit, "{endpoints}\n{out}{err}");
        assert!(out.contains(part) || err.contains(part), "{endpoints} says {part}\n{out}{err}");
    }
}

#[test]
fn the_environment_is_read_as_people_set_it() {
    let cluster = Cluster::start(&["--replicas=2"]);
    let cases: [(&str, &str, &[&str], i32); 6] = [
        ("KVORUM_READONLY", "1", &["get", "a"], 3),
        ("KVORUM_READONLY", "1", &["put", "a", "1"], 6),
        ("KVORUM_READONLY", "", &["put", "a", "1"], 0),
        ("KVORUM_READONLY", "false", &["put", "a", "1"], 0),
        ("KVORUM_ENDPOINTS", "", &["get", "a"], 0),
        ("KVORUM_TIMEOUT", "3s", &["get", "a"], 0),
    ];
    for (name, value, words, exit) in cases {
        let mut command = kvorum();
        command.env(name, value).arg("--local").arg(&cluster.folder).args(words);
        let (code, out, err) = said(&command.output().unwrap());
        assert_eq!(code, exit, "{name}={value} {words:?}\n{out}{err}");
    }
}

#[test]
fn a_cluster_that_does_not_run_is_said_at_once() {
    let folder = tempfile::tempdir().unwrap();
    Cluster::start_in(folder.path(), &["--replicas=2"]).stop(Signal::TERM);
    let began = Instant::now();
    let mut command = kvorum();
    command.arg("--local").arg(folder.path()).args(["get", "a"]);
    let (code, _, err) = said(&command.output().unwrap());
    assert_eq!(code, 4, "{err}");
    assert!(err.contains("is not running; start it with"), "{err}");
    assert!(began.elapsed() < PATIENCE / 10, "without waiting for anyone");
}

#[test]
fn a_cluster_is_scaled_to_none_and_back() {
    let cluster = Cluster::start(&[]);
    let names = cluster.names();
    check(
        &cluster,
        &[
            (&["put", "a", "1"], 0, "put a at revision"),
            (
                &["scale", "0", "--yes"],
                0,
                "no replica is wanted: all stop, and keep what they have",
            ),
        ],
    );
    let began = Instant::now();
    while names.iter().any(|name| cluster.process(name).is_some_and(is_alive)) {
        assert!(began.elapsed() < PATIENCE, "all replicas end");
        std::thread::sleep(Duration::from_millis(10));
    }
    // No replica is there to report the current number; the folder holds the desired number.
    check(&cluster, &[(&["scale", "0", "--yes"], 4, "")]);
    let (code, out, err) = said(&cluster.run(&["scale", "3"]));
    assert_eq!(code, 0, "{out}{err}");
    assert!(err.contains("from 0 to 3 replicas: the cluster goes on with what it has"), "{err}");
    assert!(out.contains("3 replicas after"), "{out}{err}");
    check(&cluster, &[(&["get", "a"], 0, "1")]);
}

/// A kubeconfig whose user logs in through a program that never answers.
const HANGING_LOGIN: &str = r#"
apiVersion: v1
kind: Config
current-context: hangs
contexts: [{name: hangs, context: {cluster: nowhere, user: somebody}}]
clusters: [{name: nowhere, cluster: {server: "https://127.0.0.1:1"}}]
users:
- name: somebody
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1
      command: sleep
      args: ["60.0625"]
      interactiveMode: Never
"#;

#[test]
fn a_login_plugin_that_hangs_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kubeconfig");
    std::fs::write(&file, HANGING_LOGIN).unwrap();
    let began = Instant::now();
    let mut command = kvorum();
    command.env("KUBECONFIG", &file).args(["--context", "hangs", "get", "a"]);
    let (code, out, err) = said(&command.output().unwrap());
    assert_eq!(code, 4, "{out}{err}");
    let part = "the login plugin sleep of user somebody has not answered for";
    assert!(err.contains(part) && err.contains("run 'kubectl get pods'"), "{err}");
    assert!(began.elapsed() < Duration::from_secs(50), "before the plugin ended");
    let is_it = |process: std::fs::DirEntry| {
        std::fs::read(process.path().join("cmdline"))
            .is_ok_and(|line| line == b"sleep\x0060.0625\0")
    };
    let runs = || std::fs::read_dir("/proc").unwrap().map_while(Result::ok).any(is_it);
    while runs() {
        assert!(began.elapsed() < Duration::from_secs(50), "the plugin ends with the command");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_replica_of_another_cluster_is_not_mistaken_for_ones_own() {
    let (here, there) = (Cluster::start(&["--replicas=2"]), Cluster::start(&["--replicas=2"]));
    for name in here.names() {
        let from = there.folder.join(&name).join(FILE_NAME);
        std::fs::copy(from, here.folder.join(&name).join(FILE_NAME)).unwrap();
    }
    let (code, out, err) = said(&here.run(&["put", "a", "1"]));
    assert_eq!(code, 6, "{out}{err}");
    assert!(err.contains("no trust between this program and"), "{err}");
}

#[test]
fn one_folder_has_one_cluster() {
    let cluster = Cluster::start(&[]);
    let again = |words: &[&str]| {
        let folder = cluster.folder.to_str().unwrap();
        said(&kvorum().args(["local", "--data", folder]).args(words).output().unwrap())
    };
    let (code, _, err) = again(&[]);
    assert_eq!(code, 1);
    assert!(err.contains("runs in") && err.contains("already (process"), "{err}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a-file");
    std::fs::write(&file, "").unwrap();
    let words = ["local", "--data", file.to_str().unwrap()];
    let (code, _, err) = said(&kvorum().args(words).output().unwrap());
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("cannot use the folder"), "{err}");
    let (code, _, err) = again(&["--replicas=8"]);
    assert_eq!((code, err.contains("a local cluster has 1 to 7")), (2, true), "{err}");
}

/// Whether a process is alive. A zombie, which its parent has not waited for yet, is not.
fn is_alive(process: rustix::process::Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// Waits until none of the processes is alive; returns how long that took.
fn wait_for_end(processes: &[rustix::process::Pid]) -> Duration {
    let began = Instant::now();
    while processes.iter().any(|process| is_alive(*process)) {
        assert!(began.elapsed() < PATIENCE, "every process ends");
        std::thread::sleep(Duration::from_millis(5));
    }
    began.elapsed()
}

#[test]
fn no_replica_outlives_its_cluster() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::KILL] {
        let cluster = Cluster::start(&[]);
        let replicas: Vec<_> =
            cluster.names().iter().map(|name| cluster.process(name).unwrap()).collect();
        let folder = cluster.folder.clone();
        cluster.stop(signal);
        let took = wait_for_end(&replicas);
        println!("{signal:?}: all ended {took:?} after kvorum");
        assert!(!folder.exists() || kvorum::local::folder::process_of(&folder).is_none());
    }
}

#[test]
fn a_killed_replica_comes_back_and_what_was_written_stays() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start_in(folder.path(), &[]);
    check(&cluster, &[(&["put", "a", "1"], 0, "put a"), (&["kill", "n2", "--yes"], 0, "SIGKILL")]);
    let began = Instant::now();
    while !said(&cluster.run(&["get", "a", "n2"])).1.contains('1') {
        assert!(began.elapsed() < PATIENCE, "kvorum-1 comes back");
    }
    check(&cluster, &[(&["kill", "n1", "--graceful", "--yes"], 0, "SIGTERM")]);
    cluster.stop(Signal::TERM);
    let cluster = Cluster::start_in(folder.path(), &[]);
    check(&cluster, &[(&["get", "a"], 0, "1"), (&["log"], 0, "put    a  1")]);
}

/// The output of the cluster is not read: the cluster goes on.
#[test]
fn a_cluster_without_a_reader_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut supervisor = kvorum()
        .args(["local", "--disk-reserve=1MiB", "--data"])
        .arg(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop((supervisor.stdout.take(), supervisor.stderr.take()));
    let began = Instant::now();
    let run = |words: &[&str]| {
        said(&kvorum().arg("--local").arg(folder.path()).args(words).output().unwrap()).0
    };
    while run(&["put", "a", "1"]) != 0 {
        assert!(began.elapsed() < PATIENCE, "the cluster serves");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(run(&["kill", "leader", "--yes"]), 0);
    assert_eq!(run(&["get", "a"]), 0);
    assert!(supervisor.try_wait().unwrap().is_none(), "kvorum still runs");
    let process = i32::try_from(supervisor.id()).unwrap();
    kill_process(rustix::process::Pid::from_raw(process).unwrap(), Signal::TERM).unwrap();
    assert!(supervisor.wait().unwrap().success());
}

/// Returns when a replica's log first contains a text after a moment, in microseconds since 1970.
fn logged(cluster: &Cluster, replicas: &[String], part: &str, after: u64) -> Option<u64> {
    let times = replicas.iter().flat_map(|replica| {
        let log = std::fs::read_to_string(cluster.folder.join(replica).join("log")).unwrap();
        let lines = log.lines().filter(|line| line.contains(part));
        let times = lines.map(|line| {
            let at: jiff::Timestamp = line.split_whitespace().next().unwrap().parse().unwrap();
            u64::try_from(at.as_microsecond()).unwrap()
        });
        times.collect::<Vec<_>>()
    });
    times.filter(|at| *at >= after).min()
}

#[test]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some milliseconds")]
fn the_stamps_of_a_failover_are_those_of_the_replicas_logs() {
    /// How far apart they may be, in microseconds.
    const NEAR_US: u64 = 20_000;
    let cluster = Cluster::start(&[]);
    let (code, out, err) =
        said(&cluster.run(&["demo", "failover", "--headless", "--yes", "-o", "json"]));
    assert_eq!(code, 0, "{out}{err}");
    let figures: serde_json::Value = serde_json::from_str(&out).unwrap();
    let killed = figures["killed_us"].as_u64().unwrap();
    let stamp = |name: &str| killed + (figures[name].as_f64().unwrap() * 1000.0) as u64;
    let (noticed, elected) = (stamp("noticed_ms"), stamp("elected_ms"));
    let before = figures["leader_before"].as_str().unwrap();
    let survivors: Vec<_> = cluster.names().into_iter().filter(|name| name != before).collect();
    // The kill is the console's own stamp; the others come from the survivors, and the first to
    // lead may be followed at once by another one with a ballot of the same number.
    let lost = format!("link lost peer=\"{before}\"");
    let first = logged(&cluster, &survivors, &lost, killed).unwrap();
    let leads = logged(&cluster, &survivors, " leads ballot", killed).unwrap();
    println!("noticed {noticed}, logged {first}; elected {elected}, logged {leads}");
    assert!(first.abs_diff(noticed) < NEAR_US && leads.abs_diff(elected) < NEAR_US, "{out}");
    assert!(killed <= noticed && noticed <= elected, "{out}");
}

/// The proof that the readme promises, on a cluster of the demo's own.
#[test]
fn the_demo_of_a_failover_is_a_proof() {
    let nowhere = tempfile::tempdir().unwrap();
    let mut command = kvorum();
    command.env("XDG_STATE_HOME", nowhere.path());
    command.args(["demo", "failover", "--headless", "-o", "json"]);
    let (code, out, err) = said(&command.output().unwrap());
    assert_eq!(code, 0, "{out}{err}");
    let figures: serde_json::Value = serde_json::from_str(&out).unwrap();
    println!("{figures}");
    assert!(figures["acknowledged"].as_u64().unwrap() > 0);
    assert_eq!((&figures["lost"], &figures["doubled"]), (&0.into(), &0.into()));
    assert!(figures["gap_ms"].as_f64().unwrap() > 0.0);
    assert_ne!(figures["leader_before"], figures["leader_after"]);
}

/// Commands from a file: each waits for the cluster and for the one before it.
#[test]
fn lines_are_done_one_after_the_other() {
    let cluster = Cluster::start(&[]);
    let mut command = kvorum();
    command.arg("--local").arg(&cluster.folder).arg("--plain");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = "put a 1\nget a\nput a 2\nput a b c d\nget a\ndelete a\ny\nget a\n";
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), lines.as_bytes()).unwrap();
    let (code, out, err) = said(&child.wait_with_output().unwrap());
    assert_eq!(code, 1, "one of them was no command: {out}{err}");
    let wanted = [
        "put a at revision",
        "get a = 1",
        "put a at revision",
        "'d' is one word too many",
        "get a = 2",
        "Delete a?",
        "delete a at revision",
        "get a: there is no such key",
    ];
    let mut rest = out.lines();
    for part in wanted {
        assert!(rest.any(|line| line.contains(part)), "{part} in its place in\n{out}{err}");
    }
}
