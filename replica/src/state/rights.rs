//! Pure: who may do what.
//!
//! A request is reduced to the things that it touches, and each of them is judged by the accounts
//! of the cluster. Guarantees that every request has a row here: a new one without does not
//! compile. Does not know how a user was recognized.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use kvorum_protocol::access::{ADMIN, Access, AccessQuery, KeyRange, ROOT, VIEW, Whoami};
use kvorum_protocol::data::{Condition, Operation};
use kvorum_protocol::message::{Admin, Refusal, Request, Scan, SnapshotRequest, Subscription};

use crate::state::accounts::Accounts;

/// The one who makes a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum User {
    /// A client without a name: its connection is not encrypted, where that is allowed.
    Anonymous,
    /// A replica of this cluster, by its name; `None` for one that shares its certificate with the
    /// others.
    Replica(Option<String>),
    /// A client, by its user's name.
    Client(Arc<str>),
}

impl User {
    /// Returns its name, by which it shares with others; `None` for a client that has none.
    #[must_use]
    pub fn name(&self) -> Option<Arc<str>> {
        match self {
            Self::Anonymous => None,
            Self::Client(name) => Some(Arc::clone(name)),
            // No user has a blank in its name.
            Self::Replica(_) => Some(self.to_string().into()),
        }
    }

    /// Returns the name by which its rights are judged where a write is applied; `None` if it may
    /// do everything.
    #[must_use]
    pub fn judged(&self) -> Option<String> {
        (!self.is_almighty()).then(|| self.to_string())
    }

    /// Whether its rights are the same whatever the accounts are.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        match self {
            Self::Anonymous | Self::Replica(_) => true,
            Self::Client(name) => [ADMIN, VIEW].contains(&&**name),
        }
    }

    /// Whether it may do everything, whatever the accounts are.
    #[must_use]
    pub fn is_almighty(&self) -> bool {
        match self {
            Self::Anonymous => true,
            Self::Client(name) => **name == *ADMIN,
            Self::Replica(_) => false,
        }
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Replica(None) => f.write_str("a replica"),
            Self::Replica(Some(name)) => write!(f, "replica {name}"),
            Self::Client(name) => f.write_str(name),
        }
    }
}

/// Something that a request touches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Touch<'a> {
    /// The values of keys, or that they exist.
    Read(KeyRange),
    /// Keys, to change them.
    Write(KeyRange),
    /// How the replicas are and where.
    Observe,
    /// The user's own name and rights.
    Own,
    /// The leadership, and whether a replica runs: what an operator does.
    Operate,
    /// The users and their rights, and everything together with them.
    Administer,
    /// The members: an id for the replica of this name.
    Join(&'a str),
}

/// Returns what a request touches.
#[must_use]
pub fn touches(request: &Request) -> Vec<Touch<'_>> {
    match request {
        Request::Write { operation, .. } => touches_of(operation),
        Request::Get { key, .. } => vec![Touch::Read(KeyRange::one(&key.0))],
        Request::Scan(scan) => vec![Touch::Read(range_of(scan))],
        Request::Status | Request::Addresses => vec![Touch::Observe],
        Request::Subscribe(subscription) => vec![match subscription {
            Subscription::Status => Touch::Observe,
            // The log has everybody's keys.
            Subscription::Log { .. } => Touch::Read(KeyRange::all()),
            Subscription::Keys { prefix, .. } | Subscription::Watch { prefix, .. } => {
                Touch::Read(KeyRange::prefix(prefix))
            }
        }],
        Request::Admin(admin) => vec![match admin {
            Admin::HandOver { .. } | Admin::Cut { .. } | Admin::Heal { .. } | Admin::Crash => {
                Touch::Operate
            }
            Admin::Join { name, .. } => Touch::Join(name),
        }],
        Request::Snapshot(snapshot) => match snapshot {
            // The accounts are in it.
            SnapshotRequest::Open
            | SnapshotRequest::Part { .. }
            | SnapshotRequest::Close { .. } => vec![Touch::Administer],
        },
        Request::Access(query) => vec![match query {
            AccessQuery::Whoami | AccessQuery::Token { .. } => Touch::Own,
            AccessQuery::Users | AccessQuery::Roles => Touch::Administer,
        }],
    }
}

/// Returns what an operation touches.
#[must_use]
pub fn touches_of(operation: &Operation) -> Vec<Touch<'static>> {
    let (key, condition) = match operation {
        Operation::Access(_) => return vec![Touch::Administer],
        Operation::Put { key, condition, .. } | Operation::Delete { key, condition } => {
            (KeyRange::one(&key.0), condition)
        }
    };
    match condition {
        Condition::Always => vec![Touch::Write(key)],
        // Its outcome says whether the key exists, and its revision.
        Condition::Absent | Condition::AtRevision(_) => {
            vec![Touch::Write(key.clone()), Touch::Read(key)]
        }
    }
}

/// Returns the keys that a scan may return.
fn range_of(scan: &Scan) -> KeyRange {
    let until = (!scan.until.is_empty()).then(|| scan.until.clone().into());
    KeyRange { from: scan.from.clone().into(), until }.within(&KeyRange::prefix(&scan.prefix))
}

/// Judges whether a user may make a request.
///
/// # Errors
/// The first right that the user lacks, in words.
pub fn judge(accounts: &Accounts, user: &User, request: &Request) -> Result<(), Forbidden> {
    match user.is_almighty() {
        true => Ok(()),
        false => judge_all(accounts, user, &touches(request)),
    }
}

/// Judges whether a user may touch all of these.
///
/// # Errors
/// The first right that the user lacks, in words.
pub fn judge_all(accounts: &Accounts, user: &User, touches: &[Touch<'_>]) -> Result<(), Forbidden> {
    if user.is_almighty() {
        return Ok(());
    }
    let roles = match user {
        User::Client(name) => accounts.roles_of(name),
        User::Anonymous | User::Replica(_) => None,
    };
    let is_allowed = |touch: &Touch<'_>| match (user, &roles, touch) {
        (User::Anonymous, ..) => true,
        (User::Replica(own), _, Touch::Join(name)) => own.as_ref().is_none_or(|own| own == *name),
        (User::Replica(_), _, Touch::Observe | Touch::Own) => true,
        (User::Replica(_), _, _) => false,
        // Any of them could be one whose user was removed.
        (User::Client(_), None, _) => false,
        (User::Client(_), Some(roles), _) if roles.contains(&ROOT) => true,
        // A client needs it to find the replicas.
        (User::Client(_), Some(_), Touch::Observe | Touch::Own) => true,
        (User::Client(_), Some(roles), Touch::Read(range)) => {
            covers(accounts, roles, Access::Read, range)
        }
        (User::Client(_), Some(roles), Touch::Write(range)) => {
            covers(accounts, roles, Access::Write, range)
        }
        (User::Client(_), Some(_), Touch::Operate | Touch::Administer | Touch::Join(_)) => false,
    };
    let is_known = !matches!((user, &roles), (User::Client(_), None));
    match touches.iter().find(|touch| !is_allowed(touch)) {
        None => Ok(()),
        Some(touch) => Err(Forbidden { right: right(touch, is_known) }),
    }
}

/// Whether the rights of roles together allow an access to every key of a range.
fn covers(accounts: &Accounts, roles: &[&str], wanted: Access, range: &KeyRange) -> bool {
    if range.is_empty() {
        return true;
    }
    let rights = roles.iter().flat_map(|role| accounts.rights_of(role));
    let allowed = rights.filter(|right| right.access.includes(wanted)).map(|right| right.range);
    let mut allowed: Vec<KeyRange> = allowed.collect();
    allowed.sort_unstable();
    // All keys before this one are allowed; no key is empty.
    let smallest = Bytes::from_static(&[0]);
    let mut reached = if range.from.is_empty() { &smallest } else { &range.from };
    for own in &allowed {
        if own.from > *reached {
            return false;
        }
        match (&own.until, &range.until) {
            (None, _) => return true,
            (Some(own), Some(wanted)) if own >= wanted => return true,
            (Some(own), _) => reached = reached.max(own),
        }
    }
    false
}

/// A right that a user lacks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Forbidden {
    /// The right, in words.
    pub right: Cow<'static, str>,
}

impl Forbidden {
    /// Returns the refusal of a request of a user.
    #[must_use]
    pub fn refusal(self, user: &User) -> Refusal {
        Refusal::Forbidden { user: user.to_string(), right: self.right.into_owned() }
    }
}

/// Returns the refusal of an operation that a user had no right to when it was applied.
#[must_use]
pub fn forbidden(user: &str, operation: &Operation) -> Refusal {
    let right = touches_of(operation).first().map_or(Cow::Borrowed(""), |touch| right(touch, true));
    Refusal::Forbidden { user: user.to_owned(), right: right.into_owned() }
}

fn right(touch: &Touch<'_>, is_known: bool) -> Cow<'static, str> {
    const UNKNOWN: &str =
        "here: the cluster has no user of that name; an admin adds it by 'kvorum user add'";
    Cow::Borrowed(match touch {
        _ if !is_known => UNKNOWN,
        Touch::Read(range) => return Cow::Owned(format!("to read {range}")),
        Touch::Write(range) => return Cow::Owned(format!("to write {range}")),
        Touch::Observe => "to see how the replicas are",
        Touch::Own => "to see its own rights",
        Touch::Operate => "to operate the cluster",
        Touch::Administer => "to see or change users, or copy everything",
        Touch::Join(_) => "to join under this name",
    })
}

/// Returns what a user is told of itself.
#[must_use]
pub fn whoami(accounts: &Accounts, user: &User) -> Whoami {
    let roles = match user {
        User::Client(name) => accounts.roles_of(name).unwrap_or_default(),
        User::Anonymous | User::Replica(_) => Vec::new(),
    };
    let is_root = user.is_almighty() || roles.contains(&ROOT);
    let rights = roles.iter().flat_map(|role| accounts.rights_of(role)).collect();
    let roles = roles.into_iter().map(str::to_owned).collect();
    Whoami { user: user.to_string(), roles, is_root, rights }
}

#[cfg(test)]
#[path = "rights/tests.rs"]
mod tests;
