//! One session of a link: two lanes out, one stream in.
//!
//! A frame begins with a byte that says what it is; messages longer than a fragment travel in
//! several, and what is urgent goes between them. Guarantees order within the ordinary lane, and
//! that a full queue ends the session instead of losing one message.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use kvorum_protocol::frame;
use kvorum_protocol::status::ReplicaId;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::meeting::{Frames, Met, Sink};
use crate::driver::PeerEvent;
use crate::engine::{PeerMessage, Session, validity};

/// Longest part of a message in one frame, in bytes: an urgent message waits for one of them.
const FRAGMENT_BYTES_MAX: usize = 256 << 10;
/// Longest message, in bytes. A synchronization carries all that a peer lacks; until the log is
/// compacted, a peer that lacks more cannot come back.
const MESSAGE_BYTES_MAX: usize = 1 << 30;
/// Bytes that may wait for a link, not counting the last message and the one being written. Beyond,
/// the session ends and both sides start over with what is missing.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// The same for what is urgent: some ten thousand messages.
const URGENT_BYTES_MAX: usize = 1 << 20;
/// Bytes that a link may have handed to the driver and not yet been taken; then it stops reading.
const INBOUND_BYTES_MAX: usize = 64 << 20;
/// A link that has said nothing for so long says so.
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);
/// A link on which nothing arrived for so long has ended.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// What a frame is.
const URGENT: u8 = 0;
const MORE: u8 = 1;
const LAST: u8 = 2;
const ALIVE: u8 = 3;

/// The sending end of a session, for the driver. Dropping it ends the session.
pub struct LinkHandle {
    urgent: mpsc::UnboundedSender<PeerMessage>,
    ordinary: mpsc::UnboundedSender<PeerMessage>,
    queued: Arc<Queued>,
    end: CancellationToken,
}

/// Bytes that wait in each lane. A message that is being written does not wait any more.
#[derive(Default)]
struct Queued {
    urgent: AtomicUsize,
    ordinary: AtomicUsize,
}

impl Queued {
    /// A message was taken from its lane.
    fn taken(&self, message: &PeerMessage) {
        let lane = if message.is_urgent() { &self.urgent } else { &self.ordinary };
        lane.fetch_sub(message.weight(), Ordering::Relaxed);
    }
}

impl LinkHandle {
    /// Queues a message; false when the queue is full. What is urgent has room of its own: it is
    /// small, and must not wait for a long synchronization.
    pub fn push(&self, message: PeerMessage) -> bool {
        let (lane, queued, most) = match message.is_urgent() {
            true => (&self.urgent, &self.queued.urgent, URGENT_BYTES_MAX),
            false => (&self.ordinary, &self.queued.ordinary, QUEUE_BYTES_MAX),
        };
        if queued.load(Ordering::Relaxed) > most {
            return false;
        }
        queued.fetch_add(message.weight(), Ordering::Relaxed);
        // A session that just ended is told by its own event.
        let _ = lane.send(message);
        true
    }
}

impl Drop for LinkHandle {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

struct Queues {
    urgent: mpsc::UnboundedReceiver<PeerMessage>,
    ordinary: mpsc::UnboundedReceiver<PeerMessage>,
    queued: Arc<Queued>,
}

/// Runs a session until it ends, and tells the driver of its beginning and end.
pub async fn run(met: Met, session: Session, driver: &mpsc::Sender<PeerEvent>) {
    let Met { peer, mut frames, mut sink } = met;
    frames.decoder_mut().set_max_frame_length(FRAGMENT_BYTES_MAX + 1);
    sink.encoder_mut().set_max_frame_length(FRAGMENT_BYTES_MAX + 1);
    let (urgent, urgent_queue) = mpsc::unbounded_channel();
    let (ordinary, ordinary_queue) = mpsc::unbounded_channel();
    let (queued, end) = (Arc::new(Queued::default()), CancellationToken::new());
    let link = LinkHandle { urgent, ordinary, queued: Arc::clone(&queued), end: end.clone() };
    let queues = Queues { urgent: urgent_queue, ordinary: ordinary_queue, queued };
    if driver.send(PeerEvent::Up { peer, session, link }).await.is_err() {
        return;
    }
    tokio::select! {
        () = end.cancelled() => {}
        () = write_messages(sink, queues) => {}
        () = read_messages(frames, peer, session, driver) => {}
    }
    let _ = driver.send(PeerEvent::Down { peer, session }).await;
}

async fn write_messages(mut sink: Sink, mut queues: Queues) {
    loop {
        let next = timeout(SIGN_OF_LIFE, async {
            tokio::select! {
                biased;
                message = queues.urgent.recv() => message,
                message = queues.ordinary.recv() => message,
            }
        });
        let written = match next.await {
            Err(_) => sink.feed(Bytes::from_static(&[ALIVE])).await.is_ok(),
            Ok(None) => return,
            Ok(Some(message)) => write_message(&mut sink, message, &mut queues).await,
        };
        if !written {
            return;
        }
        let is_idle = queues.urgent.is_empty() && queues.ordinary.is_empty();
        if is_idle && SinkExt::<Bytes>::flush(&mut sink).await.is_err() {
            return;
        }
    }
}

/// Writes one message, and between its fragments whatever is urgent; false when the link broke.
async fn write_message(sink: &mut Sink, message: PeerMessage, queues: &mut Queues) -> bool {
    queues.queued.taken(&message);
    let (weight, is_urgent) = (message.weight(), message.is_urgent());
    let Ok(bytes) = frame::encode(&message, MESSAGE_BYTES_MAX) else {
        warn!(weight, "a message to a peer is too long to be sent; its session ends");
        return false;
    };
    drop(message);
    let mut rest = bytes;
    while !rest.is_empty() {
        let fragment = rest.split_to(rest.len().min(FRAGMENT_BYTES_MAX));
        let kind = match rest.is_empty() {
            true if is_urgent => URGENT,
            true => LAST,
            false => MORE,
        };
        if sink.feed(frame_of(kind, &fragment)).await.is_err() {
            return false;
        }
        while kind == MORE
            && let Ok(urgent) = queues.urgent.try_recv()
        {
            queues.queued.taken(&urgent);
            let Ok(bytes) = frame::encode(&urgent, FRAGMENT_BYTES_MAX) else { return false };
            if sink.feed(frame_of(URGENT, &bytes)).await.is_err() {
                return false;
            }
        }
    }
    true
}

fn frame_of(kind: u8, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(payload.len() + 1);
    frame.put_u8(kind);
    frame.put_slice(payload);
    frame.freeze()
}

async fn read_messages(
    mut frames: Frames,
    peer: ReplicaId,
    session: Session,
    driver: &mpsc::Sender<PeerEvent>,
) {
    let room = Arc::new(Semaphore::new(INBOUND_BYTES_MAX));
    let mut parts = BytesMut::new();
    while let Ok(Some(Ok(frame))) = timeout(SILENCE_MAX, frames.next()).await {
        let Some((kind, payload)) = frame.split_first() else { return };
        let whole = match *kind {
            ALIVE => continue,
            URGENT => frame::decode(payload),
            LAST if parts.is_empty() => frame::decode(payload),
            MORE | LAST if parts.len() + payload.len() > MESSAGE_BYTES_MAX => return,
            MORE => {
                parts.extend_from_slice(payload);
                continue;
            }
            LAST => {
                parts.extend_from_slice(payload);
                frame::decode(&std::mem::take(&mut parts))
            }
            _ => return,
        };
        let Ok(message) = whole else {
            warn!(peer = peer.0, "a peer sent what is no message; its session ends");
            return;
        };
        let message: PeerMessage = message;
        if let Err(invalid) = validity::check(&message) {
            warn!(peer = peer.0, %invalid, "its session ends");
            return;
        }
        let bytes = u32::try_from(message.weight().min(INBOUND_BYTES_MAX)).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&room).acquire_many_owned(bytes).await else { return };
        let event = PeerEvent::Message { peer, session, message, permit };
        if driver.send(event).await.is_err() {
            return;
        }
    }
}
