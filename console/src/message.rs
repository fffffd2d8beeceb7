//! Pure: the whole traffic of the console: what happens to it, and what it asks for.
//!
//! [`Event`] goes into [`update`](crate::update), [`Effect`] comes out. Guarantees that both are
//! closed sets, so that a test can feed anything that can happen and see everything that is done.
//! Does not know who carries effects out.

use std::time::Duration;

use bytes::Bytes;
use crossterm::event::KeyEvent;
use kvorum_protocol::data::Outcome;
use kvorum_protocol::message::{Consistency, EntryEvent, Page, Pair};
use kvorum_protocol::{Condition, Key, Status};

use crate::exit::Stop;

/// A connection that was silent for longer is no proof of life.
pub const SILENT_AFTER: Duration = Duration::from_secs(2);
pub use crate::value::Source;

/// The time of an event, by two clocks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Now {
    /// Since the console started, by a clock that never jumps.
    pub monotonic: Duration,
    /// Microseconds since 1970.
    pub wall_us: u64,
}

/// Something that happened to the console.
#[derive(Debug)]
pub enum Event {
    /// A key was pressed.
    Key(KeyEvent),
    /// Keys came all at once: a paste that the terminal did not tell as one, or a way that was
    /// slow. Nobody has seen what each of them did before the next one came.
    Burst(Vec<KeyEvent>),
    /// Text was pasted.
    Paste(String),
    /// The terminal has another size now.
    Resize {
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
    /// A whole line was entered, where there is no screen.
    Line(String),
    /// A line was entered that is none: why, and what next. None of it is done.
    NoLine(String),
    /// Time has passed.
    Tick,
    /// The backend stands.
    Attached(Place),
    /// The backend could not be had.
    NotAttached(Stop),
    /// Something was seen in the cluster.
    Seen(Seen),
    /// A call came back.
    Answered {
        /// Which.
        call: CallId,
        /// What came of it.
        result: Result<Reply, Stop>,
    },
    /// The write probe reports.
    Probe(ProbeReport),
}

/// Where the replicas are and what can be done with them there.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// In a few words, for the title.
    pub name: String,
    /// Why a replica cannot be killed by SIGKILL or SIGTERM; `None` when it can.
    pub no_kill: Option<String>,
    /// Why the number of replicas cannot be changed; `None` when it can.
    pub no_scale: Option<String>,
    /// Why replicas' own logs are not at hand; `None` when they are.
    pub no_logs: Option<String>,
    /// It was made for this console alone, and goes with it.
    pub is_own: bool,
}

/// Something that was seen in the cluster.
#[derive(Clone, PartialEq, Debug)]
pub enum Seen {
    /// A replica is said to exist.
    Member {
        /// Its name.
        node: String,
    },
    /// Nobody runs a replica any more.
    Gone {
        /// Its name.
        node: String,
    },
    /// A connection to a replica stands.
    Up {
        /// The replica.
        node: String,
    },
    /// There is no connection to a replica.
    Down {
        /// The replica.
        node: String,
        /// Why.
        why: String,
    },
    /// A connection has been silent for a while.
    Silent {
        /// The replica.
        node: String,
        /// For how long.
        for_time: Duration,
    },
    /// A replica's status.
    Status(Box<Status>),
    /// A replica's process ended or was started, as its supervisor saw it.
    Process {
        /// The replica.
        node: String,
        /// What became of it.
        what: String,
    },
    /// How the pod of a replica is.
    Pod {
        /// The replica.
        node: String,
        /// In a few words.
        state: String,
        /// How often its container was started again.
        restarts: i32,
    },
    /// Decided entries, in order, each once.
    Log {
        /// Which replica tells them.
        node: String,
        /// The entries.
        entries: Vec<EntryEvent>,
    },
    /// What comes next of the log does not follow on what came before.
    LogReset,
    /// What can be done here changed.
    Place(Place),
}

/// A call in flight.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CallId(pub u64);

/// How a replica is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HowToKill {
    /// SIGKILL: as a crash.
    Now,
    /// SIGTERM: it hands leadership over and stops in order.
    Graceful,
    /// Where pods run it: the pod's object goes at once, whatever its processes do.
    Force,
}

impl HowToKill {
    /// As the switches say.
    #[must_use]
    pub fn of(is_graceful: bool, is_forced: bool) -> Self {
        match (is_graceful, is_forced) {
            (true, _) => Self::Graceful,
            (false, true) => Self::Force,
            (false, false) => Self::Now,
        }
    }
}

/// Something to do with the cluster. A node is a replica's name; `None` is whichever is best.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    /// Sets a key.
    Put {
        /// The key.
        key: Key,
        /// Its value.
        value: Source,
        /// When not to.
        condition: Condition,
        /// Through which replica.
        node: Option<String>,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: Key,
        /// When not to.
        condition: Condition,
        /// Through which replica.
        node: Option<String>,
    },
    /// Reads a key.
    Get {
        /// The key.
        key: Key,
        /// How fresh.
        consistency: Consistency,
        /// Where.
        node: Option<String>,
    },
    /// Reads a page of keys.
    Scan {
        /// Only keys that begin so.
        prefix: Vec<u8>,
        /// From this key on.
        from: Vec<u8>,
        /// How fresh.
        consistency: Consistency,
        /// Where.
        node: Option<String>,
    },
    /// Reads a key for certain, and what each replica has of it.
    Inspect {
        /// The key.
        key: Key,
        /// The replicas to ask.
        nodes: Vec<String>,
    },
    /// Puts so many keys, as a load.
    Batch {
        /// How many.
        count: u32,
    },
    /// The end of a replica's own log file.
    Logs {
        /// The replica.
        node: String,
    },
    /// Ends a replica's process.
    Kill {
        /// The replica.
        node: String,
        /// How.
        how: HowToKill,
    },
    /// Changes the number of replicas.
    Scale {
        /// How many.
        replicas: u32,
    },
    /// Hands leadership over.
    HandOver {
        /// Who leads now.
        from: String,
        /// To whom; to the one best in step when `None`.
        to: Option<String>,
    },
    /// Cuts a link.
    Cut {
        /// One end.
        node: String,
        /// The other.
        peer: String,
    },
    /// Heals a link.
    Heal {
        /// One end.
        node: String,
        /// The other.
        peer: String,
    },
}

impl Call {
    /// The key that it writes, if it writes one.
    #[must_use]
    pub fn written_key(&self) -> Option<&Key> {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => Some(key),
            _ => None,
        }
    }

    /// Whether it takes something away, so that it needs a `y`, a typed name or `--yes`.
    #[must_use]
    pub fn is_destructive(&self) -> bool {
        match self {
            Self::Delete { .. }
            | Self::Kill { .. }
            | Self::Scale { .. }
            | Self::HandOver { .. }
            | Self::Cut { .. } => true,
            Self::Put { .. }
            | Self::Get { .. }
            | Self::Scan { .. }
            | Self::Inspect { .. }
            | Self::Batch { .. }
            | Self::Logs { .. }
            | Self::Heal { .. } => false,
        }
    }
}

/// What came of a call that was carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// A write was decided.
    Written {
        /// Its outcome.
        outcome: Outcome,
        /// What the key held before, when that is known for certain: then it can be undone.
        previous: Previous,
    },
    /// A key's value.
    Value(Option<Pair>),
    /// A page of keys.
    Page(Page),
    /// A key, and what each replica has of it.
    Inspected {
        /// For certain.
        pair: Option<Pair>,
        /// Each replica: the revision it has, none, or why it does not say.
        nodes: Vec<(String, Result<Option<u64>, String>)>,
    },
    /// Lines of a log file.
    Lines(Vec<String>),
    /// Done, and how.
    Done(String),
}

/// What a key held before a write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Previous {
    /// Not known: others wrote at the same time.
    Unknown,
    /// It did not exist.
    Absent,
    /// This value.
    Value(Bytes),
}

/// One acknowledged write of the probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack {
    /// When the acknowledgement came, on the console's monotonic clock.
    pub at: Duration,
    /// The same by the wall clock, in microseconds since 1970.
    pub wall_us: u64,
    /// How long the write took.
    pub took: Duration,
}

/// What the write probe tells, some times a second.
#[derive(Clone, PartialEq, Debug)]
pub enum ProbeReport {
    /// Writes since the last report.
    Acks {
        /// The acknowledged ones, in the order in which they came.
        acks: Vec<Ack>,
        /// Those that ended unknown.
        unknown: u64,
        /// Those that did not happen.
        refused: u64,
        /// Beats at which nothing was sent, since too many writes were in flight.
        skipped: u64,
        /// Writes in flight now.
        in_flight: u64,
    },
    /// The writes have ended, and what they left is being read.
    Proving,
    /// The probe has ended, was read again, and its keys are gone.
    Proven(Result<Proof, String>),
}

/// What a probe's writes came to, by the keys and the log.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Proof {
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Acknowledged writes of which the cluster knows nothing.
    pub lost: u64,
    /// Writes that took effect more than once.
    pub doubled: u64,
    /// Writes whose outcome the client never learned.
    pub unknown: u64,
    /// Those of them that happened, as the log tells.
    pub unknown_happened: u64,
}

impl Proof {
    /// Whether every acknowledged write is there, and none twice.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.lost == 0 && self.doubled == 0
    }
}

/// Which cluster to attach to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    /// The one that the program was started for.
    Given,
    /// A local cluster, started by this console.
    StartLocal,
    /// Replicas at these addresses.
    Endpoints(Vec<String>),
    /// The cluster that this context of the kubeconfig leads to.
    Context(String),
}

/// Something that the console asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Do something with the cluster; the answer comes as [`Event::Answered`].
    Call {
        /// Its number.
        id: CallId,
        /// What.
        call: Call,
    },
    /// Turn the write probe on or off. Turned off, it proves what it wrote.
    Probe {
        /// On.
        on: bool,
    },
    /// Attach to a cluster; comes back as [`Event::Attached`] or [`Event::NotAttached`].
    Attach(Destination),
    /// Put text into the terminal's clipboard.
    Copy(String),
    /// Write a picture of the screen to a file.
    Picture {
        /// The call that it answers.
        id: CallId,
        /// The file: `.svg`, else text.
        path: String,
    },
    /// Draw everything anew.
    Redraw,
    /// The terminal is given back and the process stops, until it is told to go on.
    Suspend,
    /// End the program.
    Quit,
}
