//! Who says how many replicas are wanted, and keeps the cluster's marker.
//!
//! | orchestrator | where |
//! |---|---|
//! | [`Folder`] | on one machine, or one file system |
//! | [`Kubernetes`] | the replica's own `StatefulSet`, and a `ConfigMap` |
//!
//! Guarantees that an orchestrator which is out of reach changes nothing: what was told last stays.
//! Does not know who is a member.

mod events;
pub mod folder;
mod keeper;
pub mod kubernetes;
mod upkeep;
mod witnesses;

use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use kvorum_protocol::client::Resolve;
use kvorum_protocol::status::{ClusterId, ConfigurationId, ReplicaId};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::driver::ClientEvent;
use crate::engine::{Input, Look, Verdict};
use crate::marker::{Claim, History, Marker, Past, Refused};
use crate::planner::{Scale, ordinal};

pub use events::{Happening, Herald};
pub use folder::Folder;
pub use keeper::Keeper;
pub use kubernetes::Kubernetes;
pub use upkeep::Upkeep;

/// Time between two looks at a folder.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Time between two looks of a leader whether the marker is still in its folder.
const MARKER_INTERVAL: Duration = Duration::from_secs(2);
/// Time between two looks at a folder, of a replica that is told to end.
const END_INTERVAL: Duration = Duration::from_millis(20);

/// Why an orchestrator did not do something.
#[derive(Debug, thiserror::Error)]
pub enum OrchestratorError {
    /// It is out of reach, or does not make sense.
    #[error("{0}")]
    Unreachable(String),
    /// More replicas are wanted than there can be.
    #[error("{why}")]
    TooMany {
        /// How many.
        replicas: u32,
        /// What next.
        why: String,
    },
    /// What says how many replicas are wanted is gone or about to be, or this replica may not ask
    /// any more.
    #[error("{0}")]
    Gone(String),
    /// The marker must not name this replica.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The volume cannot be read any more: this replica ends.
    #[error("this replica ends")]
    Ended,
}

/// Who says how many replicas are wanted, and keeps the marker.
#[derive(Clone)]
pub enum Orchestrator {
    /// A folder.
    Folder(Folder),
    /// Kubernetes.
    Kubernetes(Box<Kubernetes>),
}

impl Orchestrator {
    /// How many replicas are wanted, by a look that began after the call.
    pub async fn wanted(&self) -> Result<Scale, OrchestratorError> {
        match self {
            Self::Folder(folder) => folder.wanted().await,
            Self::Kubernetes(kubernetes) => kubernetes.wanted().await,
        }
    }

    /// The marker, if there is one.
    pub async fn marker(&self) -> Result<Option<Marker>, OrchestratorError> {
        match self {
            Self::Folder(folder) => folder.marker().await,
            Self::Kubernetes(kubernetes) => kubernetes.marker().await,
        }
    }

    /// Makes the marker, unless there is one; the one there is then.
    pub async fn make_marker(&self, marker: Marker) -> Result<Marker, OrchestratorError> {
        match self {
            Self::Folder(folder) => folder.make_marker(marker).await,
            Self::Kubernetes(kubernetes) => kubernetes.make_marker(marker).await,
        }
    }

    /// Replaces the marker, if it still is what is expected; whether it was.
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

    /// Where the marker is, for people.
    #[must_use]
    pub fn marker_place(&self) -> String {
        match self {
            Self::Folder(folder) => folder.marker_place(),
            Self::Kubernetes(kubernetes) => kubernetes.marker_place(),
        }
    }

    /// Time between two looks whether the marker is still there.
    #[must_use]
    pub fn marker_interval(&self) -> Duration {
        match self {
            Self::Folder(_) => MARKER_INTERVAL,
            Self::Kubernetes(_) => kubernetes::MARKER_INTERVAL,
        }
    }

    /// Where the others listen for clients; `name` is one of the replicas.
    #[must_use]
    pub fn clients(&self, name: &str) -> Resolve {
        match self {
            Self::Folder(folder) => folder.clients(name),
            Self::Kubernetes(kubernetes) => kubernetes.clients(name),
        }
    }

    /// The volume of another replica that has had one, if that can be seen here: it belongs to a
    /// cluster, whether its replica runs or not, and is wanted or not.
    pub async fn other_volume(&self, name: &str) -> Result<Option<String>, OrchestratorError> {
        match self {
            Self::Folder(folder) => folder.other_volume(name).await,
            Self::Kubernetes(_) => Ok(None),
        }
    }

    /// How long one that does not answer is asked again what a replica is told to end for.
    #[must_use]
    pub fn answer_patience(&self) -> Duration {
        match self {
            Self::Folder(_) => Duration::ZERO,
            Self::Kubernetes(_) => kubernetes::ANSWER_PATIENCE,
        }
    }

    /// Time between two looks what a replica is told to end for.
    #[must_use]
    pub fn end_interval(&self) -> Duration {
        match self {
            Self::Folder(_) => END_INTERVAL,
            Self::Kubernetes(_) => kubernetes::END_INTERVAL,
        }
    }

    /// Something each time that another number may be wanted. Never ends.
    fn hints(&self) -> BoxStream<'static, ()> {
        match self {
            Self::Folder(_) => {
                futures::stream::unfold((), |()| async { Some((sleep(LOOK_INTERVAL).await, ())) })
                    .boxed()
            }
            Self::Kubernetes(kubernetes) => kubernetes.hints(),
        }
    }

    /// Who tells people what a replica does and refuses.
    #[must_use]
    pub fn herald(&self, name: &str) -> Option<Herald> {
        match self {
            Self::Folder(_) => None,
            Self::Kubernetes(kubernetes) => {
                Some(Herald::new((**kubernetes).clone(), name.to_owned()))
            }
        }
    }
}

/// Where a replica without an identity belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// It begins the cluster.
    Begins(ClusterId),
    /// There is a cluster, which it joins.
    Joins(ClusterId),
}

/// Makes the marker of a cluster that has begun, unless there is one; the one there is then.
pub async fn mark(
    orchestrator: &Orchestrator,
    cluster: ClusterId,
) -> Result<Marker, OrchestratorError> {
    orchestrator.make_marker(Marker::new(cluster, rand::random())).await
}

/// Finds out whether a replica without an identity begins the cluster. `intent` is on its volume,
/// so that it finds its own marker again after a crash. The first ordinal begins it, and only while
/// there is no marker of others, and nobody else who answers belongs to a cluster; a cluster that
/// has no id yet gets one.
pub async fn origin(
    orchestrator: &Orchestrator,
    name: &str,
    cluster: Option<ClusterId>,
    intent: u64,
) -> Result<Origin, OrchestratorError> {
    let wanted = orchestrator.wanted().await?;
    let marker = orchestrator.marker().await?;
    if let Some(marker) = &marker
        && marker.nonce != intent
    {
        return Ok(Origin::Joins(marker.cluster));
    }
    // Nobody has marked a cluster, but one may live whose marker was lost.
    let (place, own) = (orchestrator.marker_place(), marker.as_ref().map(|marker| marker.cluster));
    let found = witnesses::living(&orchestrator.clients(name)).await;
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

/// Tells the driver what is wanted: at first, whenever it changes, and when the driver asks to look
/// again. While the orchestrator is out of reach, what was told last stays.
pub async fn watch(
    orchestrator: Orchestrator,
    name: String,
    driver: mpsc::Sender<ClientEvent>,
    mut looks: mpsc::Receiver<Look>,
) {
    let (mut last, mut trouble, mut hints) = (None, String::new(), orchestrator.hints());
    let mut look: Option<Look> = None;
    loop {
        match orchestrator.wanted().await {
            Ok(wanted) => {
                trouble.clear();
                if last != Some(wanted) {
                    info!(start = wanted.start, replicas = wanted.replicas, "wanted");
                }
                if last != Some(wanted) || look.is_some() {
                    last = Some(wanted);
                    let input = Input::Scale { wanted: Some(wanted), look };
                    if driver.send(ClientEvent::Input { input, permit: None }).await.is_err() {
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
        look = tokio::select! {
            asked = looks.recv() => match asked {
                Some(asked) => Some(asked),
                None => return,
            },
            _ = hints.next() => None,
        };
    }
}

/// Tells where the number was asked for that it cannot be.
async fn tell_too_many(orchestrator: &Orchestrator, name: &str, replicas: u32, note: String) {
    if let Some(herald) = orchestrator.herald(name) {
        // Every replica sees it.
        let name = Some(format!("{replicas}-replicas"));
        herald.tell(Happening { is_warning: true, reason: "TooMany", note, name }).await;
    }
}

/// What a volume has of the starts that the marker names; `past` tells it of each.
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

/// What the marker knows better than a disk, if it does: that it is an older copy, or that its
/// configuration is over. `past` tells what the disk has of one of its starts.
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

/// Tells the marker how far a replica's disk has got, and lets it name the replica if that wants to
/// decide alone; `past` tells what the disk has of one of its starts. The latest configuration
/// with a leader that the marker knows then, if the disk's own is over.
pub async fn claim<F>(
    orchestrator: &Orchestrator,
    claim: Claim,
    past: impl Fn(u64) -> F,
) -> Result<Option<ConfigurationId>, OrchestratorError>
where
    F: Future<Output = Result<Option<Past>, OrchestratorError>>,
{
    /// Others may tell it something at the same time, each once.
    const TRIES: u32 = 10;
    for _ in 0..TRIES {
        let made = Marker::new(claim.cluster, claim.nonce);
        // A cluster that is older than its marker, or whose marker was removed, gets another.
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

/// The same for a replica that has ended. It makes no marker: whoever removes a cluster removes its
/// marker too, while the cluster still ends.
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
        let asks = |name: &'static str, intent| origin(&orchestrator, name, Some(cluster), intent);
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
