//! Pure: the command line's grammar.
//!
//! Guarantees that what parses can be carried out, as far as words can tell. Does not know a
//! cluster.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{FalseyValueParser, OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::node::Node;

/// Kvorum: a replicated key-value store, its console and its command line
#[derive(Parser, Debug)]
#[command(name = "kvorum", version, after_help = AFTER_HELP)]
pub struct Arguments {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do; without a command, the cluster's status.
    #[command(subcommand)]
    pub command: Option<Command>,
}

const AFTER_HELP: &str = "\
NODE is a name like kvorum-0, n1 or 1 (the first), 8001 (the first, as the seed spelled it), leader
or any. Exit status: 0 done, 1 failed, 2 usage, 3 not found, 4 unavailable or no quorum, 5 unknown
outcome, 6 not authorized, 7 needs --yes.";

/// What holds for every command.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Talk to the replicas at these addresses
    #[arg(
        long,
        global = true,
        env = "KVORUM_ENDPOINTS",
        value_delimiter = ',',
        value_name = "HOST:PORT,…"
    )]
    pub endpoints: Vec<String>,
    /// Talk to the local cluster in this folder
    #[arg(
        long,
        global = true,
        env = "KVORUM_LOCAL",
        value_name = "DIR",
        value_parser = OsStringValueParser::new().map(PathBuf::from)
    )]
    pub local: Option<PathBuf>,
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    pub output: Format,
    /// How long a request may take with all its attempts
    #[arg(
        long,
        global = true,
        env = "KVORUM_TIMEOUT",
        default_value = "5s",
        value_parser = parse_timeout,
        value_name = "TIME"
    )]
    pub timeout: Duration,
    /// Read what the replica has, which may be stale, without asking a majority
    #[arg(long, global = true)]
    pub local_read: bool,
    /// Refuse whatever would change something
    #[arg(long, global = true, env = "KVORUM_READONLY", value_parser = FalseyValueParser::new())]
    pub readonly: bool,
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match time {
        time if time.is_zero() => Err("a request needs some time; write for example 5s".to_owned()),
        time if time > Duration::from_secs(3600) => Err("at most an hour".to_owned()),
        time => Ok(time),
    }
}

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// One JSON document
    Json,
    /// One JSON object a line
    Jsonl,
    /// The bytes themselves
    Raw,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
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
    },
    /// Kill a replica: SIGKILL in a local cluster, a crash where faults are allowed
    Kill {
        /// Which
        node: Node,
        /// Let it stop in order (local cluster only)
        #[arg(long)]
        graceful: bool,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Hand leadership over
    HandOver {
        /// To whom; to the replica best in step if not given
        node: Option<Node>,
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
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Start a cluster of replicas on this machine
    #[cfg(feature = "local")]
    Local(Local),
    /// One replica of a local cluster
    #[cfg(feature = "local")]
    #[command(hide = true)]
    Replica(Box<kvorum_replica::settings::Settings>),
}

/// What a put takes.
#[derive(Args, Debug)]
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

/// What a local cluster takes.
#[cfg(feature = "local")]
#[derive(Args, Debug)]
pub struct Local {
    /// How many replicas; 3 for a new cluster
    #[arg(long, value_name = "COUNT")]
    pub replicas: Option<u32>,
    /// The folder that holds everything
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Print the endpoints and nothing else
    #[arg(long)]
    pub no_console: bool,
    /// Where the replicas keep their data
    #[arg(long, value_enum, default_value = "disk")]
    pub storage: kvorum_replica::settings::StorageKind,
    /// Let links be cut and replicas crashed
    #[arg(long)]
    pub allow_faults: bool,
    /// Room that each replica keeps free on the disk
    #[arg(long, default_value = "256MiB", value_name = "BYTES")]
    pub disk_reserve: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_sound() {
        Arguments::command().debug_assert();
    }

    /// The seed's command lines, as its readme gives them.
    #[test]
    fn every_command_line_of_the_seed_parses() {
        let lines = ["put a 1", "put a 1 8002", "get a", "get a 8001", "delete a", "delete a 8003"];
        for line in lines {
            let words = std::iter::once("kvorum").chain(line.split(' '));
            assert!(Arguments::try_parse_from(words).is_ok(), "{line}");
        }
    }

    #[test]
    fn a_third_word_that_is_no_node_says_so() {
        let error = Arguments::try_parse_from(["kvorum", "put", "a", "b", "c"]).unwrap_err();
        assert!(error.to_string().contains("'c' is not a node"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
