//! The rights that the API server grants this user.
//!
//! Guarantees that an answer is only a hint: every request is made in any case, and the API server
//! decides. Where it does not answer, everything counts as allowed.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::Api;
use kube::api::PostParams;
use kvorum_protocol::access::{ADMIN, VIEW};
use tokio::time::timeout;

use super::secrets::secret_name;
use super::{Kube, marker_name};

/// How long the answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// The object that a right is for, where a Role may limit the right to one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Object {
    /// All of the namespace: a list of pods cannot be limited to names.
    All,
    /// Each replica's pod. One of them is asked about.
    Pod,
    /// The `StatefulSet`.
    Set,
    /// The `ConfigMap` that marks the cluster.
    Marker,
    /// The Secret with the certificate of this user.
    Certificate(&'static str),
}

/// A right that the console needs for something that it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Right {
    /// The action that needs it.
    pub action: Action,
    /// The verb.
    pub verb: &'static str,
    /// The API group.
    pub group: &'static str,
    /// The resource.
    pub resource: &'static str,
    /// The subresource, or an empty string.
    pub part: &'static str,
    /// The object.
    pub object: Object,
}

/// The action that a right is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// See the pods.
    Watch,
    /// Reach the replicas from outside the cluster.
    Reach,
    /// The same, through an API server of version 1.35 or newer.
    ReachNewer,
    /// Delete a pod.
    Kill,
    /// Change the number of replicas.
    Scale,
    /// Read a pod's log.
    Logs,
    /// See Events.
    Events,
    /// Read the cluster's marker.
    Marker,
    /// Write keys: read the certificate of the user who may do everything.
    Write,
    /// Read keys, where the user may do no more: read the certificate of the user who may look.
    Look,
}

/// All rights that the console needs.
pub const RIGHTS: [Right; 15] = [
    right(Action::Watch, "get", "apps", "statefulsets", "", Object::Set),
    right(Action::Watch, "list", "apps", "statefulsets", "", Object::Set),
    right(Action::Watch, "watch", "apps", "statefulsets", "", Object::Set),
    right(Action::Watch, "list", "", "pods", "", Object::All),
    right(Action::Watch, "watch", "", "pods", "", Object::All),
    right(Action::Reach, "get", "", "pods", "portforward", Object::Pod),
    right(Action::ReachNewer, "create", "", "pods", "portforward", Object::Pod),
    right(Action::Kill, "delete", "", "pods", "", Object::Pod),
    right(Action::Scale, "patch", "apps", "statefulsets", "scale", Object::Set),
    right(Action::Logs, "get", "", "pods", "log", Object::Pod),
    right(Action::Events, "list", "", "events", "", Object::All),
    right(Action::Events, "watch", "", "events", "", Object::All),
    right(Action::Marker, "get", "", "configmaps", "", Object::Marker),
    right(Action::Write, "get", "", "secrets", "", Object::Certificate(ADMIN)),
    right(Action::Look, "get", "", "secrets", "", Object::Certificate(VIEW)),
];

const fn right(
    action: Action,
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    part: &'static str,
    object: Object,
) -> Right {
    Right { action, verb, group, resource, part, object }
}

impl Right {
    /// Returns the resource as a Role names it.
    #[must_use]
    pub fn resource(&self) -> String {
        match self.part {
            "" => self.resource.to_owned(),
            part => format!("{}/{part}", self.resource),
        }
    }

    /// Returns the right as a Role grants it: the verb, the resource, and the name of an object of
    /// which there is one.
    fn words(&self, set: &str) -> String {
        let words = format!("{} {}", self.verb, self.resource());
        match self.object {
            Object::All | Object::Pod => words,
            object => format!("{words} {}", object.name(set)),
        }
    }
}

impl Object {
    /// Returns its name; for pods, that of the first one.
    fn name(self, set: &str) -> String {
        match self {
            Self::All => String::new(),
            Self::Pod => format!("{set}-0"),
            Self::Set => set.to_owned(),
            Self::Marker => marker_name(set),
            Self::Certificate(user) => secret_name(set, user),
        }
    }
}

/// Returns the rights that are missing. An error means that the API server did not answer.
pub async fn missing(kube: &Kube) -> Result<Vec<Right>, String> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(kube.client().clone());
    // By the name that the request itself will have: a Role may be limited to it.
    let pod = kube.pods().names().into_iter().next();
    let name = |object: Object| match (object, &pod) {
        (Object::All, _) => None,
        (Object::Pod, Some(pod)) => Some(pod.clone()),
        (object, _) => Some(object.name(&kube.set)),
    };
    let ask = |right: Right| {
        let reviews = reviews.clone();
        let attributes = ResourceAttributes {
            namespace: Some(kube.access.namespace.clone()),
            name: name(right.object),
            verb: Some(right.verb.to_owned()),
            group: Some(right.group.to_owned()),
            resource: Some(right.resource.to_owned()),
            subresource: Some(right.part.to_owned()).filter(|part| !part.is_empty()),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        async move {
            let told = reviews.create(&PostParams::default(), &review).await;
            let status = told.map_err(|error| error.to_string())?.status;
            Ok::<_, String>((right, status.is_none_or(|status| status.allowed)))
        }
    };
    let told = timeout(PATIENCE, join_all(RIGHTS.map(ask))).await;
    let told = told.map_err(|_| format!("no answer within {PATIENCE:?}"))?;
    let told: Result<Vec<_>, String> = told.into_iter().collect();
    Ok(told?.into_iter().filter(|(_, allowed)| !allowed).map(|(right, _)| right).collect())
}

/// Returns the reason why an action cannot be done, if a right for it is missing.
#[must_use]
pub fn why_not(missing: &[Right], action: Action, kube: &Kube) -> Option<String> {
    let lacks = |right: &&Right| right.action == action;
    let verbs: Vec<_> = missing.iter().filter(lacks).map(|right| right.words(&kube.set)).collect();
    let namespace = &kube.access.namespace;
    (!verbs.is_empty()).then(|| {
        format!("you may not {} in namespace {namespace}; ask for a Role with it", verbs.join(", "))
    })
}
