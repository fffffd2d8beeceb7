//! The cluster's secrets: its certificate authority, and its clients' certificates.
//!
//! | where | as what |
//! |---|---|
//! | a folder | `tls/NAME/`, one file for each part, private to the owner |
//! | Kubernetes | the `Secret` SET-NAME, one key for each part; the manifests ship it, empty |
//!
//! Guarantees that a secret is replaced only if it is still as it was read. The file system, or the
//! rights of Kubernetes, decide who may read one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret as Object;
use rustix::fs::{FlockOperation, flock};
use tokio::time::timeout;

use super::kubernetes::{CALL_PATIENCE, Kubernetes, no_answer, parameters};
use super::{Folder, Orchestrator, OrchestratorError, kubernetes};

/// The folder of the secrets, in an orchestrating folder.
pub const SECRETS_FOLDER: &str = "tls";
/// The file that is locked while a secret is read or replaced.
const LOCK_FILE: &str = "lock";

/// The time between two looks at a folder's secrets.
const SECRETS_INTERVAL: Duration = Duration::from_secs(2);
/// The word of a cluster that a folder orchestrates.
const LOCAL_WORD: &str = "local";

/// The parts of a secret, by file name.
pub type Files = BTreeMap<String, String>;

/// A secret as it was read.
#[derive(Clone, Debug)]
pub struct Secret {
    /// Its parts; empty when nobody has filled it yet.
    pub files: Files,
    place: Place,
}

/// Where a secret was read.
#[derive(Clone, Debug)]
enum Place {
    Folder(PathBuf),
    Kubernetes(Box<Object>),
}

impl Secret {
    /// Returns a part; empty when it is missing.
    #[must_use]
    pub fn part(&self, file: &str) -> &str {
        self.files.get(file).map_or("", String::as_str)
    }

    /// Returns a human-readable description of where the secret is.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.place {
            Place::Folder(path) => path.display().to_string(),
            Place::Kubernetes(object) => {
                let name = object.metadata.name.as_deref().unwrap_or_default();
                let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
                format!("the Secret {name} in {namespace}")
            }
        }
    }
}

impl Orchestrator {
    /// Returns the word that all certificates of this cluster have in common.
    #[must_use]
    pub fn cluster_word(&self) -> String {
        match self {
            Self::Folder(_) => LOCAL_WORD.to_owned(),
            Self::Kubernetes(kubernetes) => kubernetes.cluster_word(),
        }
    }

    /// Returns the host names at which the named replica is reached.
    #[must_use]
    pub fn hosts(&self, name: &str) -> Vec<String> {
        match self {
            Self::Folder(_) => Vec::new(),
            Self::Kubernetes(kubernetes) => kubernetes.hosts(name),
        }
    }

    /// Reads one of the cluster's secrets.
    pub async fn secret(&self, name: &str) -> Result<Secret, OrchestratorError> {
        match self {
            Self::Folder(folder) => folder.secret(name).await,
            Self::Kubernetes(kubernetes) => kubernetes.secret(name).await,
        }
    }

    /// Replaces what is in a secret, if it is still as it was read; returns whether it did.
    pub async fn replace_secret(
        &self,
        read: Secret,
        files: Files,
    ) -> Result<bool, OrchestratorError> {
        match self {
            Self::Folder(folder) => folder.replace_secret(read, files).await,
            Self::Kubernetes(kubernetes) => kubernetes.replace_secret(read, files).await,
        }
    }

    /// Returns the time between two looks at the cluster's secrets.
    #[must_use]
    pub fn secrets_interval(&self) -> Duration {
        match self {
            Self::Folder(_) => SECRETS_INTERVAL,
            Self::Kubernetes(_) => kubernetes::SECRETS_INTERVAL,
        }
    }
}

impl Folder {
    pub(super) async fn secret(&self, name: &str) -> Result<Secret, OrchestratorError> {
        let name = name.to_owned();
        self.blocking(move |folder| {
            let (_lock, path) = folder.open_secret(&name)?;
            Ok(Secret { files: read_files(&path)?, place: Place::Folder(path) })
        })
        .await
    }

    pub(super) async fn replace_secret(
        &self,
        read: Secret,
        files: Files,
    ) -> Result<bool, OrchestratorError> {
        let Place::Folder(path) = read.place else { return Ok(false) };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.blocking(move |folder| {
            let (_lock, path) = folder.open_secret(&name)?;
            if read_files(&path)? != read.files {
                return Ok(false);
            }
            write_files(&path, &files)?;
            // A part that is gone goes last: until then, what stays has to be read as it is.
            for file in read.files.keys().filter(|file| !files.contains_key(*file)) {
                fs::remove_file(path.join(file))?;
            }
            File::open(&path)?.sync_all()?;
            Ok(true)
        })
        .await
    }

    /// Creates a secret's folder if it is not there, and locks all of them.
    fn open_secret(&self, name: &str) -> io::Result<(File, PathBuf)> {
        let all = self.path().join(SECRETS_FOLDER);
        let path = all.join(name);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        let lock = File::options().create(true).append(true).open(all.join(LOCK_FILE))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        Ok((lock, path))
    }
}

/// Writes the parts of a secret into its folder, each whole or not at all, and synced.
pub(crate) fn write_files(path: &Path, files: &Files) -> io::Result<()> {
    for (file, text) in files {
        kvorum_tls::write_private(&path.join(file), text, false)?;
    }
    File::open(path)?.sync_all()
}

fn read_files(path: &Path) -> io::Result<Files> {
    let mut files = Files::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // A file whose name begins with a dot is one that is being written.
        if name.starts_with('.') {
            continue;
        }
        let text = kvorum_tls::read_private(&file).map_err(io::Error::other)?;
        files.insert(name, text);
    }
    Ok(files)
}

impl Kubernetes {
    pub(super) async fn secret(&self, name: &str) -> Result<Secret, OrchestratorError> {
        let name = format!("{}-{name}", self.set);
        let object = self.call("get", self.secrets.get_opt(&name)).await?.ok_or_else(|| {
            OrchestratorError::Gone(format!(
                "there is no Secret {name} in {}: the manifests ship it, empty, and the replicas \
                 fill it; apply them again",
                self.namespace
            ))
        })?;
        let data = object.data.iter().flatten();
        let files = data
            .map(|(name, bytes)| (name.clone(), String::from_utf8_lossy(&bytes.0).into_owned()));
        Ok(Secret { files: files.collect(), place: Place::Kubernetes(Box::new(object)) })
    }

    pub(super) async fn replace_secret(
        &self,
        read: Secret,
        files: Files,
    ) -> Result<bool, OrchestratorError> {
        let Place::Kubernetes(mut object) = read.place else { return Ok(false) };
        let data = files.into_iter().map(|(name, text)| (name, ByteString(text.into_bytes())));
        // The object carries the version that was read: the API server rejects it after any other
        // change.
        object.data = Some(data.collect());
        let name = object.metadata.name.clone().unwrap_or_default();
        let parameters = parameters();
        let replaced = self.secrets.replace(&name, &parameters, &object);
        match timeout(CALL_PATIENCE, replaced).await {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(false),
            Ok(Err(error)) => Err(self.trouble("update", &error)),
            Err(_) => Err(no_answer()),
        }
    }
}
