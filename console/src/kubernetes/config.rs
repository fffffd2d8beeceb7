//! The choice of the API server and of the identity to use.
//!
//! By kubeconfig, as `kubectl` does; without one, as the pod that this program runs in; through a
//! proxy, if there is one on the way. Guarantees that a login plugin never writes to the screen nor
//! reads from it, and that an error names the file that is wrong.

use std::env;
use std::path::PathBuf;

use kube::config::{ExecInteractiveMode, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tokio::time::timeout;

use super::access::{Access, CALL_PATIENCE};
use super::login::{self, LOGIN_PATIENCE};
use crate::exit::{Exit, Failure};

/// The default name of the `StatefulSet`.
pub const STATEFULSET: &str = "kvorum";
/// The name shown for the context inside a cluster, where there is none.
const INSIDE: &str = "this cluster";

/// The cluster as the command line names it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KubeTarget {
    /// The context of the kubeconfig; the current one if not given.
    pub context: Option<String>,
    /// The namespace; the context's if not given.
    pub namespace: Option<String>,
    /// The `StatefulSet`; the default one if not given.
    pub statefulset: Option<String>,
}

impl KubeTarget {
    /// Returns the name of the `StatefulSet`.
    #[must_use]
    pub fn statefulset(&self) -> &str {
        self.statefulset.as_deref().unwrap_or(STATEFULSET)
    }
}

impl Access {
    /// Creates a client of the API server. Does not contact the server yet, but may run a login
    /// plugin.
    ///
    /// # Errors
    /// When the certificates or keys of the configuration cannot be used, or the plugin fails or
    /// takes too long.
    pub async fn client(&self) -> Result<Client, Failure> {
        let config = self.config.clone();
        // The conversion waits for the plugin.
        let made = tokio::task::spawn_blocking(move || Client::try_from(config));
        match timeout(LOGIN_PATIENCE, made).await {
            Ok(Ok(made)) => made.map_err(|error| super::trouble::explain(self, &error)),
            Ok(Err(panicked)) => Err(Failure::failed(panicked.to_string())),
            Err(_) => Err(self.no_login()),
        }
    }

    /// Returns the error for a login plugin that has not answered.
    fn no_login(&self) -> Failure {
        let plugin = self.plugin.as_deref().unwrap_or("for it");
        let (user, seconds) = (&self.user, LOGIN_PATIENCE.as_secs());
        Failure::new(
            Exit::Unavailable,
            format!(
                "the login plugin {plugin} of user {user} has not answered for {seconds} s; it may \
                 wait for somebody to log in: run 'kubectl get pods', and try again"
            ),
        )
    }
}

/// Whether a kubeconfig or this program's pod says where an API server is.
#[must_use]
pub fn is_there() -> bool {
    is_inside() || files().iter().any(|file| file.exists())
}

/// Whether this program runs in a pod.
fn is_inside() -> bool {
    env::var_os("KUBERNETES_SERVICE_HOST").is_some_and(|host| !host.is_empty())
}

/// Returns the files that a kubeconfig is read from.
fn files() -> Vec<PathBuf> {
    match env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) {
        Some(list) => env::split_paths(&list).collect(),
        None => env::var_os("HOME")
            .map(|home| PathBuf::from(home).join(".kube").join("config"))
            .into_iter()
            .collect(),
    }
}

/// Returns the names of the contexts, the current one first.
#[must_use]
pub fn contexts() -> Vec<String> {
    read(&files()).map_or_else(|_| Vec::new(), |kubeconfig| contexts_of(&kubeconfig))
}

/// Reads the files of a list that exist, as `kubectl` does: where several define the same thing,
/// the first one counts, and a current context without a name is none.
fn read(files: &[PathBuf]) -> Result<Kubeconfig, KubeconfigError> {
    let there = files.iter().filter(|file| file.exists());
    let one = |file| {
        let mut one = Kubeconfig::read_from(file)?;
        one.current_context = one.current_context.filter(|context| !context.is_empty());
        Ok(one)
    };
    there.map(one).try_fold(Kubeconfig::default(), |all, one| all.merge(one?))
}

fn contexts_of(kubeconfig: &Kubeconfig) -> Vec<String> {
    let current = kubeconfig.current_context.as_ref();
    let names = kubeconfig.contexts.iter().map(|context| context.name.clone());
    let mut names: Vec<_> = names.collect();
    names.sort_by_key(|name| (Some(name) != current, name.clone()));
    names
}

/// Reads the kubeconfig; without one, the configuration of the pod.
///
/// # Errors
/// When something is missing or wrong, and in which file.
pub async fn load(named: &KubeTarget) -> Result<Access, Failure> {
    let has_file = files().iter().any(|file| file.exists());
    if !has_file && named.context.is_none() && is_inside() {
        return inside(named);
    }
    if !has_file {
        let files: Vec<_> = files().iter().map(|file| file.display().to_string()).collect();
        return Err(Failure::new(
            Exit::Unavailable,
            format!(
                "there is no kubeconfig (looked at {}), and this is no pod of a cluster; set \
                 KUBECONFIG, or name replicas with --endpoints HOST:PORT",
                files.join(", ")
            ),
        ));
    }
    let mut kubeconfig = read(&files()).map_err(|error| unreadable(&error))?;
    for user in &mut kubeconfig.auth_infos {
        // An interactive plugin would take the terminal that the console draws on.
        if let Some(exec) = user.auth_info.as_mut().and_then(|user| user.exec.as_mut()) {
            exec.interactive_mode = Some(ExecInteractiveMode::Never);
        }
    }
    let known = contexts_of(&kubeconfig);
    let Some(context) = named.context.clone().or_else(|| kubeconfig.current_context.clone()) else {
        return Err(no_context("the kubeconfig has no current context", &known));
    };
    let found = kubeconfig.contexts.iter().find(|one| one.name == context);
    let Some(found) = found.and_then(|one| one.context.clone()) else {
        let what = format!("the kubeconfig has no context '{context}'");
        return Err(no_context(&what, &known));
    };
    let options = KubeConfigOptions { context: Some(context.clone()), ..Default::default() };
    let cluster = kubeconfig.clusters.iter().find(|one| one.name == found.cluster);
    let proxy = cluster.and_then(|one| one.cluster.as_ref()?.proxy_url.clone());
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    let mut config = config.map_err(|error| unreadable(&error))?;
    config.connect_timeout = Some(CALL_PATIENCE);
    let plugin = config.auth_info.exec.as_mut().and_then(login::guard);
    super::proxy::set(&mut config, proxy)?;
    introduce(&mut config);
    let namespace = named.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let user = found.user.unwrap_or_default();
    Ok(Access { config, context, user, plugin, namespace, is_inside: false })
}

/// Names this program to the API server: administrators look for that in their logs.
fn introduce(config: &mut Config) {
    let program = concat!("kvorum/", env!("CARGO_PKG_VERSION"));
    let (name, value) = ("user-agent".parse(), program.parse());
    config.headers.extend(name.ok().zip(value.ok()));
}

fn inside(named: &KubeTarget) -> Result<Access, Failure> {
    let config = Config::incluster();
    let mut config = config.map_err(|error| {
        Failure::failed(format!(
            "this is a pod, but it has no ServiceAccount to ask the API server as: {error}"
        ))
    })?;
    config.connect_timeout = Some(CALL_PATIENCE);
    introduce(&mut config);
    let namespace = named.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let (context, user) = (INSIDE.to_owned(), "the pod's ServiceAccount".to_owned());
    Ok(Access { config, context, user, plugin: None, namespace, is_inside: true })
}

fn no_context(what: &str, known: &[String]) -> Failure {
    let known = match known {
        [] => "it names none".to_owned(),
        known => format!("it has: {}", known.join(", ")),
    };
    Failure::usage(format!("{what}; {known}; choose one with --context NAME"))
}

fn unreadable(error: &KubeconfigError) -> Failure {
    if let KubeconfigError::ParseNoProxy(error) = error {
        return Failure::usage(format!(
            "NO_PROXY cannot be read: {error}; write names, addresses and networks, with one comma \
             between two of them"
        ));
    }
    let files: Vec<_> = files().iter().map(|file| file.display().to_string()).collect();
    let mut why = error.to_string();
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
        if !why.contains(&cause.to_string()) {
            why = format!("{why}: {cause}");
        }
    }
    Failure::usage(format!("the kubeconfig ({}) cannot be used: {why}", files.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the contexts read from files with these contexts; `None` is a missing file.
    fn contexts_in(list: &[Option<&str>]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let file = |(number, context): (usize, Option<&str>)| {
            let file = folder.path().join(number.to_string());
            if let Some(context) = context {
                let text = format!(
                    "apiVersion: v1\nkind: Config\ncurrent-context: {context}\n\
                     contexts: [{{name: {context}, context: {{cluster: c, user: u}}}}]\n"
                );
                std::fs::write(&file, text).unwrap();
            }
            file
        };
        let files: Vec<_> = list.iter().copied().enumerate().map(file).collect();
        contexts_of(&read(&files).unwrap())
    }

    #[test]
    fn files_of_the_list_that_are_not_there_are_passed_over() {
        assert_eq!(contexts_in(&[Some("a"), None]), ["a"]);
        assert_eq!(contexts_in(&[None, Some("a")]), ["a"]);
        assert_eq!(contexts_in(&[Some("b"), None, Some("a")]), ["b", "a"], "the current one first");
        assert_eq!(contexts_in(&[None]), [""; 0]);
    }

    /// `kubectl config unset current-context` leaves an empty name.
    #[test]
    fn a_current_context_without_a_name_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let texts = ["current-context: ''\n", "current-context: b\n", "current-context: c\n"];
        let file = |(number, text): (usize, &str)| {
            let file = folder.path().join(number.to_string());
            std::fs::write(&file, format!("apiVersion: v1\nkind: Config\n{text}")).unwrap();
            file
        };
        let files: Vec<_> = texts.into_iter().enumerate().map(file).collect();
        assert_eq!(read(&files).unwrap().current_context.as_deref(), Some("b"));
        assert_eq!(read(&files[..1]).unwrap().current_context, None);
    }
}
