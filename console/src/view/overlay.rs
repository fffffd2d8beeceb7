//! Pure: everything drawn over the panes: dialogs, pages of text, the screen without a cluster.

use ratatui::layout::Rect;
use ratatui::widgets::{Block, Clear, Widget};

use super::canvas::{Canvas, Piece, piece};
use super::theme::Tone;
use crate::app::dialog::{Dialog, Tier};
use crate::app::{App, Page};
use crate::exit::Failure;
use crate::output;
use crate::page;
use crate::text::{fit, wrap};

/// The number of contexts that can be chosen by a digit.
pub const CONTEXTS_MAX: usize = 9;
/// The widest dialog, with its frame.
const DIALOG_WIDTH: u16 = 64;

/// Draws a dialog in the middle of an area.
pub fn dialog(app: &App, dialog: &Dialog, area: Rect, canvas: &mut Canvas<'_>) {
    let width = DIALOG_WIDTH.min(area.width);
    let inside = usize::from(width.saturating_sub(4)).max(1);
    let mut lines: Vec<Vec<Piece>> = Vec::new();
    for line in &dialog.lines {
        let tone = match line {
            line if line.contains("quorum LOST") || line.contains("NO quorum") => Tone::Bad,
            line if line.contains("LEADER") => Tone::Leader,
            line if line.contains("quorum KEPT") => Tone::Good,
            _ => Tone::Plain,
        };
        let wrapped = wrap(line, inside);
        lines.extend(wrapped.into_iter().map(|line| vec![piece(line, tone)]));
    }
    lines.push(Vec::new());
    if dialog.is_unsettled(app.now) {
        lines.push(vec![piece("the facts have just changed: look again", Tone::Warn)]);
    }
    lines.push(question(dialog));
    let height = u16::try_from(lines.len() + 2).unwrap_or(u16::MAX).min(area.height);
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    Clear.render(place, canvas.buffer);
    let style = canvas.theme.style(Tone::Plain);
    let left = dialog.until.saturating_sub(app.now.monotonic).as_secs() + 1;
    let title = fit(&format!(" {} ", canvas.theme.text(&dialog.title)), inside);
    Block::bordered()
        .border_set(canvas.theme.frame())
        .title(title.trim_end().to_owned() + " ")
        .title_bottom(format!(" closes in {left} s "))
        .style(style)
        .render(place, canvas.buffer);
    if place.width < 5 || place.height < 3 {
        return;
    }
    let inner = Rect { x: place.x + 2, width: place.width - 4, ..place };
    let inner = Rect { y: inner.y + 1, height: inner.height - 2, ..inner };
    // If not everything fits, the end with the question is shown.
    let skipped = lines.len().saturating_sub(usize::from(inner.height));
    let (first, rest) = lines.split_at(lines.len().min(1));
    let shown = match skipped {
        0 => first.iter().chain(rest).collect::<Vec<_>>(),
        _ => lines.iter().skip(skipped).collect(),
    };
    for (row, pieces) in Canvas::rows(inner).zip(shown) {
        canvas.line(row, pieces);
    }
}

fn question(dialog: &Dialog) -> Vec<Piece> {
    match dialog.tier {
        Tier::Yes => vec![
            piece("[N no]", Tone::Title),
            piece("   y yes   ", Tone::Accent),
            piece("Esc cancel", Tone::Dim),
        ],
        Tier::Name => vec![
            piece(format!("type {} and Enter: ", dialog.name()), Tone::Bad),
            piece(format!("{}_", dialog.typed), Tone::Title),
        ],
        Tier::Never => vec![piece("Esc closes", Tone::Dim)],
    }
}

/// Draws a page of text.
pub fn page(app: &App, page: &Page, area: Rect, canvas: &mut Canvas<'_>) {
    if area.is_empty() {
        return;
    }
    let title = match page {
        Page::Help => "Help".to_owned(),
        Page::Errors => "Errors, the newest first".to_owned(),
        Page::Logs { node, .. } => format!("The log file of {node}"),
    };
    canvas.rule(Rect { height: 1, ..area }, &title, "Esc closes", true);
    let inside = Rect { y: area.y + 1, height: area.height - 1, ..area };
    let width = usize::from(inside.width.saturating_sub(2)).max(1);
    let lines: Vec<String> =
        page::lines(app, page).iter().flat_map(|line| wrap(line, width)).collect();
    let skipped = app.scroll.min(lines.len().saturating_sub(usize::from(inside.height)));
    for (row, line) in Canvas::rows(inside).zip(lines.iter().skip(skipped)) {
        let is_title = !line.starts_with(' ') && line.chars().any(char::is_uppercase);
        let tone = if is_title && *page == Page::Help { Tone::Title } else { Tone::Plain };
        canvas.line(row, &[piece(format!(" {line}"), tone)]);
    }
}

/// Draws the screen without a cluster: the reason, and what to do next.
pub fn connect(app: &App, why: &Failure, area: Rect, canvas: &mut Canvas<'_>) {
    if area.is_empty() {
        return;
    }
    canvas.rule(Rect { height: 1, ..area }, "Connect", "no cluster is attached", true);
    let width = usize::from(area.width.saturating_sub(4)).max(1);
    let mut lines: Vec<Vec<Piece>> = vec![Vec::new()];
    for line in wrap(&output::text(why.message.as_bytes()), width) {
        lines.push(vec![piece(format!("  {line}"), Tone::Warn)]);
    }
    lines.push(Vec::new());
    let mut choice = |key: &str, what: &str| {
        lines.push(vec![piece(format!("    {key}  "), Tone::Accent), piece(what, Tone::Plain)]);
    };
    #[cfg(feature = "local")]
    choice("L", "start a cluster of three replicas on this machine, and attach to it");
    for (number, context) in (1..=CONTEXTS_MAX).zip(&app.settings.contexts) {
        choice(&number.to_string(), &format!("the cluster of the context {context}"));
    }
    choice("A", "attach to replicas at addresses: HOST:PORT,HOST:PORT");
    let again = if app.settings.retries { " (by itself every 5 s)" } else { "" };
    choice("r", &format!("try again: {}{again}", app.settings.target));
    choice("!", "all errors");
    choice("q", "quit");
    let inside = Rect { y: area.y + 1, height: area.height - 1, ..area };
    for (row, pieces) in Canvas::rows(inside).zip(lines) {
        canvas.line(row, &pieces);
    }
}
