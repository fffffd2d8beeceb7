//! Pure: the grammar of the prompt: the command line's verbs, and the console's own commands.
//!
//! Guarantees that a line yields either commands or an error with its position and its remedy, and
//! that no line causes a panic. Does not know the cluster: whether a node exists is checked later,
//! by [`Command::nodes`].

use std::ffi::OsString;
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use super::words::{self, Word};
use crate::arguments::{DemoName, ThemeName, Verb};
use crate::node::Node;

/// The maximum length of a line, in bytes.
pub const LINE_BYTES_MAX: usize = 16 * 1024;

/// One command of a line.
#[derive(Parser, Debug)]
#[command(no_binary_name = true, disable_help_flag = true, disable_help_subcommand = true)]
struct Line {
    /// Read what the replica has, which may be stale
    #[arg(long, visible_alias = "stale", global = true)]
    local_read: bool,
    #[command(subcommand)]
    what: What,
}

/// What a command asks for.
#[derive(Subcommand, Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// Something with the cluster.
    #[command(flatten)]
    Verb(Verb),
    /// Something with the console.
    #[command(flatten)]
    View(View),
}

/// What only a console has.
#[derive(Subcommand, Clone, PartialEq, Eq, Debug)]
pub enum View {
    /// Take the last put or delete back
    Undo,
    /// Change a key's value, beginning with the one it has
    Edit {
        /// The key
        key: OsString,
    },
    /// Look at a key closely: its value, and what each replica has of it
    Inspect {
        /// The key
        key: OsString,
    },
    /// Put so many keys, as a load
    Batch {
        /// How many
        #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        count: u32,
    },
    /// Turn the write probe on or off
    Probe {
        /// Which
        #[arg(value_enum)]
        switch: Switch,
    },
    /// Show the end of a replica's log file
    Logs {
        /// Whose
        node: Node,
    },
    /// Cut or heal a link, as the OmniPaxos demos spell it
    Connection {
        /// One end
        node: Node,
        /// The other end
        peer: Node,
        /// Whether they shall be connected
        #[arg(action = clap::ArgAction::Set)]
        up: bool,
    },
    /// Cut links as in the Omni-Paxos paper, or heal all
    Scenario {
        /// Which
        #[arg(value_enum)]
        name: Scenario,
    },
    /// Run a demo
    Demo {
        /// Which
        #[arg(value_enum)]
        name: DemoName,
    },
    /// Show only lines that hold a text; ! before it for those that do not
    Filter {
        /// The text; empty for all
        #[arg(default_value = "", allow_hyphen_values = true)]
        text: OsString,
    },
    /// Choose how reads are done
    Read {
        /// How
        #[arg(value_enum)]
        mode: ReadMode,
    },
    /// Choose the colors
    Theme {
        /// Which
        #[arg(value_enum)]
        name: ThemeName,
    },
    /// Ask before acts that keep the quorum, or do not
    Confirm {
        /// Which
        #[arg(value_enum)]
        switch: Switch,
    },
    /// Go to a pane
    Pane {
        /// Which
        #[arg(value_enum)]
        name: PaneName,
    },
    /// Attach to replicas at addresses
    Attach {
        /// HOST:PORT,…
        addresses: String,
    },
    /// Start a cluster of replicas on this machine and attach to it
    Local,
    /// Write a picture of the screen to a file: .svg, else text
    Picture {
        /// The file
        file: String,
    },
    /// Show the keys and the commands
    Help,
    /// Show the errors
    Errors,
    /// Forget the answers
    Clear,
    /// Draw everything anew
    Redraw,
    /// End the console
    #[command(alias = "exit", alias = "q")]
    Quit,
    /// End the console, also where others may be looking at it
    #[command(name = "quit!")]
    QuitForAll,
}

/// On or off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// How reads are done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ReadMode {
    /// As of some moment during the call, confirmed by a majority.
    Linearizable,
    /// Whatever the replica has.
    Local,
}

/// A partial loss of connectivity, by its name in the Omni-Paxos paper (section 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Scenario {
    /// Only one replica, not the leader, is still linked with all others.
    Qloss,
    /// The same, and the old leader is linked with nobody.
    Constrained,
    /// The leader and another replica cannot see each other; the rest sees both.
    Chained,
    /// All links are healed.
    Restore,
}

/// A pane.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub enum PaneName {
    /// The replicas.
    Nodes,
    /// The log.
    Log,
    /// The keys.
    Keys,
    /// The write probe.
    Writes,
    /// What happened.
    Events,
    /// What was answered.
    Output,
}

/// A parsed command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// The request.
    pub what: What,
    /// Whether reads may be stale.
    pub local_read: bool,
    /// The words of the command.
    pub words: Vec<Word>,
}

/// An error in a line: its position and its remedy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LineError {
    /// The wrong bytes of the line; empty, at its end, where something is missing.
    pub at: Range<usize>,
    /// The error.
    pub what: String,
    /// The remedy.
    pub remedy: String,
}

impl LineError {
    pub(super) fn new(
        at: Range<usize>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { at, what: what.into(), remedy: remedy.into() }
    }
}

impl std::fmt::Display for LineError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

/// The grammar, built once: building it takes far longer than parsing a line.
#[derive(Clone, Debug)]
pub struct Grammar {
    commands: clap::Command,
}

impl Default for Grammar {
    fn default() -> Self {
        let mut commands = Line::command();
        commands.build();
        Self { commands }
    }
}

impl Grammar {
    /// Returns the commands, with their arguments and help texts.
    #[must_use]
    pub fn commands(&self) -> &clap::Command {
        &self.commands
    }

    /// Returns one command, by its name or an alias.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&clap::Command> {
        self.commands.find_subcommand(name)
    }

    /// Parses a line.
    ///
    /// # Errors
    /// Returns the error of the first command that is wrong.
    pub fn read(&mut self, line: &str) -> Result<Vec<Command>, LineError> {
        if line.len() > LINE_BYTES_MAX {
            let what = format!("the line has {} bytes, {LINE_BYTES_MAX} are possible", line.len());
            let remedy = "a long value can be put from a file: put KEY @FILE";
            return Err(LineError::new(line.len()..line.len(), what, remedy));
        }
        let lead = line.len() - line.trim_start_matches([' ', ':']).len();
        let shift = |at: &Range<usize>| at.start + lead..at.end + lead;
        let mut commands = words::split(&line[lead..])
            .map_err(|error| LineError { at: shift(&error.at), ..error })?;
        for word in commands.iter_mut().flatten() {
            word.at = shift(&word.at);
        }
        commands.into_iter().map(|words| self.command(words)).collect()
    }

    fn command(&mut self, words: Vec<Word>) -> Result<Command, LineError> {
        let spoken = words.iter().map(|word| OsString::from_vec(word.bytes.clone()));
        let parsed = self.commands.try_get_matches_from_mut(spoken);
        let parsed = parsed.and_then(|matches| Line::from_arg_matches(&matches));
        match parsed {
            Ok(line) => Ok(Command { what: line.what, local_read: line.local_read, words }),
            Err(error) => Err(self.explain(&error, &words)),
        }
    }

    /// Converts a clap error into one with its position in the line and its remedy.
    fn explain(&self, error: &clap::Error, words: &[Word]) -> LineError {
        let end = words.last().map_or(0, |word| word.at.end);
        let name = words.first().map(|word| String::from_utf8_lossy(&word.bytes).into_owned());
        let name = name.unwrap_or_default();
        let usage = match self.find(&name) {
            Some(command) => format!("write: {}", usage(command)),
            None => "help lists the commands".to_owned(),
        };
        let place = |wrong: &str| {
            let says = |word: &&Word| word.bytes == wrong.as_bytes();
            let flag = |word: &&Word| word.bytes.starts_with(wrong.as_bytes());
            let found = words.iter().rfind(says).or_else(|| words.iter().rfind(flag));
            found.map_or(end..end, |word| word.at.clone())
        };
        let first = words.first().map_or(end..end, |word| word.at.clone());
        match error.kind() {
            ErrorKind::InvalidSubcommand | ErrorKind::MissingSubcommand => {
                let suggested = said(error, ContextKind::SuggestedSubcommand);
                let remedy = suggested.map_or(usage, |word| format!("did you mean {word}?"));
                LineError::new(first, format!("there is no command '{}'", printable(&name)), remedy)
            }
            ErrorKind::MissingRequiredArgument => {
                let missing = said(error, ContextKind::InvalidArg).unwrap_or_default();
                LineError::new(end..end, format!("{missing} is missing"), usage)
            }
            ErrorKind::UnknownArgument => {
                let wrong = said(error, ContextKind::InvalidArg).unwrap_or_default();
                let shown = printable(&wrong);
                let (what, remedy) = match wrong.starts_with('-') {
                    true => (format!("there is no flag {shown}"), usage),
                    false => (
                        format!("'{shown}' is one word too many"),
                        format!("a value with blanks needs quotes; {usage}"),
                    ),
                };
                LineError::new(place(&wrong), what, remedy)
            }
            ErrorKind::ValueValidation => invalid(error, usage, place),
            ErrorKind::InvalidValue => {
                let wrong = said(error, ContextKind::InvalidValue).unwrap_or_default();
                let remedy = match said(error, ContextKind::ValidValue) {
                    Some(valid) => format!("one of {valid}"),
                    None => usage,
                };
                let what = match wrong.is_empty() {
                    true => "a value is missing".to_owned(),
                    false => format!("'{}' makes no sense here", printable(&wrong)),
                };
                let at = if wrong.is_empty() { end..end } else { place(&wrong) };
                LineError::new(at, what, remedy)
            }
            ErrorKind::ArgumentConflict => {
                let wrong = said(error, ContextKind::InvalidArg).unwrap_or_default();
                let flag = wrong.split(' ').next().unwrap_or_default();
                let other = said(error, ContextKind::PriorArg).unwrap_or_default();
                let what = match other == wrong {
                    true => format!("{wrong} is given twice"),
                    false => format!("{wrong} does not go with {other}"),
                };
                LineError::new(place(flag), what, usage)
            }
            _ => LineError::new(first, "this makes no sense", usage),
        }
    }
}

/// Converts the error of a value that its argument does not accept.
fn invalid(error: &clap::Error, usage: String, place: impl Fn(&str) -> Range<usize>) -> LineError {
    let wrong = said(error, ContextKind::InvalidValue).unwrap_or_default();
    let why = std::error::Error::source(error).map(ToString::to_string);
    let why = why.unwrap_or_else(|| format!("'{wrong}' makes no sense here"));
    let (what, remedy) = match why.split_once("; ") {
        Some((what, remedy)) => {
            // The most helpful remedy is last there, and must come first here.
            let parts: Vec<&str> = remedy.rsplit("; ").collect();
            (what.to_owned(), parts.join("; "))
        }
        None => (why, usage),
    };
    LineError::new(place(&wrong), printable(&what), printable(&remedy))
}

/// Returns a piece of context that clap gives with an error.
fn said(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => Some(texts.join(", ")),
        _ => None,
    }
}

/// Escapes text so that a terminal does not interpret it.
fn printable(text: &str) -> String {
    crate::output::preview(text.as_bytes())
}

/// How a command is written.
#[must_use]
pub fn usage(command: &clap::Command) -> String {
    let mut words = vec![command.get_name().to_owned()];
    for argument in command.get_positionals() {
        let names = argument.get_value_names().and_then(|names| names.first());
        let name =
            names.map_or_else(|| argument.get_id().as_str().to_uppercase(), ToString::to_string);
        words.push(if argument.is_required_set() { name } else { format!("[{name}]") });
    }
    for flag in command.get_opts().chain(command.get_arguments().filter(|a| is_switch(a))) {
        let value = flag.get_value_names().filter(|_| flag.get_action().takes_values());
        let value = value.and_then(|names| names.first()).map(|name| format!(" {name}"));
        let long = flag.get_long().unwrap_or_default();
        if long != "local-read" {
            words.push(format!("[--{long}{}]", value.unwrap_or_default()));
        }
    }
    words.join(" ")
}

fn is_switch(argument: &clap::Arg) -> bool {
    argument.get_long().is_some() && !argument.get_action().takes_values()
}

impl Command {
    /// Returns the nodes that the command names, each with its position in the line.
    #[must_use]
    pub fn nodes(&self) -> Vec<(&Node, Range<usize>)> {
        let named: Vec<&Node> = match &self.what {
            What::Verb(
                Verb::Put(crate::arguments::Put { node: Some(node), .. })
                | Verb::Get { node: Some(node), .. }
                | Verb::Delete { node: Some(node), .. }
                | Verb::Scan { node: Some(node), .. }
                | Verb::HandOver { node: Some(node), .. }
                | Verb::Kill { node, .. },
            )
            | What::View(View::Logs { node }) => vec![node],
            What::Verb(Verb::Cut { node, peer } | Verb::Heal { node, peer })
            | What::View(View::Connection { node, peer, .. }) => vec![node, peer],
            _ => Vec::new(),
        };
        let end = self.words.last().map_or(0, |word| word.at.end);
        let mut nodes: Vec<(&Node, Range<usize>)> = Vec::new();
        for node in named {
            // Equal words name one node each, in order.
            let taken = |at: &Range<usize>| nodes.iter().any(|(_, known)| known == at);
            let names = |word: &&Word| {
                let text = std::str::from_utf8(&word.bytes).ok();
                let is_it = text.and_then(|text| text.parse::<Node>().ok()).as_ref() == Some(node);
                is_it && !taken(&word.at)
            };
            // The command's own word is not a node; in a put or get the last match counts.
            let words = self.words.get(1..).unwrap_or_default();
            let is_pair = !matches!(self.what, What::Verb(Verb::Put(_) | Verb::Get { .. }));
            let found = match is_pair {
                true => words.iter().find(names),
                false => words.iter().rfind(names),
            };
            nodes.push((node, found.map_or(end..end, |word| word.at.clone())));
        }
        nodes
    }
}

#[cfg(test)]
mod tests;
