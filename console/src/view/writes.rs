//! Pure: the write probe's pane: columns of 100 ms, the stamps of a failover, the proof.

use ratatui::layout::Rect;

use super::canvas::{Canvas, Piece, piece};
use super::theme::Tone;
use crate::app::App;
use crate::app::cluster::short;
use crate::app::failover::Stamps;
use crate::app::writes::proof_line;
use crate::app::writes::{COLUMN, ProbeState, Writes, column_of};
use crate::message::Now;
use crate::output::milliseconds;

/// Acknowledged writes in a full column: the probe's writes in 100 ms.
const FULL: u32 = 20;

/// Returns the side text of the writes pane's rule.
pub fn side(app: &App) -> String {
    let (_, writes, _, _) = app.shown();
    match writes.state {
        ProbeState::Off => "probe off · b".to_owned(),
        ProbeState::Proving => "reading again what was written".to_owned(),
        ProbeState::On => {
            let latency = writes.percentiles([50, 99]).map_or(String::new(), |[p50, p99]| {
                format!(" · p50 {} p99 {}", milliseconds(p50), milliseconds(p99))
            });
            format!("probe 200/s{latency} · acked {}", writes.acknowledged)
        }
    }
}

pub fn draw(app: &App, area: Rect, canvas: &mut Canvas<'_>) {
    let (_, writes, failover, now) = app.shown();
    let has_strip = writes.first_column().is_some();
    let mut notes: Vec<Vec<Piece>> = Vec::new();
    if let Some(last) = &failover.last {
        notes.push(stamps_line(last));
    }
    match &writes.proof {
        Some(Ok(proof)) => {
            let tone = if proof.is_kept() { Tone::Good } else { Tone::Bad };
            notes.push(vec![piece(format!(" proof: {}", proof_line(proof)), tone)]);
        }
        Some(Err(why)) => notes.push(vec![piece(format!(" no proof: {why}"), Tone::Bad)]),
        None if writes.unknown > 0 => {
            let text = format!(" {} writes ended unknown", writes.unknown);
            notes.push(vec![piece(text, Tone::Warn)]);
        }
        None => {}
    }
    if !has_strip && notes.is_empty() {
        let text = " b writes 200 times a second and shows each 100 ms as a column";
        notes.push(vec![piece(text, Tone::Dim)]);
    }
    let rows: Vec<Rect> = Canvas::rows(area).collect();
    // The chart comes first, its marks second, then the notes; spare rows make the chart higher.
    let for_notes = notes.len().min(rows.len().saturating_sub(usize::from(has_strip)));
    let for_strip = if has_strip { rows.len() - for_notes } else { 0 };
    let has_marks = for_strip >= 2 && failover.last.is_some();
    let chart = for_strip - usize::from(has_marks);
    for (at, row) in rows.iter().take(chart).enumerate() {
        strip(writes, now, chart - at, chart, *row, canvas);
    }
    if has_marks && let Some(last) = &failover.last {
        marks(last, now, rows[chart], canvas);
    }
    for (row, note) in rows.iter().skip(for_strip).zip(notes) {
        canvas.line(*row, &note);
    }
}

/// Returns the number of the column at a cell; the newest complete one is at the right.
fn column_at(now: Now, area: Rect, x: u16) -> Option<u64> {
    let newest = column_of(now.monotonic).checked_sub(1)?;
    newest.checked_sub(u64::from(area.right() - 1 - x))
}

/// Draws one row of the chart, counted from the bottom.
fn strip(
    writes: &Writes,
    now: Now,
    level: usize,
    levels: usize,
    area: Rect,
    canvas: &mut Canvas<'_>,
) {
    let first = writes.first_column().unwrap_or(u64::MAX);
    let mut line = String::new();
    for x in area.left()..area.right() {
        let column = column_at(now, area, x).filter(|column| *column >= first);
        let Some(column) = column else {
            line.push(' ');
            continue;
        };
        let acked = usize::try_from(writes.column(column).min(FULL)).unwrap_or(0);
        let full = usize::try_from(FULL).unwrap_or(1);
        let eighths = (acked * 8 * levels).div_ceil(full);
        let here = eighths.saturating_sub((level - 1) * 8).min(8);
        // A column without writes is shown differently from one before the first write.
        let is_gap = acked == 0 && level == 1;
        line.push_str(if is_gap { canvas.theme.dot() } else { canvas.theme.column(here) });
    }
    canvas.raw(area, &[piece(line, Tone::Good)]);
}

/// Returns the number of the column that holds a stamp.
fn column_of_stamp(stamp: u64, now: Now) -> Option<u64> {
    let ago = std::time::Duration::from_micros(now.wall_us.checked_sub(stamp)?);
    Some(column_of(now.monotonic.checked_sub(ago)?))
}

/// Draws the row under the chart, with the positions of the stamps.
fn marks(last: &Stamps, now: Now, area: Rect, canvas: &mut Canvas<'_>) {
    let glyphs = canvas.theme.stamps();
    let tones = [Tone::Bad, Tone::Warn, Tone::Leader, Tone::Good];
    let stamps = last.list();
    for x in area.left()..area.right() {
        let Some(column) = column_at(now, area, x) else { continue };
        let here = (0..stamps.len())
            .rev()
            .find(|at| stamps[*at].1.and_then(|s| column_of_stamp(s, now)) == Some(column));
        if let Some(at) = here {
            let cell = Rect { x, width: 1, ..area };
            canvas.raw(cell, &[piece(glyphs[at], tones[at])]);
        }
    }
    let scale = format!("{} ms a column", COLUMN.as_millis());
    let width = u16::try_from(scale.len()).unwrap_or(0);
    if area.width > 3 * width {
        canvas.raw(Rect { width, ..area }, &[piece(scale, Tone::Dim)]);
    }
}

/// Returns the stamps in words: the time of each after the first one.
fn stamps_line(last: &Stamps) -> Vec<Piece> {
    let Some(began) = last.began() else { return Vec::new() };
    let after = |stamp: u64| stamp.saturating_sub(began) / 1000;
    let mut pieces = vec![piece(format!(" {} ", short(&last.from)), Tone::Bad)];
    pieces.push(match last.is_handed_over() {
        true => piece("handed over", Tone::Plain),
        false => piece(if last.killed.is_some() { "killed" } else { "lost" }, Tone::Bad),
    });
    if let Some(noticed) = last.noticed {
        pieces.push(piece(format!(" · {} ms noticed", after(noticed)), Tone::Plain));
    }
    match &last.elected {
        Some((leader, _, at)) => {
            let text = format!(" · {} ms {} elected", after(*at), short(leader));
            pieces.push(piece(text, Tone::Leader));
        }
        None => pieces.push(piece(" · no leader yet", Tone::Warn)),
    }
    if let Some((_, first)) = last.writes {
        pieces.push(piece(format!(" · {} ms first write", after(first)), Tone::Good));
    }
    if let Some(gap) = last.gap_us() {
        pieces.push(piece(format!(" · {} ms without", gap / 1000), Tone::Plain));
    }
    pieces
}
