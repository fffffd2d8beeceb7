//! Pure: introduces this replica to its peers, and judges the introductions of others.
//!
//! A replica that was started on another disk than its peers remember must not vote: it has
//! forgotten what it promised. So each start has a number (the incarnation) and a [key](StartKey),
//! and a peer accepts a later start only with a proof that its disk has the start last seen, up to
//! the [epoch](crate::state::start::Epoch) in which that start was seen last. A new cluster's
//! replica does not vote before it has met every member; so for each disk at least one of the
//! voters remembers it.
//!
//! Guarantees that a stranger receives nothing that helps to impersonate a replica, and that a
//! replica gives up its vote only at the report of a peer that proved its identity.

use kvorum_protocol::name;
use kvorum_protocol::status::{ClusterId, ReplicaId};
use serde::{Deserialize, Serialize};

use super::context::Context;
use super::standing::Speaker;
use super::validity::INDEX_MAX;
use crate::state::start::{Epoch, Start, StartKey};
use crate::state::version::Version;
use crate::storage::{Seen, Store};

/// The identity that a replica sends when a session begins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Introduction {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Its id.
    pub replica: ReplicaId,
    /// Its name.
    pub name: String,
    /// The number of this start.
    pub incarnation: u64,
    /// The public key of that start.
    pub key: StartKey,
    /// The other side's incarnation that it saw last; 0 when it never saw one.
    pub last_saw: u64,
    /// The oldest and the newest version that its program knows.
    pub versions: (Version, Version),
}

/// The reason why a replica does not talk to another one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    /// The cluster has a version that the other replica's program does not know.
    #[error(
        "the cluster has version {cluster}, and {name} knows {} to {}: install a program there \
         that knows it",
        knows.0,
        knows.1
    )]
    Version {
        /// The cluster's version.
        cluster: Version,
        /// The rejected replica's name.
        name: String,
        /// The oldest and the newest version that it knows.
        knows: (Version, Version),
    },
    /// It belongs to another cluster.
    #[error("it belongs to cluster {theirs}, not to the one that this replica belongs to")]
    OtherCluster {
        /// The rejected replica's cluster.
        theirs: ClusterId,
    },
    /// It is not a member, or has another member's name.
    #[error("{name:?} (replica {replica}) is no member of this cluster")]
    NoMember {
        /// Its name.
        name: String,
        /// Its id.
        replica: u64,
    },
    /// It does not continue the incarnation that was seen last, up to its last seen epoch: its disk
    /// was lost, replaced by an older copy, or copied.
    #[error(
        "{name} does not continue incarnation {seen}, which was seen last: its disk was lost, is \
         an older copy, or is in use twice"
    )]
    OtherDisk {
        /// Its name.
        name: String,
        /// The incarnation seen last.
        seen: u64,
    },
    /// The link is cut on purpose.
    #[error("the link is cut on purpose")]
    Cut,
    /// Another meeting with it took place in between; it may retry.
    #[error("another meeting came in between")]
    Crossed,
    /// It reports an impossible number of starts.
    #[error("it says that it was started more often than anything can be")]
    Impossible,
}

/// Returns this replica's introduction to a peer, and what it remembers of that peer.
pub(super) fn introduce<S: Store>(
    cx: &Context<S>,
    peer: ReplicaId,
) -> (Introduction, Option<Seen>) {
    let me = cx.store.identity();
    let seen = cx.store.seen(peer);
    let start = cx.store.start(me.incarnation).expect("a start is kept from its beginning");
    let introduction = Introduction {
        cluster: me.cluster,
        replica: me.replica,
        name: me.name.clone(),
        incarnation: me.incarnation,
        key: start.secret.key(),
        last_saw: seen.map_or(0, |seen| seen.incarnation),
        versions: (Version::OLDEST, cx.peers.newest()),
    };
    (introduction, seen)
}

/// Returns the start with which this replica proves its identity to a peer that saw an
/// incarnation of it last: the current one for a peer that never saw any. `None` when this disk
/// does not have it.
pub(super) fn start_seen<S: Store>(cx: &Context<S>, incarnation: u64) -> Option<Start> {
    match incarnation {
        0 => cx.store.start(cx.store.identity().incarnation),
        incarnation => cx.store.start(incarnation),
    }
}

/// Checks whether a stranger may be sent anything: it must belong to this cluster, and be known
/// in it.
pub(super) fn admit<S: Store>(cx: &Context<S>, theirs: &Introduction) -> Result<(), Rejection> {
    if theirs.cluster != cx.store.identity().cluster {
        return Err(Rejection::OtherCluster { theirs: theirs.cluster });
    }
    if theirs.incarnation.max(theirs.last_saw) >= INDEX_MAX {
        return Err(Rejection::Impossible);
    }
    let (cluster, knows) = (cx.store.version(), theirs.versions);
    let name = theirs.name.clone();
    if name::check(&name).is_err() {
        return Err(Rejection::NoMember { name: String::new(), replica: theirs.replica.0 });
    }
    if !(knows.0..=knows.1).contains(&cluster) {
        return Err(Rejection::Version { cluster, name, knows });
    }
    let (peers, replica) = (&cx.peers, theirs.replica);
    match peers.knows(replica) && peers.name(replica) == name {
        true if peers.is_cut(replica) => Err(Rejection::Cut),
        true => Ok(()),
        false => Err(Rejection::NoMember { name, replica: replica.0 }),
    }
}

/// Judges a peer's introduction. `seen` is what this replica remembered of it when they met,
/// and `reaches` the epoch in which the writes of that start end on the peer's disk, if it
/// proved that it has that start.
pub(super) fn judge<S: Store>(
    cx: &Context<S>,
    theirs: &Introduction,
    seen: Option<Seen>,
    reaches: Option<Epoch>,
) -> Result<(), Rejection> {
    admit(cx, theirs)?;
    // The peer may have reported a later epoch since.
    let now = cx.store.seen(theirs.replica);
    if now.map(|now| now.incarnation) != seen.map(|seen| seen.incarnation) {
        return Err(Rejection::Crossed);
    }
    let is_known = |seen: Seen| {
        let is_same = theirs.incarnation == seen.incarnation && theirs.key == seen.key;
        let remembers = reaches >= Some(seen.epoch) || !cx.rules.compares_epochs;
        is_same || (theirs.incarnation > seen.incarnation && remembers)
    };
    match (now, reaches) {
        // A replica that left before this one met it has nothing to report, and anyone could
        // claim its id.
        (None, _) if cx.standings.is_former(theirs.replica) => {
            Err(Rejection::NoMember { name: theirs.name.clone(), replica: theirs.replica.0 })
        }
        (None, Some(_)) => Ok(()),
        (Some(seen), Some(_)) if is_known(seen) => Ok(()),
        (seen, _) => Err(Rejection::OtherDisk {
            name: theirs.name.clone(),
            seen: seen.map_or(0, |seen| seen.incarnation),
        }),
    }
}

/// Records that this replica and the peer have accepted each other. A peer that turned this
/// replica away was not met.
pub(super) fn meet<S: Store>(cx: &mut Context<S>, theirs: &Introduction) {
    let peer = theirs.replica;
    if cx.peers.knows(peer) {
        let seen = cx.store.seen(peer);
        // A later start may have been met meanwhile.
        if seen.is_none_or(|seen| seen.incarnation < theirs.incarnation) {
            let Introduction { incarnation, key, .. } = *theirs;
            let epoch = Epoch::default();
            cx.store.remember(peer, Seen { incarnation, key, epoch });
        }
        cx.peers.met(peer, theirs.versions.1);
        cx.fences.turned_away_by = None;
    }
}

/// Handles the report of a peer that remembers this replica with another disk. A peer that did
/// not prove its identity may be anyone, and one that is not a member has nothing to remember:
/// neither report takes the vote away, but only explains why there is none. Returns the name of
/// the peer if the vote is lost.
#[must_use]
pub(super) fn disowned<S: Store>(
    cx: &mut Context<S>,
    peer: ReplicaId,
    is_proven: bool,
) -> Option<String> {
    if !cx.peers.knows(peer) {
        return None;
    }
    let by = cx.peers.name(peer).to_owned();
    if is_proven && cx.speaker(peer) >= Speaker::Elsewhere {
        return Some(by);
    }
    cx.fences.turned_away_by = Some(by);
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, Options, marking::epochs};
    use crate::state::chain::Joiner;
    use crate::state::machine::Table;
    use crate::state::start::Secret;
    use crate::storage::memory::Memory;

    fn engine(store: Memory) -> Engine<Memory> {
        let newest = Version::NEWEST;
        Engine::new(store, Options { allows_faults: false, newest, checksum_ticks: 0 })
    }

    const HERE: ReplicaId = ReplicaId(1);
    const THERE: ReplicaId = ReplicaId(2);

    /// Returns the second replica's introduction to the first, and what it proves, on a disk.
    fn said(disk: &Memory, seen: Option<Seen>) -> (Introduction, Option<Epoch>) {
        let theirs = engine(disk.clone());
        let start = theirs.start_seen(seen.map_or(0, |seen| seen.incarnation));
        let is_key = |start: &Start| seen.is_none_or(|seen| start.secret.key() == seen.key);
        (theirs.introduce(HERE).0, start.filter(is_key).map(|start| start.reaches()))
    }

    #[test]
    fn a_peer_is_taken_only_if_it_continues_what_was_seen() {
        let mut here = engine(Memory::of_two(1));
        let disk = Memory::of_two(2);
        assert!(!here.parts.cx.peers.have_all_met());
        let (first, reaches) = said(&disk, None);
        assert_eq!(here.judge(&first, None, reaches), Ok(()));
        let unproven = here.judge(&first, None, None);
        assert!(matches!(unproven, Err(Rejection::OtherDisk { seen: 0, .. })), "no proof at all");
        assert!(!here.parts.cx.peers.have_all_met(), "judged is not met: it may turn us away");
        here.meet(&first);
        assert!(here.parts.cx.peers.have_all_met());
        let seen = here.store().seen(THERE);
        let (again, reaches) = said(&disk, seen);
        assert_eq!(here.judge(&again, seen, reaches), Ok(()), "the same start again");

        let next = disk.restart(disk.unsynced(), 7);
        let lost = Memory::of_two(2).restart(0, 5);
        let other = Introduction { key: Secret::of_nonce(5).key(), ..first.clone() };
        for (theirs, reaches) in [said(&lost, seen), (other, None), (first.clone(), None)] {
            let verdict = here.judge(&theirs, seen, reaches);
            assert!(verdict.is_err() || theirs == first, "{theirs:?}");
        }
        let (later, reaches) = said(&next, seen);
        assert_eq!(here.judge(&later, seen, reaches), Ok(()), "the start last seen");
        here.meet(&later);
        let verdict = here.judge(&later, seen, reaches);
        assert_eq!(verdict, Err(Rejection::Crossed), "it proves what was remembered before");
        let seen = here.store().seen(THERE);
        let (older, reaches) = said(&disk, seen);
        let verdict = here.judge(&older, seen, reaches);
        assert!(matches!(verdict, Err(Rejection::OtherDisk { seen: 2, .. })), "an older copy");
    }

    /// A copy of a running disk has every secret, and ends in an earlier epoch.
    #[test]
    fn a_copy_of_the_current_start_is_told_apart() {
        let mut here = engine(Memory::of_two(1));
        let mut disk = Memory::of_two(2);
        let (first, _) = said(&disk, None);
        here.meet(&first);
        let copy = disk.restart(disk.unsynced(), 7);
        disk.begin_epoch();
        epochs::told(&mut here.parts.cx, THERE, disk.epoch(), 0);
        let seen = here.store().seen(THERE);
        let kept = disk.restart(disk.unsynced(), 8);
        let (theirs, reaches) = said(&kept, seen);
        assert_eq!(here.judge(&theirs, seen, reaches), Ok(()), "the disk itself");
        let (theirs, reaches) = said(&copy, seen);
        let verdict = here.judge(&theirs, seen, reaches);
        assert!(matches!(verdict, Err(Rejection::OtherDisk { seen: 1, .. })), "{verdict:?}");
        // Whatever it writes since, it lacks the writes of the start that was seen.
        let mut copy = copy.restart(copy.unsynced(), 9);
        (0..9).for_each(|_| copy.begin_epoch());
        let (theirs, reaches) = said(&copy.restart(copy.unsynced(), 10), seen);
        assert!(here.judge(&theirs, seen, reaches).is_err());
    }

    #[test]
    fn a_stranger_is_told_that_it_is_one() {
        let here = engine(Memory::of_two(1));
        let (theirs, reaches) = said(&Memory::of_two(2), None);
        let others = [
            Introduction { cluster: ClusterId(1), ..theirs.clone() },
            Introduction { name: "kvorum-1".to_owned(), ..theirs.clone() },
            Introduction { replica: ReplicaId(3), ..theirs.clone() },
            Introduction { versions: (Version(9), Version(9)), ..theirs.clone() },
            Introduction { incarnation: u64::MAX, ..theirs.clone() },
            Introduction { last_saw: u64::MAX, ..theirs },
        ];
        for other in others {
            assert!(here.admit(&other).is_err(), "{other:?}");
            assert!(here.judge(&other, None, reaches).is_err(), "{other:?}");
        }
        assert!(here.start_seen(u64::MAX).is_none());
    }

    /// A replica that left before this one came is known by its id only, which is no secret.
    #[test]
    fn one_that_left_is_not_met_for_the_first_time() {
        let mut here = engine(Memory::of_two(1));
        let (theirs, reaches) = said(&Memory::of_two(2), None);
        let mut chain = here.store().chain();
        chain.former = chain.current.members.split_off(1);
        here.parts.cx.standings.know(&chain);
        let verdict = here.judge(&theirs, None, reaches);
        assert!(matches!(verdict, Err(Rejection::NoMember { .. })), "{verdict:?}");
        chain.current.members.append(&mut chain.former);
        here.parts.cx.standings.know(&chain);
        assert_eq!(here.judge(&theirs, None, reaches), Ok(()));
        here.meet(&theirs);
        chain.former = chain.current.members.split_off(1);
        here.parts.cx.standings.know(&chain);
        let seen = here.store().seen(THERE);
        assert_eq!(here.judge(&theirs, seen, reaches), Ok(()), "it was met as a member");
    }

    /// Every replica that asks for an id gets one.
    #[test]
    fn only_who_was_a_member_takes_a_vote_away() {
        let mut here = engine(Memory::of_two(1));
        here.meet(&said(&Memory::of_two(2), None).0);
        let members = here.store().chain();
        let mut joins = members.clone();
        let joiner = joins.current.members.pop().map(|member| Joiner { member, nonce: 1 });
        joins.joiners.extend(joiner);
        here.parts.cx.standings.know(&joins);
        here.parts.disowned(THERE, true);
        assert!(
            here.parts.cx.fences.disowned_by.is_none()
                && here.parts.cx.fences.turned_away_by.is_some()
        );
        here.parts.cx.standings.know(&members);
        here.parts.disowned(THERE, true);
        assert!(here.parts.cx.fences.disowned_by.is_some());
    }
}
