//! A folder that orchestrates the replicas of one machine, or of one file system.
//!
//! | file | contents |
//! |---|---|
//! | `statefulset.json` | the desired replica count; may be edited by hand |
//! | `marker.json` | the cluster's [marker](crate::marker) |
//! | `marker.lock` | held while the marker is read and replaced |
//! | `NAME/addresses.json` | where a replica listens |
//! | `tls/` | the cluster's [secrets](super::secrets) |
//! | `NAME/intent` | exists until a replica has an identity |
//!
//! Guarantees that the marker is created once, and replaced only if it still equals the expected
//! one.

mod changes;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvorum_protocol::client::{Endpoint, Resolve};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::{Hints, OrchestratorError};
use crate::marker::Marker;
use crate::planner::{MEMBERS_MAX, Scale};
use crate::storage::Database;
use crate::transport::addresses::{Addresses, FILE_NAME};

/// The file with the desired replica count.
pub const SET_FILE: &str = "statefulset.json";
/// The file on a replica's volume with the number by which it asks for an identity. It exists until
/// the replica has one.
pub const INTENT_FILE: &str = "intent";
/// The same file on a volume whose id is retired.
pub const ANOTHER_FILE: &str = "another-id";
/// The file with the marker.
const MARKER_FILE: &str = "marker.json";
/// The most replicas of a cluster.
pub const REPLICAS_MAX: u32 = MEMBERS_MAX;
/// The ordinals at which a replica looks for others.
const ORDINALS: std::ops::Range<u32> = 0..64;

/// The contents of `statefulset.json`, as far as replicas read it.
#[derive(Serialize, Deserialize)]
struct Set {
    replicas: u32,
    #[serde(default)]
    start: u32,
}

/// An orchestrating folder.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Uses the folder at a path.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Returns the folder's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of the file with a replica's addresses.
    #[must_use]
    pub fn addresses_of(&self, name: &str) -> PathBuf {
        self.path.join(name).join(FILE_NAME)
    }

    pub(super) fn marker_place(&self) -> String {
        self.path.join(MARKER_FILE).display().to_string()
    }

    /// Returns the addresses where the other replicas listen for clients; `name` is this replica's.
    #[must_use]
    pub fn clients(&self, name: &str) -> Resolve {
        let (folder, name) = (self.clone(), name.to_owned());
        Arc::new(move || {
            let base = name.rsplit_once('-').map_or(name.as_str(), |(base, _)| base);
            let others = ORDINALS.map(|ordinal| format!("{base}-{ordinal}"));
            let endpoint = |other: String| {
                let addresses = Addresses::read(&folder.addresses_of(&other)).ok()?;
                Some(Endpoint { name: Some(other), address: addresses.clients })
            };
            others.filter(|other| *other != name).filter_map(endpoint).collect()
        })
    }

    /// Finds the folder of another replica that has an identity, wanted or not: it holds a
    /// database, and no longer the intent with which the replica asks for an identity.
    pub(super) async fn other_volume(
        &self,
        name: &str,
    ) -> Result<Option<String>, OrchestratorError> {
        let name = name.to_owned();
        self.blocking(move |folder| {
            let base = name.rsplit_once('-').map_or(name.as_str(), |(base, _)| base);
            for ordinal in ORDINALS {
                let other = format!("{base}-{ordinal}");
                let own = folder.path.join(&other);
                let is_opened = Database::is_in(&own)?;
                if other != name && is_opened && !own.join(INTENT_FILE).try_exists()? {
                    return Ok(Some(own.display().to_string()));
                }
            }
            Ok(None)
        })
        .await
    }

    /// Reads the desired scale.
    pub async fn wanted(&self) -> Result<Scale, OrchestratorError> {
        let file = self.path.join(SET_FILE);
        self.blocking(move |_| {
            let wrong = |why: String| io::Error::other(format!("{}: {why}", file.display()));
            let bytes = fs::read(&file).map_err(|error| wrong(error.to_string()))?;
            let set: Set =
                serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
            match set.replicas {
                0..=REPLICAS_MAX => Ok(Scale { start: set.start, replicas: set.replicas }),
                other => Err(wrong(format!(
                    "{other} replicas are not possible; write 0 to {REPLICAS_MAX}"
                ))),
            }
        })
        .await
    }

    /// Returns a stream with one item each time that the desired scale may have changed.
    pub(super) fn hints(&self) -> Hints {
        changes::changes(&self.path, SET_FILE)
    }

    /// Reads the marker, if there is one.
    pub async fn marker(&self) -> Result<Option<Marker>, OrchestratorError> {
        self.blocking(Self::marker_now).await
    }

    /// Creates the marker unless there is one; returns the marker that exists then.
    pub async fn make_marker(&self, marker: Marker) -> Result<Marker, OrchestratorError> {
        self.blocking(move |folder| folder.make_marker_now(marker)).await
    }

    /// Does the same as `make_marker` on the caller's thread, which waits for the disk.
    ///
    /// # Errors
    /// The file system's error, with the file's name.
    pub fn make_marker_now(&self, marker: Marker) -> io::Result<Marker> {
        let _lock = self.lock_marker()?;
        if let Some(marker) = self.marker_now()? {
            return Ok(marker);
        }
        self.write_marker(&marker)?;
        Ok(marker)
    }

    /// Removes the marker of a cluster that left nothing behind.
    ///
    /// # Errors
    /// The file system's error.
    pub fn forget_marker(&self) -> io::Result<()> {
        match fs::remove_file(self.path.join(MARKER_FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Replaces the marker if it still equals `expected`; returns whether it did.
    pub async fn replace_marker(
        &self,
        expected: &Marker,
        next: &Marker,
    ) -> Result<bool, OrchestratorError> {
        let (expected, next) = (expected.clone(), next.clone());
        let replace = move |folder: &Self| {
            let _lock = folder.lock_marker()?;
            let is_same = folder.marker_now()?.as_ref() == Some(&expected);
            if is_same && expected != next {
                folder.write_marker(&next)?;
            }
            Ok(is_same)
        };
        self.blocking(replace).await
    }

    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> Result<T, OrchestratorError> {
        let folder = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&folder)).await;
        let done = done.unwrap_or_else(|error| Err(io::Error::other(error)));
        done.map_err(|error| OrchestratorError::Unreachable(error.to_string()))
    }

    fn lock_marker(&self) -> io::Result<File> {
        let mut options = File::options();
        let file =
            options.create(true).truncate(false).write(true).open(self.path.join("marker.lock"))?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    }

    /// Reads the marker, if there is one, on the caller's thread, which waits for the disk.
    ///
    /// # Errors
    /// The file system's error, with the file's name.
    pub fn marker_now(&self) -> io::Result<Option<Marker>> {
        let file = self.path.join(MARKER_FILE);
        match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
                io::Error::other(format!("{} is damaged: {error}", file.display()))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", file.display()))),
        }
    }

    fn write_marker(&self, marker: &Marker) -> io::Result<()> {
        let (file, aside) = (self.path.join(MARKER_FILE), self.path.join("marker.json.new"));
        let mut new = File::create(&aside)?;
        serde_json::to_writer_pretty(&mut new, marker)?;
        new.write_all(b"\n")?;
        new.sync_all()?;
        fs::rename(aside, file)?;
        File::open(&self.path)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_protocol::status::ClusterId;

    fn folder(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("kvorum-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Folder { path }
    }

    #[tokio::test]
    async fn a_marker_is_made_once_and_replaced_only_if_it_is_what_it_was() {
        let folder = folder("marker");
        let marker = |nonce| Marker::new(ClusterId(7), nonce);
        assert_eq!(folder.marker().await.unwrap(), None);
        assert_eq!(folder.make_marker(marker(1)).await.unwrap(), marker(1));
        assert_eq!(folder.make_marker(marker(2)).await.unwrap(), marker(1));
        assert!(!folder.replace_marker(&marker(2), &marker(3)).await.unwrap());
        assert!(folder.replace_marker(&marker(1), &marker(3)).await.unwrap());
        assert_eq!(folder.marker().await.unwrap(), Some(marker(3)));
        fs::remove_dir_all(folder.path).unwrap();
    }

    #[tokio::test]
    async fn what_is_wanted_is_read_and_nonsense_is_told() {
        let folder = folder("wanted");
        let file = folder.path.join(SET_FILE);
        let cases = [
            (r#"{"cluster": "00", "replicas": 3}"#, Ok((0, 3))),
            (r#"{"replicas": 2, "start": 1}"#, Ok((1, 2))),
            (r#"{"replicas": 8}"#, Err("write 0 to 7")),
            (r#"{"replicas": "#, Err("statefulset.json")),
        ];
        for (text, expected) in cases {
            fs::write(&file, text).unwrap();
            match (folder.wanted().await, expected) {
                (Ok(wanted), Ok(pair)) => assert_eq!((wanted.start, wanted.replicas), pair),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (told, _) => panic!("{text}: {told:?}"),
            }
        }
        fs::remove_dir_all(folder.path).unwrap();
    }
}
