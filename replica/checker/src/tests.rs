//! Tests with known-good and known-bad histories, and with random ones compared to an exhaustive
//! search.

#![allow(clippy::unnecessary_wraps, reason = "what was told stands beside `None` for nothing")]

use kvorum_protocol::data::Condition;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// An operation: the times of its call and its answer (0 for no answer), the request, the answer.
type Line = (u64, u64, Asked, Option<Told>);

fn put(value: &str, condition: Condition) -> Asked {
    let (key, value) = (Key::from("k"), Value::from(value.to_owned()));
    Asked::Write(Operation::Put { key, value, condition })
}

fn delete() -> Asked {
    Asked::Write(Operation::Delete { key: Key::from("k"), condition: Condition::Always })
}

fn get() -> Asked {
    Asked::Get(Key::from("k"))
}

fn written(revision: u64) -> Option<Told> {
    Some(Told::Written(Outcome::Put { revision }))
}

fn deleted(revision: u64, existed: bool) -> Option<Told> {
    Some(Told::Written(Outcome::Deleted { revision, existed }))
}

fn failed(current: Option<u64>) -> Option<Told> {
    Some(Told::Written(Outcome::ConditionFailed { current }))
}

fn saw(value: &str, revision: u64) -> Option<Told> {
    Some(Told::Value(Some((Value::from(value.to_owned()), revision))))
}

fn saw_nothing() -> Option<Told> {
    Some(Told::Value(None))
}

fn history(lines: &[Line]) -> History {
    let mut history = History::default();
    for (called, answered, asked, told) in lines {
        let op = history.called(*called, asked.clone());
        if let Some(told) = told {
            history.told(op, *answered, told.clone());
        }
    }
    history
}

const ALWAYS: Condition = Condition::Always;

#[test]
fn known_good_histories_are_accepted() {
    let cases: [(&str, Vec<Line>); 7] = [
        ("nothing", vec![]),
        (
            "one after the other",
            vec![
                (1, 2, put("a", ALWAYS), written(1)),
                (3, 4, get(), saw("a", 1)),
                (5, 6, delete(), deleted(2, true)),
                (7, 8, get(), saw_nothing()),
                (9, 10, delete(), deleted(3, false)),
            ],
        ),
        (
            "a read beside a write sees it or not",
            vec![
                (1, 10, put("a", ALWAYS), written(1)),
                (2, 3, get(), saw_nothing()),
                (4, 5, get(), saw("a", 1)),
            ],
        ),
        (
            "a write without an answer happened late",
            vec![
                (1, 0, put("a", ALWAYS), None),
                (2, 3, put("b", ALWAYS), written(1)),
                (4, 5, get(), saw("b", 1)),
                (6, 7, get(), saw("a", 2)),
            ],
        ),
        (
            "a write without an answer never happened",
            vec![
                (1, 0, put("a", ALWAYS), None),
                (2, 3, put("b", Condition::Absent), written(5)),
                (4, 5, get(), saw("b", 5)),
            ],
        ),
        (
            "a condition fails by a write that nobody was told of",
            vec![
                (1, 0, put("a", ALWAYS), None),
                (2, 3, put("b", Condition::Absent), failed(Some(7))),
                (4, 5, put("c", Condition::AtRevision(7)), written(9)),
            ],
        ),
        (
            "expired",
            vec![
                (1, 2, put("a", ALWAYS), Some(Told::Written(Outcome::Expired))),
                (3, 4, get(), saw_nothing()),
            ],
        ),
    ];
    for (name, lines) in cases {
        assert!(history(&lines).check().is_ok(), "{name}: {:?}", history(&lines).check());
    }
}

#[test]
fn known_bad_histories_are_not() {
    let cases: [(&str, Vec<Line>); 11] = [
        (
            "a stale read",
            vec![
                (1, 2, put("a", ALWAYS), written(1)),
                (3, 4, put("b", ALWAYS), written(2)),
                (5, 6, get(), saw("a", 1)),
            ],
        ),
        ("a lost write", vec![(1, 2, put("a", ALWAYS), written(1)), (3, 4, get(), saw_nothing())]),
        (
            "reads that go back",
            vec![
                (1, 20, put("a", ALWAYS), written(1)),
                (2, 3, get(), saw("a", 1)),
                (4, 5, get(), saw_nothing()),
            ],
        ),
        (
            "a write done twice",
            vec![
                (1, 0, put("a", ALWAYS), None),
                (2, 3, get(), saw("a", 1)),
                (4, 5, put("b", ALWAYS), written(2)),
                (6, 7, get(), saw("b", 2)),
                (8, 9, get(), saw("a", 1)),
            ],
        ),
        (
            "two that found no key",
            vec![
                (1, 2, put("a", Condition::Absent), written(1)),
                (3, 4, put("b", Condition::Absent), written(2)),
            ],
        ),
        (
            "a condition that failed though it held",
            vec![
                (1, 2, put("a", ALWAYS), written(1)),
                (3, 4, put("b", Condition::AtRevision(1)), failed(Some(1))),
            ],
        ),
        (
            "a delete that found what was gone",
            vec![
                (1, 2, put("a", ALWAYS), written(1)),
                (3, 4, delete(), deleted(2, true)),
                (5, 6, delete(), deleted(3, true)),
            ],
        ),
        ("out of thin air", vec![(1, 2, get(), saw("a", 1))]),
        (
            "a read before the write was called",
            vec![(1, 2, get(), saw("a", 1)), (3, 4, put("a", ALWAYS), written(1))],
        ),
        (
            "revisions that fall",
            vec![(1, 2, put("a", ALWAYS), written(2)), (3, 4, put("b", ALWAYS), written(1))],
        ),
        (
            "two writes of one revision",
            vec![(1, 2, put("a", ALWAYS), written(1)), (3, 4, put("b", ALWAYS), written(1))],
        ),
    ];
    for (name, lines) in cases {
        assert!(history(&lines).check().is_err(), "{name}");
    }
}

#[test]
fn keys_are_independent() {
    let mut both = history(&[(1, 2, put("a", ALWAYS), written(1))]);
    let other = both.called(3, Asked::Get(Key::from("other")));
    both.told(other, 4, Told::Value(None));
    let checked = both.check().unwrap();
    assert_eq!(checked, Checked { answered: 2, unknown: 0, keys: 2 });
}

/// Whether some order exists, by trying all orders.
fn has_order(lines: &[Line]) -> bool {
    fn extend(
        lines: &[Line],
        order: &mut Vec<usize>,
        state: Option<usize>,
        reg: &Register,
    ) -> bool {
        let is_left = |op: &usize| !order.contains(op);
        let left: Vec<usize> = (0..lines.len()).filter(is_left).collect();
        if left.iter().all(|op| lines[*op].3.is_none()) {
            return true;
        }
        for op in left.clone() {
            let is_early = left.iter().all(|other| {
                lines[*other].3.is_none() || lines[*other].1 >= lines[op].0 || *other == op
            });
            let told = lines[op].3.clone().map(|told| (lines[op].1, told));
            let call = Op { asked: lines[op].2.clone(), called: lines[op].0, told };
            let done = order.iter().filter(|op| reg.is_known(**op)).count();
            let is_next = is_early && reg.is_next(op, done);
            if let Some(after) = reg.after(state, op, &call).filter(|_| is_next) {
                order.push(op);
                if extend(lines, order, after, reg) {
                    return true;
                }
                order.pop();
            }
        }
        false
    }
    let ops: Vec<Op> = lines
        .iter()
        .map(|(called, answered, asked, told)| {
            let told = told.clone().map(|told| (*answered, told));
            Op { asked: asked.clone(), called: *called, told }
        })
        .collect();
    let ops: Vec<&Op> = ops.iter().collect();
    let Ok(register) = Register::of(&Key::from("k"), &ops) else { return false };
    extend(lines, &mut Vec::new(), None, &register)
}

/// Returns a short history, made by a register and then perhaps falsified.
fn random_lines(random: &mut StdRng) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let (mut state, mut revision, mut now) = (None::<(String, u64)>, 0, 0);
    for number in 0..random.random_range(1..7) {
        now += 10;
        let name = format!("v{number}");
        let (asked, told) = match random.random_range(0..4) {
            0 => match &state {
                Some((value, revision)) => (get(), saw(value, *revision)),
                None => (get(), saw_nothing()),
            },
            1 => {
                let (existed, at) = (state.take().is_some(), revision + 1);
                (delete(), deleted(at, existed))
            }
            2 if state.is_some() => {
                let current = state.as_ref().map(|(_, revision)| *revision);
                (put(&name, Condition::Absent), failed(current))
            }
            _ => {
                revision += 1;
                state = Some((name.clone(), revision));
                (put(&name, ALWAYS), written(revision))
            }
        };
        let (before, after) = (random.random_range(0..16), random.random_range(0..16));
        let told = told.filter(|_| random.random_bool(0.85));
        lines.push((now + 30 - before, now + 30 + after, asked, told));
    }
    if random.random_bool(0.5) {
        falsify(&mut lines, random);
    }
    lines
}

/// Replaces the answer of one operation by an answer that fits another operation.
fn falsify(lines: &mut [Line], random: &mut StdRng) {
    let (to, from) = (random.random_range(0..lines.len()), random.random_range(0..lines.len()));
    let told = match (&lines[to].2, &lines[from].2, &lines[from].3) {
        (Asked::Get(_), Asked::Write(Operation::Put { value, .. }), told) => match told {
            Some(Told::Written(Outcome::Put { revision })) => {
                Some(Told::Value(Some((value.clone(), *revision))))
            }
            _ => saw_nothing(),
        },
        (Asked::Write(Operation::Delete { .. }), ..) => deleted(50, random.random_bool(0.5)),
        (Asked::Write(_), Asked::Write(_), _) => failed(Some(random.random_range(1..4))),
        _ => return,
    };
    lines[to].3 = told;
}

#[test]
fn it_says_what_trying_every_order_says() {
    let mut verdicts = [0, 0];
    for seed in 0..20_000 {
        let mut lines = random_lines(&mut StdRng::seed_from_u64(seed));
        lines.sort_by_key(|line| line.0);
        let expected = has_order(&lines);
        let found = history(&lines).check();
        assert_eq!(found.is_ok(), expected, "seed {seed}: {lines:#?}");
        verdicts[usize::from(expected)] += 1;
    }
    assert!(verdicts.iter().all(|count| *count > 1000), "both happen often: {verdicts:?}");
}
