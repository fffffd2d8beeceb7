//! The console without a terminal, on a cluster in memory.

use std::sync::Arc;
use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use kvorum::app::dialog::READING;
use kvorum::app::{App, Settings};
use kvorum::backend::Backend;
use kvorum::message::{Call, CallId, Effect, Event, Now};
use kvorum::sink::Sink;
use kvorum::update::update;
use kvorum::view;
use kvorum_harness::memory::Memory;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use tokio::sync::mpsc;

/// The time of the beginning, in microseconds since 1970.
const BEGAN_US: u64 = 1_700_000_000_000_000;

/// A console on a cluster in memory, driven by hand: the test advances the time.
pub struct Console {
    pub app: App,
    pub backend: Arc<Memory>,
    events: mpsc::Receiver<Event>,
    pub now: Now,
    /// Calls that the console made, in order.
    pub called: Vec<Call>,
    answers: Vec<(CallId, Call)>,
}

impl Console {
    pub async fn start(settings: Settings, replicas: usize) -> Self {
        let backend = Memory::starting_at(BEGAN_US, replicas, 40);
        let (sender, events) = mpsc::channel(4096);
        let watch = Arc::clone(&backend).watch(Sink::new(sender));
        tokio::spawn(watch);
        let mut console = Self {
            app: App::new(settings),
            now: Now { monotonic: Duration::from_secs(1), wall_us: BEGAN_US },
            called: Vec::new(),
            answers: Vec::new(),
            backend,
            events,
        };
        console.feed(Event::Attached(console.backend.place()));
        console.feed(Event::Resize { width: 160, height: 45 });
        console.settle().await;
        console
    }

    pub fn feed(&mut self, event: Event) {
        for effect in update(&mut self.app, self.now, event) {
            if let Effect::Call { id, call } = effect {
                self.called.push(call.clone());
                self.answers.push((id, call));
            }
        }
    }

    /// Lets the cluster reply, and takes in its events.
    pub async fn settle(&mut self) {
        for _ in 0..8 {
            tokio::task::yield_now().await;
            while let Ok(event) = self.events.try_recv() {
                self.feed(event);
            }
            for (call, asked) in std::mem::take(&mut self.answers) {
                let result = Arc::clone(&self.backend).call(asked).await;
                self.feed(Event::Answered { call, result });
            }
        }
    }

    pub async fn wait(&mut self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        self.now.monotonic += Duration::from_millis(ms);
        self.now.wall_us += ms * 1000;
        self.feed(Event::Tick);
        self.settle().await;
    }

    /// Presses keys one by one; takes the time to read a question before its answer.
    pub async fn press(&mut self, keys: &str) {
        for key in keys.chars() {
            if matches!(key, 'y' | '\n') {
                self.now.monotonic += READING;
            }
            let code = code(key);
            self.feed(Event::Key(KeyEvent::new(code, KeyModifiers::NONE)));
            if code == KeyCode::Enter {
                self.settle().await;
            }
        }
        self.settle().await;
    }

    /// Sends keys all at once, as the terminal's reader delivers them.
    pub fn burst(&mut self, keys: &[char]) {
        let key = |key: &char| KeyEvent::new(code(*key), KeyModifiers::NONE);
        let event = match keys {
            [alone] => Event::Key(key(alone)),
            keys => Event::Burst(keys.iter().map(key).collect()),
        };
        self.feed(event);
    }

    pub fn draw(&self, width: u16, height: u16) -> Buffer {
        let area = Rect::new(0, 0, width, height);
        let mut buffer = Buffer::empty(area);
        view::draw(&self.app, area, &mut buffer);
        buffer
    }

    pub fn text(&self, width: u16, height: u16) -> String {
        view::picture::text(&self.draw(width, height))
    }
}

fn code(key: char) -> KeyCode {
    match key {
        '\n' => KeyCode::Enter,
        '\u{1b}' => KeyCode::Esc,
        '\t' => KeyCode::Tab,
        key => KeyCode::Char(key),
    }
}

/// Every screen: its name, and the keys that lead to it.
pub const SCREENS: [(&str, &str); 14] = [
    ("overview", ""),
    ("log", "2z"),
    ("keys", "3z"),
    ("inspect", "3\n"),
    ("writes", "4z"),
    ("events", "5z"),
    ("output", ":put a 1\n6z"),
    ("kill", "x"),
    ("kill without quorum", "x\u{1b}:kill n2 --yes\n:kill n3\n"),
    ("delete", "3d"),
    ("scale", "+"),
    ("help", "?"),
    ("errors", ":kill any\n!"),
    ("prompt", ":put a b c"),
];
