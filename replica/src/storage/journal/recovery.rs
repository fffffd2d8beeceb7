//! Reads a journal that a process left behind.
//!
//! Guarantees that only a prefix of what was appended is taken; that a file which is not sound up
//! to its end is damage, unless it is the last one, which a crash may have cut; and that nothing is
//! changed. Does not know whether the last file was cut behind what was synced; the side file does.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kvorum_protocol::status::ConfigurationId;

use super::frame::{Frame, Place, Unsound};
use super::index::Index;
use super::{SPARE, name_of, path_of};
use crate::storage::log::LogNumbers;

/// A journal as it was found.
pub struct Recovered {
    pub(super) index: Index,
    /// The number of each file and its length, in order.
    pub(super) files: Vec<(u64, u64)>,
    /// Files before them, which are to be removed.
    pub(super) leftovers: Vec<u64>,
    /// Files that waited to be written again.
    pub(super) spares: Vec<PathBuf>,
    /// Where the sound frames end.
    pub end: Place,
}

/// The reason why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// What was written is lost or changed.
    #[error("{0}")]
    Damaged(String),
    /// A newer program wrote it.
    #[error("journal/{file} has version {version}")]
    Newer {
        /// The file.
        file: String,
        /// The version.
        version: u8,
    },
    /// The file system's error.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads the journal in a folder; one that is not there is empty.
///
/// # Errors
/// When it is damaged, of a newer version, or cannot be read.
pub fn recover(folder: &Path) -> Result<Recovered, RecoveryError> {
    let Files { numbers, leftovers, spares } = files_in(folder)?;
    let end = numbers.first().map_or(Place::FIRST, |first| Place { file: *first, offset: 0 });
    let mut found = Recovered { leftovers, spares, end, ..Recovered::empty() };
    for number in &numbers {
        found.read(folder, *number, Some(number) == numbers.last())?;
    }
    match found.index.hole() {
        None => Ok(found),
        Some(hole) => Err(RecoveryError::Damaged(format!(
            "journal/ lacks entry {} of configuration {}",
            hole.position, hole.configuration.0
        ))),
    }
}

impl Recovered {
    /// Returns a journal to which nothing was written.
    #[must_use]
    pub fn empty() -> Self {
        let (files, leftovers, spares) = (Vec::new(), Vec::new(), Vec::new());
        Self { index: Index::default(), files, leftovers, spares, end: Place::FIRST }
    }

    /// Returns the newest configuration that has a log.
    #[must_use]
    pub fn newest(&self) -> Option<ConfigurationId> {
        self.index.newest()
    }

    /// Returns the numbers of a log; `None` when nothing was ever written to it.
    #[must_use]
    pub fn numbers(&self, id: ConfigurationId) -> Option<LogNumbers> {
        self.index.numbers(id)
    }

    fn read(&mut self, folder: &Path, number: u64, is_last: bool) -> Result<(), RecoveryError> {
        let bytes = fs::read(path_of(folder, number))?;
        self.files.push((number, bytes.len() as u64));
        let damaged = |at: Place, what: &str| {
            let file = name_of(number);
            RecoveryError::Damaged(format!("journal/{file}, byte {}: {what}", at.offset))
        };
        let (mut at, mut rest) = (Place { file: number, offset: 0 }, &bytes[..]);
        loop {
            match Frame::decode(at, rest) {
                Ok((frame, length)) => {
                    if !self.index.agrees(&frame) {
                        return Err(damaged(at, "it does not continue the file before"));
                    }
                    self.index.add(&frame, at);
                    rest = &rest[length..];
                    at.offset += length as u64;
                }
                Err(Unsound::Newer(version)) => {
                    return Err(RecoveryError::Newer { file: name_of(number), version });
                }
                Err(Unsound::NoFrame) if !is_last => return Err(damaged(at, "no sound frame")),
                Err(Unsound::NoFrame | Unsound::End) => break,
            }
        }
        self.end = at;
        Ok(())
    }
}

/// The files of a journal.
#[derive(Default)]
struct Files {
    /// The numbers of those with frames, in order.
    numbers: Vec<u64>,
    /// The numbers of those that were about to be removed: a removal may have become durable before
    /// an earlier one.
    leftovers: Vec<u64>,
    /// Those that waited to be written again.
    spares: Vec<PathBuf>,
}

fn files_in(folder: &Path) -> io::Result<Files> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Files::default()),
        entries => entries?,
    };
    let (mut numbers, mut spares) = (Vec::new(), Vec::new());
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == SPARE) {
            spares.push(path);
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let number = name.strip_suffix(".log").and_then(|number| number.parse().ok());
        numbers.extend(number.filter(|number| name_of(*number) == name));
    }
    numbers.sort_unstable();
    let gap = numbers.windows(2).rposition(|pair| pair[0] + 1 != pair[1]);
    let kept = numbers.split_off(gap.map_or(0, |gap| gap + 1));
    Ok(Files { numbers: kept, leftovers: numbers, spares })
}
