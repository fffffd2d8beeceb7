//! The folder of a local cluster.
//!
//! | file | what it is |
//! |---|---|
//! | `lock` | locked while `kvorum local` runs; holds its process id |
//! | `statefulset.json` | the cluster's id and the wanted number of replicas |
//! | `kvorum-N/` | a replica's data, addresses and log |
//!
//! Guarantees that two processes never run a cluster in one folder.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvorum_protocol::status::ClusterId;
use kvorum_replica::marker::Marker;
use kvorum_replica::orchestrator;
use kvorum_replica::private::tighten;
use kvorum_replica::state::version::Version;
use kvorum_replica::storage::rocks::open::{NewIdentity, Owner};
use kvorum_replica::storage::{Database, OnFatal};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};
use crate::output::shell_path;

/// The subfolder of the target folder in which a restored cluster is made.
pub(super) const ASIDE: &str = ".restoring";
/// The maximum number of replicas of a local cluster.
pub const REPLICAS_MAX: u32 = orchestrator::folder::REPLICAS_MAX;
/// The number of replicas of a new cluster if none is given.
const REPLICAS_DEFAULT: u32 = 3;
/// The file that marks a folder as that of a cluster.
pub(super) const SET_FILE: &str = "statefulset.json";
/// The number of attempts to take a lock.
const LOCK_TRIES: u32 = 5;
/// The pause between two attempts.
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);
/// The folder that is used when none is named, under the user's state folder.
const DEFAULT: &str = "kvorum/local";

/// The desired state of a local cluster: the part of a `StatefulSet` that matters here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatefulSet {
    /// The cluster's id.
    pub cluster: ClusterId,
    /// The number of replicas; 0 stops a cluster and keeps its members.
    pub replicas: u32,
}

/// The content of the file.
#[derive(Serialize, Deserialize)]
struct Document {
    cluster: String,
    replicas: u32,
}

impl StatefulSet {
    /// Reads the file in a folder.
    pub fn read(folder: &Path) -> Result<Self, Failure> {
        let file = folder.join(SET_FILE);
        let bytes = fs::read(&file).map_err(|error| match signs_of(folder) {
            Some(what) => Failure::usage(format!(
                "{} has {what}, and {SET_FILE} cannot be read ({error}), which says how many \
                 replicas its cluster has; 'kvorum local --data {} --replicas N' writes it again",
                folder.display(),
                shell_path(folder)
            )),
            None if folder.join(ASIDE).exists() => broken_off(folder),
            None => Failure::usage(format!(
                "{} holds no local cluster ({error}); start one with 'kvorum local --data {}'",
                folder.display(),
                shell_path(folder)
            )),
        })?;
        let wrong = |why: String| Failure::failed(format!("{} is damaged: {why}", file.display()));
        let document: Document =
            serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        let cluster = document.cluster.parse().map_err(wrong)?;
        if document.replicas > REPLICAS_MAX {
            return Err(Failure::failed(format!(
                "{}: {} replicas are not possible; write 0 to {REPLICAS_MAX}",
                file.display(),
                document.replicas
            )));
        }
        Ok(Self { cluster, replicas: document.replicas })
    }

    /// Writes the file, whole or not at all.
    pub fn write(&self, folder: &Path) -> std::io::Result<()> {
        let document = Document { cluster: self.cluster.to_string(), replicas: self.replicas };
        // Several processes may write at the same time.
        let aside = folder.join(format!("statefulset.json.{}", std::process::id()));
        let file = folder.join(SET_FILE);
        let mut new = File::create(&aside)?;
        serde_json::to_writer_pretty(&mut new, &document)?;
        new.write_all(b"\n")?;
        new.sync_all()?;
        fs::rename(aside, file)
    }

    /// Returns the owner of a replica's folder.
    #[must_use]
    pub fn owner(&self, name: &str) -> Owner {
        Owner {
            cluster: Some(self.cluster),
            name: name.to_owned(),
            newest: Version::NEWEST,
            newborn: Some(self.members())
                .filter(|members| members.iter().any(|member| member == name))
                .map(|members| NewIdentity::given(self.cluster, name, &members)),
        }
    }

    /// Makes the folder of a cluster whose replicas begin with a given state, which `seed` puts
    /// into each replica's folder. Removes what an interrupted command left there.
    pub(super) fn make(
        &self,
        folder: &Path,
        seed: impl Fn(&Path, &Owner) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let cannot = |error: std::io::Error| cannot_make(folder, &error);
        if folder.exists() {
            fs::remove_dir_all(folder).map_err(cannot)?;
        }
        fs::create_dir_all(folder).map_err(cannot)?;
        for name in self.members() {
            crate::note::note(format!("making {name}"));
            seed(&folder.join(&name), &self.owner(&name))?;
        }
        // The cluster has begun: no replica may begin another one.
        let marker = Marker::new(self.cluster, rand::random());
        orchestrator::Folder::new(folder).make_marker_now(marker).map_err(cannot)?;
        self.write(folder).map_err(cannot)
    }

    /// Returns the names of the replicas.
    #[must_use]
    pub fn members(&self) -> Vec<String> {
        (0..self.replicas).map(name).collect()
    }
}

/// Returns the name of a replica.
#[must_use]
pub fn name(ordinal: u32) -> String {
    format!("kvorum-{ordinal}")
}

pub(super) fn check_count(replicas: u32) -> Result<(), Failure> {
    match replicas {
        1..=REPLICAS_MAX => Ok(()),
        other => Err(Failure::usage(format!(
            "{other} replicas are not possible; a local cluster has 1 to {REPLICAS_MAX}"
        ))),
    }
}

/// A folder that this process has locked.
pub struct Folder {
    /// Its path.
    pub path: PathBuf,
    /// The desired state.
    pub set: StatefulSet,
    pub(super) lock: File,
}

impl Folder {
    /// Locks a folder, and makes a new cluster in it if there is none; an existing one gets the
    /// given number of replicas.
    pub fn open(path: &Path, replicas: Option<u32>) -> Result<Self, Failure> {
        replicas.map_or(Ok(()), check_count)?;
        let cannot = |error: std::io::Error| {
            Failure::failed(format!("cannot use the folder {}: {error}", path.display()))
        };
        fs::create_dir_all(path).map_err(cannot)?;
        let path = path.canonicalize().map_err(cannot)?;
        let lock = take_lock(&path)?;
        let set = if path.join(SET_FILE).exists() {
            // Each replica tightens the access to its own folder.
            tighten(&path, 1);
            let mut set = StatefulSet::read(&path)?;
            if let Some(asked) = replicas.filter(|asked| *asked != set.replicas) {
                set.replicas = asked;
                set.write(&path).map_err(cannot)?;
            }
            set
        } else if path.join(ASIDE).exists() {
            return Err(broken_off(&path));
        } else {
            let set = unwritten(&path, replicas)?;
            set.write(&path).map_err(cannot)?;
            set
        };
        Ok(Self { path, set, lock })
    }
}

impl Folder {
    /// Makes another cluster in the folder: data in memory is gone with its processes.
    pub fn renew(&mut self) -> Result<(), Failure> {
        let cannot = |error: std::io::Error| cannot_make(&self.path, &error);
        self.set.cluster = ClusterId(rand::random());
        orchestrator::Folder::new(&self.path).forget_marker().map_err(cannot)?;
        self.set.write(&self.path).map_err(cannot)
    }
}

/// Returns the first replica that has a volume in a folder.
fn first_volume(path: &Path) -> Option<String> {
    let is_volume = |name: &String| Database::is_in(&path.join(name)).unwrap_or(false);
    (0..REPLICAS_MAX).map(name).find(is_volume)
}

/// Returns a sign that a cluster lives in a folder, whatever file is missing.
fn signs_of(path: &Path) -> Option<String> {
    let marker = orchestrator::Folder::new(path).marker_now().ok().flatten();
    let of = |marker: Marker| format!("the marker of cluster {}", marker.cluster);
    marker.map(of).or_else(|| first_volume(path).map(|name| format!("the volume of {name}")))
}

/// Returns the desired state for a folder that has no file with it: a new cluster, unless one lives
/// there whose file was lost. No cluster begins beside another one's volumes.
fn unwritten(path: &Path, replicas: Option<u32>) -> Result<StatefulSet, Failure> {
    let folder = shell_path(path);
    let marker = orchestrator::Folder::new(path).marker_now()?;
    match (marker, replicas, first_volume(path)) {
        (Some(Marker { cluster, .. }), Some(replicas), _) => {
            crate::note::note(format!(
                "{SET_FILE} was missing, and is written again: cluster {cluster} of {replicas}"
            ));
            Ok(StatefulSet { cluster, replicas })
        }
        (Some(Marker { cluster, .. }), None, _) => Err(Failure::usage(format!(
            "{folder} is the folder of cluster {cluster}, and {SET_FILE}, which says how many \
             replicas it has, is missing: say so with --replicas N, or name another folder with \
             --data DIR"
        ))),
        (None, _, Some(volume)) => Err(Failure::usage(format!(
            "{folder} holds volumes ({volume}), and {SET_FILE}, which says of what cluster, is \
             missing: write {{\"cluster\": \"ID\", \"replicas\": N}} into it, with the id that \
             {folder}/{volume}/log has, or name another folder with --data DIR"
        ))),
        (None, replicas, None) => {
            let replicas = replicas.unwrap_or(REPLICAS_DEFAULT);
            Ok(StatefulSet { cluster: ClusterId(rand::random()), replicas })
        }
    }
}

pub(super) fn take_lock(folder: &Path) -> Result<File, Failure> {
    let path = folder.join("lock");
    let mut options = File::options();
    let file = options.create(true).truncate(false).read(true).write(true).open(&path);
    let file =
        file.map_err(|error| Failure::failed(format!("cannot use {}: {error}", path.display())))?;
    if !try_lock(&file) {
        let holder = fs::read_to_string(&path).unwrap_or_default();
        return Err(Failure::failed(format!(
            "a local cluster runs in {} already (process {}); use it, or start another one with \
             --data DIR",
            folder.display(),
            holder.trim()
        )));
    }
    fs::write(&path, std::process::id().to_string())?;
    Ok(file)
}

pub(super) fn cannot_make(folder: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot make the folder {}: {error}", folder.display()))
}

/// Refuses a folder of which a restore was broken off.
fn broken_off(folder: &Path) -> Failure {
    let folder = shell_path(folder);
    Failure::usage(format!(
        "a restore into {folder} was broken off: run 'kvorum restore FILE --data {folder}' again, \
         or remove {folder} for a new cluster"
    ))
}

/// Returns a handler that ends the command when a disk fails, and prints what failed and what next.
pub(super) fn end_on(what: String, next: String) -> OnFatal {
    Arc::new(move |why: &str| {
        crate::note::note(format!("{what}: {why}; {next}"));
        std::process::exit(Exit::Failed as i32);
    })
}

/// Does the same, for a folder that is being made.
pub(super) fn end_on_write(folder: &Path) -> OnFatal {
    end_on(
        format!("cannot make the folder {}", folder.display()),
        "no cluster was made; make room, or lift the limit, and repeat the command".to_owned(),
    )
}

/// Returns the folder that is used when none is named.
pub fn default_path() -> Result<PathBuf, Failure> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    match (set("XDG_STATE_HOME"), set("HOME")) {
        (Some(state), _) => Ok(PathBuf::from(state).join(DEFAULT)),
        (None, Some(home)) => Ok(PathBuf::from(home).join(".local/state").join(DEFAULT)),
        (None, None) => Err(Failure::usage("HOME is not set; name a folder with --data DIR")),
    }
}

/// Checks that a cluster runs in a folder.
pub fn check_running(folder: &Path) -> Result<(), Failure> {
    StatefulSet::read(folder)?;
    if is_held(&folder.join("lock")) {
        return Ok(());
    }
    let message = format!(
        "the local cluster in {} is not running; start it with 'kvorum local --data {}'",
        folder.display(),
        shell_path(folder)
    );
    Err(Failure::new(Exit::Unavailable, message))
}

/// Returns the default folder, if a cluster runs there.
#[must_use]
pub fn living() -> Option<PathBuf> {
    let folder = default_path().ok()?;
    is_held(&folder.join("lock")).then_some(folder)
}

/// Returns the process that runs on a replica's folder. The lock shows that it is alive, so that
/// the id is its own and not that of a later process.
#[must_use]
pub fn process_of(folder: &Path) -> Option<rustix::process::Pid> {
    let lock = folder.join("lock");
    if !is_held(&lock) {
        return None;
    }
    let id = fs::read_to_string(&lock).ok()?.trim().parse().ok()?;
    rustix::process::Pid::from_raw(id)
}

/// Takes a lock. A process that checks whether it is held holds it for an instant, so this retries.
fn try_lock(file: &File) -> bool {
    (0..LOCK_TRIES).any(|again| {
        if again > 0 {
            std::thread::sleep(LOCK_PAUSE);
        }
        flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()
    })
}

fn is_held(lock: &Path) -> bool {
    let Ok(file) = File::open(lock) else { return false };
    flock(&file, FlockOperation::NonBlockingLockShared).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file with the wanted number of replicas was lost; the cluster in the folder was not.
    #[test]
    fn no_cluster_begins_where_one_lives() {
        let kept = tempfile::tempdir().unwrap();
        let folder = kept.path();
        let open = |replicas| Folder::open(folder, replicas).map(|folder| folder.set);
        let first = open(None).unwrap();
        assert_eq!(first.replicas, REPLICAS_DEFAULT);
        assert_eq!(open(None).unwrap(), first);
        let lose = || fs::remove_file(folder.join(SET_FILE)).unwrap();
        lose();
        assert_ne!(open(None).unwrap(), first, "nothing was in it");

        let database = folder.join("kvorum-4/db");
        fs::create_dir_all(&database).unwrap();
        fs::write(database.join("CURRENT"), "MANIFEST-1").unwrap();
        lose();
        for replicas in [None, Some(5)] {
            let why = open(replicas).unwrap_err().message;
            assert!(why.contains("holds volumes (kvorum-4)"), "{why}");
        }
        let marker = Marker::new(first.cluster, 1);
        orchestrator::Folder::new(folder).make_marker_now(marker).unwrap();
        let why = open(None).unwrap_err().message;
        assert!(why.contains("--replicas N") && !folder.join(SET_FILE).exists(), "{why}");
        assert_eq!(open(Some(5)).unwrap(), StatefulSet { replicas: 5, ..first });
    }
}
