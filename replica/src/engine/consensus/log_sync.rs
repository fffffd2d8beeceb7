//! Pure: completes the library's synchronization messages, and keeps them small.
//!
//! The library answers a peer that lacks entries with all of them, in one message, whatever its log
//! still holds. Where they are compacted, or too many, the storage gives it a stand-in
//! ([`Entry::Placeholder`]), and here the message is changed to one that builds on state instead: a
//! prefix that is decided, and only the entries after it. Its receiver hands it to the library when
//! its own state has that prefix. (A negative control shows that a receiver without the state would
//! lose entries.)
//!
//! Guarantees that no stand-in is sent, and no message whose ballot is over.

use omnipaxos::OmniPaxos;
use omnipaxos::messages::Message;
use omnipaxos::messages::sequence_paxos::{PaxosMessage, PaxosMsg};
use omnipaxos::storage::{SnapshotType, Storage};
use omnipaxos::util::LogEntry;

use crate::state::entry::{Entry, NoSnapshot};

/// Returns the index up to which a receiver must have the state before the library may see a
/// message.
#[must_use]
pub fn state_needed(message: &PaxosMsg<Entry>) -> Option<u64> {
    let log_sync = match message {
        PaxosMsg::AcceptSync(sync) => Some(&sync.log_sync),
        PaxosMsg::Promise(promise) => promise.log_sync.as_ref(),
        _ => None,
    };
    let log_sync = log_sync.filter(|log_sync| log_sync.decided_snapshot.is_some())?;
    Some(log_sync.sync_idx as u64)
}

/// Replaces a stand-in by entries, building on state if need be; returns false when the message
/// must not be sent. `state` is the index up to which the receiver reported that it has the state.
pub fn complete<L: Storage<Entry>>(
    paxos: &OmniPaxos<Entry, L>,
    message: &mut Message<Entry>,
    state: Option<u64>,
) -> bool {
    let Message::SequencePaxos(PaxosMessage { msg, .. }) = message else { return true };
    let (ballot, decided, log_sync) = match msg {
        PaxosMsg::AcceptSync(sync) => (sync.n, &mut sync.decided_idx, Some(&mut sync.log_sync)),
        PaxosMsg::Promise(promise) => {
            (promise.n, &mut promise.decided_idx, promise.log_sync.as_mut())
        }
        _ => return true,
    };
    let Some(log_sync) = log_sync else { return true };
    // Entries that came to the log since then are in messages of their own.
    let Some(&Entry::Placeholder { end }) = log_sync.suffix.first() else { return true };
    if ballot != paxos.get_promise() || end > paxos.get_accepted_idx() {
        // The log may be another leader's by now, or another leader may have cut it since.
        return false;
    }
    let ours = paxos.get_decided_idx().min(end);
    if log_sync.sync_idx < ours {
        let state = state.and_then(|state| usize::try_from(state).ok());
        let known =
            state.filter(|state| *state >= log_sync.sync_idx.max(paxos.get_compacted_idx()));
        log_sync.sync_idx = known.map_or(ours, |known| known.min(ours));
        log_sync.decided_snapshot = Some(SnapshotType::Complete(NoSnapshot));
        *decided = (*decided).max(log_sync.sync_idx);
    }
    log_sync.suffix = suffix(paxos, log_sync.sync_idx, end);
    true
}

fn suffix<L: Storage<Entry>>(paxos: &OmniPaxos<Entry, L>, from: usize, end: usize) -> Vec<Entry> {
    if from == end {
        return Vec::new();
    }
    let entries = paxos.read_entries(from..end).expect("the log holds what follows its cut");
    let entry = |entry| match entry {
        LogEntry::Decided(entry) | LogEntry::Undecided(entry) => entry,
        other => panic!("the log holds entries only, not {other:?}"),
    };
    entries.into_iter().map(entry).collect()
}
