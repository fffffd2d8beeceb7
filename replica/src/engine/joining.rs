//! Pure: handles replicas that are not members: those that are to become members, and those that
//! were.
//!
//! A joiner gets its id from the replicated state, copies the state, and reports how far it is. The
//! leader notifies joiners, and replicas that left, in which configuration the cluster is and how
//! far: so a joiner continues to copy, and a replica that left learns that the cluster goes on
//! without it.
//!
//! A replica that left notifies every linked peer that its configuration is over, until the next
//! one has decided an entry: then a majority there has the entries that led to it.
//!
//! Guarantees that an id is given once, by an entry; that every request for an id is answered, and
//! takes no place for longer than it waits. Does not decide which replicas become members; the
//! [planner](crate::planner) does.

use kvorum_protocol::message::{Answer, Refusal};
use kvorum_protocol::name;
use kvorum_protocol::status::{ConfigurationId, Member, ReplicaId};

use super::consensus::Consensus;
use super::message::{ClientKey, Output, PeerMessage};
use super::{Engine, Origin};
use crate::chain::Standing;
use crate::entry::Entry;
use crate::planner::{self, MEMBERS_MAX, Scale};
use crate::storage::Store;
use crate::version::Version;

/// Ticks between two hints of the leader to replicas that are not members.
const HINT_TICKS: u64 = 3;
/// Ticks between two notifications of a replica that left that its configuration is over: most
/// peers know it from the leader by then.
const TELL_TICKS: u64 = 10;
/// The maximum number of pending joins; further ones are refused as overload.
const JOINS_MAX: usize = 64;
/// The time limit of a pending join, in ticks; then the joiner may ask again.
const JOIN_TICKS: u64 = 500;

/// The refusal of a join when another replica asked for an id under the same name since.
const OVERTAKEN: &str = "another replica asked for an id under this name since: of one name the \
                         last counts; see that only one process has this name, and ask again";

/// A pending join: a request for an id.
pub(super) struct Asking {
    origin: Origin,
    nonce: u64,
    /// The index of the entry that assigns the id, unless the joiner has its id already.
    index: u64,
    deadline: u64,
}

/// Checks whether a joiner may have a name; the error says what is wrong with it.
fn check_name(name: &str, members: &[Member]) -> Result<(), String> {
    name::check(name).map_err(|none| none.to_string())?;
    if !planner::belongs(name, members) {
        let first = members.first().map_or("", |member| member.name.as_str());
        return Err(format!(
            "{name} is not named as the members of this cluster are, of which one is {first}: it \
             cannot become one; start it with a name of theirs, or with another cluster's folder \
             or StatefulSet"
        ));
    }
    Ok(())
}

impl<S: Store> Engine<S> {
    /// Handles a request for an id from a replica that wants to become a member.
    pub(super) fn join(&mut self, origin: Origin, name: String, nonce: u64) {
        let refusal = if !self.cx.is_leading() {
            Some(Refusal::NotLeader { leader: self.cx.leader_name() })
        } else if let Err(why) = check_name(&name, &self.cx.configuration.members) {
            Some(Refusal::Unavailable(why))
        } else if self.is_beyond(&name) {
            Some(Refusal::Unavailable(format!(
                "{name} is beyond the {MEMBERS_MAX} replicas that a cluster can have: scale to \
                 that many or fewer"
            )))
        } else if self.cx.store.version() < Version::JOINERS {
            let (has, needs) = (self.cx.store.version(), Version::JOINERS);
            Some(Refusal::Unavailable(format!(
                "the cluster has version {has}, and its members can change from version {needs} \
                 on: update every replica"
            )))
        } else if self.joins.len() >= JOINS_MAX {
            Some(Refusal::Overloaded)
        } else {
            let is_quiet = self.stops || self.seals.is_under_way() || self.hand_over.is_some();
            is_quiet.then_some(Refusal::HandingOver)
        };
        if let Some(refusal) = refusal {
            return self.cx.answer(origin, Answer::Refused(refusal));
        }
        if self.cx.store.chain().id_of(nonce).is_none()
            && let Some(consensus) = &mut self.cx.consensus
        {
            consensus.propose(vec![Entry::Join { name, nonce }]);
        }
        let index = self.cx.consensus.as_ref().map_or(0, Consensus::accepted);
        self.joins.push(Asking { origin, nonce, index, deadline: self.cx.now + JOIN_TICKS });
        self.answer_joins();
    }

    /// Whether a name's ordinal can never be a member's. Every joiner that asks gets an id, so this
    /// limits the ids to as many as there can be members.
    fn is_beyond(&self, name: &str) -> bool {
        let wanted = self.scale_wanted().zip(planner::ordinal(name));
        let most = |scale| Scale { replicas: MEMBERS_MAX, ..scale };
        wanted.is_some_and(|(scale, ordinal)| !most(scale).has(ordinal))
    }

    /// Answers the pending joins that have an id by now; the entry that assigned it is decided. Of
    /// one name the last request counts: the others are refused as overtaken.
    pub(super) fn answer_joins(&mut self) {
        if self.joins.is_empty() {
            return;
        }
        let (chain, applied) = (self.cx.store.chain(), self.cx.store.applied());
        let outbox = &mut self.cx;
        self.joins.retain(|asking| {
            let answer = match chain.id_of(asking.nonce) {
                Some(replica) => Answer::Joined { replica, configuration: chain.current.clone() },
                None if applied < asking.index => return true,
                None => Answer::Refused(Refusal::Unavailable(OVERTAKEN.to_owned())),
            };
            outbox.answer(asking.origin, answer);
            false
        });
    }

    /// Drops what waits for a client: its connection ended.
    pub(super) fn client_gone(&mut self, client: ClientKey) {
        self.subscriptions.client_gone(client);
        let is_gone = |origin| matches!(origin, Origin::Client { client: c, .. } if c == client);
        self.joins.retain(|asking| !is_gone(asking.origin));
    }

    /// Refuses joins that waited too long; a retry with the same nonce gets the same id.
    pub(super) fn expire_joins(&mut self) {
        let (now, outbox) = (self.cx.now, &mut self.cx);
        self.joins.retain(|asking| {
            let waits = now < asking.deadline;
            if !waits {
                outbox.answer(asking.origin, Answer::Refused(Refusal::NoQuorum));
            }
            waits
        });
    }

    /// Refuses all pending joins, because this replica no longer leads: the joiners ask again.
    pub(super) fn abandon_joins(&mut self) {
        for Asking { origin, .. } in std::mem::take(&mut self.joins) {
            let refusal = Refusal::NotLeader { leader: None };
            self.cx.answer(origin, Answer::Refused(refusal));
        }
    }

    /// Notifies the peers that need it which configuration the cluster is in, and how far: the
    /// leader notifies those that are not members, and a replica that left notifies all, until they
    /// can do without it. It may be the only one left that knows what led there.
    pub(super) fn hint(&mut self) {
        let is_due = |ticks| self.cx.now.is_multiple_of(ticks);
        let peers = &self.cx.peers;
        let told: Vec<_> = match self.cx.standing() {
            // The members of the next configuration must get the last entries of this one at once.
            Standing::Member if self.cx.is_leading() => {
                let is_due = is_due(HINT_TICKS) || self.seals.is_under_way();
                peers.guests().filter(|_| is_due).collect()
            }
            Standing::Retired if self.is_to_tell() && is_due(TELL_TICKS) => {
                peers.linked().collect()
            }
            _ => return,
        };
        for peer in told {
            self.tell_over(peer);
        }
    }

    /// Notifies a peer whose session began, if it may not know which configuration the cluster is
    /// in.
    pub(super) fn greet(&mut self, peer: ReplicaId) {
        let tells = match self.cx.standing() {
            Standing::Member => !self.cx.peers.is_member(peer),
            Standing::Retired => self.is_to_tell(),
            // A report from a replica that has not joined yet counts for no peer.
            Standing::Joiner => false,
        };
        if tells {
            self.tell_over(peer);
        }
    }

    /// Whether others may have to learn from this replica, which left, that a configuration is
    /// over.
    fn is_to_tell(&self) -> bool {
        !self.may_go && self.cx.rules.tells_ends
    }

    /// Whether a peer is not a member and will not be one: this replica leads, has no change under
    /// way, and knows that the peer's ordinal is not wanted.
    pub(super) fn is_dismissed(&self, peer: ReplicaId) -> bool {
        let ordinal = planner::ordinal(self.cx.peers.name(peer));
        let is_unwanted = self.scale_wanted().zip(ordinal).is_some_and(|(s, o)| !s.has(o));
        self.cx.is_leading() && !self.stops && is_unwanted && !self.cx.peers.is_member(peer)
    }

    /// Handles a report of how far the cluster is: a joiner continues to copy, and a replica that
    /// left learns that the cluster goes on without it.
    pub(super) fn hinted(
        &mut self,
        peer: ReplicaId,
        configuration: ConfigurationId,
        index: u64,
        is_dismissed: bool,
    ) {
        if self.cx.standing() == Standing::Joiner && configuration >= self.cx.configuration.id {
            self.may_go = is_dismissed;
        }
        match self.cx.standing() {
            Standing::Joiner if index > self.cx.store.applied() => {
                self.fetch_newer(peer, configuration, index);
            }
            Standing::Joiner => self.tell_state(),
            Standing::Retired => {
                let has_decided =
                    (configuration, index) > (self.cx.configuration.id, self.cx.began);
                self.may_go |= has_decided;
            }
            Standing::Member => {}
        }
    }

    /// Reports to the linked peers how far this joiner has the state.
    pub(super) fn tell_state(&mut self) {
        let index = self.cx.store.applied();
        for to in self.cx.peers.linked().collect::<Vec<_>>() {
            let message = PeerMessage::HasState { index };
            // The reported state is durable first, so that a quorum can count on it.
            self.cx.push(Output::Gated { to, message, durable: true });
        }
    }
}
