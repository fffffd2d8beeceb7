//! The pods of a `StatefulSet`, and the number wanted, watched.
//!
//! Guarantees that the last seen state is kept while the API server is out of reach.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::ListParams;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::access::Access;
use super::trouble::call;
use super::watching::{WatchEvent, Watching};
use crate::exit::{Exit, Failure};

/// The port for clients, where the pod does not name one.
const CLIENTS_PORT: u16 = 7301;
/// The longest description of a state that is kept, in characters.
const REASON_MAX: usize = 200;

/// A pod, as far as the console needs it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PodView {
    /// Its name.
    pub name: String,
    /// Its UID, which tells it from other pods of that name.
    pub uid: String,
    /// Its address.
    pub ip: Option<String>,
    /// Its port for clients.
    pub clients_port: u16,
    /// Whether its container runs.
    pub is_running: bool,
    /// Whether it is ready.
    pub is_ready: bool,
    /// Whether it is being deleted.
    pub is_terminating: bool,
    /// The number of restarts of its container.
    pub restarts: i32,
    /// Its state, in a few words.
    pub state: String,
}

/// The pods, by name.
pub type All = BTreeMap<String, PodView>;

/// The replicas that the `StatefulSet` asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// The first ordinal.
    pub start: u32,
    /// The number of replicas, from that ordinal on.
    pub replicas: u32,
}

/// The reasons why something cannot be watched now.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Troubles {
    /// The reason why the pods cannot be watched.
    pub pods: Option<String>,
    /// The same for the wanted number, but only if it is forbidden: `pods` has all other reasons.
    pub wanted: Option<String>,
}

/// The pods of a `StatefulSet`.
pub struct Pods {
    set: String,
    pods: watch::Sender<All>,
    wanted: watch::Sender<Wanted>,
    troubles: watch::Sender<Troubles>,
}

impl Pods {
    /// Lists the pods, and watches them from then on for as long as the returned set is kept.
    ///
    /// # Errors
    /// When the API server does not answer the list.
    pub async fn watch(
        client: &Client,
        access: &Access,
        set: &StatefulSet,
    ) -> Result<(Arc<Self>, JoinSet<()>), Failure> {
        let labels = set.spec.selector.match_labels.clone().unwrap_or_default();
        let selector: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let selector = selector.join(",");
        let api: Api<Pod> = Api::namespaced(client.clone(), &access.namespace);
        let listed = call(access, api.list(&ListParams::default().labels(&selector))).await?;
        let all = listed.items.iter().filter_map(view).map(|pod| (pod.name.clone(), pod));
        let name = set.metadata.name.clone().unwrap_or_default();
        let pods = Arc::new(Self {
            set: name.clone(),
            pods: watch::Sender::new(all.collect()),
            wanted: watch::Sender::new(wanted(set)),
            troubles: watch::Sender::default(),
        });
        let mut tasks = JoinSet::new();
        let ours = watcher::Config::default().labels(&selector);
        tasks.spawn(Arc::clone(&pods).follow_pods(Watching::new(api, access, ours)));
        let sets: Api<StatefulSet> = Api::namespaced(client.clone(), &access.namespace);
        let it = watcher::Config::default().fields(&format!("metadata.name={name}"));
        tasks.spawn(Arc::clone(&pods).follow_set(Watching::new(sets, access, it)));
        Ok((pods, tasks))
    }

    /// Returns the pods as they were last seen.
    #[must_use]
    pub fn all(&self) -> All {
        self.pods.borrow().clone()
    }

    /// Returns a receiver that is notified when they change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<All> {
        self.pods.subscribe()
    }

    /// Returns a receiver that is notified when something can no longer be watched, or can again.
    #[must_use]
    pub fn troubles(&self) -> watch::Receiver<Troubles> {
        self.troubles.subscribe()
    }

    /// Returns the ordinals that are wanted.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        *self.wanted.borrow()
    }

    /// Returns the names of the pods that exist, and of those that should.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let Wanted { start, replicas } = self.wanted();
        let mut names: Vec<_> =
            (start..start + replicas).map(|ordinal| format!("{}-{ordinal}", self.set)).collect();
        let others = self.pods.borrow();
        names.extend(others.keys().cloned());
        names.sort();
        names.dedup();
        names
    }

    async fn follow_pods(self: Arc<Self>, mut pods: Watching<Pod>) {
        let mut fresh = All::new();
        loop {
            let event = match pods.next().await {
                WatchEvent::Event(event) => event,
                WatchEvent::Fails(stop) => {
                    self.troubles.send_modify(|troubles| troubles.pods = Some(stop.message));
                    continue;
                }
                WatchEvent::Works => {
                    self.troubles.send_modify(|troubles| troubles.pods = None);
                    continue;
                }
            };
            match event {
                watcher::Event::Init => fresh.clear(),
                watcher::Event::InitApply(pod) => {
                    fresh.extend(view(&pod).map(|pod| (pod.name.clone(), pod)));
                }
                watcher::Event::InitDone => self.set_all(std::mem::take(&mut fresh)),
                watcher::Event::Apply(pod) => {
                    if let Some(pod) = view(&pod) {
                        self.change(|all| drop(all.insert(pod.name.clone(), pod.clone())));
                    }
                }
                watcher::Event::Delete(pod) => {
                    if let Some(pod) = view(&pod) {
                        self.change(|all| drop(all.remove(&pod.name)));
                    }
                }
            }
        }
    }

    fn set_all(&self, fresh: All) {
        self.change(|all| *all = fresh.clone());
    }

    fn change(&self, change: impl Fn(&mut All)) {
        self.pods.send_if_modified(|all| {
            let before = all.clone();
            change(all);
            *all != before
        });
    }

    async fn follow_set(self: Arc<Self>, mut set: Watching<StatefulSet>) {
        loop {
            match set.next().await {
                WatchEvent::Event(watcher::Event::InitApply(set) | watcher::Event::Apply(set)) => {
                    self.wanted.send_replace(wanted(&set));
                }
                WatchEvent::Fails(stop) if stop.exit == Exit::NotAuthorized => {
                    self.troubles.send_modify(|troubles| troubles.wanted = Some(stop.message));
                }
                WatchEvent::Works => self.troubles.send_modify(|troubles| troubles.wanted = None),
                WatchEvent::Event(_) | WatchEvent::Fails(_) => {}
            }
        }
    }
}

fn wanted(set: &StatefulSet) -> Wanted {
    let number = |number: Option<i32>| number.and_then(|number| u32::try_from(number).ok());
    let start = set.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start);
    let replicas = number(set.spec.replicas).unwrap_or(1);
    Wanted { start: number(start).unwrap_or(0), replicas }
}

/// Returns what the console needs of a pod.
fn view(pod: &Pod) -> Option<PodView> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.clone().unwrap_or_default());
    let name = pod.metadata.name.clone()?;
    let container = status.container_statuses.iter().flatten().next();
    let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
    let clients = ports.into_iter().find(|port| port.name.as_deref() == Some("clients"));
    let is_terminating = pod.metadata.deletion_timestamp.is_some();
    let is_running = container
        .and_then(|container| container.state.as_ref())
        .is_some_and(|state| state.running.is_some());
    let conditions = status.conditions.iter().flatten();
    let is_ready = conditions.clone().any(|one| one.type_ == "Ready" && one.status == "True");
    let unscheduled = conditions
        .clone()
        .find(|one| one.type_ == "PodScheduled" && one.status == "False")
        .and_then(|one| one.message.clone());
    let phase = status.phase.clone().unwrap_or_default();
    let state = match (is_terminating, unscheduled, container.and_then(waiting)) {
        (true, ..) => "Terminating".to_owned(),
        (_, Some(why), _) => format!("Pending: {why}"),
        (_, None, Some(waiting)) => waiting,
        (_, None, None) if is_running && is_ready => "Ready".to_owned(),
        (_, None, None) if is_running => "Running, not ready".to_owned(),
        (_, None, None) => phase,
    };
    Some(PodView {
        name,
        uid: pod.metadata.uid.clone()?,
        ip: status.pod_ip.clone(),
        clients_port: clients
            .and_then(|port| u16::try_from(port.container_port).ok())
            .unwrap_or(CLIENTS_PORT),
        is_running,
        is_ready,
        is_terminating,
        restarts: container.map_or(0, |container| container.restart_count),
        state: state.chars().take(REASON_MAX).collect(),
    })
}

/// Returns the reason why a container does not run.
fn waiting(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    let ended = |ended: &k8s_openapi::api::core::v1::ContainerStateTerminated| {
        let reason = ended.reason.clone().unwrap_or_else(|| "ended".to_owned());
        format!("{reason} (exit {})", ended.exit_code)
    };
    if let Some(now) = &state.terminated {
        return Some(ended(now));
    }
    let reason = state.waiting.as_ref()?.reason.clone()?;
    let last = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    Some(match last {
        Some(last) => format!("{reason}, last {}", ended(last)),
        None => reason,
    })
}
