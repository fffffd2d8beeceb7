//! Pure: lets a replica that is behind catch up.
//!
//! A leader notifies this replica when its log does not hold the entries that this replica lacks,
//! or they do not fit into one message. Then the replica asks for decided entries after its applied
//! index; if they are compacted, for a snapshot, chunk by chunk, which is written beside the state
//! and replaces it in one step; then for the entries after it. When it has all that the source had,
//! it asks to be brought into step.
//!
//! Guarantees that one chunk is under way at a time and is durable before the next is asked for, so
//! that memory is bounded and a replica that restarts continues where it was; that when the source
//! falls silent the rest comes from another replica; that state comes only from replicas that were
//! or are members, and never leads to an earlier configuration than this replica knows; and that
//! neither promise nor log is touched: only the consensus library changes those.

pub(super) mod reports;

use kvorum_protocol::status::{CatchingUp, ConfigurationId, ReplicaId};

use super::context::Context;
use super::message::{After, PeerMessage};
use super::notice::Notice;
use super::standing::Speaker;
use crate::engine::store::Store;
use crate::state::chain::Standing;
use crate::state::entry::Entry;
use crate::state::machine::{self, Source};
use crate::state::snapshot::{
    FetchRequest, FetchResponse, Header, Install, InstallWrite, Quarantine, SnapshotId,
};
use reports::{ask_to_be_in_step, close_at, tell_state, tell_state_to};

/// Ticks from one request to the next: bounds the rate to some 25 MiB a second, except for entries
/// that are written faster than that.
const PACE_TICKS: u64 = 2;
/// Ticks after which an unanswered request times out and is sent to another replica.
const PATIENCE_TICKS: u64 = 300;
/// Ticks until the next request, when the source has too many snapshots open or must not be asked.
const BUSY_TICKS: u64 = 100;
/// Ticks until the next request, when the source's state was of no use.
const USELESS_TICKS: u64 = 10;
/// Busy answers in a row after which a joiner that asks for entries copies a state instead: the
/// others are then in another configuration than it believes, and the state says which.
const BUSY_MAX: u32 = 5;
/// Ticks for which a replica in quarantine waits for a replica that had the majority's state, when
/// its configuration is over: they may all have been replaced.
const SOUND_TICKS: u64 = 500;

/// The catch-up of this replica.
pub(super) struct CatchUp {
    under_way: Option<Fetching>,
    /// Number of questions that this replica asked while it was behind.
    calls: u64,
    /// Whether this replica has started, or was behind, since it was last in step: the store may
    /// hold part of a copied state.
    may_have_copied: bool,
    /// The tick at which the quarantine began; 0 if it was there at the start.
    quarantined_since: u64,
}

/// A catch-up that is under way.
#[derive(Debug)]
struct Fetching {
    source: ReplicaId,
    /// The index to reach, as the leader reported when the catch-up began.
    target: u64,
    step: Step,
    /// The number of the request that is under way.
    call: u64,
    /// When the next request is due: at once, or when this one times out.
    due: u64,
    /// When the request was sent.
    asked: u64,
    is_waiting: bool,
    /// The number of entries that were lacking when the last ones came.
    lacking: u64,
    /// The configuration to reach, if it is not the one that this replica knows.
    newer: Option<ConfigurationId>,
    /// Busy answers in a row: the source must not be asked, or has no time.
    busy: u32,
    /// The snapshot that was copied, until the entries after it are here: the source keeps them as
    /// long as it is open.
    copied: Option<SnapshotId>,
}

/// The kind of data that is fetched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Entries after the applied index.
    Entries,
    /// The id and header of a snapshot.
    Snapshot,
    /// The chunks of that snapshot.
    Chunks,
}

/// What came of an answer: what the engine has to do before the catch-up goes on.
pub(super) enum Progress {
    /// Nothing.
    None,
    /// Entries were applied: the configuration may be another one. The source had decided up to
    /// this index.
    Applied { decided: u64 },
    /// All chunks of a state are there: it is to replace the one that is here.
    Whole,
}

impl Default for CatchUp {
    fn default() -> Self {
        Self { under_way: None, calls: 0, may_have_copied: true, quarantined_since: 0 }
    }
}

impl CatchUp {
    /// Whether a catch-up is under way.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Begins anew, because this replica's state is in quarantine: it copies another one.
    pub(super) fn quarantined<S: Store>(&mut self, cx: &mut Context<S>) {
        self.quarantined_since = cx.now;
        self.under_way = None;
        self.begin_rebuild(cx);
    }

    /// Ends the catch-up: the entries that follow are not for this replica.
    pub(super) fn end<S: Store>(&mut self, cx: &mut Context<S>) {
        self.close_copied(cx);
        self.under_way = None;
    }

    /// Begins to catch up: a leader cannot bring this replica into step before it has the state up
    /// to an index.
    pub(super) fn is_behind<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        leader: ReplicaId,
        index: u64,
    ) {
        if self.under_way.is_none() {
            let by = index - cx.store.applied();
            let of = cx.peers.name(leader).to_owned();
            cx.notice(Notice::Behind { of, by });
            self.begin_fetch(cx, leader, index, None);
        }
    }

    /// Returns the replica that this one copies from, when it is catching up.
    pub(super) fn source(&self) -> Option<ReplicaId> {
        self.under_way.as_ref().map(|fetching| fetching.source)
    }

    /// Returns this replica's progress, when it is catching up.
    pub(super) fn progress<S: Store>(&self, cx: &Context<S>) -> Option<CatchingUp> {
        let Fetching { target, step, .. } = self.under_way.as_ref()?;
        let install = cx.store.install().filter(|_| *step == Step::Chunks);
        Some(CatchingUp {
            from: cx.peers.name(self.source()?).to_owned(),
            target: *target,
            items: install.as_ref().map_or(0, |install| install.items),
            items_expected: install.as_ref().map_or(0, |install| install.header.items),
            bytes: install.as_ref().map_or(0, |install| install.bytes),
        })
    }

    fn begin_fetch<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        source: ReplicaId,
        target: u64,
        newer: Option<ConfigurationId>,
    ) {
        self.close_copied(cx);
        self.may_have_copied = true;
        self.calls += 1;
        let (call, due) = (self.calls, cx.now);
        let busy = self.under_way.as_ref().map_or(0, |fetching| fetching.busy);
        let is_refused = busy >= BUSY_MAX && cx.standing() == Standing::Joiner;
        let step = match &cx.quarantine {
            // A new joiner lacks the state that the entries changed.
            None if (cx.store.applied() > 0 && !is_refused) || cx.is_member() => Step::Entries,
            None | Some(_) if cx.store.install().is_some() => Step::Chunks,
            None | Some(_) => Step::Snapshot,
        };
        self.under_way = Some(Fetching {
            source,
            target,
            step,
            call,
            due,
            asked: due,
            is_waiting: false,
            lacking: u64::MAX,
            newer,
            busy,
            copied: None,
        });
    }

    /// Begins to copy a state that replaces the quarantined one, unless a copy is under way.
    pub(super) fn begin_rebuild<S: Store>(&mut self, cx: &mut Context<S>) {
        let Some(Quarantine { index, .. }) = cx.quarantine else { return };
        if self.under_way.is_none()
            && let Some(source) = self.next_source(cx, cx.me)
        {
            self.begin_fetch(cx, source, index, cx.standings.later());
        }
    }

    /// Begins to fetch what this replica lacks of a later configuration that was reported to it.
    fn begin_newer<S: Store>(&mut self, cx: &mut Context<S>) {
        let index = cx.store.applied() + 1;
        if self.under_way.is_none()
            && cx.quarantine.is_none()
            && let Some(later) = cx.standings.later().filter(|_| may_fetch_newer(cx))
            && let Some(source) = self.next_source(cx, cx.me)
        {
            self.begin_fetch(cx, source, index, Some(later));
        }
    }

    /// Advances the catch-up by one tick. Returns whether the next request is due.
    #[must_use]
    pub(super) fn advance<S: Store>(&mut self, cx: &mut Context<S>) -> bool {
        let has_come = |fetching: &Fetching| fetching.newer <= Some(cx.configuration.id);
        let is_in_step = cx.leader().is_some_and(|(_, is_in_step)| is_in_step)
            && self.under_way.as_ref().is_none_or(has_come);
        if is_in_step && cx.quarantine.is_none() && std::mem::take(&mut self.may_have_copied) {
            // The leader has sent the rest meanwhile, and the source need not keep anything any
            // more.
            self.close_copied(cx);
            let source = self.under_way.take().map(|fetching| fetching.source);
            tell_state_to(cx, source);
            if let Some(install) = cx.store.install() {
                if let Some(source) = source {
                    close_at(cx, source, install.snapshot);
                }
                cx.store.write_install(InstallWrite::Drop);
            }
        }
        self.begin_newer(cx);
        let Some(fetching) = &self.under_way else { return false };
        let is_linked = cx.peers.session(fetching.source).is_some();
        if cx.now < fetching.due && (is_linked || fetching.is_waiting) {
            return false;
        }
        if fetching.is_waiting || !is_linked {
            let Some(other) = self.next_source(cx, fetching.source) else { return false };
            let (target, newer) = (fetching.target, fetching.newer);
            self.begin_fetch(cx, other, target, newer);
        }
        true
    }

    /// Handles the end of a session: what was requested on it comes from another replica.
    pub(super) fn source_lost<S: Store>(&mut self, cx: &mut Context<S>, peer: ReplicaId) {
        if let Some(fetching) = self.under_way.as_mut().filter(|f| f.source == peer) {
            (fetching.is_waiting, fetching.due) = (true, cx.now);
        }
    }

    /// Returns the next connected peer after `after`, in a circle, from which state may be copied.
    fn next_source<S: Store>(&self, cx: &Context<S>, after: ReplicaId) -> Option<ReplicaId> {
        let is_source = |peer: &ReplicaId| self.is_source(cx, *peer);
        let mut sources = cx.peers.linked().filter(is_source).peekable();
        let first = sources.peek().copied();
        sources.find(|peer| *peer > after).or(first)
    }

    /// Whether state may be copied from a peer: a member, or, where this replica has to reach
    /// another configuration, any replica that was a member or is one there. In quarantine, a sound
    /// replica; after a while, when the configuration is over, any replica of a later one: those
    /// had the state from a sound majority, and a quarantined replica gives its state to no peer.
    fn is_source<S: Store>(&self, cx: &Context<S>, peer: ReplicaId) -> bool {
        let later = cx.standings.later();
        let least = match later {
            None if cx.is_member() => Speaker::Member,
            _ => Speaker::Elsewhere,
        };
        let is_known = cx.speaker(peer) >= least || !cx.rules.knows_speakers();
        let Some(quarantine) = &cx.quarantine else { return is_known };
        let is_late = cx.now >= self.quarantined_since + SOUND_TICKS;
        quarantine.sound.contains(&peer) || (is_known && is_late && later.is_some())
    }

    /// Sends the next request, for the next chunk of the copy under way if there is one. A copy of
    /// which all chunks are here must have been [taken](Self::switch) before.
    pub(super) fn ask<S: Store>(&mut self, cx: &mut Context<S>, install: Option<Install>) {
        let Some(fetching) = &mut self.under_way else { return };
        let chunk = install.and_then(|i| i.after.map(|after| (i.snapshot, after)));
        let wanted = match (fetching.step, chunk) {
            (Step::Chunks, Some((snapshot, after))) => FetchRequest::Chunk { snapshot, after },
            (Step::Snapshot, _) => FetchRequest::Snapshot,
            (Step::Chunks, None) if cx.quarantine.is_some() => {
                fetching.step = Step::Snapshot;
                FetchRequest::Snapshot
            }
            (Step::Entries | Step::Chunks, _) => {
                fetching.step = Step::Entries;
                let (configuration, from) = (cx.configuration.id, cx.store.applied() + 1);
                FetchRequest::Entries { configuration, from }
            }
        };
        self.calls += 1;
        fetching.call = self.calls;
        (fetching.asked, fetching.due) = (cx.now, cx.now + PATIENCE_TICKS);
        fetching.is_waiting = true;
        let (to, call) = (fetching.source, fetching.call);
        let message = PeerMessage::Fetch { call, wanted };
        // The result of the last answer is durable before the next request is sent.
        cx.send(to, message, After::Sync);
    }

    /// Handles an answer to a request.
    pub(super) fn fetched<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        peer: ReplicaId,
        call: u64,
        found: FetchResponse,
    ) -> Progress {
        let is_useful = match &found {
            FetchResponse::Snapshot { header, .. } => is_of_use(cx, header, Some(peer)),
            _ => true,
        };
        let is_awaited = |fetching: &&mut Fetching| {
            fetching.source == peer && fetching.call == call && fetching.is_waiting
        };
        let Some(fetching) = self.under_way.as_mut().filter(is_awaited) else {
            // The snapshot is not needed any more.
            if let FetchResponse::Snapshot { snapshot, .. } = found {
                close_at(cx, peer, snapshot);
            }
            return Progress::None;
        };
        (fetching.is_waiting, fetching.due) = (false, fetching.asked + PACE_TICKS);
        match (fetching.step, found) {
            (Step::Entries, FetchResponse::Entries { from, entries, decided }) => {
                self.apply(cx, from, &entries);
                return Progress::Applied { decided };
            }
            (Step::Entries, FetchResponse::Gone) => {
                let install = cx.store.install();
                let is_of_use = install.is_some_and(|i| is_of_use(cx, &i.header, None));
                fetching.step = if is_of_use { Step::Chunks } else { Step::Snapshot };
            }
            (Step::Snapshot, FetchResponse::Snapshot { snapshot, header }) => {
                if is_useful {
                    (fetching.step, fetching.busy) = (Step::Chunks, 0);
                    let install = Install::of(snapshot, header);
                    cx.store.write_install(InstallWrite::Begin(install));
                } else {
                    // The source is behind as well: the next request goes to another replica.
                    (fetching.is_waiting, fetching.due) = (true, cx.now + USELESS_TICKS);
                    close_at(cx, peer, snapshot);
                }
            }
            (Step::Chunks, FetchResponse::Chunk(chunk)) => {
                let is_last = chunk.next.is_none();
                cx.store.write_install(InstallWrite::Chunk(chunk));
                if is_last {
                    fetching.step = Step::Entries;
                    return Progress::Whole;
                }
            }
            (Step::Chunks, FetchResponse::Gone) => fetching.step = Step::Snapshot,
            // Another replica may have time.
            (_, FetchResponse::Busy) => {
                fetching.busy = fetching.busy.saturating_add(1);
                (fetching.is_waiting, fetching.due) = (true, cx.now + BUSY_TICKS);
            }
            (_, _) => {
                self.under_way = None;
                cx.standings.forget_later();
            }
        }
        Progress::None
    }

    /// Replaces the state by the copied one, if all chunks are there and it is of use. Returns
    /// whether it did: the configuration may be another one.
    #[must_use]
    pub(super) fn switch<S: Store>(&mut self, cx: &mut Context<S>) -> bool {
        let Some(install) = cx.store.install() else { return false };
        if !is_of_use(cx, &install.header, None) {
            if let Some(source) = self.source() {
                close_at(cx, source, install.snapshot);
            }
            cx.store.write_install(InstallWrite::Drop);
            return false;
        }
        cx.store.write_install(InstallWrite::Switch);
        cx.quarantine = None;
        self.close_copied(cx);
        if let Some(fetching) = &mut self.under_way {
            fetching.copied = Some(install.snapshot);
        }
        let (index, bytes) = (cx.store.applied(), install.bytes);
        cx.notice(Notice::Copied { index, bytes });
        true
    }

    /// Fetches what leads to a later configuration, which a peer is in and this replica has not
    /// reached.
    pub(super) fn fetch_newer<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        peer: ReplicaId,
        newer: ConfigurationId,
        index: u64,
    ) {
        cx.standings.hear(newer, cx.configuration.id);
        let is_under_way = self.under_way.as_ref().is_some_and(|f| f.newer >= Some(newer));
        if !is_under_way && cx.quarantine.is_none() && may_fetch_newer(cx) {
            let target = index.max(cx.store.applied() + 1);
            self.begin_fetch(cx, peer, target, Some(newer));
        }
    }

    /// Applies entries that came, if they follow what is applied.
    fn apply<S: Store>(&mut self, cx: &mut Context<S>, from: u64, entries: &[Entry]) {
        let applied = cx.store.applied();
        let (mut next, mut rest) = (from, entries);
        if let Some(fetching) = &mut self.under_way {
            fetching.busy = 0;
        }
        while from == applied + 1 && !rest.is_empty() {
            let (run, later) = rest.split_at(machine::run_length(rest));
            let lanes = cx.rules.lanes();
            machine::apply(&mut cx.store, lanes, Source::Peer, next, run);
            (next, rest) = (next + run.len() as u64, later);
        }
        self.close_copied(cx);
    }

    /// Continues after entries were applied, in whatever configuration the replica is now. Returns
    /// whether the next request is due at once: the last entries did not bring this replica nearer
    /// to the end.
    #[must_use]
    pub(super) fn applied<S: Store>(&mut self, cx: &mut Context<S>, decided: u64) -> bool {
        if cx.store.applied() >= decided {
            let source = self.under_way.take().map(|fetching| fetching.source);
            // The source knows nothing more. A peer that knows more will report it again.
            cx.standings.forget_later();
            match cx.standing() {
                Standing::Joiner => tell_state(cx),
                _ => ask_to_be_in_step(cx, source),
            }
            return false;
        }
        let lacking = decided - cx.store.applied();
        let Some(fetching) = &mut self.under_way else { return false };
        let before = std::mem::replace(&mut fetching.lacking, lacking);
        fetching.step == Step::Entries && before <= lacking
    }

    /// Closes the copied snapshot at the source, which holds it open.
    pub(super) fn close_copied<S: Store>(&mut self, cx: &mut Context<S>) {
        let Some(fetching) = &mut self.under_way else { return };
        if let Some(snapshot) = fetching.copied.take() {
            let source = fetching.source;
            close_at(cx, source, snapshot);
        }
    }
}

/// Whether a state may replace the one that is here: it is as of a later index, and of no
/// earlier configuration than this replica knows. In quarantine it must be sound, or of a later
/// configuration, and may be as of the same index.
fn is_of_use<S: Store>(cx: &Context<S>, header: &Header, source: Option<ReplicaId>) -> bool {
    let (applied, theirs) = (cx.store.applied(), header.chain.current.id);
    let Some(quarantine) = &cx.quarantine else {
        return header.applied > applied && theirs >= cx.configuration.id;
    };
    let is_sound = source.is_none_or(|peer| quarantine.sound.contains(&peer));
    header.applied >= applied
        && (theirs > cx.configuration.id || (is_sound && theirs == cx.configuration.id))
}

/// Whether this replica may reach a later configuration by copying from others. A member that
/// does not vote yet may have forgotten what it promised, and would vote in a later
/// configuration that it copied. A member that does not vote only because its configuration is
/// over may: otherwise it would vote.
fn may_fetch_newer<S: Store>(cx: &Context<S>) -> bool {
    match cx.standing() {
        Standing::Member => cx.consensus.is_some() || cx.is_over() && cx.may_vote(),
        Standing::Joiner => true,
        Standing::Retired => false,
    }
}

#[cfg(test)]
mod tests;
