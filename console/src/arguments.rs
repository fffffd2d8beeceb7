//! Pure: the command line's grammar.
//!
//! Guarantees that what parses can be carried out, as far as words can tell. Does not know a
//! cluster.

pub mod access;
pub mod certs;
pub mod verb;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{FalseyValueParser, OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use certs::Certs;
pub use verb::{Put, Verb};

/// Kvorum: a replicated key-value store, its console and its command line
#[derive(Parser, Debug)]
#[command(name = "kvorum", version, after_help = AFTER_HELP)]
pub struct Arguments {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do; without a command, the console, or the status where there is no terminal.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Room that each replica keeps free on the disk when nothing else is said.
#[cfg(feature = "local")]
pub const DISK_RESERVE: &str = "256MiB";

const AFTER_HELP: &str = "\
NODE is a name like kvorum-0, n1 or 1 (the first), 8001 (the first, as the seed spelled it), leader
or any. Exit status: 0 done, 1 failed, 2 usage, 3 not found, 4 unavailable or no quorum, 5 unknown
outcome, 6 not authorized, 7 needs --yes.";

/// What holds for every command.
#[derive(Args, Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch")]
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
    /// Talk to the cluster that this context of the kubeconfig leads to
    #[arg(long, global = true, env = "KVORUM_CONTEXT", value_name = "NAME")]
    pub context: Option<String>,
    /// The namespace of the cluster
    #[arg(long, short = 'n', global = true, env = "KVORUM_NAMESPACE", value_name = "NAME")]
    pub namespace: Option<String>,
    /// The cluster's StatefulSet; kvorum if not given
    #[arg(long, global = true, env = "KVORUM_STATEFULSET", value_name = "NAME")]
    pub statefulset: Option<String>,
    /// The folder of this program's certificate: ca.crt, tls.crt and tls.key. By default that which
    /// the cluster provides
    #[arg(long, global = true, env = "KVORUM_TLS_DIR", value_name = "DIR")]
    pub tls_dir: Option<PathBuf>,
    /// The user that this is, if not that of the certificate. Its password is in `KVORUM_PASSWORD`
    /// or a file, or is asked for
    #[arg(id = "login", long = "user", global = true, env = "KVORUM_USER", value_name = "NAME")]
    pub user: Option<String>,
    /// The file with that user's password; - for standard input
    #[arg(long, global = true, env = "KVORUM_PASSWORD_FILE", value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// The file with a token that says who this is, as 'kvorum token' printed it; `KVORUM_TOKEN`
    /// may have the token itself
    #[arg(long, global = true, env = "KVORUM_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
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
    /// Colors of the console
    #[arg(long, global = true, env = "KVORUM_THEME", value_enum, value_name = "THEME")]
    pub theme: Option<ThemeName>,
    /// Draw with ASCII only
    #[arg(long, global = true, env = "KVORUM_ASCII", value_parser = FalseyValueParser::new())]
    pub ascii: bool,
    /// The console in a pod, to be attached to: it never ends by a key, and leaves the modes of the
    /// viewers' terminals alone
    #[arg(long, global = true, env = "KVORUM_ATTACH", value_parser = FalseyValueParser::new())]
    pub attach: bool,
    /// Hide values on the screen, which all viewers and the pod's log see
    #[arg(long, global = true, env = "KVORUM_MASK", value_parser = FalseyValueParser::new())]
    pub mask: bool,
    /// The console without a screen: lines in, lines out
    #[arg(long, global = true)]
    pub plain: bool,
}

impl Global {
    /// Returns the folder of this program's certificate, if it is given.
    #[must_use]
    pub fn tls_dir(&self) -> Option<&Path> {
        // A variable that is set to nothing is not set.
        self.tls_dir.as_deref().filter(|folder| !folder.as_os_str().is_empty())
    }

    /// What is said of a cluster that Kubernetes runs.
    #[must_use]
    pub fn kubernetes(&self) -> crate::kubernetes::KubeTarget {
        // A variable that is set to nothing is not set.
        let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        crate::kubernetes::KubeTarget {
            context: said(&self.context),
            namespace: said(&self.namespace),
            statefulset: said(&self.statefulset),
        }
    }
}

/// The console's colors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ThemeName {
    /// The terminal's own colors; none where `NO_COLOR` is set.
    Auto,
    /// No colors.
    Mono,
    /// For a dark background.
    Dark,
    /// For a light background.
    Light,
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
    /// Something with a cluster.
    #[command(flatten)]
    Verb(Verb),
    /// Print what happens in the cluster, one JSON object a line, until it is ended
    Events,
    /// Write and read for a while, check that nothing is lost or doubled, and print how fast it was
    Bench(Bench),
    /// Show which user this is, and what it may do
    Whoami,
    /// Print a token, by which this user is known for some time without its password
    Token {
        /// For how long, at most a day
        #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
        time: Duration,
    },
    /// Add, remove and list users, and give them roles
    User {
        /// What
        #[command(subcommand)]
        command: access::UserCommand,
    },
    /// Add, remove and list roles, and give them rights
    Role {
        /// What
        #[command(subcommand)]
        command: access::RoleCommand,
    },
    /// Let a user read or write keys; adds the user if there is none
    Grant(access::Grant),
    /// Take from a user what 'grant' gave it
    Revoke(access::Revoke),
    /// Look whether everything that is needed is there, and say what helps
    Doctor,
    /// Show a failover: kill the leader under load, and prove that nothing is lost
    #[cfg(feature = "local")]
    Demo(Demo),
    /// Write the whole state, as of one index, to a file, while the cluster goes on
    Backup {
        /// The file; it must not exist
        file: PathBuf,
    },
    /// Make a new local cluster with the state of a backup
    #[cfg(feature = "local")]
    Restore(Restore),
    /// Go on with what is left of a local cluster that lost a majority of its replicas for good
    #[cfg(feature = "local")]
    Recover(Recover),
    /// Make, show and renew the certificates by which replicas and clients know each other
    #[command(subcommand)]
    Certs(Certs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Start a cluster of replicas on this machine, with the console on it
    #[cfg(feature = "local")]
    Local(Local),
    /// One replica of a local cluster
    #[cfg(feature = "local")]
    #[command(hide = true)]
    Replica(Box<kvorum_replica::node::settings::Settings>),
}

/// What a load takes.
#[derive(Args, Clone, Debug)]
pub struct Bench {
    /// For how long
    #[arg(long, default_value = "10s", value_parser = parse_timeout, value_name = "TIME")]
    pub time: Duration,
    /// Clients at once, each with one write in flight
    #[arg(
        long,
        default_value_t = 16,
        value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=1024)
    )]
    pub clients: u32,
    /// Pause of each client between two writes
    #[arg(
        long,
        default_value = "0s",
        value_parser = humantime::parse_duration,
        value_name = "TIME"
    )]
    pub pause: Duration,
    /// Bytes of a value
    #[arg(
        long,
        default_value_t = 100,
        value_name = "COUNT",
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(20..=1_000_000)
    )]
    pub value_bytes: usize,
}

/// What a restore takes.
#[cfg(feature = "local")]
#[derive(Args, Debug)]
pub struct Restore {
    /// The backup
    pub file: PathBuf,
    /// The new cluster's folder; it must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// The new cluster's replicas
    #[arg(long, default_value_t = 3, value_name = "COUNT")]
    pub replicas: u32,
}

/// What a recovery takes.
#[cfg(feature = "local")]
#[derive(Args, Debug)]
pub struct Recover {
    /// The cluster's folder; the default one if not given
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The first eight digits of the lost cluster's id: whoever gives them has read what may be
    /// lost
    #[arg(long, value_name = "DIGITS")]
    pub confirm: Option<String>,
}

/// What a demo takes.
#[cfg(feature = "local")]
#[derive(Args, Debug)]
pub struct Demo {
    /// Which
    #[arg(value_enum)]
    pub name: DemoName,
    /// Without a screen: print the result, and fail if a write was lost or doubled
    #[arg(long)]
    pub headless: bool,
    /// Do not ask before something is done to a cluster that runs already
    #[arg(short, long)]
    pub yes: bool,
}

/// A demo.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum DemoName {
    /// The leader is killed under load.
    Failover,
    /// The cluster is scaled to five replicas, to one, and back, under load.
    Scale,
}

impl DemoName {
    /// What it does, before the name of a cluster.
    #[must_use]
    pub fn deed(self) -> &'static str {
        match self {
            Self::Failover => "kills the leader of",
            Self::Scale => "scales",
        }
    }
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
    /// No console: print the endpoints, and go on until told to stop
    #[arg(long)]
    pub no_console: bool,
    /// Where the replicas keep their data
    #[arg(long, value_enum, default_value = "disk")]
    pub storage: kvorum_replica::node::settings::StorageKind,
    /// Let links be cut and replicas crashed
    #[arg(long)]
    pub allow_faults: bool,
    /// Room that each replica keeps free on the disk
    #[arg(long, default_value = DISK_RESERVE, value_name = "BYTES")]
    pub disk_reserve: String,
    /// Whether connections are encrypted
    #[arg(long, env = "KVORUM_TLS", default_value = "require", value_name = "MODE")]
    pub tls: kvorum_tls::Mode,
    /// One more argument for each replica, such as --checksum-seconds=60; may be repeated
    #[arg(long = "replica-arg", value_name = "ARGUMENT", allow_hyphen_values = true)]
    pub replica_arguments: Vec<String>,
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
