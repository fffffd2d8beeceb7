//! What must hold at every step.
//!
//! - The decided logs of all replicas agree, and what was decided stays so.
//! - A message tells only what is durable at its sender.
//! - An answered write is durable at a majority.
//! - A read returns nothing older than what was acknowledged before it began.
//! - A request takes effect once, and every answer to it is the same.

use std::collections::BTreeMap;

use kvorum_protocol::data::{Outcome, RequestId};
use kvorum_protocol::status::ReplicaId;
use kvorum_replica::engine::PeerMessage;
use kvorum_replica::entry::Entry;
use kvorum_replica::state_machine::Table;
use kvorum_replica::storage::Store;
use kvorum_replica::storage::memory::Memory;
use omnipaxos::messages::Message;
use omnipaxos::messages::sequence_paxos::PaxosMsg;

use super::node::Node;

#[derive(Default)]
pub struct Checker {
    /// What is decided; index 1 is the first.
    decided: Vec<Entry>,
    /// How far each replica's decided log was compared.
    compared: BTreeMap<ReplicaId, (u64, u64)>,
    outcomes: BTreeMap<RequestId, Outcome>,
    /// By key, the highest revision that was acknowledged or read.
    acknowledged: BTreeMap<Vec<u8>, u64>,
}

impl Checker {
    pub fn decided(&self) -> u64 {
        self.decided.len() as u64
    }

    /// Compares what a replica newly applied with what others have.
    pub fn observe(&mut self, node: &Node) -> Result<(), String> {
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
        let from = *compared + 1;
        let entries = store.decided(store.configuration().id, from, applied, usize::MAX).entries;
        *compared = applied;
        for (index, entry) in (from..).zip(entries) {
            let position = usize::try_from(index - 1).expect("indexes are small");
            match self.decided.get(position) {
                None => self.decided.push(entry),
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

    /// Looks whether what a message tells is durable at its sender.
    pub fn message(disk: &Memory, message: &PeerMessage) -> Result<(), String> {
        let PeerMessage::Paxos { message: Message::SequencePaxos(message), .. } = message else {
            return Ok(());
        };
        let durable = disk.durable_numbers();
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

    /// A write was answered: at that moment a majority must hold it durably.
    pub fn written(
        &mut self,
        id: RequestId,
        key: &[u8],
        outcome: Outcome,
        nodes: &[Node],
    ) -> Result<(), String> {
        if let Some(earlier) = self.outcomes.insert(id, outcome)
            && earlier != outcome
        {
            return Err(format!("{id:?} came to {earlier:?} and to {outcome:?}"));
        }
        let Outcome::Put { revision } = outcome else { return Ok(()) };
        let position = usize::try_from(revision - 1).expect("indexes are small");
        let is_it = |entry: Option<&Entry>| matches!(entry, Some(Entry::Command(c)) if c.id == id);
        if !is_it(self.decided.get(position)) {
            return Err(format!("{id:?} was answered with revision {revision}, which is another"));
        }
        let holders = nodes.iter().filter(|node| is_it(node.disk.durable_entry(revision).as_ref()));
        // A disk that was lost since may have been one of the majority.
        let holders = holders.count() + nodes.iter().filter(|node| node.lost_disk).count();
        if holders <= nodes.len() / 2 {
            return Err(format!("{id:?} was answered with {holders} durable copies"));
        }
        let newest = self.acknowledged.entry(key.to_owned()).or_default();
        *newest = revision.max(*newest);
        Ok(())
    }

    /// The highest revision of a key that a read which begins now must not fall behind.
    pub fn floor(&self, key: &[u8]) -> u64 {
        self.acknowledged.get(key).copied().unwrap_or(0)
    }

    /// A read was answered with this revision; 0 for no such key.
    pub fn read(&mut self, key: &[u8], floor: u64, revision: u64) -> Result<(), String> {
        if revision < floor {
            return Err(format!("a stale read: revision {revision}, after {floor} was known"));
        }
        let newest = self.acknowledged.entry(key.to_owned()).or_default();
        *newest = revision.max(*newest);
        Ok(())
    }

    /// At the end, each replica's state must be what the decided log says.
    pub fn finish(&self, nodes: &[Node]) -> Result<(), String> {
        let mut effects: BTreeMap<RequestId, u32> = BTreeMap::new();
        let mut state: BTreeMap<&[u8], u64> = BTreeMap::new();
        let void = nodes[0]
            .disk
            .decided(nodes[0].disk.configuration().id, 1, self.decided(), usize::MAX)
            .void;
        for (index, entry) in (1..).zip(&self.decided) {
            if let Entry::Command(command) = entry
                && void.binary_search(&index).is_err()
            {
                *effects.entry(command.id).or_default() += 1;
                state.insert(&command.operation.key().0, index);
            }
        }
        if let Some((id, times)) = effects.iter().find(|(_, times)| **times > 1) {
            return Err(format!("{id:?} took effect {times} times"));
        }
        for (id, outcome) in &self.outcomes {
            if matches!(outcome, Outcome::Put { .. }) && effects.get(id) != Some(&1) {
                return Err(format!("{id:?} was acknowledged and is lost"));
            }
        }
        for (key, revision) in state {
            for node in nodes {
                let found = node.disk.key(key).map_or(0, |record| record.revision);
                if found != revision {
                    return Err(format!(
                        "{:?} has revision {found} where {revision} is last",
                        node.id
                    ));
                }
            }
        }
        Ok(())
    }
}
