//! The session records of lanes: in memory those in use, on the disk all.
//!
//! Whether a lane is forgotten is a matter of the index ([`machine`](crate::state::machine)), so a
//! record may stay on the disk longer. Guarantees that a record in memory is the one on the disk,
//! that the memory is bounded, and that forgotten records are removed after a while, a few at a
//! time.

use std::collections::HashMap;

use kvorum_protocol::data::LaneId;
use kvorum_protocol::limits::SESSION_ENTRIES;
use rocksdb::WriteBatch;

use super::{Inner, keys};
use crate::state::machine::Lane;

/// Most records in memory, of some 150 bytes each.
const LANES_MAX: usize = 16_384;
/// Most records that one step of a sweep looks at: about a millisecond.
const STEP_RECORDS: usize = 1024;
/// Entries between two steps of a sweep, and between two sweeps.
const STEP_ENTRIES: u64 = 256;
const SWEEP_ENTRIES: u64 = SESSION_ENTRIES / 2;

/// The session records in memory, and how far the sweep of those on the disk is.
#[derive(Clone, Default)]
pub struct Lanes {
    written: HashMap<LaneId, Lane>,
    /// The index from which on the sweep goes on, and the key from which on it looks.
    sweeps_at: u64,
    next: Option<Vec<u8>>,
}

impl Lanes {
    /// Returns a record, if it is in memory.
    pub fn get(&self, id: LaneId) -> Option<Lane> {
        self.written.get(&id).copied()
    }

    /// Records what is written to the disk.
    pub fn insert(&mut self, id: LaneId, lane: Lane) {
        if self.written.len() >= LANES_MAX && !self.written.contains_key(&id) {
            self.written.clear();
        }
        self.written.insert(id, lane);
    }

    /// Removes the records of some lanes that are forgotten, if a step of the sweep is due. Must
    /// come before new records in a batch: a lane may be used again.
    pub(super) fn sweep(
        &mut self,
        inner: &Inner,
        batch: &mut WriteBatch,
        applied: u64,
        forgotten: u64,
    ) {
        if forgotten == 0 || applied < self.sweeps_at {
            return;
        }
        let sessions = inner.generation().sessions();
        let first = self.next.take().unwrap_or_else(|| keys::LANES.to_vec());
        let mut looked_at = 0;
        inner.each(sessions, &first, Some(keys::LANES_END), |key, record| {
            if looked_at == STEP_RECORDS {
                self.next = Some(key.to_vec());
                return false;
            }
            looked_at += 1;
            let (id, lane) = inner.lane_in(sessions, key, record);
            if lane.last_use <= forgotten {
                batch.delete_cf(inner.family(sessions), key);
                self.written.remove(&id);
            }
            true
        });
        let is_over = self.next.is_none();
        self.sweeps_at = applied + if is_over { SWEEP_ENTRIES } else { STEP_ENTRIES };
    }

    /// Removes the records of another kind that an older program wrote.
    pub(super) fn drop_uses(inner: &Inner) {
        let sessions = inner.generation().sessions();
        let mut has_some = false;
        inner.each(sessions, keys::LANE_USES, Some(keys::LANE_USES_END), |_, _| {
            has_some = true;
            false
        });
        if has_some {
            let mut batch = WriteBatch::default();
            let (first, end) = (keys::LANE_USES.to_vec(), keys::LANE_USES_END.to_vec());
            batch.delete_range_cf(inner.family(sessions), first, end);
            inner.write(batch);
        }
    }
}

impl Inner {
    /// Decodes a lane's record.
    pub(super) fn lane_in(&self, sessions: &str, key: &[u8], record: &[u8]) -> (LaneId, Lane) {
        let lane = self.decode(sessions, key, record);
        let Some(id) = keys::lane_of(key) else {
            self.damaged(&format!("{} is no lane", key.escape_ascii()));
        };
        (id, lane)
    }
}

#[cfg(test)]
mod tests {
    use kvorum_protocol::data::{ClientId, Outcome};

    use super::*;
    use crate::engine::store::CopyStore;
    use crate::state::machine::{Changes, Table};
    use crate::state::snapshot::{Cursor, FetchRequest, FetchResponse, Item, Snapshots};
    use crate::storage::Database;
    use crate::storage::rocks::log::tests::open;

    fn lane(index: u64) -> (LaneId, Lane) {
        let id = LaneId { client: ClientId(u128::from(index)), number: 0 };
        (id, Lane { sequence: 1, outcome: Outcome::Put { revision: index }, last_use: index })
    }

    fn commit(database: &mut Database, lanes: impl Iterator<Item = u64>, at: u64, forgotten: u64) {
        let lanes = lanes.map(lane).collect();
        database.commit(Changes { lanes, applied: at, forgotten, ..Changes::default() });
    }

    fn on_disk(database: &Database, first: &[u8], end: &[u8]) -> usize {
        let (inner, mut count) = (&database.inner, 0);
        inner.each(inner.generation().sessions(), first, Some(end), |_, _| {
            count += 1;
            true
        });
        count
    }

    /// Returns the lanes that one who copies the state gets.
    fn copied(database: &Database) -> usize {
        let mut snapshots = database.snapshots();
        let opened = snapshots.read(&FetchRequest::Snapshot, 1);
        let Some(FetchResponse::Snapshot { snapshot, .. }) = opened else { panic!("{opened:?}") };
        let (mut after, mut lanes) = (Cursor::Start, 0);
        loop {
            let found = snapshots.read(&FetchRequest::Chunk { snapshot, after }, 1);
            let Some(FetchResponse::Chunk(chunk)) = found else { panic!("{found:?}") };
            lanes += chunk.items.iter().filter(|item| matches!(item, Item::Lane(..))).count();
            match chunk.next {
                Some(next) => after = next,
                None => return lanes,
            }
        }
    }

    #[test]
    fn forgotten_lanes_are_copied_by_nobody_and_removed_a_few_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let mut database = open(folder.path(), 1);
        commit(&mut database, 1..3001, 3000, 0);
        let lanes = |database: &Database| on_disk(database, keys::LANES, keys::LANES_END);
        assert_eq!((lanes(&database), copied(&database)), (3000, 3000));
        let mut at = 3001;
        commit(&mut database, std::iter::empty(), at, 2000);
        assert_eq!((lanes(&database), copied(&database)), (3000 - STEP_RECORDS, 1000));
        while lanes(&database) > 1000 {
            at += STEP_ENTRIES;
            commit(&mut database, std::iter::empty(), at, 2000);
            assert!(at < 3001 + 10 * STEP_ENTRIES, "{}", lanes(&database));
        }
        assert_eq!(copied(&database), 1000);
        at += STEP_ENTRIES;
        commit(&mut database, std::iter::empty(), at, 2000);
        assert_eq!(database.lane(lane(2001).0), Some(lane(2001).1));
        assert_eq!(database.lane(lane(2000).0), None);
        // The next sweep is much later.
        commit(&mut database, std::iter::empty(), at + STEP_ENTRIES, 2500);
        assert_eq!((lanes(&database), copied(&database)), (1000, 500));
        commit(&mut database, std::iter::empty(), at + SWEEP_ENTRIES, 2500);
        assert_eq!(lanes(&database), 500);
    }

    #[test]
    fn a_forgotten_lane_that_is_used_as_the_sweep_passes_stays() {
        let folder = tempfile::tempdir().unwrap();
        let mut database = open(folder.path(), 1);
        commit(&mut database, 1..3, 2, 0);
        let (id, used) = (lane(1).0, lane(9).1);
        let lanes = [(id, used)].into();
        database.commit(Changes { lanes, applied: 9, forgotten: 2, ..Changes::default() });
        assert_eq!((database.lane(id), database.lane(lane(2).0)), (Some(used), None));
        database.lanes = Lanes::default();
        assert_eq!(database.lane(id), Some(used), "on the disk too");
    }

    #[test]
    fn the_memory_is_bounded_and_what_it_lacks_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let mut database = open(folder.path(), 1);
        let many = LANES_MAX as u64 + 10;
        commit(&mut database, 1..many, many, 0);
        assert!(database.lanes.written.len() <= LANES_MAX);
        assert_eq!(database.lane(lane(1).0), Some(lane(1).1));
    }

    #[test]
    fn records_of_an_older_program_are_removed_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let database = open(folder.path(), 1);
        let sessions = database.inner.family(database.inner.generation().sessions());
        let mut batch = WriteBatch::default();
        for index in 0_u64..9 {
            let key = [keys::LANE_USES, &index.to_be_bytes()].concat();
            crate::storage::rocks::put(&mut batch, sessions, &key, &lane(index).0);
        }
        database.inner.write(batch);
        let uses = |database: &Database| on_disk(database, keys::LANE_USES, keys::LANE_USES_END);
        assert_eq!(uses(&database), 9);
        drop(database);
        assert_eq!(uses(&open(folder.path(), 2)), 0);
    }
}
