//! The cluster's marker in the simulated world: it takes claims, judges them, and is read at a
//! start.

use kvorum_protocol::status::{ClusterId, ReplicaId};
use kvorum_replica::engine::store::{IdentityStore, Store};
use kvorum_replica::engine::{Input, Verdict};
use kvorum_replica::marker::{Mark, Marker, Refused};
use kvorum_replica::storage::memory::Memory;
use rand::RngExt;

use super::cluster::Cluster;
use super::event::Event;

/// Another cluster, whose replicas have the same ids.
pub const OTHER_CLUSTER: ClusterId = ClusterId(9);

/// Sends a disk's mark to the marker, and returns the verdicts, in order.
pub fn tell(marker: &mut Marker, disk: &Memory, mark: Mark) -> Vec<Verdict> {
    let claim = disk.claim(mark);
    let verdict = match marker.claim(claim, &disk.history(marker)) {
        Ok(next) => {
            *marker = next;
            Verdict::Done
        }
        Err(why @ Refused::OtherCluster { .. }) => return vec![why.into()],
        Err(why) => why.into(),
    };
    [verdict].into_iter().chain(marker.after(claim.chain).map(Verdict::Over)).collect()
}

/// Returns the marker's verdict about a disk when its process starts, if the two do not agree.
pub fn at_start(marker: &Marker, disk: &Memory) -> Option<Verdict> {
    let claim = disk.claim(Mark::default());
    match marker.check_reach(claim, &disk.history(marker)) {
        Ok(()) => marker.after(claim.chain).map(Verdict::Over),
        Err(why) => Some(why.into()),
    }
}

impl Cluster {
    /// Whether another cluster's marker stands in the place of this one's.
    fn is_marker_foreign(&self) -> bool {
        self.scaling.as_ref().is_some_and(|scaling| self.now_us < scaling.foreign_until_us)
    }

    /// Returns the cluster's marker, where there is one.
    pub(super) fn marker(&self) -> Option<&Marker> {
        self.scaling.as_ref()?.marker.as_ref()
    }

    /// Sends a replica's mark to the marker.
    pub(super) fn mark(&mut self, id: ReplicaId, mark: Mark) {
        if !self.is_calm && self.random.random_bool(0.1) {
            // The marker is unreachable.
            return;
        }
        let delay = self.random.random_range(100..20_000);
        let node = self.node(id);
        let (life, disk) = (node.life, node.disk.clone());
        let is_foreign = self.is_marker_foreign();
        let Some(scaling) = &mut self.scaling else { return };
        let marker = scaling.marker.as_mut().expect("the cluster began with it");
        let mut foreign = Marker { cluster: OTHER_CLUSTER, ..marker.clone() };
        let marker = if is_foreign { &mut foreign } else { marker };
        for verdict in tell(marker, &disk, mark) {
            let input = Box::new(Input::Marked { mark, verdict });
            self.schedule(delay, Event::Read { node: id, life, input });
        }
    }

    /// Puts another cluster's marker in the place of this one's for a while.
    pub(super) fn replace_marker(&mut self) {
        let time_us = self.random.random_range(100_000..4_000_000);
        if let Some(scaling) = &mut self.scaling {
            scaling.foreign_until_us = self.now_us + time_us;
            self.tally.replaced_markers += 1;
        }
    }

    /// Starts a process, which asks the marker about its disk. Where the marker is another
    /// cluster's, the process does not start.
    pub(super) fn start_and_ask(&mut self, id: ReplicaId) -> Result<(), String> {
        if self.is_marker_foreign() {
            return Ok(());
        }
        self.start(id);
        self.ask_marker(id)
    }

    /// Asks the marker, for a process that starts, whether its disk is the one that it knows.
    fn ask_marker(&mut self, id: ReplicaId) -> Result<(), String> {
        let disk = self.node(id).disk.clone();
        let Some(verdict) = self.marker().and_then(|marker| at_start(marker, &disk)) else {
            return Ok(());
        };
        if let Verdict::Refused(why) = &verdict
            && !self.node(id).lost_disk
        {
            return Err(format!("the marker refuses {id:?}, which lost no disk: {why}"));
        }
        self.turn(id, Input::Marked { mark: Mark::default(), verdict })
    }
}
