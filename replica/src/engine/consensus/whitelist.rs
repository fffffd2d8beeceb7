//! Pure: the messages of the consensus library that may pass, and the conditions for sending them.
//!
//! Guarantees that a message which states a durable fact waits until the fact is durable. Does not
//! look at the contents of a message.

use omnipaxos::messages::Message;
use omnipaxos::messages::sequence_paxos::PaxosMsg;

use crate::engine::message::After;
use crate::state::entry::Entry;

/// Returns the condition for sending a message; `None` for one that is not allowed: forwarded
/// proposals get lost, the library's compaction loses data, its stop sign miscounts.
#[must_use]
pub fn condition(message: &Message<Entry>) -> Option<After> {
    let Message::SequencePaxos(message) = message else { return Some(After::Nothing) };
    match message.msg {
        // A leader's own acceptance counts when it is synced, whenever its entries leave.
        PaxosMsg::AcceptDecide(_) | PaxosMsg::Decide(_) => Some(After::Earlier),
        PaxosMsg::PrepareReq(_)
        | PaxosMsg::Prepare(_)
        | PaxosMsg::Promise(_)
        | PaxosMsg::AcceptSync(_)
        | PaxosMsg::Accepted(_)
        | PaxosMsg::NotAccepted(_) => Some(After::Sync),
        PaxosMsg::ProposalForward(_)
        | PaxosMsg::Compaction(_)
        | PaxosMsg::AcceptStopSign(_)
        | PaxosMsg::ForwardStopSign(_) => None,
    }
}
