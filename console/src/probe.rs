//! The write probe: numbered writes at a steady rate, and the proof of their outcome.
//!
//! Each write carries the next number as its value, under one key of a ring of keys that the probe
//! owns. When the probe is turned off, everything is read again: the log must have each
//! acknowledged number exactly once, at the index that was acknowledged, and each key must hold a
//! write that is no older than the last one acknowledged for it. Then the keys are removed.
//! Guarantees that the rate, the writes in flight, and the numbers of writes and keys are bounded.
//! Does not know how replicas agree.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt, future, stream};
use kvorum_protocol::message::Pair;
use kvorum_protocol::{Fate, Key, Value};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::message::{Ack, Event, ProbeReport, Proof};

/// The time between two writes: 200 a second.
pub const BEAT: Duration = Duration::from_millis(5);
/// The number of keys of one probe. A key is reused after 20 seconds, long after its last write.
const SLOTS: u64 = 4096;
/// The maximum number of writes in flight; a beat at which it is reached sends nothing.
const IN_FLIGHT_MAX: usize = 512;
/// The number of writes after which a probe proves them and ends: a quarter of an hour of them.
const WRITES_MAX: u64 = 200_000;
/// The time between two reports.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);
/// How long it may take to read everything again.
const PROOF_PATIENCE: Duration = Duration::from_secs(60);
/// The number of keys that are removed at once.
const DELETES: usize = 64;

/// An asynchronous operation and its result.
pub type Task<T> = BoxFuture<'static, T>;

/// The store that a probe writes to.
pub trait Store: Send + Sync + 'static {
    /// Writes a key; returns the index at which the write was decided.
    fn put(self: Arc<Self>, key: Key, value: Value) -> Task<Result<u64, Fate>>;
    /// Removes a key.
    fn delete(self: Arc<Self>, key: Key) -> Task<Result<(), String>>;
    /// Returns all pairs with a prefix, read linearizably.
    fn pairs(self: Arc<Self>, prefix: Vec<u8>) -> Task<Result<Vec<Pair>, String>>;
    /// Returns the writes under a prefix from one index to another, according to the log. There is
    /// a write at the last index.
    fn history(
        self: Arc<Self>,
        prefix: Vec<u8>,
        from: u64,
        until: u64,
    ) -> Task<Result<Vec<Written>, String>>;
}

/// A write as recorded in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// Its index.
    pub index: u64,
    /// Its value.
    pub value: Value,
}

/// A running probe.
struct Probe {
    store: Arc<dyn Store>,
    prefix: String,
    clock: Clock,
    events: mpsc::Sender<Event>,
    /// The index of each acknowledged number.
    acknowledged: HashMap<u64, u64>,
    /// The numbers of the writes whose outcome is unknown.
    unknown: Vec<u64>,
    report: Report,
}

/// The content of the next report.
#[derive(Default)]
struct Report {
    acks: Vec<Ack>,
    unknown: u64,
    refused: u64,
    skipped: u64,
}

/// One write that has ended.
struct Ended {
    number: u64,
    result: Result<u64, Fate>,
    took: Duration,
}

/// Runs a probe until `stop` is cancelled, then proves what it wrote.
pub async fn run(
    store: Arc<dyn Store>,
    clock: Clock,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
) {
    let prefix = format!("probe/{:08x}/", rand::random::<u32>());
    let mut probe = Probe {
        store,
        prefix,
        clock,
        events,
        acknowledged: HashMap::new(),
        unknown: Vec::new(),
        report: Report::default(),
    };
    let begin = probe.write_marker("begin").await;
    let proof = match begin {
        Ok(begin) => {
            probe.write_until(&stop).await;
            let _ = probe.events.send(Event::Probe(ProbeReport::Proving)).await;
            let proof = timeout(PROOF_PATIENCE, probe.prove(begin)).await;
            proof.unwrap_or_else(|_| Err(format!("no end of it within {PROOF_PATIENCE:?}")))
        }
        Err(why) => Err(why),
    };
    let _ = probe.events.send(Event::Probe(ProbeReport::Proven(proof))).await;
}

impl Probe {
    fn key(&self, number: u64) -> Key {
        Key::from(format!("{}{:05}", self.prefix, number % SLOTS))
    }

    /// Writes a key that is not a number, to learn the current index of the log.
    async fn write_marker(&self, name: &str) -> Result<u64, String> {
        let key = Key::from(format!("{}{name}", self.prefix));
        let written = Arc::clone(&self.store).put(key, Value::from(name.to_owned())).await;
        written.map_err(|_| "the cluster does not take writes now".to_owned())
    }

    async fn write_until(&mut self, stop: &CancellationToken) {
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut reports = interval(REPORT_INTERVAL);
        reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut writes: JoinSet<Ended> = JoinSet::new();
        let mut number = 0;
        while !stop.is_cancelled() && number < WRITES_MAX {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                Some(ended) = writes.join_next(), if !writes.is_empty() => {
                    if let Ok(ended) = ended {
                self.ended(&ended);
            }
                }
                _ = reports.tick() => self.tell(writes.len()).await,
                _ = beats.tick() => match writes.len() < IN_FLIGHT_MAX {
                    true => {
                        writes.spawn(write(Arc::clone(&self.store), self.key(number), number));
                        number += 1;
                    }
                    false => self.report.skipped += 1,
                },
            }
        }
        while let Some(ended) = writes.join_next().await {
            if let Ok(ended) = ended {
                self.ended(&ended);
            }
        }
        self.tell(0).await;
    }

    fn ended(&mut self, ended: &Ended) {
        match ended.result {
            Ok(index) => {
                self.acknowledged.insert(ended.number, index);
                let now = self.clock.now();
                let (at, wall_us, took) = (now.monotonic, now.wall_us, ended.took);
                self.report.acks.push(Ack { at, wall_us, took });
            }
            Err(Fate::Unknown) => {
                self.unknown.push(ended.number);
                self.report.unknown += 1;
            }
            Err(Fate::Refused) => self.report.refused += 1,
        }
    }

    async fn tell(&mut self, in_flight: usize) {
        let Report { acks, unknown, refused, skipped } = std::mem::take(&mut self.report);
        let in_flight = in_flight as u64;
        let report = ProbeReport::Acks { acks, unknown, refused, skipped, in_flight };
        let _ = self.events.send(Event::Probe(report)).await;
    }

    /// Reads everything again, checks it, and removes it.
    async fn prove(&self, begin: u64) -> Result<Proof, String> {
        let end = self.write_marker("end").await?;
        let prefix = self.prefix.clone().into_bytes();
        let pairs = Arc::clone(&self.store).pairs(prefix.clone()).await?;
        let (acknowledged, unknown) = (&self.acknowledged, &self.unknown);
        let key = |number| self.key(number);
        let proof = match Arc::clone(&self.store).history(prefix, begin, end).await {
            Ok(history) => judge(acknowledged, unknown, &history, &pairs, key),
            // A replica that joined meanwhile has the earlier writes as state only: the keys must
            // do.
            Err(_) => {
                judge(acknowledged, unknown, &last_writes(acknowledged, &pairs, key), &pairs, key)
            }
        };
        self.remove(pairs).await?;
        Ok(proof)
    }

    async fn remove(&self, pairs: Vec<Pair>) -> Result<(), String> {
        let delete = |pair: Pair| Arc::clone(&self.store).delete(pair.key);
        let deletes = stream::iter(pairs).map(delete).buffer_unordered(DELETES);
        let deleted = deletes.try_for_each(|()| future::ok(())).await;
        deleted.map_err(|why| format!("its keys could not be removed: {why}"))
    }
}

async fn write(store: Arc<dyn Store>, key: Key, number: u64) -> Ended {
    let began = Instant::now();
    let result = store.put(key, Value::from(number.to_string())).await;
    Ended { number, result, took: began.elapsed() }
}

/// Returns the writes that the log must have had, as far as the keys show: each key's last write,
/// and the acknowledged ones that later writes have overwritten.
fn last_writes(
    acknowledged: &HashMap<u64, u64>,
    pairs: &[Pair],
    key: impl Fn(u64) -> Key,
) -> Vec<Written> {
    let held: HashMap<&Key, &Pair> = pairs.iter().map(|pair| (&pair.key, pair)).collect();
    let mut history: Vec<_> = pairs
        .iter()
        .map(|pair| Written { index: pair.revision, value: pair.value.clone() })
        .collect();
    for (number, index) in acknowledged {
        let value = Value::from(number.to_string());
        let later = held.get(&key(*number)).filter(|pair| pair.revision > *index);
        // A write stored at another index was done twice, and is listed twice here.
        if later.is_some() {
            history.push(Written { index: *index, value });
        }
    }
    history
}

/// Judges the outcome of the writes by the log and by the keys.
fn judge(
    acknowledged: &HashMap<u64, u64>,
    unknown: &[u64],
    history: &[Written],
    pairs: &[Pair],
    key: impl Fn(u64) -> Key,
) -> Proof {
    let number_of = |value: &Value| std::str::from_utf8(&value.0).ok()?.parse::<u64>().ok();
    let mut indexes: HashMap<u64, Vec<u64>> = HashMap::new();
    for written in history {
        if let Some(number) = number_of(&written.value) {
            indexes.entry(number).or_default().push(written.index);
        }
    }
    let held: HashMap<&Key, u64> = pairs.iter().map(|pair| (&pair.key, pair.revision)).collect();
    let is_lost = |number: u64, index: u64| {
        let in_log = indexes.get(&number).is_some_and(|found| found.contains(&index));
        let in_keys = held.get(&key(number)).is_some_and(|revision| *revision >= index);
        !(in_log && in_keys)
    };
    let lost = acknowledged.iter().filter(|(number, index)| is_lost(**number, **index)).count();
    Proof {
        acknowledged: acknowledged.len() as u64,
        lost: lost as u64,
        doubled: indexes.values().filter(|found| found.len() > 1).count() as u64,
        unknown: unknown.len() as u64,
        unknown_happened: unknown.iter().filter(|n| indexes.contains_key(n)).count() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(index: u64, number: u64) -> Written {
        Written { index, value: Value::from(number.to_string()) }
    }

    fn pair(number: u64, revision: u64) -> Pair {
        let value = Value::from(number.to_string());
        Pair { key: key(number), value, revision }
    }

    fn key(number: u64) -> Key {
        Key::from(format!("{:05}", number % 10))
    }

    fn counts(history: &[Written], pairs: &[Pair]) -> (u64, u64, u64) {
        let acknowledged = HashMap::from([(1, 11), (2, 12), (11, 15)]);
        let proof = judge(&acknowledged, &[3, 4], history, pairs, key);
        (proof.lost, proof.doubled, proof.unknown_happened)
    }

    /// Checks correct histories, and wrong ones that must be detected.
    #[test]
    fn the_proof_finds_what_is_lost_and_doubled() {
        let history = [written(11, 1), written(12, 2), written(13, 3), written(15, 11)];
        let pairs = [pair(11, 15), pair(2, 12), pair(3, 13)];
        assert_eq!(counts(&history, &pairs), (0, 0, 1));
        let without_two: Vec<_> = history.iter().filter(|w| w.index != 12).cloned().collect();
        assert_eq!(counts(&without_two, &pairs), (1, 0, 1), "not in the log");
        assert_eq!(counts(&history, &pairs[..1]), (1, 0, 1), "not among the keys");
        let by_keys = |pairs: &[Pair]| {
            counts(&last_writes(&HashMap::from([(1, 11), (2, 12), (11, 15)]), pairs, key), pairs)
        };
        assert_eq!(by_keys(&pairs), (0, 0, 1));
        assert_eq!(by_keys(&pairs[..1]), (1, 0, 0), "not among the keys");
        assert_eq!(by_keys(&[pair(11, 15), pair(2, 14)]), (0, 1, 0), "done again later");
        assert_eq!(counts(&history, &[pair(1, 11), pair(2, 12)]), (1, 0, 1), "an older one there");
        let twice = [&history[..], &[written(16, 2)]].concat();
        assert_eq!(counts(&twice, &pairs), (0, 1, 1), "twice in the log");
        let elsewhere = [written(11, 1), written(17, 2), written(15, 11)];
        assert_eq!(counts(&elsewhere, &pairs), (1, 0, 0), "at another index than was said");
    }
}
