//! The side file: a record of what the last sync made durable.
//!
//! The write-ahead log may lose its tail in a crash, but only writes that no sync had covered. This
//! file records what the last sync covered; a replica that recovers less has a damaged disk and
//! must not vote with it. Two slots are written in turn, so that a torn write costs only one of
//! them.
//!
//! Guarantees that the newest sound slot is found, and that a file without one is reported as
//! damaged. Need not be synced: an older slot only makes the check weaker, never wrong.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use kvorum_protocol::status::ConfigurationId;
use omnipaxos::ballot_leader_election::Ballot;
use serde::{Deserialize, Serialize};

use super::journal::frame::Place;
use super::log::LogNumbers;
use super::rocks::record::{self, RecordError};

/// The space for one slot. Its size need not be a multiple of a disk's sector, but this way two
/// slots never share one.
const SLOT_BYTES: usize = 4096;
/// The key under which slots are checksummed.
const SLOT_KEY: &[u8] = b"durable with journal";
/// The same for slots without the journal's end.
const OLD_SLOT_KEY: &[u8] = b"durable";

/// The extent of the writes that a sync made durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Durable {
    /// A counter that rises with every slot written.
    pub sequence: u64,
    /// The configuration that the log belongs to.
    pub configuration: u32,
    /// The promised ballot: its number and slot.
    pub promise: (u32, u64),
    /// The ballot in which the log was last accepted.
    pub accepted_round: (u32, u64),
    /// The number of entries written.
    pub accepted: u64,
    /// The database's sequence number of the last write that went through its own log.
    pub writes: u64,
    /// The end of the journal.
    pub journal: Place,
}

/// A slot as written by programs whose log was in the database.
#[derive(Deserialize)]
struct WithoutJournal {
    sequence: u64,
    configuration: u32,
    promise: (u32, u64),
    accepted_round: (u32, u64),
    accepted: u64,
    writes: u64,
}

impl Durable {
    /// Returns what a sync that begins now will make durable, after this many writes and with the
    /// journal up to there.
    #[must_use]
    pub fn of(
        configuration: ConfigurationId,
        numbers: &LogNumbers,
        writes: u64,
        journal: Place,
    ) -> Self {
        let pair = |ballot: Option<Ballot>| ballot.map_or((0, 0), |ballot| (ballot.n, ballot.pid));
        Self {
            sequence: 0,
            configuration: configuration.0,
            promise: pair(numbers.promise),
            accepted_round: pair(numbers.accepted_round),
            accepted: numbers.accepted as u64,
            writes,
            journal,
        }
    }

    /// Whether a disk that recovered `self` can have held `earlier`. A log may become shorter only
    /// together with a higher accepted round. The rest of the journal is covered by its end, and
    /// records outside it, such as the last seen start of a peer, by the number of writes.
    #[must_use]
    pub fn covers(&self, earlier: &Self) -> bool {
        let log = |durable: &Self| (durable.accepted_round, durable.accepted);
        let has_log = self.configuration > earlier.configuration
            || (self.configuration == earlier.configuration
                && self.promise >= earlier.promise
                && log(self) >= log(earlier));
        has_log && self.writes >= earlier.writes && self.journal >= earlier.journal
    }
}

/// The open side file.
pub struct SideFile {
    file: File,
    next: u64,
}

impl SideFile {
    /// Creates a file and syncs it. A crash leaves the whole file or none.
    pub fn create(path: &Path) -> io::Result<Self> {
        let aside = path.with_extension("new");
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(&aside)?;
        let mut side = Self { file, next: 1 };
        side.write(Durable::default(), false)?;
        side.file.sync_all()?;
        fs::rename(&aside, path)?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(side)
    }

    /// Opens an existing file; `None` when none of its slots is sound.
    pub fn open(path: &Path) -> io::Result<Option<(Self, Durable)>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut newest: Option<Durable> = None;
        for slot in 0..2 {
            let mut bytes = vec![0; SLOT_BYTES];
            let length = file.read_at(&mut bytes, slot * SLOT_BYTES as u64)?;
            if let Some(found) = decode(&bytes[..length])
                && newest.is_none_or(|newest| newest.sequence < found.sequence)
            {
                newest = Some(found);
            }
        }
        Ok(newest.map(|newest| (Self { file, next: newest.sequence + 1 }, newest)))
    }

    /// Writes the next slot; to the disk, if the caller has to know that the disk works.
    pub fn write(&mut self, durable: Durable, to_disk: bool) -> io::Result<()> {
        let record = record::encode(SLOT_KEY, &Durable { sequence: self.next, ..durable });
        let length = u16::try_from(record.len()).expect("a slot is far below 64 KiB");
        let bytes = [&length.to_le_bytes()[..], &record].concat();
        self.file.write_all_at(&bytes, (self.next % 2) * SLOT_BYTES as u64)?;
        self.next += 1;
        if to_disk { self.file.sync_data() } else { Ok(()) }
    }
}

fn decode(slot: &[u8]) -> Option<Durable> {
    let (length, rest) = slot.split_first_chunk::<2>()?;
    let record = rest.get(..usize::from(u16::from_le_bytes(*length)))?;
    record::decode(SLOT_KEY, record).or_else(|_| decode_old(record)).ok()
}

fn decode_old(record: &[u8]) -> Result<Durable, RecordError> {
    let WithoutJournal { sequence, configuration, promise, accepted_round, accepted, writes } =
        record::decode(OLD_SLOT_KEY, record)?;
    let journal = Place::default();
    Ok(Durable { sequence, configuration, promise, accepted_round, accepted, writes, journal })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn durable(promise: u32, round: u32, accepted: u64) -> Durable {
        Durable {
            sequence: 0,
            configuration: 1,
            promise: (promise, 1),
            accepted_round: (round, 1),
            accepted,
            writes: 20,
            journal: Place { file: 2, offset: 30 },
        }
    }

    #[test]
    fn the_newest_sound_slot_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("durable");
        let mut side = SideFile::create(&path).unwrap();
        for accepted in 1..=3 {
            side.write(durable(1, 1, accepted), false).unwrap();
        }
        let (_, found) = SideFile::open(&path).unwrap().unwrap();
        assert_eq!(found.accepted, 3);
        // The slot of the last write is torn: the one before it is left.
        side.file.write_all_at(&[0xff; 16], SLOT_BYTES as u64 * (found.sequence % 2)).unwrap();
        let (_, found) = SideFile::open(&path).unwrap().unwrap();
        assert_eq!(found.accepted, 2);
        side.file.write_all_at(&[0xff; 16], SLOT_BYTES as u64 * (found.sequence % 2)).unwrap();
        assert!(SideFile::open(&path).unwrap().is_none());
    }

    #[test]
    fn a_slot_of_an_older_program_is_read() {
        let old = (7_u64, 1_u32, (5_u32, 1_u64), (4_u32, 1_u64), 10_u64, 20_u64);
        let record = record::encode(OLD_SLOT_KEY, &old);
        let length = u16::try_from(record.len()).unwrap();
        let found = decode(&[&length.to_le_bytes()[..], &record].concat()).unwrap();
        let expected = Durable { sequence: 7, journal: Place::default(), ..durable(5, 4, 10) };
        assert_eq!(found, expected);
    }

    #[test]
    fn less_than_was_synced_is_noticed() {
        let synced = durable(5, 4, 10);
        let cases = [
            (durable(5, 4, 10), true),
            (durable(6, 4, 11), true),
            (durable(5, 5, 3), true),
            (durable(4, 4, 10), false),
            (durable(5, 4, 9), false),
            (durable(5, 3, 99), false),
            (Durable { writes: 21, ..durable(5, 4, 10) }, true),
            (Durable { writes: 19, ..durable(5, 4, 10) }, false),
            (Durable { journal: Place { file: 3, offset: 0 }, ..durable(5, 4, 10) }, true),
            (Durable { journal: Place { file: 2, offset: 29 }, ..durable(5, 4, 10) }, false),
            (Durable { configuration: 2, ..durable(0, 0, 0) }, true),
            (Durable { configuration: 0, ..durable(9, 9, 99) }, false),
        ];
        for (recovered, expected) in cases {
            assert_eq!(recovered.covers(&synced), expected, "{recovered:?}");
        }
    }
}
