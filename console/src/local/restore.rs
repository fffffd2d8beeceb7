//! `restore`: creates a new local cluster with the state of a backup.
//!
//! Guarantees that a backup which is incomplete or damaged creates no cluster: it is read to its
//! end before anything is created, and the folder becomes a cluster's only when every replica has
//! the state. The cluster has an id of its own and goes on [far above](seed::LEAP) the backup's
//! index, so that no index is given twice.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;

use kvorum_protocol::backup::{BackupError, Reader};
use kvorum_protocol::status::ClusterId;
use kvorum_replica::state::snapshot::{Item, items_of, keys_in};
use kvorum_replica::storage::OpenError;
use kvorum_replica::storage::rocks::open::Owner;
use kvorum_replica::storage::rocks::seed::{self, Seed};

use super::folder::{self, ASIDE, StatefulSet};
use crate::arguments::Restore;
use crate::exit::Stop;
use crate::output::shell_path;

/// Creates the cluster.
pub fn run(restore: &Restore) -> Result<(), Stop> {
    let Restore { file, data, replicas } = restore;
    folder::check_count(*replicas)?;
    check_empty(data)?;
    let refused =
        |error: BackupError| Stop::failed(format!("cannot restore {}: {error}", file.display()));
    let (index, keys) = look_through(file).map_err(refused)?;

    // The folder itself is kept: it may be a link or a mount point.
    let cannot = |error: std::io::Error| folder::cannot_make(data, &error);
    fs::create_dir_all(data).map_err(cannot)?;
    let data = data.canonicalize().map_err(cannot)?;
    let lock = folder::take_lock(&data)?;
    check_empty(&data)?;
    let set = StatefulSet { cluster: ClusterId(rand::random()), replicas: *replicas };
    let aside = data.join(ASIDE);
    set.make(&aside, |folder, owner| make(file, folder, owner, index))?;
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
fn check_empty(data: &Path) -> Result<(), Stop> {
    let unusable = |error: std::io::Error| {
        Stop::usage(format!("cannot use {}: {error}; name another folder", data.display()))
    };
    if !data.try_exists().map_err(unusable)? {
        return Ok(());
    }
    for entry in fs::read_dir(data).map_err(unusable)? {
        let name = entry.map_err(unusable)?.file_name();
        if ![ASIDE, "lock", "lost+found"].iter().any(|left| name == *left) {
            let (folder, name) = (data.display(), Path::new(&name).display());
            return Err(Stop::usage(format!(
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

fn open(file: &Path) -> Result<Reader<BufReader<File>>, BackupError> {
    Reader::open(BufReader::new(File::open(file)?))
}

/// Reads a backup to its end, and returns its index and its number of keys. Rejects an index after
/// which no cluster can go on, and items later than the index: Kvorum writes no such backup.
fn look_through(file: &Path) -> Result<(u64, u64), BackupError> {
    let mut reader = open(file)?;
    let (index, mut count) = (reader.header.index, 0);
    if !seed::can_leap(index) {
        return Err(BackupError::Foreign);
    }
    let is_of_then = |item: &Item| match item {
        Item::Lane(_, lane) => lane.last_use <= index,
        Item::Key(_, record) => record.revision <= index,
    };
    while let Some(part) = reader.part()? {
        let items = items_of(&part).filter(|items| items.iter().all(is_of_then));
        count += keys_in(&items.ok_or(BackupError::Foreign)?);
    }
    Ok((index, count))
}

fn make(file: &Path, folder: &Path, owner: &Owner, index: u64) -> Result<(), Stop> {
    let failed = |error: OpenError| Stop::failed(error.to_string());
    let again = |error: BackupError| Stop::failed(format!("{} changed: {error}", file.display()));
    let on_fatal = folder::end_on_write(folder);
    let nonce = rand::random();
    let mut seed = Seed::begin(folder, owner, nonce, index, on_fatal).map_err(failed)?;
    let mut reader = open(file).map_err(again)?;
    while let Some(part) = reader.part().map_err(again)? {
        seed.add(items_of(&part).ok_or(BackupError::Foreign).map_err(again)?);
    }
    seed.end(&[]).ok_or(BackupError::Foreign).map_err(again)?;
    Ok(())
}
