//! Looks at the certificates that replicas show, and at whom they let in.
//!
//! Guarantees that every replica that is wanted or runs is looked at, and told if it does not
//! answer, or if another one answers at its address.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use kvorum_protocol::client::{Carrier, Dial, Endpoint, Resolve};
use kvorum_protocol::connection::ConnectError;
use kvorum_tls::{Encryption, Peer, Subject, Tls};

use crate::platform::Platform;

/// The certificate that a replica showed, and whether it let this program in; or why it did not
/// answer.
pub(super) type Met = Result<(Peer, Result<(), ConnectError>), String>;

/// The names of replicas at some time.
type Names = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// A way to look at the replicas of a cluster.
pub(super) struct Lookout {
    carrier: Carrier,
    resolve: Resolve,
    /// Returns those that are wanted, or run; nothing where only addresses are known.
    names: Names,
}

impl Lookout {
    /// Creates a way to the replicas of a platform.
    pub(super) fn of(platform: &Platform) -> Self {
        match platform {
            Platform::Unmanaged(addresses) => {
                let endpoint = |address: &String| Endpoint { name: None, address: address.clone() };
                let all: Vec<_> = addresses.iter().map(endpoint).collect();
                let resolve: Resolve = Arc::new(move || all.clone());
                Self { carrier: Carrier::Tcp, resolve, names: Arc::new(Vec::new) }
            }
            #[cfg(feature = "local")]
            Platform::Local(folder) => {
                let (resolve, names) = (crate::local::resolve(folder), crate::local::alive(folder));
                Self { carrier: Carrier::Tcp, resolve, names }
            }
            Platform::Kubernetes(kube) => {
                let (carrier, resolve) = (kube.dial().carrier, kube.resolve());
                let kube = Arc::clone(kube);
                let names = Arc::new(move || {
                    let wanted = kube.pods().wanted();
                    let wanted = wanted.start..wanted.start.saturating_add(wanted.replicas);
                    let wanted = wanted.map(|ordinal| format!("{}-{ordinal}", kube.set));
                    wanted.chain(kube.pods().all().into_keys()).collect()
                });
                Self { carrier, resolve, names }
            }
        }
    }

    /// Meets every replica, all at once, by name; by address where no name is known.
    pub(super) async fn meet_all(&self, tls: &Arc<Tls>) -> BTreeMap<String, Met> {
        let names = (self.names)();
        let endpoints = (self.resolve)();
        // Where a replica listened that is gone, another may listen now.
        let is_meant =
            |one: &Endpoint| one.name.as_ref().is_none_or(|name| names.iter().any(|n| n == name));
        let dial = Dial {
            carrier: self.carrier.clone(),
            encryption: Encryption::Require(Arc::clone(tls)),
            authentication: None,
        };
        let met = endpoints.into_iter().filter(is_meant).map(|endpoint| {
            let dial = &dial;
            async move {
                let met = dial.meet(&endpoint.address, tls).await;
                let met = met.map_err(|error| error.to_string());
                let met = met.and_then(|(peer, entered)| match &endpoint.name {
                    Some(name) if !is_of(&peer, name) => {
                        Err(format!("{} answers at its address", peer.identity))
                    }
                    _ => Ok((peer, entered)),
                });
                (endpoint.name.unwrap_or(endpoint.address), met)
            }
        });
        let silent = names.iter().map(|name| (name.clone(), Err("it does not run".to_owned())));
        let mut all: BTreeMap<_, _> = silent.collect();
        all.extend(join_all(met).await);
        all
    }
}

/// Whether a certificate is that of the named replica.
fn is_of(peer: &Peer, name: &str) -> bool {
    matches!(&peer.identity.subject, Subject::Replica(own) if own.is(name))
}
