//! A whole replica: opens its disk, binds its ports, starts the driver and the listeners.
//!
//! Guarantees that nothing is heard on a port before the disk is open and sound, except probes.
//! Does not know how the process is told to stop; its caller does.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvorum_protocol::message::{Admin, Request};
use kvorum_protocol::status::{Configuration, ReplicaId, Status};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use crate::addresses::{Addresses, FILE_NAME};
use crate::clients::{CONNECTIONS_MAX, Clients};
use crate::driver::{CLIENTS_INBOX, ClientEvent, Driver, Inboxes, PEERS_INBOX, Shown};
use crate::engine::{ClientKey, Input, Options};
use crate::http::{self, Health};
use crate::metrics::Metrics;
use crate::settings::{Settings, SettingsError, StorageKind};
use crate::storage::database::OnFatal;
use crate::storage::memory::Memory;
use crate::storage::segments::LogLimits;
use crate::storage::{Database, OpenError, Store, lock};
use crate::transport::Transport;

/// Time between two looks at how much room the disk has.
const DISK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a stopping leader tries to hand leadership over.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(1);
/// Descriptors kept for everything but clients: table files, peers, probes, logs.
const DESCRIPTORS_KEPT: u64 = 512;

/// Why a replica could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings make no sense.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The data folder cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
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

/// A running replica.
pub struct Replica {
    clients: mpsc::Sender<ClientEvent>,
    status: watch::Receiver<Option<Arc<Status>>>,
    driver: Option<std::thread::JoinHandle<()>>,
    database: Option<Database>,
    /// Where it listens.
    pub addresses: Addresses,
    /// Where that is written.
    file: PathBuf,
    /// Held until everything else is closed.
    _lock: File,
}

/// The three listening sockets.
struct Ports {
    peers: TcpListener,
    clients: TcpListener,
    http: TcpListener,
}

impl Replica {
    /// Starts a replica. Waits first, while it answers probes, for a disk that has room.
    pub async fn start(settings: &Settings, on_fatal: OnFatal) -> Result<Self, StartError> {
        let began = Instant::now();
        let peers = settings.validate()?;
        let is_memory = settings.storage == StorageKind::Memory;
        let connections_max = raise_descriptor_limit();
        fs::create_dir_all(&settings.data).map_err(|error| unusable(&settings.data, &error))?;
        let lock = lock::take(&settings.data)?;
        let ports = bind(settings).await?;
        let addresses = addresses(settings, &ports);
        let (status_shown, status) = watch::channel(None);
        let (waiting_shown, waiting_for) = watch::channel("starting".to_owned());
        let metrics = Arc::new(Metrics::default());
        let health =
            Health { status: status.clone(), metrics: Arc::clone(&metrics), began, waiting_for };
        tokio::spawn(http::serve(ports.http, health));
        if !is_memory {
            wait_for_room(settings, &waiting_shown).await?;
        }

        let (to_driver, from_peers) = mpsc::channel(PEERS_INBOX);
        let (clients, from_clients) = mpsc::channel(CLIENTS_INBOX);
        let inboxes = Inboxes { peers: from_peers, clients: from_clients };
        let shown = Shown { status: status_shown, metrics: Arc::clone(&metrics), began };
        let options = settings.options();
        let (owner, nonce) = (settings.owner(), rand::random());
        let (me, configuration, driver, database) = if is_memory {
            let memory = Memory::new(owner.newborn(nonce), owner.configuration());
            let (me, configuration) = introduce(&memory);
            (me, configuration, spawn_driver(memory, options, inboxes, shown), None)
        } else {
            let limits = LogLimits::keeping(settings.log_keep);
            let database = Database::open(&settings.data, &owner, nonce, limits, on_fatal)?;
            let (me, configuration) = introduce(&database);
            let driver = spawn_driver(database.clone(), options, inboxes, shown);
            (me, configuration, driver, Some(database))
        };

        let file = settings.data.join(FILE_NAME);
        addresses
            .write(&file)
            .map_err(|error| StartError::Addresses { file: file.display().to_string(), error })?;
        let transport = Transport::new(me, to_driver);
        for member in &configuration.members {
            if let Some(address) = peers.get(&member.name) {
                let dial =
                    transport.clone().dial(member.replica, member.name.clone(), address.clone());
                tokio::spawn(dial);
            }
        }
        tokio::spawn(transport.listen(ports.peers));
        let serving = Clients::new(
            settings.name.clone(),
            settings.cluster,
            clients.clone(),
            status.clone(),
            metrics,
        );
        tokio::spawn(serving.listen(ports.clients, connections_max));
        if !is_memory {
            tokio::spawn(watch_disk(settings.clone(), clients.clone()));
        }
        info!(
            name = addresses.name,
            peers = addresses.peers,
            clients = addresses.clients,
            http = addresses.http,
            "listening"
        );
        Ok(Self { clients, status, driver: Some(driver), database, addresses, _lock: lock, file })
    }

    /// Ends with everything on disk; before that, hands leadership over if this replica leads and
    /// it is wanted.
    pub async fn stop(mut self, hands_over: bool) {
        if hands_over {
            self.hand_over().await;
        }
        let (reply, stopped) = oneshot::channel();
        if self.clients.send(ClientEvent::Stop { reply }).await.is_ok() {
            let _ = stopped.await;
        }
        let (driver, database) = (self.driver.take(), self.database.take());
        let end = move || {
            if let Some(driver) = driver {
                let _ = driver.join();
            }
            if let Some(database) = database {
                database.close();
            }
        };
        let _ = tokio::task::spawn_blocking(end).await;
        // Nobody should dial where nobody listens.
        let _ = fs::remove_file(&self.file);
        info!("stopped");
    }

    async fn hand_over(&mut self) {
        let name = self.addresses.name.clone();
        let leads = |status: &Option<Arc<Status>>| {
            status.as_ref().is_some_and(|s| s.leader.as_deref() == Some(name.as_str()))
        };
        let has_heirs = |status: &Option<Arc<Status>>| {
            status.as_ref().is_some_and(|s| s.links.iter().any(|link| link.is_up))
        };
        if !leads(&self.status.borrow()) || !has_heirs(&self.status.borrow()) {
            return;
        }
        // The answer goes to a client that does not exist.
        let request = Request::Admin(Admin::HandOver { to: String::new() });
        let input = Input::Client { client: ClientKey(0), call: 0, request };
        let _ = self.clients.send(ClientEvent::Input { input, permit: None }).await;
        let handed = self.status.wait_for(|status| !leads(status));
        if timeout(HAND_OVER_PATIENCE, handed).await.is_err() {
            warn!("no other replica took leadership over in time");
        }
    }
}

fn unusable(folder: &Path, error: &dyn std::fmt::Display) -> OpenError {
    OpenError::Unusable { folder: folder.to_owned(), reason: error.to_string() }
}

fn introduce<S: Store>(store: &S) -> (ReplicaId, Configuration) {
    let me = store.identity();
    info!(
        cluster = %me.cluster,
        replica = me.replica.0,
        incarnation = me.incarnation,
        applied = store.applied(),
        "recovered"
    );
    (me.replica, store.chain().current)
}

fn spawn_driver<S: Store + Clone + Send + 'static>(
    store: S,
    options: Options,
    inboxes: Inboxes,
    shown: Shown,
) -> std::thread::JoinHandle<()> {
    std::thread::Builder::new()
        .name("driver".to_owned())
        .spawn(move || Driver::run(store, options, inboxes, shown))
        .expect("a process can start a thread")
}

async fn bind(settings: &Settings) -> Result<Ports, StartError> {
    async fn one(what: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
        let bound = TcpListener::bind(address).await;
        bound.map_err(|error| StartError::Bind { what, address, error })
    }
    Ok(Ports {
        peers: one("peers", settings.listen_peers).await?,
        clients: one("clients", settings.listen_clients).await?,
        http: one("probes", settings.listen_http).await?,
    })
}

fn addresses(settings: &Settings, ports: &Ports) -> Addresses {
    let address = |listener: &TcpListener| {
        listener.local_addr().map(|address| address.to_string()).unwrap_or_default()
    };
    Addresses {
        name: settings.name.clone(),
        peers: address(&ports.peers),
        clients: address(&ports.clients),
        http: address(&ports.http),
        process: std::process::id(),
    }
}

/// Lets the process open as many files as the system allows; how many of them are for clients.
fn raise_descriptor_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let Some(most) = getrlimit(Resource::Nofile).current else { return CONNECTIONS_MAX };
    let left = most.saturating_sub(DESCRIPTORS_KEPT).max(most / 4);
    usize::try_from(left).unwrap_or(usize::MAX).min(CONNECTIONS_MAX)
}

/// Bytes free for this process on the disk of a folder.
fn free_bytes(folder: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// A replica that opened a full disk could not even say that it is full.
async fn wait_for_room(
    settings: &Settings,
    waiting: &watch::Sender<String>,
) -> Result<(), OpenError> {
    let mut told = false;
    loop {
        let free = free_bytes(&settings.data).map_err(|error| unusable(&settings.data, &error))?;
        if free >= settings.disk_reserve {
            waiting.send_replace("starting".to_owned());
            return Ok(());
        }
        let why = format!(
            "the disk of {} is full: {free} bytes are free, and {} are kept in reserve; make room, \
             and this replica starts by itself",
            settings.data.display(),
            settings.disk_reserve
        );
        if !told {
            error!("{why}");
            told = true;
        }
        waiting.send_replace(why);
        sleep(DISK_INTERVAL).await;
    }
}

async fn watch_disk(settings: Settings, driver: mpsc::Sender<ClientEvent>) {
    let reserve = settings.disk_reserve;
    loop {
        let folder = settings.data.clone();
        let looked = tokio::task::spawn_blocking(move || free_bytes(&folder)).await;
        if let Ok(Ok(free)) = looked {
            let input = Input::Disk { free, reserve };
            if driver.send(ClientEvent::Input { input, permit: None }).await.is_err() {
                return;
            }
        }
        sleep(DISK_INTERVAL).await;
    }
}
