//! What the rest of the process tells the driver.

use kvorum_protocol::status::ReplicaId;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::link_handle::LinkHandle;
use super::sinks::ClientSink;
use crate::engine::{ClientKey, Input, Introduction, PeerMessage, Rejection, Session};
use crate::marker::{Mark, Past};
use crate::start::{Epoch, Start};
use crate::storage::Seen;

/// What links and peers tell the driver.
pub enum PeerEvent {
    /// A session began.
    Up {
        /// With whom.
        peer: ReplicaId,
        /// The session.
        session: Session,
        /// Where to send.
        link: LinkHandle,
    },
    /// A session ended.
    Down {
        /// With whom.
        peer: ReplicaId,
        /// The session.
        session: Session,
    },
    /// A message came; the permit gives back its room when it is dropped.
    Message {
        /// From whom.
        peer: ReplicaId,
        /// By which session.
        session: Session,
        /// The message.
        message: PeerMessage,
        /// Its room in the link's inbound budget.
        permit: OwnedSemaphorePermit,
    },
    /// How does this replica introduce itself, and what does it remember of the peer?
    Introduce {
        /// To whom.
        peer: ReplicaId,
        /// The answer.
        reply: oneshot::Sender<(Introduction, Option<Seen>)>,
    },
    /// May a stranger be told anything?
    Admit {
        /// What it says of itself.
        theirs: Introduction,
        /// The answer.
        reply: oneshot::Sender<Result<(), Rejection>>,
    },
    /// By which start does this replica prove itself to a peer?
    Start {
        /// The incarnation that the peer saw last; 0 when it never saw any.
        incarnation: u64,
        /// The answer.
        reply: oneshot::Sender<Option<Start>>,
    },
    /// What the disk has of one of this replica's starts.
    Past {
        /// Which.
        incarnation: u64,
        /// The answer.
        reply: oneshot::Sender<Option<Past>>,
    },
    /// Is this peer who it was?
    Judge {
        /// What it says of itself.
        theirs: Introduction,
        /// What this replica remembered of it when they met.
        seen: Option<Seen>,
        /// The epoch in which the writes of that start end on its disk, if it proved to have it.
        reaches: Option<Epoch>,
        /// The answer.
        reply: oneshot::Sender<Result<(), Rejection>>,
    },
    /// Both sides have taken each other.
    Meet {
        /// What the peer says of itself.
        theirs: Introduction,
        /// Told when it is remembered.
        reply: oneshot::Sender<()>,
    },
    /// A peer refuses this replica because it remembers another disk.
    Disowned {
        /// Which peer.
        peer: ReplicaId,
        /// Whether it proved to be who this replica remembers.
        is_proven: bool,
    },
}

/// What client connections and the process tell the driver.
pub enum ClientEvent {
    /// A connection began.
    Up {
        /// Its key.
        client: ClientKey,
        /// Where to send.
        sink: ClientSink,
    },
    /// It asks, cancels, or is gone; the permit gives back the request's room.
    Input {
        /// What happened.
        input: Input,
        /// The request's room in the budget of all clients.
        permit: Option<OwnedSemaphorePermit>,
    },
    /// End in order; the answer comes when everything is on disk.
    Stop {
        /// What the cluster's marker has to be told at last, of the epoch that the disk is in then.
        reply: oneshot::Sender<Option<Mark>>,
    },
}
