//! Pure: what goes into the engine and what comes out.
//!
//! Guarantees that these enums are the engine's whole traffic: it calls nobody and nobody calls it
//! otherwise, but for [`Store`](crate::storage::Store).

use kvorum_protocol::message::{Answer, Page, Refusal, Request, Scan, ServerFrame};
use kvorum_protocol::status::{ConfigurationId, Member, ReplicaId, Status};
use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::messages::Message;
use serde::{Deserialize, Serialize};

use super::notice::Notice;
use super::peers::Known;
use super::solo::Written;
use crate::entry::Entry;
use crate::marker::{Mark, Refused};
use crate::planner::Scale;
use crate::snapshot::{Digest, Found, Wanted};
use crate::start::Epoch;

/// One client connection of this process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClientKey(pub u64);

/// One session of the link to a peer. A higher one replaces every lower one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Session(pub u64);

/// Who asked for something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A client of this replica.
    Client {
        /// The connection.
        client: ClientKey,
        /// Its number for the call.
        call: u64,
    },
    /// A follower, for a client of its own.
    Peer {
        /// The follower.
        peer: ReplicaId,
        /// The session that the question came by.
        session: Session,
        /// Its number for the call.
        call: u64,
    },
}

/// Who wants something read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asker {
    /// A client or a peer.
    Other(Origin),
    /// This replica, for a checksum.
    Own {
        /// Its number for the question.
        call: u64,
    },
}

/// A look at how many replicas are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// Who wants to know.
    pub asker: ReplicaId,
    /// Its number for the look.
    pub number: u64,
}

/// What replicas say to each other once a session is up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum PeerMessage {
    /// A message of the consensus library.
    Paxos {
        /// The configuration whose log it is about.
        configuration: ConfigurationId,
        /// The message.
        message: Message<Entry>,
    },
    /// A leader asks whether the peer still promises its ballot.
    Probe {
        /// The configuration.
        configuration: ConfigurationId,
        /// The leader's ballot.
        ballot: Ballot,
        /// The round of the question; an answer counts for its own round only.
        round: u64,
    },
    /// The peer still promises the ballot, judged after the probe arrived.
    ProbeAnswer {
        /// As asked.
        configuration: ConfigurationId,
        /// As asked.
        ballot: Ballot,
        /// As asked.
        round: u64,
    },
    /// A follower passes a client's write on to the leader.
    Relay {
        /// Chosen by the follower; unique for its process.
        call: u64,
        /// The write.
        request: Request,
    },
    /// The leader answers a relayed write.
    RelayAnswer {
        /// As asked.
        call: u64,
        /// The answer.
        answer: Answer,
    },
    /// A follower asks for an index at which a read is linearizable.
    ReadIndex {
        /// Chosen by the follower.
        call: u64,
    },
    /// The leader answers.
    ReadIndexAnswer {
        /// As asked.
        call: u64,
        /// The index, or why there is none.
        index: Result<u64, Refusal>,
    },
    /// The leader, which has stopped proposing, asks the peer to lead.
    Lead {
        /// The configuration.
        configuration: ConfigurationId,
        /// The leader's ballot; void if the peer promises another by then.
        ballot: Ballot,
    },
    /// The candidate lacks what the peer's log does not hold any more: the peer should lead.
    Yield {
        /// The configuration.
        configuration: ConfigurationId,
        /// The candidate's ballot; void if the peer promises another by then.
        ballot: Ballot,
    },
    /// A replica that is behind asks for state or entries.
    Fetch {
        /// Chosen by the asking replica.
        call: u64,
        /// What it wants.
        wanted: Wanted,
    },
    /// The answer.
    Found {
        /// As asked.
        call: u64,
        /// What there is.
        found: Found,
    },
    /// The sender has the state up to this index, whatever its log holds.
    HasState {
        /// The index.
        index: u64,
    },
    /// A replica tells the leader the checksum of its state.
    Checksum {
        /// As of this index.
        index: u64,
        /// The checksum.
        digest: Digest,
    },
    /// The sender has left every earlier configuration behind; told to those who are in one, and
    /// from time to time to those who are no members.
    Over {
        /// The one that it is in.
        configuration: ConfigurationId,
        /// Up to where it has the state.
        index: u64,
        /// The receiver is no member, and no change is under way or planned that makes it one.
        is_dismissed: bool,
    },
    /// A replica that was told to end, and will be started again, asks the leader for leave.
    AskToStop {
        /// An earlier leader gave it already.
        has_leave: bool,
    },
    /// The leader gives it.
    MayStop,
    /// The leader cannot see how many replicas are wanted: the peer should look.
    Look {
        /// The leader's number for the look.
        number: u64,
    },
    /// So many replicas are wanted, as the peer sees.
    Wanted {
        /// So many.
        wanted: Scale,
        /// The look that this answers; `None` when nobody asked, and it may be old.
        number: Option<u64>,
    },
    /// The leader tells a replica that its state differs from that of a strict majority.
    Differs {
        /// As of this index.
        index: u64,
        /// The replicas that had the majority's.
        sound: Vec<ReplicaId>,
    },
    /// How far the sender's disk has got.
    Epoch {
        /// Its epoch.
        epoch: Epoch,
    },
    /// The sender knows durably how far the receiver's disk has got.
    EpochKept {
        /// The epoch.
        epoch: Epoch,
    },
    /// The sender waits long for a sync: the peer should sync something, and answer then.
    AskDisk {
        /// The number of the question.
        number: u64,
    },
    /// The sender has synced something since it was asked.
    DiskWorks {
        /// As asked.
        number: u64,
    },
}

impl PeerMessage {
    /// Whether it goes before everything else that waits for the link. Only messages that carry no
    /// durable fact do, and for which order does not matter.
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

/// What came of a question to the cluster's marker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It says what it was to say.
    Done,
    /// It must not say that: the sentence says why.
    Refused(String),
    /// It is another cluster's, and says nothing of this one: the sentence tells both.
    Foreign(String),
    /// This replica's configuration is over: it knows a later one that has a leader.
    Over(ConfigurationId),
    /// It was gone, or put back to what it said before.
    Lost,
    /// Nobody knows: it is out of reach.
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

/// What happens to a replica.
#[derive(Debug)]
pub enum Input {
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
    /// A peer sent a message.
    Peer {
        /// The peer.
        peer: ReplicaId,
        /// The session that it came by.
        session: Session,
        /// The message.
        message: PeerMessage,
    },
    /// A client asks for something.
    Client {
        /// The connection.
        client: ClientKey,
        /// The client's number for the call.
        call: u64,
        /// What it asks.
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
    /// What was to be read beside the engine.
    Read {
        /// Who asked for it.
        asker: Asker,
        /// What there is.
        found: Found,
    },
    /// A page of keys that was wanted.
    Scanned {
        /// Who asked for it.
        origin: Origin,
        /// The page, as of an index at which it may be served or a later one.
        page: Page,
    },
    /// A peer refuses this replica because it remembers it with another disk.
    Disowned {
        /// The peer.
        peer: ReplicaId,
        /// Whether it proved to be who this replica remembers.
        is_proven: bool,
    },
    /// So many replicas are wanted.
    Scale {
        /// So many; `None` when nobody can say.
        wanted: Option<Scale>,
        /// The look that this is the answer to: it was asked for again after that.
        look: Option<Look>,
    },
    /// The process was told to end, and will be started again.
    WantsStop,
    /// A joiner, or a replica that was left behind, was told of others.
    Learned {
        /// Those: the members.
        members: Vec<Member>,
        /// The number of their configuration, if it was told.
        configuration: Option<ConfigurationId>,
    },
    /// A sync returned that began after this was written.
    Synced(Written),
    /// Whether the disk owes so much that it slows writes.
    Debt {
        /// Whether it does.
        slows_writes: bool,
    },
    /// Whether the sync under way takes long.
    SyncIsSlow(bool),
    /// The cluster's marker was told how far this disk has got.
    Marked {
        /// What it was told.
        mark: Mark,
        /// What came of it.
        verdict: Verdict,
    },
    /// The members are to be these.
    Configure {
        /// The members of the next configuration.
        members: Vec<Member>,
    },
    /// How much room the disk has.
    Disk {
        /// Bytes free.
        free: u64,
        /// Bytes kept in reserve.
        reserve: u64,
    },
}

/// What a replica does about it.
#[derive(Debug)]
pub enum Output {
    /// Sync, and tell when it is done by [`Input::Synced`].
    Sync(Written),
    /// Look how many replicas are wanted, and tell by [`Input::Scale`].
    Look(Look),
    /// Tell the cluster's marker how far this disk has got, and tell by [`Input::Marked`] what came
    /// of it.
    Mark(Mark),
    /// These are the others that may have to be talked to.
    Known(Vec<Known>),
    /// Send now: it carries no durable fact.
    Send {
        /// To whom.
        to: ReplicaId,
        /// What.
        message: PeerMessage,
    },
    /// Send in order with other gated messages to the peer, and only after a sync that began after
    /// this output; `durable` is false for a message that only must not overtake those.
    Gated {
        /// To whom.
        to: ReplicaId,
        /// What.
        message: PeerMessage,
        /// Whether it tells something that must be durable first.
        durable: bool,
    },
    /// Read something on a thread of its own, and tell what there is by [`Input::Read`].
    Read {
        /// Who asks for it.
        asker: Asker,
        /// What.
        wanted: Wanted,
        /// Names the snapshot, if one is opened.
        number: u64,
    },
    /// Read a page of keys on a thread of its own, and tell it by [`Input::Scanned`].
    Scan {
        /// Who asks for it.
        origin: Origin,
        /// Which page.
        scan: Scan,
    },
    /// Send to a client.
    Frame {
        /// The connection.
        client: ClientKey,
        /// What.
        frame: ServerFrame,
    },
    /// Tell a status to clients, with the time.
    Status {
        /// The connections, and the calls that opened the subscriptions.
        to: Vec<(ClientKey, u64)>,
        /// What.
        status: Box<Status>,
    },
    /// The leader that this replica knows has changed; tell every client.
    LeaderChanged(Option<String>),
    /// End the session with a peer.
    EndSession {
        /// The peer.
        peer: ReplicaId,
    },
    /// End the process at once.
    Crash,
    /// Something that an operator wants to read.
    Notice(Notice),
}
