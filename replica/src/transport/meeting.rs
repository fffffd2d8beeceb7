//! How two replicas meet.
//!
//! ```text
//! dialer                                  acceptor
//!   hello: who I am, what I last saw of you  ──▶
//!        ◀──  hello, and my nonce of what you last saw of me      (or a rejection)
//!   my nonce of what you last saw of me      ──▶                  (or a rejection)
//!        ◀──  welcome                                             (or a rejection)
//! ```
//!
//! Guarantees that each side proved to be who the other remembers, that the dialer counts the
//! acceptor as met only when it is welcome (whoever turns a replica away has not met it), and that
//! a stranger is told nothing but that it is one. Does not judge by itself; it asks the driver.

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use kvorum_protocol::frame;
use kvorum_protocol::status::ReplicaId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

use crate::driver::PeerEvent;
use crate::engine::{Introduction, Rejection};

/// The first bytes of either side's hello.
const MAGIC: [u8; 8] = *b"kvorum/p";

/// Longest frame of a meeting, in bytes.
const MEETING_BYTES_MAX: usize = 4096;

#[derive(Serialize, Deserialize)]
struct Hello {
    magic: [u8; 8],
    introduction: Introduction,
}

/// The receiving half of a connection between replicas.
pub type Frames = FramedRead<OwnedReadHalf, LengthDelimitedCodec>;
/// The sending half.
pub type Sink = FramedWrite<OwnedWriteHalf, LengthDelimitedCodec>;

/// A peer that was met, and the stream to it.
pub struct Met {
    /// Who it is.
    pub peer: ReplicaId,
    /// What comes from it; the codec still has a meeting's limit.
    pub frames: Frames,
    /// What goes to it; the codec still has a meeting's limit.
    pub sink: Sink,
}

/// Why two replicas did not meet.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nobody there, or the connection broke.
    #[error("{0}")]
    Unreachable(String),
    /// The other end does not speak the protocol.
    #[error("what answers is no Kvorum replica's peer port")]
    NotKvorum,
    /// Somebody else answers than was called.
    #[error("replica {0} answers where another was expected")]
    SomebodyElse(u64),
    /// This replica turned the other one away.
    #[error("turned away: {0}")]
    Rejected(Rejection),
    /// The other one turned this replica away.
    #[error("it turns this replica away: {rejection}")]
    RejectedBy {
        /// Who.
        peer: ReplicaId,
        /// Its reason.
        rejection: Rejection,
    },
}

/// A meeting under way.
pub struct Meeting {
    frames: Frames,
    sink: Sink,
    driver: mpsc::Sender<PeerEvent>,
}

impl Meeting {
    /// A meeting over a stream.
    pub fn new(stream: TcpStream, driver: mpsc::Sender<PeerEvent>) -> Self {
        let (read, write) = stream.into_split();
        let frames = FramedRead::new(read, frame::codec(MEETING_BYTES_MAX));
        let sink = FramedWrite::new(write, frame::codec(MEETING_BYTES_MAX));
        Self { frames, sink, driver }
    }

    /// Holds it: as the dialer of a replica, or as whoever accepted.
    pub async fn hold(self, dialed: Option<ReplicaId>) -> Result<Met, Failure> {
        match dialed {
            Some(peer) => self.dialing(peer).await,
            None => self.accepting().await,
        }
    }

    async fn dialing(mut self, peer: ReplicaId) -> Result<Met, Failure> {
        let hello = self.hello(peer).await?;
        self.send(&hello).await?;
        let answer: Result<(Hello, Option<u64>), Rejection> = self.receive().await?;
        let (theirs, proof) =
            answer.map_err(|rejection| Failure::RejectedBy { peer, rejection })?;
        if theirs.introduction.replica != peer {
            return Err(Failure::SomebodyElse(theirs.introduction.replica.0));
        }
        let told = hello.introduction.last_saw;
        let verdict = self.judge(&theirs, told, proof).await?;
        let mine = match verdict {
            Ok(()) => Ok(self.proof(theirs.introduction.last_saw).await?),
            Err(rejection) => Err(rejection),
        };
        self.send(&mine).await?;
        mine.map_err(Failure::Rejected)?;
        let welcome: Result<(), Rejection> = self.receive().await?;
        welcome.map_err(|rejection| Failure::RejectedBy { peer, rejection })?;
        self.ask(|reply| PeerEvent::Meet { theirs: theirs.introduction, reply }).await?;
        Ok(Met { peer, frames: self.frames, sink: self.sink })
    }

    async fn accepting(mut self) -> Result<Met, Failure> {
        let theirs: Hello = self.receive().await?;
        let peer = theirs.introduction.replica;
        if theirs.magic != MAGIC {
            return Err(Failure::NotKvorum);
        }
        let introduction = theirs.introduction.clone();
        let admitted = self.ask(|reply| PeerEvent::Admit { theirs: introduction, reply }).await?;
        let answer =
            admitted.map(|(introduction, proof)| (Hello { magic: MAGIC, introduction }, proof));
        self.send(&answer).await?;
        let (hello, _) = answer.map_err(Failure::Rejected)?;
        let told = hello.introduction.last_saw;
        let proof: Result<Option<u64>, Rejection> = self.receive().await?;
        let proof = proof.map_err(|rejection| Failure::RejectedBy { peer, rejection })?;
        let verdict = self.judge(&theirs, told, proof).await?;
        if verdict.is_ok() {
            let theirs = theirs.introduction;
            self.ask(|reply| PeerEvent::Meet { theirs, reply }).await?;
        }
        self.send(&verdict).await?;
        verdict.map_err(Failure::Rejected)?;
        Ok(Met { peer, frames: self.frames, sink: self.sink })
    }

    async fn judge(
        &self,
        theirs: &Hello,
        told: u64,
        proof: Option<u64>,
    ) -> Result<Result<(), Rejection>, Failure> {
        if theirs.magic != MAGIC {
            return Err(Failure::NotKvorum);
        }
        let theirs = theirs.introduction.clone();
        self.ask(|reply| PeerEvent::Judge { theirs, told, proof, reply }).await
    }

    async fn hello(&self, peer: ReplicaId) -> Result<Hello, Failure> {
        let introduction = self.ask(|reply| PeerEvent::Introduce { peer, reply }).await?;
        Ok(Hello { magic: MAGIC, introduction })
    }

    async fn proof(&self, incarnation: u64) -> Result<Option<u64>, Failure> {
        self.ask(|reply| PeerEvent::Proof { incarnation, reply }).await
    }

    async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> PeerEvent,
    ) -> Result<T, Failure> {
        let stopping = || Failure::Unreachable("this replica is stopping".to_owned());
        let (reply, answer) = oneshot::channel();
        self.driver.send(question(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    async fn send<M: Serialize>(&mut self, message: &M) -> Result<(), Failure> {
        let bytes: Bytes =
            frame::encode(message, MEETING_BYTES_MAX).map_err(|_| Failure::NotKvorum)?;
        let sent = self.sink.send(bytes).await;
        sent.map_err(|error| Failure::Unreachable(error.to_string()))
    }

    async fn receive<M: DeserializeOwned>(&mut self) -> Result<M, Failure> {
        match self.frames.next().await {
            Some(Ok(bytes)) => frame::decode(&bytes).map_err(|_| Failure::NotKvorum),
            Some(Err(_)) => Err(Failure::NotKvorum),
            None => Err(Failure::Unreachable("it closed the connection".to_owned())),
        }
    }
}
