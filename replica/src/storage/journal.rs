//! The journal: the logs of a replica, in files of their own beside the state.
//!
//! A write is a frame that is appended, and after a sync it is on the disk once. The state that the
//! entries lead to is written later, in the background, and what is lost of it in a crash is made
//! anew from here ([`replay`](super::replay)).
//!
//! Guarantees that a frame is made whole or not at all; that after a crash the surviving frames are
//! a prefix of those appended, with all that were appended before a sync began which returned; that
//! appending never waits for the disk; and that an entry which was overwritten is never read.
//! Files whose entries are all cut are used again, or removed, once the cut is durable. Does not
//! know what the state has, which must reach as far as a log is cut.

pub mod frame;
mod index;
pub mod recovery;

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvorum_protocol::status::ConfigurationId;

use super::log::LogNumbers;
use crate::state::entry::Entry;
use frame::{Frame, Place};
use index::{Block, Index};
use recovery::Recovered;

/// The length beyond which the next frame begins another file. Cut entries are given back a file at
/// a time.
const FILE_BYTES: u64 = if cfg!(test) { 64 << 10 } else { 8 << 20 };

/// The most cut files that are kept to be written again. A sync of what was written before changes
/// nothing but contents; where a file grows, it waits for the file system's own journal, and so for
/// what else the disk has to do.
const SPARES_MAX: usize = 4;

/// How the name of a file ends that waits to be written again.
const SPARE: &str = "spare";

/// The most bytes that a buffer keeps for the next frames.
const SPARE_BYTES: usize = 4 << 20;

/// An open journal. Used by the thread that appends, by the one that syncs, and by readers.
pub struct Journal {
    folder: PathBuf,
    /// Never held while the disk is waited for.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    index: Index,
    /// The files, from the first that is kept; the last may be yet to be made.
    files: VecDeque<JournalFile>,
    /// Where the next frame will lie.
    end: Place,
    /// What was appended and may not be in its file, in order.
    unwritten: VecDeque<Chunk>,
    /// How many of those are being written.
    taken: usize,
    /// The numbers of cut files that may be written again.
    spares: Vec<u64>,
    /// A buffer that was written, for the next chunk.
    spare: Vec<u8>,
}

/// One file.
struct JournalFile {
    number: u64,
    /// Its length, once the next one began.
    length: u64,
    /// `None` while nothing was written to it.
    file: Option<Arc<File>>,
}

/// A run of frames.
#[derive(Clone)]
struct Chunk {
    at: Place,
    bytes: Arc<Vec<u8>>,
}

/// What a sync will write.
pub struct Taken {
    chunks: Vec<Chunk>,
    /// Files before this one are not needed once that is durable.
    keep_from: u64,
}

/// The reason why entries cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// What was written is lost or changed.
    #[error("{0}")]
    Damaged(String),
    /// The file system's error.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Journal {
    /// Goes on with what was found in a folder, from where it is sound.
    ///
    /// # Errors
    /// The file system's error.
    pub fn open(folder: &Path, found: Recovered) -> io::Result<Self> {
        for number in found.leftovers {
            fs::remove_file(path_of(folder, number))?;
        }
        for path in found.spares {
            fs::remove_file(path)?;
        }
        let mut files = VecDeque::new();
        for (number, length) in found.files {
            let file = OpenOptions::new().read(true).write(true).open(path_of(folder, number))?;
            if number == found.end.file {
                settle(&file, found.end.offset)?;
            }
            files.push_back(JournalFile { number, length, file: Some(Arc::new(file)) });
        }
        File::open(folder)?.sync_all()?;
        let state = State { index: found.index, files, end: found.end, ..State::default() };
        Ok(Self { folder: folder.to_owned(), state: Mutex::new(state) })
    }

    /// Appends a frame, in memory.
    pub fn append(&self, frame: &Frame) {
        self.state().append(frame);
    }

    /// Returns the numbers of a log as of the last frame; `None` when nothing was ever written to
    /// it.
    #[must_use]
    pub fn numbers(&self, id: ConfigurationId) -> Option<LogNumbers> {
        self.state().index.numbers(id)
    }

    /// Returns the newest configuration that has a log.
    #[must_use]
    pub fn newest(&self) -> Option<ConfigurationId> {
        self.state().index.newest()
    }

    /// Returns where the next frame will lie: what a sync that begins now makes durable ends there.
    #[must_use]
    pub fn end(&self) -> Place {
        self.state().end
    }

    /// Visits the entries at positions `from..to` of a log, in order, until `visit` returns false.
    /// Ends before an entry that the log does not have.
    ///
    /// # Errors
    /// When the disk cannot be read, or what it holds is not what was written.
    pub fn each(
        &self,
        id: ConfigurationId,
        from: usize,
        to: usize,
        mut visit: impl FnMut(Entry) -> bool,
    ) -> Result<(), ReadError> {
        let mut next = from;
        while next < to {
            let Some((block, after, bytes)) = self.block(id, next)? else { return Ok(()) };
            let end = after.map_or(to, |after| after.first.min(to));
            let begin = next;
            let mut rest = &bytes[..];
            let mut at = block.at;
            while next < end && !rest.is_empty() {
                let (frame, length) =
                    Frame::decode(at, rest).map_err(|_| damaged(at, "there is no sound frame"))?;
                rest = &rest[length..];
                at.offset += length as u64;
                let (first, entries) = index::appended(frame, id);
                for (position, entry) in (first..end).zip(entries) {
                    if position == next {
                        next += 1;
                        if !visit(entry) {
                            return Ok(());
                        }
                    }
                }
            }
            if next == begin {
                return Err(damaged(block.at, &format!("entry {next} is missing")));
            }
        }
        Ok(())
    }

    /// Returns the block that holds an entry, the one after it, and its bytes.
    #[expect(clippy::type_complexity, reason = "one caller, and names would be read once")]
    fn block(
        &self,
        id: ConfigurationId,
        position: usize,
    ) -> io::Result<Option<(Block, Option<Block>, Vec<u8>)>> {
        let state = self.state();
        let Some((block, after)) = state.index.block_of(id, position) else { return Ok(None) };
        let at = block.at;
        let whole = state.length_of(at.file);
        let end = after.filter(|after| after.at.file == at.file).map_or(whole, |a| a.at.offset);
        let unwritten = state.unwritten_from(at.file).min(end).max(at.offset);
        let in_memory = state.copy(at.file, unwritten, end);
        let file = state.open_file(at.file);
        drop(state);
        let length = usize::try_from(unwritten - at.offset).expect("a block fits into memory");
        let mut bytes = vec![0; length];
        if let Some(file) = file {
            file.read_exact_at(&mut bytes, at.offset)?;
        }
        bytes.extend(in_memory);
        Ok(Some((block, after, bytes)))
    }

    /// Takes what was appended, for [`write`](Self::write).
    #[must_use]
    pub fn take(&self) -> Taken {
        let mut state = self.state();
        state.taken = state.unwritten.len();
        // An empty last file does not say where the logs stand.
        let last = state.end.file - u64::from(state.end.offset == 0 && state.end.file > 1);
        let keep_from = state.index.first_file().unwrap_or(last);
        Taken { chunks: state.unwritten.iter().cloned().collect(), keep_from }
    }

    /// Writes what was taken, makes it durable, and removes the files that are not needed any more.
    /// For one thread at a time.
    ///
    /// # Errors
    /// The file system's error; the journal must not be used after that.
    pub fn write(&self, taken: Taken) -> io::Result<()> {
        let Taken { chunks, keep_from } = taken;
        let mut current: Option<(u64, Arc<File>)> = None;
        for Chunk { at, bytes } in &chunks {
            let file = match &current {
                Some((number, file)) if *number == at.file => Arc::clone(file),
                _ => self.file(at.file)?,
            };
            file.write_all_at(bytes, at.offset)?;
            current = Some((at.file, file));
        }
        if let Some((_, file)) = current {
            file.sync_data()?;
        }
        let cut = self.state().written(chunks, keep_from);
        for file in cut {
            self.give_back(file)?;
        }
        Ok(())
    }

    /// Makes a file durable, if there is one, before another one follows: only the last one may be
    /// cut, or end in what an earlier use of it left.
    fn finish(&self, number: u64) -> io::Result<()> {
        let (file, length) = {
            let state = self.state();
            (state.open_file(number), state.length_of(number))
        };
        let Some(file) = file else { return Ok(()) };
        if file.metadata()?.len() > length {
            file.set_len(length)?;
        }
        file.sync_data()
    }

    /// Keeps a file whose entries are cut for another use, or removes it: there are enough, or
    /// somebody is still reading it.
    fn give_back(&self, JournalFile { number, file, .. }: JournalFile) -> io::Result<()> {
        let path = path_of(&self.folder, number);
        let is_read = file.is_some_and(|file| Arc::into_inner(file).is_none());
        if is_read || self.state().spares.len() >= SPARES_MAX {
            return fs::remove_file(path);
        }
        fs::rename(path, spare_of(&self.folder, number))?;
        self.state().spares.push(number);
        Ok(())
    }

    /// Returns a file, which it makes if need be.
    fn file(&self, number: u64) -> io::Result<Arc<File>> {
        if let Some(file) = self.state().open_file(number) {
            return Ok(file);
        }
        self.finish(number - 1)?;
        let (mut options, path) = (OpenOptions::new(), path_of(&self.folder, number));
        let spare = self.state().spares.pop();
        let file = match spare {
            Some(spare) => {
                fs::rename(spare_of(&self.folder, spare), &path)?;
                options.read(true).write(true).open(path)?
            }
            None => options.read(true).write(true).create(true).truncate(true).open(path)?,
        };
        let file = Arc::new(file);
        // Before it is written: by its old name, its new contents would be damage.
        File::open(&self.folder)?.sync_all()?;
        let mut state = self.state();
        if let Some(made) = state.files.iter_mut().find(|file| file.number == number) {
            made.file = Some(Arc::clone(&file));
        }
        Ok(file)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }
}

/// Makes what was found in the last file durable: the process that wrote it may have ended before a
/// sync, or because of one that failed, after which the system takes the pages for written. What
/// follows is what a crash left, and must not follow the next frame.
fn settle(file: &File, end: u64) -> io::Result<()> {
    let mut sound = vec![0; usize::try_from(end).expect("a file fits into memory")];
    file.read_exact_at(&mut sound, 0)?;
    file.set_len(end)?;
    file.write_all_at(&sound, 0)?;
    file.sync_all()
}

impl State {
    fn append(&mut self, frame: &Frame) {
        if self.end.offset >= FILE_BYTES {
            if let Some(last) = self.files.back_mut() {
                last.length = self.end.offset;
            }
            self.end = Place { file: self.end.file + 1, offset: 0 };
        }
        if self.end.offset == 0 {
            if self.files.back().is_none_or(|last| last.number < self.end.file) {
                let number = self.end.file;
                self.files.push_back(JournalFile { number, length: 0, file: None });
            }
            let standing: Vec<_> = self.index.standing().collect();
            for frame in &standing {
                self.put(frame);
            }
        }
        let at = self.end;
        self.put(frame);
        self.index.add(frame, at);
    }

    fn put(&mut self, frame: &Frame) {
        let end = self.end;
        let is_open = self.unwritten.len() > self.taken
            && self.unwritten.back().is_some_and(|chunk| chunk.at.file == end.file);
        if !is_open {
            let bytes = Arc::new(std::mem::take(&mut self.spare));
            self.unwritten.push_back(Chunk { at: end, bytes });
        }
        let chunk = self.unwritten.back_mut().expect("there is one by now");
        let bytes = Arc::make_mut(&mut chunk.bytes);
        let before = bytes.len();
        frame.encode(end, bytes);
        self.end.offset += (bytes.len() - before) as u64;
    }

    /// Records that some chunks are written; returns the files that are not needed any more.
    fn written(&mut self, chunks: Vec<Chunk>, keep_from: u64) -> Vec<JournalFile> {
        self.unwritten.drain(..chunks.len());
        self.taken = 0;
        for chunk in chunks {
            if let Ok(mut bytes) = Arc::try_unwrap(chunk.bytes)
                && bytes.capacity() > self.spare.capacity()
                && bytes.capacity() <= SPARE_BYTES
            {
                bytes.clear();
                self.spare = bytes;
            }
        }
        let mut removed = Vec::new();
        while self.files.front().is_some_and(|first| first.number < keep_from) {
            removed.extend(self.files.pop_front());
        }
        removed
    }

    /// Returns a file that something was written to.
    fn open_file(&self, number: u64) -> Option<Arc<File>> {
        let file = self.files.iter().find(|file| file.number == number);
        file.and_then(|file| file.file.clone())
    }

    /// Returns the length of a file, with what is not written yet.
    fn length_of(&self, number: u64) -> u64 {
        if number == self.end.file {
            return self.end.offset;
        }
        let file = self.files.iter().find(|file| file.number == number);
        file.map_or(0, |file| file.length)
    }

    /// Returns from where on a file's bytes are in memory.
    fn unwritten_from(&self, number: u64) -> u64 {
        match self.unwritten.iter().find(|chunk| chunk.at.file >= number) {
            Some(chunk) if chunk.at.file == number => chunk.at.offset,
            _ => u64::MAX,
        }
    }

    /// Copies bytes of a file that are in memory.
    fn copy(&self, number: u64, from: u64, to: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for chunk in self.unwritten.iter().filter(|chunk| chunk.at.file == number) {
            let begin = chunk.at.offset;
            let within = |offset: u64| {
                let distance = usize::try_from(offset.saturating_sub(begin)).unwrap_or(usize::MAX);
                distance.min(chunk.bytes.len())
            };
            bytes.extend(&chunk.bytes[within(from)..within(to)]);
        }
        bytes
    }
}

fn damaged(at: Place, what: &str) -> ReadError {
    ReadError::Damaged(format!("journal/{}, byte {}: {what}", name_of(at.file), at.offset))
}

fn name_of(number: u64) -> String {
    format!("{number:010}.log")
}

fn path_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(name_of(number))
}

/// Returns where a file lies that waits to be written again.
fn spare_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:010}.{SPARE}"))
}

#[cfg(test)]
#[path = "journal/tests.rs"]
mod tests;
