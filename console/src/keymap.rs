//! Pure: the console's key bindings, in one table.
//!
//! The table feeds dispatch, the hint line, the help page and the readme, so they cannot disagree.
//! These keys are left out on purpose, because terminals, multiplexers and `kubectl attach` take
//! them: Ctrl-P, Ctrl-Q, Ctrl-S, Ctrl-\, Ctrl-H, Ctrl-A, Ctrl-B, and everything with Alt. Ctrl-Z is
//! left out where viewers share the console: no viewer can stop it for the others.
//! Guarantees that a key has one meaning in one place. Does not know what an intent does.

use std::fmt::Write;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::prompt::PaneName;

/// The place where a key is pressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// On the screen with its panes.
    Screen,
    /// In the prompt.
    Prompt,
    /// In a dialog.
    Dialog,
    /// On a page of text: help, errors, a log file.
    Text,
    /// On the page that is shown while no cluster is attached.
    Connect,
}

/// The meaning of a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[expect(missing_docs, reason = "the table says what each is for")]
pub enum Intent {
    Context,
    OpenPrompt,
    OpenFilter,
    Help,
    Errors,
    Back,
    Quit,
    Interrupt,
    NextPane,
    PreviousPane,
    Pane(PaneName),
    Up,
    Down,
    PageUp,
    PageDown,
    Top,
    Bottom,
    Zoom,
    Freeze,
    Follow,
    Inspect,
    Put,
    Edit,
    Delete,
    Undo,
    Kill,
    ScaleUp,
    ScaleDown,
    ScaleTo,
    HandOver,
    Cut,
    Heal,
    HealAll,
    Probe,
    Demo,
    Logs,
    ReadMode,
    Copy,
    CopyJson,
    Theme,
    Picture,
    Retry,
    Redraw,
    Suspend,
    StartLocal,
    AttachTo,
    Send,
    Complete,
    Earlier,
    Later,
    Left,
    Right,
    WordLeft,
    WordRight,
    LineStart,
    LineEnd,
    Erase,
    EraseNext,
    EraseWord,
    EraseLine,
    Yes,
    No,
    OtherWay,
}

impl Intent {
    /// Whether the intent takes effect at once, beyond what is on the screen.
    #[must_use]
    pub fn acts_at_once(self) -> bool {
        use Intent::{Context, Copy, CopyJson, HealAll, Probe, Quit, StartLocal};
        matches!(self, Context | Copy | CopyJson | HealAll | Probe | Quit | StartLocal)
    }
}

/// One line of the table.
#[derive(Debug)]
pub struct Binding {
    /// The mode in which it applies.
    pub mode: Mode,
    /// The pane that must have the focus; `None` for every pane.
    pub pane: Option<PaneName>,
    /// The keys.
    pub keys: &'static [KeyPattern],
    /// The meaning of the keys.
    pub intent: Intent,
    /// A description of the intent, for the help page.
    pub text: &'static str,
    /// The same in a word, for the hint line; empty to leave it out there.
    pub hint: &'static str,
}

/// A key that is pressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyPattern {
    /// A character, with Shift already applied to it.
    Char(char),
    /// A character with Ctrl.
    Ctrl(char),
    /// Another key.
    Code(KeyCode),
    /// Another key with Ctrl.
    CtrlCode(KeyCode),
}

impl KeyPattern {
    /// Whether a key event is this key.
    #[must_use]
    pub fn is(self, event: &KeyEvent) -> bool {
        let has_ctrl = event.modifiers.contains(KeyModifiers::CONTROL);
        match (self, event.code) {
            (Self::Char(wanted), KeyCode::Char(typed)) => wanted == typed && !has_ctrl,
            (Self::Ctrl(wanted), KeyCode::Char(typed)) => {
                wanted == typed.to_ascii_lowercase() && has_ctrl
            }
            (Self::Code(wanted), typed) => wanted == typed && !has_ctrl,
            (Self::CtrlCode(wanted), typed) => wanted == typed && has_ctrl,
            _ => false,
        }
    }
}

impl std::fmt::Display for KeyPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Char(' ') => f.write_str("Space"),
            Self::Char(character) => write!(f, "{character}"),
            Self::Ctrl(character) => write!(f, "Ctrl-{}", character.to_ascii_uppercase()),
            Self::CtrlCode(code) => write!(f, "Ctrl-{}", Self::Code(*code)),
            Self::Code(code) => f.write_str(match code {
                KeyCode::Up => "Up",
                KeyCode::Down => "Down",
                KeyCode::Left => "Left",
                KeyCode::Right => "Right",
                KeyCode::Enter => "Enter",
                KeyCode::Esc => "Esc",
                KeyCode::Tab => "Tab",
                KeyCode::BackTab => "Shift-Tab",
                KeyCode::PageUp => "PgUp",
                KeyCode::PageDown => "PgDn",
                KeyCode::Home => "Home",
                KeyCode::End => "End",
                KeyCode::Backspace => "Backspace",
                KeyCode::Delete => "Del",
                _ => "?",
            }),
        }
    }
}

const fn on(
    mode: Mode,
    pane: Option<PaneName>,
    keys: &'static [KeyPattern],
    intent: Intent,
    text: &'static str,
    hint: &'static str,
) -> Binding {
    Binding { mode, pane, keys, intent, text, hint }
}

use Intent as I;
use KeyCode::{BackTab, Backspace, End, Enter, Esc, Home, PageDown, PageUp, Tab};
use KeyPattern::{Char, Code, Ctrl, CtrlCode};
use Mode::{Connect, Dialog, Prompt, Screen, Text};
use PaneName::{Events, Keys, Log, Nodes, Output, Writes};

/// The keys that choose a context.
const CONTEXTS: &[KeyPattern] = &[
    Char('1'),
    Char('2'),
    Char('3'),
    Char('4'),
    Char('5'),
    Char('6'),
    Char('7'),
    Char('8'),
    Char('9'),
];

/// The table. A binding for one pane takes precedence over one for every pane.
pub const TABLE: &[Binding] = &[
    on(Screen, Some(Nodes), &[Char('x'), Ctrl('k')], I::Kill, "kill the selected node", "kill"),
    on(Screen, Some(Nodes), &[Char('L')], I::HandOver, "let the selected node lead", "lead"),
    on(Screen, Some(Nodes), &[Char('l'), Code(Enter)], I::Logs, "the node's log file", "its log"),
    on(Screen, Some(Log), &[Char('f')], I::Follow, "follow the log, or stand still", "follow"),
    on(Screen, Some(Log), &[Code(Enter)], I::Inspect, "look at the entry's key", ""),
    on(Screen, Some(Keys), &[Code(Enter)], I::Inspect, "look at the selected key", "inspect"),
    on(Screen, Some(Keys), &[Char('e')], I::Edit, "edit the selected key's value", "edit"),
    on(Screen, Some(Keys), &[Char('d'), Ctrl('d')], I::Delete, "delete the selected key", "delete"),
    on(Screen, None, &[Char(':')], I::OpenPrompt, "type a command", "command"),
    on(Screen, None, &[Char('p')], I::Put, "put a key", "put"),
    on(Screen, None, &[Char('u')], I::Undo, "take the last put or delete back", ""),
    on(Screen, None, &[Char('x'), Ctrl('k')], I::Kill, "kill the selected node", ""),
    on(Screen, None, &[Char('+')], I::ScaleUp, "one replica more", "- s scale"),
    on(Screen, None, &[Char('-')], I::ScaleDown, "one replica fewer", ""),
    on(Screen, None, &[Char('s')], I::ScaleTo, "scale to a number", ""),
    on(Screen, None, &[Char('c')], I::Cut, "cut a link", ""),
    on(Screen, None, &[Char('h')], I::Heal, "heal a link", ""),
    on(Screen, None, &[Char('H')], I::HealAll, "heal all links", ""),
    on(Screen, None, &[Char('b')], I::Probe, "the write probe on or off", "probe"),
    on(Screen, None, &[Char('D')], I::Demo, "the failover demo", "demo"),
    on(Screen, None, &[Char('/')], I::OpenFilter, "filter the pane", "filter"),
    on(Screen, None, &[Code(KeyCode::Up), Char('k')], I::Up, "up", ""),
    on(Screen, None, &[Code(KeyCode::Down), Char('j')], I::Down, "down", ""),
    on(Screen, None, &[Code(PageUp)], I::PageUp, "a page up", ""),
    on(Screen, None, &[Code(PageDown)], I::PageDown, "a page down", ""),
    on(Screen, None, &[Code(Home), Char('g')], I::Top, "to the top", ""),
    on(Screen, None, &[Code(End), Char('G')], I::Bottom, "to the end", ""),
    on(Screen, None, &[Code(Tab)], I::NextPane, "the next pane", "pane"),
    on(Screen, None, &[Code(BackTab)], I::PreviousPane, "the pane before", ""),
    on(Screen, None, &[Char('1')], I::Pane(Nodes), "the nodes", ""),
    on(Screen, None, &[Char('2')], I::Pane(Log), "the log", ""),
    on(Screen, None, &[Char('3')], I::Pane(Keys), "the keys", ""),
    on(Screen, None, &[Char('4')], I::Pane(Writes), "the write probe", ""),
    on(Screen, None, &[Char('5')], I::Pane(Events), "the events", ""),
    on(Screen, None, &[Char('6')], I::Pane(Output), "the answers", ""),
    on(Screen, None, &[Char('z')], I::Zoom, "this pane alone, or all", "zoom"),
    on(Screen, None, &[Char(' ')], I::Freeze, "freeze the screen, or let it go on", ""),
    on(Screen, None, &[Char('o')], I::ReadMode, "reads: linearizable or local", ""),
    on(Screen, None, &[Char('y')], I::Copy, "copy the selected line", ""),
    on(Screen, None, &[Char('Y')], I::CopyJson, "copy it as JSON", ""),
    on(Screen, None, &[Char('t')], I::Theme, "the next theme", ""),
    on(Screen, None, &[Char('w')], I::Picture, "write a picture of the screen", ""),
    on(Screen, None, &[Char('!')], I::Errors, "the errors", ""),
    on(Screen, None, &[Char('?')], I::Help, "this page", "help"),
    on(Screen, None, &[Code(Esc)], I::Back, "one step back; never quits", ""),
    on(Screen, None, &[Ctrl('l')], I::Redraw, "draw everything anew", ""),
    on(Screen, None, &[Ctrl('z')], I::Suspend, "back to the shell, anywhere; `fg` goes on", ""),
    on(Screen, None, &[Char('q')], I::Quit, "back, and at the top the end", "quit"),
    on(Screen, None, &[Ctrl('c')], I::Quit, "as q", ""),
    on(Prompt, None, &[Code(Enter)], I::Send, "do it", "send"),
    on(Prompt, None, &[Code(Tab)], I::Complete, "complete the word", "complete"),
    on(Prompt, None, &[Code(KeyCode::Up)], I::Earlier, "the line before", "history"),
    on(Prompt, None, &[Code(KeyCode::Down)], I::Later, "the line after", ""),
    on(Prompt, None, &[Code(KeyCode::Left)], I::Left, "left", ""),
    on(Prompt, None, &[Code(KeyCode::Right)], I::Right, "right; at the end as Tab", ""),
    on(Prompt, None, &[CtrlCode(KeyCode::Right)], I::WordRight, "a word right", ""),
    on(Prompt, None, &[CtrlCode(KeyCode::Left)], I::WordLeft, "a word left", ""),
    on(Prompt, None, &[Code(Home)], I::LineStart, "to the start", ""),
    on(Prompt, None, &[Code(End), Ctrl('e')], I::LineEnd, "to the end", ""),
    on(Prompt, None, &[Code(Backspace)], I::Erase, "erase the character before", ""),
    on(Prompt, None, &[Code(KeyCode::Delete)], I::EraseNext, "erase the character after", ""),
    on(Prompt, None, &[Ctrl('w')], I::EraseWord, "erase the word before", ""),
    on(Prompt, None, &[Ctrl('u')], I::EraseLine, "erase the line", ""),
    on(Prompt, None, &[Code(Esc)], I::Back, "close the prompt", "cancel"),
    on(Prompt, None, &[Ctrl('c')], I::Interrupt, "clear the line; when empty, close", ""),
    on(Prompt, None, &[Ctrl('l')], I::Redraw, "draw everything anew", ""),
    on(Dialog, None, &[Char('y')], I::Yes, "yes", "yes"),
    on(Dialog, None, &[Char('n'), Char('N')], I::No, "no", "no"),
    on(
        Dialog,
        None,
        &[Code(KeyCode::Left), Code(KeyCode::Right), Code(Tab)],
        I::OtherWay,
        "another way to do it",
        "how",
    ),
    on(Dialog, None, &[Code(Enter)], I::Send, "no, unless the name was typed", ""),
    on(Dialog, None, &[Code(Backspace)], I::Erase, "erase a character of the name", ""),
    on(Dialog, None, &[Code(Esc), Ctrl('c')], I::Back, "no", "cancel"),
    on(Dialog, None, &[Ctrl('l')], I::Redraw, "draw everything anew", ""),
    on(Text, None, &[Code(KeyCode::Up), Char('k')], I::Up, "up", "scroll"),
    on(Text, None, &[Code(KeyCode::Down), Char('j')], I::Down, "down", ""),
    on(Text, None, &[Code(PageUp)], I::PageUp, "a page up", ""),
    on(Text, None, &[Code(PageDown), Char(' ')], I::PageDown, "a page down", ""),
    on(Text, None, &[Code(Home), Char('g')], I::Top, "to the top", ""),
    on(Text, None, &[Code(End), Char('G')], I::Bottom, "to the end", ""),
    on(Text, None, &[Char('y')], I::Copy, "copy the page", "copy"),
    on(Text, None, &[Ctrl('l')], I::Redraw, "draw everything anew", ""),
    on(Text, None, &[Code(Esc), Char('q'), Char('?'), Ctrl('c')], I::Back, "close", "close"),
    on(Connect, None, &[Char('L')], I::StartLocal, "start a local cluster", "local cluster"),
    on(Connect, None, &[Char('A')], I::AttachTo, "attach to addresses", "addresses"),
    on(Connect, None, CONTEXTS, I::Context, "attach by this context of the kubeconfig", ""),
    on(Connect, None, &[Char('r')], I::Retry, "try again", "retry"),
    on(Connect, None, &[Char(':')], I::OpenPrompt, "type a command", ""),
    on(Connect, None, &[Char('!')], I::Errors, "the errors", ""),
    on(Connect, None, &[Char('?')], I::Help, "this page", "help"),
    on(Connect, None, &[Ctrl('l')], I::Redraw, "draw everything anew", ""),
    on(Connect, None, &[Char('q'), Ctrl('c')], I::Quit, "the end", "quit"),
];

/// Returns the meaning of a key in a mode and a pane.
#[must_use]
pub fn meaning(mode: Mode, pane: PaneName, event: &KeyEvent) -> Option<Intent> {
    let fits = |binding: &&Binding| {
        binding.mode == mode && binding.keys.iter().any(|press| press.is(event))
    };
    let of_pane = TABLE.iter().filter(fits).find(|binding| binding.pane == Some(pane));
    let anywhere = || TABLE.iter().filter(fits).find(|binding| binding.pane.is_none());
    of_pane.or_else(anywhere).map(|binding| binding.intent)
}

/// Returns the hint line's content for a mode and a pane: keys and words.
pub fn hints(mode: Mode, pane: PaneName) -> impl Iterator<Item = (String, &'static str)> {
    let fits = move |binding: &&Binding| {
        let is_here = binding.pane.is_none_or(|wanted| wanted == pane);
        binding.mode == mode && is_here && !binding.hint.is_empty()
    };
    TABLE.iter().filter(fits).map(|binding| (binding.keys[0].to_string(), binding.hint))
}

/// Returns the title of a part of the table.
#[must_use]
pub fn title(mode: Mode, pane: Option<PaneName>) -> &'static str {
    match (mode, pane) {
        (Screen, None) => "Everywhere",
        (Screen, Some(Nodes)) => "Nodes",
        (Screen, Some(Log)) => "Log",
        (Screen, Some(Keys)) => "Keys",
        (Screen, Some(Writes)) => "Writes",
        (Screen, Some(Events)) => "Events",
        (Screen, Some(Output)) => "Output",
        (Prompt, _) => "Prompt",
        (Dialog, _) => "Dialogs",
        (Text, _) => "Pages of text",
        (Connect, _) => "Without a cluster",
    }
}

/// The parts of the table, in the order in which they are shown.
pub const PARTS: [(Mode, Option<PaneName>); 8] = [
    (Screen, None),
    (Screen, Some(Nodes)),
    (Screen, Some(Log)),
    (Screen, Some(Keys)),
    (Prompt, None),
    (Dialog, None),
    (Text, None),
    (Connect, None),
];

/// Returns the lines of one part: keys and what they do.
pub fn part(mode: Mode, pane: Option<PaneName>) -> impl Iterator<Item = (String, &'static str)> {
    let keys = |binding: &Binding| {
        binding.keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let fits = move |binding: &&Binding| binding.mode == mode && binding.pane == pane;
    TABLE.iter().filter(fits).map(move |binding| (keys(binding), binding.text))
}

/// Returns the whole table as Markdown, for the readme.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::new();
    for (mode, pane) in PARTS {
        let _ = writeln!(text, "| {} | |\n|---|---|", title(mode, pane));
        for (keys, what) in part(mode, pane) {
            let _ = writeln!(text, "| `{keys}` | {what} |");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_means_one_thing_in_one_place() {
        for (at, binding) in TABLE.iter().enumerate() {
            for other in &TABLE[at + 1..] {
                let same = binding.mode == other.mode && binding.pane == other.pane;
                let shared = binding.keys.iter().find(|key| other.keys.contains(key));
                assert!(!same || shared.is_none(), "{shared:?} in {:?}", binding.mode);
            }
            assert!(!binding.text.is_empty() && !binding.keys.is_empty());
            let is_shown = PARTS.contains(&(binding.mode, binding.pane));
            assert!(is_shown, "{:?} {:?} is in the help", binding.mode, binding.pane);
        }
    }

    #[test]
    fn keys_that_others_take_are_left_alone() {
        let taken = "pqshab\\".chars().map(Ctrl);
        for press in taken {
            assert!(TABLE.iter().all(|binding| !binding.keys.contains(&press)), "{press}");
        }
    }

    #[test]
    fn the_readme_has_this_table() {
        let readme = include_str!("../README.md");
        assert!(readme.contains(&markdown()), "put this into it:\n{}", markdown());
    }
}
