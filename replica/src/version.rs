//! Pure: the versions of what replicas say to each other and keep in common.
//!
//! A cluster has one version, which is part of its replicated state and only rises: when every
//! member's program knows the next one, the leader proposes it as an entry. What a version brought
//! is used only when the cluster has it; so programs of two versions may run side by side while one
//! replica after the other is replaced. Once it has risen, an older program is turned away, by its
//! peers and by its own disk.
//!
//! Guarantees nothing by itself; the engine asks it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A version of a cluster, and of the entries and messages in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Version(pub u8);

impl Version {
    /// The first version.
    pub const FIRST: Self = Self(1);
    /// Brought entries that raise the version, and those that have the replicas' states compared.
    pub const CHECKSUMS: Self = Self(2);
    /// Brought entries that give joiners their ids.
    pub const JOINERS: Self = Self(3);
    /// The oldest that this program knows.
    pub const OLDEST: Self = Self::FIRST;
    /// The newest that this program knows.
    pub const NEWEST: Self = Self::JOINERS;
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
