//! One session of a link: two lanes out, one stream in.
//!
//! A frame begins with a byte that gives its kind; messages longer than a fragment are sent in
//! several, and urgent messages go between them. Guarantees order within the ordinary lane, and
//! that bytes received on all links, and bytes that wait for one link, are counted until they are
//! handled or written. Does not know when too much waits: the driver adds up the counts, and ends a
//! session.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::SinkExt;
use kvorum_protocol::frame;
use kvorum_protocol::status::ReplicaId;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::meeting::{Frames, Met, Sink};
use crate::driver::PeerEvent;
use crate::driver::link_handle::{LinkHandle, Queues};
use crate::engine::{PeerMessage, Session, validity};
use crate::limits::{
    FRAGMENT_BYTES_MAX, GUEST_PART_BYTES, GUESTS_MAX, INBOUND_BYTES_MAX, MESSAGE_BYTES_MAX,
    PART_BYTES_FREE,
};

/// Longest urgent message, in bytes: an urgent message contains only a few numbers.
const URGENT_FRAME_BYTES_MAX: usize = 1024;
/// Lowest rate at which a peer may send a long message, in bytes per second, after a second of
/// grace. A slower peer delays the long messages of others: its session ends.
const LONG_BYTES_PER_SECOND: usize = 4 << 20;

/// A link on which nothing was sent for this long sends a sign of life.
const SIGN_OF_LIFE: Duration = Duration::from_millis(700);
/// A link on which nothing arrived for this long has ended.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// The kind of a frame.
const URGENT: u8 = 0;
const MORE: u8 = 1;
const LAST: u8 = 2;
const ALIVE: u8 = 3;

/// The budget for messages received from all peers and not yet handled.
#[derive(Clone)]
pub struct Inbound {
    /// Room for messages, in bytes.
    room: Arc<Semaphore>,
    /// One slot, for the link that assembles a long message.
    long: Arc<Semaphore>,
    /// Slots for the sessions of non-members.
    pub guests: Arc<Semaphore>,
}

impl Default for Inbound {
    fn default() -> Self {
        let room = Arc::new(Semaphore::new(INBOUND_BYTES_MAX));
        let (long, guests) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(GUESTS_MAX)));
        Self { room, long, guests }
    }
}

/// Runs a session until it ends, or `over` does, and reports its beginning and end to the driver.
pub async fn run(
    met: Met,
    session: Session,
    inbound: &Inbound,
    is_member: impl Fn() -> bool,
    driver: &mpsc::Sender<PeerEvent>,
    over: impl Future<Output = ()>,
) {
    let Met { peer, mut frames, mut sink, .. } = met;
    frames.decoder_mut().set_max_frame_length(FRAGMENT_BYTES_MAX + 1);
    sink.encoder_mut().set_max_frame_length(FRAGMENT_BYTES_MAX + 1);
    let end = CancellationToken::new();
    let (link, queues) = LinkHandle::new(end.clone());
    if driver.send(PeerEvent::Up { peer, session, link }).await.is_err() {
        return;
    }
    tokio::select! {
        () = end.cancelled() => {}
        () = over => {}
        () = write_messages(sink, queues) => {}
        () = read_messages(frames, (peer, session), inbound, is_member, driver) => {}
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

/// Writes one message, with urgent ones between its fragments; returns false when the link broke.
async fn write_message(sink: &mut Sink, message: PeerMessage, queues: &mut Queues) -> bool {
    let (weight, is_urgent) = (message.weight(), message.is_urgent());
    let Ok(bytes) = frame::encode(&message, MESSAGE_BYTES_MAX) else {
        warn!(weight, "a message to a peer is too long to be sent; its session ends");
        return false;
    };
    // From here on, the encoded bytes replace the message.
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
            queues.written(urgent.weight(), true);
            let Ok(bytes) = frame::encode(&urgent, FRAGMENT_BYTES_MAX) else { return false };
            if sink.feed(frame_of(URGENT, &bytes)).await.is_err() {
                return false;
            }
        }
    }
    queues.written(weight, is_urgent);
    true
}

fn frame_of(kind: u8, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(payload.len() + 1);
    frame.put_u8(kind);
    frame.put_slice(payload);
    frame.freeze()
}

/// Whether a long message has arrived too slowly: `bytes` are too few for the time taken.
fn is_too_slow(bytes: usize, took: Duration) -> bool {
    let due = took.saturating_sub(Duration::from_secs(1)).as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rough measure of speed")]
    let (bytes, rate) = (bytes as f64, LONG_BYTES_PER_SECOND as f64);
    bytes < due * rate
}

async fn read_messages(
    mut frames: Frames,
    (peer, session): (ReplicaId, Session),
    inbound: &Inbound,
    is_member: impl Fn() -> bool,
    driver: &mpsc::Sender<PeerEvent>,
) {
    let mut parts = BytesMut::new();
    let mut long: Option<(SemaphorePermit<'_>, Instant)> = None;
    while let Ok(Some(Ok(frame))) = timeout(SILENCE_MAX, frames.next()).await {
        let Some((kind, payload)) = frame.split_first() else { return };
        if long.as_ref().is_some_and(|(_, began)| is_too_slow(parts.len(), began.elapsed())) {
            warn!(peer = peer.0, "a peer is too slow with a long message; its session ends");
            return;
        }
        let (bytes, room) = match *kind {
            ALIVE => continue,
            // An urgent message needs no room: it is small, and handled at once.
            URGENT if payload.len() > URGENT_FRAME_BYTES_MAX => return,
            URGENT => (None, 0),
            LAST if parts.is_empty() => (None, payload.len()),
            MORE | LAST if parts.len() + payload.len() > MESSAGE_BYTES_MAX => return,
            MORE | LAST => {
                let free = if is_member() { PART_BYTES_FREE } else { GUEST_PART_BYTES };
                if long.is_none() && parts.len() + payload.len() > free {
                    let Ok(slot) = inbound.long.acquire().await else { return };
                    long = Some((slot, Instant::now()));
                }
                parts.extend_from_slice(payload);
                if *kind == MORE {
                    continue;
                }
                let parts = std::mem::take(&mut parts);
                let length = parts.len();
                (Some(parts), length)
            }
            _ => return,
        };
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&inbound.room).acquire_many_owned(room).await else { return };
        let decoded: Result<PeerMessage, _> = frame::decode(bytes.as_deref().unwrap_or(payload));
        drop(bytes);
        long = None;
        let Ok(message) = decoded else {
            warn!(peer = peer.0, "a peer sent what is no message; its session ends");
            return;
        };
        if *kind == URGENT && !message.is_urgent() {
            warn!(peer = peer.0, "a peer sent as urgent what is not; its session ends");
            return;
        }
        if let Err(invalid) = validity::check(&message) {
            warn!(peer = peer.0, %invalid, "its session ends");
            return;
        }
        let event = PeerEvent::Message { peer, session, message, permit };
        if driver.send(event).await.is_err() {
            return;
        }
    }
}
