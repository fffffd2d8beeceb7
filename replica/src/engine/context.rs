//! Pure: the context in which the engine's parts work: the facts that all of them read, and the
//! outputs of the turn.
//!
//! Guarantees that a peer is answered only on the session that its request came by. Does not know
//! the parts.

use kvorum_protocol::message::{Answer, Refusal, Request, ServerFrame};
use kvorum_protocol::status::{Configuration, Member, ReplicaId, Role};

use super::consensus::Consensus;
use super::fences::Fences;
use super::message::{After, Origin, Output, PeerMessage, Session, Time};
use super::notice::Notice;
use super::peers::Peers;
use super::rules::{Options, Rules};
use super::standing::{Speaker, Standings, counts};
use crate::engine::consensus::solo::Written;
use crate::engine::requests::reads::Read;
use crate::engine::store::Store;
use crate::planner::{self, Scale};
use crate::state::chain::Standing;
use crate::state::entry::Entry;
use crate::state::rights::User;
use crate::state::snapshot::Quarantine;

/// The most entries that a replica's state may lack for a configuration change to begin, or for the
/// replica to lead: so few arrive within a moment.
pub(super) const LAG_MAX: u64 = 1024;

/// A request that this replica's accounts forbade when it arrived, and that is allowed.
pub(super) struct Cleared {
    pub(super) origin: Origin,
    pub(super) user: User,
    pub(super) request: Request,
}

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
    /// What keeps this replica from voting.
    pub(super) fences: Fences,
    /// The desired replica count, as the orchestrator reported it.
    pub(super) wanted: Option<Scale>,
    /// Ticks since the start.
    pub(super) now: u64,
    /// The time, for reports.
    pub(super) time: Time,
    pub(super) outputs: Vec<Output>,
    /// The requests that turned out to be allowed, to be handled in this turn.
    pub(super) cleared: Vec<Cleared>,
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
            fences: Fences::default(),
            wanted: None,
            now: 0,
            time: Time::default(),
            began: chain.began,
            configuration: chain.current,
            outputs: Vec::new(),
            cleared: Vec::new(),
            store,
        }
    }

    /// Whether this replica is a member of the latest configuration that it knows.
    pub(super) fn is_member(&self) -> bool {
        self.configuration.name_of(self.me).is_some()
    }

    /// Returns this replica's standing in the latest configuration that it knows.
    pub(super) fn standing(&self) -> Standing {
        match self.is_member() {
            true => Standing::Member,
            false => self.store.chain().standing(self.me),
        }
    }

    /// Returns the leader of the promised ballot, and whether this replica is in step with it.
    pub(super) fn leader(&self) -> Option<(ReplicaId, bool)> {
        self.consensus.as_ref()?.leader()
    }

    /// Returns the leader's name, when this replica is in step with it.
    pub(super) fn leader_name(&self) -> Option<String> {
        let (leader, _) = self.leader().filter(|(_, is_in_step)| *is_in_step)?;
        self.configuration.name_of(leader).map(str::to_owned)
    }

    pub(super) fn is_leading(&self) -> bool {
        self.consensus.as_ref().is_some_and(|c| c.ballot_if_leading().is_some())
    }

    /// Returns the standing of a peer.
    pub(super) fn speaker(&self, peer: ReplicaId) -> Speaker {
        match self.standings.speaker(peer) {
            Speaker::Member if self.leader().is_some_and(|(leader, _)| leader == peer) => {
                Speaker::Leader
            }
            speaker => speaker,
        }
    }

    pub(super) fn role(&self) -> Role {
        match self.leader() {
            _ if self.other_disk().is_some() => Role::Outside,
            _ if !self.is_member() => match self.standing() {
                Standing::Joiner | Standing::Member => Role::Joining,
                Standing::Retired => Role::Retired,
            },
            _ if self.consensus.is_none() => Role::Gathering,
            Some((leader, true)) if leader == self.me => Role::Leader,
            Some((leader, false)) if leader == self.me => Role::Candidate,
            Some((_, true)) => Role::Follower,
            Some((_, false)) | None => Role::Recovering,
        }
    }

    /// Whether this replica leads without a link to a majority, so that nothing can be decided.
    pub(super) fn leads_alone(&self) -> bool {
        let linked = self.peers.connected().count() + 1;
        linked < self.configuration.quorum() && self.role() == Role::Leader
    }

    /// Returns the name of the peer, or the marker, that remembers this replica with another disk,
    /// so that this replica does not vote.
    pub(super) fn other_disk(&self) -> Option<&str> {
        let is_out = self.consensus.is_none() && self.is_member();
        let told = self.fences.turned_away_by.as_ref().filter(|_| is_out);
        self.fences.disowned_by.as_ref().or(told).map(String::as_str)
    }

    /// Whether a replica has a link to this one, or is this one.
    pub(super) fn is_there(&self, replica: ReplicaId) -> bool {
        replica == self.me || self.peers.session(replica).is_some()
    }

    /// Whether a replica has the state, apart from entries in flight.
    pub(super) fn has_state(&self, replica: ReplicaId) -> bool {
        let Some(consensus) = &self.consensus else { return false };
        // No replica can have more than exists.
        let told = self.peers.state_of(replica).filter(|index| *index <= self.last_known());
        let accepted = consensus.accepted_by(replica).unwrap_or(0);
        let reach = accepted.max(told.unwrap_or(0));
        replica == self.me || reach.saturating_add(LAG_MAX) >= consensus.decided()
    }

    /// Whether a replica is linked and has the state, apart from entries in flight.
    pub(super) fn is_fit(&self, member: &Member) -> bool {
        self.is_there(member.replica) && self.has_state(member.replica)
    }

    /// Returns the index of the last entry that this replica knows.
    pub(super) fn last_known(&self) -> u64 {
        let accepted = self.consensus.as_ref().map_or(0, Consensus::accepted);
        accepted.max(self.store.applied())
    }

    /// Whether the cluster has never served: it was created with one member, whatever count is
    /// wanted.
    pub(super) fn is_genesis(&self) -> bool {
        self.began == 0 && self.configuration.id.0 == 1 && self.configuration.members.len() == 1
    }

    /// Whether this replica is a member, and its disk is the one that the others remember.
    pub(super) fn may_vote(&self) -> bool {
        // Members that were added later have ids that no other disk ever had.
        let has_met = self.began > 0 || self.peers.have_all_met();
        self.is_member() && has_met && self.fences.disowned_by.is_none()
    }

    /// Whether this replica's configuration is over, according to the marker.
    pub(super) fn is_over(&self) -> bool {
        self.configuration.id < self.fences.latest && self.rules.heeds_latest()
    }

    /// Whether a message from a peer counts.
    pub(super) fn listens(&self, peer: ReplicaId, message: &PeerMessage) -> bool {
        let speaker = self.speaker(peer);
        counts(message, speaker, self.configuration.id) || !self.rules.knows_speakers()
    }

    /// Rejects a message that does not count. A peer that relays a client's request gets a refusal;
    /// any other ends its session or asks again.
    pub(super) fn turn_away(&mut self, peer: ReplicaId, session: Session, message: PeerMessage) {
        let refusal = Refusal::NotLeader { leader: None };
        match message {
            PeerMessage::Relay { call, .. } | PeerMessage::UserRelay { call, .. } => {
                let origin = Origin::Peer { peer, session, call };
                self.answer(origin, Answer::Refused(refusal));
            }
            PeerMessage::ReadIndex { call } => {
                let read = Read::new(Origin::Peer { peer, session, call }, None, self.now);
                self.refuse_read(&read, refusal);
            }
            _ => {}
        }
    }

    /// Whether the desired replica count is known, and leaves the replica of this name out.
    pub(super) fn is_unwanted(&self, name: &str) -> bool {
        let wanted = self.wanted.zip(planner::ordinal(name));
        wanted.is_some_and(|(wanted, ordinal)| !wanted.has(ordinal))
    }

    /// Requests a sync that covers everything so far, and the reads up to a round.
    pub(super) fn sync(&mut self, round: u64) {
        let written = self.consensus.as_ref().map(Consensus::written);
        let (ballot, index) = written.unwrap_or_default();
        self.outputs.push(Output::Sync(Written {
            configuration: self.configuration.id,
            ballot,
            index,
            round,
            epoch: self.store.epoch(),
        }));
    }

    /// Requests a sync if this replica leads, and has written something that no sync was requested
    /// for yet.
    pub(super) fn sync_written(&mut self, round: u64) {
        if self.consensus.as_mut().is_some_and(Consensus::take_unsynced) {
            self.sync(round);
        }
    }

    /// Sends a message to a peer.
    pub(super) fn send(&mut self, to: ReplicaId, message: PeerMessage, after: After) {
        self.outputs.push(Output::Send { to, message, after });
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

    /// Cuts or heals the link to a peer.
    pub(super) fn set_cut(&mut self, peer: &str, is_cut: bool) -> Result<(), Refusal> {
        let peer = self.peers.named(peer)?;
        self.peers.set_cut(peer, is_cut);
        if is_cut {
            self.push(Output::EndSession { peer });
        }
        Ok(())
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
            self.send(to, message, After::Nothing);
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
