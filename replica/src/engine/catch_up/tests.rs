//! Tests of the catch-up by itself.

use super::*;
use crate::engine::tests::Cluster;
use crate::state::machine::Table;

#[test]
fn a_source_that_falls_silent_is_replaced() {
    let mut cluster = Cluster::of(3);
    let (leader, others) = cluster.roles();
    let parts = cluster.parts(others[0]);
    let index = parts.cx.store.applied() + 10;
    parts.catch_up.is_behind(&mut parts.cx, leader, index);
    assert_eq!(parts.catch_up.source(), Some(leader));
    parts.catch_up.ask(&mut parts.cx, None);
    parts.cx.now += PATIENCE_TICKS;
    parts.catch_up.may_have_copied = false;
    assert!(parts.catch_up.advance(&mut parts.cx));
    assert_eq!(parts.catch_up.source(), Some(others[1]));
}

/// An answer that comes late must not be taken for one to a later question.
#[test]
fn only_the_awaited_answer_counts() {
    let mut cluster = Cluster::of(3);
    let (leader, others) = cluster.roles();
    let parts = cluster.parts(others[0]);
    let applied = parts.cx.store.applied();
    parts.catch_up.is_behind(&mut parts.cx, leader, applied + 1);
    parts.catch_up.ask(&mut parts.cx, None);
    let call = parts.catch_up.calls;
    let found =
        || FetchResponse::Entries { from: applied + 1, entries: vec![Entry::Noop], decided: 0 };
    for (peer, call) in [(leader, call - 1), (others[1], call)] {
        let progress = parts.catch_up.fetched(&mut parts.cx, peer, call, found());
        assert!(matches!(progress, Progress::None));
    }
    let progress = parts.catch_up.fetched(&mut parts.cx, leader, call, found());
    assert!(matches!(progress, Progress::Applied { decided: 0 }));
    assert_eq!(parts.cx.store.applied(), applied + 1);
}
