//! Pure: the leader lets the members follow the number of replicas that is wanted.
//!
//! Now and then it looks at who is wanted, linked and in step, and does what the
//! [planner](crate::planner) says. Guarantees that one change is under way at a time, and that
//! nobody is removed because of what was wanted long ago: before a removal it is looked again how
//! many replicas are wanted, by the leader, or by a peer when nobody answers the leader. Does not
//! know who says what is wanted.

use kvorum_protocol::status::{JoinerStatus, Member, Membership, ReplicaId};

use super::Engine;
use super::consensus::Consensus;
use super::message::{Look, Output, PeerMessage};
use crate::chain::Standing;
use crate::planner::{self, Candidate, Plan, Scale, View};
use crate::storage::Store;

/// Ticks between two plans.
const PLAN_TICKS: u64 = 3;
/// A replica whose state lacks no more than so many entries is near enough for a change of the
/// members to begin, and for leadership: what it lacks arrives within a moment.
pub(super) const LAG_MAX: u64 = 1024;

/// Ticks for which the answer to a look holds.
const LOOK_HOLDS_TICKS: u64 = 50;
/// Ticks after which a look that got no answer is repeated, and the peers are asked too.
const LOOK_AGAIN_TICKS: u64 = 300;

/// A look at what is wanted.
struct Looking {
    number: u64,
    asked_at: u64,
    is_answered: bool,
}

impl Default for Looking {
    fn default() -> Self {
        Self { number: 0, asked_at: 0, is_answered: true }
    }
}

/// What becomes of the plans.
#[derive(Default)]
pub(super) struct Planning {
    wanted: Option<Scale>,
    /// Why the members are not those wanted.
    waits: Option<String>,
    /// Since when somebody could have become a member.
    addable_since: Option<u64>,
    /// The last look at what is wanted.
    look: Looking,
    /// Until when its answer holds.
    sure_until: u64,
    /// What this follower told the leader last.
    told: Option<(ReplicaId, Scale)>,
}

impl<S: Store> Engine<S> {
    /// So many replicas are wanted, as whoever says so told this replica.
    pub(super) fn want(&mut self, wanted: Option<Scale>, look: Option<Look>) {
        self.planning.wanted = wanted;
        let (Some(look), Some(wanted)) = (look, wanted) else { return };
        if look.asker == self.me {
            self.looked(wanted, look.number);
        } else {
            let message = PeerMessage::Wanted { wanted, number: Some(look.number) };
            self.outbox.push(Output::Gated { to: look.asker, message, durable: false });
        }
    }

    /// A peer says how many are wanted.
    pub(super) fn told_wanted(&mut self, wanted: Scale, number: Option<u64>) {
        match number {
            Some(number) => self.looked(wanted, number),
            // It may be older than what is known: only a reason to look.
            None if self.is_leading() && self.planning.wanted != Some(wanted) => self.look(),
            None => {}
        }
    }

    fn looked(&mut self, wanted: Scale, number: u64) {
        if number == self.planning.look.number {
            self.planning.look.is_answered = true;
            self.planning.wanted = Some(wanted);
            self.planning.sure_until = self.now + LOOK_HOLDS_TICKS;
        }
    }

    /// A leader whose look got no answer repeats it, and asks the peers too: nobody tells it twice.
    pub(super) fn advance_look(&mut self) {
        let last = &self.planning.look;
        if !last.is_answered && self.now >= last.asked_at + LOOK_AGAIN_TICKS && self.is_leading() {
            self.look();
        }
    }

    /// Looks again how many are wanted, unless that is under way.
    fn look(&mut self) {
        let last = &self.planning.look;
        if !last.is_answered && self.now < last.asked_at + LOOK_AGAIN_TICKS {
            return;
        }
        let (number, is_unanswered) = (last.number + 1, !last.is_answered);
        self.planning.look = Looking { number, asked_at: self.now, is_answered: false };
        self.outbox.push(Output::Look(Look { asker: self.me, number }));
        if is_unanswered {
            let peers: Vec<_> = self.outbox.peers.connected().collect();
            for to in peers {
                let message = PeerMessage::Look { number };
                self.outbox.push(Output::Gated { to, message, durable: false });
            }
        }
    }

    /// Tells the leader what is wanted, if it may not know: it may be cut off from whoever says so.
    pub(super) fn advance_telling(&mut self) {
        let Some((leader, _)) = self.leader() else { return };
        let told = self.planning.wanted.map(|wanted| (leader, wanted));
        if leader == self.me || told == self.planning.told {
            return;
        }
        self.planning.told = told;
        if let Some((to, wanted)) = told {
            let message = PeerMessage::Wanted { wanted, number: None };
            self.outbox.push(Output::Gated { to, message, durable: false });
        }
    }

    /// Whether it is known well enough how many are wanted for these to be the next members; looks
    /// again if it is not.
    pub(super) fn is_sure(&mut self, next: &[Member]) -> bool {
        let is_sure =
            !self.rules.looks_again || !self.removes(next) || self.planning.sure_until >= self.now;
        if !is_sure {
            self.look();
        }
        is_sure
    }

    /// Whether the next members lack one whose ordinal is not wanted any more.
    fn removes(&self, next: &[Member]) -> bool {
        let is_left = |member: &&Member| {
            let ordinal = planner::ordinal(&member.name);
            let wanted = self.planning.wanted.zip(ordinal);
            !next.contains(member) && wanted.is_some_and(|(wanted, o)| !wanted.has(o))
        };
        self.configuration.members.iter().any(|member| is_left(&member))
    }

    /// How many replicas are wanted, as this one was told.
    pub(super) fn scale_wanted(&self) -> Option<Scale> {
        self.planning.wanted
    }

    /// The cluster has never served: it was begun with one member, whatever is wanted.
    pub(super) fn is_genesis(&self) -> bool {
        self.began == 0 && self.configuration.id.0 == 1 && self.configuration.members.len() == 1
    }

    /// Whether a replica has a link to this one, or is this one.
    pub(super) fn is_there(&self, replica: ReplicaId) -> bool {
        replica == self.me || self.outbox.peers.session(replica).is_some()
    }

    /// Whether a replica has the state, but for what is under way.
    pub(super) fn has_state(&self, replica: ReplicaId) -> bool {
        let Some(consensus) = &self.consensus else { return false };
        // More than there is, nobody can have.
        let told = self.sending.state_of(replica).filter(|index| *index <= self.last_known());
        let accepted = consensus.accepted_by(replica).unwrap_or(0);
        let reach = accepted.max(told.unwrap_or(0));
        replica == self.me || reach.saturating_add(LAG_MAX) >= consensus.decided()
    }

    fn candidate(&self, member: &Member) -> Candidate {
        let replica = member.replica;
        Candidate {
            member: member.clone(),
            is_linked: self.is_there(replica),
            has_state: self.has_state(replica),
            silent_ticks: self.outbox.peers.silent_ticks(replica, self.now),
        }
    }

    /// Plans, if it is time to.
    pub(super) fn advance_planning(&mut self) {
        let is_quiet = self.stops || self.seals.is_under_way() || self.hand_over.is_some();
        let is_mine = self.is_leading() && !is_quiet;
        if !self.now.is_multiple_of(PLAN_TICKS) || !is_mine || self.is_adrift() {
            return;
        }
        let chain = self.store.chain();
        let joiners: Vec<_> = chain.joiners.iter().map(|j| self.candidate(&j.member)).collect();
        let wanted = self.planning.wanted;
        let is_wanted = |one: &Candidate| {
            wanted.zip(planner::ordinal(&one.member.name)).is_some_and(|(scale, o)| scale.has(o))
        };
        let is_fit = |one: &Candidate| one.is_linked && one.has_state && is_wanted(one);
        let is_addable = joiners.iter().any(is_fit);
        let since = self.planning.addable_since.filter(|_| is_addable);
        self.planning.addable_since = is_addable.then(|| since.unwrap_or(self.now));
        let view = View {
            wanted,
            leader: self.me,
            members: chain.current.members.iter().map(|member| self.candidate(member)).collect(),
            joiners,
            is_genesis: self.is_genesis(),
            waited_ticks: self.planning.addable_since.map_or(0, |since| self.now - since),
        };
        let plan = planner::plan(&view);
        self.planning.waits = match &plan {
            Plan::Wait(why) => Some(why.to_string()),
            Plan::Change(_) => self.seals.why(),
            Plan::Stay | Plan::HandOver(_) => None,
        };
        match plan {
            Plan::Stay | Plan::Wait(_) => {}
            Plan::HandOver(to) => drop(self.begin_hand_over(Some(to))),
            Plan::Change(members) => {
                if self.is_sure(&members) {
                    self.configure(members);
                }
            }
        }
    }

    /// What this leader knows of the members is not what is decided: it has a log to catch up with.
    fn is_adrift(&self) -> bool {
        let decided = self.consensus.as_ref().map_or(0, Consensus::decided);
        self.store.applied() < decided || self.quarantine.is_some()
    }

    /// For people.
    pub(super) fn membership(&self) -> Membership {
        let chain = self.store.chain();
        let wanted = self.planning.wanted;
        let joiner = |member: &Member| JoinerStatus {
            name: member.name.clone(),
            index: self.sending.state_of(member.replica).unwrap_or(0),
            is_linked: self.outbox.peers.session(member.replica).is_some(),
        };
        let leaves = |member: &&Member| {
            let ordinal = planner::ordinal(&member.name);
            wanted.zip(ordinal).is_some_and(|(wanted, o)| wanted.replicas > 0 && !wanted.has(o))
        };
        let leaving = chain.current.members.iter().filter(leaves);
        Membership {
            wanted: wanted.map(|wanted| wanted.replicas),
            joiners: chain.joiners.iter().map(|j| joiner(&j.member)).collect(),
            leaving: leaving.map(|member| member.name.clone()).collect(),
            waits: self.planning.waits.clone().filter(|_| self.is_leading()),
            may_go: match self.standing() {
                Standing::Member => self.stopping.may(),
                Standing::Joiner | Standing::Retired => self.may_go,
            },
        }
    }
}
