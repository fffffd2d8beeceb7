//! Holds the [handshake](super::handshake) of two replicas over a connection.
//!
//! Sends and receives its frames, and asks the driver for what the engine knows and judges.
//! Guarantees that each side counts the other as met only when both have accepted each other.

use bytes::Bytes;
use futures::SinkExt;
use kvorum_protocol::frame;
use kvorum_protocol::status::ReplicaId;
use kvorum_tls::{Peer, Subject, Wire};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt;
use tokio_util::bytes::BytesMut;
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

use super::handshake::{Acceptor, Dialer, FRAME_BYTES_MAX, Failure, welcome};
use crate::driver::PeerEvent;
use crate::engine::{Claim, Introduction, Rejection};
use crate::state::start::{Challenge, Start};

/// The receiving half of a connection between replicas.
pub type Frames = FramedRead<ReadHalf<Wire>, LengthDelimitedCodec>;
/// The sending half of a connection between replicas.
pub type Sink = FramedWrite<WriteHalf<Wire>, LengthDelimitedCodec>;

/// A peer that was met, and the connection to it.
pub struct Met {
    /// The peer's id.
    pub peer: ReplicaId,
    /// The frames from the peer; the codec still has a meeting's limit.
    pub frames: Frames,
    /// The frames to the peer; the codec still has a meeting's limit.
    pub sink: Sink,
    /// The one that the peer's certificate names, if the connection is encrypted.
    pub certified: Option<Peer>,
}

/// A meeting under way.
pub struct Meeting {
    frames: Frames,
    sink: Sink,
    certified: Option<Peer>,
    driver: mpsc::Sender<PeerEvent>,
}

impl Meeting {
    /// Begins a meeting on a connection, with the one that its certificate names at the other end.
    pub fn new(wire: Wire, certified: Option<Peer>, driver: mpsc::Sender<PeerEvent>) -> Self {
        let (read, write) = tokio::io::split(wire);
        let frames = FramedRead::new(read, frame::codec(FRAME_BYTES_MAX));
        let sink = FramedWrite::new(write, frame::codec(FRAME_BYTES_MAX));
        Self { frames, sink, certified, driver }
    }

    /// Holds the meeting: as the dialer of a replica, or as the acceptor.
    pub async fn hold(self, dialed: Option<ReplicaId>) -> Result<Met, Failure> {
        match dialed {
            Some(peer) => self.dialing(peer).await,
            None => self.accepting().await,
        }
    }

    async fn dialing(mut self, peer: ReplicaId) -> Result<Met, Failure> {
        let greeting = self.ask(|reply| PeerEvent::Greet { peer, theirs: None, reply }).await?;
        let dialer = Dialer::new(peer, greeting.map_err(Failure::Rejected)?, challenge());
        self.send(dialer.hello()?).await?;
        let (claim, answered) = dialer.answered(&self.receive().await?)?;
        let theirs = claim.theirs.clone();
        self.check_name(&theirs)?;
        let (verdict, start) = self.judge(claim).await?;
        self.send(answered.verdict(start, &verdict)?).await?;
        verdict.map_err(Failure::Rejected)?;
        answered.welcomed(&self.receive().await?)?;
        self.meet(theirs).await?;
        Ok(Met { peer, frames: self.frames, sink: self.sink, certified: self.certified })
    }

    async fn accepting(mut self) -> Result<Met, Failure> {
        let acceptor = Acceptor::new(&self.receive().await?)?;
        let theirs = acceptor.theirs().clone();
        self.check_name(&theirs)?;
        let peer = theirs.replica;
        let introduction = Some(theirs.clone());
        let greeting = self.ask(|reply| PeerEvent::Greet { peer, theirs: introduction, reply });
        let greeting = match greeting.await? {
            Ok(greeting) => greeting,
            Err(rejection) => {
                self.send(Acceptor::refusal(&rejection)?).await?;
                return Err(Failure::Rejected(rejection));
            }
        };
        let (hello, greeted) = acceptor.greet(greeting, challenge())?;
        self.send(hello).await?;
        let claim = greeted.proven(&self.receive().await?)?;
        let (verdict, _) = self.judge(claim).await?;
        if verdict.is_ok() {
            self.meet(theirs).await?;
        }
        self.send(welcome(&verdict)?).await?;
        verdict.map_err(Failure::Rejected)?;
        Ok(Met { peer, frames: self.frames, sink: self.sink, certified: self.certified })
    }

    /// Checks that a peer introduces itself by the name that its certificate has.
    fn check_name(&self, theirs: &Introduction) -> Result<(), Failure> {
        let Some(certified) = &self.certified else { return Ok(()) };
        match &certified.identity.subject {
            Subject::Replica(name) if name.is(&theirs.name) => Ok(()),
            Subject::Replica(_) | Subject::Client(_) => Err(Failure::OtherName {
                says: theirs.name.clone(),
                certified: certified.identity.to_string(),
            }),
        }
    }

    /// Returns the verdict on a peer's claim, and the start by which this replica proves itself to
    /// that peer; `None` when this disk does not have it.
    async fn judge(&self, claim: Claim) -> Result<(Result<(), Rejection>, Option<Start>), Failure> {
        self.ask(|reply| PeerEvent::Judge { claim, reply }).await
    }

    async fn meet(&self, theirs: Introduction) -> Result<(), Failure> {
        self.ask(|reply| PeerEvent::Met { theirs, reply }).await
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

    async fn send(&mut self, frame: Bytes) -> Result<(), Failure> {
        let sent = self.sink.send(frame).await;
        sent.map_err(|error| Failure::Unreachable(error.to_string()))
    }

    async fn receive(&mut self) -> Result<BytesMut, Failure> {
        match self.frames.next().await {
            Some(Ok(frame)) => Ok(frame),
            Some(Err(_)) => Err(Failure::NotKvorum),
            None => Err(Failure::Unreachable("it closed the connection".to_owned())),
        }
    }
}

fn challenge() -> Challenge {
    Challenge(rand::random())
}
