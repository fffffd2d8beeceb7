//! The puppets' messages of the consensus library.

use kvorum_protocol::status::ReplicaId;
use kvorum_replica::engine::{PeerMessage, validity};
use kvorum_replica::state::entry::{Entry, NoSnapshot};
use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::messages::Message;
use omnipaxos::messages::ballot_leader_election::{
    BLEMessage, HeartbeatMsg, HeartbeatReply, HeartbeatRequest,
};
use omnipaxos::messages::sequence_paxos::{
    AcceptDecide, AcceptSync, Accepted, Decide, NotAccepted, PaxosMessage, PaxosMsg, Prepare,
    PrepareReq, Promise,
};
use omnipaxos::storage::SnapshotType;
use omnipaxos::util::{LogSync, SequenceNumber};
use rand::RngExt;

use super::{ME, World};

impl World {
    fn log_sync(&mut self) -> LogSync<Entry> {
        let decided_snapshot = self.chance(4).then_some(SnapshotType::Complete(NoSnapshot));
        let (suffix, sync_idx) = (self.entries(), self.position());
        LogSync { decided_snapshot, suffix, sync_idx, stopsign: None }
    }

    fn sequence(&mut self) -> SequenceNumber {
        let session = self.random.random_range(0..3);
        let counter = match self.random.random_range(0..12) {
            0 => u64::MAX,
            1 => validity::INDEX_MAX - 1,
            _ => self.random.random_range(0..4),
        };
        SequenceNumber { session, counter }
    }

    pub(super) fn paxos(&mut self) -> PaxosMsg<Entry> {
        let n = self.ballot();
        let (decided_idx, accepted_idx) = (self.position(), self.position());
        match self.random.random_range(0..8) {
            0 => PaxosMsg::PrepareReq(PrepareReq { n }),
            1 => PaxosMsg::Prepare(Prepare {
                n,
                decided_idx,
                n_accepted: self.ballot(),
                accepted_idx,
            }),
            2 => PaxosMsg::Promise(Promise {
                n,
                n_accepted: self.ballot(),
                decided_idx,
                accepted_idx,
                log_sync: self.chance(2).then(|| self.log_sync()),
            }),
            3 => PaxosMsg::AcceptSync(AcceptSync {
                n,
                seq_num: self.sequence(),
                decided_idx,
                log_sync: self.log_sync(),
            }),
            4 => PaxosMsg::AcceptDecide(AcceptDecide {
                n,
                seq_num: self.sequence(),
                decided_idx,
                entries: self.entries(),
            }),
            5 => PaxosMsg::Accepted(Accepted { n, accepted_idx }),
            6 => PaxosMsg::NotAccepted(NotAccepted { n }),
            _ => PaxosMsg::Decide(Decide { n, seq_num: self.sequence(), decided_idx }),
        }
    }

    /// Returns the answer of a member that follows the protocol, with some random values.
    pub(super) fn answer(&mut self, to: ReplicaId, message: &PeerMessage) -> Option<PeerMessage> {
        let PeerMessage::Paxos { configuration, message } = message else { return None };
        let (from, back) = (to.0, ME.0);
        let message = match message {
            Message::BLE(BLEMessage { msg: HeartbeatMsg::Request(request), .. }) => {
                let ballot = Ballot::with(1, self.random.random_range(0..4), 0, from);
                let leader = if self.chance(2) { ballot } else { self.ballot() };
                let (round, happy) = (request.round, self.chance(2));
                let msg = HeartbeatMsg::Reply(HeartbeatReply { round, ballot, leader, happy });
                Message::BLE(BLEMessage { from, to: back, msg })
            }
            Message::BLE(_) => {
                let msg = HeartbeatMsg::Request(HeartbeatRequest { round: 1 });
                Message::BLE(BLEMessage { from, to: back, msg })
            }
            Message::SequencePaxos(message) => {
                let accepted_idx = usize::try_from(self.engine.status().accepted).unwrap();
                let msg = match &message.msg {
                    PaxosMsg::Prepare(prepare) => PaxosMsg::Promise(Promise {
                        n: prepare.n,
                        n_accepted: Ballot::default(),
                        decided_idx: 0,
                        accepted_idx: 0,
                        log_sync: None,
                    }),
                    PaxosMsg::AcceptSync(sync) => {
                        PaxosMsg::Accepted(Accepted { n: sync.n, accepted_idx })
                    }
                    PaxosMsg::AcceptDecide(sent) => {
                        PaxosMsg::Accepted(Accepted { n: sent.n, accepted_idx })
                    }
                    PaxosMsg::Promise(promise) => PaxosMsg::AcceptSync(AcceptSync {
                        n: promise.n,
                        seq_num: SequenceNumber { session: 1, counter: 1 },
                        decided_idx: promise.decided_idx,
                        log_sync: LogSync {
                            decided_snapshot: None,
                            suffix: Vec::new(),
                            sync_idx: promise.accepted_idx,
                            stopsign: None,
                        },
                    }),
                    _ => return None,
                };
                Message::SequencePaxos(PaxosMessage { from, to: back, msg })
            }
        };
        Some(PeerMessage::Paxos { configuration: *configuration, message })
    }
}
