//! Pure: the checks between a peer's message and the library, which takes it or never sees it.
//!
//! The library trusts its peers. Guarantees that it sees nothing that would make it panic, cut
//! chosen entries, or build on state that is not here; and that every message of an honest peer
//! reaches it where it matters.

use kvorum_protocol::status::ReplicaId;
use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::messages::Message;
use omnipaxos::messages::ballot_leader_election::HeartbeatMsg;
use omnipaxos::messages::sequence_paxos::{Accepted, PaxosMessage, PaxosMsg, Prepare, Promise};
use omnipaxos::storage::Storage;

use super::super::validity::{Local, fits};
use super::log_sync;
use super::promises::Sum;
use super::whitelist::condition;
use super::{Consensus, Instance, PutOff};
use crate::state::entry::Entry;

/// The result of handling a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Handled {
    /// The library took it, or it came too late to matter.
    Taken,
    /// The message is invalid and was dropped.
    Forged,
    /// The leader can bring this replica into step only when it has the state up to an index.
    Behind {
        /// The index that the state must reach.
        index: u64,
    },
    /// This replica is a candidate, and the peer is so far ahead that it should lead instead, or
    /// its promise does not add up with the promises of others.
    Outrun {
        /// The ballot of this candidate.
        ballot: Ballot,
    },
}

impl<L: Storage<Entry>> Consensus<L> {
    /// Handles a peer's message. `applied` is the index up to which this replica has the state.
    pub fn handle(&mut self, peer: ReplicaId, message: Message<Entry>, applied: u64) -> Handled {
        let is_sound = self.slot_of(peer) == Some(message.get_sender())
            && message.get_receiver() == self.slot
            && (condition(&message).is_some() || !self.rules.has_whitelist())
            && fits(&message, self.local());
        if !is_sound {
            self.dropped += 1;
            return Handled::Forged;
        }
        match self.lacks_state(&message, applied) {
            Some(handled) if self.rules.waits_for_state() => handled,
            _ if self.is_late(&message) || self.is_far(&message) || self.is_put_off(&message) => {
                Handled::Taken
            }
            _ if self.must_ask_again(&message) => {
                self.lead_if_asked();
                Handled::Taken
            }
            _ => match self.counts(&message) {
                Sum::Fits => {
                    self.take_in(message);
                    Handled::Taken
                }
                Sum::Beyond => Handled::Outrun { ballot: self.promise() },
                Sum::Over => Handled::Taken,
                Sum::OverLong => {
                    self.lead_if_asked();
                    Handled::Taken
                }
                Sum::Wrong => {
                    self.dropped += 1;
                    Handled::Forged
                }
            },
        }
    }

    /// Passes a message to the library, unless it repeats an answer that was already counted.
    fn take_in(&mut self, message: Message<Entry>) {
        if !self.patience.takes(&message) {
            return;
        }
        let may_promise = matches!(&message, Message::SequencePaxos(PaxosMessage { msg, .. })
            if matches!(msg, PaxosMsg::Prepare(_) | PaxosMsg::PrepareReq(_)));
        if !self.asks_for_more(&message) {
            self.give(message);
        }
        if may_promise {
            self.drop_stale_promises();
        }
        self.account();
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

    /// Whether a message would overwrite chosen entries. No leader that answers a current promise
    /// sends such a message; it was sent before this replica had the state, or this replica is
    /// already in step.
    fn is_late(&self, message: &Message<Entry>) -> bool {
        let Message::SequencePaxos(PaxosMessage { msg, .. }) = message else { return false };
        matches!(msg, PaxosMsg::AcceptSync(sync)
            if sync.n == self.promise() && (sync.log_sync.sync_idx as u64) < self.decided())
    }

    /// Whether a message names a ballot so high that this replica does not follow it now. An honest
    /// peer that others led that far sends it again, and by then this replica may follow further.
    fn is_far(&mut self, message: &Message<Entry>) -> bool {
        let highest = match message {
            Message::BLE(message) => match &message.msg {
                HeartbeatMsg::Request(_) => return false,
                HeartbeatMsg::Reply(reply) => reply.ballot.n,
            },
            Message::SequencePaxos(message) => match &message.msg {
                PaxosMsg::Prepare(prepare) => prepare.n.n,
                PaxosMsg::NotAccepted(refused) => refused.n.n,
                _ => return false,
            },
        };
        self.leaps.refuses(highest)
    }

    /// Whether a message has to wait for the next turn, or does not count. Each Prepare of a
    /// candidate, and each promise to a leader, is answered with the log that the peer lacks, and
    /// how much of it the peer received is not known before its next message: so only one of each
    /// is answered in a turn.
    fn is_put_off(&mut self, message: &Message<Entry>) -> bool {
        let Message::SequencePaxos(PaxosMessage { from, msg, .. }) = message else { return false };
        match msg {
            // The peer starts over, and promises once more.
            PaxosMsg::PrepareReq(_) => {
                self.put_off.promises.remove(from);
                false
            }
            PaxosMsg::Prepare(prepare) => {
                let is_second = std::mem::replace(&mut self.put_off.has_prepare, true);
                let highest = self.put_off.prepare.map(|(_, highest)| highest.n);
                if is_second && highest.is_none_or(|highest| highest <= prepare.n) {
                    self.put_off.prepare = Some((*from, *prepare));
                }
                is_second
            }
            PaxosMsg::Promise(promise) if promise.n == self.promise() => {
                self.puts_off_promise(*from, promise)
            }
            _ => false,
        }
    }

    fn puts_off_promise(&mut self, from: u64, promise: &Promise<Entry>) -> bool {
        let is_second = !self.put_off.promised.insert(from);
        if self.ballot_if_leading().is_none() {
            // The first promise that builds on state stands.
            let promises = self.promises.as_ref().filter(|asked| asked.is_of(promise.n));
            return promises.is_some_and(|asked| asked.has_on_state(from));
        }
        if is_second {
            let Promise { n, n_accepted, decided_idx, accepted_idx, .. } = *promise;
            // A replica that leads does not need the promise's log.
            let promise = Promise { n, n_accepted, decided_idx, accepted_idx, log_sync: None };
            self.put_off.promises.insert(from, promise);
        }
        is_second
    }

    /// Begins a turn: handles the messages that were put off until it.
    pub(super) fn take_put_off(&mut self) {
        let PutOff { prepare, promises, .. } = std::mem::take(&mut self.put_off);
        let to = self.slot;
        if let Some((from, prepare)) = prepare.filter(|(_, it)| !self.leaps.refuses(it.n.n)) {
            self.put_off.has_prepare = true;
            let msg = PaxosMsg::Prepare(prepare);
            self.take_in(Message::SequencePaxos(PaxosMessage { from, to, msg }));
        }
        for (from, promise) in promises {
            if self.ballot_if_leading() == Some(promise.n) {
                self.put_off.promised.insert(from);
                let msg = PaxosMsg::Promise(promise);
                self.give(Message::SequencePaxos(PaxosMessage { from, to, msg }));
            }
        }
    }

    /// Counts a message if it is a promise to this candidate. Returns whether it adds up with the
    /// promises before it.
    fn counts(&mut self, message: &Message<Entry>) -> Sum {
        match message {
            Message::SequencePaxos(PaxosMessage {
                from, msg: PaxosMsg::Promise(promise), ..
            }) if promise.n == self.promise() && self.ballot_if_leading().is_none() => {
                self.promises.as_mut().map_or(Sum::Wrong, |asked| asked.count(*from, promise))
            }
            _ => Sum::Fits,
        }
    }

    /// Drops the library's outgoing promises to ballots below the highest one: no peer needs them,
    /// and each may carry a long log. A peer that asks again and again would fill the memory with
    /// them.
    fn drop_stale_promises(&mut self) {
        let promise = self.promise();
        let Instance::Paxos(paxos) = &mut self.instance else { return };
        paxos.take_outgoing_messages(&mut self.buffer);
        self.buffer.retain(|message| {
            let Message::SequencePaxos(PaxosMessage { msg, .. }) = message else { return true };
            !matches!(msg, PaxosMsg::Promise(made) if made.n < promise)
        });
    }

    /// Whether this replica is a candidate and must ask every peer once more, in a higher ballot.
    fn must_ask_again(&self, message: &Message<Entry>) -> bool {
        let promises = self.promises.as_ref().filter(|_| self.ballot_if_leading().is_none());
        promises.is_some_and(|asked| asked.is_of(self.promise()) && asked.is_withdrawn_by(message))
    }

    /// Gives a message to the library, or keeps it until the library may learn of it. A single
    /// replica has no library, and no peer that sends one.
    fn give(&mut self, message: Message<Entry>) {
        if let Some((from, accepted)) = acceptance(&message)
            && self.ballot_if_leading() == Some(accepted.n)
            && self.rules.counts_what_is_synced()
        {
            self.acceptances.lead(accepted.n);
            self.acceptances.accepted(from, accepted.accepted_idx as u64);
            return self.pass_acceptances();
        }
        if let Instance::Paxos(paxos) = &mut self.instance {
            paxos.handle_incoming(message);
        }
    }

    /// Gives the library the acceptances of followers that count now.
    pub(super) fn pass_acceptances(&mut self) {
        let majority = self.configuration.members.len() / 2 + 1;
        let (n, to) = (self.acceptances.ballot(), self.slot);
        if self.ballot_if_leading() != Some(n) {
            return;
        }
        let Instance::Paxos(paxos) = &mut self.instance else { return };
        for (from, index) in self.acceptances.take(majority) {
            let accepted_idx = usize::try_from(index).expect("indexes fit the address space");
            let msg = PaxosMsg::Accepted(Accepted { n, accepted_idx });
            paxos.handle_incoming(Message::SequencePaxos(PaxosMessage { from, to, msg }));
        }
    }

    /// Whether a message builds on state that this replica does not have. It must not reach the
    /// library before the state is here: the log would be cut, and the entries would be nowhere.
    fn lacks_state(&self, message: &Message<Entry>, applied: u64) -> Option<Handled> {
        let Message::SequencePaxos(PaxosMessage { msg, .. }) = message else { return None };
        let index = log_sync::state_needed(msg).filter(|index| *index > applied)?;
        Some(match msg {
            PaxosMsg::AcceptSync(sync) if sync.n == self.promise() => Handled::Behind { index },
            // Only a candidate takes a promise's entries; a leader ignores them.
            PaxosMsg::Promise(_) if self.ballot_if_leading().is_some() => return None,
            PaxosMsg::Promise(promise) if promise.n == self.promise() => {
                Handled::Outrun { ballot: promise.n }
            }
            _ => Handled::Taken,
        })
    }

    /// Whether a message asks a leader to prepare a peer that has promised a higher ballot. The
    /// library would ignore it.
    fn asks_for_more(&mut self, message: &Message<Entry>) -> bool {
        let Message::SequencePaxos(message) = message else { return false };
        let PaxosMsg::PrepareReq(request) = message.msg else { return false };
        let asks = self.ballot_if_leading().is_some_and(|ballot| ballot < request.n);
        if asks {
            self.outbidding.hear(request.n);
        }
        asks
    }

    /// Lets a tick pass: a leader that waited long enough is elected once more, above a ballot that
    /// a peer has promised.
    pub(super) fn tick_outbidding(&mut self) {
        let leads = self.ballot_if_leading();
        let Some((above, ballot)) = self.outbidding.tick(leads).zip(leads) else { return };
        let Some(n) = self.leaps.towards(above.n) else { return };
        // The library goes one above the ballot it promised. So it promises the peer's ballot, but
        // the promise is sent to no peer: a promise is always safe.
        let position = |index: u64| usize::try_from(index).expect("indexes fit the address space");
        let (accepted_idx, decided_idx) = (position(self.accepted()), position(self.decided()));
        let n = Ballot { n, ..above };
        let msg = PaxosMsg::Prepare(Prepare { n, n_accepted: ballot, accepted_idx, decided_idx });
        let Some(from) = (1..=self.configuration.members.len() as u64).find(|it| *it != self.slot)
        else {
            return;
        };
        self.give(Message::SequencePaxos(PaxosMessage { from, to: self.slot, msg }));
        self.lead();
        self.drop_stale_promises();
    }
}

/// Returns the acceptance that a message reports, and the slot it is from.
fn acceptance(message: &Message<Entry>) -> Option<(u64, Accepted)> {
    match message {
        Message::SequencePaxos(PaxosMessage {
            from, msg: PaxosMsg::Accepted(accepted), ..
        }) => Some((*from, *accepted)),
        _ => None,
    }
}
