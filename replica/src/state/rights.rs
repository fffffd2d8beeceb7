//! Pure: who may do what.
//!
//! A request is reduced to what it touches, and each of that is judged by itself. Guarantees that
//! every request has a row here: a new one without does not compile. Does not know how a user was
//! recognized.

use std::fmt;

use kvorum_protocol::message::{Admin, Request, SnapshotRequest, Subscription};

/// The user who may do everything, from the beginning.
pub const ADMIN: &str = "admin";
/// The user who may look at everything and change nothing, from the beginning.
pub const VIEW: &str = "view";

/// The one who makes a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum User {
    /// A client without a name: its connection is not encrypted, where that is allowed.
    Anonymous,
    /// A replica of this cluster, by its name; `None` for one that shares its certificate with the
    /// others.
    Replica(Option<String>),
    /// A client, by its user's name.
    Client(String),
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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touch<'a> {
    /// The values of keys, or that they exist.
    Read(Keys<'a>),
    /// Keys, to change them.
    Write(Keys<'a>),
    /// How the replicas are and where.
    Observe,
    /// The leadership, and whether a replica runs: what an operator does.
    Operate,
    /// The members: an id for the replica of this name.
    Join(&'a str),
}

/// A range of keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keys<'a> {
    /// One key.
    One(&'a [u8]),
    /// All keys with a prefix; empty for all.
    Prefix(&'a [u8]),
}

/// Returns what a request touches.
#[must_use]
pub fn touches(request: &Request) -> Touch<'_> {
    match request {
        Request::Write { operation, .. } => Touch::Write(Keys::One(&operation.key().0)),
        Request::Get { key, .. } => Touch::Read(Keys::One(&key.0)),
        Request::Scan(scan) => Touch::Read(Keys::Prefix(&scan.prefix)),
        Request::Status | Request::Addresses => Touch::Observe,
        Request::Subscribe(subscription) => match subscription {
            Subscription::Status => Touch::Observe,
            // The log has everybody's keys.
            Subscription::Log { .. } => Touch::Read(Keys::Prefix(&[])),
            Subscription::Keys { prefix, .. } | Subscription::Watch { prefix, .. } => {
                Touch::Read(Keys::Prefix(prefix))
            }
        },
        Request::Admin(admin) => match admin {
            Admin::HandOver { .. } | Admin::Cut { .. } | Admin::Heal { .. } | Admin::Crash => {
                Touch::Operate
            }
            Admin::Join { name, .. } => Touch::Join(name),
        },
        Request::Snapshot(snapshot) => match snapshot {
            SnapshotRequest::Open
            | SnapshotRequest::Part { .. }
            | SnapshotRequest::Close { .. } => Touch::Read(Keys::Prefix(&[])),
        },
    }
}

/// Judges whether a user may touch something.
///
/// # Errors
/// The right that the user lacks, in words.
pub fn judge(user: &User, touch: Touch<'_>) -> Result<(), Forbidden> {
    let is_allowed = match (user, touch) {
        (User::Anonymous, _) => true,
        (User::Client(name), _) if name == ADMIN => true,
        // A client needs it to find the replicas.
        (User::Client(_) | User::Replica(_), Touch::Observe) => true,
        (User::Client(name), Touch::Read(_)) => name == VIEW,
        (User::Client(_), Touch::Write(_) | Touch::Operate | Touch::Join(_)) => false,
        (User::Replica(own), Touch::Join(name)) => own.as_ref().is_none_or(|own| own == name),
        (User::Replica(_), Touch::Read(_) | Touch::Write(_) | Touch::Operate) => false,
    };
    match is_allowed {
        true => Ok(()),
        false => Err(Forbidden { right: right(touch) }),
    }
}

/// A right that a user lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forbidden {
    /// The right, in words.
    pub right: &'static str,
}

fn right(touch: Touch<'_>) -> &'static str {
    match touch {
        Touch::Read(Keys::One(_)) => "to read this key",
        Touch::Read(Keys::Prefix([])) => "to read all keys",
        Touch::Read(Keys::Prefix(_)) => "to read all keys of this prefix",
        Touch::Write(_) => "to write this key",
        Touch::Observe => "to see how the replicas are",
        Touch::Operate => "to operate the cluster",
        Touch::Join(_) => "to join under this name",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_rights() {
        let client = |name: &str| User::Client(name.to_owned());
        let replica = |name: &str| User::Replica(Some(name.to_owned()));
        let keys = Keys::One(b"a");
        let (read, write) = (Touch::Read(keys), Touch::Write(keys));
        let (all, join) = (Touch::Read(Keys::Prefix(b"")), Touch::Join("kvorum-3"));
        let touches = [read, all, write, Touch::Observe, Touch::Operate, join];
        let table = [
            (User::Anonymous, [true; 6]),
            (client(ADMIN), [true; 6]),
            (client(VIEW), [true, true, false, true, false, false]),
            (client("app"), [false, false, false, true, false, false]),
            (replica("kvorum-3"), [false, false, false, true, false, true]),
            (replica("kvorum-4"), [false, false, false, true, false, false]),
            (User::Replica(None), [false, false, false, true, false, true]),
        ];
        for (user, expected) in table {
            let judged = touches.map(|touch| judge(&user, touch).is_ok());
            assert_eq!(judged, expected, "{user}");
        }
    }
}
