//! Fuzz tests of both decoders, for clients' and for peers' frames.
//!
//! Valid messages are changed: bits, bytes, lengths, parts of others; the checksum is made to
//! match, so that the code behind it is reached. Nothing may panic, and whatever is decoded must be
//! a message: encoded again and decoded, it is the same. `KVORUM_FUZZ_SECONDS` sets the time for
//! each decoder; a failing input is printed with its seed.

use std::fmt::Debug;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvorum_protocol::data::{
    ClientId, Condition, Key, LaneId, Operation, Outcome, RequestId, Value,
};
use kvorum_protocol::frame;
use kvorum_protocol::handshake::{ClientHello, ServerHello};
use kvorum_protocol::message::{
    Admin, Answer, ClientFrame, Consistency, Page, Pair, Refusal, Request, Scan, ServerFrame,
    SnapshotName, SnapshotRequest,
};
use kvorum_protocol::status::{ConfigurationId, ReplicaId};
use kvorum_replica::engine::PeerMessage;
use kvorum_replica::state::entry::{Command, Entry};
use kvorum_replica::state::machine::Record;
use kvorum_replica::state::snapshot::{
    Chunk, Cursor, Digest, FetchRequest, FetchResponse, Item, SnapshotId,
};
use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::messages::Message;
use omnipaxos::messages::sequence_paxos::{
    AcceptDecide, Accepted, PaxosMessage, PaxosMsg, Prepare,
};
use omnipaxos::util::SequenceNumber;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Seconds for each decoder in CI.
const SECONDS: f64 = 3.0;
/// Longest input, in bytes.
const INPUT_BYTES_MAX: usize = 4096;

fn id() -> RequestId {
    RequestId { lane: LaneId { client: ClientId(u128::MAX), number: 7 }, sequence: 300 }
}

fn put() -> Operation {
    let (key, value) = (Key::from("key"), Value(Bytes::from(vec![0xfe; 300])));
    Operation::Put { key, value, condition: Condition::AtRevision(u64::MAX) }
}

fn client_frames() -> Vec<ClientFrame> {
    let scan = Scan {
        prefix: vec![1, 2],
        from: vec![0xff; 20],
        until: Vec::new(),
        limit: 1000,
        keys_only: true,
        consistency: Consistency::Linearizable,
    };
    let requests = [
        Request::Write { id: id(), valid_until: 1 << 40, operation: put() },
        Request::Get { key: Key::from("k"), consistency: Consistency::Local },
        Request::Scan(scan),
        Request::Status,
        Request::Admin(Admin::HandOver { to: "kvorum-1".to_owned() }),
        Request::Snapshot(SnapshotRequest::Part {
            snapshot: SnapshotName { nonce: 1 << 60, number: 3 },
            after: Value::from("after"),
        }),
    ];
    let call = |request| ClientFrame::Call { call: 70_000, request };
    let mut frames: Vec<_> = requests.into_iter().map(call).collect();
    frames.extend([ClientFrame::Cancel { call: 1 }, ClientFrame::Ping]);
    frames
}

fn server_frames() -> Vec<ServerFrame> {
    let pair = Pair { key: Key::from("k"), value: Value::from("v"), revision: 1 << 50 };
    let page =
        Page { pairs: vec![pair.clone(), pair.clone()], next: Some(Key::from("n")), index: 5 };
    let answers = [
        Answer::Written(Outcome::ConditionFailed { current: Some(9) }),
        Answer::Value(Some(pair)),
        Answer::Page(page),
        Answer::Refused(Refusal::NotLeader { leader: Some("kvorum-2".to_owned()) }),
        Answer::Done,
        Answer::Part { part: Value::from("part"), keys: 1, next: Some(Value::from("next")) },
    ];
    let answer = |answer| ServerFrame::Answer { call: 5, answer };
    let mut frames: Vec<_> = answers.into_iter().map(answer).collect();
    frames.push(ServerFrame::Leader { name: Some("kvorum-0".to_owned()) });
    frames.push(ServerFrame::Ping { applied: 1 << 33 });
    frames
}

fn peer_messages() -> Vec<PeerMessage> {
    let (configuration, ballot) = (ConfigurationId(1), Ballot::with(1, 9, 0, 2));
    let command = Command { id: id(), valid_until: 99, operation: put() };
    let entries = vec![Entry::Noop, Entry::Command(command)];
    let seq_num = SequenceNumber { session: 3, counter: 4 };
    let messages = [
        PaxosMsg::Prepare(Prepare {
            n: ballot,
            decided_idx: 4,
            n_accepted: ballot,
            accepted_idx: 9,
        }),
        PaxosMsg::AcceptDecide(AcceptDecide { n: ballot, seq_num, decided_idx: 1, entries }),
        PaxosMsg::Accepted(Accepted { n: ballot, accepted_idx: usize::MAX }),
    ];
    let paxos = |msg| {
        let message = Message::SequencePaxos(PaxosMessage { from: 1, to: 2, msg });
        PeerMessage::Paxos { configuration, message }
    };
    let snapshot = SnapshotId { nonce: 1 << 60, number: 3 };
    let after = Cursor::Key(Bytes::from("key"));
    let record = Record { revision: 1 << 40, value: Bytes::from("value") };
    let chunk = Chunk {
        items: vec![Item::Key(Bytes::from("key"), record)],
        next: Some(Cursor::Lane(id().lane)),
    };
    let mut all: Vec<_> = messages.into_iter().map(paxos).collect();
    all.extend([
        PeerMessage::Probe { configuration, ballot, round: 8 },
        PeerMessage::Relay {
            call: 1,
            request: Request::Write { id: id(), valid_until: 1, operation: put() },
        },
        PeerMessage::RelayAnswer { call: 1, answer: Answer::Done },
        PeerMessage::ReadIndexAnswer { call: 2, index: Err(Refusal::Overloaded) },
        PeerMessage::Fetch {
            call: 3,
            wanted: FetchRequest::Chunk { snapshot, after: after.clone() },
        },
        PeerMessage::Fetched { call: 3, found: FetchResponse::Chunk(chunk) },
        PeerMessage::StateProgress { index: u64::MAX },
        PeerMessage::ConfigurationOver { configuration, index: 7, is_dismissed: true },
        PeerMessage::Checksum { index: 7, digest: Digest::default().with(&[]) },
        PeerMessage::StateDiffers { index: 7, sound: vec![ReplicaId(1), ReplicaId(2)] },
    ]);
    all
}

/// Encodes a message as in a frame, without its checksum.
fn message<M: Serialize>(of: &M) -> Vec<u8> {
    let frame = frame::encode(of, usize::MAX).unwrap();
    frame[..frame.len() - 4].to_vec()
}

fn change(input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut StdRng) {
    let at = random.random_range(0..=input.len());
    match random.random_range(0..8) {
        0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
        1 if at < input.len() => input[at] = random.random(),
        2 => input.insert(at, random.random()),
        3 if at < input.len() => drop(input.remove(at)),
        4 => input.truncate(at),
        // A length, or a number, with the largest possible value.
        5 => drop(input.splice(at..at, [0xff; 9].into_iter().chain([1]))),
        6 => {
            let other = &corpus[random.random_range(0..corpus.len())];
            input.truncate(at);
            input.extend_from_slice(&other[random.random_range(0..=other.len())..]);
        }
        _ if at < input.len() => input[at] = [0, 1, 0x7f, 0x80, 0xff][random.random_range(0..5)],
        _ => {}
    }
    input.truncate(INPUT_BYTES_MAX);
}

/// Feeds a decoder with changed messages until the time is over.
fn feed<M: Serialize + DeserializeOwned + Debug>(name: &str, corpus: Vec<Vec<u8>>) {
    let seconds = std::env::var("KVORUM_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let time = Duration::from_secs_f64(seconds.unwrap_or(SECONDS));
    let seed = rand::random();
    println!("{name}: seed {seed}");
    let (mut random, began) = (StdRng::seed_from_u64(seed), Instant::now());
    let (mut fed, mut taken) = (0_u64, 0_u64);
    while began.elapsed() < time {
        for _ in 0..1000 {
            let mut input = corpus[random.random_range(0..corpus.len())].clone();
            for _ in 0..random.random_range(1..6) {
                change(&mut input, &corpus, &mut random);
            }
            let mut framed = input.clone();
            framed.extend(crc32fast::hash(&input).to_le_bytes());
            let decode = || frame::decode::<M>(&framed);
            let decoded = std::panic::catch_unwind(AssertUnwindSafe(decode));
            let decoded = decoded.unwrap_or_else(|_| panic!("{name}, seed {seed}: {input:02x?}"));
            fed += 1;
            if let Ok(decoded) = decoded {
                taken += 1;
                let again: M =
                    frame::decode(&frame::encode(&decoded, usize::MAX).unwrap()).unwrap();
                assert_eq!(format!("{decoded:?}"), format!("{again:?}"), "{name}: {input:02x?}");
            }
        }
    }
    println!("{name}: {fed} inputs, {taken} of them taken for messages");
    assert!(fed > 1000 && taken > 0, "the decoder is reached behind the checksum");
}

#[test]
fn the_clients_decoder_takes_anything() {
    feed::<ClientFrame>("client frames", client_frames().iter().map(message).collect());
    feed::<ServerFrame>("server frames", server_frames().iter().map(message).collect());
    let hello = message(&ClientHello::new(None));
    feed::<ClientHello>("client hello", vec![hello.clone()]);
    feed::<ServerHello>("server hello", vec![hello, vec![0; 60], vec![1; 60]]);
}

#[test]
fn the_peers_decoder_takes_anything() {
    feed::<PeerMessage>("peer messages", peer_messages().iter().map(message).collect());
}
