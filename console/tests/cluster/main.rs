//! Tests of real processes: clusters that `kvorum local` runs, the command line, the console in a
//! terminal; killed by real signals, on real disks, attacked through real sockets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod proxy;
mod wire;

mod backup;
mod bytes;
mod certificates;
mod checksum;
mod command_line;
mod copies;
mod deploy;
mod failures;
mod frames;
mod hostile;
mod memory;
mod other_cluster;
mod process;
mod rights;
mod rotation;
mod scaling;
mod strangers;
mod terminal;
mod transfer;
mod versions;
mod watchers;
