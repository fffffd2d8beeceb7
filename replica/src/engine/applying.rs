//! Pure: applies decided entries to the state machine.
//!
//! Guarantees that entries are applied in order and each once, that every origin that waits for an
//! entry's outcome is answered, and that nothing is applied between a checksum entry and the
//! snapshot that it asks for.

use super::Engine;
use crate::entry::Entry;
use crate::limits::APPLY_BYTES_MAX;
use crate::state_machine::{self, Applied, Source};
use crate::storage::Store;

/// The maximum number of entries applied in one commit.
const APPLY_ENTRIES_MAX: u64 = 256;

impl<S: Store> Engine<S> {
    /// Applies the decided entries and answers the requests that wait for their outcomes.
    pub(super) fn apply(&mut self) {
        loop {
            let Some(consensus) = &self.cx.consensus else { return };
            let (applied, decided) = (self.cx.store.applied(), consensus.decided());
            // A copied state may be ahead of the log. A quarantined state must not change: the copy
            // that replaces it must be at least as new.
            if applied >= decided || self.is_opening() || self.cx.quarantine.is_some() {
                return;
            }
            let last = decided.min(applied + APPLY_ENTRIES_MAX);
            let mut entries = consensus.entries_within(applied + 1, last, APPLY_BYTES_MAX);
            let length = state_machine::run_length(&entries);
            let ends_in_checksum = entries.get(length - 1) == Some(&Entry::Checksum);
            let ends = if ends_in_checksum {
                self.cx.rules.checks_at_the_index
            } else {
                self.cx.rules.seals
            };
            if ends {
                entries.truncate(length);
            }
            let (store, lanes) = (&mut self.cx.store, self.cx.rules.lanes);
            let results = state_machine::apply(store, lanes, Source::Log, applied + 1, &entries);
            for Applied { outcome, .. } in results {
                if let Some((id, outcome)) = outcome {
                    let mut answer = |origin, answer| self.cx.answer(origin, answer);
                    self.proposals.applied(id, outcome, &mut answer);
                }
            }
            if entries.iter().any(|entry| matches!(entry, Entry::Join { .. })) {
                self.know_joiners();
            }
            if ends_in_checksum {
                self.begin_pass(applied + length as u64);
            }
            self.enter();
        }
    }
}
