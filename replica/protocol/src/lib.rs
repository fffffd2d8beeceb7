//! The client protocol of Kvorum: requests to a replica, its answers, and the client that sends
//! them.
//!
//! The crate is the only code that the console and the replica share. It knows nothing of
//! consensus, disks or Kubernetes.
//!
//! | module | what it is |
//! |---|---|
//! | [`limits`] | every bound of the protocol, each with its reason |
//! | [`access`] | users, roles and rights |
//! | [`data`] | keys, values, operations and their outcomes |
//! | [`name`] | the one rule for names of replicas |
//! | [`status`] | a replica's report of its own state |
//! | [`message`] | requests, answers, events |
//! | [`weight`] | the memory size of each message, and checks of requests against the limits |
//! | [`handshake`] | the first exchange on a connection |
//! | [`frame`] | length-prefixed postcard |
//! | [`dial`] | opens streams to a replica |
//! | [`connection`] | one connection: many calls and subscriptions at once |
//! | [`events`] | an open subscription of a connection |
//! | [`authentication`] | passwords and tokens |
//! | [`backup`] | the file format of a backup |
//! | [`client`] | retries, lanes and the fate of a write |

pub mod access;
pub mod authentication;
pub mod backup;
pub mod client;
pub mod connection;
pub mod data;
pub mod dial;
pub mod events;
pub mod frame;
pub mod handshake;
pub mod limits;
pub mod message;
pub mod name;
mod queue;
mod refusal;
pub mod status;
pub mod weight;

pub use client::{Client, ClientError, Fate};
pub use data::{Condition, Key, Operation, Outcome, RequestId, Value};
pub use status::{ReplicaId, Status};

/// The newest version of the wire protocol that this crate speaks. A replica refuses, in the
/// handshake, a client with which it has no version in common; otherwise they speak the newest
/// version that both know.
///
/// History:
/// - 1: the first version.
/// - 2: a client may request the addresses of the other replicas ([`message::Request::Addresses`]).
/// - 3: a subscription to keys may report its position while none of them changes
///   ([`message::Subscription::Watch`]).
/// - 4: a client may ask for users, roles and rights ([`message::Request::Access`]) and change them
///   ([`data::Operation::Access`]).
/// - 5: a replica that is overloaded says when to try again ([`message::Refusal::Busy`]).
pub const WIRE_VERSION: u16 = 5;

/// The oldest version of the wire protocol that this crate speaks.
pub const WIRE_VERSION_OLDEST: u16 = 1;

/// The first version in which a client may request the addresses of the other replicas.
pub const WIRE_VERSION_ADDRESSES: u16 = 2;

/// The first version in which a subscription to keys may report its position.
pub const WIRE_VERSION_PROGRESS: u16 = 3;

/// The first version in which a client may ask for users, roles and rights, and change them.
pub const WIRE_VERSION_ACCESS: u16 = 4;

/// The first version in which a replica that is overloaded says when to try again.
pub const WIRE_VERSION_BUSY: u16 = 5;
