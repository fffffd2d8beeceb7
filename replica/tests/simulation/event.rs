//! The events of the simulated world, and the links between its replicas.

use kvorum_protocol::status::ReplicaId;
use kvorum_replica::engine::{Input, PeerMessage, Session};
use kvorum_replica::storage::memory::Memory;

/// A scheduled event.
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
    /// A connection attempt over a link.
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
    /// Any session of the link ends.
    Break {
        low: ReplicaId,
        high: ReplicaId,
    },
    Synced {
        node: ReplicaId,
        life: u64,
    },
    /// A read beside the engine is done.
    Read {
        node: ReplicaId,
        life: u64,
        input: Box<Input>,
    },
    Restart {
        node: ReplicaId,
    },
    /// A client chooses a request, or retries one.
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
    /// The orchestrator looks after the replica of an ordinal.
    Pod {
        ordinal: u32,
    },
    /// A disk is replaced by a copy that was taken of it, if others would notice.
    BringBack {
        node: ReplicaId,
        copy: Box<Memory>,
    },
    /// A random fault.
    Trouble,
}

impl Event {
    /// Returns the replica whose process must be running for the event; the event waits while that
    /// process is paused.
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

/// Returns the two ends of a link, the lower one first.
pub fn pair(a: ReplicaId, b: ReplicaId) -> (ReplicaId, ReplicaId) {
    (a.min(b), a.max(b))
}
