//! Pure: the drawing of lines and rules in a buffer.
//!
//! Guarantees that everything drawn stays in its area, and that text is drawn in the theme's
//! glyphs. Does not know what it draws.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use unicode_width::UnicodeWidthStr;

use super::theme::{Theme, Tone};

/// A piece of a line: its text and its tone.
pub type Piece = (String, Tone);

/// Makes a piece of a line.
pub fn piece(text: impl Into<String>, tone: Tone) -> Piece {
    (text.into(), tone)
}

/// The surface to draw on.
pub struct Canvas<'a> {
    /// The cells.
    pub buffer: &'a mut Buffer,
    /// The colors and glyphs.
    pub theme: Theme,
}

impl Canvas<'_> {
    /// Draws a line into the first row of an area, in the theme's glyphs.
    pub fn line(&mut self, area: Rect, pieces: &[Piece]) {
        let pieces: Vec<Piece> =
            pieces.iter().map(|(text, tone)| (self.theme.text(text), *tone)).collect();
        self.raw(area, &pieces);
    }

    /// Draws a rule with a title at the left and a side text at the right.
    pub fn rule(&mut self, area: Rect, title: &str, side: &str, is_focused: bool) {
        let width = usize::from(area.width);
        let tone = if is_focused { Tone::Focus } else { Tone::Title };
        let rule = self.theme.rule();
        let side = self.theme.text(side);
        let title_width = title.width() + 3;
        // A side text without room for itself and a little rule is left out.
        let side = if title_width + side.width() + 4 <= width { side } else { String::new() };
        let side_width = if side.is_empty() { 0 } else { side.width() + 3 };
        let between = width.saturating_sub(title_width + side_width);
        let mut pieces = vec![
            piece(rule, Tone::Rule),
            piece(if is_focused { self.theme.pointer() } else { " " }, tone),
            piece(title, tone),
            piece(" ", Tone::Plain),
        ];
        pieces.push(piece(rule.repeat(between), Tone::Rule));
        if !side.is_empty() {
            pieces.push(piece(format!(" {side} "), Tone::Plain));
            pieces.push(piece(rule, Tone::Rule));
        }
        self.raw(area, &pieces);
    }

    /// Draws a line that already uses the theme's glyphs.
    pub fn raw(&mut self, area: Rect, pieces: &[Piece]) {
        let area = area.intersection(self.buffer.area);
        if area.is_empty() {
            return;
        }
        let mut x = area.x;
        for (text, tone) in pieces {
            let left = usize::from(area.right() - x);
            let style = self.theme.style(*tone);
            (x, _) = self.buffer.set_stringn(x, area.y, text, left, style);
        }
    }

    /// Returns the rows of an area, from the top.
    pub fn rows(area: Rect) -> impl Iterator<Item = Rect> {
        (area.top()..area.bottom()).map(move |y| Rect { y, height: 1, ..area })
    }
}
