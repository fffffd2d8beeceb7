//! Tests of disks: RocksDB beside the in-memory model, damaged files, and a disk's release.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod damage;
mod restarts;
mod storage;
