//! The reader: a thread that reads snapshots and old entries, so that the driver need not wait for
//! the disk.
//!
//! Guarantees that what is asked for is read in order, one thing at a time. Its queue holds what
//! the peers and clients that copy state have under way, which is one question each.

use std::sync::mpsc::{Receiver, Sender, channel};

use tokio::sync::mpsc;

use crate::engine::{Asker, Input};
use crate::snapshot::{Snapshots, Wanted};
use crate::storage::Store;

/// Something to be read.
pub struct Job {
    /// Who asks for it.
    pub asker: Asker,
    /// What.
    pub wanted: Wanted,
    /// Names a snapshot that is opened.
    pub number: u64,
}

/// Starts the thread; it ends when its jobs do.
pub fn spawn<S: Store + Send + 'static>(store: S) -> (Sender<Job>, mpsc::UnboundedReceiver<Input>) {
    let (jobs, due) = channel();
    let (found_by, found) = mpsc::unbounded_channel();
    std::thread::Builder::new()
        .name("reader".to_owned())
        .spawn(move || read_all(&store, &due, &found_by))
        .expect("a process can start its third thread");
    (jobs, found)
}

fn read_all<S: Store>(store: &S, due: &Receiver<Job>, found_by: &mpsc::UnboundedSender<Input>) {
    let mut snapshots = store.snapshots();
    while let Ok(Job { asker, wanted, number }) = due.recv() {
        if let Some(found) = snapshots.read(&wanted, number)
            && found_by.send(Input::Read { asker, found }).is_err()
        {
            return;
        }
    }
}
