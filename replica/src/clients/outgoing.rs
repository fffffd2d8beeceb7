//! The answers of one connection, from the queue to the socket.
//!
//! Guarantees that a frame counts until it has left: what is in a buffer has not.

use std::io;
use std::sync::Arc;

use kvorum_protocol::frame;
use kvorum_protocol::limits::{CALLS_MAX, FRAME_BYTES_MAX};
use kvorum_protocol::message::{Answer, ServerFrame};
use kvorum_tls::Wire;
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::sync::{Semaphore, mpsc};

use super::held::Held;
use crate::driver::sinks::Queued;
use crate::shares::room::Room;

/// Buffer size, in bytes, up to which short frames are written together.
const WRITE_BYTES: usize = 16 << 10;

/// The calls of a connection that are under way: the free slots for more, and their room.
pub(super) struct Calls {
    pub(super) slots: Semaphore,
    pub(super) held: Held,
}

impl Default for Calls {
    fn default() -> Self {
        Self { slots: Semaphore::new(CALLS_MAX), held: Held::default() }
    }
}

/// The sender of answers to calls that never reach the driver.
pub(super) struct Answers {
    pub(super) frames: mpsc::UnboundedSender<ServerFrame>,
    pub(super) queued: Queued,
}

impl Answers {
    /// Queues an answer.
    pub(super) fn answer(&self, call: u64, answer: Answer) {
        let frame = ServerFrame::Answer { call, answer };
        self.queued.add(frame.weight());
        let _ = self.frames.send(frame);
    }
}

/// The writing end of a connection. Frames in the buffer do not count as having left.
pub(super) struct Outgoing {
    write: WriteHalf<Wire>,
    buffer: Vec<u8>,
    /// Weight of the frames in the buffer, in bytes.
    weight: usize,
    /// Number of calls that these frames answer.
    answers: usize,
    /// The room of these calls.
    rooms: Vec<Room>,
    pub(super) queued: Queued,
    calls: Arc<Calls>,
}

impl Outgoing {
    pub(super) fn new(write: WriteHalf<Wire>, queued: Queued, calls: Arc<Calls>) -> Self {
        let (buffer, rooms) = (Vec::new(), Vec::new());
        Self { write, buffer, weight: 0, answers: 0, rooms, queued, calls }
    }

    /// Writes a frame, or buffers it to be written with the next ones if it is short.
    pub(super) async fn write(&mut self, frame: ServerFrame) -> io::Result<()> {
        self.weight += frame.weight();
        if let ServerFrame::Answer { call, .. } = &frame {
            self.answers += 1;
            // The client may reuse the call number as soon as it sees the answer.
            self.rooms.extend(self.calls.held.take(*call));
        }
        let bytes = frame::encode(&frame, FRAME_BYTES_MAX).map_err(io::Error::other)?;
        // From here on, the encoded bytes replace the frame.
        drop(frame);
        self.buffer.extend(frame::length_of(&bytes));
        if self.buffer.len() + bytes.len() <= WRITE_BYTES {
            self.buffer.extend_from_slice(&bytes);
            return Ok(());
        }
        self.write.write_all(&self.buffer).await?;
        self.buffer.clear();
        self.write.write_all(&bytes).await?;
        self.write.flush().await?;
        self.left();
        Ok(())
    }

    /// Writes the bytes that remain in the buffer.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        self.write.write_all(&self.buffer).await?;
        self.write.flush().await?;
        // An idle connection keeps no buffer.
        self.buffer = Vec::new();
        self.left();
        Ok(())
    }

    /// Ends what is sent, so that the other end knows that there is no more.
    pub(super) async fn close(&mut self) {
        let _ = self.write.shutdown().await;
    }

    /// Returns the room of all written frames, after everything has left.
    fn left(&mut self) {
        self.queued.subtract(std::mem::take(&mut self.weight));
        self.calls.slots.add_permits(std::mem::take(&mut self.answers));
        self.rooms.clear();
    }
}
