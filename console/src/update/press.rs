//! Pure: the effect of each key.

use clap::ValueEnum;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use kvorum_protocol::Condition;
use tui_input::InputRequest;

use super::{acts, commands};
use crate::app::dialog::{Act, Answer, Tier};
use crate::app::output::Verdict;
use crate::app::writes::ProbeState;
use crate::app::{App, Frozen, Haste, Page, Stage};
use crate::arguments::{DemoName, ThemeName};
use crate::keymap::{self, Intent, KeyPattern, Mode};
use crate::message::{Call, Destination, Effect, HowToKill};
use crate::output;
use crate::prompt::PaneName;
use crate::prompt::grammar::ReadMode;

/// The number of lines in a page, where the view's height does not matter.
const PAGE_LINES: isize = 10;

/// Handles a key press.
pub fn key(app: &mut App, event: &KeyEvent) -> Vec<Effect> {
    let meaning = keymap::meaning(Mode::Screen, app.focus, event);
    if meaning == Some(Intent::Suspend) {
        let is_meant = !app.settings.is_shared && app.haste != Haste::Burst;
        return if is_meant { vec![Effect::Suspend] } else { Vec::new() };
    }
    if event.modifiers.contains(KeyModifiers::ALT) {
        // Over a slow connection, an Esc and the key after it arrive together.
        let mut effects = key(app, &KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE));
        let rest = KeyEvent { modifiers: event.modifiers - KeyModifiers::ALT, ..*event };
        effects.extend(key(app, &rest));
        return effects;
    }
    let mode = app.mode();
    let intent = keymap::meaning(mode, app.focus, event);
    let character = match event.code {
        KeyCode::Char(character) if !event.modifiers.contains(KeyModifiers::CONTROL) => {
            Some(character)
        }
        _ => None,
    };
    let does_something =
        intent.is_some_and(Intent::acts_at_once) && !KeyPattern::Ctrl('c').is(event);
    if app.haste == Haste::Burst && does_something {
        return note(
            app,
            "the key came all at once with others, so nothing was done; press it alone",
        );
    }
    match mode {
        Mode::Connect if intent == Some(Intent::Context) => by_context(app, character),
        Mode::Dialog => in_dialog(app, intent, character),
        Mode::Prompt => in_prompt(app, intent, character),
        Mode::Text => intent.map_or(Vec::new(), |intent| in_text(app, intent)),
        Mode::Screen | Mode::Connect => intent.map_or(Vec::new(), |intent| on_screen(app, intent)),
    }
}

/// Attaches to the context that a digit stands for.
fn by_context(app: &mut App, digit: Option<char>) -> Vec<Effect> {
    let number = digit.and_then(|digit| digit.to_digit(10)).and_then(|n| usize::try_from(n).ok());
    let context = number.and_then(|number| app.settings.contexts.get(number.checked_sub(1)?));
    match context.cloned() {
        Some(context) => commands::attach_to(app, Destination::Context(context)),
        None => note(app, "the kubeconfig has no context of that number"),
    }
}

fn in_dialog(app: &mut App, intent: Option<Intent>, character: Option<char>) -> Vec<Effect> {
    let Some(mut dialog) = app.dialog.take() else { return Vec::new() };
    // The end of some other typed or pasted text is not an answer.
    let is_hasty = match dialog.tier {
        Tier::Yes => character == Some('y') && app.haste != Haste::None,
        Tier::Name => intent == Some(Intent::Send) && app.haste == Haste::Burst,
        Tier::Never => false,
    };
    let answer = match (intent, character) {
        _ if is_hasty => Answer::Stay,
        (Some(Intent::Back), _) => Answer::Cancel,
        (Some(Intent::Redraw), _) => {
            app.dialog = Some(dialog);
            return vec![Effect::Redraw];
        }
        (Some(Intent::Send), _) => dialog.entered(app.now),
        (Some(Intent::OtherWay), _) => {
            dialog.other_way(&app.cluster, app.last_gap_us());
            Answer::Stay
        }
        (Some(Intent::Erase), _) => {
            dialog.typed.pop();
            Answer::Stay
        }
        (_, Some(character)) => dialog.typed(character, app.now),
        _ => Answer::Stay,
    };
    match answer {
        Answer::Stay => app.dialog = Some(dialog),
        Answer::Cancel if dialog.tier == Tier::Never => {}
        Answer::Cancel => app.output.say(app.now, Verdict::Note, "nothing was done"),
        Answer::Act(act) => return acts::carry_out(app, act),
    }
    Vec::new()
}

fn in_prompt(app: &mut App, intent: Option<Intent>, character: Option<char>) -> Vec<Effect> {
    let edit = |request| Some(request);
    let request = match intent {
        Some(Intent::Send) if app.haste == Haste::Burst => {
            let note =
                "Enter came all at once with other keys, so nothing was sent; press it alone";
            app.output.say(app.now, Verdict::Note, note);
            None
        }
        Some(Intent::Send) => return commands::submit(app),
        Some(Intent::Back) => {
            app.prompt.close();
            None
        }
        Some(Intent::Interrupt) => {
            match app.prompt.line().is_empty() {
                true => app.prompt.close(),
                false => app.prompt.open(""),
            }
            None
        }
        Some(Intent::Redraw) => return vec![Effect::Redraw],
        Some(Intent::Complete) => {
            let known = app.known();
            app.prompt.complete(&known);
            None
        }
        Some(Intent::Earlier) => {
            app.prompt.earlier();
            None
        }
        Some(Intent::Later) => {
            app.prompt.later();
            None
        }
        Some(Intent::Right) if app.prompt.cursor() == app.prompt.line().chars().count() => {
            let known = app.known();
            app.prompt.complete(&known);
            None
        }
        Some(Intent::Left) => edit(InputRequest::GoToPrevChar),
        Some(Intent::Right) => edit(InputRequest::GoToNextChar),
        Some(Intent::WordLeft) => edit(InputRequest::GoToPrevWord),
        Some(Intent::WordRight) => edit(InputRequest::GoToNextWord),
        Some(Intent::LineStart) => edit(InputRequest::GoToStart),
        Some(Intent::LineEnd) => edit(InputRequest::GoToEnd),
        Some(Intent::Erase) => edit(InputRequest::DeletePrevChar),
        Some(Intent::EraseNext) => edit(InputRequest::DeleteNextChar),
        Some(Intent::EraseWord) => edit(InputRequest::DeletePrevWord),
        Some(Intent::EraseLine) => edit(InputRequest::DeleteLine),
        _ => character
            .filter(|_| app.prompt.line().len() < crate::prompt::grammar::LINE_BYTES_MAX)
            .map(InputRequest::InsertChar),
    };
    if let Some(request) = request {
        app.prompt.edit(request);
    }
    if app.prompt.is_open {
        commands::check(app);
    }
    Vec::new()
}

fn in_text(app: &mut App, intent: Intent) -> Vec<Effect> {
    match intent {
        Intent::Back => app.page = None,
        Intent::Copy => return copy_page(app),
        Intent::Redraw => return vec![Effect::Redraw],
        Intent::Top => app.scroll = 0,
        Intent::Bottom => app.scroll = usize::MAX / 2,
        intent => app.scroll = app.scroll.saturating_add_signed(steps(intent)),
    }
    Vec::new()
}

fn copy_page(app: &App) -> Vec<Effect> {
    match &app.page {
        Some(page) => vec![Effect::Copy(crate::page::lines(app, page).join("\n"))],
        None => Vec::new(),
    }
}

/// Returns the number of lines that a key moves.
fn steps(intent: Intent) -> isize {
    match intent {
        Intent::Up => -1,
        Intent::Down => 1,
        Intent::PageUp => -PAGE_LINES,
        Intent::PageDown => PAGE_LINES,
        _ => 0,
    }
}

fn on_screen(app: &mut App, intent: Intent) -> Vec<Effect> {
    match intent {
        Intent::OpenPrompt => open(app, ""),
        Intent::OpenFilter => open(app, "filter "),
        Intent::Put => open(app, "put "),
        Intent::ScaleTo => open(app, "scale "),
        Intent::AttachTo => open(app, "attach "),
        Intent::Picture => open(app, "picture kvorum.svg"),
        Intent::Cut => open_with_node(app, "cut"),
        Intent::Heal => open_with_node(app, "heal"),
        Intent::Help => commands::show(app, Page::Help),
        Intent::Errors => commands::show(app, Page::Errors),
        Intent::Redraw => vec![Effect::Redraw],
        Intent::Quit => back_or_quit(app),
        Intent::Back => {
            back(app);
            Vec::new()
        }
        Intent::StartLocal => commands::attach_to(app, Destination::StartLocal),
        Intent::Retry => commands::attach_to(app, Destination::Given),
        Intent::Zoom | Intent::Freeze | Intent::NextPane | Intent::PreviousPane => {
            arrange(app, intent);
            Vec::new()
        }
        Intent::Pane(pane) => {
            commands::go_to(app, pane);
            Vec::new()
        }
        Intent::Theme => {
            app.settings.theme = next_theme(app.settings.theme);
            vec![Effect::Redraw]
        }
        Intent::ReadMode => {
            app.settings.read = match app.settings.read {
                ReadMode::Linearizable => ReadMode::Local,
                ReadMode::Local => ReadMode::Linearizable,
            };
            app.keys.is_loaded = false;
            app.output.say(app.now, Verdict::Note, commands::read_mode(app.settings.read));
            Vec::new()
        }
        intent => act(app, intent),
    }
}

fn open(app: &mut App, line: &str) -> Vec<Effect> {
    app.prompt.open(line);
    commands::check(app);
    Vec::new()
}

fn open_with_node(app: &mut App, verb: &str) -> Vec<Effect> {
    let node = app.node().map(crate::app::cluster::Node::short).unwrap_or_default();
    open(app, &format!("{verb} {node} "))
}

/// Carries out the acts on the cluster and on the selection, with a question where needed.
fn act(app: &mut App, intent: Intent) -> Vec<Effect> {
    let count = u32::try_from(app.cluster.wanted()).unwrap_or(u32::MAX);
    match intent {
        Intent::Kill => match app.node().map(|node| node.name.clone()) {
            Some(node) => {
                let call = Call::Kill { node, how: HowToKill::Now };
                acts::ask(app, Act::Call(call), false)
            }
            None => note(app, "no node is known yet"),
        },
        Intent::ScaleUp => commands::scale(app, count.saturating_add(1), false),
        Intent::ScaleDown => commands::scale(app, count.saturating_sub(1).max(1), false),
        Intent::HandOver => match app.node().map(|node| node.name.clone()) {
            // If the leader is selected, no target was chosen.
            Some(node) if app.cluster.leader() == Some(node.as_str()) => {
                commands::hand_over(app, None, false)
            }
            node => commands::hand_over(app, node, false),
        },
        Intent::HealAll => acts::heal_all(app),
        Intent::Probe => {
            let on = app.writes.state != ProbeState::On;
            acts::probe(app, on)
        }
        Intent::Demo => acts::ask(app, Act::Demo(DemoName::Failover), false),
        Intent::Undo => acts::undo(app),
        Intent::Logs => match app.node().map(|node| node.name.clone()) {
            Some(node) => commands::logs(app, node),
            None => note(app, "no node is known yet"),
        },
        Intent::Follow => {
            match app.log.follows() {
                true => app.log.freeze(),
                false => app.log.follow(),
            }
            Vec::new()
        }
        Intent::Inspect | Intent::Edit | Intent::Delete => on_key(app, intent),
        Intent::Copy | Intent::CopyJson => copy(app, intent == Intent::CopyJson),
        intent => {
            travel(app, intent);
            Vec::new()
        }
    }
}

fn note(app: &mut App, text: &str) -> Vec<Effect> {
    app.output.say(app.now, Verdict::Note, text);
    Vec::new()
}

fn on_key(app: &mut App, intent: Intent) -> Vec<Effect> {
    let key = match app.focus {
        PaneName::Log => app.log.window(1).first().and_then(|entry| entry.key.clone()),
        _ => app.keys.selection().map(|row| row.key.clone()),
    };
    let Some(key) = key else { return note(app, "no key is selected") };
    match intent {
        Intent::Inspect => commands::inspect(app, key),
        Intent::Edit => commands::edit(app, key),
        _ => {
            let (condition, node) = (Condition::Always, None);
            acts::ask(app, Act::Call(Call::Delete { key, condition, node }), false)
        }
    }
}

/// Moves in the focused pane.
fn travel(app: &mut App, intent: Intent) {
    let by = steps(intent);
    match app.focus {
        PaneName::Nodes => select_node(app, intent),
        PaneName::Log => match intent {
            Intent::Top => app.log.to_top(),
            Intent::Bottom => app.log.follow(),
            _ => app.log.scroll(by),
        },
        PaneName::Keys => travel_keys(app, intent, by),
        PaneName::Writes => {}
        PaneName::Events | PaneName::Output => match intent {
            Intent::Top => app.scroll = usize::MAX / 2,
            Intent::Bottom => app.scroll = 0,
            // The newest line is at the end; up goes back in time.
            _ => app.scroll = app.scroll.saturating_add_signed(-by),
        },
    }
}

fn select_node(app: &mut App, intent: Intent) {
    let names = app.cluster.names();
    let Some(last) = names.len().checked_sub(1) else { return };
    let current = app.node().map(|node| node.name.clone());
    let at = names.iter().position(|name| Some(name) == current.as_ref()).unwrap_or(0);
    let at = match intent {
        Intent::Top => 0,
        Intent::Bottom => last,
        intent => at.saturating_add_signed(steps(intent)).min(last),
    };
    app.selected = Some(names[at].clone());
}

fn travel_keys(app: &mut App, intent: Intent, by: isize) {
    if let Some(open) = &mut app.keys.inspected {
        open.scroll = match intent {
            Intent::Top => 0,
            Intent::Bottom => usize::MAX / 2,
            _ => open.scroll.saturating_add_signed(by),
        };
        return;
    }
    let turned = match intent {
        Intent::Top => {
            app.keys.turn_to_first();
            true
        }
        Intent::Bottom => {
            app.keys.selected = app.keys.rows.len().saturating_sub(1);
            false
        }
        _ if app.keys.step(by) => false,
        _ if by > 0 => app.keys.turn_on(),
        _ => app.keys.turn_back(),
    };
    if turned {
        app.keys.is_loaded = false;
        app.keys.loading = None;
    }
}

/// Changes the layout of the panes.
fn arrange(app: &mut App, intent: Intent) {
    let order = PaneName::value_variants();
    let at = order.iter().position(|pane| *pane == app.focus).unwrap_or(0);
    match intent {
        Intent::Zoom => app.zoomed = !app.zoomed,
        Intent::NextPane => commands::go_to(app, order[(at + 1) % order.len()]),
        Intent::PreviousPane => commands::go_to(app, order[(at + order.len() - 1) % order.len()]),
        _ if app.frozen.is_some() => {
            app.frozen = None;
            app.log.follow();
        }
        _ => {
            app.log.freeze();
            app.frozen = Some(Box::new(Frozen {
                at: app.now,
                cluster: app.cluster.clone(),
                writes: app.writes.clone(),
                failover: app.failover.clone(),
            }));
        }
    }
}

/// Goes one step back; returns whether there was one.
fn back(app: &mut App) -> bool {
    if app.keys.inspected.take().is_some() {
        return true;
    }
    let filtered = match app.focus {
        PaneName::Keys => !app.keys.prefix.is_empty(),
        PaneName::Log => !app.log.filter.text.is_empty(),
        PaneName::Events => !app.events_filter.text.is_empty(),
        _ => false,
    };
    if filtered {
        match app.focus {
            PaneName::Keys => app.keys.set_prefix(b""),
            PaneName::Log => app.log.set_filter(""),
            _ => app.events_filter = crate::app::log::Filter::default(),
        }
        return true;
    }
    if app.frozen.take().is_some() {
        app.log.follow();
        return true;
    }
    if app.zoomed {
        app.zoomed = false;
        return true;
    }
    if app.focus != PaneName::Nodes {
        commands::go_to(app, PaneName::Nodes);
        return true;
    }
    app.selected.take().is_some()
}

fn back_or_quit(app: &mut App) -> Vec<Effect> {
    let may_go_back = app.keys.inspected.is_some() || app.zoomed || app.focus == PaneName::Keys;
    if may_go_back && !matches!(app.stage, Stage::Detached { .. }) && back(app) {
        return Vec::new();
    }
    commands::quit(app)
}

fn next_theme(theme: ThemeName) -> ThemeName {
    match theme {
        ThemeName::Auto => ThemeName::Dark,
        ThemeName::Dark => ThemeName::Light,
        ThemeName::Light => ThemeName::Mono,
        ThemeName::Mono => ThemeName::Auto,
    }
}

/// Copies the selection.
fn copy(app: &mut App, as_json: bool) -> Vec<Effect> {
    let text = match app.focus {
        PaneName::Keys => app.keys.selection().map(|row| match as_json {
            true => serde_json::json!({
                "key": String::from_utf8_lossy(&row.key.0), "revision": row.revision,
            })
            .to_string(),
            false => output::shown(&row.key.0),
        }),
        PaneName::Log => app.log.window(1).first().map(|entry| match as_json {
            true => output::entry_json(entry).to_string(),
            false => output::entry_line(entry),
        }),
        PaneName::Nodes | PaneName::Writes => {
            app.node().map(|node| match (&node.status, as_json) {
                (Some(status), true) => output::status_json(&node.name, Ok(status)).to_string(),
                _ => node.name.clone(),
            })
        }
        PaneName::Events => app.output.events.back().map(|happening| match as_json {
            true => serde_json::to_string(happening).unwrap_or_default(),
            false => happening.text.clone(),
        }),
        PaneName::Output => app.output.lines.back().map(|line| line.text.clone()),
    };
    let Some(text) = text else { return note(app, "there is nothing to copy") };
    if app.settings.is_shared && !std::mem::replace(&mut app.may_copy, true) {
        return note(
            app,
            "what is copied goes to all viewers and the pod's log; once more copies it",
        );
    }
    app.output.say(app.now, Verdict::Note, format!("copied {}", output::preview(text.as_bytes())));
    vec![Effect::Copy(text)]
}
