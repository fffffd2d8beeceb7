//! Pure: the words of the commands about users, roles and rights.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use kvorum_protocol::access::{Access, KeyRange};

/// What to do with users.
#[derive(Subcommand, Clone, PartialEq, Eq, Debug)]
pub enum UserCommand {
    /// Add a user, who has no rights yet; the name is the one in its certificate
    Add {
        /// The user
        user: String,
        /// A role to begin with; may be repeated
        #[arg(long, value_name = "ROLE")]
        role: Vec<String>,
    },
    /// Remove a user; its certificate opens nothing any more
    Remove {
        /// The user
        user: String,
    },
    /// List all users with their roles
    List,
    /// Set a user's password, by which it is known without a certificate; its tokens end
    Passwd {
        /// The user
        user: String,
        /// The file with the new password, - for standard input; it is asked for if not given
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
        /// Remove the password
        #[arg(long, conflicts_with = "from")]
        remove: bool,
    },
    /// Give a user a role
    GrantRole {
        /// The user
        user: String,
        /// The role; root may do everything
        role: String,
    },
    /// Take a role from a user
    RevokeRole {
        /// The user
        user: String,
        /// The role
        role: String,
    },
}

/// What to do with roles.
#[derive(Subcommand, Clone, PartialEq, Eq, Debug)]
pub enum RoleCommand {
    /// Add a role without rights
    Add {
        /// The role
        role: String,
    },
    /// Remove a role, also from the users that have it
    Remove {
        /// The role
        role: String,
    },
    /// List all roles with their rights
    List,
    /// Give a role a right
    Grant {
        /// The role
        role: String,
        /// What is allowed
        access: AccessWord,
        /// Which keys
        #[command(flatten)]
        keys: Keys,
    },
    /// Take a right from a role
    Revoke {
        /// The role
        role: String,
        /// Which keys
        #[command(flatten)]
        keys: Keys,
    },
}

/// What a grant to a user takes.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// The user
    pub user: String,
    /// What is allowed
    pub access: AccessWord,
    /// Which keys
    #[command(flatten)]
    pub keys: Keys,
}

/// What a right taken from a user takes.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct Revoke {
    /// The user
    pub user: String,
    /// Which keys
    #[command(flatten)]
    pub keys: Keys,
}

/// Keys of a right.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct Keys {
    /// The key
    pub key: OsString,
    /// All keys that begin so ('' --prefix for all)
    #[arg(long, conflicts_with = "until")]
    pub prefix: bool,
    /// All keys from KEY on, up to this one and without it
    #[arg(long, value_name = "KEY")]
    pub until: Option<OsString>,
}

impl Keys {
    /// Returns the range that is meant; one without keys is rejected later.
    #[must_use]
    pub fn range(&self) -> KeyRange {
        let from = self.key.as_bytes();
        match &self.until {
            _ if self.prefix => KeyRange::prefix(from),
            None => KeyRange::one(from),
            Some(until) => {
                let until = Some(until.as_bytes().to_vec().into());
                KeyRange { from: from.to_vec().into(), until }
            }
        }
    }
}

/// What a right allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum AccessWord {
    /// To read
    Read,
    /// To write, without reading
    Write,
    /// To read and to write
    Readwrite,
}

impl From<AccessWord> for Access {
    fn from(word: AccessWord) -> Self {
        match word {
            AccessWord::Read => Self::Read,
            AccessWord::Write => Self::Write,
            AccessWord::Readwrite => Self::ReadWrite,
        }
    }
}

impl UserCommand {
    /// Whether it changes something.
    #[must_use]
    pub fn is_write(&self) -> bool {
        !matches!(self, Self::List)
    }
}

impl RoleCommand {
    /// Whether it changes something.
    #[must_use]
    pub fn is_write(&self) -> bool {
        !matches!(self, Self::List)
    }
}
