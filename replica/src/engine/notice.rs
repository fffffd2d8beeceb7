//! Pure: the events that a replica reports to its operator.
//!
//! Guarantees nothing: the engine's owner decides where a notice goes.

use kvorum_protocol::status::Configuration;

/// An event that is reported to the operator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// Every member was met; the replica votes from now on.
    Gathered,
    /// A session with a peer began.
    Linked {
        /// The peer.
        peer: String,
    },
    /// A session with a peer ended.
    LinkLost {
        /// The peer.
        peer: String,
    },
    /// The replica began to lead.
    Leading {
        /// The ballot's number.
        ballot: u32,
        /// The replica's accepted index at that moment.
        accepted: u64,
    },
    /// The replica stopped leading.
    Deposed {
        /// The ballot's number.
        ballot: u32,
    },
    /// The replica is in step with a leader.
    Following {
        /// The leader's name.
        leader: String,
        /// The ballot's number.
        ballot: u32,
        /// The replica's decided index.
        decided: u64,
    },
    /// The peers know the replica with another disk; it must not vote.
    Disowned {
        /// The peer that reported this.
        by: String,
    },
    /// Leadership is being handed over.
    HandingOver {
        /// The name of the replica that is to lead.
        to: String,
    },
    /// The leader proposes another configuration.
    Configuring {
        /// The new configuration's number.
        id: u32,
        /// The new configuration's members, by name.
        members: String,
    },
    /// The replica entered another configuration.
    Configured {
        /// The new configuration.
        configuration: Configuration,
    },
    /// The log was cut.
    Compacted {
        /// The index up to which entries are no longer in the log.
        index: u64,
    },
    /// The leader's log does not hold the entries that this replica lacks, or they do not fit into
    /// one message.
    Behind {
        /// The leader.
        of: String,
        /// The number of entries that it lacks.
        by: u64,
    },
    /// A copied state replaced the one that was here.
    Copied {
        /// The index of the copied state.
        index: u64,
        /// Its approximate size, in bytes.
        bytes: u64,
    },
    /// This replica's state differs from a majority's: it is not used any more.
    Quarantined {
        /// The index at which it was found to differ.
        index: u64,
    },
    /// The replicas' states differ, and no majority has the same.
    Differ {
        /// The index at which they differ.
        index: u64,
    },
    /// An invalid message was dropped.
    Dropped {
        /// The kind of message.
        what: &'static str,
    },
}
