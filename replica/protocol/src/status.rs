//! Pure: a replica's report of its own state.
//!
//! Guarantees nothing about other replicas: a status is one replica's own view, and a replica that
//! is cut off reports what it last knew.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A replica's id, for ever. It is never given to another replica and is kept on the replica's
/// volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ReplicaId(pub u64);

/// A cluster's id: 128 random bits, drawn when the cluster was created.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u128);

/// A configuration's number: 1 is the first one. Never reused.
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

/// A leader's ballot. Higher ballots win; of two with the same number, the one of the higher
/// replica id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Ballot {
    /// The number; 0 means that no ballot was promised yet.
    pub number: u32,
    /// The replica that leads in this ballot.
    pub replica: ReplicaId,
}

/// One member of a configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// The member's id.
    pub replica: ReplicaId,
    /// The member's name, such as `kvorum-0`.
    pub name: String,
}

/// A set of members agreed by consensus. Slot `n` of it is `members[n - 1]`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Configuration {
    /// The configuration's number in the chain.
    pub id: ConfigurationId,
    /// The members, in the order of their slots.
    pub members: Vec<Member>,
}

impl Configuration {
    /// Returns the number of members that make a majority.
    #[must_use]
    pub fn quorum(&self) -> usize {
        self.members.len() / 2 + 1
    }

    /// Returns the name of a member; `None` when the replica is not one.
    #[must_use]
    pub fn name_of(&self, replica: ReplicaId) -> Option<&str> {
        self.members.iter().find(|member| member.replica == replica).map(|m| m.name.as_str())
    }
}

/// A replica's role in its configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Role {
    /// It leads and accepts proposals.
    Leader,
    /// It was elected and is asking for promises.
    Candidate,
    /// It follows a leader and is synchronized with it.
    Follower,
    /// It waits for the leader to synchronize it, or knows no leader.
    Recovering,
    /// It has not met every member yet and does not vote.
    Gathering,
    /// It must not vote: its disk is not the one that its peers remember, and `Status::trouble`
    /// gives the reason.
    Outside,
    /// It copies the state, and then becomes a member.
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

/// The progress of a replica that is so far behind that it copies what it lacks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CatchingUp {
    /// The name of the replica that it copies from.
    pub from: String,
    /// The index to reach; the leader's, once the leader reported it.
    pub target: u64,
    /// Lanes and keys copied; 0 while it copies entries.
    pub items: u64,
    /// The approximate number of lanes and keys to copy; 0 while it copies entries.
    pub items_expected: u64,
    /// The approximate number of bytes copied.
    pub bytes: u64,
}

/// A replica that is to become a member, as the leader sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct JoinerStatus {
    /// The joiner's name.
    pub name: String,
    /// The index up to which it has the state, as it last reported; 0 before its first report.
    pub index: u64,
    /// Whether there is a link to it.
    pub is_linked: bool,
}

/// The progress of the members towards the desired replica count.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Membership {
    /// The desired replica count, as reported to this replica; `None` when it is not known.
    pub wanted: Option<u32>,
    /// The replicas that are to become members.
    pub joiners: Vec<JoinerStatus>,
    /// The names of members whose ordinals are no longer wanted.
    pub leaving: Vec<String>,
    /// The reason why the leader does not change the members, although they are not the wanted
    /// ones.
    pub waits: Option<String>,
    /// Whether the cluster can do without this replica, so that it may end: it is retired, and an
    /// entry was decided since; it joins, and is not wanted; or it is to be restarted, and the
    /// other members are a majority.
    pub may_go: bool,
}

/// A replica's report of its own state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The replica's name, such as `kvorum-0`.
    pub name: String,
    /// The replica's id.
    pub replica: ReplicaId,
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// The number of times it was started on its volume, from 1.
    pub incarnation: u64,
    /// The configuration that it is in.
    pub configuration: Configuration,
    /// Its role in the configuration.
    pub role: Role,
    /// The name of the leader that it follows (its own when it leads).
    pub leader: Option<String>,
    /// The highest ballot that it promised.
    pub ballot: Ballot,
    /// Number of entries that this replica has accepted in its log.
    pub accepted: u64,
    /// Number of entries known to be chosen by a quorum.
    pub decided: u64,
    /// Number of entries applied to the keys.
    pub applied: u64,
    /// Number of entries that it can no longer return: they are no longer in its log, or came with
    /// a state that it copied.
    pub compacted: u64,
    /// Its progress, while it copies what it lacks.
    pub catching_up: Option<CatchingUp>,
    /// The progress of the members towards the desired replica count.
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
    /// The problem that keeps it from serving, with the remedy; `None` when all is well.
    pub trouble: Option<String>,
    /// Microseconds since its process started, by a clock that never jumps.
    pub monotonic_us: u64,
    /// Microseconds since 1970 by the machine's clock, which may jump.
    pub wall_us: u64,
}

/// The serialization of a shared status; on the wire it is the same as one with a single owner.
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
    /// Returns a value that orders leaders: each configuration counts its ballots anew.
    #[must_use]
    pub fn reign(&self) -> Reign {
        (self.configuration.id, self.ballot)
    }

    /// Whether another one differs in nothing but the time.
    #[must_use]
    pub fn is_as(&self, other: &Self) -> bool {
        let (monotonic_us, wall_us) = (self.monotonic_us, self.wall_us);
        *self == Self { monotonic_us, wall_us, ..other.clone() }
    }
}

/// A configuration and a ballot in it: higher ones are later.
pub type Reign = (ConfigurationId, Ballot);
