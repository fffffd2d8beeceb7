//! Starts and ends the replicas of a local cluster, to match the number that its folder asks for.
//!
//! Behaves like a `StatefulSet` with parallel management: all replicas that are wanted run, and
//! those that are not are made to end, all at once; an ordinal that is wanted again while its
//! replica ends gets a new process when that one has ended. Guarantees that at most one process
//! runs for an ordinal.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::child::{Child, Ends, Place};
use super::folder::{self, StatefulSet};
use super::{Plan, Report};

/// The interval between two reads of the wanted number.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The running replicas.
pub(super) struct Pods {
    pub(super) place: Place,
    pub(super) plan: Plan,
    pub(super) report: Report,
    /// Cancelled when all replicas are to end.
    pub(super) quit: CancellationToken,
    /// Cancelled when the replicas that are ending are to be killed.
    pub(super) hurry: CancellationToken,
    /// The last report of each replica that cannot be started, by ordinal: once for each reason.
    pub(super) said: BTreeMap<u32, String>,
    /// By ordinal: the token that makes the replica end, and the task that ends when it has.
    pub(super) running: BTreeMap<u32, (CancellationToken, JoinHandle<()>)>,
}

impl Pods {
    /// Keeps as many replicas running as are wanted, `replicas` at first, until all are to end.
    pub(super) async fn keep(mut self, replicas: u32) {
        let stop = self.quit.clone();
        let (mut wanted, mut trouble) = (replicas, String::new());
        while !stop.is_cancelled() {
            self.follow(wanted);
            tokio::select! {
                () = sleep(LOOK_INTERVAL) => {}
                () = stop.cancelled() => break,
            }
            match StatefulSet::read(&self.place.path) {
                Ok(set) => {
                    wanted = set.replicas;
                    trouble.clear();
                }
                Err(why) if why.message != trouble => {
                    let what = format!("{}; the number of replicas stays {wanted}", why.message);
                    (self.report)("statefulset.json:", &what);
                    trouble = why.message;
                }
                Err(_) => {}
            }
        }
        for (_, child) in self.running.into_values() {
            let _ = child.await;
        }
    }

    fn follow(&mut self, wanted: u32) {
        self.running.retain(|_, (_, child)| !child.is_finished());
        for (ordinal, (stop, _)) in &self.running {
            if *ordinal >= wanted && !stop.is_cancelled() {
                (self.report)(&folder::name(*ordinal), "is not wanted any more, and leaves");
                stop.cancel();
            }
        }
        for ordinal in 0..wanted {
            if self.running.contains_key(&ordinal) {
                continue;
            }
            let stop = CancellationToken::new();
            let (quit, hurry) = (self.quit.clone(), self.hurry.clone());
            let ends = Ends { stop: stop.clone(), quit, hurry };
            let (name, report) = (folder::name(ordinal), Arc::clone(&self.report));
            match Child::supervise(&self.place, name.clone(), &self.plan, ends, report) {
                Ok(child) => {
                    self.said.remove(&ordinal);
                    self.running.insert(ordinal, (stop, child));
                }
                Err(why) if self.said.get(&ordinal) != Some(&why.message) => {
                    (self.report)(&name, &format!("cannot be started: {}", why.message));
                    self.said.insert(ordinal, why.message);
                }
                Err(_) => {}
            }
        }
    }
}
