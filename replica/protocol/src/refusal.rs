//! Pure: why a request did not happen, or why nobody knows whether it did.
//!
//! Guarantees that each reason reads as a sentence after the name of the replica that gives it.
//! Variants are only ever appended; a number on the wire keeps its meaning.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::WIRE_VERSION_BUSY;
use crate::data::LimitError;

/// The reason why a request did not happen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// A limit is exceeded.
    #[error(transparent)]
    Limit(LimitError),
    /// No leader is known.
    #[error("no leader is known here; fewer than a majority of the replicas may be up")]
    NoLeader,
    /// This replica does not lead; retry at the leader.
    #[error("this replica does not lead")]
    NotLeader {
        /// The leader's name, when known.
        leader: Option<String>,
    },
    /// A majority did not confirm the leader in time.
    #[error("a majority of the replicas did not answer in time")]
    NoQuorum,
    /// A queue is full; retry later. Newer clients are told [`Self::Busy`] instead.
    #[error("the replica is overloaded; try again in a moment")]
    Overloaded,
    /// Leadership is being handed over; retry at once.
    #[error("leadership is being handed over")]
    HandingOver,
    /// The replica does not serve; the text gives the reason and the remedy.
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
    /// The requested index is no longer, or not yet, in the log.
    #[error("the log begins after index {from} here; read the keys anew")]
    Compacted {
        /// The first index that is available.
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
        /// The names of the members.
        members: String,
    },
    /// The snapshot was closed: the replica restarted, copied its own state again, or the snapshot
    /// was not read for too long.
    #[error("the snapshot is closed; begin again")]
    SnapshotGone,
    /// The connection has the most subscriptions that are allowed.
    #[error("a connection has at most {most} subscriptions")]
    TooManySubscriptions {
        /// The limit.
        most: u32,
    },
    /// The user may not do this.
    #[error("{user} has no right {right}")]
    Forbidden {
        /// The user's name.
        user: String,
        /// The right that is missing, such as `to write this key`.
        right: String,
    },
    /// A queue is full; retry after a time.
    #[error("the replica is overloaded; try again in {retry_after_ms} ms")]
    Busy {
        /// The time after which a retry may be taken, in milliseconds.
        retry_after_ms: u32,
    },
}

/// The time after which a client that was refused as overload comes back, at least and at most.
const RETRY_AFTER: std::ops::Range<Duration> = Duration::from_millis(50)..Duration::from_secs(1);

impl Refusal {
    /// Returns the refusal of a queue in which requests wait this long.
    #[must_use]
    pub fn busy(waits: Duration) -> Self {
        let retry_after = waits.clamp(RETRY_AFTER.start, RETRY_AFTER.end).as_millis();
        Self::Busy { retry_after_ms: u32::try_from(retry_after).unwrap_or(u32::MAX) }
    }

    /// Returns the refusal as clients of a version of the wire protocol know it.
    #[must_use]
    pub fn in_version(self, version: u16) -> Self {
        match (self, version >= WIRE_VERSION_BUSY) {
            (Self::Overloaded, true) => Self::busy(Duration::ZERO),
            (Self::Busy { .. }, false) => Self::Overloaded,
            (refusal, _) => refusal,
        }
    }
}

/// The reason why the fate of a write is unknown.
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
