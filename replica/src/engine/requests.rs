//! Pure: requests from clients, and from followers on behalf of their clients.
//!
//! Guarantees that each request is answered once, that a write is proposed at the leader only, and
//! that a relayed write whose leader falls silent is *unknown*, never *refused*.

use kvorum_protocol::data::{Operation, Value};
use kvorum_protocol::message::{
    Admin, Answer, Consistency, Page, Pair, Refusal, Request, ServerFrame, SnapshotRequest,
    Subscription,
};
use kvorum_protocol::status::{ConfigurationId, ReplicaId};
use omnipaxos::ballot_leader_election::Ballot;

use super::message::{ClientKey, Output, PeerMessage, Session};
use super::reads::{Question, Read};
use super::relays::{Broken, Purpose};
use super::{Context, Engine, Origin};
use crate::entry::Command;
use crate::limits::TURN_BYTES_MAX;
use crate::snapshot::{Cursor, Wanted};
use crate::storage::Store;

impl<S: Store> Engine<S> {
    /// Handles a request from a client of this replica.
    pub(super) fn request(&mut self, client: ClientKey, call: u64, request: Request) {
        let origin = Origin::Client { client, call };
        // Keys, prefixes and bounds were validated where the request was received; a write's are
        // validated where it is proposed, because it may come from a peer.
        match request {
            Request::Write { .. } => self.write(origin, request),
            Request::Get { consistency, .. } => self.read(origin, consistency, request),
            Request::Scan(ref scan) => {
                let consistency = scan.consistency;
                self.read(origin, consistency, request);
            }
            Request::Status => {
                let status = Box::new(self.status());
                self.cx.answer(origin, Answer::Status(status));
            }
            Request::Snapshot(SnapshotRequest::Open) => {
                self.read(origin, Consistency::Linearizable, request);
            }
            Request::Snapshot(SnapshotRequest::Part { snapshot, after }) => {
                match Cursor::read(&after.0) {
                    Some(after) => {
                        let snapshot = snapshot.into();
                        self.fetch(origin, Wanted::Chunk { snapshot, after });
                    }
                    None => self.cx.answer(origin, Answer::Refused(Refusal::SnapshotGone)),
                }
            }
            Request::Snapshot(SnapshotRequest::Close { snapshot }) => {
                self.fetch(origin, Wanted::Close { snapshot: snapshot.into() });
                self.cx.answer(origin, Answer::Done);
            }
            // The code that owns the connection knows them better.
            Request::Addresses => self.cx.answer(origin, Answer::Addresses(Vec::new())),
            Request::Subscribe(subscription) => self.subscribe(client, call, subscription),
            Request::Admin(Admin::Join { name, nonce }) => self.join(origin, name, nonce),
            Request::Admin(admin) => {
                let answer = match self.administer(admin) {
                    Ok(()) => Answer::Done,
                    Err(refusal) => Answer::Refused(refusal),
                };
                self.cx.answer(origin, answer);
            }
        }
    }

    fn subscribe(&mut self, client: ClientKey, call: u64, subscription: Subscription) {
        let compacted = self.compacted();
        let applied = self.cx.store.applied();
        let opened = self.subscriptions.open(client, call, subscription, compacted, applied);
        let answer = match opened {
            Ok(from) => Answer::Subscribed { from },
            Err(refusal) => Answer::Refused(refusal),
        };
        self.cx.push(Output::Frame { client, frame: ServerFrame::Answer { call, answer } });
    }

    fn administer(&mut self, admin: Admin) -> Result<(), Refusal> {
        match admin {
            Admin::Join { .. } => unreachable!("a joiner is told an id, not that all is done"),
            Admin::HandOver { to } if to.is_empty() => self.begin_hand_over(None),
            Admin::HandOver { to } if to == self.cx.store.identity().name => {
                match self.cx.is_leading() {
                    true => Ok(()),
                    false => Err(Refusal::NotLeader { leader: self.cx.leader_name() }),
                }
            }
            Admin::HandOver { to } => {
                let target = self.cx.peers.named(&to)?;
                self.begin_hand_over(Some(target))
            }
            Admin::Cut { .. } | Admin::Heal { .. } | Admin::Crash
                if !self.cx.options.allows_faults =>
            {
                Err(Refusal::FaultsForbidden)
            }
            Admin::Cut { peer } => self.set_cut(&peer, true),
            Admin::Heal { peer } => self.set_cut(&peer, false),
            Admin::Crash => {
                self.cx.push(Output::Crash);
                Ok(())
            }
        }
    }

    fn set_cut(&mut self, peer: &str, is_cut: bool) -> Result<(), Refusal> {
        let peer = self.cx.peers.named(peer)?;
        self.cx.peers.set_cut(peer, is_cut);
        if is_cut {
            self.cx.push(Output::EndSession { peer });
        }
        Ok(())
    }

    /// Returns the leader to relay requests to, when it is another replica with which a session is
    /// up.
    fn remote_leader(&self) -> Result<(ReplicaId, Session), Refusal> {
        let is_out = self.cx.fences.disowned_by.is_some() || self.cx.consensus.is_none();
        let trouble = is_out || self.fetching.is_some();
        if let Some(trouble) = self.trouble().filter(|_| trouble) {
            return Err(Refusal::Unavailable(trouble));
        }
        let leader =
            self.cx.leader().filter(|(leader, is_in_step)| *is_in_step && *leader != self.cx.me);
        let Some((leader, _)) = leader else { return Err(Refusal::NoLeader) };
        let session = self.cx.peers.session(leader).ok_or(Refusal::NoLeader)?;
        Ok((leader, session))
    }

    fn write(&mut self, origin: Origin, request: Request) {
        if self.cx.is_leading() {
            self.write_at_leader(origin, request);
            return;
        }
        let (leader, session) = match self.remote_leader() {
            Ok(leader) => leader,
            Err(refusal) => return self.cx.answer(origin, Answer::Refused(refusal)),
        };
        let purpose = Purpose::Write(origin);
        match self.relays.open(leader, session, purpose, request.weight(), self.cx.now) {
            Ok(call) => {
                let message = PeerMessage::Relay { call, request };
                self.cx.push(Output::Send { to: leader, message });
            }
            Err(_) => self.cx.answer(origin, Answer::Refused(Refusal::Overloaded)),
        }
    }

    fn write_at_leader(&mut self, origin: Origin, request: Request) {
        let Request::Write { id, valid_until, operation } = request else { return };
        let refusal = match operation.validate() {
            Err(limit) => Some(Refusal::Limit(limit)),
            // An outcome taken from a state in quarantine could be wrong.
            Ok(()) if self.hand_over.is_some() || self.cx.quarantine.is_some() || self.stops => {
                Some(Refusal::HandingOver)
            }
            Ok(()) if self.cx.is_genesis() => self.trouble().map(Refusal::Unavailable),
            Ok(()) if self.is_disk_full() && matches!(operation, Operation::Put { .. }) => {
                let (free, reserve) = self.disk;
                Some(Refusal::DiskFull { free, reserve })
            }
            Ok(()) => {
                // No replica has reported an index beyond this one; a client that claims one would
                // outlive its lane.
                let accepted = self.cx.consensus.as_ref().map_or(0, super::Consensus::accepted);
                let valid_until = valid_until.min(accepted + self.cx.rules.lanes.session_entries);
                let command = Command { id, valid_until, operation };
                let is_taken = self.proposals.add(origin, command, self.cx.now);
                (!is_taken).then_some(Refusal::Overloaded)
            }
        };
        if let Some(refusal) = refusal {
            self.cx.answer(origin, Answer::Refused(refusal));
        }
    }

    /// Handles a write that a follower relayed.
    pub(super) fn relayed(
        &mut self,
        peer: ReplicaId,
        session: Session,
        call: u64,
        request: Request,
    ) {
        let origin = Origin::Peer { peer, session, call };
        if self.cx.is_leading() {
            self.write_at_leader(origin, request);
        } else {
            let leader = self.cx.leader_name();
            self.cx.answer(origin, Answer::Refused(Refusal::NotLeader { leader }));
        }
    }

    /// Answers the caller of a relayed write with the leader's answer.
    pub(super) fn relay_answered(&mut self, peer: ReplicaId, call: u64, answer: Answer) {
        if let Some(Purpose::Write(origin)) = self.relays.close(peer, call) {
            self.cx.answer(origin, answer);
        }
    }

    fn read(&mut self, origin: Origin, consistency: Consistency, request: Request) {
        let read = Read::new(origin, Some(request), self.cx.now);
        if let Some(refusal) = self.refuses_reads() {
            self.cx.refuse_read(&read, refusal);
        } else if consistency == Consistency::Local && self.reads.has_room(&read) {
            // Any state will do: the read is served in this turn, or the next if there is much to
            // serve.
            self.reads.confirm_at(0, vec![read]);
        } else if let (false, Err(refusal)) = (self.cx.is_leading(), self.remote_leader()) {
            self.cx.refuse_read(&read, refusal);
        } else {
            self.queue_read(read);
        }
    }

    /// Returns why this replica's state must not be read, or `None` if it may be.
    fn refuses_reads(&self) -> Option<Refusal> {
        let is_closed = self.cx.quarantine.is_some()
            || self.cx.is_genesis()
            || self.cx.fences.disowned_by.is_some();
        self.trouble().filter(|_| is_closed).map(Refusal::Unavailable)
    }

    /// Handles a follower's request for a read index.
    pub(super) fn read_at_leader(&mut self, read: Read) {
        if self.cx.is_leading() {
            self.queue_read(read);
        } else {
            let leader = self.cx.leader_name();
            self.cx.refuse_read(&read, Refusal::NotLeader { leader });
        }
    }

    fn queue_read(&mut self, read: Read) {
        if self.reads.has_room(&read) {
            self.reads.add(read);
        } else {
            self.cx.refuse_read(&read, Refusal::Overloaded);
        }
    }

    /// Handles the leader's reply to a request for a read index: the index, or why there is none.
    pub(super) fn index_told(&mut self, peer: ReplicaId, call: u64, index: Result<u64, Refusal>) {
        let Some(Purpose::Reads(reads)) = self.relays.close(peer, call) else { return };
        match index {
            Ok(index) => self.reads.confirm_at(index, reads),
            Err(refusal) => self.cx.refuse_reads(&reads, &refusal),
        }
    }

    /// Begins to confirm the waiting reads: the leader asks its peers whether they still promise
    /// its ballot, any other replica asks the leader.
    pub(super) fn confirm_reads(&mut self) {
        let read_index = self.cx.consensus.as_ref().and_then(super::Consensus::read_index);
        if let Some(read_index) = read_index {
            let is_alone = self.cx.configuration.members.len() == 1;
            let asked = self.reads.ask(read_index, self.cx.now, is_alone);
            let Some(Question { round, ballot }) = asked else { return };
            if is_alone {
                return self.confirm_by_sync(round);
            }
            let configuration = self.cx.configuration.id;
            let Context { outputs, peers, .. } = &mut self.cx;
            outputs.extend(peers.connected().map(|peer| {
                let message = PeerMessage::Probe { configuration, ballot, round };
                Output::Send { to: peer, message }
            }));
        } else if self.reads.has_queued() && !self.relays.has_reads() {
            self.ask_leader_for_index();
        }
    }

    /// Confirms a lone replica's round by a sync, which shows that it still owns its disk.
    fn confirm_by_sync(&mut self, round: u64) {
        if !self.cx.rules.solo_waits_for_sync {
            return self.reads.confirm_synced(round);
        }
        self.cx.store.touch();
        let written = self.written();
        self.cx.push(Output::Sync(written));
    }

    /// Answers a leader's probe by the promise that holds now, after the probe arrived.
    pub(super) fn probe(
        &mut self,
        peer: ReplicaId,
        configuration: ConfigurationId,
        ballot: Ballot,
        round: u64,
    ) {
        let promises = self.cx.consensus.as_ref().is_some_and(|c| c.promise() == ballot);
        let is_over =
            configuration < self.cx.configuration.id && !self.cx.rules.reads_know_configuration;
        if (promises && configuration == self.cx.configuration.id) || is_over {
            let message = PeerMessage::ProbeAnswer { configuration, ballot, round };
            self.cx.push(Output::Send { to: peer, message });
        }
    }

    fn ask_leader_for_index(&mut self) {
        let reads = self.reads.take_queued();
        let (leader, session) = match self.remote_leader() {
            Ok(leader) => leader,
            Err(refusal) => return self.cx.refuse_reads(&reads, &refusal),
        };
        match self.relays.open(leader, session, Purpose::Reads(reads), 0, self.cx.now) {
            Ok(call) => {
                let message = PeerMessage::ReadIndex { call };
                self.cx.push(Output::Send { to: leader, message });
            }
            Err(Purpose::Reads(reads)) => self.cx.refuse_reads(&reads, &Refusal::Overloaded),
            Err(Purpose::Write(_)) => {}
        }
    }

    /// Serves the reads whose index is applied.
    pub(super) fn serve_reads(&mut self) {
        let mut bytes = 0;
        while bytes < TURN_BYTES_MAX
            && let Some((index, read)) = self.reads.next_ready(self.cx.store.applied())
        {
            match (read.origin, &read.request) {
                (Origin::Peer { peer, session, call }, None) => {
                    let message = PeerMessage::ReadIndexAnswer { call, index: Ok(index) };
                    self.cx.reply(peer, session, message);
                }
                _ => bytes += self.serve(&read),
            }
        }
    }

    /// Serves a read; returns the approximate size of the answer in bytes.
    fn serve(&mut self, read: &Read) -> usize {
        if let Some(refusal) = self.refuses_reads() {
            self.cx.refuse_read(read, refusal);
            return 0;
        }
        let bytes;
        let answer = match &read.request {
            Some(Request::Get { key, .. }) => {
                let pair = self.cx.store.key(&key.0).map(|record| Pair {
                    key: key.clone(),
                    value: Value(record.value),
                    revision: record.revision,
                });
                bytes = pair.as_ref().map_or(0, Pair::bytes);
                Answer::Value(pair)
            }
            Some(Request::Scan(scan)) => {
                // The scan may have to skip many keys, and no other request should wait for that.
                if self.questions.begin_scan() {
                    let (origin, scan) = (read.origin, scan.clone());
                    self.cx.push(Output::Scan { origin, scan });
                    return 0;
                }
                bytes = 0;
                Answer::Refused(Refusal::Overloaded)
            }
            Some(Request::Snapshot(_)) => {
                self.fetch(read.origin, Wanted::Snapshot);
                return 0;
            }
            _ => return 0,
        };
        self.cx.answer(read.origin, answer);
        bytes
    }

    /// Answers a scan with the page that was read.
    pub(super) fn scanned(&mut self, origin: Origin, page: Page) {
        self.questions.end_scan();
        let refusal = self.refuses_reads();
        let answer = refusal.map_or(Answer::Page(page), Answer::Refused);
        self.cx.answer(origin, answer);
    }

    /// Ends the calls that were sent in a session with a peer, because the session ended.
    pub(super) fn break_calls(&mut self, peer: ReplicaId, session: Session) {
        let broken = self.relays.break_session(peer, session);
        self.settle(broken, &Refusal::NoLeader);
    }

    /// Ends every write, read and call that has waited too long.
    pub(super) fn expire(&mut self) {
        /// Ticks between two checks; waits are counted in hundreds of ticks.
        const LOOK_TICKS: u64 = 5;
        if !self.cx.now.is_multiple_of(LOOK_TICKS) {
            return;
        }
        let now = self.cx.now;
        self.proposals.expire(now, &mut |origin, answer| self.cx.answer(origin, answer));
        self.cx.refuse_reads(&self.reads.expire(now), &Refusal::NoQuorum);
        let broken = self.relays.expire(now);
        self.settle(broken, &Refusal::NoQuorum);
    }

    fn settle(&mut self, broken: Vec<Broken>, refusal: &Refusal) {
        for broken in broken {
            match broken {
                Broken::Write(origin, answer) => self.cx.answer(origin, answer),
                Broken::Reads(reads) => self.cx.refuse_reads(&reads, refusal),
            }
        }
    }
}
