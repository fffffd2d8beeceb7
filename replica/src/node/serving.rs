//! What serves the ports for peers and for clients.
//!
//! Guarantees that both encrypt in the same way. Does not know the driver behind them.

use std::sync::Arc;

use kvorum_protocol::message::Address;
use kvorum_protocol::status::Status;
use kvorum_tls::Encryption;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::clients::Clients;
use crate::driver::metrics::Metrics;
use crate::driver::{ClientEvent, PeerEvent};
use crate::engine::Known;
use crate::engine::store::Identity;
use crate::node::settings::{Audit, Settings};
use crate::state::accounts::Accounts;
use crate::transport::reached::Reached;
use crate::transport::{AddressBook, Transport};

/// The ways to the driver, and what it says.
pub(super) struct Inlets {
    /// The driver's inbox for peers.
    pub(super) peers: mpsc::Sender<PeerEvent>,
    /// The driver's inbox for clients.
    pub(super) clients: mpsc::Sender<ClientEvent>,
    /// The replicas that this one may have to talk to.
    pub(super) known: watch::Receiver<Vec<Known>>,
    /// This replica's status.
    pub(super) status: watch::Receiver<Option<Arc<Status>>>,
    /// The users, as this replica has applied them.
    pub(super) accounts: watch::Receiver<Option<Arc<Accounts>>>,
}

/// What connections are made with.
pub(super) struct Means {
    /// The addresses of peers.
    pub(super) book: AddressBook,
    /// How to encrypt.
    pub(super) encryption: Encryption,
    /// The counters of what happens.
    pub(super) metrics: Arc<Metrics>,
}

/// Serves the ports for peers and for clients, until the tasks end; the last of `served` is the
/// largest number of clients' connections.
pub(super) fn serve(
    settings: &Settings,
    identity: &Identity,
    inlets: Inlets,
    Means { book, encryption, metrics }: Means,
    served: (TcpListener, TcpListener, usize),
    tasks: &mut JoinSet<()>,
) {
    let (reached, others) = reached(settings);
    let (for_peers, for_clients, connections_max) = served;
    let Inlets { peers, clients, known, status, accounts } = inlets;
    let (me, name) = (identity.replica, settings.name.clone());
    let transport = Transport::new(me, peers, known, book, reached, encryption.clone());
    tasks.spawn(transport.clone().dial_known());
    tasks.spawn(transport.listen(for_peers));
    let clients = Clients::new(
        name,
        identity.cluster,
        clients,
        (status, accounts),
        others,
        metrics,
        encryption,
    );
    let clients = clients.auditing(settings.audit == Audit::All);
    tasks.spawn(clients.listen(for_clients, connections_max));
}

/// Returns where peers were reached earlier, and their addresses for clients as they change.
fn reached(settings: &Settings) -> (Arc<Reached>, watch::Receiver<Vec<Address>>) {
    // All pods have the same port.
    let clients = settings.statefulset.as_ref().map(|_| settings.listen_clients.port());
    let reached = Arc::new(Reached::of(&settings.data, clients));
    let others = reached.clients();
    (reached, others)
}
