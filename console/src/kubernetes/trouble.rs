//! Explanations of failed calls to the API server, in a sentence with a remedy.
//!
//! Guarantees that the user reads the innermost reason, and that the exit status stands for it.

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::ListParams;
use kube::client::AuthError;
use kube::runtime::watcher;
use kube::{Api, Client, Error};
use tokio::time::timeout;

use super::access::{Access, CALL_PATIENCE};
use super::login::NOT_RUN;
use crate::exit::{Exit, Failure};

/// The label of all objects that belong to Kvorum.
pub const LABEL: &str = "app.kubernetes.io/name=kvorum";
/// The most lines of a login plugin's output that are shown.
const PLUGIN_LINES: usize = 3;

/// Explains an error of a call to the API server.
#[must_use]
pub fn explain(access: &Access, error: &Error) -> Failure {
    let server = access.server();
    match error {
        Error::Api(status) => match status.code {
            401 => Failure::new(
                Exit::NotAuthorized,
                format!(
                    "the API server {server} does not accept the credentials of {}: rejected or \
                     expired; log in again",
                    access.user
                ),
            ),
            403 => Failure::new(
                Exit::NotAuthorized,
                format!("not allowed: {}; ask for a Role with that verb", status.message),
            ),
            404 => Failure::new(Exit::NotFound, format!("not found: {}", status.message)),
            429 | 503 | 504 => Failure::new(
                Exit::Unavailable,
                format!("the API server {server} is busy: {}; try again", status.message),
            ),
            code => Failure::failed(format!("the API server refuses ({code}): {}", status.message)),
        },
        Error::Auth(error) => Failure::new(Exit::NotAuthorized, login(access, error)),
        Error::UpgradeConnection(error) => Failure::new(
            Exit::Unavailable,
            format!(
                "the way to the API server {server} does not pass WebSockets ({error}); name the \
                 replicas with --endpoints HOST:PORT"
            ),
        ),
        other => {
            let why = root_cause(other);
            let proxy = access.proxy();
            let hint = match &why {
                _ if proxy.is_some() => {
                    ": is the proxy there, and does it let this server through? (proxy-url of the \
                     kubeconfig, HTTPS_PROXY, NO_PROXY)"
                }
                why if why.contains("refused") => ": is the cluster running?",
                why if why.contains("certificate") => {
                    ": the cluster's certificate and the kubeconfig do not fit (tls-server-name, \
                     certificate-authority)"
                }
                why if why.contains("lookup") || why.contains("resolve") => {
                    ": the name is not known here; a VPN?"
                }
                _ => "",
            };
            let way = proxy.map_or_else(String::new, |proxy| format!(" through the proxy {proxy}"));
            Failure::new(
                Exit::Unavailable,
                format!("the API server {server} cannot be reached{way}: {why}{hint}"),
            )
        }
    }
}

/// Explains an error of a watch.
#[must_use]
pub fn of_watch(access: &Access, error: &watcher::Error) -> Failure {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => explain(access, error),
        other => Failure::new(Exit::Unavailable, other.to_string()),
    }
}

/// Explains that the API server does not answer.
#[must_use]
pub fn silent(access: &Access) -> Failure {
    let server = access.server();
    Failure::new(
        Exit::Unavailable,
        format!("no answer from the API server {server} within {CALL_PATIENCE:?}: a VPN?"),
    )
}

/// Explains that there is no such `StatefulSet`, and names where there are others of Kvorum.
pub async fn no_set(client: &Client, access: &Access, set: &str) -> Failure {
    let all: Api<StatefulSet> = Api::all(client.clone());
    let ours = ListParams::default().labels(LABEL);
    let elsewhere = match timeout(CALL_PATIENCE, all.list(&ours)).await {
        Ok(Ok(list)) => list.items,
        // A user who may not look in every namespace gets a shorter message.
        _ => Vec::new(),
    };
    let name = |set: StatefulSet| {
        let (namespace, name) = (set.metadata.namespace?, set.metadata.name?);
        Some(format!("--namespace {namespace} --statefulset {name}"))
    };
    let elsewhere: Vec<_> = elsewhere.into_iter().filter_map(name).collect();
    let what_next = match elsewhere.as_slice() {
        [] => "install one with 'kubectl apply -k deploy', or name it with --namespace and \
               --statefulset"
            .to_owned(),
        found => format!("there is: {}", found.join("; ")),
    };
    let (namespace, context) = (&access.namespace, &access.context);
    Failure::new(
        Exit::Unavailable,
        format!("there is no StatefulSet {set} in namespace {namespace} of {context}; {what_next}"),
    )
}

/// Explains why the login failed.
fn login(access: &Access, error: &AuthError) -> String {
    let plugin = access.plugin.as_deref().unwrap_or("of the kubeconfig");
    let why = match error {
        AuthError::AuthExecRun { out, .. } => {
            let said = last_lines(&String::from_utf8_lossy(&out.stderr));
            let said = if said.is_empty() { "it says nothing".to_owned() } else { said };
            match out.status.code() == Some(NOT_RUN.into()) {
                true => format!("the login plugin {plugin} cannot be run: {said}"),
                false => format!("the login plugin {plugin} failed ({}): {said}", out.status),
            }
        }
        AuthError::AuthExecStart(error) => {
            format!("the login plugin {plugin} cannot be run: {error}")
        }
        AuthError::AuthExecParse(_) | AuthError::ExecPluginFailed => {
            format!("the login plugin {plugin} printed something else than an ExecCredential")
        }
        other => last_lines(&other.to_string()),
    };
    format!(
        "cannot log in as {}: {why}; run the login command of your cluster in a terminal, then try \
         again",
        access.user
    )
}

/// Returns the last lines of a text, as one line.
fn last_lines(said: &str) -> String {
    let lines: Vec<_> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(PLUGIN_LINES)..].join(" ")
}

/// Returns the innermost reason, which is the one that the user can act on.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Waits for a call to the API server, for a limited time.
pub async fn call<T>(
    access: &Access,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Failure> {
    match timeout(CALL_PATIENCE, call).await {
        Ok(done) => done.map_err(|error| explain(access, &error)),
        Err(_) => Err(silent(access)),
    }
}
