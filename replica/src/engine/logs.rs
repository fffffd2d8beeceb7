//! Pure: the logs on this replica's disk: where they begin, and when they are cut or removed.
//!
//! Guarantees that a log is cut only up to what the state on the disk has; that entries still being
//! fetched are not cut unless the log becomes several windows long, and longer than the state; and
//! that the log of a configuration is removed only when the state on the disk is beyond the begin
//! of the next one.

use super::consensus::Consensus;
use super::context::Context;
use super::notice::Notice;
use crate::engine::store::Store;
use crate::state::chain::Chain;

/// The indexes after which the logs begin.
#[derive(Default)]
pub(super) struct Logs {
    /// The index after which the log begins, if this replica has lost its vote.
    left: Option<u64>,
    /// The index after which the previous configuration's log begins, while it still exists.
    old: Option<u64>,
    /// The index of a state that replaced one in quarantine, until the log is compacted up to it.
    rebuilt_at: Option<u64>,
}

impl Logs {
    /// Returns the logs of a replica that starts.
    pub(super) fn of(chain: &Chain) -> Self {
        Self { old: (chain.began > 0).then_some(chain.began), ..Self::default() }
    }

    /// Records that this replica lost its vote: its log stays as it is.
    pub(super) fn lost_vote(&mut self, compacted: u64) {
        self.left = Some(compacted);
    }

    /// Records that the next configuration begins: the log of this one becomes the old one.
    pub(super) fn enter<S: Store>(&mut self, cx: &Context<S>, next: &Chain) {
        // A replica that joins has no log of the previous configuration.
        let begins_after = cx.consensus.as_ref().map(Consensus::compacted);
        self.old = Some(begins_after.unwrap_or(next.began));
    }

    /// Records that a state replaced one in quarantine. The cause of the difference is unknown, so
    /// the earlier entries go too.
    pub(super) fn rebuilt(&mut self, at: u64) {
        self.rebuilt_at = Some(at);
    }

    /// Cuts the log where it is longer than it need be. `pinned` is the lowest index after which a
    /// fetcher still needs entries.
    pub(super) fn compact<S: Store>(&mut self, cx: &mut Context<S>, pinned: Option<u64>) {
        let Some(consensus) = &mut cx.consensus else { return };
        let excess = cx.store.excess(pinned);
        let Some(cut) = excess.max(self.rebuilt_at) else { return };
        let known = consensus.decided().min(cx.store.persisted());
        let cut = if cx.rules.compacts_what_is_applied() { cut } else { consensus.decided() };
        let is_allowed = known >= cut || !cx.rules.compacts_what_is_applied();
        if is_allowed && cut > consensus.compacted() {
            consensus.compact(cut);
            cx.notice(Notice::Compacted { index: cut });
            self.rebuilt_at = None;
        } else if !is_allowed && cx.store.applied() >= cut {
            // Entries that are long and change little would fill the disk before the state is due.
            cx.store.persist_soon();
        }
    }

    /// Removes the logs of earlier configurations, once this one has decided an entry and the state
    /// needs no entry of theirs.
    pub(super) fn forget_old<S: Store>(&mut self, cx: &mut Context<S>) {
        let is_over = || {
            let has_decided = cx.store.applied() > cx.began && cx.store.persisted() > cx.began;
            has_decided || !cx.rules.keeps_sealed_log()
        };
        if self.old.is_some() && is_over() {
            cx.store.drop_old_logs();
            self.old = None;
        }
    }

    /// Returns the index up to which no log has the entries any more.
    fn begin_after<S: Store>(&self, cx: &Context<S>) -> u64 {
        let left = self.left.unwrap_or(cx.began);
        let current = cx.consensus.as_ref().map_or(left, Consensus::compacted);
        self.old.unwrap_or(current)
    }

    /// Returns the index up to which this replica cannot report what the entries did.
    pub(super) fn compacted<S: Store>(&self, cx: &Context<S>) -> u64 {
        self.begin_after(cx).max(cx.store.copied_at())
    }
}

#[cfg(test)]
mod tests {
    use crate::engine::store::StateStore;
    use crate::engine::tests::Cluster;
    use crate::state::machine::Table;

    #[test]
    fn the_log_is_cut_at_what_the_state_has_and_no_later() {
        let mut cluster = Cluster::of(3);
        let (leader, _) = cluster.roles();
        cluster.put(leader, "a");
        cluster.settle();
        let parts = cluster.parts(leader);
        let applied = parts.cx.store.applied();
        assert_eq!(parts.logs.compacted(&parts.cx), 0);
        parts.logs.rebuilt(applied + 1);
        parts.logs.compact(&mut parts.cx, None);
        assert_eq!(parts.logs.compacted(&parts.cx), 0, "that is not applied yet");
        parts.logs.rebuilt(applied);
        parts.logs.compact(&mut parts.cx, None);
        assert_eq!(parts.logs.compacted(&parts.cx), 0, "a crash would take it from the state");
        assert_eq!(parts.cx.store.persisted(), applied, "so it is asked to be written");
        parts.logs.compact(&mut parts.cx, None);
        assert_eq!(parts.logs.compacted(&parts.cx), applied);
    }

    #[test]
    fn an_old_log_goes_when_the_next_configuration_has_decided() {
        let mut cluster = Cluster::of(3);
        let (leader, _) = cluster.roles();
        let parts = cluster.parts(leader);
        let chain = parts.cx.store.chain();
        parts.logs.enter(&parts.cx, &chain);
        assert!(parts.logs.old.is_some());
        parts.cx.began = parts.cx.store.applied();
        parts.logs.forget_old(&mut parts.cx);
        assert!(parts.logs.old.is_some(), "nothing is decided in it");
        parts.cx.began -= 1;
        parts.logs.forget_old(&mut parts.cx);
        assert!(parts.logs.old.is_some(), "a crash would need it");
        parts.cx.store.persist();
        parts.logs.forget_old(&mut parts.cx);
        assert!(parts.logs.old.is_none());
    }
}
