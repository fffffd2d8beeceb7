//! Tests of the state machine, over a table of maps.

use super::*;
use kvorum_protocol::access::{Access, AccessError, KeyRange};
use kvorum_protocol::data::{ClientId, Value};
use kvorum_protocol::status::{Configuration, ConfigurationId};
use proptest::prelude::*;

/// A table of maps.
#[derive(Clone, Default, PartialEq, Debug)]
struct Maps {
    keys: BTreeMap<Bytes, Record>,
    lanes: BTreeMap<LaneId, Lane>,
    accounts: Arc<Accounts>,
    applied: u64,
}

impl Table for Maps {
    fn applied(&self) -> u64 {
        self.applied
    }

    fn chain(&self) -> Chain {
        Chain::new(Configuration { id: ConfigurationId(1), members: Vec::new() })
    }

    fn key(&self, key: &[u8]) -> Option<Record> {
        self.keys.get(key).cloned()
    }

    fn lane(&self, lane: LaneId) -> Option<Lane> {
        self.lanes.get(&lane).copied()
    }

    fn accounts(&self) -> Arc<Accounts> {
        Arc::clone(&self.accounts)
    }

    fn commit(&mut self, changes: Changes) {
        for (key, record) in changes.keys {
            match record {
                Some(record) => self.keys.insert(key, record),
                None => self.keys.remove(&key),
            };
        }
        self.lanes.extend(changes.lanes);
        self.lanes.retain(|_, lane| lane.last_use > changes.forgotten);
        self.accounts = changes.accounts.unwrap_or(std::mem::take(&mut self.accounts));
        self.applied = changes.applied;
    }
}

fn lane(number: u32) -> LaneId {
    LaneId { client: ClientId(1), number }
}

fn put(number: u32, sequence: u64, key: &str, condition: Condition) -> Entry {
    let value = Value::from(sequence.to_string());
    let operation = Operation::Put { key: key.to_owned().into(), value, condition };
    command(number, sequence, operation)
}

fn delete(number: u32, sequence: u64, key: &str) -> Entry {
    let key = key.to_owned().into();
    command(number, sequence, Operation::Delete { key, condition: Condition::Always })
}

fn command(number: u32, sequence: u64, operation: Operation) -> Entry {
    let id = RequestId { lane: lane(number), sequence };
    Entry::Command(Command { id, valid_until: SESSION_ENTRIES, operation })
}

fn access(sequence: u64, change: AccessChange) -> Entry {
    command(9, sequence, Operation::Access(change))
}

/// The write of a user.
fn by(user: &str, entry: Entry) -> Entry {
    let Entry::Command(command) = entry else { panic!("only commands have users") };
    Entry::UserCommand { user: user.to_owned(), command }
}

fn outcomes(table: &mut Maps, entries: &[Entry]) -> Vec<Outcome> {
    let applied = apply(table, LaneMemory::default(), Source::Log, table.applied + 1, entries);
    applied.into_iter().filter_map(|applied| applied.outcome).map(|(_, outcome)| outcome).collect()
}

/// The rights that count are those at the entry's place in the log, in one run or in many.
#[test]
fn rights_are_judged_at_the_entrys_place_in_the_log() {
    let (user, role) = ("app".to_owned(), "apps".to_owned());
    let range = KeyRange::prefix(b"app/");
    let (always, absent) = (Condition::Always, Condition::Absent);
    let (own, taken) = (Outcome::Put { revision: 6 }, Outcome::Forbidden);
    let steps = [
        (by("app", put(1, 1, "app/a", always)), taken),
        (access(1, AccessChange::AddUser { user: user.clone() }), Outcome::AccessChanged),
        (access(2, AccessChange::AddRole { role: role.clone() }), Outcome::AccessChanged),
        (
            access(
                3,
                AccessChange::Grant {
                    role: role.clone(),
                    range: range.clone(),
                    access: Access::Write,
                },
            ),
            Outcome::AccessChanged,
        ),
        (
            access(4, AccessChange::GiveRole { user: user.clone(), role: role.clone() }),
            Outcome::AccessChanged,
        ),
        (by("app", put(1, 2, "app/a", always)), own),
        (by("app", put(1, 3, "app/b", absent)), taken),
        (by("app", put(1, 4, "other", always)), taken),
        (
            by("app", command(2, 1, Operation::Access(AccessChange::AddRole { role: "x".into() }))),
            taken,
        ),
        (access(5, AccessChange::Revoke { role, range }), Outcome::AccessChanged),
        (by("app", put(1, 5, "app/a", always)), taken),
        // A repetition has the outcome of the first time, whatever the rights are by now.
        (by("app", put(1, 5, "app/a", always)), taken),
        (
            access(6, AccessChange::AddUser { user }),
            Outcome::AccessUnchanged(AccessError::UserExists),
        ),
        (put(3, 1, "other", absent), Outcome::Put { revision: 14 }),
    ];
    let entries: Vec<Entry> = steps.iter().map(|(entry, _)| entry.clone()).collect();
    let expected: Vec<Outcome> = steps.iter().map(|(_, outcome)| *outcome).collect();
    let (mut at_once, mut one_by_one) = (Maps::default(), Maps::default());
    assert_eq!(outcomes(&mut at_once, &entries), expected);
    let each =
        entries.iter().flat_map(|entry| outcomes(&mut one_by_one, std::slice::from_ref(entry)));
    assert_eq!(each.collect::<Vec<_>>(), expected);
    assert_eq!(at_once, one_by_one);
    assert_eq!(at_once.keys.keys().collect::<Vec<_>>(), ["app/a", "other"]);
}

#[test]
fn conditions_are_judged_at_the_entrys_place_in_the_log() {
    let mut table = Maps::default();
    let entries = [
        put(1, 1, "a", Condition::Absent),
        put(1, 2, "a", Condition::Absent),
        put(1, 3, "a", Condition::AtRevision(1)),
        put(1, 4, "a", Condition::AtRevision(1)),
        delete(1, 5, "a"),
        delete(1, 6, "a"),
    ];
    let expected = [
        Outcome::Put { revision: 1 },
        Outcome::ConditionFailed { current: Some(1) },
        Outcome::Put { revision: 3 },
        Outcome::ConditionFailed { current: Some(3) },
        Outcome::Deleted { revision: 5, existed: true },
        Outcome::Deleted { revision: 6, existed: false },
    ];
    assert_eq!(outcomes(&mut table, &entries), expected);
    assert!(table.keys.is_empty());
}

#[test]
fn a_repetition_changes_nothing_and_is_answered_like_the_first_time() {
    let mut table = Maps::default();
    let first = put(1, 1, "a", Condition::Always);
    let entries = [first.clone(), delete(2, 1, "a"), first.clone()];
    let repeated = Outcome::Put { revision: 1 };
    assert_eq!(outcomes(&mut table, &entries)[2], repeated);
    assert!(table.keys.is_empty(), "the repetition did not bring the key back");
    assert_eq!(outcomes(&mut table, &[first]), [repeated]);
    assert!(table.keys.is_empty());
}

#[test]
fn a_lane_is_forgotten_exactly_when_its_requests_have_expired() {
    let mut table = Maps::default();
    let first = put(1, 1, "a", Condition::Always);
    outcomes(&mut table, std::slice::from_ref(&first));
    // The lane's last use is 1: it is still known when 1 + SESSION_ENTRIES is applied.
    table.applied = SESSION_ENTRIES;
    let known = outcomes(&mut table, std::slice::from_ref(&first));
    assert_eq!(known, [Outcome::Put { revision: 1 }]);
    assert_eq!(outcomes(&mut table, &[first]), [Outcome::Expired]);
    assert!(table.lanes.is_empty());
}

#[test]
fn an_expired_command_changes_nothing() {
    let mut table = Maps { applied: SESSION_ENTRIES, ..Maps::default() };
    assert_eq!(outcomes(&mut table, &[put(1, 1, "a", Condition::Always)]), [Outcome::Expired]);
    assert!(table.keys.is_empty() && table.lanes.is_empty());
}

#[test]
#[should_panic(expected = "entries are applied in order")]
fn a_gap_is_not_applied() {
    apply(&mut Maps::default(), LaneMemory::default(), Source::Log, 2, &[Entry::Noop]);
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let condition = prop_oneof![
        Just(Condition::Always),
        Just(Condition::Absent),
        (1..20u64).prop_map(Condition::AtRevision),
    ];
    let key = prop_oneof![Just("a"), Just("b")];
    (1..4u32, 1..6u64, key, condition, 0..4).prop_map(|(number, sequence, key, condition, kind)| {
        match kind {
            0 => Entry::Noop,
            1 => delete(number, sequence, key),
            _ => put(number, sequence, key, condition),
        }
    })
}

proptest! {
    /// However the log is cut into runs, the outcomes and the state are the same.
    #[test]
    fn runs_of_any_length_agree(
        entries in proptest::collection::vec(any_entry(), 1..40),
        cut in 1..10usize,
    ) {
        let (mut one, mut many) = (Maps::default(), Maps::default());
        let at_once = apply(&mut one, LaneMemory::default(), Source::Log, 1, &entries);
        let mut in_parts = Vec::new();
        for part in entries.chunks(cut) {
            let first = many.applied + 1;
            in_parts.extend(apply(&mut many, LaneMemory::default(), Source::Log, first, part));
        }
        prop_assert_eq!(at_once, in_parts);
        prop_assert_eq!(one, many);
    }
}
