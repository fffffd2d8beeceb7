//! The invariants that are checked at every step.
//!
//! - The decided logs of all replicas agree, and decided entries never change.
//! - A message reports only facts that are durable at its sender.
//! - What is decided is durable at a majority, and so is an acknowledged write.
//! - When a configuration ends, a majority of the next one durably has all entries decided in it.
//! - A program is sent nothing that only newer ones know.
//! - A request takes effect once, and every answer to it is the same.
//!
//! And at the end: the clients' history is linearizable, no acknowledged write is lost, and all
//! replicas have the same state.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_protocol::data::{Operation, Outcome, RequestId};
use kvorum_protocol::status::{Configuration, ReplicaId};
use kvorum_replica::engine::PeerMessage;
use kvorum_replica::engine::store::{Decided, LogStore};
use kvorum_replica::state::entry::Entry;
use kvorum_replica::state::machine::Table;
use kvorum_replica::state::snapshot::FetchResponse;
use kvorum_replica::state::version::Version;
use kvorum_replica::storage::memory::Memory;
use omnipaxos::messages::Message;
use omnipaxos::messages::sequence_paxos::PaxosMsg;

use super::node::Node;
use super::rules::Rules;

/// Entries before a stop sign that are checked at the next members; a member that has them has all.
const HEIRS_ENTRIES: usize = 64;

pub struct Checker {
    /// The decided entries; index 1 is the first.
    decided: Vec<Entry>,
    /// By replica: its life, and the index up to which its decided log was compared.
    compared: BTreeMap<ReplicaId, (u64, u64)>,
    outcomes: BTreeMap<RequestId, Outcome>,
    /// The entries that changed no key, according to the first replica that applied them.
    void: BTreeSet<u64>,
    /// The members of each configuration, and the index after which it began.
    configurations: Vec<(u64, Vec<ReplicaId>)>,
}

/// Returns the entries of one or more configurations, as far as they are there.
fn all_decided(store: &Memory, from: u64, to: u64) -> Decided {
    let mut all = Decided::default();
    loop {
        let next = from + all.entries.len() as u64;
        let more = store.decided(next, to, usize::MAX);
        if next > to || more.entries.is_empty() {
            return all;
        }
        all.entries.extend(more.entries);
        all.void.extend(more.void);
    }
}

impl Checker {
    pub fn new(replicas: u64) -> Self {
        Self {
            decided: Vec::new(),
            compared: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            void: BTreeSet::new(),
            configurations: vec![(0, (1..=replicas).map(ReplicaId).collect())],
        }
    }

    /// Returns the members of the last configuration.
    pub fn members(&self) -> &[ReplicaId] {
        &self.configurations.last().expect("there is a first").1
    }

    /// Whether a replica is a member, or ever was.
    pub fn was_member(&self, id: ReplicaId) -> bool {
        self.configurations.iter().any(|(_, members)| members.contains(&id))
    }

    /// Returns the number of configurations so far.
    pub fn configurations(&self) -> usize {
        self.configurations.len()
    }

    /// Whether the last configuration has decided an entry: from then on its majority holds all.
    pub fn lives(&self) -> bool {
        self.configurations.last().is_some_and(|(began, _)| self.decided() > *began)
    }

    /// Returns the members when an index was decided.
    fn members_at(&self, index: u64) -> &[ReplicaId] {
        let mut latest_first = self.configurations.iter().rev();
        let found = latest_first.find(|(began, _)| *began < index);
        &found.expect("the first began before any index").1
    }

    pub fn decided(&self) -> u64 {
        self.decided.len() as u64
    }

    /// Compares the entries that a replica newly applied with those of the others.
    pub fn observe(&mut self, place: usize, nodes: &[Node], rules: &Rules) -> Result<(), String> {
        let node = &nodes[place];
        let Some(process) = &node.process else { return Ok(()) };
        let applied = process.engine.applied();
        let (life, compared) = self.compared.entry(node.id).or_default();
        if *life != node.life {
            // Applied entries may be lost in a crash; they are decided again, and compared again.
            (*life, *compared) = (node.life, 0);
        }
        if applied <= *compared {
            return Ok(());
        }
        let store = process.engine.store();
        // Entries that were compacted, or came with a copied state, were compared when others
        // applied them; and the state is compared at the end.
        let compacted = process.engine.status().compacted.max(store.copied_at());
        let from = (*compared).max(compacted) + 1;
        // A replica that starts may apply what nobody was seen to apply, also in a configuration
        // that is over by now.
        let unseen = self.decided.len() as u64 + 1;
        let is_there = (store.copied_at() + 1..from).contains(&unseen)
            && !store.decided(unseen, unseen, usize::MAX).entries.is_empty();
        let from = if is_there { unseen } else { from };
        *compared = applied;
        if from > applied {
            return Ok(());
        }
        let Decided { entries, void } = all_decided(store, from, applied);
        if from + entries.len() as u64 != applied + 1 {
            let count = entries.len();
            let (role, since) = (process.role(), store.copied_at());
            return Err(format!(
                "{:?} ({role:?}) has {count} of the entries {from}..={applied}, a state copied at \
                 {since}, and a log after {compacted}",
                node.id
            ));
        }
        let first = self.decided.len() as u64 + 1;
        self.void.extend(void.into_iter().filter(|index| *index >= first));
        for (index, entry) in (from..).zip(entries) {
            let position = usize::try_from(index - 1).expect("indexes are small");
            match self.decided.get(position) {
                None if position > self.decided.len() => {
                    return Err(format!("entries before {index} were applied by nobody"));
                }
                None => {
                    if let Entry::StopSign(next) = &entry
                        && self.seal(index, next)
                        && rules.checks_seals
                    {
                        self.heirs_have(index - 1, nodes)?;
                    }
                    if rules.checks_messages {
                        self.is_durable(index, &entry, nodes)?;
                    }
                    self.decided.push(entry);
                }
                Some(known) if *known == entry => {}
                Some(known) => {
                    return Err(format!(
                        "disagreement at index {index}: {known:?}, and {:?} has {entry:?}",
                        node.id
                    ));
                }
            }
        }
        Ok(())
    }

    /// Records a decided stop sign, and returns whether it is the first of its configuration.
    fn seal(&mut self, index: u64, next: &Configuration) -> bool {
        let is_first = next.id.0 as usize == self.configurations.len() + 1;
        if is_first {
            let members = next.members.iter().map(|member| member.replica).collect();
            self.configurations.push((index, members));
        }
        is_first
    }

    /// Checks that a majority of those who decided an entry durably has it.
    fn is_durable(&self, index: u64, entry: &Entry, nodes: &[Node]) -> Result<(), String> {
        let members = self.members_at(index);
        // A disk that was lost since may have been one of the majority.
        let has =
            |node: &&Node| node.lost_disk || node.disk.durably_has(index, |theirs| theirs == entry);
        let voters = nodes.iter().filter(|node| members.contains(&node.id));
        let holders = voters.filter(has).count();
        match holders > members.len() / 2 {
            true => Ok(()),
            false => Err(format!("{index} was decided with {holders} durable copies")),
        }
    }

    /// Checks that a majority of the last configuration durably has the last entries before it.
    fn heirs_have(&self, last: u64, nodes: &[Node]) -> Result<(), String> {
        let members = self.members();
        let entries = || self.decided.iter().enumerate().rev().take(HEIRS_ENTRIES);
        let has = |node: &&Node| {
            let mut entries = entries().map(|(position, entry)| (position as u64 + 1, entry));
            let has = |(index, entry)| node.disk.durably_has(index, |theirs| theirs == entry);
            node.lost_disk || entries.all(has)
        };
        let heirs = nodes.iter().filter(|node| members.contains(&node.id));
        let holders = heirs.filter(has).count();
        match holders > members.len() / 2 {
            true => Ok(()),
            false => Err(format!(
                "a configuration ended at {last}, and {holders} of {members:?} have all of it"
            )),
        }
    }

    /// Checks that the facts which a message reports are durable at its sender.
    pub fn message(disk: &Memory, message: &PeerMessage) -> Result<(), String> {
        let PeerMessage::Paxos { configuration, message: Message::SequencePaxos(message) } =
            message
        else {
            return Ok(());
        };
        // A message in a configuration that its sender has left has no effect.
        if *configuration < disk.chain().current.id {
            return Ok(());
        }
        let durable = disk.durable_numbers(*configuration);
        let (promise, round) = (durable.promise, durable.accepted_round);
        let is_durable = match &message.msg {
            PaxosMsg::Prepare(prepare) => promise >= Some(prepare.n),
            PaxosMsg::Promise(sent) => promise >= Some(sent.n),
            PaxosMsg::Accepted(sent) => {
                round > Some(sent.n)
                    || (round == Some(sent.n) && durable.accepted >= sent.accepted_idx)
            }
            PaxosMsg::AcceptSync(sent) => {
                round > Some(sent.n)
                    || (round == Some(sent.n)
                        && durable.accepted >= sent.log_sync.sync_idx + sent.log_sync.suffix.len())
            }
            _ => true,
        };
        if is_durable { Ok(()) } else { Err(format!("{message:?} left with {durable:?} durable")) }
    }

    /// Checks that a program knows all that it is sent.
    pub fn is_known(message: &PeerMessage, newest: Version) -> Result<(), String> {
        let entries: &[Entry] = match message {
            PeerMessage::Paxos { message: Message::SequencePaxos(message), .. } => {
                match &message.msg {
                    PaxosMsg::AcceptDecide(sent) => &sent.entries,
                    PaxosMsg::AcceptSync(sent) => &sent.log_sync.suffix,
                    PaxosMsg::Promise(sent) => {
                        sent.log_sync.as_ref().map_or(&[], |sync| &sync.suffix)
                    }
                    _ => &[],
                }
            }
            PeerMessage::Fetched { found: FetchResponse::Entries { entries, .. }, .. } => entries,
            _ => &[],
        };
        let is_newer =
            matches!(message, PeerMessage::Checksum { .. } | PeerMessage::StateDiffers { .. })
                && newest < Version::CHECKSUMS;
        match entries.iter().find(|entry| entry.version() > newest) {
            None if !is_newer => Ok(()),
            _ => Err(format!("a program of version {newest} is sent {message:?}")),
        }
    }

    /// Records the answer to a write: at that moment a majority must hold the write durably.
    pub fn written(
        &mut self,
        id: RequestId,
        outcome: Outcome,
        nodes: &[Node],
    ) -> Result<(), String> {
        if let Some(earlier) = self.outcomes.insert(id, outcome)
            && earlier != outcome
        {
            return Err(format!("{id:?} came to {earlier:?} and to {outcome:?}"));
        }
        let (Outcome::Put { revision } | Outcome::Deleted { revision, .. }) = outcome else {
            return Ok(());
        };
        let position = usize::try_from(revision - 1).expect("indexes are small");
        let is_it = |entry: &Entry| entry.command().is_some_and(|command| command.id == id);
        if !self.decided.get(position).is_some_and(is_it) {
            return Err(format!("{id:?} was answered with revision {revision}, which is another"));
        }
        let members = self.members_at(revision);
        let voters = || nodes.iter().filter(|node| members.contains(&node.id));
        let holders = voters().filter(|node| node.disk.durably_has(revision, is_it));
        // A disk that was lost since may have been one of the majority.
        let holders = holders.count() + voters().filter(|node| node.lost_disk).count();
        if holders <= members.len() / 2 {
            return Err(format!("{id:?} was answered with {holders} durable copies"));
        }
        Ok(())
    }

    /// Checks at the end that each replica's state is the one that the decided log leads to.
    pub fn finish(&self, nodes: &[Node]) -> Result<(), String> {
        let disk = &nodes[0].disk;
        if let Some(other) = nodes.iter().find(|node| !node.disk.has_state_of(disk)) {
            return Err(format!("{:?} and {:?} differ in state", nodes[0].id, other.id));
        }
        let mut effects: BTreeMap<RequestId, u32> = BTreeMap::new();
        let mut state: BTreeMap<&[u8], u64> = BTreeMap::new();
        for (index, entry) in (1..).zip(&self.decided) {
            if let Some(command) = entry.command()
                && !self.void.contains(&index)
            {
                *effects.entry(command.id).or_default() += 1;
                match &command.operation {
                    Operation::Put { key, .. } => drop(state.insert(&key.0, index)),
                    Operation::Delete { key, .. } => drop(state.insert(&key.0, 0)),
                    Operation::Access(_) => {}
                }
            }
        }
        if let Some((id, times)) = effects.iter().find(|(_, times)| **times > 1) {
            return Err(format!("{id:?} took effect {times} times"));
        }
        for (id, outcome) in &self.outcomes {
            let changes = match outcome {
                Outcome::Put { .. } => true,
                Outcome::Deleted { existed, .. } => *existed,
                Outcome::ConditionFailed { .. }
                | Outcome::Expired
                | Outcome::AccessChanged
                | Outcome::AccessUnchanged(_)
                | Outcome::Forbidden => false,
            };
            if changes != (effects.get(id) == Some(&1)) {
                return Err(format!("{id:?} was answered with {outcome:?}, and it is not so"));
            }
        }
        for (key, revision) in state {
            let found = disk.key(key).map_or(0, |record| record.revision);
            if found != revision {
                return Err(format!("revision {found} is there where {revision} is last"));
            }
        }
        Ok(())
    }
}
