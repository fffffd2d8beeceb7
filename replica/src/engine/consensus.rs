//! Pure: the instance that decides in one configuration: the consensus library, with its pitfalls
//! fenced off, or a single replica.
//!
//! Guarantees that only whitelisted messages pass, in either direction; that a message's sender and
//! receiver match the link that it came by; and that proposals are made only while this replica
//! leads in the accept phase. Does not know links: it works with slots and replicas.

mod acceptances;
mod handling;
mod leaps;
pub(super) mod log_sync;
mod outbidding;
pub(super) mod patience;
pub(super) mod promises;
pub(super) mod solo;
pub(super) mod whitelist;

use std::collections::{BTreeMap, BTreeSet};

use kvorum_protocol::status::{Configuration, ReplicaId};
use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::messages::Message;
use omnipaxos::messages::sequence_paxos::{Compaction, PaxosMessage, PaxosMsg, Prepare, Promise};
use omnipaxos::storage::Storage;
use omnipaxos::util::LogEntry;
use omnipaxos::{ClusterConfig, OmniPaxos, ServerConfig};

use super::Rules;
use super::message::After;
use crate::limits::READ_ENTRIES;
use crate::state::entry::Entry;
use acceptances::Acceptances;
use patience::{Patience, ROUND_TICKS};
use promises::Promises;
use solo::SoleVoter;
use whitelist::condition;

pub use handling::Handled;
use leaps::Leaps;
use outbidding::Outbidding;

/// The round of the ballot with which the leader of a configuration goes on to lead the next one.
const LEADS_ON_ROUND: u32 = 2;

/// Ticks for which the members of a new configuration leave its first election to the leader of the
/// previous one. That leader may be the first to enter and have no majority for a moment; a member
/// that enters before the leader hears of a majority would take leadership over, in the end the one
/// with the highest slot. Three rounds: one to be heard, one to be answered, one to spare. If that
/// leader died, the election of another is delayed by as much.
const HOLD_BACK_TICKS: u64 = 3 * ROUND_TICKS;

/// Ticks after which an unanswered Prepare or Promise is sent again. Links lose nothing without
/// breaking, and then both sides start over; so this is a last resort, and rare enough never to
/// overlap a long synchronization.
const RESEND_TICKS: u64 = 250;

/// The initial capacity of the library's buffer, in messages.
const BUFFER_MESSAGES: usize = 1024;

/// The implementation that decides.
#[expect(clippy::large_enum_variant, reason = "a replica has one")]
enum Instance<L: Storage<Entry>> {
    /// The library, in a configuration of two or more.
    Paxos(OmniPaxos<Entry, L>),
    /// A single replica.
    Solo(SoleVoter<L>),
}

impl<L: Storage<Entry>> Instance<L> {
    /// Returns the highest ballot promised.
    fn promise(&self) -> Ballot {
        match self {
            Self::Paxos(paxos) => paxos.get_promise(),
            Self::Solo(solo) => solo.ballot(),
        }
    }
}

/// The messages taken in during this turn, and those that wait until the next turn begins.
#[derive(Default)]
struct PutOff {
    /// Whether a candidate's Prepare was taken.
    has_prepare: bool,
    /// The highest Prepare that has to wait, and the slot it is from.
    prepare: Option<(u64, Prepare)>,
    /// The slots whose promises to this replica's ballot were taken.
    promised: BTreeSet<u64>,
    /// The last promise that has to wait, by slot.
    promises: BTreeMap<u64, Promise<Entry>>,
}

/// The instance of one configuration.
pub struct Consensus<L: Storage<Entry>> {
    instance: Instance<L>,
    configuration: Configuration,
    slot: u64,
    /// The ballot in which this replica leads, and the read barrier: its accepted index when it
    /// entered the accept phase.
    leading: Option<(Ballot, u64)>,
    acceptances: Acceptances,
    buffer: Vec<Message<Entry>>,
    dropped: u64,
    rules: Rules,
    /// Ticks for which this replica still leaves elections to others.
    held_back: u64,
    patience: Patience,
    /// The promises to this replica's own ballot, while it is a candidate.
    promises: Option<Promises>,
    put_off: PutOff,
    leaps: Leaps,
    outbidding: Outbidding,
}

impl<L: Storage<Entry>> Consensus<L> {
    /// Starts the instance of a configuration from what its log holds.
    ///
    /// # Panics
    /// When `me` is not a member.
    pub fn start(configuration: &Configuration, me: ReplicaId, log: L, rules: Rules) -> Self {
        let slot = configuration.members.iter().position(|member| member.replica == me);
        let slot = slot.expect("a replica starts only configurations that it is a member of");
        let slot = slot as u64 + 1;
        let instance = match configuration.members.len() {
            1 => {
                Instance::Solo(SoleVoter::start(configuration.id, log, rules.solo_waits_for_sync()))
            }
            _ => Instance::Paxos(Self::paxos(configuration, slot, log)),
        };
        let patience = Patience::new(configuration.members.len());
        let (configuration, buffer) = (configuration.clone(), Vec::new());
        let leaps = Leaps::from(instance.promise().n);
        Self {
            instance,
            configuration,
            slot,
            leading: None,
            acceptances: Acceptances::default(),
            buffer,
            dropped: 0,
            rules,
            held_back: 0,
            patience,
            promises: None,
            put_off: PutOff::default(),
            leaps,
            outbidding: Outbidding::default(),
        }
    }

    fn paxos(configuration: &Configuration, slot: u64, log: L) -> OmniPaxos<Entry, L> {
        let slots = 1..=configuration.members.len() as u64;
        let cluster = ClusterConfig {
            configuration_id: configuration.id.0,
            nodes: slots.collect(),
            flexible_quorum: None,
        };
        let server = ServerConfig {
            pid: slot,
            election_tick_timeout: ROUND_TICKS,
            resend_message_tick_timeout: RESEND_TICKS,
            buffer_size: BUFFER_MESSAGES,
            ..ServerConfig::default()
        };
        cluster
            .build_for_server(server, log)
            .expect("a configuration of two or more with slots from 1 is valid")
    }

    /// Returns how long answers took lately.
    #[must_use]
    pub fn patience(&self) -> &Patience {
        &self.patience
    }

    /// Adopts the answer times that another configuration's instance saw.
    pub fn learn_patience(&mut self, seen: &Patience) {
        self.patience.learn(seen);
    }

    /// Returns the instance of a configuration of one.
    pub fn solo(&mut self) -> Option<&mut SoleVoter<L>> {
        match &mut self.instance {
            Instance::Solo(solo) => Some(solo),
            Instance::Paxos(_) => None,
        }
    }

    /// Leaves the first elections to the leader of the previous configuration, for a while.
    pub fn hold_back(&mut self) {
        self.held_back = HOLD_BACK_TICKS;
    }

    /// Lets a tick pass, at `speed` times the normal speed; as slowly as may be while it is quiet.
    pub fn tick(&mut self, speed: u64, is_quiet: bool) {
        self.leaps.tick();
        self.tick_outbidding();
        let held = self.held_back.min(speed);
        self.held_back -= held;
        if let Instance::Paxos(paxos) = &mut self.instance {
            for _ in 0..self.patience.tick(speed - held, is_quiet) {
                paxos.tick();
            }
        }
        self.account();
    }

    /// Starts over any exchange that was under way with a peer: a session of the link to it began.
    pub fn reconnected(&mut self, peer: ReplicaId) {
        if let (Instance::Paxos(paxos), Some(index)) =
            (&mut self.instance, position_of(&self.configuration, peer))
        {
            paxos.reconnected(index as u64 + 1);
            self.acceptances.forget(index as u64 + 1);
        }
    }

    /// Proposes entries, in order.
    ///
    /// # Panics
    /// When this replica does not lead: the library would forward them, and lose some.
    pub fn propose(&mut self, entries: Vec<Entry>) {
        assert!(self.ballot_if_leading().is_some(), "proposals are made at the leader only");
        match &mut self.instance {
            Instance::Solo(solo) => solo.propose(entries),
            // Addressed to itself, the library's own forwarding message is a batched append: one
            // write and one message to each follower.
            Instance::Paxos(paxos) => {
                paxos.handle_incoming(Message::SequencePaxos(PaxosMessage {
                    from: self.slot,
                    to: self.slot,
                    msg: PaxosMsg::ProposalForward(entries),
                }));
            }
        }
    }

    /// Tries to lead, regardless of the current leader.
    pub fn lead(&mut self) {
        if let Instance::Paxos(paxos) = &mut self.instance {
            paxos.try_become_leader();
        }
        self.account();
    }

    /// Tries to lead at the request of others, which must not use up the ballot numbers.
    pub fn lead_if_asked(&mut self) {
        if !self.leaps.is_far(self.promise().n + 1) {
            self.lead();
        }
    }

    /// Accounts for how far the number of the promised ballot was raised.
    fn account(&mut self) {
        self.leaps.reached(self.promise().n);
    }

    /// Continues to lead in a new configuration, as the leader of the previous one. All of its
    /// members begin with a ballot of the first round, and the highest slot has the highest: so
    /// this one is of the second round.
    pub fn lead_on(&mut self) {
        while matches!(self.instance, Instance::Paxos(_)) && self.promise().n < LEADS_ON_ROUND {
            self.lead();
        }
    }

    /// Returns the ballot in which this replica leads in the accept phase.
    #[must_use]
    pub fn ballot_if_leading(&self) -> Option<Ballot> {
        let leads = match &self.instance {
            Instance::Paxos(paxos) => paxos.get_current_leader() == Some((self.slot, true)),
            Instance::Solo(solo) => solo.may_decide(),
        };
        leads.then(|| self.promise())
    }

    /// Checks whether this replica began or stopped leading since the last call: returns the ballot
    /// before and the one now. To be called after every message, so that the barrier is set in
    /// time.
    pub fn observe(&mut self) -> (Option<Ballot>, Option<Ballot>) {
        let before = self.leading.map(|(ballot, _)| ballot);
        let now = self.ballot_if_leading();
        if before != now {
            self.leading = now.map(|ballot| (ballot, self.accepted()));
        }
        (before, now)
    }

    /// Returns the smallest index at which a read is linearizable, once a majority confirms that it
    /// still promises the ballot. `decided` alone may be behind what an earlier leader
    /// acknowledged; the end of the log when the accept phase began is not.
    #[must_use]
    pub fn read_index(&self) -> Option<(Ballot, u64)> {
        let (ballot, barrier) = self.leading?;
        let barrier = if self.rules.has_read_barrier() { barrier } else { 0 };
        (self.ballot_if_leading() == Some(ballot)).then(|| (ballot, barrier.max(self.decided())))
    }

    /// Returns the highest ballot promised.
    #[must_use]
    pub fn promise(&self) -> Ballot {
        self.instance.promise()
    }

    /// Returns the replica that leads in the promised ballot, and whether this replica is in step
    /// with it (or leads itself, in the accept phase).
    #[must_use]
    pub fn leader(&self) -> Option<(ReplicaId, bool)> {
        let (slot, is_accepting) = match &self.instance {
            Instance::Paxos(paxos) => paxos.get_current_leader()?,
            Instance::Solo(solo) => (self.slot, solo.may_decide()),
        };
        Some((self.replica_at(slot)?, is_accepting))
    }

    /// Returns the index up to which entries are known to be chosen.
    #[must_use]
    pub fn decided(&self) -> u64 {
        match &self.instance {
            Instance::Paxos(paxos) => paxos.get_decided_idx() as u64,
            Instance::Solo(solo) => solo.decided(),
        }
    }

    /// Returns the index up to which entries are written to the log.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        match &self.instance {
            Instance::Paxos(paxos) => paxos.get_accepted_idx() as u64,
            Instance::Solo(solo) => solo.accepted(),
        }
    }

    /// Returns the index up to which entries are no longer in the log.
    #[must_use]
    pub fn compacted(&self) -> u64 {
        match &self.instance {
            Instance::Paxos(paxos) => paxos.get_compacted_idx() as u64,
            Instance::Solo(solo) => solo.compacted(),
        }
    }

    /// Returns the number of messages that were dropped as invalid.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Returns the index up to which a peer has accepted, as far as this leader knows.
    #[must_use]
    pub fn accepted_by(&self, peer: ReplicaId) -> Option<u64> {
        let slot = usize::try_from(self.slot_of(peer)?).expect("slots are small");
        // The library puts an unused element before slot 1.
        let Instance::Paxos(paxos) = &self.instance else { return None };
        let accepted = paxos.get_ui_states().cluster_state.accepted_indexes;
        accepted.get(slot).map(|index| *index as u64)
    }

    /// Returns the decided entries with indexes `from..=to`.
    ///
    /// # Panics
    /// When they are not all decided and in the log.
    #[must_use]
    pub fn entries(&self, from: u64, to: u64) -> Vec<Entry> {
        let position = |index: u64| usize::try_from(index).expect("indexes fit the address space");
        let paxos = match &self.instance {
            Instance::Paxos(paxos) => paxos,
            Instance::Solo(solo) => return solo.entries(from - 1, to),
        };
        let entries = paxos.read_entries(position(from - 1)..position(to));
        let entries = entries.expect("entries up to the decided index exist").into_iter();
        entries
            .map(|entry| match entry {
                LogEntry::Decided(entry) => entry,
                other => panic!("a decided entry above the compacted index, not {other:?}"),
            })
            .collect()
    }

    /// Returns the decided entries from index `from` on, up to `to` or until they have `bytes`
    /// bytes; the batch that was read last is included as a whole.
    ///
    /// # Panics
    /// As [`Self::entries`].
    #[must_use]
    pub fn entries_within(&self, from: u64, to: u64, bytes: usize) -> Vec<Entry> {
        let (mut entries, mut read, mut next) = (Vec::new(), 0, from);
        while next <= to && read < bytes {
            let few = self.entries(next, to.min(next + READ_ENTRIES as u64 - 1));
            read += few.iter().map(Entry::weight).sum::<usize>();
            next += few.len() as u64;
            entries.extend(few);
        }
        entries
    }

    /// Whether the log holds a stop sign that is not known to be decided.
    #[must_use]
    pub fn has_undecided_seal(&self) -> bool {
        let is_seal = |entry: &LogEntry<Entry>| {
            matches!(entry, LogEntry::Undecided(Entry::StopSign(next))
                if next.id > self.configuration.id)
        };
        match &self.instance {
            Instance::Solo(solo) => solo.has_seal(),
            Instance::Paxos(paxos) => {
                let tail = paxos.read_entries(paxos.get_decided_idx()..paxos.get_accepted_idx());
                tail.is_some_and(|tail| tail.iter().any(is_seal))
            }
        }
    }

    /// Removes entries up to an index from the log. All of them must be applied.
    pub fn compact(&mut self, index: u64) {
        let paxos = match &mut self.instance {
            Instance::Paxos(paxos) => paxos,
            Instance::Solo(solo) => return solo.compact(index),
        };
        let index = usize::try_from(index).expect("indexes fit the address space");
        // The library's own trimming waits for every replica; addressed to itself, the message it
        // sends about it only cuts the log.
        paxos.handle_incoming(Message::SequencePaxos(PaxosMessage {
            from: self.slot,
            to: self.slot,
            msg: PaxosMsg::Compaction(Compaction::Trim(index)),
        }));
    }

    /// Takes the library's outgoing messages. `state_of` returns the index up to which a peer
    /// reported that it has the state.
    pub fn take(
        &mut self,
        state_of: impl Fn(ReplicaId) -> Option<u64>,
        mut send: impl FnMut(ReplicaId, Message<Entry>, After),
    ) {
        let Instance::Paxos(paxos) = &mut self.instance else { return };
        paxos.take_outgoing_messages(&mut self.buffer);
        for mut message in std::mem::take(&mut self.buffer) {
            match (condition(&message), replica_at(&self.configuration, message.get_receiver())) {
                (Some(gate), Some(to)) => {
                    self.patience.sends(&message);
                    Promises::ask(&mut self.promises, &message);
                    if log_sync::complete(paxos, &mut message, state_of(to)) {
                        send(to, message, gate);
                    }
                }
                _ => self.dropped += 1,
            }
        }
        self.take_put_off();
    }

    fn slot_of(&self, replica: ReplicaId) -> Option<u64> {
        position_of(&self.configuration, replica).map(|index| index as u64 + 1)
    }

    fn replica_at(&self, slot: u64) -> Option<ReplicaId> {
        replica_at(&self.configuration, slot)
    }
}

fn position_of(configuration: &Configuration, replica: ReplicaId) -> Option<usize> {
    configuration.members.iter().position(|member| member.replica == replica)
}

fn replica_at(configuration: &Configuration, slot: u64) -> Option<ReplicaId> {
    let index = usize::try_from(slot.checked_sub(1)?).ok()?;
    configuration.members.get(index).map(|member| member.replica)
}

#[cfg(test)]
mod tests;
