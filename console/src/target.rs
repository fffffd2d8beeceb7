//! The choice of the cluster that a command talks to.
//!
//! The order is: a flag, the environment, a running local cluster in the default folder, the
//! kubeconfig's context. Guarantees that the choice is named on standard error, and that a write is
//! rejected when two clusters are named and no flag decides.

use std::path::PathBuf;
use std::sync::Arc;

use clap::ArgMatches;
use clap::parser::ValueSource;
use kvorum_protocol::Client;
use kvorum_protocol::client::Options;

use crate::arguments::Global;
use crate::exit::{Exit, Failure};
use crate::kubernetes::{self, Kube, config};
use crate::login;
use crate::platform::Platform;

/// A cluster to talk to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// Replicas at these addresses.
    Endpoints(Vec<String>),
    /// The local cluster in this folder.
    Local(PathBuf),
    /// A cluster that Kubernetes runs.
    Kubernetes(kubernetes::KubeTarget),
}

/// The ways in which the target was named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Named {
    /// The source of `--endpoints`, if it is given.
    pub endpoints: Option<By>,
    /// The source of `--local`, if it is given.
    pub local: Option<By>,
    /// The source of `--context`, `--namespace` or `--statefulset`, if one is given.
    pub kubernetes: Option<By>,
}

/// The source of a name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum By {
    /// The command line.
    Flag,
    /// The environment.
    Environment,
}

impl Named {
    /// Determines how clap found the values.
    #[must_use]
    pub fn of(matches: &ArgMatches) -> Self {
        let by = |id: &str, variable: &str| match matches.value_source(id) {
            Some(ValueSource::CommandLine) => Some(By::Flag),
            // A variable that is empty counts as not set.
            Some(ValueSource::EnvVariable) => {
                let value = std::env::var_os(variable).filter(|value| !value.is_empty());
                value.map(|_| By::Environment)
            }
            _ => None,
        };
        let of_kubernetes = [
            by("context", "KVORUM_CONTEXT"),
            by("namespace", "KVORUM_NAMESPACE"),
            by("statefulset", "KVORUM_STATEFULSET"),
        ];
        Self {
            endpoints: by("endpoints", "KVORUM_ENDPOINTS"),
            local: by("local", "KVORUM_LOCAL"),
            kubernetes: of_kubernetes.into_iter().flatten().min(),
        }
    }
}

/// The clusters that are available when none is named.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Discovered {
    /// The default folder, if a local cluster runs there.
    pub living: Option<PathBuf>,
    /// Whether there is a kubeconfig, or this process runs in a pod.
    pub has_kubernetes: bool,
}

impl Discovered {
    /// Looks for these clusters.
    #[must_use]
    pub fn look() -> Self {
        Self { living: living(), has_kubernetes: config::is_there() }
    }
}

/// Chooses the cluster.
pub fn choose(
    global: &Global,
    named: Named,
    found: Discovered,
    is_write: bool,
) -> Result<Target, Failure> {
    let kubernetes = || Target::Kubernetes(global.kubernetes());
    let all = [
        (named.endpoints, "--endpoints", "KVORUM_ENDPOINTS"),
        (named.local, "--local", "KVORUM_LOCAL"),
        (named.kubernetes, "--context, --namespace or --statefulset", "KVORUM_CONTEXT"),
    ];
    let names = |by: By| all.iter().filter(move |(named, ..)| *named == Some(by));
    let (flags, variables) = (names(By::Flag).count(), names(By::Environment).count());
    let is_named = |named: Option<By>| match flags {
        0 => named.is_some(),
        _ => named == Some(By::Flag),
    };
    if flags > 1 {
        let flags: Vec<_> = names(By::Flag).map(|(_, flag, _)| *flag).collect();
        let flags = flags.join(" and ");
        return Err(Failure::usage(format!("{flags} name two clusters; give one of them")));
    }
    if flags == 0 && variables > 1 && is_write {
        let variables: Vec<_> = names(By::Environment).map(|(.., variable)| *variable).collect();
        return Err(Failure::usage(format!(
            "{} name two clusters; say which one to write to: --endpoints, --local or --context",
            variables.join(" and ")
        )));
    }
    if is_named(named.endpoints) {
        let words = global.endpoints.iter().map(|word| word.trim().to_owned());
        let addresses: Vec<_> = words.filter(|word| !word.is_empty()).collect();
        return match addresses.is_empty() {
            true => Err(Failure::usage("--endpoints is empty; give at least one HOST:PORT")),
            false => Ok(Target::Endpoints(addresses)),
        };
    }
    match (is_named(named.local), global.local.clone()) {
        (true, Some(folder)) => return Ok(Target::Local(folder)),
        _ if is_named(named.kubernetes) => return Ok(kubernetes()),
        _ => {}
    }
    match (found.living, found.has_kubernetes) {
        (Some(living), _) => Ok(Target::Local(living)),
        (None, true) => Ok(kubernetes()),
        (None, false) => Err(Failure::new(
            Exit::Unavailable,
            format!(
                "no cluster is named, no local one runs and there is no kubeconfig{}; start one \
                 with 'kvorum local', or name one with --endpoints HOST:PORT, --local DIR or \
                 --context NAME",
                named_kubeconfig()
            ),
        )),
    }
}

/// Says where the kubeconfig should be, if the environment names it.
fn named_kubeconfig() -> String {
    let list = std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty());
    let list = list.map(|list| crate::output::shell_path(std::path::Path::new(&list)));
    list.map_or_else(String::new, |list| format!(" (KUBECONFIG is {list})"))
}

/// Whether a word is `HOST:PORT`.
#[must_use]
pub fn is_address(word: &str) -> bool {
    let is_host = |host: &str| {
        !host.is_empty() && !host.contains(|c: char| c == '/' || c == '@' || c.is_whitespace())
    };
    word.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok())
}

/// Checks that addresses have a host and a port.
pub fn check_addresses(addresses: &[String]) -> Result<(), Failure> {
    match addresses.iter().find(|address| !is_address(address)) {
        Some(wrong) => Err(Failure::usage(format!(
            "'{wrong}' in --endpoints is not HOST:PORT, as 127.0.0.1:7301 is"
        ))),
        None => Ok(()),
    }
}

impl Target {
    /// Describes the target in a few words.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Endpoints(addresses) => format!("endpoints {}", addresses.join(", ")),
            Self::Local(folder) => format!("the local cluster in {}", folder.display()),
            Self::Kubernetes(named) => {
                let mut text = format!("StatefulSet {}", named.statefulset());
                for (what, name) in [("namespace", &named.namespace), ("context", &named.context)] {
                    if let Some(name) = name {
                        text = format!("{text}, {what} {name}");
                    }
                }
                text
            }
        }
    }

    /// Opens a client of the target, and its platform. Names the target on standard error: where
    /// little is named, context and namespace are known only once it was found.
    pub async fn open(&self, global: &Global) -> Result<(Arc<Client>, Platform), Failure> {
        let options = Options { deadline: global.timeout, ..Options::default() };
        if !matches!(self, Self::Kubernetes(_)) {
            crate::note::note(format!("using {}", self.describe()));
        }
        let own = login::own(global)?;
        match self {
            Self::Endpoints(addresses) => {
                check_addresses(addresses)?;
                let options = Options { dial: own.dial()?, ..options };
                let client = Arc::new(Client::of_addresses(addresses, options));
                Ok((client, Platform::Unmanaged(addresses.clone())))
            }
            Self::Kubernetes(named) => {
                let kube = Kube::find(named, &own).await?;
                crate::note::note(format!("using {}", kube.name()));
                let options = Options { dial: kube.dial(), ..options };
                Ok((Arc::new(Client::new(kube.resolve(), options)), Platform::Kubernetes(kube)))
            }
            #[cfg(feature = "local")]
            Self::Local(folder) => {
                crate::local::folder::check_running(folder)?;
                let options = Options { dial: own.dial()?, ..options };
                Ok((crate::local::client(folder, options)?, Platform::Local(folder.clone())))
            }
            #[cfg(not(feature = "local"))]
            Self::Local(_) => Err(Failure::usage(
                "this program was built without local clusters; use --endpoints HOST:PORT",
            )),
        }
    }
}

/// Returns the default folder, if a local cluster runs there.
pub fn living() -> Option<std::path::PathBuf> {
    #[cfg(feature = "local")]
    return crate::local::folder::living();
    #[cfg(not(feature = "local"))]
    None
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
            attach: false,
            mask: false,
            context: None,
            namespace: None,
            statefulset: None,
            tls_dir: None,
            user: None,
            password_file: None,
            token_file: None,
        }
    }

    #[test]
    fn addresses_are_spelled_as_people_do() {
        let words = ["a:1", " b:2 ", "", "[::1]:3"].map(str::to_owned).to_vec();
        let spelled = Global { endpoints: words, ..global() };
        let named = Named { endpoints: Some(By::Flag), local: None, kubernetes: None };
        let chosen = choose(&spelled, named, Discovered::default(), false).unwrap();
        let expected = ["a:1", "b:2", "[::1]:3"].map(str::to_owned).to_vec();
        assert_eq!(chosen, Target::Endpoints(expected.clone()));
        assert!(check_addresses(&expected).is_ok());
        for wrong in ["http://127.0.0.1:80", "a b:1", "a", ":1", "a:99999", "user@a:1"] {
            assert!(check_addresses(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_flag_decides_then_the_environment_then_what_there_is() {
        use By::{Environment, Flag};
        let endpoints = || Ok(Target::Endpoints(vec!["h:1".into()]));
        let local = || Ok(Target::Local("dir".into()));
        let pods = || Ok(Target::Kubernetes(kubernetes::KubeTarget::default()));
        let cases = [
            (Some(Flag), None, None, endpoints()),
            (None, Some(Flag), None, local()),
            (None, None, Some(Flag), pods()),
            (Some(Environment), Some(Flag), None, local()),
            (Some(Flag), Some(Environment), Some(Environment), endpoints()),
            (Some(Environment), None, None, endpoints()),
            (None, Some(Environment), None, local()),
            (None, None, Some(Environment), pods()),
            (None, None, None, Ok(Target::Local("living".into()))),
            (Some(Environment), Some(Environment), None, Err(Exit::Usage)),
            (Some(Flag), Some(Flag), None, Err(Exit::Usage)),
            (None, Some(Flag), Some(Flag), Err(Exit::Usage)),
        ];
        for (endpoints, local, kubernetes, expected) in cases {
            let named = Named { endpoints, local, kubernetes };
            let found = Discovered { living: Some("living".into()), has_kubernetes: true };
            let chosen = choose(&global(), named, found, true);
            assert_eq!(chosen.map_err(|stop| stop.exit), expected, "{named:?}");
        }
        let named = Named { endpoints: None, local: None, kubernetes: None };
        let found = Discovered { living: None, has_kubernetes: true };
        assert_eq!(choose(&global(), named, found, true).map_err(|stop| stop.exit), pods());
        let nothing =
            choose(&global(), named, Discovered::default(), false).map_err(|stop| stop.exit);
        assert_eq!(nothing, Err(Exit::Unavailable));
    }
}
