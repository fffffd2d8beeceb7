//! Pure: the commands about certificates, as the command line reads them.
//!
//! Guarantees that names which parse fit into a certificate. Does not know a cluster.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use kvorum_protocol::name;
use kvorum_tls::{AUTHORITY_SECRET, Identity};

use super::parse_timeout;

/// The longest time that clients may be given to read their certificates anew.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// Most days that a certificate which is made by hand may be valid.
const DAYS_MAX: u32 = 825;
/// Any cluster's word, to try names with.
const SOME_WORD: &str = "cluster";

/// The commands about certificates.
#[derive(Subcommand, Debug)]
pub enum Certs {
    /// Make folders for --tls-dir: a certificate, its key, and the authority to trust
    Make(Make),
    /// Show who certificates are for, until when, for what, and who signed them
    Show {
        /// A folder or a file with certificates; the cluster's if not given
        path: Option<PathBuf>,
    },
    /// Replace certificates of a running cluster, which serves on meanwhile
    Rotate(Rotate),
}

/// The arguments of making certificates.
#[derive(Args, Debug)]
#[command(after_help = MAKE_HELP)]
pub struct Make {
    /// The folder for them: client-USER and the replicas' names become folders in it
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The word of a cluster with an authority of your own in DIR/ca, made if there is none;
    /// without it, the authority is that of the cluster that Kubernetes or this machine runs
    #[arg(long, value_name = "WORD", value_parser = parse_word)]
    pub cluster: Option<String>,
    /// For this replica, and the hosts at which it is reached; may be repeated
    #[arg(
        long = "replica",
        value_name = "NAME[=HOST,…]",
        value_parser = parse_replica,
        requires = "cluster"
    )]
    pub replicas: Vec<ReplicaHosts>,
    /// For a client that is this user; may be repeated
    #[arg(long = "client", value_name = "USER", value_parser = parse_user)]
    pub clients: Vec<String>,
    /// How many days they are valid; 90 if not given
    #[arg(
        long,
        value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(DAYS_MAX))
    )]
    pub days: Option<u32>,
    /// Replace certificates that are there already; an authority is never replaced
    #[arg(long)]
    pub replace: bool,
}

const MAKE_HELP: &str = "\
For a program that uses a cluster of Kubernetes or of this machine:
  kvorum certs make --client app --out DIR
For replicas that you start yourself, each with its folder as --tls-dir:
  kvorum certs make --cluster shop --replica kvorum-0=10.0.0.1 --client admin --out DIR
Keep DIR/ca to yourself: whoever reads it may become anybody.";

/// The arguments of replacing certificates.
#[derive(Args, Clone, Debug)]
#[command(after_help = ROTATE_HELP)]
pub struct Rotate {
    /// Replace the authority itself, in steps that wait for each other
    #[arg(long)]
    pub authority: bool,
    /// Stop after the first step, so that copies of certificates outside the cluster can be
    /// replaced; a later run goes on
    #[arg(long, requires = "authority")]
    pub prepare: bool,
    /// How long programs are given to read their certificates anew, before a step that needs it
    #[arg(
        long,
        default_value = "2m",
        value_parser = parse_pause,
        value_name = "TIME",
        requires = "authority"
    )]
    pub pause: Duration,
    /// How long to wait for a replica, in each step
    #[arg(long, default_value = "5m", value_parser = parse_timeout, value_name = "TIME")]
    pub wait: Duration,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

const ROTATE_HELP: &str = "\
Without --authority, every replica and both clients of the cluster get a new certificate now.
With it: (1) everybody trusts the old and the new authority; (2) the new one signs; (3) only the
new one is trusted. It can be interrupted at any time: the next run finds out how far it is. A copy
of a certificate outside the cluster is of no use from (2) on. Replace it before: run this with
--prepare, make new ones (kvorum certs make), which are good before and after, and run it again.";

/// A replica, and the hosts at which it is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaHosts {
    /// Its name.
    pub name: String,
    /// The host names and addresses.
    pub hosts: Vec<String>,
}

fn parse_pause(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time > PAUSE_MAX {
        return Err("at most an hour".to_owned());
    }
    Ok(time)
}

/// Checks that a name fits into the identity that is made of it.
fn check(identity: &Identity, text: &str) -> Result<(), String> {
    let is_whole = identity.to_string().parse().is_ok_and(|read: Identity| read == *identity);
    match is_whole {
        true => Ok(()),
        false => Err(format!(
            "'{}' does not fit into a certificate; use letters, digits and . - _ @",
            text.escape_debug()
        )),
    }
}

fn parse_word(text: &str) -> Result<String, String> {
    check(&Identity::client(text, "user"), text).map(|()| text.to_owned())
}

fn parse_user(text: &str) -> Result<String, String> {
    check(&Identity::client(SOME_WORD, text), text).map(|()| text.to_owned())
}

fn parse_replica(text: &str) -> Result<ReplicaHosts, String> {
    let (name, hosts) = text.split_once('=').unwrap_or((text, ""));
    name::check(name).map_err(|error| error.to_string())?;
    if name == AUTHORITY_SECRET {
        return Err(format!("'{name}' is the folder of the authority; use another name"));
    }
    let hosts: Vec<_> = hosts.split(',').filter(|host| !host.is_empty()).collect();
    let is_of_host = |c: char| c.is_ascii_alphanumeric() || ".-_:*".contains(c);
    if let Some(wrong) = hosts.iter().find(|host| !host.chars().all(is_of_host)) {
        return Err(format!("'{}' is no host name or address", wrong.escape_debug()));
    }
    let hosts = hosts.into_iter().map(str::to_owned).collect();
    Ok(ReplicaHosts { name: name.to_owned(), hosts })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::arguments::{Arguments, Command};

    fn parse(line: &str) -> Result<Certs, clap::Error> {
        let words = ["kvorum", "certs"].into_iter().chain(line.split(' '));
        Arguments::try_parse_from(words).map(|read| match read.command {
            Some(Command::Certs(certs)) => certs,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn names_that_fit_into_a_certificate_are_taken() {
        let line = "make --out d --cluster shop --replica kvorum-0=10.0.0.1,a.b --client a@b.c";
        let Ok(Certs::Make(make)) = parse(line) else { panic!("{line}") };
        let hosts = ["10.0.0.1", "a.b"].map(str::to_owned).to_vec();
        assert_eq!(make.replicas, [ReplicaHosts { name: "kvorum-0".to_owned(), hosts }]);
        assert_eq!(make.clients, ["a@b.c"]);
        for wrong in [
            "make --client a",
            "make --out d --client a/b",
            "make --out d --client *",
            "make --out d --cluster a/b --client a",
            "make --out d --replica kvorum-0",
            "make --out d --cluster c --replica *",
            "make --out d --cluster c --replica ca",
            "make --out d --cluster c --replica kvorum-0=a/b",
            "make --out d --client a --days 0",
            "make --out d --client a --days 826",
            "rotate --prepare",
            "rotate --authority --pause 2h",
            "rotate --wait 0s",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse("rotate --authority --pause 0s").is_ok());
    }
}
