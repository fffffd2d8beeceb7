//! The events that the rest of the process sends to the driver.

use kvorum_protocol::status::ReplicaId;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::link_handle::LinkHandle;
use super::sinks::ClientSink;
use crate::engine::{ClientKey, Input, Introduction, PeerMessage, Rejection, Session};
use crate::marker::{Mark, Past};
use crate::state::start::{Epoch, Start};
use crate::storage::Seen;

/// An event from a link or a peer.
pub enum PeerEvent {
    /// A session began.
    Up {
        /// The peer.
        peer: ReplicaId,
        /// The number of the session.
        session: Session,
        /// The handle for sending to the peer.
        link: LinkHandle,
    },
    /// A session ended.
    Down {
        /// The peer.
        peer: ReplicaId,
        /// The number of the session.
        session: Session,
    },
    /// A message arrived; dropping the permit returns its room.
    Message {
        /// The sender.
        peer: ReplicaId,
        /// The session by which it arrived.
        session: Session,
        /// The message.
        message: PeerMessage,
        /// Its room in the link's inbound budget.
        permit: OwnedSemaphorePermit,
    },
    /// A request for this replica's introduction, and for what it remembers of the peer.
    Introduce {
        /// The peer that is to receive the introduction.
        peer: ReplicaId,
        /// Receives the introduction and the remembered start.
        reply: oneshot::Sender<(Introduction, Option<Seen>)>,
    },
    /// A question whether a stranger may be sent anything.
    Admit {
        /// The stranger's introduction.
        theirs: Introduction,
        /// Receives the verdict.
        reply: oneshot::Sender<Result<(), Rejection>>,
    },
    /// A request for the start by which this replica proves itself to a peer.
    Start {
        /// The incarnation that the peer saw last; 0 when it never saw one.
        incarnation: u64,
        /// Receives the start; `None` when the disk does not have it.
        reply: oneshot::Sender<Option<Start>>,
    },
    /// A request for what the disk has recorded of one of this replica's starts.
    Past {
        /// The incarnation of that start.
        incarnation: u64,
        /// Receives the record.
        reply: oneshot::Sender<Option<Past>>,
    },
    /// A question whether this peer is the same replica as before.
    Judge {
        /// The peer's introduction.
        theirs: Introduction,
        /// The last start of the peer that this replica remembered when they met.
        seen: Option<Seen>,
        /// The epoch in which that start's writes end on the peer's disk, if it proved to have it.
        reaches: Option<Epoch>,
        /// Receives the verdict.
        reply: oneshot::Sender<Result<(), Rejection>>,
    },
    /// Both sides have accepted each other.
    Meet {
        /// The peer's introduction.
        theirs: Introduction,
        /// Notified when the peer is remembered.
        reply: oneshot::Sender<()>,
    },
    /// A peer rejects this replica because it remembers another disk.
    Disowned {
        /// The peer.
        peer: ReplicaId,
        /// Whether the peer proved to be the one that this replica remembers.
        is_proven: bool,
    },
}

/// An event from a client connection, or from the process.
pub enum ClientEvent {
    /// A connection began.
    Up {
        /// The connection's key.
        client: ClientKey,
        /// The handle for sending to the client.
        sink: ClientSink,
    },
    /// The client sends a request, cancels one, or is gone; the permit returns the request's room.
    Input {
        /// The input for the engine.
        input: Input,
        /// The request's room in the budget of all clients.
        permit: Option<OwnedSemaphorePermit>,
    },
    /// A request to stop in order; the reply is sent when everything is on disk.
    Stop {
        /// Receives the last mark for the cluster's marker, for the epoch that the disk is in then.
        reply: oneshot::Sender<Option<Mark>>,
    },
}
