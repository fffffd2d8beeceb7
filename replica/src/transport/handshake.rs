//! Pure: the handshake by which two replicas meet, without I/O.
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
//! side saw last. Each side is two values, one for each half of its handshake: [`Dialer`] and
//! [`Answered`], [`Acceptor`] and [`Greeted`]. They take the frames of the other side and return
//! those to send. Guarantees that what a [`Claim`] says to be proven was proven in this handshake,
//! and that a stranger learns nothing that helps it to speak as a replica. Does not judge a claim:
//! the engine does; and does not count anyone as met: [meeting](super::meeting) does.

use bytes::Bytes;
use kvorum_protocol::frame;
use kvorum_protocol::status::ReplicaId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::engine::store::PeerRecord;
use crate::engine::{Claim, Greeting, Introduction, Rejection};
use crate::state::start::{Challenge, Epoch, Proof, Start, Statement};

/// The first bytes of either side's hello. The last byte rises when the handshake changes.
const MAGIC: [u8; 8] = *b"kvorum/q";

/// Longest frame of a handshake, in bytes.
pub const FRAME_BYTES_MAX: usize = 4096;

/// The first frame of each side.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Hello {
    magic: [u8; 8],
    introduction: Introduction,
    challenge: Challenge,
}

impl Hello {
    fn new(introduction: Introduction, challenge: Challenge) -> Self {
        Self { magic: MAGIC, introduction, challenge }
    }

    fn check(&self) -> Result<(), Failure> {
        match self.magic {
            MAGIC => Ok(()),
            [b'k', b'v', b'o', b'r', b'u', b'm', b'/', _] => Err(Failure::OtherProtocol),
            _ => Err(Failure::NotKvorum),
        }
    }
}

/// The acceptor's answer to a hello: its own, with its proof if it has one for the dialer.
type Answer = Result<(Hello, Option<Proof>), Rejection>;

/// The reason why two replicas did not meet.
#[derive(PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// Nothing answers there, or the connection broke.
    #[error("{0}")]
    Unreachable(String),
    /// One end does not trust the other's certificate.
    #[error("no trust between it and this replica: {0}")]
    Distrusted(String),
    /// The other end does not encrypt.
    #[error("it does not encrypt, and this replica talks to nobody else (--tls require)")]
    NotEncrypted,
    /// The other end has the certificate of another replica.
    #[error("it says that it is {}, and its certificate says {certified}", .says.escape_debug())]
    OtherName {
        /// The name by which it introduces itself.
        says: String,
        /// The name in its certificate.
        certified: String,
    },
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
    /// Returns the statement that one side has to sign for the other.
    fn statement(&self, is_dialer: bool) -> Statement {
        let (dialer, acceptor) = (&self.dialer.introduction, &self.acceptor.introduction);
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

    /// Returns what one side claims to be, and the epoch up to which its proof shows that it has
    /// the start that was seen last; or its current start, if none was seen.
    fn claim(&self, is_dialer: bool, seen: Option<PeerRecord>, proof: Option<Proof>) -> Claim {
        let theirs = if is_dialer { self.dialer } else { self.acceptor };
        let key = seen.map_or(theirs.introduction.key, |seen| seen.key);
        let reaches: Option<Epoch> =
            proof.and_then(|proof| proof.verify(key, &self.statement(is_dialer)));
        Claim { theirs: theirs.introduction.clone(), seen, reaches }
    }
}

/// The side of the handshake that opened the connection.
pub struct Dialer {
    peer: ReplicaId,
    mine: Hello,
    seen: Option<PeerRecord>,
}

impl Dialer {
    /// Begins a handshake with a peer, with a challenge that was never used before.
    #[must_use]
    pub fn new(peer: ReplicaId, greeting: Greeting, challenge: Challenge) -> Self {
        Self { peer, mine: Hello::new(greeting.mine, challenge), seen: greeting.seen }
    }

    /// Returns the first frame.
    pub fn hello(&self) -> Result<Bytes, Failure> {
        encode(&self.mine)
    }

    /// Handles the acceptor's answer: returns what it claims, for the engine to judge, and the
    /// handshake's second half.
    pub fn answered(self, frame: &[u8]) -> Result<(Claim, Answered), Failure> {
        let answer: Answer = decode(frame)?;
        let (theirs, proof) = answer.map_err(|rejection| {
            let is_proven = false;
            Failure::RejectedBy { peer: self.peer, rejection, is_proven }
        })?;
        theirs.check()?;
        if theirs.introduction.replica != self.peer {
            return Err(Failure::SomebodyElse(theirs.introduction.replica.0));
        }
        let both = Both { dialer: &self.mine, acceptor: &theirs };
        let (claim, statement) = (both.claim(false, self.seen, proof), both.statement(true));
        Ok((claim, Answered { peer: self.peer, statement, was_seen: self.seen.is_some() }))
    }
}

/// A dialer that has received the acceptor's hello.
pub struct Answered {
    peer: ReplicaId,
    statement: Statement,
    was_seen: bool,
}

impl Answered {
    /// Returns the frame with the proof by a start of this replica, if its disk has the start that
    /// the acceptor saw last, and with the verdict about the acceptor.
    pub fn verdict(
        &self,
        start: Option<Start>,
        verdict: &Result<(), Rejection>,
    ) -> Result<Bytes, Failure> {
        encode(&(start.map(|start| start.prove(&self.statement)), verdict))
    }

    /// Handles the acceptor's last frame; an error if it rejects this replica.
    pub fn welcomed(self, frame: &[u8]) -> Result<(), Failure> {
        let (peer, is_proven) = (self.peer, self.was_seen);
        let welcome: Result<(), Rejection> = decode(frame)?;
        welcome.map_err(|rejection| Failure::RejectedBy { peer, rejection, is_proven })
    }
}

/// The side of the handshake that was dialed, once it has received the dialer's hello.
pub struct Acceptor {
    theirs: Hello,
}

impl Acceptor {
    /// Begins a handshake with a dialer's hello.
    pub fn new(frame: &[u8]) -> Result<Self, Failure> {
        let theirs: Hello = decode(frame)?;
        theirs.check()?;
        Ok(Self { theirs })
    }

    /// Returns the dialer's introduction, of which nothing is proven yet.
    #[must_use]
    pub fn theirs(&self) -> &Introduction {
        &self.theirs.introduction
    }

    /// Returns the frame that turns the dialer away without an introduction.
    pub fn refusal(rejection: &Rejection) -> Result<Bytes, Failure> {
        encode(&Err::<(Hello, Option<Proof>), _>(rejection))
    }

    /// Returns the frame with this replica's hello and proof, with a challenge that was never used
    /// before; and the handshake's second half.
    pub fn greet(
        self,
        greeting: Greeting,
        challenge: Challenge,
    ) -> Result<(Bytes, Greeted), Failure> {
        let mine = Hello::new(greeting.mine, challenge);
        let both = Both { dialer: &self.theirs, acceptor: &mine };
        let proof = greeting.start.map(|start| start.prove(&both.statement(false)));
        let frame = encode(&Ok::<_, Rejection>((&mine, proof)))?;
        Ok((frame, Greeted { theirs: self.theirs, mine, seen: greeting.seen }))
    }
}

/// An acceptor that has sent its hello.
pub struct Greeted {
    theirs: Hello,
    mine: Hello,
    seen: Option<PeerRecord>,
}

impl Greeted {
    /// Handles the dialer's proof: returns what it claims, for the engine to judge.
    pub fn proven(self, frame: &[u8]) -> Result<Claim, Failure> {
        let (proof, taken): (Option<Proof>, Result<(), Rejection>) = decode(frame)?;
        let both = Both { dialer: &self.theirs, acceptor: &self.mine };
        let claim = both.claim(true, self.seen, proof);
        let is_proven = self.seen.is_some() && claim.reaches.is_some();
        let peer = self.theirs.introduction.replica;
        taken.map_err(|rejection| Failure::RejectedBy { peer, rejection, is_proven })?;
        Ok(claim)
    }
}

/// Returns the acceptor's last frame.
pub fn welcome(verdict: &Result<(), Rejection>) -> Result<Bytes, Failure> {
    encode(verdict)
}

fn encode<M: Serialize>(message: &M) -> Result<Bytes, Failure> {
    frame::encode(message, FRAME_BYTES_MAX).map_err(|_| Failure::NotKvorum)
}

fn decode<M: DeserializeOwned>(frame: &[u8]) -> Result<M, Failure> {
    frame::decode(frame).map_err(|_| Failure::NotKvorum)
}

#[cfg(test)]
mod tests {
    use kvorum_protocol::status::ClusterId;

    use super::*;
    use crate::state::start::Secret;
    use crate::state::version::Version;

    /// One of two replicas, each at its second start, which met the other at its first one.
    fn greeting(id: u64, is_acceptor: bool) -> Greeting {
        let nonce = |of: u64, incarnation: u64| Secret::of_nonce(of * 10 + incarnation);
        let mine = Introduction {
            cluster: ClusterId(1),
            replica: ReplicaId(id),
            name: format!("kvorum-{}", id - 1),
            incarnation: 2,
            key: nonce(id, 2).key(),
            last_saw: 1,
            versions: (Version::OLDEST, Version::NEWEST),
        };
        let seen = PeerRecord { incarnation: 1, key: nonce(3 - id, 1).key(), epoch: Epoch(4) };
        Greeting { mine, seen: Some(seen), start: is_acceptor.then(|| first_start(id)) }
    }

    fn first_start(id: u64) -> Start {
        Start { secret: Secret::of_nonce(id * 10 + 1), began: Epoch(0), until: Some(Epoch(5)) }
    }

    const CHALLENGES: [Challenge; 2] = [Challenge([1; 32]), Challenge([2; 32])];

    /// The dialer, and the acceptor after the dialer's hello.
    fn sides() -> (Dialer, Acceptor) {
        let dialer = Dialer::new(ReplicaId(2), greeting(1, false), CHALLENGES[0]);
        let acceptor = Acceptor::new(&dialer.hello().unwrap()).unwrap();
        (dialer, acceptor)
    }

    #[test]
    fn two_replicas_prove_their_earlier_starts_to_each_other() {
        let (dialer, acceptor) = sides();
        assert_eq!(acceptor.theirs().replica, ReplicaId(1));
        let (hello, greeted) = acceptor.greet(greeting(2, true), CHALLENGES[1]).unwrap();
        let (claim, answered) = dialer.answered(&hello).unwrap();
        assert_eq!((claim.theirs.replica, claim.reaches), (ReplicaId(2), Some(Epoch(5))));
        let proof = answered.verdict(Some(first_start(1)), &Ok(())).unwrap();
        let claim = greeted.proven(&proof).unwrap();
        assert_eq!((claim.theirs.replica, claim.reaches), (ReplicaId(1), Some(Epoch(5))));
        answered.welcomed(&welcome(&Ok(())).unwrap()).unwrap();
    }

    #[test]
    fn a_proof_counts_in_its_own_handshake_only() {
        let (dialer, acceptor) = sides();
        let (recorded, greeted) = acceptor.greet(greeting(2, true), CHALLENGES[1]).unwrap();
        let (_, answered) = dialer.answered(&recorded).unwrap();
        let proof = answered.verdict(Some(first_start(1)), &Ok(())).unwrap();
        assert!(greeted.proven(&proof).unwrap().reaches.is_some());
        // The acceptor's frame, repeated to a dialer with another challenge.
        let again = Dialer::new(ReplicaId(2), greeting(1, false), Challenge([3; 32]));
        let (claim, _) = again.answered(&recorded).unwrap();
        assert_eq!(claim.reaches, None, "a recorded answer proves nothing");
        // The dialer's, to an acceptor with another challenge.
        let (_, acceptor) = sides();
        let (_, greeted) = acceptor.greet(greeting(2, true), Challenge([3; 32])).unwrap();
        assert_eq!(greeted.proven(&proof).unwrap().reaches, None, "nor does a recorded proof");
    }

    #[test]
    fn no_proof_and_another_starts_proof_show_nothing() {
        for start in [None, Some(first_start(2))] {
            let (dialer, acceptor) = sides();
            let (hello, greeted) =
                acceptor.greet(Greeting { start, ..greeting(2, true) }, CHALLENGES[1]).unwrap();
            let (claim, answered) = dialer.answered(&hello).unwrap();
            assert_eq!(claim.reaches.is_some(), start.is_some(), "the acceptor's own start");
            let proof = answered.verdict(start, &Ok(())).unwrap();
            assert_eq!(greeted.proven(&proof).unwrap().reaches, None, "not the dialer's start");
        }
    }

    #[test]
    fn a_rejection_is_reported_with_what_is_proven_of_its_sender() {
        let by = |peer, is_proven| Failure::RejectedBy {
            peer: ReplicaId(peer),
            rejection: Rejection::Cut,
            is_proven,
        };
        let (dialer, _) = sides();
        let refused = dialer.answered(&Acceptor::refusal(&Rejection::Cut).unwrap()).err();
        assert_eq!(refused, Some(by(2, false)), "anyone can send that");
        for (start, is_proven) in [(Some(first_start(1)), true), (None, false)] {
            let (dialer, acceptor) = sides();
            let (hello, greeted) = acceptor.greet(greeting(2, true), CHALLENGES[1]).unwrap();
            let (_, answered) = dialer.answered(&hello).unwrap();
            let verdict = answered.verdict(start, &Err(Rejection::Cut)).unwrap();
            assert_eq!(greeted.proven(&verdict).err(), Some(by(1, is_proven)));
            let refused = answered.welcomed(&welcome(&Err(Rejection::Cut)).unwrap()).err();
            assert_eq!(refused, Some(by(2, true)));
        }
    }

    #[test]
    fn what_is_no_hello_of_the_expected_replica_is_named() {
        let (dialer, _) = sides();
        let mut hello = Hello::new(greeting(1, false).mine, CHALLENGES[0]);
        hello.magic[7] += 1;
        assert_eq!(Acceptor::new(&encode(&hello).unwrap()).err(), Some(Failure::OtherProtocol));
        hello.magic[0] += 1;
        assert_eq!(Acceptor::new(&encode(&hello).unwrap()).err(), Some(Failure::NotKvorum));
        assert_eq!(Acceptor::new(b"GET / HTTP/1.1\r\n").err(), Some(Failure::NotKvorum));
        let other = Hello::new(
            Introduction { replica: ReplicaId(9), ..greeting(2, true).mine },
            CHALLENGES[1],
        );
        let answer: Answer = Ok((other, None));
        assert_eq!(
            dialer.answered(&encode(&answer).unwrap()).err(),
            Some(Failure::SomebodyElse(9))
        );
    }
}
