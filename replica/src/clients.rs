//! The connections of clients.
//!
//! Each has one task that reads and one that writes. Guarantees that a stranger, a flood or a
//! client that never reads costs a bounded share: connections are capped below the descriptor
//! limit, every byte of a request is counted from when it is received until its answer has left,
//! and every byte of an answer until it has left. Anything over a bound is refused or closed, never
//! queued. Does not know what requests mean.

mod audit;
mod held;
mod outgoing;
mod requests;

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kvorum_protocol::frame;
use kvorum_protocol::handshake::{
    ClientHello, HandshakeRefusal, MAGIC, ServerHello, Welcome, judge,
};
use kvorum_protocol::limits::{
    HANDSHAKE_BYTES_MAX, HANDSHAKE_TIMEOUT, KEY_BYTES_MAX, PING_INTERVAL, SILENCE_MAX,
    VALUE_BYTES_MAX,
};
use kvorum_protocol::message::{Address, Answer, ClientFrame, Refusal, Request, ServerFrame};
use kvorum_protocol::status::{ClusterId, Status};
use kvorum_tls::{Accepted, Encryption, Identity, Peer, Port, ReplicaName, Subject, Wire};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::driver::ClientEvent;
use crate::driver::metrics::Metrics;
use crate::driver::sinks::{ClientSink, Queued, Total};
use crate::engine::{ClientKey, Input};
use crate::limits::{BEGUN_BYTES_MAX, CALL_BYTES, REQUESTS_BYTES_MAX};
use crate::state::rights::{self, Forbidden, User};
use outgoing::{Answers, Calls, Outgoing};
use requests::Requests;

/// Longest frame from a client, in bytes: fits the largest put, and a scan with two bounds.
const REQUEST_BYTES_MAX: usize = VALUE_BYTES_MAX + 4 * KEY_BYTES_MAX;
/// A connection that accepts no data for this long is closed.
const STALL_MAX: Duration = Duration::from_secs(10);
/// Refusals under way to connections over the limit; further connections are simply closed.
const REFUSALS_MAX: usize = 64;
/// Time limit for sending such a refusal.
const REFUSAL_PATIENCE: Duration = Duration::from_millis(500);
/// Pause after a failed accept: descriptors may have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The end of a connection that was closed before anything was said: somebody only looked whether
/// the port is open.
const NOTHING_SAID: &str = "it was closed before it began";
/// How long before the end of a client's certificate its connection ends: not all at once.
const DOUBT_SPREAD: Range<Duration> = Duration::ZERO..Duration::from_secs(60);

/// The clients' side of a replica.
#[derive(Clone)]
pub struct Clients {
    name: String,
    cluster: ClusterId,
    driver: mpsc::Sender<ClientEvent>,
    status: watch::Receiver<Option<Arc<Status>>>,
    metrics: Arc<Metrics>,
    /// The addresses for clients of the other replicas.
    addresses: watch::Receiver<Vec<Address>>,
    keys: Arc<AtomicU64>,
    /// Room for requests whose answers have not left, in bytes.
    room: Arc<Semaphore>,
    /// Room for requests that are being received, in bytes.
    begun: Arc<Semaphore>,
    queued: Arc<Total>,
    encryption: Encryption,
}

impl Clients {
    /// Creates the clients' side of a replica; `listen` starts it.
    #[must_use]
    pub fn new(
        name: String,
        cluster: ClusterId,
        driver: mpsc::Sender<ClientEvent>,
        status: watch::Receiver<Option<Arc<Status>>>,
        addresses: watch::Receiver<Vec<Address>>,
        metrics: Arc<Metrics>,
        encryption: Encryption,
    ) -> Self {
        let room = Arc::new(Semaphore::new(REQUESTS_BYTES_MAX));
        let begun = Arc::new(Semaphore::new(BEGUN_BYTES_MAX));
        let (keys, queued) = (Arc::default(), Arc::default());
        Self {
            name,
            cluster,
            driver,
            status,
            metrics,
            addresses,
            keys,
            room,
            begun,
            queued,
            encryption,
        }
    }

    /// Accepts connections, forever, at most `connections_max` at once.
    pub async fn listen(self, listener: TcpListener, connections_max: usize) {
        let connections = Arc::new(Semaphore::new(connections_max));
        let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
        loop {
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    debug!(%error, "could not accept a client");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let clients = self.clone();
            if let Ok(permit) = Arc::clone(&connections).try_acquire_owned() {
                tokio::spawn(async move {
                    clients.metrics.connections.fetch_add(1, Ordering::Relaxed);
                    clients.accept(stream, from).await;
                    clients.metrics.connections.fetch_sub(1, Ordering::Relaxed);
                    drop(permit);
                });
                continue;
            }
            self.metrics.refused_connections.fetch_add(1, Ordering::Relaxed);
            if let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
                tokio::spawn(async move {
                    let most = u32::try_from(connections_max).unwrap_or(u32::MAX);
                    let refusal = HandshakeRefusal::TooManyConnections { most };
                    let _ = timeout(REFUSAL_PATIENCE, refuse(stream, refusal)).await;
                    drop(permit);
                });
            }
        }
    }

    /// Serves a connection until it ends.
    async fn accept(&self, stream: TcpStream, from: SocketAddr) {
        let accepted = kvorum_tls::accept(&self.encryption, Port::Clients, stream);
        let (wire, certified) = match timeout(HANDSHAKE_TIMEOUT, accepted).await {
            Ok(Ok(Accepted::Plain(wire))) => (wire, None),
            Ok(Ok(Accepted::Encrypted(wire, certified))) => (wire, Some(certified)),
            Ok(Ok(Accepted::NotEncrypted(stream))) => {
                audit::refused_connection(from, "it does not encrypt");
                let refusal = refuse(stream, HandshakeRefusal::NotEncrypted);
                let _ = timeout(REFUSAL_PATIENCE, refusal).await;
                return;
            }
            Ok(Err(error)) => {
                match kvorum_tls::distrust(&error) {
                    Some(why) => audit::refused_connection(from, &why),
                    None => debug!(%from, %error, "no connection"),
                }
                return;
            }
            Err(_) => return,
        };
        let user = certified.as_ref().map_or(User::Anonymous, |peer| user_of(&peer.identity));
        tokio::select! {
            () = self.connection(wire, user, from) => {}
            () = self.doubted(certified.as_ref()) => debug!(%from, "its certificate is over"),
        }
    }

    /// Waits until the other end of a connection is no longer to be believed.
    async fn doubted(&self, certified: Option<&Peer>) {
        match (self.encryption.tls(), certified) {
            (Some(tls), Some(peer)) => tls.doubted(peer, rand::random_range(DOUBT_SPREAD)).await,
            _ => std::future::pending().await,
        }
    }

    async fn connection(&self, wire: Wire, user: User, from: SocketAddr) {
        let (read, mut write) = tokio::io::split(wire);
        let mut requests = Requests::new(read, HANDSHAKE_BYTES_MAX, Arc::clone(&self.begun));
        match timeout(HANDSHAKE_TIMEOUT, self.shake_hands(&mut requests, &mut write)).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => {
                let is_strange = why != NOTHING_SAID;
                self.metrics.malformed.fetch_add(u64::from(is_strange), Ordering::Relaxed);
                debug!(why, "a client's handshake failed");
                return;
            }
            Err(_) => return,
        }
        requests.set_bytes_max(REQUEST_BYTES_MAX);
        let client = ClientKey(self.keys.fetch_add(1, Ordering::Relaxed) + 1);
        let caller = Caller { client, user, from };
        let (frames, queue) = mpsc::unbounded_channel();
        let queued = Queued::new(Arc::clone(&self.queued));
        let end = CancellationToken::new();
        let sink = ClientSink::new(frames.clone(), queued.clone(), end.clone());
        if self.driver.send(ClientEvent::Up { client, sink }).await.is_err() {
            return;
        }
        let calls = Arc::new(Calls::default());
        let answers = Answers { frames, queued: queued.clone() };
        let outgoing = Outgoing::new(write, queued, Arc::clone(&calls));
        tokio::select! {
            () = end.cancelled() => debug!(client = client.0, "a client does not read its answers"),
            () = self.write_frames(outgoing, queue) => {}
            () = self.read_requests(requests, &caller, &calls, &answers) => {}
        }
        let input = Input::ClientGone { client };
        // Until the driver handles this event, the client's requests are in its queues.
        let permit = calls.held.take_all();
        let _ = self.driver.send(ClientEvent::Input { input, permit }).await;
    }

    async fn shake_hands(
        &self,
        requests: &mut Requests<ReadHalf<Wire>>,
        write: &mut WriteHalf<Wire>,
    ) -> Result<(), &'static str> {
        let begun = match requests.next().await {
            Ok(Some(begun)) => begun,
            Ok(None) => return Err(NOTHING_SAID),
            Err(_) => return Err("no frame"),
        };
        let hello: ClientHello = frame::decode(&begun.bytes).map_err(|_| "no hello")?;
        if hello.magic != MAGIC {
            return Err("another protocol");
        }
        let status = self.status.borrow().clone();
        let verdict = judge(&hello, self.cluster).map(|version| Welcome {
            version,
            name: self.name.clone(),
            cluster: self.cluster,
            leader: status.as_ref().and_then(|status| status.leader.clone()),
            applied: status.as_ref().map_or(0, |status| status.applied),
            frame_bytes_max: REQUEST_BYTES_MAX as u64,
        });
        let is_welcome = verdict.is_ok();
        send_hello(write, verdict).await?;
        if is_welcome { Ok(()) } else { Err("refused") }
    }

    /// Reads requests until the client leaves, falls silent or sends an invalid request.
    async fn read_requests(
        &self,
        mut requests: Requests<ReadHalf<Wire>>,
        caller: &Caller,
        calls: &Calls,
        answers: &Answers,
    ) {
        let malformed = || self.metrics.malformed.fetch_add(1, Ordering::Relaxed);
        loop {
            // A client that has used all its calls is not read, so its silence does not count.
            let Ok(slot) = calls.slots.acquire().await else { return };
            let begun = match timeout(SILENCE_MAX, requests.next()).await {
                Ok(Ok(Some(begun))) => begun,
                Ok(Err(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
                    malformed();
                    return;
                }
                Ok(Ok(None) | Err(_)) | Err(_) => return,
            };
            let Ok(frame) = frame::decode::<ClientFrame>(&begun.bytes) else {
                malformed();
                return;
            };
            match frame {
                ClientFrame::Ping => {}
                ClientFrame::Cancel { call } => {
                    let input = Input::Cancel { client: caller.client, call };
                    let _ = self.driver.send(ClientEvent::Input { input, permit: None }).await;
                }
                ClientFrame::Call { call, .. } if calls.held.has(call) => {
                    malformed();
                    return;
                }
                ClientFrame::Call { call, request } => {
                    // Returned when the answer has left.
                    slot.forget();
                    let bytes = begun.bytes.len();
                    if let Some(answer) = self.take(caller, (call, request), bytes, calls) {
                        answers.answer(call, answer);
                    }
                }
            }
        }
    }

    /// Passes a call of `bytes` bytes to the driver, or answers it at once.
    fn take(
        &self,
        caller: &Caller,
        (call, request): (u64, Request),
        bytes: usize,
        calls: &Calls,
    ) -> Option<Answer> {
        if let Err(Forbidden { right }) = rights::judge(&caller.user, rights::touches(&request)) {
            self.metrics.forbidden.fetch_add(1, Ordering::Relaxed);
            audit::refused_request(&caller.user, caller.from, &request, right);
            let (user, right) = (caller.user.to_string(), right.to_owned());
            return Some(Answer::Refused(Refusal::Forbidden { user, right }));
        }
        if matches!(request, Request::Addresses) {
            return Some(Answer::Addresses(self.addresses.borrow().clone()));
        }
        self.metrics.calls.fetch_add(1, Ordering::Relaxed);
        let refusal = match (request.validate(), self.room_for(bytes)) {
            (Err(limit), _) => Refusal::Limit(limit),
            (Ok(()), None) => Refusal::Overloaded,
            (Ok(()), Some(room)) => {
                calls.held.hold(call, room);
                let input = Input::Client { client: caller.client, call, request };
                let event = ClientEvent::Input { input, permit: None };
                match self.driver.try_send(event) {
                    Ok(()) => return None,
                    Err(_) => Refusal::Overloaded,
                }
            }
        };
        if refusal == Refusal::Overloaded {
            self.metrics.overloads.fetch_add(1, Ordering::Relaxed);
        }
        Some(Answer::Refused(refusal))
    }

    /// Reserves room for a request of `bytes` bytes, until its answer has left.
    fn room_for(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes + CALL_BYTES).unwrap_or(u32::MAX);
        Arc::clone(&self.room).try_acquire_many_owned(bytes).ok()
    }

    /// Writes frames until the connection breaks or accepts no data for too long.
    async fn write_frames(
        &self,
        mut out: Outgoing,
        mut queue: mpsc::UnboundedReceiver<ServerFrame>,
    ) {
        let mut ping_due = Instant::now() + PING_INTERVAL;
        loop {
            let mut next = match timeout_at(ping_due, queue.recv()).await {
                Ok(Some(frame)) => Some(frame),
                Ok(None) => return,
                Err(_) => Some(self.ping(&out, &mut ping_due)),
            };
            while let Some(frame) = next {
                if !matches!(timeout(STALL_MAX, out.write(frame)).await, Ok(Ok(()))) {
                    return;
                }
                // A client that is never idle still needs the applied index: a write that was sent
                // too long ago expires.
                next = match Instant::now() >= ping_due {
                    true => Some(self.ping(&out, &mut ping_due)),
                    false => queue.try_recv().ok(),
                };
            }
            if !matches!(timeout(STALL_MAX, out.flush()).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    fn ping(&self, out: &Outgoing, due: &mut Instant) -> ServerFrame {
        *due = Instant::now() + PING_INTERVAL;
        let applied = self.status.borrow().as_ref().map_or(0, |status| status.applied);
        let ping = ServerFrame::Ping { applied };
        out.queued.add(ping.weight());
        ping
    }
}

/// The one at the other end of a connection.
struct Caller {
    client: ClientKey,
    user: User,
    from: SocketAddr,
}

/// Returns the user that a certificate names.
fn user_of(identity: &Identity) -> User {
    match &identity.subject {
        Subject::Client(name) => User::Client(name.clone()),
        Subject::Replica(ReplicaName::One(name)) => User::Replica(Some(name.clone())),
        Subject::Replica(ReplicaName::Any) => User::Replica(None),
    }
}

async fn send_hello(
    write: &mut (impl AsyncWrite + Unpin),
    verdict: Result<Welcome, HandshakeRefusal>,
) -> Result<(), &'static str> {
    let hello = ServerHello { magic: MAGIC, verdict };
    let bytes = frame::encode(&hello, HANDSHAKE_BYTES_MAX).map_err(|_| "hello too long")?;
    let bytes = [&frame::length_of(&bytes)[..], &bytes].concat();
    write.write_all(&bytes).await.map_err(|_| "connection lost")?;
    write.flush().await.map_err(|_| "connection lost")
}

async fn refuse(stream: impl AsyncRead + AsyncWrite, refusal: HandshakeRefusal) {
    let (read, mut write) = tokio::io::split(stream);
    let mut requests = Requests::new(read, HANDSHAKE_BYTES_MAX, Arc::new(Semaphore::new(0)));
    // The hello is read first: closing the connection with it unread would reset it, and the
    // refusal would be lost.
    let _ = requests.next().await;
    let _ = send_hello(&mut write, Err(refusal)).await;
}
