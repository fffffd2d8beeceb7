//! A benchmark of the engine alone: three engines over in-memory disks, whose messages are passed
//! on in one thread.
//!
//! Measures how many entries a second the three engines of a cluster decide and apply together, on
//! one core and without network, disk or syncs.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark is no library")]

use std::collections::VecDeque;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kvorum_protocol::data::{ClientId, Condition, LaneId, Operation, RequestId, Value};
use kvorum_protocol::message::Request;
use kvorum_protocol::status::{ClusterId, Configuration, ConfigurationId, Member, ReplicaId, Role};
use kvorum_replica::engine::store::Identity;
use kvorum_replica::engine::{ClientKey, Engine, Input, Options, Output, Session};
use kvorum_replica::state::rights::User;
use kvorum_replica::state::version::Version;
use kvorum_replica::storage::memory::Memory;

const REPLICAS: u64 = 3;
const SESSION: Session = Session(1);
/// Size of one value, in bytes.
const VALUE_BYTES: usize = 256;

struct Cluster {
    engines: Vec<Engine<Memory>>,
    sequence: u64,
}

impl Cluster {
    fn new() -> Self {
        let member = |id| Member { replica: ReplicaId(id), name: format!("kvorum-{}", id - 1) };
        let members = (1..=REPLICAS).map(member).collect();
        let configuration = Configuration { id: ConfigurationId(1), members };
        let engine = |id| {
            let identity = Identity {
                cluster: ClusterId(1),
                replica: ReplicaId(id),
                name: format!("kvorum-{}", id - 1),
                incarnation: 1,
                nonce: id,
            };
            let newest = Version::NEWEST;
            let options = Options { allows_faults: false, newest, checksum_ticks: 0 };
            Engine::new(Memory::new(identity, configuration.clone()), options)
        };
        let mut cluster = Self { engines: (1..=REPLICAS).map(engine).collect(), sequence: 0 };
        for a in 0..cluster.engines.len() {
            for b in 0..cluster.engines.len() {
                if a != b {
                    let peer = ReplicaId(b as u64 + 1);
                    let a_id = ReplicaId(a as u64 + 1);
                    let theirs = cluster.engines[b].greet(a_id, None).unwrap().mine;
                    cluster.engines[a].step(Input::Met(theirs));
                    cluster.engines[a].step(Input::PeerUp { peer, session: SESSION });
                }
            }
        }
        while cluster.leader().is_none() {
            for engine in &mut cluster.engines {
                engine.step(Input::Tick);
            }
            cluster.settle();
        }
        cluster
    }

    fn leader(&self) -> Option<usize> {
        self.engines.iter().position(|engine| engine.status().role == Role::Leader)
    }

    /// Passes messages on until there are none left.
    fn settle(&mut self) {
        let mut turns: VecDeque<usize> = (0..self.engines.len()).collect();
        while let Some(from) = turns.pop_front() {
            for output in self.engines[from].turn(&|_: ClientKey| true) {
                let Output::Send { to, message, .. } = output else { continue };
                let to = usize::try_from(to.0 - 1).unwrap();
                let peer = ReplicaId(from as u64 + 1);
                self.engines[to].step(Input::Peer { peer, session: SESSION, message });
                if !turns.contains(&to) {
                    turns.push_back(to);
                }
            }
        }
    }

    /// Puts `count` keys in one turn of the leader, and lets every replica apply them.
    fn put(&mut self, count: u64) {
        let leader = self.leader().unwrap();
        for lane in 0..count {
            self.sequence += 1;
            let lane = LaneId { client: ClientId(1), number: u32::try_from(lane).unwrap() };
            let operation = Operation::Put {
                key: format!("key-{}", self.sequence % 1000).into(),
                value: Value::from(vec![7; VALUE_BYTES]),
                condition: Condition::Always,
            };
            let id = RequestId { lane, sequence: self.sequence };
            let request = Request::Write { id, valid_until: u64::MAX, operation };
            self.engines[leader].step(Input::Client {
                client: ClientKey(1),
                call: lane_call(lane),
                user: User::Anonymous,
                request,
            });
        }
        self.settle();
    }
}

fn lane_call(lane: LaneId) -> u64 {
    u64::from(lane.number)
}

fn decided_entries(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine");
    for batch in [1, 16, 256] {
        group.throughput(Throughput::Elements(batch));
        let mut cluster = Cluster::new();
        group.bench_function(BenchmarkId::new("decided entries, a turn of", batch), |bencher| {
            bencher.iter(|| cluster.put(batch));
        });
        let applied: Vec<u64> = cluster.engines.iter().map(Engine::applied).collect();
        assert!(applied.iter().all(|index| *index == applied[0]), "all applied the same");
    }
    group.finish();
}

criterion_group!(benches, decided_entries);
criterion_main!(benches);
