//! A cluster in memory, for tests and benchmarks of the console.
//!
//! It answers like replicas that agree, elects a leader when the leader is killed, and restarts a
//! killed replica. It records every call, so that a test can assert which calls were not made. It
//! proves nothing about real replicas.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use kvorum_protocol::data::{Condition, Outcome};
use kvorum_protocol::message::{EntryEvent, EntryKind, Page, Pair};
use kvorum_protocol::status::{
    Ballot, ClusterId, Configuration, ConfigurationId, LinkStatus, Member, Membership, ReplicaId,
    Role,
};
use kvorum_protocol::{Fate, Key, Status, Value};
use tokio::sync::broadcast;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use kvorum::backend::Backend;
use kvorum::clock::Clock;
use kvorum::exit::{Exit, Failure};
use kvorum::message::{Call, Observation, Place, Previous, Reply, Source};
use kvorum::probe::{Store, Task, Written};
use kvorum::sink::Sink;

/// The time from the loss of a leader to the next leader.
const ELECTION: Duration = Duration::from_millis(150);
/// The time from a kill to the restart.
const RESTART: Duration = Duration::from_millis(400);
/// The number of reports that may wait for a watcher.
const TOLD_MAX: usize = 4096;
/// The number of writes remembered.
const HISTORY_MAX: usize = 300_000;
/// The number of keys in a page.
const PAGE_PAIRS: usize = 500;

/// A cluster in memory.
pub struct Memory {
    state: Mutex<State>,
    told: broadcast::Sender<Observation>,
    /// The start time: by the runtime's clock, which a test may pause, and by the wall clock.
    began: (Instant, u64),
}

struct State {
    nodes: Vec<Replica>,
    leader: Option<usize>,
    ballot: u32,
    decided: u64,
    keys: BTreeMap<Bytes, (Bytes, u64)>,
    history: VecDeque<(Bytes, Written)>,
    calls: Vec<Call>,
}

#[derive(Clone)]
struct Replica {
    is_up: bool,
    incarnation: u64,
    cuts: Vec<usize>,
}

impl Memory {
    /// Creates a cluster with the given numbers of replicas and keys.
    #[must_use]
    pub fn new(replicas: usize, keys: u64) -> Arc<Self> {
        Self::starting_at(Clock::start().now().wall_us, replicas, keys)
    }

    /// Does the same, with a given start time in microseconds since 1970.
    #[must_use]
    pub fn starting_at(wall_us: u64, replicas: usize, keys: u64) -> Arc<Self> {
        let node = Replica { is_up: true, incarnation: 1, cuts: Vec::new() };
        let key = |n: u64| {
            let (key, value) = (format!("user:{n:07}"), format!("value of {n}"));
            (Bytes::from(key), (Bytes::from(value), n + 1))
        };
        let state = State {
            nodes: vec![node; replicas],
            leader: Some(0),
            ballot: 1,
            decided: keys,
            keys: (0..keys).map(key).collect(),
            history: VecDeque::new(),
            calls: Vec::new(),
        };
        let (told, _) = broadcast::channel(TOLD_MAX);
        Arc::new(Self { state: Mutex::new(state), told, began: (Instant::now(), wall_us) })
    }

    /// Returns every call so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.state(|state| state.calls.clone())
    }

    /// Writes at a rate until `until` entries are decided, and reports them as replicas do.
    pub async fn load(self: Arc<Self>, per_second: u64, until: u64) {
        /// Beats per second.
        const BEATS: u64 = 100;
        let mut beats = interval(Duration::from_millis(1000 / BEATS));
        beats.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut beat = 0;
        loop {
            beats.tick().await;
            beat += 1;
            let (entries, is_over) = self.state(|state| {
                let count = (per_second / BEATS).max(1).min(until - state.decided.min(until));
                let entries = (0..count).map(|_| state.put_next()).collect::<Vec<_>>();
                (entries, state.decided >= until)
            });
            let _ = self.told.send(Observation::Log { node: "kvorum-0".to_owned(), entries });
            if beat % (BEATS / 10) == 0 {
                self.tell_statuses();
            }
            if is_over {
                return;
            }
        }
    }

    fn state<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn tell_statuses(&self) {
        for status in self.statuses() {
            let _ = self.told.send(Observation::Status(Box::new(status)));
        }
    }

    fn statuses(&self) -> Vec<Status> {
        let passed = u64::try_from(self.began.0.elapsed().as_micros()).unwrap_or(u64::MAX);
        let wall_us = self.began.1.saturating_add(passed);
        self.state(|state| {
            let up = (0..state.nodes.len()).filter(|place| state.nodes[*place].is_up);
            up.map(|place| state.status(place, wall_us)).collect()
        })
    }

    fn do_call(self: &Arc<Self>, call: Call) -> Result<Reply, Failure> {
        self.state(|state| state.calls.push(call.clone()));
        let no_quorum = || Failure::new(Exit::Unavailable, "a majority of the replicas is not up");
        match call {
            Call::Put { key, value, condition, .. } => {
                let Source::Bytes(value) = value else {
                    return Err(Failure::usage("there are no files here"));
                };
                self.write(key, Some(value), condition).ok_or_else(no_quorum)
            }
            Call::Delete { key, condition, .. } => {
                self.write(key, None, condition).ok_or_else(no_quorum)
            }
            Call::Get { key, .. } => Ok(Reply::Value(self.state(|state| state.pair(&key.0)))),
            Call::Scan { prefix, from, .. } => {
                Ok(Reply::Page(self.state(|s| s.page(&prefix, &from))))
            }
            Call::Inspect { key, nodes } => Ok(self.state(|state| {
                let pair = state.pair(&key.0);
                let revision = pair.as_ref().map(|pair| pair.revision);
                Reply::Inspected {
                    pair,
                    nodes: nodes.into_iter().map(|n| (n, Ok(revision))).collect(),
                }
            })),
            Call::Batch { count } => Ok(Reply::Done(format!("{count} puts;"))),
            Call::Logs { node } => Ok(Reply::Lines(vec![format!("{node} has no log file")])),
            Call::Kill { node, .. } => self.kill(&node),
            Call::Scale { .. } => Err(Failure::failed("a cluster in memory keeps its size")),
            Call::HandOver { to, .. } => {
                let to = to.and_then(|to| place_of(&to));
                self.elect(to);
                Ok(Reply::Done("asked for".to_owned()))
            }
            Call::Cut { node, peer } => Ok(self.set_cut(&node, &peer, true)),
            Call::Heal { node, peer } => Ok(self.set_cut(&node, &peer, false)),
        }
    }

    fn write(&self, key: Key, value: Option<Bytes>, condition: Condition) -> Option<Reply> {
        let (reply, entry) = self.state(|state| {
            if !state.has_quorum() || state.leader.is_none() {
                return None;
            }
            Some(state.write(key, value, condition))
        })?;
        let node = "kvorum-0".to_owned();
        let _ = self.told.send(Observation::Log { node, entries: vec![entry] });
        self.tell_statuses();
        Some(reply)
    }

    fn kill(self: &Arc<Self>, node: &str) -> Result<Reply, Failure> {
        let place = place_of(node).filter(|place| {
            self.state(|state| state.nodes.get(*place).is_some_and(|node| node.is_up))
        });
        let Some(place) = place else {
            return Err(Failure::failed(format!("{node} does not run now")));
        };
        let was_leader = self.state(|state| {
            state.nodes[place].is_up = false;
            let was_leader = state.leader == Some(place);
            state.leader = state.leader.filter(|leader| *leader != place);
            was_leader
        });
        let why = "the connection was lost".to_owned();
        let _ = self.told.send(Observation::Down { node: node.to_owned(), why });
        self.tell_statuses();
        let (this, node) = (Arc::clone(self), node.to_owned());
        tokio::spawn(async move {
            sleep(ELECTION).await;
            if was_leader {
                this.elect(None);
            }
            sleep(RESTART.saturating_sub(ELECTION)).await;
            this.state(|state| {
                state.nodes[place].is_up = true;
                state.nodes[place].incarnation += 1;
            });
            let _ = this.told.send(Observation::Up { node });
            if this.state(|state| state.leader.is_none()) {
                this.elect(None);
            }
            this.tell_statuses();
        });
        Ok(Reply::Done("in memory".to_owned()))
    }

    fn elect(&self, wanted: Option<usize>) {
        self.state(|state| {
            let is_up = |place: &usize| state.nodes.get(*place).is_some_and(|node| node.is_up);
            let next = wanted.filter(is_up).or_else(|| (0..state.nodes.len()).find(is_up));
            if state.has_quorum() && next.is_some() && next != state.leader {
                state.leader = next;
                state.ballot += 1;
            }
        });
        self.tell_statuses();
    }

    fn set_cut(&self, node: &str, peer: &str, is_cut: bool) -> Reply {
        if let (Some(a), Some(b)) = (place_of(node), place_of(peer)) {
            self.state(|state| {
                if let Some(node) = state.nodes.get_mut(a) {
                    node.cuts.retain(|cut| *cut != b);
                    if is_cut {
                        node.cuts.push(b);
                    }
                }
            });
        }
        self.tell_statuses();
        Reply::Done("done".to_owned())
    }
}

fn place_of(name: &str) -> Option<usize> {
    name.rsplit_once('-')?.1.parse().ok()
}

impl State {
    fn has_quorum(&self) -> bool {
        2 * self.nodes.iter().filter(|node| node.is_up).count() > self.nodes.len()
    }

    fn pair(&self, key: &[u8]) -> Option<Pair> {
        let (value, revision) = self.keys.get(key)?;
        let key = Key(Bytes::copy_from_slice(key));
        Some(Pair { key, value: Value(value.clone()), revision: *revision })
    }

    fn page(&self, prefix: &[u8], from: &[u8]) -> Page {
        let from = Bytes::copy_from_slice(from.max(prefix));
        let mut found = self.keys.range(from..).take_while(|(key, _)| key.starts_with(prefix));
        let pair = |(key, (value, revision)): (&Bytes, &(Bytes, u64))| Pair {
            key: Key(key.clone()),
            value: Value(value.clone()),
            revision: *revision,
        };
        let pairs: Vec<Pair> = found.by_ref().take(PAGE_PAIRS).map(pair).collect();
        let next = found.next().map(|(key, _)| Key(key.clone()));
        Page { pairs, next, index: self.decided }
    }

    fn put_next(&mut self) -> EntryEvent {
        let key = Key::from(format!("load/{:05}", self.decided % 10_000));
        let value = Bytes::from(format!("written as entry number {}", self.decided + 1));
        self.write(key, Some(value), Condition::Always).1
    }

    fn write(
        &mut self,
        key: Key,
        value: Option<Bytes>,
        condition: Condition,
    ) -> (Reply, EntryEvent) {
        self.decided += 1;
        let revision = self.decided;
        let current = self.keys.get(&key.0).cloned();
        let known = current.as_ref().map(|(_, revision)| *revision);
        let holds = match condition {
            Condition::Always => true,
            Condition::Absent => known.is_none(),
            Condition::AtRevision(wanted) => known == Some(wanted),
        };
        let took_effect = holds && (value.is_some() || known.is_some());
        let outcome = match (&value, holds) {
            (_, false) => Outcome::ConditionFailed { current: known },
            (Some(_), true) => Outcome::Put { revision },
            (None, true) => Outcome::Deleted { revision, existed: known.is_some() },
        };
        let entry = EntryEvent {
            index: revision,
            kind: if value.is_some() { EntryKind::Put } else { EntryKind::Delete },
            key: Some(key.clone()),
            preview: value.clone().map(|value| Value(value.slice(..value.len().min(128)))),
            value_bytes: value.as_ref().map_or(0, |value| value.len() as u64),
            took_effect,
        };
        match value {
            Some(value) if took_effect => {
                if self.history.len() == HISTORY_MAX {
                    self.history.pop_front();
                }
                let written = Written { index: revision, value: Value(value.clone()) };
                self.history.push_back((key.0.clone(), written));
                self.keys.insert(key.0, (value, revision));
            }
            None if took_effect => drop(self.keys.remove(&key.0)),
            _ => {}
        }
        let previous = current.map_or(Previous::Absent, |(value, _)| Previous::Value(value));
        (Reply::Written { outcome, previous }, entry)
    }

    fn status(&self, place: usize, wall_us: u64) -> Status {
        let name = |place: usize| format!("kvorum-{place}");
        let id = |place: usize| ReplicaId(place as u64 + 1);
        let all = 0..self.nodes.len();
        let is_cut = |a: usize, b: usize| self.nodes[a].cuts.contains(&b);
        let link = |peer: usize| LinkStatus {
            peer: name(peer),
            is_up: self.nodes[peer].is_up && !is_cut(place, peer) && !is_cut(peer, place),
            is_cut: is_cut(place, peer),
            sessions: 1,
        };
        let role = match self.leader {
            Some(leader) if leader == place => Role::Leader,
            Some(_) => Role::Follower,
            None => Role::Recovering,
        };
        Status {
            name: name(place),
            replica: id(place),
            cluster: ClusterId(1),
            incarnation: self.nodes[place].incarnation,
            configuration: Configuration {
                id: ConfigurationId(1),
                members: all.clone().map(|p| Member { replica: id(p), name: name(p) }).collect(),
            },
            role,
            leader: self.leader.map(name),
            ballot: Ballot { number: self.ballot, replica: id(self.leader.unwrap_or(0)) },
            accepted: self.decided,
            decided: self.decided,
            applied: self.decided,
            compacted: 0,
            catching_up: None,
            membership: Membership::default(),
            is_ready: self.leader.is_some(),
            version: 2,
            same_at: 0,
            allows_faults: true,
            links: all.filter(|peer| *peer != place).map(link).collect(),
            trouble: None,
            monotonic_us: 0,
            wall_us,
        }
    }
}

impl Backend for Memory {
    fn place(&self) -> Place {
        Place { name: "memory".to_owned(), ..Place::default() }
    }

    fn watch(self: Arc<Self>, sink: Sink) -> Task<()> {
        let mut told = self.told.subscribe();
        Box::pin(async move {
            for status in self.statuses() {
                sink.tell(Observation::Up { node: status.name.clone() }).await;
                sink.tell(Observation::Status(Box::new(status))).await;
            }
            loop {
                let seen = tokio::select! {
                    seen = told.recv() => seen,
                    () = sink.closed() => return,
                };
                let goes_on = match seen {
                    Ok(seen) => sink.tell(seen).await,
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        sink.tell(Observation::LogReset).await
                    }
                    Err(broadcast::error::RecvError::Closed) => false,
                };
                if !goes_on {
                    return;
                }
            }
        })
    }

    fn call(self: Arc<Self>, call: Call) -> Task<Result<Reply, Failure>> {
        Box::pin(async move { self.do_call(call) })
    }

    fn store(self: Arc<Self>) -> Arc<dyn Store> {
        self
    }

    fn stop(self: Arc<Self>) -> Task<()> {
        Box::pin(std::future::ready(()))
    }
}

impl Store for Memory {
    fn put(self: Arc<Self>, key: Key, value: Value) -> Task<Result<u64, Fate>> {
        Box::pin(async move {
            // Waits for a leader, as a client does.
            loop {
                match self.write(key.clone(), Some(value.0.clone()), Condition::Always) {
                    Some(Reply::Written { outcome: Outcome::Put { revision }, .. }) => {
                        return Ok(revision);
                    }
                    Some(_) => return Err(Fate::Refused),
                    None => sleep(Duration::from_millis(5)).await,
                }
            }
        })
    }

    fn delete(self: Arc<Self>, key: Key) -> Task<Result<(), String>> {
        Box::pin(async move {
            let done = self.write(key, None, Condition::Always);
            done.map(|_| ()).ok_or_else(|| "there is no quorum".to_owned())
        })
    }

    fn pairs(self: Arc<Self>, prefix: Vec<u8>) -> Task<Result<Vec<Pair>, String>> {
        Box::pin(async move {
            Ok(self.state(|state| {
                let from = Bytes::from(prefix.clone());
                let found =
                    state.keys.range(from..).take_while(|(key, _)| key.starts_with(&prefix));
                let keys: Vec<Bytes> = found.map(|(key, _)| key.clone()).collect();
                keys.iter().filter_map(|key| state.pair(key)).collect()
            }))
        })
    }

    fn history(
        self: Arc<Self>,
        prefix: Vec<u8>,
        from: u64,
        until: u64,
    ) -> Task<Result<Vec<Written>, String>> {
        Box::pin(async move {
            Ok(self.state(|state| {
                let fits = |(key, written): &&(Bytes, Written)| {
                    key.starts_with(&prefix) && (from..=until).contains(&written.index)
                };
                state.history.iter().filter(fits).map(|(_, written)| written.clone()).collect()
            }))
        })
    }
}
