//! What a client may ask of a Kvorum replica, what the replica answers, and the client that asks.
//!
//! The crate is the only thing that the console and the replica share. It knows nothing of
//! consensus, disks or Kubernetes.
//!
//! | module | what it is |
//! |---|---|
//! | [`limits`] | every bound of the protocol, each with its reason |
//! | [`data`] | keys, values, operations and their outcomes |
//! | [`name`] | the one rule for names of replicas |
//! | [`status`] | what a replica says about itself |
//! | [`message`] | requests, answers, events |
//! | [`weight`] | what each of them holds, and what a request may hold |
//! | [`handshake`] | the first exchange on a connection |
//! | [`frame`] | length-prefixed postcard |
//! | [`dial`] | how a stream to a replica is opened |
//! | [`connection`] | one connection: many calls and subscriptions at once |
//! | [`backup`] | the file of a backup |
//! | [`client`] | retries, lanes and the fate of a write |

pub mod backup;
pub mod client;
pub mod connection;
pub mod data;
pub mod dial;
pub mod frame;
pub mod handshake;
pub mod limits;
pub mod message;
pub mod name;
pub mod status;
pub mod weight;

pub use client::{Client, ClientError, Fate};
pub use data::{Condition, Key, Operation, Outcome, RequestId, Value};
pub use status::{ReplicaId, Status};

/// The newest version of the wire that this crate speaks. A replica refuses, in the handshake, a
/// client with which it has no version in common; else they speak the newest one that both know.
///
/// History:
/// - 1: the first version.
/// - 2: a replica may be asked where the others are ([`message::Request::Addresses`]).
/// - 3: who subscribes to keys may be told where the subscription stands while none of them changes
///   ([`message::Subscription::Watch`]).
pub const WIRE_VERSION: u16 = 3;

/// The oldest version of the wire that this crate speaks.
pub const WIRE_VERSION_OLDEST: u16 = 1;

/// The first version in which a replica may be asked where the others are.
pub const WIRE_VERSION_ADDRESSES: u16 = 2;

/// The first version in which a subscription to keys may tell where it stands.
pub const WIRE_VERSION_PROGRESS: u16 = 3;
