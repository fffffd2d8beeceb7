//! The platform of the replicas: controls their processes and their number.
//!
//! Guarantees that an error says why something cannot be done, and what helps. Does not know what
//! the replicas hold; the [client](kvorum_protocol::Client) does.

#[cfg(feature = "local")]
use std::path::PathBuf;
use std::sync::Arc;

use kvorum_protocol::client::Route;
use kvorum_protocol::message::Admin;
use kvorum_protocol::status::ClusterId;
use kvorum_protocol::{Client, ClientError};

use crate::clusters::Ground;
use crate::exit::Failure;
use crate::kubernetes::rights::{self, Action};
use crate::kubernetes::{Grace, Kube};
use crate::message::{HowToKill, Place};
#[cfg(feature = "local")]
use crate::tail::tail;

/// The error where the number of replicas cannot be changed.
const NO_SCALING: &str = "replicas at addresses follow whoever runs them: change the number of \
     replicas there";
/// The error where a replica cannot be killed.
const NO_KILLING: &str =
    "a replica at an address can be crashed only where faults are allowed (--allow-faults)";
/// The error where there are no logs.
const NO_LOGS: &str = "the log files of replicas at addresses are not at hand here";
/// The number of bytes of a log file that are shown.
#[cfg(feature = "local")]
const LOG_BYTES: u64 = 64 << 10;

/// The system that runs the replicas.
#[derive(Clone)]
pub enum Platform {
    /// An unknown one; the replicas are at these addresses.
    Unmanaged(Vec<String>),
    /// The local cluster in this folder.
    #[cfg(feature = "local")]
    Local(PathBuf),
    /// Kubernetes.
    Kubernetes(Arc<Kube>),
}

/// The content of the cluster's marker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Marked {
    /// This cluster has begun.
    As(ClusterId),
    /// The marker is missing where there should be one.
    Gone,
    /// The marker is not accessible, or there is none.
    Nowhere,
}

impl Marked {
    /// Parses the text of a marker.
    fn read(text: Option<&str>) -> Result<Self, Failure> {
        let Some(text) = text else { return Ok(Self::Gone) };
        let marker: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        let cluster = marker["cluster"].as_str().and_then(|id| id.parse().ok());
        cluster.map(Self::As).ok_or_else(|| Failure::failed("it is damaged"))
    }
}

impl Platform {
    /// Returns the cluster that has begun here, according to the marker.
    ///
    /// # Errors
    /// When that cannot be determined.
    pub async fn marked(&self) -> Result<Marked, Failure> {
        match self {
            Platform::Unmanaged(_) => Ok(Marked::Nowhere),
            #[cfg(feature = "local")]
            Self::Local(folder) => {
                let folder = kvorum_replica::orchestrator::Folder::new(folder);
                let marker = blocking(move || Ok(folder.marker_now()?)).await?;
                Ok(marker.map_or(Marked::Gone, |marker| Marked::As(marker.cluster)))
            }
            Self::Kubernetes(kube) => Marked::read(kube.marker().await?.as_deref()),
        }
    }

    /// Returns what can be done here: everything, if the API server does not say what is forbidden.
    pub async fn place(&self) -> Place {
        let told = self.told_place().await;
        told.unwrap_or_else(|| Place { name: self.name(), ..Place::default() })
    }

    /// Describes the target in a few words.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Platform::Unmanaged(addresses) => format!("endpoints {}", addresses.join(", ")),
            #[cfg(feature = "local")]
            Self::Local(folder) => format!("local {}", folder.display()),
            Self::Kubernetes(kube) => kube.name(),
        }
    }

    /// Returns what can be done here; `None` when the API server does not say what is allowed.
    pub async fn told_place(&self) -> Option<Place> {
        let name = self.name();
        Some(match self {
            Platform::Unmanaged(_) => Place {
                name,
                no_kill: Some(NO_KILLING.to_owned()),
                no_scale: Some(NO_SCALING.to_owned()),
                no_logs: Some(NO_LOGS.to_owned()),
                ..Place::default()
            },
            #[cfg(feature = "local")]
            Self::Local(_) => Place { name, ..Place::default() },
            Self::Kubernetes(kube) => {
                let missing = rights::missing(kube).await.ok()?;
                let why_not = |action| rights::why_not(&missing, action, kube);
                Place {
                    name,
                    no_kill: why_not(Action::Kill),
                    no_scale: why_not(Action::Scale),
                    no_logs: why_not(Action::Logs),
                    ..Place::default()
                }
            }
        })
    }

    /// Calls `tell` with the place where the replicas run.
    pub fn with_ground<T>(&self, tell: impl FnOnce(Ground<'_>) -> T) -> T {
        match self {
            Platform::Unmanaged(_) => tell(Ground::Elsewhere),
            #[cfg(feature = "local")]
            Self::Local(folder) => tell(Ground::Folder(folder)),
            Self::Kubernetes(kube) => {
                let (namespace, set) = (kube.access.namespace.as_str(), kube.set.as_str());
                tell(Ground::Kubernetes { namespace, set })
            }
        }
    }

    /// Ends a replica's process; returns how it was done.
    ///
    /// # Errors
    /// When it was not ended: why.
    pub async fn kill(
        &self,
        client: &Client,
        node: &str,
        how: HowToKill,
    ) -> Result<String, Failure> {
        match self {
            Platform::Unmanaged(_) if how == HowToKill::Now => crash(client, node).await,
            Platform::Unmanaged(_) => Err(Failure::usage(
                "a replica at an address can be crashed, but not stopped; stop its process there",
            )),
            #[cfg(feature = "local")]
            Self::Local(folder) => {
                let (folder, node) = (folder.clone(), node.to_owned());
                let is_graceful = how == HowToKill::Graceful;
                let kill = move || crate::local::kill(&folder, &node, is_graceful);
                Ok(blocking(kill).await?.to_owned())
            }
            Self::Kubernetes(kube) => {
                let grace = match how {
                    HowToKill::Now => Grace::Now,
                    HowToKill::Graceful => Grace::Own,
                    HowToKill::Force => Grace::Force,
                };
                Ok(kube.delete(node, grace).await?.to_owned())
            }
        }
    }

    /// Sets the wanted number of replicas.
    ///
    /// # Errors
    /// When it cannot be set here: why.
    pub async fn scale(&self, replicas: u32) -> Result<(), Failure> {
        match self {
            Platform::Unmanaged(_) => Err(Failure::failed(NO_SCALING)),
            #[cfg(feature = "local")]
            Self::Local(folder) => {
                let folder = folder.clone();
                blocking(move || crate::local::scale(&folder, replicas)).await
            }
            Self::Kubernetes(kube) => kube.scale(replicas).await,
        }
    }

    /// Returns the wanted number of replicas.
    ///
    /// # Errors
    /// When it is not known here: why.
    pub fn wanted(&self) -> Result<u32, Failure> {
        match self {
            Platform::Unmanaged(_) => Err(Failure::failed(NO_SCALING)),
            #[cfg(feature = "local")]
            Self::Local(folder) => Ok(crate::local::folder::StatefulSet::read(folder)?.replicas),
            Self::Kubernetes(kube) => Ok(kube.pods().wanted().replicas),
        }
    }

    /// Returns the end of a replica's own log.
    ///
    /// # Errors
    /// When the log is not accessible: why.
    pub async fn logs(&self, node: &str) -> Result<Vec<String>, Failure> {
        match self {
            Platform::Unmanaged(_) => Err(Failure::failed(NO_LOGS)),
            #[cfg(feature = "local")]
            Self::Local(folder) => {
                let path = folder.join(node).join("log");
                let lines = move || {
                    let (text, is_cut) = tail(&path, LOG_BYTES)?;
                    Ok(text.lines().skip(usize::from(is_cut)).map(str::to_owned).collect())
                };
                blocking(lines).await
            }
            Self::Kubernetes(kube) => kube.logs(node).await,
        }
    }
}

/// Crashes a replica that allows faults; returns how it was done.
async fn crash(client: &Client, node: &str) -> Result<String, Failure> {
    match client.administer(Admin::Crash, &Route::Through(node.to_owned())).await {
        // A process that ends at once may not get its reply out.
        Ok(()) | Err(ClientError::Unknown { .. }) => Ok("by a crash".to_owned()),
        Err(error) => Err(error.into()),
    }
}

/// Runs blocking work on a thread meant for it.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failure::failed(error.to_string()))?
}
