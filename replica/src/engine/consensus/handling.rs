//! Pure: what becomes of a peer's message: the library takes it, or it must not be.
//!
//! The library trusts its peers. Guarantees that it sees nothing that would make it panic, cut what
//! is chosen, or stand on state that is not here; and that whatever an honest peer sends reaches it
//! where it counts.

use kvorum_protocol::status::ReplicaId;
use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::messages::Message;
use omnipaxos::messages::sequence_paxos::{PaxosMessage, PaxosMsg};
use omnipaxos::storage::Storage;

use super::super::log_sync;
use super::super::validity::{Local, fits};
use super::super::whitelist::gate;
use super::{Consensus, Instance};
use crate::entry::Entry;

/// Ballots that a leader raises itself by at once, above a peer that promised a higher one. Two
/// candidates are rarely more than one apart; what is left is done at the peer's next request.
const OUTBID_MAX: usize = 64;

/// What became of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Handled {
    /// The library took it, or it came too late to matter.
    Taken,
    /// It must not be.
    Forged,
    /// The leader can bring this replica into step only when it has the state up to an index.
    Behind {
        /// The index.
        index: u64,
    },
    /// This replica is a candidate, and the peer is so far ahead that it should lead instead.
    Outrun {
        /// This replica's ballot.
        ballot: Ballot,
    },
}

impl<L: Storage<Entry>> Consensus<L> {
    /// Takes in a peer's message. `applied` is up to where this replica has the state.
    pub fn handle(&mut self, peer: ReplicaId, message: Message<Entry>, applied: u64) -> Handled {
        let is_sound = self.slot_of(peer) == Some(message.get_sender())
            && message.get_receiver() == self.slot
            && (gate(&message).is_some() || !self.rules.has_whitelist)
            && fits(&message, self.local());
        if !is_sound {
            self.dropped += 1;
            return Handled::Forged;
        }
        match self.lacks_state(&message, applied) {
            Some(handled) if self.rules.waits_for_state => handled,
            _ if self.is_late(&message) => Handled::Taken,
            _ if self.must_ask_again(&message) => {
                self.lead();
                Handled::Taken
            }
            _ if !self.counts(&message) => {
                self.dropped += 1;
                Handled::Forged
            }
            _ => {
                self.patience.takes(&message);
                self.outbid(&message);
                self.give(message);
                Handled::Taken
            }
        }
    }

    fn local(&self) -> Local {
        Local {
            promise: self.promise(),
            accepted: self.accepted(),
            decided: self.decided(),
            configuration: self.configuration.id.0,
            slot: self.slot,
            slots: self.configuration.members.len(),
            is_leading: self.ballot_if_leading().is_some(),
        }
    }

    /// Whether a message would put something in the place of what is chosen. Nobody who answers a
    /// promise sends one; it was sent before this replica had the state, or is in step already.
    fn is_late(&self, message: &Message<Entry>) -> bool {
        let Message::SequencePaxos(PaxosMessage { msg, .. }) = message else { return false };
        matches!(msg, PaxosMsg::AcceptSync(sync)
            if sync.n == self.promise() && (sync.log_sync.sync_idx as u64) < self.decided())
    }

    /// Counts a promise, if it is one: whether it fits those that came before.
    fn counts(&mut self, message: &Message<Entry>) -> bool {
        let Message::SequencePaxos(PaxosMessage { from, msg: PaxosMsg::Promise(promise), .. }) =
            message
        else {
            return true;
        };
        let is_candidate = promise.n == self.promise() && self.ballot_if_leading().is_none();
        let promises = self.promises.as_mut();
        !is_candidate || promises.is_some_and(|promises| promises.count(*from, promise))
    }

    /// Whether this replica is a candidate and must ask everybody once more, in a higher ballot.
    fn must_ask_again(&self, message: &Message<Entry>) -> bool {
        let promises = self.promises.as_ref().filter(|_| self.ballot_if_leading().is_none());
        promises.is_some_and(|asked| asked.is_of(self.promise()) && asked.is_withdrawn_by(message))
    }

    /// Gives a message to the library. With one replica there is none, and nobody to send any.
    fn give(&mut self, message: Message<Entry>) {
        if let Instance::Paxos(paxos) = &mut self.instance {
            paxos.handle_incoming(message);
        }
    }

    /// Whether a message stands on state that this replica does not have. It must not reach the
    /// library before: the log would be cut, and the entries be nowhere.
    fn lacks_state(&self, message: &Message<Entry>, applied: u64) -> Option<Handled> {
        let Message::SequencePaxos(PaxosMessage { msg, .. }) = message else { return None };
        let index = log_sync::state_needed(msg).filter(|index| *index > applied)?;
        Some(match msg {
            PaxosMsg::AcceptSync(sync) if sync.n == self.promise() => Handled::Behind { index },
            // Only a candidate takes a promise's entries; whoever leads already passes them over.
            PaxosMsg::Promise(_) if self.ballot_if_leading().is_some() => return None,
            PaxosMsg::Promise(promise) if promise.n == self.promise() => {
                Handled::Outrun { ballot: promise.n }
            }
            _ => Handled::Taken,
        })
    }

    /// A peer that asks to be prepared may have promised a higher ballot than the one that leads:
    /// of two candidates at once, the one that lost crashed or was cut off. The library leaves
    /// such a peer behind for ever, for it ignores the leader and the leader ignores it. So the
    /// leader is elected once more, above both.
    fn outbid(&mut self, message: &Message<Entry>) {
        let Message::SequencePaxos(message) = message else { return };
        let PaxosMsg::PrepareReq(request) = message.msg else { return };
        if self.ballot_if_leading().is_some_and(|ballot| ballot < request.n) {
            for _ in 0..OUTBID_MAX {
                if self.promise() > request.n {
                    return;
                }
                self.lead();
            }
        }
    }
}
