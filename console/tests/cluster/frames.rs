//! Tests of random and altered frames at each port: by strangers where nothing is encrypted, and by
//! holders of certificates where everything is.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use kvorum_harness::cluster::{Cluster, said};
use kvorum_protocol::access::AccessChange;
use kvorum_protocol::data::{ClientId, Condition, LaneId, Operation, RequestId};
use kvorum_protocol::frame;
use kvorum_protocol::message::{
    Admin, ClientFrame, Consistency, Request, SnapshotRequest, Subscription,
};
use kvorum_protocol::status::ConfigurationId;
use kvorum_protocol::{Key, Value};
use kvorum_replica::engine::{Introduction, PeerMessage};
use kvorum_replica::state::snapshot::FetchRequest;
use kvorum_replica::transport::addresses::Addresses;
use kvorum_tls::{Credentials, Identity, Port, Tls};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::copy_bidirectional;
use tokio::net::TcpListener;

use super::certificates::{WORD, authority};
use super::strangers::{
    NAMES, all_addresses, become_known, introduction, join, meet, processes, status_at,
};
use super::wire::{PLAIN, client, connect, resident_mib};

/// Frames sent to each port by default; `KVORUM_FRAMES` sets another number.
const FRAMES: u64 = 2000;
/// Frames on one connection.
const BURST: u64 = 50;
/// The name of the one that sends them, who has an id and is no member.
const STRANGER: &str = "kvorum-6";

/// Random bytes, and how many frames of them.
struct Noise {
    random: StdRng,
    frames: u64,
}

impl Noise {
    fn new() -> Self {
        let frames = std::env::var("KVORUM_FRAMES").ok().and_then(|text| text.parse().ok());
        let (frames, seed): (u64, u64) = (frames.unwrap_or(FRAMES), rand::random());
        println!("{frames} frames at each port, seed {seed}");
        Self { random: StdRng::seed_from_u64(seed), frames }
    }

    /// Returns one of the messages with some bytes altered, and a checksum that is right.
    fn altered(&mut self, corpus: &[Bytes]) -> Vec<u8> {
        let mut bytes = corpus[self.random.random_range(0..corpus.len())].to_vec();
        bytes.truncate(bytes.len() - 4);
        // About half of them stay as they are.
        for _ in 0..self.random.random_range(0..8_u32).saturating_sub(4) {
            let place = self.random.random_range(0..bytes.len());
            bytes[place] = self.random.random();
        }
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    /// Returns a frame of a link with an altered message.
    fn of_link(&mut self, corpus: &[Bytes]) -> Vec<u8> {
        let kind = [2, 0, 1, 3, 9][self.random.random_range(0..5)];
        let bytes = self.altered(corpus);
        let length = u32::try_from(bytes.len() + 1).unwrap().to_be_bytes();
        [&length[..], &[kind], &bytes].concat()
    }

    /// Returns a frame with an altered message.
    fn bare(&mut self, corpus: &[Bytes]) -> Vec<u8> {
        let bytes = self.altered(corpus);
        [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat()
    }

    /// Sends all frames to the replicas at these addresses, each port after a valid beginning and
    /// without one.
    fn pour(&mut self, at: &[Addresses; 3], mine: &Introduction) {
        let (of_peers, of_clients) = (messages_of_peers(), messages_of_clients());
        for _ in 0..self.frames.div_ceil(BURST) {
            let at = &at[self.random.random_range(0..3)];
            let (mut link, mut requests) = (meet(&at.peers, mine), client(&at.clients));
            let mut strange = [connect(&at.peers), connect(&at.clients), connect(&at.http)];
            for _ in 0..BURST {
                // Each connection may have been closed long before.
                let _ = link.write_all(&self.of_link(&of_peers));
                let _ = requests.write_all(&self.bare(&of_clients));
                for stream in &mut strange {
                    let _ = stream.write_all(&self.bare(&of_peers));
                }
            }
            for mut stream in strange.into_iter().chain([link, requests]) {
                read_some(&mut stream);
            }
        }
    }
}

fn read_some(stream: &mut TcpStream) {
    let _ = stream.shutdown(Shutdown::Write);
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let _ = stream.read(&mut [0; 4096]);
}

fn messages_of_peers() -> Vec<Bytes> {
    let over = PeerMessage::ConfigurationOver {
        configuration: ConfigurationId(3),
        index: 9,
        is_dismissed: true,
    };
    let all = [
        over,
        PeerMessage::StateProgress { index: 7 },
        PeerMessage::Fetch { call: 1, wanted: FetchRequest::Snapshot },
        PeerMessage::ReadScale { number: 3 },
        PeerMessage::PermitStop,
    ];
    all.iter().map(|message| frame::encode(message, 4096).unwrap()).collect()
}

fn messages_of_clients() -> Vec<Bytes> {
    let key = || Key::from("frames/a");
    let write = |operation| Request::Write {
        id: RequestId { lane: LaneId { client: ClientId(7), number: 0 }, sequence: 1 },
        valid_until: u64::MAX,
        operation,
    };
    let user = || "somebody".to_owned();
    let (value, condition) = (Value::from("2"), Condition::Always);
    let all = [
        write(Operation::Put { key: key(), value, condition }),
        write(Operation::Delete { key: key(), condition: Condition::Always }),
        write(Operation::Access(AccessChange::AddUser { user: user() })),
        Request::Get { key: key(), consistency: Consistency::Linearizable },
        Request::Subscribe(Subscription::Log { from: 0 }),
        Request::Snapshot(SnapshotRequest::Open),
        Request::Admin(Admin::HandOver { to: String::new() }),
        Request::Admin(Admin::Crash),
        Request::Status,
    ];
    let frames =
        all.into_iter().zip(1..).map(|(request, call)| ClientFrame::Call { call, request });
    frames.map(|frame| frame::encode(&frame, 4096).unwrap()).collect()
}

/// Opens a way through TLS for the holder of a certificate, which passes bytes on; returns where.
async fn bridge(to: String, port: Port, tls: Arc<Tls>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (to, tls) = (to.clone(), Arc::clone(&tls));
            tokio::spawn(async move {
                let Ok(far) = tokio::net::TcpStream::connect(to).await else { return };
                let Ok((mut far, _)) = tls.connect(port, far).await else { return };
                let _ = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    at
}

/// Returns addresses at which a replica is reached as a holder: by `replica` at the port for
/// replicas, by `user` at the one for clients.
async fn bridged(at: &Addresses, replica: &Arc<Tls>, user: &Arc<Tls>) -> Addresses {
    let peers = bridge(at.peers.clone(), Port::Peers, Arc::clone(replica)).await;
    let clients = bridge(at.clients.clone(), Port::Clients, Arc::clone(user)).await;
    Addresses { peers, clients, ..at.clone() }
}

/// Issues a certificate by the authority of a cluster.
fn certificate(cluster: &Cluster, identity: &Identity) -> Arc<Tls> {
    let authority = authority(&cluster.folder);
    let issued = authority.issue(identity, &[], SystemTime::now(), Duration::from_secs(3600));
    let pem = Credentials::from_pem(authority.bundle(), &issued.certificate, &issued.key);
    Tls::new(pem.unwrap())
}

/// Introduces a stranger that got an id, once all replicas know it.
fn introduce(at: &[Addresses; 3]) -> Introduction {
    let id = join(at, STRANGER);
    let mine = introduction(status_at(&at[0].clients).cluster, id, STRANGER);
    become_known(at, &mine);
    mine
}

fn all_run(cluster: &Cluster) {
    for name in NAMES {
        let resident = resident_mib(cluster.process(name).unwrap()).unwrap();
        assert!(resident < 400, "{name} has {resident} MiB");
    }
}

/// Random and altered frames at each port of replicas that take connections of everybody.
#[test]
fn a_strangers_frames_change_nothing() {
    let cluster = Cluster::start(&["--replicas=3", PLAIN]);
    let put = |key| assert_eq!(said(&cluster.run(&["--timeout", "20s", "put", key, "1"])).0, 0);
    put("a");
    let at = all_addresses(&cluster);
    let members = || (processes(&cluster), status_at(&at[0].clients).configuration);
    let mine = introduce(&at);
    let before = members();
    Noise::new().pour(&at, &mine);
    put("b");
    assert_eq!(before, members(), "nobody ended, nobody joined");
    all_run(&cluster);
}

/// The same by one who holds a replica's certificate, and at the clients' port the one of `view`:
/// no key and no user is another one afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_holders_frames_change_nothing() {
    let cluster = Cluster::start(&["--replicas=3"]);
    let run = |words: &[&str]| {
        let (code, out, err) = said(&cluster.run(&[&["--timeout", "20s"], words].concat()));
        assert_eq!(code, 0, "{err}");
        out
    };
    run(&["put", "frames/a", "1"]);
    let replica = certificate(&cluster, &Identity::replica(WORD, STRANGER));
    let view = certificate(&cluster, &Identity::client(WORD, "view"));
    let (mut as_replica, mut as_view) = (Vec::new(), Vec::new());
    for at in all_addresses(&cluster) {
        as_replica.push(bridged(&at, &replica, &replica).await);
        as_view.push(bridged(&at, &replica, &view).await);
    }
    let (as_replica, as_view) = (as_replica.try_into().unwrap(), as_view.try_into().unwrap());
    let state = || {
        let keys = run(&["scan", "-o", "json"]);
        (processes(&cluster), keys, run(&["user", "list"]), run(&["role", "list"]))
    };
    let before = state();
    tokio::task::block_in_place(|| {
        let mine = introduce(&as_replica);
        let members = || status_at(&as_replica[0].clients).configuration;
        let configuration = members();
        Noise::new().pour(&as_view, &mine);
        assert_eq!(configuration, members(), "nobody joined");
    });
    assert_eq!(before, state());
    all_run(&cluster);
}
