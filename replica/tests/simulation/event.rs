//! What happens in the simulated world, and the links it happens on.

use kvorum_protocol::status::ReplicaId;
use kvorum_replica::engine::{Input, PeerMessage, Session};
use kvorum_replica::storage::memory::Memory;

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
    /// A session ends, if it is still this one: it was silent for too long.
    Silent {
        low: ReplicaId,
        high: ReplicaId,
        session: Option<Session>,
    },
    /// Whatever session there is ends.
    Break {
        low: ReplicaId,
        high: ReplicaId,
    },
    Synced {
        node: ReplicaId,
        life: u64,
    },
    /// What was to be read is read.
    Read {
        node: ReplicaId,
        life: u64,
        input: Box<Input>,
    },
    Restart {
        node: ReplicaId,
    },
    /// A client thinks of something, or tries again.
    Client {
        client: usize,
    },
    /// A client's request arrives.
    Ask {
        node: ReplicaId,
        client: usize,
        input: Box<Input>,
    },
    /// All cut links are healed.
    Heal,
    /// Whoever runs the replica of an ordinal looks after it.
    Pod {
        ordinal: u32,
    },
    /// A disk is replaced by a copy that was taken of it, if the others would know.
    BringBack {
        node: ReplicaId,
        copy: Box<Memory>,
    },
    /// A fault, at random.
    Trouble,
}

impl Event {
    /// The process that has to be running for it to happen; it waits while that one is paused.
    pub fn at(&self) -> Option<ReplicaId> {
        match self {
            Self::Tick { node, .. }
            | Self::Up { node, .. }
            | Self::Down { node, .. }
            | Self::Synced { node, .. }
            | Self::Read { node, .. }
            | Self::Ask { node, .. } => Some(*node),
            Self::Deliver { to, .. } => Some(*to),
            _ => None,
        }
    }
}

/// A link between two replicas.
#[derive(Default)]
pub struct Link {
    pub session: Option<Session>,
    pub is_cut: bool,
}

/// The two ends of a link, the lower one first.
pub fn pair(a: ReplicaId, b: ReplicaId) -> (ReplicaId, ReplicaId) {
    (a.min(b), a.max(b))
}
