//! The certificates of the cluster, in its Secrets: the one of this program, and the others.
//!
//! Kubernetes' own rights say who may read which Secret; so they decide who may do what. The choice
//! is made once: a user whose rights change starts the program again.

use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::{Api, Client};
use kvorum_tls::{CA_FILE, CERTIFICATE_FILE, Credentials, Encryption, KEY_FILE, client_secret};

use super::Kube;
use super::access::Access;
use super::trouble::call;
use crate::credentials;
use crate::exit::{Exit, Failure};
use crate::rotation::Files;

/// The field manager, which records in an object which program wrote it.
const MANAGER: &str = "kvorum";

/// Returns the parts of a Secret.
pub fn files(secret: &Secret) -> Files {
    let data = secret.data.iter().flatten();
    let text = |bytes: &ByteString| String::from_utf8_lossy(&bytes.0).into_owned();
    data.map(|(file, bytes)| (file.clone(), text(bytes))).collect()
}

impl Kube {
    /// Returns the name of one of the cluster's Secrets.
    #[must_use]
    pub fn secret_name(&self, name: &str) -> String {
        format!("{}-{name}", self.set)
    }

    /// Reads one of the cluster's Secrets.
    ///
    /// # Errors
    /// When there is none, or the API server refuses or does not answer.
    pub async fn secret(&self, name: &str) -> Result<Secret, Failure> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.access.namespace);
        call(&self.access, secrets.get(&self.secret_name(name))).await
    }

    /// Replaces what is in a Secret, if it is still as it was read; returns whether it did.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub async fn replace_secret(&self, mut read: Secret, files: Files) -> Result<bool, Failure> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.access.namespace);
        let data = files.into_iter().map(|(name, text)| (name, ByteString(text.into_bytes())));
        // The object carries the version that was read: the API server rejects it after any other
        // change.
        read.data = Some(data.collect());
        let name = read.metadata.name.clone().unwrap_or_default();
        let parameters =
            PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let replacing = async {
            match secrets.replace(&name, &parameters, &read).await {
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
                replaced => replaced.map(|_| true),
            }
        };
        call(&self.access, replacing).await
    }
}

/// Returns the name of the Secret with a user's certificate.
pub(super) fn secret_name(set: &str, user: &str) -> String {
    format!("{set}-{}", client_secret(user))
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
    for user in credentials::USERS {
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
        return Ok(credentials::kept(read, credentials::SECRET_INTERVAL, again));
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
    let files = files(&secret);
    if files.is_empty() {
        return Ok(None);
    }
    let part = |file: &str| files.get(file).map_or("", String::as_str);
    let read = Credentials::from_pem(part(CA_FILE), part(CERTIFICATE_FILE), part(KEY_FILE));
    read.map(Some).map_err(|error| {
        Failure::failed(format!(
            "the certificate in the Secret {name} in {} is of no use: {error}; the replicas make \
             it anew when its data is removed",
            access.namespace
        ))
    })
}
