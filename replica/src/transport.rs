//! Links to the other replicas: who dials, how two replicas meet, and what a session is.
//!
//! Of two replicas the one with the higher id dials; the other one does only when there is no link
//! for a while, for it may have come to an address that the first cannot know. A session is one TCP
//! connection on which both have met; it has a number that rises, and a new one replaces the old.
//! Guarantees that messages of a session arrive in order, whole, at most once, and never after a
//! newer session began.
//!
//! Does not know what the messages mean, nor who may vote: the engine judges introductions.

pub mod link;
mod meeting;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use kvorum_protocol::status::{Member, ReplicaId};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::driver::PeerEvent;
use crate::engine::{Rejection, Session};
use meeting::{Failure, Meeting, Met};

/// How long two replicas may take to meet, and a dial to connect.
const MEETING_PATIENCE: Duration = Duration::from_secs(3);
/// Meetings under way at once; for a further one the oldest is ended, so that strangers who say
/// nothing cannot keep peers out.
const MEETINGS_MAX: usize = 64;
/// Time between two lines of the log about strangers; those in between are counted.
const STRANGERS_INTERVAL: Duration = Duration::from_secs(1);
/// First pause between two dials.
const DIAL_PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest pause between two dials. A restarted peer waits for it at most.
const DIAL_PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long the replica with the lower id waits to be dialed.
const CALL_BACK_PATIENCE: Duration = Duration::from_secs(1);
/// Pause after a failed accept: descriptors may have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where the peers listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressBook {
    /// `host:port` by name; looked up at each dial.
    Hosts(BTreeMap<String, String>),
    /// A folder for each name, with the file that the peer writes its address to; read at each
    /// dial.
    Folder(PathBuf),
    /// `NAME.service:port`, by the domain name system; looked up at each dial.
    Service {
        /// The headless Service.
        service: String,
        /// The peers' port.
        port: u16,
    },
}

impl AddressBook {
    /// The address to dial now.
    fn resolve(&self, name: &str) -> Result<String, String> {
        match self {
            Self::Hosts(hosts) => {
                hosts.get(name).cloned().ok_or_else(|| format!("no address of {name} is given"))
            }
            Self::Folder(folder) => {
                let file = folder.join(name).join(crate::addresses::FILE_NAME);
                crate::addresses::Addresses::read(&file)
                    .map(|addresses| addresses.peers)
                    .map_err(|error| format!("{}: {error}", file.display()))
            }
            Self::Service { service, port } => Ok(format!("{name}.{service}:{port}")),
        }
    }
}

/// What every link needs.
#[derive(Clone)]
pub struct Transport {
    me: ReplicaId,
    driver: mpsc::Sender<PeerEvent>,
    sessions: Arc<AtomicU64>,
    /// The sessions that are open, and where those dialed were reached last. Held for a moment.
    linked: Arc<Mutex<Linked>>,
}

/// What is known of the links.
#[derive(Default)]
struct Linked {
    open: BTreeMap<ReplicaId, u32>,
    reached: BTreeMap<ReplicaId, SocketAddr>,
}

impl Transport {
    /// Links of a replica, to be started.
    #[must_use]
    pub fn new(me: ReplicaId, driver: mpsc::Sender<PeerEvent>) -> Self {
        Self { me, driver, sessions: Arc::default(), linked: Arc::default() }
    }

    fn linked<T>(&self, with: impl FnOnce(&mut Linked) -> T) -> T {
        with(&mut self.linked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_linked(&self, peer: ReplicaId) -> bool {
        self.linked(|linked| linked.open.get(&peer).is_some_and(|open| *open > 0))
    }

    /// Takes peers' connections, for ever.
    pub async fn listen(self, listener: TcpListener) {
        let mut meetings: VecDeque<CancellationToken> = VecDeque::new();
        let strangers = Arc::new(Strangers::default());
        loop {
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    debug!(%error, "could not accept a peer");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let end = CancellationToken::new();
            meetings.push_back(end.clone());
            if meetings.len() > MEETINGS_MAX
                && let Some(oldest) = meetings.pop_front()
            {
                // Of no effect when it has become a session.
                oldest.cancel();
            }
            let (transport, strangers) = (self.clone(), Arc::clone(&strangers));
            tokio::spawn(async move {
                let met = tokio::select! {
                    met = transport.meet(stream, None) => met,
                    () = end.cancelled() => return,
                };
                match met {
                    Ok(met) => transport.session(met).await,
                    Err(failure) => strangers.log(from, &failure),
                }
            });
        }
    }

    /// Dials those who are known, for ever.
    pub async fn dial_known(self, mut known: watch::Receiver<Vec<Member>>, book: AddressBook) {
        let (book, mut dialed) = (Arc::new(book), BTreeSet::new());
        // Ends what it dials when it ends.
        let mut dials = JoinSet::new();
        let told = known.clone();
        loop {
            for member in known.borrow_and_update().clone() {
                if member.replica != self.me && dialed.insert(member.replica) {
                    dials.spawn(self.clone().dial(member, told.clone(), Arc::clone(&book)));
                }
            }
            if known.changed().await.is_err() {
                return;
            }
        }
    }

    /// Dials a peer for ever, whenever it is known and there is no link to it.
    async fn dial(
        self,
        member: Member,
        known: watch::Receiver<Vec<Member>>,
        book: Arc<AddressBook>,
    ) {
        let Member { replica: peer, name } = member;
        let mut pauses = pauses();
        let mut last = String::new();
        loop {
            let is_known = known.borrow().iter().any(|member| member.replica == peer);
            if !is_known || self.is_linked(peer) {
                sleep(DIAL_PAUSE_MAX).await;
                continue;
            }
            if self.me < peer && !self.is_missing(peer).await {
                continue;
            }
            match self.try_dial(peer, &name, &book).await {
                Ok(met) => {
                    last.clear();
                    self.session(met).await;
                    pauses = self::pauses();
                }
                Err(failure) => {
                    let why = failure.to_string();
                    if why != last {
                        info!(peer = name, why, "no link yet");
                        last = why;
                    }
                }
            }
            sleep(pauses.next().unwrap_or(DIAL_PAUSE_MAX)).await;
        }
    }

    /// Whether a peer that is to dial does not for a while.
    async fn is_missing(&self, peer: ReplicaId) -> bool {
        sleep(CALL_BACK_PATIENCE).await;
        !self.is_linked(peer)
    }

    async fn try_dial(
        &self,
        peer: ReplicaId,
        name: &str,
        book: &AddressBook,
    ) -> Result<Met, Failure> {
        let stream = match book.resolve(name) {
            Ok(address) => connect(&address).await,
            Err(why) => Err(why),
        };
        let stream = match (stream, self.linked(|linked| linked.reached.get(&peer).copied())) {
            // Names may be gone for a while when the replica is not.
            (Err(why), Some(reached)) => connect(&reached.to_string()).await.map_err(|_| why),
            (stream, _) => stream,
        };
        let stream = stream.map_err(Failure::Unreachable)?;
        let reached = stream.peer_addr();
        let met = self.meet(stream, Some(peer)).await?;
        if let Ok(reached) = reached {
            self.linked(|linked| linked.reached.insert(peer, reached));
        }
        Ok(met)
    }

    /// Meets whoever is at the other end; `dialed` is whom this replica called.
    async fn meet(&self, stream: TcpStream, dialed: Option<ReplicaId>) -> Result<Met, Failure> {
        let _ = stream.set_nodelay(true);
        let meeting = Meeting::new(stream, self.driver.clone());
        let met = match timeout(MEETING_PATIENCE, meeting.hold(dialed)).await {
            Err(_) => Err(Failure::Unreachable("it did not introduce itself in time".to_owned())),
            Ok(met) => met,
        };
        if let Err(Failure::RejectedBy { peer, rejection, is_proven }) = &met
            && matches!(rejection, Rejection::OtherDisk { .. })
        {
            let (peer, is_proven) = (*peer, *is_proven);
            let _ = self.driver.send(PeerEvent::Disowned { peer, is_proven }).await;
        }
        met
    }

    /// Runs a session until it ends.
    async fn session(&self, met: Met) {
        let session = Session(self.sessions.fetch_add(1, Ordering::Relaxed) + 1);
        let peer = met.peer;
        self.linked(|linked| *linked.open.entry(peer).or_default() += 1);
        link::run(met, session, &self.driver).await;
        self.linked(|linked| *linked.open.entry(peer).or_default() -= 1);
    }
}

async fn connect(address: &str) -> Result<TcpStream, String> {
    match timeout(MEETING_PATIENCE, TcpStream::connect(address)).await {
        Err(_) => Err(format!("{address}: no answer")),
        Ok(Err(error)) => Err(format!("{address}: {error}")),
        Ok(Ok(stream)) => Ok(stream),
    }
}

fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(DIAL_PAUSE_MIN)
        .with_max_delay(DIAL_PAUSE_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}

/// Strangers at the door, told of at most so often: they must not fill the log.
#[derive(Default)]
struct Strangers {
    /// When one was told of last, and how many came since. Held for a moment, by tasks that end.
    last: Mutex<(Option<Instant>, u64)>,
}

impl Strangers {
    fn log(&self, from: SocketAddr, failure: &Failure) {
        if matches!(failure, Failure::Rejected(Rejection::Cut) | Failure::Unreachable(_)) {
            debug!(%from, why = failure.to_string(), "no meeting");
            return;
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (told, unsaid) = *last;
        if told.is_some_and(|told| told.elapsed() < STRANGERS_INTERVAL) {
            last.1 += 1;
        } else {
            *last = (Some(Instant::now()), 0);
            // As a text, so that the log escapes what a stranger says.
            let why = failure.to_string();
            warn!(%from, why, unsaid, "no meeting");
        }
    }
}
