//! The ports of a replica: three listening sockets, and how many connections they may have.
//!
//! Guarantees that a port which cannot be bound is named. Does not know what is served on them.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::limits::CONNECTIONS_MAX;
use crate::node::settings::Settings;
use crate::node::start_error::StartError;
use crate::transport::addresses::Addresses;

/// File descriptors reserved for everything but clients: table files, peers, probes, logs.
const DESCRIPTORS_KEPT: u64 = 512;

/// The three listening sockets.
pub(super) struct Ports {
    pub(super) peers: TcpListener,
    pub(super) clients: TcpListener,
    pub(super) http: TcpListener,
}

impl Ports {
    /// Binds them.
    pub(super) async fn bind(settings: &Settings) -> Result<Self, StartError> {
        async fn one(what: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
            let bound = TcpListener::bind(address).await;
            bound.map_err(|error| StartError::Bind { what, address, error })
        }
        Ok(Self {
            peers: one("peers", settings.listen_peers).await?,
            clients: one("clients", settings.listen_clients).await?,
            http: one("probes", settings.listen_http).await?,
        })
    }

    /// Returns the addresses at which others reach them.
    pub(super) fn addresses(&self, settings: &Settings) -> Addresses {
        let address = |listener: &TcpListener| {
            let bound = listener.local_addr();
            let told = bound.map(|bound| match &settings.advertise {
                Some(host) => format!("{host}:{}", bound.port()),
                None => bound.to_string(),
            });
            told.unwrap_or_default()
        };
        Addresses {
            name: settings.name.clone(),
            peers: address(&self.peers),
            clients: address(&self.clients),
            http: address(&self.http),
            process: std::process::id(),
        }
    }
}

/// Raises the open file limit to its maximum; returns how many connections users may have.
pub(super) fn raise_descriptor_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let Some(most) = getrlimit(Resource::Nofile).current else { return CONNECTIONS_MAX };
    let left = most.saturating_sub(DESCRIPTORS_KEPT).max(most / 4);
    // As many may be those of connections whose user is not known yet.
    usize::try_from(left / 2).unwrap_or(usize::MAX).min(CONNECTIONS_MAX)
}
