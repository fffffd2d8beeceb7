//! Pure: keys, values, the operations on them and their outcomes.
//!
//! Guarantees that a [`RequestId`] names one request for ever, however often it is sent. Does not
//! know how an outcome is determined.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;

use crate::access::{self, AccessChange, AccessError};
use crate::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

/// A key: 1 to [`KEY_BYTES_MAX`] bytes, ordered bytewise. Text is the console's business.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct Key(pub Bytes);

/// A value: 0 to [`VALUE_BYTES_MAX`] bytes.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct Value(pub Bytes);

impl Key {
    /// Returns the smallest key that is greater than every key with this prefix; `None` when there
    /// is no such key (the prefix is empty or all `0xff`).
    #[must_use]
    pub fn prefix_end(prefix: &[u8]) -> Option<Self> {
        access::prefix_end(prefix).map(Self)
    }
}

impl<B: Into<Bytes>> From<B> for Key {
    fn from(bytes: B) -> Self {
        Self(bytes.into())
    }
}

impl<B: Into<Bytes>> From<B> for Value {
    fn from(bytes: B) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            0..=64 => write!(f, "\"{}\"", self.0.escape_ascii()),
            length => write!(f, "({length} bytes)"),
        }
    }
}

/// A client's id: 128 random bits that it drew when it started.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClientId(pub u128);

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A lane of a client: a sequence of writes of which at most one is undecided. A client with N
/// writes in flight uses N lanes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct LaneId {
    /// The client that owns the lane.
    pub client: ClientId,
    /// The lane's number, chosen by the client.
    pub number: u32,
}

/// The id of one write of one client, however often it is sent. The write is applied at most once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct RequestId {
    /// The lane that carries the write.
    pub lane: LaneId,
    /// The write's position in the lane, from 1. A lane's numbers only rise.
    pub sequence: u64,
}

/// The condition on a key for an operation to take effect. Evaluated when the operation is applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Condition {
    /// No condition: the operation always takes effect.
    Always,
    /// The key does not exist.
    Absent,
    /// The key's last write has this revision.
    AtRevision(u64),
}

/// A change of one key, or of the users and their rights.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Operation {
    /// Sets a key's value.
    Put {
        /// The key.
        key: Key,
        /// The key's new value.
        value: Value,
        /// The condition for the put to take effect.
        condition: Condition,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: Key,
        /// The condition for the delete to take effect.
        condition: Condition,
    },
    /// Changes the users, the roles or their rights. Since wire version 4.
    Access(AccessChange),
}

impl Operation {
    /// Returns the key that is changed, if one is.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => Some(key),
            Self::Access(_) => None,
        }
    }

    /// Returns the number of bytes of its keys, values and names.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.0.len() + value.0.len(),
            Self::Delete { key, .. } => key.0.len(),
            Self::Access(change) => change.bytes(),
        }
    }

    /// Checks the operation against the limits.
    ///
    /// # Errors
    /// Names the exceeded limit, with both numbers.
    pub fn validate(&self) -> Result<(), LimitError> {
        match self {
            Self::Put { key, value, .. } => {
                validate_key(key)?;
                match value.0.len() {
                    0..=VALUE_BYTES_MAX => Ok(()),
                    bytes => Err(LimitError::ValueTooLong { bytes: bytes as u64 }),
                }
            }
            Self::Delete { key, .. } => validate_key(key),
            Self::Access(change) => change.validate().map_err(LimitError::Access),
        }
    }
}

/// Checks a key against the limits.
///
/// # Errors
/// When it is empty or longer than [`KEY_BYTES_MAX`].
pub fn validate_key(key: &Key) -> Result<(), LimitError> {
    match key.0.len() {
        0 => Err(LimitError::KeyEmpty),
        1..=KEY_BYTES_MAX => Ok(()),
        bytes => Err(LimitError::KeyTooLong { bytes: bytes as u64 }),
    }
}

/// A limit that a request exceeds. The request did nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum LimitError {
    /// The key is empty.
    #[error("the key is empty; a key has 1 to {KEY_BYTES_MAX} bytes")]
    KeyEmpty,
    /// The key is longer than [`KEY_BYTES_MAX`].
    #[error("the key has {bytes} bytes; a key has at most {KEY_BYTES_MAX}")]
    KeyTooLong {
        /// The key's length.
        bytes: u64,
    },
    /// The value is longer than [`VALUE_BYTES_MAX`].
    #[error("the value has {bytes} bytes; a value has at most {VALUE_BYTES_MAX}")]
    ValueTooLong {
        /// The value's length.
        bytes: u64,
    },
    /// A name or a range is not one.
    #[error(transparent)]
    Access(AccessError),
}

/// The outcome of an applied operation. It is the same on every replica, and kept with the lane, so
/// that a repetition gets the same answer as the first time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// The key has the value; `revision` is the index of the entry that wrote it.
    Put {
        /// The decided index of the write.
        revision: u64,
    },
    /// The key does not exist, or no longer.
    Deleted {
        /// The decided index of the delete.
        revision: u64,
        /// Whether the key existed before.
        existed: bool,
    },
    /// The condition did not hold; nothing changed.
    ConditionFailed {
        /// The revision of the key's last write; `None` when the key does not exist.
        current: Option<u64>,
    },
    /// The request was applied more than `SESSION_ENTRIES` entries after the index that its client
    /// had been given. This attempt changed nothing. An earlier attempt of the same request may
    /// have been applied, and forgotten since: to a client that made one and got no answer, the
    /// outcome is unknown.
    Expired,
    /// The users, roles and rights are as asked.
    AccessChanged,
    /// The users, roles and rights are as they were.
    AccessUnchanged(AccessError),
    /// The user had no right to do this when it was applied; nothing changed. A replica answers a
    /// client with a refusal instead.
    Forbidden,
}
