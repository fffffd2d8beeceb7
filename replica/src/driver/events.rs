//! The events that the rest of the process sends to the driver.

use kvorum_protocol::status::ReplicaId;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::link_handle::LinkHandle;
use super::sinks::ClientSink;
use crate::engine::{
    Claim, ClientKey, Greeting, Input, Introduction, PeerMessage, Rejection, Session,
};
use crate::marker::{Mark, Past};
use crate::shares::room::{AccountId, Room};
use crate::state::start::Start;

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
    /// A request for what this replica brings to a handshake.
    Greet {
        /// The peer.
        peer: ReplicaId,
        /// The peer's introduction, of which nothing is proven, if the peer dialed.
        theirs: Option<Introduction>,
        /// Receives it; or the reason why the stranger must not be sent anything.
        reply: oneshot::Sender<Result<Greeting, Rejection>>,
    },
    /// A question whether this peer is the same replica as before.
    Judge {
        /// The peer's claim.
        claim: Claim,
        /// Receives the verdict, and the start by which this replica proves itself to the peer;
        /// `None` when the disk does not have it.
        reply: oneshot::Sender<(Result<(), Rejection>, Option<Start>)>,
    },
    /// Both sides have accepted each other.
    Met {
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

/// An event from a client connection.
pub enum ClientEvent {
    /// A connection began.
    Up {
        /// The connection's key.
        client: ClientKey,
        /// The handle for sending to the client.
        sink: ClientSink,
    },
    /// The client calls.
    Call {
        /// The account of the client's party.
        account: AccountId,
        /// The call.
        input: Input,
    },
    /// The client cancels a call, or is gone.
    Input {
        /// The input for the engine.
        input: Input,
        /// The room of a closed connection's requests, which are in the driver's queues until it
        /// handles this.
        rooms: Vec<Room>,
    },
}

/// An event from the process around the driver: its orchestrator, its disk, its end.
#[expect(clippy::large_enum_variant, reason = "few of them wait")]
pub enum ControlEvent {
    /// The process observed something, or wants something, that no client asked for.
    Input(Input),
    /// A request for what the disk has recorded of one of this replica's starts.
    Past {
        /// The incarnation of that start.
        incarnation: u64,
        /// Receives the record.
        reply: oneshot::Sender<Option<Past>>,
    },
    /// A request to stop in order; the reply is sent when everything is on disk.
    Stop {
        /// Receives the last mark for the cluster's marker, for the epoch that the disk is in then.
        reply: oneshot::Sender<Option<Mark>>,
    },
}
