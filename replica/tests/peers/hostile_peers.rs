//! Tests of an engine among faulty peers, whose messages pass the decoder and make no sense.
//!
//! Puppets stand for the other members, two or four. They answer the engine's messages by the
//! protocol, so that it comes to lead and to follow, and in between they send anything: wild and
//! slightly wrong numbers, answers to requests that were not made, state that does not exist. One
//! more puppet is a joiner, whose messages must change nothing. Clients send any request meanwhile.
//! Nothing may panic. `KVORUM_FUZZ_SECONDS` sets the duration; a failing run prints its seed.

mod library;

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvorum_protocol::data::{ClientId, Condition, Key, LaneId, Operation, RequestId, Value};
use kvorum_protocol::message::{
    Admin, Answer, Consistency, Request, Scan, SnapshotName, SnapshotRequest, Subscription,
};
use kvorum_protocol::status::{ClusterId, Configuration, ConfigurationId, Member, ReplicaId};
use kvorum_replica::engine::store::{CopyStore, Identity, LogLimits, StateStore};
use kvorum_replica::engine::{
    ClientKey, Engine, Input, Options, Output, PeerMessage, Session, Verdict, validity,
};
use kvorum_replica::planner::Scale;
use kvorum_replica::state::chain::Chain;
use kvorum_replica::state::entry::{Command, Entry};
use kvorum_replica::state::machine::{Record, Table};
use kvorum_replica::state::rights::User;
use kvorum_replica::state::snapshot::{
    Chunk, Cursor, Digest, FetchRequest, FetchResponse, Header, Item, SnapshotId, Snapshots,
};
use kvorum_replica::state::start::Epoch;
use kvorum_replica::state::version::Version;
use kvorum_replica::storage::memory::{Memory, MemorySnapshots};
use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::messages::Message;
use omnipaxos::messages::sequence_paxos::PaxosMessage;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Duration in CI, in seconds.
const SECONDS: f64 = 5.0;
/// Number of random steps in one run.
const STEPS: u32 = 800;
const ME: ReplicaId = ReplicaId(1);
const JOINER: ReplicaId = ReplicaId(6);
/// Limits with which the log is compacted often and messages are small.
const LIMITS: LogLimits =
    LogLimits { window: 2000, step: 1000, sync: 800, chunk: 400, segment: 200 };

fn member(id: u64) -> Member {
    Member { replica: ReplicaId(id), name: format!("kvorum-{}", id - 1) }
}

fn members(size: u64) -> Configuration {
    Configuration { id: ConfigurationId(1), members: (1..=size).map(member).collect() }
}

/// The engine, the snapshots that are read beside it, and the source of randomness.
struct World {
    engine: Engine<Memory>,
    snapshots: MemorySnapshots,
    random: StdRng,
    /// The number of members.
    size: u64,
    /// The calls of the engine's last fetch and of its last relayed request.
    fetch: u64,
    relay: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let (cluster, name) = (ClusterId(1), "kvorum-0".to_owned());
        let identity = Identity { cluster, replica: ME, name, incarnation: 1, nonce: 1 };
        let size = if seed.is_multiple_of(2) { 3 } else { 5 };
        let disk = Memory::crashable(identity, members(size), LIMITS);
        let newest = Version::NEWEST;
        let options = Options { allows_faults: false, newest, checksum_ticks: 40 };
        let mut engine = Engine::new(disk.clone(), options);
        for id in 2..=size {
            let theirs = puppet(id, size).greet(ME, None).unwrap().mine;
            engine.step(Input::Met(theirs));
            engine.step(Input::PeerUp { peer: ReplicaId(id), session: Session(id) });
        }
        engine.step(Input::Learned { members: vec![member(JOINER.0)], configuration: None });
        engine.step(Input::PeerUp { peer: JOINER, session: Session(JOINER.0) });
        let (snapshots, random) = (disk.snapshots(), StdRng::seed_from_u64(seed));
        Self { engine, snapshots, random, size, fetch: 0, relay: 0 }
    }

    fn chance(&mut self, of: u32) -> bool {
        self.random.random_range(0..of) == 0
    }

    /// Returns a number near one that matters, or far from all.
    fn number(&mut self) -> u64 {
        let status = self.engine.status();
        let near = [0, status.accepted, status.decided, status.applied, status.compacted];
        let near = near[self.random.random_range(0..near.len())];
        match self.random.random_range(0..12) {
            0 => validity::INDEX_MAX - 1,
            1 => self.random.random_range(0..validity::INDEX_MAX),
            step => (near + step).saturating_sub(6),
        }
    }

    fn position(&mut self) -> usize {
        usize::try_from(self.number()).unwrap()
    }

    fn ballot(&mut self) -> Ballot {
        let now = self.engine.status().ballot;
        let n = match self.random.random_range(0..10) {
            0 => validity::NUMBER_MAX - 1,
            1 => 0,
            2 => now.number.saturating_sub(1),
            3 => now.number + 1,
            _ => now.number,
        };
        let configuration = if self.chance(12) { 2 } else { 1 };
        Ballot::with(configuration, n, 0, self.random.random_range(0..=self.size + 1))
    }

    fn entries(&mut self) -> Vec<Entry> {
        (0..self.random.random_range(0..4)).map(|_| self.entry()).collect()
    }

    fn entry(&mut self) -> Entry {
        match self.random.random_range(0..8) {
            0 => Entry::Noop,
            1 => Entry::Checksum,
            2 => Entry::Version(Version::NEWEST),
            3 => Entry::Join { name: "kvorum-5".to_owned(), nonce: self.random.random_range(0..9) },
            4 => {
                let id = ConfigurationId(self.random.random_range(1..5));
                let first = self.random.random_range(1..4);
                let members = (first..first + self.random.random_range(1..4)).map(member);
                Entry::StopSign(Configuration { id, members: members.collect() })
            }
            _ => {
                let valid_until = self.number();
                Entry::Command(Command { id: self.id(), valid_until, operation: self.operation() })
            }
        }
    }

    fn id(&mut self) -> RequestId {
        let client = ClientId(self.random.random_range(0..4));
        let lane = LaneId { client, number: self.random.random_range(0..2) };
        RequestId { lane, sequence: self.random.random_range(0..20) }
    }

    fn key(&mut self) -> Key {
        Key::from(vec![b'k'; self.random.random_range(0..4)])
    }

    fn operation(&mut self) -> Operation {
        let (key, value) = (self.key(), Value(Bytes::from(vec![7; 30])));
        let condition = match self.random.random_range(0..3) {
            0 => Condition::AtRevision(self.number()),
            1 => Condition::Absent,
            _ => Condition::Always,
        };
        match self.chance(3) {
            true => Operation::Delete { key, condition },
            false => Operation::Put { key, value, condition },
        }
    }

    fn found(&mut self) -> FetchResponse {
        let snapshot = SnapshotId { nonce: 1, number: self.random.random_range(0..3) };
        match self.random.random_range(0..5) {
            0 => {
                let mut chain = Chain::new(members(self.size));
                chain.current.id = ConfigurationId(self.random.random_range(1..4));
                chain.began = self.number();
                let applied = chain.began.saturating_add(self.random.random_range(0..9));
                let (items, version) = (self.number(), Version::NEWEST);
                FetchResponse::Snapshot {
                    snapshot,
                    header: Header { applied, items, version, chain },
                }
            }
            1 => {
                let record = Record { revision: self.number(), value: Bytes::from("v") };
                let items = vec![Item::Key(Bytes::from("k"), record)];
                let next = self.chance(2).then_some(Cursor::Start);
                FetchResponse::Chunk(Chunk { items, next })
            }
            2 => {
                let (from, entries) = (self.number().max(1), self.entries());
                FetchResponse::Entries { from, entries, decided: self.number() }
            }
            3 => FetchResponse::Gone,
            _ => FetchResponse::Busy,
        }
    }

    fn wanted(&mut self) -> FetchRequest {
        let snapshot = SnapshotId { nonce: 1, number: self.random.random_range(0..3) };
        let configuration = ConfigurationId(self.random.random_range(1..4));
        match self.random.random_range(0..4) {
            0 => FetchRequest::Snapshot,
            1 => FetchRequest::Chunk { snapshot, after: Cursor::Key(Bytes::from("k")) },
            2 => FetchRequest::Entries { configuration, from: self.number() },
            _ => FetchRequest::Close { snapshot },
        }
    }

    /// Returns a random message that a peer can send.
    fn message(&mut self, from: ReplicaId) -> PeerMessage {
        let configuration = ConfigurationId(self.random.random_range(1..4));
        let (ballot, index, call) = (self.ballot(), self.number(), self.random.random_range(0..9));
        let slot = from.0.min(self.size);
        match self.random.random_range(0..24) {
            0..=8 => {
                let msg = self.paxos();
                let message = PaxosMessage { from: slot, to: ME.0, msg };
                let message = Message::SequencePaxos(message);
                PeerMessage::Paxos { configuration: ConfigurationId(1), message }
            }
            9 => PeerMessage::Probe { configuration, ballot, round: call },
            10 => PeerMessage::ProbeAnswer { configuration, ballot, round: call },
            11 => {
                let (id, valid_until, operation) = (self.id(), index, self.operation());
                let request = Request::Write { id, valid_until, operation };
                PeerMessage::Relay { call, request }
            }
            12 => PeerMessage::RelayAnswer { call: self.relay, answer: Answer::Done },
            13 => PeerMessage::ReadIndexAnswer { call: self.relay, index: Ok(index) },
            14 => PeerMessage::TransferLeadership { configuration, ballot },
            15 => PeerMessage::DeferLeadership { configuration, ballot },
            16 => PeerMessage::Fetch { call, wanted: self.wanted() },
            17 => PeerMessage::Fetched { call: self.fetch, found: self.found() },
            18 => PeerMessage::StateProgress { index },
            19 => PeerMessage::ConfigurationOver {
                configuration,
                index,
                is_dismissed: self.chance(2),
            },
            20 => {
                let (start, replicas) =
                    (self.random.random_range(0..9), self.random.random_range(0..8));
                let number = self.chance(2).then_some(call);
                PeerMessage::ScaleReport { wanted: Scale { start, replicas }, number }
            }
            21 => PeerMessage::Checksum { index, digest: Digest::default() },
            22 => PeerMessage::StateDiffers { index, sound: vec![from] },
            _ => match self.random.random_range(0..8) {
                0 => PeerMessage::RequestStop { has_leave: self.chance(2) },
                1 => PeerMessage::PermitStop,
                2 => PeerMessage::ReadScale { number: call },
                3 => PeerMessage::ReadIndex { call },
                4 => PeerMessage::AskDisk { number: call },
                5 => PeerMessage::DiskWorks { number: call },
                6 => PeerMessage::EpochKept { epoch: Epoch(index) },
                _ => PeerMessage::Epoch { epoch: Epoch(index) },
            },
        }
    }

    /// Returns a random request that a client can send.
    fn request(&mut self) -> Request {
        let (consistency, name) = (Consistency::Linearizable, "kvorum-1".to_owned());
        let snapshot = SnapshotName { nonce: 1, number: self.random.random_range(0..3) };
        match self.random.random_range(0..11) {
            0..=3 => {
                let (id, valid_until, operation) = (self.id(), self.number(), self.operation());
                Request::Write { id, valid_until, operation }
            }
            4 => Request::Get { key: self.key(), consistency },
            5 => Request::Scan(Scan::of("", Consistency::Local)),
            6 => Request::Status,
            7 => Request::Subscribe(Subscription::Log { from: self.number() }),
            8 => Request::Admin(Admin::HandOver { to: name }),
            9 => Request::Admin(Admin::Join { name, nonce: self.random.random_range(0..99) }),
            _ => Request::Snapshot(match self.random.random_range(0..3) {
                0 => SnapshotRequest::Open,
                1 => SnapshotRequest::Part { snapshot, after: Value::from("") },
                _ => SnapshotRequest::Close { snapshot },
            }),
        }
    }

    /// Delivers a peer's message, if the link would accept it.
    fn hear(&mut self, peer: ReplicaId, message: PeerMessage) {
        if validity::check(&message).is_ok() {
            self.engine.step(Input::Peer { peer, session: Session(peer.0), message });
        }
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Send { to, message, .. } => {
                match &message {
                    PeerMessage::Fetch { call, .. } => self.fetch = *call,
                    PeerMessage::Relay { call, .. } | PeerMessage::ReadIndex { call } => {
                        self.relay = *call;
                    }
                    _ => {}
                }
                if !self.chance(3)
                    && let Some(answer) = self.answer(to, &message)
                {
                    self.hear(to, answer);
                }
            }
            Output::Sync(written) => self.engine.step(Input::Synced(written)),
            Output::Read { asker, wanted, number } => {
                if let Some(found) = self.snapshots.read(&wanted, number) {
                    self.engine.step(Input::Read { asker, found });
                }
            }
            Output::Scan { origin, scan } => {
                let page = self.engine.store().scan(&scan);
                self.engine.step(Input::Scanned { origin, page });
            }
            Output::Mark(mark) => {
                let verdict = match self.random.random_range(0..9) {
                    0 => Verdict::Unreachable("away".to_owned()),
                    1 => Verdict::Lost,
                    _ => Verdict::Done,
                };
                self.engine.step(Input::Marked { mark, verdict });
            }
            Output::ReadScale(read) => {
                let wanted = Some(Scale { start: 0, replicas: self.random.random_range(0..8) });
                self.engine.step(Input::Scale { wanted, read: Some(read) });
            }
            _ => {}
        }
    }

    fn step(&mut self, call: u64) {
        let peer = self.random.random_range(2..=self.size + 1);
        let peer = if peer > self.size { JOINER } else { ReplicaId(peer) };
        match self.random.random_range(0..10) {
            0..=3 => self.engine.step(Input::Tick),
            4..=6 => {
                let message = self.message(peer);
                self.hear(peer, message);
            }
            7 if self.chance(20) => {
                self.engine.step(Input::PeerUp { peer, session: Session(peer.0) });
            }
            7 if self.chance(20) => {
                self.engine.step(Input::PeerDown { peer, session: Session(peer.0) });
                self.engine.step(Input::PeerUp { peer, session: Session(peer.0) });
            }
            _ => {
                let (client, request) = (ClientKey(self.random.random_range(0..3)), self.request());
                self.engine.step(Input::Client { client, call, user: User::Anonymous, request });
            }
        }
        if self.chance(2) {
            for output in self.engine.turn(&|_| true) {
                self.output(output);
            }
        }
    }
}

/// Returns a peer's engine, used to introduce the peer.
fn puppet(id: u64, size: u64) -> Engine<Memory> {
    let member = member(id);
    let (cluster, name) = (ClusterId(1), member.name);
    let identity = Identity { cluster, replica: member.replica, name, incarnation: 1, nonce: id };
    let newest = Version::NEWEST;
    let options = Options { allows_faults: false, newest, checksum_ticks: 0 };
    Engine::new(Memory::new(identity, members(size)), options)
}

#[test]
fn an_engine_survives_whatever_its_peers_and_clients_say() {
    let seconds = std::env::var("KVORUM_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let time = Duration::from_secs_f64(seconds.unwrap_or(SECONDS));
    let first: u64 = match std::env::var("KVORUM_FUZZ_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => rand::random::<u32>().into(),
    };
    let (began, mut runs, mut led, mut applied) = (Instant::now(), 0, 0, 0);
    while began.elapsed() < time {
        let seed = first + runs;
        let mut world = World::new(seed);
        let run = || (0..STEPS).for_each(|call| world.step(call.into()));
        let survived = std::panic::catch_unwind(AssertUnwindSafe(run)).is_ok();
        assert!(survived, "KVORUM_FUZZ_SEED={seed} panics");
        runs += 1;
        led += u64::from(world.engine.status().ballot.replica == ME);
        applied += world.engine.applied().min(u64::from(STEPS));
    }
    println!("{runs} runs from seed {first}, {led} of them led, {applied} entries applied");
    assert!(led > 0 && applied > 0, "the puppets let it lead and decide");
}

/// A joiner's messages change nothing, whatever they are.
#[test]
fn what_a_joiner_says_changes_no_state() {
    for seed in 0..200 {
        let mut world = World::new(seed);
        let before = (world.engine.applied(), world.engine.store().chain());
        for _ in 0..STEPS {
            let message = world.message(JOINER);
            world.hear(JOINER, message);
            let outputs = world.engine.turn(&|_| true);
            for output in outputs {
                if let Output::Read { asker, wanted, number } = output
                    && let Some(found) = world.snapshots.read(&wanted, number)
                {
                    world.engine.step(Input::Read { asker, found });
                }
            }
        }
        let after = (world.engine.applied(), world.engine.store().chain());
        assert_eq!(before, after, "seed {seed}");
    }
}
