//! Checks RocksDB's log files before RocksDB reads them.
//!
//! RocksDB 10 loops for ever when a record other than the first of a file has a type which says
//! that the file was recycled, and the file was not: it neither accepts nor skips such a record
//! (`log::Reader::ReadPhysicalRecord`). One flipped bit turns a sound type into such a type, and so
//! can any bytes that a crash left after the last write. Files are never recycled here, so such a
//! type is always damage.
//!
//! When a record of a manifest is longer than the rest of the file, RocksDB assumes that a crash
//! cut it short, and drops it with all that follows: the tables that those records name are
//! forgotten. But one flipped bit produces such a length too, and a record's checksum does not
//! cover the length. A record was really cut short only if no length fits its checksum.
//!
//! Guarantees that RocksDB meets neither: in a write-ahead log the type is replaced by an unknown
//! one, so that recovery ends before it, as before any other damage; a damaged manifest is
//! rejected. Does not verify other checksums; RocksDB does.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The block size: records do not cross blocks of this many bytes.
const BLOCK_BYTES: usize = 32 << 10;
/// The length of a record's header: checksum, length, type.
const HEADER_BYTES: usize = 7;
/// The position of the type in a header.
const TYPE_AT: usize = 6;
/// The types of records in recycled files.
const RECYCLED: [u8; 6] = [5, 6, 7, 8, 11, 131];
/// A type that does not exist: its record fails its checksum.
const NO_TYPE: u8 = 0x7f;

/// Checks the log files of a database. Returns the damaged manifest, if there is one.
///
/// # Errors
/// When a file cannot be read or written.
pub fn look_through(db: &Path) -> io::Result<Option<PathBuf>> {
    let Ok(entries) = fs::read_dir(db) else { return Ok(None) };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        if name.starts_with("MANIFEST-") {
            let file = File::open(&path)?;
            if !recycled(&file)?.is_empty() || has_false_length(&file)? {
                return Ok(Some(path));
            }
        } else if path.extension().is_some_and(|extension| extension == "log") {
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            for at in recycled(&file)? {
                tracing::warn!(file = %path.display(), at, "the log is damaged and ends here");
                file.write_all_at(&[NO_TYPE], at)?;
            }
        }
    }
    Ok(None)
}

/// Returns the positions of types in a file which say that it was recycled.
fn recycled(file: &File) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for start in (0..=file.metadata()?.len()).step_by(BLOCK_BYTES) {
        found.extend(recycled_in(&block_at(file, start)?).map(|at| start + at as u64));
    }
    Ok(found)
}

/// Whether the last record of a file is longer than the rest of the file, and its length is not the
/// one that it was written with.
fn has_false_length(file: &File) -> io::Result<bool> {
    let blocks = file.metadata()?.len() / BLOCK_BYTES as u64;
    Ok(has_false_length_in(&block_at(file, blocks * BLOCK_BYTES as u64)?))
}

/// Reads the block that begins at `start`, or as much of it as exists.
fn block_at(file: &File, start: u64) -> io::Result<Vec<u8>> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut length = 0;
    while length < BLOCK_BYTES {
        match file.read_at(&mut block[length..], start + length as u64)? {
            0 => break,
            count => length += count,
        }
    }
    block.truncate(length);
    Ok(block)
}

fn has_false_length_in(block: &[u8]) -> bool {
    let mut at = 0;
    while let Some(header) = block.get(at..at + HEADER_BYTES) {
        let rest = &block[at + HEADER_BYTES..];
        let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
        if length > rest.len() {
            let stored = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
            let mut sum = crc32c::crc32c(&header[TYPE_AT..]);
            return rest.iter().any(|byte| {
                sum = crc32c::crc32c_append(sum, std::slice::from_ref(byte));
                masked(sum) == stored
            });
        }
        at += HEADER_BYTES + length;
    }
    false
}

/// Returns a checksum as it is stored (`crc32c::Mask`).
fn masked(sum: u32) -> u32 {
    sum.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Returns the position of the first such type in a block; RocksDB leaves a block at its first bad
/// record.
fn recycled_in(block: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(header) = block.get(at..at + HEADER_BYTES) {
        if RECYCLED.contains(&header[TYPE_AT]) {
            return Some(at + TYPE_AT);
        }
        at += HEADER_BYTES + usize::from(u16::from_le_bytes([header[4], header[5]]));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, length: u16) -> Vec<u8> {
        let mut record = vec![1, 2, 3, 4];
        record.extend(length.to_le_bytes());
        record.push(kind);
        record.extend(vec![5; usize::from(length)]);
        record
    }

    #[test]
    fn only_types_are_looked_at() {
        let sound = [record(1, 100), record(2, 0), record(4, 300)].concat();
        assert_eq!(recycled_in(&sound), None, "payloads hold any byte");
        let damaged = [record(1, 100), record(5, 20), record(1, 9)].concat();
        assert_eq!(recycled_in(&damaged), Some(107 + TYPE_AT));
        assert_eq!(recycled_in(&damaged[..110]), None, "a torn header");
        assert_eq!(recycled_in(&[]), None);
    }

    #[test]
    fn a_false_length_is_told_from_a_torn_record() {
        let summed = |payload: &[u8]| {
            let sum = crc32c::crc32c_append(crc32c::crc32c(&[1]), payload);
            let mut record = masked(sum).to_le_bytes().to_vec();
            record.extend(u16::try_from(payload.len()).unwrap().to_le_bytes());
            record.push(1);
            record.extend(payload);
            record
        };
        let sound = [summed(b"one"), summed(b"two and three"), summed(b"four")].concat();
        for end in 0..=sound.len() {
            assert!(!has_false_length_in(&sound[..end]), "cut at {end}");
        }
        for bit in 4 * 8..6 * 8 {
            let mut flipped = sound.clone();
            let second = summed(b"one").len();
            flipped[second + bit / 8] ^= 1 << (bit % 8);
            let length = u16::from_le_bytes([flipped[second + 4], flipped[second + 5]]);
            let runs_over = second + HEADER_BYTES + usize::from(length) > sound.len();
            assert_eq!(has_false_length_in(&flipped), runs_over, "bit {bit}");
        }
    }

    #[test]
    fn a_log_is_cut_and_a_manifest_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = record(1, 30_000);
        bytes.resize(BLOCK_BYTES, 0);
        bytes.extend(record(6, 10));
        let (log, manifest) = (folder.path().join("000004.log"), folder.path().join("MANIFEST-1"));
        fs::write(&log, &bytes).unwrap();
        assert_eq!(look_through(folder.path()).unwrap(), None);
        assert_eq!(fs::read(&log).unwrap()[BLOCK_BYTES + TYPE_AT], NO_TYPE);
        fs::write(&manifest, &bytes).unwrap();
        assert_eq!(look_through(folder.path()).unwrap(), Some(manifest));
    }
}
