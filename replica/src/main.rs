//! `kvorum-replica`: one replica of a Kvorum cluster.

use std::process::ExitCode;

use clap::Parser;
use kvorum_replica::settings::Settings;

/// One replica of a Kvorum cluster
#[derive(Parser)]
#[command(name = "kvorum-replica", version)]
struct Command {
    #[command(flatten)]
    settings: Settings,
}

fn main() -> ExitCode {
    kvorum_replica::process::run(&Command::parse().settings)
}
