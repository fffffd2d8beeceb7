//! Pure: the execution of prompt lines.
//!
//! Guarantees that a wrong line does nothing and is not lost, and that the commands of one line are
//! carried out one after the other.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use kvorum_protocol::data::validate_key;
use kvorum_protocol::limits::VALUE_BYTES_MAX;
use kvorum_protocol::message::Consistency;
use kvorum_protocol::{Condition, Key};

use super::acts;
use crate::app::cluster::short;
use crate::app::dialog::{Act, Answer};
use crate::app::lines::Line;
use crate::app::output::Verdict;
use crate::app::{App, Page, Purpose, Stage};
use crate::arguments::{Put, Verb};
use crate::exit::Failure;
use crate::message::{Call, Destination, Effect, HowToKill, Source};
use crate::node::Node;
use crate::prompt::grammar::{ReadMode, Scenario, Switch};
use crate::prompt::{Command, LineError, PaneName, View, What};
use crate::value::key_of;

/// The refusal of a command whose question was not answered.
const UNANSWERED: &str = "nothing was done: the question was not answered; answer it in the next \
                          line, or add --yes where that is enough";
/// The most characters of a line that a refusal repeats.
const SHOWN_CHARACTERS: usize = 200;
/// The maximum number of lines in progress.
const LINES_MAX: usize = 16;

/// Checks the prompt's line, the cluster included, and notes its error.
pub fn check(app: &mut App) {
    let read = app.prompt.read();
    app.prompt.wrong = read.and_then(|commands| check_nodes(app, &commands)).err();
}

/// Checks that the nodes named by commands exist.
fn check_nodes(app: &App, commands: &[Command]) -> Result<(), LineError> {
    // Without a cluster the nodes are unknown.
    if app.cluster.count() == 0 {
        return Ok(());
    }
    for (node, at) in commands.iter().flat_map(Command::nodes) {
        resolve(app, node).map_err(|why| {
            let (what, remedy) = why.split_once("; ").unwrap_or((&why, "try again"));
            LineError { at, what: what.to_owned(), remedy: remedy.to_owned() }
        })?;
    }
    Ok(())
}

/// Resolves a node to a replica's name; `None` for any.
fn resolve(app: &App, node: &Node) -> Result<Option<String>, String> {
    let names = app.cluster.names();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    node.resolve_among(&names, app.cluster.leader())
}

/// Carries out the prompt's line, unless it contains an error.
pub fn submit(app: &mut App) -> Vec<Effect> {
    check(app);
    if app.prompt.wrong.is_some() {
        return Vec::new();
    }
    let line = app.prompt.take();
    begin(app, &line)
}

/// Handles a line where there is no screen: an answer, or commands.
pub fn entered(app: &mut App, line: &str) -> Vec<Effect> {
    if let Some(mut dialog) = app.dialog.take() {
        dialog.is_read();
        let word = line.trim();
        let answer = match word {
            "y" | "Y" | "yes" if dialog.tier == crate::app::dialog::Tier::Yes => {
                dialog.typed('y', app.now)
            }
            _ => {
                word.clone_into(&mut dialog.typed);
                dialog.entered(app.now)
            }
        };
        return match answer {
            Answer::Act(act) => acts::carry_out(app, act),
            Answer::Stay | Answer::Cancel if matches!(word, "" | "n" | "N" | "no") => {
                app.output.say(app.now, Verdict::Note, "nothing was done");
                Vec::new()
            }
            // No answer to the question: a command of its own.
            Answer::Stay | Answer::Cancel => {
                app.output.say(app.now, Verdict::Refused, UNANSWERED);
                begin(app, line)
            }
        };
    }
    begin(app, line)
}

/// Refuses a question that is open when the input ends.
pub fn unanswered(app: &mut App) {
    if app.dialog.take().is_some() {
        app.output.say(app.now, Verdict::Refused, UNANSWERED);
    }
}

/// Returns a line as it is shown in a refusal: its beginning, if it is long.
fn brief(line: &str) -> String {
    match line.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

fn begin(app: &mut App, line: &str) -> Vec<Effect> {
    let read = app.prompt.grammar.read(line);
    let read = read.and_then(|commands| check_nodes(app, &commands).map(|()| commands));
    match read {
        Err(error) => {
            app.output.say(app.now, Verdict::Refused, format!("{}: {error}", brief(line)));
        }
        Ok(_) if app.lines.len() >= LINES_MAX => {
            let why = format!("{LINES_MAX} lines are under way already");
            app.output.say(app.now, Verdict::Refused, format!("{}: {why}", brief(line)));
        }
        Ok(commands) => {
            app.lines.push(Line { commands: commands.into(), waits_for: None });
        }
    }
    go_on(app)
}

/// Continues every line whose last call has finished.
pub(super) fn go_on(app: &mut App) -> Vec<Effect> {
    let mut effects = Vec::new();
    let mut lines = std::mem::take(&mut app.lines);
    for line in &mut lines {
        while line.waits_for.is_none_or(|call| !app.calls.contains_key(&call))
            && app.dialog.is_none()
        {
            let Some(command) = line.commands.pop_front() else { break };
            let done = run(app, command);
            line.waits_for = done.iter().rev().find_map(|effect| match effect {
                Effect::Call { id, .. } => Some(*id),
                _ => None,
            });
            effects.extend(done);
        }
    }
    lines.retain(|line| !line.commands.is_empty());
    // Lines that a command began meanwhile come after them.
    lines.append(&mut app.lines);
    app.lines = lines;
    effects
}

fn run(app: &mut App, command: Command) -> Vec<Effect> {
    let local_read = command.local_read;
    match command.what {
        What::Verb(verb) => run_verb(app, verb, local_read),
        What::View(view) => run_view(app, view),
    }
}

/// Resolves a node that was checked when the line was read, as it may have gone since.
fn node_of(app: &mut App, node: Option<&Node>) -> Result<Option<String>, ()> {
    let Some(node) = node else { return Ok(None) };
    resolve(app, node).map_err(|why| app.output.say(app.now, Verdict::Refused, why))
}

fn some_node(app: &mut App, node: &Node) -> Result<String, ()> {
    node_of(app, Some(node))?.ok_or_else(|| {
        app.output.say(app.now, Verdict::Refused, "'any' is no particular node; name one");
    })
}

fn run_verb(app: &mut App, verb: Verb, local_read: bool) -> Vec<Effect> {
    try_verb(app, verb, local_read).unwrap_or_default()
}

/// Carries out a verb; an error has already been reported.
fn try_verb(app: &mut App, verb: Verb, local_read: bool) -> Result<Vec<Effect>, ()> {
    let consistency = if local_read { Consistency::Local } else { app.consistency() };
    Ok(match verb {
        Verb::Put(put) => run_put(app, &put)?,
        Verb::Get { key, node } => {
            let key = valid_key(app, key_of(&key))?;
            // A read goes to the leader anyway.
            let node = node.filter(|node| *node != Node::Leader || local_read);
            let node = node_of(app, node.as_ref())?;
            acts::call_and_say(app, Call::Get { key, consistency, node })
        }
        Verb::Delete { key, node, if_revision, yes } => {
            let key = valid_key(app, key_of(&key))?;
            let node = node_of(app, node.as_ref().filter(|node| **node != Node::Leader))?;
            let condition = if_revision.map_or(Condition::Always, Condition::AtRevision);
            acts::ask(app, Act::Call(Call::Delete { key, condition, node }), yes)
        }
        Verb::Scan { prefix, .. } => {
            app.keys.set_prefix(prefix.as_bytes());
            go_to(app, PaneName::Keys);
            Vec::new()
        }
        Verb::Status => {
            for node in app.cluster.nodes() {
                let state = crate::text::state_word(node.state());
                let lag = app.cluster.lag(node).unwrap_or(0);
                let text = format!("{} {} {state}, lag {lag}", node.short(), node.name);
                app.output.say(app.now, Verdict::Note, text);
            }
            go_to(app, PaneName::Nodes);
            Vec::new()
        }
        Verb::Log { .. } => {
            app.log.follow();
            go_to(app, PaneName::Log);
            Vec::new()
        }
        Verb::Watch { prefix, .. } => {
            app.log.set_filter(&String::from_utf8_lossy(prefix.as_bytes()));
            app.log.follow();
            go_to(app, PaneName::Log);
            Vec::new()
        }
        Verb::Kill { node, graceful, force, yes } => {
            let node = some_node(app, &node)?;
            let how = HowToKill::of(graceful, force);
            acts::ask(app, Act::Call(Call::Kill { node, how }), yes)
        }
        Verb::Scale { replicas, yes } => scale(app, replicas, yes),
        Verb::HandOver { node, yes } => {
            let to = node_of(app, node.as_ref())?;
            hand_over(app, to, yes)
        }
        Verb::Cut { node, peer } => {
            let (node, peer) = (some_node(app, &node)?, some_node(app, &peer)?);
            cut(app, node, peer)
        }
        Verb::Heal { node, peer } => {
            let (node, peer) = (some_node(app, &node)?, some_node(app, &peer)?);
            acts::call_and_say(app, Call::Heal { node, peer })
        }
    })
}

fn valid_key(app: &mut App, key: Key) -> Result<Key, ()> {
    match validate_key(&key) {
        Ok(()) => Ok(key),
        Err(limit) => {
            app.output.say(app.now, Verdict::Refused, limit.to_string());
            Err(())
        }
    }
}

fn run_put(app: &mut App, put: &Put) -> Result<Vec<Effect>, ()> {
    let key = valid_key(app, key_of(&put.key))?;
    let value = Source::of(&put.value);
    if value == Source::StandardInput {
        let why = "a console has no standard input to read; put KEY @FILE reads a file";
        app.output.say(app.now, Verdict::Refused, why);
        return Err(());
    }
    if let Source::Bytes(bytes) = &value
        && bytes.len() > VALUE_BYTES_MAX
    {
        let why = format!("the value has {} bytes; at most {VALUE_BYTES_MAX}", bytes.len());
        app.output.say(app.now, Verdict::Refused, why);
        return Err(());
    }
    let node = node_of(app, put.node.as_ref().filter(|node| **node != Node::Leader))?;
    Ok(acts::call_and_say(app, Call::Put { key, value, condition: put.condition(), node }))
}

pub(super) fn scale(app: &mut App, replicas: u32, yes: bool) -> Vec<Effect> {
    if usize::try_from(replicas) == Ok(app.cluster.wanted()) {
        app.output.say(app.now, Verdict::Note, format!("{replicas} replicas are wanted already"));
        return Vec::new();
    }
    acts::ask(app, Act::Call(Call::Scale { replicas }), yes)
}

pub(super) fn hand_over(app: &mut App, to: Option<String>, yes: bool) -> Vec<Effect> {
    let Some(from) = app.cluster.leader().map(str::to_owned) else {
        app.output.say(app.now, Verdict::Refused, "no leader is known now; try again");
        return Vec::new();
    };
    if to.as_ref() == Some(&from) {
        app.output.say(app.now, Verdict::Note, format!("{} leads already", short(&from)));
        return Vec::new();
    }
    acts::ask(app, Act::Call(Call::HandOver { from, to }), yes)
}

fn cut(app: &mut App, node: String, peer: String) -> Vec<Effect> {
    if node == peer {
        app.output.say(app.now, Verdict::Refused, "a link has two ends; name two nodes");
        return Vec::new();
    }
    acts::ask(app, Act::Call(Call::Cut { node, peer }), false)
}

/// Gives a pane the focus, and the whole screen if it would not be visible otherwise.
pub(super) fn go_to(app: &mut App, pane: PaneName) {
    app.focus = pane;
    app.page = None;
    app.scroll = 0;
}

fn run_view(app: &mut App, view: View) -> Vec<Effect> {
    match view {
        View::Undo => acts::undo(app),
        View::Edit { key } => edit(app, key_of(&key)),
        View::Inspect { key } => inspect(app, key_of(&key)),
        View::Batch { count } => acts::call_and_say(app, Call::Batch { count }),
        View::Probe { switch } => acts::probe(app, switch == Switch::On),
        View::Logs { node } => match some_node(app, &node) {
            Ok(node) => logs(app, node),
            Err(()) => Vec::new(),
        },
        View::Connection { node, peer, up } => {
            let verb = if up { Verb::Heal { node, peer } } else { Verb::Cut { node, peer } };
            run_verb(app, verb, false)
        }
        View::Scenario { name: Scenario::Restore } => acts::heal_all(app),
        View::Scenario { name } => match acts::scenario(app, name) {
            Ok(cuts) => {
                let name = format!("{name:?}").to_lowercase();
                acts::ask(app, Act::Cuts { name, cuts }, false)
            }
            Err(why) => say(app, Verdict::Refused, &why),
        },
        View::Demo { name } => acts::ask(app, Act::Demo(name), false),
        View::Filter { text } => filter(app, &text),
        View::Read { mode } => {
            app.settings.read = mode;
            app.keys.is_loaded = false;
            say(app, Verdict::Note, read_mode(mode))
        }
        View::Theme { name } => {
            app.settings.theme = name;
            vec![Effect::Redraw]
        }
        View::Confirm { switch } => {
            app.settings.confirm = switch == Switch::On;
            say(
                app,
                Verdict::Note,
                match switch {
                    Switch::On => "every act is asked about",
                    Switch::Off => "acts that keep the quorum are no longer asked about",
                },
            )
        }
        View::Pane { name } => {
            go_to(app, name);
            Vec::new()
        }
        View::Attach { addresses } => attach(app, &addresses),
        View::Local => attach_to(app, Destination::StartLocal),
        View::Picture { file } => {
            let id = app.begin(format!("picture {file}"), Purpose::Say { key: None });
            vec![Effect::Picture { id, path: file }]
        }
        View::Help => show(app, Page::Help),
        View::Errors => show(app, Page::Errors),
        View::Clear => {
            app.output.clear();
            Vec::new()
        }
        View::Redraw => vec![Effect::Redraw],
        View::Quit => quit(app),
        View::QuitForAll => {
            app.is_quitting = true;
            vec![Effect::Quit]
        }
    }
}

fn say(app: &mut App, verdict: Verdict, text: &str) -> Vec<Effect> {
    app.output.say(app.now, verdict, text);
    Vec::new()
}

/// Describes in words how reads are done.
#[must_use]
pub fn read_mode(mode: ReadMode) -> &'static str {
    match mode {
        ReadMode::Linearizable => "reads are linearizable: a majority confirms them",
        ReadMode::Local => "reads are LOCAL: what a replica has, which may be stale",
    }
}

/// The note on how to leave a shared console, which no key ends.
const HOW_TO_DETACH: &str = "this console goes on for everybody: detach with Ctrl-P Ctrl-Q \
     (kubectl 1.36 or newer), or close the window; ':quit!' ends it, and its pod starts it again";

pub(super) fn quit(app: &mut App) -> Vec<Effect> {
    if app.settings.is_shared {
        app.output.say(app.now, Verdict::Note, HOW_TO_DETACH);
        return Vec::new();
    }
    app.is_quitting = true;
    vec![Effect::Quit]
}

pub(super) fn show(app: &mut App, page: Page) -> Vec<Effect> {
    app.page = Some(page);
    app.scroll = 0;
    Vec::new()
}

pub(super) fn logs(app: &mut App, node: String) -> Vec<Effect> {
    if let Some(why) = app.place().and_then(|place| place.no_logs.clone()) {
        return say(app, Verdict::Note, &format!("logs {node}: {why}"));
    }
    let effects = acts::call(app, Call::Logs { node: node.clone() }, Purpose::Logs);
    if !effects.is_empty() {
        show(app, Page::Logs { node, lines: None });
    }
    effects
}

pub(super) fn inspect(app: &mut App, key: Key) -> Vec<Effect> {
    let Ok(key) = valid_key(app, key) else { return Vec::new() };
    let nodes = app.cluster.names();
    let call = Call::Inspect { key: key.clone(), nodes };
    let (effects, id) = acts::call_as(app, call, Purpose::Inspect);
    if let Some(call) = id {
        go_to(app, PaneName::Keys);
        app.keys.inspected =
            Some(crate::app::keys::Inspected { key, found: None, call, scroll: 0 });
    }
    effects
}

pub(super) fn edit(app: &mut App, key: Key) -> Vec<Effect> {
    let Ok(key) = valid_key(app, key) else { return Vec::new() };
    let consistency = Consistency::Linearizable;
    let call = Call::Get { key: key.clone(), consistency, node: None };
    acts::call(app, call, Purpose::Edit { key })
}

fn filter(app: &mut App, text: &OsString) -> Vec<Effect> {
    let shown = String::from_utf8_lossy(text.as_bytes()).into_owned();
    match app.focus {
        PaneName::Keys => app.keys.set_prefix(text.as_bytes()),
        PaneName::Events => app.events_filter = crate::app::log::Filter { text: shown },
        _ => {
            app.focus = PaneName::Log;
            app.log.set_filter(&shown);
        }
    }
    app.scroll = 0;
    Vec::new()
}

fn attach(app: &mut App, addresses: &str) -> Vec<Effect> {
    let addresses: Vec<String> =
        addresses.split(',').map(str::trim).filter(|a| !a.is_empty()).map(str::to_owned).collect();
    match addresses.iter().find(|address| !crate::target::is_address(address)) {
        Some(wrong) => say(app, Verdict::Refused, &format!("'{wrong}' is not HOST:PORT")),
        None if addresses.is_empty() => say(app, Verdict::Refused, "name at least one HOST:PORT"),
        None => attach_to(app, Destination::Endpoints(addresses)),
    }
}

pub(super) fn attach_to(app: &mut App, destination: Destination) -> Vec<Effect> {
    if app.place().is_some_and(|place| place.is_own) {
        let why = "the cluster of this console would end with it; quit first";
        return say(app, Verdict::Refused, why);
    }
    app.stage = Stage::Attaching;
    app.tried = None;
    app.destination = destination.clone();
    vec![Effect::Attach(destination)]
}

/// Returns why the console could not attach, for a console without a screen.
#[must_use]
pub fn why_detached(app: &App) -> Option<&Failure> {
    match &app.stage {
        Stage::Detached { why } => Some(why),
        _ => None,
    }
}
