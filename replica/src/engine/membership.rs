//! Pure: the members of the cluster, and the replicas that are not members: those that are to
//! become members, and those that were.
//!
//! [`planning`] decides which replicas should be the members, [`sealing`] ends one configuration
//! and begins the next, and [`joining`] gives ids to new replicas. A joiner copies the state, and
//! reports how far it is. The leader notifies joiners, and replicas that left, in which
//! configuration the cluster is and how far: so a joiner continues to copy, and a replica that left
//! learns that the cluster goes on without it. A replica that left notifies every linked peer that
//! its configuration is over, until the next one has decided an entry: then a majority there has
//! the entries that led to it.
//!
//! Guarantees that one change is under way at a time. Does not know where the desired replica count
//! comes from.

pub(super) mod joining;
pub(super) mod planning;
pub(super) mod sealing;

use kvorum_protocol::status::{
    ConfigurationId, JoinerStatus, Member, Membership as Status, ReplicaId,
};

use super::catch_up::reports::tell_state;
use super::context::Context;
use super::message::{After, Origin, PeerMessage};
use super::restarts::Restarts;
use crate::engine::requests::proposals::Proposals;
use crate::engine::store::Store;
use crate::planner::Plan;
use crate::state::chain::Standing;
use joining::Joins;
use planning::Planning;
use sealing::Seals;

/// Ticks between two hints of the leader to replicas that are not members.
const HINT_TICKS: u64 = 3;
/// Ticks between two notifications of a replica that left that its configuration is over: most
/// peers know it from the leader by then.
const TELL_TICKS: u64 = 10;

/// The state of the membership, and of its changes.
#[derive(Default)]
pub(super) struct Membership {
    pub(super) planning: Planning,
    /// The seals that end the configuration, while its end is prepared.
    pub(super) seals: Seals,
    pub(super) joins: Joins,
    /// Whether the cluster does without this replica: it is retired, and something was decided
    /// since; or it is a joiner that is not wanted.
    may_go: bool,
}

impl Membership {
    /// Makes a plan and begins to carry it out, if one is due. Returns the replica to which the
    /// plan is to hand leadership over. `hands_over` says whether that is under way.
    pub(super) fn advance<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        hands_over: bool,
    ) -> Option<ReplicaId> {
        if hands_over || self.seals.is_busy() {
            return None;
        }
        match self.planning.plan(cx, self.seals.why())? {
            Plan::Stay | Plan::Wait(_) => None,
            Plan::HandOver(to) => Some(to),
            Plan::Change(members) => {
                if self.planning.is_sure(cx, &members) {
                    self.seals.begin(cx, members);
                }
                None
            }
        }
    }

    /// Handles a request for a change of the members.
    pub(super) fn configure<S: Store>(
        &mut self,
        cx: &Context<S>,
        members: Vec<Member>,
        hands_over: bool,
    ) {
        if !hands_over {
            self.seals.begin(cx, members);
        }
    }

    /// Seals the configuration as soon as a majority of the next members has every entry.
    pub(super) fn advance_seals<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        proposals: &mut Proposals,
    ) {
        self.seals.advance(cx, &mut self.planning, proposals);
    }

    /// Handles a request for an id from a replica that wants to become a member.
    pub(super) fn join<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        origin: Origin,
        joiner: (String, u64),
        hands_over: bool,
    ) {
        let is_changing = hands_over || self.seals.is_busy();
        self.joins.ask(cx, origin, joiner, is_changing);
    }

    /// Notifies a peer which configuration this replica is in, and how far.
    pub(super) fn tell_over<S: Store>(&self, cx: &mut Context<S>, peer: ReplicaId) {
        let (configuration, index) = (cx.configuration.id, cx.store.applied());
        let is_dismissed = self.is_dismissed(cx, peer);
        let message = PeerMessage::ConfigurationOver { configuration, index, is_dismissed };
        cx.send(peer, message, After::Earlier);
    }

    /// Notifies the peers that need it which configuration the cluster is in, and how far: the
    /// leader notifies those that are not members, and a replica that left notifies all, until they
    /// can do without it. It may be the only one left that knows what led there.
    pub(super) fn notify_outsiders<S: Store>(&mut self, cx: &mut Context<S>) {
        let is_due = |ticks| cx.now.is_multiple_of(ticks);
        let peers = &cx.peers;
        let told: Vec<_> = match cx.standing() {
            // The members of the next configuration must get the last entries of this one at once.
            Standing::Member if cx.is_leading() => {
                let is_due = is_due(HINT_TICKS) || self.seals.is_under_way();
                peers.guests().filter(|_| is_due).collect()
            }
            Standing::Retired if self.is_to_tell(cx) && is_due(TELL_TICKS) => {
                peers.linked().collect()
            }
            _ => return,
        };
        for peer in told {
            self.tell_over(cx, peer);
        }
    }

    /// Notifies a peer whose session began, if it may not know which configuration the cluster is
    /// in.
    pub(super) fn greet<S: Store>(&mut self, cx: &mut Context<S>, peer: ReplicaId) {
        let tells = match cx.standing() {
            Standing::Member => !cx.peers.is_member(peer),
            Standing::Retired => self.is_to_tell(cx),
            // A report from a replica that has not joined yet counts for no peer.
            Standing::Joiner => false,
        };
        if tells {
            self.tell_over(cx, peer);
        }
    }

    /// Whether others may have to learn from this replica, which left, that a configuration is
    /// over.
    fn is_to_tell<S: Store>(&self, cx: &Context<S>) -> bool {
        !self.may_go && cx.rules.tells_ends()
    }

    /// Whether a peer is not a member and will not be one: this replica leads, has no change under
    /// way, and knows that the peer's ordinal is not wanted.
    pub(super) fn is_dismissed<S: Store>(&self, cx: &Context<S>, peer: ReplicaId) -> bool {
        let is_unwanted = cx.is_unwanted(cx.peers.name(peer));
        cx.is_leading() && !self.seals.has_proposed() && is_unwanted && !cx.peers.is_member(peer)
    }

    /// Handles a report of how far the cluster is: a joiner continues to copy, and a replica that
    /// left learns that the cluster goes on without it. Returns whether this replica should fetch
    /// what it lacks.
    #[must_use]
    pub(super) fn hinted<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        configuration: ConfigurationId,
        index: u64,
        is_dismissed: bool,
    ) -> bool {
        if cx.standing() == Standing::Joiner && configuration >= cx.configuration.id {
            self.may_go = is_dismissed;
        }
        match cx.standing() {
            Standing::Joiner if index > cx.store.applied() => return true,
            Standing::Joiner => tell_state(cx),
            Standing::Retired => {
                let has_decided = (configuration, index) > (cx.configuration.id, cx.began);
                self.may_go |= has_decided;
            }
            Standing::Member => {}
        }
        false
    }

    /// Returns the membership for status output.
    pub(super) fn status<S: Store>(&self, cx: &Context<S>, restarts: &Restarts) -> Status {
        let chain = cx.store.chain();
        let wanted = cx.wanted;
        let joiner = |member: &Member| JoinerStatus {
            name: member.name.clone(),
            index: cx.peers.state_of(member.replica).unwrap_or(0),
            is_linked: cx.peers.session(member.replica).is_some(),
        };
        let is_wound_down = wanted.is_some_and(|wanted| wanted.replicas == 0);
        let leaves = |member: &&Member| !is_wound_down && cx.is_unwanted(&member.name);
        let leaving = chain.current.members.iter().filter(leaves);
        Status {
            wanted: wanted.map(|wanted| wanted.replicas),
            joiners: chain.joiners.iter().map(|j| joiner(&j.member)).collect(),
            leaving: leaving.map(|member| member.name.clone()).collect(),
            waits: self.planning.waits().cloned().filter(|_| cx.is_leading()),
            may_go: match cx.standing() {
                Standing::Member => restarts.may(),
                Standing::Joiner | Standing::Retired => self.may_go,
            },
        }
    }
}
