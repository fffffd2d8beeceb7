//! Pure: makes the part of the state anew that was not on the disk when the process ended.
//!
//! The state is written in the background, whole up to some index, and the log is kept from there
//! on. Guarantees that afterwards everything is applied that the disk knows to be decided: what a
//! state that is written at once would hold. A state that is further already stays. Used by both
//! stores when they are opened.

use kvorum_protocol::status::ConfigurationId;

use crate::engine::store::LogStore;
use crate::limits::APPLY_BYTES_MAX;
use crate::state::machine::{self, LaneMemory, Source, Table};

/// An entry that neither the state nor the log has.
#[derive(Debug, thiserror::Error)]
#[error("the state ends at {applied}, and the log does not go on from there")]
pub struct Missing {
    /// The last index of the state.
    applied: u64,
}

/// Applies what is decided and not in the state; `decided_of` returns how far a log is decided.
///
/// # Errors
/// When entries are missing.
pub fn replay<S: LogStore + Table>(
    store: &mut S,
    lanes: LaneMemory,
    decided_of: impl Fn(&S, ConfigurationId) -> u64,
) -> Result<(), Missing> {
    loop {
        // An entry may lead to the next configuration, whose log goes on.
        let (applied, decided) = (store.applied(), decided_of(store, store.configuration_id()));
        if applied >= decided {
            return Ok(());
        }
        let mut entries = store.decided(applied + 1, decided, APPLY_BYTES_MAX).entries;
        if entries.is_empty() {
            return Err(Missing { applied });
        }
        entries.truncate(machine::run_length(&entries));
        machine::apply(store, lanes, Source::Log, applied + 1, &entries);
    }
}
