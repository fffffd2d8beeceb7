//! One connection to one replica: many calls and subscriptions at once.
//!
//! Guarantees that every call ends: with the replica's answer, or with [`Lost`] when the connection
//! breaks or falls silent. Runs over any byte stream, so that a port-forward is as good as TCP.
//! Does not retry and does not know the outcome of a lost call; that is the
//! [client](crate::client)'s business.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::SinkExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt;
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

use crate::authentication::Authentication;
use crate::frame::{self, FrameError};
use crate::handshake::{ClientHello, HandshakeRefusal, MAGIC, ServerHello, Welcome};
use crate::limits::{
    CALLS_MAX, FRAME_BYTES_MAX, HANDSHAKE_BYTES_MAX, HANDSHAKE_TIMEOUT, PING_INTERVAL, SILENCE_MAX,
};
use crate::message::{Answer, ClientFrame, Event, Request, ServerFrame, Subscription};
use crate::queue::Queue;
use crate::status::ClusterId;

/// Returns the human-readable part of an address: the part after a slash only distinguishes two
/// successive replicas at the same address.
fn shown(address: &str) -> &str {
    address.split('/').next().unwrap_or_default()
}

/// The reason why a connection could not be made. No request was sent, so nothing happened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address does not answer.
    #[error("cannot reach {}: {reason}", shown(address))]
    Unreachable {
        /// The address.
        address: String,
        /// The system's error message.
        reason: String,
    },
    /// The address answers, but is not a Kvorum replica.
    #[error("{} is not a Kvorum replica's client port: {reason}", shown(address))]
    NotKvorum {
        /// The address.
        address: String,
        /// The fault in its answer.
        reason: String,
    },
    /// Something on the way does not let this program through; waiting does not help.
    #[error("may not reach {}: {reason}", shown(address))]
    Forbidden {
        /// The address.
        address: String,
        /// What is forbidden, and what to ask for.
        reason: String,
    },
    /// The two ends do not trust each other's certificates.
    #[error("no trust between this program and {}: {reason}", shown(address))]
    Distrusted {
        /// The address.
        address: String,
        /// Which of the two does not trust the other, and why.
        reason: String,
    },
    /// A replica refuses the client.
    #[error("{} refuses: {refusal}", shown(address))]
    Refused {
        /// The address.
        address: String,
        /// The replica's reason.
        refusal: HandshakeRefusal,
    },
}

impl ConnectError {
    /// Returns the error for a connection that broke.
    pub(crate) fn broken(address: &str, error: &std::io::Error) -> Self {
        let address = address.to_owned();
        match kvorum_tls::distrust(error) {
            Some(reason) if kvorum_tls::is_other_protocol(error) => {
                Self::NotKvorum { address, reason }
            }
            Some(reason) => Self::Distrusted { address, reason },
            None if error.kind() == std::io::ErrorKind::PermissionDenied => {
                Self::Forbidden { address, reason: error.to_string() }
            }
            None => Self::Unreachable { address, reason: error.to_string() },
        }
    }

    /// Whether the answer came from a replica of another cluster than the expected one.
    #[must_use]
    pub fn is_other_cluster(&self) -> bool {
        matches!(self, Self::Refused { refusal: HandshakeRefusal::OtherCluster { .. }, .. })
    }
}

/// The connection broke before the answer came. The outcome of the call is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection was lost before the answer came")]
pub struct Lost;

type Frames<S> = FramedRead<ReadHalf<S>, LengthDelimitedCodec>;
type Sink<S> = FramedWrite<WriteHalf<S>, LengthDelimitedCodec>;

/// The receiving end of a call.
enum Waiting {
    Answer(oneshot::Sender<Answer>),
    Events {
        opened: Option<oneshot::Sender<Answer>>,
        queue: Queue,
    },
    /// The subscriber is gone, and the replica could not be told.
    Nobody,
}

/// The state that the reader, the writer and the callers share.
struct Shared {
    /// Calls without an answer, and open subscriptions. A mutex because callers on any thread
    /// insert and the reader removes; held for one map operation, never across an await.
    waiting: Mutex<Option<HashMap<u64, Waiting>>>,
    applied: AtomicU64,
    next_call: AtomicU64,
    began: Instant,
    /// The time of the last frame, in milliseconds since `began`.
    heard_ms: AtomicU64,
}

impl Shared {
    fn hear(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard_ms.store(now, Ordering::Relaxed);
    }

    fn waiting(&self) -> MutexGuard<'_, Option<HashMap<u64, Waiting>>> {
        self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// One connection to one replica. Dropping it closes it.
pub struct Connection {
    welcome: Welcome,
    outgoing: mpsc::Sender<ClientFrame>,
    shared: Arc<Shared>,
    leader: watch::Receiver<Option<String>>,
    tasks: [tokio::task::AbortHandle; 2],
}

impl Connection {
    /// Performs the handshake over an open stream; `address` is only for messages. The
    /// authentication says which user this is, if the certificate does not.
    ///
    /// # Errors
    /// When the other end is not a replica, or refuses.
    pub async fn start<S>(
        stream: S,
        address: &str,
        cluster: Option<ClusterId>,
        authentication: Option<&Authentication>,
    ) -> Result<Self, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (read, write) = tokio::io::split(stream);
        let mut frames = FramedRead::new(read, frame::codec(HANDSHAKE_BYTES_MAX));
        let mut sink = FramedWrite::new(write, frame::codec(FRAME_BYTES_MAX));
        let shaken = shake_hands(&mut frames, &mut sink, cluster, authentication);
        let shaken = timeout(HANDSHAKE_TIMEOUT, shaken).await;
        let address = address.to_owned();
        let welcome = match shaken {
            Ok(Ok(Ok(welcome))) => welcome,
            Ok(Ok(Err(refusal))) => return Err(ConnectError::Refused { address, refusal }),
            Ok(Err(NoHandshake::Stranger(reason))) => {
                let reason = reason.to_owned();
                return Err(ConnectError::NotKvorum { address, reason });
            }
            Ok(Err(NoHandshake::Broken(error))) => {
                return Err(ConnectError::broken(&address, &error));
            }
            Err(_) => {
                let reason = format!("no handshake within {HANDSHAKE_TIMEOUT:?}");
                return Err(ConnectError::Unreachable { address, reason });
            }
        };
        frames.decoder_mut().set_max_frame_length(FRAME_BYTES_MAX);
        Ok(Self::run(frames, sink, welcome))
    }

    fn run<S>(frames: Frames<S>, sink: Sink<S>, welcome: Welcome) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (outgoing, queue) = mpsc::channel(CALLS_MAX);
        let (leader_known, leader) = watch::channel(welcome.leader.clone());
        let shared = Arc::new(Shared {
            waiting: Mutex::new(Some(HashMap::new())),
            applied: AtomicU64::new(welcome.applied),
            next_call: AtomicU64::new(1),
            began: Instant::now(),
            heard_ms: AtomicU64::new(0),
        });
        let writer = tokio::spawn(write_frames(sink, queue)).abort_handle();
        let reader = Reader {
            shared: Arc::clone(&shared),
            leader: leader_known,
            outgoing: outgoing.clone(),
            writer: writer.clone(),
        };
        let reader = reader.read_frames(frames);
        let reader = tokio::spawn(reader).abort_handle();
        Self { welcome, outgoing, shared, leader, tasks: [reader, writer] }
    }

    /// Returns the replica's part of the handshake.
    #[must_use]
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Returns the name of the leader that the replica knows.
    #[must_use]
    pub fn leader(&self) -> Option<String> {
        self.leader.borrow().clone()
    }

    /// Returns the index up to which the replica has applied the log, as it last reported.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.shared.applied.load(Ordering::Relaxed)
    }

    /// Returns the time since the last frame from the replica. It pings once a second, and after
    /// [`SILENCE_MAX`] the connection ends.
    #[must_use]
    pub fn silence(&self) -> Duration {
        let heard = Duration::from_millis(self.shared.heard_ms.load(Ordering::Relaxed));
        self.shared.began.elapsed().saturating_sub(heard)
    }

    /// Whether calls can still be made.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.shared.waiting().is_some()
    }

    /// Sends a request and waits for the answer. Dropping the future forgets the call; the replica
    /// may still carry it out.
    ///
    /// # Errors
    /// [`Lost`] when the connection breaks first.
    pub async fn call(&self, request: Request) -> Result<Answer, Lost> {
        let (answered, answer) = oneshot::channel();
        let call = self.register(Waiting::Answer(answered))?;
        let _forget = Forget { shared: &self.shared, call };
        self.outgoing.send(ClientFrame::Call { call, request }).await.or(Err(Lost))?;
        answer.await.or(Err(Lost))
    }

    /// Asks for a subscription whose events go to a queue. Returns what ends it, and where the
    /// answer arrives.
    ///
    /// # Errors
    /// [`Lost`] when the connection broke.
    pub(crate) async fn subscribe(
        &self,
        subscription: Subscription,
        queue: Queue,
    ) -> Result<(EndsCall, oneshot::Receiver<Answer>), Lost> {
        let (answered, answer) = oneshot::channel();
        let call = self.register(Waiting::Events { opened: Some(answered), queue })?;
        let (shared, outgoing) = (Arc::clone(&self.shared), self.outgoing.clone());
        let mut ends = EndsCall { shared, outgoing, call, is_sent: false };
        let request = Request::Subscribe(subscription);
        self.outgoing.send(ClientFrame::Call { call, request }).await.or(Err(Lost))?;
        ends.is_sent = true;
        Ok((ends, answer))
    }

    fn register(&self, waiting: Waiting) -> Result<u64, Lost> {
        let call = self.shared.next_call.fetch_add(1, Ordering::Relaxed);
        match self.shared.waiting().as_mut() {
            Some(map) => map.insert(call, waiting),
            None => return Err(Lost),
        };
        Ok(call)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// A guard that forgets a call whose caller went away.
struct Forget<'a> {
    shared: &'a Shared,
    call: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(map) = self.shared.waiting().as_mut() {
            map.remove(&self.call);
        }
    }
}

/// A guard that ends a subscription when its subscriber goes away.
pub(crate) struct EndsCall {
    shared: Arc<Shared>,
    outgoing: mpsc::Sender<ClientFrame>,
    call: u64,
    /// Whether the replica knows of it.
    is_sent: bool,
}

impl Drop for EndsCall {
    fn drop(&mut self) {
        let mut waiting = self.shared.waiting();
        let Some(map) = waiting.as_mut() else { return };
        // If it is not there, it was refused or put off.
        if map.remove(&self.call).is_some()
            && self.is_sent
            && self.outgoing.try_send(ClientFrame::Cancel { call: self.call }).is_err()
        {
            map.insert(self.call, Waiting::Nobody);
        }
    }
}

/// The reason why a handshake failed.
enum NoHandshake {
    /// The connection broke; a retry may succeed.
    Broken(std::io::Error),
    /// The answer is not that of a Kvorum replica.
    Stranger(&'static str),
}

async fn shake_hands<S>(
    frames: &mut Frames<S>,
    sink: &mut Sink<S>,
    cluster: Option<ClusterId>,
    authentication: Option<&Authentication>,
) -> Result<Result<Welcome, HandshakeRefusal>, NoHandshake>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let broken = NoHandshake::Broken;
    let hello = ClientHello::new(cluster).of(authentication);
    let hello = frame::encode(&hello, HANDSHAKE_BYTES_MAX).expect("a hello is far below its limit");
    sink.send(hello).await.map_err(broken)?;
    let answer = match frames.next().await {
        None => {
            return Err(broken(std::io::Error::other(
                "it closed the connection at the handshake; is that a client port?",
            )));
        }
        Some(Err(error)) if kvorum_tls::distrust(&error).is_some() => return Err(broken(error)),
        Some(Err(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
            return Err(NoHandshake::Stranger("its answer is no frame of this protocol"));
        }
        Some(Err(error)) => return Err(broken(error)),
        Some(Ok(answer)) => answer,
    };
    match frame::decode::<ServerHello>(&answer) {
        Ok(hello) if hello.magic == MAGIC => Ok(hello.verdict),
        _ => Err(NoHandshake::Stranger("its answer is no message of this protocol")),
    }
}

/// Writes frames until the connection is dropped or broken; pings when idle.
async fn write_frames<S: AsyncWrite>(mut sink: Sink<S>, mut queue: mpsc::Receiver<ClientFrame>) {
    loop {
        let first = match timeout(PING_INTERVAL, queue.recv()).await {
            Err(_) => ClientFrame::Ping,
            Ok(Some(frame)) => frame,
            Ok(None) => return,
        };
        let mut next = Some(first);
        while let Some(frame) = next {
            let Ok(bytes) = frame::encode(&frame, FRAME_BYTES_MAX) else { return };
            if sink.feed(bytes).await.is_err() {
                return;
            }
            next = queue.try_recv().ok();
        }
        if SinkExt::<Bytes>::flush(&mut sink).await.is_err() {
            return;
        }
    }
}

/// The reading side of a connection.
struct Reader {
    shared: Arc<Shared>,
    leader: watch::Sender<Option<String>>,
    outgoing: mpsc::Sender<ClientFrame>,
    writer: tokio::task::AbortHandle,
}

impl Reader {
    /// Reads frames until the connection breaks or falls silent; then every pending call fails.
    async fn read_frames<S: AsyncRead>(self, mut frames: Frames<S>) {
        while let Ok(Some(Ok(bytes))) = timeout(SILENCE_MAX, frames.next()).await {
            self.shared.hear();
            if self.dispatch(&bytes.freeze()).is_err() {
                break;
            }
        }
        self.writer.abort();
        self.shared.waiting().take();
    }

    fn dispatch(&self, bytes: &Bytes) -> Result<(), FrameError> {
        match frame::decode::<ServerFrame>(bytes)? {
            ServerFrame::Answer { call, answer } => deliver_answer(&self.shared, call, answer),
            ServerFrame::Event { call, event } => self.deliver_event(call, event),
            ServerFrame::Leader { name } => {
                self.leader.send_replace(name);
            }
            ServerFrame::Ping { applied } => {
                self.shared.applied.fetch_max(applied, Ordering::Relaxed);
                self.end_abandoned();
            }
        }
        Ok(())
    }

    /// Passes an event to its subscriber; ends the subscription if that has no room, or is gone.
    fn deliver_event(&self, call: u64, event: Event) {
        let mut waiting = self.shared.waiting();
        let Some(map) = waiting.as_mut() else { return };
        let is_taken = match map.get(&call) {
            Some(Waiting::Events { queue, .. }) => queue.push(event).is_ok(),
            Some(Waiting::Answer(_) | Waiting::Nobody) | None => true,
        };
        if !is_taken {
            map.insert(call, Waiting::Nobody);
            self.end(map, call);
        }
    }

    /// Ends the subscriptions whose end the replica could not be told.
    fn end_abandoned(&self) {
        let mut waiting = self.shared.waiting();
        let Some(map) = waiting.as_mut() else { return };
        let abandoned = map.iter().filter(|(_, waiting)| matches!(waiting, Waiting::Nobody));
        for call in abandoned.map(|(call, _)| *call).collect::<Vec<_>>() {
            self.end(map, call);
        }
    }

    fn end(&self, map: &mut HashMap<u64, Waiting>, call: u64) {
        // This task must not wait: it is what empties the way to the replica.
        if self.outgoing.try_send(ClientFrame::Cancel { call }).is_ok() {
            map.remove(&call);
        }
    }
}

fn deliver_answer(shared: &Shared, call: u64, answer: Answer) {
    let mut waiting = shared.waiting();
    let Some(map) = waiting.as_mut() else { return };
    let is_open = matches!(answer, Answer::Subscribed { .. });
    match map.get_mut(&call) {
        Some(Waiting::Events { opened, .. }) if is_open => {
            if let Some(opened) = opened.take() {
                let _ = opened.send(answer);
            }
        }
        Some(Waiting::Nobody) if is_open => {}
        _ => match map.remove(&call) {
            Some(Waiting::Answer(answered)) => drop(answered.send(answer)),
            Some(Waiting::Events { opened: Some(opened), .. }) => drop(opened.send(answer)),
            Some(Waiting::Events { opened: None, .. } | Waiting::Nobody) | None => {}
        },
    }
}
