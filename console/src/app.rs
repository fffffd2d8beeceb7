//! Pure: everything the console knows.
//!
//! | module | what it is |
//! |---|---|
//! | [`cluster`] | the replicas, and what happened to them |
//! | [`quorum`] | what would become of the quorum |
//! | [`failover`] | the four stamps of a failover |
//! | [`log`], [`keys`], [`writes`], [`output`] | the panes' contents |
//! | [`dialog`] | the question before an act |
//! | [`demo`] | the director of the demo |
//!
//! Changed by [`update`](crate::update) alone, drawn by [`view`](crate::view). Guarantees that its
//! memory is bounded. Does not know a terminal or a cluster.

pub mod cluster;
pub mod demo;
pub mod dialog;
pub mod failover;
pub mod keys;
pub mod layout;
pub mod lines;
pub mod log;
mod members;
pub mod output;
pub mod quorum;
#[cfg(test)]
pub mod testing;
pub mod writes;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use jiff::tz::TimeZone;
use kvorum_protocol::Key;
use kvorum_protocol::message::Consistency;

use crate::arguments::ThemeName;
use crate::exit::Stop;
use crate::keymap::Mode;
use crate::message::{CallId, Destination, Now, Place};
use crate::prompt::complete::Known;
use crate::prompt::grammar::ReadMode;
use crate::prompt::{PaneName, Prompt};
use cluster::{Cluster, Node};
use demo::Demo;
use dialog::Dialog;
use failover::Failover;
use keys::KeysPane;
use log::LogPane;
use output::Output;
use writes::Writes;

/// Keys offered for completion.
const KNOWN_KEYS_MAX: usize = 1000;

/// What is shown in place of a value.
const MASK: &str = "•••";

/// How the console behaves.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct Settings {
    /// Refuse whatever would change something.
    pub readonly: bool,
    /// Ask before acts that keep the quorum.
    pub confirm: bool,
    /// The colors.
    pub theme: ThemeName,
    /// The user wants no colors (`NO_COLOR`).
    pub no_color: bool,
    /// ASCII only.
    pub ascii: bool,
    /// How reads are done.
    pub read: ReadMode,
    /// The time zone of times of day.
    pub zone: TimeZone,
    /// What is attached to, for the title, until it is.
    pub target: String,
    /// The contexts of the kubeconfig, the current one first.
    pub contexts: Vec<String>,
    /// A target that cannot be had is tried again by itself.
    pub retries: bool,
    /// It is a pod's first process, on a terminal that viewers come to and go from.
    pub is_shared: bool,
    /// Values are not shown.
    pub mask: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            readonly: false,
            confirm: true,
            theme: ThemeName::Auto,
            no_color: false,
            ascii: false,
            read: ReadMode::Linearizable,
            zone: TimeZone::UTC,
            is_shared: false,
            mask: false,
            target: String::new(),
            contexts: Vec::new(),
            retries: false,
        }
    }
}

/// Where the console stands with its cluster.
#[derive(Debug)]
pub enum Stage {
    /// It is being attached to.
    Attaching,
    /// There is none.
    Detached {
        /// Why.
        why: Stop,
    },
    /// It is there.
    Attached(Place),
}

/// A page of text over the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    /// Keys and commands.
    Help,
    /// Every error.
    Errors,
    /// A replica's log file.
    Logs {
        /// Whose.
        node: String,
        /// Its last lines; `None` while they are asked for.
        lines: Option<Vec<String>>,
    },
}

/// A write that can be taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undo {
    /// The key.
    pub key: Key,
    /// The value to write back; `None` to delete the key.
    pub value: Option<Bytes>,
    /// Only if the key's last write is still this one; `None` if it must not exist.
    pub revision: Option<u64>,
    /// What is taken back, in words.
    pub what: String,
}

/// A call in flight, as the console shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// What it is, in words.
    pub text: String,
    /// When it began.
    pub since: Duration,
    /// What its answer is for.
    pub purpose: Purpose,
}

/// What a call's answer is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be said, and to be taken back on demand if it was a write of this key.
    Say {
        /// The key, if one is written.
        key: Option<Key>,
    },
    /// The keys pane.
    Page,
    /// A key under inspection.
    Inspect,
    /// A value to edit.
    Edit {
        /// The key.
        key: Key,
    },
    /// A page of text.
    Logs,
    /// A step of the demo.
    Demo,
}

/// What stands still while the screen is frozen.
#[derive(Clone, Debug)]
pub struct Frozen {
    /// Since when.
    pub at: Now,
    /// The replicas then.
    pub cluster: Cluster,
    /// The probe then.
    pub writes: Writes,
    /// The failover then.
    pub failover: Failover,
}

/// How soon a key came after others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Haste {
    /// Whoever pressed it had time to read what the one before did.
    None,
    /// It came alone, and soon.
    Soon,
    /// It came all at once with others, or right after such: it may be the rest of them.
    Burst,
}

/// Everything the console knows.
#[derive(Debug)]
pub struct App {
    /// The time of the last event.
    pub now: Now,
    /// When somebody pressed a key last, or came to look.
    pub attended: Now,
    /// When a key was pressed last.
    pub pressed: Option<Duration>,
    /// When keys came all at once last.
    pub burst: Option<Duration>,
    /// How soon the key that is looked at came after others.
    pub haste: Haste,
    /// Which cluster to attach to: the one that was chosen last.
    pub destination: Destination,
    /// When it could not be attached to; nothing while that is tried.
    pub tried: Option<Now>,
    /// A viewer was told that what is copied goes to all, and to the pod's log.
    pub may_copy: bool,
    /// Columns and rows of the terminal.
    pub size: (u16, u16),
    /// How it behaves.
    pub settings: Settings,
    /// Where it stands with its cluster.
    pub stage: Stage,
    /// The replicas.
    pub cluster: Cluster,
    /// The last failover.
    pub failover: Failover,
    /// The log pane.
    pub log: LogPane,
    /// The keys pane.
    pub keys: KeysPane,
    /// The write probe.
    pub writes: Writes,
    /// Answers, events, errors.
    pub output: Output,
    /// Filter of the events.
    pub events_filter: log::Filter,
    /// Lines that events, output and a page of text are scrolled up or down.
    pub scroll: usize,
    /// The pane that keys go to.
    pub focus: PaneName,
    /// It has the screen to itself.
    pub zoomed: bool,
    /// The node that is selected; the leader when `None`.
    pub selected: Option<String>,
    /// A page of text over the screen.
    pub page: Option<Page>,
    /// The question that is open.
    pub dialog: Option<Dialog>,
    /// The prompt.
    pub prompt: Prompt,
    /// The demo under way, or the last one.
    pub demo: Option<Demo>,
    /// The demo is to be asked about once there is a leader to kill.
    pub wants_demo: Option<crate::arguments::DemoName>,
    /// The write that can be taken back.
    pub undo: Option<Undo>,
    /// Calls in flight.
    pub calls: BTreeMap<CallId, Pending>,
    /// Lines of the prompt of which commands are left.
    pub(crate) lines: Vec<lines::Line>,
    /// The screen stands still since then.
    pub frozen: Option<Box<Frozen>>,
    /// It is about to end.
    pub is_quitting: bool,
    next_call: u64,
}

impl App {
    /// A console that is about to attach to its cluster.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            now: Now::default(),
            pressed: None,
            burst: None,
            haste: Haste::None,
            size: (0, 0),
            settings,
            stage: Stage::Attaching,
            cluster: Cluster::default(),
            failover: Failover::default(),
            log: LogPane::default(),
            keys: KeysPane::default(),
            writes: Writes::default(),
            output: Output::default(),
            events_filter: log::Filter::default(),
            scroll: 0,
            focus: PaneName::Nodes,
            zoomed: false,
            selected: None,
            page: None,
            dialog: None,
            prompt: Prompt::default(),
            demo: None,
            wants_demo: None,
            undo: None,
            calls: BTreeMap::new(),
            lines: Vec::new(),
            frozen: None,
            attended: Now::default(),
            may_copy: false,
            destination: Destination::Given,
            tried: None,
            is_quitting: false,
            next_call: 0,
        }
    }

    /// Where a key goes now.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match (&self.dialog, self.prompt.is_open, &self.page, &self.stage) {
            (Some(_), _, _, _) => Mode::Dialog,
            (None, true, _, _) => Mode::Prompt,
            (None, false, Some(_), _) => Mode::Text,
            (None, false, None, Stage::Detached { .. }) => Mode::Connect,
            (None, false, None, _) => Mode::Screen,
        }
    }

    /// The node that acts are about.
    #[must_use]
    pub fn node(&self) -> Option<&Node> {
        let name = self.selected.as_deref().or_else(|| self.cluster.leader());
        name.and_then(|name| self.cluster.node(name)).or_else(|| self.cluster.nodes().next())
    }

    /// Where the replicas are; nothing until they are attached to.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        match &self.stage {
            Stage::Attached(place) => Some(place),
            _ => None,
        }
    }

    /// How reads are done.
    #[must_use]
    pub fn consistency(&self) -> Consistency {
        match self.settings.read {
            ReadMode::Linearizable => Consistency::Linearizable,
            ReadMode::Local => Consistency::Local,
        }
    }

    /// A number for a new call.
    pub fn begin(&mut self, text: impl Into<String>, purpose: Purpose) -> CallId {
        self.next_call += 1;
        let id = CallId(self.next_call);
        let pending = Pending { text: text.into(), since: self.now.monotonic, purpose };
        self.calls.insert(id, pending);
        id
    }

    /// What a line may name.
    #[must_use]
    pub fn known(&self) -> Known {
        let page = self.keys.rows.iter().map(|row| row.key.0.to_vec());
        let log = self.log.window(KNOWN_KEYS_MAX / 2).into_iter().rev();
        let log = log.filter_map(|entry| Some(entry.key.as_ref()?.0.to_vec()));
        let mut keys: Vec<Vec<u8>> = page.chain(log).take(KNOWN_KEYS_MAX).collect();
        keys.sort();
        keys.dedup();
        Known { nodes: self.cluster.names(), keys }
    }

    /// The time without writes of the last failover, in microseconds.
    #[must_use]
    pub fn last_gap_us(&self) -> Option<u64> {
        self.failover.last.as_ref()?.gap_us()
    }

    /// The replicas as they are shown: now, or when the screen was frozen.
    #[must_use]
    pub fn shown(&self) -> (&Cluster, &Writes, &Failover, Now) {
        match &self.frozen {
            Some(frozen) => (&frozen.cluster, &frozen.writes, &frozen.failover, frozen.at),
            None => (&self.cluster, &self.writes, &self.failover, self.now),
        }
    }

    /// A value as it is shown.
    #[must_use]
    pub fn shown_value(&self, text: String) -> String {
        if self.settings.mask && !text.is_empty() { MASK.to_owned() } else { text }
    }

    /// Whether what is shown changes with time alone.
    #[must_use]
    pub fn needs_ticks(&self) -> bool {
        let moves = self.writes.state == writes::ProbeState::On && self.frozen.is_none();
        let is_staged = self.demo.as_ref().is_some_and(|demo| !demo.is_over());
        let may_close = self.dialog.is_some() || (self.settings.is_shared && self.prompt.is_open);
        moves || is_staged || may_close
    }

    /// Whether something on the screen tells how long ago it was.
    #[must_use]
    pub fn shows_ages(&self) -> bool {
        let is_down = |node: &Node| !node.is_live();
        self.cluster.nodes().any(is_down)
            || !self.calls.is_empty()
            || self.cluster.leader().is_none()
    }
}
