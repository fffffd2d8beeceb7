//! Pure: how others come to know how far this replica's disk has got.
//!
//! A disk that was brought back from a copy knows nothing of what it promised and accepted after
//! the copy was taken. So whenever this replica promises or accepts something, or a link begins or
//! ends, it begins a new [epoch](crate::start::Epoch) of its disk, in the same sync as what it did,
//! and tells its peers; they remember it, and take no later start of a disk that ends before it. A
//! member without a link cannot be told; meanwhile the cluster's [marker](crate::marker) is, which
//! lies outside of any volume.
//!
//! Guarantees that an epoch is told only when it is durable here, so that a disk which loses what
//! was not synced is never taken for a copy. Under load an epoch lasts for [`EPOCH_TICKS`]: a copy
//! that was taken within the last one before its replica ended is not told apart.

use kvorum_protocol::status::{ConfigurationId, ReplicaId};
use omnipaxos::ballot_leader_election::Ballot;

use super::Engine;
use super::message::{Output, PeerMessage};
use super::solo::Written;
use crate::start::Epoch;
use crate::storage::{Seen, Store};

/// Ticks that an epoch lasts at least: bounds what they cost under load, and how much is written in
/// one.
const EPOCH_TICKS: u64 = 20;
/// Ticks between two epochs that the marker is told: bounds the load of whoever keeps it.
const WITNESS_TICKS: u64 = 100;

/// What an epoch is begun for when it has changed.
type Progress = (ConfigurationId, Ballot, u64, u64);

/// This replica's epochs, and who knows of them.
#[derive(Default)]
pub(super) struct Epochs {
    /// How things stood when the current one began.
    progress: Option<Progress>,
    /// When it began.
    began: u64,
    /// The latest one that is durable here.
    durable: Epoch,
    /// The latest one that the marker has.
    witnessed: Epoch,
    /// When the marker was told last.
    told: u64,
}

impl<S: Store> Engine<S> {
    /// Begins a new epoch if something happened that only this disk knows. To be called once a
    /// turn, before its messages are taken.
    pub(super) fn advance_epoch(&mut self) {
        if self.consensus.is_none() {
            return;
        }
        let progress = self.progress();
        let is_due = self.epochs.progress.is_none() || self.now >= self.epochs.began + EPOCH_TICKS;
        if is_due && self.epochs.progress != progress {
            (self.epochs.progress, self.epochs.began) = (progress, self.now);
            self.store.begin_epoch();
            let epoch = self.store.epoch();
            for to in self.outbox.peers.linked().collect::<Vec<_>>() {
                let message = PeerMessage::Epoch { epoch };
                self.outbox.push(Output::Gated { to, message, durable: true });
            }
            let written = self.written();
            self.outbox.push(Output::Sync(written));
        }
        self.tell_witness();
    }

    fn progress(&self) -> Option<Progress> {
        let consensus = self.consensus.as_ref()?;
        let links = self.outbox.peers.link_changes();
        Some((self.configuration.id, consensus.promise(), consensus.accepted(), links))
    }

    /// The replica ends: what it did since the last epoch began gets one of its own, so that no
    /// copy taken meanwhile is as good as the disk. Whether the marker has to be told of it, as no
    /// other member, or not every one, can be.
    pub fn end_epoch(&mut self) -> bool {
        if self.epochs.progress != self.progress() {
            self.store.begin_epoch();
        }
        let is_alone = self.configuration.members.len() == 1;
        self.consensus.is_some() && (is_alone || !self.are_linked())
    }

    /// What a sync that begins after this turn covers.
    pub(super) fn written(&mut self) -> Written {
        let solo = self.consensus.as_mut().and_then(super::Consensus::solo);
        Written {
            configuration: self.configuration.id,
            index: solo.map_or(0, |solo| solo.accepted()),
            round: self.reads.round(),
            epoch: self.store.epoch(),
        }
    }

    /// A sync returned that began in an epoch, or later.
    pub(super) fn epoch_is_durable(&mut self, epoch: Epoch) {
        self.epochs.durable = self.epochs.durable.max(epoch);
    }

    /// Tells the marker how far this disk has got, while a member cannot be told.
    fn tell_witness(&mut self) {
        if !self.are_linked() && self.is_witness_due() {
            self.tell_marker(None);
        }
    }

    /// Whether every other member has a link to this replica.
    fn are_linked(&self) -> bool {
        self.configuration.members.iter().all(|one| self.is_there(one.replica))
    }

    /// Whether the marker lacks an epoch, and may be told.
    pub(super) fn is_witness_due(&self) -> bool {
        let Epochs { durable, witnessed, told, .. } = self.epochs;
        durable > witnessed && (told == 0 || self.now >= told + WITNESS_TICKS)
    }

    /// Tells the marker how far this disk has got; with a configuration, asks it to name this
    /// replica in that one too.
    pub(super) fn tell_marker(&mut self, configuration: Option<ConfigurationId>) {
        self.epochs.told = self.now;
        let epoch = self.epochs.durable;
        self.outbox.push(Output::Mark { configuration, epoch });
    }

    /// The marker has an epoch of this disk.
    pub(super) fn is_witnessed(&mut self, epoch: Epoch) {
        self.epochs.witnessed = self.epochs.witnessed.max(epoch);
    }

    /// A peer tells how far its disk has got.
    pub(super) fn epoch_told(&mut self, peer: ReplicaId, epoch: Epoch) {
        if let Some(seen) = self.store.seen(peer)
            && seen.epoch < epoch
        {
            self.store.remember(peer, Seen { epoch, ..seen });
        }
    }
}
