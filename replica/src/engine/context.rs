//! Pure: the context in which the engine's parts work: the facts that all of them read, and the
//! outputs of the turn.
//!
//! Guarantees that a peer is answered only on the session that its request came by. Does not know
//! the parts.

use kvorum_protocol::message::{Answer, Refusal, ServerFrame};
use kvorum_protocol::status::{Configuration, ReplicaId};

use super::consensus::Consensus;
use super::message::{Origin, Output, PeerMessage, Session};
use super::notice::Notice;
use super::peers::Peers;
use super::reads::Read;
use super::rules::{Options, Rules};
use super::standing::Standings;
use crate::entry::Entry;
use crate::snapshot::Quarantine;
use crate::storage::Store;

/// The facts that all parts of the engine read, and the outputs of the turn.
pub(super) struct Context<S: Store> {
    pub(super) store: S,
    pub(super) rules: Rules,
    pub(super) options: Options,
    pub(super) me: ReplicaId,
    pub(super) configuration: Configuration,
    /// The index after which the configuration began.
    pub(super) began: u64,
    /// `None` while the replica does not vote.
    pub(super) consensus: Option<Consensus<S::Log>>,
    pub(super) peers: Peers,
    /// The standing of each peer: whether it is a member, was one, or joins.
    pub(super) standings: Standings,
    /// The reason why the state must not be used, if there is one; the same as in the store.
    pub(super) quarantine: Option<Quarantine>,
    /// Ticks since the start.
    pub(super) now: u64,
    pub(super) outputs: Vec<Output>,
}

impl<S: Store> Context<S> {
    /// Creates the context of a replica from its store.
    pub(super) fn new(store: S, options: Options, rules: Rules) -> Self {
        let me = store.identity().replica;
        let chain = store.chain();
        Self {
            rules,
            options,
            me,
            peers: Peers::new(&chain, me, options.newest, &store),
            standings: Standings::of(&chain),
            quarantine: store.quarantine(),
            consensus: None,
            now: 0,
            began: chain.began,
            configuration: chain.current,
            outputs: Vec::new(),
            store,
        }
    }

    /// Adds an output.
    pub(super) fn push(&mut self, output: Output) {
        self.outputs.push(output);
    }

    /// Reports an event to the operator.
    pub(super) fn notice(&mut self, notice: Notice) {
        self.outputs.push(Output::Notice(notice));
    }

    /// Proposes an entry of this replica's own, if it votes.
    pub(super) fn propose(&mut self, entry: Entry) {
        if let Some(consensus) = &mut self.consensus {
            consensus.propose(vec![entry]);
        }
    }

    /// Publishes the known replicas, to which links may be needed.
    pub(super) fn tell_known(&mut self) {
        let known = self.peers.known();
        self.push(Output::Known(known));
    }

    /// Sends an answer to the origin of a request. A refusal may repeat what a peer sent: it is
    /// bounded.
    pub(super) fn answer(&mut self, origin: Origin, answer: Answer) {
        let answer = match answer {
            Answer::Refused(refusal) => Answer::Refused(refusal.bounded()),
            answer => answer,
        };
        match origin {
            Origin::Client { client, call } => {
                self.push(Output::Frame { client, frame: ServerFrame::Answer { call, answer } });
            }
            Origin::Peer { peer, session, call } => {
                self.reply(peer, session, PeerMessage::RelayAnswer { call, answer });
            }
        }
    }

    /// Replies to a peer, unless the session that its request came by is over: the process that
    /// asked may have been replaced by one that uses the same numbers.
    pub(super) fn reply(&mut self, to: ReplicaId, session: Session, message: PeerMessage) {
        if self.peers.session(to) == Some(session) {
            self.push(Output::Send { to, message });
        }
    }

    /// Refuses a read to its origin: a client, or a follower that wanted an index.
    pub(super) fn refuse_read(&mut self, read: &Read, refusal: Refusal) {
        match (read.origin, &read.request) {
            (Origin::Peer { peer, session, call }, None) => {
                let message = PeerMessage::ReadIndexAnswer { call, index: Err(refusal.bounded()) };
                self.reply(peer, session, message);
            }
            (origin, _) => self.answer(origin, Answer::Refused(refusal)),
        }
    }

    /// Refuses reads, all for the same reason.
    pub(super) fn refuse_reads(&mut self, reads: &[Read], refusal: &Refusal) {
        for read in reads {
            self.refuse_read(read, refusal.clone());
        }
    }
}
