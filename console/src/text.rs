//! Pure: words, numbers and times as they are drawn.
//!
//! Guarantees that two states never have the same word, so that everything is shown without color
//! and with ASCII alone; and that nothing a terminal would interpret is drawn.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::app::cluster::State;

/// Returns a replica's state, in one word.
#[must_use]
pub fn state_word(state: State) -> &'static str {
    match state {
        State::Leader => "LEADER",
        State::Follower => "follower",
        State::Alone => "alone",
        State::Candidate => "candidate",
        State::Recovering => "catch-up",
        State::Gathering => "gathering",
        State::Outside => "outside",
        State::Joining => "joining",
        State::Retired => "retired",
        State::Starting => "starting",
        State::Silent => "silent",
        State::Down => "down",
        State::Unknown => "unknown",
    }
}

/// Fits text into exactly `width` cells: cut with a `~`, or filled with blanks.
#[must_use]
pub fn fit(text: &str, width: usize) -> String {
    let cells = text.width();
    if cells <= width {
        return format!("{text}{}", " ".repeat(width - cells));
    }
    let mut fitted = String::new();
    let mut used = 0;
    for character in text.chars() {
        let cells = character.width().unwrap_or(0);
        if used + cells + 1 > width {
            break;
        }
        fitted.push(character);
        used += cells;
    }
    if used < width {
        fitted.push('~');
        used += 1;
    }
    format!("{fitted}{}", " ".repeat(width - used))
}

/// Formats a time of day, with seconds.
#[must_use]
pub fn time_of_day(wall_us: u64, zone: &TimeZone) -> String {
    let at = i64::try_from(wall_us).ok().and_then(|us| Timestamp::from_microsecond(us).ok());
    match at {
        Some(at) => at.to_zoned(zone.clone()).strftime("%H:%M:%S").to_string(),
        None => "--:--:--".to_owned(),
    }
}

/// Formats a span of time, short: `3s`, `4m`, `2h`.
#[must_use]
pub fn age(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..=99 => format!("{seconds}s"),
        seconds @ 100..=5999 => format!("{}m", seconds / 60),
        seconds => format!("{}h", seconds / 3600),
    }
}

/// Formats a number of bytes, short.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    match bytes {
        0..=9_999 => bytes.to_string(),
        10_000..=10_239_999 => format!("{}K", bytes >> 10),
        _ => format!("{}M", bytes >> 20),
    }
}

/// Breaks text into lines of at most `width` cells, at blanks where there are some.
#[must_use]
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = Vec::new();
    for part in text.split('\n') {
        let mut line = String::new();
        for word in part.split_inclusive(' ') {
            if !line.is_empty() && line.width() + word.trim_end().width() > width {
                lines.push(std::mem::take(&mut line));
            }
            line.push_str(word);
            while line.trim_end().width() > width {
                let end = cut(&line, width);
                let rest = line.split_off(end);
                lines.push(std::mem::replace(&mut line, rest));
            }
        }
        lines.push(line);
    }
    lines
}

/// Returns the end of the text that fits into `width` cells; at least one character fits.
fn cut(text: &str, width: usize) -> usize {
    let mut used = 0;
    for (at, character) in text.char_indices() {
        used += character.width().unwrap_or(0);
        if used > width && at > 0 {
            return at;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::output::Verdict;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_states_have_the_same_word() {
        let states: BTreeSet<_> = State::ALL.iter().map(|state| state_word(*state)).collect();
        assert_eq!(states.len(), State::ALL.len());
        let verdicts: BTreeSet<_> = Verdict::ALL.iter().map(|verdict| verdict.word()).collect();
        assert_eq!(verdicts.len(), Verdict::ALL.len());
        assert!(states.iter().chain(&verdicts).all(|word| word.is_ascii()));
    }

    #[test]
    fn text_fits_its_cells() {
        let cases = [
            ("abc", 5, "abc  "),
            ("abcdef", 4, "abc~"),
            ("日本語", 4, "日~ "),
            ("日本語", 5, "日本~"),
            ("a", 0, ""),
            ("", 2, "  "),
        ];
        for (text, width, fitted) in cases {
            assert_eq!(fit(text, width), fitted, "{text} {width}");
        }
    }

    #[test]
    fn long_text_is_broken_at_blanks() {
        assert_eq!(wrap("one two three", 7), ["one two ", "three"]);
        assert_eq!(wrap("abcdefgh", 3), ["abc", "def", "gh"]);
        assert_eq!(wrap("a\n\nb", 3), ["a", "", "b"]);
        assert_eq!(wrap("日本", 1).concat(), "日本");
    }
}
