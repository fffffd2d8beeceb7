//! Pure: what a replica tells its operator.
//!
//! Guarantees nothing: whoever owns the engine decides where a notice goes.

use kvorum_protocol::status::Configuration;

/// Something that an operator wants to read.
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
        /// Its accepted index at that moment.
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
        /// Its decided index.
        decided: u64,
    },
    /// The peers know the replica with another disk; it must not vote.
    Disowned {
        /// The peer that said so.
        by: String,
    },
    /// Leadership is being handed over.
    HandingOver {
        /// To whom.
        to: String,
    },
    /// The leader proposes another configuration.
    Configuring {
        /// Its number.
        id: u32,
        /// Its members, by name.
        members: String,
    },
    /// The replica goes on in another configuration.
    Configured {
        /// That one.
        configuration: Configuration,
    },
    /// The log was cut.
    Compacted {
        /// Entries up to this index are no longer in it.
        index: u64,
    },
    /// The leader's log does not hold, or not within one message, what this replica lacks.
    Behind {
        /// The leader.
        of: String,
        /// How many entries it lacks.
        by: u64,
    },
    /// A copied state took the place of the one that was here.
    Copied {
        /// The index as of which it is.
        index: u64,
        /// About how many bytes it has.
        bytes: u64,
    },
    /// This replica's state differs from a majority's: it is not used any more.
    Quarantined {
        /// The index as of which it was found to differ.
        index: u64,
    },
    /// The replicas' states differ, and no majority has the same.
    Differ {
        /// The index as of which they do.
        index: u64,
    },
    /// A message that must not be was dropped.
    Dropped {
        /// What it was.
        what: &'static str,
    },
}
