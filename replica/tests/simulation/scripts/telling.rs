//! The lines of a script's output about messages, decisions and notices of replicas.

use kvorum_protocol::status::{Configuration, ReplicaId};
use kvorum_replica::engine::store::LogStore;
use kvorum_replica::engine::{Notice, PeerMessage};
use kvorum_replica::state::machine::Table;

use super::words;
use super::world::World;

impl World {
    pub(super) fn tell_sent(
        &mut self,
        from: ReplicaId,
        to: ReplicaId,
        message: &PeerMessage,
        waits: &str,
    ) {
        if words::is_routine(message) && !self.tells_all {
            return;
        }
        let what = words::message(message, &self.configuration_of(from, message));
        // Repeated messages are written once.
        let last = self.said.insert((from, to), what.clone());
        let repeats = matches!(
            message,
            PeerMessage::ConfigurationOver { .. }
                | PeerMessage::RequestStop { .. }
                | PeerMessage::TransferLeadership { .. }
        );
        if repeats && last.as_ref() == Some(&what) {
            return;
        }
        self.tell(format_args!("{} -> {} {what}{waits}", words::node(from), words::node(to)));
    }

    /// Returns the configuration to which a message's ballots refer.
    pub(super) fn configuration_of(&self, from: ReplicaId, message: &PeerMessage) -> Configuration {
        let current = || self.nodes[&from].disk.chain().current;
        let id = match message {
            PeerMessage::Paxos { configuration, .. }
            | PeerMessage::Probe { configuration, .. }
            | PeerMessage::ProbeAnswer { configuration, .. }
            | PeerMessage::TransferLeadership { configuration, .. }
            | PeerMessage::DeferLeadership { configuration, .. } => *configuration,
            _ => return current(),
        };
        self.configurations.get(&id).cloned().unwrap_or_else(current)
    }

    pub(super) fn notice(&mut self, id: ReplicaId, notice: Notice) {
        let who = words::node(id);
        match notice {
            Notice::Gathered => self.tell(format_args!("{who} votes")),
            Notice::Linked { .. } | Notice::LinkLost { .. } => {}
            Notice::Leading { ballot, accepted } => {
                self.tell(format_args!("{who} leads in b{ballot}, its log has {accepted}"));
            }
            Notice::Deposed { ballot } => {
                self.tell(format_args!("{who} leads no more in b{ballot}"));
            }
            Notice::Following { leader, ballot, .. } => {
                let leader = self.in_words(&leader);
                self.tell(format_args!("{who} follows {leader} in b{ballot}"));
            }
            Notice::Disowned { by } => {
                let by = self.in_words(&by);
                self.tell(format_args!("{who} gives up its vote: {by} knows another disk"));
            }
            Notice::HandingOver { to } => {
                let to = self.in_words(&to);
                self.tell(format_args!("{who} hands over to {to}"));
            }
            Notice::Configuring { id, .. } => {
                self.tell(format_args!("{who} prepares configuration {id}"));
            }
            Notice::Configured { configuration } => {
                let (number, members) =
                    (configuration.id.0, words::members(&configuration.members));
                self.tell(format_args!("{who} is in configuration {number}: {members}"));
            }
            Notice::Compacted { index } => {
                self.tell(format_args!("{who} cuts its log up to {index}"));
            }
            Notice::Behind { of, by } => {
                let of = self.in_words(&of);
                self.tell(format_args!("{who} lacks {by} entries that {of} does not send"));
            }
            Notice::Copied { index, .. } => {
                self.tell(format_args!("{who} has copied the state at {index}"));
            }
            Notice::Quarantined { index } => {
                self.tell(format_args!("{who} puts its state at {index} in quarantine"));
            }
            Notice::Differ { index } => {
                self.tell(format_args!("{who}: the states at {index} differ, no majority agrees"));
            }
            Notice::Dropped { what } => self.tell(format_args!("{who} drops {what}")),
        }
    }

    /// Writes down what a replica decided, and that it may end.
    pub(super) fn observe(&mut self, id: ReplicaId) {
        let Some(status) = self.status(id) else { return };
        self.configurations.insert(status.configuration.id, status.configuration.clone());
        let told = self.told.entry(id).or_default();
        let (from, may_go) = (told.decided + 1, told.may_go);
        (told.decided, told.may_go) = (status.decided.max(from - 1), status.membership.may_go);
        let who = words::node(id);
        if status.decided >= from {
            let entries = self.nodes[&id].disk.decided(from, status.decided, usize::MAX).entries;
            let end = from + entries.len() as u64;
            for (index, entry) in (from..).zip(&entries) {
                self.tell(format_args!("{who} decides {index}: {}", words::entry(entry)));
            }
            if end <= status.decided {
                self.tell(format_args!("{who} has what was decided up to {}", status.decided));
            }
        }
        if status.membership.may_go && !may_go {
            self.tell(format_args!("{who} may go"));
        }
    }
}
