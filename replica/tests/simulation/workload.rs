//! Simulated clients: each lane has one request at a time, tries it at any replica, and retries
//! with the same id until it has the outcome or gives up.

use bytes::Bytes;
use kvorum_checker::{Asked, History, OpId, Told};
use kvorum_protocol::data::{
    ClientId, Condition, Key, LaneId, Operation, Outcome, RequestId, Value,
};
use kvorum_protocol::message::{Answer, Consistency, Request};
use kvorum_protocol::status::ReplicaId;
use kvorum_replica::engine::{ClientKey, Input};
use kvorum_replica::state::rights::User;
use rand::RngExt;
use rand::rngs::StdRng;
use std::collections::BTreeMap;

use super::checker::Checker;
use super::node::Node;
use super::rules::{SESSION_ENTRIES, Tally};

const CLIENTS: usize = 5;
/// Lanes of one client, each with one request in flight.
const LANES: usize = 3;
const KEYS: u64 = 4;
/// Time without an answer after which a client tries elsewhere.
const PATIENCE_US: u64 = 700_000;
/// Probability that it then gives up instead.
const GIVES_UP: f64 = 0.05;

/// A client's request before it is sent.
#[derive(Clone, Debug)]
enum Wish {
    Write { id: RequestId, valid_until: u64, operation: Operation },
    Read { key: Key },
}

/// One lane of a client.
struct Slot {
    client: ClientId,
    /// The lane's number; a lane whose last write is of unknown outcome is never used again.
    lane: u32,
    sequence: u64,
    call: u64,
    wish: Option<(Wish, OpId)>,
    /// The replica that was asked, and the time; `None` when the request is to be sent again.
    asked: Option<(ReplicaId, u64)>,
    /// Whether an attempt may have been taken, and its answer did not come.
    is_in_doubt: bool,
}

pub struct Workload {
    slots: Vec<Slot>,
    is_stopped: bool,
    history: History,
    /// A clock that rises with each call and each answer.
    clock: u64,
    /// The last revision of each key that was reported to some client.
    revisions: BTreeMap<Key, u64>,
    values: u64,
}

impl Default for Workload {
    fn default() -> Self {
        let slot = |number: usize| Slot {
            client: ClientId((number / LANES) as u128),
            lane: u32::try_from(number % LANES).expect("lanes are few"),
            sequence: 0,
            call: 0,
            wish: None,
            asked: None,
            is_in_doubt: false,
        };
        Self {
            slots: (0..CLIENTS * LANES).map(slot).collect(),
            is_stopped: false,
            history: History::default(),
            clock: 0,
            revisions: BTreeMap::new(),
            values: 0,
        }
    }
}

impl Workload {
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    /// Stops new wishes; pending ones are completed.
    pub fn stop(&mut self) {
        self.is_stopped = true;
    }

    pub fn is_done(&self) -> bool {
        self.slots.iter().all(|slot| slot.wish.is_none())
    }

    pub fn describe(&self) -> String {
        let waiting = self.slots.iter().filter(|slot| slot.wish.is_some()).count();
        format!("{waiting} requests wait")
    }

    /// Returns the next request of a slot, and the replica to send it to, out of those there are.
    pub fn next(
        &mut self,
        index: usize,
        now_us: u64,
        random: &mut StdRng,
        checker: &Checker,
        tally: &mut Tally,
        there: &[ReplicaId],
    ) -> Option<(ReplicaId, Input)> {
        let slot = &self.slots[index];
        if slot.asked.is_some_and(|(_, since)| now_us < since + PATIENCE_US) {
            return None;
        }
        if slot.wish.is_some() {
            tally.retries += 1;
            let has_waited = slot.asked.is_some();
            self.slots[index].is_in_doubt |= has_waited;
            if !self.is_stopped && random.random_bool(GIVES_UP) {
                self.give_up(index);
                return None;
            }
        } else if self.is_stopped {
            return None;
        } else {
            self.wish(index, random, checker);
        }
        let replica = there[random.random_range(0..there.len())];
        let slot = &mut self.slots[index];
        slot.asked = Some((replica, now_us));
        slot.call += 1;
        let request = match slot.wish.clone()?.0 {
            Wish::Write { id, valid_until, operation } => {
                Request::Write { id, valid_until, operation }
            }
            Wish::Read { key } => Request::Get { key, consistency: Consistency::Linearizable },
        };
        let client = ClientKey(index as u64);
        Some((replica, Input::Client { client, call: slot.call, user: User::Anonymous, request }))
    }

    /// Gives up a slot's request; its outcome stays unknown.
    fn give_up(&mut self, index: usize) {
        let lanes = u32::try_from(LANES).expect("lanes are few");
        let slot = &mut self.slots[index];
        (slot.wish, slot.asked, slot.is_in_doubt) = (None, None, false);
        (slot.lane, slot.sequence) = (slot.lane + lanes, 0);
    }

    fn wish(&mut self, index: usize, random: &mut StdRng, checker: &Checker) {
        let key = Key::from(format!("key-{}", random.random_range(0..KEYS)));
        self.clock += 1;
        if random.random_bool(0.4) {
            let op = self.history.called(self.clock, Asked::Get(key.clone()));
            self.slots[index].wish = Some((Wish::Read { key }, op));
            return;
        }
        let condition = match random.random_range(0..6) {
            0 => Condition::Absent,
            1 => Condition::AtRevision(self.revisions.get(&key).copied().unwrap_or(1)),
            _ => Condition::Always,
        };
        self.values += 1;
        let value = Value(Bytes::from(self.values.to_string()));
        let operation = match random.random_bool(0.2) {
            true => Operation::Delete { key, condition },
            false => Operation::Put { key, value, condition },
        };
        let op = self.history.called(self.clock, Asked::Write(operation.clone()));
        let slot = &mut self.slots[index];
        slot.sequence += 1;
        let lane = LaneId { client: slot.client, number: slot.lane };
        let id = RequestId { lane, sequence: slot.sequence };
        // Any index that a replica has applied may have been reported to a client.
        let valid_until = checker.decided() + SESSION_ENTRIES;
        slot.wish = Some((Wish::Write { id, valid_until, operation }, op));
    }

    /// Records that the replica is down: retry soon.
    pub fn refused(&mut self, index: usize) {
        self.slots[index].asked = None;
    }

    /// Records that the answer got lost: retry soon.
    pub fn lost(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.asked = None;
        slot.is_in_doubt = true;
    }

    /// Records that a replica crashed, and its connections with it.
    pub fn disconnected(&mut self, replica: ReplicaId) {
        for index in 0..self.slots.len() {
            if self.slots[index].asked.is_some_and(|(asked, _)| asked == replica) {
                self.lost(index);
            }
        }
    }

    /// Handles an answer.
    pub fn answered(
        &mut self,
        index: usize,
        call: u64,
        answer: Answer,
        checker: &mut Checker,
        nodes: &[Node],
        tally: &mut Tally,
    ) -> Result<(), String> {
        let slot = &mut self.slots[index];
        if slot.call != call || slot.wish.is_none() {
            return Ok(());
        }
        self.clock += 1;
        match (answer, slot.wish.clone()) {
            // An earlier attempt may have been applied, and forgotten with its lane.
            (Answer::Written(Outcome::Expired), Some(_)) if slot.is_in_doubt => {
                tally.expired += 1;
                self.give_up(index);
                return Ok(());
            }
            (Answer::Written(outcome), Some((Wish::Write { id, operation, .. }, op))) => {
                checker.written(id, outcome, nodes)?;
                tally.expired += u64::from(outcome == Outcome::Expired);
                if let (Outcome::Put { revision }, Some(key)) = (outcome, operation.key()) {
                    self.revisions.insert(key.clone(), revision);
                }
                self.history.told(op, self.clock, Told::Written(outcome));
                slot.wish = None;
            }
            (Answer::Value(pair), Some((Wish::Read { key }, op))) => {
                if let Some(pair) = &pair {
                    self.revisions.insert(key, pair.revision);
                }
                let told = Told::Value(pair.map(|pair| (pair.value, pair.revision)));
                self.history.told(op, self.clock, told);
                slot.wish = None;
            }
            (Answer::Refused(_), _) => {}
            (Answer::Unknown(_), _) => slot.is_in_doubt = true,
            (answer, wish) => return Err(format!("{answer:?} to {wish:?}")),
        }
        slot.asked = None;
        slot.is_in_doubt &= slot.wish.is_some();
        Ok(())
    }
}
