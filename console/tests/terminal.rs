//! The real program in a real pseudo-terminal, on a real local cluster.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::num::NonZero;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use rustix::process::{Pid, Signal, kill_process};

/// The size of the terminal.
const ROWS: NonZero<u16> = NonZero::new(24).unwrap();
/// As above.
const COLUMNS: NonZero<u16> = NonZero::new(80).unwrap();
/// How long anything may take that a test waits for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long an end may take.
const END: Duration = Duration::from_secs(2);

/// A program in a terminal, and what the terminal shows.
struct Terminal {
    child: Box<dyn Child + Send + Sync>,
    /// Closing it would hang up.
    _master: Box<dyn MasterPty + Send>,
    keys: Box<dyn Write + Send>,
    parser: Arc<Mutex<vt100::Parser>>,
    began: Instant,
}

impl Terminal {
    fn start(words: &[&str]) -> Self {
        let size =
            PtySize { rows: ROWS.get(), cols: COLUMNS.get(), pixel_width: 0, pixel_height: 0 };
        let pty = native_pty_system().openpty(size).unwrap();
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_kvorum"));
        command.args(words);
        for name in ["KVORUM_ENDPOINTS", "KVORUM_LOCAL", "KVORUM_READONLY", "NO_COLOR"] {
            command.env_remove(name);
        }
        let began = Instant::now();
        let child = pty.slave.spawn_command(command).unwrap();
        drop(pty.slave);
        let parser = Arc::new(Mutex::new(vt100::Parser::new(ROWS, COLUMNS, 0)));
        let mut output = pty.master.try_clone_reader().unwrap();
        let shown = Arc::clone(&parser);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                shown.lock().unwrap().process(&bytes[..count]);
            }
        });
        let keys = pty.master.take_writer().unwrap();
        Self { child, _master: pty.master, keys, parser, began }
    }

    fn local(folder: &Path) -> Self {
        Self::start(&["local", "--disk-reserve=1MiB", "--data", folder.to_str().unwrap()])
    }

    fn text(&self) -> String {
        self.parser.lock().unwrap().screen().contents()
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Waits until the screen says something; how long that took.
    fn wait_for(&self, part: &str) -> Duration {
        let began = Instant::now();
        while !self.text().contains(part) {
            assert!(began.elapsed() < PATIENCE, "the screen says {part}\n{}", self.text());
            std::thread::sleep(Duration::from_millis(2));
        }
        began.elapsed()
    }

    fn process(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.process_id().unwrap()).unwrap()).unwrap()
    }

    /// Waits for the end of the program; how long it took.
    fn wait_for_end(&mut self) -> Duration {
        let began = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < PATIENCE, "it ends\n{}", self.text());
            std::thread::sleep(Duration::from_millis(2));
        }
        began.elapsed()
    }

    /// The modes that a program may leave behind.
    fn is_restored(&self) -> bool {
        let parser = self.parser.lock().unwrap();
        let screen = parser.screen();
        let is_plain = !screen.alternate_screen() && !screen.hide_cursor();
        is_plain && !screen.bracketed_paste()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_alive(process: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

fn replicas(folder: &Path) -> Vec<Pid> {
    let names = ["kvorum-0", "kvorum-1", "kvorum-2"];
    names.iter().filter_map(|n| kvorum::local::folder::process_of(&folder.join(n))).collect()
}

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
    let took = terminal.wait_for_end();
    assert!(took < END, "{took:?}");
    assert!(terminal.is_restored());
}

#[test]
fn whatever_ends_it_the_terminal_is_as_it_was_and_no_process_is_left() {
    type Cut = fn(&mut Terminal);
    let cuts: [(&str, Cut); 4] = [
        ("q", |terminal| terminal.press("q")),
        ("Ctrl-C", |terminal| terminal.press("\u{3}")),
        ("SIGTERM", |terminal| kill_process(terminal.process(), Signal::TERM).unwrap()),
        ("SIGHUP", |terminal| kill_process(terminal.process(), Signal::HUP).unwrap()),
    ];
    for (name, cut) in cuts {
        let folder = tempfile::tempdir().unwrap();
        let mut terminal = Terminal::local(folder.path());
        terminal.wait_for("3/3 ready");
        let children = replicas(folder.path());
        assert_eq!(children.len(), 3, "{name}");
        cut(&mut terminal);
        let took = terminal.wait_for_end();
        println!("{name}: ended after {took:?}");
        let began = Instant::now();
        while children.iter().any(|child| is_alive(*child)) {
            assert!(began.elapsed() < END, "{name}: no replica is left");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(took < END, "{name}: {took:?}");
        assert!(terminal.is_restored(), "{name}");
    }
}

#[test]
fn without_a_cluster_there_is_a_screen_that_helps() {
    let nowhere = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::start(&["--local", nowhere.path().to_str().unwrap()]);
    terminal.wait_for("holds no local cluster");
    terminal.wait_for("start a cluster of three replicas");
    terminal.press("q");
    terminal.wait_for_end();
    assert!(terminal.is_restored());
}
