//! Tests of subscriptions, at a replica that is played by the test.

use futures::SinkExt;
use tokio::io::DuplexStream;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::*;
use crate::frame;
use crate::handshake::{ClientHello, MAGIC, ServerHello, Welcome};
use crate::limits::FRAME_BYTES_MAX;
use crate::message::{ClientFrame, KeyEvent, Request, ServerFrame};
use crate::queue::QUEUE_BYTES_MAX;
use crate::status::ClusterId;
use crate::{Key, Value};

/// A replica that does what the test says.
struct Replica(Framed<DuplexStream, LengthDelimitedCodec>);

impl Replica {
    /// Returns a replica, and a connection to it.
    async fn connected() -> (Self, Arc<Connection>) {
        let (near, far) = tokio::io::duplex(1 << 16);
        let connecting = tokio::spawn(Connection::start(near, "here", None, None));
        let mut frames = Framed::new(far, frame::codec(FRAME_BYTES_MAX));
        let hello = frames.next().await.expect("a hello").expect("it is a frame");
        let hello: ClientHello = frame::decode(&hello).expect("it is a hello");
        let welcome = Welcome {
            version: hello.version_max,
            name: "kvorum-0".to_owned(),
            cluster: ClusterId(9),
            leader: None,
            applied: 5,
            frame_bytes_max: FRAME_BYTES_MAX as u64,
        };
        let hello = ServerHello { magic: MAGIC, verdict: Ok(welcome) };
        let mut replica = Self(frames);
        replica.write(&hello).await;
        let connection = connecting.await.expect("it does not panic").expect("it is welcome");
        (replica, Arc::new(connection))
    }

    async fn write<M: serde::Serialize>(&mut self, message: &M) {
        let bytes = frame::encode(message, FRAME_BYTES_MAX).expect("it is short enough");
        self.0.send(bytes).await.expect("the client reads");
    }

    /// Returns the next frame that is no ping.
    async fn read(&mut self) -> ClientFrame {
        loop {
            let bytes = self.0.next().await.expect("there is one").expect("it is a frame");
            match frame::decode(&bytes).expect("it is sound") {
                ClientFrame::Ping => {}
                frame => return frame,
            }
        }
    }

    /// Answers the opening of a subscription; returns its number and its first index.
    async fn subscribed(&mut self) -> (u64, u64) {
        let ClientFrame::Call { call, request } = self.read().await else { panic!("no call") };
        let Request::Subscribe(Subscription::Watch { from, .. }) = request else {
            panic!("{request:?}")
        };
        let answer = Answer::Subscribed { from: from.max(6) };
        self.write(&ServerFrame::Answer { call, answer }).await;
        (call, from)
    }

    async fn tell(&mut self, call: u64, index: u64, bytes: usize) {
        let (key, value) = (Key::from("k"), Some(Value(vec![1; bytes].into())));
        let event = Event::Key(KeyEvent { index, key, value });
        self.write(&ServerFrame::Event { call, event }).await;
    }
}

fn watch() -> Subscription {
    Subscription::Watch { prefix: b"k".to_vec(), from: 0 }
}

async fn next(events: &mut Events) -> u64 {
    match events.next().await {
        Some(Event::Key(change)) => change.index,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn one_that_is_not_read_slows_no_other_and_goes_on_where_it_was() {
    let (mut replica, connection) = Replica::connected().await;
    let opening = Events::open(Arc::clone(&connection), watch());
    let (slow, call) = tokio::join!(opening, replica.subscribed());
    let (mut slow, (slow_call, _)) = (slow.expect("it is open"), call);
    let opening = Events::open(connection, watch());
    let (other, (other_call, _)) = tokio::join!(opening, replica.subscribed());
    let mut other = other.expect("it is open");
    let bytes = QUEUE_BYTES_MAX / 4;
    for index in 6..=10 {
        replica.tell(slow_call, index, bytes).await;
        replica.tell(other_call, index, bytes).await;
        assert_eq!(next(&mut other).await, index);
    }
    assert!(matches!(replica.read().await, ClientFrame::Cancel { call } if call == slow_call));
    // What is on its way when it is put off comes to nobody.
    replica.tell(slow_call, 11, 1).await;
    for index in 6..=8 {
        assert_eq!(next(&mut slow).await, index);
    }
    let (read, (call, from)) = tokio::join!(next(&mut slow), async {
        let (call, from) = replica.subscribed().await;
        replica.tell(call, 9, 1).await;
        (call, from)
    });
    assert_eq!((read, from), (9, 9));
    replica.tell(call, 10, 1).await;
    assert_eq!(next(&mut slow).await, 10);
}

#[tokio::test]
async fn one_event_always_fits() {
    let (mut replica, connection) = Replica::connected().await;
    let (events, (call, _)) = tokio::join!(Events::open(connection, watch()), replica.subscribed());
    let mut events = events.expect("it is open");
    for index in 6..=8 {
        replica.tell(call, index, QUEUE_BYTES_MAX).await;
        assert_eq!(next(&mut events).await, index);
    }
}

#[tokio::test]
async fn who_drops_a_subscription_ends_it() {
    let (mut replica, connection) = Replica::connected().await;
    let opening = Events::open(Arc::clone(&connection), watch());
    let (events, (call, _)) = tokio::join!(opening, replica.subscribed());
    drop(events);
    assert!(matches!(replica.read().await, ClientFrame::Cancel { call: ended } if ended == call));
    // Also when it was not open yet.
    let opening = tokio::spawn(Events::open(Arc::clone(&connection), watch()));
    let ClientFrame::Call { call, .. } = replica.read().await else { panic!("no call") };
    opening.abort();
    assert!(matches!(replica.read().await, ClientFrame::Cancel { call: ended } if ended == call));
}

#[tokio::test]
async fn it_ends_with_its_connection_and_with_the_log() {
    let (mut replica, connection) = Replica::connected().await;
    let opening = Events::open(Arc::clone(&connection), watch());
    let (events, (call, _)) = tokio::join!(opening, replica.subscribed());
    let mut events = events.expect("it is open");
    let event = Event::Compacted { from: 90 };
    replica.write(&ServerFrame::Event { call, event }).await;
    assert!(matches!(events.next().await, Some(Event::Compacted { from: 90 })));
    assert!(events.next().await.is_none());
    assert!(matches!(replica.read().await, ClientFrame::Cancel { call: ended } if ended == call));
    let (events, _) = tokio::join!(Events::open(connection, watch()), replica.subscribed());
    let mut events = events.expect("it is open");
    drop(replica);
    assert!(events.next().await.is_none());
}
