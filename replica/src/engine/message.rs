//! Pure: the engine's inputs and outputs, and the messages between replicas.
//!
//! Guarantees that these enums are the engine's whole traffic while it runs: nothing else changes
//! it, and nothing else that it wants done leaves it, except for its calls to
//! [`Store`](super::store::Store). Its other methods only read it, but for the last call of all,
//! [`end_epoch`](super::Engine::end_epoch).

use kvorum_protocol::message::{Answer, Page, Refusal, Request, Scan, ServerFrame};
use kvorum_protocol::status::{ConfigurationId, Member, ReplicaId, Status};
use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::messages::Message;
use serde::{Deserialize, Serialize};

use super::handshake::Introduction;
use super::notice::Notice;
use super::peers::Known;
use crate::engine::consensus::solo::Written;
use crate::marker::{Mark, Refused};
use crate::planner::Scale;
use crate::state::entry::Entry;
use crate::state::rights::User;
use crate::state::snapshot::{Digest, FetchRequest, FetchResponse};
use crate::state::start::Epoch;

/// The key of one client connection of this process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClientKey(pub u64);

/// The number of a session of the link to a peer. A higher one replaces every lower one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Session(pub u64);

/// The origin of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A client of this replica.
    Client {
        /// The client's connection.
        client: ClientKey,
        /// The client's number for the call.
        call: u64,
    },
    /// A follower, for one of its own clients.
    Peer {
        /// The follower.
        peer: ReplicaId,
        /// The session that the request came by.
        session: Session,
        /// The follower's number for the call.
        call: u64,
    },
}

/// The requester of a read beside the engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asker {
    /// A client or a peer.
    Other(Origin),
    /// This replica, for a checksum.
    Own {
        /// This replica's number for the read.
        call: u64,
    },
}

/// A request to read the desired replica count from the orchestrator once more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScaleRead {
    /// The replica that requests it.
    pub asker: ReplicaId,
    /// That replica's number for the request.
    pub number: u64,
}

/// The messages between replicas once a session is up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum PeerMessage {
    /// A message of the consensus library.
    Paxos {
        /// The configuration whose log it is about.
        configuration: ConfigurationId,
        /// The library's message.
        message: Message<Entry>,
    },
    /// A leader asks whether the peer still promises its ballot.
    Probe {
        /// The configuration that the leader leads.
        configuration: ConfigurationId,
        /// The leader's ballot.
        ballot: Ballot,
        /// The round of the probe; an answer counts for its own round only.
        round: u64,
    },
    /// The peer still promises the ballot, judged after the probe arrived.
    ProbeAnswer {
        /// The configuration in the probe.
        configuration: ConfigurationId,
        /// The ballot in the probe.
        ballot: Ballot,
        /// The round in the probe.
        round: u64,
    },
    /// A follower passes a client's write on to the leader.
    Relay {
        /// The call number, chosen by the follower; unique for its process.
        call: u64,
        /// The write.
        request: Request,
    },
    /// The leader answers a relayed write.
    RelayAnswer {
        /// The call number in the request.
        call: u64,
        /// The answer for the client.
        answer: Answer,
    },
    /// A follower asks for an index at which a read is linearizable.
    ReadIndex {
        /// The call number, chosen by the follower.
        call: u64,
    },
    /// The leader answers with that index.
    ReadIndexAnswer {
        /// The call number in the request.
        call: u64,
        /// The index, or the reason why there is none.
        index: Result<u64, Refusal>,
    },
    /// The leader, which has stopped proposing, asks the peer to lead.
    TransferLeadership {
        /// The configuration that the leader leads.
        configuration: ConfigurationId,
        /// The leader's ballot; void if the peer promises another by then.
        ballot: Ballot,
    },
    /// The candidate lacks entries that the peer's log does not hold any more: the peer should
    /// lead.
    DeferLeadership {
        /// The candidate's configuration.
        configuration: ConfigurationId,
        /// The candidate's ballot; void if the peer promises another by then.
        ballot: Ballot,
    },
    /// A replica that is behind asks for state or entries.
    Fetch {
        /// The call number, chosen by the asking replica.
        call: u64,
        /// The state or entries that it asks for.
        wanted: FetchRequest,
    },
    /// The answer to a fetch.
    Fetched {
        /// The call number in the request.
        call: u64,
        /// The result.
        found: FetchResponse,
    },
    /// The sender has the state up to this index, whatever its log holds.
    StateProgress {
        /// The index up to which it has the state.
        index: u64,
    },
    /// A replica reports the checksum of its state to the leader.
    Checksum {
        /// The index at which the checksum was taken.
        index: u64,
        /// The checksum of the state.
        digest: Digest,
    },
    /// The sender has left every earlier configuration behind; sent to peers that are in one, and
    /// from time to time to peers that are not members.
    ConfigurationOver {
        /// The configuration that the sender is in.
        configuration: ConfigurationId,
        /// The index up to which the sender has the state.
        index: u64,
        /// The receiver is not a member, and no change is under way or planned that makes it one.
        is_dismissed: bool,
    },
    /// A replica that was asked to stop, and will be restarted, asks the leader for leave.
    RequestStop {
        /// Whether an earlier leader gave leave already.
        has_leave: bool,
    },
    /// The leader gives leave to stop.
    PermitStop,
    /// The leader cannot see the desired replica count: the peer should read it.
    ReadScale {
        /// The leader's number for the request.
        number: u64,
    },
    /// The peer reports the desired replica count.
    ScaleReport {
        /// The desired scale.
        wanted: Scale,
        /// The request that this answers; `None` when the leader did not ask, and the report may be
        /// old.
        number: Option<u64>,
    },
    /// The leader notifies a replica that its state differs from that of a strict majority.
    StateDiffers {
        /// The index at which it differs.
        index: u64,
        /// The replicas that had the majority's state.
        sound: Vec<ReplicaId>,
    },
    /// The sender reports how far its disk has got.
    Epoch {
        /// The epoch of the sender's disk.
        epoch: Epoch,
    },
    /// The sender has durably recorded how far the receiver's disk has got.
    EpochKept {
        /// The epoch of the receiver's disk.
        epoch: Epoch,
    },
    /// The sender has waited long for a sync: the peer should sync something, and then answer.
    AskDisk {
        /// The number of the request.
        number: u64,
    },
    /// The sender has synced something since it was asked.
    DiskWorks {
        /// The number in the request.
        number: u64,
    },
    /// A follower passes a write of a user on to the leader, whose rights are judged where it is
    /// applied.
    UserRelay {
        /// The call number, chosen by the follower; unique for its process.
        call: u64,
        /// The user.
        user: String,
        /// The write.
        request: Request,
    },
}

impl PeerMessage {
    /// Whether the message goes before everything else that waits for the link. This holds only for
    /// messages that carry no durable fact, and whose order does not matter.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        matches!(
            self,
            Self::Paxos { message: Message::BLE(_), .. }
                | Self::Probe { .. }
                | Self::ProbeAnswer { .. }
        )
    }
}

/// The condition under which a message leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum After {
    /// It leaves at once: it states no durable fact, and may overtake others.
    Nothing,
    /// It leaves after the earlier messages to the peer that wait, but needs no sync of its own.
    Earlier,
    /// It leaves after those, and after a sync that began later than this output: the fact that it
    /// states must be durable.
    Sync,
}

/// The result of a report to the cluster's marker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The marker records what was reported.
    Done,
    /// The marker must not record that: the sentence says why.
    Refused(String),
    /// The marker is another cluster's, and says nothing about this one: the sentence names both.
    Foreign(String),
    /// This replica's configuration is over: the marker knows this later one, which has a leader.
    Over(ConfigurationId),
    /// The marker was gone, or was put back to an earlier state.
    Lost,
    /// The result is unknown: the marker is out of reach.
    Unreachable(String),
}

impl From<Refused> for Verdict {
    fn from(why: Refused) -> Self {
        match why {
            Refused::OtherCluster { .. } => Self::Foreign(why.to_string()),
            Refused::Newer { .. } | Refused::Forked { .. } => Self::Refused(why.to_string()),
        }
    }
}

/// A time, by both of a process's clocks.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Time {
    /// Microseconds since the process began.
    pub monotonic_us: u64,
    /// Microseconds since 1970, by the machine's clock, which may jump.
    pub wall_us: u64,
}

/// The events that a replica handles.
#[derive(Debug)]
pub enum Input {
    /// The time at which the inputs until the next one are handled. Nothing is decided by it: it is
    /// only reported.
    Now(Time),
    /// One unit of logical time has passed.
    Tick,
    /// A session of the link to a peer began.
    PeerUp {
        /// The peer.
        peer: ReplicaId,
        /// The session; frames of earlier ones are dropped from now on.
        session: Session,
    },
    /// A session of the link to a peer ended.
    PeerDown {
        /// The peer.
        peer: ReplicaId,
        /// The session.
        session: Session,
    },
    /// This replica and the peer with this introduction have accepted each other.
    Met(Introduction),
    /// A peer sent a message.
    Peer {
        /// The peer.
        peer: ReplicaId,
        /// The session that the message came by.
        session: Session,
        /// The message.
        message: PeerMessage,
    },
    /// A client sent a request.
    Client {
        /// The connection.
        client: ClientKey,
        /// The client's number for the call.
        call: u64,
        /// The user that the client is.
        user: User,
        /// The request.
        request: Request,
    },
    /// A client ended a subscription.
    Cancel {
        /// The connection.
        client: ClientKey,
        /// The call that opened it.
        call: u64,
    },
    /// A client's connection ended.
    ClientGone {
        /// The connection.
        client: ClientKey,
    },
    /// The result of a read beside the engine.
    Read {
        /// The requester of the read.
        asker: Asker,
        /// The result.
        found: FetchResponse,
    },
    /// The page of keys that a scan requested.
    Scanned {
        /// The origin of the request.
        origin: Origin,
        /// The page, as of an index at which it may be served or a later one.
        page: Page,
    },
    /// A peer refuses this replica because it remembers it with another disk.
    Disowned {
        /// The peer.
        peer: ReplicaId,
        /// Whether the peer proved the identity that this replica remembers.
        is_proven: bool,
    },
    /// The orchestrator reported the desired replica count.
    Scale {
        /// The desired scale; `None` when it is unknown.
        wanted: Option<Scale>,
        /// The request that this answers: the count was read again after it was made.
        read: Option<ScaleRead>,
    },
    /// The process ends, with this replica's leadership if it has it: another one should lead.
    HandOver,
    /// The process was asked to stop, and will be restarted.
    WantsStop,
    /// A joiner, or a replica that was left behind, received the members from others.
    Learned {
        /// The members.
        members: Vec<Member>,
        /// The number of their configuration, if it was reported.
        configuration: Option<ConfigurationId>,
    },
    /// A sync returned that began after this was written.
    Synced(Written),
    /// Whether the disk's backlog of work is so large that it slows writes.
    Debt {
        /// Whether it slows writes.
        slows_writes: bool,
    },
    /// Whether the sync under way takes long.
    SyncIsSlow(bool),
    /// The report to the cluster's marker of how far this disk has got has a result.
    Marked {
        /// The report.
        mark: Mark,
        /// The result.
        verdict: Verdict,
    },
    /// A configuration change to these members was requested.
    Configure {
        /// The members of the next configuration.
        members: Vec<Member>,
    },
    /// The free space on the disk.
    Disk {
        /// Bytes free.
        free: u64,
        /// Bytes kept in reserve.
        reserve: u64,
    },
}

/// The actions that a replica requests in response.
#[derive(Debug)]
pub enum Output {
    /// Sync, and report completion by [`Input::Synced`].
    Sync(Written),
    /// Read the desired replica count, and report it by [`Input::Scale`].
    ReadScale(ScaleRead),
    /// Report to the cluster's marker how far this disk has got, and return the result by
    /// [`Input::Marked`].
    Mark(Mark),
    /// Publish these known replicas, to which links may be needed.
    Known(Vec<Known>),
    /// Send a message to a peer.
    Send {
        /// The receiver.
        to: ReplicaId,
        /// The message.
        message: PeerMessage,
        /// The condition under which it leaves.
        after: After,
    },
    /// Read something on a thread of its own, and return the result by [`Input::Read`].
    Read {
        /// The requester of the read.
        asker: Asker,
        /// The item to read.
        wanted: FetchRequest,
        /// The number that names the snapshot, if one is opened.
        number: u64,
    },
    /// Read a page of keys on a thread of its own, and return it by [`Input::Scanned`].
    Scan {
        /// The origin of the request.
        origin: Origin,
        /// The page to read.
        scan: Scan,
    },
    /// Send a frame to a client.
    Frame {
        /// The connection.
        client: ClientKey,
        /// The frame.
        frame: ServerFrame,
    },
    /// Send a status to clients.
    Status {
        /// The connections, and the calls that opened the subscriptions.
        to: Vec<(ClientKey, u64)>,
        /// The status.
        status: Box<Status>,
    },
    /// Notify every client: the leader that this replica knows has changed.
    LeaderChanged(Option<String>),
    /// End the connection of a client: a right was taken away by which it has a subscription. It
    /// may come again.
    EndClient {
        /// The connection.
        client: ClientKey,
    },
    /// End the session with a peer.
    EndSession {
        /// The peer.
        peer: ReplicaId,
    },
    /// End the process at once.
    Crash,
    /// Report an event to the operator.
    Notice(Notice),
}
