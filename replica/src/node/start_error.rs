//! The reasons why a replica could not start.
//!
//! Guarantees that each error says what is wrong and where. Does not know what is started.

use std::io;
use std::net::SocketAddr;

use crate::node::settings::SettingsError;
use crate::orchestrator::OrchestratorError;
use crate::storage::OpenError;

/// The reason why a replica could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings are invalid.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The data folder cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The desired replica count cannot be read.
    #[error(transparent)]
    Orchestrator(#[from] OrchestratorError),
    /// The certificates cannot be used.
    #[error("{0}")]
    Certificates(String),
    /// A port cannot be bound.
    #[error("cannot listen for {what} on {address}: {error}")]
    Bind {
        /// The users of the port.
        what: &'static str,
        /// The address to listen on.
        address: SocketAddr,
        /// The system's error.
        error: io::Error,
    },
    /// The address file cannot be written.
    #[error("cannot write {file}: {error}")]
    Addresses {
        /// The path of the file.
        file: String,
        /// The system's error.
        error: io::Error,
    },
}
