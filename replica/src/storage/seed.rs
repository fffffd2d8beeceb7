//! A folder that begins with a given state, for a new cluster that goes on where another one was.
//!
//! Guarantees that a replica which starts with it has that state as of its index, an empty log
//! after it, and nothing promised; indexes go on, so that revisions stay what they were. All
//! members of the new cluster begin with the same state: one that began empty would decide what
//! the others hold differently.

use std::path::Path;

use super::database::OnFatal;
use super::log::{LogDisk, LogWrite};
use super::open::{OpenError, Owner};
use super::segments::LogLimits;
use super::{Database, Store};
use crate::entry::Entry;
use crate::snapshot::{Chunk, Header, Install, InstallWrite, Item, SnapshotId};
use crate::state_machine::{self, LaneMemory, Source, Table};
use crate::version::Version;

/// A folder that is being made.
pub struct Seed {
    database: Database,
}

impl Seed {
    /// Begins a folder for a replica with a state as of an index.
    pub fn begin(
        folder: &Path,
        owner: &Owner,
        nonce: u64,
        index: u64,
        on_fatal: OnFatal,
    ) -> Result<Self, OpenError> {
        let mut database = Database::open(folder, owner, nonce, LogLimits::default(), on_fatal)?;
        let chain = database.chain();
        let header = Header { applied: index, items: 0, version: Version::OLDEST, chain };
        let install = Install::of(SnapshotId { nonce, number: 0 }, header);
        database.write_install(InstallWrite::Begin(install));
        Ok(Self { database })
    }

    /// Adds to the state.
    pub fn add(&mut self, items: Vec<Item>) {
        self.database.write_install(InstallWrite::Chunk(Chunk { items, next: None }));
    }

    /// Ends it, with the entries after the state applied to it: everything is on disk.
    pub fn end(mut self, tail: &[Entry]) {
        let database = &mut self.database;
        database.write_install(InstallWrite::Switch);
        let first = database.applied() + 1;
        if !tail.is_empty() {
            let lanes = LaneMemory::default();
            state_machine::apply(database, lanes, Source::Peer, first, tail);
        }
        let position = usize::try_from(database.applied()).expect("indexes fit the address space");
        let mut log = self.database.log(self.database.chain().current.id);
        log.0.write(vec![LogWrite::Compact(position), LogWrite::Decided(position)]);
        self.database.sync(self.database.durable());
        self.database.close();
    }
}
