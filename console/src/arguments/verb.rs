//! Pure: the verbs that act on a cluster, as the command line and the console's prompt read them.
//!
//! Guarantees that both accept the same words: there is one grammar. Does not know a cluster.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::parse_timeout;
use crate::node::Node;

/// What to do with a cluster.
#[derive(Subcommand, Clone, PartialEq, Eq, Debug)]
pub enum Verb {
    /// Set a key
    Put(Put),
    /// Read a key
    Get {
        /// The key
        key: OsString,
        /// Where to read it
        node: Option<Node>,
    },
    /// Remove a key
    #[command(alias = "del")]
    Delete {
        /// The key
        key: OsString,
        /// Through which replica
        node: Option<Node>,
        /// Only if its last write has this revision
        #[arg(long, value_name = "REVISION")]
        if_revision: Option<u64>,
        /// Do not ask (the console asks, the command line does not)
        #[arg(short, long)]
        yes: bool,
    },
    /// List keys in order
    Scan {
        /// Only keys that begin so
        #[arg(default_value = "")]
        prefix: OsString,
        /// Where to read them
        node: Option<Node>,
        /// Most keys to list; 0 for all
        #[arg(long, default_value_t = 0, value_name = "COUNT")]
        limit: u64,
        /// Begin at this key: the cursor that a limited scan printed
        #[arg(long, value_name = "KEY")]
        from: Option<OsString>,
        /// List keys without values
        #[arg(long)]
        keys_only: bool,
    },
    /// Show what each replica says about itself
    Status,
    /// Show decided entries
    Log {
        /// From this index on; the last 20 if not given
        #[arg(long, value_name = "INDEX")]
        from: Option<u64>,
        /// Go on with what is decided
        #[arg(short, long)]
        follow: bool,
        /// Whose log
        #[arg(long)]
        node: Option<Node>,
    },
    /// Follow changes of keys
    Watch {
        /// Only keys that begin so
        #[arg(default_value = "")]
        prefix: OsString,
        /// From this index on; from now on if not given
        #[arg(long, value_name = "INDEX")]
        from: Option<u64>,
        /// Where to watch
        #[arg(long)]
        node: Option<Node>,
        /// How long to wait for a cluster that is away for a while; for ever if not given
        #[arg(long, value_parser = parse_timeout, value_name = "TIME")]
        wait: Option<Duration>,
    },
    /// Kill a replica: its process by SIGKILL in a local cluster, its pod on Kubernetes, by a crash
    /// at an address where faults are allowed
    Kill {
        /// Which
        node: Node,
        /// Let it stop in order, by SIGTERM
        #[arg(long)]
        graceful: bool,
        /// Delete its pod without waiting for its processes; asks for the name
        #[arg(long, conflicts_with = "graceful")]
        force: bool,
        /// Do not ask, unless a majority would be lost
        #[arg(short, long)]
        yes: bool,
    },
    /// Change the number of replicas
    Scale {
        /// How many
        replicas: u32,
        /// Do not ask, unless a majority would be lost
        #[arg(short, long)]
        yes: bool,
    },
    /// Hand leadership over
    #[command(alias = "transfer")]
    HandOver {
        /// To whom; to the replica best in step if not given
        node: Option<Node>,
        /// Do not ask (the console asks, the command line does not)
        #[arg(short, long)]
        yes: bool,
    },
    /// Cut the link between two replicas (where faults are allowed)
    Cut {
        /// One end
        node: Node,
        /// The other end
        peer: Node,
    },
    /// Heal the link between two replicas
    Heal {
        /// One end
        node: Node,
        /// The other end
        peer: Node,
    },
}

/// What a put takes.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct Put {
    /// The key
    pub key: OsString,
    /// The value; @FILE reads it from a file, @- from standard input, @@… begins with an @
    pub value: OsString,
    /// Through which replica
    pub node: Option<Node>,
    /// Only if the key does not exist
    #[arg(long, conflicts_with = "if_revision")]
    pub if_absent: bool,
    /// Only if its last write has this revision
    #[arg(long, value_name = "REVISION")]
    pub if_revision: Option<u64>,
}

impl Put {
    /// Returns the condition under which the put takes effect.
    #[must_use]
    pub fn condition(&self) -> kvorum_protocol::Condition {
        use kvorum_protocol::Condition;
        match (self.if_absent, self.if_revision) {
            (true, _) => Condition::Absent,
            (false, Some(revision)) => Condition::AtRevision(revision),
            (false, None) => Condition::Always,
        }
    }
}

impl Verb {
    /// Whether the verb changes something, so that a read-only session rejects it.
    #[must_use]
    pub fn is_write(&self) -> bool {
        match self {
            Self::Put(_)
            | Self::Delete { .. }
            | Self::Kill { .. }
            | Self::Scale { .. }
            | Self::HandOver { .. }
            | Self::Cut { .. }
            | Self::Heal { .. } => true,
            Self::Get { .. }
            | Self::Scan { .. }
            | Self::Status
            | Self::Log { .. }
            | Self::Watch { .. } => false,
        }
    }
}
