//! Pure: the parts of the engine, and what a change in one means for the others.
//!
//! Each part has its own state and works on the [context](super::context); none calls another.
//! Where one has to react to another (the vote is lost, the configuration ends, the state is
//! replaced), the reaction is written here, once.
//!
//! Guarantees that whatever waits for this replica to lead is answered when it no longer does, and
//! that a configuration is entered by all parts in one step.

use kvorum_protocol::message::Refusal;
use kvorum_protocol::status::{ConfigurationId, ReplicaId, Status};

use super::applying::{self, Effects};
use super::catch_up::{CatchUp, Progress};
use super::configuring::{self, Part};
use super::context::Context;
use super::disk::Disk;
use super::hand_over::HandOver;
use super::health::Health;
use super::logs::Logs;
use super::marking::Marking;
use super::membership::Membership;
use super::message::{After, Output, PeerMessage, Session};
use super::notice::Notice;
use super::replication::{self, Replication};
use super::requests::Requests;
use super::restarts::Restarts;
use super::rules::{Options, Rules};
use super::scrub::{Difference, Scrub};
use super::sending::Sending;
use super::{introductions, status};
use crate::engine::consensus::solo::Written;
use crate::engine::store::Store;
use crate::state::chain::Standing;
use crate::state::entry::Entry;
use crate::state::snapshot::{FetchResponse, InstallWrite, Quarantine};

/// The parts, and the context in which they work.
pub(super) struct Parts<S: Store> {
    pub(super) cx: Context<S>,
    pub(super) replication: Replication,
    pub(super) membership: Membership,
    pub(super) hand_over: HandOver,
    pub(super) restarts: Restarts,
    pub(super) logs: Logs,
    pub(super) requests: Requests,
    pub(super) marking: Marking,
    pub(super) catch_up: CatchUp,
    pub(super) sending: Sending,
    pub(super) scrub: Scrub,
    pub(super) disk: Disk,
}

impl<S: Store> Parts<S> {
    /// Creates the parts of a replica from its store.
    pub(super) fn new(store: S, options: Options, rules: Rules) -> Self {
        let mut parts = Self {
            logs: Logs::of(&store.chain()),
            cx: Context::new(store, options, rules),
            replication: Replication::default(),
            membership: Membership::default(),
            hand_over: HandOver::default(),
            restarts: Restarts::default(),
            requests: Requests::default(),
            marking: Marking::default(),
            catch_up: CatchUp::default(),
            sending: Sending::default(),
            scrub: Scrub::default(),
            disk: Disk::default(),
        };
        parts.cx.tell_known();
        parts.replication.start_voting(&mut parts.cx);
        parts
    }

    /// Returns the parts that decide whether this replica serves.
    fn health(&self) -> Health<'_> {
        let Self { membership, hand_over, catch_up, scrub, disk, .. } = self;
        Health { membership, hand_over, catch_up, scrub, disk }
    }

    /// Returns the parts that serve requests, and those that decide whether this replica serves.
    pub(super) fn serving(&mut self) -> (&mut Requests, &mut Context<S>, &mut Sending, Health<'_>) {
        let Self { membership, hand_over, catch_up, scrub, disk, .. } = self;
        let health = Health { membership, hand_over, catch_up, scrub, disk };
        (&mut self.requests, &mut self.cx, &mut self.sending, health)
    }

    /// Returns this replica's status; the caller adds the times.
    pub(super) fn status(&self) -> Status {
        status::status(&self.cx, &self.health(), &self.logs, &self.restarts)
    }

    /// Detects that this replica began or stopped leading.
    pub(super) fn observe(&mut self) {
        let Some(consensus) = &mut self.cx.consensus else { return };
        let (before, now) = consensus.observe();
        if before == now {
            return;
        }
        if let Some(ballot) = before {
            self.cx.notice(Notice::Deposed { ballot: ballot.n });
            self.deposed();
        }
        let cx = &mut self.cx;
        let Some((ballot, consensus)) = now.zip(cx.consensus.as_ref()) else { return };
        // The proposal below gets the entries found in the log decided. An earlier leader's
        // configuration change may be among them.
        self.membership.seals.leads(consensus.has_undecided_seal());
        let (ballot, accepted) = (ballot.n, consensus.accepted());
        cx.notice(Notice::Leading { ballot, accepted });
        self.replication.leads();
        self.restarts.leads(cx.now);
        let higher = cx.peers.higher_than(cx.store.version());
        cx.propose(higher.map_or(Entry::Noop, Entry::Version));
    }

    /// Notifies the clients and peers that wait for this replica that it no longer leads.
    fn deposed(&mut self) {
        self.hand_over.abandon();
        self.membership.seals.reset();
        self.requests.deposed(&mut self.cx);
        self.membership.joins.abandon(&mut self.cx);
    }

    /// Ends this replica's part in decisions; its data stays.
    pub(super) fn stop_voting(&mut self) {
        if let Some(consensus) = self.cx.consensus.take() {
            self.logs.lost_vote(consensus.compacted());
        }
        self.deposed();
    }

    /// Takes this replica's vote away: its disk is not the one that `by` remembers.
    pub(super) fn lose_vote(&mut self, by: String) {
        if self.cx.fences.disowned_by.is_none() {
            self.cx.notice(Notice::Disowned { by: by.clone() });
        }
        self.cx.fences.disowned_by = Some(by);
        self.stop_voting();
    }

    /// Handles the report of a peer that remembers this replica with another disk.
    pub(super) fn disowned(&mut self, peer: ReplicaId, is_proven: bool) {
        if let Some(by) = introductions::disowned(&mut self.cx, peer, is_proven) {
            if self.cx.fences.disowned_by.is_none() {
                self.marking.epochs.withdraw();
            }
            self.lose_vote(by);
        }
    }

    /// Begins to hand leadership over: to the target if one is given, else to the replica that is
    /// best.
    pub(super) fn begin_hand_over(&mut self, target: Option<ReplicaId>) -> Result<(), Refusal> {
        self.hand_over.begin(&mut self.cx, &self.restarts, target)?;
        self.membership.seals.abandon();
        Ok(())
    }

    /// Hands leadership over if this replica leads, another one is there, and that is not under
    /// way.
    pub(super) fn step_down(&mut self) {
        if !self.hand_over.is_under_way() {
            let _ = self.begin_hand_over(None);
        }
    }

    /// Enters the configuration that the state is in now.
    fn enter(&mut self) {
        let cx = &mut self.cx;
        if cx.store.configuration_id() == cx.configuration.id {
            return;
        }
        let chain = cx.store.chain();
        let part = Part::of(cx, &chain);
        cx.standings.know(&chain);
        // The library's remaining messages go to the peers that do not know of the change yet.
        replication::take_messages(cx);
        self.deposed();
        let cx = &mut self.cx;
        self.logs.enter(cx, &chain);
        self.replication.leave(cx);
        cx.peers.reconfigure(&chain, cx.me, &cx.store, cx.now);
        cx.tell_known();
        (cx.configuration, cx.began) = (chain.current, chain.began);
        self.forget_strangers();
        let cx = &mut self.cx;
        if cx.rules.reads_know_configuration() {
            self.requests.start_over(cx);
        }
        self.marking.enter(cx);
        cx.notice(Notice::Configured { configuration: cx.configuration.clone() });
        for peer in cx.peers.linked().collect::<Vec<_>>() {
            self.membership.tell_over(cx, peer);
        }
        if cx.standing() == Standing::Retired {
            // Later entries are not for this replica: its program may not even know their version.
            self.catch_up.end(cx);
        }
        self.replication.start_voting(cx);
        part.resume(cx);
    }

    /// Handles a change of the chain that did not change the configuration: a replica is to join.
    fn know_joiners(&mut self) {
        let chain = self.cx.store.chain();
        if configuring::know(&mut self.cx, &chain) {
            self.forget_strangers();
        }
        self.membership.joins.answer(&mut self.cx);
    }

    /// Drops the records about replicas that are not known any more.
    fn forget_strangers(&mut self) {
        let (peers, me) = (&self.cx.peers, self.cx.me);
        self.sending.retain(|peer| peers.knows(peer));
        self.restarts.retain(|peer| peer == me || peers.knows(peer));
    }

    /// Applies the decided entries and answers the requests that wait for their outcomes.
    pub(super) fn apply(&mut self) {
        while let Some(Effects { gave_ids, checksum_at }) =
            applying::apply(&mut self.cx, &mut self.requests.proposals, &self.scrub)
        {
            if gave_ids {
                self.know_joiners();
            }
            if let Some(index) = checksum_at {
                self.scrub.begin_pass(&mut self.cx, &mut self.sending, index);
            }
            self.enter();
        }
    }

    /// Records that a sync returned.
    pub(super) fn synced(&mut self, written: Written) {
        let cx = &mut self.cx;
        self.marking.epochs.is_durable(cx, written.epoch);
        let is_current = written.configuration == cx.configuration.id;
        if let Some(consensus) = cx.consensus.as_mut().filter(|_| is_current) {
            consensus.synced(written.ballot, written.index);
            if consensus.solo().is_some() {
                self.requests.reads.confirm_synced(written.round);
            }
        }
    }

    /// Handles the beginning of a session with a peer.
    pub(super) fn peer_up(&mut self, peer: ReplicaId, session: Session) {
        let cx = &mut self.cx;
        let old = cx.peers.session(peer);
        if !cx.peers.up(peer, session) {
            // Only the peer would know of this session, and it would stay for as long as the peer
            // runs.
            return cx.push(Output::EndSession { peer });
        }
        if let Some(old) = old {
            self.requests.break_calls(cx, peer, old);
        }
        self.restarts.is_back(peer);
        cx.notice(Notice::Linked { peer: cx.peers.name(peer).to_owned() });
        if let Some(consensus) = &mut cx.consensus {
            consensus.reconnected(peer);
        }
        self.membership.greet(cx, peer);
    }

    /// Handles the end of a session with a peer.
    pub(super) fn peer_down(&mut self, peer: ReplicaId, session: Session) {
        let cx = &mut self.cx;
        let name = cx.peers.name(peer).to_owned();
        if !cx.peers.down(peer, session, cx.now) {
            return;
        }
        cx.notice(Notice::LinkLost { peer: name });
        if !cx.peers.knows(peer) {
            // The peer was known for its session only.
            cx.tell_known();
            self.forget_strangers();
        }
        let cx = &mut self.cx;
        self.requests.break_calls(cx, peer, session);
        self.catch_up.source_lost(cx, peer);
        if cx.leader().is_some_and(|(leader, _)| leader == peer) {
            self.replication.leader_lost(cx, peer);
        }
    }

    /// Handles a message from a peer that is in another configuration than this replica.
    pub(super) fn other_configuration(&mut self, peer: ReplicaId, theirs: ConfigurationId) {
        let cx = &mut self.cx;
        if theirs < cx.configuration.id {
            return self.membership.tell_over(cx, peer);
        }
        // The peer has the entry that made the next configuration.
        let index = cx.store.applied() + 1;
        self.catch_up.fetch_newer(cx, peer, theirs, index);
        if !cx.rules.frames_start_nothing() {
            configuring::start_without_state(cx, theirs);
            self.enter();
        }
    }

    /// Advances the catch-up by one tick.
    pub(super) fn advance_catch_up(&mut self) {
        if self.catch_up.advance(&mut self.cx) {
            self.ask_source();
        }
    }

    /// Sends the catch-up's next request, after the state that it copied if all chunks are here: so
    /// they were when this replica stopped.
    fn ask_source(&mut self) {
        let install = self.cx.store.install();
        if install.as_ref().is_some_and(|install| install.after.is_none()) {
            self.switch();
        }
        self.catch_up.ask(&mut self.cx, install);
    }

    /// Handles an answer to a request of the catch-up.
    pub(super) fn fetched(&mut self, peer: ReplicaId, call: u64, found: FetchResponse) {
        match self.catch_up.fetched(&mut self.cx, peer, call, found) {
            Progress::None => {}
            Progress::Whole => self.switch(),
            Progress::Applied { decided } => {
                self.know_joiners();
                self.enter();
                if self.catch_up.applied(&mut self.cx, decided) {
                    self.ask_source();
                }
            }
        }
    }

    /// Replaces the state by the copied one, if it is of use.
    fn switch(&mut self) {
        let is_quarantined = self.cx.quarantine.is_some();
        if self.catch_up.switch(&mut self.cx) {
            if is_quarantined {
                self.logs.rebuilt(self.cx.store.applied());
            }
            self.know_joiners();
            self.enter();
        }
    }

    /// Advances the comparison of the states by one tick.
    pub(super) fn advance_scrub(&mut self) {
        let difference = self.scrub.tell(&mut self.cx);
        self.differ(difference);
        let hands_over = self.hand_over.is_under_way();
        self.scrub.advance(&mut self.cx, &mut self.sending, hands_over);
        if self.cx.quarantine.is_some() {
            if self.cx.is_leading() {
                self.step_down();
            }
            self.catch_up.begin_rebuild(&mut self.cx);
        }
    }

    /// Notifies the replicas whose states differ from a majority's.
    pub(super) fn differ(&mut self, difference: Option<Difference>) {
        let Some(Difference { index, sound, others }) = difference else { return };
        for other in others {
            let sound = sound.clone();
            if other == self.cx.me {
                self.quarantine(index, sound);
            } else {
                let message = PeerMessage::StateDiffers { index, sound };
                self.cx.send(other, message, After::Nothing);
            }
        }
    }

    /// Quarantines this replica: its state differs from a majority's.
    pub(super) fn quarantine(&mut self, index: u64, sound: Vec<ReplicaId>) {
        let cx = &mut self.cx;
        // The result says nothing about a state that was copied since.
        let is_news = cx.quarantine.is_none() && index > cx.store.copied_at();
        if !is_news || !cx.rules.quarantines() {
            return;
        }
        cx.notice(Notice::Quarantined { index });
        let quarantine = Quarantine { index, sound };
        cx.store.write_install(InstallWrite::Quarantine(quarantine.clone()));
        cx.quarantine = Some(quarantine);
        self.scrub.end_pass(cx);
        self.sending.close_snapshots(cx);
        // Requests that wait here for an outcome must not get one from this state.
        self.deposed();
        self.catch_up.quarantined(&mut self.cx);
    }
}
