//! Reports in Kubernetes Events what a replica does and refuses; `kubectl describe` shows them.
//!
//! Guarantees that nothing waits for an Event, that an Event which cannot be written is lost
//! without harm, and that their rate is limited, because they are meant for operators. A Warning is
//! for trouble that lasts. Each change of the members is reported once, by the replica that is
//! first.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;
use kvorum_protocol::status::{ClusterId, Configuration, Role, Status};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::kubernetes::{Kubernetes, parameters};

/// The least time between two Events of a replica.
const INTERVAL: Duration = Duration::from_secs(2);
/// The most pending happenings; more are lost.
const NEWS_MAX: usize = 16;
/// A condition that lasts this long is not a passing step: it is trouble.
const LASTS: Duration = Duration::from_secs(30);
/// The longest note, in characters; an Event may have a KiB.
const NOTE_CHARACTERS_MAX: usize = 300;

/// Something that operators should hear of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterEvent {
    /// Whether it is trouble; otherwise it is a normal happening.
    pub is_warning: bool,
    /// The reason in one word, as `kubectl get events` shows it.
    pub reason: &'static str,
    /// The message: one sentence.
    pub note: String,
    /// The Event's name, for one that several replicas may report: it then exists once.
    pub name: Option<String>,
}

/// The sender of one replica's Events.
pub struct EventRecorder {
    kubernetes: Kubernetes,
    name: String,
}

impl EventRecorder {
    pub(super) fn new(kubernetes: Kubernetes, name: String) -> Self {
        Self { kubernetes, name }
    }

    /// Reports changes of the members and this replica's trouble, until the replica ends.
    pub async fn follow(self, mut status: watch::Receiver<Option<Arc<Status>>>) {
        let (mut last, mut news) = (Last::default(), VecDeque::new());
        let mut pace = interval(INTERVAL);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_time = tokio::select! {
                changed = status.changed() => match changed {
                    Ok(()) => false,
                    Err(_) => return,
                },
                _ = pace.tick() => true,
            };
            let now = status.borrow_and_update().clone();
            news.extend(now.map_or_else(Vec::new, |status| last.news(&status, Instant::now())));
            news.truncate(NEWS_MAX);
            if is_time && let Some(happening) = news.pop_front() {
                self.tell(happening).await;
            }
        }
    }

    /// Writes one Event.
    pub async fn tell(&self, happening: ClusterEvent) {
        let Kubernetes { namespace, set, known, .. } = &self.kubernetes;
        let uid = known.lock().unwrap_or_else(PoisonError::into_inner).uid.clone();
        let reference = |version: &str, kind: &str, name: &str, uid| ObjectReference {
            api_version: Some(version.to_owned()),
            kind: Some(kind.to_owned()),
            name: Some(name.to_owned()),
            namespace: Some(namespace.clone()),
            uid,
            ..ObjectReference::default()
        };
        let note: String = happening.note.chars().take(NOTE_CHARACTERS_MAX).collect();
        let event = Event {
            metadata: ObjectMeta {
                generate_name: happening.name.is_none().then(|| format!("{}-", self.name)),
                name: happening.name.map(|name| format!("{set}-{name}")),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(Timestamp::now())),
            action: Some(happening.reason.to_owned()),
            reason: Some(happening.reason.to_owned()),
            note: Some(note),
            type_: Some(if happening.is_warning { "Warning" } else { "Normal" }.to_owned()),
            regarding: Some(reference("apps/v1", "StatefulSet", set, uid)),
            related: Some(reference("v1", "Pod", &self.name, None)),
            reporting_controller: Some("kvorum.replica/kvorum".to_owned()),
            reporting_instance: Some(self.name.clone()),
            ..Event::default()
        };
        let parameters = parameters();
        let created = self.kubernetes.events.create(&parameters, &event);
        if let Err(error) = self.kubernetes.call("create Events", created).await {
            tracing::debug!(%error, "an Event is lost");
        }
    }
}

/// The state as it was last reported.
#[derive(Default)]
struct Last {
    /// The last configuration seen, which needs no report.
    configuration: u32,
    waits: Lasting,
    trouble: Lasting,
}

impl Last {
    /// Returns the happenings that a status shows for the first time.
    fn news(&mut self, status: &Status, now: Instant) -> Vec<ClusterEvent> {
        let Status { cluster, configuration, membership, trouble, name, .. } = status;
        let trouble = trouble.as_ref().map(|trouble| format!("{name}: {trouble}"));
        // Only the leader knows why the members are not those wanted.
        let waits = membership.waits.clone().filter(|_| status.role == Role::Leader);
        let change = self.change(*cluster, configuration);
        let trouble = self.trouble.news("Trouble", trouble, now);
        let waits = self.waits.news("ScalingWaits", waits, now);
        [change, trouble, waits].into_iter().flatten().collect()
    }

    /// Returns a happening with the members if they changed. The first members seen are not
    /// reported.
    fn change(
        &mut self,
        cluster: ClusterId,
        configuration: &Configuration,
    ) -> Option<ClusterEvent> {
        let Configuration { id, members } = configuration;
        let before = std::mem::replace(&mut self.configuration, id.0);
        let members: Vec<_> = members.iter().map(|member| member.name.as_str()).collect();
        (before != 0 && id.0 > before).then(|| ClusterEvent {
            is_warning: false,
            reason: "Configured",
            note: format!("configuration {}: {}", id.0, members.join(", ")),
            name: Some(format!("{cluster}-configuration-{}", id.0)),
        })
    }
}

/// A condition that may pass by itself, and is trouble when it lasts.
#[derive(Default)]
struct Lasting {
    since: Option<Instant>,
    /// The last message reported, whether it was a warning, and when it was reported.
    told: Option<(String, bool, Instant)>,
}

impl Lasting {
    /// Returns the happening to report now, if there is one.
    fn news(
        &mut self,
        reason: &'static str,
        what: Option<String>,
        now: Instant,
    ) -> Option<ClusterEvent> {
        let Some(what) = what else {
            *self = Self::default();
            return None;
        };
        let is_warning = now - *self.since.get_or_insert(now) >= LASTS;
        // The words may change all the time, such as those that state the free space of a disk.
        let is_old = |(told, as_warning, at): &(String, bool, Instant)| {
            *as_warning == is_warning && (*told == what || now - *at < LASTS)
        };
        if self.told.as_ref().is_some_and(is_old) {
            return None;
        }
        self.told = Some((what.clone(), is_warning, now));
        Some(ClusterEvent { is_warning, reason, note: what, name: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_protocol::status::ConfigurationId;

    #[test]
    fn a_change_of_the_members_is_told_and_what_was_before_is_not() {
        let mut last = Last::default();
        let mut change = |id| {
            let configuration = Configuration { id: ConfigurationId(id), members: Vec::new() };
            last.change(ClusterId(0x7b), &configuration).and_then(|told| told.name)
        };
        assert_eq!(change(3), None, "what there was before");
        assert_eq!(change(3), None);
        let name = change(4).unwrap();
        assert!(name.ends_with("7b-configuration-4"), "{name}");
        assert_eq!(change(4), None);
        assert!(change(6).is_some());
    }

    #[test]
    fn a_warning_is_for_what_lasts() {
        let (mut lasting, began) = (Lasting::default(), Instant::now());
        let mut news = |seconds, what: Option<&str>| {
            let now = began + Duration::from_secs(seconds);
            lasting.news("Trouble", what.map(str::to_owned), now).map(|told| told.is_warning)
        };
        assert_eq!(news(0, None), None);
        assert_eq!(news(1, Some("it copies the state")), Some(false));
        assert_eq!(news(2, Some("it copies the state")), None);
        assert_eq!(news(3, Some("it copies more")), None);
        assert_eq!(news(31, Some("it copies more")), Some(true), "it lasts, whatever is said");
        assert_eq!(news(90, Some("it copies more")), None);
        assert_eq!(news(91, None), None, "an end");
        assert_eq!(news(92, Some("it copies more")), Some(false), "and again");
    }
}
