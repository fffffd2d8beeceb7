//! Why a folder cannot be used.
//!
//! Guarantees that each reason names the folder, and says what helps.

use std::fmt::Display;
use std::path::{Path, PathBuf};

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system does not let us.
    #[error("cannot use the data folder {folder}: {reason}")]
    Unusable {
        /// The folder.
        folder: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// Another process holds it.
    #[error("the data folder {folder} is in use by another process{holder}; stop that one first")]
    Locked {
        /// The folder.
        folder: PathBuf,
        /// Its id, when it is known.
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
        /// Whose it is.
        found: String,
        /// Who wants it.
        wanted: String,
    },
    /// It belongs to nobody yet.
    #[error("the data folder {folder} belongs to no replica yet")]
    Unborn {
        /// The folder.
        folder: PathBuf,
    },
    /// Something in it is damaged, or recovered less than was synced.
    #[error(
        "the data folder {folder} is damaged: {what}. This replica must not vote with it and does \
         not start; a majority of the others goes on without it. To get the replica back from its \
         peers, move the folder away (mv {folder} {folder}.damaged) and start it again: it joins \
         under a new id and copies the state (where --members are given, it waits without a vote)"
    )]
    Damaged {
        /// The folder.
        folder: PathBuf,
        /// What is wrong, and in which file.
        what: String,
    },
    /// Written by a newer program.
    #[error(
        "the data folder {folder} was written by a newer version: {what}; install that version"
    )]
    Newer {
        /// The folder.
        folder: PathBuf,
        /// What shows it.
        what: String,
    },
}

impl OpenError {
    /// The error for a folder that the system does not let us use.
    pub(crate) fn unusable(folder: &Path, reason: &dyn Display) -> Self {
        Self::Unusable { folder: folder.to_owned(), reason: reason.to_string() }
    }
}
