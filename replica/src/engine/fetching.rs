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

use kvorum_protocol::status::{CatchingUp, ConfigurationId, ReplicaId};

use super::Engine;
use super::consensus::Consensus;
use super::message::{Output, PeerMessage};
use super::notice::Notice;
use super::standing::Speaker;
use crate::chain::Standing;
use crate::entry::Entry;
use crate::snapshot::{Found, Header, Install, InstallWrite, Quarantine, SnapshotId, Wanted};
use crate::state_machine::{self, Source};
use crate::storage::Store;

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

/// A catch-up that is under way.
#[derive(Debug)]
pub(super) struct Fetching {
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

impl<S: Store> Engine<S> {
    /// Begins to catch up: a leader cannot bring this replica into step before it has the state up
    /// to an index.
    pub(super) fn is_behind(&mut self, leader: ReplicaId, index: u64) {
        if self.fetching.is_none() {
            let by = index - self.cx.store.applied();
            let of = self.cx.peers.name(leader).to_owned();
            self.cx.notice(Notice::Behind { of, by });
            self.begin_fetch(leader, index, None);
        }
    }

    /// Returns the name of the replica that this one copies from, when it is catching up.
    pub(super) fn fetches_from(&self) -> Option<&str> {
        self.fetching.as_ref().map(|fetching| self.cx.peers.name(fetching.source))
    }

    /// Returns this replica's progress, when it is catching up.
    pub(super) fn catching_up(&self) -> Option<CatchingUp> {
        let Fetching { target, step, .. } = self.fetching.as_ref()?;
        let install = self.cx.store.install().filter(|_| *step == Step::Chunks);
        Some(CatchingUp {
            from: self.fetches_from()?.to_owned(),
            target: *target,
            items: install.as_ref().map_or(0, |install| install.items),
            items_expected: install.as_ref().map_or(0, |install| install.header.items),
            bytes: install.as_ref().map_or(0, |install| install.bytes),
        })
    }

    fn begin_fetch(&mut self, source: ReplicaId, target: u64, newer: Option<ConfigurationId>) {
        self.close_copied();
        self.may_have_copied = true;
        self.fetches += 1;
        let (call, due) = (self.fetches, self.cx.now);
        let busy = self.fetching.as_ref().map_or(0, |fetching| fetching.busy);
        let is_refused = busy >= BUSY_MAX && self.cx.standing() == Standing::Joiner;
        let step = match &self.cx.quarantine {
            // A new joiner lacks the state that the entries changed.
            None if (self.cx.store.applied() > 0 && !is_refused) || self.cx.is_member() => {
                Step::Entries
            }
            None | Some(_) if self.cx.store.install().is_some() => Step::Chunks,
            None | Some(_) => Step::Snapshot,
        };
        self.fetching = Some(Fetching {
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
    pub(super) fn begin_rebuild(&mut self) {
        let Some(Quarantine { index, .. }) = self.cx.quarantine else { return };
        if self.fetching.is_none()
            && let Some(source) = self.next_source(self.cx.me)
        {
            self.begin_fetch(source, index, self.cx.standings.later());
        }
    }

    /// Begins to fetch what this replica lacks of a later configuration that was reported to it.
    fn begin_newer(&mut self) {
        let index = self.cx.store.applied() + 1;
        if self.fetching.is_none()
            && self.cx.quarantine.is_none()
            && let Some(later) = self.cx.standings.later().filter(|_| self.may_fetch_newer())
            && let Some(source) = self.next_source(self.cx.me)
        {
            self.begin_fetch(source, index, Some(later));
        }
    }

    /// Sends the next request, if it is due. To be called once a tick.
    pub(super) fn advance_fetch(&mut self) {
        let has_come = |fetching: &Fetching| fetching.newer <= Some(self.cx.configuration.id);
        let is_in_step = self.cx.leader().is_some_and(|(_, is_in_step)| is_in_step)
            && self.fetching.as_ref().is_none_or(has_come);
        if is_in_step && self.cx.quarantine.is_none() && std::mem::take(&mut self.may_have_copied) {
            // The leader has sent the rest meanwhile, and the source need not keep anything any
            // more.
            self.close_copied();
            let source = self.fetching.take().map(|fetching| fetching.source);
            self.tell_state_to(source);
            if let Some(install) = self.cx.store.install() {
                if let Some(source) = source {
                    self.close_at(source, install.snapshot);
                }
                self.cx.store.write_install(InstallWrite::Drop);
            }
        }
        self.begin_newer();
        let Some(fetching) = &self.fetching else { return };
        let is_linked = self.cx.peers.session(fetching.source).is_some();
        if self.cx.now < fetching.due && (is_linked || fetching.is_waiting) {
            return;
        }
        if fetching.is_waiting || !is_linked {
            let Some(other) = self.next_source(fetching.source) else { return };
            let (target, newer) = (fetching.target, fetching.newer);
            self.begin_fetch(other, target, newer);
        }
        self.ask();
    }

    /// Handles the end of a session: what was requested on it comes from another replica.
    pub(super) fn source_lost(&mut self, peer: ReplicaId) {
        if let Some(fetching) = self.fetching.as_mut().filter(|f| f.source == peer) {
            (fetching.is_waiting, fetching.due) = (true, self.cx.now);
        }
    }

    /// Returns the next connected peer after `after`, in a circle, from which state may be copied.
    fn next_source(&self, after: ReplicaId) -> Option<ReplicaId> {
        let is_source = |peer: &ReplicaId| self.is_source(*peer);
        let mut sources = self.cx.peers.linked().filter(is_source).peekable();
        let first = sources.peek().copied();
        sources.find(|peer| *peer > after).or(first)
    }

    /// Whether state may be copied from a peer: a member, or, where this replica has to reach
    /// another configuration, any replica that was a member or is one there. In quarantine, a sound
    /// replica; after a while, when the configuration is over, any replica of a later one: those
    /// had the state from a sound majority, and a quarantined replica gives its state to no peer.
    fn is_source(&self, peer: ReplicaId) -> bool {
        let later = self.cx.standings.later();
        let least = match later {
            None if self.cx.is_member() => Speaker::Member,
            _ => Speaker::Elsewhere,
        };
        let is_known = self.cx.speaker(peer) >= least || !self.cx.rules.knows_speakers;
        let Some(quarantine) = &self.cx.quarantine else { return is_known };
        let is_late = self.cx.now >= self.quarantined_since + SOUND_TICKS;
        quarantine.sound.contains(&peer) || (is_known && is_late && later.is_some())
    }

    /// Whether a state may replace the one that is here: it is as of a later index, and of no
    /// earlier configuration than this replica knows. In quarantine it must be sound, or of a later
    /// configuration, and may be as of the same index.
    fn is_of_use(&self, header: &Header, source: Option<ReplicaId>) -> bool {
        let (applied, theirs) = (self.cx.store.applied(), header.chain.current.id);
        let Some(quarantine) = &self.cx.quarantine else {
            return header.applied > applied && theirs >= self.cx.configuration.id;
        };
        let is_sound = source.is_none_or(|peer| quarantine.sound.contains(&peer));
        header.applied >= applied
            && (theirs > self.cx.configuration.id
                || (is_sound && theirs == self.cx.configuration.id))
    }

    fn ask(&mut self) {
        let install = self.cx.store.install();
        let is_whole = install.as_ref().is_some_and(|install| install.after.is_none());
        if is_whole {
            // All chunks were here when this replica stopped.
            self.switch();
        }
        let Some(fetching) = &mut self.fetching else { return };
        let chunk = install.and_then(|i| i.after.map(|after| (i.snapshot, after)));
        let wanted = match (fetching.step, chunk) {
            (Step::Chunks, Some((snapshot, after))) => Wanted::Chunk { snapshot, after },
            (Step::Snapshot, _) => Wanted::Snapshot,
            (Step::Chunks, None) if self.cx.quarantine.is_some() => {
                fetching.step = Step::Snapshot;
                Wanted::Snapshot
            }
            (Step::Entries | Step::Chunks, _) => {
                fetching.step = Step::Entries;
                let (configuration, from) = (self.cx.configuration.id, self.cx.store.applied() + 1);
                Wanted::Entries { configuration, from }
            }
        };
        self.fetches += 1;
        fetching.call = self.fetches;
        (fetching.asked, fetching.due) = (self.cx.now, self.cx.now + PATIENCE_TICKS);
        fetching.is_waiting = true;
        let (to, call) = (fetching.source, fetching.call);
        let message = PeerMessage::Fetch { call, wanted };
        // The result of the last answer is durable before the next request is sent.
        self.cx.push(Output::Gated { to, message, durable: true });
    }

    /// Handles an answer to a request.
    pub(super) fn fetched(&mut self, peer: ReplicaId, call: u64, found: Found) {
        let is_of_use = match &found {
            Found::Snapshot { header, .. } => self.is_of_use(header, Some(peer)),
            _ => true,
        };
        let is_awaited = |fetching: &&mut Fetching| {
            fetching.source == peer && fetching.call == call && fetching.is_waiting
        };
        let Some(fetching) = self.fetching.as_mut().filter(is_awaited) else {
            // The snapshot is not needed any more.
            if let Found::Snapshot { snapshot, .. } = found {
                self.close_at(peer, snapshot);
            }
            return;
        };
        (fetching.is_waiting, fetching.due) = (false, fetching.asked + PACE_TICKS);
        match (fetching.step, found) {
            (Step::Entries, Found::Entries { from, entries, decided }) => {
                self.entries_came(from, &entries, decided);
            }
            (Step::Entries, Found::Gone) => {
                let install = self.cx.store.install();
                let is_of_use = install.is_some_and(|i| self.is_of_use(&i.header, None));
                self.fetching.as_mut().expect("it is under way").step =
                    if is_of_use { Step::Chunks } else { Step::Snapshot };
            }
            (Step::Snapshot, Found::Snapshot { snapshot, header }) => {
                if is_of_use {
                    (fetching.step, fetching.busy) = (Step::Chunks, 0);
                    let install = Install::of(snapshot, header);
                    self.cx.store.write_install(InstallWrite::Begin(install));
                } else {
                    // The source is behind as well: the next request goes to another replica.
                    (fetching.is_waiting, fetching.due) = (true, self.cx.now + USELESS_TICKS);
                    self.close_at(peer, snapshot);
                }
            }
            (Step::Chunks, Found::Chunk(chunk)) => {
                let is_last = chunk.next.is_none();
                self.cx.store.write_install(InstallWrite::Chunk(chunk));
                if is_last {
                    fetching.step = Step::Entries;
                    self.switch();
                }
            }
            (Step::Chunks, Found::Gone) => fetching.step = Step::Snapshot,
            // Another replica may have time.
            (_, Found::Busy) => {
                fetching.busy = fetching.busy.saturating_add(1);
                (fetching.is_waiting, fetching.due) = (true, self.cx.now + BUSY_TICKS);
            }
            (_, _) => {
                self.fetching = None;
                self.cx.standings.forget_later();
            }
        }
    }

    /// Replaces the state by the copied one, once all chunks are there.
    fn switch(&mut self) {
        let Some(install) = self.cx.store.install() else { return };
        if !self.is_of_use(&install.header, None) {
            if let Some(source) = self.fetching.as_ref().map(|fetching| fetching.source) {
                self.close_at(source, install.snapshot);
            }
            return self.cx.store.write_install(InstallWrite::Drop);
        }
        self.cx.store.write_install(InstallWrite::Switch);
        if self.cx.quarantine.take().is_some() {
            // The cause of the difference is unknown, so the earlier entries go too.
            self.rebuilt_at = Some(install.header.applied);
        }
        self.close_copied();
        if let Some(fetching) = &mut self.fetching {
            fetching.copied = Some(install.snapshot);
        }
        let (index, bytes) = (self.cx.store.applied(), install.bytes);
        self.cx.notice(Notice::Copied { index, bytes });
        self.know_joiners();
        self.enter();
    }

    /// Fetches what leads to a later configuration, which a peer is in and this replica has not
    /// reached.
    pub(super) fn fetch_newer(&mut self, peer: ReplicaId, newer: ConfigurationId, index: u64) {
        self.cx.standings.hear(newer, self.cx.configuration.id);
        let is_under_way = self.fetching.as_ref().is_some_and(|f| f.newer >= Some(newer));
        if !is_under_way && self.cx.quarantine.is_none() && self.may_fetch_newer() {
            let target = index.max(self.cx.store.applied() + 1);
            self.begin_fetch(peer, target, Some(newer));
        }
    }

    /// Whether this replica may reach a later configuration by copying from others. A member that
    /// does not vote yet may have forgotten what it promised, and would vote in a later
    /// configuration that it copied. A member that does not vote only because its configuration is
    /// over may: otherwise it would vote.
    fn may_fetch_newer(&self) -> bool {
        match self.cx.standing() {
            Standing::Member => {
                self.cx.consensus.is_some() || self.cx.is_over() && self.cx.may_vote()
            }
            Standing::Joiner => true,
            Standing::Retired => false,
        }
    }

    fn entries_came(&mut self, from: u64, entries: &[Entry], decided: u64) {
        let applied = self.cx.store.applied();
        let (mut next, mut rest) = (from, entries);
        if let Some(fetching) = &mut self.fetching {
            fetching.busy = 0;
        }
        while from == applied + 1 && !rest.is_empty() {
            let (run, later) = rest.split_at(state_machine::run_length(rest));
            let lanes = self.cx.rules.lanes;
            state_machine::apply(&mut self.cx.store, lanes, Source::Peer, next, run);
            (next, rest) = (next + run.len() as u64, later);
        }
        self.close_copied();
        self.know_joiners();
        self.enter();
        if self.cx.store.applied() >= decided {
            let source = self.fetching.take().map(|fetching| fetching.source);
            // The source knows nothing more. A peer that knows more will report it again.
            self.cx.standings.forget_later();
            match self.cx.standing() {
                Standing::Joiner => self.tell_state(),
                _ => self.ask_to_be_in_step(source),
            }
        } else {
            self.keep_pace(decided);
        }
    }

    /// Sends the next request at once if the last entries did not bring this replica nearer to the
    /// end.
    fn keep_pace(&mut self, decided: u64) {
        let lacking = decided - self.cx.store.applied();
        let Some(fetching) = &mut self.fetching else { return };
        let before = std::mem::replace(&mut fetching.lacking, lacking);
        if fetching.step == Step::Entries && before <= lacking {
            self.ask();
        }
    }

    /// Closes the copied snapshot at the source, which holds it open.
    pub(super) fn close_copied(&mut self) {
        let Some(fetching) = &mut self.fetching else { return };
        if let Some(snapshot) = fetching.copied.take() {
            let source = fetching.source;
            self.close_at(source, snapshot);
        }
    }

    fn close_at(&mut self, source: ReplicaId, snapshot: SnapshotId) {
        let message = PeerMessage::Fetch { call: 0, wanted: Wanted::Close { snapshot } };
        self.cx.push(Output::Send { to: source, message });
    }

    /// Reports to the leader and to the source how far the state is here: until then the source
    /// keeps the entries after it. Asks the leader for those entries, if they do not come by
    /// themselves.
    fn ask_to_be_in_step(&mut self, source: Option<ReplicaId>) {
        let known = self.cx.consensus.as_ref().and_then(Consensus::leader);
        let leader = known.filter(|(leader, is_in_step)| *leader != self.cx.me && !is_in_step);
        let leader = leader.map(|(leader, _)| leader);
        self.tell_state_to(leader);
        self.tell_state_to(source.filter(|source| Some(*source) != leader));
        if let Some((leader, consensus)) = leader.zip(self.cx.consensus.as_mut()) {
            consensus.reconnected(leader);
        }
    }

    fn tell_state_to(&mut self, peer: Option<ReplicaId>) {
        let Some(to) = peer else { return };
        let message = PeerMessage::HasState { index: self.cx.store.applied() };
        self.cx.push(Output::Gated { to, message, durable: false });
    }
}
