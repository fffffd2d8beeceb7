//! Pure: requests, answers and events.
//!
//! Guarantees that an answer names one of the fates of its request: done, refused (did not and will
//! not happen by this attempt), or unknown. Variants are only ever appended; a number on the wire
//! keeps its meaning.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::access::{AccessQuery, AccessReport};
use crate::data::{Key, Operation, Outcome, RequestId, Value};
pub use crate::refusal::{Doubt, Refusal};
use crate::status::{self, Configuration, ReplicaId, Status};
use crate::{
    WIRE_VERSION_ACCESS, WIRE_VERSION_ADDRESSES, WIRE_VERSION_OLDEST, WIRE_VERSION_PROGRESS,
};

/// A frame from a client after the handshake.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ClientFrame {
    /// Sends a request. The answer carries the same number.
    Call {
        /// Chosen by the client; unique among its calls and subscriptions in flight.
        call: u64,
        /// The request.
        request: Request,
    },
    /// Ends a subscription.
    Cancel {
        /// The call that opened the subscription.
        call: u64,
    },
    /// Shows only that the client is alive.
    Ping,
}

/// A frame from a replica after the handshake.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ServerFrame {
    /// Answers a call.
    Answer {
        /// The call.
        call: u64,
        /// The answer.
        answer: Answer,
    },
    /// Sends an event of a subscription.
    Event {
        /// The call that opened the subscription.
        call: u64,
        /// The event.
        event: Event,
    },
    /// Reports that the leader that this replica knows has changed.
    Leader {
        /// The leader's name; `None` while there is none.
        name: Option<String>,
    },
    /// Shows that the replica is alive, with its applied index for `valid_until`.
    Ping {
        /// The index up to which the replica has applied the log.
        applied: u64,
    },
}

/// The required freshness of a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Consistency {
    /// The state as of some moment between the call and the answer.
    Linearizable,
    /// The state that this replica has applied; may be stale.
    Local,
}

/// A client's request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Changes a key.
    Write {
        /// The id of the write for ever; the same on every attempt.
        id: RequestId,
        /// The last index at which the write may be applied: an index that a replica reported to
        /// the client, plus `SESSION_ENTRIES`.
        valid_until: u64,
        /// The change.
        operation: Operation,
    },
    /// Reads a key.
    Get {
        /// The key.
        key: Key,
        /// The required freshness.
        consistency: Consistency,
    },
    /// Reads a page of keys in order.
    Scan(Scan),
    /// Requests the replica's status.
    Status,
    /// Opens a subscription; its events carry the call's number.
    Subscribe(Subscription),
    /// Performs an administrative request.
    Admin(Admin),
    /// Copies the whole state as of one index, part by part.
    Snapshot(SnapshotRequest),
    /// Requests the addresses at which the other replicas accept clients. Since wire version 2.
    Addresses,
    /// Asks for users, roles or rights. Since wire version 4.
    Access(AccessQuery),
}

impl Request {
    /// Returns the first version of the wire protocol in which there is such a request.
    #[must_use]
    pub fn version(&self) -> u16 {
        match self {
            Self::Access(_) | Self::Write { operation: Operation::Access(_), .. } => {
                WIRE_VERSION_ACCESS
            }
            Self::Subscribe(Subscription::Watch { .. }) => WIRE_VERSION_PROGRESS,
            Self::Addresses => WIRE_VERSION_ADDRESSES,
            Self::Write { .. }
            | Self::Get { .. }
            | Self::Scan(_)
            | Self::Status
            | Self::Subscribe(_)
            | Self::Admin(_)
            | Self::Snapshot(_) => WIRE_VERSION_OLDEST,
        }
    }
}

/// A step of copying the state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SnapshotRequest {
    /// Opens a snapshot, which has every write that was acknowledged before. It is closed when it
    /// is not read for some 30 seconds.
    Open,
    /// Reads a part.
    Part {
        /// The snapshot to read.
        snapshot: SnapshotName,
        /// The position that the part before returned as `next`; empty for the first.
        after: Value,
    },
    /// Closes a snapshot.
    Close {
        /// The snapshot to close.
        snapshot: SnapshotName,
    },
}

/// The name of a snapshot, unique across processes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SnapshotName {
    /// The nonce of the replica's process.
    pub nonce: u64,
    /// The snapshot's number within the process.
    pub number: u64,
}

/// A request for a page of keys in order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Scan {
    /// Only keys with this prefix are returned; empty for all.
    pub prefix: Vec<u8>,
    /// The page begins at the first key at or after this one; empty for the prefix's first.
    pub from: Vec<u8>,
    /// Only keys before this one are returned; empty for no end.
    pub until: Vec<u8>,
    /// Most pairs in the page; 0 for as many as the limits allow.
    pub limit: u32,
    /// Whether the values are left out.
    pub keys_only: bool,
    /// The required freshness.
    pub consistency: Consistency,
}

impl Scan {
    /// Returns a request for the first page of the keys with a prefix (empty for all), with values,
    /// as long as the limits allow.
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

    /// Returns the request for the page after `page`, which this request returned; `None` after the
    /// last.
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
    /// Returns the number of bytes of the key and the value.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.key.0.len() + self.value.0.len()
    }
}

/// The subject of a subscription.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Subscription {
    /// The replica's status: at once when its role, leader, ballot or a link changes, and at most
    /// ten times a second when only its indexes do.
    Status,
    /// Decided entries, in order, each once.
    Log {
        /// The first index to send; 0 for entries decided from now on.
        from: u64,
    },
    /// Changes of keys, in order, each once.
    Keys {
        /// Only keys with this prefix are sent; empty for all.
        prefix: Vec<u8>,
        /// The first index to send; 0 for changes from now on.
        from: u64,
    },
    /// As [`Self::Keys`], with periodic reports of its position while no such key changes: a
    /// subscriber that loses it can go on from there when earlier entries are no longer in the log.
    Watch {
        /// Only keys with this prefix are sent; empty for all.
        prefix: Vec<u8>,
        /// The first index to send; 0 for changes from now on.
        from: u64,
    },
}

impl Subscription {
    /// Returns the same subscription from another index on.
    #[must_use]
    pub fn going_on(self, from: u64) -> Self {
        match self {
            Self::Status => Self::Status,
            Self::Log { .. } => Self::Log { from },
            Self::Keys { prefix, .. } => Self::Keys { prefix, from },
            Self::Watch { prefix, .. } => Self::Watch { prefix, from },
        }
    }

    /// Returns the equivalent subscription in a version of the wire protocol.
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

/// An administrative request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Admin {
    /// Hands leadership to the named replica, or to the most up-to-date one when the name is empty.
    HandOver {
        /// The new leader's name.
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
    /// Gives an id to a replica that has none and wants to become a member. Performed by the
    /// leader.
    Join {
        /// The joiner's name.
        name: String,
        /// A number drawn by the joiner: a retry with the same one gets the same id.
        nonce: u64,
    },
}

/// A replica's answer.
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
    /// The administrative request is done.
    Done,
    /// The request did not happen and will not by this attempt.
    Refused(Refusal),
    /// The replica cannot tell whether the write will be decided; retry with the same id.
    Unknown(Doubt),
    /// A snapshot is open.
    Snapshot {
        /// The snapshot's name.
        snapshot: SnapshotName,
        /// The index as of which the snapshot shows the state.
        index: u64,
        /// The approximate number of keys in it.
        keys: u64,
    },
    /// A part of a snapshot.
    Part {
        /// The encoded records, for a replica to read.
        part: Value,
        /// The number of keys in the part.
        keys: u64,
        /// The position of the next part; `None` after the last.
        next: Option<Value>,
    },
    /// The id of a joiner, and the members that it copies the state from.
    Joined {
        /// The joiner's id.
        replica: ReplicaId,
        /// The members.
        configuration: Configuration,
    },
    /// The addresses at which the other replicas were reached last, as far as this one knows.
    Addresses(Vec<Address>),
    /// The users, roles or rights that were asked for.
    Access(AccessReport),
}

/// The address at which a replica accepts clients.
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
    /// The first key of the next page; `None` after the last.
    pub next: Option<Key>,
    /// The index as of which the page shows the state.
    pub index: u64,
}

/// An event of a subscription. Times are by the clock of the sending replica.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Event {
    /// The replica's status; shared among all its subscribers.
    Status(#[serde(with = "status::shared")] Arc<Status>),
    /// A decided entry.
    Entry(EntryEvent),
    /// A changed key.
    Key(KeyEvent),
    /// The subscription ended: the next entries it needs are no longer in the log. Read the keys
    /// again and subscribe from the page's index.
    Compacted {
        /// The first index that is available.
        from: u64,
    },
    /// Everything before an index was sent.
    Progress {
        /// The index.
        next: u64,
    },
}

/// A decided entry, as the log pane shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EntryEvent {
    /// The entry's decided index.
    pub index: u64,
    /// The entry's kind.
    pub kind: EntryKind,
    /// The key, when the entry changes one.
    pub key: Option<Key>,
    /// The first bytes of the value, when the entry sets one.
    pub preview: Option<Value>,
    /// The length of the whole value, in bytes.
    pub value_bytes: u64,
    /// Whether the entry changed a key: repeated, expired and failed commands did not.
    pub took_effect: bool,
}

/// The kind of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum EntryKind {
    /// No change: a new leader proposes it.
    Noop,
    /// A put.
    Put,
    /// A delete.
    Delete,
    /// The end of a configuration.
    StopSign,
    /// A higher version of the cluster.
    Version,
    /// A comparison of the replicas' states as of here.
    Checksum,
    /// The assignment of an id to a replica, to become a member.
    Join,
    /// A change of users, roles or rights.
    Access,
}

/// A changed key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeyEvent {
    /// The index of the change, and the key's revision if it has a value.
    pub index: u64,
    /// The key.
    pub key: Key,
    /// The key's value from there on; `None` when it was deleted.
    pub value: Option<Value>,
}
