//! The cluster's secrets, as this program reads and replaces them.
//!
//! | where | how |
//! |---|---|
//! | a local cluster | the folder `tls/NAME`, under the lock that its replicas take |
//! | Kubernetes | the `Secret` SET-NAME, by the version that was read |
//!
//! Guarantees that a secret is replaced only if it is still as it was read, and that an error says
//! which one it is. Does not know what they hold.

#[cfg(feature = "local")]
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret as Object;
#[cfg(feature = "local")]
use kvorum_replica::orchestrator::{self, Folder, Orchestrator};

use crate::arguments::Global;
#[cfg(feature = "local")]
use crate::exit::Exit;
use crate::exit::Failure;
use crate::kubernetes::{Kube, secrets};
use crate::login;
use crate::platform::Platform;
use crate::rotation::Files;
use crate::target::Target;

/// The folder of the secrets of a local cluster.
#[cfg(feature = "local")]
const FOLDER: &str = "tls";

/// A secret as it was read.
#[derive(Debug)]
pub struct Secret {
    /// Its parts; empty when nobody has filled it.
    pub files: Files,
    /// A description of where it is.
    pub place: String,
    read: Read,
}

/// The source of a secret, as it was read.
#[derive(Debug)]
enum Read {
    #[cfg(feature = "local")]
    Folder(orchestrator::Secret),
    Kubernetes(Box<Object>),
}

/// The place of a cluster's secrets.
#[derive(Clone)]
pub enum Secrets {
    /// The folder of a local cluster.
    #[cfg(feature = "local")]
    Local(PathBuf),
    /// Kubernetes.
    Kubernetes(Arc<Kube>),
}

impl Secrets {
    /// Finds the secrets of a cluster, whether or not it runs.
    ///
    /// # Errors
    /// When they are out of reach: why, and what helps.
    pub async fn of_target(target: &Target, global: &Global) -> Result<Self, Failure> {
        match target {
            #[cfg(feature = "local")]
            Target::Local(folder) => {
                crate::local::folder::StatefulSet::read(folder)?;
                Ok(Self::Local(folder.clone()))
            }
            Target::Kubernetes(named) => {
                Kube::find(named, &login::own(global)?).await.map(Self::Kubernetes)
            }
            _ => Err(at_addresses()),
        }
    }

    /// Returns the secrets of a cluster that runs.
    ///
    /// # Errors
    /// When they are out of reach here.
    pub fn of_platform(platform: &Platform) -> Result<Self, Failure> {
        match platform {
            Platform::Unmanaged(_) => Err(at_addresses()),
            #[cfg(feature = "local")]
            Platform::Local(folder) => Ok(Self::Local(folder.clone())),
            Platform::Kubernetes(kube) => Ok(Self::Kubernetes(Arc::clone(kube))),
        }
    }

    /// Returns the word that all certificates of the cluster have in common.
    #[must_use]
    pub fn cluster_word(&self) -> String {
        match self {
            #[cfg(feature = "local")]
            Self::Local(folder) => orchestrator(folder).cluster_word(),
            Self::Kubernetes(kube) => format!("{}.{}", kube.set, kube.access.namespace),
        }
    }

    /// Reads a secret.
    ///
    /// # Errors
    /// When there is none, or it may not be read.
    pub async fn read(&self, name: &str) -> Result<Secret, Failure> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(folder) => {
                let path = folder.join(FOLDER).join(name);
                if !path.is_dir() {
                    return Err(Failure::new(
                        Exit::NotFound,
                        format!(
                            "there is no folder {}: the cluster makes it when it starts with \
                             encryption",
                            path.display()
                        ),
                    ));
                }
                let read = orchestrator(folder).secret(name).await;
                let read = read.map_err(|error| Failure::failed(error.to_string()))?;
                let (files, place) = (read.files.clone(), read.place());
                Ok(Secret { files, place, read: Read::Folder(read) })
            }
            Self::Kubernetes(kube) => {
                let (object, name) = (kube.secret(name).await?, kube.secret_name(name));
                let place = format!("the Secret {name} in {}", kube.access.namespace);
                let files = secrets::files(&object);
                Ok(Secret { files, place, read: Read::Kubernetes(Box::new(object)) })
            }
        }
    }

    /// Replaces what is in a secret, if it is still as it was read; returns whether it did.
    ///
    /// # Errors
    /// When it may not be replaced.
    pub async fn replace(&self, secret: Secret, files: Files) -> Result<bool, Failure> {
        match (self, secret.read) {
            #[cfg(feature = "local")]
            (Self::Local(folder), Read::Folder(read)) => {
                let replaced = orchestrator(folder).replace_secret(read, files).await;
                replaced.map_err(|error| Failure::failed(format!("{}: {error}", secret.place)))
            }
            (Self::Kubernetes(kube), Read::Kubernetes(object)) => {
                kube.replace_secret(*object, files).await
            }
            #[cfg(feature = "local")]
            _ => Ok(false),
        }
    }
}

#[cfg(feature = "local")]
fn orchestrator(folder: &Path) -> Orchestrator {
    Orchestrator::Folder(Folder::new(folder))
}

/// Refuses to look for secrets of replicas at addresses.
fn at_addresses() -> Failure {
    Failure::usage(
        "replicas at addresses have their certificates from somebody else; name the cluster by \
         --local DIR or --context NAME, or make certificates with an authority of your own \
         (--cluster WORD)",
    )
}
