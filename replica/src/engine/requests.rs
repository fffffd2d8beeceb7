//! Pure: requests from clients, and from followers on behalf of their clients.
//!
//! Guarantees that each request is answered once, that a write is proposed at the leader only, and
//! that a relayed write whose leader falls silent is *unknown*, never *refused*.

pub(super) mod judging;
pub(super) mod proposals;
pub(super) mod reads;
pub(super) mod relays;
mod serving;
pub(super) mod subscriptions;

use kvorum_protocol::data::Operation;
use kvorum_protocol::message::{Answer, Consistency, Refusal, Request, Subscription};
use kvorum_protocol::status::{ConfigurationId, ReplicaId};
use omnipaxos::ballot_leader_election::Ballot;

use super::consensus::Consensus;
use super::context::Context;
use super::health::Health;
use super::message::{After, Origin, Output, PeerMessage, Session};
use super::sending::Sending;
use crate::engine::store::Store;
use crate::limits::TURN_BYTES_MAX;
use crate::state::entry::Command;
use crate::state::rights::User;
use proposals::Proposals;
use reads::{Question, Read, Reads};
use relays::{Broken, Purpose, Relays};
use serving::serve;
use subscriptions::Subscriptions;

/// The requests that are under way, and the subscriptions.
#[derive(Default)]
pub(super) struct Requests {
    pub(super) proposals: Proposals,
    pub(super) reads: Reads,
    relays: Relays,
    pub(super) subscriptions: Subscriptions,
}

impl Requests {
    /// Ends everything that waits for this replica to lead: it no longer does.
    pub(super) fn deposed<S: Store>(&mut self, cx: &mut Context<S>) {
        self.proposals.abandon(&mut |origin, answer| cx.answer(origin, answer));
        let refusal = Refusal::NotLeader { leader: None };
        cx.refuse_reads(&self.reads.abandon(), &refusal);
    }

    /// Restarts the confirmation of reads that were confirmed in the previous configuration, or for
    /// which its leader was asked.
    pub(super) fn start_over<S: Store>(&mut self, cx: &mut Context<S>) {
        let mut reads = self.reads.take_confirmed();
        reads.extend(self.relays.take_reads());
        for read in reads {
            if read.request.is_some() && cx.is_member() {
                self.reads.add(read);
            } else {
                cx.refuse_read(&read, Refusal::NotLeader { leader: None });
            }
        }
    }

    /// Proposes the writes that arrived in this turn, if this replica leads.
    pub(super) fn propose<S: Store>(&mut self, cx: &mut Context<S>) {
        let Some(consensus) = &mut cx.consensus else { return };
        let queue = self.proposals.take_queue();
        if !queue.is_empty() && consensus.ballot_if_leading().is_some() {
            consensus.propose(queue);
        }
    }

    /// Handles a message about a request of a peer's client, or of this replica's.
    pub(super) fn peer_message<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        health: &Health<'_>,
        (peer, session): (ReplicaId, Session),
        message: PeerMessage,
    ) {
        match message {
            PeerMessage::Probe { configuration, ballot, round } => {
                probe(cx, peer, configuration, ballot, round);
            }
            PeerMessage::ProbeAnswer { configuration, ballot, round } => {
                self.probe_answered(cx, peer, configuration, Question { round, ballot });
            }
            PeerMessage::Relay { call, request } => {
                let origin = Origin::Peer { peer, session, call };
                self.relayed(cx, health, (origin, None), request);
            }
            PeerMessage::UserRelay { call, user, request } => {
                let origin = Origin::Peer { peer, session, call };
                self.relayed(cx, health, (origin, Some(user)), request);
            }
            PeerMessage::RelayAnswer { call, answer } => {
                self.relay_answered(cx, peer, call, answer);
            }
            PeerMessage::ReadIndex { call } => {
                let read = Read::new(Origin::Peer { peer, session, call }, None, cx.now);
                self.read_at_leader(cx, read);
            }
            PeerMessage::ReadIndexAnswer { call, index } => self.index_told(cx, peer, call, index),
            _ => {}
        }
    }

    /// Counts a peer's answer to a probe.
    fn probe_answered<S: Store>(
        &mut self,
        cx: &Context<S>,
        peer: ReplicaId,
        configuration: ConfigurationId,
        question: Question,
    ) {
        let Some(consensus) = &cx.consensus else { return };
        if configuration == cx.configuration.id {
            let (promise, quorum) = (consensus.promise(), cx.configuration.quorum());
            let round = if cx.rules.tells_rounds() { question.round } else { self.reads.round() };
            self.reads.confirm(peer, Question { round, ..question }, promise, quorum);
        }
    }

    /// Handles a read or write of a client of this replica. Keys, prefixes and bounds were
    /// validated where the request was received; a write's are validated where it is proposed,
    /// because it may come from a peer.
    pub(super) fn request<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        health: &Health<'_>,
        (origin, user): (Origin, User),
        request: Request,
    ) {
        let consistency = match &request {
            Request::Get { consistency, .. } => *consistency,
            Request::Scan(scan) => scan.consistency,
            Request::Write { .. } => {
                return self.write(cx, health, (origin, user.judged()), request);
            }
            _ => Consistency::Linearizable,
        };
        self.read(cx, health, consistency, Read::new(origin, Some(request), cx.now).by(user));
    }

    /// Opens a subscription of a client.
    pub(super) fn subscribe<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        origin: Origin,
        user: User,
        subscription: Subscription,
        compacted: u64,
    ) {
        let Origin::Client { client, call } = origin else { return };
        let applied = cx.store.applied();
        let opened =
            self.subscriptions.open((client, call), user, subscription, compacted, applied);
        let answer = match opened {
            Ok(from) => Answer::Subscribed { from },
            Err(refusal) => Answer::Refused(refusal),
        };
        cx.answer(origin, answer);
    }

    fn write<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        health: &Health<'_>,
        (origin, user): (Origin, Option<String>),
        request: Request,
    ) {
        if cx.is_leading() {
            self.write_at_leader(cx, health, (origin, user), request);
            return;
        }
        let (leader, session) = match remote_leader(cx, health) {
            Ok(leader) => leader,
            Err(refusal) => return cx.answer(origin, Answer::Refused(refusal)),
        };
        let purpose = Purpose::Write(origin);
        match self.relays.open(leader, session, purpose, request.weight(), cx.now) {
            Ok(call) => {
                let message = match user {
                    Some(user) => PeerMessage::UserRelay { call, user, request },
                    None => PeerMessage::Relay { call, request },
                };
                cx.send(leader, message, After::Nothing);
            }
            Err(_) => cx.answer(origin, Answer::Refused(Refusal::Overloaded)),
        }
    }

    fn write_at_leader<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        health: &Health<'_>,
        (origin, user): (Origin, Option<String>),
        request: Request,
    ) {
        let Request::Write { id, valid_until, operation } = request else { return };
        let refusal = match operation.validate() {
            Err(limit) => Some(Refusal::Limit(limit)),
            // An outcome taken from a state in quarantine could be wrong.
            Ok(()) if !health.proposes() || cx.quarantine.is_some() => Some(Refusal::HandingOver),
            Ok(()) if cx.is_genesis() => health.trouble(cx).map(Refusal::Unavailable),
            Ok(()) if health.disk.is_full() && matches!(operation, Operation::Put { .. }) => {
                Some(health.disk.refusal())
            }
            Ok(()) if judging::is_too_new(cx, &operation) => Some(judging::too_new()),
            Ok(()) => {
                // No replica has reported an index beyond this one; a client that claims one would
                // outlive its lane.
                let accepted = cx.consensus.as_ref().map_or(0, Consensus::accepted);
                let valid_until = valid_until.min(accepted + cx.rules.lanes().session_entries);
                let command = Command { id, valid_until, operation };
                let is_taken = self.proposals.add(origin, user, command, cx.now);
                (!is_taken).then_some(Refusal::Overloaded)
            }
        };
        if let Some(refusal) = refusal {
            cx.answer(origin, Answer::Refused(refusal));
        }
    }

    /// Handles a write that a follower relayed.
    fn relayed<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        health: &Health<'_>,
        (origin, user): (Origin, Option<String>),
        request: Request,
    ) {
        if cx.is_leading() {
            self.write_at_leader(cx, health, (origin, user), request);
        } else {
            let leader = cx.leader_name();
            cx.answer(origin, Answer::Refused(Refusal::NotLeader { leader }));
        }
    }

    /// Answers the caller of a relayed write with the leader's answer.
    fn relay_answered<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        peer: ReplicaId,
        call: u64,
        answer: Answer,
    ) {
        if let Some(Purpose::Write(origin)) = self.relays.close(peer, call) {
            cx.answer(origin, answer);
        }
    }

    fn read<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        health: &Health<'_>,
        consistency: Consistency,
        read: Read,
    ) {
        if let Some(refusal) = health.refuses_reads(cx) {
            cx.refuse_read(&read, refusal);
        } else if consistency == Consistency::Local && self.reads.has_room(&read) {
            // Any state will do: the read is served in this turn, or the next if there is much to
            // serve.
            self.reads.confirm_at(0, vec![read]);
        } else if let (false, Err(refusal)) = (cx.is_leading(), remote_leader(cx, health)) {
            cx.refuse_read(&read, refusal);
        } else {
            self.queue_read(cx, read);
        }
    }

    /// Handles a follower's request for a read index.
    fn read_at_leader<S: Store>(&mut self, cx: &mut Context<S>, read: Read) {
        if cx.is_leading() {
            self.queue_read(cx, read);
        } else {
            let leader = cx.leader_name();
            cx.refuse_read(&read, Refusal::NotLeader { leader });
        }
    }

    fn queue_read<S: Store>(&mut self, cx: &mut Context<S>, read: Read) {
        if self.reads.has_room(&read) {
            self.reads.add(read);
        } else {
            cx.refuse_read(&read, Refusal::Overloaded);
        }
    }

    /// Handles the leader's reply to a request for a read index: the index, or why there is none.
    fn index_told<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        peer: ReplicaId,
        call: u64,
        index: Result<u64, Refusal>,
    ) {
        let Some(Purpose::Reads(reads)) = self.relays.close(peer, call) else { return };
        match index {
            Ok(index) => self.reads.confirm_at(index, reads),
            Err(refusal) => cx.refuse_reads(&reads, &refusal),
        }
    }

    /// Begins to confirm the waiting reads: the leader asks its peers whether they still promise
    /// its ballot, any other replica asks the leader.
    pub(super) fn confirm_reads<S: Store>(&mut self, cx: &mut Context<S>, health: &Health<'_>) {
        let read_index = cx.consensus.as_ref().and_then(Consensus::read_index);
        if let Some(read_index) = read_index {
            let is_alone = cx.configuration.members.len() == 1;
            let asked = self.reads.ask(read_index, cx.now, is_alone);
            let Some(Question { round, ballot }) = asked else { return };
            if is_alone {
                return self.confirm_by_sync(cx, round);
            }
            let configuration = cx.configuration.id;
            let Context { outputs, peers, .. } = cx;
            outputs.extend(peers.connected().map(|peer| {
                let message = PeerMessage::Probe { configuration, ballot, round };
                Output::Send { to: peer, message, after: After::Nothing }
            }));
        } else if self.reads.has_queued() && !self.relays.has_reads() {
            self.ask_leader_for_index(cx, health);
        }
    }

    /// Confirms a lone replica's round by a sync, which shows that it still owns its disk.
    fn confirm_by_sync<S: Store>(&mut self, cx: &mut Context<S>, round: u64) {
        if !cx.rules.solo_waits_for_sync() {
            return self.reads.confirm_synced(round);
        }
        cx.store.touch();
        cx.sync(self.reads.round());
    }

    fn ask_leader_for_index<S: Store>(&mut self, cx: &mut Context<S>, health: &Health<'_>) {
        let reads = self.reads.take_queued();
        let (leader, session) = match remote_leader(cx, health) {
            Ok(leader) => leader,
            Err(refusal) => return cx.refuse_reads(&reads, &refusal),
        };
        match self.relays.open(leader, session, Purpose::Reads(reads), 0, cx.now) {
            Ok(call) => {
                let message = PeerMessage::ReadIndex { call };
                cx.send(leader, message, After::Nothing);
            }
            Err(Purpose::Reads(reads)) => cx.refuse_reads(&reads, &Refusal::Overloaded),
            Err(Purpose::Write(_)) => {}
        }
    }

    /// Serves the reads whose index is applied.
    pub(super) fn serve_reads<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        health: &Health<'_>,
        sending: &mut Sending,
    ) {
        let mut bytes = 0;
        while bytes < TURN_BYTES_MAX
            && let Some((index, read)) = self.reads.next_ready(cx.store.applied())
        {
            match (read.origin, &read.request) {
                (Origin::Peer { peer, session, call }, None) => {
                    let message = PeerMessage::ReadIndexAnswer { call, index: Ok(index) };
                    cx.reply(peer, session, message);
                }
                _ => bytes += serve(cx, health, sending, &read),
            }
        }
    }

    /// Ends the calls that were sent in a session with a peer, because the session ended.
    pub(super) fn break_calls<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        peer: ReplicaId,
        session: Session,
    ) {
        let broken = self.relays.break_session(peer, session);
        settle(cx, broken, &Refusal::NoLeader);
    }

    /// Ends the calls to earlier leaders: this replica has another one, or leads.
    pub(super) fn follows<S: Store>(&mut self, cx: &mut Context<S>, leader: ReplicaId) {
        let superseded = self.relays.supersede(leader);
        settle(cx, superseded, &Refusal::NotLeader { leader: cx.leader_name() });
    }

    /// Ends every write, read and call that has waited too long.
    pub(super) fn expire<S: Store>(&mut self, cx: &mut Context<S>) {
        /// Ticks between two checks; waits are counted in hundreds of ticks.
        const LOOK_TICKS: u64 = 5;
        if !cx.now.is_multiple_of(LOOK_TICKS) {
            return;
        }
        let now = cx.now;
        self.proposals.expire(now, &mut |origin, answer| cx.answer(origin, answer));
        cx.refuse_reads(&self.reads.expire(now), &Refusal::NoQuorum);
        let broken = self.relays.expire(now);
        settle(cx, broken, &Refusal::NoQuorum);
    }
}

/// Returns the leader to relay requests to, when it is another replica with which a session is
/// up.
fn remote_leader<S: Store>(
    cx: &Context<S>,
    health: &Health<'_>,
) -> Result<(ReplicaId, Session), Refusal> {
    let is_out = cx.fences.disowned_by.is_some() || cx.consensus.is_none();
    let trouble = is_out || health.catch_up.is_under_way();
    if let Some(trouble) = health.trouble(cx).filter(|_| trouble) {
        return Err(Refusal::Unavailable(trouble));
    }
    let leader = cx.leader().filter(|(leader, is_in_step)| *is_in_step && *leader != cx.me);
    let Some((leader, _)) = leader else { return Err(Refusal::NoLeader) };
    let session = cx.peers.session(leader).ok_or(Refusal::NoLeader)?;
    Ok((leader, session))
}

/// Answers a leader's probe by the promise that holds now, after the probe arrived.
fn probe<S: Store>(
    cx: &mut Context<S>,
    peer: ReplicaId,
    configuration: ConfigurationId,
    ballot: Ballot,
    round: u64,
) {
    let promises = cx.consensus.as_ref().is_some_and(|c| c.promise() == ballot);
    let is_over = configuration < cx.configuration.id && !cx.rules.reads_know_configuration();
    if (promises && configuration == cx.configuration.id) || is_over {
        let message = PeerMessage::ProbeAnswer { configuration, ballot, round };
        cx.send(peer, message, After::Nothing);
    }
}

/// Answers the callers of calls that ended without the leader's answer.
fn settle<S: Store>(cx: &mut Context<S>, broken: Vec<Broken>, refusal: &Refusal) {
    for broken in broken {
        match broken {
            Broken::Write(origin, answer) => cx.answer(origin, answer),
            Broken::Reads(reads) => cx.refuse_reads(&reads, refusal),
        }
    }
}
