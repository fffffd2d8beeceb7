//! Tests of strangers that speak the protocols: they take no replica's place, end no process,
//! change nothing, and their names reach no log and no screen unescaped.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::wire::{PLAIN, addresses, answer, client, connect, receive, send};
use kvorum_harness::cluster::{Cluster, PATIENCE, said};
use kvorum_protocol::frame;
use kvorum_protocol::message::{Admin, Answer, Request};
use kvorum_protocol::status::{ClusterId, ConfigurationId, ReplicaId, Status};
use kvorum_replica::engine::{Introduction, PeerMessage, Rejection};
use kvorum_replica::planner::Scale;
use kvorum_replica::state::snapshot::FetchRequest;
use kvorum_replica::state::start::{Challenge, Epoch, Proof, Secret, Start, Statement};
use kvorum_replica::state::version::Version;
use kvorum_replica::transport::addresses::Addresses;

pub const NAMES: [&str; 3] = ["kvorum-0", "kvorum-1", "kvorum-2"];

type Hello = ([u8; 8], Introduction, Challenge);

fn hello(introduction: Introduction) -> Hello {
    (*b"kvorum/q", introduction, Challenge([7; 32]))
}

fn status(cluster: &Cluster, name: &str) -> Status {
    status_at(&addresses(cluster, name).clients)
}

/// Asks the replica at an address for its status.
pub fn status_at(clients: &str) -> Status {
    match answer(&mut client(clients), 1, Request::Status) {
        Answer::Status(status) => *status,
        other => panic!("{other:?}"),
    }
}

/// Asks the leader among these replicas for an id, as anyone can who reaches a client port.
pub fn join(at: &[Addresses; 3], name: &str) -> ReplicaId {
    let began = Instant::now();
    let leads = |at: &&Addresses| {
        let status = status_at(&at.clients);
        status.leader == Some(status.name)
    };
    let leader = loop {
        if let Some(leader) = at.iter().find(leads) {
            break leader;
        }
        assert!(began.elapsed() < PATIENCE, "a leader");
    };
    let join = Request::Admin(Admin::Join { name: name.to_owned(), nonce: 77 });
    match answer(&mut client(&leader.clients), 1, join) {
        Answer::Joined { replica, .. } => replica,
        other => panic!("{other:?}"),
    }
}

/// Returns the addresses of all replicas.
pub fn all_addresses(cluster: &Cluster) -> [Addresses; 3] {
    NAMES.map(|name| addresses(cluster, name))
}

pub fn introduction(cluster: ClusterId, replica: ReplicaId, name: &str) -> Introduction {
    Introduction {
        cluster,
        replica,
        name: name.to_owned(),
        incarnation: 1,
        key: Secret::of_nonce(1).key(),
        last_saw: 0,
        versions: (Version::OLDEST, Version::NEWEST),
    }
}

/// Connects to a replica as the holder of a new id.
pub fn meet(at: &str, mine: &Introduction) -> TcpStream {
    try_to_meet(at, mine).unwrap()
}

/// Waits until all replicas know an id, as it is in the log.
pub fn become_known(at: &[Addresses; 3], mine: &Introduction) {
    let began = Instant::now();
    for replica in at {
        while let Err(why) = try_to_meet(&replica.peers, mine) {
            assert!(matches!(why, Rejection::NoMember { .. }), "{why:?}");
            assert!(began.elapsed() < PATIENCE, "{} knows of it", replica.name);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

pub fn try_to_meet(at: &str, mine: &Introduction) -> Result<TcpStream, Rejection> {
    let mut stream = connect(at);
    send(&mut stream, &hello(mine.clone())).unwrap();
    let told: Result<(Hello, Option<Proof>), Rejection> = receive(&mut stream).unwrap();
    let (theirs, _) = told?;
    let statement = Statement {
        cluster: mine.cluster,
        prover: mine.replica,
        verifier: theirs.1.replica,
        is_dialer: true,
        challenges: (Challenge([7; 32]), theirs.2),
        incarnation: mine.incarnation,
        key: mine.key,
    };
    let (secret, began) = (Secret::of_nonce(1), Epoch::default());
    let proof = Start { secret, began, until: None }.prove(&statement);
    send(&mut stream, &(Some(proof), Ok::<(), Rejection>(()))).unwrap();
    let welcome: Result<(), Rejection> = receive(&mut stream).unwrap();
    welcome.map(|()| stream)
}

/// Encodes a message as it is on a link: one fragment, the last.
fn framed(message: &PeerMessage) -> Vec<u8> {
    const LAST: u8 = 2;
    let bytes = frame::encode(message, 4 << 20).unwrap();
    let length = u32::try_from(bytes.len() + 1).unwrap().to_be_bytes();
    [&length[..], &[LAST], &bytes].concat()
}

pub fn processes(cluster: &Cluster) -> [Option<rustix::process::Pid>; 3] {
    NAMES.map(|name| cluster.process(name))
}

fn put(cluster: &Cluster, key: &str) {
    let put = said(&cluster.run(&["--timeout", "20s", "put", key, "1"]));
    assert_eq!(put.0, 0, "{put:?}");
}

/// With what every client learns, a stranger cannot speak as a member, neither as its last start
/// nor as its next one.
#[test]
fn a_stranger_takes_nobodys_place() {
    let cluster = Cluster::start(&["--replicas=3", PLAIN]);
    put(&cluster, "a");
    let statuses = NAMES.map(|name| status(&cluster, name));
    let before = processes(&cluster);
    for victim in &statuses {
        for at in statuses.iter().filter(|at| at.name != victim.name) {
            for incarnation in [victim.incarnation, victim.incarnation + 1] {
                let claim = Introduction {
                    incarnation,
                    ..introduction(victim.cluster, victim.replica, &victim.name)
                };
                let mut stream = connect(&addresses(&cluster, &at.name).peers);
                send(&mut stream, &hello(claim)).unwrap();
                let told: Result<(Hello, Option<Proof>), Rejection> = receive(&mut stream).unwrap();
                // It presents the acceptor's proof as its own, and reports that the acceptor has
                // another disk.
                let name = at.name.clone();
                let rejection = Rejection::OtherDisk { name, seen: 9 };
                let (_, proof) = told.unwrap();
                send(&mut stream, &(proof, Ok::<(), Rejection>(()))).unwrap();
                let verdict: Option<Result<(), Rejection>> = receive(&mut stream);
                assert!(matches!(verdict, Some(Err(Rejection::OtherDisk { .. }))), "{verdict:?}");
                let mut stream = connect(&addresses(&cluster, &at.name).peers);
                send(&mut stream, &hello(introduction(at.cluster, victim.replica, &victim.name)))
                    .unwrap();
                let _: Option<Result<(Hello, Option<Proof>), Rejection>> = receive(&mut stream);
                let _ = send(&mut stream, &(None::<Proof>, Err::<(), _>(rejection)));
            }
        }
    }
    put(&cluster, "a");
    for name in NAMES {
        cluster.kill(name);
    }
    let began = Instant::now();
    loop {
        let out = said(&cluster.run(&["--timeout", "2s", "status"])).1;
        if out.matches("2 of 2").count() == 3 {
            break;
        }
        assert!(!out.contains("outside") && began.elapsed() < PATIENCE, "{out}");
    }
    put(&cluster, "a");
    assert_ne!(before, processes(&cluster), "they were started again");
}

/// Numbers that no replica has, from the holder of a new id: its session ends, and nothing else.
#[test]
fn one_message_ends_nobody() {
    let cluster = Cluster::start(&["--replicas=3", PLAIN]);
    put(&cluster, "a");
    let (cluster_id, name) = (status(&cluster, "kvorum-0").cluster, "kvorum-6");
    let at = all_addresses(&cluster);
    let mine = introduction(cluster_id, join(&at, name), name);
    become_known(&at, &mine);
    let before = processes(&cluster);
    let configuration = ConfigurationId(1);
    let messages = [
        PeerMessage::StateProgress { index: u64::MAX },
        PeerMessage::StateProgress { index: u64::MAX >> 12 },
        PeerMessage::Fetch { call: 1, wanted: FetchRequest::Entries { configuration, from: 0 } },
        PeerMessage::ConfigurationOver {
            configuration: ConfigurationId(99),
            index: 1 << 40,
            is_dismissed: false,
        },
        PeerMessage::ScaleReport {
            wanted: Scale { start: 0, replicas: u32::MAX },
            number: Some(1),
        },
        PeerMessage::ScaleReport { wanted: Scale { start: 0, replicas: 1 }, number: Some(1) },
        PeerMessage::Epoch { epoch: Epoch(u64::MAX) },
    ];
    for message in &messages {
        for at in NAMES {
            let mut stream = meet(&addresses(&cluster, at).peers, &mine);
            for _ in 0..3 {
                let _ = stream.write_all(&framed(message));
            }
        }
    }
    std::thread::sleep(Duration::from_secs(1));
    put(&cluster, "b");
    assert_eq!(before, processes(&cluster), "nobody ended");
    let members = status(&cluster, "kvorum-0").configuration.members;
    assert_eq!(members.len(), 3, "{members:?}");
    let log = |name: &str| fs::read_to_string(cluster.folder.join(name).join("log")).unwrap();
    assert!(NAMES.iter().all(|name| !log(name).contains("panicked")));
}

/// A name with escapes and line ends gets no id, and adds no line of its own to the log.
#[test]
fn what_a_stranger_is_called_stays_its_own() {
    let cluster = Cluster::start(&["--replicas=1", PLAIN]);
    let at = addresses(&cluster, "kvorum-0");
    let id = status(&cluster, "kvorum-0").cluster;
    for name in ["\u{1b}]0;owned\u{7}evil-1", "../../evil-1", "a\n2026 INFO forged: all is well"] {
        let mut stream = client(&at.clients);
        let join = Request::Admin(Admin::Join { name: name.to_owned(), nonce: 1 });
        let told = answer(&mut stream, 1, join);
        assert!(matches!(told, Answer::Refused(_)), "{told:?}");
        let mut stream = connect(&at.peers);
        send(&mut stream, &hello(introduction(id, ReplicaId(5), name))).unwrap();
        let told: Option<Result<(Hello, Option<Proof>), Rejection>> = receive(&mut stream);
        assert!(matches!(told, Some(Err(Rejection::NoMember { .. }))), "{told:?}");
        std::thread::sleep(Duration::from_millis(1100));
    }
    let log = fs::read_to_string(cluster.folder.join("kvorum-0").join("log")).unwrap();
    assert!(!log.lines().any(|line| line.starts_with("2026 INFO forged")), "{log}");
    assert!(!log.contains('\u{1b}'), "{log}");
    assert!(!said(&cluster.run(&["status"])).1.contains('\u{1b}'));
}
