//! Stores a database's own starts, and those of its peers.
//!
//! Guarantees that each start is on the disk before it is announced, with the epoch in which the
//! previous one ended; and that records of an earlier program, which knew a start by its nonce, are
//! understood. Does not know which replicas may vote.

use kvorum_protocol::status::ReplicaId;
use rocksdb::WriteBatch;
use serde::{Deserialize, Serialize};

use super::keys;
use super::{Inner, put};
use crate::engine::store::{PeerRecord, Store, SyncStore};
use crate::marker::{Claim, Mark};
use crate::state::machine::Table;
use crate::state::start::{Epoch, Secret, Start};
use crate::storage::Database;

/// One start, as it is stored on the disk.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct StartRecord {
    pub(super) secret: Secret,
    /// The epoch in which the writes of the previous start ended.
    pub(super) began: Epoch,
}

/// The record of a peer by earlier programs, with the nonce of its start.
#[derive(Serialize, Deserialize)]
struct SeenByNonce {
    incarnation: u64,
    nonce: u64,
}

impl Inner {
    /// Reads one of this replica's starts.
    pub(super) fn start(&self, incarnation: u64) -> Option<Start> {
        let read = |incarnation| self.get(keys::META, &keys::start(incarnation));
        let next: Option<StartRecord> = incarnation.checked_add(1).and_then(read);
        let until = next.map(|next| next.began);
        if let Some(StartRecord { secret, began }) = read(incarnation) {
            return Some(Start { secret, began, until });
        }
        // No epoch of this start was ever reported.
        let nonce: u64 = self.get(keys::META, &keys::nonce(incarnation))?;
        let (secret, began) = (Secret::of_nonce(nonce), Epoch::default());
        Some(Start { secret, began, until: until.or(Some(began)) })
    }

    /// Reads the record of a peer.
    pub(super) fn seen(&self, peer: ReplicaId) -> Option<PeerRecord> {
        if let Some(seen) = self.get(keys::META, &keys::met(peer)) {
            return Some(seen);
        }
        let SeenByNonce { incarnation, nonce } = self.get(keys::META, &keys::peer(peer))?;
        let (key, epoch) = (Secret::of_nonce(nonce).key(), Epoch::default());
        Some(PeerRecord { incarnation, key, epoch })
    }

    pub(super) fn remember(&self, peer: ReplicaId, seen: PeerRecord) {
        let mut batch = WriteBatch::default();
        let meta = self.family(keys::META);
        put(&mut batch, meta, &keys::met(peer), &seen);
        batch.delete_cf(meta, keys::peer(peer));
        self.write(batch);
    }
}

impl Database {
    /// Gives a replica whose id is retired a new one. It keeps its state, but not its log: nothing
    /// was promised under the new id. Durable when it returns.
    pub fn rejoin(&mut self, replica: ReplicaId, nonce: u64) {
        // The log that leads to it is not its own any more.
        self.inner.persist();
        self.identity.replica = replica;
        (self.identity.incarnation, self.identity.nonce) = (1, nonce);
        let (mut batch, meta) = (WriteBatch::default(), self.inner.family(keys::META));
        put(&mut batch, meta, keys::IDENTITY, &self.identity);
        put(&mut batch, meta, &keys::nonce(1), &nonce);
        batch.delete_range_cf(meta, keys::STARTS.0, keys::STARTS.1);
        let first = StartRecord { secret: Secret::new(rand::random()), began: self.epoch };
        put(&mut batch, meta, &keys::start(1), &first);
        self.since = self.applied();
        put(&mut batch, meta, keys::SINCE, &self.since);
        self.inner.write(batch);
        self.sync(self.durable());
    }

    /// Returns the last claim of a replica that has ended, with the epoch that its disk is in.
    #[must_use]
    pub fn last_claim(&self, mark: Mark) -> Claim {
        let epoch = self.inner.get(keys::META, keys::EPOCH).unwrap_or(self.epoch);
        self.claim(Mark { epoch, ..mark })
    }

    /// Begins the next epoch.
    pub(super) fn write_epoch(&mut self) {
        self.epoch = self.epoch.next();
        let mut batch = WriteBatch::default();
        put(&mut batch, self.inner.family(keys::META), keys::EPOCH, &self.epoch);
        self.inner.write(batch);
    }
}
