//! Tests of the engine as a whole.

use super::*;
use crate::storage::memory::Memory;
use crate::version::Version;

/// Whether a new session with a peer is ended at once.
fn is_ended(engine: &mut Engine<Memory>, peer: ReplicaId) -> bool {
    engine.step(Input::PeerUp { peer, session: Session(1) });
    let is_its = |output: &Output| matches!(output, Output::EndSession { peer: p } if *p == peer);
    let ends = engine.turn(&|_| true).iter().any(is_its);
    assert_eq!(ends, engine.parts.cx.peers.session(peer).is_none());
    ends
}

/// Between judging a peer and its session, the members may change and the link be cut.
#[test]
fn a_session_that_must_not_be_ends_at_both_ends() {
    let options = Options { allows_faults: true, newest: Version::NEWEST, checksum_ticks: 0 };
    let mut engine = Engine::new(Memory::of_two(1), options);
    let (member, stranger) = (ReplicaId(2), ReplicaId(9));
    assert!(is_ended(&mut engine, stranger), "nobody knows it any more");
    engine.parts.cx.peers.set_cut(member, true);
    assert!(is_ended(&mut engine, member), "the link is cut");
    engine.parts.cx.peers.set_cut(member, false);
    assert!(!is_ended(&mut engine, member));
}
