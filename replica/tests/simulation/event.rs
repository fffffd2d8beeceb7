//! What happens in the simulated world, and the links it happens on.

use kvorum_protocol::status::ReplicaId;
use kvorum_replica::engine::{PeerMessage, Session};

/// Something that will happen.
#[derive(Debug)]
pub enum Event {
    Tick {
        node: ReplicaId,
        life: u64,
    },
    Deliver {
        from: ReplicaId,
        to: ReplicaId,
        session: Session,
        message: Box<PeerMessage>,
    },
    /// One end of a link learns that a session began.
    Up {
        node: ReplicaId,
        life: u64,
        peer: ReplicaId,
        session: Session,
    },
    /// One end of a link learns that a session ended.
    Down {
        node: ReplicaId,
        life: u64,
        peer: ReplicaId,
        session: Session,
    },
    /// A link is tried.
    Connect {
        low: ReplicaId,
        high: ReplicaId,
    },
    Synced {
        node: ReplicaId,
        life: u64,
    },
    Restart {
        node: ReplicaId,
    },
    Client {
        client: usize,
    },
    /// A fault, at random.
    Trouble,
}

/// A link between two replicas.
#[derive(Default)]
pub struct Link {
    pub session: Option<Session>,
    pub is_cut: bool,
}
