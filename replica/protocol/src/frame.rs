//! Pure: encodes and decodes length-prefixed postcard frames.
//!
//! ```text
//! | length: 4 bytes, big endian | postcard | CRC-32 of the postcard: 4 bytes, little endian |
//! ```
//!
//! The length counts what follows it. Guarantees that it is checked before anything is reserved,
//! that a frame whose bits changed is detected, that a frame is decoded whole or not at all (no
//! byte may remain), and that no input panics. Does not know what the messages mean.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::codec::LengthDelimitedCodec;

/// A frame that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The message is longer than the limit.
    #[error("a frame of {bytes} bytes is over the limit of {most}")]
    TooLong {
        /// The message's length.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// The bytes do not encode a message of the expected type.
    #[error("the bytes are not a message of this protocol")]
    Malformed,
}

/// Returns a codec for frames of at most `bytes_max` bytes.
#[must_use]
pub fn codec(bytes_max: usize) -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().length_field_length(4).max_frame_length(bytes_max).new_codec()
}

/// Encodes one message, without the length that the codec adds.
///
/// # Errors
/// When it is longer than `bytes_max`.
pub fn encode<M: Serialize>(message: &M, bytes_max: usize) -> Result<Bytes, FrameError> {
    let Ok(mut bytes) = postcard::to_stdvec(message) else { return Err(FrameError::Malformed) };
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    match bytes.len() {
        length if length > bytes_max => Err(FrameError::TooLong { bytes: length, most: bytes_max }),
        _ => Ok(Bytes::from(bytes)),
    }
}

/// Returns the length prefix that goes before an encoded message on a stream.
#[must_use]
pub fn length_of(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).expect("a frame is far below four gigabytes").to_be_bytes()
}

/// Decodes one message from a whole frame.
///
/// # Errors
/// When the bytes are not exactly one message.
pub fn decode<M: DeserializeOwned>(frame: &[u8]) -> Result<M, FrameError> {
    let Some((message, checksum)) = frame.split_last_chunk() else {
        return Err(FrameError::Malformed);
    };
    if crc32fast::hash(message).to_le_bytes() != *checksum {
        return Err(FrameError::Malformed);
    }
    match postcard::take_from_bytes(message) {
        Ok((message, [])) => Ok(message),
        _ => Err(FrameError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{ClientId, Condition, LaneId, Operation, RequestId};
    use crate::message::{Answer, ClientFrame, Refusal, Request, ServerFrame};
    use bytes::BytesMut;
    use proptest::prelude::*;
    use tokio_util::codec::Decoder;

    fn put() -> ClientFrame {
        let lane = LaneId { client: ClientId(1), number: 2 };
        let id = RequestId { lane, sequence: 3 };
        let operation = Operation::Put {
            key: "k".into(),
            value: "v".into(),
            condition: Condition::AtRevision(9),
        };
        ClientFrame::Call { call: 5, request: Request::Write { id, valid_until: 4, operation } }
    }

    /// The bytes on the wire are a compatibility promise to every program of version 1.
    #[test]
    fn the_bytes_of_version_1_stay() {
        let hex = |frame: &[u8]| {
            let (message, checksum) = frame.split_last_chunk().expect("a frame ends so");
            assert_eq!(crc32fast::hash(message).to_le_bytes(), *checksum);
            message.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        let put = encode(&put(), 100).expect("a small frame fits");
        assert_eq!(hex(&put), "0005000102030400016b01760209");
        let answer = Answer::Refused(Refusal::NotLeader { leader: Some("kvorum-1".into()) });
        let answer = encode(&ServerFrame::Answer { call: 5, answer }, 100).expect("it fits");
        assert_eq!(hex(&answer), "0005060201086b766f72756d2d31");
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_anything_is_reserved() {
        let mut codec = codec(1024);
        let mut claim = BytesMut::from(&[0xff, 0xff, 0xff, 0xff][..]);
        assert!(codec.decode(&mut claim).is_err());
        assert!(claim.capacity() < 4096);
    }

    #[test]
    fn a_message_is_decoded_whole_or_not_at_all() {
        let bytes = encode(&put(), 100).expect("a small frame fits");
        assert_eq!(decode::<ClientFrame>(&bytes).expect("it is whole"), put());
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(decode::<ClientFrame>(&longer).is_err());
        for length in 0..bytes.len() {
            assert!(decode::<ClientFrame>(&bytes[..length]).is_err());
        }
        assert!(encode(&put(), bytes.len() - 1).is_err());
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<ClientFrame>(&bytes);
            let _ = decode::<ServerFrame>(&bytes);
            let _ = decode::<crate::handshake::ClientHello>(&bytes);
            let _ = decode::<crate::handshake::ServerHello>(&bytes);
        }
    }
}
