//! Frames whose announced length is paid for before it is read.
//!
//! A client may announce a large frame and send it slowly, or never to its end. Guarantees that the
//! frames of all connections that have begun and not ended take a bounded number of bytes together;
//! a connection that would pass that is closed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;
use kvorum_protocol::frame;
use tokio_util::codec::{Decoder, LengthDelimitedCodec};

/// Frames up to this length are not counted: so much every connection may take.
const FREE_BYTES: usize = 64 << 10;
/// Bytes of longer frames that have begun and not ended, over all connections.
const BEGUN_BYTES_MAX: usize = 64 << 20;

/// A codec for frames, metered together with those of other connections.
pub struct Metered {
    codec: LengthDelimitedCodec,
    begun: Arc<AtomicUsize>,
    /// Whether a frame's length was read and its end not yet.
    in_frame: bool,
    /// What the frame that has begun was counted with.
    counted: usize,
}

impl Metered {
    /// A codec for frames of at most `bytes_max` bytes; `begun` is shared by all connections.
    pub fn new(bytes_max: usize, begun: Arc<AtomicUsize>) -> Self {
        Self { codec: frame::codec(bytes_max), begun, in_frame: false, counted: 0 }
    }

    /// Sets the longest frame.
    pub fn set_max_frame_length(&mut self, bytes_max: usize) {
        self.codec.set_max_frame_length(bytes_max);
    }

    /// Counts a frame when its length is seen.
    fn count(&mut self, from: &BytesMut) -> io::Result<()> {
        let Some(length) = from.first_chunk() else { return Ok(()) };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        self.in_frame = true;
        // One that is too long is refused by the codec.
        if length <= FREE_BYTES || length > self.codec.max_frame_length() {
            return Ok(());
        }
        if self.begun.fetch_add(length, Ordering::Relaxed) + length > BEGUN_BYTES_MAX {
            self.begun.fetch_sub(length, Ordering::Relaxed);
            return Err(io::Error::other("too much is being sent at once"));
        }
        self.counted = length;
        Ok(())
    }

    fn ended(&mut self) {
        self.in_frame = false;
        self.begun.fetch_sub(std::mem::take(&mut self.counted), Ordering::Relaxed);
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        self.ended();
    }
}

impl Decoder for Metered {
    type Item = BytesMut;
    type Error = io::Error;

    fn decode(&mut self, from: &mut BytesMut) -> io::Result<Option<BytesMut>> {
        // The codec takes the length away when it has read it: only the first look sees it.
        if !self.in_frame {
            self.count(from)?;
        }
        let decoded = self.codec.decode(from)?;
        if decoded.is_some() {
            self.ended();
        }
        Ok(decoded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_that_have_begun_are_bounded_together() {
        let begun = Arc::new(AtomicUsize::new(0));
        let announce = (1u32 << 20).to_be_bytes();
        let mut connections = Vec::new();
        for number in 0..=BEGUN_BYTES_MAX >> 20 {
            let mut codec = Metered::new(2 << 20, Arc::clone(&begun));
            let mut bytes = BytesMut::from(&announce[..]);
            let decoded = codec.decode(&mut bytes);
            assert_eq!(decoded.is_err(), number == BEGUN_BYTES_MAX >> 20, "connection {number}");
            connections.push((codec, bytes));
        }
        let (mut first, mut bytes) = connections.swap_remove(0);
        bytes.resize(1 << 20, 7);
        assert_eq!(first.decode(&mut bytes).unwrap().unwrap().len(), 1 << 20);
        drop(connections);
        assert_eq!(begun.load(Ordering::Relaxed), 0, "what ended is given back");
    }
}
