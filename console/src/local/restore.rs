//! `restore`: a new local cluster with the state of a backup.
//!
//! Guarantees that a backup which is not whole and sound makes no cluster: it is read to its end
//! before anything is made, and the folder gets its name only when every replica has the state.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvorum_protocol::backup::{BackupError, Reader};
use kvorum_protocol::status::ClusterId;
use kvorum_replica::snapshot::{items_of, keys_in};
use kvorum_replica::storage::OpenError;
use kvorum_replica::storage::open::Owner;
use kvorum_replica::storage::seed::Seed;

use super::folder::{self, StatefulSet};
use crate::arguments::Restore;
use crate::exit::Stop;

/// Makes the cluster.
pub fn run(restore: &Restore) -> Result<(), Stop> {
    let Restore { file, data, replicas } = restore;
    folder::check_count(*replicas)?;
    let is_taken = data.exists() && fs::read_dir(data).is_ok_and(|mut all| all.next().is_some());
    if is_taken {
        let folder = data.display();
        return Err(Stop::usage(format!("{folder} is not empty; name another folder")));
    }
    let refused =
        |error: BackupError| Stop::failed(format!("cannot restore {}: {error}", file.display()));
    let (index, keys) = look_through(file).map_err(refused)?;

    let set = StatefulSet { cluster: ClusterId(rand::random()), replicas: *replicas };
    let aside = PathBuf::from(format!("{}.restoring", data.display()));
    let cannot = |error: std::io::Error| folder::cannot_make(&aside, &error);
    set.make(&aside, |folder, owner| seed(file, folder, owner, index))?;
    if data.exists() {
        fs::remove_dir(data).map_err(cannot)?;
    }
    fs::rename(&aside, data).map_err(cannot)?;
    let folder = data.display();
    println!(
        "a cluster of {replicas} replicas with {keys} keys as of index {index} is in \
         {folder}; start it with 'kvorum local --data {folder}'"
    );
    Ok(())
}

fn open(file: &Path) -> Result<Reader<BufReader<File>>, BackupError> {
    Reader::open(BufReader::new(File::open(file)?))
}

/// Reads a backup to its end: its index, and how many keys are in it.
fn look_through(file: &Path) -> Result<(u64, u64), BackupError> {
    let mut reader = open(file)?;
    let mut count = 0;
    while let Some(part) = reader.part()? {
        count += keys_in(&items_of(&part).ok_or(BackupError::Foreign)?);
    }
    Ok((reader.header.index, count))
}

fn seed(file: &Path, folder: &Path, owner: &Owner, index: u64) -> Result<(), Stop> {
    let failed = |error: OpenError| Stop::failed(error.to_string());
    let again = |error: BackupError| Stop::failed(format!("{} changed: {error}", file.display()));
    let on_fatal = Arc::new(|what: &str| panic!("{what}"));
    let nonce = rand::random();
    let mut seed = Seed::begin(folder, owner, nonce, index, on_fatal).map_err(failed)?;
    let mut reader = open(file).map_err(again)?;
    while let Some(part) = reader.part().map_err(again)? {
        seed.add(items_of(&part).ok_or(BackupError::Foreign).map_err(again)?);
    }
    seed.end(&[]);
    Ok(())
}
