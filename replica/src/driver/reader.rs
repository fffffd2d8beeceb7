//! Threads for slow reads, so that the driver need not wait for the disk: one reads snapshots and
//! old entries, another one pages of keys.
//!
//! Guarantees that each thread reads what is requested in order, one item at a time. The threads'
//! queues hold what the engine allows to be under way, for each client and peer and for all of
//! them. Results wait in a queue of their own; when that is full, the threads wait.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use kvorum_protocol::message::Scan;
use tokio::sync::mpsc;

use crate::engine::store::Store;
use crate::engine::{Asker, Input, Origin};
use crate::limits::FOUND_MAX;
use crate::state::snapshot::{FetchRequest, Snapshots};

/// A request to the reader thread.
pub struct Job {
    /// The client or peer that asks.
    pub asker: Asker,
    /// The item to read.
    pub wanted: FetchRequest,
    /// The number that identifies a snapshot when it is opened.
    pub number: u64,
}

/// The reader threads; they end when this and the receiver of their results are dropped.
pub struct Readers {
    /// Requests to the thread that reads snapshots and old entries.
    jobs: Sender<Job>,
    /// Requests to the thread that reads pages of keys.
    scans: Sender<(Origin, Scan)>,
}

impl Readers {
    /// Starts the threads, which hold the store until they end; their results arrive at the
    /// receiver.
    pub fn spawn<S: Store + Clone + Send + 'static>(
        store: S,
    ) -> (Self, mpsc::Receiver<Input>, [JoinHandle<()>; 2]) {
        let (found_by, found) = mpsc::channel(FOUND_MAX);
        let ((jobs, jobs_due), (scans, scans_due)) = (channel(), channel());
        let (disk, scanned_by) = (store.clone(), found_by.clone());
        let start = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.to_owned());
            thread.spawn(run).expect("a process can start a few threads")
        };
        let threads = [
            start("reader", Box::new(move || read_all(&store, &jobs_due, &found_by))),
            start("scanner", Box::new(move || scan_all(&disk, &scans_due, &scanned_by))),
        ];
        (Self { jobs, scans }, found, threads)
    }

    /// Queues a read of a snapshot or of old entries.
    pub fn read(&self, job: Job) {
        self.jobs.send(job).expect("the reader lives as long as the driver");
    }

    /// Queues a read of a page of keys.
    pub fn scan(&self, origin: Origin, scan: Scan) {
        self.scans.send((origin, scan)).expect("the scanner lives as long as the driver");
    }
}

fn read_all<S: Store>(store: &S, due: &Receiver<Job>, found_by: &mpsc::Sender<Input>) {
    let mut snapshots = store.snapshots();
    while let Ok(Job { asker, wanted, number }) = due.recv() {
        if let Some(found) = snapshots.read(&wanted, number)
            && found_by.blocking_send(Input::Read { asker, found }).is_err()
        {
            return;
        }
    }
}

fn scan_all<S: Store>(store: &S, due: &Receiver<(Origin, Scan)>, found_by: &mpsc::Sender<Input>) {
    while let Ok((origin, scan)) = due.recv() {
        let page = store.scan(&scan);
        if found_by.blocking_send(Input::Scanned { origin, page }).is_err() {
            return;
        }
    }
}
