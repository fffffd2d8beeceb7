//! Tests of the queue in which clients' requests wait for their turn.

use kvorum_protocol::data::{ClientId, Condition, LaneId, Operation, RequestId};
use kvorum_protocol::message::Subscription;

use super::*;
use crate::state::rights::User;

const GREEDY: AccountId = AccountId(1);
const MODEST: AccountId = AccountId(2);

fn input(client: u64, call: u64, request: Request) -> Input {
    Input::Client { client: ClientKey(client), call, user: User::Anonymous, request }
}

fn get(client: u64, call: u64) -> Input {
    let consistency = Consistency::Linearizable;
    input(client, call, Request::Get { key: "k".into(), consistency })
}

fn put(client: u64, call: u64, bytes: usize) -> Input {
    let id =
        RequestId { lane: LaneId { client: ClientId(client.into()), number: 1 }, sequence: call };
    let (key, value) = ("k".into(), vec![7; bytes].into());
    let operation = Operation::Put { key, value, condition: Condition::Always };
    input(client, call, Request::Write { id, valid_until: u64::MAX, operation })
}

fn call_of(input: &Input) -> (u64, u64) {
    match input {
        Input::Client { client, call, .. } => (client.0, *call),
        _ => unreachable!("only calls wait"),
    }
}

fn is_now(turn: &Turn) -> bool {
    matches!(turn, Turn::Now(_))
}

fn is_later(turn: &Turn) -> bool {
    matches!(turn, Turn::Later)
}

/// A queue whose engine has all the reads that it may have, of a greedy client.
fn full() -> FairQueue {
    let mut queue = FairQueue::default();
    for call in 0..UNDER_WAY_MAX as u64 {
        assert!(is_now(&queue.add(GREEDY, get(1, call), 0)));
    }
    queue
}

#[test]
fn the_engine_has_so_many_and_the_next_ones_come_with_the_answers() {
    let mut queue = full();
    assert!(is_later(&queue.add(GREEDY, get(1, 5000), 0)));
    assert!(!queue.has_next() && queue.next().is_none());
    queue.answered(ClientKey(1), 9_999_999);
    queue.answered(ClientKey(9), 0);
    assert!(queue.next().is_none(), "those calls were not under way");
    queue.answered(ClientKey(1), 3);
    queue.answered(ClientKey(1), 3);
    assert_eq!(call_of(&queue.next().unwrap()), (1, 5000));
    assert!(queue.next().is_none());
}

#[test]
fn parties_take_turns_however_much_one_of_them_asks_for() {
    let mut queue = full();
    for call in 0..3000 {
        assert!(is_later(&queue.add(GREEDY, get(1, 10_000 + call), 0)));
    }
    for call in 0..4 {
        assert!(is_later(&queue.add(MODEST, get(2, call), 0)));
    }
    for call in 0..8 {
        queue.answered(ClientKey(1), call);
    }
    let clients: Vec<_> =
        std::iter::from_fn(|| queue.next()).map(|input| call_of(&input).0).collect();
    assert_eq!(clients, [1, 2, 1, 2, 1, 2, 1, 2]);
}

/// While writes wait for a majority, what needs none goes on.
#[test]
fn kinds_do_not_wait_for_each_other_and_some_requests_for_nothing() {
    let mut queue = full();
    assert!(is_later(&queue.add(GREEDY, get(1, 5000), 0)));
    let local = Request::Get { key: "k".into(), consistency: Consistency::Local };
    let requests = [local, Request::Status, Request::Subscribe(Subscription::Status)];
    for (call, request) in (1..).zip(requests) {
        assert!(is_now(&queue.add(MODEST, input(2, call, request), 0)));
    }
    assert!(is_now(&queue.add(MODEST, put(2, 9, 1), 0)));
    let scan = || Request::Scan(kvorum_protocol::message::Scan::of("", Consistency::Local));
    for call in 0..SCANS_UNDER_WAY_MAX as u64 {
        assert!(is_now(&queue.add(GREEDY, input(3, call, scan()), 0)));
    }
    assert!(is_later(&queue.add(GREEDY, input(3, 1000, scan()), 0)));
    assert!(is_later(&queue.add(MODEST, input(2, 1000, scan()), 0)));
}

/// Large writes fill what the engine has room for sooner than their number does.
#[test]
fn large_writes_wait_for_their_turn_too() {
    let bytes = 100_000;
    let mut queue = FairQueue::default();
    let taken = (0..1000).filter(|call| is_now(&queue.add(GREEDY, put(1, *call, bytes), 0)));
    let taken = taken.count();
    assert!(taken * bytes <= KIND_BYTES_MAX && (taken + 1) * bytes > KIND_BYTES_MAX - bytes);
    assert!(is_later(&queue.add(MODEST, put(2, 1, bytes), 0)));
    queue.answered(ClientKey(1), 0);
    queue.answered(ClientKey(1), 1);
    let clients: Vec<_> =
        std::iter::from_fn(|| queue.next()).map(|input| call_of(&input).0).collect();
    assert_eq!(clients, [1, 2]);
    let mut alone = FairQueue::default();
    assert!(is_now(&alone.add(MODEST, put(2, 1, 2 * KIND_BYTES_MAX), 0)), "one always fits");
}

#[test]
fn a_party_whose_requests_would_wait_too_long_is_refused_and_no_other() {
    let mut queue = full();
    for call in 0..WAITING_MAX as u64 {
        assert!(is_later(&queue.add(GREEDY, get(1, 10_000 + call), 7)));
    }
    let refused = queue.add(GREEDY, get(1, 1), 7);
    assert!(matches!(refused, Turn::Refused { waits_us: 0 }), "too many");
    assert!(is_later(&queue.add(MODEST, get(2, 1), 7)));
    let late = 7 + WAIT_MAX_US + 1;
    assert_eq!(queue.waits_us(late), WAIT_MAX_US + 1);
    let refused = queue.add(MODEST, get(2, 2), late);
    assert!(matches!(refused, Turn::Refused { waits_us } if waits_us == WAIT_MAX_US + 1));
    assert!(is_later(&queue.add(AccountId(3), get(3, 1), late)));
}

/// The engine may be stuck for seconds; what nobody waits for any more is not done after that.
#[test]
fn what_has_waited_too_long_is_refused_and_never_done() {
    let mut queue = full();
    assert!(is_later(&queue.add(GREEDY, get(1, 5000), 1)));
    assert!(is_later(&queue.add(GREEDY, get(1, 5001), 2)));
    assert!(is_later(&queue.add(MODEST, get(2, 1), 3)));
    assert_eq!(queue.take_late(1 + LATE_US), []);
    let late = queue.take_late(2 + LATE_US);
    assert_eq!(late, [Late { client: ClientKey(1), call: 5000, waits_us: LATE_US + 1 }]);
    assert_eq!(queue.take_late(9 + LATE_US).len(), 2);
    queue.answered(ClientKey(1), 0);
    assert!(queue.next().is_none() && queue.line(Kind::Read).turns.is_empty());
}

#[test]
fn what_a_closed_connection_asked_for_is_forgotten() {
    let mut queue = full();
    assert!(is_later(&queue.add(GREEDY, get(1, 5000), 0)));
    assert!(is_later(&queue.add(GREEDY, get(4, 1), 0)));
    queue.gone(ClientKey(1));
    assert!(queue.next().is_none(), "the engine has the calls of the closed connection still");
    for call in 0..UNDER_WAY_MAX as u64 {
        queue.answered(ClientKey(1), call);
    }
    assert_eq!(call_of(&queue.next().unwrap()), (4, 1));
    assert!(queue.next().is_none() && queue.waits_us(u64::MAX) == 0);
    queue.gone(ClientKey(4));
    queue.answered(ClientKey(4), 1);
    assert!(queue.under_way.is_empty() && queue.parties.is_empty());
    let line = queue.line(Kind::Read);
    assert!(line.under_way == 0 && line.bytes == 0 && line.waiting.is_empty());
}
