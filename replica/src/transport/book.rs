//! The addresses on which peers listen.
//!
//! Guarantees that the name of a Kubernetes Service is looked up exactly as given: the names that a
//! resolver would try before it, and after it, do not belong to the cluster and would be sent to
//! outside servers.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The resolver's settings.
const RESOLVER_FILE: &str = "/etc/resolv.conf";

/// The source of the peers' addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressBook {
    /// `host:port` by name; resolved at each dial.
    Hosts(BTreeMap<String, String>),
    /// A folder for each name, with the file to which the peer writes its address; read at each
    /// dial.
    Folder(PathBuf),
    /// `NAME.service:port`, by DNS; resolved at each dial.
    Service {
        /// The name of the headless Service.
        service: String,
        /// The peers' port.
        port: u16,
    },
}

impl AddressBook {
    /// Returns the address to dial now.
    pub(super) fn resolve(&self, name: &str) -> Result<String, String> {
        match self {
            Self::Hosts(hosts) => {
                hosts.get(name).cloned().ok_or_else(|| format!("no address of {name} is given"))
            }
            Self::Folder(folder) => {
                let file = folder.join(name).join(crate::transport::addresses::FILE_NAME);
                crate::transport::addresses::Addresses::read(&file)
                    .map(|addresses| addresses.peers)
                    .map_err(|error| format!("{}: {error}", file.display()))
            }
            Self::Service { service, port } => Ok(format!("{name}.{service}:{port}")),
        }
    }

    /// Returns the same book, with a Service's whole name.
    #[must_use]
    pub fn with_whole_names(self) -> Self {
        match self {
            Self::Service { service, port } => {
                Self::Service { service: whole_name(&service), port }
            }
            other => other,
        }
    }

    /// Whether addresses are host names, which may not resolve although the replicas are there.
    pub(super) fn has_names(&self) -> bool {
        match self {
            Self::Hosts(_) | Self::Service { .. } => true,
            Self::Folder(_) => false,
        }
    }

    /// Returns the port that all peers listen on, if there is one.
    pub(super) fn port(&self) -> Option<u16> {
        match self {
            Self::Service { port, .. } => Some(*port),
            Self::Hosts(_) | Self::Folder(_) => None,
        }
    }
}

/// Returns a Service's whole name in this pod's cluster, with the final dot; the name as given
/// where the whole name is unknown, or where it is whole already.
#[must_use]
pub fn whole_name(service: &str) -> String {
    match fs::read_to_string(Path::new(RESOLVER_FILE)) {
        Ok(settings) => whole_name_by(service, &settings),
        Err(_) => service.to_owned(),
    }
}

/// Returns the whole name according to the text of the resolver's settings: a pod's search list
/// begins with `NAMESPACE.svc.DOMAIN`.
fn whole_name_by(service: &str, settings: &str) -> String {
    let mut searched = settings.lines().filter_map(|line| line.trim().strip_prefix("search"));
    // The last such line counts.
    let searched = searched.next_back().unwrap_or_default().split_whitespace();
    let is_namespace = |domain: &&str| domain.split('.').nth(1) == Some("svc");
    match searched.into_iter().find(is_namespace) {
        Some(domain) if !service.contains('.') => {
            format!("{service}.{}.", domain.trim_end_matches('.'))
        }
        _ => service.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_a_whole_name_in_a_pod() {
        let pod = "search shop.svc.cluster.local svc.cluster.local cluster.local corp.example\n\
                   nameserver 10.96.0.10\noptions ndots:5\n";
        let other = "nameserver 10.0.0.1\nsearch a.svc.k8s.corp. svc.k8s.corp. k8s.corp.\n";
        let cases = [
            ("kvorum-peers", pod, "kvorum-peers.shop.svc.cluster.local."),
            ("kvorum-peers", other, "kvorum-peers.a.svc.k8s.corp."),
            ("kvorum-peers.b.svc", pod, "kvorum-peers.b.svc"),
            ("kvorum-peers", "search corp.example\nnameserver 10.0.0.1\n", "kvorum-peers"),
            ("kvorum-peers", "", "kvorum-peers"),
        ];
        for (service, settings, expected) in cases {
            assert_eq!(whole_name_by(service, settings), expected, "{settings}");
        }
        let service = whole_name_by("kvorum-peers", pod);
        let book = AddressBook::Service { service, port: 7300 };
        let address = book.resolve("kvorum-3");
        let whole = "kvorum-3.kvorum-peers.shop.svc.cluster.local.:7300";
        assert_eq!(address, Ok(whole.to_owned()));
    }
}
