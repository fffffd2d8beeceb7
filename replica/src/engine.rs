//! Pure: one replica's decisions, as a state machine without I/O.
//!
//! [`Engine::step`] takes one [`Input`]; [`Engine::turn`] ends a turn of the driver: it proposes
//! what arrived, applies what was decided, serves the reads that are due and returns the messages
//! to send. Time enters as ticks, and the disk as a [`Store`].
//!
//! Guarantees:
//! - A write is answered with its outcome only when it is decided and applied here; it is reported
//!   as *refused* only if it was never handed on.
//! - A read is served only at an index that a majority confirmed, and that is applied.
//! - A message that reports a durable fact is marked so, and the driver syncs before it leaves.
//! - A replica that has not met every member, or whose peers remember it with another disk, does
//!   not vote.
//!
//! Does not know sockets, files, clocks or threads.

mod applying;
mod catch_up;
mod configuring;
pub mod consensus;
mod context;
mod disk;
mod fences;
mod hand_over;
mod handshake;
mod health;
mod introductions;
mod lately;
mod logs;
mod marking;
mod membership;
pub mod message;
mod notice;
mod parts;
pub mod peers;
mod quiet;
mod replication;
mod requests;
mod restarts;
mod rules;
mod scrub;
mod sending;
mod standing;
mod status;
pub mod store;
#[cfg(test)]
mod tests;
pub mod validity;
mod weight;

use kvorum_protocol::message::{Admin, Answer, Page, Refusal, Request, SnapshotRequest};
use kvorum_protocol::status::{ReplicaId, Status};

use crate::engine::store::Store;
use crate::marker::Mark;
use crate::state::rights::User;
use crate::state::snapshot::{Cursor, FetchRequest};
use crate::state::start::Start;
use consensus::Consensus;
pub use consensus::solo::Written;
use context::{Cleared, Context};
pub use disk::SLOW_TICKS;
pub use handshake::{Claim, Greeting, Introduction, Rejection};
use marking::Lost;
pub use message::{
    After, Asker, ClientKey, Input, Origin, Output, PeerMessage, ScaleRead, Session, Time, Verdict,
};
pub use notice::Notice;
use parts::Parts;
pub use peers::Known;
use requests::Requests;
use requests::judging;
use requests::subscriptions::Turn;
pub use rules::{Options, Rules};

/// One replica's decisions.
pub struct Engine<S: Store> {
    parts: Parts<S>,
}

impl<S: Store> Engine<S> {
    /// Creates the engine of a replica from its store.
    pub fn new(store: S, options: Options) -> Self {
        Self { parts: Parts::new(store, options, Rules::default()) }
    }

    /// Creates the engine with the given rules: in tests, some may be missing.
    #[cfg(feature = "negative-controls")]
    pub fn with_rules(rules: Rules, store: S, options: Options) -> Self {
        Self { parts: Parts::new(store, options, rules) }
    }

    /// Handles one input.
    pub fn step(&mut self, input: Input) {
        let parts = &mut self.parts;
        let cx = &mut parts.cx;
        parts.replication.quiet.see(cx.now, &input);
        match input {
            Input::Now(time) => {
                cx.time = time;
                return;
            }
            Input::Tick => self.tick(),
            Input::PeerUp { peer, session } => parts.peer_up(peer, session),
            Input::PeerDown { peer, session } => parts.peer_down(peer, session),
            Input::Met(theirs) => {
                introductions::meet(cx, &theirs);
                parts.replication.start_voting(cx);
            }
            Input::Peer { peer, session, message } => self.peer_message(peer, session, message),
            Input::Client { client, call, user, request } => {
                let origin = Origin::Client { client, call };
                let (requests, cx, _, health) = parts.serving();
                let judged = judging::judge(requests, cx, &health, origin, (user, request));
                if let Some((user, request)) = judged {
                    self.request(origin, user, request);
                }
            }
            Input::Cancel { client, call } => parts.requests.subscriptions.cancel(client, call),
            Input::ClientGone { client } => {
                parts.requests.subscriptions.client_gone(client);
                parts.membership.joins.client_gone(client);
            }
            Input::Scanned { origin, page } => self.scanned(origin, page),
            Input::Configure { members } => {
                parts.membership.configure(cx, members, parts.hand_over.is_under_way());
            }
            Input::Scale { wanted, read } => parts.membership.planning.want(cx, wanted, read),
            Input::HandOver => {
                let _ = parts.begin_hand_over(None);
            }
            Input::WantsStop => {
                if parts.restarts.wants_stop(cx) {
                    parts.step_down();
                }
            }
            Input::Learned { members, configuration } => {
                configuring::learned(cx, &members, configuration);
            }
            Input::Synced(written) => parts.synced(written),
            Input::SyncIsSlow(is_slow) => parts.disk.sync_is_slow(cx, is_slow),
            Input::Debt { slows_writes } => parts.disk.owes(slows_writes, cx.now),
            Input::Marked { mark, verdict } => match parts.marking.marked(cx, mark, verdict) {
                Some(Lost::OtherDisk(by)) => parts.lose_vote(by),
                Some(Lost::Over) => parts.stop_voting(),
                None => {}
            },
            Input::Disowned { peer, is_proven } => parts.disowned(peer, is_proven),
            Input::Read { asker: Asker::Own { call }, found } => parts.scrub.found(cx, call, found),
            Input::Read { asker: Asker::Other(origin), found } => {
                parts.sending.found(cx, origin, found);
            }
            Input::Disk { free, reserve } => {
                if parts.disk.has_free(free, reserve) {
                    let _ = parts.begin_hand_over(None);
                }
            }
        }
        self.parts.observe();
    }

    /// Ends a turn: returns what to do about the inputs since the last one. `has_room` says whether
    /// a client's connection accepts another event.
    pub fn turn(&mut self, has_room: &dyn Fn(ClientKey) -> bool) -> Vec<Output> {
        let parts = &mut self.parts;
        if !parts.membership.seals.is_under_way() {
            parts.requests.propose(&mut parts.cx);
        }
        parts.membership.advance_seals(&mut parts.cx, &mut parts.requests.proposals);
        parts.hand_over.advance(&mut parts.cx);
        parts.logs.compact(&mut parts.cx, parts.sending.pinned());
        parts.apply();
        parts.logs.forget_old(&mut parts.cx);
        let (requests, cx, sending, health) = parts.serving();
        requests.confirm_reads(cx, &health);
        requests.serve_reads(cx, &health, sending);
        for Cleared { origin, user, request } in std::mem::take(&mut cx.cleared) {
            self.request(origin, user, request);
        }
        let (requests, cx, ..) = self.parts.serving();
        requests.judge_subscriptions(cx);
        self.tell_subscribers(has_room);
        let parts = &mut self.parts;
        let round = parts.requests.reads.round();
        parts.marking.epochs.advance(&mut parts.cx, round);
        replication::take_messages(&mut parts.cx);
        parts.cx.sync_written(round);
        parts.marking.take_solo(&mut parts.cx);
        if let Some(leader) = parts.replication.tell_leader(&mut parts.cx) {
            parts.requests.follows(&mut parts.cx, leader);
        }
        std::mem::take(&mut parts.cx.outputs)
    }

    /// Whether nobody has wanted anything for a while: the next ticks may come late, all at once.
    pub fn is_quiet(&self) -> bool {
        let is_anybody_behind = self.parts.requests.subscriptions.is_anybody_behind();
        !is_anybody_behind && self.parts.replication.quiet.is_quiet(self.parts.cx.now)
    }

    /// Whether there is already work for another turn.
    pub fn has_more(&self) -> bool {
        let Requests { reads, subscriptions, .. } = &self.parts.requests;
        reads.has_ready(self.applied()) || subscriptions.has_more()
    }

    fn tick(&mut self) {
        let parts = &mut self.parts;
        parts.cx.now += 1;
        parts.replication.tick(&mut parts.cx);
        parts.disk.tick();
        parts.requests.expire(&mut parts.cx);
        parts.membership.joins.expire(&mut parts.cx);
        parts.sending.expire(&mut parts.cx);
        parts.advance_scrub();
        parts.advance_catch_up();
        let cx = &mut parts.cx;
        if let Some(peer) = marking::peer_past_end(cx) {
            let (latest, index) = (cx.fences.latest, cx.store.applied() + 1);
            parts.catch_up.fetch_newer(cx, peer, latest, index);
        }
        parts.marking.epochs.advance_withdrawal(cx);
        parts.replication.propose_noop_if_stalled(cx);
        parts.membership.notify_outsiders(cx);
        parts.membership.planning.advance_read(cx);
        if let Some(to) = parts.membership.advance(cx, parts.hand_over.is_under_way()) {
            let _ = parts.begin_hand_over(Some(to));
        }
        parts.membership.planning.advance_telling(&mut parts.cx);
        if parts.restarts.advance(&mut parts.cx) {
            parts.step_down();
        }
    }

    /// Handles a request that a client of this replica is allowed to make.
    fn request(&mut self, origin: Origin, user: User, request: Request) {
        let parts = &mut self.parts;
        let cx = &mut parts.cx;
        let answer = match request {
            Request::Status => Answer::Status(Box::new(parts.status())),
            Request::Snapshot(SnapshotRequest::Part { snapshot, after }) => {
                if let Some(after) = Cursor::read(&after.0) {
                    let snapshot = snapshot.into();
                    return parts.sending.fetch(
                        cx,
                        origin,
                        FetchRequest::Chunk { snapshot, after },
                    );
                }
                Answer::Refused(Refusal::SnapshotGone)
            }
            Request::Snapshot(SnapshotRequest::Close { snapshot }) => {
                parts.sending.fetch(cx, origin, FetchRequest::Close { snapshot: snapshot.into() });
                Answer::Done
            }
            // The code that owns the connection knows them better.
            Request::Addresses => Answer::Addresses(Vec::new()),
            Request::Subscribe(subscription) => {
                let compacted = parts.logs.compacted(cx);
                return parts.requests.subscribe(cx, origin, user, subscription, compacted);
            }
            Request::Admin(Admin::Join { name, nonce }) => {
                let hands_over = parts.hand_over.is_under_way();
                return parts.membership.join(cx, origin, (name, nonce), hands_over);
            }
            Request::Admin(admin) => match self.administer(admin) {
                Ok(()) => Answer::Done,
                Err(refusal) => Answer::Refused(refusal),
            },
            request => {
                let (requests, cx, _, health) = parts.serving();
                return requests.request(cx, &health, (origin, user), request);
            }
        };
        self.parts.cx.answer(origin, answer);
    }

    fn administer(&mut self, admin: Admin) -> Result<(), Refusal> {
        let parts = &mut self.parts;
        let cx = &mut parts.cx;
        match admin {
            Admin::Join { .. } => unreachable!("a joiner is told an id, not that all is done"),
            Admin::HandOver { to } if to.is_empty() => parts.begin_hand_over(None),
            Admin::HandOver { to } if to == cx.store.identity().name => match cx.is_leading() {
                true => Ok(()),
                false => Err(Refusal::NotLeader { leader: cx.leader_name() }),
            },
            Admin::HandOver { to } => {
                let target = cx.peers.named(&to)?;
                parts.begin_hand_over(Some(target))
            }
            Admin::Cut { .. } | Admin::Heal { .. } | Admin::Crash if !cx.options.allows_faults => {
                Err(Refusal::FaultsForbidden)
            }
            Admin::Cut { peer } => cx.set_cut(&peer, true),
            Admin::Heal { peer } => cx.set_cut(&peer, false),
            Admin::Crash => {
                cx.push(Output::Crash);
                Ok(())
            }
        }
    }

    /// Answers a scan with the page that was read.
    fn scanned(&mut self, origin: Origin, page: Page) {
        let (_, cx, sending, health) = self.parts.serving();
        sending.questions.end_scan();
        let refusal = health.refuses_reads(cx);
        cx.answer(origin, refusal.map_or(Answer::Page(page), Answer::Refused));
    }

    fn tell_subscribers(&mut self, has_room: &dyn Fn(ClientKey) -> bool) {
        let parts = &mut self.parts;
        let (compacted, now) = (parts.logs.compacted(&parts.cx), parts.cx.now);
        let subscriptions = &mut parts.requests.subscriptions;
        let is_wanted = !subscriptions.statuses.is_empty();
        if is_wanted && subscriptions.statuses.are_due(now, status::turning(&parts.cx)) {
            let status = parts.status();
            let to = parts.requests.subscriptions.statuses.take_due(&status, has_room);
            if !to.is_empty() {
                parts.cx.push(Output::Status { to, status: Box::new(status) });
            }
        }
        let Context { store, outputs, .. } = &mut parts.cx;
        let send = &mut |client, frame| outputs.push(Output::Frame { client, frame });
        let mut turn = Turn { compacted, has_room, send };
        parts.requests.subscriptions.tell_log(store, &mut turn);
    }

    /// Handles a message from a peer.
    fn peer_message(&mut self, peer: ReplicaId, session: Session, message: PeerMessage) {
        let parts = &mut self.parts;
        let cx = &mut parts.cx;
        // A frame of a replaced session could make the library forget what it accepted.
        if cx.rules.tells_sessions() && cx.peers.session(peer) != Some(session) {
            return cx.notice(Notice::Dropped { what: "a frame of an old session" });
        }
        if !cx.listens(peer, &message) {
            return cx.turn_away(peer, session, message);
        }
        match message {
            PeerMessage::Paxos { configuration, message } => {
                if configuration != cx.configuration.id {
                    parts.other_configuration(peer, configuration);
                } else if let Some(index) = replication::handle(cx, peer, message) {
                    parts.catch_up.is_behind(cx, peer, index);
                }
            }
            PeerMessage::TransferLeadership { configuration, ballot } => {
                hand_over::asked_to_lead(cx, configuration, ballot, true);
            }
            PeerMessage::DeferLeadership { configuration, ballot } => {
                hand_over::asked_to_lead(cx, configuration, ballot, false);
            }
            PeerMessage::Fetch { call, wanted } => {
                parts.sending.fetch(cx, Origin::Peer { peer, session, call }, wanted);
            }
            PeerMessage::Fetched { call, found } => parts.fetched(peer, call, found),
            PeerMessage::StateProgress { index } => {
                cx.peers.has_state(peer, index);
                parts.sending.has_state(peer);
            }
            PeerMessage::ConfigurationOver { configuration, index, is_dismissed } => {
                let is_joiners = parts.membership.hinted(cx, configuration, index, is_dismissed);
                if is_joiners || configuration > cx.configuration.id {
                    parts.catch_up.fetch_newer(cx, peer, configuration, index);
                }
            }
            PeerMessage::RequestStop { has_leave } => parts.restarts.asked(cx, peer, has_leave),
            PeerMessage::PermitStop => parts.restarts.may_stop(),
            PeerMessage::ReadScale { number } => {
                cx.push(Output::ReadScale(ScaleRead { asker: peer, number }));
            }
            PeerMessage::ScaleReport { wanted, number } => {
                parts.membership.planning.told_wanted(cx, wanted, number);
            }
            PeerMessage::Checksum { index, digest } => {
                let difference = parts.scrub.told(cx, peer, index, digest);
                parts.differ(difference);
            }
            PeerMessage::StateDiffers { index, sound } => parts.quarantine(index, sound),
            PeerMessage::Epoch { epoch } => {
                marking::epochs::told(cx, peer, epoch, parts.requests.reads.round());
            }
            PeerMessage::EpochKept { epoch } => parts.marking.epochs.kept(peer, epoch, cx.now),
            PeerMessage::AskDisk { number } => disk::sync_for(cx, peer, number),
            PeerMessage::DiskWorks { number } => parts.disk.works_elsewhere(number, cx.now),
            PeerMessage::Probe { .. }
            | PeerMessage::ProbeAnswer { .. }
            | PeerMessage::Relay { .. }
            | PeerMessage::UserRelay { .. }
            | PeerMessage::RelayAnswer { .. }
            | PeerMessage::ReadIndex { .. }
            | PeerMessage::ReadIndexAnswer { .. } => {
                let (requests, cx, _, health) = parts.serving();
                requests.peer_message(cx, &health, (peer, session), message);
            }
        }
    }

    /// Returns the index up to which this replica has applied the log.
    pub fn applied(&self) -> u64 {
        self.store().applied()
    }

    /// Returns the store, for reading.
    pub fn store(&self) -> &S {
        &self.parts.cx.store
    }

    /// Returns this replica's status.
    pub fn status(&self) -> Status {
        self.parts.status()
    }

    /// Returns the leader's name, when this replica is in step with it.
    pub fn leader_name(&self) -> Option<String> {
        self.parts.cx.leader_name()
    }

    /// Returns the number of messages that were dropped because they are not allowed.
    pub fn dropped(&self) -> u64 {
        self.parts.cx.consensus.as_ref().map_or(0, Consensus::dropped)
    }

    /// Returns the numbers of waiting writes and reads.
    pub fn waiting(&self) -> (usize, usize) {
        let Requests { proposals, reads, .. } = &self.parts.requests;
        (proposals.count(), reads.count())
    }

    /// Whether this replica leads, or would lead, on a disk that is slower than another member's:
    /// its heartbeats should not be sent.
    #[must_use]
    pub fn falls_silent(&self) -> bool {
        self.parts.disk.falls_silent(&self.parts.cx)
    }

    /// Closes the last epoch when the replica ends. Returns the final report to the marker.
    pub fn end_epoch(&mut self) -> Option<Mark> {
        self.parts.marking.epochs.end(&mut self.parts.cx)
    }

    /// Returns what this replica brings to a handshake with a peer. `theirs` is the introduction of
    /// a peer that dialed: a stranger is sent nothing.
    pub fn greet(
        &self,
        peer: ReplicaId,
        theirs: Option<&Introduction>,
    ) -> Result<Greeting, Rejection> {
        introductions::greet(&self.parts.cx, peer, theirs)
    }

    /// Returns the start with which this replica proves its identity to a peer that saw an
    /// incarnation of it last: the current one for a peer that never saw any. `None` when this disk
    /// does not have it.
    pub fn start_seen(&self, incarnation: u64) -> Option<Start> {
        introductions::start_seen(&self.parts.cx, incarnation)
    }

    /// Judges whether a peer is the replica that this one remembers.
    pub fn judge(&self, claim: &Claim) -> Result<(), Rejection> {
        introductions::judge(&self.parts.cx, claim)
    }
}
