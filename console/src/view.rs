//! Pure: the screen, drawn from the console's state.
//!
//! | module | what it is |
//! |---|---|
//! | `theme` | colors and glyphs |
//! | `text` | words, numbers, times |
//! | `canvas` | lines and rules in a buffer |
//! | `panes`, `keys`, `writes` | the panes |
//! | `overlay` | dialogs and pages of text |
//! | `bar` | title, prompt and hint line |
//!
//! Guarantees that nothing is drawn outside the area and that no size makes it panic. Changes
//! nothing.

mod bar;
pub mod canvas;
mod keys;
mod overlay;
mod panes;
pub mod picture;
pub mod theme;
mod writes;

use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};

use crate::app::{App, Stage, layout};
use crate::prompt::PaneName;
use canvas::Canvas;
use theme::{Theme, Tone};

pub use bar::HEARTBEAT_SECONDS;

/// The size below which there is only one line.
const LINE_BELOW: (u16, u16) = (20, 5);
/// The size below which the screen is compact.
const COMPACT_BELOW: (u16, u16) = (80, 20);

/// Draws the screen, and returns where the cursor is, if it is shown.
pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) -> Option<Position> {
    let area = area.intersection(buffer.area);
    let theme = Theme::of(&app.settings);
    buffer.set_style(area, theme.style(Tone::Plain));
    let mut canvas = Canvas { buffer, theme };
    if area.width < LINE_BELOW.0 || area.height < LINE_BELOW.1 {
        let first = Rect { height: area.height.min(1), ..area };
        canvas.line(first, &bar::one_line(app));
        return None;
    }
    let [title, body, prompt, hint] = bands(area);
    canvas.line(title, &bar::title(app, title.width));
    let is_covered = app.page.is_some();
    match (&app.page, &app.stage) {
        (Some(page), _) => overlay::page(app, page, body, &mut canvas),
        (None, Stage::Detached { why }) => overlay::connect(app, why, body, &mut canvas),
        (None, _) => panes_of(app, area, body, &mut canvas),
    }
    let cursor = bar::prompt(app, prompt, &mut canvas);
    canvas.line(hint, &bar::hint(app, hint.width));
    match &app.dialog {
        Some(dialog) => {
            overlay::dialog(app, dialog, body.union(prompt), &mut canvas);
            None
        }
        None => cursor.filter(|_| !is_covered || app.prompt.is_open),
    }
}

/// Splits an area into title, body, prompt and hint line.
fn bands(area: Rect) -> [Rect; 4] {
    let row = |y: u16| Rect { y: area.y + y, height: 1, ..area };
    let body = Rect { y: area.y + 1, height: area.height - 3, ..area };
    [row(0), body, row(area.height - 2), row(area.height - 1)]
}

/// Draws the panes that the size has room for.
fn panes_of(app: &App, area: Rect, body: Rect, canvas: &mut Canvas<'_>) {
    let is_compact = area.width < COMPACT_BELOW.0 || area.height < COMPACT_BELOW.1;
    let has_columns = area.width >= layout::TWO_COLUMNS && !is_compact;
    // The Keys pane has a place of its own only where there are two columns.
    let is_alone = app.zoomed || (app.focus == PaneName::Keys && !has_columns);
    if is_alone {
        let output = if app.focus == PaneName::Output { 0 } else { output_lines(body.height) };
        let [pane, output] = split_rows(body, body.height - output);
        self::pane(app, app.focus, pane, canvas);
        self::pane(app, PaneName::Output, output, canvas);
    } else if has_columns {
        two_columns(app, body, canvas);
    } else {
        one_column(app, body, canvas);
    }
}

/// Returns the number of lines of the Output pane, with its rule, below other panes.
fn output_lines(height: u16) -> u16 {
    match height {
        0..=5 => 0,
        6..=14 => 2,
        15..=29 => 3,
        _ => 5,
    }
}

/// Returns the number of lines of the Nodes pane, with its rule and its header.
fn node_lines(app: &App, height: u16) -> u16 {
    let nodes = u16::try_from(app.shown().0.count().max(1)).unwrap_or(u16::MAX);
    nodes.saturating_add(if height < 15 { 1 } else { 2 }).min(height / 2 + 1).min(height)
}

fn one_column(app: &App, body: Rect, canvas: &mut Canvas<'_>) {
    let mut wanted = [
        (PaneName::Nodes, node_lines(app, body.height)),
        (PaneName::Log, 0),
        (PaneName::Writes, if body.height < 12 { 0 } else { 4 }),
        (PaneName::Events, if body.height < 9 { 0 } else { (body.height / 5).max(2) }),
        (PaneName::Output, output_lines(body.height)),
    ];
    // The pane that has the focus is visible, however small the screen.
    let least = if body.height >= 4 { 2 } else { 0 };
    for (name, lines) in &mut wanted {
        if *name == app.focus {
            *lines = (*lines).max(least);
        }
    }
    let mut taken: u16 = wanted.iter().map(|(_, lines)| lines).sum();
    // Panes give way in this order; the Nodes pane never vanishes.
    let log_least = if app.focus == PaneName::Log { 3 } else { 0 };
    for name in [PaneName::Events, PaneName::Writes, PaneName::Output, PaneName::Nodes] {
        let place = wanted.iter().position(|(pane, _)| *pane == name).unwrap_or(0);
        let excess = (taken + log_least).saturating_sub(body.height);
        let gives = match name == app.focus || name == PaneName::Nodes {
            true => excess.min(wanted[place].1.saturating_sub(2)),
            false if excess > 0 => wanted[place].1,
            false => 0,
        };
        wanted[place].1 -= gives;
        taken -= gives;
    }
    wanted[1].1 = body.height.saturating_sub(taken);
    let mut rest = body;
    for (name, lines) in wanted {
        let [area, below] = split_rows(rest, lines);
        pane(app, name, area, canvas);
        rest = below;
    }
}

fn two_columns(app: &App, body: Rect, canvas: &mut Canvas<'_>) {
    let [main, output] = split_rows(body, body.height - output_lines(body.height));
    let [left, right] = split_columns(main, main.width / 2);
    let [nodes, rest] = split_rows(left, node_lines(app, left.height));
    let [writes, events] = split_rows(rest, (rest.height / 2).min(9));
    let [log, keys] = split_rows(right, right.height / 2);
    pane(app, PaneName::Nodes, nodes, canvas);
    pane(app, PaneName::Writes, writes, canvas);
    pane(app, PaneName::Events, events, canvas);
    pane(app, PaneName::Log, log, canvas);
    pane(app, PaneName::Keys, keys, canvas);
    pane(app, PaneName::Output, output, canvas);
}

fn split_rows(area: Rect, lines: u16) -> [Rect; 2] {
    let lines = lines.min(area.height);
    let below = Rect { y: area.y + lines, height: area.height - lines, ..area };
    [Rect { height: lines, ..area }, below]
}

/// Splits an area into two columns with a blank one between.
fn split_columns(area: Rect, columns: u16) -> [Rect; 2] {
    let columns = columns.min(area.width);
    let x = (area.x + columns + 1).min(area.right());
    let right = Rect { x, width: area.right() - x, ..area };
    [Rect { width: columns, ..area }, right]
}

/// Draws one pane: its rule with the title, and its content.
fn pane(app: &App, name: PaneName, area: Rect, canvas: &mut Canvas<'_>) {
    if area.is_empty() {
        return;
    }
    let [rule, inside] = split_rows(area, 1);
    let is_focused = app.focus == name && app.dialog.is_none() && !app.prompt.is_open;
    let (title, side) = match name {
        PaneName::Nodes => ("1 Nodes", panes::nodes_side(app)),
        PaneName::Log => ("2 Log", panes::log_side(app)),
        PaneName::Keys => ("3 Keys", keys::side(app)),
        PaneName::Writes => ("4 Writes", writes::side(app)),
        PaneName::Events => ("5 Events", panes::events_side(app)),
        PaneName::Output => ("6 Output", String::new()),
    };
    canvas.rule(rule, title, &side, is_focused);
    match name {
        PaneName::Nodes => panes::nodes(app, inside, canvas),
        PaneName::Log => panes::log(app, inside, canvas),
        PaneName::Keys => keys::draw(app, inside, canvas),
        PaneName::Writes => writes::draw(app, inside, canvas),
        PaneName::Events => panes::events(app, inside, canvas),
        PaneName::Output => panes::output(app, inside, canvas),
    }
}
