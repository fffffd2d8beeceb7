//! Pure: the panes for the nodes, the log, the events and the answers.

use kvorum_protocol::message::{EntryEvent, EntryKind};
use ratatui::layout::Rect;

use super::canvas::{Canvas, Piece, piece};
use super::theme::{Theme, Tone};
use crate::app::App;
use crate::app::cluster::{Cluster, Kind, Link, Node, short};
use crate::app::quorum::BEHIND;
use crate::output;
use crate::text::{age, fit, state_word, time_of_day};

/// The number of cells in the bar that shows a replica's progress.
const BAR_CELLS: u64 = 8;
/// The minimum width at which the nodes have a bar and their links by name.
const WIDE: u16 = 76;

/// Returns the side text of the nodes pane's rule.
pub fn nodes_side(app: &App) -> String {
    let (cluster, ..) = app.shown();
    match (cluster.leader(), cluster.count()) {
        (_, 0) => String::new(),
        (Some(leader), _) => format!("leader {} · ballot {}", short(leader), cluster.ballot()),
        (None, _) => "NO LEADER".to_owned(),
    }
}

pub fn nodes(app: &App, area: Rect, canvas: &mut Canvas<'_>) {
    let (cluster, ..) = app.shown();
    let nodes: Vec<&Node> = cluster.nodes().collect();
    let mut area = area;
    if nodes.is_empty() {
        canvas.line(area, &[piece(waiting(app), Tone::Dim)]);
        return;
    }
    let is_wide = area.width >= WIDE;
    let has_header = usize::from(area.height) > nodes.len() && area.height > 2;
    if has_header {
        let header = match is_wide {
            true => "   #   node         state       ready  ballot   decided    lag  links",
            false => "   #   state      ballot  decided    lag",
        };
        canvas.line(area, &[piece(header, Tone::Dim)]);
        area = Rect { y: area.y + 1, height: area.height - 1, ..area };
    }
    let selected = app.node().map(|node| node.name.clone());
    let at = nodes.iter().position(|node| Some(&node.name) == selected.as_ref()).unwrap_or(0);
    // With more nodes than rows, the selected one stays in view.
    let first = (at + 1).saturating_sub(usize::from(area.height));
    for (row, node) in Canvas::rows(area).zip(nodes.iter().skip(first)) {
        let is_selected = Some(&node.name) == selected.as_ref();
        let pieces = node_line(app, cluster, node, is_selected, is_wide, canvas.theme);
        canvas.raw(row, &pieces);
    }
}

/// Returns the text shown while no node is known.
fn waiting(app: &App) -> String {
    match app.place() {
        Some(place) => format!("   waiting for {}", place.name),
        None => format!("   starting {}", app.settings.target),
    }
}

fn node_line(
    app: &App,
    cluster: &Cluster,
    node: &Node,
    is_selected: bool,
    is_wide: bool,
    theme: Theme,
) -> Vec<Piece> {
    let (glyph, tone) = theme.state(node.state());
    let mark = if is_selected { ">" } else { " " };
    let name_tone = if is_selected { Tone::Title } else { Tone::Plain };
    let mut pieces =
        vec![piece(format!(" {mark} "), Tone::Accent), piece(fit(&node.short(), 4), name_tone)];
    if is_wide {
        pieces.push(piece(fit(&node.name, 13), name_tone));
    }
    pieces.push(piece(format!("{glyph} {} ", fit(state_word(node.state()), 9)), tone));
    let Some(status) = node.status.as_ref().filter(|_| node.is_live()) else {
        pieces.push(piece(theme.text(&absence(app, node)), Tone::Dim));
        return pieces;
    };
    let ballot = format!("{}.{}", status.ballot.number, short_of_ballot(status));
    let lag = cluster.lag(node).unwrap_or(0);
    let lag_tone = if lag <= BEHIND { Tone::Plain } else { Tone::Warn };
    if is_wide {
        let (ready, ready_tone) =
            if status.is_ready { ("yes", Tone::Good) } else { ("NO", Tone::Warn) };
        pieces.push(piece(fit(ready, 7), ready_tone));
    }
    pieces.push(piece(fit(&ballot, 7), Tone::Plain));
    pieces.push(piece(format!("{:>9}", status.decided), Tone::Plain));
    pieces.push(piece(format!("{lag:>7}  "), lag_tone));
    if is_wide {
        for link in &status.links {
            let (glyph, tone) = theme.link(link.is_up, link.is_cut);
            pieces.push(piece(format!("{}{glyph} ", short(&link.peer)), tone));
        }
        if let Some((state, restarts)) = &node.pod {
            let pod = match restarts {
                0 => format!(" pod {state}"),
                restarts => format!(" pod {state}, restarted {restarts}x"),
            };
            pieces.push(piece(theme.text(&pod), Tone::Dim));
        } else if app.size.0 >= 110 {
            pieces.push(piece(bar(status.decided, cluster.decided(), theme), Tone::Dim));
        }
    }
    pieces
}

fn short_of_ballot(status: &kvorum_protocol::Status) -> String {
    let owner = status.configuration.name_of(status.ballot.replica);
    owner.map_or_else(|| "-".to_owned(), short)
}

/// Returns why a node reports nothing.
fn absence(app: &App, node: &Node) -> String {
    let now = app.shown().3;
    match (&node.link, &node.pod) {
        // The pod's state says more than a missing reply does, unless the pod is ready.
        (Link::Down { since, .. }, Some((state, _))) if state != "Ready" => {
            format!("for {}: pod {state}", age(now.monotonic.saturating_sub(*since)))
        }
        (Link::Unknown, Some((state, _))) => format!("pod {state}"),
        (Link::Down { since, why }, _) => {
            format!("for {}: {why}", age(now.monotonic.saturating_sub(*since)))
        }
        (Link::Unknown, None) => "not seen yet".to_owned(),
        (Link::Up, _) => match node.silent {
            Some(silent) => format!("no sign of life for {}", age(silent)),
            None => "connected; it has not told its status yet".to_owned(),
        },
    }
}

/// Returns a replica's progress as a bar.
fn bar(decided: u64, most: u64, theme: Theme) -> String {
    let (full, empty) = theme.bar();
    let cells = match most {
        0 => BAR_CELLS,
        most => u64::try_from(u128::from(decided) * u128::from(BAR_CELLS) / u128::from(most))
            .unwrap_or(BAR_CELLS)
            .min(BAR_CELLS),
    };
    let cells = usize::try_from(cells).unwrap_or(0);
    let rest = usize::try_from(BAR_CELLS).unwrap_or(0) - cells;
    format!(" {}{}", full.repeat(cells), empty.repeat(rest))
}

/// Returns the side text of the log pane's rule.
pub fn log_side(app: &App) -> String {
    let mut parts = Vec::new();
    if !app.log.filter.text.is_empty() {
        parts.push(format!("filter {}", output::preview(app.log.filter.text.as_bytes())));
    }
    if !app.log.node.is_empty() {
        parts.push(format!("from {}", short(&app.log.node)));
    }
    parts.push(match (app.log.follows(), app.log.unseen) {
        (true, _) => "follow".to_owned(),
        (false, 0) => "STANDS STILL".to_owned(),
        (false, new) => format!("STANDS STILL, {new} new"),
    });
    parts.join(" · ")
}

pub fn log(app: &App, area: Rect, canvas: &mut Canvas<'_>) {
    let entries = app.log.window(usize::from(area.height));
    if entries.is_empty() {
        let why = match app.log.count() {
            0 => "   nothing is decided yet",
            _ => "   no entry fits the filter",
        };
        canvas.line(area, &[piece(why, Tone::Dim)]);
    }
    for (row, entry) in Canvas::rows(area).zip(entries) {
        canvas.line(row, &entry_line(app, entry, usize::from(area.width)));
    }
}

fn entry_line(app: &App, entry: &EntryEvent, width: usize) -> Vec<Piece> {
    let key = entry.key.as_ref().map_or(String::new(), |key| output::shown(&key.0));
    let tone = match (entry.kind, entry.took_effect) {
        (EntryKind::Noop, _) | (_, false) => Tone::Dim,
        (EntryKind::Delete, true) => Tone::Warn,
        _ => Tone::Plain,
    };
    let key_width = (width / 3).clamp(8, 40);
    let mut pieces = vec![
        piece(format!("{:>9} ", entry.index), Tone::Dim),
        piece(fit(output::kind(entry.kind), 7), tone),
        piece(fit(&key, key_width), tone),
        piece(" ", Tone::Plain),
    ];
    if let Some(value) = &entry.preview {
        pieces.push(piece(app.shown_value(output::preview(&value.0)), tone));
        if (value.0.len() as u64) < entry.value_bytes {
            pieces.push(piece(format!("… ({} bytes)", entry.value_bytes), Tone::Dim));
        }
    }
    if !entry.took_effect && entry.key.is_some() {
        pieces.push(piece("  (no change)", Tone::Dim));
    }
    pieces
}

/// Returns the side text of the events pane's rule.
pub fn events_side(app: &App) -> String {
    let errors = app.output.errors.len();
    let filter = match app.events_filter.text.is_empty() {
        true => String::new(),
        false => {
            format!("filter {} · ", output::preview(app.events_filter.text.as_bytes()))
        }
    };
    match errors {
        0 => format!("{filter}{}", app.output.said.1),
        errors => format!("{filter}{} · ! {errors} errors", app.output.said.1),
    }
}

pub fn events(app: &App, area: Rect, canvas: &mut Canvas<'_>) {
    let shows = |text: &str| app.events_filter.shows(&[text.as_bytes()]);
    let scroll = if app.focus == crate::prompt::PaneName::Events { app.scroll } else { 0 };
    let events: Vec<_> =
        app.output.events.iter().rev().filter(|event| shows(&event.text)).collect();
    let height = usize::from(area.height);
    let skipped = scroll.min(events.len().saturating_sub(height));
    for (row, event) in Canvas::rows(area).zip(events.into_iter().skip(skipped)) {
        let tone = match event.kind {
            Kind::Leader => Tone::Leader,
            Kind::Lost | Kind::Trouble | Kind::Cut => Tone::Bad,
            Kind::Returned | Kind::Ready | Kind::Healed => Tone::Good,
            Kind::Demo => Tone::Accent,
            Kind::Process | Kind::Members => Tone::Plain,
        };
        let at = time_of_day(event.wall_us, &app.settings.zone);
        let text = output::line(event.text.as_bytes());
        canvas.line(row, &[piece(format!(" {at} "), Tone::Dim), piece(text, tone)]);
    }
}

/// Draws the answers, with priority for the calls in progress.
pub fn output(app: &App, area: Rect, canvas: &mut Canvas<'_>) {
    let height = usize::from(area.height);
    let mut lines: Vec<Vec<Piece>> = Vec::new();
    let is_focused = app.focus == crate::prompt::PaneName::Output;
    let scroll = if is_focused { app.scroll } else { 0 };
    for pending in app.calls.values().filter(|pending| is_shown(app, pending)).take(height) {
        let waited = app.now.monotonic.saturating_sub(pending.since);
        let text = format!("{}, for {}", pending.text, age(waited));
        lines.push(vec![piece(" wait    ", Tone::Warn), piece(text, Tone::Plain)]);
    }
    let kept = app.output.lines.len();
    let skipped = scroll.min(kept.saturating_sub(height));
    let left = height.saturating_sub(lines.len());
    let said = app.output.lines.iter().rev().skip(skipped).take(left);
    let said: Vec<_> = said.collect();
    let mut all: Vec<Vec<Piece>> = Vec::new();
    for line in said.into_iter().rev() {
        let tone = canvas.theme.verdict(line.verdict);
        let word = piece(format!(" {} ", fit(line.verdict.word(), 7)), tone);
        all.push(vec![word, piece(output::line(line.text.as_bytes()), Tone::Plain)]);
    }
    all.extend(lines);
    for (row, pieces) in Canvas::rows(area).zip(all) {
        canvas.line(row, &pieces);
    }
}

/// Whether a call in progress gets a line; one that ends quickly does not.
fn is_shown(app: &App, pending: &crate::app::Pending) -> bool {
    let waited = app.now.monotonic.saturating_sub(pending.since);
    waited >= std::time::Duration::from_millis(200)
}
