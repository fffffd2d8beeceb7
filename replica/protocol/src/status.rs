//! Pure: what a replica says about itself.
//!
//! Guarantees nothing about other replicas: a status is one replica's own view, and a replica that
//! is cut off says what it last knew.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A replica, for ever. It is never given to another one and lives on the replica's volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ReplicaId(pub u64);

/// A cluster: 128 random bits, drawn when it was made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u128);

/// A configuration: 1 is the first one. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ConfigurationId(pub u32);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for ClusterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match u128::from_str_radix(text, 16) {
            Ok(id) if text.len() == 32 => Ok(Self(id)),
            _ => Err(format!("a cluster id is 32 hexadecimal digits, and '{text}' is not")),
        }
    }
}

/// A leader's round. Higher ballots win; of two with the same number the higher replica.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Ballot {
    /// The number; 0 means that no leader was ever promised.
    pub number: u32,
    /// The replica that leads in this ballot.
    pub replica: ReplicaId,
}

/// One member of a configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Who it is.
    pub replica: ReplicaId,
    /// Its name, such as `kvorum-0`.
    pub name: String,
}

/// A set of members agreed by consensus. Slot `n` of it is `members[n - 1]`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Configuration {
    /// Its number in the chain.
    pub id: ConfigurationId,
    /// Its members, in the order of their slots.
    pub members: Vec<Member>,
}

impl Configuration {
    /// How many members make a majority.
    #[must_use]
    pub fn quorum(&self) -> usize {
        self.members.len() / 2 + 1
    }

    /// The name of a member, when it is one.
    #[must_use]
    pub fn name_of(&self, replica: ReplicaId) -> Option<&str> {
        self.members.iter().find(|member| member.replica == replica).map(|m| m.name.as_str())
    }
}

/// What a replica does in its configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Role {
    /// It leads and takes proposals.
    Leader,
    /// It was elected and is asking for promises.
    Candidate,
    /// It follows a leader and is in step with it.
    Follower,
    /// It is waiting for the leader to bring it into step, or knows none.
    Recovering,
    /// It has not met every member yet and does not vote.
    Gathering,
    /// It must not vote: its disk is not the one that its peers remember, and `Status::trouble`
    /// says so.
    Outside,
    /// It copies the state, and becomes a member then.
    Joining,
    /// It was a member, and its id never votes again.
    Retired,
}

/// One link to a peer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LinkStatus {
    /// The peer's name.
    pub peer: String,
    /// Whether a session with it exists.
    pub is_up: bool,
    /// Whether it was cut on purpose.
    pub is_cut: bool,
    /// Sessions since this process started.
    pub sessions: u64,
}

/// How far a replica is that is so far behind that it copies what it lacks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CatchingUp {
    /// The replica that it copies from, by name.
    pub from: String,
    /// The index that it has to reach; the leader's when it said so.
    pub target: u64,
    /// Lanes and keys copied; 0 while it copies entries.
    pub items: u64,
    /// About how many there are; 0 while it copies entries.
    pub items_expected: u64,
    /// About how many bytes were copied.
    pub bytes: u64,
}

/// A replica that is to become a member, as the leader sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct JoinerStatus {
    /// Its name.
    pub name: String,
    /// Up to which index it has the state, as it said last; 0 before it said anything.
    pub index: u64,
    /// Whether there is a link to it.
    pub is_linked: bool,
}

/// How the members follow the number of replicas that is wanted.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Membership {
    /// How many replicas are wanted, as this replica was told; `None` when nobody says.
    pub wanted: Option<u32>,
    /// Those who are to become members.
    pub joiners: Vec<JoinerStatus>,
    /// Members whose ordinals are not wanted any more, by name.
    pub leaving: Vec<String>,
    /// Why the leader does not change the members, although they are not those that are wanted.
    pub waits: Option<String>,
    /// The cluster does without this replica, which may end: it is retired, and something was
    /// decided since; it joins, and is not wanted; or it is to be started again, and the others are
    /// a majority.
    pub may_go: bool,
}

/// What a replica says about itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Its name, such as `kvorum-0`.
    pub name: String,
    /// Who it is.
    pub replica: ReplicaId,
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// How often it was started on its volume, from 1.
    pub incarnation: u64,
    /// The configuration that it is in.
    pub configuration: Configuration,
    /// What it does in it.
    pub role: Role,
    /// The leader that it follows (itself when it leads), by name.
    pub leader: Option<String>,
    /// The highest ballot that it promised.
    pub ballot: Ballot,
    /// Entries written by this replica.
    pub accepted: u64,
    /// Entries known to be chosen by a quorum.
    pub decided: u64,
    /// Entries applied to the keys.
    pub applied: u64,
    /// Entries that it cannot tell any more: they are no longer in its log, or came with a state
    /// that it copied.
    pub compacted: u64,
    /// How far it is, when it copies what it lacks.
    pub catching_up: Option<CatchingUp>,
    /// How the members follow what is wanted.
    pub membership: Membership,
    /// Whether it is a voter, knows a leader and lags by no more than the bound.
    pub is_ready: bool,
    /// The cluster's version.
    pub version: u8,
    /// The last index as of which the states of all members were found to be the same, as the
    /// leader knows; 0 at the others, and before the first comparison.
    pub same_at: u64,
    /// Whether an administrator may cut links and crash it.
    pub allows_faults: bool,
    /// Its links to the other members.
    pub links: Vec<LinkStatus>,
    /// What keeps it from serving, with the cure; `None` when all is well.
    pub trouble: Option<String>,
    /// Microseconds since its process started, by a clock that never jumps.
    pub monotonic_us: u64,
    /// Microseconds since 1970 by the machine's clock, which may jump.
    pub wall_us: u64,
}

/// A status that several hold, on the wire like one that has a single owner.
pub(crate) mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Status;

    pub fn serialize<S: Serializer>(status: &Arc<Status>, to: S) -> Result<S::Ok, S::Error> {
        status.as_ref().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<Status>, D::Error> {
        Status::deserialize(from).map(Arc::new)
    }
}

impl Status {
    /// Orders leaders: each configuration counts its ballots anew.
    #[must_use]
    pub fn reign(&self) -> Reign {
        (self.configuration.id, self.ballot)
    }
}

/// A configuration and a ballot in it: higher ones are later.
pub type Reign = (ConfigurationId, Ballot);
