//! Pure: how others come to know how far this replica's disk has got.
//!
//! A disk that was brought back from a copy knows nothing of what it promised and accepted after
//! the copy was taken. So whenever this replica promises or accepts something, or a link begins or
//! ends, it begins a new [epoch](crate::start::Epoch) of its disk, in the same sync as what it did,
//! and tells its peers; they remember it, say so when that is durable, and take no later start of a
//! disk that ends before it. While a member cannot be told, or does not say so, the cluster's
//! [marker](crate::marker) is, which lies outside of any volume.
//!
//! Guarantees that an epoch is told only when it is durable here, so that a disk which loses what
//! was not synced is never taken for a copy. Under load an epoch lasts for [`EPOCH_TICKS`]: a copy
//! that was taken within the last one before its replica ended is not told apart.

use std::collections::BTreeMap;

use kvorum_protocol::status::{ConfigurationId, ReplicaId};
use omnipaxos::ballot_leader_election::Ballot;

use super::Engine;
use super::message::{Output, PeerMessage};
use super::solo::Written;
use crate::marker::Mark;
use crate::start::Epoch;
use crate::storage::{Seen, Store};

/// Ticks that an epoch lasts at least: bounds what they cost under load, and how much is written in
/// one.
const EPOCH_TICKS: u64 = 20;
/// Ticks between two epochs that the marker is told: bounds the load of whoever keeps it.
const WITNESS_TICKS: u64 = 100;
/// Ticks after which the marker is told once more what it was told: it may have been lost.
const RENEW_TICKS: u64 = 200;
/// Ticks within which a peer has an epoch durably, unless it hangs, or its disk does.
const KEPT_TICKS: u64 = 20;

/// What an epoch is begun for when it has changed.
type Progress = (ConfigurationId, Ballot, u64, u64);

/// What a peer is known to have durably of this replica's epochs.
#[derive(Clone, Copy, Default)]
struct Kept {
    epoch: Epoch,
    /// When it told so last, or the first epoch came that it has not.
    since: u64,
}

/// This replica's epochs, and who knows of them.
#[derive(Default)]
pub(super) struct Epochs {
    /// How things stood when the current one began.
    progress: Option<Progress>,
    /// When it began.
    began: u64,
    /// The latest one that is durable here.
    durable: Epoch,
    /// What each peer has.
    kept: BTreeMap<ReplicaId, Kept>,
    /// The first one of the configuration.
    entered: Option<(ConfigurationId, Epoch)>,
    /// The latest one that the marker has.
    witnessed: Epoch,
    /// The latest configuration that it has from this replica.
    marked: Option<ConfigurationId>,
    /// When the marker was told last.
    told: u64,
    /// A member has taken this start; before, nothing that it does counts for anybody.
    is_taken: bool,
    /// What this volume's starts told the marker is to be withdrawn.
    withdraws: bool,
}

#[cfg(test)]
impl Epochs {
    pub(super) fn durable(&self) -> Epoch {
        self.durable
    }
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
            let id = self.configuration.id;
            self.epochs.entered = self.epochs.entered.filter(|(known, _)| *known == id);
            self.epochs.entered.get_or_insert((id, epoch));
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
    /// copy taken meanwhile is as good as the disk. What the marker has to be told at last, of
    /// whatever epoch is durable then: how far the disk got, also when every other member knows,
    /// for copies may come back of all of them; or that nothing counts which a copy told.
    pub fn end_epoch(&mut self) -> Option<Mark> {
        if self.epochs.progress != self.progress() {
            self.store.begin_epoch();
        }
        let withdraws = self.epochs.withdraws;
        let is_news = withdraws || (self.consensus.is_some() && self.is_taken());
        is_news.then(|| Mark { withdraws, ..Mark::default() })
    }

    /// Whether somebody takes this start for the disk's, or nobody else has to.
    fn is_taken(&mut self) -> bool {
        if self.epochs.is_taken {
            return true;
        }
        let others = self.configuration.members.iter().filter(|one| one.replica != self.me);
        let mut others = others.map(|one| one.replica).peekable();
        self.epochs.is_taken = others.peek().is_none() || others.any(|other| self.is_there(other));
        self.epochs.is_taken
    }

    /// A member knows better of this disk: what it told the marker, in this start or before, does
    /// not count, so that the volume itself is taken when it is back.
    pub(super) fn withdraw(&mut self) {
        self.epochs.withdraws = true;
        self.epochs.told = 0;
    }

    /// Withdraws what was told, until the marker knows.
    pub(super) fn advance_withdrawal(&mut self) {
        let Epochs { withdraws, told, .. } = self.epochs;
        if withdraws && (told == 0 || self.now >= told + WITNESS_TICKS) {
            self.epochs.told = self.now;
            self.outbox.push(Output::Mark(Mark { withdraws: true, ..Mark::default() }));
        }
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
        let before = self.epochs.durable;
        if epoch <= before {
            return;
        }
        self.epochs.durable = epoch;
        let (others, now) = (self.configuration.members.iter(), self.now);
        let others = others.map(|one| one.replica).filter(|replica| *replica != self.me);
        let kept = std::mem::take(&mut self.epochs.kept);
        let since = |kept: Kept| if kept.epoch < before { kept.since } else { now };
        let known = |id| kept.get(&id).copied().unwrap_or(Kept { since: now, ..Kept::default() });
        let still = others.map(|id| (id, known(id)));
        let still = still.map(|(id, kept)| (id, Kept { since: since(kept), ..kept }));
        self.epochs.kept = still.collect();
    }

    /// A peer knows an epoch of this disk durably.
    pub(super) fn epoch_kept(&mut self, peer: ReplicaId, epoch: Epoch) {
        let (now, durable) = (self.now, self.epochs.durable);
        if let Some(kept) = self.epochs.kept.get_mut(&peer).filter(|kept| kept.epoch < epoch) {
            // More than there is, nobody can have.
            *kept = Kept { epoch: epoch.min(durable), since: now };
        }
    }

    /// Tells the marker how far this disk has got, while a member cannot be told or does not say
    /// that it knows; and a leader, of its configuration.
    fn tell_witness(&mut self) {
        let Epochs { told, marked, .. } = self.epochs;
        let renews = self.now >= told + RENEW_TICKS && self.is_epoch_settled();
        let lacks_witness = self.is_taken() && !self.do_all_keep();
        let is_witness = lacks_witness && (self.is_witness_due() || renews);
        let leads = self.leads_in();
        let is_news = leads.is_some() && leads > marked && self.now >= told + WITNESS_TICKS;
        if is_witness || is_news {
            self.tell_marker(None);
        }
    }

    /// Whether every other member knows how far this disk has got, or will at once.
    fn do_all_keep(&self) -> bool {
        let Epochs { kept, durable, .. } = &self.epochs;
        let is_late = |kept: &Kept| kept.epoch < *durable && self.now >= kept.since + KEPT_TICKS;
        let keeps = |id: ReplicaId| id == self.me || !kept.get(&id).is_some_and(is_late);
        let mut members = self.configuration.members.iter().map(|one| one.replica);
        members.all(|id| self.is_there(id) && keeps(id))
    }

    /// Whether the marker lacks an epoch, and may be told.
    pub(super) fn is_witness_due(&self) -> bool {
        let Epochs { durable, witnessed, told, .. } = self.epochs;
        let may_tell = told == 0 || self.now >= told + WITNESS_TICKS;
        durable > witnessed && may_tell && self.is_epoch_settled()
    }

    /// Whether the last epoch is durable, or will not be so soon. The marker is told of no earlier
    /// one before: that would be as good as a copy that was taken in it.
    fn is_epoch_settled(&self) -> bool {
        let Epochs { durable, began, .. } = self.epochs;
        durable == self.store.epoch() || self.now >= began + WITNESS_TICKS
    }

    /// The configuration in which this replica leads, when its beginning is durable here: it is at
    /// a majority then, which promised in it.
    fn leads_in(&self) -> Option<ConfigurationId> {
        let is_durable = |(_, epoch): &(_, Epoch)| self.epochs.durable >= *epoch;
        let (id, _) = self.epochs.entered.filter(is_durable)?;
        (self.is_leading() && id == self.configuration.id).then_some(id)
    }

    /// Tells the marker how far this disk has got; with a configuration, asks it to name this
    /// replica in that one too.
    pub(super) fn tell_marker(&mut self, solo: Option<ConfigurationId>) {
        self.epochs.told = self.now;
        let (leads, epoch) = (self.leads_in(), self.epochs.durable);
        self.outbox.push(Output::Mark(Mark { solo, leads, epoch, withdraws: false }));
    }

    /// The marker knows what it was told.
    pub(super) fn is_witnessed(&mut self, mark: Mark) {
        self.epochs.withdraws &= !mark.withdraws;
        self.epochs.witnessed = self.epochs.witnessed.max(mark.epoch);
        self.epochs.marked = self.epochs.marked.max(mark.leads);
    }

    /// The marker has forgotten what it was told, and is told again in its turn.
    pub(super) fn forget_witness(&mut self) {
        (self.epochs.witnessed, self.epochs.marked) = (Epoch::default(), None);
    }

    /// The marker has forgotten what it was told, and is told again at once.
    pub(super) fn renew_witness(&mut self) {
        self.forget_witness();
        self.epochs.told = 0;
    }

    /// A peer tells how far its disk has got.
    pub(super) fn epoch_told(&mut self, peer: ReplicaId, epoch: Epoch) {
        if let Some(seen) = self.store.seen(peer)
            && seen.epoch < epoch
        {
            self.store.remember(peer, Seen { epoch, ..seen });
            let (message, written) = (PeerMessage::EpochKept { epoch }, self.written());
            self.outbox.push(Output::Gated { to: peer, message, durable: true });
            self.outbox.push(Output::Sync(written));
        }
    }
}
