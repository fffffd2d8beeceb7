//! The orchestrators: the source of the desired replica count, and the keeper of the cluster's
//! marker.
//!
//! | orchestrator | where |
//! |---|---|
//! | [`Folder`] | on one machine, or one file system |
//! | [`Kubernetes`] | the replica's own `StatefulSet`, and a `ConfigMap` |
//!
//! Guarantees that an orchestrator which is out of reach changes nothing: its last report stays
//! valid. Does not know which replicas are members.

mod events;
pub mod folder;
pub mod kubernetes;
mod marker_writer;
pub mod secrets;
mod upkeep;
mod witnesses;

use std::pin::Pin;
use std::time::Duration;

use kvorum_protocol::client::Resolve;
use kvorum_protocol::status::{ClusterId, ConfigurationId, ReplicaId};
use kvorum_tls::Encryption;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt};
use tracing::{info, warn};

use crate::driver::ControlEvent;
use crate::engine::{Input, ScaleRead, Verdict};
use crate::marker::{Claim, History, Marker, Past, Refused};
use crate::planner::{Scale, ordinal};

pub use events::{ClusterEvent, EventRecorder};
pub use folder::Folder;
pub use kubernetes::Kubernetes;
pub use marker_writer::MarkerWriter;
pub use secrets::{Files, Secret};
pub use upkeep::Upkeep;

/// The time between two checks by a leader that the marker is still in its folder.
const MARKER_INTERVAL: Duration = Duration::from_secs(2);
/// The time between two looks at a folder by a replica that was asked to end.
const END_INTERVAL: Duration = Duration::from_millis(20);

/// The reason why a request to an orchestrator failed.
#[derive(Debug, thiserror::Error)]
pub enum OrchestratorError {
    /// The orchestrator is out of reach, or its data makes no sense.
    #[error("{0}")]
    Unreachable(String),
    /// More replicas are wanted than a cluster can have.
    #[error("{why}")]
    TooMany {
        /// The replica count that is wanted.
        replicas: u32,
        /// The message, which says what to do next.
        why: String,
    },
    /// The object that holds the desired replica count is gone or being deleted, or this replica is
    /// no longer allowed to read it.
    #[error("{0}")]
    Gone(String),
    /// The marker refuses this replica's claim.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The volume cannot be read any more because this replica is ending.
    #[error("this replica ends")]
    Ended,
}

/// The source of the desired replica count, which also keeps the marker.
#[derive(Clone)]
pub enum Orchestrator {
    /// A folder on one machine or one file system.
    Folder(Folder),
    /// The Kubernetes API.
    Kubernetes(Box<Kubernetes>),
}

impl Orchestrator {
    /// Returns the desired scale, from a read that began after the call.
    pub async fn wanted(&self) -> Result<Scale, OrchestratorError> {
        match self {
            Self::Folder(folder) => folder.wanted().await,
            Self::Kubernetes(kubernetes) => kubernetes.wanted().await,
        }
    }

    /// Returns the marker, if there is one.
    pub async fn marker(&self) -> Result<Option<Marker>, OrchestratorError> {
        match self {
            Self::Folder(folder) => folder.marker().await,
            Self::Kubernetes(kubernetes) => kubernetes.marker().await,
        }
    }

    /// Creates the marker unless there is one; returns the marker that exists then.
    pub async fn make_marker(&self, marker: Marker) -> Result<Marker, OrchestratorError> {
        match self {
            Self::Folder(folder) => folder.make_marker(marker).await,
            Self::Kubernetes(kubernetes) => kubernetes.make_marker(marker).await,
        }
    }

    /// Replaces the marker if it still equals `expected`; returns whether it did.
    pub async fn replace_marker(
        &self,
        expected: &Marker,
        next: &Marker,
    ) -> Result<bool, OrchestratorError> {
        match self {
            Self::Folder(folder) => folder.replace_marker(expected, next).await,
            Self::Kubernetes(kubernetes) => kubernetes.replace_marker(expected, next).await,
        }
    }

    /// Returns a human-readable description of where the marker is.
    #[must_use]
    pub fn marker_place(&self) -> String {
        match self {
            Self::Folder(folder) => folder.marker_place(),
            Self::Kubernetes(kubernetes) => kubernetes.marker_place(),
        }
    }

    /// Returns the time between two checks that the marker is still there.
    #[must_use]
    pub fn marker_interval(&self) -> Duration {
        match self {
            Self::Folder(_) => MARKER_INTERVAL,
            Self::Kubernetes(_) => kubernetes::MARKER_INTERVAL,
        }
    }

    /// Returns the addresses where the other replicas listen for clients; `name` is this replica's.
    #[must_use]
    pub fn clients(&self, name: &str) -> Resolve {
        match self {
            Self::Folder(folder) => folder.clients(name),
            Self::Kubernetes(kubernetes) => kubernetes.clients(name),
        }
    }

    /// Finds the volume of another replica that has had one, if volumes are visible here. Such a
    /// volume belongs to a cluster, whether or not its replica runs or is wanted.
    pub async fn other_volume(&self, name: &str) -> Result<Option<String>, OrchestratorError> {
        match self {
            Self::Folder(folder) => folder.other_volume(name).await,
            Self::Kubernetes(_) => Ok(None),
        }
    }

    /// Returns how long to retry an orchestrator that does not answer, when a replica asks why it
    /// was told to end.
    #[must_use]
    pub fn answer_patience(&self) -> Duration {
        match self {
            Self::Folder(_) => Duration::ZERO,
            Self::Kubernetes(_) => kubernetes::ANSWER_PATIENCE,
        }
    }

    /// Returns the time between two reads of why a replica was told to end.
    #[must_use]
    pub fn end_interval(&self) -> Duration {
        match self {
            Self::Folder(_) => END_INTERVAL,
            Self::Kubernetes(_) => kubernetes::END_INTERVAL,
        }
    }

    /// Returns a stream with one item each time that the desired scale may have changed. Never
    /// ends.
    fn hints(&self) -> Hints {
        match self {
            Self::Folder(folder) => folder.hints(),
            Self::Kubernetes(kubernetes) => kubernetes.hints(),
        }
    }

    /// Returns the sender of Events about what the named replica does and refuses, if there is one.
    #[must_use]
    pub fn recorder(&self, name: &str) -> Option<EventRecorder> {
        match self {
            Self::Folder(_) => None,
            Self::Kubernetes(kubernetes) => {
                Some(EventRecorder::new((**kubernetes).clone(), name.to_owned()))
            }
        }
    }
}

/// A stream of moments at which the desired scale may have changed.
type Hints = Pin<Box<dyn Stream<Item = ()> + Send>>;

/// The way in which a replica without an identity comes to its cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// It begins the cluster.
    Begins(ClusterId),
    /// It joins an existing cluster.
    Joins(ClusterId),
}

/// Creates the marker of a cluster that has begun, unless there is one; returns the marker that
/// exists then.
pub async fn mark(
    orchestrator: &Orchestrator,
    cluster: ClusterId,
) -> Result<Marker, OrchestratorError> {
    orchestrator.make_marker(Marker::new(cluster, rand::random())).await
}

/// Determines whether a replica without an identity begins the cluster. `intent` is stored on its
/// volume, so that it recognizes its own marker after a crash. The first ordinal begins the
/// cluster, and only while there is no marker of others and no other replica that answers belongs
/// to a cluster. A cluster that has no id yet gets one.
pub async fn origin(
    orchestrator: &Orchestrator,
    name: &str,
    cluster: Option<ClusterId>,
    intent: u64,
    encryption: &Encryption,
) -> Result<Origin, OrchestratorError> {
    let wanted = orchestrator.wanted().await?;
    let marker = orchestrator.marker().await?;
    if let Some(marker) = &marker
        && marker.nonce != intent
    {
        return Ok(Origin::Joins(marker.cluster));
    }
    // No cluster is marked, but one may be alive whose marker was lost.
    let (place, own) = (orchestrator.marker_place(), marker.as_ref().map(|marker| marker.cluster));
    let found = witnesses::living(&orchestrator.clients(name), encryption).await;
    let found = found.map_err(|why| {
        OrchestratorError::Unreachable(format!("the cluster has no marker ({place}), and {why}"))
    })?;
    if let Some((living, who)) = found {
        return match own.or(cluster).filter(|expected| *expected != living) {
            None => Ok(Origin::Joins(living)),
            Some(expected) => Err(OrchestratorError::Unreachable(format!(
                "{who} belongs to cluster {living}, and this replica should begin {expected}: no \
                 second one begins beside it; if the marker ({place}) is wrong, remove it"
            ))),
        };
    }
    if let Some(own) = own {
        return Ok(Origin::Begins(own));
    }
    let first = wanted.start;
    if ordinal(name) != Some(first) {
        return Err(OrchestratorError::Unreachable(format!(
            "there is no cluster yet, no marker of one ({place}), and no other replica that \
             answers: the replica of ordinal {first} begins it"
        )));
    }
    if let Some(volume) = orchestrator.other_volume(name).await? {
        return Err(OrchestratorError::Unreachable(format!(
            "the cluster has no marker ({place}), and {volume} holds a volume of one: no second \
             cluster begins beside it; start its replica, or remove the folder if it is lost"
        )));
    }
    let cluster = cluster.unwrap_or_else(|| ClusterId(rand::random()));
    let marker = orchestrator.make_marker(Marker::new(cluster, intent)).await?;
    Ok(match marker.nonce == intent {
        true => Origin::Begins(marker.cluster),
        false => Origin::Joins(marker.cluster),
    })
}

/// Reports the desired scale to the driver: at first, whenever it changes, and when the driver asks
/// for another read. While the orchestrator is out of reach, the last report stays valid.
pub async fn watch(
    orchestrator: Orchestrator,
    name: String,
    driver: mpsc::Sender<ControlEvent>,
    mut reads: mpsc::Receiver<ScaleRead>,
) {
    let (mut last, mut trouble, mut hints) = (None, String::new(), orchestrator.hints());
    let mut read: Option<ScaleRead> = None;
    loop {
        match orchestrator.wanted().await {
            Ok(wanted) => {
                trouble.clear();
                if last != Some(wanted) {
                    info!(start = wanted.start, replicas = wanted.replicas, "wanted");
                }
                if last != Some(wanted) || read.is_some() {
                    last = Some(wanted);
                    let input = Input::Scale { wanted: Some(wanted), read };
                    if driver.send(ControlEvent::Input(input)).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => {
                let why = error.to_string();
                if why != trouble {
                    warn!(why, "cannot tell how many replicas are wanted; the members stay");
                    if let OrchestratorError::TooMany { replicas, .. } = error {
                        tell_too_many(&orchestrator, &name, replicas, why.clone()).await;
                    }
                    trouble = why;
                }
            }
        }
        read = tokio::select! {
            asked = reads.recv() => match asked {
                Some(asked) => Some(asked),
                None => return,
            },
            _ = hints.next() => None,
        };
    }
}

/// Reports in an Event, where the replica count was set, that it is too high.
async fn tell_too_many(orchestrator: &Orchestrator, name: &str, replicas: u32, note: String) {
    if let Some(recorder) = orchestrator.recorder(name) {
        // Every replica detects this; with this name the Event exists once.
        let name = Some(format!("{replicas}-replicas"));
        recorder.tell(ClusterEvent { is_warning: true, reason: "TooMany", note, name }).await;
    }
}

/// Collects the volume's history of the starts that the marker names; `past` reads one of them.
async fn history<F>(
    marker: &Marker,
    replica: ReplicaId,
    past: &impl Fn(u64) -> F,
) -> Result<History, OrchestratorError>
where
    F: Future<Output = Result<Option<Past>, OrchestratorError>>,
{
    let mut history = History::new();
    for incarnation in marker.names(replica) {
        history.extend(past(incarnation).await?.map(|had| (incarnation, had)));
    }
    Ok(history)
}

/// Returns what the marker knows beyond a disk, if anything: that the disk is an older copy, or
/// that its configuration is over. `past` reads one of the disk's starts.
pub async fn known_better<F>(
    orchestrator: &Orchestrator,
    claim: Claim,
    past: impl Fn(u64) -> F,
) -> Result<Option<Verdict>, OrchestratorError>
where
    F: Future<Output = Result<Option<Past>, OrchestratorError>>,
{
    let Some(marker) = orchestrator.marker().await? else { return Ok(None) };
    let history = history(&marker, claim.replica, &past).await?;
    Ok(match marker.check_reach(claim, &history) {
        Err(why) => Some(why.into()),
        Ok(()) => marker.after(claim.chain).map(Verdict::Over),
    })
}

/// Reports to the marker how far a replica's disk has got, and lets the marker name the replica if
/// it wants to decide alone; `past` reads one of the disk's starts. Returns the latest
/// configuration with a leader that the marker then knows, if the disk's own configuration is over.
pub async fn claim<F>(
    orchestrator: &Orchestrator,
    claim: Claim,
    past: impl Fn(u64) -> F,
) -> Result<Option<ConfigurationId>, OrchestratorError>
where
    F: Future<Output = Result<Option<Past>, OrchestratorError>>,
{
    /// Others may update the marker at the same time, each once.
    const TRIES: u32 = 10;
    for _ in 0..TRIES {
        let made = Marker::new(claim.cluster, claim.nonce);
        // A cluster that is older than its marker, or whose marker was removed, gets another one.
        let marker = match orchestrator.marker().await? {
            Some(marker) => marker,
            None => {
                warn!("the cluster's marker, {}, is made anew", orchestrator.marker_place());
                orchestrator.make_marker(made).await?
            }
        };
        let history = history(&marker, claim.replica, &past).await?;
        let next = marker.claim(claim, &history)?;
        if orchestrator.replace_marker(&marker, &next).await? {
            return Ok(next.after(claim.chain));
        }
    }
    Err(OrchestratorError::Unreachable("the marker changes all the time".to_owned()))
}

/// Does the same as `claim` for a replica that has ended. It creates no marker: an operator who
/// removes a cluster removes its marker too, while the cluster is still ending.
pub async fn claim_at_end<F>(
    orchestrator: &Orchestrator,
    last: Claim,
    past: impl Fn(u64) -> F,
) -> Result<(), OrchestratorError>
where
    F: Future<Output = Result<Option<Past>, OrchestratorError>>,
{
    match orchestrator.marker().await? {
        Some(_) => claim(orchestrator, last, past).await.map(drop),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without the marker an emptied first replica would begin a second cluster; with it, it joins.
    #[tokio::test]
    async fn a_cluster_begins_once() {
        let path = std::env::temp_dir().join(format!("kvorum-origin-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join(folder::SET_FILE), r#"{"replicas": 3}"#).unwrap();
        let (folder, cluster) = (Folder::new(&path), ClusterId(7));
        let orchestrator = Orchestrator::Folder(folder.clone());
        let asks = |name: &'static str, intent| {
            origin(&orchestrator, name, Some(cluster), intent, &Encryption::Off)
        };
        assert!(asks("kvorum-1", 1).await.is_err(), "only the first ordinal begins");
        assert_eq!(asks("kvorum-0", 2).await.unwrap(), Origin::Begins(cluster));
        assert_eq!(asks("kvorum-0", 2).await.unwrap(), Origin::Begins(cluster), "after a crash");
        assert_eq!(asks("kvorum-1", 1).await.unwrap(), Origin::Joins(cluster));
        assert_eq!(asks("kvorum-0", 3).await.unwrap(), Origin::Joins(cluster), "emptied");
        folder.forget_marker().unwrap();
        let volume = path.join("kvorum-2");
        std::fs::create_dir_all(volume.join("db")).unwrap();
        std::fs::write(volume.join("db/CURRENT"), "MANIFEST-1").unwrap();
        let why = asks("kvorum-0", 3).await.unwrap_err().to_string();
        assert!(why.contains("kvorum-2 holds a volume"), "{why}");
        std::fs::write(path.join(folder::SET_FILE), r#"{"replicas": 1}"#).unwrap();
        assert!(asks("kvorum-0", 3).await.is_err(), "whether it is wanted or not");
        std::fs::write(volume.join(folder::INTENT_FILE), "7").unwrap();
        assert_eq!(asks("kvorum-0", 3).await.unwrap(), Origin::Begins(cluster), "it is as new");
        std::fs::remove_dir_all(path).unwrap();
    }
}
