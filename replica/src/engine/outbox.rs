//! Pure: collects the outputs of a turn, and checks which peers may still be answered.
//!
//! Guarantees that a peer is answered only on the session that its request came by.

use kvorum_protocol::message::{Answer, Refusal, ServerFrame};
use kvorum_protocol::status::ReplicaId;

use super::Origin;
use super::message::{Output, PeerMessage, Session};
use super::notice::Notice;
use super::peers::Peers;
use super::reads::Read;

/// The outputs of a turn, and the peers that may still be answered.
pub(super) struct Outbox {
    pub(super) outputs: Vec<Output>,
    pub(super) peers: Peers,
}

impl Outbox {
    pub(super) fn push(&mut self, output: Output) {
        self.outputs.push(output);
    }

    pub(super) fn notice(&mut self, notice: Notice) {
        self.outputs.push(Output::Notice(notice));
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
