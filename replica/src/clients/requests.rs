//! Frames from clients, with room reserved for the announced length before a frame is received.
//!
//! A client may announce a large frame and send it slowly, or never complete it. Guarantees that
//! the partly received frames of all connections together take a bounded number of bytes; a
//! connection that would exceed this waits, and its client with it. A frame's memory is freed with
//! the frame.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::SMALL_REQUEST_BYTES;

/// The frames that arrive on one connection.
pub(super) struct Requests<R> {
    read: BufReader<R>,
    bytes_max: usize,
    /// Room for long frames, shared by all connections.
    begun: Arc<Semaphore>,
}

/// A frame, and its room while it is decoded.
pub(super) struct Begun {
    pub(super) bytes: Vec<u8>,
    #[expect(dead_code, reason = "it is only held")]
    room: Option<OwnedSemaphorePermit>,
}

impl<R: AsyncRead + Unpin> Requests<R> {
    /// Reads frames of at most `bytes_max` bytes; `begun` is shared by all connections.
    pub(super) fn new(read: R, bytes_max: usize, begun: Arc<Semaphore>) -> Self {
        Self { read: BufReader::with_capacity(SMALL_REQUEST_BYTES, read), bytes_max, begun }
    }

    /// Sets the length limit of a frame, in bytes.
    pub(super) fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// Returns the next frame; `None` when the client has closed the connection.
    pub(super) async fn next(&mut self) -> io::Result<Option<Begun>> {
        let length = match self.read.read_u32().await {
            Ok(length) => usize::try_from(length).unwrap_or(usize::MAX),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        };
        if length > self.bytes_max {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the frame is too long"));
        }
        let room = match length > SMALL_REQUEST_BYTES {
            true => {
                let bytes = u32::try_from(length).map_err(io::Error::other)?;
                let room = Arc::clone(&self.begun).acquire_many_owned(bytes).await;
                Some(room.map_err(io::Error::other)?)
            }
            false => None,
        };
        let mut bytes = vec![0; length];
        self.read.read_exact(&mut bytes).await?;
        Ok(Some(Begun { bytes, room }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    const LONG: usize = 1 << 20;

    #[tokio::test]
    async fn frames_that_have_begun_are_bounded_together() {
        let begun = Arc::new(Semaphore::new(2 * LONG));
        let announced = u32::try_from(LONG).expect("it fits").to_be_bytes();
        let mut connections = Vec::new();
        for number in 0..3 {
            let (mut client, server) = tokio::io::duplex(2 * LONG);
            client.write_all(&announced).await.expect("there is room");
            let mut requests = Requests::new(server, 2 * LONG, Arc::clone(&begun));
            let task = tokio::spawn(async move { requests.next().await.map(|_| requests) });
            let left = LONG * 1usize.saturating_sub(number);
            while begun.available_permits() != left {
                tokio::task::yield_now().await;
            }
            connections.push((client, task));
        }
        let (mut third, task) = connections.pop().expect("there are three");
        third.write_all(&vec![7; LONG]).await.expect("there is room");
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!task.is_finished(), "it is not received while two others are");
        let (mut first, _) = connections.swap_remove(0);
        first.write_all(&vec![7; LONG]).await.expect("there is room");
        assert!(task.await.expect("it ends").is_ok(), "it goes on when one of them is there");
        let (second, task) = connections.pop().expect("there are three");
        drop(second);
        let ended = task.await.expect("it ends");
        assert!(ended.is_err());
        assert_eq!(begun.available_permits(), 2 * LONG, "what ended is given back");
    }

    #[tokio::test]
    async fn a_long_frame_is_refused_before_anything_is_reserved() {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(&[0xff; 4]).await.expect("there is room");
        let mut requests = Requests::new(server, LONG, Arc::new(Semaphore::new(LONG)));
        let refused = requests.next().await.err().expect("it is refused");
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }
}
