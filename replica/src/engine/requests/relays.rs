//! Pure: a follower's calls to its leader on behalf of clients.
//!
//! Guarantees that each call ends: with the leader's answer, or, when the session breaks or the
//! leader is silent for too long, with *unknown* for a write and a refusal for a read.

use std::collections::BTreeMap;

use kvorum_protocol::message::{Answer, Doubt};
use kvorum_protocol::status::ReplicaId;

use super::{Origin, Session};
use crate::engine::requests::reads::Read;
use crate::limits::{RELAYS_BYTES_MAX, RELAYS_MAX};

/// Ticks that a call may take.
const PATIENCE_TICKS: u64 = 600;

/// The calls to the leader that are under way.
#[derive(Default)]
pub struct Relays {
    calls: BTreeMap<u64, Call>,
    next: u64,
    bytes: usize,
}

/// The purpose of a call.
pub enum Purpose {
    /// A client's write.
    Write(Origin),
    /// An index for these reads.
    Reads(Vec<Read>),
}

struct Call {
    leader: ReplicaId,
    session: Session,
    purpose: Purpose,
    bytes: usize,
    deadline: u64,
}

/// A call that ended without the leader's answer.
pub enum Broken {
    /// The write's fate is unknown.
    Write(Origin, Answer),
    /// The reads did not happen.
    Reads(Vec<Read>),
}

impl Relays {
    /// Records a call that carries `bytes` bytes. Returns its number, or the purpose back when
    /// there are too many calls or bytes.
    pub fn open(
        &mut self,
        leader: ReplicaId,
        session: Session,
        purpose: Purpose,
        bytes: usize,
        now: u64,
    ) -> Result<u64, Purpose> {
        if self.calls.len() >= RELAYS_MAX || self.bytes + bytes > RELAYS_BYTES_MAX {
            return Err(purpose);
        }
        self.next += 1;
        self.bytes += bytes;
        let call = Call { leader, session, purpose, bytes, deadline: now + PATIENCE_TICKS };
        self.calls.insert(self.next, call);
        Ok(self.next)
    }

    /// Ends a call that `from` answered, and returns its purpose. Returns `None` when the call was
    /// given up already, or was sent to another replica.
    pub fn close(&mut self, from: ReplicaId, call: u64) -> Option<Purpose> {
        let is_callee = self.calls.get(&call).is_some_and(|call| call.leader == from);
        if is_callee { self.remove(call).map(|call| call.purpose) } else { None }
    }

    /// Whether reads are under way.
    #[must_use]
    pub fn has_reads(&self) -> bool {
        self.calls.values().any(|call| matches!(call.purpose, Purpose::Reads(_)))
    }

    /// Gives up the calls that were sent in a session that ended.
    pub fn break_session(&mut self, peer: ReplicaId, session: Session) -> Vec<Broken> {
        self.give_up(Doubt::LinkLost, |call| call.leader == peer && call.session == session)
    }

    /// Gives up the calls to all replicas but the leader.
    pub fn supersede(&mut self, leader: ReplicaId) -> Vec<Broken> {
        self.give_up(Doubt::LeaderChanged, |call| call.leader != leader)
    }

    /// Gives up all calls for an index: the index would be that of a configuration that is over.
    pub fn take_reads(&mut self) -> Vec<Read> {
        let given_up =
            self.give_up(Doubt::LinkLost, |call| matches!(call.purpose, Purpose::Reads(_)));
        let reads = given_up.into_iter().filter_map(|broken| match broken {
            Broken::Reads(reads) => Some(reads),
            Broken::Write(..) => None,
        });
        reads.flatten().collect()
    }

    /// Gives up the calls that took too long.
    pub fn expire(&mut self, now: u64) -> Vec<Broken> {
        self.give_up(Doubt::NoQuorum, |call| call.deadline <= now)
    }

    fn remove(&mut self, number: u64) -> Option<Call> {
        let call = self.calls.remove(&number)?;
        self.bytes -= call.bytes;
        Some(call)
    }

    fn give_up(&mut self, doubt: Doubt, is_lost: impl Fn(&Call) -> bool) -> Vec<Broken> {
        let lost: Vec<u64> = self
            .calls
            .iter()
            .filter(|(_, call)| is_lost(call))
            .map(|(number, _)| *number)
            .collect();
        lost.into_iter()
            .filter_map(|number| self.remove(number))
            .map(|call| match call.purpose {
                Purpose::Write(origin) => Broken::Write(origin, Answer::Unknown(doubt)),
                Purpose::Reads(reads) => Broken::Reads(reads),
            })
            .collect()
    }
}
