//! The counters of a replica, and their export for Prometheus.
//!
//! Guarantees that counting never waits: all counters are atomics. Does not know the HTTP server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kvorum_protocol::status::{Role, Status};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Upper bound of the shortest bucket of sync times, in seconds; each further one is twice as long.
const SYNC_BUCKET_SECONDS: f64 = 0.000_125;
/// Number of buckets of sync times: up to four seconds.
const SYNC_BUCKETS: u16 = 16;

/// The description of the time at which the certificate ends.
const CERTIFICATE_HELP: &str = "End of its certificate, in seconds since 1970; 0 without one";

/// The counters and gauges of a replica.
pub struct Metrics {
    /// Messages dropped because the library must not see or send them.
    pub dropped: AtomicU64,
    /// Frames of old sessions and other invalid messages dropped by the engine.
    pub strange: AtomicU64,
    /// Writes that wait for a decision.
    pub waiting_writes: AtomicU64,
    /// Reads that wait for a majority or for their index.
    pub waiting_reads: AtomicU64,
    /// Client connections open.
    pub connections: AtomicU64,
    /// Client connections refused.
    pub refused_connections: AtomicU64,
    /// Calls accepted from clients.
    pub calls: AtomicU64,
    /// Calls refused as overload before the engine saw them.
    pub overloads: AtomicU64,
    /// Time for which the first of the calls that wait for their turn has waited, in microseconds.
    pub waits_us: AtomicU64,
    /// Connections closed because their bytes did not follow the protocol.
    pub malformed: AtomicU64,
    /// The calls that the user had no right to make.
    pub forbidden: AtomicU64,
    /// Time of the driver's last turn, in microseconds since the process began.
    pub turned_us: AtomicU64,
    /// Whether the sync under way is overdue.
    pub sync_is_overdue: AtomicBool,
    /// Bytes of table files that wait to be merged.
    pub debt_bytes: AtomicU64,
    /// Files of level 0, in the column family that has most.
    pub debt_files: AtomicU64,
    /// Time at which the replica's certificate is over, in seconds since 1970; 0 without one.
    pub certificate_end: AtomicU64,
    /// Whether RocksDB slows writes until fewer files wait to be merged.
    pub slows_writes: AtomicBool,
    syncs: AtomicU64,
    sync_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let buckets = exponential_buckets(SYNC_BUCKET_SECONDS, 2.0, SYNC_BUCKETS);
        Self {
            dropped: AtomicU64::new(0),
            strange: AtomicU64::new(0),
            waiting_writes: AtomicU64::new(0),
            waiting_reads: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            refused_connections: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            overloads: AtomicU64::new(0),
            waits_us: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
            forbidden: AtomicU64::new(0),
            turned_us: AtomicU64::new(0),
            sync_is_overdue: AtomicBool::new(false),
            debt_bytes: AtomicU64::new(0),
            debt_files: AtomicU64::new(0),
            certificate_end: AtomicU64::new(0),
            slows_writes: AtomicBool::new(false),
            syncs: AtomicU64::new(0),
            sync_seconds: Histogram::new(buckets),
        }
    }
}

impl Metrics {
    /// Counts a sync that returned, and its duration.
    pub fn synced(&self, took: Duration) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.sync_seconds.observe(took.as_secs_f64());
    }

    /// Returns all metrics in Prometheus's text format.
    #[must_use]
    pub fn text(&self, status: Option<&Arc<Status>>) -> String {
        let mut registry = Registry::with_prefix("kvorum");
        let value = |atomic: &AtomicU64| atomic.load(Ordering::Relaxed);
        let gauge = |registry: &mut Registry, name: &str, help: &str, value: u64| {
            let gauge: Gauge = Gauge::default();
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            registry.register(name, help, gauge);
        };
        let counter = |registry: &mut Registry, name: &str, help: &str, value: u64| {
            let counter: Counter = Counter::default();
            counter.inc_by(value);
            registry.register(name, help, counter);
        };
        if let Some(status) = status {
            let mut gauge = |name, help, value| gauge(&mut registry, name, help, value);
            gauge("accepted_index", "Entries written", status.accepted);
            gauge("decided_index", "Entries known to be chosen", status.decided);
            gauge("applied_index", "Entries applied", status.applied);
            gauge("compacted_index", "Entries no longer in the log", status.compacted);
            gauge("ballot", "Number of the promised ballot", u64::from(status.ballot.number));
            gauge("is_leader", "1 while the replica leads", u64::from(status.role == Role::Leader));
            gauge("is_ready", "1 while the replica is ready", u64::from(status.is_ready));
            gauge("incarnation", "Starts on this volume", status.incarnation);
            gauge("version", "The cluster's version", u64::from(status.version));
            gauge("same_index", "Last index at which all states were the same", status.same_at);
            let up = status.links.iter().filter(|link| link.is_up).count() as u64;
            let copied = status.catching_up.as_ref().map(|c| (c.items, c.items_expected, c.bytes));
            let (items, expected, bytes) = copied.unwrap_or_default();
            let is_behind = u64::from(status.catching_up.is_some());
            gauge("is_catching_up", "1 while it copies what it lacks", is_behind);
            gauge("copied_items", "Lanes and keys copied so far", items);
            gauge("copied_items_expected", "About how many there are", expected);
            gauge("copied_bytes", "About how many bytes were copied so far", bytes);
            gauge("links_up", "Peers with a session", up);
        }
        let waiting = [
            ("writes_waiting", "Writes that wait for a decision", &self.waiting_writes),
            ("reads_waiting", "Reads that wait", &self.waiting_reads),
            ("calls_wait_us", "Time that a call waits for its turn, in us", &self.waits_us),
            ("connections", "Client connections open", &self.connections),
            ("disk_debt_bytes", "Bytes of table files that wait to be merged", &self.debt_bytes),
            ("disk_debt_files", "Files of level 0 that wait to be merged", &self.debt_files),
            ("certificate_expires_seconds", CERTIFICATE_HELP, &self.certificate_end),
        ];
        for (name, help, atomic) in waiting {
            gauge(&mut registry, name, help, value(atomic));
        }
        let slows = u64::from(self.slows_writes.load(Ordering::Relaxed));
        let help = "1 while writes are slowed until fewer files wait to be merged";
        gauge(&mut registry, "disk_slows_writes", help, slows);
        let counted = [
            ("connections_refused", "Client connections refused", &self.refused_connections),
            ("calls", "Calls taken from clients", &self.calls),
            ("calls_overload", "Calls refused as overload", &self.overloads),
            ("malformed", "Connections closed over malformed bytes", &self.malformed),
            ("calls_forbidden", "Calls that the user had no right to make", &self.forbidden),
            ("messages_dropped", "Consensus messages that must not be", &self.dropped),
            ("frames_dropped", "Frames of old sessions and the like", &self.strange),
            ("syncs", "Syncs of the write-ahead log", &self.syncs),
        ];
        for (name, help, atomic) in counted {
            counter(&mut registry, name, help, value(atomic));
        }
        registry.register("sync_seconds", "Time of a sync", self.sync_seconds.clone());
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }
}
