//! Pure: what two replicas say of themselves when they meet, and the reasons to turn one away.
//!
//! Does not judge; [introductions](super::introductions) does. The transport holds the handshake.

use kvorum_protocol::status::{ClusterId, ReplicaId};
use serde::{Deserialize, Serialize};

use super::store::PeerRecord;
use crate::state::start::{Epoch, Start, StartKey};
use crate::state::version::Version;

/// The identity that a replica sends when a session begins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Introduction {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Its id.
    pub replica: ReplicaId,
    /// Its name.
    pub name: String,
    /// The number of this start.
    pub incarnation: u64,
    /// The public key of that start.
    pub key: StartKey,
    /// The other side's incarnation that it saw last; 0 when it never saw one.
    pub last_saw: u64,
    /// The oldest and the newest version that its program knows.
    pub versions: (Version, Version),
}

/// The reason why a replica does not talk to another one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    /// The cluster has a version that the other replica's program does not know.
    #[error(
        "the cluster has version {cluster}, and {name} knows {} to {}: install a program there \
         that knows it",
        knows.0,
        knows.1
    )]
    Version {
        /// The cluster's version.
        cluster: Version,
        /// The rejected replica's name.
        name: String,
        /// The oldest and the newest version that it knows.
        knows: (Version, Version),
    },
    /// It belongs to another cluster.
    #[error("it belongs to cluster {theirs}, not to the one that this replica belongs to")]
    OtherCluster {
        /// The rejected replica's cluster.
        theirs: ClusterId,
    },
    /// It is not a member, or has another member's name.
    #[error("{name:?} (replica {replica}) is no member of this cluster")]
    NoMember {
        /// Its name.
        name: String,
        /// Its id.
        replica: u64,
    },
    /// It does not continue the incarnation that was seen last, up to its last seen epoch: its disk
    /// was lost, replaced by an older copy, or copied.
    #[error(
        "{name} does not continue incarnation {seen}, which was seen last: its disk was lost, is \
         an older copy, or is in use twice"
    )]
    OtherDisk {
        /// Its name.
        name: String,
        /// The incarnation seen last.
        seen: u64,
    },
    /// The link is cut on purpose.
    #[error("the link is cut on purpose")]
    Cut,
    /// Another meeting with it took place in between; it may retry.
    #[error("another meeting came in between")]
    Crossed,
    /// It reports an impossible number of starts.
    #[error("it says that it was started more often than anything can be")]
    Impossible,
}

/// What a replica brings to a handshake.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// Its introduction.
    pub mine: Introduction,
    /// What it remembers of the peer; `None` when it never met it.
    pub seen: Option<PeerRecord>,
    /// The start by which it proves itself to a peer that dialed; `None` when its disk does not
    /// have it, or when it dials and does not know yet which one the peer saw.
    pub start: Option<Start>,
}

/// What a peer says in a handshake, and what it has proven of that.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The peer's introduction.
    pub theirs: Introduction,
    /// The last start of the peer that this replica remembered when the handshake began.
    pub seen: Option<PeerRecord>,
    /// The epoch in which that start's writes end on the peer's disk, if it proved to have that
    /// start; if none was remembered, the same of its current start.
    pub reaches: Option<Epoch>,
}
