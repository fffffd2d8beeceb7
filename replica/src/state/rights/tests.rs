//! Tests of rights: the table, and random requests against a judgement key by key.

use kvorum_protocol::access::{AccessChange, VIEW};
use kvorum_protocol::data::{ClientId, LaneId, RequestId};
use kvorum_protocol::message::Consistency;
use proptest::prelude::*;

use super::*;

fn client(name: &str) -> User {
    User::Client(name.into())
}

fn changed(changes: &[AccessChange]) -> Accounts {
    let apply = |accounts: Accounts, change| accounts.after(1, change).expect("it can be done");
    changes.iter().fold(Accounts::default(), apply)
}

/// Accounts in which `app` may do this to these ranges, by one role for each.
fn app(rights: &[(Access, KeyRange)]) -> Accounts {
    let (user, named) = ("app".to_owned(), |number: usize| format!("r{number}"));
    let mut changes = vec![AccessChange::AddUser { user: user.clone() }];
    for (number, (access, range)) in rights.iter().enumerate() {
        changes.push(AccessChange::AddRole { role: named(number) });
        changes.push(AccessChange::GiveRole { user: user.clone(), role: named(number) });
        let (access, range) = (*access, range.clone());
        changes.push(AccessChange::Grant { role: named(number), range, access });
    }
    changed(&changes)
}

#[test]
fn the_table_of_rights() {
    let replica = |name: &str| User::Replica(Some(name.to_owned()));
    let touches = [
        Touch::Read(KeyRange::one(b"a")),
        Touch::Read(KeyRange::all()),
        Touch::Write(KeyRange::one(b"a")),
        Touch::Observe,
        Touch::Own,
        Touch::Operate,
        Touch::Administer,
        Touch::Join("kvorum-3"),
    ];
    let root = AccessChange::GiveRole { user: "ops".to_owned(), role: ROOT.to_owned() };
    let accounts = changed(&[
        AccessChange::AddUser { user: "app".to_owned() },
        AccessChange::AddUser { user: "ops".to_owned() },
        root,
    ]);
    let only = |allowed: &[usize]| std::array::from_fn(|at| allowed.contains(&at));
    let table = [
        (User::Anonymous, [true; 8]),
        (client(ADMIN), [true; 8]),
        (client("ops"), [true; 8]),
        (client(VIEW), only(&[0, 1, 3, 4])),
        (client("app"), only(&[3, 4])),
        (client("nobody"), [false; 8]),
        (client(ROOT), [false; 8]),
        (replica("kvorum-3"), only(&[3, 4, 7])),
        (replica("kvorum-4"), only(&[3, 4])),
        (replica(ADMIN), only(&[3, 4])),
        (User::Replica(None), only(&[3, 4, 7])),
    ];
    for (user, expected) in table {
        let judged = touches
            .each_ref()
            .map(|touch| judge_all(&accounts, &user, std::slice::from_ref(touch)).is_ok());
        assert_eq!(judged, expected, "{user}");
    }
}

#[test]
fn ranges_that_touch_are_one_and_gaps_are_none() {
    let range = |from: &'static str, until: &'static str| KeyRange {
        from: from.into(),
        until: Some(until.into()),
    };
    let accounts = app(&[
        (Access::Read, range("d", "f")),
        (Access::ReadWrite, range("a", "b")),
        (Access::Read, range("b", "c")),
        (Access::Write, range("c", "d")),
    ]);
    let table = [
        (Access::Read, range("a", "c"), true),
        (Access::Read, range("a", "d"), false),
        (Access::Read, range("c", "c\0"), false),
        (Access::Write, range("c", "d"), true),
        (Access::Write, range("a", "d"), false),
        (Access::Read, range("e", "f"), true),
        (Access::Read, range("e", "f\0"), false),
        (Access::Read, KeyRange { from: "e".into(), until: None }, false),
        (Access::Read, range("z", "z"), true),
    ];
    for (access, range, expected) in table {
        let shown = range.to_string();
        let touch = match access {
            Access::Read => Touch::Read(range),
            _ => Touch::Write(range),
        };
        let judged = judge_all(&accounts, &client("app"), &[touch]).is_ok();
        assert_eq!(judged, expected, "{access} {shown}");
    }
}

#[test]
fn a_condition_reads_and_a_scan_is_what_it_can_return() {
    let (key, value) = (kvorum_protocol::Key::from("a"), "v".into());
    let put = |condition| Operation::Put { key: key.clone(), value, condition };
    assert_eq!(touches_of(&put(Condition::Absent)).len(), 2);
    let scan = Scan {
        from: b"app/b".to_vec(),
        until: b"zoo".to_vec(),
        ..Scan::of("app/", Consistency::Local)
    };
    let expected = KeyRange { from: "app/b".into(), until: Some("app0".into()) };
    assert_eq!(touches(&Request::Scan(scan)), [Touch::Read(expected)]);
}

/// Keys of the reference judgement: all of one and two letters of a small alphabet.
const LETTERS: [u8; 4] = [0, b'a', b'b', 0xff];

fn keys() -> Vec<Vec<u8>> {
    let two = |a: u8| LETTERS.into_iter().map(move |b| vec![a, b]);
    LETTERS.into_iter().flat_map(|a| std::iter::once(vec![a]).chain(two(a))).collect()
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(proptest::sample::select(LETTERS.to_vec()), 1..3)
}

fn a_range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        key().prop_map(|key| KeyRange::one(&key)),
        key().prop_map(|key| KeyRange::prefix(&key)),
        Just(KeyRange::all()),
        (key(), proptest::option::of(key())).prop_filter_map("has keys", |(from, until)| {
            let range = KeyRange { from: from.into(), until: until.map(Into::into) };
            (!range.is_empty()).then_some(range)
        }),
    ]
}

fn an_access() -> impl Strategy<Value = Access> {
    proptest::sample::select(vec![Access::Read, Access::Write, Access::ReadWrite])
}

fn a_request() -> impl Strategy<Value = Request> {
    let lane = LaneId { client: ClientId(1), number: 1 };
    let id = RequestId { lane, sequence: 1 };
    let condition = proptest::sample::select(vec![
        Condition::Always,
        Condition::Absent,
        Condition::AtRevision(1),
    ]);
    let write = (key(), condition, any::<bool>()).prop_map(move |(key, condition, deletes)| {
        let key = key.into();
        let operation = match deletes {
            true => Operation::Delete { key, condition },
            false => Operation::Put { key, value: "v".into(), condition },
        };
        Request::Write { id, valid_until: 1, operation }
    });
    let consistency = Consistency::Local;
    let bound = || proptest::collection::vec(proptest::sample::select(LETTERS.to_vec()), 0..3);
    let scan = (bound(), bound(), bound()).prop_map(move |(prefix, from, until)| {
        Request::Scan(Scan { from, until, ..Scan::of(prefix, consistency) })
    });
    prop_oneof![
        write,
        key().prop_map(move |key| Request::Get { key: key.into(), consistency }),
        scan,
        bound().prop_map(|prefix| Request::Subscribe(Subscription::Keys { prefix, from: 0 })),
    ]
}

/// What a request may read and write among all keys there are, by looking at each of them.
fn reference(request: &Request) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let those =
        |is_it: &dyn Fn(&[u8]) -> bool| keys().into_iter().filter(|key| is_it(key)).collect();
    match request {
        Request::Write { operation, .. } => {
            let (key, condition) = match operation {
                Operation::Put { key, condition, .. } | Operation::Delete { key, condition } => {
                    (key, condition)
                }
                Operation::Access(_) => unreachable!("none is made here"),
            };
            let own = vec![key.0.to_vec()];
            let read = if *condition == Condition::Always { Vec::new() } else { own.clone() };
            (read, own)
        }
        Request::Get { key, .. } => (vec![key.0.to_vec()], Vec::new()),
        Request::Scan(Scan { prefix, from, until, .. }) => {
            let is_in = |key: &[u8]| {
                key.starts_with(prefix)
                    && key >= &from[..]
                    && (until.is_empty() || key < &until[..])
            };
            (those(&is_in), Vec::new())
        }
        Request::Subscribe(Subscription::Keys { prefix, .. }) => {
            (those(&|key| key.starts_with(prefix)), Vec::new())
        }
        _ => unreachable!("none is made here"),
    }
}

/// Whether a range of rights has a key, by its definition.
fn has(range: &KeyRange, key: &[u8]) -> bool {
    *key >= range.from[..] && range.until.as_ref().is_none_or(|until| *key < until[..])
}

/// Longer keys fall into gaps that no key of the reference is in: what is allowed for every key
/// there may still be refused, but never the other way round; and for a range without such a gap
/// both say the same.
fn check(rights: &[(Access, KeyRange)], request: &Request) -> Result<(), TestCaseError> {
    let accounts = app(rights);
    let judged = judge(&accounts, &client("app"), request).is_ok();
    let allows = |wanted: Access, key: &[u8]| {
        rights.iter().any(|(access, range)| access.includes(wanted) && has(range, key))
    };
    // Around each key of the reference, those just after it that are longer.
    let around = |key: &Vec<u8>| {
        let longer =
            LETTERS.into_iter().flat_map(move |a| LETTERS.into_iter().map(move |b| vec![a, b]));
        let longer = longer.map(|end| [&key[..], &end].concat()).collect::<Vec<_>>();
        std::iter::once(key.clone()).chain(longer)
    };
    let (reads, writes) = reference(request);
    let is_one = |request: &Request| matches!(request, Request::Write { .. } | Request::Get { .. });
    let all = |wanted: Access, own: &[Vec<u8>]| match is_one(request) {
        true => own.iter().all(|key| allows(wanted, key)),
        false => {
            let Touch::Read(range) = &touches(request)[0] else { return false };
            // Where a right ends, the next one has to have begun.
            let ends = rights.iter().filter_map(|(_, right)| right.until.as_ref());
            let ends = ends.map(|end| end.to_vec());
            let near = keys().iter().flat_map(around).chain(ends).collect::<Vec<_>>();
            near.iter().filter(|key| has(range, key)).all(|key| allows(wanted, key))
        }
    };
    let may_write = writes.iter().all(|key| allows(Access::Write, key));
    let expected = all(Access::Read, &reads) && may_write;
    prop_assert_eq!(judged, expected, "{:?} with {:?}", request, rights);
    // The keys that a request returns are those it was judged by.
    if let [Touch::Read(range)] = &touches(request)[..] {
        let own = keys().into_iter().filter(|key| has(range, key)).collect::<Vec<_>>();
        prop_assert_eq!(own, if is_one(request) { reads } else { reference(request).0 });
    }
    Ok(())
}

#[test]
fn requests_are_judged_as_by_looking_at_each_key() {
    let cases = std::env::var("KVORUM_RIGHTS").ok().and_then(|text| text.parse().ok());
    let cases = cases.unwrap_or(20_000);
    // Of a million cases, more have no keys in a range than proptest would bear.
    let max_local_rejects = u32::MAX;
    let config = ProptestConfig { cases, max_local_rejects, ..ProptestConfig::default() };
    let rights = proptest::collection::vec((an_access(), a_range()), 0..5);
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let judged = runner.run(&(rights, a_request()), |(rights, request)| check(&rights, &request));
    judged.unwrap_or_else(|failure| panic!("{failure}"));
}
