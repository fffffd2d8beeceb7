//! The command `bench`: a load of writes and reads that checks itself.
//!
//! Each client counts up in a key of its own: it puts `n` on the condition that the key is still as
//! the client's last write left it, and reads it now and then. So a write that is applied twice or
//! lost makes a condition fail, and a read that goes back in time is detected. Guarantees that the
//! reported figures were checked against the acknowledged writes. Does not measure the capacity of
//! one machine: the clients share this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use kvorum_protocol::client::{Fate, Route};
use kvorum_protocol::data::{Condition, Operation, Outcome};
use kvorum_protocol::message::{Consistency, Refusal};
use kvorum_protocol::{Client, ClientError, Key, Value};
use serde::Serialize;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Context, print};
use crate::arguments::Bench;
use crate::exit::{Exit, Failure};
use crate::signals::EndSignals;

/// The number of writes per read.
const READ_EVERY: u64 = 8;
/// How long the cluster may take to answer the last read.
const LAST_LOOK_PATIENCE: Duration = Duration::from_secs(30);
/// The longest time that a histogram holds, in microseconds.
const HOUR_US: u64 = 3_600_000_000;

/// The results of a load.
#[derive(Serialize)]
struct Figures {
    seconds: f64,
    clients: u32,
    writes: u64,
    reads: u64,
    writes_per_second: f64,
    /// Milliseconds in which half of the writes were acknowledged, 99 of 100, and all of them.
    median_ms: f64,
    p99_ms: f64,
    most_ms: f64,
    /// The longest time in which no write of any client was acknowledged.
    longest_gap_ms: f64,
    /// Refused writes, which did not happen, and failed reads.
    refused: u64,
    /// Writes whose outcome was still unknown when the client timed out.
    unknown: u64,
    /// Acknowledged writes that the cluster does not have.
    lost: u64,
    /// Writes that were done twice, or that another client must have done.
    doubled: u64,
    /// Reads that went back in time.
    stale: u64,
    /// The last error of a client that had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
}

/// The results of one client.
struct Seen {
    latencies: Histogram<u64>,
    reads: u64,
    refused: u64,
    unknown: u64,
    lost: u64,
    doubled: u64,
    stale: u64,
    last_error: Option<String>,
    /// Whether a request was refused because the user has no right to it.
    is_forbidden: bool,
}

/// Whether the user has no right to a request.
fn is_forbidden(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused { refusal: Refusal::Forbidden { .. }, .. })
}

/// The time of the last acknowledged write of any client, and the longest time between two.
struct Gap {
    began: Instant,
    last_us: AtomicU64,
    longest_us: AtomicU64,
}

impl Gap {
    /// The value of `last_us` before any write was acknowledged.
    const NOTHING: u64 = 0;

    fn from(began: Instant) -> Self {
        let (last_us, longest_us) = (AtomicU64::new(Self::NOTHING), AtomicU64::new(0));
        Self { began, last_us, longest_us }
    }

    /// Records an acknowledged write. The time until the first one, spent on finding the cluster,
    /// does not count.
    fn acknowledged(&self) {
        let now = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX).max(1);
        let last = self.last_us.fetch_max(now, Ordering::Relaxed);
        if last != Self::NOTHING {
            self.longest_us.fetch_max(now.saturating_sub(last), Ordering::Relaxed);
        }
    }
}

/// Runs a load.
pub async fn bench(context: &Context, bench: &Bench) -> Result<(), Failure> {
    let began = Instant::now();
    let run: u32 = rand::random();
    let gap = Arc::new(Gap::from(began));
    let (mut told, end) = (EndSignals::new()?, CancellationToken::new());
    let mut clients = JoinSet::new();
    for number in 0..bench.clients {
        let one = One {
            client: Arc::clone(&context.client),
            key: Key::from(format!("bench/{run:08x}/{number}")),
            value_bytes: bench.value_bytes,
            gap: Arc::clone(&gap),
        };
        clients.spawn(one.run(began + bench.time, bench.pause, end.clone()));
    }
    let all = clients.join_all();
    tokio::pin!(all);
    // On a signal to end, it ends in order and reports the results so far.
    let seen = tokio::select! {
        seen = &mut all => seen,
        () = told.next() => {
            end.cancel();
            all.await
        }
    };
    let figures = add_up(began.elapsed(), bench.clients, &gap, &seen);
    let json = json!(figures);
    print(context.global.output, &text(&figures), &json)?;
    let is_kept = figures.lost + figures.doubled + figures.stale == 0;
    match (is_kept, figures.writes) {
        (false, _) => Err(Failure::failed("the cluster broke its promises")),
        // The replicas are there, and do not let this user write or read.
        (true, _) if seen.iter().any(|one| one.is_forbidden) => Err(Failure::new(
            Exit::NotAuthorized,
            "this user may not write and read keys below bench/, or not any more: what was written \
             is not checked",
        )),
        (true, 0) => Err(Failure::new(Exit::Unavailable, "no write was acknowledged")),
        (true, _) => Ok(()),
    }
}

fn add_up(time: Duration, clients: u32, gap: &Gap, seen: &[Seen]) -> Figures {
    let mut all = Histogram::<u64>::new_with_max(HOUR_US, 3).expect("an hour fits");
    for one in seen {
        let _ = all.add(&one.latencies);
    }
    let sum = |of: fn(&Seen) -> u64| seen.iter().map(of).sum::<u64>();
    let milliseconds = |us: u64| Duration::from_micros(us).as_secs_f64() * 1000.0;
    let seconds = time.as_secs_f64();
    let writes = all.len();
    Figures {
        seconds,
        clients,
        writes,
        reads: sum(|one| one.reads),
        writes_per_second: f64::from(u32::try_from(writes).unwrap_or(u32::MAX)) / seconds,
        median_ms: milliseconds(all.value_at_quantile(0.5)),
        p99_ms: milliseconds(all.value_at_quantile(0.99)),
        most_ms: milliseconds(all.max()),
        longest_gap_ms: milliseconds(gap.longest_us.load(Ordering::Relaxed)),
        refused: sum(|one| one.refused),
        unknown: sum(|one| one.unknown),
        lost: sum(|one| one.lost),
        doubled: sum(|one| one.doubled),
        stale: sum(|one| one.stale),
        last_error: seen.iter().find_map(|one| one.last_error.clone()),
    }
}

fn text(figures: &Figures) -> String {
    let Figures { seconds, clients, writes, reads, writes_per_second, .. } = figures;
    let mut text = format!(
        "{writes} writes and {reads} reads by {clients} clients in {seconds:.1} s: \
         {writes_per_second:.0} writes a second\n\
         acknowledged after {:.1} ms in the median, {:.1} ms for 99 of 100, {:.1} ms at most\n\
         longest time without an acknowledged write {:.0} ms\n\
         refused {}, unknown {}, lost {}, doubled {}, stale reads {}",
        figures.median_ms,
        figures.p99_ms,
        figures.most_ms,
        figures.longest_gap_ms,
        figures.refused,
        figures.unknown,
        figures.lost,
        figures.doubled,
        figures.stale,
    );
    if let Some(error) = &figures.last_error {
        text = format!("{text}\nlast error: {error}");
    }
    text
}

/// One client of the load.
struct One {
    client: Arc<Client>,
    key: Key,
    value_bytes: usize,
    gap: Arc<Gap>,
}

impl One {
    async fn run(self, until: Instant, pause: Duration, end: CancellationToken) -> Seen {
        let mut seen = Seen {
            latencies: Histogram::new_with_max(HOUR_US, 3).expect("an hour fits"),
            reads: 0,
            refused: 0,
            unknown: 0,
            lost: 0,
            doubled: 0,
            stale: 0,
            last_error: None,
            is_forbidden: false,
        };
        // The last number known to be stored, and the revision of its write.
        let (mut number, mut revision) = (0, None);
        // A write with an unknown outcome may still happen, and then makes a condition fail.
        let mut is_doubtful = false;
        while Instant::now() < until && !end.is_cancelled() && !seen.is_forbidden {
            let began = Instant::now();
            match self.put(number + 1, revision).await {
                Ok(Outcome::Put { revision: at }) => {
                    let us = u64::try_from(began.elapsed().as_micros()).unwrap_or(HOUR_US);
                    seen.latencies.saturating_record(us.min(HOUR_US));
                    self.gap.acknowledged();
                    (number, revision) = (number + 1, Some(at));
                    is_doubtful = false;
                }
                Ok(_) => {
                    let (found, at) = self.look(number, &mut seen, until).await;
                    seen.doubled += u64::from(!(is_doubtful && found == number + 1));
                    (number, revision, is_doubtful) = (found, at, false);
                }
                Err(error) if error.fate() == Fate::Refused => {
                    seen.refused += 1;
                    seen.last_error = Some(error.to_string());
                    seen.is_forbidden = is_forbidden(&error);
                }
                Err(error) => {
                    seen.unknown += 1;
                    seen.last_error = Some(error.to_string());
                    is_doubtful = true;
                    (number, revision) = self.look(number, &mut seen, until).await;
                }
            }
            if number % READ_EVERY == 0 && number > 0 {
                self.read(number, &mut seen).await;
            }
            sleep(pause).await;
        }
        if seen.is_forbidden {
            return seen;
        }
        let patience = Instant::now() + LAST_LOOK_PATIENCE;
        let (found, _) = self.look(number, &mut seen, patience).await;
        seen.lost += number.saturating_sub(found);
        let _ = self.client.delete(self.key.clone(), &Route::Any).await;
        seen
    }

    async fn put(&self, number: u64, revision: Option<u64>) -> Result<Outcome, ClientError> {
        let digits = number.to_string();
        let zeros = "0".repeat(self.value_bytes.saturating_sub(digits.len()));
        let text = zeros + &digits;
        let condition = revision.map_or(Condition::Absent, Condition::AtRevision);
        let operation =
            Operation::Put { key: self.key.clone(), value: Value::from(text), condition };
        self.client.write(operation, &Route::Any).await
    }

    async fn get(&self) -> Result<Option<(u64, u64)>, ClientError> {
        let got = self.client.get(self.key.clone(), Consistency::Linearizable, &Route::Any).await;
        let number = |value: &Value| String::from_utf8_lossy(&value.0).parse().unwrap_or(0);
        got.map(|pair| pair.map(|pair| (number(&pair.value), pair.revision)))
    }

    /// Reads the key between two writes.
    async fn read(&self, number: u64, seen: &mut Seen) {
        match self.get().await {
            Ok(found) => {
                seen.reads += 1;
                let found = found.map_or(0, |(number, _)| number);
                seen.stale += u64::from(found < number);
            }
            Err(error) => {
                seen.refused += 1;
                seen.is_forbidden |= is_forbidden(&error);
                seen.last_error = Some(error.to_string());
            }
        }
    }

    /// Returns the stored number and revision; the known number, if no answer comes until `until`.
    async fn look(&self, number: u64, seen: &mut Seen, until: Instant) -> (u64, Option<u64>) {
        loop {
            match self.get().await {
                Ok(Some((found, revision))) => {
                    seen.lost += number.saturating_sub(found);
                    return (found, Some(revision));
                }
                Ok(None) => {
                    seen.lost += number;
                    return (0, None);
                }
                Err(error) if is_forbidden(&error) || Instant::now() > until => {
                    seen.is_forbidden |= is_forbidden(&error);
                    seen.last_error = Some(error.to_string());
                    return (number, None);
                }
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }
}
