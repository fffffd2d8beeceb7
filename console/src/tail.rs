//! Reads the end of a file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Returns the end of a file, at most `bytes` bytes, and whether something before it is left out.
pub fn tail(path: &Path, bytes: u64) -> io::Result<(String, bool)> {
    let mut file = File::open(path)?;
    let skipped = file.metadata()?.len().saturating_sub(bytes);
    file.seek(SeekFrom::Start(skipped))?;
    let mut text = Vec::new();
    file.take(bytes).read_to_end(&mut text)?;
    Ok((String::from_utf8_lossy(&text).into_owned(), skipped > 0))
}
