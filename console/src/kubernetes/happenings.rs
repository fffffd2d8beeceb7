//! What Kubernetes says of a cluster: how pods change, and the Events about them.
//!
//! Guarantees that each change is told once, and that Events from before the console came, or
//! repetitions of one, are not told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Api;
use kube::runtime::watcher;
use tokio::time::sleep;

use super::Kube;
use super::pods::All;
use crate::backend::Sink;
use crate::message::Seen;

/// Events about things that happened longer ago are not told.
const OLD: SignedDuration = SignedDuration::from_secs(5);
/// Reasons that are remembered, so that repetitions are not told.
const REMEMBERED_MAX: usize = 64;
/// How long a watch lasts, in seconds.
const WATCH_SECONDS: u32 = 20;
/// Pause after a watch that failed.
const PAUSE: Duration = Duration::from_secs(3);

/// Tells what happens to the pods, until the sink is closed.
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
            let told = sink.tell(Seen::Pod { node, state: state.clone(), restarts: pod.restarts });
            if !told.await {
                return;
            }
            let is_same = before.is_some_and(|before| before.state == state);
            if !known.is_empty() && !is_same {
                let (node, what) = (name.clone(), format!("pod: {state}"));
                sink.tell(Seen::Process { node, what }).await;
            }
        }
        for name in known.keys().filter(|name| !now.contains_key(*name)) {
            let (node, state) = (name.clone(), "no pod".to_owned());
            sink.tell(Seen::Pod { node, state, restarts: 0 }).await;
        }
        known = now;
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

async fn tell_trouble(kube: &Kube, sink: &Sink) {
    let mut trouble = kube.pods().trouble();
    trouble.mark_changed();
    let mut was = false;
    while trouble.changed().await.is_ok() {
        let now = trouble.borrow_and_update().clone();
        if now.is_some() == was {
            continue;
        }
        was = now.is_some();
        let what = match now {
            Some(why) => format!("cannot be watched: {why}; what was seen last stays"),
            None => "is watched again".to_owned(),
        };
        if !sink.tell(Seen::Process { node: "Kubernetes".to_owned(), what }).await {
            return;
        }
    }
    std::future::pending::<()>().await;
}

async fn tell_events(kube: &Kube, sink: &Sink) {
    let api: Api<Event> = Api::namespaced(kube.client().clone(), &kube.access.namespace);
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    let mut events = watcher(api, config).boxed();
    let mut told = VecDeque::new();
    let mut counts = BTreeMap::new();
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(watcher::Event::Apply(event) | watcher::Event::InitApply(event)) => event,
            Ok(_) => continue,
            Err(_) => {
                // Whoever may not watch Events does without.
                sleep(PAUSE).await;
                continue;
            }
        };
        let Some((node, what)) = line(kube, &event) else { continue };
        let key = format!("{node} {what}");
        let count = counts.entry(event.metadata.uid.clone().unwrap_or_default()).or_insert(0);
        if told.contains(&key) || *count > 0 {
            continue;
        }
        *count += 1;
        told.push_back(key);
        if told.len() > REMEMBERED_MAX {
            told.pop_front();
            counts.clear();
        }
        if !sink.tell(Seen::Process { node, what }).await {
            return;
        }
    }
}

/// What an Event says, if it is about this cluster and new.
fn line(kube: &Kube, event: &Event) -> Option<(String, String)> {
    let about = event.involved_object.name.clone()?;
    let is_pod = about.strip_prefix(&kube.set).and_then(|rest| rest.strip_prefix('-'));
    let is_ours = about == kube.set || is_pod.is_some_and(|rest| rest.parse::<u32>().is_ok());
    let times = [
        event.last_timestamp.as_ref().map(|time| time.0),
        event.event_time.as_ref().map(|time| time.0),
        event.metadata.creation_timestamp.as_ref().map(|time| time.0),
    ];
    let at = times.into_iter().flatten().max()?;
    if !is_ours || Timestamp::now().duration_since(at) > OLD {
        return None;
    }
    let reason = event.reason.clone().unwrap_or_default();
    let message = event.message.clone().unwrap_or_default();
    let message = message.lines().next().unwrap_or_default();
    Some((about, format!("{reason}: {message}")))
}
