//! The implementation of each command.
//!
//! Guarantees that a command prints its result on standard output and everything else on standard
//! error, and ends with the status that [`Exit`] documents.

mod access;
mod admin;
mod backup;
mod bench;
mod certs;
mod doctor;
mod follow;
mod keys;
mod scale;
mod status;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use clap::CommandFactory;
use kvorum_protocol::Client;
use kvorum_protocol::client::Route;
use kvorum_protocol::message::Consistency;

use crate::arguments::{Arguments, Command, Format, Global, Verb};
use crate::exit::{Exit, Failure};
use crate::message::HowToKill;
use crate::node::Node;
use crate::platform::Platform;
use crate::target::{self, Discovered, Named};

/// The time to wait for each endpoint's reply when a named node is not a member.
const ASK_PATIENCE: Duration = Duration::from_secs(1);

/// The client, the global options and the platform that a command works with.
pub(crate) struct Context {
    client: Arc<Client>,
    global: Global,
    platform: Platform,
}

impl Context {
    /// Chooses the cluster, names it, and opens it.
    async fn open(global: Global, named: Named, is_write: bool) -> Result<Self, Failure> {
        if is_write && global.readonly {
            return Err(Failure::new(Exit::NotAuthorized, READ_ONLY));
        }
        let target = target::choose(&global, named, Discovered::look(), is_write)?;
        let (client, platform) = target.open(&global).await?;
        Ok(Self { client, global, platform })
    }

    /// Returns the route to a node.
    async fn route(&self, node: Option<&Node>) -> Result<Route, Failure> {
        let node = match node {
            None | Some(Node::Any) => return Ok(Route::Any),
            Some(node) => node,
        };
        let status = self.client.status(&Route::Any).await?;
        let found = node.resolve(&status.configuration, status.leader.as_deref());
        match found {
            Ok(name) => Ok(name.map_or(Route::Any, Route::Through)),
            Err(why) if *node == Node::Leader => Err(Failure::new(Exit::Unavailable, why)),
            Err(why) => match self.other(node).await {
                Some(name) => Ok(Route::Through(name)),
                None => Err(Failure::usage(why)),
            },
        }
    }

    /// Finds a named replica that is not a member: it may belong to another cluster, or have left.
    async fn other(&self, node: &Node) -> Option<String> {
        let there = self.client.survey(ASK_PATIENCE).await.into_iter();
        let names: Vec<_> = there.filter_map(|(_, told)| told.ok().map(|s| s.name)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        node.resolve_among(&names, None).ok().flatten()
    }

    /// Returns the route of a request that the client sends to the leader in any case.
    async fn leader_or(&self, node: Option<&Node>) -> Result<Route, Failure> {
        match node {
            Some(Node::Leader) if !self.global.local_read => Ok(Route::Any),
            node => self.route(node).await,
        }
    }

    /// Returns the name of the node that is meant.
    async fn name(&self, node: &Node) -> Result<String, Failure> {
        match self.route(Some(node)).await? {
            Route::Through(name) => Ok(name),
            Route::Any => Err(Failure::usage("'any' is no particular node; name one")),
        }
    }

    fn consistency(&self) -> Consistency {
        if self.global.local_read { Consistency::Local } else { Consistency::Linearizable }
    }
}

/// Carries out a command.
pub async fn run(arguments: Arguments, named: Named) -> Result<(), Failure> {
    let Arguments { global, command } = arguments;
    crate::signals::outlive_large_files()?;
    match command {
        Some(Command::Completions { shell }) => completions(shell),
        #[cfg(feature = "local")]
        Some(Command::Local(local)) => Box::pin(crate::console::local(local, &global)).await,
        #[cfg(feature = "local")]
        Some(Command::Demo(_)) if global.readonly => {
            Err(Failure::new(Exit::NotAuthorized, READ_ONLY))
        }
        #[cfg(feature = "local")]
        Some(Command::Demo(demo)) => Box::pin(crate::console::demo(demo, &global, named)).await,
        #[cfg(feature = "local")]
        Some(Command::Replica(_)) => Ok(()),
        Some(Command::Backup { file }) => backup::backup(&file, &global, named).await,
        #[cfg(feature = "local")]
        Some(Command::Restore(restore)) => {
            on_disk(move || crate::local::restore::run(&restore)).await
        }
        #[cfg(feature = "local")]
        Some(Command::Recover(recover)) => {
            on_disk(move || crate::local::recover::run(&recover)).await
        }
        Some(Command::Bench(bench)) => {
            let context = Context::open(global, named, true).await?;
            bench::bench(&context, &bench).await
        }
        Some(Command::Whoami) => access::whoami(&Context::open(global, named, false).await?).await,
        Some(Command::Token { time }) => {
            access::token(&Context::open(global, named, false).await?, time).await
        }
        Some(Command::User { command }) => {
            let context = Context::open(global, named, command.is_write()).await?;
            access::user(&context, command).await
        }
        Some(Command::Role { command }) => {
            let context = Context::open(global, named, command.is_write()).await?;
            access::role(&context, command).await
        }
        Some(Command::Grant(grant)) => {
            access::grant(&Context::open(global, named, true).await?, grant).await
        }
        Some(Command::Revoke(revoke)) => {
            access::revoke(&Context::open(global, named, true).await?, revoke).await
        }
        Some(Command::Certs(certs)) => Box::pin(certs::run(certs, global, named)).await,
        Some(Command::Doctor) => doctor::doctor(&global, named).await,
        Some(Command::Events) => crate::console::events(&global, named).await,
        Some(Command::Verb(verb)) => run_verb(verb, global, named).await,
        None if global.plain || global.attach || crate::console::has_terminal() => {
            crate::console::attach(&global, named).await
        }
        None => run_verb(Verb::Status, global, named).await,
    }
}

/// Runs work that uses the disk, on a thread that may block.
#[cfg(feature = "local")]
async fn on_disk(
    work: impl FnOnce() -> Result<(), Failure> + Send + 'static,
) -> Result<(), Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| Err(Failure::failed(panic.to_string())))
}

fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let (mut grammar, mut script) = (Arguments::command(), Vec::new());
    clap_complete::generate(shell, &mut grammar, "kvorum", &mut script);
    Ok(std::io::stdout().lock().write_all(&script)?)
}

/// The message with which a read-only session rejects a change.
const READ_ONLY: &str =
    "this is a read-only session (--readonly or KVORUM_READONLY); nothing was done";

async fn run_verb(verb: Verb, global: Global, named: Named) -> Result<(), Failure> {
    let context = Context::open(global, named, verb.is_write()).await?;
    match verb {
        Verb::Put(put) => keys::put(&context, put).await,
        Verb::Get { key, node } => keys::get(&context, key, node).await,
        Verb::Delete { key, node, if_revision, yes: _ } => {
            keys::delete(&context, key, node, if_revision).await
        }
        Verb::Scan { prefix, node, limit, from, keys_only } => {
            keys::scan(&context, prefix, node, limit, from, keys_only).await
        }
        Verb::Status => status::status(&context).await,
        Verb::Log { from, follow, node } => follow::log(&context, from, follow, node).await,
        Verb::Watch { prefix, from, node, wait } => {
            follow::watch(&context, prefix, from, node, wait).await
        }
        Verb::Kill { node, graceful, force, yes } => {
            admin::kill(&context, &node, HowToKill::of(graceful, force), yes).await
        }
        Verb::Scale { replicas, yes } => scale::scale(&context, replicas, yes).await,
        Verb::HandOver { node, yes: _ } => admin::hand_over(&context, node).await,
        Verb::Cut { node, peer } => admin::set_cut(&context, &node, &peer, true).await,
        Verb::Heal { node, peer } => admin::set_cut(&context, &node, &peer, false).await,
    }
}

/// Prints a list: as text in the table and raw formats, else as one JSON document or one object a
/// line.
fn print_list(format: Format, text: &str, rows: Vec<serde_json::Value>) -> Result<(), Failure> {
    match format {
        Format::Jsonl => rows.iter().try_for_each(|row| print(format, "", row)),
        format => print(format, text, &serde_json::Value::Array(rows)),
    }
}

/// Prints one result: as text in the table and raw formats, as JSON otherwise.
fn print(format: Format, text: &str, json: &serde_json::Value) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match format {
        Format::Table | Format::Raw => writeln!(out, "{text}")?,
        Format::Json => {
            writeln!(out, "{}", serde_json::to_string_pretty(json).unwrap_or_default())?;
        }
        Format::Jsonl => writeln!(out, "{json}")?,
    }
    out.flush()?;
    Ok(())
}
