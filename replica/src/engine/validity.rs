//! Pure: checks of every number and name in a peer's message.
//!
//! Guarantees that a message that passes [`check`], once, where it is decoded, is safe to compute
//! with and to show: indexes and ballots are far from the ends of their types, names need no
//! escaping, lists are short. [`fits`] compares a message of the consensus library with what this
//! replica has: the library trusts its peers, and panics where one errs. Neither verifies the
//! sender.

use kvorum_protocol::access::check_name;
use kvorum_protocol::data::validate_key;
use kvorum_protocol::limits::VALUE_BYTES_MAX;
use kvorum_protocol::message::Request;
use kvorum_protocol::name;
use kvorum_protocol::status::{Configuration, ConfigurationId, Member, ReplicaId};
use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::messages::Message;
use omnipaxos::messages::ballot_leader_election::HeartbeatMsg;
use omnipaxos::messages::sequence_paxos::PaxosMsg;
use omnipaxos::util::{LogSync, SequenceNumber};

use super::PeerMessage;
use crate::limits::MEMBERS_MAX;
use crate::planner::Scale;
use crate::state::chain::Chain;
use crate::state::entry::Entry;
use crate::state::snapshot::{Cursor, FetchRequest, FetchResponse, Header, Item};
use crate::state::version::Version;

/// The exclusive upper bound of indexes, ids and epochs: a million a second would take 285 years to
/// get there, and any program can hold them.
pub const INDEX_MAX: u64 = 1 << 53;
/// The exclusive upper bound of the numbers of ballots and configurations.
pub const NUMBER_MAX: u32 = 1 << 31;

/// The part of a message that is impossible.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a peer's message has {0} that cannot be")]
pub struct Invalid(&'static str);

fn ensure(holds: bool, what: &'static str) -> Result<(), Invalid> {
    if holds { Ok(()) } else { Err(Invalid(what)) }
}

/// Checks a message after it was decoded.
///
/// # Errors
/// When a part of the message is impossible; the error names that part.
pub fn check(message: &PeerMessage) -> Result<(), Invalid> {
    use PeerMessage as M;
    match message {
        M::Paxos { configuration, message } => {
            check_configuration_id(*configuration)?;
            check_paxos(message)
        }
        M::Probe { configuration, ballot, .. }
        | M::ProbeAnswer { configuration, ballot, .. }
        | M::TransferLeadership { configuration, ballot }
        | M::DeferLeadership { configuration, ballot } => {
            check_configuration_id(*configuration)?;
            check_ballot(*ballot)
        }
        M::Relay { request, .. } => is_write(request),
        M::UserRelay { user, request, .. } => {
            ensure(check_name(user).is_ok(), "a user")?;
            is_write(request)
        }
        M::RelayAnswer { .. } | M::ReadIndex { .. } | M::RequestStop { .. } | M::PermitStop => {
            Ok(())
        }
        M::ReadIndexAnswer { index, .. } => index.as_ref().map_or(Ok(()), |i| check_index(*i)),
        M::Fetch { wanted, .. } => check_wanted(wanted),
        M::Fetched { found, .. } => check_found(found),
        M::StateProgress { index } | M::Checksum { index, .. } => check_index(*index),
        M::ConfigurationOver { configuration, index, .. } => {
            check_configuration_id(*configuration)?;
            check_index(*index)
        }
        M::ReadScale { .. } | M::AskDisk { .. } | M::DiskWorks { .. } => Ok(()),
        M::ScaleReport { wanted: Scale { start, replicas }, .. } => {
            ensure(*start < NUMBER_MAX, "an ordinal")?;
            ensure(*replicas as usize <= MEMBERS_MAX, "a number of replicas")
        }
        M::StateDiffers { index, sound } => {
            check_index(*index)?;
            ensure(sound.len() <= MEMBERS_MAX, "a list of replicas")?;
            sound.iter().try_for_each(|replica| check_replica(*replica))
        }
        M::Epoch { epoch } | M::EpochKept { epoch } => ensure(epoch.0 < INDEX_MAX, "an epoch"),
    }
}

fn is_write(request: &Request) -> Result<(), Invalid> {
    ensure(matches!(request, Request::Write { .. }), "a request, to be passed on,")
}

fn check_index(index: u64) -> Result<(), Invalid> {
    ensure(index < INDEX_MAX, "an index")
}

fn check_position(position: usize) -> Result<(), Invalid> {
    check_index(position as u64)
}

fn check_replica(replica: ReplicaId) -> Result<(), Invalid> {
    ensure(replica.0 < INDEX_MAX, "an id of a replica")
}

fn check_configuration_id(id: ConfigurationId) -> Result<(), Invalid> {
    ensure((1..NUMBER_MAX).contains(&id.0), "an id of a configuration")
}

fn check_ballot(ballot: Ballot) -> Result<(), Invalid> {
    let is_slot = usize::try_from(ballot.pid).is_ok_and(|slot| slot <= MEMBERS_MAX);
    let is_ours = is_slot && ballot.n < NUMBER_MAX && ballot.priority == 0;
    ensure(is_ours, "a ballot")
}

fn check_sequence(sequence: SequenceNumber) -> Result<(), Invalid> {
    ensure(sequence.session.max(sequence.counter) < INDEX_MAX, "a sequence number")
}

fn check_paxos(message: &Message<Entry>) -> Result<(), Invalid> {
    let message = match message {
        Message::SequencePaxos(message) => &message.msg,
        Message::BLE(message) => {
            return match &message.msg {
                HeartbeatMsg::Request(_) => Ok(()),
                HeartbeatMsg::Reply(reply) => {
                    check_ballot(reply.ballot)?;
                    check_ballot(reply.leader)
                }
            };
        }
    };
    match message {
        PaxosMsg::PrepareReq(request) => check_ballot(request.n),
        PaxosMsg::Prepare(prepare) => {
            check_ballot(prepare.n)?;
            check_ballot(prepare.n_accepted)?;
            check_position(prepare.accepted_idx)?;
            ensure(prepare.decided_idx <= prepare.accepted_idx, "a decided index")
        }
        PaxosMsg::Promise(promise) => {
            check_ballot(promise.n)?;
            check_ballot(promise.n_accepted)?;
            check_position(promise.accepted_idx)?;
            ensure(promise.decided_idx <= promise.accepted_idx, "a decided index")?;
            let log_sync = promise.log_sync.as_ref();
            log_sync.map_or(Ok(()), |log_sync| check_log_sync(log_sync, promise.decided_idx))
        }
        PaxosMsg::AcceptSync(sync) => {
            check_ballot(sync.n)?;
            check_sequence(sync.seq_num)?;
            check_log_sync(&sync.log_sync, sync.decided_idx)?;
            ensure(sync.decided_idx <= end_of(&sync.log_sync), "a decided index")
        }
        PaxosMsg::AcceptDecide(accept) => {
            check_ballot(accept.n)?;
            check_sequence(accept.seq_num)?;
            check_position(accept.decided_idx)?;
            accept.entries.iter().try_for_each(check_entry)
        }
        PaxosMsg::Accepted(accepted) => {
            check_ballot(accepted.n)?;
            check_position(accepted.accepted_idx)
        }
        PaxosMsg::NotAccepted(refused) => check_ballot(refused.n),
        PaxosMsg::Decide(decide) => {
            check_ballot(decide.n)?;
            check_sequence(decide.seq_num)?;
            check_position(decide.decided_idx)
        }
        // The engine's whitelist drops and counts them.
        PaxosMsg::ProposalForward(_)
        | PaxosMsg::Compaction(_)
        | PaxosMsg::AcceptStopSign(_)
        | PaxosMsg::ForwardStopSign(_) => Ok(()),
    }
}

/// Returns the position at which a received log ends.
pub(super) fn end_of(log_sync: &LogSync<Entry>) -> usize {
    log_sync.sync_idx.saturating_add(log_sync.suffix.len())
}

fn check_log_sync(log_sync: &LogSync<Entry>, decided: usize) -> Result<(), Invalid> {
    let is_chosen = log_sync.decided_snapshot.is_none() || log_sync.sync_idx <= decided;
    ensure(is_chosen, "state of what is not chosen")?;
    ensure(log_sync.stopsign.is_none(), "a stop sign of the library")?;
    check_position(end_of(log_sync))?;
    log_sync.suffix.iter().try_for_each(check_entry)
}

fn check_entry(entry: &Entry) -> Result<(), Invalid> {
    match entry {
        Entry::Noop | Entry::Checksum => Ok(()),
        Entry::Command(command) => {
            ensure(command.operation.validate().is_ok(), "a key or a value, by its length,")
        }
        Entry::UserCommand { user, command } => {
            ensure(check_name(user).is_ok(), "a user")?;
            ensure(command.operation.validate().is_ok(), "a key or a value, by its length,")
        }
        Entry::StopSign(next) => check_configuration(next),
        Entry::Version(version) => {
            ensure((Version::OLDEST..=Version::NEWEST).contains(version), "a version")
        }
        Entry::Join { name, .. } => ensure(name::check(name).is_ok(), "a name"),
        Entry::Placeholder { .. } => Err(Invalid("an entry")),
    }
}

fn check_members<'a>(members: impl Iterator<Item = &'a Member>) -> Result<(), Invalid> {
    members.into_iter().try_for_each(|member| {
        check_replica(member.replica)?;
        ensure(name::check(&member.name).is_ok(), "a name")
    })
}

fn check_configuration(configuration: &Configuration) -> Result<(), Invalid> {
    check_configuration_id(configuration.id)?;
    let members = &configuration.members;
    ensure((1..=MEMBERS_MAX).contains(&members.len()), "a number of members")?;
    let is_once = |(at, member): (usize, &Member)| {
        members[..at].iter().all(|other| other.replica != member.replica)
    };
    ensure(members.iter().enumerate().all(is_once), "a member twice")?;
    check_members(members.iter())
}

fn check_chain(chain: &Chain) -> Result<(), Invalid> {
    check_configuration(&chain.current)?;
    check_index(chain.began)?;
    check_replica(chain.next_replica)?;
    let are_few = chain.former.len().max(chain.joiners.len()) <= Chain::OTHERS_MAX;
    ensure(are_few, "a list of replicas")?;
    check_members(chain.former.iter().chain(chain.joiners.iter().map(|joiner| &joiner.member)))
}

fn check_wanted(wanted: &FetchRequest) -> Result<(), Invalid> {
    match wanted {
        FetchRequest::Snapshot | FetchRequest::Close { .. } => Ok(()),
        FetchRequest::Chunk { after, .. } => match after {
            Cursor::Start | Cursor::Accounts | Cursor::Lane(_) => Ok(()),
            Cursor::Key(key) => ensure(is_key(key), "a key"),
        },
        FetchRequest::Entries { configuration, from } => {
            check_configuration_id(*configuration)?;
            ensure((1..INDEX_MAX).contains(from), "an index")
        }
    }
}

fn is_key(key: &bytes::Bytes) -> bool {
    validate_key(&key.clone().into()).is_ok()
}

fn check_found(found: &FetchResponse) -> Result<(), Invalid> {
    match found {
        FetchResponse::Gone | FetchResponse::Busy => Ok(()),
        FetchResponse::Snapshot { header: Header { applied, items, version, chain }, .. } => {
            check_index(*applied)?;
            ensure(*items < INDEX_MAX, "a number of keys")?;
            ensure((Version::OLDEST..=Version::NEWEST).contains(version), "a version")?;
            ensure(chain.began <= *applied, "an index")?;
            check_chain(chain)
        }
        FetchResponse::Chunk(chunk) => chunk.items.iter().try_for_each(|item| match item {
            Item::Lane(_, lane) => check_index(lane.last_use),
            Item::Accounts(accounts) => ensure(accounts.is_valid(), "the accounts"),
            Item::Key(key, record) => {
                check_index(record.revision)?;
                let is_short = record.value.len() <= VALUE_BYTES_MAX;
                ensure(is_key(key) && is_short, "a key or a value, by its length,")
            }
        }),
        FetchResponse::Entries { from, entries, decided } => {
            ensure((1..INDEX_MAX).contains(from), "an index")?;
            check_index(from.saturating_add(entries.len() as u64))?;
            check_index(*decided)?;
            entries.iter().try_for_each(check_entry)
        }
    }
}

/// This replica's position in the configuration that a message of the library belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Local {
    /// The highest ballot promised.
    pub promise: Ballot,
    /// The number of entries written.
    pub accepted: u64,
    /// The number of entries known to be chosen.
    pub decided: u64,
    /// The configuration's id, which is part of each of its ballots.
    pub configuration: u32,
    /// This replica's slot.
    pub slot: u64,
    /// The number of members.
    pub slots: usize,
    /// Whether this replica leads in the accept phase.
    pub is_leading: bool,
}

/// Whether a message of the library fits what this replica has. Every message that a peer sends by
/// the protocol does.
#[must_use]
pub fn fits(message: &Message<Entry>, local: Local) -> bool {
    // To the library, two ballots that differ only in their configuration are unequal, and yet
    // neither is higher.
    let is_ballot = |ballot: Ballot| {
        let is_slot =
            usize::try_from(ballot.pid).is_ok_and(|slot| (1..=local.slots).contains(&slot));
        let is_one = is_slot && ballot.config_id == local.configuration;
        is_one || ballot == Ballot::default()
    };
    // The leader of a ballot sends messages in that ballot, and is answered in it.
    let from = message.get_sender();
    let is_theirs = |ballot: Ballot| is_ballot(ballot) && ballot.pid == from;
    let is_ours = |ballot: Ballot| is_ballot(ballot) && ballot.pid == local.slot;
    let accepted = usize::try_from(local.accepted).unwrap_or(usize::MAX);
    // A log that starts from compacted state is held back until that state is here.
    let follows = |log_sync: &LogSync<Entry>| {
        log_sync.sync_idx <= accepted || log_sync.decided_snapshot.is_some()
    };
    let keeps = |log_sync: &LogSync<Entry>| log_sync.sync_idx as u64 >= local.decided;
    let message = match message {
        Message::SequencePaxos(message) => &message.msg,
        Message::BLE(message) => {
            return match &message.msg {
                HeartbeatMsg::Request(_) => true,
                HeartbeatMsg::Reply(reply) => is_theirs(reply.ballot) && is_ballot(reply.leader),
            };
        }
    };
    match message {
        PaxosMsg::PrepareReq(request) => is_ballot(request.n),
        PaxosMsg::Prepare(prepare) => is_theirs(prepare.n) && is_ballot(prepare.n_accepted),
        PaxosMsg::Promise(promise) => {
            let log_sync = promise.log_sync.as_ref();
            // A promise that carries no log may know of more chosen entries than are here.
            let end = log_sync.map_or(promise.accepted_idx, end_of);
            let is_promise = is_ours(promise.n) && is_ballot(promise.n_accepted);
            is_promise
                && match promise.n == local.promise {
                    // A leader already has every entry that was chosen before, and takes no
                    // entries.
                    true if local.is_leading => promise.decided_idx <= accepted,
                    true => {
                        promise.decided_idx <= end
                            && log_sync.is_none_or(|log_sync| follows(log_sync) && keeps(log_sync))
                    }
                    // The library ignores it.
                    false => true,
                }
        }
        PaxosMsg::AcceptSync(sync) => {
            is_theirs(sync.n) && (sync.n != local.promise || follows(&sync.log_sync))
        }
        PaxosMsg::AcceptDecide(accept) => is_theirs(accept.n),
        PaxosMsg::Accepted(sent) => {
            is_ours(sent.n) && (sent.n != local.promise || sent.accepted_idx <= accepted)
        }
        PaxosMsg::NotAccepted(refused) => is_ballot(refused.n),
        PaxosMsg::Decide(decide) => is_theirs(decide.n),
        PaxosMsg::ProposalForward(_)
        | PaxosMsg::Compaction(_)
        | PaxosMsg::AcceptStopSign(_)
        | PaxosMsg::ForwardStopSign(_) => true,
    }
}
