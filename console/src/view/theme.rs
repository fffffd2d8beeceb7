//! Pure: all colors and glyphs of the console.
//!
//! Guarantees that `auto` and `mono` set no background and neither black nor white, that `mono`
//! sets no color at all, and that the other themes keep a contrast of 4.5 to 1 (WCAG 2.1, 1.4.3).
//! All glyphs are one cell wide. Does not know what is drawn with them.

use ratatui::style::{Color, Modifier, Style};

use crate::app::Settings;
use crate::app::cluster::State;
use crate::app::output::Verdict;
use crate::arguments::ThemeName;

/// The meaning of a piece of text, which decides its color.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tone {
    /// Text.
    Plain,
    /// Text of less importance.
    Dim,
    /// Rules between panes.
    Rule,
    /// Titles.
    Title,
    /// The title of the focused pane.
    Focus,
    /// Healthy.
    Good,
    /// Not healthy yet, or not for much longer.
    Warn,
    /// Unhealthy.
    Bad,
    /// The leader.
    Leader,
    /// Keyboard keys and names.
    Accent,
}

impl Tone {
    /// Every tone.
    pub const ALL: [Self; 10] = [
        Self::Plain,
        Self::Dim,
        Self::Rule,
        Self::Title,
        Self::Focus,
        Self::Good,
        Self::Warn,
        Self::Bad,
        Self::Leader,
        Self::Accent,
    ];
}

/// A theme: colors and glyphs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Theme {
    name: ThemeName,
    ascii: bool,
}

impl Theme {
    /// Returns the theme that the settings select.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let name = match settings.theme {
            ThemeName::Auto if settings.no_color => ThemeName::Mono,
            name => name,
        };
        Self { name, ascii: settings.ascii }
    }

    /// Returns the style of a tone.
    #[must_use]
    pub fn style(self, tone: Tone) -> Style {
        let modifier = match tone {
            Tone::Plain | Tone::Good | Tone::Accent => Modifier::empty(),
            Tone::Dim | Tone::Rule => self.dim(),
            Tone::Title | Tone::Warn | Tone::Bad | Tone::Leader => Modifier::BOLD,
            Tone::Focus => Modifier::BOLD.union(Modifier::UNDERLINED),
        };
        let style = Style::new().add_modifier(modifier);
        match self.name {
            ThemeName::Mono => style,
            ThemeName::Auto => match terminal_color(tone) {
                Some(color) => style.fg(color),
                None => style,
            },
            ThemeName::Dark => style.fg(true_color(tone, &DARK)).bg(DARK.background),
            ThemeName::Light => style.fg(true_color(tone, &LIGHT)).bg(LIGHT.background),
        }
    }

    /// Returns the modifier for fainter text; true colors are faint by themselves.
    fn dim(self) -> Modifier {
        match self.name {
            ThemeName::Auto | ThemeName::Mono => Modifier::DIM,
            ThemeName::Dark | ThemeName::Light => Modifier::empty(),
        }
    }

    fn glyph(self, unicode: &'static str, ascii: &'static str) -> &'static str {
        if self.ascii { ascii } else { unicode }
    }

    /// Returns a state's glyph and tone.
    #[must_use]
    pub fn state(self, state: State) -> (&'static str, Tone) {
        match state {
            State::Leader => (self.glyph("♛", "*"), Tone::Leader),
            State::Follower => (self.glyph("✓", "+"), Tone::Good),
            State::Alone | State::Candidate | State::Starting => (self.glyph("▲", "!"), Tone::Warn),
            State::Recovering => (self.glyph("↺", "~"), Tone::Warn),
            State::Joining => (self.glyph("⇡", "^"), Tone::Warn),
            State::Retired => (self.glyph("⇣", "v"), Tone::Warn),
            State::Gathering => (self.glyph("…", "."), Tone::Warn),
            State::Outside | State::Down => (self.glyph("✗", "x"), Tone::Bad),
            State::Silent | State::Unknown => ("?", Tone::Warn),
        }
    }

    /// Returns a verdict's tone.
    #[must_use]
    pub fn verdict(self, verdict: Verdict) -> Tone {
        match verdict {
            Verdict::Done => Tone::Good,
            Verdict::Pending | Verdict::Unknown => Tone::Warn,
            Verdict::Refused => Tone::Bad,
            Verdict::Note => Tone::Dim,
        }
    }

    /// Returns the glyph and tone of a link that is up, down or cut.
    #[must_use]
    pub fn link(self, is_up: bool, is_cut: bool) -> (&'static str, Tone) {
        match (is_up, is_cut) {
            (_, true) => (self.glyph("╳", "#"), Tone::Bad),
            (true, false) => (self.glyph("✓", "+"), Tone::Good),
            (false, false) => (self.glyph("✗", "x"), Tone::Warn),
        }
    }

    /// Returns the glyph of a rule.
    #[must_use]
    pub fn rule(self) -> &'static str {
        self.glyph("─", "-")
    }

    /// Returns the glyph that points at the focused pane.
    #[must_use]
    pub fn pointer(self) -> &'static str {
        self.glyph("›", ">")
    }

    /// Returns a dialog's frame: corners, horizontal, vertical.
    #[must_use]
    pub fn frame(self) -> ratatui::symbols::border::Set<'static> {
        match self.ascii {
            false => ratatui::symbols::border::DOUBLE,
            true => ratatui::symbols::border::Set {
                top_left: "+",
                top_right: "+",
                bottom_left: "+",
                bottom_right: "+",
                vertical_left: "|",
                vertical_right: "|",
                horizontal_top: "=",
                horizontal_bottom: "=",
            },
        }
    }

    /// Returns a column of a chart, from 0 to 8 eighths.
    #[must_use]
    pub fn column(self, eighths: usize) -> &'static str {
        const UNICODE: [&str; 9] = [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];
        const ASCII: [&str; 9] = [" ", ".", ".", ":", ":", "=", "=", "#", "#"];
        let eighths = eighths.min(8);
        if self.ascii { ASCII[eighths] } else { UNICODE[eighths] }
    }

    /// Returns a full and an empty cell of a bar.
    #[must_use]
    pub fn bar(self) -> (&'static str, &'static str) {
        (self.glyph("█", "#"), self.glyph("░", "."))
    }

    /// Returns the stamps of a failover: killed, noticed, elected, first write.
    #[must_use]
    pub fn stamps(self) -> [&'static str; 4] {
        [self.glyph("✗", "x"), self.glyph("?", "?"), self.glyph("♛", "*"), self.glyph("▲", "^")]
    }

    /// Returns the separator within a line.
    #[must_use]
    pub fn dot(self) -> &'static str {
        self.glyph("·", "|")
    }

    /// Returns text in the glyphs that the theme allows.
    #[must_use]
    pub fn text(self, text: &str) -> String {
        if !self.ascii {
            return text.to_owned();
        }
        let mut plain = String::with_capacity(text.len());
        for character in text.chars() {
            match character {
                '→' => plain.push_str("->"),
                '–' | '—' => plain.push('-'),
                '·' => plain.push('|'),
                '…' => plain.push_str("..."),
                '•' => plain.push('*'),
                character if character.is_ascii() => plain.push(character),
                _ => plain.push('?'),
            }
        }
        plain
    }
}

/// Returns the color of a tone in the terminal's own palette.
fn terminal_color(tone: Tone) -> Option<Color> {
    match tone {
        Tone::Plain | Tone::Dim | Tone::Rule | Tone::Title | Tone::Focus => None,
        Tone::Good => Some(Color::Green),
        Tone::Warn => Some(Color::Yellow),
        Tone::Bad => Some(Color::Red),
        Tone::Leader => Some(Color::Magenta),
        Tone::Accent => Some(Color::Cyan),
    }
}

/// The palette of a theme with its own colors.
struct Palette {
    background: Color,
    text: Color,
    dim: Color,
    good: Color,
    warn: Color,
    bad: Color,
    leader: Color,
    accent: Color,
}

const DARK: Palette = Palette {
    background: Color::Rgb(0x16, 0x18, 0x21),
    text: Color::Rgb(0xe3, 0xe6, 0xee),
    dim: Color::Rgb(0x93, 0x9a, 0xb0),
    good: Color::Rgb(0x8c, 0xd1, 0x7d),
    warn: Color::Rgb(0xf2, 0xbe, 0x5c),
    bad: Color::Rgb(0xff, 0x8a, 0x80),
    leader: Color::Rgb(0xd6, 0xa5, 0xff),
    accent: Color::Rgb(0x7c, 0xc7, 0xff),
};

const LIGHT: Palette = Palette {
    background: Color::Rgb(0xfc, 0xfb, 0xf8),
    text: Color::Rgb(0x1f, 0x23, 0x2e),
    dim: Color::Rgb(0x5c, 0x62, 0x73),
    good: Color::Rgb(0x1d, 0x6b, 0x2f),
    warn: Color::Rgb(0x8a, 0x56, 0x00),
    bad: Color::Rgb(0xb0, 0x20, 0x20),
    leader: Color::Rgb(0x76, 0x2a, 0xb0),
    accent: Color::Rgb(0x0a, 0x5c, 0xa0),
};

fn true_color(tone: Tone, palette: &Palette) -> Color {
    match tone {
        Tone::Plain | Tone::Title | Tone::Focus => palette.text,
        Tone::Dim | Tone::Rule => palette.dim,
        Tone::Good => palette.good,
        Tone::Warn => palette.warn,
        Tone::Bad => palette.bad,
        Tone::Leader => palette.leader,
        Tone::Accent => palette.accent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unicode_width::UnicodeWidthStr;

    fn theme(name: ThemeName) -> Theme {
        Theme { name, ascii: false }
    }

    /// Returns the relative luminance, as WCAG 2.1 defines it.
    fn luminance(color: Color) -> f64 {
        let Color::Rgb(r, g, b) = color else { panic!("{color:?} is no true color") };
        let linear = |channel: u8| {
            let share = f64::from(channel) / 255.0;
            if share <= 0.04045 { share / 12.92 } else { ((share + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)
    }

    #[test]
    fn true_colors_have_contrast() {
        for name in [ThemeName::Dark, ThemeName::Light] {
            for tone in Tone::ALL {
                let style = theme(name).style(tone);
                let (Some(fg), Some(bg)) = (style.fg, style.bg) else { panic!("{tone:?}") };
                let (a, b) = (luminance(fg), luminance(bg));
                let contrast = (a.max(b) + 0.05) / (a.min(b) + 0.05);
                assert!(contrast >= 4.5, "{name:?} {tone:?}: {contrast:.2}");
            }
        }
    }

    #[test]
    fn the_terminals_own_background_is_left_alone() {
        for tone in Tone::ALL {
            let auto = theme(ThemeName::Auto).style(tone);
            assert_eq!(auto.bg, None);
            assert!(!matches!(auto.fg, Some(Color::Black | Color::White)), "{tone:?}");
            let mono = theme(ThemeName::Mono).style(tone);
            assert_eq!((mono.fg, mono.bg), (None, None));
        }
    }

    #[test]
    fn glyphs_are_one_cell_wide_and_ascii_is_ascii() {
        for ascii in [false, true] {
            let theme = Theme { name: ThemeName::Auto, ascii };
            let mut glyphs: Vec<&str> = State::ALL.iter().map(|s| theme.state(*s).0).collect();
            glyphs.extend(theme.stamps());
            glyphs.extend((0..=8).map(|eighths| theme.column(eighths)));
            glyphs.extend([theme.bar().0, theme.bar().1, theme.rule(), theme.dot()]);
            glyphs.push(theme.pointer());
            for (up, cut) in [(true, false), (false, false), (false, true)] {
                glyphs.push(theme.link(up, cut).0);
            }
            for glyph in glyphs {
                assert_eq!(glyph.width(), 1, "{glyph}");
                assert!(!ascii || glyph.is_ascii(), "{glyph}");
            }
        }
        let links = [(true, false), (false, false), (false, true)];
        for ascii in [false, true] {
            let theme = Theme { name: ThemeName::Mono, ascii };
            let told: std::collections::BTreeSet<_> =
                links.iter().map(|(up, cut)| theme.link(*up, *cut).0).collect();
            assert_eq!(told.len(), links.len(), "links differ by glyph alone");
        }
    }
}
