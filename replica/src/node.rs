//! The process around the driver: it opens the disk, finds out which replica it is, starts the
//! parts, and ends them.
//!
//! Guarantees that a replica that cannot start says why in one sentence, with the remedy. Does not
//! decide anything about the cluster; the [engine](crate::engine) does.

pub mod certificates;
mod disk_space;
pub mod http;
pub mod identity;
mod opening;
mod ports;
pub mod process;
mod rediscovery;
pub mod replica;
mod serving;
pub mod settings;
mod shutdown;
pub mod start_error;
