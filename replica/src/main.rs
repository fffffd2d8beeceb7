//! `kvorum-replica`: one replica of a Kvorum cluster.

use std::process::ExitCode;

use clap::Parser;
use kvorum_replica::node::settings::Settings;

/// One replica of a Kvorum cluster
#[derive(Parser)]
#[command(name = "kvorum-replica", version)]
struct Command {
    #[command(flatten)]
    settings: Settings,
}

fn main() -> ExitCode {
    kvorum_replica::node::process::run(&Command::parse().settings)
}
