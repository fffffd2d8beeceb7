//! The cluster's marker in the simulated world: it is told, it judges, and it is asked at a start.

use kvorum_protocol::status::ReplicaId;
use kvorum_replica::engine::{Input, Verdict};
use kvorum_replica::marker::{Mark, Marker, Refused};
use kvorum_replica::storage::Store;
use rand::RngExt;

use super::cluster::Cluster;
use super::event::Event;

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
        let (cluster, claim) = (disk.identity().cluster, disk.claim(mark));
        let Some(scaling) = &mut self.scaling else { return };
        let marker = scaling.marker.as_ref().expect("the cluster began with it");
        let judged = marker.claim(cluster, claim, &disk.history(marker));
        let verdict = judged.map(|next| scaling.marker = Some(next));
        let refused = |why: Refused| Verdict::Refused(why.to_string());
        let verdict = verdict.map_or_else(refused, |()| Verdict::Done);
        let latest = scaling.marker.as_ref().and_then(|marker| marker.after(claim.chain));
        let over = latest.map(Verdict::Over);
        for verdict in [verdict].into_iter().chain(over) {
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
        let mark = Mark::default();
        let disk = self.node(id).disk.clone();
        let claim = disk.claim(mark);
        let Some(marker) = self.marker() else { return Ok(()) };
        let over = marker.after(claim.chain).map(Verdict::Over);
        let Err(why) = marker.check_reach(claim, &disk.history(marker)) else {
            return over.map_or(Ok(()), |verdict| self.turn(id, Input::Marked { mark, verdict }));
        };
        if !self.node(id).lost_disk {
            return Err(format!("the marker refuses {id:?}, which lost no disk: {why}"));
        }
        let verdict = Verdict::Refused(why.to_string());
        self.turn(id, Input::Marked { mark, verdict })
    }
}
