//! Tests of the console without a terminal: what it shows, and what keys do.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod console;

mod keys;
mod snapshots;
