//! Pure: the peers of this replica: their names, and the sessions with them.
//!
//! Guarantees that a message of a replaced session can be told from one of the current session.
//! Does not judge whether a peer is still the same; `introductions` does.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_protocol::message::Refusal;
use kvorum_protocol::status::{ConfigurationId, LinkStatus, Member, ReplicaId};

use super::Session;
use crate::engine::store::Store;
use crate::state::chain::Chain;
use crate::state::version::Version;

/// A peer: another member, a former member or a joiner.
#[derive(Clone, Debug)]
struct Peer {
    name: String,
    session: Option<Session>,
    sessions: u64,
    is_cut: bool,
    has_met: bool,
    /// The index up to which it has the state, as it reported in this session.
    state: Option<u64>,
    /// The newest version that its program knows, as it reported last.
    newest: Option<Version>,
    /// The tick at which its last session ended; has no meaning while there is one.
    silent_since: u64,
}

/// The peers that this replica knows.
pub struct Peers {
    peers: BTreeMap<ReplicaId, Peer>,
    /// The number of times a link began, ended, was cut or healed.
    link_changes: u64,
    /// The newest version that this replica may have.
    newest: Version,
    /// The peers that are members of the configuration; the others were members, or join.
    members: BTreeSet<ReplicaId>,
    /// The replicas that the chain knows.
    chained: BTreeSet<ReplicaId>,
    /// The members that another replica reported, in the configuration below.
    learned: BTreeSet<ReplicaId>,
    configuration: Option<ConfigurationId>,
}

/// A replica to which a link may be needed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Known {
    /// Its id and name.
    pub member: Member,
    /// Whether it is a member. A replica that is not dials the members, and they dial it only for a
    /// while.
    pub is_member: bool,
}

impl Peers {
    /// Creates the peers: the other replicas that the chain knows. The store tells which of them
    /// were met.
    pub fn new<S: Store>(chain: &Chain, me: ReplicaId, newest: Version, store: &S) -> Self {
        let mut peers = Self {
            peers: BTreeMap::new(),
            link_changes: 0,
            newest,
            members: BTreeSet::new(),
            chained: BTreeSet::new(),
            learned: BTreeSet::new(),
            configuration: None,
        };
        peers.reconfigure(chain, me, store, 0);
        peers
    }

    /// Updates the peers after the chain changed; returns whether the known replicas are others
    /// than before. A replica that the chain does not know any more is forgotten, unless it has a
    /// session: it may have to be notified that it left.
    pub fn reconfigure<S: Store>(
        &mut self,
        chain: &Chain,
        me: ReplicaId,
        store: &S,
        now: u64,
    ) -> bool {
        let before = self.known();
        let others = chain.current.members.iter().map(|member| member.replica);
        self.members = others.filter(|replica| *replica != me).collect();
        let known: Vec<_> = chain.known().cloned().collect();
        self.chained = known.iter().map(|member| member.replica).collect();
        if self.configuration != Some(chain.current.id) {
            self.configuration = Some(chain.current.id);
            // The state itself names the members now.
            self.learned.clear();
        }
        self.insert(&known, me, store, now);
        self.forget();
        self.known() != before
    }

    /// Adds members that a replica reported that knows more; returns whether the known replicas are
    /// others than before. Of the reports in one configuration only the last counts.
    pub fn learn<S: Store>(
        &mut self,
        members: &[Member],
        me: ReplicaId,
        store: &S,
        now: u64,
    ) -> bool {
        if members.is_empty() {
            return false;
        }
        let before = self.known();
        self.learned = members.iter().map(|member| member.replica).collect();
        self.insert(members, me, store, now);
        self.forget();
        self.known() != before
    }

    /// Adds the replicas that are new: their silence begins now.
    fn insert<S: Store>(&mut self, members: &[Member], me: ReplicaId, store: &S, now: u64) {
        for Member { replica, name } in members.iter().filter(|member| member.replica != me) {
            self.peers.entry(*replica).or_insert_with(|| Peer {
                name: name.clone(),
                session: None,
                sessions: 0,
                is_cut: false,
                state: None,
                has_met: store.seen(*replica).is_some(),
                newest: None,
                silent_since: now,
            });
        }
    }

    /// Forgets the replicas that there is no reason to know: so the number of known replicas is
    /// bounded, however many ids are given and however often.
    fn forget(&mut self) {
        let Self { chained, learned, .. } = self;
        self.peers.retain(|id, peer| {
            peer.session.is_some() || chained.contains(id) || learned.contains(id)
        });
    }

    /// Returns every known replica.
    #[must_use]
    pub fn known(&self) -> Vec<Known> {
        let known = |(id, peer): (&ReplicaId, &Peer)| Known {
            member: Member { replica: *id, name: peer.name.clone() },
            is_member: self.members.contains(id) || self.learned.contains(id),
        };
        self.peers.iter().map(known).collect()
    }

    /// Returns the peers that are members.
    fn others(&self) -> impl Iterator<Item = (ReplicaId, &Peer)> {
        let members = self.peers.iter().filter(|(id, _)| self.members.contains(id));
        members.map(|(id, peer)| (*id, peer))
    }

    /// Returns the index up to which a peer has the state, as it reported.
    pub(super) fn state_of(&self, peer: ReplicaId) -> Option<u64> {
        self.peers.get(&peer)?.state
    }

    /// Records that a peer has the state up to an index.
    pub(super) fn has_state(&mut self, peer: ReplicaId, index: u64) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.state = Some(index);
        }
    }

    /// Records that this replica and the peer have accepted each other.
    pub(super) fn met(&mut self, peer: ReplicaId, newest: Version) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.has_met = true;
            peer.newest = Some(newest);
        }
    }

    /// Whether the link to a peer is cut on purpose.
    pub(super) fn is_cut(&self, peer: ReplicaId) -> bool {
        self.peers.get(&peer).is_some_and(|peer| peer.is_cut)
    }

    /// Returns the newest version that this replica may have.
    pub(super) fn newest(&self) -> Version {
        self.newest
    }

    /// Returns the newest version that all members' programs know, if it is higher than the
    /// cluster's; each member reported what it knows when it was met last.
    #[must_use]
    pub fn higher_than(&self, cluster: Version) -> Option<Version> {
        let mut others = self.others();
        let newest = others.try_fold(self.newest, |all, (_, peer)| Some(all.min(peer.newest?)));
        newest.filter(|newest| *newest > cluster)
    }

    /// Whether every member was met, now or at an earlier start.
    #[must_use]
    pub fn have_all_met(&self) -> bool {
        self.others().all(|(_, peer)| peer.has_met)
    }

    /// Returns the names of the members that were never met.
    #[must_use]
    pub fn not_met(&self) -> Vec<&str> {
        let missing = self.others().filter(|(_, peer)| !peer.has_met);
        missing.map(|(_, peer)| peer.name.as_str()).collect()
    }

    /// Records that a session began; returns false when it must not be: the peer was forgotten
    /// since it was judged, or the link to it was cut.
    pub fn up(&mut self, peer: ReplicaId, session: Session) -> bool {
        let Some(peer) = self.peers.get_mut(&peer).filter(|peer| !peer.is_cut) else {
            return false;
        };
        peer.session = Some(session);
        // An earlier report may no longer be true.
        peer.state = None;
        peer.sessions += 1;
        self.link_changes += 1;
        true
    }

    /// Records that a session ended; returns false when a newer one has replaced it already.
    pub fn down(&mut self, peer: ReplicaId, session: Session, now: u64) -> bool {
        match self.peers.get_mut(&peer) {
            Some(peer) if peer.session == Some(session) => {
                (peer.session, peer.silent_since) = (None, now);
                self.link_changes += 1;
                self.forget();
                true
            }
            _ => false,
        }
    }

    /// Returns the current session with a peer.
    #[must_use]
    pub fn session(&self, peer: ReplicaId) -> Option<Session> {
        self.peers.get(&peer)?.session
    }

    /// Returns every other member with a session.
    pub fn connected(&self) -> impl Iterator<Item = ReplicaId> {
        self.others().filter(|(_, peer)| peer.session.is_some()).map(|(id, _)| id)
    }

    /// Whether a peer is a member.
    #[must_use]
    pub fn is_member(&self, peer: ReplicaId) -> bool {
        self.members.contains(&peer)
    }

    /// Returns the peers with a session that are not members.
    pub fn guests(&self) -> impl Iterator<Item = ReplicaId> {
        self.linked().filter(|peer| !self.members.contains(peer))
    }

    /// Returns for how many ticks there has been no session with a peer.
    #[must_use]
    pub fn silent_ticks(&self, peer: ReplicaId, now: u64) -> u64 {
        let peer = self.peers.get(&peer).filter(|peer| peer.session.is_none());
        peer.map_or(0, |peer| now.saturating_sub(peer.silent_since))
    }

    /// Returns every peer with a session, whether a member or not.
    pub fn linked(&self) -> impl Iterator<Item = ReplicaId> {
        self.peers.iter().filter(|(_, peer)| peer.session.is_some()).map(|(id, _)| *id)
    }

    /// Returns the number of times a link began, ended, was cut or healed.
    #[must_use]
    pub fn link_changes(&self) -> u64 {
        self.link_changes
    }

    /// Whether a replica is one of the known peers.
    #[must_use]
    pub fn knows(&self, peer: ReplicaId) -> bool {
        self.peers.contains_key(&peer)
    }

    /// Returns a peer's name; empty for a stranger.
    #[must_use]
    pub fn name(&self, peer: ReplicaId) -> &str {
        self.peers.get(&peer).map_or("", |peer| &peer.name)
    }

    /// Returns the peer of that name.
    ///
    /// # Errors
    /// A refusal that lists the other members.
    pub fn named(&self, name: &str) -> Result<ReplicaId, Refusal> {
        // Of several peers that had the name, the last one counts.
        let found = self.peers.iter().rev().find(|(_, peer)| peer.name == name);
        found.map(|(id, _)| *id).ok_or_else(|| Refusal::UnknownReplica {
            name: name.to_owned(),
            members: self.others().map(|(_, p)| p.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    /// Cuts or heals the link to a peer.
    pub fn set_cut(&mut self, peer: ReplicaId, is_cut: bool) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.is_cut = is_cut;
            self.link_changes += 1;
        }
    }

    /// Returns the state of the links, for logs and status output.
    #[must_use]
    pub fn links(&self) -> Vec<LinkStatus> {
        let link = |peer: &Peer| LinkStatus {
            peer: peer.name.clone(),
            is_up: peer.session.is_some(),
            is_cut: peer.is_cut,
            sessions: peer.sessions,
        };
        let is_shown = |(id, peer): &(&ReplicaId, &Peer)| {
            self.members.contains(id) || peer.session.is_some() || peer.is_cut
        };
        self.peers.iter().filter(is_shown).map(|(_, peer)| link(peer)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::machine::Table;
    use crate::storage::memory::Memory;

    #[test]
    fn a_frame_of_a_replaced_session_is_told_apart() {
        let here = Memory::of_two(1);
        let mut peers = Peers::new(&here.chain(), ReplicaId(1), Version::FIRST, &here);
        let peer = ReplicaId(2);
        peers.up(peer, Session(1));
        peers.up(peer, Session(2));
        assert!(!peers.down(peer, Session(1), 0), "the end of a replaced session changes nothing");
        assert_eq!(peers.session(peer), Some(Session(2)));
        assert!(peers.down(peer, Session(2), 0));
    }
}
