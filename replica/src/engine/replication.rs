//! Pure: drives the instance of the consensus library: its time, its messages, and what is known of
//! the leader.
//!
//! Guarantees that a replica that may vote has an instance, that a leader's tail does not stay
//! undecided because an acknowledgement was lost, and that every message leaves with the condition
//! that the [whitelist](super::consensus::whitelist) states.

use kvorum_protocol::status::ReplicaId;
use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::messages::Message;

use super::consensus::{Consensus, Handled};
use super::context::Context;
use super::message::{After, Output, PeerMessage};
use super::notice::Notice;
use super::quiet::Quiet;
use crate::engine::consensus::patience::Patience;
use crate::engine::store::Store;
use crate::state::entry::Entry;

/// Ticks after which a leader proposes a no-op because what it accepted stays undecided.
const UNDECIDED_TICKS: u64 = 50;
/// Factor by which elections go faster after the link to the leader broke. Safe at any speed:
/// elections affect liveness only.
const FAST: u64 = 3;
/// Ticks for which elections go faster; then the peer was no leader, or there is no majority.
const FAST_TICKS: u64 = 60;

/// What the replica remembers beside the library's instance.
pub(super) struct Replication {
    /// Whether anybody wants something.
    pub(super) quiet: Quiet,
    /// How long answers took, as observed in the previous configuration.
    patience: Patience,
    /// The tick until which elections go faster.
    fast_until: u64,
    /// The decided index when it last advanced, and the tick at which it did.
    decided_at: (u64, u64),
    /// The leader last reported to clients, and the ballot; `None` if not in step with one.
    leader_told: Option<(ReplicaId, Ballot)>,
}

impl Default for Replication {
    fn default() -> Self {
        Self {
            quiet: Quiet::default(),
            patience: Patience::new(0),
            fast_until: 0,
            decided_at: (0, 0),
            leader_told: None,
        }
    }
}

impl Replication {
    /// Starts to vote, if this replica may: once every member has been met.
    pub(super) fn start_voting<S: Store>(&self, cx: &mut Context<S>) {
        if cx.consensus.is_some() || cx.is_over() || !cx.may_vote() {
            return;
        }
        let log = cx.store.log(cx.configuration.id);
        let mut consensus = Consensus::start(&cx.configuration, cx.me, log, cx.rules);
        assert!(
            cx.store.applied() <= consensus.decided().max(cx.store.copied_at()),
            "what is applied was decided, and decided no later on disk, or it was copied"
        );
        for peer in cx.peers.connected().collect::<Vec<_>>() {
            consensus.reconnected(peer);
        }
        consensus.learn_patience(&self.patience);
        cx.consensus = Some(consensus);
        cx.notice(Notice::Gathered);
    }

    /// Leaves the instance of a configuration that is over behind.
    pub(super) fn leave<S: Store>(&mut self, cx: &mut Context<S>) {
        if let Some(consensus) = cx.consensus.take() {
            self.patience = consensus.patience().clone();
        }
    }

    /// Advances the library's time by one tick.
    pub(super) fn tick<S: Store>(&mut self, cx: &mut Context<S>) {
        let speed = if cx.now < self.fast_until { FAST } else { 1 };
        // A replica that follows nobody has to elect.
        let is_quiet = speed == 1 && self.quiet.is_quiet(cx.now) && self.leader_told.is_some();
        if let Some(consensus) = &mut cx.consensus {
            consensus.tick(speed, is_quiet);
        }
    }

    /// Proposes a no-op if this replica leads and its tail stays undecided: the last
    /// acknowledgement may have been lost with a link, and only a later entry brings it back.
    pub(super) fn propose_noop_if_stalled<S: Store>(&mut self, cx: &mut Context<S>) {
        let Some(consensus) = &mut cx.consensus else { return };
        let decided = consensus.decided();
        if decided != self.decided_at.0 || consensus.accepted() == decided {
            self.decided_at = (decided, cx.now);
        } else if cx.now >= self.decided_at.1 + UNDECIDED_TICKS {
            self.decided_at.1 = cx.now;
            if consensus.ballot_if_leading().is_some() {
                consensus.propose(vec![Entry::Noop]);
            }
        }
    }

    /// Lets elections go faster: the link to the leader broke. The leader that was promised may
    /// never come back. In recovery this replica asks every peer to be prepared; otherwise it would
    /// keep promising the leader that is gone.
    pub(super) fn leader_lost<S: Store>(&mut self, cx: &mut Context<S>, leader: ReplicaId) {
        self.fast_until = cx.now + FAST_TICKS;
        if let Some(consensus) = &mut cx.consensus {
            consensus.reconnected(leader);
        }
    }

    /// Lets elections go at their own speed: this replica leads.
    pub(super) fn leads(&mut self) {
        self.fast_until = 0;
    }

    /// Reports a change of the leader, once this replica is in step with it; returns the new one.
    #[must_use]
    pub(super) fn tell_leader<S: Store>(&mut self, cx: &mut Context<S>) -> Option<ReplicaId> {
        let now = cx.leader().filter(|(_, is_in_step)| *is_in_step);
        let ballot = cx.consensus.as_ref().map(Consensus::promise).unwrap_or_default();
        let now = now.map(|(leader, _)| (leader, ballot));
        if now == self.leader_told {
            return None;
        }
        self.leader_told = now;
        cx.push(Output::LeaderChanged(cx.leader_name()));
        if let Some((leader, ballot)) = now.filter(|(leader, _)| *leader != cx.me) {
            self.fast_until = 0;
            let leader = cx.peers.name(leader).to_owned();
            let decided = cx.consensus.as_ref().map_or(0, Consensus::decided);
            cx.notice(Notice::Following { leader, ballot: ballot.n, decided });
        }
        now.map(|(leader, _)| leader)
    }
}

/// Hands the library a message of this configuration. Returns the index that this replica lacks, if
/// the sender cannot bring it into step before it has the state up to there.
#[must_use]
pub(super) fn handle<S: Store>(
    cx: &mut Context<S>,
    peer: ReplicaId,
    message: Message<Entry>,
) -> Option<u64> {
    let configuration = cx.configuration.id;
    let consensus = cx.consensus.as_mut()?;
    match consensus.handle(peer, message, cx.store.applied()) {
        Handled::Taken => {}
        Handled::Behind { index } => return Some(index),
        Handled::Outrun { ballot } => {
            let message = PeerMessage::DeferLeadership { configuration, ballot };
            cx.send(peer, message, After::Earlier);
        }
        Handled::Forged => {
            let what = "a consensus message that must not be";
            cx.notice(Notice::Dropped { what });
        }
    }
    None
}

/// Takes the library's messages to the linked peers.
pub(super) fn take_messages<S: Store>(cx: &mut Context<S>) {
    let configuration = cx.configuration.id;
    let Context { peers, outputs, consensus, .. } = cx;
    let Some(consensus) = consensus else { return };
    consensus.take(
        |peer| peers.state_of(peer),
        |to, message, after| {
            if peers.session(to).is_none() {
                // Both sides start over when a session begins.
                return;
            }
            let message = PeerMessage::Paxos { configuration, message };
            outputs.push(Output::Send { to, message, after });
        },
    );
}
