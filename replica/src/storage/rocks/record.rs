//! Pure: the encoding of records on disk: a version, a checksum, postcard.
//!
//! ```text
//! | version: 1 byte | CRC-32 of key and payload: 4 bytes, little endian | payload: postcard |
//! ```
//!
//! The checksum covers the key, so that a sound record under the wrong key is detected too.
//! Guarantees that a record whose bits changed is never accepted.

use serde::{Serialize, de::DeserializeOwned};

use crate::state::version::Version;

/// The newest version that this program reads: that of the newest cluster it can be in. A record is
/// written with the oldest version that can read it.
pub const RECORD_VERSION: u8 = Version::NEWEST.0;

/// The version of a record that no program before the journal may read: it would find no log.
const DISK_VERSION: u8 = 0x81;

const HEADER_BYTES: usize = 5;

/// A record that cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Written by a newer program.
    #[error("a record has version {found}, and this program knows version {RECORD_VERSION}")]
    Newer {
        /// The record's version.
        found: u8,
    },
    /// Its bits changed, or it was cut.
    #[error("a record is damaged")]
    Damaged,
}

fn checksum(key: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(payload);
    hasher.finalize()
}

/// Encodes a value for a key, so that every version can read it.
pub fn encode<V: Serialize>(key: &[u8], value: &V) -> Vec<u8> {
    encode_for(Version::FIRST, key, value)
}

/// Encodes a value for a key, so that programs that do not know this layout of the disk refuse it.
pub fn encode_for_disk<V: Serialize>(key: &[u8], value: &V) -> Vec<u8> {
    encode_for(Version(DISK_VERSION), key, value)
}

/// Encodes a value for a key, so that programs older than the version cannot read it.
pub fn encode_for<V: Serialize>(version: Version, key: &[u8], value: &V) -> Vec<u8> {
    let record = vec![version.0, 0, 0, 0, 0];
    let mut record =
        postcard::to_extend(value, record).expect("a record of plain data serializes into memory");
    let checksum = checksum(key, &record[HEADER_BYTES..]);
    record[1..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    record
}

/// Decodes the record stored under a key.
///
/// # Errors
/// When it is of a newer version or damaged.
pub fn decode<V: DeserializeOwned>(key: &[u8], record: &[u8]) -> Result<V, RecordError> {
    let Some((header, payload)) = record.split_first_chunk::<HEADER_BYTES>() else {
        return Err(RecordError::Damaged);
    };
    if checksum(key, payload).to_le_bytes() != header[1..] {
        return Err(RecordError::Damaged);
    }
    match header[0] {
        1..=RECORD_VERSION | DISK_VERSION => {}
        found if found > RECORD_VERSION => return Err(RecordError::Newer { found }),
        _ => return Err(RecordError::Damaged),
    }
    match postcard::take_from_bytes(payload) {
        Ok((value, [])) => Ok(value),
        _ => Err(RecordError::Damaged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_flipped_bit_is_noticed() {
        let record = encode(b"key", &(7u64, "value"));
        assert_eq!(decode::<(u64, String)>(b"key", &record), Ok((7, "value".to_owned())));
        assert_eq!(decode::<(u64, String)>(b"kex", &record), Err(RecordError::Damaged));
        for bit in 8..record.len() * 8 {
            let mut flipped = record.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode::<(u64, String)>(b"key", &flipped), Err(RecordError::Damaged));
        }
        for length in 0..record.len() {
            assert!(decode::<(u64, String)>(b"key", &record[..length]).is_err());
        }
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let mut record = encode(b"key", &7u64);
        let newer = RECORD_VERSION + 1;
        record[0] = newer;
        assert_eq!(decode::<u64>(b"key", &record), Err(RecordError::Newer { found: newer }));
        record[0] = 0;
        assert_eq!(decode::<u64>(b"key", &record), Err(RecordError::Damaged));
    }
}
