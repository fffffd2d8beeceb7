//! The connections of clients.
//!
//! Each has one task that reads and one that writes. Guarantees that a stranger, a flood or a
//! client that never reads costs a bounded share: connections are capped below the descriptor
//! limit, every byte of a request is counted from when it is received until its answer has left,
//! and every byte of an answer until it has left. Anything over a bound is refused or closed, never
//! queued. Does not know what requests mean.

mod arrivals;
mod audit;
mod held;
mod outgoing;
mod proof;
mod requests;

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kvorum_protocol::access::AccessQuery;
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
use kvorum_tls::{Encryption, Wire};
use tokio::io::{AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::driver::metrics::Metrics;
use crate::driver::sinks::{ClientSink, Queued, Total};
use crate::driver::{CLIENTS_INBOX, ClientEvent};
use crate::engine::{ClientKey, Input};
use crate::limits::{BEGUN_BYTES_MAX, CALL_BYTES, REQUESTS_BYTES_MAX};
use crate::shares::room::{Account, Budget, Room};
use crate::shares::{GivesUp, Shares};
use crate::state::accounts::Accounts;
use crate::state::rights::User;
use audit::Refusals;
use outgoing::{Answers, Calls, Outgoing};
use proof::Checks;
use requests::Requests;

/// Longest frame from a client, in bytes: fits the largest put, and a scan with two bounds.
const REQUEST_BYTES_MAX: usize = VALUE_BYTES_MAX + 4 * KEY_BYTES_MAX;
/// A connection that accepts no data for this long is closed.
const STALL_MAX: Duration = Duration::from_secs(10);
/// One in this many places of the driver's inbox is for clients that have little under way.
const INBOX_KEPT: usize = 8;
/// Most passwords that wait to be checked: each takes some hundredth of a second.
const CHECKS_MAX: usize = 32;
/// The end of a connection that was closed before anything was said: somebody only looked whether
/// the port is open.
const NOTHING_SAID: &str = "it was closed before it began";
/// How long before the end of a client's certificate its connection ends: not all at once.
const DOUBT_SPREAD: Range<Duration> = Duration::ZERO..Duration::from_secs(60);
/// How long a client may take to hear that its connection ends.
const CLOSE_PATIENCE: Duration = Duration::from_millis(200);

/// What the driver tells of itself; `None` before its first turn.
type Known<T> = watch::Receiver<Option<Arc<T>>>;

/// The clients' side of a replica.
#[derive(Clone)]
pub struct Clients {
    name: String,
    cluster: ClusterId,
    driver: mpsc::Sender<ClientEvent>,
    status: Known<Status>,
    metrics: Arc<Metrics>,
    /// The users, as this replica has applied them.
    accounts: Known<Accounts>,
    /// The places of passwords that wait to be checked, and the way to the thread that does it.
    checks: Arc<Shares>,
    checker: Arc<Checks>,
    /// The addresses for clients of the other replicas.
    addresses: watch::Receiver<Vec<Address>>,
    keys: Arc<AtomicU64>,
    /// Room for requests whose answers have not left.
    room: Arc<Budget>,
    /// Room for requests that are being received, in bytes.
    begun: Arc<Semaphore>,
    queued: Arc<Total>,
    encryption: Encryption,
    refusals: Arc<Refusals>,
    /// Whether requests that are let in are recorded, too.
    audits_all: bool,
}

impl Clients {
    /// Creates the clients' side of a replica; `listen` starts it.
    #[must_use]
    pub fn new(
        name: String,
        cluster: ClusterId,
        driver: mpsc::Sender<ClientEvent>,
        (status, accounts): (Known<Status>, Known<Accounts>),
        addresses: watch::Receiver<Vec<Address>>,
        metrics: Arc<Metrics>,
        encryption: Encryption,
    ) -> Self {
        let room = Budget::new(REQUESTS_BYTES_MAX);
        let begun = Arc::new(Semaphore::new(BEGUN_BYTES_MAX));
        let (keys, queued) = (Arc::default(), Arc::default());
        Self {
            name,
            cluster,
            driver,
            status,
            metrics,
            accounts,
            checks: Shares::new(CHECKS_MAX, GivesUp::Newest),
            checker: Checks::start(),
            addresses,
            keys,
            room,
            begun,
            queued,
            encryption,
            refusals: Arc::default(),
            audits_all: false,
        }
    }

    /// Returns the clients' side that records requests that are let in, too, or does not.
    #[must_use]
    pub fn auditing(self, audits_all: bool) -> Self {
        Self { audits_all, ..self }
    }

    /// Serves a connection of a user until it ends, or `over` does.
    async fn connection(
        &self,
        (mut requests, mut write): (Requests<ReadHalf<Wire>>, WriteHalf<Wire>),
        hello: ClientHello,
        mut caller: Caller,
        over: impl Future<Output = ()>,
    ) {
        match timeout(HANDSHAKE_TIMEOUT, self.welcome(&hello, &mut write)).await {
            Ok(Ok(Some(version))) => caller.version = version,
            Ok(Ok(None) | Err(_)) | Err(_) => return,
        }
        requests.set_bytes_max(REQUEST_BYTES_MAX);
        let client = caller.client;
        let (frames, queue) = mpsc::unbounded_channel();
        let queued = Queued::new(Arc::clone(&self.queued));
        let end = CancellationToken::new();
        let sink = ClientSink::new(frames.clone(), queued.clone(), end.clone());
        if self.driver.send(ClientEvent::Up { client, sink }).await.is_err() {
            return;
        }
        let calls = Arc::new(Calls::default());
        let answers = Answers { frames, queued: queued.clone() };
        let mut outgoing = Outgoing::new(write, queued, Arc::clone(&calls));
        tokio::select! {
            () = end.cancelled() => debug!(client = client.0, "a client does not read its answers"),
            () = over => {}
            () = self.write_frames(&mut outgoing, queue, &caller) => {}
            () = self.read_requests(&mut requests, &caller, &calls, &answers) => {}
        }
        let input = Input::ClientGone { client };
        // Until the driver handles this event, the client's requests are in its queues.
        let rooms = calls.held.take_all();
        let _ = self.driver.send(ClientEvent::Input { input, rooms }).await;
        // The client hears of it at once, wherever its bytes come along, and not only when a closed
        // socket is noticed. What it still sends is read, or it would be answered by a reset.
        let told = async {
            outgoing.close().await;
            while let Ok(Some(_)) = requests.next().await {}
        };
        let _ = timeout(CLOSE_PATIENCE, told).await;
    }

    /// Answers a client's hello; returns the wire version to speak, if the client is welcome.
    async fn welcome(
        &self,
        hello: &ClientHello,
        write: &mut WriteHalf<Wire>,
    ) -> Result<Option<u16>, &'static str> {
        let status = self.status.borrow().clone();
        let verdict = judge(hello, self.cluster).map(|version| Welcome {
            version,
            name: self.name.clone(),
            cluster: self.cluster,
            leader: status.as_ref().and_then(|status| status.leader.clone()),
            applied: status.as_ref().map_or(0, |status| status.applied),
            frame_bytes_max: REQUEST_BYTES_MAX as u64,
        });
        let version = verdict.as_ref().ok().map(|welcome| welcome.version);
        send_hello(write, verdict).await?;
        Ok(version)
    }

    /// Reads requests until the client leaves, falls silent or sends an invalid request.
    async fn read_requests(
        &self,
        requests: &mut Requests<ReadHalf<Wire>>,
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
                    let _ = self.driver.send(ClientEvent::Input { input, rooms: Vec::new() }).await;
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
        if self.audits_all {
            audit::request(&caller.user, caller.from, &request);
        }
        let request = caller.within_its_token(request);
        self.metrics.calls.fetch_add(1, Ordering::Relaxed);
        let refusal = match (request.validate(), self.room_for(&caller.account, bytes)) {
            (Err(limit), _) => Refusal::Limit(limit),
            (Ok(()), None) => Refusal::Overloaded,
            (Ok(()), Some(room)) => {
                calls.held.hold(call, room);
                let (client, user) = (caller.client, caller.user.clone());
                let input = Input::Client { client, call, user, request };
                let account = caller.account.id();
                match self.driver.try_send(ClientEvent::Call { account, input }) {
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

    /// Reserves room for a request of `bytes` bytes, until its answer has left. The last places of
    /// the driver's inbox are for those that have little under way, too.
    fn room_for(&self, account: &Account, bytes: usize) -> Option<Room> {
        let is_scarce = self.driver.capacity() < CLIENTS_INBOX / INBOX_KEPT;
        if is_scarce && self.room.has_much(account) {
            return None;
        }
        self.room.take(account, bytes + CALL_BYTES)
    }

    /// Writes frames until the connection breaks or accepts no data for too long.
    async fn write_frames(
        &self,
        out: &mut Outgoing,
        mut queue: mpsc::UnboundedReceiver<ServerFrame>,
        caller: &Caller,
    ) {
        let mut ping_due = Instant::now() + PING_INTERVAL;
        loop {
            let mut next = match timeout_at(ping_due, queue.recv()).await {
                Ok(Some(frame)) => Some(frame),
                Ok(None) => return,
                Err(_) => Some(self.ping(out, &mut ping_due)),
            };
            while let Some(frame) = next {
                let frame = self.complete(frame, caller, out);
                if !matches!(timeout(STALL_MAX, out.write(frame)).await, Ok(Ok(()))) {
                    return;
                }
                // A client that is never idle still needs the applied index: a write that was sent
                // too long ago expires.
                next = match Instant::now() >= ping_due {
                    true => Some(self.ping(out, &mut ping_due)),
                    false => queue.try_recv().ok(),
                };
            }
            if !matches!(timeout(STALL_MAX, out.flush()).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// Returns a frame with what the engine does not know, and records a refusal.
    fn complete(&self, frame: ServerFrame, caller: &Caller, out: &Outgoing) -> ServerFrame {
        match frame {
            ServerFrame::Answer { call, answer: Answer::Addresses(ref none) } => {
                debug_assert!(none.is_empty(), "the engine knows none");
                let without = frame.weight();
                let answer = Answer::Addresses(self.addresses.borrow().clone());
                let frame = ServerFrame::Answer { call, answer };
                out.queued.add(frame.weight() - without);
                frame
            }
            ServerFrame::Answer { call, answer: Answer::Refused(refusal) } => {
                if let Refusal::Forbidden { right, .. } = &refusal {
                    self.metrics.forbidden.fetch_add(1, Ordering::Relaxed);
                    self.refusals.request(&caller.user, caller.from, right);
                }
                let answer = Answer::Refused(refusal.in_version(caller.version));
                ServerFrame::Answer { call, answer }
            }
            frame => frame,
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
    account: Account,
    /// The version of the wire protocol that is spoken with it.
    version: u16,
    /// The time at which its token ends, in microseconds since 1970, if it has shown one.
    token_until_us: Option<u64>,
}

impl Caller {
    /// Returns a request for a token as one that ends with the token that was shown: or one would
    /// prolong itself for ever.
    fn within_its_token(&self, request: Request) -> Request {
        match (request, self.token_until_us) {
            (Request::Access(AccessQuery::Token { seconds }), Some(until_us)) => {
                let left = until_us.saturating_sub(proof::now_us()) / 1_000_000;
                let seconds = seconds.min(u32::try_from(left).unwrap_or(u32::MAX));
                Request::Access(AccessQuery::Token { seconds })
            }
            (request, _) => request,
        }
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
