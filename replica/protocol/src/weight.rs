//! Pure: the memory size of each message, and the limits of a request.
//!
//! Queues of messages are bounded by the weight of the messages. Guarantees that every variant is
//! weighed by all that it holds, that a weight is never less than the bytes on the wire, and that a
//! human-readable text has a bounded length. Does not know how much may be queued where.

use crate::access::{AccessReport, Right, RoleReport, UserReport, Whoami};
use crate::data::{Key, LimitError, Outcome, Value, validate_key};
use crate::limits::{CURSOR_BYTES_MAX, KEY_BYTES_MAX, TEXT_BYTES_MAX};
use crate::message::{
    Address, Admin, Answer, ClientFrame, Doubt, EntryEvent, Event, KeyEvent, Page, Pair, Refusal,
    Request, Scan, ServerFrame, SnapshotRequest, Subscription,
};
use crate::status::{Configuration, Membership, Status};

/// Bytes that any message or part of one takes beside its contents: numbers, pointers, allocations.
pub const OVERHEAD: usize = 128;

fn name(name: Option<&String>) -> usize {
    name.map_or(0, String::len)
}

fn value(value: Option<&Value>) -> usize {
    value.map_or(0, |value| value.0.len())
}

impl ServerFrame {
    /// Returns the approximate number of bytes it holds.
    #[must_use]
    pub fn weight(&self) -> usize {
        OVERHEAD
            + match self {
                Self::Answer { call: _, answer } => answer.weight(),
                Self::Event { call: _, event } => event.weight(),
                Self::Leader { name: leader } => name(leader.as_ref()),
                Self::Ping { applied: _ } => 0,
            }
    }
}

impl ClientFrame {
    /// Returns the approximate number of bytes it holds.
    #[must_use]
    pub fn weight(&self) -> usize {
        OVERHEAD
            + match self {
                Self::Call { call: _, request } => request.weight(),
                Self::Cancel { call: _ } | Self::Ping => 0,
            }
    }
}

impl Request {
    /// Returns the approximate number of bytes it holds.
    #[must_use]
    pub fn weight(&self) -> usize {
        OVERHEAD
            + match self {
                Self::Write { id: _, valid_until: _, operation } => operation.bytes(),
                Self::Get { key, consistency: _ } => key.0.len(),
                Self::Scan(scan) => scan.weight(),
                Self::Status | Self::Addresses | Self::Access(_) => 0,
                Self::Subscribe(
                    Subscription::Keys { prefix, from: _ }
                    | Subscription::Watch { prefix, from: _ },
                ) => prefix.len(),
                Self::Subscribe(Subscription::Status | Subscription::Log { from: _ }) => 0,
                Self::Admin(admin) => admin.weight(),
                Self::Snapshot(SnapshotRequest::Part { snapshot: _, after }) => after.0.len(),
                Self::Snapshot(SnapshotRequest::Open | SnapshotRequest::Close { .. }) => 0,
            }
    }

    /// Checks every key, prefix, bound, position and value against the limits. A valid request
    /// stays within them wherever it is kept.
    ///
    /// # Errors
    /// Names the exceeded limit, with both numbers.
    pub fn validate(&self) -> Result<(), LimitError> {
        match self {
            Self::Write { operation, .. } => operation.validate(),
            Self::Get { key, .. } => validate_key(key),
            Self::Scan(Scan { prefix, from, until, .. }) => {
                [prefix, from, until].into_iter().try_for_each(|bound| validate_bound(bound.len()))
            }
            Self::Subscribe(
                Subscription::Keys { prefix, .. } | Subscription::Watch { prefix, .. },
            ) => validate_bound(prefix.len()),
            Self::Snapshot(SnapshotRequest::Part { after, .. }) => match after.0.len() {
                0..=CURSOR_BYTES_MAX => Ok(()),
                bytes => Err(LimitError::KeyTooLong { bytes: bytes as u64 }),
            },
            // Names are only compared with those that exist, and not stored.
            Self::Admin(_)
            | Self::Status
            | Self::Addresses
            | Self::Access(_)
            | Self::Subscribe(Subscription::Status | Subscription::Log { .. })
            | Self::Snapshot(SnapshotRequest::Open | SnapshotRequest::Close { .. }) => Ok(()),
        }
    }
}

/// Checks the length of a prefix or a bound, which may be empty.
fn validate_bound(bytes: usize) -> Result<(), LimitError> {
    match bytes {
        0..=KEY_BYTES_MAX => Ok(()),
        bytes => Err(LimitError::KeyTooLong { bytes: bytes as u64 }),
    }
}

impl Scan {
    /// Returns the approximate number of bytes it holds.
    #[must_use]
    pub fn weight(&self) -> usize {
        OVERHEAD + self.prefix.len() + self.from.len() + self.until.len()
    }
}

impl Admin {
    fn weight(&self) -> usize {
        match self {
            Self::HandOver { to } => to.len(),
            Self::Cut { peer } | Self::Heal { peer } => peer.len(),
            Self::Crash => 0,
            Self::Join { name, nonce: _ } => name.len(),
        }
    }
}

impl Answer {
    /// Returns the approximate number of bytes it holds.
    #[must_use]
    pub fn weight(&self) -> usize {
        OVERHEAD
            + match self {
                Self::Written(
                    Outcome::Put { .. }
                    | Outcome::Deleted { .. }
                    | Outcome::ConditionFailed { .. }
                    | Outcome::Expired
                    | Outcome::AccessChanged
                    | Outcome::AccessUnchanged(_)
                    | Outcome::Forbidden,
                ) => 0,
                Self::Value(pair) => pair.as_ref().map_or(0, Pair::weight),
                Self::Page(page) => page.weight(),
                Self::Status(status) => status.weight(),
                Self::Subscribed { from: _ } | Self::Done => 0,
                Self::Refused(refusal) => refusal.weight(),
                Self::Unknown(Doubt::LeaderChanged | Doubt::LinkLost | Doubt::NoQuorum) => 0,
                Self::Snapshot { snapshot: _, index: _, keys: _ } => 0,
                Self::Part { part, keys: _, next } => part.0.len() + value(next.as_ref()),
                Self::Joined { replica: _, configuration } => configuration.weight(),
                Self::Addresses(all) => all.iter().map(Address::weight).sum(),
                Self::Access(report) => report.weight(),
            }
    }
}

impl AccessReport {
    fn weight(&self) -> usize {
        let names =
            |names: &[String]| names.iter().map(|name| OVERHEAD + name.len()).sum::<usize>();
        let rights = |rights: &[Right]| {
            rights.iter().map(|right| OVERHEAD + right.range.bytes()).sum::<usize>()
        };
        match self {
            Self::Whoami(Whoami { user, roles, is_root: _, rights: own }) => {
                user.len() + names(roles) + rights(own)
            }
            Self::Users(users) => users
                .iter()
                .map(|UserReport { user, roles, has_password: _ }| {
                    OVERHEAD + user.len() + names(roles)
                })
                .sum(),
            Self::Token { token, until_us: _ } => token.0.len(),
            Self::Nothing(_) => 0,
            Self::Roles(roles) => roles
                .iter()
                .map(|RoleReport { role, is_root: _, rights: own }| {
                    OVERHEAD + role.len() + rights(own)
                })
                .sum(),
        }
    }
}

impl Address {
    fn weight(&self) -> usize {
        OVERHEAD + self.name.len() + self.clients.len()
    }
}

impl Pair {
    fn weight(&self) -> usize {
        OVERHEAD + self.bytes()
    }
}

impl Page {
    /// Returns the approximate number of bytes it holds.
    #[must_use]
    pub fn weight(&self) -> usize {
        let next = self.next.as_ref().map_or(0, |next| next.0.len());
        self.pairs.iter().map(Pair::weight).sum::<usize>() + next
    }
}

impl Refusal {
    /// Returns the approximate number of bytes it holds.
    #[must_use]
    pub fn weight(&self) -> usize {
        OVERHEAD
            + match self {
                Self::Limit(
                    LimitError::KeyEmpty
                    | LimitError::KeyTooLong { .. }
                    | LimitError::ValueTooLong { .. }
                    | LimitError::Access(_),
                ) => 0,
                Self::NotLeader { leader } => name(leader.as_ref()),
                Self::Unavailable(why) => why.len(),
                Self::UnknownReplica { name, members } => name.len() + members.len(),
                Self::NoLeader
                | Self::NoQuorum
                | Self::Overloaded
                | Self::HandingOver
                | Self::DiskFull { .. }
                | Self::Compacted { .. }
                | Self::FaultsForbidden
                | Self::SnapshotGone
                | Self::TooManySubscriptions { .. }
                | Self::Busy { .. } => 0,
                Self::Forbidden { user, right } => user.len() + right.len(),
            }
    }

    /// Returns the same refusal with texts of a bounded length: some repeat what a client sent.
    #[must_use]
    pub fn bounded(self) -> Self {
        match self {
            Self::Unavailable(why) => Self::Unavailable(bounded(why)),
            Self::UnknownReplica { name, members } => {
                Self::UnknownReplica { name: bounded(name), members: bounded(members) }
            }
            Self::NotLeader { leader } => Self::NotLeader { leader: leader.map(bounded) },
            Self::Forbidden { user, right } => {
                Self::Forbidden { user: bounded(user), right: bounded(right) }
            }
            other => other,
        }
    }
}

/// Cuts a text that is longer than [`TEXT_BYTES_MAX`].
#[must_use]
pub fn bounded(mut text: String) -> String {
    const CUT: &str = "…";
    if text.len() > TEXT_BYTES_MAX {
        let ends = (0..=TEXT_BYTES_MAX - CUT.len()).rev();
        let end = ends.into_iter().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push_str(CUT);
        text.shrink_to_fit();
    }
    text
}

impl Event {
    /// Returns the approximate number of bytes it holds.
    #[must_use]
    pub fn weight(&self) -> usize {
        OVERHEAD
            + match self {
                Self::Status(status) => status.weight(),
                Self::Entry(EntryEvent { key, preview, .. }) => {
                    key.as_ref().map_or(0, |key| key.0.len()) + value(preview.as_ref())
                }
                Self::Key(KeyEvent { index: _, key: Key(key), value: of }) => {
                    key.len() + value(of.as_ref())
                }
                Self::Compacted { from: _ } | Self::Progress { next: _ } => 0,
            }
    }
}

impl Configuration {
    fn weight(&self) -> usize {
        self.members.iter().map(|member| OVERHEAD + member.name.len()).sum()
    }
}

impl Membership {
    fn weight(&self) -> usize {
        let joiners = self.joiners.iter().map(|joiner| OVERHEAD + joiner.name.len());
        let leaving = self.leaving.iter().map(|leaving| OVERHEAD + leaving.len());
        joiners.chain(leaving).sum::<usize>() + name(self.waits.as_ref())
    }
}

impl Status {
    /// Returns the approximate number of bytes it holds.
    #[must_use]
    pub fn weight(&self) -> usize {
        let links = self.links.iter().map(|link| OVERHEAD + link.peer.len()).sum::<usize>();
        let texts = name(self.leader.as_ref()) + name(self.trouble.as_ref());
        let from = self.catching_up.as_ref().map_or(0, |copy| OVERHEAD + copy.from.len());
        // Its numbers alone take more than one overhead.
        4 * OVERHEAD
            + self.name.len()
            + self.configuration.weight()
            + self.membership.weight()
            + links
            + texts
            + from
    }
}

#[cfg(test)]
mod tests;
