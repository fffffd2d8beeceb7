//! Pure: requests, answers and events.
//!
//! Guarantees that an answer names one of the fates of its request: done, refused (did not and
//! will not happen by this attempt), or unknown. Variants are only ever appended; a number on the
//! wire keeps its meaning.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::WIRE_VERSION_PROGRESS;
use crate::data::{Key, LimitError, Operation, Outcome, RequestId, Value};
use crate::status::{self, Configuration, ReplicaId, Status};

/// What a client sends after the handshake.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ClientFrame {
    /// Asks for something. The answer carries the same number.
    Call {
        /// Chosen by the client; unique among its calls and subscriptions in flight.
        call: u64,
        /// What is asked.
        request: Request,
    },
    /// Ends a subscription.
    Cancel {
        /// The call that opened it.
        call: u64,
    },
    /// Nothing but a sign of life.
    Ping,
}

/// What a replica sends after the handshake.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ServerFrame {
    /// Answers a call.
    Answer {
        /// The call.
        call: u64,
        /// The answer.
        answer: Answer,
    },
    /// Something that a subscription asked for.
    Event {
        /// The call that opened the subscription.
        call: u64,
        /// What happened.
        event: Event,
    },
    /// The leader that this replica knows has changed.
    Leader {
        /// Its name; `None` while there is none.
        name: Option<String>,
    },
    /// Nothing but a sign of life, with the applied index for `valid_until`.
    Ping {
        /// How far the replica has applied the log.
        applied: u64,
    },
}

/// How fresh a read must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Consistency {
    /// As of some moment between the call and the answer.
    Linearizable,
    /// Whatever this replica has applied; may be stale.
    Local,
}

/// What a client may ask.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Changes a key.
    Write {
        /// Names the request for ever; the same on every attempt.
        id: RequestId,
        /// The last index at which it may be applied: an index that a replica told the client,
        /// plus `SESSION_ENTRIES`.
        valid_until: u64,
        /// The change.
        operation: Operation,
    },
    /// Reads a key.
    Get {
        /// The key.
        key: Key,
        /// How fresh.
        consistency: Consistency,
    },
    /// Reads a page of keys in order.
    Scan(Scan),
    /// Asks the replica about itself.
    Status,
    /// Opens a subscription; its events carry the call's number.
    Subscribe(Subscription),
    /// Administration.
    Admin(Admin),
    /// Copies the whole state as of one index, part by part.
    Snapshot(SnapshotRequest),
    /// Asks where the other replicas' clients connect to. Since wire version 2.
    Addresses,
}

/// A step of copying the state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SnapshotRequest {
    /// Opens a snapshot, which has every write that was acknowledged before. It is closed when
    /// nobody reads it for some 30 seconds.
    Open,
    /// Reads a part.
    Part {
        /// Which snapshot.
        snapshot: SnapshotName,
        /// Where the part before it said that this one begins; empty for the first.
        after: Value,
    },
    /// Closes it.
    Close {
        /// Which snapshot.
        snapshot: SnapshotName,
    },
}

/// Names a snapshot of one process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SnapshotName {
    /// The process.
    pub nonce: u64,
    /// The snapshot's number in it.
    pub number: u64,
}

/// A page of keys in order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Scan {
    /// Only keys with this prefix; empty for all.
    pub prefix: Vec<u8>,
    /// The page begins at the first key at or after this one; empty for the prefix's first.
    pub from: Vec<u8>,
    /// Only keys before this one; empty for no end.
    pub until: Vec<u8>,
    /// Most pairs in the page; 0 for as many as the limits allow.
    pub limit: u32,
    /// Leaves out the values.
    pub keys_only: bool,
    /// How fresh.
    pub consistency: Consistency,
}

impl Scan {
    /// The first page of the keys with a prefix (empty for all), with values, as long as allowed.
    #[must_use]
    pub fn of(prefix: impl Into<Vec<u8>>, consistency: Consistency) -> Self {
        Self {
            prefix: prefix.into(),
            from: Vec::new(),
            until: Vec::new(),
            limit: 0,
            keys_only: false,
            consistency,
        }
    }

    /// The page after one that this came to; `None` after the last.
    #[must_use]
    pub fn after(&self, page: &Page) -> Option<Self> {
        let from = page.next.as_ref()?.0.to_vec();
        Some(Self { from, ..self.clone() })
    }
}

/// One key with its value.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pair {
    /// The key.
    pub key: Key,
    /// Its value; empty when only keys were asked for.
    pub value: Value,
    /// The index of its last write.
    pub revision: u64,
}

impl Pair {
    /// How many bytes of key and value it carries.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.key.0.len() + self.value.0.len()
    }
}

/// What to be told about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Subscription {
    /// The replica's status: at once when its role, leader, ballot or a link changes, and at most
    /// ten times a second when only its indexes do.
    Status,
    /// Decided entries, in order, each once.
    Log {
        /// From this index on; 0 for what is decided from now on.
        from: u64,
    },
    /// Changes of keys, in order, each once.
    Keys {
        /// Only keys with this prefix; empty for all.
        prefix: Vec<u8>,
        /// From this index on; 0 for what changes from now on.
        from: u64,
    },
    /// As [`Self::Keys`], and now and then where it stands while no such key changes: whoever loses
    /// it can go on from there, when what came before is no longer in the log.
    Watch {
        /// Only keys with this prefix; empty for all.
        prefix: Vec<u8>,
        /// From this index on; 0 for what changes from now on.
        from: u64,
    },
}

impl Subscription {
    /// The same in words of a version of the wire.
    #[must_use]
    pub fn in_version(self, version: u16) -> Self {
        match self {
            Self::Keys { prefix, from } if version >= WIRE_VERSION_PROGRESS => {
                Self::Watch { prefix, from }
            }
            Self::Watch { prefix, from } if version < WIRE_VERSION_PROGRESS => {
                Self::Keys { prefix, from }
            }
            subscription => subscription,
        }
    }
}

/// Administration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Admin {
    /// Hands leadership to the named replica; to the one best in step when empty.
    HandOver {
        /// Its name.
        to: String,
    },
    /// Cuts this replica's link to a peer. Needs `--allow-faults`.
    Cut {
        /// The peer's name.
        peer: String,
    },
    /// Heals a cut link. Needs `--allow-faults`.
    Heal {
        /// The peer's name.
        peer: String,
    },
    /// Ends the process at once, as SIGKILL would. Needs `--allow-faults`.
    Crash,
    /// Gives an id to a replica that has none and wants to become a member. Done by the leader.
    Join {
        /// Its name.
        name: String,
        /// Drawn by it: whoever asks again with the same one gets the same id.
        nonce: u64,
    },
}

/// What a replica answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The write was decided and applied.
    Written(Outcome),
    /// The key's value, or `None` when it does not exist.
    Value(Option<Pair>),
    /// A page of a scan.
    Page(Page),
    /// The replica's status.
    Status(Box<Status>),
    /// The subscription is open; its first event is at or after this index.
    Subscribed {
        /// The index.
        from: u64,
    },
    /// Done.
    Done,
    /// The request did not happen and will not by this attempt.
    Refused(Refusal),
    /// Nobody can say whether the write will be decided; ask again with the same id.
    Unknown(Doubt),
    /// A snapshot is open.
    Snapshot {
        /// Its name.
        snapshot: SnapshotName,
        /// The index as of which it shows the state.
        index: u64,
        /// About how many keys it has.
        keys: u64,
    },
    /// A part of a snapshot.
    Part {
        /// What is in it, for a replica to read.
        part: Value,
        /// How many keys are in it.
        keys: u64,
        /// Where the next part begins; `None` after the last.
        next: Option<Value>,
    },
    /// A joiner's id, and the members that it copies the state from.
    Joined {
        /// The id.
        replica: ReplicaId,
        /// The members.
        configuration: Configuration,
    },
    /// Where the other replicas were reached last, as far as this one knows.
    Addresses(Vec<Address>),
}

/// Where a replica's clients connect to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Address {
    /// The replica's name.
    pub name: String,
    /// `host:port`, the host as a number.
    pub clients: String,
}

/// A page of a scan. Linearizable by itself; a scan of many pages is not a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Page {
    /// The pairs, in order.
    pub pairs: Vec<Pair>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<Key>,
    /// The page shows the state as of this index.
    pub index: u64,
}

/// Why a request did not happen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// A limit is passed.
    #[error(transparent)]
    Limit(LimitError),
    /// No leader is known.
    #[error("no leader is known here; fewer than a majority of the replicas may be up")]
    NoLeader,
    /// This replica does not lead; ask the one that does.
    #[error("this replica does not lead")]
    NotLeader {
        /// The leader's name, when known.
        leader: Option<String>,
    },
    /// A majority did not confirm the leader in time.
    #[error("a majority of the replicas did not answer in time")]
    NoQuorum,
    /// A queue is full; try again later.
    #[error("the replica is overloaded; try again in a moment")]
    Overloaded,
    /// Leadership is being handed over; try again at once.
    #[error("leadership is being handed over")]
    HandingOver,
    /// The replica does not serve; the text says why and what helps.
    #[error("{0}")]
    Unavailable(String),
    /// The disk is below its reserve; deletes and reads still work elsewhere.
    #[error(
        "the leader's disk is nearly full: {free} bytes are free, {reserve} are kept in reserve"
    )]
    DiskFull {
        /// Bytes free.
        free: u64,
        /// Bytes kept in reserve.
        reserve: u64,
    },
    /// The asked index is no longer, or not yet, in the log.
    #[error("the log begins after index {from} here; read the keys anew")]
    Compacted {
        /// The first index that can be had.
        from: u64,
    },
    /// The replica was not started with `--allow-faults`.
    #[error("faults are not allowed here; start the replica with --allow-faults")]
    FaultsForbidden,
    /// No member has that name.
    #[error("no replica is called '{name}'; there are {members}")]
    UnknownReplica {
        /// The name asked for.
        name: String,
        /// Those that exist.
        members: String,
    },
    /// The snapshot was closed: the replica started again, copied its own state anew, or nobody
    /// read it for too long.
    #[error("the snapshot is closed; begin again")]
    SnapshotGone,
    /// One more would be over the limit.
    #[error("a connection has at most {most} subscriptions")]
    TooManySubscriptions {
        /// The limit.
        most: u32,
    },
}

/// Why the fate of a write is unknown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Doubt {
    /// The replica stopped leading before the write was decided.
    #[error("the leader changed before the write was decided")]
    LeaderChanged,
    /// The link to the leader broke before it answered.
    #[error("the link to the leader broke before it answered")]
    LinkLost,
    /// No majority accepted it in time.
    #[error("a majority did not accept the write in time")]
    NoQuorum,
}

/// What a subscription tells. Times are of the replica that sends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Event {
    /// The replica's status; one for all who are told it.
    Status(#[serde(with = "status::shared")] Arc<Status>),
    /// A decided entry.
    Entry(EntryEvent),
    /// A changed key.
    Key(KeyEvent),
    /// The subscription ended: what it waits for is no longer in the log. Read the keys anew and
    /// subscribe from the page's index.
    Compacted {
        /// The first index that can be had.
        from: u64,
    },
    /// Everything before an index was told.
    Progress {
        /// The index.
        next: u64,
    },
}

/// A decided entry, as the log pane shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EntryEvent {
    /// Its decided index.
    pub index: u64,
    /// What it is.
    pub kind: EntryKind,
    /// The key, when it changes one.
    pub key: Option<Key>,
    /// The first bytes of the value, when it sets one.
    pub preview: Option<Value>,
    /// The length of the whole value, in bytes.
    pub value_bytes: u64,
    /// Whether it changed a key: repeated, expired and failed commands did not.
    pub took_effect: bool,
}

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum EntryKind {
    /// Nothing: a new leader proposes it.
    Noop,
    /// A put.
    Put,
    /// A delete.
    Delete,
    /// The end of a configuration.
    StopSign,
    /// A higher version of the cluster.
    Version,
    /// The replicas' states are compared as of here.
    Checksum,
    /// A replica gets an id, to become a member.
    Join,
}

/// A changed key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeyEvent {
    /// The index of the change, and the key's revision if it has a value.
    pub index: u64,
    /// The key.
    pub key: Key,
    /// Its value from there on; `None` when it was deleted.
    pub value: Option<Value>,
}
