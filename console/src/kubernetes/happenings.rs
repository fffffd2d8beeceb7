//! Reports of what happens to a cluster in Kubernetes: changes of pods, and the Events about them.
//!
//! Guarantees that each change is reported once, and that Events from before the console attached,
//! and repetitions of an Event, are not reported.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Api;
use kube::runtime::watcher;

use super::Kube;
use super::pods::{All, Troubles};
use super::watching::{WatchEvent, Watching};
use crate::exit::Exit;
use crate::message::Observation;
use crate::sink::Sink;

/// The age beyond which an Event is not reported. Where Events may only be listed, they arrive as
/// late as the next list.
const OLD: SignedDuration = SignedDuration::from_secs(15);
/// The largest difference expected between the clocks of the cluster and of this machine.
const SKEW: SignedDuration = SignedDuration::from_secs(5);
/// The number of reports that are remembered, so that repetitions are not reported.
const REMEMBERED_MAX: usize = 64;
/// The name used for reports that concern no replica.
const KUBERNETES: &str = "Kubernetes";

/// Reports what happens to the pods, until the sink is closed.
pub async fn tell(kube: Arc<Kube>, sink: Sink) {
    tokio::select! {
        () = tell_pods(&kube, &sink) => {}
        () = tell_trouble(&kube, &sink) => {}
        () = tell_events(&kube, &sink) => {}
        () = sink.closed() => {}
    }
}

async fn tell_pods(kube: &Kube, sink: &Sink) {
    let mut changes = kube.pods().changes();
    let mut known = All::new();
    loop {
        let now = changes.borrow_and_update().clone();
        for (name, pod) in &now {
            let before = known.get(name);
            if before == Some(pod) {
                continue;
            }
            let (node, state) = (name.clone(), pod.state.clone());
            let told =
                sink.tell(Observation::Pod { node, state: state.clone(), restarts: pod.restarts });
            if !told.await {
                return;
            }
            let is_same = before.is_some_and(|before| before.state == state);
            if !known.is_empty() && !is_same {
                let (node, what) = (name.clone(), format!("pod: {state}"));
                sink.tell(Observation::Process { node, what }).await;
            }
        }
        for name in known.keys().filter(|name| !now.contains_key(*name)) {
            let (node, state) = (name.clone(), "no pod".to_owned());
            sink.tell(Observation::Pod { node, state, restarts: 0 }).await;
        }
        known = now;
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

async fn tell_trouble(kube: &Kube, sink: &Sink) {
    let mut troubles = kube.pods().troubles();
    let mut known = Troubles::default();
    loop {
        let now = troubles.borrow_and_update().clone();
        let pods = difference("the pods", known.pods.as_ref(), now.pods.as_ref());
        let wanted = difference("the StatefulSet", known.wanted.as_ref(), now.wanted.as_ref());
        for what in pods.into_iter().chain(wanted) {
            if !sink.tell(Observation::Process { node: KUBERNETES.to_owned(), what }).await {
                return;
            }
        }
        known = now;
        if troubles.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Returns the report to make when the reason why something cannot be watched comes or goes.
fn difference(what: &str, before: Option<&String>, now: Option<&String>) -> Option<String> {
    match (before, now) {
        (before, Some(why)) if before != Some(why) => {
            Some(format!("{what} cannot be watched: {why}; what was seen last stays"))
        }
        (Some(_), None) => Some(format!("{what} can be watched again")),
        _ => None,
    }
}

async fn tell_events(kube: &Kube, sink: &Sink) {
    let api: Api<Event> = Api::namespaced(kube.client().clone(), &kube.access.namespace);
    let since = Timestamp::now() - SKEW;
    let mut events = Watching::new(api, &kube.access, watcher::Config::default());
    let (mut told, mut is_refused) = (Repetitions::default(), false);
    loop {
        let line = match events.next().await {
            WatchEvent::Event(watcher::Event::Apply(event) | watcher::Event::InitApply(event)) => {
                line(kube, &event, since).filter(|line| told.is_new(&event, line))
            }
            // The reports about the pods say when the API server is out of reach.
            WatchEvent::Fails(stop) if stop.exit == Exit::NotAuthorized => {
                let what = format!("Events cannot be watched: {}", stop.message);
                (!std::mem::replace(&mut is_refused, true)).then(|| (KUBERNETES.to_owned(), what))
            }
            WatchEvent::Works if std::mem::take(&mut is_refused) => {
                Some((KUBERNETES.to_owned(), "Events can be watched again".to_owned()))
            }
            WatchEvent::Event(_) | WatchEvent::Fails(_) | WatchEvent::Works => None,
        };
        let Some((node, what)) = line else { continue };
        if !sink.tell(Observation::Process { node, what }).await {
            return;
        }
    }
}

/// The Events that were reported.
#[derive(Default)]
struct Repetitions {
    lines: VecDeque<(String, String)>,
    events: BTreeSet<String>,
}

impl Repetitions {
    /// Whether neither this Event nor its text was reported before. Records both.
    fn is_new(&mut self, event: &Event, line: &(String, String)) -> bool {
        let event = event.metadata.uid.clone().unwrap_or_default();
        if self.lines.contains(line) || !self.events.insert(event) {
            return false;
        }
        self.lines.push_back(line.clone());
        if self.lines.len() > REMEMBERED_MAX {
            self.lines.pop_front();
            self.events.clear();
        }
        true
    }
}

/// Returns an Event's object and text, if it is about this cluster, recent, and not from before the
/// console attached.
fn line(kube: &Kube, event: &Event, since: Timestamp) -> Option<(String, String)> {
    let about = event.involved_object.name.clone()?;
    let is_pod = about.strip_prefix(&kube.set).and_then(|rest| rest.strip_prefix('-'));
    let is_ours = about == kube.set || is_pod.is_some_and(|rest| rest.parse::<u32>().is_ok());
    let times = [
        event.last_timestamp.as_ref().map(|time| time.0),
        event.event_time.as_ref().map(|time| time.0),
        event.metadata.creation_timestamp.as_ref().map(|time| time.0),
    ];
    let at = times.into_iter().flatten().max()?;
    if !is_ours || at < since || Timestamp::now().duration_since(at) > OLD {
        return None;
    }
    let reason = event.reason.clone().unwrap_or_default();
    let message = event.message.clone().unwrap_or_default();
    let message = message.lines().next().unwrap_or_default();
    Some((about, format!("{reason}: {message}")))
}
