//! Tests of the real program in a real pseudo-terminal, on a real local cluster.

use kvorum_harness::terminal::{END, LOOKS, Terminal, is_alive, kvorum, replicas, wait_until_gone};
use portable_pty::CommandBuilder;
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

/// A terminal without bracketed paste, with a console of its own and with a shared one.
#[test]
fn pasted_text_does_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut own = Terminal::local(folder.path());
    own.wait_for("3/3 ready");
    own.press(":put a 1\r");
    own.wait_for("put a at revision");
    let data = folder.path().to_str().unwrap();
    let mut shared = Terminal::start(kvorum(&["--attach", "--local", data]));
    shared.wait_for("3/3 ready");
    let before = replicas(folder.path());
    for terminal in [&mut own, &mut shared] {
        for pane in ["1", "3"] {
            terminal.press(pane);
            for text in ["expiry date\ry\r", "delete my key please", "xy", "dy", "x\ry\r"] {
                terminal.paste(text);
                std::thread::sleep(LOOKS);
                terminal.press("\u{1b}");
            }
        }
        terminal.press("1x");
        terminal.wait_for("quorum KEPT");
        std::thread::sleep(LOOKS);
        terminal.paste("the key");
        std::thread::sleep(LOOKS);
        terminal.wait_for("quorum KEPT");
        terminal.press("\u{1b}:");
        terminal.paste("put pasted text\ry\r");
        terminal.wait_for(":put pasted text y");
        terminal.press("\u{1b}");
    }
    own.press(":get a 8002\r");
    own.wait_for("get a at n2 = 1");
    assert_eq!(replicas(folder.path()), before, "no replica was killed");
}

/// By the key and by the signal, below a shell with job control.
#[test]
fn it_stops_for_a_while_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let mut shell = CommandBuilder::new("bash");
    shell.args(["--norc", "--noprofile", "-i"]);
    shell.env("PS1", "shell> ");
    let mut terminal = Terminal::start(shell);
    terminal.wait_for("shell>");
    let program = env!("CARGO_BIN_EXE_kvorum");
    terminal.paste(&format!("{program} local --disk-reserve=1MiB --data {data}\r"));
    terminal.wait_for("3/3 ready");
    let before = replicas(folder.path());
    for (number, stop) in ["the key", "the signal"].into_iter().enumerate() {
        match number {
            0 => terminal.press("\u{1a}"),
            _ => {
                let process = kvorum::local::folder::process_of(folder.path()).unwrap();
                kill_process(process, Signal::TSTP).unwrap();
            }
        }
        terminal.wait_for("Stopped");
        terminal.paste(&format!("clear; echo $((41 + {number}))\r"));
        terminal.wait_for(&format!("{}", 41 + number));
        terminal.paste("fg\r");
        terminal.wait_for("3/3 ready");
        terminal.press(&format!(":put key{number} 1\r"));
        terminal.wait_for(&format!("put key{number} at revision"));
        assert_eq!(replicas(folder.path()), before, "{stop}: the replicas went on");
    }
    terminal.press("q");
    // The console reads keys until it has ended.
    wait_until_gone(&before, "the replicas end");
    while kvorum::local::folder::process_of(folder.path()).is_some() {
        std::thread::sleep(LOOKS);
    }
    std::thread::sleep(LOOKS);
    terminal.paste("exit\r");
    terminal.wait_for_end();
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

/// The terminal disappears without a signal: the program has no controlling terminal.
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
