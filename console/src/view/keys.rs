//! Pure: the keys pane, and the details of one key.

use ratatui::layout::Rect;

use super::canvas::{Canvas, Piece, piece};
use super::theme::Tone;
use crate::app::App;
use crate::app::cluster::short;
use crate::app::keys::{Found, Inspected, Row};
use crate::output;
use crate::prompt::PaneName;
use crate::prompt::grammar::ReadMode;
use crate::text::{bytes, fit, wrap};

/// Returns the side text of the keys pane's rule.
pub fn side(app: &App) -> String {
    let keys = &app.keys;
    let (page, has_more) = keys.page();
    let mut parts = Vec::new();
    if !keys.prefix.is_empty() {
        parts.push(format!("prefix {}", output::preview(&keys.prefix)));
    }
    if keys.is_loaded {
        let more = if has_more { ", more" } else { "" };
        parts.push(format!("{} keys, page {page}{more}", keys.rows.len()));
    }
    if app.settings.read == ReadMode::Local {
        parts.push("LOCAL reads".to_owned());
    }
    parts.join(" · ")
}

pub fn draw(app: &App, area: Rect, canvas: &mut Canvas<'_>) {
    match &app.keys.inspected {
        Some(open) => inspected(app, open, area, canvas),
        None => list(app, area, canvas),
    }
}

fn list(app: &App, area: Rect, canvas: &mut Canvas<'_>) {
    let keys = &app.keys;
    let width = usize::from(area.width);
    let key_width = (width / 3).clamp(6, 48);
    let mut area = area;
    if area.height > 3 {
        let header =
            format!("   {} {:>9} {:>6}  value", fit("key", key_width), "revision", "bytes");
        canvas.line(area, &[piece(header, Tone::Dim)]);
        area = Rect { y: area.y + 1, height: area.height - 1, ..area };
    }
    if let Some(note) = note(app) {
        canvas.line(area, &[piece(format!("   {note}"), Tone::Dim)]);
        if keys.rows.is_empty() {
            return;
        }
    }
    let first = keys.first_drawn(usize::from(area.height));
    let is_focused = app.focus == PaneName::Keys;
    for (at, row) in Canvas::rows(area).enumerate() {
        let at = first + at;
        let Some(key) = keys.rows.get(at) else { return };
        canvas.line(row, &row_line(app, key, at == keys.selected && is_focused, key_width));
    }
}

/// Returns the note shown in place of the keys.
fn note(app: &App) -> Option<String> {
    let keys = &app.keys;
    match (&keys.trouble, keys.is_loaded, keys.rows.is_empty()) {
        (Some(why), false, _) => Some(format!("the keys cannot be read: {why}")),
        (None, false, true) => Some("reading…".to_owned()),
        (_, true, true) if keys.prefix.is_empty() => {
            Some("there are no keys; p puts one".to_owned())
        }
        (_, true, true) => Some("no key begins so; Esc shows all".to_owned()),
        _ => None,
    }
}

fn row_line(app: &App, row: &Row, is_selected: bool, key_width: usize) -> Vec<Piece> {
    let mark = if is_selected { " > " } else { "   " };
    let tone = if is_selected { Tone::Title } else { Tone::Plain };
    vec![
        piece(mark, Tone::Accent),
        piece(fit(&output::shown(&row.key.0), key_width), tone),
        piece(format!(" {:>9} {:>6}  ", row.revision, bytes(row.value_bytes)), Tone::Dim),
        piece(app.shown_value(output::shown(&row.preview)), tone),
    ]
}

fn inspected(app: &App, open: &Inspected, area: Rect, canvas: &mut Canvas<'_>) {
    let width = usize::from(area.width).saturating_sub(2).max(1);
    let mut lines: Vec<Vec<Piece>> = Vec::new();
    lines.push(vec![piece(" key ", Tone::Dim), piece(output::shown(&open.key.0), Tone::Title)]);
    match &open.found {
        None => lines.push(vec![piece(" reading…", Tone::Dim)]),
        Some(found) => lines.extend(found_lines(app, found, width, canvas)),
    }
    let height = usize::from(area.height);
    let skipped = open.scroll.min(lines.len().saturating_sub(height));
    for (row, pieces) in Canvas::rows(area).zip(lines.into_iter().skip(skipped)) {
        canvas.line(row, &pieces);
    }
}

fn found_lines(app: &App, found: &Found, width: usize, canvas: &Canvas<'_>) -> Vec<Vec<Piece>> {
    let mut lines = Vec::new();
    let certain = found.pair.as_ref().map(|pair| pair.revision);
    lines.push(match &found.pair {
        Some(pair) => vec![
            piece(" revision ", Tone::Dim),
            piece(pair.revision.to_string(), Tone::Plain),
            piece(format!(" · {} bytes", pair.value.0.len()), Tone::Dim),
        ],
        None => vec![piece(" it does not exist", Tone::Warn)],
    });
    let mut nodes = vec![piece(" on nodes", Tone::Dim)];
    for (node, has) in &found.nodes {
        let lag = app.cluster.node(node).and_then(|node| app.cluster.lag(node)).unwrap_or(0);
        let (text, tone) = match has {
            Ok(Some(revision)) if Some(*revision) == certain => {
                (format!("revision {revision}"), Tone::Good)
            }
            Ok(None) if certain.is_none() => ("none".to_owned(), Tone::Good),
            Ok(Some(revision)) => (format!("STALE revision {revision}, lag {lag}"), Tone::Warn),
            Ok(None) => (format!("STALE, none, lag {lag}"), Tone::Warn),
            Err(_) => ("no answer".to_owned(), Tone::Bad),
        };
        nodes.push(piece(format!("  {} ", short(node)), Tone::Plain));
        nodes.push(piece(text, tone));
    }
    lines.push(nodes);
    lines.push(vec![piece(canvas.theme.rule().repeat(width.min(40)), Tone::Rule)]);
    if let Some(pair) = &found.pair {
        // A value may be a megabyte on one line; only as much as can be scrolled through is shown.
        let shown = &pair.value.0[..pair.value.0.len().min(64 << 10)];
        let text = app.shown_value(output::text(shown));
        for line in wrap(&text.replace('\t', "    "), width) {
            lines.push(vec![piece(" ", Tone::Plain), piece(line, Tone::Plain)]);
        }
        if shown.len() < pair.value.0.len() {
            lines.push(vec![piece(" … 'get -o raw' has all of it", Tone::Dim)]);
        }
    }
    lines
}
