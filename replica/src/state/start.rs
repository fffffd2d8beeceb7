//! Pure: one start of a replica on its disk, and the proof that a disk continues an earlier start.
//!
//! Each start draws a secret that stays on the disk; others know the start by the public key of
//! that secret (Ed25519, RFC 8032). A peer that remembers a start accepts a later one only if it
//! proves, by a signature over both sides' fresh challenges, that it has the secret of the
//! remembered start. So nothing that is sent to a peer helps it to impersonate the replica.
//!
//! Every copy of the disk has the secret too. So a disk also counts *epochs*: from time to time the
//! replica begins a new one, makes it durable and reports it to its peers. A copy that is restored
//! later has the secret, but ends in an earlier epoch than the peers remember.
//!
//! Guarantees nothing by itself: the engine judges, the storage keeps, and `transport` asks.

use std::fmt;

use kvorum_protocol::status::{ClusterId, ReplicaId};
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

/// The prefix of every signed text, so that no signature made for another purpose fits.
const DOMAIN: &[u8; 17] = b"kvorum/disk-proof";

/// A number of a disk that only rises.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Returns the next epoch.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The secret of a start, which only its disk knows.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret([u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Makes a secret of random bytes.
    #[must_use]
    pub fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// Derives the secret of a start that drew only a nonce: starts of programs from before there
    /// were secrets, and those of tests.
    #[must_use]
    pub fn of_nonce(nonce: u64) -> Self {
        let hash = digest(&SHA256, &[&b"kvorum start"[..], &nonce.to_be_bytes()].concat());
        Self(hash.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    fn pair(&self) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&self.0).expect("any 32 bytes are a seed")
    }

    /// Returns the public key by which others know the start.
    #[must_use]
    pub fn key(&self) -> StartKey {
        let key = self.pair().public_key().as_ref().try_into();
        StartKey(key.expect("an Ed25519 key has 32 bytes"))
    }
}

/// The public key by which others know a start.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartKey([u8; 32]);

impl fmt::Debug for StartKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// One start, as its disk records it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Start {
    /// The start's secret.
    pub secret: Secret,
    /// The epoch in which the writes ended that the start found on the disk.
    pub began: Epoch,
    /// The epoch in which its writes end on this disk; `None` while it is the current start.
    pub until: Option<Epoch>,
}

/// Random bytes that one side of a handshake draws, so that no proof fits another handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Challenge(pub [u8; 32]);

/// The statement that a proof signs, which names its verifier.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Statement {
    /// The cluster of both replicas.
    pub cluster: ClusterId,
    /// The replica that proves its start.
    pub prover: ReplicaId,
    /// The replica that verifies the proof.
    pub verifier: ReplicaId,
    /// Whether the prover dialed.
    pub is_dialer: bool,
    /// The challenges of both sides: the dialer's, then the acceptor's.
    pub challenges: (Challenge, Challenge),
    /// The incarnation of the prover's current start, which the verifier is to remember.
    pub incarnation: u64,
    /// The public key of that start.
    pub key: StartKey,
}

/// A signature in two halves of 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Signature([u8; 32], [u8; 32]);

/// The proof that a disk has the secret of a start, and of how far that start's writes reach on it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    until: Epoch,
    signature: Signature,
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proof(until epoch {})", self.until.0)
    }
}

/// The end of a current start: its disk has all of its writes.
const UNENDED: Epoch = Epoch(u64::MAX);

impl Start {
    /// Signs a statement.
    #[must_use]
    pub fn prove(&self, statement: &Statement) -> Proof {
        let until = self.until.unwrap_or(UNENDED);
        let signature = self.secret.pair().sign(&text(statement, until));
        let (first, second) = signature.as_ref().split_at(32);
        let half = |bytes: &[u8]| bytes.try_into().expect("an Ed25519 signature has 64 bytes");
        Proof { until, signature: Signature(half(first), half(second)) }
    }

    /// Returns the epoch that a proof by this start would show, for a caller that need not sign it.
    #[must_use]
    pub fn reaches(&self) -> Epoch {
        self.until.unwrap_or(UNENDED)
    }
}

impl Proof {
    /// Returns the epoch in which the writes of the start with this key end on the prover's disk;
    /// `None` when the prover does not have that start's secret.
    #[must_use]
    pub fn verify(&self, key: StartKey, statement: &Statement) -> Option<Epoch> {
        let signature = [self.signature.0, self.signature.1].concat();
        let verified = UnparsedPublicKey::new(&ED25519, key.0)
            .verify(&text(statement, self.until), &signature);
        verified.ok().map(|()| self.until)
    }
}

fn text(statement: &Statement, until: Epoch) -> Vec<u8> {
    postcard::to_stdvec(&(DOMAIN, statement, until)).expect("plain data serializes into memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement() -> Statement {
        Statement {
            cluster: ClusterId(1),
            prover: ReplicaId(2),
            verifier: ReplicaId(3),
            is_dialer: true,
            challenges: (Challenge([4; 32]), Challenge([5; 32])),
            incarnation: 6,
            key: Secret::of_nonce(7).key(),
        }
    }

    #[test]
    fn a_proof_fits_its_start_and_its_meeting_only() {
        let (secret, began) = (Secret::of_nonce(1), Epoch(3));
        let start = Start { secret, began, until: Some(Epoch(9)) };
        let (key, said) = (start.secret.key(), statement());
        let proof = start.prove(&said);
        assert_eq!(proof.verify(key, &said), Some(Epoch(9)));
        assert_eq!(proof.verify(Secret::of_nonce(2).key(), &said), None, "another start's");
        let longer = Proof { until: Epoch(10), ..proof };
        assert_eq!(longer.verify(key, &said), None, "the epoch is signed too");
        let others = [
            Statement { cluster: ClusterId(9), ..said },
            Statement { prover: ReplicaId(9), ..said },
            Statement { verifier: ReplicaId(9), ..said },
            Statement { is_dialer: false, ..said },
            Statement { challenges: (said.challenges.1, said.challenges.0), ..said },
            Statement { incarnation: 9, ..said },
            Statement { key: Secret::of_nonce(9).key(), ..said },
        ];
        for other in others {
            assert_eq!(proof.verify(key, &other), None, "{other:?}");
        }
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new([0xab; 32]);
        let start = Start { secret, began: Epoch(3), until: None };
        let printed = format!("{start:?} {:?}", start.prove(&statement()));
        assert!(!printed.contains("ab, ab") && !printed.contains("abab"), "{printed}");
        assert!(!printed.contains("171"), "{printed}");
    }
}
