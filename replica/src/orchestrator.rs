//! Who says how many replicas are wanted, and keeps the cluster's marker.
//!
//! A [`Folder`] does on one machine. Guarantees that an orchestrator which is out
//! of reach changes nothing: what was told last stays. Does not know who is a member.

pub mod folder;
mod keeper;

use std::time::Duration;

use kvorum_protocol::status::ClusterId;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::driver::ClientEvent;
use crate::engine::Input;
use crate::marker::{Marker, Refused, Solo};
use crate::planner::ordinal;

pub use folder::Folder;
pub use keeper::Keeper;

/// Time between two looks at what is wanted.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Why an orchestrator did not do something.
#[derive(Debug, thiserror::Error)]
pub enum OrchestratorError {
    /// It is out of reach, or does not make sense.
    #[error("{0}")]
    Unreachable(String),
    /// The marker must not name this replica.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// Where a replica without an identity belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// It begins the cluster.
    Begins(ClusterId),
    /// There is a cluster, which it joins.
    Joins(ClusterId),
}

/// Finds out whether a replica without an identity begins the cluster. `intent` is on its volume,
/// so that it finds its own marker again after a crash. The first ordinal begins it, and only while
/// there is no marker.
pub async fn origin(
    folder: &Folder,
    name: &str,
    cluster: ClusterId,
    intent: u64,
) -> Result<Origin, OrchestratorError> {
    let wanted = folder.wanted().await?;
    let begins = ordinal(name) == Some(wanted.start);
    let marker = match folder.marker().await? {
        Some(marker) => marker,
        None if begins => folder.make_marker(Marker { cluster, nonce: intent, solo: None }).await?,
        None => {
            let first = wanted.start;
            let why =
                format!("the cluster is not there yet: the replica of ordinal {first} makes it");
            return Err(OrchestratorError::Unreachable(why));
        }
    };
    Ok(match marker.nonce == intent {
        true => Origin::Begins(marker.cluster),
        false => Origin::Joins(marker.cluster),
    })
}

/// Tells the driver what is wanted, at first and whenever it changes. While the orchestrator is out
/// of reach, what was told last stays.
pub async fn watch(folder: Folder, driver: mpsc::Sender<ClientEvent>) {
    let (mut last, mut trouble) = (None, String::new());
    loop {
        match folder.wanted().await {
            Ok(wanted) if last == Some(wanted) => trouble.clear(),
            Ok(wanted) => {
                info!(start = wanted.start, replicas = wanted.replicas, "wanted");
                last = Some(wanted);
                let input = Input::Scale(Some(wanted));
                if driver.send(ClientEvent::Input { input, permit: None }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                let why = error.to_string();
                if why != trouble {
                    warn!(why, "cannot tell how many replicas are wanted; the members stay");
                    trouble = why;
                }
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Lets the marker name a replica that is to decide alone; `proof` tells the nonce that its volume
/// has for an incarnation.
pub async fn claim<F>(
    folder: &Folder,
    cluster: ClusterId,
    claim: Solo,
    proof: impl Fn(u64) -> F,
) -> Result<(), OrchestratorError>
where
    F: Future<Output = Option<u64>>,
{
    /// Others may claim at the same time, each once.
    const TRIES: u32 = 5;
    for _ in 0..TRIES {
        let made = Marker { cluster, nonce: claim.nonce, solo: None };
        // A cluster that is older than its marker, or whose marker was removed, gets another.
        let marker = match folder.marker().await? {
            Some(marker) => marker,
            None => folder.make_marker(made).await?,
        };
        let proof = match marker.solo {
            Some(named) => proof(named.incarnation).await,
            None => None,
        };
        let next = marker.claim(cluster, claim, proof)?;
        if folder.replace_marker(&marker, &next).await? {
            return Ok(());
        }
    }
    Err(OrchestratorError::Unreachable("the marker changes all the time".to_owned()))
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
        let asks = |name: &'static str, intent| origin(&folder, name, cluster, intent);
        assert!(asks("kvorum-1", 1).await.is_err(), "only the first ordinal begins");
        assert_eq!(asks("kvorum-0", 2).await.unwrap(), Origin::Begins(cluster));
        assert_eq!(asks("kvorum-0", 2).await.unwrap(), Origin::Begins(cluster), "after a crash");
        assert_eq!(asks("kvorum-1", 1).await.unwrap(), Origin::Joins(cluster));
        assert_eq!(asks("kvorum-0", 3).await.unwrap(), Origin::Joins(cluster), "emptied");
        folder.forget_marker().unwrap();
        assert_eq!(asks("kvorum-0", 3).await.unwrap(), Origin::Begins(cluster), "the control");
        std::fs::remove_dir_all(path).unwrap();
    }
}
