//! The frames that wait to be written to clients.
//!
//! Guarantees that the bytes which have not left are bounded over all connections: a connection for
//! which too much waits is closed, and when the total is over its bound, the one that has most. So
//! a client that never reads harms itself first.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kvorum_protocol::message::ServerFrame;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::engine::ClientKey;
use crate::limits::{CLIENT_BYTES_MAX, CLIENTS_BYTES_MAX, EVENTS_BYTES_MAX};

/// Bytes that wait for all connections together.
#[derive(Default)]
pub(crate) struct Total(AtomicUsize);

/// Bytes that wait for one connection, and for all of them together.
#[derive(Clone)]
pub(crate) struct Queued {
    /// `None` once the connection is closed: its frames are never written. Locked for one addition.
    own: Arc<Mutex<Option<usize>>>,
    total: Arc<Total>,
}

impl Queued {
    pub(crate) fn new(total: Arc<Total>) -> Self {
        Self { own: Arc::new(Mutex::new(Some(0))), total }
    }

    fn own<T>(&self, with: impl FnOnce(&mut Option<usize>) -> T) -> T {
        with(&mut self.own.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.own(|own| {
            if let Some(own) = own {
                *own += bytes;
                self.total.0.fetch_add(bytes, Ordering::Relaxed);
            }
        });
    }

    pub(crate) fn subtract(&self, bytes: usize) {
        self.own(|own| {
            if let Some(own) = own {
                *own -= bytes;
                self.total.0.fetch_sub(bytes, Ordering::Relaxed);
            }
        });
    }

    fn bytes(&self) -> usize {
        self.own(|own| own.unwrap_or(0))
    }

    fn close(&self) {
        let bytes = self.own(Option::take).unwrap_or(0);
        self.total.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The sending end of a connection, for the driver. Dropping it closes the connection.
pub struct ClientSink {
    frames: mpsc::UnboundedSender<ServerFrame>,
    queued: Queued,
    end: CancellationToken,
}

impl ClientSink {
    pub(crate) fn new(
        frames: mpsc::UnboundedSender<ServerFrame>,
        queued: Queued,
        end: CancellationToken,
    ) -> Self {
        Self { frames, queued, end }
    }

    /// Closes the connection, because the client does not read.
    fn close(&self) {
        self.end.cancel();
        self.queued.close();
    }
}

impl Drop for ClientSink {
    fn drop(&mut self) {
        self.close();
    }
}

/// All connections that the driver knows.
#[derive(Default)]
pub struct Sinks {
    sinks: HashMap<ClientKey, ClientSink>,
}

impl Sinks {
    /// Adds a connection that began.
    pub fn insert(&mut self, client: ClientKey, sink: ClientSink) {
        self.sinks.insert(client, sink);
    }

    /// Removes a connection that ended.
    pub fn remove(&mut self, client: ClientKey) {
        self.sinks.remove(&client);
    }

    /// Whether a connection accepts another event.
    #[must_use]
    pub fn has_room(&self, client: ClientKey) -> bool {
        let sink = self.sinks.get(&client).filter(|sink| !sink.end.is_cancelled());
        sink.is_some_and(|sink| sink.queued.bytes() < EVENTS_BYTES_MAX)
    }

    /// Queues a frame for one connection, if it is still there.
    pub fn push(&self, client: ClientKey, frame: ServerFrame) {
        let Some(sink) = self.sinks.get(&client).filter(|sink| !sink.end.is_cancelled()) else {
            return;
        };
        let weight = frame.weight();
        if sink.queued.bytes() + weight > CLIENT_BYTES_MAX {
            return sink.close();
        }
        sink.queued.add(weight);
        // The end of a connection is reported by its own event.
        let _ = sink.frames.send(frame);
        if sink.queued.total.0.load(Ordering::Relaxed) > CLIENTS_BYTES_MAX
            && let Some(most) = self.sinks.values().max_by_key(|sink| sink.queued.bytes())
        {
            most.close();
        }
    }

    /// Queues a frame for every connection.
    pub fn push_to_all(&self, frame: &ServerFrame) {
        for client in self.sinks.keys() {
            self.push(*client, frame.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_protocol::data::Value;
    use kvorum_protocol::message::Answer;

    const MIB: usize = 1 << 20;

    fn part(bytes: usize) -> ServerFrame {
        let part = Value::from(vec![7; bytes]);
        ServerFrame::Answer { call: 1, answer: Answer::Part { part, keys: 1, next: None } }
    }

    struct Fixture {
        total: Arc<Total>,
        sinks: Sinks,
        ends: Vec<CancellationToken>,
        queues: Vec<mpsc::UnboundedReceiver<ServerFrame>>,
    }

    fn connections(count: u64) -> Fixture {
        let mut all = Fixture {
            total: Arc::default(),
            sinks: Sinks::default(),
            ends: Vec::new(),
            queues: Vec::new(),
        };
        for client in 0..count {
            let ((frames, queue), end) = (mpsc::unbounded_channel(), CancellationToken::new());
            let queued = Queued::new(Arc::clone(&all.total));
            all.sinks.insert(ClientKey(client), ClientSink::new(frames, queued, end.clone()));
            all.ends.push(end);
            all.queues.push(queue);
        }
        all
    }

    fn total(all: &Fixture) -> usize {
        all.total.0.load(Ordering::Relaxed)
    }

    /// Unread bytes are bounded, whatever is queued and however many connections there are.
    #[test]
    fn what_nobody_reads_is_bounded() {
        for (count, bytes) in [(1, MIB), (3, MIB), (40, MIB), (1000, 400 << 10), (1000, 900)] {
            let all = connections(count);
            for client in (0..count).cycle().take(20_000) {
                all.sinks.push(ClientKey(client), part(bytes));
                assert!(total(&all) <= CLIENTS_BYTES_MAX, "{count} of {bytes}: {}", total(&all));
            }
        }
    }

    #[test]
    fn who_has_most_is_closed_and_gives_its_room_back() {
        let all = connections(40);
        let greedy = ClientKey(39);
        for _ in 0..8 {
            all.sinks.push(greedy, part(MIB));
        }
        for client in 0..39 {
            all.sinks.push(ClientKey(client), part(MIB));
        }
        let closed: Vec<_> = (0..40).filter(|client| all.ends[*client].is_cancelled()).collect();
        assert!(closed.contains(&39), "{closed:?}");
        assert!(!all.sinks.has_room(greedy));
        let before = total(&all);
        all.sinks.push(greedy, part(MIB));
        assert_eq!(total(&all), before, "nothing more is queued for it");
        drop(all.sinks);
        assert_eq!(all.total.0.load(Ordering::Relaxed), 0);
        drop(all.queues);
    }
}
