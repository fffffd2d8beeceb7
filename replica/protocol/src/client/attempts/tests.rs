//! Tests of how a client finds replicas, with fake replicas that only introduce themselves.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{FutureExt, SinkExt, StreamExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::codec::Framed;

use super::*;
use crate::client::{Client, Options};
use crate::data::Key;
use crate::dial::{Carrier, Lookup};
use crate::frame;
use crate::handshake::{ClientHello, MAGIC, ServerHello, Welcome, judge};
use crate::limits::FRAME_BYTES_MAX;
use crate::message::{Address, ClientFrame, Consistency, ServerFrame};

#[test]
fn who_leads_is_forgotten_only_with_a_reason() {
    let mut pool = Pool::default();
    let leader = |name: &str| Some(name.to_owned());
    pool.learn(leader("a"));
    pool.learn(None);
    pool.forget("b");
    assert_eq!(pool.leader, leader("a"), "b knows no leader, or is gone");
    pool.learn(leader("c"));
    assert_eq!(pool.leader, leader("c"));
    pool.forget("c");
    assert_eq!(pool.leader, None);
}

const CLUSTER: ClusterId = ClusterId(7);

/// The behaviour of a fake replica.
#[derive(Clone)]
enum Does {
    /// It has no keys, and knows where others are.
    Knows(Vec<Address>),
    /// It reports that it does not serve.
    Refuses,
}

/// A fake replica that reports itself as the leader. Its connections end on request.
struct Fake {
    at: SocketAddr,
    end: watch::Sender<bool>,
    asked: Arc<AtomicUsize>,
    listens: tokio::task::JoinHandle<()>,
}

impl Fake {
    /// Stops the replica for good.
    async fn stop(self) {
        self.listens.abort();
        let _ = self.listens.await;
        self.end.send_replace(true);
    }

    async fn start(name: &'static str, cluster: ClusterId, others: Vec<Address>) -> Self {
        Self::listen(name, cluster, Does::Knows(others)).await
    }

    async fn listen(name: &'static str, cluster: ClusterId, does: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("it is bound");
        let (end, ended) = watch::channel(false);
        let asked: Arc<AtomicUsize> = Arc::default();
        let counted = Arc::clone(&asked);
        let listens = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mut ended, does) = (ended.clone(), does.clone());
                ended.mark_unchanged();
                let frames = Framed::new(stream, frame::codec(FRAME_BYTES_MAX));
                let asked = Arc::clone(&counted);
                tokio::spawn(async move {
                    tokio::select! {
                        () = serve(frames, name, cluster, does, asked) => {}
                        _ = ended.changed() => {}
                    }
                });
            }
        });
        Self { at, end, asked, listens }
    }
}

async fn serve(
    mut frames: Framed<tokio::net::TcpStream, tokio_util::codec::LengthDelimitedCodec>,
    name: &str,
    cluster: ClusterId,
    does: Does,
    asked: Arc<AtomicUsize>,
) {
    let Some(Ok(hello)) = frames.next().await else { return };
    let hello: ClientHello = frame::decode(&hello).expect("a hello");
    let verdict = judge(&hello, cluster).map(|version| Welcome {
        version,
        name: name.to_owned(),
        cluster,
        leader: Some(name.to_owned()),
        applied: 0,
        frame_bytes_max: 1 << 20,
    });
    let hello = ServerHello { magic: MAGIC, verdict };
    let bytes = frame::encode(&hello, FRAME_BYTES_MAX).expect("it fits");
    frames.send(bytes).await.expect("the client is there");
    while let Some(Ok(bytes)) = frames.next().await {
        let ClientFrame::Call { call, request } = frame::decode(&bytes).expect("a frame") else {
            continue;
        };
        let answer = match (&does, request) {
            (Does::Knows(others), Request::Addresses) => {
                asked.fetch_add(1, Ordering::SeqCst);
                Answer::Addresses(others.clone())
            }
            (Does::Knows(_), _) => Answer::Value(None),
            (Does::Refuses, Request::Addresses) => Answer::Addresses(Vec::new()),
            (Does::Refuses, _) => {
                asked.fetch_add(1, Ordering::SeqCst);
                Answer::Refused(Refusal::Unavailable("it does not serve".to_owned()))
            }
        };
        let answer = ServerFrame::Answer { call, answer };
        let bytes = frame::encode(&answer, FRAME_BYTES_MAX).expect("it fits");
        if frames.send(bytes).await.is_err() {
            return;
        }
    }
}

/// Creates a client of these names; each can be looked up a given number of times.
fn client(names: Vec<(&'static str, SocketAddr, usize)>) -> Client {
    let addresses: Vec<String> = names.iter().map(|(name, ..)| (*name).to_owned()).collect();
    let names: Vec<_> =
        names.into_iter().map(|(name, at, times)| (name, at, AtomicUsize::new(times))).collect();
    let names = Arc::new(names);
    let lookup: Lookup = Arc::new(move |address| {
        let names = Arc::clone(&names);
        async move {
            let found = names.iter().find(|(name, ..)| *name == address);
            let left = |times: &AtomicUsize| {
                times.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
            };
            let found = found.filter(|(.., times)| left(times)).map(|(_, at, _)| *at);
            found.ok_or_else(|| io::Error::other("no such name"))
        }
        .boxed()
    });
    let options = Options { dial: Carrier::Names(lookup).into(), ..Options::default() };
    Client::of_addresses(&addresses, options)
}

async fn get(client: &Client) -> Result<(), ClientError> {
    let key = Key::from("k");
    client.get(key, Consistency::Local, &Route::Any).await.map(drop)
}

async fn others_are_known(client: &Client) {
    while client.attempts.pool(|pool| pool.remembered.others(|_| false).is_empty()) {
        tokio::task::yield_now().await;
    }
}

/// The names are gone after the first lookup, and so is the connection.
#[tokio::test]
async fn an_address_that_worked_is_dialed_when_its_name_is_gone() {
    let replica = Fake::start("kvorum-0", CLUSTER, Vec::new()).await;
    let client = client(vec![("kvorum-0.peers:7301", replica.at, 1)]);
    get(&client).await.expect("the name is known");
    replica.end.send_replace(true);
    get(&client).await.expect("where it is, is known");
}

/// The only replica that was ever reached goes away; another one was never resolved.
#[tokio::test]
async fn replicas_are_learned_from_others() {
    let second = Fake::start("kvorum-1", CLUSTER, Vec::new()).await;
    let told = Address { name: "kvorum-1".to_owned(), clients: second.at.to_string() };
    let names: [&'static [&'static str]; 2] =
        [&["kvorum-0.peers:7301", "kvorum-1.peers:7301", "kvorum-2.peers:7301"], &["kvorum:7301"]];
    for names in names {
        let first = Fake::start("kvorum-0", CLUSTER, vec![told.clone()]).await;
        let looked_up = names.iter().map(|name| (*name, first.at, usize::from(*name == names[0])));
        let client = client(looked_up.collect());
        get(&client).await.expect("the first is known");
        others_are_known(&client).await;
        first.stop().await;
        get(&client).await.expect("the second is known");
    }
}

/// An address that worked may belong to another cluster's replica by now.
#[tokio::test]
async fn an_address_is_taken_for_the_cluster_that_it_was_of() {
    let other = Fake::start("kvorum-1", ClusterId(8), Vec::new()).await;
    let told = Address { name: "kvorum-1".to_owned(), clients: other.at.to_string() };
    let first = Fake::start("kvorum-0", CLUSTER, vec![told]).await;
    let client = client(vec![("kvorum-1.peers:7301", first.at, 0), ("kvorum:7301", first.at, 1)]);
    get(&client).await.expect("the first is known");
    others_are_known(&client).await;
    first.end.send_replace(true);
    // The other replica refuses it as of another cluster, and the first one is dialed where it was.
    get(&client).await.expect("where the first is, is known");
    assert_eq!(other.asked.load(Ordering::SeqCst), 0, "nothing is asked of the other one");
}

/// The endpoints before it accept connections and never answer, as stopped processes do.
#[tokio::test]
async fn one_that_answers_is_enough() {
    let mut silent = Vec::new();
    for _ in 0..6 {
        silent.push(TcpListener::bind("127.0.0.1:0").await.expect("a port"));
    }
    let fake = Fake::start("kvorum-6", CLUSTER, Vec::new()).await;
    let addresses = silent.iter().map(|listener| listener.local_addr().expect("it is bound"));
    let addresses: Vec<_> = addresses.chain([fake.at]).map(|at| at.to_string()).collect();
    // Waiting for each of them as long as a dial may take would exceed the deadline.
    let client = Client::of_addresses(&addresses, Options::default());
    get(&client).await.expect("one answers");
}

/// A cluster that was created by mistake has a leader, and serves no client.
#[tokio::test]
async fn a_leader_that_does_not_serve_is_left_for_another_one() {
    let mistake = Fake::listen("kvorum-0", ClusterId(8), Does::Refuses).await;
    let serves = Fake::start("kvorum-1", CLUSTER, Vec::new()).await;
    let addresses = [mistake.at, serves.at].map(|at| at.to_string());
    let client = Client::of_addresses(&addresses, Options::default());
    get(&client).await.expect("one serves");
    assert_eq!(mistake.asked.load(Ordering::SeqCst), 1, "it is not asked again and again");
    assert_eq!(client.attempts.pin.get(), Some(CLUSTER));
}
