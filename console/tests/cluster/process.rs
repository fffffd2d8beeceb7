//! Tests of the program as a process: ignored signals, limits, paths that are not text.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvorum_harness::cluster::{Cluster, kvorum, kvorum_after, said, wait_for};
use rustix::process::{Pid, Signal, kill_process};

/// The time during which nothing may happen.
const QUIET: Duration = Duration::from_secs(1);

/// A signal ignored by the parent stays ignored, as `nohup` and shells require.
#[test]
fn a_signal_that_is_ignored_stays_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = kvorum_after("trap '' HUP INT");
    command.args(["local", "--no-console", "--disk-reserve=1MiB", "--replicas=1", "--data"]);
    let mut running = command.arg(folder.path()).stdout(Stdio::piped()).spawn().unwrap();
    let out = BufReader::new(running.stdout.take().unwrap());
    assert!(out.lines().map_while(Result::ok).any(|line| line.contains("serve")));
    let process = Pid::from_raw(i32::try_from(running.id()).unwrap()).unwrap();
    for signal in [Signal::HUP, Signal::INT] {
        kill_process(process, signal).unwrap();
    }
    std::thread::sleep(QUIET);
    assert!(running.try_wait().unwrap().is_none(), "it goes on");
    let put = kvorum().arg("--local").arg(folder.path()).args(["put", "a", "1"]).output();
    assert_eq!(said(&put.unwrap()).0, 0);
    kill_process(process, Signal::TERM).unwrap();
    assert!(running.wait().unwrap().success());
}

/// A replica that is no longer desired waits for the others, unless they are to end too.
#[test]
fn what_leaves_ends_with_all() {
    let cluster = Cluster::start(&["--replicas=3"]);
    let held = ["kvorum-0", "kvorum-1"].map(|name| cluster.process(name).unwrap());
    for process in held {
        kill_process(process, Signal::STOP).unwrap();
    }
    let log = cluster.folder.join("kvorum-2/log");
    let says = |what: &str| fs::read_to_string(&log).unwrap().contains(what);
    kvorum::local::scale(&cluster.folder, 1).unwrap();
    wait_for("it waits for the others", || says("ends when the cluster does without it"));
    kill_process(cluster.supervisor(), Signal::TERM).unwrap();
    wait_for("it ends", || says("told again: ends now"));
    for process in held {
        kill_process(process, Signal::CONT).unwrap();
    }
}

/// A replica that was told to end long after it ceased to be a member ends at once.
#[test]
fn what_has_left_ends_when_it_is_told_late() {
    let cluster = Cluster::start(&["--replicas=3"]);
    let replica = cluster.process("kvorum-2").unwrap();
    // It tells the replica that is not wanted any more to end.
    kill_process(cluster.supervisor(), Signal::STOP).unwrap();
    kvorum::local::scale(&cluster.folder, 2).unwrap();
    let is_out = || said(&cluster.run(&["status"])).1.contains("retired");
    wait_for("it is no member any more", is_out);
    std::thread::sleep(QUIET);
    kill_process(replica, Signal::TERM).unwrap();
    wait_for("it ends", || cluster.process("kvorum-2").is_none());
    kill_process(cluster.supervisor(), Signal::CONT).unwrap();
}

#[test]
fn a_path_need_not_be_text() {
    let around = tempfile::tempdir().unwrap();
    for name in [&b"bad\xff dir"[..], "my data ü".as_bytes(), b"it's"] {
        let folder = around.path().join(OsStr::from_bytes(name));
        let cluster = Cluster::start_in(&folder, &["--replicas=1"]);
        assert_eq!(said(&cluster.run(&["put", "a", "1"])).0, 0);
        let backup = folder.join("backup");
        let mut command = kvorum();
        command.arg("--local").arg(&folder).arg("backup").arg(&backup);
        let (status, out, err) = said(&command.output().unwrap());
        assert!(status == 0 && backup.exists(), "{out}{err}");
        drop(cluster);
        let restored = folder.join("new");
        let made = kvorum().arg("restore").arg(&backup).arg("--data").arg(&restored).output();
        let (status, out, err) = said(&made.unwrap());
        assert_eq!(status, 0, "{out}{err}");
        assert_eq!(fs::read_dir(around.path()).unwrap().count(), 1, "one folder");
        fs::remove_dir_all(&folder).unwrap();
    }
}

/// A replica that cannot be started is reported once, and the cluster continues to serve.
#[test]
fn the_same_trouble_is_said_once() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("cluster");
    let mut command = kvorum();
    command.args(["local", "--no-console", "--disk-reserve=1MiB", "--replicas=1", "--data"]);
    command.arg(&folder).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().unwrap();
    let out = BufReader::new(running.stdout.take().unwrap());
    assert!(out.lines().map_while(Result::ok).any(|line| line.contains("serve")));
    let notes = Arc::new(Mutex::new(Vec::new()));
    let (read, noted) = (BufReader::new(running.stderr.take().unwrap()), Arc::clone(&notes));
    std::thread::spawn(move || {
        read.lines().map_while(Result::ok).for_each(|line| noted.lock().unwrap().push(line));
    });
    fs::write(folder.join("kvorum-1"), "a file").unwrap();
    let set = folder.join("statefulset.json");
    let text = fs::read_to_string(&set).unwrap().replace("\"replicas\": 1", "\"replicas\": 2");
    fs::write(&set, text).unwrap();
    let said_of_it = || {
        let notes = notes.lock().unwrap();
        notes.iter().filter(|line| line.contains("cannot be started")).cloned().collect::<Vec<_>>()
    };
    wait_for("it is said", || !said_of_it().is_empty());
    std::thread::sleep(QUIET);
    let lines = said_of_it();
    assert!(lines.len() == 1 && lines[0].contains("cluster/kvorum-1: "), "{lines:?}");
    fs::remove_file(folder.join("kvorum-1")).unwrap();
    wait_for("it is started", || folder.join("kvorum-1").join("log").exists());
    kill_process(Pid::from_raw(i32::try_from(running.id()).unwrap()).unwrap(), Signal::TERM)
        .unwrap();
    running.wait().unwrap();
}

/// `ulimit -f`: an error message, and nothing is left behind.
#[test]
fn a_file_that_may_not_grow_is_an_error() {
    let cluster = Cluster::start(&["--replicas=1"]);
    let value = "v".repeat(100_000);
    for key in ["a", "b", "c"] {
        assert_eq!(said(&cluster.run(&["put", key, &value])).0, 0);
    }
    let around = tempfile::tempdir().unwrap();
    let file = around.path().join("backup");
    let mut command = kvorum_after("ulimit -f 20");
    command.arg("--local").arg(&cluster.folder).arg("backup").arg(&file);
    let (status, out, err) = said(&command.output().unwrap());
    assert!(status == 1 && err.contains("File too large"), "{status} {out}{err}");
    assert_eq!(fs::read_dir(around.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn variables_that_are_set_to_nothing_are_not_set() {
    let cluster = Cluster::start(&["--replicas=1"]);
    let mut command = kvorum();
    for name in ["KVORUM_TIMEOUT", "KVORUM_THEME", "KVORUM_ENDPOINTS", "KVORUM_READONLY"] {
        command.env(name, "");
    }
    let output = command.arg("--local").arg(&cluster.folder).args(["put", "a", "1"]).output();
    let (status, out, err) = said(&output.unwrap());
    assert_eq!(status, 0, "{out}{err}");
}

/// The lines of a batch, and its exit status.
#[test]
fn a_batch_with_errors_says_so_at_its_end() {
    let cluster = Cluster::start(&["--replicas=1"]);
    for (lines, expected) in [("put a 1\nget a\n", 0), ("put a 2\nfrob\nput a b c\nget a\n", 1)] {
        let (status, out, err) = plain(&cluster, lines);
        assert_eq!(status, expected, "{out}{err}");
        assert_eq!(err.contains("2 of the lines were not done"), expected == 1, "{err}");
    }
    assert_eq!(said(&cluster.run(&["get", "a"])).1, "2", "the lines that could be done were");
}

/// Runs lines in a console without a screen; returns its status and what it printed.
fn plain(cluster: &Cluster, lines: &str) -> (i32, String, String) {
    let mut command = kvorum();
    command.arg("--local").arg(&cluster.folder).arg("--plain");
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().unwrap();
    running.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    said(&running.wait_with_output().unwrap())
}

/// The first line comes before any replica was seen.
#[test]
fn the_first_line_is_judged_by_what_is_there() {
    let cluster = Cluster::start(&[]);
    for line in ["kill n1", "scale 4", "kill n3", "scale 2", "kill n2"] {
        let (status, out, err) = plain(&cluster, &format!("{line}\nn\n"));
        assert_eq!(status, 0, "a no is an answer: {out}{err}");
        assert!(out.contains("quorum KEPT"), "{line}: {out}{err}");
    }
    let began = said(&cluster.run(&["status"])).1;
    assert_eq!(began.matches(" yes ").count(), 3, "nothing was killed: {began}");
}

#[test]
fn a_question_takes_no_line_that_is_no_answer() {
    let cluster = Cluster::start(&["--replicas=1"]);
    let (status, out, err) = plain(&cluster, "put x 1\ndelete x\nput other 2\nget other\n");
    assert_eq!(status, 1, "the question was not answered: {out}{err}");
    assert!(out.contains("get other = 2"), "{out}{err}");
    assert_eq!(said(&cluster.run(&["get", "x"])).1, "1");
    let (status, out, err) = plain(&cluster, "delete x\n");
    assert_eq!(status, 1, "the input ended before the answer: {out}{err}");
    assert!(out.contains("the question was not answered"), "{out}{err}");
    assert_eq!(said(&cluster.run(&["get", "x"])).1, "1");
    let (status, out, err) = plain(&cluster, "delete x\ny\n");
    assert_eq!((status, said(&cluster.run(&["get", "x"])).0), (0, 3), "{out}{err}");
}

#[test]
fn a_refused_line_is_shown_in_its_beginning() {
    let cluster = Cluster::start(&["--replicas=1"]);
    let (status, out, err) = plain(&cluster, &format!("put long {}\n", "a".repeat(900_000)));
    assert_eq!(status, 1, "{err}");
    assert!(out.len() < 2_000 && out.contains("put long aaa"), "{} bytes", out.len());
}
