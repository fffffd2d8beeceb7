//! Faults that affect replicas that join or lag: lost hints, interrupted copies, and messages that
//! a faulty or late peer might send.
//!
//! A member may be late, or send numbers that mean nothing; it never sends a lie that others could
//! not detect. A joiner may send anything at all, except about how much of the state it has.

use kvorum_protocol::data::{ClientId, Condition, LaneId, Operation, RequestId};
use kvorum_protocol::message::{Answer, Refusal, Request};
use kvorum_protocol::status::{ConfigurationId, ReplicaId};
use kvorum_replica::engine::{Asker, Input, Origin, PeerMessage, validity};
use kvorum_replica::planner::Scale;
use kvorum_replica::state::chain::Standing;
use kvorum_replica::state::machine::Table;
use kvorum_replica::state::snapshot::{Cursor, Digest, FetchRequest, FetchResponse, SnapshotId};
use kvorum_replica::storage::Ballot;
use omnipaxos::messages::Message;
use omnipaxos::messages::sequence_paxos::{PaxosMessage, PaxosMsg, PrepareReq};
use rand::RngExt;

use super::cluster::Cluster;

/// Bound of all indexes and other numbers of a message; decoded numbers are below it.
const WILD_MAX: u64 = 1 << 53;
/// Probability that a hint is lost or a copy is interrupted, during a spell of that.
const OFTEN: f64 = 0.9;

/// The times until which recurring faults last.
#[derive(Clone, Copy, Default)]
pub struct Spells {
    loses_hints_until_us: u64,
    interrupts_copies_until_us: u64,
}

impl Cluster {
    /// Makes most hints get lost for a while, as if their senders were busy, or forgot.
    pub(super) fn lose_hints(&mut self) {
        self.tally.lost_hints += 1;
        let time = self.random.random_range(50_000..3_000_000);
        self.spells.loses_hints_until_us = self.now_us + time;
    }

    /// Interrupts most copies for a while.
    pub(super) fn interrupt_copies(&mut self) {
        self.tally.interrupted_copies += 1;
        let time = self.random.random_range(50_000..2_000_000);
        self.spells.interrupts_copies_until_us = self.now_us + time;
    }

    /// Ends these faults.
    pub(super) fn end_spells(&mut self) {
        self.spells = Spells::default();
    }

    pub(super) fn loses_hint(&mut self, message: &PeerMessage) -> bool {
        let is_hint = matches!(message, PeerMessage::ConfigurationOver { .. });
        is_hint && self.now_us < self.spells.loses_hints_until_us && self.random.random_bool(OFTEN)
    }

    /// Returns what a lagging replica gets of the data that was read for it, all or less, and the
    /// additional delay in microseconds: perhaps it has given up waiting by then.
    pub(super) fn interrupt(&mut self, asker: Asker, found: FetchResponse) -> (FetchResponse, u64) {
        let is_copied = matches!(asker, Asker::Other(Origin::Peer { .. }));
        let is_spell = self.now_us < self.spells.interrupts_copies_until_us;
        if !is_copied || !is_spell || !self.random.random_bool(OFTEN) {
            return (found, 0);
        }
        match self.random.random_range(0..3) {
            0 => (FetchResponse::Busy, 0),
            1 if matches!(found, FetchResponse::Chunk(_)) => (FetchResponse::Gone, 0),
            1 => (found, 0),
            _ => (found, self.random.random_range(1_000_000..6_000_000)),
        }
    }

    /// Delivers a message from a faulty or late peer.
    pub(super) fn stray(&mut self, (low, high): (ReplicaId, ReplicaId)) -> Result<(), String> {
        if !self.rules.has_strays {
            return Ok(());
        }
        let (from, to) = if self.random.random_bool(0.5) { (low, high) } else { (high, low) };
        let (Some(_), Some(receiver)) = (self.engine(from), self.engine(to)) else {
            return Ok(());
        };
        let chain = receiver.store().chain();
        let is_member = chain.current.name_of(from).is_some();
        let is_joiner = chain.standing(from) == Standing::Joiner && !self.checker.was_member(from);
        let is_retired = chain.standing(to) == Standing::Retired;
        let Some(session) = self.node(to).process.as_ref().and_then(|p| p.session(from)) else {
            return Ok(());
        };
        let message = match (is_member, is_joiner) {
            (true, _) => self.late_message(to, is_retired),
            (_, true) => self.message_of_joiner(to),
            _ => return Ok(()),
        };
        // A link would drop any other message.
        if validity::check(&message).is_err() {
            return Ok(());
        }
        self.tally.strays += 1;
        self.turn(to, Input::Peer { peer: from, session, message })
    }

    /// Returns a number that may mean something, or nothing.
    fn number(&mut self) -> u64 {
        match self.random.random_range(0..4) {
            0 => self.random.random_range(0..4),
            1 => self.checker.decided() + self.random.random_range(0..4),
            2 => self.random.random_range(0..=self.checker.decided()),
            _ => self.random.random_range(WILD_MAX / 2..WILD_MAX),
        }
    }

    fn some_number_of(&mut self, id: ReplicaId) -> ConfigurationId {
        let current = self.node(id).disk.chain().current.id.0;
        ConfigurationId(match self.random.random_range(0..5) {
            0 => current + 1,
            1 => current.saturating_sub(1).max(1),
            2 => self.random.random_range(1 << 20..1 << 30),
            _ => current,
        })
    }

    fn ballot(&mut self) -> Ballot {
        let n = self.random.random_range(0..20);
        Ballot::with(1, n, 0, self.random.random_range(0..8))
    }

    /// Returns the promise of a replica, as a late message may have it.
    fn ballot_of(&mut self, id: ReplicaId) -> Ballot {
        let current = self.node(id).disk.chain().current.id;
        let promise = self.node(id).disk.durable_numbers(current).promise;
        promise.unwrap_or_default()
    }

    /// Returns a message that changes nothing, whichever replica sends it, and at most gets an
    /// answer.
    fn question(&mut self) -> PeerMessage {
        let (call, from) = (self.number(), self.number());
        let snapshot = SnapshotId { nonce: self.number(), number: self.number() };
        let configuration = ConfigurationId(self.random.random_range(1..1 << 30));
        let wanted = match self.random.random_range(0..4) {
            0 => FetchRequest::Entries { configuration, from },
            1 => FetchRequest::Snapshot,
            2 => FetchRequest::Close { snapshot },
            _ => FetchRequest::Chunk { snapshot, after: Cursor::Start },
        };
        let index = Ok(self.number());
        match self.random.random_range(0..5) {
            0 | 1 => PeerMessage::Fetch { call, wanted },
            2 => PeerMessage::Fetched { call: WILD_MAX, found: FetchResponse::Gone },
            3 => PeerMessage::ReadIndexAnswer { call: WILD_MAX, index },
            _ => {
                let answer = Answer::Refused(Refusal::NoLeader);
                PeerMessage::RelayAnswer { call: WILD_MAX, answer }
            }
        }
    }

    /// Returns a message of a member that is late, or whose numbers mean nothing.
    fn late_message(&mut self, to: ReplicaId, is_retired: bool) -> PeerMessage {
        let (number, round) = (self.number(), WILD_MAX - self.number() / 2);
        let (configuration, ballot) = (self.some_number_of(to), self.ballot());
        let promise = self.ballot_of(to);
        match self.random.random_range(0..11) {
            0 => PeerMessage::Probe { configuration, ballot, round },
            1 => PeerMessage::ProbeAnswer { configuration, ballot, round },
            2 => PeerMessage::ReadIndex { call: number },
            3 => PeerMessage::TransferLeadership { configuration, ballot: promise },
            4 => PeerMessage::DeferLeadership { configuration, ballot: promise },
            // More than there is.
            5 => PeerMessage::StateProgress { index: WILD_MAX },
            6 => PeerMessage::Checksum { index: WILD_MAX, digest: Digest::default() },
            // A replica that left would end.
            7 if !is_retired => {
                PeerMessage::ConfigurationOver { configuration, index: number, is_dismissed: false }
            }
            8 => PeerMessage::ReadScale { number },
            9 => PeerMessage::ScaleReport { wanted: self.scale(), number: None },
            10 => PeerMessage::RequestStop { has_leave: self.random.random_bool(0.5) },
            _ => self.question(),
        }
    }

    fn scale(&mut self) -> Scale {
        match self.random.random_range(0..3) {
            0 => Scale { start: u32::MAX, replicas: u32::MAX },
            1 => Scale { start: 0, replicas: u32::MAX },
            _ => Scale { start: 0, replicas: self.random.random_range(0..9) },
        }
    }

    /// Returns a message of a joiner that has an id, and is no member: any that a member could
    /// send.
    fn message_of_joiner(&mut self, to: ReplicaId) -> PeerMessage {
        let (index, call) = (self.number(), self.number());
        let (configuration, ballot) = (self.some_number_of(to), self.ballot_of(to));
        let sound = self.nodes.iter().map(|node| node.id).collect();
        let (digest, wanted) = (Digest::default(), self.scale());
        match self.random.random_range(0..14) {
            0 => {
                let msg = PaxosMsg::PrepareReq(PrepareReq { n: ballot });
                let (from, to) = (self.random.random_range(0..9), self.random.random_range(0..9));
                let message = Message::SequencePaxos(PaxosMessage { from, to, msg });
                PeerMessage::Paxos { configuration, message }
            }
            // The number of the pending probe is easy to guess.
            1 => PeerMessage::ProbeAnswer { configuration, ballot, round: call },
            2 => {
                let lane = LaneId { client: ClientId(self.random.random()), number: 0 };
                let id = RequestId { lane, sequence: 1 };
                let operation =
                    Operation::Delete { key: "stray".into(), condition: Condition::Always };
                let request = Request::Write { id, valid_until: WILD_MAX, operation };
                PeerMessage::Relay { call, request }
            }
            3 => PeerMessage::ReadIndex { call },
            4 => PeerMessage::TransferLeadership { configuration, ballot },
            5 => PeerMessage::DeferLeadership { configuration, ballot },
            6 => PeerMessage::StateProgress { index: WILD_MAX },
            7 => PeerMessage::Checksum { index, digest },
            8 => {
                let is_dismissed = self.random.random_bool(0.5);
                PeerMessage::ConfigurationOver { configuration, index, is_dismissed }
            }
            9 => PeerMessage::RequestStop { has_leave: true },
            10 => PeerMessage::PermitStop,
            11 => {
                PeerMessage::ScaleReport { wanted, number: Some(self.random.random_range(0..20)) }
            }
            12 => PeerMessage::StateDiffers { index, sound },
            _ => self.question(),
        }
    }
}
