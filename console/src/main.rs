//! `kvorum`: the console, the command line, and a cluster of local replicas.

use std::process::ExitCode;

fn main() -> ExitCode {
    kvorum::run()
}
