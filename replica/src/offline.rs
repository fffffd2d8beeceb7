//! Work on the folders of replicas that do not run: what `recover` and `restore` do to disks.
//!
//! Guarantees that a folder of which it is not known whether it is lost is never taken for lost,
//! and that a folder becomes a replica's only when it has its whole state. Does not ask anybody,
//! and does not know where the folders of a cluster are; the caller does.

pub mod recover;
pub mod restore;
