//! Pure: which messages of the consensus library may come and go, and what they wait for.
//!
//! Guarantees that a message which tells a durable fact waits until it is one. Does not look at
//! what a message says.

use omnipaxos::messages::Message;
use omnipaxos::messages::sequence_paxos::PaxosMsg;

use crate::entry::Entry;

/// What a message may cost before it leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gate {
    /// It carries no durable fact.
    Open,
    /// It must not overtake earlier ones, but needs no sync of its own.
    Ordered,
    /// What it tells must be durable.
    Durable,
}

/// What it takes for a message to leave; `None` for one that must not be: forwarded proposals get
/// lost, the library's compaction loses data, its stop sign miscounts.
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
