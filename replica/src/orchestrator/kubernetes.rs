//! Kubernetes as the orchestrator: the replica's own `StatefulSet`, and a `ConfigMap`.
//!
//! | object | purpose |
//! |---|---|
//! | `StatefulSet` NAME | the desired replica count, and the first ordinal |
//! | `ConfigMap` NAME-cluster | the cluster's [marker](crate::marker), by compare-and-swap |
//! | `Secret` NAME-ca, NAME-client-… | the cluster's certificates |
//! | `Event` | what a replica does and refuses, in `kubectl describe` |
//!
//! The manifests ship the `ConfigMap` and the Secrets, empty, and the replicas fill them; an empty
//! one counts as none.
//!
//! Guarantees that the desired scale comes from a consistent read that began after the request: a
//! watch only hints when to read. Each call is bounded in time, so that an API server which hangs
//! is treated like one which refuses. Nothing that serves clients waits for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client, Config};
use kvorum_protocol::client::{Endpoint, Resolve};
use tokio::time::{Instant, interval_at, sleep, timeout};
use tokio_stream::StreamExt;

use super::folder::REPLICAS_MAX;
use super::{Hints, OrchestratorError, Scale};
use crate::marker::Marker;

/// The longest time that one call may take.
pub(super) const CALL_PATIENCE: Duration = Duration::from_secs(2);
/// How long to retry an API server that does not answer, when a replica asks why it was told to
/// end.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(30);
/// The time between two such reads.
pub const END_INTERVAL: Duration = Duration::from_secs(1);
/// The pause after a watch that failed.
const WATCH_PAUSE: Duration = Duration::from_secs(1);
/// How long a watch lasts, in seconds. An API server that silently disappeared is detected then.
const WATCH_SECONDS: u32 = 20;
/// The time after which the scale is read again without a hint.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// The time between two checks by a leader that the marker is still there.
pub const MARKER_INTERVAL: Duration = Duration::from_secs(30);
/// The time between two looks at the cluster's secrets.
pub const SECRETS_INTERVAL: Duration = Duration::from_secs(30);
/// The marker's key in its `ConfigMap`.
const MARKER_KEY: &str = "marker.json";
/// The prefix of the labels that all objects of a cluster have.
const LABELS: &str = "app.kubernetes.io";
/// The field manager, which records in an object which program wrote it.
const MANAGER: &str = "kvorum-replica";

/// The Kubernetes API, as one replica uses it.
#[derive(Clone)]
pub struct Kubernetes {
    sets: Api<StatefulSet>,
    maps: Api<ConfigMap>,
    pub(super) secrets: Api<Secret>,
    pub(super) events: Api<Event>,
    pub(super) namespace: String,
    pub(super) set: String,
    service: String,
    port: u16,
    /// The facts from the last answer. Locked only for a moment.
    pub(super) known: Arc<Mutex<Known>>,
}

/// The facts known about the `StatefulSet`.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) uid: Option<String>,
    start: u32,
}

/// What is in the place of the marker, with the object and its version.
enum Held {
    Marker(Marker, ConfigMap),
    /// The object is there, and nobody has filled it.
    Empty(ConfigMap),
    Missing,
}

impl Kubernetes {
    /// Connects to the cluster that the process runs in, or that its kubeconfig names. Clients
    /// reach the other replicas at `NAME.service:port`.
    ///
    /// # Errors
    /// When there is neither. Nothing is requested from the API server yet.
    pub async fn here(set: &str, service: &str, port: u16) -> Result<Self, OrchestratorError> {
        let unusable = |error: &dyn std::fmt::Display| {
            OrchestratorError::Unreachable(format!("no Kubernetes to ask: {error}"))
        };
        let mut config = Config::infer().await.map_err(|error| unusable(&error))?;
        config.connect_timeout = Some(CALL_PATIENCE);
        // Administrators look for this name in the API server's logs.
        let program = concat!("kvorum-replica/", env!("CARGO_PKG_VERSION"));
        config.headers.extend("user-agent".parse().ok().zip(program.parse().ok()));
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config).map_err(|error| unusable(&error))?;
        Ok(Self {
            sets: Api::namespaced(client.clone(), &namespace),
            maps: Api::namespaced(client.clone(), &namespace),
            secrets: Api::namespaced(client.clone(), &namespace),
            events: Api::namespaced(client, &namespace),
            namespace,
            set: set.to_owned(),
            service: service.to_owned(),
            port,
            known: Arc::default(),
        })
    }

    pub(super) async fn wanted(&self) -> Result<Scale, OrchestratorError> {
        let set = self.call("get", self.sets.get(&self.set)).await?;
        let (name, namespace) = (&self.set, &self.namespace);
        if set.metadata.deletion_timestamp.is_some() {
            let why = format!("the StatefulSet {name} in {namespace} is being deleted");
            return Err(OrchestratorError::Gone(why));
        }
        let spec = set.spec;
        let start = spec.ordinals.and_then(|ordinals| ordinals.start).unwrap_or(0);
        let start = u32::try_from(start).unwrap_or(0);
        let replicas = u32::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
        let known = Known { uid: set.metadata.uid, start };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
        if replicas > REPLICAS_MAX {
            let why = format!(
                "{replicas} replicas are not possible, the members stay as they are: kubectl -n \
                 {namespace} scale statefulset {name} --replicas={REPLICAS_MAX} or less"
            );
            return Err(OrchestratorError::TooMany { replicas, why });
        }
        Ok(Scale { start, replicas })
    }

    pub(super) fn cluster_word(&self) -> String {
        format!("{}.{}", self.set, self.namespace)
    }

    /// Returns the host names of a replica: its own, and those of the Services.
    pub(super) fn hosts(&self, name: &str) -> Vec<String> {
        let (set, namespace) = (&self.set, &self.namespace);
        let service = self.service.split('.').next().unwrap_or_default();
        vec![
            name.to_owned(),
            format!("{name}.{service}.{namespace}.svc"),
            set.clone(),
            format!("{set}.{namespace}.svc"),
            "localhost".to_owned(),
        ]
    }

    fn marker_name(&self) -> String {
        format!("{}-cluster", self.set)
    }

    pub(super) fn marker_place(&self) -> String {
        format!("the ConfigMap {} in {}", self.marker_name(), self.namespace)
    }

    pub(super) async fn marker(&self) -> Result<Option<Marker>, OrchestratorError> {
        Ok(match self.read_marker().await? {
            Held::Marker(marker, _) => Some(marker),
            Held::Empty(_) | Held::Missing => None,
        })
    }

    /// Reads what holds the marker.
    async fn read_marker(&self) -> Result<Held, OrchestratorError> {
        let name = self.marker_name();
        let Some(map) = self.call("get", self.maps.get_opt(&name)).await? else {
            return Ok(Held::Missing);
        };
        // As the manifests ship it. An object that holds something else holds no marker that was
        // lost, but one that was damaged, which somebody has to look at.
        let has_no_data = map.data.as_ref().is_none_or(BTreeMap::is_empty);
        if has_no_data && map.binary_data.as_ref().is_none_or(BTreeMap::is_empty) {
            return Ok(Held::Empty(map));
        }
        let text = map.data.as_ref().and_then(|data| data.get(MARKER_KEY));
        let damaged = |why: String| {
            OrchestratorError::Unreachable(format!(
                "the ConfigMap {name} in {} is damaged: {MARKER_KEY}: {why}",
                self.namespace
            ))
        };
        let text = text.ok_or_else(|| damaged("is missing".to_owned()))?;
        let marker = serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
        Ok(Held::Marker(marker, map))
    }

    pub(super) async fn make_marker(&self, marker: Marker) -> Result<Marker, OrchestratorError> {
        let made = match self.read_marker().await? {
            Held::Marker(marker, _) => return Ok(marker),
            Held::Empty(map) => self.write_marker(map, &marker).await,
            Held::Missing => self.create_marker(&marker).await,
        };
        match made {
            Ok(true) => Ok(marker),
            // Another replica was first, or this very call succeeded and its reply was lost.
            Ok(false) => self.marker().await?.ok_or_else(|| {
                OrchestratorError::Unreachable(format!("{} changes", self.marker_place()))
            }),
            Err(error) => self.marker().await?.ok_or(error),
        }
    }

    /// Writes the marker into the object that was read. The object carries its version: the API
    /// server rejects it after any other change. Returns whether it took it.
    async fn write_marker(
        &self,
        mut map: ConfigMap,
        marker: &Marker,
    ) -> Result<bool, OrchestratorError> {
        map.data = Some(data(marker));
        let (name, parameters) = (self.marker_name(), parameters());
        match timeout(CALL_PATIENCE, self.maps.replace(&name, &parameters, &map)).await {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(false),
            Ok(Err(error)) => Err(self.trouble("update", &error)),
            Err(_) => Err(no_answer()),
        }
    }

    /// Creates the object with the marker, if this replica may: its Role in the manifests has no
    /// such rule, because it could not be limited to one name.
    async fn create_marker(&self, marker: &Marker) -> Result<bool, OrchestratorError> {
        // It outlives the StatefulSet on purpose, as the volumes do: it belongs to the data.
        let labels = [("name", "kvorum"), ("component", "data")];
        let labels = labels.map(|(key, value)| (format!("{LABELS}/{key}"), value.to_owned()));
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(self.marker_name()),
                labels: Some(BTreeMap::from(labels)),
                ..ObjectMeta::default()
            },
            data: Some(data(marker)),
            ..ConfigMap::default()
        };
        match timeout(CALL_PATIENCE, self.maps.create(&parameters(), &map)).await {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(false),
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
                Err(OrchestratorError::Unreachable(format!(
                    "{} is gone, and the replicas may not make another one: apply the manifests \
                     again, which ship it, empty, and they fill it",
                    self.marker_place()
                )))
            }
            Ok(Err(error)) => Err(self.trouble("create", &error)),
            Err(_) => Err(no_answer()),
        }
    }

    pub(super) async fn replace_marker(
        &self,
        expected: &Marker,
        next: &Marker,
    ) -> Result<bool, OrchestratorError> {
        let Held::Marker(marker, map) = self.read_marker().await? else { return Ok(false) };
        if marker != *expected {
            return Ok(false);
        }
        match expected == next {
            true => Ok(true),
            false => self.write_marker(map, next).await,
        }
    }

    pub(super) fn clients(&self, name: &str) -> Resolve {
        let (name, service, port) = (name.to_owned(), self.service.clone(), self.port);
        let (set, known) = (self.set.clone(), Arc::clone(&self.known));
        Arc::new(move || {
            let start = known.lock().unwrap_or_else(PoisonError::into_inner).start;
            let ordinals = start..start.saturating_add(REPLICAS_MAX);
            let others = ordinals.map(|ordinal| format!("{set}-{ordinal}"));
            let endpoint = |other: String| {
                let address = format!("{other}.{service}:{port}");
                Endpoint { name: Some(other), address }
            };
            others.filter(|other| *other != name).map(endpoint).collect()
        })
    }

    pub(super) fn hints(&self) -> Hints {
        let config = watcher::Config::default()
            .fields(&format!("metadata.name={}", self.set))
            .timeout(WATCH_SECONDS);
        let events = watcher(self.sets.clone(), config);
        let ticks = interval_at(Instant::now() + LOOK_INTERVAL, LOOK_INTERVAL);
        // A timeout and an error are hints too: the next read tells more.
        Box::pin(events.timeout_repeating(ticks).then(|event| async move {
            if let Ok(Err(_)) = event {
                sleep(WATCH_PAUSE).await;
            }
        }))
    }

    /// Waits for a call, for a limited time.
    pub(super) async fn call<T>(
        &self,
        verb: &str,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, OrchestratorError> {
        match timeout(CALL_PATIENCE, call).await {
            Ok(done) => done.map_err(|error| self.trouble(verb, &error)),
            Err(_) => Err(no_answer()),
        }
    }

    pub(super) fn trouble(&self, verb: &str, error: &kube::Error) -> OrchestratorError {
        let namespace = &self.namespace;
        match error {
            kube::Error::Api(status) if status.code == 404 => OrchestratorError::Gone(format!(
                "there is no StatefulSet {} in {namespace}",
                self.set
            )),
            kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
                OrchestratorError::Gone(format!(
                    "the API server forbids to {verb} in {namespace}: {}; the Role and \
                     RoleBinding of the replicas' ServiceAccount allow it",
                    status.message
                ))
            }
            kube::Error::Api(status) => OrchestratorError::Unreachable(format!(
                "the API server refuses to {verb} in {namespace}: {}",
                status.message
            )),
            other => OrchestratorError::Unreachable(format!(
                "the API server cannot be reached: {}",
                root_cause(other)
            )),
        }
    }
}

fn data(marker: &Marker) -> BTreeMap<String, String> {
    let text = serde_json::to_string(marker).expect("a marker is plain data");
    BTreeMap::from([(MARKER_KEY.to_owned(), text)])
}

pub(super) fn parameters() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

pub(super) fn no_answer() -> OrchestratorError {
    OrchestratorError::Unreachable(format!(
        "the API server did not answer within {CALL_PATIENCE:?}"
    ))
}

/// Returns the innermost reason, which is the one that an operator can act on.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
