//! Pure: the title, the prompt and the hint line.

use ratatui::layout::{Position, Rect};
use unicode_width::UnicodeWidthStr;

use super::canvas::{Canvas, Piece, piece};
use super::theme::Tone;
use crate::app::cluster::short;
use crate::app::dialog::Tier;
use crate::app::{App, Stage};
use crate::keymap;
use crate::output;
use crate::prompt::grammar::usage;

/// Seconds between two beats of a shared console's title.
pub const HEARTBEAT_SECONDS: u64 = 15;

/// Returns the whole state in one line, for a screen without room for more.
pub fn one_line(app: &App) -> Vec<Piece> {
    let (cluster, ..) = app.shown();
    let leader = cluster.leader().map_or_else(|| "no leader".to_owned(), short);
    let count = format!("{}/{}", cluster.ready(), cluster.count());
    vec![piece(format!("{leader} {count} {}", cluster.decided()), Tone::Plain)]
}

/// Returns the title: the attached cluster and its state. On a narrow screen names yield to states.
pub fn title(app: &App, width: u16) -> Vec<Piece> {
    let (cluster, ..) = app.shown();
    let name = match &app.stage {
        Stage::Attached(place) => place.name.clone(),
        Stage::Attaching => app.settings.target.clone(),
        Stage::Detached { .. } => "no cluster".to_owned(),
    };
    let product = piece(" kvorum ", Tone::Title);
    let name = piece(format!(" {name} "), Tone::Plain);
    let (mut ready, mut short) = (Vec::new(), Vec::new());
    let is_detached = matches!(app.stage, Stage::Detached { .. });
    if cluster.count() > 0 && !is_detached {
        let (up, count) = (cluster.ready(), cluster.count());
        let tone = match up {
            up if up == count => Tone::Good,
            up if 2 * up > count => Tone::Warn,
            _ => Tone::Bad,
        };
        ready.push(piece(format!(" {up}/{count} ready "), tone));
        short.push(piece(format!(" {up}/{count} "), tone));
    }
    let mut configuration = Vec::new();
    if let Some((number, members)) = cluster.configuration().filter(|_| width >= 100) {
        configuration.push(piece(format!(" configuration {number} "), Tone::Dim));
        if members != cluster.wanted() {
            let text = format!(" {members} members, {} wanted ", cluster.wanted());
            configuration.push(piece(text, Tone::Warn));
        }
    }
    let right = state(app);
    let room = usize::from(width).saturating_sub(cells(&right));
    let lefts = [
        [vec![product.clone(), name.clone()], ready.clone(), configuration].concat(),
        [vec![product, name.clone()], ready.clone()].concat(),
        [vec![name], ready.clone()].concat(),
        ready,
    ];
    let mut left = lefts.into_iter().find(|left| cells(left) <= room).unwrap_or(short);
    left.push(piece(" ".repeat(room.saturating_sub(cells(&left))), Tone::Plain));
    left.extend(right);
    left
}

fn cells(pieces: &[Piece]) -> usize {
    pieces.iter().map(|(text, _)| text.width()).sum()
}

/// Returns the right end of the title: the state of the whole console.
fn state(app: &App) -> Vec<Piece> {
    let mut parts = Vec::new();
    let mut say = |text: &str, tone| parts.push(piece(format!(" {text}"), tone));
    if app.settings.readonly {
        say("READ-ONLY", Tone::Warn);
    }
    if !app.settings.confirm {
        say("CONFIRM OFF", Tone::Bad);
    }
    if app.frozen.is_some() {
        say("PAUSED", Tone::Warn);
    }
    let live = app.cluster.nodes().filter(|node| node.is_live()).count();
    match &app.stage {
        Stage::Attaching => say("STARTING", Tone::Warn),
        Stage::Detached { .. } => say("OFFLINE", Tone::Bad),
        Stage::Attached(_) if live == 0 => say("NO REPLICA", Tone::Bad),
        Stage::Attached(_) if app.cluster.leader().is_none() => say("NO LEADER", Tone::Bad),
        Stage::Attached(_) => say("LIVE", Tone::Good),
    }
    if app.settings.is_shared {
        // Explains a wrong size to viewers; the mark alternates as long as the console runs.
        let (width, height) = app.size;
        let beat = (app.now.monotonic.as_secs() / HEARTBEAT_SECONDS).is_multiple_of(2);
        say(&format!("{width}x{height}{}", if beat { "." } else { ":" }), Tone::Dim);
    }
    say("", Tone::Plain);
    parts
}

/// Draws the prompt; returns the position of the cursor.
pub fn prompt(app: &App, area: Rect, canvas: &mut Canvas<'_>) -> Option<Position> {
    if area.is_empty() {
        return None;
    }
    if !app.prompt.is_open {
        canvas.line(area, &caption(app));
        return None;
    }
    let line = app.prompt.line();
    let before: String = line.chars().take(app.prompt.cursor()).collect();
    let room = usize::from(area.width).saturating_sub(2).max(1);
    // A long line is scrolled so that the cursor stays in view.
    let mut skipped = 0;
    while crate::output::line(before.chars().skip(skipped).collect::<String>().as_bytes()).width()
        >= room
    {
        skipped += 1 + room / 4;
    }
    let mut pieces = vec![piece(":", Tone::Accent)];
    pieces.extend(colored(app, skipped));
    let completion = app.prompt.completion(&app.known());
    let part = line.len() - completion.from.min(line.len());
    if let Some(ghost) = completion.words.first().and_then(|word| word.get(part..))
        && part > 0
    {
        pieces.push(piece(ghost, Tone::Dim));
    }
    canvas.line(area, &pieces);
    let visible: String = before.chars().skip(skipped).collect();
    let x = u16::try_from(visible.width()).unwrap_or(u16::MAX).saturating_add(area.x + 1);
    Some(Position { x: x.min(area.right() - 1), y: area.y })
}

/// Returns the line with its error marked.
fn colored(app: &App, skipped: usize) -> Vec<Piece> {
    let line = app.prompt.line();
    let wrong = app.prompt.wrong.as_ref().map(|wrong| wrong.at.clone()).unwrap_or_default();
    let mut pieces: Vec<Piece> = Vec::new();
    for (at, character) in line.char_indices().skip(skipped) {
        let tone = if wrong.contains(&at) { Tone::Bad } else { Tone::Plain };
        match pieces.last_mut() {
            Some((text, last)) if *last == tone => text.push(character),
            _ => pieces.push(piece(character.to_string(), tone)),
        }
    }
    pieces
}

/// Returns the demo's caption, shown in place of the closed prompt.
fn caption(app: &App) -> Vec<Piece> {
    match &app.demo {
        Some(demo) => {
            let tone = if demo.is_over() { Tone::Good } else { Tone::Accent };
            vec![piece(" demo ", Tone::Title), piece(demo.caption(), tone)]
        }
        None => Vec::new(),
    }
}

/// Returns the hint line: the error, the possible completions, or the keys and their effects.
pub fn hint(app: &App, width: u16) -> Vec<Piece> {
    if app.prompt.is_open {
        return prompt_hint(app);
    }
    let mut pieces = Vec::new();
    let mut used = 0;
    let tier = app.dialog.as_ref().map(|dialog| dialog.tier);
    let hints = keymap::hints(app.mode(), app.focus);
    for (keys, what) in hints.filter(|(_, what)| tier.is_none_or(|tier| answers(tier, what))) {
        used += keys.width() + what.width() + 3;
        if used > usize::from(width) {
            break;
        }
        pieces.push(piece(format!(" {keys}"), Tone::Accent));
        pieces.push(piece(format!(" {what} "), Tone::Dim));
    }
    let until = match tier {
        None => return pieces,
        Some(Tier::Yes) => "  nothing is sent until y",
        Some(Tier::Name) => "  type the name, then Enter",
        Some(Tier::Never) => "  there is nothing to answer",
    };
    pieces.push(piece(until, Tone::Dim));
    pieces
}

/// Whether a key, given by its hint, has an effect in a dialog.
fn answers(tier: Tier, hint: &str) -> bool {
    match tier {
        Tier::Yes => true,
        Tier::Name => !["yes", "no"].contains(&hint),
        Tier::Never => hint == "cancel",
    }
}

fn prompt_hint(app: &App) -> Vec<Piece> {
    let line = app.prompt.line();
    let offered = &app.prompt.offered.words;
    if !offered.is_empty() {
        return vec![piece(format!(" {}", offered.join("  ")), Tone::Accent)];
    }
    let first = line.trim_start_matches([' ', ':']).split(' ').next().unwrap_or_default();
    let usage = app.prompt.grammar.find(first).map(usage);
    match &app.prompt.wrong {
        // Input that is only incomplete is not an error yet.
        Some(wrong) if wrong.at.is_empty() || wrong.at.end == line.len() && usage.is_none() => {
            let text = usage.unwrap_or_else(|| wrong.to_string());
            vec![piece(format!(" {text}"), Tone::Dim)]
        }
        Some(wrong) => {
            let caret = line[..wrong.at.start.min(line.len())].chars().count() + 1;
            let text = output::line(format!("{wrong}").as_bytes());
            vec![piece(format!(" {caret}: "), Tone::Accent), piece(text, Tone::Bad)]
        }
        None if line.trim().is_empty() => {
            vec![piece(" put KEY VALUE, get KEY, kill NODE, help …  Tab completes", Tone::Dim)]
        }
        None => vec![
            piece(" Enter", Tone::Accent),
            piece(format!(" sends   {}", usage.unwrap_or_default()), Tone::Dim),
        ],
    }
}
