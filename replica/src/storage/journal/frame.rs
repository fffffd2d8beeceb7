//! Pure: the frames of a journal: a place, a checksum, a version, postcard.
//!
//! ```text
//! | payload's length: 4 bytes | CRC-32: 4 bytes | version: 1 byte | payload: postcard |
//! ```
//!
//! Numbers are little endian. The checksum covers where the frame lies, its length, its version and
//! its payload, so that a sound frame at a wrong place is detected too. Guarantees that a frame
//! whose bits changed, and one that was cut, is never accepted. Does not know whether a frame that
//! is not sound is damage or the end of what a crash left; [`recovery`](super::recovery) does.

use kvorum_protocol::status::ConfigurationId;
use serde::{Deserialize, Serialize};

use crate::state::entry::Entry;
use crate::state::version::Version;
use crate::storage::log::{LogNumbers, LogWrite};

const HEADER_BYTES: usize = 9;
const LENGTH_BYTES: usize = 4;
const SUM_END: usize = 8;

/// A position in a journal, in the order of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug, Serialize, Deserialize)]
pub struct Place {
    /// The number of the file.
    pub file: u64,
    /// The distance from its begin, in bytes.
    pub offset: u64,
}

impl Place {
    /// The begin of the first file.
    pub const FIRST: Self = Self { file: 1, offset: 0 };
}

/// One change of the journal's logs, which is made whole or not at all.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Frame {
    /// The numbers of a log: what earlier files left of it, or where it begins.
    Log(ConfigurationId, LogNumbers),
    /// Writes to a log, in order.
    Writes(ConfigurationId, Vec<LogWrite>),
    /// The logs of configurations before this one are removed.
    Drop(ConfigurationId),
}

/// The reason why no frame can be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unsound {
    /// There are no more bytes.
    End,
    /// The bytes are no frame: they changed, or the last one was cut.
    NoFrame,
    /// A newer program wrote it.
    Newer(u8),
}

impl Frame {
    /// Returns the first version whose programs can read it.
    fn version(&self) -> Version {
        let Self::Writes(_, writes) = self else { return Version::FIRST };
        let entries = writes.iter().filter_map(|write| match write {
            LogWrite::AppendAt(_, entries) => Some(entries),
            _ => None,
        });
        entries.flatten().map(Entry::version).max().unwrap_or(Version::FIRST)
    }

    /// Appends its bytes, which are to lie at a place.
    ///
    /// # Panics
    /// When it has 4 GiB; the largest message has a few MiB.
    pub fn encode(&self, at: Place, bytes: &mut Vec<u8>) {
        let begin = bytes.len();
        let mut header = [0; HEADER_BYTES];
        header[SUM_END] = self.version().0;
        bytes.extend(header);
        *bytes = postcard::to_extend(self, std::mem::take(bytes))
            .expect("a frame of plain data serializes into memory");
        let length = bytes.len() - begin - HEADER_BYTES;
        let length = u32::try_from(length).expect("a frame is far below 4 GiB").to_le_bytes();
        let sum = checksum(at, length, &bytes[begin + SUM_END..]).to_le_bytes();
        bytes[begin..begin + LENGTH_BYTES].copy_from_slice(&length);
        bytes[begin + LENGTH_BYTES..begin + SUM_END].copy_from_slice(&sum);
    }

    /// Reads the frame at the begin of some bytes that lie at a place; returns it with its length.
    ///
    /// # Errors
    /// When there is no sound frame.
    pub fn decode(at: Place, bytes: &[u8]) -> Result<(Self, usize), Unsound> {
        if bytes.is_empty() {
            return Err(Unsound::End);
        }
        let header = bytes.get(..HEADER_BYTES).ok_or(Unsound::NoFrame)?;
        let number = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
        let (length, sum) = (number(0), u32::from_le_bytes(number(LENGTH_BYTES)));
        let whole = usize::try_from(u32::from_le_bytes(length)).ok();
        let end = whole.and_then(|length| length.checked_add(HEADER_BYTES));
        let end = end.filter(|end| *end <= bytes.len()).ok_or(Unsound::NoFrame)?;
        if checksum(at, length, &bytes[SUM_END..end]) != sum {
            return Err(Unsound::NoFrame);
        }
        if header[SUM_END] > Version::NEWEST.0 {
            return Err(Unsound::Newer(header[SUM_END]));
        }
        let frame = postcard::from_bytes(&bytes[HEADER_BYTES..end]);
        frame.map(|frame| (frame, end)).map_err(|_| Unsound::NoFrame)
    }
}

fn checksum(at: Place, length: [u8; LENGTH_BYTES], rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&at.file.to_le_bytes());
    hasher.update(&at.offset.to_le_bytes());
    hasher.update(&length);
    hasher.update(rest);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use omnipaxos::ballot_leader_election::Ballot;

    use super::*;

    const AT: Place = Place { file: 3, offset: 70 };
    const ID: ConfigurationId = ConfigurationId(2);

    fn encoded(frame: &Frame) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame.encode(AT, &mut bytes);
        bytes
    }

    #[test]
    fn any_flipped_bit_any_cut_and_any_other_place_is_noticed() {
        let bytes = encoded(&Frame::Writes(ID, vec![LogWrite::AppendAt(7, vec![Entry::Noop])]));
        assert_eq!(Frame::decode(AT, &bytes).expect("it is sound").1, bytes.len());
        let unsound = |at, bytes: &[u8]| Frame::decode(at, bytes).expect_err("it is not sound");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unsound(AT, &flipped), Unsound::NoFrame, "bit {bit}");
        }
        for length in 1..bytes.len() {
            assert_eq!(unsound(AT, &bytes[..length]), Unsound::NoFrame, "cut to {length}");
        }
        assert_eq!(unsound(AT, &[]), Unsound::End);
        assert_eq!(unsound(Place { offset: 71, ..AT }, &bytes), Unsound::NoFrame);
        assert_eq!(unsound(Place { file: 4, ..AT }, &bytes), Unsound::NoFrame);
        assert_eq!(unsound(AT, &[0; 64]), Unsound::NoFrame, "space that was never written");
    }

    #[test]
    fn what_a_newer_program_wrote_is_told_from_damage() {
        let newer = Version::NEWEST.0 + 1;
        let mut bytes = encoded(&Frame::Drop(ID));
        bytes[SUM_END] = newer;
        let sum = checksum(AT, [bytes[0], bytes[1], bytes[2], bytes[3]], &bytes[SUM_END..]);
        bytes[LENGTH_BYTES..SUM_END].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(Frame::decode(AT, &bytes).expect_err("it is newer"), Unsound::Newer(newer));
    }

    /// The bytes on a disk must stay readable for every later version.
    #[test]
    fn the_bytes_of_frames_stay() {
        let payload = |frame: &Frame| {
            let bytes = encoded(frame);
            bytes[SUM_END..].iter().map(|b| format!("{b:02x}")).collect::<String>()
        };
        let ballot = Ballot::with(1, 2, 0, 3);
        let (promise, accepted_round) = (Some(ballot), None);
        let numbers = LogNumbers { promise, accepted_round, decided: 4, compacted: 5, accepted: 6 };
        assert_eq!(payload(&Frame::Log(ID, numbers)), "01000201010200030004050 6".replace(' ', ""));
        let writes = vec![
            LogWrite::AppendAt(7, vec![Entry::Checksum]),
            LogWrite::Promise(ballot),
            LogWrite::AcceptedRound(ballot),
            LogWrite::Decided(8),
            LogWrite::Compact(9),
        ];
        assert_eq!(
            payload(&Frame::Writes(ID, writes)),
            "0201020500070104010102000302010200030308 0409".replace(' ', "")
        );
        assert_eq!(payload(&Frame::Drop(ID)), "010202");
    }
}
