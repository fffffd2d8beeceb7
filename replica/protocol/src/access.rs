//! Pure: users, roles and rights, as clients and replicas exchange them.
//!
//! After etcd's model: a user has roles, a role has rights, and a right is to read or write a range
//! of keys. Two users and two roles exist from the beginning and never change: `admin`, with the
//! role `root`, may do everything; `view`, with the role of that name, may read every key and see
//! how the replicas are.
//!
//! Guarantees that a valid change has names and keys of bounded length. Does not know who may do
//! what; replicas judge that.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::authentication::{HASH_BYTES_MAX, Token};
use crate::limits::{ACCESS_NAME_BYTES_MAX, KEY_BYTES_MAX};

/// The user that may do everything, from the beginning.
pub const ADMIN: &str = "admin";
/// The user that may look and change nothing, from the beginning; and its role.
pub const VIEW: &str = "view";
/// The role that has every right, from the beginning.
pub const ROOT: &str = "root";

/// The beginning of the name of a role that is one user's own, and goes with it.
const OWN_ROLE: &str = "user.";
/// Most users of a cluster, beside those of the beginning.
pub const USERS_MAX: usize = 1_000;
/// Most roles of a cluster, beside those of the beginning.
pub const ROLES_MAX: usize = 1_000;
/// Most roles of one user.
pub const USER_ROLES_MAX: usize = 32;
/// Most ranges of one role.
pub const ROLE_RANGES_MAX: usize = 128;
/// Most bytes of all users, roles and ranges of a cluster: each change writes all of them.
pub const ACCESS_BYTES_MAX: usize = 256 << 10;

/// Returns the name of the role that is a user's own.
#[must_use]
pub fn own_role(user: &str) -> String {
    format!("{OWN_ROLE}{user}")
}

/// Returns the user whose own a role is, by its name.
#[must_use]
pub fn owner_of(role: &str) -> Option<&str> {
    role.strip_prefix(OWN_ROLE)
}

/// Returns the smallest key that is greater than every key with this prefix; `None` when there is
/// no such key (the prefix is empty or all `0xff`).
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

/// A range of keys, in the order of their bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct KeyRange {
    /// The first key that may be in it; empty for the smallest.
    pub from: Bytes,
    /// The first key after it; `None` when it has no end.
    pub until: Option<Bytes>,
}

impl KeyRange {
    /// Returns the range of all keys.
    #[must_use]
    pub fn all() -> Self {
        Self { from: Bytes::new(), until: None }
    }

    /// Returns the range of one key.
    #[must_use]
    pub fn one(key: &[u8]) -> Self {
        let next = [key, &[0]].concat();
        Self { from: Bytes::copy_from_slice(key), until: Some(next.into()) }
    }

    /// Returns the range of all keys with a prefix; empty for all.
    #[must_use]
    pub fn prefix(prefix: &[u8]) -> Self {
        Self { from: Bytes::copy_from_slice(prefix), until: prefix_end(prefix) }
    }

    /// Returns what this range and another one have in common.
    #[must_use]
    pub fn within(self, other: &Self) -> Self {
        let until = match (self.until, &other.until) {
            (Some(own), Some(other)) => Some(own.min(other.clone())),
            (own, other) => own.or_else(|| other.clone()),
        };
        Self { from: self.from.max(other.from.clone()), until }
    }

    /// Whether there is no key in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        // No key is empty, so none is before the one of a single zero.
        self.until.as_ref().is_some_and(|until| *until <= self.from || until[..] <= [0][..])
    }

    /// Returns the number of bytes of its ends.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.from.len() + self.until.as_ref().map_or(0, Bytes::len)
    }

    /// Checks that there may be keys in it, and the length of its ends.
    ///
    /// # Errors
    /// When there are none, or an end is too long.
    pub fn validate(&self) -> Result<(), AccessError> {
        // The range of one key ends one byte after it.
        let are_short = self.from.len() <= KEY_BYTES_MAX
            && self.until.as_ref().is_none_or(|until| until.len() <= KEY_BYTES_MAX + 1);
        match are_short && !self.is_empty() {
            true => Ok(()),
            false => Err(AccessError::NoRange),
        }
    }
}

impl fmt::Display for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, until } = self;
        let from_text = from.escape_ascii();
        if *self == Self::all() {
            return f.write_str("all keys");
        }
        if *self == Self::prefix(from) {
            return write!(f, "{from_text}*");
        }
        if *self == Self::one(from) {
            return write!(f, "{from_text}");
        }
        match until {
            None => write!(f, "{from_text}.."),
            Some(until) => write!(f, "{from_text}..{}", until.escape_ascii()),
        }
    }
}

/// What a right allows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Access {
    /// To read.
    Read,
    /// To write, without reading.
    Write,
    /// To read and to write.
    ReadWrite,
}

impl Access {
    /// Whether it is enough for another one.
    #[must_use]
    pub fn includes(self, other: Self) -> bool {
        self == other || self == Self::ReadWrite
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::ReadWrite => "readwrite",
        })
    }
}

/// A change of the users, the roles and their rights.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccessChange {
    /// Adds a user without roles.
    AddUser {
        /// The user.
        user: String,
    },
    /// Removes a user.
    RemoveUser {
        /// The user.
        user: String,
    },
    /// Gives a user a role.
    GiveRole {
        /// The user.
        user: String,
        /// The role.
        role: String,
    },
    /// Takes a role from a user.
    TakeRole {
        /// The user.
        user: String,
        /// The role.
        role: String,
    },
    /// Adds a role without rights.
    AddRole {
        /// The role.
        role: String,
    },
    /// Removes a role, also from the users that have it.
    RemoveRole {
        /// The role.
        role: String,
    },
    /// Gives a role a right, in place of the one that it has for exactly this range.
    Grant {
        /// The role.
        role: String,
        /// The keys.
        range: KeyRange,
        /// What is allowed.
        access: Access,
    },
    /// Takes the right from a role that it has for exactly this range.
    Revoke {
        /// The role.
        role: String,
        /// The keys.
        range: KeyRange,
    },
    /// Sets or removes a user's password; its tokens end.
    SetPassword {
        /// The user.
        user: String,
        /// The hash of the password; `None` for no password.
        hash: Option<String>,
        /// A random secret for the cluster's tokens, if it has none yet.
        secret: [u8; 32],
    },
}

/// Shows no hash and no secret.
impl fmt::Debug for AccessChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddUser { user } => write!(f, "AddUser {user}"),
            Self::RemoveUser { user } => write!(f, "RemoveUser {user}"),
            Self::GiveRole { user, role } => write!(f, "GiveRole {user} {role}"),
            Self::TakeRole { user, role } => write!(f, "TakeRole {user} {role}"),
            Self::AddRole { role } => write!(f, "AddRole {role}"),
            Self::RemoveRole { role } => write!(f, "RemoveRole {role}"),
            Self::Grant { role, range, access } => write!(f, "Grant {role} {access} {range}"),
            Self::Revoke { role, range } => write!(f, "Revoke {role} {range}"),
            Self::SetPassword { user, .. } => write!(f, "SetPassword {user}"),
        }
    }
}

impl AccessChange {
    /// Returns the number of bytes of its names and keys.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::AddUser { user: name }
            | Self::RemoveUser { user: name }
            | Self::AddRole { role: name }
            | Self::RemoveRole { role: name } => name.len(),
            Self::GiveRole { user, role } | Self::TakeRole { user, role } => {
                user.len() + role.len()
            }
            Self::Grant { role, range, access: _ } | Self::Revoke { role, range } => {
                role.len() + range.bytes()
            }
            Self::SetPassword { user, hash, secret } => {
                user.len() + hash.as_ref().map_or(0, String::len) + secret.len()
            }
        }
    }

    /// Checks the names and the range.
    ///
    /// # Errors
    /// When a name is not one, or a range is empty or too long.
    pub fn validate(&self) -> Result<(), AccessError> {
        match self {
            Self::AddUser { user } | Self::RemoveUser { user } => check_name(user),
            Self::AddRole { role } | Self::RemoveRole { role } => check_role(role),
            Self::GiveRole { user, role } | Self::TakeRole { user, role } => {
                check_name(user).and_then(|()| check_role(role))
            }
            Self::Grant { role, range, access: _ } | Self::Revoke { role, range } => {
                check_role(role).and_then(|()| range.validate())
            }
            Self::SetPassword { user, hash, secret: _ } => {
                check_name(user)?;
                let is_short = |hash: &String| hash.len() <= HASH_BYTES_MAX && hash.is_ascii();
                match hash.as_ref().is_none_or(is_short) {
                    true => Ok(()),
                    false => Err(AccessError::NoHash),
                }
            }
        }
    }
}

/// Checks the name of a role: that of a user's own begins so, and ends with the user's.
///
/// # Errors
/// When it is not one.
pub fn check_role(role: &str) -> Result<(), AccessError> {
    check_name(owner_of(role).unwrap_or(role))
}

/// Checks the name of a user: it needs no escaping in certificates, log lines and on screens.
///
/// # Errors
/// When it is not one.
pub fn check_name(name: &str) -> Result<(), AccessError> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    let begins_well = name.starts_with(|first: char| first.is_ascii_alphanumeric());
    let is_short = name.len() <= ACCESS_NAME_BYTES_MAX;
    match begins_well && is_short && name.bytes().all(is_allowed) {
        true => Ok(()),
        false => Err(AccessError::NoName),
    }
}

/// The reason why a change of users, roles or rights did nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum AccessError {
    /// A name is not allowed.
    #[error(
        "a user or role has a name of 1 to {ACCESS_NAME_BYTES_MAX} letters, digits, hyphens, \
         underscores, dots and '@', the first of them a letter or a digit"
    )]
    NoName,
    /// A range has no keys, or its ends are longer than keys may be.
    #[error("the range has no keys, or begins or ends with a key that is too long")]
    NoRange,
    /// The user exists.
    #[error("the user exists")]
    UserExists,
    /// The user does not exist.
    #[error("there is no such user")]
    NoSuchUser,
    /// The role exists.
    #[error("the role exists")]
    RoleExists,
    /// The role does not exist.
    #[error("there is no such role")]
    NoSuchRole,
    /// The user does not have the role.
    #[error("the user does not have that role")]
    RoleNotGiven,
    /// The role does not have a right for that range.
    #[error(
        "there is no right for exactly that range; 'kvorum role list' shows those that there are"
    )]
    NotGranted,
    /// The user or role is of the beginning, and stays as it is.
    #[error("{ADMIN}, {VIEW} and {ROOT} stay as they are; add a user or a role of another name")]
    BuiltIn,
    /// The role is another user's own.
    #[error("a role whose name begins with '{OWN_ROLE}' is that user's own, and of nobody else")]
    OwnRole,
    /// The hash of a password is too long.
    #[error("the hash of the password has more than {HASH_BYTES_MAX} bytes, or is no text")]
    NoHash,
    /// The user has no password, for which a token could stand.
    #[error("the user has no password; an admin sets one by 'kvorum user passwd'")]
    NoPassword,
    /// There are as many users, roles or rights as there may be.
    #[error(
        "there are too many: at most {USERS_MAX} users, {ROLES_MAX} roles, {USER_ROLES_MAX} roles \
         of a user, {ROLE_RANGES_MAX} rights of a role and {} KiB in all", ACCESS_BYTES_MAX >> 10
    )]
    TooMany,
}

/// A question about users, roles and rights.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum AccessQuery {
    /// Asks which user this connection is, and what it may do.
    Whoami,
    /// Asks for all users.
    Users,
    /// Asks for all roles.
    Roles,
    /// Asks for a token for the user of this connection, that ends after this many seconds.
    Token {
        /// The seconds; more than [`TOKEN_SECONDS_MAX`](crate::authentication::TOKEN_SECONDS_MAX)
        /// are as many.
        seconds: u32,
    },
}

/// The answer to such a question.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum AccessReport {
    /// The user of this connection.
    Whoami(Whoami),
    /// All users, by name.
    Users(Vec<UserReport>),
    /// All roles, by name.
    Roles(Vec<RoleReport>),
    /// A token, and the time at which it ends, in microseconds since 1970 by the replica's clock.
    Token {
        /// The token.
        token: Token,
        /// The time.
        until_us: u64,
    },
    /// Nothing, for this reason.
    Nothing(AccessError),
}

/// A user with what it may do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Whoami {
    /// The user's name.
    pub user: String,
    /// Its roles; empty for a client that needs none, because connections are not encrypted.
    pub roles: Vec<String>,
    /// Whether it may do everything.
    pub is_root: bool,
    /// Its rights, unless it may do everything.
    pub rights: Vec<Right>,
}

/// A right.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Right {
    /// The keys.
    pub range: KeyRange,
    /// What is allowed.
    pub access: Access,
}

/// A user.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UserReport {
    /// Its name.
    pub user: String,
    /// Its roles.
    pub roles: Vec<String>,
    /// Whether it has a password.
    pub has_password: bool,
}

/// A role.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RoleReport {
    /// Its name.
    pub role: String,
    /// Whether it has every right.
    pub is_root: bool,
    /// Its rights.
    pub rights: Vec<Right>,
}

#[cfg(test)]
mod tests;
