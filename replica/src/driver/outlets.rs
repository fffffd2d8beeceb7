//! What the driver tells the rest of the process.

use std::sync::Arc;
use std::time::Instant;

use kvorum_protocol::status::Status;
use tokio::sync::{mpsc, watch};

use super::metrics::Metrics;
use crate::engine::{Known, ScaleRead};
use crate::marker::Claim;
use crate::state::accounts::Accounts;

/// The outputs of the driver for the rest of the process.
pub struct Outlets {
    /// The replica's status, published a few times a second.
    pub status: watch::Sender<Option<Arc<Status>>>,
    /// The replica's counters.
    pub metrics: Arc<Metrics>,
    /// The start of the process, as the origin of monotonic times.
    pub began: Instant,
    /// The other replicas that this one may have to talk to.
    pub known: watch::Sender<Vec<Known>>,
    /// The users, their roles and rights; `None` before the first turn.
    pub accounts: watch::Sender<Option<Arc<Accounts>>>,
    /// Claims to write to the cluster's marker.
    pub marks: mpsc::Sender<Claim>,
    /// Requests to read the desired replica count again.
    pub scale_reads: mpsc::Sender<ScaleRead>,
}

/// What the driver shows: its status, the users, and the replicas that it knows.
pub type Shown = (
    watch::Sender<Option<Arc<Status>>>,
    watch::Sender<Option<Arc<Accounts>>>,
    watch::Sender<Vec<Known>>,
);

impl Outlets {
    /// Creates the outlets of a driver, with its counters and the start of its process.
    #[must_use]
    pub fn new(
        (status, accounts, known): Shown,
        (metrics, began): (Arc<Metrics>, Instant),
        marks: mpsc::Sender<Claim>,
        scale_reads: mpsc::Sender<ScaleRead>,
    ) -> Self {
        Self { status, metrics, began, known, accounts, marks, scale_reads }
    }

    /// Tells the connections of clients when users or passwords have changed.
    pub(super) fn show_accounts(&self, now: Arc<Accounts>) {
        self.accounts.send_if_modified(|shown| {
            let is_shown = shown.as_ref().is_some_and(|shown| Arc::ptr_eq(shown, &now));
            if !is_shown {
                *shown = Some(now);
            }
            !is_shown
        });
    }
}
