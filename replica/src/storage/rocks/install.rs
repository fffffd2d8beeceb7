//! Copies state into a database, beside its current state.
//!
//! The copy goes to column families of its own, chunk by chunk, each with the position of the next
//! one; when the copy is complete, one write makes it the state. Guarantees that a crash leaves the
//! old state or the new one, and the copy so far.

use rocksdb::WriteBatch;

use super::keys::{self, Generation};
use super::lanes::Lanes;
use super::put;
use crate::state::snapshot::{Chunk, Header, Install, InstallWrite, Item};
use crate::storage::Database;

impl Database {
    /// Takes a step of a copy, in one write.
    pub(super) fn install_step(&mut self, step: InstallWrite) {
        let mut batch = WriteBatch::default();
        let aside = self.inner.generation().next();
        let meta = self.inner.family(keys::META);
        match step {
            InstallWrite::Begin(install) => {
                self.wipe(&mut batch, aside);
                put(&mut batch, meta, keys::INSTALL, &install);
                self.inner.write(batch);
            }
            InstallWrite::Chunk(chunk) => {
                let install = self.install_under_way().after(&chunk);
                self.put_chunk(&mut batch, aside, chunk);
                put(&mut batch, meta, keys::INSTALL, &install);
                self.inner.write(batch);
            }
            InstallWrite::Switch => self.switch(batch, aside),
            InstallWrite::Drop => self.drop_install(batch, aside),
            InstallWrite::Quarantine(quarantine) => {
                put(&mut batch, meta, keys::QUARANTINE, &quarantine);
                self.drop_install(batch, aside);
            }
        }
    }

    fn drop_install(&self, mut batch: WriteBatch, aside: Generation) {
        self.wipe(&mut batch, aside);
        batch.delete_cf(self.inner.family(keys::META), keys::INSTALL);
        self.inner.write(batch);
        *self.inner.to_drop() = Some(aside);
    }

    fn install_under_way(&self) -> Install {
        let install = self.inner.get(keys::META, keys::INSTALL);
        install.expect("a step of copying comes after its beginning")
    }

    fn put_chunk(&self, batch: &mut WriteBatch, aside: Generation, chunk: Chunk) {
        let (lanes, keys) = (aside.sessions(), aside.keys());
        let (lanes, keys) = (self.inner.family(lanes), self.inner.family(keys));
        for item in chunk.items {
            match item {
                Item::Lane(id, lane) => put(batch, lanes, &keys::lane(id), &lane),
                Item::Accounts(accounts) => put(batch, lanes, keys::ACCOUNTS, &accounts),
                Item::Key(key, record) => {
                    put(batch, keys, &key, &(record.revision, &record.value));
                }
            }
        }
    }

    fn switch(&mut self, mut batch: WriteBatch, aside: Generation) {
        let install = self.install_under_way();
        let Header { applied, version, chain, .. } = &install.header;
        let applied = *applied;
        // The chain that a joiner of the same configuration was given is replaced too.
        let is_next = chain.current.id >= self.inner.chain().current.id;
        let meta = self.inner.family(keys::META);
        put(&mut batch, meta, keys::GENERATION, &aside.0);
        put(&mut batch, meta, keys::APPLIED, &applied);
        put(&mut batch, meta, keys::SINCE, &applied);
        put(&mut batch, meta, keys::VERSION, version);
        if is_next {
            self.inner.put_chain(&mut batch, chain);
        }
        batch.delete_cf(meta, keys::INSTALL);
        batch.delete_cf(meta, keys::QUARANTINE);
        let (first, end) = (0u64.to_be_bytes(), (applied + 1).to_be_bytes());
        batch.delete_range_cf(self.inner.family(keys::VOID), first, end);
        self.wipe(&mut batch, aside.next());
        self.inner.write(batch);
        self.inner.set_generation(aside);
        *self.inner.to_drop() = Some(aside.next());
        self.set_copied(&install.header);
        self.read_accounts();
        self.lanes = Lanes::default();
        if is_next {
            self.inner.enter(install.header.chain);
        }
    }

    /// Sets the applied index, `since` and the version to those of a copied state.
    pub(super) fn set_copied(&mut self, header: &Header) {
        (self.applied, self.since) = (header.applied, header.applied);
        self.version = header.version;
        self.inner.is_persisted(header.applied);
    }

    /// Removes all records of a generation. Its files may be removed after a sync of that, and
    /// before anything new is written to them: a chunk is requested only after a sync.
    fn wipe(&self, batch: &mut WriteBatch, generation: Generation) {
        for family in [generation.keys(), generation.sessions()] {
            batch.delete_range_cf(self.inner.family(family), Vec::new(), keys::end());
        }
    }
}
