//! The console's one loop: next event, update, effects, draw.
//!
//! It owns the [`App`]; everything else talks to it through bounded channels. Data is drawn at most
//! ten times a second, the response to a key at once. When nothing changes, nothing is drawn and no
//! timer runs. Guarantees that no call, however long it takes, delays a key.

mod printing;
mod told;

use std::sync::Arc;
use std::time::Duration;

use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::app::demo::Demo;
use crate::app::dialog::Dialog;
use crate::app::{App, Stage};
use crate::backend::Backend;
use crate::clock::Clock;
use crate::exit::Failure;
use crate::input::Input;
use crate::message::{CallId, Destination, Effect, Event, Reply};
use crate::probe::{self, Task};
use crate::screen::{Frame, Screen};
use crate::signals::{ConsoleSignals, Request};
use crate::sink::{EVENTS_MAX, Sink};
use crate::update::update;
use crate::view;

/// The least time between two drawings of data.
pub const DATA_INTERVAL: Duration = Duration::from_millis(100);
/// The time between two ticks while only ages change.
const AGE_INTERVAL: Duration = Duration::from_secs(1);
/// The time between two signs of life on a shared terminal.
const HEARTBEAT: Duration = Duration::from_secs(view::HEARTBEAT_SECONDS);
/// The idle time beyond which a shared console counts as left alone.
const LEFT_AFTER: Duration = Duration::from_secs(600);
/// The most events taken before the next drawing.
const BURST_MAX: usize = 64;
/// The time that the probe may take to remove its keys when the console ends.
const PROBE_PATIENCE: Duration = Duration::from_millis(700);
/// The time that a backend may take to stop.
const STOP_PATIENCE: Duration = Duration::from_millis(1900);

/// A function that attaches to a cluster.
pub type Attach = Box<dyn Fn(Destination) -> Task<Result<Arc<dyn Backend>, Failure>> + Send>;

/// The place where output is shown.
pub enum Front {
    /// On a terminal.
    Screen(Screen),
    /// As human-readable lines.
    Plain,
    /// As JSON, one line for each happening.
    Jsonl,
    /// Nowhere, until the demo is over.
    Demo,
}

/// How long the first line waits until the replicas were seen.
const SEEING: Duration = Duration::from_secs(3);

/// The state that the loop owns.
pub struct Runtime {
    app: App,
    clock: Clock,
    front: Front,
    input: Option<Input>,
    attach: Attach,
    backend: Option<Arc<dyn Backend>>,
    watching: Option<JoinHandle<()>>,
    /// The observations of the cluster, from the current backend only.
    seen: mpsc::Receiver<Event>,
    attached_at: Option<Instant>,
    /// The number of attempts to attach.
    attempts: u64,
    /// The channel for the result of such an attempt.
    attached: mpsc::Sender<Attempt>,
    /// The probe under way, until it is proven.
    probe: Option<(CancellationToken, JoinHandle<()>)>,
    events: mpsc::Sender<Event>,
    /// The last screen drawn, for pictures.
    drawn: Buffer,
    /// The numbers of answers and happenings printed so far.
    printed: (u64, u64),
    /// The question that was printed last.
    asked: Option<Dialog>,
}

/// The result of an attempt to attach.
struct Attempt {
    /// The number of the attempt.
    number: u64,
    /// The backend, or why there is none.
    result: Result<Arc<dyn Backend>, Failure>,
}

/// The time at which to draw.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Not,
    Later,
    Now,
}

impl Runtime {
    /// Prepares a console that attaches by `attach`.
    #[must_use]
    pub fn prepare(
        app: App,
        clock: Clock,
        front: Front,
        input: Option<Input>,
        attach: Attach,
    ) -> Loop {
        let (events, inbox) = mpsc::channel(EVENTS_MAX);
        let (attached, attachments) = mpsc::channel(1);
        // Nothing is observed before there is a backend.
        let (_, seen) = mpsc::channel(1);
        let runtime = Self {
            app,
            clock,
            front,
            input,
            attach,
            backend: None,
            watching: None,
            seen,
            attached_at: None,
            attempts: 0,
            attached,
            probe: None,
            events,
            drawn: Buffer::empty(Rect::ZERO),
            printed: (0, 0),
            asked: None,
        };
        Loop { runtime, inbox, attachments }
    }

    /// Applies an event, and carries out the effects that result.
    fn take(&mut self, event: Event) {
        for effect in update(&mut self.app, self.clock.now(), event) {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Call { id, call } => {
                let Some(backend) = self.backend.clone() else { return };
                self.spawn(id, backend.call(call));
            }
            Effect::Probe { on: true } => {
                let Some(backend) = self.backend.clone() else { return };
                let stop = CancellationToken::new();
                let run =
                    probe::run(backend.store(), self.clock, self.events.clone(), stop.clone());
                self.probe = Some((stop, tokio::spawn(run)));
            }
            Effect::Probe { on: false } => {
                if let Some((stop, _)) = &self.probe {
                    stop.cancel();
                }
            }
            Effect::Attach(destination) => self.begin_attach(destination),
            Effect::Copy(text) => {
                if let Front::Screen(screen) = &self.front {
                    screen.copy(text);
                }
            }
            Effect::Picture { id, path } => {
                let is_svg = path.to_ascii_lowercase().ends_with(".svg");
                let picture = match is_svg {
                    true => view::picture::svg(&self.drawn),
                    false => view::picture::text(&self.drawn),
                };
                let write = move || std::fs::write(&path, picture);
                let task = async move {
                    let written = tokio::task::spawn_blocking(write).await;
                    written.map_err(|error| Failure::failed(error.to_string()))??;
                    Ok(Reply::Done("written".to_owned()))
                };
                self.spawn(id, Box::pin(task));
            }
            Effect::Redraw => {
                if let Front::Screen(screen) = &self.front {
                    self.app.size = crate::screen::size();
                    screen.redraw();
                }
            }
            Effect::Suspend => self.ask_to_suspend(),
            Effect::Quit => self.app.is_quitting = true,
        }
    }

    fn spawn(&self, call: CallId, task: Task<Result<Reply, Failure>>) {
        let events = self.events.clone();
        tokio::spawn(async move {
            let result = task.await;
            let _ = events.send(Event::Answered { call, result }).await;
        });
    }

    fn begin_attach(&mut self, destination: Destination) {
        self.attempts += 1;
        let (task, number) = ((self.attach)(destination), self.attempts);
        let attached = self.attached.clone();
        tokio::spawn(async move {
            let _ = attached.send(Attempt { number, result: task.await }).await;
        });
    }

    fn attached(&mut self, Attempt { number, result }: Attempt) {
        if number != self.attempts {
            // Another attempt was requested meanwhile.
            if let Ok(backend) = result {
                tokio::spawn(backend.stop());
            }
            return;
        }
        let backend = match result {
            Ok(backend) => backend,
            Err(why) => return self.take(Event::NotAttached(why)),
        };
        if let Some(watching) = self.watching.take() {
            watching.abort();
        }
        let place = backend.place();
        let (events, seen) = mpsc::channel(EVENTS_MAX);
        let sink = Sink::new(events);
        self.seen = seen;
        self.watching = Some(tokio::spawn(Arc::clone(&backend).watch(sink)));
        self.backend = Some(backend);
        self.attached_at = Some(Instant::now());
        self.take(Event::Attached(place));
    }

    /// Shows the current state.
    fn show(&mut self) {
        match &self.front {
            Front::Screen(_) => self.draw(),
            Front::Plain => self.print_lines(),
            Front::Jsonl => self.print_events(),
            Front::Demo => {}
        }
    }

    fn draw(&mut self) {
        let (width, height) = self.app.size;
        // A terminal to which no viewer has attached yet has no size.
        if width == 0 || height == 0 {
            return;
        }
        let area = Rect::new(0, 0, width, height);
        let mut buffer = Buffer::empty(area);
        let cursor = view::draw(&self.app, area, &mut buffer);
        // On a shared terminal the cursor stays visible, where commands are typed.
        let parked = Position { x: 0, y: height.saturating_sub(2) };
        let cursor = cursor.or(self.app.settings.is_shared.then_some(parked));
        self.drawn.clone_from(&buffer);
        if let Front::Screen(screen) = &self.front {
            screen.show(Frame { buffer, cursor });
        }
    }

    /// Whether the next key or line may be taken. A line waits until the replicas were seen and the
    /// lines before it are answered, so that those of a file are judged by what is there, in order.
    fn takes_input(&self) -> bool {
        match self.front {
            Front::Plain => {
                let is_there = !matches!(self.app.stage, Stage::Attaching);
                is_there && !self.waits_to_see() && self.app.calls.is_empty()
            }
            _ => true,
        }
    }

    /// Whether the replicas of a cluster that was attached to just now are still to be seen.
    fn waits_to_see(&self) -> bool {
        self.attached_at.is_some_and(|at| at.elapsed() < SEEING) && !self.app.cluster.is_seen()
    }

    /// Whether a shared console has been idle for long: then it is drawn only for its heartbeat.
    fn is_left(&self) -> bool {
        let since = self.app.now.monotonic.saturating_sub(self.app.attended.monotonic);
        self.app.settings.is_shared && since > LEFT_AFTER
    }

    /// Returns the least time between two drawings of data.
    fn data_interval(&self) -> Duration {
        if self.is_left() { HEARTBEAT } else { DATA_INTERVAL }
    }

    /// Whether there is nothing more to do.
    fn is_over(&self) -> bool {
        let is_played = self.app.demo.as_ref().is_some_and(Demo::is_over);
        let demo_is_over = is_played && self.probe.is_none();
        // A console that only listens, without keys to choose another cluster, ends when detached.
        let is_listener = matches!(self.front, Front::Plain | Front::Jsonl) && self.input.is_none();
        let is_alone = is_listener && matches!(self.app.stage, Stage::Detached { .. });
        self.app.is_quitting || is_alone || matches!(self.front, Front::Demo) && demo_is_over
    }

    /// Returns when time alone changes something, if it does.
    fn next_tick(&self, last: Instant) -> Option<Instant> {
        let is_attached = matches!(self.app.stage, Stage::Attached(_));
        if self.app.settings.is_shared && is_attached && (self.is_left() || !self.app.needs_ticks())
        {
            return Some(last + HEARTBEAT);
        }
        if matches!(self.front, Front::Plain) && self.waits_to_see() {
            return Some(last + DATA_INTERVAL);
        }
        match (self.app.needs_ticks(), self.app.shows_ages()) {
            (true, _) => Some(last + DATA_INTERVAL),
            (false, true) => Some(last + AGE_INTERVAL),
            (false, false) => None,
        }
    }
}

/// A runtime, and the channels that feed it.
pub struct Loop {
    runtime: Runtime,
    inbox: mpsc::Receiver<Event>,
    attachments: mpsc::Receiver<Attempt>,
}

/// The reason why the loop woke up.
enum Woken {
    Key(Option<Event>),
    Event(Event),
    Attached(Attempt),
    Signal(Request),
    Time,
}

impl Loop {
    /// Returns a channel by which events can be sent to this console.
    #[must_use]
    pub fn sender(&self) -> mpsc::Sender<Event> {
        self.runtime.events.clone()
    }

    /// Runs until the console is asked to end, and returns its last state.
    ///
    /// # Errors
    /// When signals cannot be listened for.
    pub async fn run(mut self) -> Result<App, Failure> {
        let mut signals = ConsoleSignals::new()?;
        if matches!(self.runtime.front, Front::Screen(_)) {
            let (width, height) = crate::screen::size();
            self.runtime.take(Event::Resize { width, height });
        }
        // The first frame is drawn before any request is sent.
        self.runtime.show();
        if self.runtime.app.settings.is_shared && self.runtime.app.size == (0, 0) {
            crate::note::note("the console is ready: kubectl attach -it deploy/kvorum-console");
        }
        self.runtime.begin_attach(Destination::Given);
        let start = Instant::now();
        let (mut drawn, mut ticked, mut due) = (start, start, Due::Not);
        while !self.runtime.is_over() {
            let interval = self.runtime.data_interval();
            let draw_at = (due == Due::Later).then_some(drawn + interval);
            let tick_at = self.runtime.next_tick(ticked);
            let wake_at = draw_at.into_iter().chain(tick_at).min();
            let woken = self.next(&mut signals, wake_at).await;
            due = due.max(self.taken(woken, &mut ticked, tick_at));
            due = due.max(self.take_burst());
            let is_time = due == Due::Later && Instant::now() >= drawn + interval;
            if due == Due::Now || is_time {
                self.runtime.show();
                drawn = Instant::now();
                due = Due::Not;
            }
        }
        Ok(self.end().await)
    }

    async fn next(&mut self, signals: &mut ConsoleSignals, wake_at: Option<Instant>) -> Woken {
        let takes_input = self.runtime.takes_input();
        let Runtime { input, seen, .. } = &mut self.runtime;
        let key = async {
            match input {
                Some(input) if takes_input => input.recv().await,
                _ => std::future::pending().await,
            }
        };
        let time = async {
            match wake_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            told = signals.next() => Woken::Signal(told),
            key = key => Woken::Key(key),
            Some(attached) = self.attachments.recv() => Woken::Attached(attached),
            Some(event) = self.inbox.recv() => Woken::Event(event),
            Some(event) = seen.recv() => Woken::Event(event),
            () = time => Woken::Time,
        }
    }

    /// Handles what woke the loop, and returns when to draw it.
    fn taken(&mut self, woken: Woken, ticked: &mut Instant, tick_at: Option<Instant>) -> Due {
        let runtime = &mut self.runtime;
        match woken {
            Woken::Key(Some(event)) => {
                runtime.take(event);
                Due::Now
            }
            // The terminal, or the source of the lines, is gone.
            Woken::Key(None) => {
                crate::update::unanswered(&mut runtime.app);
                runtime.input = None;
                runtime.app.is_quitting = true;
                if matches!(runtime.front, Front::Plain) { Due::Now } else { Due::Not }
            }
            Woken::Event(event) => take_data(runtime, event),
            Woken::Attached(attempt) => {
                runtime.attached(attempt);
                Due::Now
            }
            Woken::Signal(told) => runtime.told(told),
            Woken::Time => {
                if tick_at.is_some_and(|at| Instant::now() >= at) {
                    *ticked = Instant::now();
                    runtime.take(Event::Tick);
                }
                Due::Later
            }
        }
    }

    /// Takes the events that are there already, so that they share the drawing; keys first.
    fn take_burst(&mut self) -> Due {
        let mut due = Due::Not;
        for _ in 0..BURST_MAX {
            let runtime = &mut self.runtime;
            // The result of a line is printed before the next one is taken.
            let is_plain = matches!(runtime.front, Front::Plain);
            let input = runtime.input.as_mut().filter(|_| !is_plain);
            if let Some(key) = input.and_then(|input| input.try_recv().ok()) {
                self.runtime.take(key);
                due = Due::Now;
            } else if let Ok(event) =
                self.inbox.try_recv().or_else(|_| self.runtime.seen.try_recv())
            {
                due = due.max(take_data(&mut self.runtime, event));
            } else {
                break;
            }
        }
        due
    }

    /// Ends everything that was begun. The terminal comes first: nothing may keep it.
    async fn end(self) -> App {
        let Runtime { mut app, front, backend, probe, watching, seen, .. } = self.runtime;
        app.is_quitting = true;
        if let Front::Screen(screen) = front {
            screen.leave();
        }
        // A task that sends to a closed channel ends by itself.
        drop((self.inbox, self.attachments, seen));
        if let Some((stop, probe)) = probe {
            stop.cancel();
            let _ = tokio::time::timeout(PROBE_PATIENCE, probe).await;
        }
        if let Some(watching) = watching {
            watching.abort();
        }
        if let Some(backend) = backend {
            let _ = tokio::time::timeout(STOP_PATIENCE, backend.stop()).await;
        }
        app
    }
}

/// Applies data, and returns when to draw it; replies to the user's calls are drawn at once.
fn take_data(runtime: &mut Runtime, event: Event) -> Due {
    let due = match &event {
        Event::Answered { .. } => Due::Now,
        _ => Due::Later,
    };
    if let Event::Probe(crate::message::ProbeReport::Proven(_)) = &event {
        runtime.probe = None;
    }
    runtime.take(event);
    due
}
