//! The handshake by which two replicas meet.
//!
//! ```text
//! dialer                                  acceptor
//!   hello: who I am, and a challenge         ──▶
//!        ◀──  hello, a challenge, and my proof for yours      (or a rejection)
//!   my proof, and whether I take you         ──▶
//!        ◀──  whether I take you
//! ```
//!
//! A proof is a [signature](crate::state::start) over both challenges by the start that the other
//! side saw last. Guarantees that each side proved to be the replica that the other remembers; that
//! each counts the other as met only when both have accepted each other; and that a stranger learns
//! nothing that helps it to speak as a replica. Does not judge by itself; it asks the driver.

use bytes::Bytes;
use futures::SinkExt;
use kvorum_protocol::frame;
use kvorum_protocol::status::ReplicaId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt;
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

use crate::driver::PeerEvent;
use crate::engine::{Introduction, Rejection};
use crate::state::start::{Challenge, Epoch, Proof, Statement};
use crate::storage::Seen;

/// The first bytes of either side's hello. The last byte rises when the handshake changes.
const MAGIC: [u8; 8] = *b"kvorum/q";

/// Longest frame of a meeting, in bytes.
const MEETING_BYTES_MAX: usize = 4096;

#[derive(Serialize, Deserialize)]
struct Hello {
    magic: [u8; 8],
    introduction: Introduction,
    challenge: Challenge,
}

impl Hello {
    fn new(introduction: Introduction) -> Self {
        Self { magic: MAGIC, introduction, challenge: Challenge(rand::random()) }
    }
}

/// The receiving half of a connection between replicas.
pub type Frames = FramedRead<OwnedReadHalf, LengthDelimitedCodec>;
/// The sending half of a connection between replicas.
pub type Sink = FramedWrite<OwnedWriteHalf, LengthDelimitedCodec>;

/// A peer that was met, and the connection to it.
pub struct Met {
    /// The peer's id.
    pub peer: ReplicaId,
    /// The frames from the peer; the codec still has a meeting's limit.
    pub frames: Frames,
    /// The frames to the peer; the codec still has a meeting's limit.
    pub sink: Sink,
}

/// The reason why two replicas did not meet.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nothing answers there, or the connection broke.
    #[error("{0}")]
    Unreachable(String),
    /// The other end does not speak the protocol.
    #[error("what answers is no Kvorum replica's peer port")]
    NotKvorum,
    /// The other end speaks another version of the protocol.
    #[error(
        "it speaks another version of the protocol between replicas: install the same program on \
         all of them"
    )]
    OtherProtocol,
    /// Another replica answers than the one that was dialed.
    #[error("replica {0} answers where another was expected")]
    SomebodyElse(u64),
    /// This replica rejected the other one.
    #[error("turned away: {0}")]
    Rejected(Rejection),
    /// The other one rejected this replica.
    #[error("it turns this replica away: {rejection}")]
    RejectedBy {
        /// The replica that rejected this one.
        peer: ReplicaId,
        /// Its reason for the rejection.
        rejection: Rejection,
        /// Whether it proved to be the one that this replica remembers.
        is_proven: bool,
    },
}

/// The hellos of both sides.
#[derive(Clone, Copy)]
struct Both<'a> {
    dialer: &'a Hello,
    acceptor: &'a Hello,
}

impl Both<'_> {
    /// Returns the statement that the sender of a hello has to sign for the other side.
    fn statement(&self, prover: &Hello) -> Statement {
        let (dialer, acceptor) = (&self.dialer.introduction, &self.acceptor.introduction);
        let is_dialer = std::ptr::eq(prover, self.dialer);
        let (by, to) = if is_dialer { (dialer, acceptor) } else { (acceptor, dialer) };
        Statement {
            cluster: by.cluster,
            prover: by.replica,
            verifier: to.replica,
            is_dialer,
            challenges: (self.dialer.challenge, self.acceptor.challenge),
            incarnation: by.incarnation,
            key: by.key,
        }
    }

    /// Returns the epoch up to which the other side proved to have the start that was seen last; or
    /// its current start, if none was seen.
    fn verify(&self, theirs: &Hello, seen: Option<Seen>, proof: Option<Proof>) -> Option<Epoch> {
        let key = seen.map_or(theirs.introduction.key, |seen| seen.key);
        proof.and_then(|proof| proof.verify(key, &self.statement(theirs)))
    }
}

fn check_magic(magic: [u8; 8]) -> Result<(), Failure> {
    match magic {
        MAGIC => Ok(()),
        [b'k', b'v', b'o', b'r', b'u', b'm', b'/', _] => Err(Failure::OtherProtocol),
        _ => Err(Failure::NotKvorum),
    }
}

/// A meeting under way.
pub struct Meeting {
    frames: Frames,
    sink: Sink,
    driver: mpsc::Sender<PeerEvent>,
}

impl Meeting {
    /// Begins a meeting on a stream.
    pub fn new(stream: TcpStream, driver: mpsc::Sender<PeerEvent>) -> Self {
        let (read, write) = stream.into_split();
        let frames = FramedRead::new(read, frame::codec(MEETING_BYTES_MAX));
        let sink = FramedWrite::new(write, frame::codec(MEETING_BYTES_MAX));
        Self { frames, sink, driver }
    }

    /// Holds the meeting: as the dialer of a replica, or as the acceptor.
    pub async fn hold(self, dialed: Option<ReplicaId>) -> Result<Met, Failure> {
        match dialed {
            Some(peer) => self.dialing(peer).await,
            None => self.accepting().await,
        }
    }

    async fn dialing(mut self, peer: ReplicaId) -> Result<Met, Failure> {
        let (mine, seen) = self.ask(|reply| PeerEvent::Introduce { peer, reply }).await?;
        let mine = Hello::new(mine);
        self.send(&mine).await?;
        let answer: Result<(Hello, Option<Proof>), Rejection> = self.receive().await?;
        let (theirs, proof) = answer.map_err(|rejection| {
            let is_proven = false;
            Failure::RejectedBy { peer, rejection, is_proven }
        })?;
        check_magic(theirs.magic)?;
        if theirs.introduction.replica != peer {
            return Err(Failure::SomebodyElse(theirs.introduction.replica.0));
        }
        let both = Both { dialer: &mine, acceptor: &theirs };
        let reaches = both.verify(&theirs, seen, proof);
        let verdict = self.judge(&theirs, seen, reaches).await?;
        let proof = self.prove(both.statement(&mine), &theirs).await?;
        self.send(&(proof, &verdict)).await?;
        verdict.map_err(Failure::Rejected)?;
        let welcome: Result<(), Rejection> = self.receive().await?;
        welcome.map_err(|rejection| {
            let is_proven = seen.is_some();
            Failure::RejectedBy { peer, rejection, is_proven }
        })?;
        self.ask(|reply| PeerEvent::Meet { theirs: theirs.introduction, reply }).await?;
        Ok(Met { peer, frames: self.frames, sink: self.sink })
    }

    async fn accepting(mut self) -> Result<Met, Failure> {
        let theirs: Hello = self.receive().await?;
        check_magic(theirs.magic)?;
        let peer = theirs.introduction.replica;
        let introduction = theirs.introduction.clone();
        let admitted = self.ask(|reply| PeerEvent::Admit { theirs: introduction, reply }).await?;
        if let Err(rejection) = admitted {
            self.send(&Err::<(Hello, Option<Proof>), _>(&rejection)).await?;
            return Err(Failure::Rejected(rejection));
        }
        let (mine, seen) = self.ask(|reply| PeerEvent::Introduce { peer, reply }).await?;
        let mine = Hello::new(mine);
        let both = Both { dialer: &theirs, acceptor: &mine };
        let proof = self.prove(both.statement(&mine), &theirs).await?;
        self.send(&Ok::<_, Rejection>((&mine, proof))).await?;
        let (proof, taken): (Option<Proof>, Result<(), Rejection>) = self.receive().await?;
        let reaches = both.verify(&theirs, seen, proof);
        taken.map_err(|rejection| {
            let is_proven = seen.is_some() && reaches.is_some();
            Failure::RejectedBy { peer, rejection, is_proven }
        })?;
        let verdict = self.judge(&theirs, seen, reaches).await?;
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
        seen: Option<Seen>,
        reaches: Option<Epoch>,
    ) -> Result<Result<(), Rejection>, Failure> {
        let theirs = theirs.introduction.clone();
        self.ask(|reply| PeerEvent::Judge { theirs, seen, reaches, reply }).await
    }

    /// Returns this replica's proof for a peer, by the start that the peer saw last; `None` when
    /// this disk does not have that start.
    async fn prove(&self, statement: Statement, theirs: &Hello) -> Result<Option<Proof>, Failure> {
        let incarnation = theirs.introduction.last_saw;
        let start = self.ask(|reply| PeerEvent::Start { incarnation, reply }).await?;
        Ok(start.map(|start| start.prove(&statement)))
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
