//! Pure: applies decided entries to the state machine.
//!
//! Guarantees that entries are applied in order and each once, that every origin that waits for an
//! entry's outcome is answered, and that nothing is applied between a checksum entry and the
//! snapshot that it asks for.

use kvorum_protocol::data::Outcome;
use kvorum_protocol::message::Answer;

use super::context::Context;
use super::scrub::Scrub;
use crate::engine::requests::proposals::Proposals;
use crate::engine::store::Store;
use crate::limits::APPLY_BYTES_MAX;
use crate::state::entry::Entry;
use crate::state::machine::{self, Applied, Source};
use crate::state::rights::forbidden;

/// The maximum number of entries applied in one commit.
const APPLY_ENTRIES_MAX: u64 = 256;

/// What the entries of one commit ask of the rest of the engine.
pub(super) struct Effects {
    /// Whether ids were given.
    pub(super) gave_ids: bool,
    /// The index of the checksum entry that came last, if one did.
    pub(super) checksum_at: Option<u64>,
}

/// Applies the decided entries that go into one commit, and answers the requests that wait for
/// their outcomes. Returns `None` when there is nothing to apply.
pub(super) fn apply<S: Store>(
    cx: &mut Context<S>,
    proposals: &mut Proposals,
    scrub: &Scrub,
) -> Option<Effects> {
    let consensus = cx.consensus.as_ref()?;
    let (applied, decided) = (cx.store.applied(), consensus.decided());
    // A copied state may be ahead of the log. A quarantined state must not change: the copy that
    // replaces it must be at least as new.
    if applied >= decided || scrub.is_opening(cx) || cx.quarantine.is_some() {
        return None;
    }
    let last = decided.min(applied + APPLY_ENTRIES_MAX);
    let mut entries = consensus.entries_within(applied + 1, last, APPLY_BYTES_MAX);
    let length = machine::run_length(&entries);
    let ends_in_checksum = entries.get(length - 1) == Some(&Entry::Checksum);
    let ends = if ends_in_checksum { cx.rules.checks_at_the_index() } else { cx.rules.seals() };
    if ends {
        entries.truncate(length);
    }
    let (store, lanes) = (&mut cx.store, cx.rules.lanes());
    let results = machine::apply(store, lanes, Source::Log, applied + 1, &entries);
    for (Applied { outcome, .. }, entry) in results.into_iter().zip(&entries) {
        if let Some((id, outcome)) = outcome {
            let told = match (outcome, entry) {
                (Outcome::Forbidden, Entry::UserCommand { user, command }) => {
                    Answer::Refused(forbidden(user, &command.operation))
                }
                (outcome, _) => Answer::Written(outcome),
            };
            proposals.applied(id, &told, &mut |origin, answer| cx.answer(origin, answer));
        }
    }
    let gave_ids = entries.iter().any(|entry| matches!(entry, Entry::Join { .. }));
    Some(Effects { gave_ids, checksum_at: ends_in_checksum.then_some(applied + length as u64) })
}
