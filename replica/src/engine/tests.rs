//! Tests of the engine as a whole, and a small cluster for the tests of its parts.

use std::collections::VecDeque;

use kvorum_protocol::data::{ClientId, Condition, Key, LaneId, Operation, RequestId, Value};
use kvorum_protocol::message::{Answer, Consistency, Doubt, Request, ServerFrame};

use super::parts::Parts;
use super::*;
use crate::state::rights::User;
use crate::state::version::Version;
use crate::storage::memory::Memory;

const OPTIONS: Options =
    Options { allows_faults: true, newest: Version::NEWEST, checksum_ticks: 0 };
/// Ticks within which a calm cluster elects a leader.
const ELECTION_TICKS: usize = 200;

/// Engines that are linked with each other. Every message arrives and every sync returns at once.
pub(super) struct Cluster {
    engines: Vec<Engine<Memory>>,
    /// The answers to clients, by call.
    pub(super) answers: Vec<(u64, Answer)>,
    calls: u64,
    /// The replica that does nothing: its process is stopped.
    stopped: Option<ReplicaId>,
}

impl Cluster {
    /// Creates a cluster of so many members, and waits until one leads.
    pub(super) fn of(members: u64) -> Self {
        let engine = |id| Engine::new(Memory::of_cluster(id, members), OPTIONS);
        let engines = (1..=members).map(engine).collect();
        let mut cluster = Self { engines, answers: Vec::new(), calls: 0, stopped: None };
        for (a, b) in cluster.pairs() {
            let theirs = cluster.engine(b).greet(a, None).unwrap().mine;
            cluster.engine(a).step(Input::Met(theirs));
        }
        for (a, b) in cluster.pairs() {
            cluster.engine(a).step(Input::PeerUp { peer: b, session: Session(1) });
        }
        for _ in 0..ELECTION_TICKS {
            cluster.pass(1);
            if cluster.leader_id().is_some() {
                return cluster;
            }
        }
        panic!("nobody leads");
    }

    fn pairs(&self) -> Vec<(ReplicaId, ReplicaId)> {
        let ids = || (1..=self.engines.len() as u64).map(ReplicaId);
        ids().flat_map(|a| ids().filter(move |b| *b != a).map(move |b| (a, b))).collect()
    }

    fn engine(&mut self, id: ReplicaId) -> &mut Engine<Memory> {
        &mut self.engines[usize::try_from(id.0).unwrap() - 1]
    }

    /// Returns the parts of a replica.
    pub(super) fn parts(&mut self, id: ReplicaId) -> &mut Parts<Memory> {
        &mut self.engine(id).parts
    }

    fn leader_id(&self) -> Option<ReplicaId> {
        let mut engines = self.engines.iter();
        let leader = engines.find(|engine| engine.parts.cx.is_leading())?;
        let leads = leader.status().role == kvorum_protocol::status::Role::Leader;
        leads.then_some(leader.parts.cx.me)
    }

    /// Returns the ids of the leader and of the others.
    pub(super) fn roles(&self) -> (ReplicaId, Vec<ReplicaId>) {
        let leader = self.leader_id().expect("one leads");
        let others = self.engines.iter().map(|engine| engine.parts.cx.me);
        (leader, others.filter(|id| *id != leader).collect())
    }

    /// Lets so many ticks pass at every replica.
    pub(super) fn pass(&mut self, ticks: usize) {
        for _ in 0..ticks {
            for engine in self.engines.iter_mut().filter(|e| Some(e.parts.cx.me) != self.stopped) {
                engine.step(Input::Tick);
            }
            self.settle();
        }
    }

    /// Delivers messages and syncs until there is nothing to do.
    pub(super) fn settle(&mut self) {
        let mut waiting: VecDeque<(ReplicaId, Input)> = VecDeque::new();
        loop {
            for engine in self.engines.iter_mut().filter(|e| Some(e.parts.cx.me) != self.stopped) {
                let from = engine.parts.cx.me;
                for output in engine.turn(&|_| true) {
                    match output {
                        Output::Send { to, message, .. } => {
                            let (peer, session) = (from, Session(1));
                            waiting.push_back((to, Input::Peer { peer, session, message }));
                        }
                        Output::Sync(written) => waiting.push_back((from, Input::Synced(written))),
                        Output::Frame { frame: ServerFrame::Answer { call, answer }, .. } => {
                            self.answers.push((call, answer));
                        }
                        _ => {}
                    }
                }
            }
            if waiting.is_empty() {
                return;
            }
            for (to, input) in std::mem::take(&mut waiting) {
                if Some(to) != self.stopped {
                    self.engine(to).step(input);
                }
            }
        }
    }

    /// Sends a request to a replica; returns its number.
    pub(super) fn request(&mut self, to: ReplicaId, request: Request) -> u64 {
        self.calls += 1;
        let (client, call) = (ClientKey(1), self.calls);
        self.engine(to).step(Input::Client { client, call, user: User::Anonymous, request });
        call
    }

    /// Sends a put of a key to a replica; returns its number.
    pub(super) fn put(&mut self, to: ReplicaId, key: &str) -> u64 {
        let number = u32::try_from(self.calls).unwrap();
        let lane = LaneId { client: ClientId(1), number };
        let (key, value) = (Key::from(key.to_owned()), Value::from(key.to_owned()));
        let operation = Operation::Put { key, value, condition: Condition::Always };
        let id = RequestId { lane, sequence: 1 };
        self.request(to, Request::Write { id, valid_until: u64::MAX, operation })
    }

    /// Returns the answer to a request, if it was answered.
    pub(super) fn answer(&self, call: u64) -> Option<&Answer> {
        self.answers.iter().find(|(of, _)| *of == call).map(|(_, answer)| answer)
    }
}

/// Whether a new session with a peer is ended at once.
fn is_ended(engine: &mut Engine<Memory>, peer: ReplicaId) -> bool {
    engine.step(Input::PeerUp { peer, session: Session(1) });
    let is_its = |output: &Output| matches!(output, Output::EndSession { peer: p } if *p == peer);
    let ends = engine.turn(&|_| true).iter().any(is_its);
    assert_eq!(ends, engine.parts.cx.peers.session(peer).is_none());
    ends
}

/// Between judging a peer and its session, the members may change and the link be cut.
#[test]
fn a_session_that_must_not_be_ends_at_both_ends() {
    let mut engine = Engine::new(Memory::of_two(1), OPTIONS);
    let (member, stranger) = (ReplicaId(2), ReplicaId(9));
    assert!(is_ended(&mut engine, stranger), "nobody knows it any more");
    engine.parts.cx.peers.set_cut(member, true);
    assert!(is_ended(&mut engine, member), "the link is cut");
    engine.parts.cx.peers.set_cut(member, false);
    assert!(!is_ended(&mut engine, member));
}

/// The leader's process is stopped and its connections stay: nothing else ends its calls so soon.
#[test]
fn writes_that_were_passed_to_a_leader_end_when_there_is_another_one() {
    let mut cluster = Cluster::of(3);
    let (leader, others) = cluster.roles();
    cluster.stopped = Some(leader);
    let puts = others.iter().map(|follower| cluster.put(*follower, "a")).collect::<Vec<_>>();
    for _ in 0..2 * ELECTION_TICKS {
        cluster.pass(1);
    }
    for put in puts {
        let answer = cluster.answer(put);
        assert_eq!(answer, Some(&Answer::Unknown(Doubt::LeaderChanged)));
    }
}

/// A follower relays the write, and asks the leader for the index of the read.
#[test]
fn any_replica_serves_writes_and_reads() {
    let mut cluster = Cluster::of(3);
    let (leader, others) = cluster.roles();
    for replica in [leader, others[0], others[1]] {
        let put = cluster.put(replica, "a");
        cluster.settle();
        assert!(matches!(cluster.answer(put), Some(Answer::Written(_))), "{replica:?}");
        let (key, consistency) = ("a".into(), Consistency::Linearizable);
        let get = cluster.request(replica, Request::Get { key, consistency });
        cluster.settle();
        assert!(matches!(cluster.answer(get), Some(Answer::Value(Some(_)))), "{replica:?}");
    }
}
