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
use kvorum_protocol::status::ReplicaId;

use super::context::Context;
use super::handshake::{Claim, Greeting, Introduction, Rejection};
use super::standing::Speaker;
use super::validity::INDEX_MAX;
use crate::engine::store::{PeerRecord, Store};
use crate::state::start::{Epoch, Start};
use crate::state::version::Version;

/// Returns what this replica brings to a handshake with a peer. `theirs` is the introduction of a
/// peer that dialed: a stranger is sent nothing.
pub(super) fn greet<S: Store>(
    cx: &Context<S>,
    peer: ReplicaId,
    theirs: Option<&Introduction>,
) -> Result<Greeting, Rejection> {
    theirs.map_or(Ok(()), |theirs| admit(cx, theirs))?;
    let me = cx.store.identity();
    let seen = cx.store.seen(peer);
    let start = cx.store.start(me.incarnation).expect("a start is kept from its beginning");
    let mine = Introduction {
        cluster: me.cluster,
        replica: me.replica,
        name: me.name.clone(),
        incarnation: me.incarnation,
        key: start.secret.key(),
        last_saw: seen.map_or(0, |seen| seen.incarnation),
        versions: (Version::OLDEST, cx.peers.newest()),
    };
    Ok(Greeting { mine, seen, start: theirs.and_then(|theirs| start_seen(cx, theirs.last_saw)) })
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
fn admit<S: Store>(cx: &Context<S>, theirs: &Introduction) -> Result<(), Rejection> {
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

/// Judges a peer's claim.
pub(super) fn judge<S: Store>(cx: &Context<S>, claim: &Claim) -> Result<(), Rejection> {
    let Claim { theirs, seen, reaches } = claim;
    let (seen, reaches) = (*seen, *reaches);
    admit(cx, theirs)?;
    // The peer may have reported a later epoch since.
    let now = cx.store.seen(theirs.replica);
    if now.map(|now| now.incarnation) != seen.map(|seen| seen.incarnation) {
        return Err(Rejection::Crossed);
    }
    let is_known = |seen: PeerRecord| {
        let is_same = theirs.incarnation == seen.incarnation && theirs.key == seen.key;
        let remembers = reaches >= Some(seen.epoch) || !cx.rules.compares_epochs();
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
            cx.store.remember(peer, PeerRecord { incarnation, key, epoch });
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
    use kvorum_protocol::status::ClusterId;

    use super::*;
    use crate::engine::store::IdentityStore;
    use crate::engine::{Engine, Input, Options, marking::epochs};
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

    /// Returns what the second replica claims to the first, on a disk.
    fn said(disk: &Memory, seen: Option<PeerRecord>) -> Claim {
        let theirs = engine(disk.clone());
        let start = theirs.start_seen(seen.map_or(0, |seen| seen.incarnation));
        let is_key = |start: &Start| seen.is_none_or(|seen| start.secret.key() == seen.key);
        let reaches = start.filter(is_key).map(|start| start.reaches());
        Claim { theirs: theirs.greet(HERE, None).unwrap().mine, seen, reaches }
    }

    #[test]
    fn a_peer_is_taken_only_if_it_continues_what_was_seen() {
        let mut here = engine(Memory::of_two(1));
        let disk = Memory::of_two(2);
        assert!(!here.parts.cx.peers.have_all_met());
        let first = said(&disk, None);
        assert_eq!(here.judge(&first), Ok(()));
        let unproven = here.judge(&Claim { reaches: None, ..first.clone() });
        assert!(matches!(unproven, Err(Rejection::OtherDisk { seen: 0, .. })), "no proof at all");
        assert!(!here.parts.cx.peers.have_all_met(), "judged is not met: it may turn us away");
        here.step(Input::Met(first.theirs.clone()));
        assert!(here.parts.cx.peers.have_all_met());
        let seen = here.store().seen(THERE);
        let again = said(&disk, seen);
        assert_eq!(here.judge(&again), Ok(()), "the same start again");

        let next = disk.restart(disk.unsynced(), 7);
        let lost = Memory::of_two(2).restart(0, 5);
        let key = Secret::of_nonce(5).key();
        let other = Introduction { key, ..first.theirs.clone() };
        let unproven = Claim { seen, reaches: None, ..first.clone() };
        for claim in [said(&lost, seen), Claim { theirs: other, ..unproven.clone() }, unproven] {
            let verdict = here.judge(&claim);
            assert!(verdict.is_err() || claim.theirs == first.theirs, "{claim:?}");
        }
        let later = said(&next, seen);
        assert_eq!(here.judge(&later), Ok(()), "the start last seen");
        here.step(Input::Met(later.theirs.clone()));
        let verdict = here.judge(&later);
        assert_eq!(verdict, Err(Rejection::Crossed), "it proves what was remembered before");
        let seen = here.store().seen(THERE);
        let verdict = here.judge(&said(&disk, seen));
        assert!(matches!(verdict, Err(Rejection::OtherDisk { seen: 2, .. })), "an older copy");
    }

    /// A copy of a running disk has every secret, and ends in an earlier epoch.
    #[test]
    fn a_copy_of_the_current_start_is_told_apart() {
        let mut here = engine(Memory::of_two(1));
        let mut disk = Memory::of_two(2);
        let first = said(&disk, None);
        here.step(Input::Met(first.theirs.clone()));
        let copy = disk.restart(disk.unsynced(), 7);
        disk.begin_epoch();
        epochs::told(&mut here.parts.cx, THERE, disk.epoch(), 0);
        let seen = here.store().seen(THERE);
        let kept = disk.restart(disk.unsynced(), 8);
        assert_eq!(here.judge(&said(&kept, seen)), Ok(()), "the disk itself");
        let verdict = here.judge(&said(&copy, seen));
        assert!(matches!(verdict, Err(Rejection::OtherDisk { seen: 1, .. })), "{verdict:?}");
        // Whatever it writes since, it lacks the writes of the start that was seen.
        let mut copy = copy.restart(copy.unsynced(), 9);
        (0..9).for_each(|_| copy.begin_epoch());
        assert!(here.judge(&said(&copy.restart(copy.unsynced(), 10), seen)).is_err());
    }

    #[test]
    fn a_stranger_is_told_that_it_is_one() {
        let here = engine(Memory::of_two(1));
        let claim = said(&Memory::of_two(2), None);
        let theirs = claim.theirs.clone();
        let others = [
            Introduction { cluster: ClusterId(1), ..theirs.clone() },
            Introduction { name: "kvorum-1".to_owned(), ..theirs.clone() },
            Introduction { replica: ReplicaId(3), ..theirs.clone() },
            Introduction { versions: (Version(9), Version(9)), ..theirs.clone() },
            Introduction { incarnation: u64::MAX, ..theirs.clone() },
            Introduction { last_saw: u64::MAX, ..theirs },
        ];
        for other in others {
            assert!(here.greet(other.replica, Some(&other)).is_err(), "{other:?}");
            let claim = Claim { theirs: other, ..claim.clone() };
            assert!(here.judge(&claim).is_err(), "{claim:?}");
        }
        assert!(here.start_seen(u64::MAX).is_none());
    }

    /// A replica that left before this one came is known by its id only, which is no secret.
    #[test]
    fn one_that_left_is_not_met_for_the_first_time() {
        let mut here = engine(Memory::of_two(1));
        let theirs = said(&Memory::of_two(2), None);
        let mut chain = here.store().chain();
        chain.former = chain.current.members.split_off(1);
        here.parts.cx.standings.know(&chain);
        let verdict = here.judge(&theirs);
        assert!(matches!(verdict, Err(Rejection::NoMember { .. })), "{verdict:?}");
        chain.current.members.append(&mut chain.former);
        here.parts.cx.standings.know(&chain);
        assert_eq!(here.judge(&theirs), Ok(()));
        here.step(Input::Met(theirs.theirs.clone()));
        chain.former = chain.current.members.split_off(1);
        here.parts.cx.standings.know(&chain);
        let seen = here.store().seen(THERE);
        assert_eq!(here.judge(&said(&Memory::of_two(2), seen)), Ok(()), "it was met as a member");
    }

    /// Every replica that asks for an id gets one.
    #[test]
    fn only_who_was_a_member_takes_a_vote_away() {
        let mut here = engine(Memory::of_two(1));
        here.step(Input::Met(said(&Memory::of_two(2), None).theirs));
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
