//! Clients: each has one request at a time, tries it at any replica, and tries again with the same
//! id until it knows.

use bytes::Bytes;
use kvorum_protocol::data::{
    ClientId, Condition, Key, LaneId, Operation, Outcome, RequestId, Value,
};
use kvorum_protocol::limits::SESSION_ENTRIES;
use kvorum_protocol::message::{Answer, Consistency, Request};
use kvorum_protocol::status::ReplicaId;
use kvorum_replica::engine::{ClientKey, Input};
use rand::RngExt;
use rand::rngs::StdRng;

use super::checker::Checker;
use super::node::Node;

const CLIENTS: usize = 6;
const KEYS: u64 = 4;
/// A client asks elsewhere when it was not answered for so long.
const PATIENCE_US: u64 = 700_000;

/// What a client wants done.
#[derive(Clone, Debug)]
enum Wish {
    Write { id: RequestId, operation: Operation },
    Read { key: Key, floor: u64 },
}

#[derive(Default)]
struct Client {
    sequence: u64,
    call: u64,
    wish: Option<Wish>,
    /// Where it was asked, and when; `None` when it is to be asked again.
    asked: Option<(ReplicaId, u64)>,
}

pub struct Workload {
    clients: Vec<Client>,
    replicas: u64,
    is_stopped: bool,
    writes: u64,
    reads: u64,
}

impl Workload {
    pub fn new(replicas: u64) -> Self {
        let clients = (0..CLIENTS).map(|_| Client::default()).collect();
        Self { clients, replicas, is_stopped: false, writes: 0, reads: 0 }
    }

    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    pub fn writes(&self) -> u64 {
        self.writes
    }

    pub fn reads(&self) -> u64 {
        self.reads
    }

    /// No new wishes; those there are get done.
    pub fn stop(&mut self) {
        self.is_stopped = true;
    }

    pub fn is_done(&self) -> bool {
        self.clients.iter().all(|client| client.wish.is_none())
    }

    pub fn describe(&self) -> String {
        let waiting = self.clients.iter().filter(|client| client.wish.is_some()).count();
        format!("{waiting} clients wait")
    }

    /// What a client asks now, and where.
    pub fn next(
        &mut self,
        index: usize,
        now_us: u64,
        random: &mut StdRng,
        checker: &Checker,
    ) -> Option<(ReplicaId, Input)> {
        let is_stopped = self.is_stopped;
        let client = &mut self.clients[index];
        if client.asked.is_some_and(|(_, since)| now_us < since + PATIENCE_US) {
            return None;
        }
        if client.wish.is_none() {
            if is_stopped {
                return None;
            }
            client.wish = Some(wish(client, index, random, checker));
        }
        let replica = ReplicaId(random.random_range(1..=self.replicas));
        client.asked = Some((replica, now_us));
        client.call += 1;
        let request = match client.wish.clone()? {
            Wish::Write { id, operation } => {
                Request::Write { id, valid_until: SESSION_ENTRIES, operation }
            }
            Wish::Read { key, .. } => Request::Get { key, consistency: Consistency::Linearizable },
        };
        let client_key = ClientKey(index as u64);
        Some((replica, Input::Client { client: client_key, call: client.call, request }))
    }

    /// The replica is down: ask again soon.
    pub fn refused(&mut self, index: usize) {
        self.clients[index].asked = None;
    }

    /// A replica crashed: its connections break.
    pub fn disconnected(&mut self, replica: ReplicaId) {
        for client in &mut self.clients {
            client.asked = client.asked.filter(|(asked, _)| *asked != replica);
        }
    }

    /// An answer came.
    pub fn answered(
        &mut self,
        index: usize,
        call: u64,
        answer: Answer,
        checker: &mut Checker,
        nodes: &[Node],
    ) -> Result<(), String> {
        let client = &mut self.clients[index];
        if client.call != call {
            return Ok(());
        }
        match (answer, client.wish.clone()) {
            (Answer::Written(outcome), Some(Wish::Write { id, operation })) => {
                checker.written(id, &operation.key().0, outcome, nodes)?;
                self.writes += u64::from(matches!(outcome, Outcome::Put { .. }));
                client.wish = None;
            }
            (Answer::Value(pair), Some(Wish::Read { key, floor })) => {
                checker.read(&key.0, floor, pair.map_or(0, |pair| pair.revision))?;
                self.reads += 1;
                client.wish = None;
            }
            (Answer::Refused(_) | Answer::Unknown(_), _) => {}
            (answer, wish) => return Err(format!("{answer:?} to {wish:?}")),
        }
        client.asked = None;
        Ok(())
    }
}

fn wish(client: &mut Client, index: usize, random: &mut StdRng, checker: &Checker) -> Wish {
    let key = Key::from(format!("key-{}", random.random_range(0..KEYS)));
    if random.random_bool(0.4) {
        let floor = checker.floor(&key.0);
        return Wish::Read { key, floor };
    }
    client.sequence += 1;
    let lane = LaneId { client: ClientId(index as u128), number: 0 };
    let id = RequestId { lane, sequence: client.sequence };
    let condition = match random.random_range(0..6) {
        0 => Condition::Absent,
        1 => Condition::AtRevision(checker.floor(&key.0)),
        _ => Condition::Always,
    };
    let value = Value(Bytes::from(format!("{index}/{}", client.sequence)));
    Wish::Write { id, operation: Operation::Put { key, value, condition } }
}
