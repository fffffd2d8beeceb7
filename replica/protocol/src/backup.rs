//! The file format of a backup.
//!
//! ```text
//! | length: 4 bytes | postcard of a frame | CRC-32 of all postcard so far: 4 bytes |
//! ```
//!
//! Numbers are little endian. The first frames identify the backup, then come its parts, and the
//! last frame holds their number. Guarantees that a file that was cut, changed, or put together
//! from others is detected, and that no length in it makes a reader reserve more than a frame may
//! have. Does not know what is in a part; replicas do.

use std::io::{self, Read, Write};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::limits::FRAME_BYTES_MAX;
use crate::status::ClusterId;

/// The format version that this program writes, and the newest that it reads.
///
/// History:
/// - 1: the first version.
pub const VERSION: u16 = 1;

const MAGIC: [u8; 8] = *b"kvorum/b";

/// The identity of a backup.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Header {
    /// The cluster that was backed up.
    pub cluster: ClusterId,
    /// The log index as of which the backup shows the state.
    pub index: u64,
    /// The time of the backup, in microseconds since 1970, by the clock of the client that took it.
    pub taken_us: u64,
}

#[derive(Serialize, Deserialize)]
enum Frame {
    Begin { magic: [u8; 8], version: u16 },
    Header(Header),
    Part(Bytes),
    End { parts: u64 },
}

/// The reason why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file is not a backup.
    #[error("it is no backup of Kvorum")]
    Foreign,
    /// A newer program wrote the file.
    #[error("it has version {found} of the format, and this program knows {VERSION}")]
    Newer {
        /// The file's format version.
        found: u16,
    },
    /// The file ends before its last frame.
    #[error("it ends before its end: it was cut, or never finished")]
    Cut,
    /// The file's bytes changed.
    #[error("it is damaged: the frame at byte {at} is not what was written")]
    Damaged {
        /// The byte offset of the damaged frame.
        at: u64,
    },
}

/// A writer of a backup.
pub struct Writer<W> {
    to: W,
    hasher: crc32fast::Hasher,
    parts: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a backup: writes the first frames.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn begin(to: W, header: Header) -> io::Result<Self> {
        let mut writer = Self { to, hasher: crc32fast::Hasher::new(), parts: 0 };
        writer.frame(&Frame::Begin { magic: MAGIC, version: VERSION })?;
        writer.frame(&Frame::Header(header))?;
        Ok(writer)
    }

    /// Writes the next part.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn part(&mut self, part: Bytes) -> io::Result<()> {
        self.parts += 1;
        self.frame(&Frame::Part(part))
    }

    /// Ends the backup: writes the last frame and flushes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end(mut self) -> io::Result<W> {
        self.frame(&Frame::End { parts: self.parts })?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn frame(&mut self, frame: &Frame) -> io::Result<()> {
        let bytes = postcard::to_stdvec(frame).map_err(io::Error::other)?;
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.hasher.update(&bytes);
        self.to.write_all(&length.to_le_bytes())?;
        self.to.write_all(&bytes)?;
        self.to.write_all(&self.hasher.clone().finalize().to_le_bytes())
    }
}

/// A reader of a backup.
pub struct Reader<R> {
    from: R,
    hasher: crc32fast::Hasher,
    at: u64,
    parts: u64,
    /// The identity of the backup.
    pub header: Header,
}

impl<R: Read> Reader<R> {
    /// Opens a backup.
    ///
    /// # Errors
    /// When the file is not a backup, or is damaged.
    pub fn open(from: R) -> Result<Self, BackupError> {
        let header = Header { cluster: ClusterId(0), index: 0, taken_us: 0 };
        let mut reader = Self { from, hasher: crc32fast::Hasher::new(), at: 0, parts: 0, header };
        match reader.frame() {
            Ok(Frame::Begin { magic: MAGIC, version: VERSION }) => {}
            Ok(Frame::Begin { magic: MAGIC, version: found }) if found > VERSION => {
                return Err(BackupError::Newer { found });
            }
            Err(BackupError::Io(error)) => return Err(error.into()),
            _ => return Err(BackupError::Foreign),
        }
        match reader.frame()? {
            Frame::Header(header) => reader.header = header,
            _ => return Err(BackupError::Damaged { at: reader.at }),
        }
        Ok(reader)
    }

    /// Returns the next part; `None` after the last.
    ///
    /// # Errors
    /// When the file is not what was written.
    pub fn part(&mut self) -> Result<Option<Bytes>, BackupError> {
        let at = self.at;
        match self.frame()? {
            Frame::Part(part) => {
                self.parts += 1;
                Ok(Some(part))
            }
            Frame::End { parts } if parts == self.parts => match self.from.read(&mut [0])? {
                0 => Ok(None),
                _ => Err(BackupError::Damaged { at: self.at }),
            },
            _ => Err(BackupError::Damaged { at }),
        }
    }

    fn frame(&mut self) -> Result<Frame, BackupError> {
        let at = self.at;
        let length = u32::from_le_bytes(self.exactly(4)?.try_into().unwrap_or_default());
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > FRAME_BYTES_MAX {
            return Err(BackupError::Damaged { at });
        }
        let bytes = self.exactly(length)?;
        self.hasher.update(&bytes);
        if self.exactly(4)? != self.hasher.clone().finalize().to_le_bytes() {
            return Err(BackupError::Damaged { at });
        }
        match postcard::take_from_bytes(&bytes) {
            Ok((frame, [])) => Ok(frame),
            _ => Err(BackupError::Damaged { at }),
        }
    }

    fn exactly(&mut self, length: usize) -> Result<Vec<u8>, BackupError> {
        let mut bytes = vec![0; length];
        match self.from.read_exact(&mut bytes) {
            Ok(()) => {
                self.at += length as u64;
                Ok(bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(BackupError::Cut),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> Vec<u8> {
        let header = Header { cluster: ClusterId(1), index: 7, taken_us: 9 };
        let mut writer = Writer::begin(Vec::new(), header).unwrap();
        for part in ["one", "two", "three"] {
            writer.part(Bytes::from(part)).unwrap();
        }
        writer.end().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Vec<Bytes>, BackupError> {
        let mut reader = Reader::open(bytes)?;
        let mut parts = Vec::new();
        while let Some(part) = reader.part()? {
            parts.push(part);
        }
        Ok(parts)
    }

    #[test]
    fn what_was_written_is_read() {
        assert_eq!(read(&written()).unwrap(), ["one", "two", "three"]);
        assert_eq!(Reader::open(&written()[..]).unwrap().header.index, 7);
    }

    #[test]
    fn a_file_that_was_cut_changed_or_lengthened_is_refused() {
        let file = written();
        for length in 0..file.len() {
            assert!(read(&file[..length]).is_err(), "cut to {length}");
        }
        for bit in 0..file.len() * 8 {
            let mut changed = file.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&changed).is_err(), "bit {bit}");
        }
        assert!(read(&[file.clone(), vec![0]].concat()).is_err());
        assert!(matches!(read(b"PK\x03\x04 something else"), Err(BackupError::Foreign)));
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let header = Header { cluster: ClusterId(1), index: 7, taken_us: 9 };
        let mut writer = Writer { to: Vec::new(), hasher: crc32fast::Hasher::new(), parts: 0 };
        writer.frame(&Frame::Begin { magic: MAGIC, version: VERSION + 1 }).unwrap();
        writer.frame(&Frame::Header(header)).unwrap();
        let newer = writer.end().unwrap();
        assert!(matches!(read(&newer), Err(BackupError::Newer { found: 2 })));
    }
}
