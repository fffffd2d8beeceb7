//! Pure: the handling of keys that arrive all at once.
//!
//! A terminal without bracketed paste delivers a paste as keys, and on a terminal shared by viewers
//! bracketed paste is never requested. So a paste is recognized by its speed: text that could be
//! read in one go, too long to have been typed meanwhile. It goes into the prompt or nowhere.
//! Shorter text may be typing over a slow connection: it moves, edits and asks, but neither answers
//! a question nor sends a line. Guarantees that keys that arrive all at once do nothing to the
//! cluster.

use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::{commands, press};
use crate::app::dialog::READING;
use crate::app::output::Verdict;
use crate::app::{App, Haste};
use crate::keymap::Mode;
use crate::message::Effect;

/// The number of characters at once from which on they count as pasted, not typed.
const PASTE_CHARACTERS_MIN: usize = 8;

/// Handles a key that arrives alone.
pub fn alone(app: &mut App, key: &KeyEvent) -> Vec<Effect> {
    if key.kind == KeyEventKind::Release {
        return Vec::new();
    }
    let now = app.now.monotonic;
    let is_soon = |before: Duration| now < before + READING;
    app.haste = match (app.burst, app.pressed) {
        (Some(burst), _) if is_soon(burst) => Haste::Burst,
        (_, Some(pressed)) if is_soon(pressed) => Haste::Soon,
        _ => Haste::None,
    };
    if app.haste == Haste::Burst {
        // The rest of the burst may arrive in parts.
        app.burst = Some(now);
    }
    pressed(app, key)
}

/// Handles keys that arrive all at once.
pub fn burst(app: &mut App, keys: &[KeyEvent]) -> Vec<Effect> {
    let keys: Vec<_> = keys.iter().filter(|key| key.kind != KeyEventKind::Release).collect();
    let mut effects = Vec::new();
    app.burst = Some(app.now.monotonic);
    for run in keys.chunk_by(|a, b| text(a).is_some() == text(b).is_some()) {
        let pasted: String = run.iter().filter_map(|key| text(key)).collect();
        if pasted.chars().count() >= PASTE_CHARACTERS_MIN {
            effects.extend(paste(app, &pasted));
            continue;
        }
        for key in run {
            app.haste = Haste::Burst;
            effects.extend(pressed(app, key));
        }
    }
    effects
}

fn pressed(app: &mut App, key: &KeyEvent) -> Vec<Effect> {
    app.attended = app.now;
    app.pressed = Some(app.now.monotonic);
    let effects = press::key(app, key);
    app.haste = Haste::None;
    effects
}

/// Handles pasted text: it goes into the prompt or nowhere.
pub fn paste(app: &mut App, text: &str) -> Vec<Effect> {
    app.attended = app.now;
    app.pressed = Some(app.now.monotonic);
    if app.mode() == Mode::Prompt {
        app.prompt.paste(text);
        commands::check(app);
    } else {
        let count = text.chars().count();
        let note = format!("{count} characters were pasted and did nothing; : opens the prompt");
        app.output.say(app.now, Verdict::Note, note);
    }
    Vec::new()
}

/// Returns the character that a key stands for in pasted text.
fn text(key: &KeyEvent) -> Option<char> {
    match key.code {
        _ if key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) => None,
        KeyCode::Char(character) => Some(character),
        KeyCode::Enter => Some('\n'),
        KeyCode::Tab => Some('\t'),
        _ => None,
    }
}
