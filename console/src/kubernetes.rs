//! A cluster run by Kubernetes: its pods, the streams to them, and what the user may do there.
//!
//! | module | what it is |
//! |---|---|
//! | [`config`] | the API server and the identity, by kubeconfig or by the pod that this runs in |
//! | [`pods`] | the pods and the `StatefulSet`, watched |
//! | `proxy` | the proxy on the way to the API server |
//! | [`forward`] | a byte stream to a pod, through the API server |
//! | [`login`] | a login plugin, and a process that watches over it |
//! | [`happenings`] | changes of the pods, and Events about them |
//! | [`secrets`] | the certificates of the cluster |
//! | [`rights`] | the rights that the API server grants this user |
//! | [`trouble`] | the reason why something failed, and what helps |
//! | [`watching`] | objects of one kind, watched forever |
//!
//! Guarantees that every call ends in time, that watching continues forever whatever the API server
//! does, and that a pod is deleted only if it is still the one that was seen. Does not know the
//! console.

pub mod access;
pub mod config;
pub mod forward;
pub mod happenings;
pub mod login;
pub mod pods;
mod proxy;
pub mod rights;
pub mod secrets;
pub mod trouble;
pub mod watching;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{DeleteParams, LogParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use kvorum_protocol::authentication::Authentication;
use kvorum_protocol::client::{Carrier, Dial, Endpoint, Resolve};
use kvorum_tls::Encryption;
use tokio::task::JoinSet;

use crate::credentials::{self, Own};
use crate::exit::{Exit, Failure};
use access::Access;
pub use access::CALL_PATIENCE;
pub use config::KubeTarget;
use pods::{PodView, Pods};
use trouble::call;

/// The number of lines of a pod's log that are shown.
const LOG_LINES: i64 = 1000;
/// The maximum number of replicas of a cluster.
pub const REPLICAS_MAX: u32 = kvorum_protocol::limits::MEMBERS_MAX;

/// The grace period with which a pod is deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Grace {
    /// A short one: its processes are killed after one second.
    Now,
    /// The one that the pod asks for.
    Own,
    /// None: the object is removed without waiting for the processes.
    Force,
}

/// Returns the name of the `ConfigMap` that is the cluster's marker.
fn marker_name(set: &str) -> String {
    format!("{set}-cluster")
}

/// A cluster run by Kubernetes. Dropping it ends its watches.
pub struct Kube {
    client: Client,
    /// The API server and the identity to use.
    pub access: Access,
    /// The name of the `StatefulSet`.
    pub set: String,
    /// How what is sent to replicas is encrypted.
    encryption: Encryption,
    authentication: Option<Arc<Authentication>>,
    /// Whether the certificate for that is one of the cluster's Secrets.
    pub reads_secrets: bool,
    pods: Arc<Pods>,
    #[expect(dead_code, reason = "its end is the watches' end")]
    watches: JoinSet<()>,
}

impl Kube {
    /// Finds the cluster and begins to watch it.
    ///
    /// # Errors
    /// When it cannot be found: why, and what helps.
    pub async fn find(named: &KubeTarget, own: &Own) -> Result<Arc<Self>, Failure> {
        let access = config::load(named).await?;
        let client = access.client().await?;
        let set = named.statefulset().to_owned();
        let sets: Api<StatefulSet> = Api::namespaced(client.clone(), &access.namespace);
        let found = call(&access, sets.get(&set)).await;
        let found = match found {
            Err(stop) if stop.exit == Exit::NotFound => {
                return Err(trouble::no_set(&client, &access, &set).await);
            }
            found => found?,
        };
        let (pods, watches) = Pods::watch(&client, &access, &found).await?;
        let encryption = match &own.tls_dir {
            Some(folder) => credentials::of_folder(folder)?,
            None => secrets::encryption(&client, &access, &set).await?,
        };
        let authentication = own.authentication.clone();
        let reads_secrets = own.tls_dir.is_none();
        Ok(Arc::new(Self {
            client,
            access,
            set,
            encryption,
            authentication,
            reads_secrets,
            pods,
            watches,
        }))
    }

    /// Describes the cluster in a few words.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{} in {}", self.access.namespace, self.set, self.access.context)
    }

    /// Returns the pods as they were last seen.
    #[must_use]
    pub fn pods(&self) -> &Arc<Pods> {
        &self.pods
    }

    /// Returns the client of the API server.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    fn pod_api(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.access.namespace)
    }

    /// Returns the places of the replicas: inside the cluster their own addresses, else names for
    /// [`Kube::dial`].
    #[must_use]
    pub fn resolve(&self) -> Resolve {
        let (pods, is_inside) = (Arc::clone(&self.pods), self.access.is_inside);
        Arc::new(move || {
            let endpoint = |pod: &PodView| {
                let address = match (is_inside, &pod.ip) {
                    (true, Some(ip)) => forward::host_port(ip, pod.clients_port),
                    (true, None) => return None,
                    (false, _) => forward::address(pod),
                };
                Some(Endpoint { name: Some(pod.name.clone()), address })
            };
            let pods = pods.all();
            let mut running: Vec<_> = pods.values().filter(|pod| pod.is_running).collect();
            // A pod that is not ready may be out of reach, or of a cluster that does not serve.
            running.sort_by_key(|pod| !pod.is_ready);
            running.into_iter().filter_map(endpoint).collect()
        })
    }

    /// Returns the way to connect to the replicas.
    #[must_use]
    pub fn dial(&self) -> Dial {
        let carrier = match self.access.is_inside {
            true => Carrier::Tcp,
            false => forward::dial(self.pod_api(), Arc::clone(&self.pods)),
        };
        let (encryption, authentication) = (self.encryption.clone(), self.authentication.clone());
        Dial { carrier, encryption, authentication }
    }

    /// Reads the cluster's marker, if there is one: the text that says which cluster has begun.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub async fn marker(&self) -> Result<Option<String>, Failure> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.access.namespace);
        let map = call(&self.access, maps.get_opt(&marker_name(&self.set))).await?;
        // A marker that nobody has filled counts as none.
        let data = map.and_then(|map| map.data).filter(|data| !data.is_empty());
        Ok(data.map(|mut data| data.remove("marker.json").unwrap_or_default()))
    }

    /// Deletes a pod, if it is still the one last seen; returns how it was done.
    ///
    /// # Errors
    /// When that pod is gone, or the API server refuses or does not answer.
    pub async fn delete(&self, name: &str, grace: Grace) -> Result<&'static str, Failure> {
        let seen = self.pods.all();
        let Some(pod) = seen.get(name) else {
            return Err(Failure::failed(format!("there is no pod {name} now")));
        };
        let preconditions =
            Preconditions { uid: Some(pod.uid.clone()), ..Preconditions::default() };
        let parameters = DeleteParams::default().preconditions(preconditions);
        let (parameters, how) = match grace {
            Grace::Now => (parameters.grace_period(1), "by deleting the pod, grace 1 s"),
            Grace::Own => (parameters, "by deleting the pod, with its own grace period"),
            Grace::Force => (parameters.grace_period(0), "by deleting the pod by force"),
        };
        let pods = self.pod_api();
        let deleting = async {
            match pods.delete(name, &parameters).await {
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
                deleted => deleted.map(|_| true),
            }
        };
        match call(&self.access, deleting).await? {
            true => Ok(how),
            false => Err(Failure::failed(format!(
                "the pod {name} that you meant is gone already; look again"
            ))),
        }
    }

    /// Changes the wanted number of replicas.
    ///
    /// # Errors
    /// When the API server refuses or does not answer, or a cluster cannot have so many.
    pub async fn scale(&self, replicas: u32) -> Result<(), Failure> {
        if replicas > REPLICAS_MAX {
            return Err(Failure::usage(format!(
                "{replicas} replicas are not possible; a cluster has 0 to {REPLICAS_MAX}"
            )));
        }
        let sets: Api<StatefulSet> = Api::namespaced(self.client.clone(), &self.access.namespace);
        let patch = Patch::Merge(serde_json::json!({ "spec": { "replicas": replicas } }));
        let parameters = PatchParams::default();
        let scaled = sets.patch_scale(&self.set, &parameters, &patch);
        call(&self.access, scaled).await.map(|_| ())
    }

    /// Returns the end of a pod's log, after that of the container before if it was restarted.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub async fn logs(&self, name: &str) -> Result<Vec<String>, Failure> {
        let parameters = LogParams { tail_lines: Some(LOG_LINES), ..LogParams::default() };
        let now = call(&self.access, self.pod_api().logs(name, &parameters)).await?;
        let restarts = self.pods.all().get(name).map_or(0, |pod| pod.restarts);
        let mut lines = Vec::new();
        if restarts > 0 {
            let before = LogParams { previous: true, ..parameters };
            if let Ok(text) = call(&self.access, self.pod_api().logs(name, &before)).await {
                lines.extend(text.lines().map(str::to_owned));
                lines.push("— started again —".to_owned());
            }
        }
        lines.extend(now.lines().map(str::to_owned));
        Ok(lines)
    }
}
