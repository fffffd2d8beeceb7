//! Pure: the events that reach the console, and the effects that it asks for.
//!
//! [`Event`] goes into [`update`](crate::update), [`Effect`] comes out. Guarantees that both are
//! closed sets, so that a test can feed anything that can happen and see everything that is done.
//! Does not know which part carries the effects out.

use std::time::Duration;

use bytes::Bytes;
use crossterm::event::KeyEvent;
use kvorum_protocol::data::Outcome;
use kvorum_protocol::message::{Consistency, EntryEvent, Page, Pair};
use kvorum_protocol::{Condition, Key, Status};

use crate::exit::Failure;

/// The silence beyond which a connection no longer proves that its replica is alive.
pub const SILENT_AFTER: Duration = Duration::from_secs(2);
pub use crate::value::Source;

/// The time of an event, by two clocks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Now {
    /// The time since the console started, by a clock that never jumps.
    pub monotonic: Duration,
    /// The wall-clock time, in microseconds since 1970.
    pub wall_us: u64,
}

/// Something that happened to the console.
#[derive(Debug)]
pub enum Event {
    /// A key was pressed.
    Key(KeyEvent),
    /// Keys arrived all at once: a paste that the terminal did not report as one, or a slow
    /// connection. The user has not seen what each of them did before the next one arrived.
    Burst(Vec<KeyEvent>),
    /// Text was pasted.
    Paste(String),
    /// The terminal was resized.
    Resize {
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
    /// A whole line was entered, where there is no screen.
    Line(String),
    /// An entered line was rejected: why, and what to do next. None of it is carried out.
    NoLine(String),
    /// Time has passed.
    Tick,
    /// The console is attached to a backend.
    Attached(Place),
    /// The console could not attach to a backend.
    NotAttached(Failure),
    /// An observation of the cluster.
    Observation(Observation),
    /// A call has ended.
    Answered {
        /// The call.
        call: CallId,
        /// The reply, or why the call failed.
        result: Result<Reply, Failure>,
    },
    /// The write probe reports.
    Probe(ProbeReport),
}

/// The place where the replicas are, and what can be done with them there.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// A short name, for the title.
    pub name: String,
    /// The reason why a replica cannot be killed by SIGKILL or SIGTERM; `None` when it can.
    pub no_kill: Option<String>,
    /// The reason why the number of replicas cannot be changed; `None` when it can.
    pub no_scale: Option<String>,
    /// The reason why no key can be written; `None` when some can.
    pub no_write: Option<String>,
    /// The reason why leadership cannot be handed over; `None` when it can.
    pub no_operation: Option<String>,
    /// The reason why the replicas' own logs are not available; `None` when they are.
    pub no_logs: Option<String>,
    /// Whether the cluster was started for this console alone, and ends with it.
    pub is_own: bool,
}

/// An observation of the cluster.
#[derive(Clone, PartialEq, Debug)]
pub enum Observation {
    /// A replica is reported to exist.
    Member {
        /// Its name.
        node: String,
    },
    /// A replica is no longer run.
    Gone {
        /// Its name.
        node: String,
    },
    /// A connection to a replica is established.
    Up {
        /// The replica.
        node: String,
    },
    /// There is no connection to a replica.
    Down {
        /// The replica.
        node: String,
        /// The reason.
        why: String,
    },
    /// A connection has been silent for a while.
    Silent {
        /// The replica.
        node: String,
        /// The duration of the silence.
        for_time: Duration,
    },
    /// A replica's status.
    Status(Box<Status>),
    /// A replica's process ended or was started, as its supervisor saw it.
    Process {
        /// The replica.
        node: String,
        /// A description of what happened to the process.
        what: String,
    },
    /// The state of a replica's pod.
    Pod {
        /// The replica.
        node: String,
        /// The state in a few words.
        state: String,
        /// The number of times that its container was restarted.
        restarts: i32,
    },
    /// Decided entries, in order, each once.
    Log {
        /// The replica that reports them.
        node: String,
        /// The entries.
        entries: Vec<EntryEvent>,
    },
    /// The log entries that follow do not continue the entries before.
    LogReset,
    /// The set of actions that are possible here has changed.
    Place(Place),
}

/// The number of a call in flight.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CallId(pub u64);

/// The way to kill a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HowToKill {
    /// By SIGKILL, like a crash.
    Now,
    /// By SIGTERM: the replica hands leadership over and stops in order.
    Graceful,
    /// Where it runs in a pod: the pod object is deleted at once, whatever its processes do.
    Force,
}

impl HowToKill {
    /// Returns the way that the switches select.
    #[must_use]
    pub fn of(is_graceful: bool, is_forced: bool) -> Self {
        match (is_graceful, is_forced) {
            (true, _) => Self::Graceful,
            (false, true) => Self::Force,
            (false, false) => Self::Now,
        }
    }
}

/// A request to the cluster. A node is a replica's name; `None` is whichever is best.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    /// Sets a key.
    Put {
        /// The key.
        key: Key,
        /// Its value.
        value: Source,
        /// The condition under which the key is set.
        condition: Condition,
        /// The replica to go through.
        node: Option<String>,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: Key,
        /// The condition under which the key is removed.
        condition: Condition,
        /// The replica to go through.
        node: Option<String>,
    },
    /// Reads a key.
    Get {
        /// The key.
        key: Key,
        /// The read consistency.
        consistency: Consistency,
        /// The replica to read from.
        node: Option<String>,
    },
    /// Reads a page of keys.
    Scan {
        /// The prefix that all keys must have.
        prefix: Vec<u8>,
        /// The key to begin at.
        from: Vec<u8>,
        /// The read consistency.
        consistency: Consistency,
        /// The replica to read from.
        node: Option<String>,
    },
    /// Reads a key linearizably, and what each replica holds of it.
    Inspect {
        /// The key.
        key: Key,
        /// The replicas to ask.
        nodes: Vec<String>,
    },
    /// Puts a number of keys, as a load.
    Batch {
        /// The number of keys.
        count: u32,
    },
    /// Reads the end of a replica's own log file.
    Logs {
        /// The replica.
        node: String,
    },
    /// Ends a replica's process.
    Kill {
        /// The replica.
        node: String,
        /// The way to end it.
        how: HowToKill,
    },
    /// Changes the number of replicas.
    Scale {
        /// The new number.
        replicas: u32,
    },
    /// Hands leadership over.
    HandOver {
        /// The current leader.
        from: String,
        /// The new leader; the replica that is best in step when `None`.
        to: Option<String>,
    },
    /// Cuts a link.
    Cut {
        /// One end.
        node: String,
        /// The other end.
        peer: String,
    },
    /// Heals a link.
    Heal {
        /// One end.
        node: String,
        /// The other end.
        peer: String,
    },
}

impl Call {
    /// Returns the key that the call writes, if it writes one.
    #[must_use]
    pub fn written_key(&self) -> Option<&Key> {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => Some(key),
            _ => None,
        }
    }

    /// Whether the call takes something away, so that it needs a `y`, a typed name or `--yes`.
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

/// The result of a call that was carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// A write was decided.
    Written {
        /// Its outcome.
        outcome: Outcome,
        /// The key's previous content, if known for certain: then the write can be undone.
        previous: Previous,
    },
    /// A key's value.
    Value(Option<Pair>),
    /// A page of keys.
    Page(Page),
    /// A key, and what each replica has of it.
    Inspected {
        /// The pair, read linearizably.
        pair: Option<Pair>,
        /// Each replica: the revision it has, none, or why it does not report one.
        nodes: Vec<(String, Result<Option<u64>, String>)>,
    },
    /// Lines of a log file.
    Lines(Vec<String>),
    /// The call was carried out; the text says how.
    Done(String),
}

/// The content of a key before a write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Previous {
    /// Unknown: other clients wrote at the same time.
    Unknown,
    /// The key did not exist.
    Absent,
    /// The key held this value.
    Value(Bytes),
}

/// One acknowledged write of the probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack {
    /// The time of the acknowledgement, on the console's monotonic clock.
    pub at: Duration,
    /// The same by the wall clock, in microseconds since 1970.
    pub wall_us: u64,
    /// The duration of the write.
    pub took: Duration,
}

/// A report of the write probe, sent some times a second.
#[derive(Clone, PartialEq, Debug)]
pub enum ProbeReport {
    /// Writes since the last report.
    Acks {
        /// The acknowledged writes, in the order in which the acknowledgements came.
        acks: Vec<Ack>,
        /// The number of writes that ended unknown.
        unknown: u64,
        /// The number of writes that did not happen.
        refused: u64,
        /// The number of beats at which nothing was sent, because too many writes were in flight.
        skipped: u64,
        /// The number of writes in flight now.
        in_flight: u64,
    },
    /// The writes have ended, and are being read back.
    Proving,
    /// The probe has ended, its writes were read back, and its keys are gone.
    Proven(Result<Proof, String>),
}

/// The outcome of a probe's writes, according to the keys and the log.
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
    /// The unknown writes that happened, according to the log.
    pub unknown_happened: u64,
}

impl Proof {
    /// Whether every acknowledged write is there, and none twice.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.lost == 0 && self.doubled == 0
    }
}

/// The cluster to attach to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    /// The cluster that the program was started for.
    Given,
    /// A local cluster, started by this console.
    StartLocal,
    /// Replicas at these addresses.
    Endpoints(Vec<String>),
    /// The cluster that this context of the kubeconfig leads to.
    Context(String),
}

/// An action that the console asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Do something with the cluster; the result comes back as [`Event::Answered`].
    Call {
        /// The number of the call.
        id: CallId,
        /// The call.
        call: Call,
    },
    /// Turn the write probe on or off. When turned off, it proves what it wrote.
    Probe {
        /// Whether to turn it on.
        on: bool,
    },
    /// Attach to a cluster; the result comes back as [`Event::Attached`] or [`Event::NotAttached`].
    Attach(Destination),
    /// Put text into the terminal's clipboard.
    Copy(String),
    /// Write a picture of the screen to a file.
    Picture {
        /// The call that the picture answers.
        id: CallId,
        /// The file: SVG if it ends in `.svg`, else text.
        path: String,
    },
    /// Redraw the whole screen.
    Redraw,
    /// Give the terminal back and stop the process, until it is continued.
    Suspend,
    /// End the program.
    Quit,
}
