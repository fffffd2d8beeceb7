//! Pure: the messages of the consensus library that may pass, and the conditions for sending them.
//!
//! Guarantees that a message which states a durable fact waits until the fact is durable. Does not
//! look at the contents of a message.

use omnipaxos::messages::Message;
use omnipaxos::messages::sequence_paxos::PaxosMsg;

use crate::state::entry::Entry;

/// The condition that a message waits for before it is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gate {
    /// The message carries no durable fact.
    Open,
    /// The message must not overtake earlier ones, but needs no sync of its own.
    Ordered,
    /// The fact that the message states must be durable.
    Durable,
}

/// Returns the condition for sending a message; `None` for one that is not allowed: forwarded
/// proposals get lost, the library's compaction loses data, its stop sign miscounts.
#[must_use]
pub fn gate(message: &Message<Entry>) -> Option<Gate> {
    let Message::SequencePaxos(message) = message else { return Some(Gate::Open) };
    match message.msg {
        PaxosMsg::Decide(_) => Some(Gate::Ordered),
        PaxosMsg::PrepareReq(_)
        | PaxosMsg::Prepare(_)
        | PaxosMsg::Promise(_)
        | PaxosMsg::AcceptSync(_)
        | PaxosMsg::AcceptDecide(_)
        | PaxosMsg::Accepted(_)
        | PaxosMsg::NotAccepted(_) => Some(Gate::Durable),
        PaxosMsg::ProposalForward(_)
        | PaxosMsg::Compaction(_)
        | PaxosMsg::AcceptStopSign(_)
        | PaxosMsg::ForwardStopSign(_) => None,
    }
}
