//! `restore`: creates a new local cluster with the state of a backup.
//!
//! Guarantees that a backup which is incomplete or damaged creates no cluster: it is read to its
//! end before anything is created, and the folder becomes a cluster's only when every replica has
//! the state. The cluster has an id of its own and goes on [far above](seed::LEAP) the backup's
//! index, so that no index is given twice.

use std::fs::{self, File};
use std::path::Path;

use kvorum_protocol::backup::BackupError;
use kvorum_protocol::status::ClusterId;
use kvorum_replica::offline::restore::{RestoreError, examine, make};
use kvorum_replica::storage::rocks::seed;

use super::folder::{self, ASIDE, StatefulSet};
use crate::arguments::Restore;
use crate::exit::Failure;
use crate::output::shell_path;

/// Creates the cluster.
pub fn run(restore: &Restore) -> Result<(), Failure> {
    let Restore { file, data, replicas } = restore;
    folder::check_count(*replicas)?;
    check_empty(data)?;
    let refused =
        |error: BackupError| Failure::failed(format!("cannot restore {}: {error}", file.display()));
    let (index, keys) = examine(file).map_err(refused)?;

    // The folder itself is kept: it may be a link or a mount point.
    let cannot = |error: std::io::Error| folder::cannot_make(data, &error);
    fs::create_dir_all(data).map_err(cannot)?;
    let data = data.canonicalize().map_err(cannot)?;
    let lock = folder::take_lock(&data)?;
    check_empty(&data)?;
    let set = StatefulSet { cluster: ClusterId(rand::random()), replicas: *replicas };
    let aside = data.join(ASIDE);
    set.make(&aside, |data, owner| {
        let made = make(file, data, owner, index, folder::end_on_write(data));
        made.map_err(|error| match error {
            RestoreError::Disk(error) => Failure::failed(error.to_string()),
            RestoreError::Backup(_) => Failure::failed(format!("{} {error}", file.display())),
        })
    })?;
    bring_in(&aside, &data).map_err(|error| folder::cannot_make(&data, &error))?;
    drop(lock);
    let (folder, word) = (data.display(), shell_path(&data));
    let plural = if *replicas == 1 { "" } else { "s" };
    let after = seed::leap(index, set.cluster).unwrap_or(index);
    println!(
        "cluster {} of {replicas} replica{plural} with {keys} keys as of index {index} is in \
         {folder}, and goes on after index {after}; start it with 'kvorum local --data {word}', \
         or, when it is for Kubernetes, bring its folders onto the volumes as deploy/README.md \
         says. Clients of the old cluster that still run have to be started anew",
        set.cluster,
    );
    Ok(())
}

/// Checks that the folder holds nothing but what an interrupted restore left.
fn check_empty(data: &Path) -> Result<(), Failure> {
    let unusable = |error: std::io::Error| {
        Failure::usage(format!("cannot use {}: {error}; name another folder", data.display()))
    };
    if !data.try_exists().map_err(unusable)? {
        return Ok(());
    }
    for entry in fs::read_dir(data).map_err(unusable)? {
        let name = entry.map_err(unusable)?.file_name();
        if ![ASIDE, "lock", "lost+found"].iter().any(|left| name == *left) {
            let (folder, name) = (data.display(), Path::new(&name).display());
            return Err(Failure::usage(format!(
                "{folder} is not empty ({name} is there); name another folder"
            )));
        }
    }
    Ok(())
}

/// Moves the created files into place; the one that makes the folder a cluster's comes last.
fn bring_in(aside: &Path, data: &Path) -> std::io::Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(aside)? {
        names.push(entry?.file_name());
    }
    names.sort_by_key(|name| name == folder::SET_FILE);
    for name in names {
        fs::rename(aside.join(&name), data.join(&name))?;
    }
    fs::remove_dir(aside)?;
    File::open(data)?.sync_all()
}
