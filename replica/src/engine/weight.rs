//! Pure: the memory weight of each message between replicas.
//!
//! Guarantees that the weight of each variant includes all that it holds, and is never less than
//! its bytes on the wire: messages that wait for a link or a sync are counted by weight.

use kvorum_protocol::message::Refusal;
use kvorum_protocol::status::Member;
use kvorum_protocol::weight::OVERHEAD;
use omnipaxos::messages::Message;
use omnipaxos::messages::sequence_paxos::PaxosMsg;
use omnipaxos::storage::StopSign;
use omnipaxos::util::LogSync;

use super::message::PeerMessage;
use crate::state::chain::Chain;
use crate::state::entry::Entry;
use crate::state::snapshot::{Chunk, Cursor, FetchRequest, FetchResponse};

fn entries(entries: &[Entry]) -> usize {
    entries.iter().map(Entry::weight).sum()
}

fn log_sync(log_sync: &LogSync<Entry>) -> usize {
    entries(&log_sync.suffix) + log_sync.stopsign.as_ref().map_or(0, stop_sign)
}

fn stop_sign(stop_sign: &StopSign) -> usize {
    let metadata = stop_sign.metadata.as_ref().map_or(0, Vec::len);
    OVERHEAD + stop_sign.next_config.nodes.len() * size_of::<u64>() * 2 + metadata
}

fn paxos(message: &PaxosMsg<Entry>) -> usize {
    match message {
        PaxosMsg::AcceptDecide(accept) => entries(&accept.entries),
        PaxosMsg::AcceptSync(sync) => log_sync(&sync.log_sync),
        PaxosMsg::Promise(promise) => promise.log_sync.as_ref().map_or(0, log_sync),
        PaxosMsg::ProposalForward(all) => entries(all),
        PaxosMsg::AcceptStopSign(accept) => stop_sign(&accept.ss),
        PaxosMsg::ForwardStopSign(stop) => stop_sign(stop),
        PaxosMsg::PrepareReq(_)
        | PaxosMsg::Prepare(_)
        | PaxosMsg::Accepted(_)
        | PaxosMsg::NotAccepted(_)
        | PaxosMsg::Decide(_)
        | PaxosMsg::Compaction(_) => 0,
    }
}

impl PeerMessage {
    /// Returns the approximate number of bytes that the message takes in memory and on the wire.
    #[must_use]
    pub fn weight(&self) -> usize {
        OVERHEAD
            + match self {
                Self::Paxos { configuration: _, message: Message::SequencePaxos(message) } => {
                    paxos(&message.msg)
                }
                Self::Relay { call: _, request } => request.weight(),
                Self::UserRelay { call: _, user, request } => user.len() + request.weight(),
                Self::RelayAnswer { call: _, answer } => answer.weight(),
                Self::ReadIndexAnswer { call: _, index } => {
                    index.as_ref().map_or_else(Refusal::weight, |_| 0)
                }
                Self::Fetch { call: _, wanted } => wanted.weight(),
                Self::Fetched { call: _, found } => found.weight(),
                Self::StateDiffers { index: _, sound } => sound.len() * size_of::<u64>() * 2,
                Self::Paxos { message: Message::BLE(_), .. }
                | Self::Probe { .. }
                | Self::ProbeAnswer { .. }
                | Self::ReadIndex { .. }
                | Self::TransferLeadership { .. }
                | Self::DeferLeadership { .. }
                | Self::StateProgress { .. }
                | Self::Checksum { .. }
                | Self::ConfigurationOver { .. }
                | Self::RequestStop { .. }
                | Self::PermitStop
                | Self::ReadScale { .. }
                | Self::ScaleReport { .. }
                | Self::Epoch { .. }
                | Self::EpochKept { .. }
                | Self::AskDisk { .. }
                | Self::DiskWorks { .. } => 0,
            }
    }
}

impl FetchRequest {
    /// Returns the approximate number of bytes that the request holds.
    #[must_use]
    pub fn weight(&self) -> usize {
        OVERHEAD
            + match self {
                Self::Chunk { snapshot: _, after } => after.weight(),
                Self::Snapshot | Self::Entries { .. } | Self::Close { .. } => 0,
            }
    }
}

impl Cursor {
    fn weight(&self) -> usize {
        match self {
            Self::Key(key) => key.len(),
            Self::Start | Self::Accounts | Self::Lane(_) => 0,
        }
    }
}

impl FetchResponse {
    /// Returns the approximate number of bytes that the reply holds.
    #[must_use]
    pub fn weight(&self) -> usize {
        OVERHEAD
            + match self {
                Self::Chunk(chunk @ Chunk { items: _, next }) => {
                    chunk.weight() + next.as_ref().map_or(0, Cursor::weight)
                }
                Self::Entries { from: _, entries: all, decided: _ } => entries(all),
                Self::Snapshot { snapshot: _, header } => header.chain.weight(),
                Self::Gone | Self::Busy => 0,
            }
    }
}

impl Chain {
    fn weight(&self) -> usize {
        let member = |member: &Member| OVERHEAD + member.name.len();
        OVERHEAD + self.known().map(member).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::accounts::Accounts;
    use crate::state::entry::Command;
    use crate::state::machine::{Lane, Record};
    use crate::state::snapshot::{Digest, Header, Item, SnapshotId};
    use crate::state::version::Version;
    use bytes::Bytes;
    use kvorum_protocol::access::AccessChange;
    use kvorum_protocol::data::{ClientId, Condition, LaneId, Operation, Outcome, RequestId};
    use kvorum_protocol::frame;
    use kvorum_protocol::message::{Answer, Request};
    use kvorum_protocol::status::{Configuration, ConfigurationId, ReplicaId};
    use omnipaxos::ballot_leader_election::Ballot;
    use omnipaxos::messages::sequence_paxos::{AcceptDecide, AcceptSync, PaxosMessage, Promise};
    use omnipaxos::util::SequenceNumber;

    const LARGE: usize = 10_000;

    fn text() -> String {
        "t".repeat(LARGE)
    }

    fn lane() -> LaneId {
        LaneId { client: ClientId(u128::MAX), number: u32::MAX }
    }

    fn operation() -> (RequestId, Operation) {
        let condition = Condition::AtRevision(u64::MAX);
        let key = vec![7; LARGE].into();
        let operation = Operation::Put { key, value: vec![7; LARGE].into(), condition };
        (RequestId { lane: lane(), sequence: u64::MAX }, operation)
    }

    fn configuration() -> Configuration {
        let member = |id| Member { replica: ReplicaId(u64::MAX / 2 - id), name: text() };
        Configuration { id: ConfigurationId(u32::MAX), members: (0..7).map(member).collect() }
    }

    fn all_entries() -> Vec<Entry> {
        let (id, operation) = operation();
        vec![
            Entry::Noop,
            Entry::Command(Command { id, valid_until: u64::MAX, operation: operation.clone() }),
            Entry::UserCommand {
                user: text(),
                command: Command { id, valid_until: u64::MAX, operation },
            },
            Entry::StopSign(configuration()),
            Entry::Version(Version(2)),
            Entry::Checksum,
            Entry::Join { name: text(), nonce: u64::MAX },
        ]
    }

    fn accounts() -> Accounts {
        let changes = (0..100).map(|number| AccessChange::AddUser { user: format!("u{number}") });
        changes.fold(Accounts::default(), |accounts, change| {
            accounts.after(1, &change).expect("there is room")
        })
    }

    fn consensus() -> Vec<PeerMessage> {
        let n = Ballot::with(u32::MAX, u32::MAX, 0, u64::MAX);
        let seq_num = SequenceNumber { session: u64::MAX, counter: u64::MAX };
        let suffix = all_entries();
        let log_sync = || LogSync {
            decided_snapshot: None,
            suffix: suffix.clone(),
            sync_idx: 9,
            stopsign: None,
        };
        let promise = Promise {
            n,
            n_accepted: n,
            decided_idx: usize::MAX,
            accepted_idx: usize::MAX,
            log_sync: Some(log_sync()),
        };
        let entries = suffix.clone();
        let all = [
            PaxosMsg::AcceptDecide(AcceptDecide { n, seq_num, decided_idx: usize::MAX, entries }),
            PaxosMsg::AcceptSync(AcceptSync { n, seq_num, decided_idx: 9, log_sync: log_sync() }),
            PaxosMsg::Promise(promise),
            PaxosMsg::ProposalForward(suffix.clone()),
        ];
        let message = |msg| PeerMessage::Paxos {
            configuration: ConfigurationId(u32::MAX),
            message: Message::SequencePaxos(PaxosMessage { from: u64::MAX, to: u64::MAX, msg }),
        };
        all.into_iter().map(message).collect()
    }

    fn others() -> Vec<PeerMessage> {
        let call = u64::MAX;
        let (id, operation) = operation();
        let request = Request::Write { id, valid_until: u64::MAX, operation };
        let key = Bytes::from(vec![7; LARGE]);
        let snapshot = SnapshotId { nonce: u64::MAX, number: u64::MAX };
        let chain = Chain::new(configuration()).join(&text(), u64::MAX);
        let header = Header { applied: u64::MAX, items: u64::MAX, version: Version::NEWEST, chain };
        let outcome = Outcome::Deleted { revision: u64::MAX, existed: true };
        let items = vec![
            Item::Lane(lane(), Lane { sequence: u64::MAX, outcome, last_use: u64::MAX }),
            Item::Key(key.clone(), Record { revision: u64::MAX, value: key.clone() }),
        ];
        let items = items.into_iter().chain([Item::Accounts(accounts())]).collect();
        let chunk = Chunk { items, next: Some(Cursor::Key(key.clone())) };
        let found = |found| PeerMessage::Fetched { call, found };
        let refusal = Refusal::UnknownReplica { name: text(), members: text() };
        let sound = vec![ReplicaId(u64::MAX); 7];
        vec![
            PeerMessage::Relay { call, request: request.clone() },
            PeerMessage::UserRelay { call, user: text(), request },
            PeerMessage::RelayAnswer { call, answer: Answer::Refused(refusal.clone()) },
            PeerMessage::ReadIndexAnswer { call, index: Err(refusal) },
            PeerMessage::ReadIndexAnswer { call, index: Ok(u64::MAX) },
            PeerMessage::Fetch {
                call,
                wanted: FetchRequest::Chunk { snapshot, after: Cursor::Key(key) },
            },
            found(FetchResponse::Snapshot { snapshot, header }),
            found(FetchResponse::Chunk(chunk)),
            found(FetchResponse::Entries { from: call, entries: all_entries(), decided: call }),
            found(FetchResponse::Gone),
            PeerMessage::Checksum { index: call, digest: Digest::default() },
            PeerMessage::StateDiffers { index: call, sound },
            PeerMessage::ConfigurationOver {
                configuration: ConfigurationId(u32::MAX),
                index: call,
                is_dismissed: true,
            },
        ]
    }

    #[test]
    fn every_message_weighs_what_it_holds() {
        for message in consensus().into_iter().chain(others()) {
            let bytes = frame::encode(&message, 1 << 20).expect("it fits").len();
            let weight = message.weight();
            assert!(weight >= bytes, "weighs {weight}, has {bytes} bytes: {message:?}");
            assert!(weight <= bytes + 24 * OVERHEAD, "weighs {weight}, has {bytes}: {message:?}");
        }
    }
}
