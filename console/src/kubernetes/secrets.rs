//! The certificate of this program, in a Secret of the cluster.
//!
//! Kubernetes' own rights say who may read which Secret; so they decide who may do what. The choice
//! is made once: a user whose rights change starts the program again.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use kvorum_tls::{CA_FILE, CERTIFICATE_FILE, Credentials, Encryption, KEY_FILE};

use super::access::Access;
use super::trouble::call;
use crate::credentials;
use crate::exit::{Exit, Failure};

/// The user who may do everything.
pub(super) const ADMIN: &str = "admin";
/// The user who may look.
pub(super) const VIEW: &str = "view";
/// The users whose certificates a cluster has from its beginning, the mightier one first.
const USERS: [&str; 2] = [ADMIN, VIEW];

/// Returns the name of the Secret with a user's certificate.
pub(super) fn secret_name(set: &str, user: &str) -> String {
    format!("{set}-client-{user}")
}

/// Returns how to encrypt with a cluster that Kubernetes runs. A cluster that does not encrypt can
/// be reached without reading any Secret, so that alone is no error.
///
/// # Errors
/// When a Secret holds something that is of no use, or the API server does not answer.
pub(super) async fn encryption(
    client: &Client,
    access: &Access,
    set: &str,
) -> Result<Encryption, Failure> {
    let mut denied = Vec::new();
    for user in USERS {
        let name = secret_name(set, user);
        let read = match read_secret(client, access, &name).await {
            Ok(read) => read,
            Err(failure) if failure.exit == Exit::NotFound => continue,
            // A user who may not read the mightier one may still read the other.
            Err(failure) if failure.exit == Exit::NotAuthorized => {
                denied.push(name);
                continue;
            }
            Err(failure) => return Err(failure),
        };
        let (client, access) = (client.clone(), access.clone());
        let again = move || {
            let (client, access, name) = (client.clone(), access.clone(), name.clone());
            async move { read_secret(&client, &access, &name).await.ok().flatten() }
        };
        return Ok(credentials::kept(read, again));
    }
    if denied.is_empty() {
        return Ok(Encryption::Off);
    }
    let (names, namespace) = (denied.join(" or "), &access.namespace);
    Ok(Encryption::Denied(Arc::from(format!(
        "you may not get secrets {names} in namespace {namespace}, and it wants the certificate in \
         one of them; ask for the Role {set}-console-view or {set}-console-act, or name a folder \
         with --tls-dir DIR"
    ))))
}

/// Reads the credentials in a Secret; `None` when nobody has filled it yet.
async fn read_secret(
    client: &Client,
    access: &Access,
    name: &str,
) -> Result<Option<Credentials>, Failure> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &access.namespace);
    let secret = call(access, secrets.get(name)).await?;
    let data = secret.data.unwrap_or_default();
    if data.is_empty() {
        return Ok(None);
    }
    let part =
        |file: &str| data.get(file).map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned());
    let part = |file| part(file).unwrap_or_default();
    let read = Credentials::from_pem(&part(CA_FILE), &part(CERTIFICATE_FILE), &part(KEY_FILE));
    read.map(Some).map_err(|error| {
        Failure::failed(format!(
            "the certificate in the Secret {name} in {} is of no use: {error}; the replicas make \
             it anew when its data is removed",
            access.namespace
        ))
    })
}
