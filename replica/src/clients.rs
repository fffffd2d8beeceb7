//! Clients' connections.
//!
//! Each has a task that reads and one that writes. Guarantees that a stranger, a flood or a client
//! that never reads costs a bounded share: connections are capped below the descriptor limit,
//! calls in flight and bytes queued are capped for each, and what is over is refused or closed,
//! never queued. Does not know what requests mean.

mod metered;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use kvorum_protocol::frame;
use kvorum_protocol::handshake::{
    ClientHello, HandshakeRefusal, MAGIC, ServerHello, Welcome, judge,
};
use kvorum_protocol::limits::{
    CALLS_MAX, FRAME_BYTES_MAX, HANDSHAKE_BYTES_MAX, HANDSHAKE_TIMEOUT, KEY_BYTES_MAX,
    PING_INTERVAL, SILENCE_MAX, VALUE_BYTES_MAX,
};
use kvorum_protocol::message::{Answer, ClientFrame, Refusal, Request, ServerFrame};
use kvorum_protocol::status::{ClusterId, Status};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::driver::ClientEvent;
use crate::engine::{ClientKey, Input};
use crate::metrics::Metrics;
use metered::Metered;

/// Most connections at once, if the descriptor limit allows.
pub const CONNECTIONS_MAX: usize = 1000;
/// Longest frame that a client may send, in bytes: the largest put, and a scan with two bounds.
const REQUEST_BYTES_MAX: usize = VALUE_BYTES_MAX + 4 * KEY_BYTES_MAX;
/// Bytes of requests of all clients that wait for the driver. Beyond, calls are refused.
const REQUESTS_BYTES_MAX: usize = 64 << 20;
/// Bytes queued for a connection beyond which it is told no further event.
const EVENTS_BYTES_MAX: usize = 1 << 20;
/// Bytes queued for a connection beyond which it is closed: it does not read its answers.
const QUEUE_BYTES_MAX: usize = 32 << 20;
/// Bytes queued for all connections beyond which each that has more than its share is closed.
const QUEUES_BYTES_MAX: usize = 128 << 20;
/// A connection that takes nothing for so long is closed.
const STALL_MAX: Duration = Duration::from_secs(10);
/// Strangers that are told at once that there are too many; further ones are just closed.
const REFUSALS_MAX: usize = 64;
/// How long a stranger is told.
const REFUSAL_PATIENCE: Duration = Duration::from_millis(500);
/// Pause after a failed accept: descriptors may have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

type Requests = FramedRead<OwnedReadHalf, Metered>;
type Sink = FramedWrite<OwnedWriteHalf, LengthDelimitedCodec>;

/// The sending end of a connection, for the driver. Dropping it closes the connection.
pub struct ClientSink {
    frames: mpsc::UnboundedSender<ServerFrame>,
    queued: Queued,
    end: CancellationToken,
}

/// Bytes queued for one connection, and for all of them.
#[derive(Clone, Default)]
struct Queued {
    own: Arc<AtomicUsize>,
    total: Arc<AtomicUsize>,
}

impl Queued {
    fn add(&self, bytes: usize) {
        self.own.fetch_add(bytes, Ordering::Relaxed);
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    fn subtract(&self, bytes: usize) {
        self.own.fetch_sub(bytes, Ordering::Relaxed);
        self.total.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn own(&self) -> usize {
        self.own.load(Ordering::Relaxed)
    }

    /// Whether the connection has let more pile up than it may.
    fn is_too_much(&self) -> bool {
        let total = self.total.load(Ordering::Relaxed);
        self.own() > QUEUE_BYTES_MAX || (total > QUEUES_BYTES_MAX && self.own() > EVENTS_BYTES_MAX)
    }
}

impl ClientSink {
    /// Queues a frame. A connection that lets too much pile up is closed.
    pub fn push(&self, frame: ServerFrame) {
        if self.queued.is_too_much() {
            self.end.cancel();
            return;
        }
        self.queued.add(weight(&frame));
        // A connection that just ended is told by its own event.
        let _ = self.frames.send(frame);
    }

    /// Whether the connection takes another event.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.queued.own() < EVENTS_BYTES_MAX
    }
}

impl Drop for ClientSink {
    fn drop(&mut self) {
        self.end.cancel();
        // The driver lets go of a connection after its tasks have ended: nobody writes the rest.
        self.queued.subtract(self.queued.own());
    }
}

/// About how many bytes a frame takes in memory.
fn weight(frame: &ServerFrame) -> usize {
    use kvorum_protocol::message::Event;
    const OVERHEAD: usize = 128;
    OVERHEAD
        + match frame {
            ServerFrame::Answer { answer: Answer::Value(Some(pair)), .. } => pair.bytes(),
            ServerFrame::Answer { answer: Answer::Page(page), .. } => {
                page.pairs.iter().map(|pair| pair.bytes() + 16).sum()
            }
            ServerFrame::Event { event: Event::Key(event), .. } => {
                event.key.0.len() + event.value.as_ref().map_or(0, |value| value.0.len())
            }
            ServerFrame::Event { event: Event::Entry(event), .. } => {
                event.key.as_ref().map_or(0, |key| key.0.len())
                    + event.preview.as_ref().map_or(0, |value| value.0.len())
            }
            _ => 0,
        }
}

/// The clients' side of a replica.
#[derive(Clone)]
pub struct Clients {
    name: String,
    cluster: ClusterId,
    driver: mpsc::Sender<ClientEvent>,
    status: watch::Receiver<Option<Arc<Status>>>,
    metrics: Arc<Metrics>,
    keys: Arc<AtomicU64>,
    room: Arc<Semaphore>,
    queued: Arc<AtomicUsize>,
    begun: Arc<AtomicUsize>,
}

impl Clients {
    /// The clients' side of a replica, to be started.
    #[must_use]
    pub fn new(
        name: String,
        cluster: ClusterId,
        driver: mpsc::Sender<ClientEvent>,
        status: watch::Receiver<Option<Arc<Status>>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let room = Arc::new(Semaphore::new(REQUESTS_BYTES_MAX));
        let (keys, queued, begun) = (Arc::default(), Arc::default(), Arc::default());
        Self { name, cluster, driver, status, metrics, keys, room, queued, begun }
    }

    /// Takes connections, for ever, at most so many at once.
    pub async fn listen(self, listener: TcpListener, connections_max: usize) {
        let connections = Arc::new(Semaphore::new(connections_max));
        let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
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
                    clients.connection(stream).await;
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

    async fn connection(&self, stream: TcpStream) {
        let (read, write) = stream.into_split();
        let codec = Metered::new(HANDSHAKE_BYTES_MAX, Arc::clone(&self.begun));
        let mut requests = FramedRead::new(read, codec);
        let mut sink = FramedWrite::new(write, frame::codec(FRAME_BYTES_MAX));
        match timeout(HANDSHAKE_TIMEOUT, self.shake_hands(&mut requests, &mut sink)).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => {
                self.metrics.malformed.fetch_add(1, Ordering::Relaxed);
                debug!(why, "a client's handshake failed");
                return;
            }
            Err(_) => return,
        }
        let client = ClientKey(self.keys.fetch_add(1, Ordering::Relaxed) + 1);
        let (frames, queue) = mpsc::unbounded_channel();
        let queued = Queued { own: Arc::default(), total: Arc::clone(&self.queued) };
        let end = CancellationToken::new();
        let up = ClientEvent::Up {
            client,
            sink: ClientSink { frames: frames.clone(), queued: queued.clone(), end: end.clone() },
        };
        if self.driver.send(up).await.is_err() {
            return;
        }
        requests.decoder_mut().set_max_frame_length(REQUEST_BYTES_MAX);
        let calls = Arc::new(Semaphore::new(CALLS_MAX));
        let answers = Answers { frames, queued: queued.clone() };
        let outgoing = Outgoing { sink, queue, queued, calls: Arc::clone(&calls) };
        tokio::select! {
            () = end.cancelled() => debug!(client = client.0, "a client does not read its answers"),
            () = self.write_frames(outgoing) => {}
            () = self.read_requests(requests, client, &calls, &answers) => {}
        }
        let input = Input::ClientGone { client };
        let _ = self.driver.send(ClientEvent::Input { input, permit: None }).await;
    }

    async fn shake_hands(
        &self,
        requests: &mut Requests,
        sink: &mut Sink,
    ) -> Result<(), &'static str> {
        let Some(Ok(bytes)) = requests.next().await else { return Err("no frame") };
        let hello: ClientHello = frame::decode(&bytes).map_err(|_| "no hello")?;
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
        send_hello(sink, verdict).await?;
        if is_welcome { Ok(()) } else { Err("refused") }
    }

    /// Reads requests until the client goes, falls silent or sends what is none.
    async fn read_requests(
        &self,
        mut requests: Requests,
        client: ClientKey,
        calls: &Semaphore,
        answers: &Answers,
    ) {
        loop {
            // A client with as many calls as it may have is not read; so it is not silent either.
            let Ok(slot) = calls.acquire().await else { return };
            let bytes = match timeout(SILENCE_MAX, requests.next()).await {
                Ok(Some(Ok(bytes))) => bytes,
                Ok(Some(Err(_))) => {
                    self.metrics.malformed.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Ok(None) | Err(_) => return,
            };
            let Ok(frame) = frame::decode::<ClientFrame>(&bytes) else {
                self.metrics.malformed.fetch_add(1, Ordering::Relaxed);
                return;
            };
            match frame {
                ClientFrame::Ping => {}
                ClientFrame::Cancel { call } => {
                    let input = Input::Cancel { client, call };
                    let _ = self.driver.send(ClientEvent::Input { input, permit: None }).await;
                }
                ClientFrame::Call { call, request } => {
                    // Given back when the answer is written.
                    slot.forget();
                    self.metrics.calls.fetch_add(1, Ordering::Relaxed);
                    if !self.hand_over(client, call, request) {
                        self.metrics.overloads.fetch_add(1, Ordering::Relaxed);
                        let answer = Answer::Refused(Refusal::Overloaded);
                        let frame = ServerFrame::Answer { call, answer };
                        answers.queued.add(weight(&frame));
                        let _ = answers.frames.send(frame);
                    }
                }
            }
        }
    }

    /// Gives a call to the driver, if there is room.
    fn hand_over(&self, client: ClientKey, call: u64, request: Request) -> bool {
        let bytes = u32::try_from(request.bytes() + 1).unwrap_or(u32::MAX);
        let permit: OwnedSemaphorePermit =
            match Arc::clone(&self.room).try_acquire_many_owned(bytes) {
                Ok(permit) => permit,
                Err(_) => return false,
            };
        let input = Input::Client { client, call, request };
        self.driver.try_send(ClientEvent::Input { input, permit: Some(permit) }).is_ok()
    }

    /// Writes frames until the connection breaks or takes nothing for too long.
    async fn write_frames(&self, mut out: Outgoing) {
        let mut ping_due = Instant::now() + PING_INTERVAL;
        loop {
            let mut next = match timeout_at(ping_due, out.queue.recv()).await {
                Ok(Some(frame)) => Some(frame),
                Ok(None) => return,
                Err(_) => Some(self.ping(&mut out, &mut ping_due)),
            };
            while let Some(frame) = next {
                if !matches!(timeout(STALL_MAX, out.write(&frame)).await, Ok(Ok(()))) {
                    return;
                }
                // Whoever is never idle needs to know how far the log is all the same: a write
                // that was promised too long ago expires.
                next = match Instant::now() >= ping_due {
                    true => Some(self.ping(&mut out, &mut ping_due)),
                    false => out.queue.try_recv().ok(),
                };
            }
            let flushed = timeout(STALL_MAX, SinkExt::<Bytes>::flush(&mut out.sink));
            if !matches!(flushed.await, Ok(Ok(()))) {
                return;
            }
        }
    }

    fn ping(&self, out: &mut Outgoing, due: &mut Instant) -> ServerFrame {
        *due = Instant::now() + PING_INTERVAL;
        let applied = self.status.borrow().as_ref().map_or(0, |status| status.applied);
        let ping = ServerFrame::Ping { applied };
        out.queued.add(weight(&ping));
        ping
    }
}

/// Where the reader answers what never reaches the driver.
struct Answers {
    frames: mpsc::UnboundedSender<ServerFrame>,
    queued: Queued,
}

struct Outgoing {
    sink: Sink,
    queue: mpsc::UnboundedReceiver<ServerFrame>,
    queued: Queued,
    calls: Arc<Semaphore>,
}

impl Outgoing {
    async fn write(&mut self, frame: &ServerFrame) -> std::io::Result<()> {
        let weight = weight(frame);
        let bytes = frame::encode(frame, FRAME_BYTES_MAX).map_err(std::io::Error::other)?;
        self.sink.feed(bytes).await?;
        self.queued.subtract(weight);
        if matches!(frame, ServerFrame::Answer { .. }) {
            self.calls.add_permits(1);
        }
        Ok(())
    }
}

async fn send_hello(
    sink: &mut Sink,
    verdict: Result<Welcome, HandshakeRefusal>,
) -> Result<(), &'static str> {
    let hello = ServerHello { magic: MAGIC, verdict };
    let bytes = frame::encode(&hello, HANDSHAKE_BYTES_MAX).map_err(|_| "hello too long")?;
    sink.send(bytes).await.map_err(|_| "connection lost")
}

async fn refuse(stream: TcpStream, refusal: HandshakeRefusal) {
    let (read, write) = stream.into_split();
    let mut requests = FramedRead::new(read, frame::codec(HANDSHAKE_BYTES_MAX));
    let mut sink = FramedWrite::new(write, frame::codec(HANDSHAKE_BYTES_MAX));
    // The hello is read first: closing with it unread would reset the connection, and the
    // refusal would be lost.
    let _ = requests.next().await;
    let _ = send_hello(&mut sink, Err(refusal)).await;
}
