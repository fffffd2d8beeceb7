//! Why a replica could not start.
//!
//! Guarantees that each reason says what is wrong and where. Does not know what is started.

use std::io;
use std::net::SocketAddr;

use crate::orchestrator::OrchestratorError;
use crate::settings::SettingsError;
use crate::storage::OpenError;

/// Why a replica could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings make no sense.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The data folder cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Nobody says how many replicas are wanted.
    #[error(transparent)]
    Orchestrator(#[from] OrchestratorError),
    /// A port cannot be had.
    #[error("cannot listen for {what} on {address}: {error}")]
    Bind {
        /// Who was to be listened for.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// The system's words.
        error: io::Error,
    },
    /// The address file cannot be written.
    #[error("cannot write {file}: {error}")]
    Addresses {
        /// The file.
        file: String,
        /// The system's words.
        error: io::Error,
    },
}
