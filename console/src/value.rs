//! Keys and values as they are typed, on the command line and in the prompt.
//!
//! Guarantees that both parse a word alike, and that no more of a file is read than is needed to
//! see that it is too long.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use bytes::Bytes;
use kvorum_protocol::Key;
use kvorum_protocol::limits::VALUE_BYTES_MAX;

use crate::exit::Failure;

/// The source of a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// These bytes.
    Bytes(Bytes),
    /// A file on this machine: `@FILE`.
    File(PathBuf),
    /// Standard input: `@-`.
    StandardInput,
}

impl Source {
    /// Returns the source that a word names; `@@…` is a value that begins with an `@`.
    #[must_use]
    pub fn of(word: &OsStr) -> Self {
        match word.as_bytes() {
            escaped @ [b'@', b'@', ..] => Self::Bytes(Bytes::copy_from_slice(&escaped[1..])),
            b"@-" => Self::StandardInput,
            [b'@', path @ ..] => Self::File(OsStr::from_bytes(path).into()),
            bytes => Self::Bytes(Bytes::copy_from_slice(bytes)),
        }
    }

    /// Reads the value. Blocks while a file is read.
    ///
    /// # Errors
    /// When it cannot be read: what, and why.
    pub fn read(self) -> Result<Bytes, Failure> {
        let (what, read) = match self {
            Self::Bytes(bytes) => return Ok(bytes),
            Self::StandardInput => {
                ("standard input".to_owned(), read_bounded(std::io::stdin().lock()))
            }
            Self::File(path) => {
                (path.display().to_string(), File::open(&path).and_then(read_bounded))
            }
        };
        let hint = "a value that begins with @ is written @@";
        let cannot = |error| Failure::usage(format!("cannot read {what}: {error}; {hint}"));
        read.map(Bytes::from).map_err(cannot)
    }
}

fn read_bounded(from: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(VALUE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Returns the key that a word names.
#[must_use]
pub fn key_of(word: &OsStr) -> Key {
    Key(Bytes::copy_from_slice(word.as_bytes()))
}
