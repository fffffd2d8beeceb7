//! A program in a pseudo-terminal, and the terminal's screen.

use std::io::{Read, Write};
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use rustix::process::Pid;

use crate::{PATIENCE, SETTINGS, program};

/// The height of the terminal.
const ROWS: NonZero<u16> = NonZero::new(24).unwrap();
/// The width of the terminal.
const COLUMNS: NonZero<u16> = NonZero::new(80).unwrap();
/// How long the program may take to end.
pub const END: Duration = Duration::from_secs(2);
/// How long a simulated user looks at a question before answering it.
pub const LOOKS: Duration = Duration::from_millis(400);
/// Time between two keys.
const BETWEEN_KEYS: Duration = Duration::from_millis(20);
/// The beginning of each frame: a synchronized update (DEC mode 2026).
const FRAME: &[u8] = b"\x1b[?2026h";

/// A program in a terminal, and the terminal's screen.
pub struct Terminal {
    child: Box<dyn Child + Send + Sync>,
    /// Closing it hangs up.
    master: Option<Box<dyn MasterPty + Send>>,
    keys: Option<Box<dyn Write + Send>>,
    shown: Arc<(Mutex<Shown>, Condvar)>,
    is_hanging_up: Arc<AtomicBool>,
    /// When the program was started.
    pub began: Instant,
}

struct Shown {
    parser: vt100::Parser,
    frames: u64,
    /// The last bytes, for a frame's beginning that arrives in two parts.
    tail: Vec<u8>,
    is_over: bool,
}

impl Shown {
    fn take(&mut self, bytes: &[u8]) {
        self.parser.process(bytes);
        self.tail.extend_from_slice(bytes);
        self.frames += self.tail.windows(FRAME.len()).filter(|part| *part == FRAME).count() as u64;
        let kept = self.tail.len().min(FRAME.len() - 1);
        self.tail.drain(..self.tail.len() - kept);
    }
}

/// Returns a command for the program under test, without this machine's settings.
pub fn kvorum(words: &[&str]) -> CommandBuilder {
    let mut command = CommandBuilder::new(program());
    command.args(words);
    for name in SETTINGS.into_iter().chain(["NO_COLOR", "LC_ALL", "LC_CTYPE", "LANG"]) {
        command.env_remove(name);
    }
    command.env("TERM", "xterm-256color");
    command
}

/// Returns a command that starts this program again, with its role in the environment.
pub fn this_program(words: &[&str], role: (&str, &str)) -> CommandBuilder {
    let mut command = CommandBuilder::new(std::env::current_exe().unwrap());
    command.args(words);
    command.env(role.0, role.1);
    command.env("TERM", "xterm-256color");
    command.env_remove("NO_COLOR");
    command
}

impl Terminal {
    /// Starts a program in a new terminal.
    pub fn start(command: CommandBuilder) -> Self {
        let size =
            PtySize { rows: ROWS.get(), cols: COLUMNS.get(), pixel_width: 0, pixel_height: 0 };
        let pty = native_pty_system().openpty(size).unwrap();
        let began = Instant::now();
        let child = pty.slave.spawn_command(command).unwrap();
        drop(pty.slave);
        let shown = Shown {
            parser: vt100::Parser::new(ROWS, COLUMNS, 0),
            frames: 0,
            tail: Vec::new(),
            is_over: false,
        };
        let shown = Arc::new((Mutex::new(shown), Condvar::new()));
        let is_hanging_up = Arc::new(AtomicBool::new(false));
        let mut output = pty.master.try_clone_reader().unwrap();
        let (filled, ends) = (Arc::clone(&shown), Arc::clone(&is_hanging_up));
        std::thread::spawn(move || {
            let mut bytes = [0; 16 << 10];
            while !ends.load(Ordering::SeqCst) {
                let Ok(count @ 1..) = output.read(&mut bytes) else { break };
                filled.0.lock().unwrap().take(&bytes[..count]);
                filled.1.notify_all();
            }
            // The reader holds the terminal open, so it is dropped before the end is signalled.
            drop(output);
            filled.0.lock().unwrap().is_over = true;
            filled.1.notify_all();
        });
        let keys = Some(pty.master.take_writer().unwrap());
        Self { child, master: Some(pty.master), keys, shown, is_hanging_up, began }
    }

    /// Starts a local cluster in a folder, with its console.
    pub fn local(folder: &Path) -> Self {
        Self::start(kvorum(&["local", "--disk-reserve=1MiB", "--data", folder.to_str().unwrap()]))
    }

    /// Returns the text on the screen.
    pub fn text(&self) -> String {
        self.shown.0.lock().unwrap().parser.screen().contents()
    }

    /// Returns the number of frames so far.
    pub fn frames(&self) -> u64 {
        self.shown.0.lock().unwrap().frames
    }

    /// Presses keys one by one, like a user who watches the effect of each.
    pub fn press(&mut self, keys: &str) {
        for key in keys.chars() {
            if matches!(key, 'y' | '\r') {
                std::thread::sleep(LOOKS);
            }
            self.paste(&key.to_string());
            std::thread::sleep(if key == ':' { LOOKS } else { BETWEEN_KEYS });
        }
    }

    /// Sends text all at once, like a terminal without bracketed paste.
    pub fn paste(&mut self, text: &str) {
        let writer = self.keys.as_mut().unwrap();
        writer.write_all(text.as_bytes()).unwrap();
        writer.flush().unwrap();
    }

    /// Waits until the screen contains a text; returns how long that took.
    pub fn wait_for(&self, part: &str) -> Duration {
        self.wait_until(part, |text| text.contains(part))
    }

    /// Waits until the screen is as the test wants it; returns how long that took.
    pub fn wait_until(&self, what: &str, is: impl Fn(&str) -> bool) -> Duration {
        let began = Instant::now();
        let mut shown = self.shown.0.lock().unwrap();
        loop {
            let text = shown.parser.screen().contents();
            if is(&text) {
                return began.elapsed();
            }
            let left = PATIENCE.saturating_sub(began.elapsed());
            assert!(!left.is_zero() && !shown.is_over, "the screen says {what}\n{text}");
            shown = self.shown.1.wait_timeout(shown, left).unwrap().0;
        }
    }

    /// Closes the terminal's other end. This test's reader holds it open until the program writes
    /// once more: `keys` make it write.
    pub fn hang_up(&mut self, keys: &str) {
        self.is_hanging_up.store(true, Ordering::SeqCst);
        self.press(keys);
        let began = Instant::now();
        let mut shown = self.shown.0.lock().unwrap();
        while !shown.is_over {
            assert!(began.elapsed() < PATIENCE, "the program answers a key");
            shown = self.shown.1.wait_timeout(shown, PATIENCE).unwrap().0;
        }
        drop(shown);
        self.keys = None;
        self.master = None;
    }

    /// Returns the process in the terminal.
    pub fn process(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.process_id().unwrap()).unwrap()).unwrap()
    }

    /// Waits for the end of the program; returns how long it took, and the exit status.
    pub fn wait_for_end(&mut self) -> (Duration, u32) {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (began.elapsed(), status.exit_code());
            }
            assert!(began.elapsed() < PATIENCE, "it ends\n{}", self.text());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until all output of the program has arrived.
    pub fn wait_for_all(&self) {
        let shown = self.shown.0.lock().unwrap();
        let waited = self.shown.1.wait_timeout_while(shown, PATIENCE, |shown| !shown.is_over);
        assert!(!waited.unwrap().1.timed_out(), "the terminal is closed by the program's end");
    }

    /// Whether the program has left no terminal mode behind.
    pub fn is_restored(&self) -> bool {
        self.wait_for_all();
        let shown = self.shown.0.lock().unwrap();
        let screen = shown.parser.screen();
        !screen.alternate_screen() && !screen.hide_cursor() && !screen.bracketed_paste()
    }

    /// Whether the line discipline is as a shell needs it: lines, echo, signals.
    pub fn has_plain_line(&self) -> bool {
        // The flags are compared by name: their type belongs to a crate that the tests do not use.
        let modes = self.master.as_ref().unwrap().get_termios().unwrap();
        let modes = format!("{:?}", modes.local_flags);
        ["ICANON", "ECHO", "ISIG"].iter().all(|name| modes.contains(name))
    }
}

/// Returns the processes of a local cluster of three.
pub fn replicas(folder: &Path) -> Vec<Pid> {
    let names = ["kvorum-0", "kvorum-1", "kvorum-2"];
    names.iter().filter_map(|n| kvorum::local::folder::process_of(&folder.join(n))).collect()
}

/// Whether a process is still running.
pub fn is_alive(process: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// Waits until none of the processes is running; `END` is how long that may take.
pub fn wait_until_gone(processes: &[Pid], what: &str) {
    let began = Instant::now();
    while processes.iter().any(|process| is_alive(*process)) {
        assert!(began.elapsed() < END, "{what}: no replica is left");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
