//! The real program in a real pseudo-terminal, on a real local cluster.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "harness/terminal.rs"]
mod harness;

use harness::{END, Terminal, is_alive, kvorum, replicas, wait_until_gone};
use rustix::process::{Signal, kill_process};

#[test]
fn put_get_delete_and_a_killed_leader_by_keys() {
    let folder = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::local(folder.path());
    let first = terminal.wait_for("kvorum");
    println!("first frame after {first:?}, {:?} from the start", terminal.began.elapsed());
    terminal.wait_for("3/3 ready");
    terminal.press(":put color blue\r");
    terminal.wait_for("put color at revision");
    terminal.press(":get color 8002\r");
    terminal.wait_for("get color at n2 = blue");
    terminal.press(":delete color\r");
    terminal.wait_for("Delete color?");
    terminal.press("y");
    terminal.wait_for("delete color at revision");
    terminal.press("u");
    terminal.wait_for("Put color?");
    terminal.press("y");
    terminal.wait_for("undo of delete color");
    terminal.press("x");
    terminal.wait_for("quorum KEPT");
    terminal.press("y");
    terminal.wait_for("by SIGKILL");
    terminal.wait_for("3/3 ready");
    terminal.press(":put a b c\r");
    terminal.wait_for("'c' is not a node");
    terminal.press("\u{3}\u{3}");
    terminal.press("q");
    let (took, _) = terminal.wait_for_end();
    assert!(took < END, "{took:?}");
    assert!(terminal.is_restored());
}

#[test]
fn whatever_ends_it_the_terminal_is_as_it_was_and_no_process_is_left() {
    type End = fn(&mut Terminal);
    let ends: [(&str, End); 4] = [
        ("q", |terminal| terminal.press("q")),
        ("Ctrl-C", |terminal| terminal.press("\u{3}")),
        ("SIGTERM", |terminal| kill_process(terminal.process(), Signal::TERM).unwrap()),
        ("SIGHUP", |terminal| kill_process(terminal.process(), Signal::HUP).unwrap()),
    ];
    for (name, end) in ends {
        let folder = tempfile::tempdir().unwrap();
        let mut terminal = Terminal::local(folder.path());
        terminal.wait_for("3/3 ready");
        let children = replicas(folder.path());
        assert_eq!(children.len(), 3, "{name}");
        end(&mut terminal);
        let (took, _) = terminal.wait_for_end();
        println!("{name}: ended after {took:?}");
        wait_until_gone(&children, name);
        assert!(took < END, "{name}: {took:?}");
        assert!(terminal.is_restored() && terminal.has_plain_line(), "{name}");
    }
}

#[test]
fn without_a_cluster_there_is_a_screen_that_helps() {
    let nowhere = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::start(kvorum(&["--local", nowhere.path().to_str().unwrap()]));
    terminal.wait_for("holds no local cluster");
    terminal.wait_for("start a cluster of three replicas");
    terminal.press("q");
    terminal.wait_for_end();
    assert!(terminal.is_restored());
}

/// A terminal that is gone without a signal: the program has no controlling terminal.
#[test]
fn the_end_of_input_is_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let mut command = kvorum(&["local", "--disk-reserve=1MiB", "--data", data]);
    command.set_controlling_tty(false);
    let mut terminal = Terminal::start(command);
    terminal.wait_for("3/3 ready");
    let children = replicas(folder.path());
    terminal.hang_up("2");
    let (took, status) = terminal.wait_for_end();
    println!("end of input: ended after {took:?}");
    assert!(took < END && status == 0, "{took:?} {status}");
    assert!(!children.iter().any(|child| is_alive(*child)), "no replica is left");
}
