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
mod checking;
mod configuring;
pub mod consensus;
mod context;
mod epochs;
mod fences;
mod fetching;
mod hand_over;
mod introductions;
mod joining;
mod lately;
mod links;
mod log_sync;
mod marking;
pub mod message;
mod notice;
pub mod patience;
pub mod peers;
mod planning;
mod promises;
mod proposals;
mod questions;
mod reads;
mod relays;
mod requests;
mod rules;
mod sealing;
mod sending;
mod slow_disk;
mod solo;
mod standing;
mod status;
mod stopping;
mod subscriptions;
mod trouble;
pub mod validity;
mod weight;
mod whitelist;

use kvorum_protocol::message::Refusal;
use kvorum_protocol::status::{ConfigurationId, ReplicaId};
use omnipaxos::ballot_leader_election::Ballot as SlotBallot;

use crate::entry::Entry;
use crate::storage::Store;
use checking::Checking;
use consensus::Consensus;
use context::Context;
use epochs::Epochs;
use fetching::Fetching;
use hand_over::HandOver;
pub use introductions::{Introduction, Rejection};
use joining::Asking;
pub use message::{Asker, ClientKey, Input, Look, Origin, Output, PeerMessage, Session, Verdict};
pub use notice::Notice;
use patience::Patience;
pub use peers::Known;
use planning::Planning;
use proposals::Proposals;
use questions::Questions;
use reads::Reads;
use relays::Relays;
pub use rules::{Options, Rules};
use sealing::Seals;
use sending::Sending;
pub use slow_disk::SLOW_TICKS;
use slow_disk::SlowDisk;
pub use solo::Written;
use stopping::Stopping;
use subscriptions::Subscriptions;
use whitelist::Gate;

/// Ticks after which a leader proposes a no-op because what it accepted stays undecided.
const UNDECIDED_TICKS: u64 = 50;
/// Factor by which elections go faster after the link to the leader broke. Safe at any speed:
/// elections affect liveness only.
const HURRY: u64 = 3;
/// Ticks for which elections go faster; then the peer was no leader, or there is no majority.
const HURRY_TICKS: u64 = 60;

/// One replica's decisions.
pub struct Engine<S: Store> {
    cx: Context<S>,
    proposals: Proposals,
    reads: Reads,
    relays: Relays,
    subscriptions: Subscriptions,
    hand_over: Option<HandOver>,
    sending: Sending,
    slow_disk: SlowDisk,
    /// How long answers took, as observed in the previous configuration.
    patience: Patience,
    fetching: Option<Fetching>,
    checking: Checking,
    /// Reads from the disk that are under way outside the engine.
    questions: Questions,
    /// Whether this replica proposed the end of the configuration: it proposes nothing after it.
    stops: bool,
    /// The index after which the log begins, if this replica has lost its vote.
    left_log: Option<u64>,
    /// The index after which the previous configuration's log begins, while it still exists.
    old_log: Option<u64>,
    planning: Planning,
    /// The seals that end the configuration, while its end is prepared.
    seals: Seals,
    stopping: Stopping,
    /// Pending joins: the requester, by the joiner's nonce.
    joins: Vec<Asking>,
    /// Whether the cluster does without this replica: it is retired, and something was decided
    /// since; or it is a joiner that is not wanted.
    may_go: bool,
    epochs: Epochs,
    /// The configuration in which the marker was last asked to name this replica, and the tick.
    mark_asked: Option<(ConfigurationId, u64)>,
    /// The tick at which the quarantine began; 0 if it was there at the start.
    quarantined_since: u64,
    /// The index of a state that replaced one in quarantine, until the log is compacted up to it.
    rebuilt_at: Option<u64>,
    /// Number of questions that this replica asked while it was behind.
    fetches: u64,
    /// Whether this replica has started, or was behind, since it was last in step: the store may
    /// hold part of a copied state.
    may_have_copied: bool,
    /// The tick until which elections go faster.
    hurry_until: u64,
    /// The decided index when it last advanced, and the tick at which it did.
    decided_at: (u64, u64),
    /// The leader last reported to clients, and the ballot; `None` if not in step with one.
    leader_told: Option<(ReplicaId, SlotBallot)>,
    disk: (u64, u64),
}

impl<S: Store> Engine<S> {
    /// Creates the engine of a replica from its store.
    pub fn new(store: S, options: Options) -> Self {
        Self::without(Rules::default(), store, options)
    }

    /// Creates the engine with the given rules: in tests, some may be missing.
    pub fn without(rules: Rules, store: S, options: Options) -> Self {
        let cx = Context::new(store, options, rules);
        let began = cx.began;
        let mut engine = Self {
            cx,
            proposals: Proposals::default(),
            reads: Reads::default(),
            relays: Relays::default(),
            subscriptions: Subscriptions::default(),
            hand_over: None,
            sending: Sending::default(),
            slow_disk: SlowDisk::default(),
            patience: Patience::new(0),
            fetching: None,
            checking: Checking::default(),
            questions: Questions::default(),
            stops: false,
            left_log: None,
            old_log: (began > 0).then_some(began),
            planning: Planning::default(),
            seals: Seals::default(),
            stopping: Stopping::default(),
            joins: Vec::new(),
            may_go: false,
            epochs: Epochs::default(),
            mark_asked: None,
            quarantined_since: 0,
            rebuilt_at: None,
            fetches: 0,
            may_have_copied: true,
            hurry_until: 0,
            decided_at: (0, 0),
            leader_told: None,
            disk: (u64::MAX, 0),
        };
        engine.cx.tell_known();
        engine.gather();
        engine
    }

    /// Returns the store, for reading.
    pub fn store(&self) -> &S {
        &self.cx.store
    }

    /// Handles one input.
    pub fn step(&mut self, input: Input) {
        match input {
            Input::Tick => self.tick(),
            Input::PeerUp { peer, session } => self.peer_up(peer, session),
            Input::PeerDown { peer, session } => self.peer_down(peer, session),
            Input::Peer { peer, session, message } => self.peer_message(peer, session, message),
            Input::Client { client, call, request } => self.request(client, call, request),
            Input::Cancel { client, call } => self.subscriptions.cancel(client, call),
            Input::ClientGone { client } => self.client_gone(client),
            Input::Scanned { origin, page } => self.scanned(origin, page),
            Input::Configure { members } => self.configure(members),
            Input::Scale { wanted, look } => self.want(wanted, look),
            Input::WantsStop => self.wants_stop(),
            Input::Learned { members, configuration } => self.learned(&members, configuration),
            Input::Synced(written) => self.wrote(written),
            Input::SyncIsSlow(is_slow) => self.sync_is_slow(is_slow),
            Input::Debt { slows_writes } => self.slow_disk.owes(slows_writes, self.cx.now),
            Input::Marked { mark, verdict } => self.marked(mark, verdict),
            Input::Disowned { peer, is_proven } => self.disowned(peer, is_proven),
            Input::Read { asker, found } => self.found(asker, found),
            Input::Disk { free, reserve } => self.disk_changed(free, reserve),
        }
        self.observe();
    }

    /// Ends a turn: returns what to do about the inputs since the last one. `has_room` says whether
    /// a client's connection accepts another event.
    pub fn turn(&mut self, has_room: &dyn Fn(ClientKey) -> bool) -> Vec<Output> {
        self.propose();
        self.advance_sealing();
        self.advance_hand_over();
        self.compact();
        self.apply();
        self.forget_old_logs();
        self.confirm_reads();
        self.serve_reads();
        self.tell_subscribers(has_room);
        self.advance_epoch();
        self.take_messages();
        self.take_solo();
        self.tell_leader();
        std::mem::take(&mut self.cx.outputs)
    }

    /// Whether there is already work for another turn.
    pub fn has_more(&self) -> bool {
        self.reads.has_ready(self.cx.store.applied()) || self.subscriptions.has_more()
    }

    /// Starts to vote once every member has been met.
    fn gather(&mut self) {
        if self.cx.consensus.is_some() || self.cx.is_over() || !self.cx.may_vote() {
            return;
        }
        let log = self.cx.store.log(self.cx.configuration.id);
        let mut consensus =
            Consensus::start(&self.cx.configuration, self.cx.me, log, self.cx.rules);
        assert!(
            self.cx.store.applied() <= consensus.decided().max(self.cx.store.since()),
            "what is applied was decided, and decided no later on disk, or it was copied"
        );
        for peer in self.cx.peers.connected().collect::<Vec<_>>() {
            consensus.reconnected(peer);
        }
        consensus.learn_patience(&self.patience);
        self.cx.consensus = Some(consensus);
        self.cx.notice(Notice::Gathered);
    }

    fn tick(&mut self) {
        self.cx.now += 1;
        let speed = if self.cx.now < self.hurry_until { HURRY } else { 1 };
        if let Some(consensus) = &mut self.cx.consensus {
            consensus.tick(speed);
        }
        self.tick_disk();
        self.expire();
        self.expire_joins();
        self.expire_snapshots();
        self.advance_checking();
        self.advance_fetch();
        self.advance_past_end();
        self.advance_withdrawal();
        self.nudge();
        self.hint();
        self.advance_look();
        self.advance_planning();
        self.advance_telling();
        self.advance_stopping();
    }

    /// Proposes a no-op if this replica leads and its tail stays undecided: the last
    /// acknowledgement may have been lost with a link, and only a later entry brings it back.
    fn nudge(&mut self) {
        let Some(consensus) = &mut self.cx.consensus else { return };
        let decided = consensus.decided();
        if decided != self.decided_at.0 || consensus.accepted() == decided {
            self.decided_at = (decided, self.cx.now);
        } else if self.cx.now >= self.decided_at.1 + UNDECIDED_TICKS {
            self.decided_at.1 = self.cx.now;
            if consensus.ballot_if_leading().is_some() {
                consensus.propose(vec![Entry::Noop]);
            }
        }
    }

    fn disk_changed(&mut self, free: u64, reserve: u64) {
        let was_full = self.is_disk_full();
        self.disk = (free, reserve);
        if self.is_disk_full() && !was_full {
            let _ = self.begin_hand_over(None);
        }
    }

    fn is_disk_full(&self) -> bool {
        self.disk.0 < self.disk.1
    }

    /// Detects that this replica began or stopped leading.
    fn observe(&mut self) {
        let Some(consensus) = &mut self.cx.consensus else { return };
        let (before, now) = consensus.observe();
        if before == now {
            return;
        }
        if let Some(ballot) = before {
            self.cx.notice(Notice::Deposed { ballot: ballot.n });
            self.deposed();
        }
        let Some(consensus) = &self.cx.consensus else { return };
        if let Some(ballot) = now {
            // The proposal below gets the entries found in the log decided. An earlier leader's
            // configuration change may be among them.
            self.stops = consensus.has_undecided_seal();
            let (ballot, accepted) = (ballot.n, consensus.accepted());
            self.cx.notice(Notice::Leading { ballot, accepted });
            self.hurry_until = 0;
            self.stopping.leads(self.cx.now);
            let higher = self.cx.peers.higher_than(self.cx.store.version());
            self.cx.propose(higher.map_or(Entry::Noop, Entry::Version));
        }
    }

    /// Notifies the clients and peers that wait for this replica that it no longer leads.
    fn deposed(&mut self) {
        (self.hand_over, self.stops) = (None, false);
        self.abandon_sealing();
        self.proposals.abandon(&mut |origin, answer| self.cx.answer(origin, answer));
        let refusal = Refusal::NotLeader { leader: None };
        self.cx.refuse_reads(&self.reads.abandon(), &refusal);
        self.abandon_joins();
    }

    fn propose(&mut self) {
        let Some(consensus) = self.cx.consensus.as_mut().filter(|_| !self.seals.is_under_way())
        else {
            return;
        };
        let queue = self.proposals.take_queue();
        if !queue.is_empty() && consensus.ballot_if_leading().is_some() {
            consensus.propose(queue);
        }
    }

    fn tell_subscribers(&mut self, has_room: &dyn Fn(ClientKey) -> bool) {
        let compacted = self.compacted();
        let is_wanted = self.subscriptions.want_status();
        if is_wanted && self.subscriptions.is_status_due(self.cx.now, self.turning()) {
            let status = self.status();
            let to = self.subscriptions.take_status_due(&status, has_room);
            if !to.is_empty() {
                self.cx.push(Output::Status { to, status: Box::new(status) });
            }
        }
        let outputs = &mut self.cx.outputs;
        let mut send = |client, frame| outputs.push(Output::Frame { client, frame });
        self.subscriptions.tell_log(&self.cx.store, compacted, has_room, &mut send);
    }

    fn take_messages(&mut self) {
        let configuration = self.cx.configuration.id;
        let Context { peers, outputs, consensus, .. } = &mut self.cx;
        let Some(consensus) = consensus else { return };
        consensus.take(
            |peer| peers.state_of(peer),
            |to, message, gate| {
                if peers.session(to).is_none() {
                    // Both sides start over when a session begins.
                    return;
                }
                let message = PeerMessage::Paxos { configuration, message };
                outputs.push(match gate {
                    Gate::Open => Output::Send { to, message },
                    Gate::Ordered => Output::Gated { to, message, durable: false },
                    Gate::Durable => Output::Gated { to, message, durable: true },
                });
            },
        );
    }

    fn tell_leader(&mut self) {
        let now = self.cx.leader().filter(|(_, is_in_step)| *is_in_step);
        let ballot = self.cx.consensus.as_ref().map(Consensus::promise).unwrap_or_default();
        let now = now.map(|(leader, _)| (leader, ballot));
        if now == self.leader_told {
            return;
        }
        self.leader_told = now;
        self.cx.push(Output::LeaderChanged(self.cx.leader_name()));
        if let Some((leader, ballot)) = now.filter(|(leader, _)| *leader != self.cx.me) {
            self.hurry_until = 0;
            let leader = self.cx.peers.name(leader).to_owned();
            let decided = self.cx.consensus.as_ref().map_or(0, Consensus::decided);
            let notice = Notice::Following { leader, ballot: ballot.n, decided };
            self.cx.notice(notice);
        }
    }
}
