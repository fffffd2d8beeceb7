//! Pure: the entries of the log.
//!
//! Guarantees that an entry reads the same in every version that knows its kind: variants are only
//! ever appended. Does not know how entries are stored or sent.

use kvorum_protocol::data::{Operation, RequestId};
use kvorum_protocol::message::EntryKind;
use kvorum_protocol::status::Configuration;
use omnipaxos::storage::Snapshot;
use serde::{Deserialize, Serialize};

use crate::limits::ENTRY_BYTES;
use crate::state::version::Version;

/// One position of the replicated log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Entry {
    /// No change. A new leader proposes it, so that the entries it found in the log get decided.
    Noop,
    /// A client's write.
    Command(Command),
    /// The end of a configuration: the first one that is decided seals it, and the next
    /// configuration begins at the following index.
    StopSign(Configuration),
    /// The cluster's version from here on.
    Version(Version),
    /// A point at which each replica computes a checksum of its state.
    Checksum,
    /// A request to make a replica without an id a member: it gets an id, and copies the state.
    Join {
        /// The joiner's name.
        name: String,
        /// Drawn by the joiner, so that it gets the same id when it asks again.
        nonce: u64,
    },
    /// The write of a user whose rights are judged once more where it is applied.
    UserCommand {
        /// The user.
        user: String,
        /// The write.
        command: Command,
    },
    /// Never in a log and never sent: a placeholder, in a message that the library has just made,
    /// for entries that are too many for the message, or compacted, up to the end of the log at
    /// that time. The engine replaces it. (The last variant, because it has no serialized number.)
    #[serde(skip)]
    Placeholder {
        /// The accepted index when the message was made.
        end: usize,
    },
}

/// A client's write, as it is replicated.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Command {
    /// The permanent id of the request.
    pub id: RequestId,
    /// The last index at which it may take effect.
    pub valid_until: u64,
    /// The change to the data.
    pub operation: Operation,
}

impl Entry {
    /// Returns the entry of a client's write; of a user whose rights are to be judged, if one is
    /// given.
    #[must_use]
    pub fn of(user: Option<String>, command: Command) -> Self {
        match user {
            Some(user) => Self::UserCommand { user, command },
            None => Self::Command(command),
        }
    }

    /// Returns the client's write that it carries, if it carries one.
    #[must_use]
    pub fn command(&self) -> Option<&Command> {
        match self {
            Self::Command(command) | Self::UserCommand { command, .. } => Some(command),
            Self::Noop
            | Self::StopSign(_)
            | Self::Version(_)
            | Self::Checksum
            | Self::Join { .. }
            | Self::Placeholder { .. } => None,
        }
    }

    /// Returns the kind of this entry, for logs and status output.
    #[must_use]
    pub fn kind(&self) -> EntryKind {
        match self {
            Self::Noop | Self::Placeholder { .. } => EntryKind::Noop,
            Self::Command(command) | Self::UserCommand { command, .. } => match command.operation {
                Operation::Put { .. } => EntryKind::Put,
                Operation::Delete { .. } => EntryKind::Delete,
                Operation::Access(_) => EntryKind::Access,
            },
            Self::StopSign(_) => EntryKind::StopSign,
            Self::Version(_) => EntryKind::Version,
            Self::Checksum => EntryKind::Checksum,
            Self::Join { .. } => EntryKind::Join,
        }
    }

    /// Returns the first version whose programs know this kind of entry.
    #[must_use]
    pub fn version(&self) -> Version {
        match self {
            Self::Command(Command { operation: Operation::Access(_), .. })
            | Self::UserCommand { .. } => Version::ACCOUNTS,
            Self::Noop | Self::Command(_) | Self::StopSign(_) | Self::Placeholder { .. } => {
                Version::FIRST
            }
            Self::Version(_) | Self::Checksum => Version::CHECKSUMS,
            Self::Join { .. } => Version::JOINERS,
        }
    }

    /// Returns the approximate number of bytes it takes in memory and on the wire.
    #[must_use]
    pub fn weight(&self) -> usize {
        ENTRY_BYTES
            + match self {
                Self::Noop | Self::Placeholder { .. } | Self::Version(_) | Self::Checksum => 0,
                Self::Command(command) => command.operation.bytes(),
                Self::UserCommand { user, command } => user.len() + command.operation.bytes(),
                Self::StopSign(next) => {
                    next.members.iter().map(|member| ENTRY_BYTES + member.name.len()).sum()
                }
                Self::Join { name, .. } => name.len(),
            }
    }
}

impl omnipaxos::storage::Entry for Entry {
    type Snapshot = NoSnapshot;
}

/// A placeholder for the snapshot type that the library requires. The library's snapshots lose
/// data, so none is ever made: state is transferred separately from the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NoSnapshot;

impl Snapshot<Entry> for NoSnapshot {
    fn create(_: &[Entry]) -> Self {
        Self
    }

    fn merge(&mut self, _: Self) {}

    fn use_snapshots() -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_protocol::data::{ClientId, Condition, LaneId};
    use kvorum_protocol::status::{ConfigurationId, Member, ReplicaId};

    /// The bytes on disk and between replicas must stay readable for every later version. A change
    /// of `omnipaxos` that moves a field shows here too.
    #[test]
    fn the_bytes_of_entries_stay() {
        let lane = LaneId { client: ClientId(1), number: 2 };
        let id = RequestId { lane, sequence: 3 };
        let operation = Operation::Delete { key: "k".into(), condition: Condition::Absent };
        let command = Entry::Command(Command { id, valid_until: 4, operation });
        let member = Member { replica: ReplicaId(5), name: "n".into() };
        let next = Configuration { id: ConfigurationId(2), members: vec![member] };
        let message = omnipaxos::messages::sequence_paxos::AcceptDecide {
            n: omnipaxos::ballot_leader_election::Ballot::with(1, 2, 0, 3),
            seq_num: omnipaxos::util::SequenceNumber { session: 1, counter: 2 },
            decided_idx: 9,
            entries: vec![Entry::Noop],
        };
        let message = omnipaxos::messages::sequence_paxos::PaxosMsg::AcceptDecide(message);
        let hex = |bytes: Vec<u8>| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let bytes = |entry: &Entry| hex(postcard::to_stdvec(entry).expect("entries serialize"));
        assert_eq!(bytes(&Entry::Noop), "00");
        assert_eq!(bytes(&command), "010102030401016b01");
        assert_eq!(bytes(&Entry::StopSign(next)), "02020105016e");
        assert_eq!(bytes(&Entry::Version(Version(2))), "0302");
        assert_eq!(bytes(&Entry::Checksum), "04");
        assert_eq!(bytes(&Entry::Join { name: "n".to_owned(), nonce: 6 }), "05016e06");
        let message = hex(postcard::to_stdvec(&message).expect("messages serialize"));
        assert_eq!(message, "04010200030102090100");
    }
}
