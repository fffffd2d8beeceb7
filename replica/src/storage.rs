//! The disk of a replica: its log, its state, and its identity.
//!
//! Implements what the engine needs of a disk ([`Store`](crate::engine::store::Store)) twice:
//! [`Database`] on RocksDB and [`Memory`](memory::Memory), with the same guarantees. Does not know
//! when a sync is due; the driver does.

pub mod durable;
pub mod journal;
pub mod log;
pub mod memory;
pub mod replay;
pub mod rocks;
pub mod scan;
pub mod segments;

/// A ballot, as the log stores it.
pub use omnipaxos::ballot_leader_election::Ballot;
pub use rocks::OnFatal;
pub use rocks::database::Database;
pub use rocks::open_error::OpenError;
