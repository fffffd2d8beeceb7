//! The reasons why a folder cannot be used.
//!
//! Guarantees that each reason names the folder and a remedy.

use std::fmt::Display;
use std::path::{Path, PathBuf};

/// The reason why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system denies access.
    #[error("cannot use the data folder {folder}: {reason}")]
    Unusable {
        /// The folder.
        folder: PathBuf,
        /// The system's message.
        reason: String,
    },
    /// Another process holds it.
    #[error("the data folder {folder} is in use by another process{holder}; stop that one first")]
    Locked {
        /// The folder.
        folder: PathBuf,
        /// The process's id, when it is known.
        holder: String,
    },
    /// It belongs to another replica or cluster.
    #[error(
        "the data folder {folder} belongs to {found}, not to {wanted}; start this replica with a \
         folder of its own"
    )]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// The replica and cluster that it belongs to.
        found: String,
        /// The replica and cluster that was to use it.
        wanted: String,
    },
    /// It belongs to no replica yet.
    #[error("the data folder {folder} belongs to no replica yet")]
    Uninitialized {
        /// The folder.
        folder: PathBuf,
    },
    /// Something in it is damaged, or less was recovered than was synced.
    #[error(
        "the data folder {folder} is damaged: {what}. This replica must not vote with it and does \
         not start; a majority of the others goes on without it. To get the replica back from its \
         peers, move the folder away (mv {folder} {folder}.damaged) and start it again: it joins \
         under a new id and copies the state (where --members are given, it waits without a vote)"
    )]
    Damaged {
        /// The folder.
        folder: PathBuf,
        /// The damage, and the file that has it.
        what: String,
    },
    /// Written by a newer program.
    #[error(
        "the data folder {folder} was written by a newer version: {what}; install that version"
    )]
    Newer {
        /// The folder.
        folder: PathBuf,
        /// The evidence for it.
        what: String,
    },
}

impl OpenError {
    /// Returns the error for a folder to which the system denies access.
    pub(crate) fn unusable(folder: &Path, reason: &dyn Display) -> Self {
        Self::Unusable { folder: folder.to_owned(), reason: reason.to_string() }
    }
}
