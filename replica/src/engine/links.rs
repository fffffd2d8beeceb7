//! Pure: handles sessions with peers, and dispatches the messages that come by them.
//!
//! Guarantees that a message of a replaced session has no effect, and that each message reaches its
//! handler. Does not know how a session is made.

use kvorum_protocol::status::{ConfigurationId, ReplicaId};
use omnipaxos::messages::Message;

use super::consensus::Handled;
use super::message::{Look, Origin, Output, PeerMessage, Session};
use super::notice::Notice;
use super::reads::{Question, Read};
use super::{Engine, HURRY_TICKS};
use crate::entry::Entry;
use crate::storage::Store;

impl<S: Store> Engine<S> {
    /// Handles the beginning of a session with a peer.
    pub(super) fn peer_up(&mut self, peer: ReplicaId, session: Session) {
        let old = self.cx.peers.session(peer);
        if !self.cx.peers.up(peer, session) {
            // Only the peer would know of this session, and it would stay for as long as the peer
            // runs.
            self.cx.push(Output::EndSession { peer });
            return;
        }
        if let Some(old) = old {
            self.break_calls(peer, old);
        }
        self.stopping.is_back(peer);
        self.cx.notice(Notice::Linked { peer: self.cx.peers.name(peer).to_owned() });
        if let Some(consensus) = &mut self.cx.consensus {
            consensus.reconnected(peer);
        }
        self.greet(peer);
    }

    /// Handles the end of a session with a peer.
    pub(super) fn peer_down(&mut self, peer: ReplicaId, session: Session) {
        let name = self.cx.peers.name(peer).to_owned();
        if !self.cx.peers.down(peer, session, self.cx.now) {
            return;
        }
        self.cx.notice(Notice::LinkLost { peer: name });
        if !self.cx.peers.knows(peer) {
            // The peer was known for its session only.
            self.cx.tell_known();
            self.forget_strangers();
        }
        self.break_calls(peer, session);
        self.source_lost(peer);
        if self.cx.leader().is_some_and(|(leader, _)| leader == peer) {
            self.hurry_until = self.cx.now + HURRY_TICKS;
            // The leader that was promised may never come back. In recovery this replica asks every
            // peer to be prepared; otherwise it would keep promising the leader that is gone.
            if let Some(consensus) = &mut self.cx.consensus {
                consensus.reconnected(peer);
            }
        }
    }

    /// Handles a message from a peer.
    pub(super) fn peer_message(&mut self, peer: ReplicaId, session: Session, message: PeerMessage) {
        // A frame of a replaced session could make the library forget what it accepted.
        if self.cx.rules.tells_sessions && self.cx.peers.session(peer) != Some(session) {
            self.cx.notice(Notice::Dropped { what: "a frame of an old session" });
            return;
        }
        if !self.listens(peer, &message) {
            return self.turn_away(peer, session, message);
        }
        match message {
            PeerMessage::Paxos { configuration, message } => {
                self.consensus_message(peer, configuration, message);
            }
            PeerMessage::Probe { configuration, ballot, round } => {
                self.probe(peer, configuration, ballot, round);
            }
            PeerMessage::ProbeAnswer { configuration, ballot, round } => {
                let Some(consensus) = &self.cx.consensus else { return };
                if configuration == self.cx.configuration.id {
                    let (promise, quorum) = (consensus.promise(), self.cx.configuration.quorum());
                    let round = if self.cx.rules.tells_rounds { round } else { self.reads.round() };
                    self.reads.confirm(peer, Question { round, ballot }, promise, quorum);
                }
            }
            PeerMessage::Relay { call, request } => self.relayed(peer, session, call, request),
            PeerMessage::RelayAnswer { call, answer } => self.relay_answered(peer, call, answer),
            PeerMessage::ReadIndex { call } => {
                let read = Read::new(Origin::Peer { peer, session, call }, None, self.cx.now);
                self.read_at_leader(read);
            }
            PeerMessage::ReadIndexAnswer { call, index } => self.index_told(peer, call, index),
            PeerMessage::Lead { configuration, ballot } => {
                self.asked_to_lead(configuration, ballot, true);
            }
            PeerMessage::Yield { configuration, ballot } => {
                self.asked_to_lead(configuration, ballot, false);
            }
            PeerMessage::Fetch { call, wanted } => {
                self.fetch(Origin::Peer { peer, session, call }, wanted);
            }
            PeerMessage::Found { call, found } => self.fetched(peer, call, found),
            PeerMessage::HasState { index } => {
                self.cx.peers.has_state(peer, index);
                self.sending.has_state(peer);
            }
            PeerMessage::Over { configuration, index, is_dismissed } => {
                self.hinted(peer, configuration, index, is_dismissed);
                self.over(peer, configuration, index);
            }
            PeerMessage::AskToStop { has_leave } => self.asked_to_stop(peer, has_leave),
            PeerMessage::MayStop => self.may_stop(),
            PeerMessage::Look { number } => {
                self.cx.push(Output::Look(Look { asker: peer, number }));
            }
            PeerMessage::Wanted { wanted, number } => self.told_wanted(wanted, number),
            PeerMessage::Checksum { index, digest } => self.checksum_told(peer, index, digest),
            PeerMessage::Differs { index, sound } => self.differs(index, sound),
            PeerMessage::Epoch { epoch } => self.epoch_told(peer, epoch),
            PeerMessage::EpochKept { epoch } => self.epoch_kept(peer, epoch),
            PeerMessage::AskDisk { number } => self.disk_asked(peer, number),
            PeerMessage::DiskWorks { number } => self.disk_works(number),
        }
    }
    /// Handles a message of the consensus library from a peer.
    fn consensus_message(
        &mut self,
        peer: ReplicaId,
        configuration: ConfigurationId,
        message: Message<Entry>,
    ) {
        if configuration != self.cx.configuration.id {
            return self.other_configuration(peer, configuration);
        }
        let Some(consensus) = &mut self.cx.consensus else { return };
        match consensus.handle(peer, message, self.cx.store.applied()) {
            Handled::Taken => {}
            Handled::Behind { index } => self.is_behind(peer, index),
            Handled::Outrun { ballot } => {
                let message = PeerMessage::Yield { configuration, ballot };
                self.cx.push(Output::Gated { to: peer, message, durable: false });
            }
            Handled::Forged => {
                let what = "a consensus message that must not be";
                self.cx.notice(Notice::Dropped { what });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Input, Options};
    use crate::storage::memory::Memory;
    use crate::version::Version;

    /// Whether a new session with a peer is ended at once.
    fn is_ended(engine: &mut Engine<Memory>, peer: ReplicaId) -> bool {
        engine.step(Input::PeerUp { peer, session: Session(1) });
        let is_its =
            |output: &Output| matches!(output, Output::EndSession { peer: p } if *p == peer);
        let ends = engine.turn(&|_| true).iter().any(is_its);
        assert_eq!(ends, engine.cx.peers.session(peer).is_none());
        ends
    }

    /// Between judging a peer and its session, the members may change and the link be cut.
    #[test]
    fn a_session_that_must_not_be_ends_at_both_ends() {
        let options = Options { allows_faults: true, newest: Version::NEWEST, checksum_ticks: 0 };
        let mut engine = Engine::new(Memory::of_two(1), options);
        let (member, stranger) = (ReplicaId(2), ReplicaId(9));
        assert!(is_ended(&mut engine, stranger), "nobody knows it any more");
        engine.cx.peers.set_cut(member, true);
        assert!(is_ended(&mut engine, member), "the link is cut");
        engine.cx.peers.set_cut(member, false);
        assert!(!is_ended(&mut engine, member));
    }
}
