//! Pure: notes whether anybody wants something of the cluster.
//!
//! While nobody does, a leader that fell silent harms nobody, so elections may take their time, and
//! a machine that has nothing to do does little. Does not decide what is different meanwhile.

use kvorum_protocol::message::Request;
use omnipaxos::messages::Message;

use super::message::{Input, PeerMessage};

/// Ticks after the last sign that somebody wants something.
const QUIET_TICKS: u64 = 1_000;

/// The last sign that somebody wants something.
#[derive(Default)]
pub(super) struct Quiet {
    wanted_at: u64,
}

impl Quiet {
    /// Notes an input at a tick.
    pub(super) fn see(&mut self, now: u64, input: &Input) {
        if is_wanted(input) {
            self.wanted_at = now;
        }
    }

    /// Whether nobody has wanted anything for a while.
    pub(super) fn is_quiet(&self, now: u64) -> bool {
        now >= self.wanted_at + QUIET_TICKS
    }
}

/// Whether an input comes of what somebody wants, or of what happens to the cluster; and not of
/// time that passes, or of somebody who watches.
fn is_wanted(input: &Input) -> bool {
    match input {
        Input::Client { request, .. } => !matches!(
            request,
            Request::Status | Request::Subscribe(_) | Request::Addresses | Request::Access(_)
        ),
        Input::Peer { message, .. } => {
            !matches!(message, PeerMessage::Paxos { message: Message::BLE(_), .. })
        }
        Input::PeerUp { .. }
        | Input::PeerDown { .. }
        | Input::Met(_)
        | Input::Configure { .. }
        | Input::HandOver
        | Input::WantsStop
        | Input::Learned { .. }
        | Input::Disowned { .. } => true,
        Input::Now(_)
        | Input::Tick
        | Input::Cancel { .. }
        | Input::ClientGone { .. }
        | Input::Scanned { .. }
        | Input::Scale { .. }
        | Input::Synced(_)
        | Input::SyncIsSlow(_)
        | Input::Debt { .. }
        | Input::Marked { .. }
        | Input::Read { .. }
        | Input::Disk { .. } => false,
    }
}
