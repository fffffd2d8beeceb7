//! The terminal: its modes, and the thread that writes to it.
//!
//! The thread owns the terminal and may block in a write; the caller hands it whole frames and
//! never waits: the latest frame wins. Each frame is one synchronized batch (DEC mode 2026).
//! Guarantees that the terminal is restored as it was, on every way out: [`Screen::leave`], a panic
//! on any thread, a signal; and that restoring it waits no longer than `PATIENCE`. A terminal that
//! viewers share is only put into raw mode, since viewers leave without notice. While the process
//! is suspended, the terminal is as it was. A frame that shows nothing new writes nothing.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use crossterm::cursor::{Hide, Show};
use crossterm::event::{DisableBracketedPaste, EnableBracketedPaste};
use crossterm::style::{Print, ResetColor};
use crossterm::terminal::{
    BeginSynchronizedUpdate, EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen,
    disable_raw_mode, enable_raw_mode,
};
use crossterm::{execute, queue};
use ratatui::backend::CrosstermBackend;
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::{Terminal, TerminalOptions, Viewport};

/// How long a way out waits for a write in progress.
const PATIENCE: Duration = Duration::from_millis(300);
/// The number of bytes of a frame that are written at once.
const BUFFER_BYTES: usize = 64 << 10;

/// The maximum columns and rows that are drawn; what is beyond stays empty. A terminal may report
/// any size, and each cell takes memory several times.
const COLUMNS_MAX: u16 = 1000;
const ROWS_MAX: u16 = 500;

/// The duration above which a write may not have reached the current viewer.
const STUCK: Duration = Duration::from_secs(5);

/// The modes that the terminal is put into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Modes {
    /// The alternate screen, no cursor, pastes in brackets.
    Own,
    /// None, for a terminal that viewers attach to and detach from: theirs would keep the modes.
    Shared,
}

/// Whether the terminal is in the console's modes.
static IS_ENTERED: AtomicBool = AtomicBool::new(false);
/// Whether those are the modes of a shared terminal.
static IS_SHARED: AtomicBool = AtomicBool::new(false);
/// Whether the terminal is given back for a while: nothing is written to it.
static IS_SUSPENDED: AtomicBool = AtomicBool::new(false);
/// Held while a frame is written, so that a way out does not write into the middle of one.
static WRITING: Mutex<()> = Mutex::new(());

/// A frame to show.
#[derive(PartialEq)]
pub struct Frame {
    /// The cells.
    pub buffer: Buffer,
    /// The position of the cursor, if it is shown.
    pub cursor: Option<Position>,
}

/// The work that waits for the thread.
#[derive(Default)]
struct Slot {
    frame: Option<Frame>,
    /// Whether everything is drawn anew with the next frame.
    anew: bool,
    /// Text for the clipboard.
    copy: Option<String>,
    is_over: bool,
}

/// The terminal.
pub struct Screen {
    slot: Arc<(Mutex<Slot>, Condvar)>,
    ended: mpsc::Receiver<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether keys can be read and a screen can be drawn.
#[must_use]
pub fn is_terminal() -> bool {
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stdin().is_terminal() && io::stdout().is_terminal() && !is_dumb
}

/// Returns the columns and rows of the terminal that are drawn; zero where they are not known.
#[must_use]
pub fn size() -> (u16, u16) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) => (size.ws_col.min(COLUMNS_MAX), size.ws_row.min(ROWS_MAX)),
        Err(_) => (0, 0),
    }
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// When it cannot be put into raw mode or written to.
    pub fn enter(modes: Modes) -> io::Result<Self> {
        // This program decides on colors itself, NO_COLOR included.
        crossterm::style::force_color_output(true);
        enable_raw_mode()?;
        IS_SHARED.store(modes == Modes::Shared, Ordering::SeqCst);
        IS_ENTERED.store(true, Ordering::SeqCst);
        if let Err(error) = set_modes(modes) {
            give_back();
            return Err(error);
        }
        let slot = Arc::new((Mutex::new(Slot::default()), Condvar::new()));
        let (end, ended) = mpsc::channel();
        let waiting = Arc::clone(&slot);
        std::thread::Builder::new().name("terminal".to_owned()).spawn(move || {
            // The loss of the terminal is noticed by the thread that reads it.
            let _ = write_frames(&waiting);
            drop(end);
        })?;
        Ok(Self { slot, ended })
    }

    fn tell(&self, with: impl FnOnce(&mut Slot)) {
        let (slot, changed) = &*self.slot;
        with(&mut lock(slot));
        changed.notify_one();
    }

    /// Shows a frame, instead of one that is not shown yet.
    pub fn show(&self, frame: Frame) {
        self.tell(|slot| slot.frame = Some(frame));
    }

    /// Draws everything anew with the next frame.
    pub fn redraw(&self) {
        self.tell(|slot| slot.anew = true);
    }

    /// Puts text into the terminal's clipboard (OSC 52).
    pub fn copy(&self, text: String) {
        self.tell(|slot| slot.copy = Some(text));
    }

    /// Gives the terminal back for a while.
    pub fn suspend(&self) {
        IS_SUSPENDED.store(true, Ordering::SeqCst);
        put_back();
    }

    /// Takes the terminal again after the process was stopped: another program may have left it in
    /// any mode. The next frame is drawn anew.
    pub fn resume(&self) {
        // The library remembers the mode that it set before, and would not set it again.
        let _ = disable_raw_mode().and_then(|()| enable_raw_mode());
        let modes = if IS_SHARED.load(Ordering::SeqCst) { Modes::Shared } else { Modes::Own };
        // The loss of the terminal is noticed by the thread that reads it.
        let _ = set_modes(modes);
        IS_SUSPENDED.store(false, Ordering::SeqCst);
        self.redraw();
    }

    /// Gives the terminal back, after its thread has ended or `PATIENCE` has passed.
    pub fn leave(self) {
        self.tell(|slot| slot.is_over = true);
        let _ = self.ended.recv_timeout(PATIENCE);
        give_back();
    }
}

/// Writes frames until the screen is left.
fn write_frames(slot: &(Mutex<Slot>, Condvar)) -> io::Result<()> {
    let out = BufWriter::with_capacity(BUFFER_BYTES, io::stdout());
    // Never dropped: that would show the cursor once more, and panic unseen.
    let mut terminal: Option<ManuallyDrop<Terminal<CrosstermBackend<BufWriter<Stdout>>>>> = None;
    let mut out = Some(out);
    let mut last: Option<Frame> = None;
    let mut was_stuck = false;
    loop {
        let (frame, anew, copy) = {
            let mut waiting = lock(&slot.0);
            while waiting.frame.is_none() && waiting.copy.is_none() && !waiting.is_over {
                waiting = slot.1.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            if waiting.is_over {
                return Ok(());
            }
            let anew = std::mem::take(&mut waiting.anew) || was_stuck;
            (waiting.frame.take(), anew, waiting.copy.take())
        };
        let _writing = lock(&WRITING);
        // The terminal may have been given back meanwhile: no frame may be written to it then.
        if !IS_ENTERED.load(Ordering::SeqCst) {
            return Ok(());
        }
        if let Some(text) = copy {
            let clipboard = crossterm::clipboard::CopyToClipboard::to_clipboard_from(text);
            execute!(io::stdout(), clipboard)?;
        }
        let Some(frame) = frame else { continue };
        if IS_SUSPENDED.load(Ordering::SeqCst) {
            continue;
        }
        if !anew && last.as_ref() == Some(&frame) {
            continue;
        }
        if terminal.is_none() {
            let viewport = Viewport::Fixed(frame.buffer.area);
            let backend = CrosstermBackend::new(out.take().expect("it is taken once"));
            let made = Terminal::with_options(backend, TerminalOptions { viewport })?;
            terminal = Some(ManuallyDrop::new(made));
        }
        let terminal = terminal.as_mut().expect("it was just made");
        let began = Instant::now();
        write_frame(terminal, &frame, anew)?;
        was_stuck = began.elapsed() > STUCK;
        last = Some(frame);
    }
}

fn write_frame<W: Write>(
    terminal: &mut Terminal<CrosstermBackend<W>>,
    frame: &Frame,
    anew: bool,
) -> io::Result<()> {
    queue!(terminal.backend_mut(), BeginSynchronizedUpdate)?;
    let area: Rect = frame.buffer.area;
    if anew || terminal.get_frame().area() != area {
        // This clears and forgets; `clear` would ask the terminal for its cursor and wait.
        terminal.resize(area)?;
    }
    terminal.draw(|drawn| {
        drawn.buffer_mut().content.clone_from_slice(&frame.buffer.content);
        if let Some(cursor) = frame.cursor {
            drawn.set_cursor_position(cursor);
        }
    })?;
    execute!(terminal.backend_mut(), EndSynchronizedUpdate)?;
    Ok(())
}

/// Gives the terminal back, from any thread; once.
pub fn give_back() {
    if IS_ENTERED.swap(false, Ordering::SeqCst) {
        put_back();
    }
}

fn set_modes(modes: Modes) -> io::Result<()> {
    match modes {
        Modes::Own => execute!(io::stdout(), EnterAlternateScreen, EnableBracketedPaste, Hide),
        Modes::Shared => Ok(()),
    }
}

/// Restores the modes that the terminal was in.
fn put_back() {
    // A write in progress ends first, unless the terminal does not accept it.
    let began = Instant::now();
    let mut writing = WRITING.try_lock();
    while writing.is_err() && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(5));
        writing = WRITING.try_lock();
    }
    // The line mode first: that needs no reader.
    let _ = disable_raw_mode();
    let is_shared = IS_SHARED.load(Ordering::SeqCst);
    let restore = move || {
        if is_shared {
            return execute!(io::stdout(), EndSynchronizedUpdate, ResetColor, Print("\r\n"));
        }
        execute!(
            io::stdout(),
            EndSynchronizedUpdate,
            DisableBracketedPaste,
            ResetColor,
            Show,
            LeaveAlternateScreen
        )
    };
    match writing {
        Ok(_held) => {
            let _ = restore();
        }
        // The terminal is not being read: a separate thread may wait for that.
        Err(_) => {
            let restored = std::thread::spawn(restore);
            std::thread::sleep(Duration::from_millis(50));
            drop(restored);
        }
    }
}
