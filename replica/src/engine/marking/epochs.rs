//! Pure: reports to others how far this replica's disk has got.
//!
//! A disk that was restored from a copy knows nothing of what it promised and accepted after the
//! copy was taken. So whenever this replica promises or accepts something, or a link begins or
//! ends, it begins a new [epoch](crate::state::start::Epoch) of its disk, in the same sync as what
//! it did, and reports it to its peers. They remember it, confirm it when that is durable, and
//! reject any later start of a disk that ends before it. While a member cannot be reached, or does
//! not confirm, the epoch is reported to the cluster's [marker](crate::marker), which lies outside
//! of any volume.
//!
//! Guarantees that an epoch is reported only when it is durable here, so that a disk which loses
//! what was not synced is never taken for a copy. Under load an epoch lasts for [`EPOCH_TICKS`]: a
//! copy that was taken within the last epoch before its replica ended is not detected.

use std::collections::BTreeMap;

use kvorum_protocol::status::{ConfigurationId, ReplicaId};
use omnipaxos::ballot_leader_election::Ballot;

use crate::engine::context::Context;
use crate::engine::message::{After, Output, PeerMessage};
use crate::engine::store::{PeerRecord, Store};
use crate::marker::Mark;
use crate::state::start::Epoch;

/// The minimum duration of an epoch, in ticks: bounds the cost of epochs under load, and how much
/// is written in one.
const EPOCH_TICKS: u64 = 20;
/// Ticks between two reports to the marker: bounds the load on whatever keeps it.
const WITNESS_TICKS: u64 = 100;
/// Ticks after which a report to the marker is repeated: it may have been lost.
const RENEW_TICKS: u64 = 200;
/// Ticks within which a peer has an epoch durably, unless the peer or its disk hangs.
const KEPT_TICKS: u64 = 20;

/// The values of which any change begins a new epoch: configuration, promise, accepted index,
/// links.
type Progress = (ConfigurationId, Ballot, u64, u64);

/// The record of which of this replica's epochs a peer has durably.
#[derive(Clone, Copy, Default)]
struct Kept {
    epoch: Epoch,
    /// The tick of its last confirmation, or at which the first epoch that it lacks became durable.
    since: u64,
}

/// This replica's epochs, and how far each of them is known elsewhere.
#[derive(Default)]
pub(in crate::engine) struct Epochs {
    /// The progress at the time the current epoch began.
    progress: Option<Progress>,
    /// The tick at which the current epoch began.
    began: u64,
    /// The latest epoch that is durable here.
    durable: Epoch,
    /// The epoch that each peer has.
    kept: BTreeMap<ReplicaId, Kept>,
    /// The first epoch of the configuration.
    entered: Option<(ConfigurationId, Epoch)>,
    /// The latest epoch that the marker has.
    witnessed: Epoch,
    /// The latest configuration led by this replica that the marker has.
    marked: Option<ConfigurationId>,
    /// The tick of the last report to the marker.
    told: u64,
    /// Whether a member accepted this start, or there is no other member; before that, nothing this
    /// start does counts for any other replica.
    is_taken: bool,
    /// Whether to withdraw what this start reported to the marker.
    withdraws: bool,
}

impl Epochs {
    #[cfg(test)]
    pub(in crate::engine) fn durable(&self) -> Epoch {
        self.durable
    }

    /// Begins a new epoch if something happened that only this disk knows. To be called once a
    /// turn, before its messages are taken. `round` is the last round of reads.
    pub(in crate::engine) fn advance<S: Store>(&mut self, cx: &mut Context<S>, round: u64) {
        if cx.consensus.is_none() {
            return;
        }
        let progress = progress(cx);
        let is_due = self.progress.is_none() || cx.now >= self.began + EPOCH_TICKS;
        if is_due && self.progress != progress {
            (self.progress, self.began) = (progress, cx.now);
            cx.store.begin_epoch();
            let epoch = cx.store.epoch();
            let id = cx.configuration.id;
            self.entered = self.entered.filter(|(known, _)| *known == id);
            self.entered.get_or_insert((id, epoch));
            for to in cx.peers.linked().collect::<Vec<_>>() {
                let message = PeerMessage::Epoch { epoch };
                cx.send(to, message, After::Sync);
            }
            cx.sync(round);
        }
        self.tell_witness(cx);
    }

    /// Closes the last epoch when the replica ends: what it did since the epoch began gets one of
    /// its own, so that no copy taken meanwhile is as good as the disk. Returns the final report to
    /// the marker, sent with whatever epoch is durable by then: how far the disk got, even when
    /// every other member knows, because all of them may be restored from copies; or that the
    /// reports of a copy do not count.
    pub(in crate::engine) fn end<S: Store>(&mut self, cx: &mut Context<S>) -> Option<Mark> {
        if self.progress != progress(cx) {
            cx.store.begin_epoch();
        }
        let withdraws = self.withdraws;
        let is_news = withdraws || (cx.consensus.is_some() && self.is_taken(cx));
        is_news.then(|| Mark { withdraws, ..Mark::default() })
    }

    /// Whether a member accepted this start as the disk's, or there is no other member to do so.
    fn is_taken<S: Store>(&mut self, cx: &mut Context<S>) -> bool {
        if self.is_taken {
            return true;
        }
        let others = cx.configuration.members.iter().filter(|one| one.replica != cx.me);
        let mut others = others.map(|one| one.replica).peekable();
        self.is_taken = others.peek().is_none() || others.any(|other| cx.is_there(other));
        self.is_taken
    }

    /// Begins to withdraw what this start reported to the marker: a member remembers another disk.
    /// So the original volume is accepted when it is back.
    pub(in crate::engine) fn withdraw(&mut self) {
        self.withdraws = true;
        self.told = 0;
    }

    /// Repeats the withdrawal until the marker has it.
    pub(in crate::engine) fn advance_withdrawal<S: Store>(&mut self, cx: &mut Context<S>) {
        let Self { withdraws, told, .. } = *self;
        if withdraws && (told == 0 || cx.now >= told + WITNESS_TICKS) {
            self.told = cx.now;
            cx.push(Output::Mark(Mark { withdraws: true, ..Mark::default() }));
        }
    }

    /// Records that an epoch is durable: a sync returned that began in it, or later.
    pub(in crate::engine) fn is_durable<S: Store>(&mut self, cx: &Context<S>, epoch: Epoch) {
        let before = self.durable;
        if epoch <= before {
            return;
        }
        self.durable = epoch;
        let (others, now) = (cx.configuration.members.iter(), cx.now);
        let others = others.map(|one| one.replica).filter(|replica| *replica != cx.me);
        let kept = std::mem::take(&mut self.kept);
        let since = |kept: Kept| if kept.epoch < before { kept.since } else { now };
        let known = |id| kept.get(&id).copied().unwrap_or(Kept { since: now, ..Kept::default() });
        let still = others.map(|id| (id, known(id)));
        let still = still.map(|(id, kept)| (id, Kept { since: since(kept), ..kept }));
        self.kept = still.collect();
    }

    /// Records that a peer has an epoch of this disk durably.
    pub(in crate::engine) fn kept(&mut self, peer: ReplicaId, epoch: Epoch, now: u64) {
        let durable = self.durable;
        if let Some(kept) = self.kept.get_mut(&peer).filter(|kept| kept.epoch < epoch) {
            // No peer can have a later epoch than the durable one.
            *kept = Kept { epoch: epoch.min(durable), since: now };
        }
    }

    /// Reports to the marker how far this disk has got, while a member cannot be reached or does
    /// not confirm; a leader also reports its configuration.
    fn tell_witness<S: Store>(&mut self, cx: &mut Context<S>) {
        let Self { told, marked, .. } = *self;
        let renews = cx.now >= told + RENEW_TICKS && self.is_epoch_settled(cx);
        let lacks_witness = self.is_taken(cx) && !self.do_all_keep(cx);
        let is_witness = lacks_witness && (self.is_witness_due(cx) || renews);
        let leads = self.leads_in(cx);
        let is_news = leads.is_some() && leads > marked && cx.now >= told + WITNESS_TICKS;
        if is_witness || is_news {
            self.tell_marker(cx, None);
        }
    }

    /// Whether every other member knows how far this disk has got, or soon will.
    fn do_all_keep<S: Store>(&self, cx: &Context<S>) -> bool {
        let Self { kept, durable, .. } = self;
        let is_late = |kept: &Kept| kept.epoch < *durable && cx.now >= kept.since + KEPT_TICKS;
        let keeps = |id: ReplicaId| id == cx.me || !kept.get(&id).is_some_and(is_late);
        let mut members = cx.configuration.members.iter().map(|one| one.replica);
        members.all(|id| cx.is_there(id) && keeps(id))
    }

    /// Whether the marker lacks an epoch, and a report may be sent.
    pub(in crate::engine) fn is_witness_due<S: Store>(&self, cx: &Context<S>) -> bool {
        let Self { durable, witnessed, told, .. } = *self;
        let may_tell = told == 0 || cx.now >= told + WITNESS_TICKS;
        durable > witnessed && may_tell && self.is_epoch_settled(cx)
    }

    /// Whether the latest epoch is durable, or will not be soon. Until then no earlier one is
    /// reported to the marker: a copy that was taken in that one would be as good.
    fn is_epoch_settled<S: Store>(&self, cx: &Context<S>) -> bool {
        let Self { durable, began, .. } = *self;
        durable == cx.store.epoch() || cx.now >= began + WITNESS_TICKS
    }

    /// Returns the configuration in which this replica leads, once its beginning is durable here:
    /// by then a majority has it, which promised in it.
    fn leads_in<S: Store>(&self, cx: &Context<S>) -> Option<ConfigurationId> {
        let is_durable = |(_, epoch): &(_, Epoch)| self.durable >= *epoch;
        let (id, _) = self.entered.filter(is_durable)?;
        (cx.is_leading() && id == cx.configuration.id).then_some(id)
    }

    /// Reports to the marker how far this disk has got. With `solo`, asks it to also name this
    /// replica in that configuration.
    pub(in crate::engine) fn tell_marker<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        solo: Option<ConfigurationId>,
    ) {
        self.told = cx.now;
        let (leads, epoch) = (self.leads_in(cx), self.durable);
        cx.push(Output::Mark(Mark { solo, leads, epoch, withdraws: false }));
    }

    /// Records that the marker has a report.
    pub(in crate::engine) fn is_witnessed(&mut self, mark: Mark) {
        self.withdraws &= !mark.withdraws;
        self.witnessed = self.witnessed.max(mark.epoch);
        self.marked = self.marked.max(mark.leads);
    }

    /// Notes that the marker has lost the reports. They are repeated when the next one is due.
    pub(in crate::engine) fn forget_witness(&mut self) {
        (self.witnessed, self.marked) = (Epoch::default(), None);
    }

    /// Notes that the marker has lost the reports. They are repeated at once.
    pub(in crate::engine) fn renew_witness(&mut self) {
        self.forget_witness();
        self.told = 0;
    }
}

/// Returns the values of which any change begins a new epoch.
fn progress<S: Store>(cx: &Context<S>) -> Option<Progress> {
    let consensus = cx.consensus.as_ref()?;
    let links = cx.peers.link_changes();
    Some((cx.configuration.id, consensus.promise(), consensus.accepted(), links))
}

/// Records how far a peer's disk has got, as the peer reports, and confirms it once that is
/// durable.
pub(in crate::engine) fn told<S: Store>(
    cx: &mut Context<S>,
    peer: ReplicaId,
    epoch: Epoch,
    round: u64,
) {
    if let Some(seen) = cx.store.seen(peer)
        && seen.epoch < epoch
    {
        cx.store.remember(peer, PeerRecord { epoch, ..seen });
        let message = PeerMessage::EpochKept { epoch };
        cx.send(peer, message, After::Sync);
        cx.sync(round);
    }
}
