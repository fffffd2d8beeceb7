//! Tests of one engine or decoder whose peers and clients are played by the test: by the protocol,
//! and against it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod fuzz;
mod hostile_peers;
mod joining;
mod known;
