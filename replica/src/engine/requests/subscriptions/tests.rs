//! Tests of subscriptions, against a model that looks at every entry for each of them.

use std::cell::RefCell;

use kvorum_protocol::data::{ClientId, Condition, Key, LaneId, Operation, RequestId, Value};
use kvorum_protocol::status::ConfigurationId;
use omnipaxos::storage::Storage;
use proptest::prelude::*;

use super::events::{entry_event, key_event};
use super::*;
use crate::engine::store::LogStore;
use crate::state::entry::{Command, Entry};
use crate::state::machine::{Changes, Table};
use crate::storage::memory::Memory;

const CONFIGURATION: ConfigurationId = ConfigurationId(1);
const CLIENTS: usize = 3;

fn put(key: &str, bytes: usize) -> Entry {
    let id = RequestId { lane: LaneId { client: ClientId(1), number: 1 }, sequence: 1 };
    let key = Key(key.as_bytes().to_vec().into());
    let value = Value(vec![7; bytes].into());
    let operation = Operation::Put { key, value, condition: Condition::Always };
    Entry::Command(Command { id, valid_until: 0, operation })
}

/// What may happen, in any order.
#[derive(Clone, Debug)]
enum Step {
    /// Entries are applied, each a put of a key that takes effect or not.
    Apply(Vec<(String, bool)>),
    /// A client subscribes, from some entries before or after the next one on.
    Open { client: u64, subscription: Wanted, distance: i64 },
    /// A client ends the subscription that it opened as its n-th.
    Cancel { client: u64, nth: u64 },
    /// A client leaves.
    Leave(u64),
    /// Which clients have room from now on.
    Room(Vec<bool>),
}

#[derive(Clone, Debug)]
enum Wanted {
    Log,
    Keys(String),
    Watch(String),
}

fn step() -> impl Strategy<Value = Step> {
    let key = "[ab]{1,4}";
    let prefix = "[ab]{0,3}";
    let wanted = prop_oneof![
        Just(Wanted::Log),
        prefix.prop_map(Wanted::Keys),
        prefix.prop_map(Wanted::Watch),
    ];
    let applied = prop::collection::vec((key, prop::bool::weighted(0.8)), 1..6);
    prop_oneof![
        4 => applied.prop_map(Step::Apply),
        4 => (0..CLIENTS as u64, wanted, -4..4_i64).prop_map(|(client, subscription, distance)| {
            Step::Open { client, subscription, distance }
        }),
        1 => (0..CLIENTS as u64, 0..6_u64).prop_map(|(client, nth)| Step::Cancel { client, nth }),
        1 => (0..CLIENTS as u64).prop_map(Step::Leave),
        2 => prop::collection::vec(any::<bool>(), CLIENTS).prop_map(Step::Room),
    ]
}

/// The subscriptions under test, and what each should be told.
struct World {
    disk: Memory,
    entries: Vec<(Entry, bool)>,
    subscriptions: Subscriptions,
    /// Those that are open: what they want, and the first index.
    open: BTreeMap<Id, (Wanted, u64)>,
    told: RefCell<BTreeMap<Id, Vec<Event>>>,
    room: Vec<bool>,
    calls: u64,
}

impl World {
    fn new() -> Self {
        Self {
            disk: Memory::of_one(),
            entries: Vec::new(),
            subscriptions: Subscriptions::default(),
            open: BTreeMap::new(),
            told: RefCell::default(),
            room: vec![true; CLIENTS],
            calls: 0,
        }
    }

    fn apply(&mut self, entries: Vec<(Entry, bool)>) {
        let mut log = self.disk.log(CONFIGURATION);
        let mut void = Vec::new();
        for (entry, took_effect) in entries {
            log.append_entry(entry.clone()).expect("memory takes it");
            self.entries.push((entry, took_effect));
            if !took_effect {
                void.push(self.entries.len() as u64);
            }
        }
        log.set_decided_idx(self.entries.len()).expect("memory takes it");
        let applied = self.entries.len() as u64;
        self.disk.commit(Changes { void, applied, ..Changes::default() });
    }

    fn open(&mut self, client: u64, wanted: Wanted, distance: i64) {
        self.calls += 1;
        let id = (ClientKey(client), self.calls);
        let applied = self.entries.len() as u64;
        let from = (applied + 1).saturating_add_signed(distance).max(1);
        let prefix = |prefix: &String| prefix.as_bytes().to_vec();
        let subscription = match &wanted {
            Wanted::Log => Subscription::Log { from },
            Wanted::Keys(keys) => Subscription::Keys { prefix: prefix(keys), from },
            Wanted::Watch(keys) => Subscription::Watch { prefix: prefix(keys), from },
        };
        let opened = self.subscriptions.open(id, User::Anonymous, subscription, 0, applied);
        assert_eq!(opened, Ok(from));
        self.open.insert(id, (wanted, from));
    }

    fn turn(&mut self) {
        let Self { disk, subscriptions, told, room, .. } = self;
        let send = &mut |client, frame| {
            let ServerFrame::Event { call, event } = frame else { panic!("{frame:?}") };
            told.borrow_mut().entry((client, call)).or_default().push(event);
        };
        let has_room = |client: ClientKey| room[usize::try_from(client.0).expect("it is small")];
        let mut turn = Turn { compacted: 0, has_room: &has_room, send };
        subscriptions.tell_log(disk, &mut turn);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Apply(keys) => {
                let entries = keys.iter().map(|(key, effect)| (put(key, 5), *effect)).collect();
                self.apply(entries);
            }
            Step::Open { client, subscription, distance } => {
                self.open(client, subscription, distance);
            }
            Step::Cancel { client, nth } => {
                let client = ClientKey(client);
                let own = self.open.range((client, 0)..=(client, u64::MAX));
                let id = own.map(|(id, _)| *id).nth(usize::try_from(nth).expect("it is small"));
                if let Some(id) = id {
                    self.subscriptions.cancel(id.0, id.1);
                    self.open.remove(&id);
                }
            }
            Step::Leave(client) => {
                self.subscriptions.client_gone(ClientKey(client));
                self.open.retain(|id, _| id.0 != ClientKey(client));
            }
            Step::Room(room) => self.room = room,
        }
    }

    /// Returns the events that a subscription gets, but for progress.
    fn expected(&self, wanted: &Wanted, from: u64) -> Vec<Event> {
        let first = usize::try_from(from - 1).expect("it is small").min(self.entries.len());
        let (mut index, mut events) = (from - 1, Vec::new());
        for (entry, took_effect) in &self.entries[first..] {
            index += 1;
            let change = key_event(index, entry).filter(|_| *took_effect);
            events.extend(match wanted {
                Wanted::Log => Some(Event::Entry(entry_event(index, entry, *took_effect))),
                Wanted::Keys(prefix) | Wanted::Watch(prefix) => change
                    .filter(|change| change.key.0.starts_with(prefix.as_bytes()))
                    .map(Event::Key),
            });
        }
        events
    }

    fn check(&self) {
        let told = self.told.borrow();
        for (id, (wanted, from)) in &self.open {
            let mut events = told.get(id).cloned().unwrap_or_default();
            events.retain(|event| !matches!(event, Event::Progress { .. }));
            assert_eq!(events, self.expected(wanted, *from), "{id:?}: {wanted:?} from {from}");
        }
        let own = |client| self.open.keys().filter(|id| id.0 == client).count();
        for (client, share) in &self.subscriptions.shares {
            assert_eq!(share.count, own(*client));
        }
        let bytes = self.open.values().map(|(wanted, _)| match wanted {
            Wanted::Log => 0,
            Wanted::Keys(prefix) | Wanted::Watch(prefix) => prefix.len(),
        });
        assert_eq!(self.subscriptions.bytes, bytes.sum::<usize>());
        assert!(!self.subscriptions.has_more());
    }
}

proptest! {
    #[test]
    fn each_is_told_what_it_wants_in_order_and_once(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            world.turn();
        }
        world.room = vec![true; CLIENTS];
        // Subscriptions that wait for an entry that is yet to come are told of it.
        world.apply(vec![(put("aaa", 5), true); 6]);
        world.turn();
        world.turn();
        world.check();
    }
}

/// A turn sends a bounded part of what many wait for; the rest follows, in order.
#[test]
fn a_turn_is_bounded_whatever_there_is_to_send() {
    let mut world = World::new();
    for client in 0..CLIENTS as u64 {
        for _ in 0..40 {
            world.open(client, Wanted::Keys("a".to_owned()), 0);
        }
    }
    world.turn();
    world.apply((0..20).map(|_| (put("ab", 100 << 10), true)).collect());
    let sent = |world: &World| -> usize {
        world.told.borrow().values().flatten().map(Event::weight).sum()
    };
    let mut before = 0;
    for turns in 1.. {
        world.turn();
        let now = sent(&world);
        assert!(now - before <= TURN_BYTES_MAX + (CURSOR_BYTES_MAX << 1), "{}", now - before);
        before = now;
        if !world.subscriptions.has_more() {
            assert!(turns > 50, "{turns} turns for {now} bytes");
            break;
        }
    }
    world.check();
}

#[test]
fn those_that_hear_nothing_are_told_where_they_stand() {
    let mut world = World::new();
    world.open(0, Wanted::Watch("b".to_owned()), 0);
    world.open(0, Wanted::Keys("b".to_owned()), 0);
    world.turn();
    let silent = silent_bytes_max(&world.disk);
    let entry = put("a", silent / 4);
    for _ in 0..5 {
        world.apply(vec![(entry.clone(), true)]);
        world.turn();
    }
    let told = world.told.borrow();
    assert_eq!(told.len(), 1, "only who asked for it");
    assert_eq!(told[&(ClientKey(0), 1)], [Event::Progress { next: 5 }]);
}

/// A connection that takes all it may leaves as much for the others.
#[test]
fn a_connection_may_have_as_many_as_are_left() {
    let mut subscriptions = Subscriptions::default();
    let mut open = |client, call| {
        let keys = Subscription::Keys { prefix: Vec::new(), from: 0 };
        subscriptions.open((ClientKey(client), call), User::Anonymous, keys, 0, 0)
    };
    let mut most = Vec::new();
    for client in 0..4 {
        for call in 1.. {
            match open(client, call) {
                Ok(_) => {}
                Err(Refusal::TooManySubscriptions { most: own }) => {
                    assert_eq!(u64::from(own), call - 1);
                    most.push(call - 1);
                    break;
                }
                Err(refusal) => panic!("{refusal}"),
            }
        }
    }
    assert_eq!(most, [8192, 4096, 2048, 1024]);
}

/// Those that lost their connection come back from where each of them was, all at once.
#[test]
fn many_that_are_far_behind_are_told_together() {
    const MANY: u64 = 2_000;
    let mut world = World::new();
    world.apply((0..MANY).map(|number| (put(&format!("k{number}/"), 1000), true)).collect());
    for number in 0..MANY {
        // From the entry of its own key on.
        let prefix = Wanted::Watch(format!("k{number}/"));
        world.open(number % CLIENTS as u64, prefix, number.cast_signed() - MANY.cast_signed());
    }
    for turns in 1.. {
        world.turn();
        if !world.subscriptions.has_more() {
            assert!(turns < 10, "{turns} turns for two megabytes");
            break;
        }
    }
    assert!(!world.subscriptions.is_anybody_behind());
    world.check();
}

/// A connection without room is told where it stands when it has room again.
#[test]
fn progress_waits_for_room() {
    let mut world = World::new();
    world.open(0, Wanted::Watch("b".to_owned()), 0);
    world.turn();
    let silent = silent_bytes_max(&world.disk);
    world.room[0] = false;
    for _ in 0..8 {
        world.apply(vec![(put("a", silent / 4), true)]);
        world.turn();
    }
    assert!(world.told.borrow().is_empty());
    world.room[0] = true;
    world.turn();
    world.turn();
    world.apply(vec![(put("a", silent / 4), true)]);
    world.turn();
    let told = world.told.borrow();
    let last = told[&(ClientKey(0), 1)].last();
    assert!(matches!(last, Some(Event::Progress { next }) if *next > 4), "{told:?}");
}
