//! The cluster's marker in the simulated world: it is told, it judges, and it is asked at a start.

use kvorum_protocol::status::ReplicaId;
use kvorum_replica::engine::{Input, Verdict};
use kvorum_replica::marker::{Mark, Marker};
use kvorum_replica::storage::Store;
use kvorum_replica::storage::memory::Memory;
use rand::RngExt;

use super::cluster::Cluster;
use super::event::Event;

/// Tells the marker something of a disk; what it answers, in order.
pub fn tell(marker: &mut Marker, disk: &Memory, mark: Mark) -> Vec<Verdict> {
    let claim = disk.claim(mark);
    let judged = marker.claim(disk.identity().cluster, claim, &disk.history(marker));
    let verdict = match judged {
        Ok(next) => {
            *marker = next;
            Verdict::Done
        }
        Err(why) => Verdict::Refused(why.to_string()),
    };
    [verdict].into_iter().chain(marker.after(claim.chain).map(Verdict::Over)).collect()
}

/// What the marker says of a disk when its process starts, if that is not as it was told.
pub fn at_start(marker: &Marker, disk: &Memory) -> Option<Verdict> {
    let claim = disk.claim(Mark::default());
    match marker.check_reach(claim, &disk.history(marker)) {
        Ok(()) => marker.after(claim.chain).map(Verdict::Over),
        Err(why) => Some(Verdict::Refused(why.to_string())),
    }
}

impl Cluster {
    /// The cluster's marker, where there is one.
    pub(super) fn marker(&self) -> Option<&Marker> {
        self.scaling.as_ref()?.marker.as_ref()
    }

    /// The marker is told something.
    pub(super) fn mark(&mut self, id: ReplicaId, mark: Mark) {
        if !self.is_calm && self.random.random_bool(0.1) {
            // Whoever keeps it is out of reach.
            return;
        }
        let delay = self.random.random_range(100..20_000);
        let node = self.node(id);
        let (life, disk) = (node.life, node.disk.clone());
        let Some(scaling) = &mut self.scaling else { return };
        let marker = scaling.marker.as_mut().expect("the cluster began with it");
        for verdict in tell(marker, &disk, mark) {
            let input = Box::new(Input::Marked { mark, verdict });
            self.schedule(delay, Event::Read { node: id, life, input });
        }
    }

    /// A process starts, and asks the marker about its disk.
    pub(super) fn start_and_ask(&mut self, id: ReplicaId) -> Result<(), String> {
        self.start(id);
        self.ask_marker(id)
    }

    /// A process that starts asks the marker whether its disk is the one that it was told of.
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
