//! Copies of running disks, and their return.
//!
//! A copy has all that its replica knew when it was taken, its secrets too. It is brought back only
//! where others know that it is outdated: every other member, of which its replica has to meet
//! some, or the marker, which lies outside of all volumes. Then it must never vote.

use kvorum_protocol::status::ReplicaId;
use kvorum_replica::engine::store::IdentityStore;
use kvorum_replica::state::start::Epoch;
use kvorum_replica::storage::memory::Memory;
use rand::RngExt;

use super::cluster::Cluster;
use super::event::Event;

impl Cluster {
    /// Takes a copy of a disk, to be brought back later.
    pub(super) fn copy(&mut self, id: ReplicaId) {
        let unsynced = self.node(id).disk.unsynced();
        let kept = self.random.random_range(0..=unsynced);
        let copy = Box::new(self.node(id).disk.copied(kept));
        let after = self.random.random_range(50_000..3_000_000);
        self.schedule(after, Event::BringBack { node: id, copy });
    }

    /// Replaces the disk by the copy.
    pub(super) fn bring_back(&mut self, id: ReplicaId, copy: &Memory) {
        let is_free = match self.scaling {
            Some(_) => self.can_lose_one(),
            None => !self.is_altered && self.nodes.iter().all(|node| !node.lost_disk),
        };
        let is_same = self.node(id).disk.identity().replica == copy.identity().replica;
        let runs = self.node(id).process.is_some();
        let is_gone = self.node(id).is_gone;
        if is_gone
            || self.is_calm
            || !is_free
            || !is_same
            || !runs
            || !self.is_known_better(id, copy)
        {
            return;
        }
        self.crash(id);
        self.tally.lost_disks += 1;
        self.tally.copied_disks += 1;
        let nonce = self.random.random();
        let disk = copy.restart(copy.unsynced(), nonce);
        disk.sync_writes(disk.unsynced());
        let node = self.node(id);
        (node.disk, node.lost_disk, node.is_copy) = (disk, true, true);
        self.steady_after_loss();
    }

    /// Whether every other member durably remembers a later state of a disk than a copy has; or the
    /// marker does.
    fn is_known_better(&self, id: ReplicaId, copy: &Memory) -> bool {
        let (incarnation, epoch) = (copy.identity().incarnation, copy.epoch());
        let members = self.checker.members().iter();
        let others = members.filter(|member| **member != id);
        let mut seen = others.map(|other| self.nodes[self.place(*other)].disk.durably_seen(id));
        let is_more = |(seen_in, seen_at): (u64, Epoch)| (seen_in, seen_at) > (incarnation, epoch);
        let by_members =
            seen.all(|seen| seen.is_some_and(|seen| is_more((seen.incarnation, seen.epoch))));
        let told = self.marker().and_then(|marker| marker.reached.get(&id)).map(|it| it.told);
        by_members || told.is_some_and(|told| is_more((told.incarnation, told.epoch)))
    }
}
