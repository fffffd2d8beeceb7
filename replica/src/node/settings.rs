//! What a replica is started with.
//!
//! Guarantees that settings which pass [`Settings::validate`] can be started with, as far as words
//! can tell. Does not look at the machine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum};
use kvorum_protocol::name::{self, NoName};
use kvorum_protocol::status::ClusterId;
use kvorum_tls::Mode;

use crate::driver::TICK;
use crate::engine::Options;
use crate::planner::{self, ordinal};
use crate::state::version::Version;
use crate::storage::rocks::open::{NewIdentity, Owner};
use crate::transport::AddressBook;

/// Most members of a cluster.
const MEMBERS_MAX: usize = planner::MEMBERS_MAX as usize;

/// Least that may be kept of a log, in bytes: each cut costs something.
const LOG_KEEP_MIN: u64 = 64 << 10;

/// Where the data is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum StorageKind {
    /// On disk, in RocksDB.
    Disk,
    /// In memory; a replica that restarts has lost its disk.
    Memory,
}

/// How the log of the process looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The requests that are recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Audit {
    /// Those that were refused.
    Refused,
    /// All.
    All,
}

/// What a replica is started with. Each has a flag and an environment variable.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// This replica's name, such as kvorum-0
    #[arg(long, env = "KVORUM_NAME")]
    pub name: String,
    /// The cluster's id: 32 hexadecimal digits, the same for all members. Without it, that of the
    /// cluster's marker
    #[arg(
        long,
        env = "KVORUM_CLUSTER",
        value_name = "ID",
        required_unless_present_any = ["follow", "statefulset"]
    )]
    pub cluster: Option<ClusterId>,
    /// The members of a new cluster, in the same order for each; they stay the same
    #[arg(
        long,
        env = "KVORUM_MEMBERS",
        value_delimiter = ',',
        value_name = "NAME,…",
        required_unless_present_any = ["follow", "statefulset"]
    )]
    pub members: Vec<String>,
    /// Let the members follow the number of replicas in DIR/statefulset.json, instead of --members;
    /// the others are found by DIR/NAME/addresses.json
    #[arg(
        long,
        env = "KVORUM_FOLLOW",
        value_name = "DIR",
        conflicts_with_all = ["members", "peers", "peers_from"]
    )]
    pub follow: Option<PathBuf>,
    /// Let the members follow the replicas of this StatefulSet of Kubernetes, in the pod's
    /// namespace
    #[arg(
        long,
        env = "KVORUM_STATEFULSET",
        value_name = "NAME",
        conflicts_with_all = ["follow", "members", "peers", "peers_from"]
    )]
    pub statefulset: Option<String>,
    /// The headless Service of the StatefulSet: the others are at NAME.SERVICE
    #[arg(
        long,
        env = "KVORUM_PEER_SERVICE",
        value_name = "SERVICE",
        default_value = "kvorum-peers"
    )]
    pub peer_service: String,
    /// The host that others reach this replica at, where DIR/NAME/addresses.json says so; by
    /// default the address listened on
    #[arg(long, env = "KVORUM_ADVERTISE", value_name = "HOST")]
    pub advertise: Option<String>,
    /// Where the other members listen for peers
    #[arg(
        long,
        env = "KVORUM_PEERS",
        value_delimiter = ',',
        value_name = "NAME=HOST:PORT,…",
        conflicts_with = "peers_from"
    )]
    pub peers: Vec<String>,
    /// Find the other members by DIR/NAME/addresses.json instead of --peers
    #[arg(long, env = "KVORUM_PEERS_FROM", value_name = "DIR")]
    pub peers_from: Option<PathBuf>,
    /// The folder that holds this replica's data
    #[arg(long, env = "KVORUM_DATA", value_name = "DIR")]
    pub data: PathBuf,
    /// Where the data is kept
    #[arg(long, env = "KVORUM_STORAGE", value_enum, default_value = "disk")]
    pub storage: StorageKind,
    /// Where to listen for peers; port 0 lets the system choose
    #[arg(
        long,
        env = "KVORUM_LISTEN_PEERS",
        default_value = "0.0.0.0:7300",
        value_name = "IP:PORT"
    )]
    pub listen_peers: std::net::SocketAddr,
    /// Where to listen for clients
    #[arg(
        long,
        env = "KVORUM_LISTEN_CLIENTS",
        default_value = "0.0.0.0:7301",
        value_name = "IP:PORT"
    )]
    pub listen_clients: std::net::SocketAddr,
    /// Where to listen for probes and metrics
    #[arg(
        long,
        env = "KVORUM_LISTEN_HTTP",
        default_value = "0.0.0.0:7302",
        value_name = "IP:PORT"
    )]
    pub listen_http: std::net::SocketAddr,
    /// Room to keep free on the disk: below it, puts are refused. In bytes, or with KiB, MiB, GiB
    #[arg(
        long,
        env = "KVORUM_DISK_RESERVE",
        default_value = "256MiB",
        value_parser = parse_bytes,
        value_name = "BYTES"
    )]
    pub disk_reserve: u64,
    /// How much log to keep for replicas that were away; one that lacks more copies the state
    #[arg(
        long,
        env = "KVORUM_LOG_KEEP",
        default_value = "48MiB",
        value_parser = parse_log_keep,
        value_name = "BYTES"
    )]
    pub log_keep: u64,
    /// Seconds between two comparisons of the replicas' states, which read all data; 0 for none
    #[arg(long, env = "KVORUM_CHECKSUM_SECONDS", default_value = "600", value_name = "N")]
    pub checksum_seconds: u32,
    /// Keep the cluster from rising above a version, so that an older program can be brought back
    #[arg(long, env = "KVORUM_HOLD_VERSION", default_value_t = Version::NEWEST, value_name = "N")]
    pub hold_version: Version,
    /// Let administrators cut links and crash this replica; for tests and demonstrations
    #[arg(long, env = "KVORUM_ALLOW_FAULTS", value_parser = FalseyValueParser::new())]
    pub allow_faults: bool,
    /// Whether connections are encrypted: all (require), those of others that can (accept), none
    /// (off). An older cluster moves over by one restart of each replica with accept, and one with
    /// require
    #[arg(long, env = "KVORUM_TLS", default_value = "require", value_name = "MODE")]
    pub tls: Mode,
    /// A folder with this replica's certificate: ca.crt, tls.crt and tls.key, read anew when they
    /// change. By default the replicas make their own
    #[arg(long, env = "KVORUM_TLS_DIR", value_name = "DIR")]
    pub tls_dir: Option<PathBuf>,
    /// Which requests are recorded in the log, with the user and the address: those that were
    /// refused, or all
    #[arg(long, env = "KVORUM_AUDIT", value_enum, default_value = "refused")]
    pub audit: Audit,
    /// How the log looks
    #[arg(long, env = "KVORUM_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// How long a replica that is told to stop may wait until the cluster does without it
    #[arg(long, env = "KVORUM_LEAVE_SECONDS", default_value = "280", value_name = "N")]
    pub leave_seconds: u64,
    /// End when standard input does, so that no replica outlives what started it
    #[arg(long, hide = true)]
    pub stop_with_stdin: bool,
}

/// Settings that cannot be started with.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] NoName),
    /// A name without an ordinal.
    #[error(
        "--name is '{0}'; where the members follow somebody, it has to end in an ordinal, as in \
         kvorum-0"
    )]
    NoOrdinal(String),
    /// The wrong number of members.
    #[error("--members has {0} names; a cluster has 2 to {MEMBERS_MAX} members")]
    MemberCount(usize),
    /// A member twice.
    #[error("--members names '{0}' twice")]
    MemberTwice(String),
    /// No source of certificates.
    #[error(
        "--members needs certificates: name the folder of this replica's by --tls-dir DIR, or \
         leave the ports open to everybody who reaches them by --tls off"
    )]
    NoCertificates,
    /// The replica itself is missing.
    #[error("--name is '{name}', which is not among --members ({members})")]
    NotMember {
        /// The name.
        name: String,
        /// The members.
        members: String,
    },
    /// A peer without an address.
    #[error(
        "--peers has no address for the member '{0}'; add '{0}=HOST:PORT', or use --peers-from"
    )]
    NoAddress(String),
    /// An address that is none.
    #[error("'{0}' in --peers is not NAME=HOST:PORT with the name of another member")]
    Address(String),
}

impl Settings {
    /// Checks what can be checked without looking at the machine, and finds the peers' addresses.
    pub fn validate(&self) -> Result<AddressBook, SettingsError> {
        for name in self.members.iter().chain([&self.name]) {
            name::check(name)?;
        }
        let follows = match (&self.follow, &self.statefulset) {
            (Some(folder), _) => Some(AddressBook::Folder(folder.clone())),
            (None, Some(_)) => {
                let (service, port) = (self.peer_service.clone(), self.listen_peers.port());
                Some(AddressBook::Service { service, port })
            }
            (None, None) => None,
        };
        if let Some(book) = follows {
            let has_ordinal = ordinal(&self.name).is_some();
            return has_ordinal
                .then_some(book)
                .ok_or_else(|| SettingsError::NoOrdinal(self.name.clone()));
        }
        if !(2..=MEMBERS_MAX).contains(&self.members.len()) {
            return Err(SettingsError::MemberCount(self.members.len()));
        }
        for (position, name) in self.members.iter().enumerate() {
            if self.members[..position].contains(name) {
                return Err(SettingsError::MemberTwice(name.clone()));
            }
        }
        if !self.members.contains(&self.name) {
            let (name, members) = (self.name.clone(), self.members.join(", "));
            return Err(SettingsError::NotMember { name, members });
        }
        if self.tls != Mode::Off && self.tls_dir.is_none() {
            return Err(SettingsError::NoCertificates);
        }
        self.addresses()
    }

    fn addresses(&self) -> Result<AddressBook, SettingsError> {
        let mut others = self.members.iter().filter(|name| **name != self.name);
        if let Some(folder) = &self.peers_from {
            return Ok(AddressBook::Folder(folder.clone()));
        }
        let mut addresses = BTreeMap::new();
        for peer in &self.peers {
            let parts = peer.split_once('=');
            let parts = parts.filter(|(name, address)| {
                let port = address.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
                self.members.iter().any(|member| member == name) && matches!(port, Some(Ok(_)))
            });
            let Some((name, address)) = parts else {
                return Err(SettingsError::Address(peer.clone()));
            };
            if name != self.name {
                addresses.insert(name.to_owned(), address.to_owned());
            }
        }
        match others.find(|name| !addresses.contains_key(*name)) {
            Some(name) => Err(SettingsError::NoAddress(name.clone())),
            None => Ok(AddressBook::Hosts(addresses)),
        }
    }

    /// How the replica is to behave.
    #[must_use]
    pub fn options(&self) -> Options {
        let interval = Duration::from_secs(u64::from(self.checksum_seconds));
        let ticks = interval.as_millis() / TICK.as_millis();
        Options {
            allows_faults: self.allow_faults,
            newest: self.hold_version,
            checksum_ticks: u64::try_from(ticks).expect("years of ticks fit"),
        }
    }

    /// Whose data the folder is to hold.
    #[must_use]
    pub fn owner(&self) -> Owner {
        Owner {
            cluster: self.cluster,
            name: self.name.clone(),
            newest: self.hold_version,
            newborn: self
                .cluster
                .filter(|_| !self.members.is_empty())
                .map(|cluster| NewIdentity::given(cluster, &self.name, &self.members)),
        }
    }
}

/// Reads how much of a log to keep.
fn parse_log_keep(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        bytes if bytes < LOG_KEEP_MIN => Err(format!("keep {LOG_KEEP_MIN} bytes or more")),
        bytes => Ok(bytes),
    }
}

/// Reads a number of bytes: `1048576`, `1024KiB`, `1MiB`, `2GiB`.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match &text[digits.len()..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        unit => return Err(format!("'{unit}' is no unit of bytes; use KiB, MiB or GiB")),
    };
    let number: Option<u64> = digits.parse().ok();
    let bytes = number.and_then(|number| number.checked_mul(unit));
    bytes.ok_or_else(|| format!("'{text}' is no number of bytes; write for example 256MiB"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        settings: Settings,
    }

    fn settings(arguments: &str) -> Settings {
        let fixed = "replica --cluster 00000000000000000000000000000001 --data d";
        let all = fixed.split(' ').chain(arguments.split(' '));
        Command::try_parse_from(all).unwrap_or_else(|error| panic!("{error}")).settings
    }

    #[test]
    fn what_cannot_be_started_with_is_said_in_a_sentence() {
        let cases = [
            ("--name a --members a,b --peers b=h:1 --tls off", Ok(())),
            ("--name a --members a,b --peers-from dir --tls-dir dir", Ok(())),
            ("--name a --members a,b --peers a=h:1,b=h:2 --tls accept --tls-dir dir", Ok(())),
            ("--name a --members a,b --peers-from dir", Err("needs certificates")),
            ("--name a-0 --follow dir", Ok(())),
            ("--name a-0 --statefulset a", Ok(())),
            ("--name a --follow dir", Err("has to end in an ordinal")),
            ("--name A --members a,b --peers b=h:1", Err("\"A\" is no name")),
            ("--name a --members a --peers-from dir", Err("has 1 names")),
            ("--name a --members a,b,b --peers-from dir", Err("names 'b' twice")),
            ("--name c --members a,b --peers-from dir", Err("not among --members (a, b)")),
            (
                "--name a --members a,b,c --peers b=h:1 --tls off",
                Err("no address for the member 'c'"),
            ),
            ("--name a --members a,b --peers b=h --tls off", Err("is not NAME=HOST:PORT")),
            ("--name a --members a,b --peers z=h:1 --tls off", Err("is not NAME=HOST:PORT")),
        ];
        for (arguments, expected) in cases {
            match (settings(arguments).validate(), expected) {
                (Ok(_), Ok(())) => {}
                (Err(error), Err(part)) => {
                    assert!(error.to_string().contains(part), "{arguments}: {error}");
                }
                (result, _) => panic!("{arguments}: {result:?}"),
            }
        }
    }

    #[test]
    fn bytes_have_units() {
        assert_eq!(parse_bytes("7"), Ok(7));
        assert_eq!(parse_bytes("2MiB"), Ok(2 << 20));
        assert_eq!(parse_log_keep("64KiB"), Ok(64 << 10));
        assert!(parse_log_keep("1KiB").is_err());
        for bad in ["", "MiB", "1MB", "-1", "99999999999GiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
