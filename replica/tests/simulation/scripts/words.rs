//! Formats messages, entries and answers for a script's output.

use kvorum_protocol::access::AccessChange;
use kvorum_protocol::data::{Condition, Operation, Outcome};
use kvorum_protocol::message::Answer;
use kvorum_protocol::status::{Configuration, Member, ReplicaId};
use kvorum_replica::engine::PeerMessage;
use kvorum_replica::state::entry::Entry;
use kvorum_replica::state::snapshot::{FetchRequest, FetchResponse};
use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::messages::Message;
use omnipaxos::messages::ballot_leader_election::HeartbeatMsg;
use omnipaxos::messages::sequence_paxos::PaxosMsg;
use omnipaxos::util::LogSync;

/// Formats a replica: `n2`.
pub fn node(id: ReplicaId) -> String {
    format!("n{}", id.0)
}

/// Formats replicas, in order: `n1 n2`.
pub fn members(members: &[Member]) -> String {
    let names: Vec<_> = members.iter().map(|member| node(member.replica)).collect();
    names.join(" ")
}

/// Formats a ballot and its leader: `b3/n2`. Slots are those of a configuration.
pub fn ballot(ballot: Ballot, of: &Configuration) -> String {
    let slot = usize::try_from(ballot.pid).ok().and_then(|slot| slot.checked_sub(1));
    match slot.and_then(|slot| of.members.get(slot)) {
        Some(member) => format!("b{}/{}", ballot.n, node(member.replica)),
        None => format!("b{}", ballot.n),
    }
}

fn condition(condition: Condition) -> String {
    match condition {
        Condition::Always => String::new(),
        Condition::Absent => " if absent".to_owned(),
        Condition::AtRevision(revision) => format!(" if at {revision}"),
    }
}

/// Formats a change of a key: `put a=1`.
pub fn operation(operation: &Operation) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match operation {
        Operation::Put { key, value, condition: if_ } => {
            format!("put {}={}{}", text(&key.0), text(&value.0), condition(*if_))
        }
        Operation::Delete { key, condition: if_ } => {
            format!("delete {}{}", text(&key.0), condition(*if_))
        }
        Operation::Access(AccessChange::AddUser { user }) => format!("add the user {user}"),
        Operation::Access(AccessChange::AddRole { role }) => format!("add the role {role}"),
        Operation::Access(AccessChange::GiveRole { user, role }) => {
            format!("give {user} the role {role}")
        }
        Operation::Access(AccessChange::Grant { role, range, access }) => {
            format!("let {role} {access} {range}")
        }
        Operation::Access(AccessChange::Revoke { role, range }) => {
            format!("forbid {role} {range}")
        }
        Operation::Access(change) => format!("{change:?}"),
    }
}

/// Formats an entry of the log: `put a=1`.
pub fn entry(entry: &Entry) -> String {
    match entry {
        Entry::Noop => "no-op".to_owned(),
        Entry::Command(command) => operation(&command.operation),
        Entry::UserCommand { user, command } => {
            format!("{} by {user}", operation(&command.operation))
        }
        Entry::StopSign(next) => {
            format!("stop sign: configuration {} of {}", next.id.0, members(&next.members))
        }
        Entry::Version(version) => format!("version {version}"),
        Entry::Checksum => "checksum".to_owned(),
        Entry::Join { name, .. } => format!("join {name}"),
        Entry::Placeholder { end } => format!("entries up to {end}"),
    }
}

fn entries(list: &[Entry]) -> String {
    let words: Vec<_> = list.iter().map(entry).collect();
    format!("[{}]", words.join(", "))
}

fn log_sync(sync: &LogSync<Entry>) -> String {
    match &sync.decided_snapshot {
        Some(_) => format!("after the state at {}: {}", sync.sync_idx, entries(&sync.suffix)),
        None => format!("after {}: {}", sync.sync_idx, entries(&sync.suffix)),
    }
}

fn paxos(message: &PaxosMsg<Entry>, of: &Configuration) -> String {
    let b = |it: Ballot| ballot(it, of);
    match message {
        PaxosMsg::PrepareReq(it) => format!("PrepareReq, has promised {}", b(it.n)),
        PaxosMsg::Prepare(it) => format!(
            "Prepare {}: has {} of {}, decided {}",
            b(it.n),
            it.accepted_idx,
            b(it.n_accepted),
            it.decided_idx
        ),
        PaxosMsg::Promise(it) => {
            let has = format!("has {} of {}", it.accepted_idx, b(it.n_accepted));
            let more = it.log_sync.as_ref().map(|sync| format!(", tells {}", log_sync(sync)));
            let more = more.unwrap_or_default();
            format!("Promise {}: {has}, decided {}{more}", b(it.n), it.decided_idx)
        }
        PaxosMsg::AcceptSync(it) => format!(
            "AcceptSync {}: decided {}, {}",
            b(it.n),
            it.decided_idx,
            log_sync(&it.log_sync)
        ),
        PaxosMsg::AcceptDecide(it) => {
            format!(
                "AcceptDecide {}: decided {}, {}",
                b(it.n),
                it.decided_idx,
                entries(&it.entries)
            )
        }
        PaxosMsg::Accepted(it) => format!("Accepted {}: up to {}", b(it.n), it.accepted_idx),
        PaxosMsg::NotAccepted(it) => format!("NotAccepted: has promised {}", b(it.n)),
        PaxosMsg::Decide(it) => format!("Decide {}: up to {}", b(it.n), it.decided_idx),
        other => format!("{other:?}"),
    }
}

fn heartbeat(message: &HeartbeatMsg, of: &Configuration) -> String {
    match message {
        HeartbeatMsg::Request(it) => format!("HeartbeatRequest, round {}", it.round),
        HeartbeatMsg::Reply(it) => {
            let (own, leader) = (ballot(it.ballot, of), ballot(it.leader, of));
            let happy = if it.happy { "content" } else { "wants another" };
            format!("HeartbeatReply, round {}: ballot {own}, leader {leader}, {happy}", it.round)
        }
    }
}

fn wanted(wanted: &FetchRequest) -> String {
    match wanted {
        FetchRequest::Snapshot => "a snapshot".to_owned(),
        FetchRequest::Chunk { .. } => "the next chunk".to_owned(),
        FetchRequest::Entries { configuration, from } => {
            format!("entries of configuration {} from {from}", configuration.0)
        }
        FetchRequest::Close { .. } => "no more of the snapshot".to_owned(),
    }
}

fn found(found: &FetchResponse) -> String {
    match found {
        FetchResponse::Snapshot { header, .. } => {
            format!("a snapshot at {}, about {} keys", header.applied, header.items)
        }
        FetchResponse::Chunk(chunk) => {
            let last = if chunk.next.is_none() { ", the last" } else { "" };
            format!("a chunk of {} items{last}", chunk.items.len())
        }
        FetchResponse::Entries { from, entries: list, decided } => {
            format!("entries from {from}: {}, decided {decided}", entries(list))
        }
        FetchResponse::Gone => "it is gone".to_owned(),
        FetchResponse::Busy => "not now".to_owned(),
    }
}

/// Formats a message between replicas. Ballots refer to the configuration of one of the two.
pub fn message(message: &PeerMessage, of: &Configuration) -> String {
    let b = |it: &Ballot| ballot(*it, of);
    match message {
        PeerMessage::Paxos { message: Message::SequencePaxos(it), .. } => paxos(&it.msg, of),
        PeerMessage::Paxos { message: Message::BLE(it), .. } => heartbeat(&it.msg, of),
        PeerMessage::Probe { ballot, round, .. } => format!("Probe {}, round {round}", b(ballot)),
        PeerMessage::ProbeAnswer { ballot, round, .. } => {
            format!("ProbeAnswer {}, round {round}", b(ballot))
        }
        PeerMessage::Relay { request, .. } => format!("Relay: {}", request_words(request)),
        PeerMessage::UserRelay { user, request, .. } => {
            format!("UserRelay: {} by {user}", request_words(request))
        }
        PeerMessage::RelayAnswer { answer: it, .. } => format!("RelayAnswer: {}", answer(it)),
        PeerMessage::ReadIndex { .. } => "ReadIndex".to_owned(),
        PeerMessage::ReadIndexAnswer { index: Ok(index), .. } => format!("ReadIndex is {index}"),
        PeerMessage::ReadIndexAnswer { index: Err(why), .. } => format!("no ReadIndex: {why}"),
        PeerMessage::TransferLeadership { ballot, .. } => {
            format!("TransferLeadership, instead of {}", b(ballot))
        }
        PeerMessage::DeferLeadership { ballot, .. } => {
            format!("DeferLeadership: {} is behind", b(ballot))
        }
        PeerMessage::Fetch { wanted: it, .. } => format!("Fetch {}", wanted(it)),
        PeerMessage::Fetched { found: it, .. } => format!("Fetched {}", found(it)),
        PeerMessage::StateProgress { index } => format!("StateProgress up to {index}"),
        PeerMessage::Checksum { index, .. } => format!("Checksum at {index}"),
        PeerMessage::ConfigurationOver { configuration, index, is_dismissed } => {
            let dismissed = if *is_dismissed { "; you are not needed" } else { "" };
            format!(
                "ConfigurationOver: is in configuration {}, has {index}{dismissed}",
                configuration.0
            )
        }
        PeerMessage::RequestStop { .. } => "RequestStop".to_owned(),
        PeerMessage::PermitStop => "PermitStop".to_owned(),
        PeerMessage::ReadScale { .. } => "ReadScale".to_owned(),
        PeerMessage::ScaleReport { wanted, .. } => format!("ScaleReport: {}", wanted.replicas),
        PeerMessage::StateDiffers { index, sound } => {
            let sound: Vec<_> = sound.iter().map(|id| node(*id)).collect();
            format!("StateDiffers at {index}: {} agree", sound.join(" "))
        }
        PeerMessage::Epoch { epoch } => format!("Epoch {}", epoch.0),
        PeerMessage::EpochKept { epoch } => format!("EpochKept {}", epoch.0),
        PeerMessage::AskDisk { .. } => "AskDisk".to_owned(),
        PeerMessage::DiskWorks { .. } => "DiskWorks".to_owned(),
    }
}

fn request_words(request: &kvorum_protocol::message::Request) -> String {
    use kvorum_protocol::message::{Admin, Request};
    match request {
        Request::Write { operation: it, .. } => operation(it),
        Request::Admin(Admin::Join { name, .. }) => format!("join {name}"),
        Request::Admin(Admin::HandOver { .. }) => "hand-over".to_owned(),
        other => format!("{other:?}"),
    }
}

/// Formats an answer to a client.
pub fn answer(answer: &Answer) -> String {
    match answer {
        Answer::Written(Outcome::Put { revision }) => format!("written at {revision}"),
        Answer::Written(Outcome::Deleted { revision, existed: true }) => {
            format!("deleted at {revision}")
        }
        Answer::Written(Outcome::Deleted { existed: false, .. }) => "it was not there".to_owned(),
        Answer::Written(Outcome::ConditionFailed { current }) => match current {
            Some(revision) => format!("the condition failed, it is at {revision}"),
            None => "the condition failed, it is not there".to_owned(),
        },
        Answer::Written(Outcome::Expired) => "expired, nothing was written".to_owned(),
        Answer::Written(Outcome::AccessChanged) => "changed".to_owned(),
        Answer::Written(Outcome::AccessUnchanged(why)) => format!("not changed: {why}"),
        Answer::Subscribed { from } => format!("subscribed from {from} on"),
        Answer::Value(Some(pair)) => {
            let value = String::from_utf8_lossy(&pair.value.0);
            format!("{value}, written at {}", pair.revision)
        }
        Answer::Value(None) => "nothing".to_owned(),
        Answer::Done => "done".to_owned(),
        Answer::Refused(why) => format!("refused: {why}"),
        Answer::Unknown(_) => "unknown whether it happens".to_owned(),
        Answer::Joined { replica, .. } => format!("it is {}", node(*replica)),
        other => format!("{other:?}"),
    }
}

/// Whether a message is written down only on request: routine messages come all the time.
pub fn is_routine(message: &PeerMessage) -> bool {
    matches!(
        message,
        PeerMessage::Paxos { message: Message::BLE(_), .. }
            | PeerMessage::Epoch { .. }
            | PeerMessage::EpochKept { .. }
            | PeerMessage::StateProgress { .. }
    )
}
