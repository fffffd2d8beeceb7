//! Links to the other replicas: dialing, the handshake by which two replicas meet, and sessions.
//!
//! `dialing` defines who dials whom. A session is one TCP connection on which both have met; it has
//! a number that rises, and a new session replaces the old one. Guarantees that messages of a
//! session arrive in order, whole, at most once, and never after a newer session began.
//!
//! Does not know what messages mean, nor which replica may vote: the engine judges introductions.

pub mod addresses;
pub mod book;
mod dialing;
mod handshake;
pub mod link;
mod meeting;
pub mod reached;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kvorum_protocol::status::ReplicaId;
use kvorum_tls::{Accepted, Encryption, Peer, Port, Tls, Wire};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::driver::PeerEvent;
use crate::engine::{Known, Rejection, Session};
use crate::shares::{GivesUp, Shares};
pub use book::AddressBook;
use handshake::Failure;
use link::Inbound;
use meeting::{Meeting, Met};
use reached::Reached;

/// Time limit for two replicas to meet, and for a dial to connect.
const MEETING_PATIENCE: Duration = Duration::from_secs(3);
/// Most meetings under way at once; a further one ends the oldest of the host that has most, so
/// that strangers cannot keep peers out.
const MEETINGS_MAX: usize = 64;
/// Time between two log lines about strangers; those in between are counted.
const STRANGERS_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two checks whether a non-member has become a member.
const GUEST_INTERVAL: Duration = Duration::from_secs(1);
/// How long before the end of a peer's certificate its session ends: not all at once.
const DOUBT_SPREAD: Range<Duration> = Duration::ZERO..Duration::from_secs(60);
/// How long a session goes on after that, or after its authority is no longer trusted: a leader
/// that lost all its links at once would lead nobody until the first is back.
const END_SPREAD: Range<Duration> = Duration::ZERO..Duration::from_secs(3);

/// The shared state of all links.
#[derive(Clone)]
pub struct Transport {
    me: ReplicaId,
    driver: mpsc::Sender<PeerEvent>,
    /// The replicas that this one may have to talk to.
    known: watch::Receiver<Vec<Known>>,
    book: Arc<AddressBook>,
    /// The addresses where they were reached last.
    reached: Arc<Reached>,
    encryption: Encryption,
    sessions: Arc<AtomicU64>,
    inbound: Inbound,
    /// Number of open sessions of each peer. Locked briefly.
    linked: Arc<Mutex<BTreeMap<ReplicaId, u32>>>,
}

impl Transport {
    /// Creates the links of a replica, without starting them.
    #[must_use]
    pub fn new(
        me: ReplicaId,
        driver: mpsc::Sender<PeerEvent>,
        known: watch::Receiver<Vec<Known>>,
        book: AddressBook,
        reached: Arc<Reached>,
        encryption: Encryption,
    ) -> Self {
        let (sessions, linked, book) = (Arc::default(), Arc::default(), Arc::new(book));
        let inbound = Inbound::default();
        Self { me, driver, known, book, reached, encryption, sessions, inbound, linked }
    }

    fn linked<T>(&self, with: impl FnOnce(&mut BTreeMap<ReplicaId, u32>) -> T) -> T {
        with(&mut self.linked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_linked(&self, peer: ReplicaId) -> bool {
        self.linked(|linked| linked.contains_key(&peer))
    }

    /// Accepts peers' connections, forever.
    pub async fn listen(self, listener: TcpListener) {
        let meetings = Shares::new(MEETINGS_MAX, GivesUp::Oldest);
        let strangers = Arc::new(Strangers::default());
        loop {
            let (stream, from, share) = meetings.accept(&listener).await;
            let (transport, strangers) = (self.clone(), Arc::clone(&strangers));
            tokio::spawn(async move {
                let met = tokio::select! {
                    met = transport.accept(stream) => met,
                    () = share.given_up() => return,
                };
                // A session is no meeting any more.
                drop(share);
                match met {
                    Ok(met) => {
                        transport.called_from(met.peer, from);
                        transport.session(met).await;
                    }
                    Err(failure) => strangers.log(from, &failure),
                }
            });
        }
    }

    /// Returns the name of a peer, if it is a member.
    fn member_name(&self, peer: ReplicaId) -> Option<String> {
        let known = self.known.borrow();
        let is_it = |known: &&Known| known.member.replica == peer && known.is_member;
        known.iter().find(is_it).map(|known| known.member.name.clone())
    }

    /// Records the address of a member that dialed: it listens where it came from, if all peers
    /// share a port. A non-member's name says nothing about where the member of that name is.
    fn called_from(&self, peer: ReplicaId, from: SocketAddr) {
        let Some(port) = self.book.port() else { return };
        if let Some(name) = self.member_name(peer) {
            self.reached.note(&name, SocketAddr::new(from.ip(), port));
        }
    }

    /// Meets a replica that dialed this one.
    async fn accept(&self, stream: TcpStream) -> Result<Met, Failure> {
        let _ = stream.set_nodelay(true);
        let accepted = kvorum_tls::accept(&self.encryption, Port::Peers, stream);
        let (wire, certified) = match in_time(accepted).await? {
            Accepted::Encrypted(wire, certified) => (wire, certified),
            Accepted::Plain(wire) => (wire, None),
            Accepted::NotEncrypted(_) => return Err(Failure::NotEncrypted),
        };
        self.meet(wire, certified, None).await
    }

    /// Begins a connection that this replica opened.
    async fn encrypt(
        &self,
        stream: TcpStream,
        tls: Option<&Tls>,
    ) -> Result<(Wire, Option<Peer>), Failure> {
        let _ = stream.set_nodelay(true);
        let Some(tls) = tls else { return Ok((Wire::Plain(stream), None)) };
        let (stream, peer) = in_time(tls.connect(Port::Peers, stream)).await?;
        Ok((Wire::Encrypted(Box::new(stream.into())), Some(peer)))
    }

    /// Meets the replica at the other end; `dialed` is the one that this replica dialed.
    async fn meet(
        &self,
        wire: Wire,
        certified: Option<Peer>,
        dialed: Option<ReplicaId>,
    ) -> Result<Met, Failure> {
        let meeting = Meeting::new(wire, certified, self.driver.clone());
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

    /// Waits until the other end of a connection is no longer to be believed.
    async fn doubted(&self, certified: Option<Peer>) {
        match (self.encryption.tls(), certified) {
            (Some(tls), Some(peer)) => {
                tls.doubted(&peer, rand::random_range(DOUBT_SPREAD)).await;
                sleep(rand::random_range(END_SPREAD)).await;
            }
            _ => std::future::pending().await,
        }
    }

    /// Runs a session until it ends.
    async fn session(&self, met: Met) {
        let session = Session(self.sessions.fetch_add(1, Ordering::Relaxed) + 1);
        let (peer, certified) = (met.peer, met.certified.clone());
        let is_member = || self.member_name(peer).is_some();
        // Any replica that asks gets an id, but not a session.
        let place = Arc::clone(&self.inbound.guests).try_acquire_owned();
        if place.is_err() && !is_member() {
            debug!(peer = peer.0, "too many replicas that are no members are linked");
            return;
        }
        let keep_place = async {
            while !is_member() {
                sleep(GUEST_INTERVAL).await;
            }
            drop(place);
            std::future::pending::<()>().await;
        };
        let over = async {
            self.doubted(certified).await;
            debug!(peer = peer.0, "its certificate is over");
        };
        self.linked(|linked| *linked.entry(peer).or_default() += 1);
        tokio::select! {
            () = link::run(met, session, &self.inbound, is_member, &self.driver, over) => {}
            () = keep_place => {}
        }
        self.linked(|linked| {
            let open = linked.entry(peer).or_default();
            *open -= 1;
            if *open == 0 {
                linked.remove(&peer);
            }
        });
    }
}

/// Waits, for a limited time, for the encryption of a connection to begin.
async fn in_time<T>(begun: impl Future<Output = io::Result<T>>) -> Result<T, Failure> {
    match timeout(MEETING_PATIENCE, begun).await {
        Err(_) => Err(Failure::Unreachable("it did not introduce itself in time".to_owned())),
        Ok(begun) => begun.map_err(|error| match kvorum_tls::distrust(&error) {
            Some(why) => Failure::Distrusted(why),
            None => Failure::Unreachable(error.to_string()),
        }),
    }
}

/// The log of rejected strangers, limited in rate so that they cannot fill the log.
#[derive(Default)]
struct Strangers {
    /// The last log line's time, and the strangers since. Locked briefly, by tasks that end.
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
            // Logged as a string, so that the log escapes text from a stranger.
            let why = failure.to_string();
            warn!(%from, why, unsaid, "no meeting");
        }
    }
}
