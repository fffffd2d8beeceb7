//! Pure: the export of the screen as a picture: SVG with its colors, or plain text.
//!
//! Guarantees that the picture matches the screen cell by cell: it is made from the same buffer.

use std::fmt::Write;

use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};

/// The width and height of a cell in the picture.
const CELL: (f64, f64) = (8.4, 18.0);
/// The blank space around the screen.
const MARGIN: f64 = 12.0;
/// The picture's substitutes for the terminal's own colors.
const BACKGROUND: &str = "#161821";
const TEXT: &str = "#e3e6ee";

/// Returns the screen as text, without blanks at the ends of lines.
#[must_use]
pub fn text(buffer: &Buffer) -> String {
    let area = buffer.area;
    let mut text = String::new();
    for y in area.top()..area.bottom() {
        let mut line = String::new();
        let mut skip = 0;
        for x in area.left()..area.right() {
            let symbol = buffer.cell((x, y)).map_or(" ", Cell::symbol);
            if skip == 0 {
                line.push_str(symbol);
            }
            let width = unicode_width::UnicodeWidthStr::width(symbol);
            skip = if skip == 0 { width.saturating_sub(1) } else { skip - 1 };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Returns the screen as SVG.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a screen has few cells")]
pub fn svg(buffer: &Buffer) -> String {
    let area = buffer.area;
    let width = f64::from(area.width) * CELL.0 + 2.0 * MARGIN;
    let height = f64::from(area.height) * CELL.1 + 2.0 * MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\" \
         font-size=\"14\">\n<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{BACKGROUND}\"/>\n"
    );
    for y in area.top()..area.bottom() {
        let base = MARGIN + (f64::from(y - area.top()) + 0.75) * CELL.1;
        for (at, run, cell) in runs(buffer, y) {
            let x = MARGIN + at as f64 * CELL.0;
            let cells = run.chars().count() as f64;
            let is_reversed = cell.modifier.contains(Modifier::REVERSED);
            let (mut fill, mut under) = (color(cell.fg, TEXT), color(cell.bg, BACKGROUND));
            if is_reversed {
                std::mem::swap(&mut fill, &mut under);
            }
            if under != BACKGROUND {
                let top = base - 0.75 * CELL.1;
                let _ = writeln!(
                    svg,
                    "<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{}\" \
                     fill=\"{under}\"/>",
                    cells * CELL.0,
                    CELL.1
                );
            }
            if run.trim().is_empty() {
                continue;
            }
            let mut style = String::new();
            for (modifier, attribute) in [
                (Modifier::BOLD, " font-weight=\"bold\""),
                (Modifier::DIM, " opacity=\"0.65\""),
                (Modifier::UNDERLINED, " text-decoration=\"underline\""),
            ] {
                if cell.modifier.contains(modifier) {
                    style.push_str(attribute);
                }
            }
            let _ = writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{base:.1}\" fill=\"{fill}\"{style} textLength=\"{:.1}\" \
                 lengthAdjust=\"spacingAndGlyphs\" xml:space=\"preserve\">{}</text>",
                cells * CELL.0,
                escape(&run)
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// Returns the runs of equally styled cells in a row: the start, the text and the style of each.
fn runs(buffer: &Buffer, y: u16) -> Vec<(usize, String, Cell)> {
    let mut runs: Vec<(usize, String, Cell)> = Vec::new();
    for (at, x) in (buffer.area.left()..buffer.area.right()).enumerate() {
        let Some(cell) = buffer.cell((x, y)) else { continue };
        match runs.last_mut() {
            Some((_, text, style)) if style.style() == cell.style() => {
                text.push_str(cell.symbol());
            }
            _ => runs.push((at, cell.symbol().to_owned(), cell.clone())),
        }
    }
    runs
}

fn color(color: Color, terminal: &'static str) -> String {
    match color {
        Color::Rgb(r, g, b) => format!("#{r:02x}{g:02x}{b:02x}"),
        Color::Green => "#8cd17d".to_owned(),
        Color::Yellow => "#f2be5c".to_owned(),
        Color::Red => "#ff8a80".to_owned(),
        Color::Magenta => "#d6a5ff".to_owned(),
        Color::Cyan => "#7cc7ff".to_owned(),
        _ => terminal.to_owned(),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::style::Style;

    #[test]
    fn a_picture_is_what_was_drawn() {
        let mut buffer = Buffer::with_lines(["a<b  ", "日本 "]);
        buffer.set_style(
            ratatui::layout::Rect::new(0, 0, 1, 1),
            Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        );
        assert_eq!(text(&buffer), "a<b\n日本\n");
        let svg = svg(&buffer);
        for part in ["fill=\"#ff8a80\" font-weight=\"bold\"", "&lt;b", "viewBox=\"0 0 66 60\""] {
            assert!(svg.contains(part), "{part} in {svg}");
        }
    }
}
