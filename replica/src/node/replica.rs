//! A whole replica: opens its disk, binds its ports, starts the driver and the listeners.
//!
//! Guarantees that no port except the one for probes is served before the disk is open and sound.
//! Does not know how the process is asked to stop; its caller does.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvorum_protocol::status::{ClusterId, Role, Status};
use kvorum_tls::Encryption;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use crate::driver::metrics::Metrics;
use crate::driver::{
    CLIENTS_INBOX, CONTROL_INBOX, ControlEvent, Driver, Inboxes, Outlets, PEERS_INBOX,
    SCALE_READS_MAX,
};
use crate::engine::store::{Identity, IdentityStore, Store};
use crate::engine::{Input, Options, ScaleRead};
use crate::marker::{Claim, Mark};
use crate::node::certificates::Certificates;
use crate::node::disk_space::watch_disk;
use crate::node::http::{self, Health};
use crate::node::identity::Birth;
use crate::node::opening::{self, Disk, Surroundings};
use crate::node::ports::{Ports, raise_descriptor_limit};
use crate::node::rediscovery::superseded;
use crate::node::serving::{Inlets, Means, serve};
use crate::node::settings::Settings;
use crate::node::shutdown::Leaving;
use crate::node::start_error::StartError;
use crate::orchestrator::{self, Folder, Kubernetes, MarkerWriter, Orchestrator, Upkeep};
use crate::private::tighten;
use crate::storage::rocks::lock;
use crate::storage::rocks::open::NewIdentity;
use crate::storage::{Database, OnFatal, OpenError};
use crate::transport::addresses::{Addresses, FILE_NAME};
use crate::transport::book::whole_name;

/// Time between two checks whether a retired replica is wanted again.
const WANTED_INTERVAL: Duration = Duration::from_millis(100);
/// Depth of a data folder: `db/` and its files.
const FOLDER_DEPTH: usize = 2;
/// How long a stopping leader tries to hand leadership over.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(1);
/// How long a replica that ends tries to send the cluster's marker how far its disk got.
const MARKER_PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait for a folder that is in use, where a pod can be replaced while its last process
/// is still ending.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);
/// Time between two attempts to lock the folder.
const LOCK_INTERVAL: Duration = Duration::from_millis(100);

/// The task that writes the cluster's marker; dropping it ends it.
type Keeping = AbortOnDropHandle<()>;

/// A running replica.
pub struct Replica {
    control: mpsc::Sender<ControlEvent>,
    status: watch::Receiver<Option<Arc<Status>>>,
    driver: Option<std::thread::JoinHandle<()>>,
    database: Option<Database>,
    /// All tasks that run beside the driver; they end with this set.
    tasks: JoinSet<()>,
    /// The source of the desired replica count, if there is one.
    orchestrator: Option<Orchestrator>,
    /// The writer of the marker, where there is an orchestrator.
    keeping: Option<Keeping>,
    cluster: ClusterId,
    encryption: Encryption,
    /// How long the replica may wait, before it ends, until the cluster goes on without it.
    leave_patience: Duration,
    /// The addresses on which the replica listens.
    pub addresses: Addresses,
    /// The file to which the addresses are written.
    file: PathBuf,
    /// The lock on the folder, held until everything else is closed.
    #[expect(dead_code, reason = "it is only held")]
    lock: File,
}

impl Replica {
    /// Starts a replica. First waits, while it answers probes, for a disk that has room, and for an
    /// identity if it has none. With `another`, a retired volume continues under that id.
    pub async fn start(
        settings: &Settings,
        another: Option<NewIdentity>,
        on_fatal: OnFatal,
    ) -> Result<Self, StartError> {
        let began = Instant::now();
        let book = settings.validate()?.with_whole_names();
        let ports = Ports::bind(settings).await?;
        let addresses = ports.addresses(settings);
        let (status_shown, status) = watch::channel(None);
        let (waiting_shown, waiting_for) = watch::channel("starting".to_owned());
        let metrics = Arc::new(Metrics::default());
        let mut tasks = JoinSet::new();
        let (status_of, metrics_of) = (status.clone(), Arc::clone(&metrics));
        let health = Health { status: status_of, metrics: metrics_of, began, waiting_for };
        tasks.spawn(http::serve(ports.http, health));
        let orchestrator = orchestrator(settings).await?;
        let (says, lock) = (orchestrator.as_ref(), take_lock(settings, &waiting_shown).await?);
        let certificates = Certificates::obtain(settings, says, &waiting_shown).await?;
        let encryption = certificates.encryption();
        tasks.spawn(certificates.keep(Arc::clone(&metrics)));
        let around = Surroundings { orchestrator: says, encryption: &encryption };
        let opened = opening::open(settings, around, another, &waiting_shown, on_fatal).await?;
        let (to_driver, peers) = mpsc::channel(PEERS_INBOX);
        let (clients, from_clients) = mpsc::channel(CLIENTS_INBOX);
        let (known_shown, known) = watch::channel(Vec::new());
        let (marks, marked) = mpsc::channel(1);
        let (scale_reads, reads_due) = mpsc::channel(SCALE_READS_MAX);
        let (accounts_shown, accounts) = watch::channel(None);
        let shown = (status_shown, accounts_shown, known_shown);
        let outlets = Outlets::new(shown, (Arc::clone(&metrics), began), marks, scale_reads);
        let (control, from_process) = mpsc::channel(CONTROL_INBOX);
        let inboxes = Inboxes { peers, clients: from_clients, control: from_process };
        let (identity, driver, database) = spawn(opened.disk, settings.options(), inboxes, outlets);
        hear(&control, opened.first).await;

        let (file, cluster) = (tell_addresses(settings, &addresses)?, identity.cluster);
        let inlets = Inlets { peers: to_driver, clients, known, status: status.clone(), accounts };
        let means = Means { book, encryption: encryption.clone(), metrics };
        let ports = (ports.peers, ports.clients, raise_descriptor_limit());
        serve(settings, &identity, inlets, means, ports, &mut tasks);
        let keeping = orchestrator.clone().map(|orchestrator| {
            let writer = MarkerWriter { orchestrator, driver: control.clone() };
            let own = Own { cluster, name: settings.name.clone(), status: status.clone() };
            follow(&mut tasks, writer, (reads_due, marked), opened.claim, own)
        });
        if database.is_some() {
            tasks.spawn(watch_disk(settings.clone(), control.clone()));
        }
        Ok(Self {
            control,
            status,
            driver: Some(driver),
            database,
            tasks,
            orchestrator,
            keeping,
            cluster,
            encryption,
            leave_patience: Duration::from_secs(settings.leave_seconds),
            addresses,
            file,
            lock,
        })
    }

    /// Waits until this replica has to start anew: with another id, when its own is over, it is
    /// wanted, and it has got one; with none, when the marker, which could not be read at the
    /// start, turns out to belong to another cluster.
    pub async fn outlived(&self, settings: &Settings) -> Option<NewIdentity> {
        let Some(orchestrator) = &self.orchestrator else { return std::future::pending().await };
        let (waiting, _) = watch::channel(String::new());
        let (Settings { data, name, .. }, cluster) = (settings, Some(self.cluster));
        let encryption = &self.encryption;
        let birth = Birth { orchestrator, encryption, data, name, cluster, waiting: &waiting };
        tokio::select! {
            newborn = self.retired(&birth) => Some(newborn),
            _ = birth.foreign(self.cluster) => None,
        }
    }

    /// Waits until this replica's id is over, it is wanted, and it has got another id. Until then
    /// it runs: some replicas may learn only from it that their configuration is over. A replica
    /// whose disk is not the one that the others remember gets another id too, when a majority does
    /// without it.
    async fn retired(&self, birth: &Birth<'_>) -> NewIdentity {
        let mut status = self.status.clone();
        let is_retired = |status: &Option<Arc<Status>>| {
            let role = status.as_ref().map(|status| status.role);
            matches!(role, Some(Role::Retired | Role::Outside))
        };
        loop {
            tokio::select! {
                // A volume that asked before asks again: its current id may be forgotten by now.
                () = std::future::ready(()), if birth.has_asked() => {}
                retired = status.wait_for(is_retired) => if retired.is_err() {
                    return std::future::pending().await;
                },
                () = self.superseded(birth.orchestrator) => {}
            }
            match birth.another_id(self.cluster).await {
                Ok(Some(given)) if self.keeps_its_id(&given) => birth.asks_no_more(),
                Ok(Some(another)) => return another,
                Ok(None) => {}
                Err(error) => error!(%error, "cannot ask for another id"),
            }
            sleep(WANTED_INTERVAL).await;
        }
    }

    /// Whether a given id is of no use: it is the one that this replica has; or this replica's own
    /// id is a member's by now, so that it votes and the others count on it.
    fn keeps_its_id(&self, given: &NewIdentity) -> bool {
        let status = self.status.borrow();
        status.as_ref().is_some_and(|own| {
            let is_member = given.members.name_of(own.replica).is_some();
            given.replica == own.replica || (is_member && own.role != Role::Outside)
        })
    }

    /// Waits, for a limited time, until this process may end because the cluster does without it.
    pub async fn leave(&self) {
        let Some(orchestrator) = &self.orchestrator else { return };
        let leaving = Leaving {
            orchestrator,
            encryption: &self.encryption,
            name: &self.addresses.name,
            patience: self.leave_patience,
            status: self.status.clone(),
            driver: &self.control,
        };
        leaving.wait().await;
    }

    /// Waits until the cluster went on without this replica, which it cannot detect by itself.
    async fn superseded(&self, orchestrator: &Orchestrator) {
        let (name, status) = (&self.addresses.name, self.status.clone());
        superseded(orchestrator, &self.encryption, name, status, &self.control).await;
    }

    /// Ends with everything on disk; before that, hands leadership over if this replica leads and
    /// `hands_over` is set.
    pub async fn stop(mut self, hands_over: bool) {
        if hands_over {
            self.hand_over().await;
        }
        let (reply, stopped) = oneshot::channel();
        let is_asked = self.control.send(ControlEvent::Stop { reply }).await.is_ok();
        let untold = if is_asked { stopped.await.unwrap_or(None) } else { None };
        if let Some(driver) = self.driver.take() {
            let _ = tokio::task::spawn_blocking(move || driver.join()).await;
        }
        self.tasks.shutdown().await;
        if let Some(database) = self.database.take() {
            if let Some(mark) = untold {
                let keeping = self.keeping.take();
                self.tell_marker(&database, mark, keeping).await;
            }
            let _ = tokio::task::spawn_blocking(move || database.close()).await;
        }
        // The file is removed so that it does not lead others to an address where nothing listens.
        let _ = fs::remove_file(&self.file);
        info!("stopped");
    }

    /// Sends the cluster's marker a last claim. The orchestrator may be out of reach: then the
    /// previous claim has to be enough.
    async fn tell_marker(&self, database: &Database, mark: Mark, keeping: Option<Keeping>) {
        let Some(orchestrator) = &self.orchestrator else { return };
        let past = |start| std::future::ready(Ok(database.past(start)));
        let last = database.last_claim(mark);
        let told = async {
            if let Some(keeping) = keeping {
                // Its claims are older. None of them may reach the marker after the last one.
                let _ = keeping.await;
            }
            orchestrator::claim_at_end(orchestrator, last, past).await
        };
        let why = match timeout(MARKER_PATIENCE, told).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", MARKER_PATIENCE.as_secs()),
        };
        warn!(why, "the cluster's marker was not told how far the disk got");
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
        let input = Input::HandOver;
        let _ = self.control.send(ControlEvent::Input(input)).await;
        let handed = self.status.wait_for(|status| !leads(status));
        if timeout(HAND_OVER_PATIENCE, handed).await.is_err() {
            warn!("no other replica took leadership over in time");
        }
    }
}

/// Sends the driver the inputs that come before everything else.
async fn hear(driver: &mpsc::Sender<ControlEvent>, first: Vec<Input>) {
    for input in first {
        let _ = driver.send(ControlEvent::Input(input)).await;
    }
}

/// The identity and status of a replica, for the tasks that look after it.
struct Own {
    cluster: ClusterId,
    name: String,
    status: watch::Receiver<Option<Arc<Status>>>,
}

/// Starts the tasks with which a replica follows its orchestrator.
fn follow(
    tasks: &mut JoinSet<()>,
    writer: MarkerWriter,
    (reads, marks): (mpsc::Receiver<ScaleRead>, mpsc::Receiver<Claim>),
    unasked: Option<Claim>,
    Own { cluster, name, status }: Own,
) -> Keeping {
    let orchestrator = writer.orchestrator.clone();
    if let Some(recorder) = orchestrator.recorder(&name) {
        tasks.spawn(recorder.follow(status.clone()));
    }
    let driver = writer.driver.clone();
    let upkeep = Upkeep {
        orchestrator: orchestrator.clone(),
        cluster,
        name: name.clone(),
        status,
        driver: driver.clone(),
    };
    tasks.spawn(upkeep.keep());
    tasks.spawn(orchestrator::watch(orchestrator, name, driver, reads));
    AbortOnDropHandle::new(tokio::spawn(writer.keep(marks, unasked)))
}

/// Returns the orchestrator that the settings name, if there is one.
async fn orchestrator(settings: &Settings) -> Result<Option<Orchestrator>, StartError> {
    if let Some(folder) = &settings.follow {
        return Ok(Some(Orchestrator::Folder(Folder::new(folder))));
    }
    let Some(set) = &settings.statefulset else { return Ok(None) };
    let (service, port) = (whole_name(&settings.peer_service), settings.listen_clients.port());
    let kubernetes = Kubernetes::here(set, &service, port).await?;
    Ok(Some(Orchestrator::Kubernetes(Box::new(kubernetes))))
}

/// Creates the folder, and takes its lock. A pod that was deleted by force may be back before its
/// last process has ended.
async fn take_lock(
    settings: &Settings,
    waiting: &watch::Sender<String>,
) -> Result<File, OpenError> {
    let began = Instant::now();
    fs::create_dir_all(&settings.data)
        .map_err(|error| OpenError::unusable(&settings.data, &error))?;
    tighten(&settings.data, FOLDER_DEPTH);
    loop {
        match lock::take(&settings.data) {
            Err(error @ OpenError::Locked { .. })
                if settings.statefulset.is_some() && began.elapsed() < LOCK_PATIENCE =>
            {
                waiting.send_replace(error.to_string());
                sleep(LOCK_INTERVAL).await;
            }
            taken => return taken,
        }
    }
}

fn introduce<S: Store>(store: &S) -> Identity {
    let me = store.identity();
    info!(
        cluster = %me.cluster,
        replica = me.replica.0,
        incarnation = me.incarnation,
        applied = store.applied(),
        "recovered"
    );
    me.clone()
}

/// Writes the replica's addresses to a file, and returns the file.
fn tell_addresses(settings: &Settings, addresses: &Addresses) -> Result<PathBuf, StartError> {
    let file = settings.data.join(FILE_NAME);
    let failed = |error| StartError::Addresses { file: file.display().to_string(), error };
    addresses.write(&file).map_err(failed)?;
    info!(
        name = addresses.name,
        peers = addresses.peers,
        clients = addresses.clients,
        http = addresses.http,
        "listening"
    );
    Ok(file)
}

/// Starts the driver on a disk. Returns the identity, the thread, and the database to close.
fn spawn(
    disk: Disk,
    options: Options,
    inboxes: Inboxes,
    outlets: Outlets,
) -> (Identity, std::thread::JoinHandle<()>, Option<Database>) {
    match disk {
        Disk::Memory(memory) => {
            (introduce(&memory), spawn_driver(memory, options, inboxes, outlets), None)
        }
        Disk::Database(database) => {
            let driver = spawn_driver(database.clone(), options, inboxes, outlets);
            (introduce(&database), driver, Some(database))
        }
    }
}

fn spawn_driver<S: Store + Clone + Send + 'static>(
    store: S,
    options: Options,
    inboxes: Inboxes,
    outlets: Outlets,
) -> std::thread::JoinHandle<()> {
    std::thread::Builder::new()
        .name("driver".to_owned())
        .spawn(move || Driver::run(store, options, inboxes, outlets))
        .expect("a process can start a thread")
}
