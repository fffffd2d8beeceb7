//! Pure: the versions of the messages between replicas and of the state that they share.
//!
//! A cluster has one version, which is part of its replicated state and only rises: when every
//! member's program knows the next one, the leader proposes it as an entry. A version's features
//! are used only when the cluster has it; so programs of two versions may run side by side during a
//! rolling replacement. Once the version has risen, an older program is rejected, by its peers and
//! by its own disk.
//!
//! Guarantees nothing by itself; the engine uses it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A version of a cluster, and of the entries and messages in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Version(pub u8);

impl Version {
    /// The first version.
    pub const FIRST: Self = Self(1);
    /// Added entries that raise the version, and entries that have the replicas' states compared.
    pub const CHECKSUMS: Self = Self(2);
    /// Added entries that give joiners their ids.
    pub const JOINERS: Self = Self(3);
    /// Added users, roles and rights.
    pub const ACCOUNTS: Self = Self(4);
    /// The oldest version that this program knows.
    pub const OLDEST: Self = Self::FIRST;
    /// The newest version that this program knows.
    pub const NEWEST: Self = Self::ACCOUNTS;
}

/// A new cluster has the oldest version; its first leader raises it.
impl Default for Version {
    fn default() -> Self {
        Self::OLDEST
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::OLDEST..=Self::NEWEST;
        let version = text.parse().ok().map(Self).filter(|version| known.contains(version));
        version.ok_or_else(|| {
            format!("this program knows the versions {} to {}", Self::OLDEST, Self::NEWEST)
        })
    }
}
