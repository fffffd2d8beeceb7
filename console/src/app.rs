//! Pure: the console's whole state.
//!
//! | module | what it is |
//! |---|---|
//! | [`cluster`] | the replicas, and what happened to them |
//! | [`quorum`] | the effect of an act on the quorum |
//! | [`failover`] | the four stamps of a failover |
//! | [`log`], [`keys`], [`writes`], [`output`] | the panes' contents |
//! | [`dialog`] | the question before an act |
//! | [`demo`] | the director of the demo |
//!
//! Changed only by [`update`](crate::update), drawn by [`view`](crate::view). Guarantees that its
//! memory is bounded. Does not know about terminals or real clusters.

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
use crate::exit::Failure;
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

/// The maximum number of keys offered for completion.
const KNOWN_KEYS_MAX: usize = 1000;

/// The text shown in place of a masked value.
const MASK: &str = "•••";

/// The console's settings.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct Settings {
    /// Whether commands that would change anything are refused.
    pub readonly: bool,
    /// Whether acts that keep the quorum need confirmation too.
    pub confirm: bool,
    /// The color theme.
    pub theme: ThemeName,
    /// Whether the user wants no colors (`NO_COLOR`).
    pub no_color: bool,
    /// Whether only ASCII is drawn.
    pub ascii: bool,
    /// The consistency of reads.
    pub read: ReadMode,
    /// The time zone in which times of day are shown.
    pub zone: TimeZone,
    /// The target's description, for the title, until the console is attached.
    pub target: String,
    /// The contexts of the kubeconfig, the current one first.
    pub contexts: Vec<String>,
    /// Whether attaching to an unavailable target is retried automatically.
    pub retries: bool,
    /// Whether this is a pod's first process, on a terminal that viewers attach to and detach from.
    pub is_shared: bool,
    /// Whether values are masked.
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

/// The state of the console's connection to its cluster.
#[derive(Debug)]
pub enum Stage {
    /// The console is attaching to it.
    Attaching,
    /// No cluster is attached.
    Detached {
        /// The reason.
        why: Failure,
    },
    /// The cluster is attached.
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
        /// The replica's name.
        node: String,
        /// Its last lines; `None` until the answer arrives.
        lines: Option<Vec<String>>,
    },
}

/// A write that can be undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undo {
    /// The key.
    pub key: Key,
    /// The value to write back; `None` to delete the key.
    pub value: Option<Bytes>,
    /// The revision that must still be the key's last; `None` if the key must not exist.
    pub revision: Option<u64>,
    /// A description of the write to undo.
    pub what: String,
}

/// A call in flight, as the console shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// A description of the call.
    pub text: String,
    /// The time at which it began, by the console's monotonic clock.
    pub since: Duration,
    /// The use of its answer.
    pub purpose: Purpose,
}

/// The use of a call's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It is shown in the output pane. If the call wrote a key, the write can then be undone.
    Say {
        /// The key, if the call writes one.
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

/// The state that is shown while the screen is frozen.
#[derive(Clone, Debug)]
pub struct Frozen {
    /// The time of the freeze.
    pub at: Now,
    /// The replicas at that time.
    pub cluster: Cluster,
    /// The write probe at that time.
    pub writes: Writes,
    /// The failover at that time.
    pub failover: Failover,
}

/// The speed at which a key followed the previous ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Haste {
    /// The user had time to read the effect of the previous key.
    None,
    /// The key came alone, but soon after another.
    Soon,
    /// The key came in a burst with others, or right after one, and may belong to it.
    Burst,
}

/// The console's whole state.
#[derive(Debug)]
pub struct App {
    /// The time of the last event.
    pub now: Now,
    /// The time of the last user activity: a key, a paste, or a resize (as when a viewer attaches).
    pub attended: Now,
    /// The time of the last key or paste.
    pub pressed: Option<Duration>,
    /// The time of the last burst of keys.
    pub burst: Option<Duration>,
    /// The haste of the key that is being handled.
    pub haste: Haste,
    /// The cluster to attach to: the last one chosen.
    pub destination: Destination,
    /// The time at which attaching last failed; `None` while an attempt is in progress.
    pub tried: Option<Now>,
    /// Whether a viewer was warned that copied text goes to all viewers and to the pod's log.
    pub may_copy: bool,
    /// Columns and rows of the terminal.
    pub size: (u16, u16),
    /// The settings.
    pub settings: Settings,
    /// The state of the connection to the cluster.
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
    /// The output: answers, events and errors.
    pub output: Output,
    /// The filter of the events pane.
    pub events_filter: log::Filter,
    /// The number of lines by which events, output and a page of text are scrolled up or down.
    pub scroll: usize,
    /// The pane that receives keys.
    pub focus: PaneName,
    /// Whether that pane has the whole screen.
    pub zoomed: bool,
    /// The selected node; `None` selects the leader.
    pub selected: Option<String>,
    /// A page of text over the screen.
    pub page: Option<Page>,
    /// The open question.
    pub dialog: Option<Dialog>,
    /// The prompt.
    pub prompt: Prompt,
    /// The running demo, or the last one.
    pub demo: Option<Demo>,
    /// The demo to ask about once there is a leader to kill.
    pub wants_demo: Option<crate::arguments::DemoName>,
    /// The write that can be undone.
    pub undo: Option<Undo>,
    /// The calls in flight.
    pub calls: BTreeMap<CallId, Pending>,
    /// The prompt's lines that have commands left to run.
    pub(crate) lines: Vec<lines::Line>,
    /// The frozen state; `None` while the screen is live.
    pub frozen: Option<Box<Frozen>>,
    /// Whether the console is about to end.
    pub is_quitting: bool,
    next_call: u64,
}

impl App {
    /// Returns a console that is about to attach to its cluster.
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

    /// Returns the mode, which decides where a key goes.
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

    /// Returns the node that acts apply to: the selected one, else the leader, else the first.
    #[must_use]
    pub fn node(&self) -> Option<&Node> {
        let name = self.selected.as_deref().or_else(|| self.cluster.leader());
        name.and_then(|name| self.cluster.node(name)).or_else(|| self.cluster.nodes().next())
    }

    /// Returns the place of the replicas; `None` until the console is attached.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        match &self.stage {
            Stage::Attached(place) => Some(place),
            _ => None,
        }
    }

    /// Returns the consistency of reads.
    #[must_use]
    pub fn consistency(&self) -> Consistency {
        match self.settings.read {
            ReadMode::Linearizable => Consistency::Linearizable,
            ReadMode::Local => Consistency::Local,
        }
    }

    /// Registers a new call and returns its id.
    pub fn begin(&mut self, text: impl Into<String>, purpose: Purpose) -> CallId {
        self.next_call += 1;
        let id = CallId(self.next_call);
        let pending = Pending { text: text.into(), since: self.now.monotonic, purpose };
        self.calls.insert(id, pending);
        id
    }

    /// Returns the nodes and keys that a prompt line may name.
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

    /// Returns the time without writes of the last failover, in microseconds.
    #[must_use]
    pub fn last_gap_us(&self) -> Option<u64> {
        self.failover.last.as_ref()?.gap_us()
    }

    /// Returns the replicas as they are shown: now, or when the screen was frozen.
    #[must_use]
    pub fn shown(&self) -> (&Cluster, &Writes, &Failover, Now) {
        match &self.frozen {
            Some(frozen) => (&frozen.cluster, &frozen.writes, &frozen.failover, frozen.at),
            None => (&self.cluster, &self.writes, &self.failover, self.now),
        }
    }

    /// Returns a value as it is shown: masked, if the settings say so.
    #[must_use]
    pub fn shown_value(&self, text: String) -> String {
        if self.settings.mask && !text.is_empty() { MASK.to_owned() } else { text }
    }

    /// Whether the screen changes with time alone.
    #[must_use]
    pub fn needs_ticks(&self) -> bool {
        let moves = self.writes.state == writes::ProbeState::On && self.frozen.is_none();
        let is_staged = self.demo.as_ref().is_some_and(|demo| !demo.is_over());
        let may_close = self.dialog.is_some() || (self.settings.is_shared && self.prompt.is_open);
        moves || is_staged || may_close
    }

    /// Whether the screen shows how long ago something happened.
    #[must_use]
    pub fn shows_ages(&self) -> bool {
        let is_down = |node: &Node| !node.is_live();
        self.cluster.nodes().any(is_down)
            || !self.calls.is_empty()
            || self.cluster.leader().is_none()
    }
}
