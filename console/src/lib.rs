//! Kvorum's console, its command line, and a cluster of local replicas.
//!
//! | module | what it is | pure |
//! |---|---|---|
//! | [`app`] | the whole state of the console | yes |
//! | [`message`] | the events that reach it, and the effects that it asks for | yes |
//! | [`update`] | the changes that each event makes | yes |
//! | [`view`] | the screen, drawn from the state | yes |
//! | [`page`], [`text`] | pages of text; words, numbers and times as they are drawn | yes |
//! | [`keymap`] | the key bindings, in one table | yes |
//! | [`prompt`] | the line being typed, and its grammar | yes |
//! | [`console`] | the parts that are started for each way of using the console | |
//! | [`runtime`] | the one loop: event, update, effects, draw | |
//! | [`screen`], [`input`], [`clock`] | the terminal, its keys, the time | |
//! | [`sink`] | the channel by which the watchers report what they see | |
//! | [`backend`] | where replicas run: in Kubernetes, local, at addresses | |
//! | [`platform`] | operations on the replicas' processes and their number | |
//! | [`kubernetes`] | a cluster that Kubernetes runs | |
//! | [`probe`] | numbered writes, and the proof of their outcome | |
//! | [`arguments`] | the grammar of the command line | yes |
//! | [`value`] | keys and values as they are typed | |
//! | [`signals`] | the signals that the console responds to | |
//! | [`tail`] | the end of a file | |
//! | [`node`] | the names by which users refer to a replica | yes |
//! | `statuses` | the statuses of all replicas | |
//! | [`target`] | the choice of the cluster that a command talks to | |
//! | [`command`] | the implementation of each command | |
//! | `note` | messages on standard error | |
//! | [`output`] | the formatting of results | yes |
//! | [`certificate`] | what is said of certificates | yes |
//! | [`rotation`] | the steps in which an authority is replaced | yes |
//! | [`secrets`] | where the cluster's certificates are kept | |
//! | [`exit`] | the exit statuses of commands | yes |
//! | `local` | a cluster of child processes (feature `local`) | |
//!
//! The dependencies: `update` knows neither backend nor terminal nor clock, `view` changes nothing,
//! and only `runtime` knows them all. Everything here talks to replicas through `kvorum-protocol`
//! only. `local` names the replica crate, to run it as a child process; without the feature, no
//! module does.

pub mod app;
pub mod arguments;
pub mod backend;
pub mod certificate;
pub mod clock;
pub mod clusters;
pub mod command;
pub mod console;
pub mod credentials;
pub mod exit;
pub mod input;
pub mod keymap;
pub mod kubernetes;
#[cfg(feature = "local")]
pub mod local;
pub mod login;
pub mod message;
pub mod node;
mod note;
pub mod output;
pub mod page;
pub mod platform;
pub mod probe;
pub mod prompt;
pub mod rotation;
pub mod runtime;
pub mod screen;
pub mod secrets;
pub mod signals;
pub mod sink;
mod statuses;
pub mod tail;
pub mod target;
pub mod text;
pub mod update;
pub mod value;
pub mod view;

use std::process::ExitCode;

use clap::builder::Resettable;
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};
use rustix::fs::Mode;

use arguments::Arguments;
use exit::{Exit, Failure};
use target::Named;

/// The number of threads for background work.
const WORKERS: usize = 2;

/// Runs the command line.
#[must_use]
pub fn run() -> ExitCode {
    // Backups, logs and the folders of replicas hold values: only their owner may access them.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    if let Some(plugin) = kubernetes::login::guarded(std::env::args_os()) {
        return kubernetes::login::run(&plugin);
    }
    let matches = match without_empty(Arguments::command()).try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return misread(&error),
    };
    let arguments = match Arguments::from_arg_matches(&matches) {
        Ok(arguments) => arguments,
        Err(error) => return misread(&error),
    };
    #[cfg(feature = "local")]
    if let Some(arguments::Command::Replica(settings)) = &arguments.command {
        return kvorum_replica::node::process::run(settings);
    }
    let named = Named::of(&matches);
    // The console's loop has a thread of its own: a library may block the thread it runs on, as the
    // Kubernetes library does while a login plugin runs.
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = match builder.worker_threads(WORKERS).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&Failure::failed(format!("cannot start: {error}"))),
    };
    let exit = match runtime.block_on(command::run(arguments, named)) {
        Ok(()) => Exit::Done.into(),
        Err(stop) => report(&stop),
    };
    // Tasks that still run in the background must not keep the command from ending.
    runtime.shutdown_background();
    exit
}

/// Makes a grammar ignore environment variables that are empty: manifests set them so.
fn without_empty(grammar: clap::Command) -> clap::Command {
    let is_empty = |name: &std::ffi::OsStr| std::env::var_os(name).is_some_and(|v| v.is_empty());
    let grammar = grammar.mut_args(|argument| match argument.get_env() {
        Some(name) if is_empty(name) => argument.env(Resettable::Reset),
        _ => argument,
    });
    grammar.mut_subcommands(without_empty)
}

/// Reports that the command line does not parse, or prints the help that it asks for.
fn misread(error: &clap::Error) -> ExitCode {
    let is_help = matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    if !is_help {
        // The error, and the tip if there is one, in one line.
        let text = error.to_string();
        let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
        let said: Vec<&str> = lines
            .filter(|line| !line.is_empty() && !line.starts_with("For more information"))
            .collect();
        let said = said.join(" ");
        return report(&Failure::usage(said.trim_start_matches("error: ")));
    }
    // The reader of the output may be gone.
    let _ = error.print();
    match error.exit_code() {
        0 => Exit::Done.into(),
        _ => Exit::Usage.into(),
    }
}

fn report(stop: &Failure) -> ExitCode {
    if !stop.message.is_empty() {
        note::note(&stop.message);
    }
    stop.exit.into()
}
