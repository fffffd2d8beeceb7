//! Tells in Events of Kubernetes what a replica does and refuses; `kubectl describe` shows them.
//!
//! Guarantees that nothing waits for an Event, that one which cannot be written is lost without
//! harm, and that there is at most one in a while: an Event is for people.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;
use kvorum_protocol::status::{Configuration, Role, Status};
use tokio::sync::watch;
use tokio::time::sleep;

use super::kubernetes::{Kubernetes, parameters};

/// Least time between two Events of a replica.
const INTERVAL: Duration = Duration::from_secs(2);
/// A configuration that somebody else leads for so long was told by that one.
const TOLD_BY_OTHERS: Duration = Duration::from_secs(10);
/// Longest note, in characters; an Event may have a KiB.
const NOTE_CHARACTERS_MAX: usize = 300;

/// Something that people should hear of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Happening {
    /// What is wrong, if something is; else what happened.
    pub is_warning: bool,
    /// One word, as `kubectl get events` shows it.
    pub reason: &'static str,
    /// A sentence.
    pub note: String,
}

/// Tells what happens to one replica.
pub struct Herald {
    kubernetes: Kubernetes,
    name: String,
}

impl Herald {
    pub(super) fn new(kubernetes: Kubernetes, name: String) -> Self {
        Self { kubernetes, name }
    }

    /// Tells what the leader does with the members, and why it waits, until the replica ends.
    pub async fn follow(self, mut status: watch::Receiver<Option<Arc<Status>>>) {
        let mut last = Last::default();
        while status.changed().await.is_ok() {
            let now = status.borrow_and_update().clone();
            let Some(happening) = now.and_then(|status| last.news(&status)) else { continue };
            self.tell(happening).await;
            sleep(INTERVAL).await;
        }
    }

    /// Writes one Event.
    pub async fn tell(&self, happening: Happening) {
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
                generate_name: Some(format!("{}-", self.name)),
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

/// What was told last.
#[derive(Default)]
struct Last {
    /// The configuration that needs no telling.
    configuration: u32,
    /// Since when another one is there, of which this replica does not know who tells it: each new
    /// configuration begins without a leader.
    unclear_since: Option<Instant>,
    waits: Option<String>,
    trouble: Option<String>,
}

impl Last {
    /// What a status tells that is new.
    fn news(&mut self, status: &Status) -> Option<Happening> {
        let trouble = self.trouble(&status.name, status.trouble.as_ref());
        let (leads, membership) = (status.role == Role::Leader, &status.membership);
        let waits = membership.waits.as_ref();
        trouble.or_else(|| self.change(leads, &status.configuration, waits, Instant::now()))
    }

    fn trouble(&mut self, name: &str, trouble: Option<&String>) -> Option<Happening> {
        if trouble == self.trouble.as_ref() {
            return None;
        }
        self.trouble = trouble.cloned();
        let note = format!("{name}: {}", trouble?);
        Some(Happening { is_warning: true, reason: "Trouble", note })
    }

    /// What the leader does with the members. What there was at first is no news.
    fn change(
        &mut self,
        leads: bool,
        configuration: &Configuration,
        waits: Option<&String>,
        now: Instant,
    ) -> Option<Happening> {
        let Configuration { id, members } = configuration;
        if self.configuration == 0 {
            self.configuration = id.0;
        }
        let is_new = id.0 > self.configuration;
        if !leads {
            let since = *self.unclear_since.get_or_insert(now);
            if !is_new || now - since > TOLD_BY_OTHERS {
                (self.configuration, self.unclear_since) = (id.0, None);
            }
            return None;
        }
        self.unclear_since = None;
        if is_new {
            self.configuration = id.0;
            let members: Vec<_> = members.iter().map(|member| member.name.as_str()).collect();
            let note = format!("configuration {}: {}", id.0, members.join(", "));
            return Some(Happening { is_warning: false, reason: "Configured", note });
        }
        if waits == self.waits.as_ref() {
            return None;
        }
        self.waits = waits.cloned();
        Some(Happening { is_warning: true, reason: "ScalingWaits", note: waits?.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_protocol::status::ConfigurationId;

    #[test]
    fn what_is_new_is_told_once() {
        let mut last = Last::default();
        let configuration = |id| Configuration { id: ConfigurationId(id), members: Vec::new() };
        let mut now = Instant::now();
        let mut change = |leads, id, waits: Option<&String>, later| {
            now += Duration::from_secs(later);
            last.change(leads, &configuration(id), waits, now).map(|told| told.reason)
        };
        assert_eq!(change(true, 1, None, 0), None, "what there was before");
        assert_eq!(change(false, 2, None, 1), None, "nobody leads yet");
        assert_eq!(change(true, 2, None, 1), Some("Configured"));
        assert_eq!(change(true, 2, None, 1), None);
        let waits = "kvorum-2 has not come".to_owned();
        assert_eq!(change(true, 2, Some(&waits), 1), Some("ScalingWaits"));
        assert_eq!(change(true, 2, Some(&waits), 1), None);
        assert_eq!(change(false, 3, None, 1), None);
        assert_eq!(change(false, 3, None, 20), None, "another one leads, and told it");
        assert_eq!(change(true, 3, Some(&waits), 1), None);
        let trouble = "the disk is full".to_owned();
        let told = last.trouble("kvorum-1", Some(&trouble)).map(|told| told.note);
        assert_eq!(told.as_deref(), Some("kvorum-1: the disk is full"));
        assert_eq!(last.trouble("kvorum-1", Some(&trouble)), None);
        assert_eq!(last.trouble("kvorum-1", None), None, "an end of trouble");
    }
}
