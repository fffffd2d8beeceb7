//! A new disk with the state of a backup.
//!
//! Guarantees that a backup can be read to its end before anything is made of it, and that no
//! cluster goes on from an index beyond which there are none.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use kvorum_protocol::backup::{BackupError, Reader};

use crate::state::snapshot::{Item, items_of, keys_in};
use crate::storage::rocks::open::Owner;
use crate::storage::rocks::seed::{self, Seed};
use crate::storage::{OnFatal, OpenError};

/// The reason why no disk could be made of a backup.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The folder cannot be opened.
    #[error(transparent)]
    Disk(#[from] OpenError),
    /// The backup cannot be read any more.
    #[error("changed: {0}")]
    Backup(#[from] BackupError),
}

fn open(file: &Path) -> Result<Reader<BufReader<File>>, BackupError> {
    Reader::open(BufReader::new(File::open(file)?))
}

/// Reads a backup to its end, and returns its index and its number of keys. Rejects an index after
/// which no cluster can go on, and items later than the index: Kvorum writes no such backup.
///
/// # Errors
/// The reason why the backup is of no use.
pub fn examine(file: &Path) -> Result<(u64, u64), BackupError> {
    let mut reader = open(file)?;
    let (index, mut count) = (reader.header.index, 0);
    if !seed::can_leap(index) {
        return Err(BackupError::Foreign);
    }
    let is_of_then = |item: &Item| match item {
        Item::Lane(_, lane) => lane.last_use <= index,
        Item::Key(_, record) => record.revision <= index,
        Item::Accounts(accounts) => accounts.is_valid(),
    };
    while let Some(part) = reader.part()? {
        let items = items_of(&part).filter(|items| items.iter().all(is_of_then));
        count += keys_in(&items.ok_or(BackupError::Foreign)?);
    }
    Ok((index, count))
}

/// Makes a new disk, for `owner`, with the state of a backup as of `index`.
///
/// # Errors
/// The reason why there is no such disk.
pub fn make(
    file: &Path,
    folder: &Path,
    owner: &Owner,
    index: u64,
    on_fatal: OnFatal,
) -> Result<(), RestoreError> {
    let mut seed = Seed::begin(folder, owner, rand::random(), index, on_fatal)?;
    let mut reader = open(file)?;
    while let Some(part) = reader.part()? {
        seed.add(items_of(&part).ok_or(BackupError::Foreign)?);
    }
    seed.end(&[]).ok_or(BackupError::Foreign)?;
    Ok(())
}
