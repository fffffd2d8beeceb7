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
use tokio::time::timeout;

use super::Kube;
use super::access::Access;

/// How long the answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

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
    /// Read the cluster's marker, that one `ConfigMap` only.
    Marker,
}

/// All rights that the console needs.
pub const RIGHTS: [Right; 13] = [
    right(Action::Watch, "get", "apps", "statefulsets", ""),
    right(Action::Watch, "list", "apps", "statefulsets", ""),
    right(Action::Watch, "watch", "apps", "statefulsets", ""),
    right(Action::Watch, "list", "", "pods", ""),
    right(Action::Watch, "watch", "", "pods", ""),
    right(Action::Reach, "get", "", "pods", "portforward"),
    right(Action::ReachNewer, "create", "", "pods", "portforward"),
    right(Action::Kill, "delete", "", "pods", ""),
    right(Action::Scale, "patch", "apps", "statefulsets", "scale"),
    right(Action::Logs, "get", "", "pods", "log"),
    right(Action::Events, "list", "", "events", ""),
    right(Action::Events, "watch", "", "events", ""),
    right(Action::Marker, "get", "", "configmaps", ""),
];

const fn right(
    action: Action,
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    part: &'static str,
) -> Right {
    Right { action, verb, group, resource, part }
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
}

/// Returns the rights that are missing. An error means that the API server did not answer.
pub async fn missing(kube: &Kube) -> Result<Vec<Right>, String> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(kube.client().clone());
    let ask = |right: Right| {
        let reviews = reviews.clone();
        let attributes = ResourceAttributes {
            namespace: Some(kube.access.namespace.clone()),
            name: (right.action == Action::Marker).then(|| kube.marker_name()),
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
pub fn why_not(missing: &[Right], action: Action, access: &Access) -> Option<String> {
    let lacks = |right: &&Right| right.action == action;
    let verbs: Vec<_> = missing
        .iter()
        .filter(lacks)
        .map(|right| format!("{} {}", right.verb, right.resource()))
        .collect();
    let namespace = &access.namespace;
    (!verbs.is_empty()).then(|| {
        format!("you may not {} in namespace {namespace}; ask for a Role with it", verbs.join(", "))
    })
}
