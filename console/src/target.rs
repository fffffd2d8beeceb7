//! Which cluster a command talks to.
//!
//! By flag, else by environment, else a living local cluster in the default folder. Guarantees that
//! the choice is named on standard error, and that a write is refused when the environment names
//! two clusters and no flag decides.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ArgMatches;
use clap::parser::ValueSource;
use kvorum_protocol::Client;
use kvorum_protocol::client::Options;

use crate::arguments::Global;
use crate::exit::{Exit, Stop};

/// A cluster to talk to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// Replicas at these addresses.
    Endpoints(Vec<String>),
    /// The local cluster in this folder.
    Local(PathBuf),
}

/// How the target was named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Named {
    /// `--endpoints` is given, and by a flag.
    pub endpoints: Option<By>,
    /// `--local` is given, and by a flag.
    pub local: Option<By>,
}

/// Who named it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// The command line.
    Flag,
    /// The environment.
    Environment,
}

impl Named {
    /// Looks how clap found the values.
    #[must_use]
    pub fn of(matches: &ArgMatches) -> Self {
        let by = |id: &str, variable: &str| match matches.value_source(id) {
            Some(ValueSource::CommandLine) => Some(By::Flag),
            // A variable that is set to nothing is not set.
            Some(ValueSource::EnvVariable) => {
                let value = std::env::var_os(variable).filter(|value| !value.is_empty());
                value.map(|_| By::Environment)
            }
            _ => None,
        };
        Self { endpoints: by("endpoints", "KVORUM_ENDPOINTS"), local: by("local", "KVORUM_LOCAL") }
    }
}

/// Chooses the cluster. `living` is the default folder, if a cluster lives there.
pub fn choose(
    global: &Global,
    named: Named,
    living: Option<PathBuf>,
    is_write: bool,
) -> Result<Target, Stop> {
    let endpoints = || Target::Endpoints(global.endpoints.clone());
    let local = || global.local.clone().map(Target::Local);
    let target = match (named.endpoints, named.local) {
        (Some(By::Flag), Some(By::Flag)) => {
            return Err(Stop::usage("--endpoints and --local name two clusters; give one of them"));
        }
        (Some(By::Flag), _) => Some(endpoints()),
        (_, Some(By::Flag)) => local(),
        (Some(By::Environment), Some(By::Environment)) if is_write => {
            return Err(Stop::usage(
                "KVORUM_ENDPOINTS and KVORUM_LOCAL name two clusters; say which one to write to \
                 with --endpoints or --local",
            ));
        }
        (Some(By::Environment), _) => Some(endpoints()),
        (None, Some(By::Environment)) => local(),
        (None, None) => living.map(Target::Local),
    };
    match target {
        Some(Target::Endpoints(addresses)) if addresses.iter().all(String::is_empty) => {
            Err(Stop::usage("--endpoints is empty; give at least one HOST:PORT"))
        }
        Some(target) => Ok(target),
        None => Err(Stop::new(
            Exit::Unavailable,
            "no cluster is named and no local one runs; start one with 'kvorum local', or name one \
             with --endpoints HOST:PORT or --local DIR",
        )),
    }
}

/// Whether a word is `HOST:PORT`.
#[must_use]
pub fn is_address(word: &str) -> bool {
    word.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

/// Checks that addresses have a host and a port.
pub fn check_addresses(addresses: &[String]) -> Result<(), Stop> {
    match addresses.iter().find(|address| !is_address(address)) {
        Some(wrong) => Err(Stop::usage(format!("'{wrong}' in --endpoints is not HOST:PORT"))),
        None => Ok(()),
    }
}

impl Target {
    /// The target in a few words.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Endpoints(addresses) => format!("endpoints {}", addresses.join(", ")),
            Self::Local(folder) => format!("the local cluster in {}", folder.display()),
        }
    }

    /// The folder, when it is a local cluster.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Endpoints(_) => None,
            Self::Local(folder) => Some(folder),
        }
    }

    /// A client of the target.
    pub fn client(&self, global: &Global) -> Result<Arc<Client>, Stop> {
        let options = Options { cluster: None, deadline: global.timeout };
        match self {
            Self::Endpoints(addresses) => {
                check_addresses(addresses)?;
                Ok(Arc::new(Client::of_addresses(addresses, options)))
            }
            #[cfg(feature = "local")]
            Self::Local(folder) => {
                crate::local::folder::check_running(folder)?;
                crate::local::client(folder, options)
            }
            #[cfg(not(feature = "local"))]
            Self::Local(_) => Err(Stop::usage(
                "this program was built without local clusters; use --endpoints HOST:PORT",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::Format;

    fn global() -> Global {
        Global {
            endpoints: vec!["h:1".into()],
            local: Some("dir".into()),
            output: Format::Table,
            timeout: std::time::Duration::from_secs(1),
            local_read: false,
            readonly: false,
            theme: None,
            ascii: false,
            plain: false,
        }
    }

    #[test]
    fn a_flag_decides_then_the_environment_then_what_lives() {
        use By::{Environment, Flag};
        let endpoints = || Ok(Target::Endpoints(vec!["h:1".into()]));
        let local = || Ok(Target::Local("dir".into()));
        let cases = [
            (Some(Flag), None, endpoints()),
            (None, Some(Flag), local()),
            (Some(Environment), Some(Flag), local()),
            (Some(Flag), Some(Environment), endpoints()),
            (Some(Environment), None, endpoints()),
            (None, Some(Environment), local()),
            (None, None, Ok(Target::Local("living".into()))),
            (Some(Environment), Some(Environment), Err(Exit::Usage)),
            (Some(Flag), Some(Flag), Err(Exit::Usage)),
        ];
        for (endpoints, local, expected) in cases {
            let named = Named { endpoints, local };
            let chosen = choose(&global(), named, Some("living".into()), true);
            assert_eq!(chosen.map_err(|stop| stop.exit), expected, "{named:?}");
        }
        let named = Named { endpoints: None, local: None };
        let nothing = choose(&global(), named, None, false).map_err(|stop| stop.exit);
        assert_eq!(nothing, Err(Exit::Unavailable));
    }
}
