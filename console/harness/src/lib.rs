//! What the tests and benchmarks of the console share.
//!
//! - [`cluster`]: a local cluster of real processes, and the program under test as a command.
//! - [`terminal`]: the program in a pseudo-terminal, and what that terminal shows.
//! - [`memory`]: a cluster in memory, for screens that no real replica is needed for.
//!
//! It knows the console's library; no release contains it. Whatever fails here fails the test that
//! called it: with a panic that says what was awaited, and how the replicas' logs end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

pub mod cluster;
pub mod memory;
pub mod terminal;

use std::path::PathBuf;
use std::time::Duration;

/// The longest time that a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The variables by which a user of this machine may have chosen a cluster.
const SETTINGS: [&str; 9] = [
    "KVORUM_ENDPOINTS",
    "KVORUM_LOCAL",
    "KVORUM_PASSWORD",
    "KVORUM_PASSWORD_FILE",
    "KVORUM_READONLY",
    "KVORUM_TIMEOUT",
    "KVORUM_TOKEN",
    "KVORUM_TOKEN_FILE",
    "KVORUM_USER",
];

/// Returns the path of the program under test.
///
/// Cargo puts it beside the folder of the test that is running. `CARGO_BIN_EXE_kvorum` names
/// another one.
pub fn program() -> PathBuf {
    if let Some(named) = std::env::var_os("CARGO_BIN_EXE_kvorum") {
        return named.into();
    }
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("kvorum");
    assert!(program.is_file(), "{} is not there: cargo builds it for tests", program.display());
    program
}
