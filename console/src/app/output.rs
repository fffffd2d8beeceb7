//! Pure: the console's messages: answers, events, errors.
//!
//! Guarantees that no message is only shown briefly: every answer stays in the output, every
//! happening in the events, every error in the errors, each bounded in number. Does not draw.

use std::collections::VecDeque;

use super::cluster::ClusterEvent;
use crate::exit::{Exit, Failure};
use crate::message::Now;

/// The number of answers, of events and of errors kept.
const LINES_MAX: usize = 500;

/// One answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// How it ended.
    pub verdict: Verdict,
    /// The answer in words.
    pub text: String,
    /// When it was given.
    pub at: Now,
}

/// The outcome that an answer reports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verdict {
    /// Done.
    Done,
    /// Still in progress.
    Pending,
    /// Did not and will not happen.
    Refused,
    /// May or may not have happened.
    Unknown,
    /// For information only.
    Note,
}

impl Verdict {
    /// Every verdict.
    pub const ALL: [Self; 5] =
        [Self::Done, Self::Pending, Self::Refused, Self::Unknown, Self::Note];

    /// Returns the verdict for the end of a call.
    #[must_use]
    pub fn of(stop: &Failure) -> Self {
        match stop.exit {
            Exit::Unknown => Self::Unknown,
            Exit::Done => Self::Done,
            _ => Self::Refused,
        }
    }

    /// Returns the verdict in one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Done => "ok",
            Self::Pending => "wait",
            Self::Refused => "error",
            Self::Unknown => "unknown",
            Self::Note => "note",
        }
    }
}

/// All messages of the console.
#[derive(Clone, Default, Debug)]
pub struct Output {
    /// The answers, the latest at the end.
    pub lines: VecDeque<Line>,
    /// The events, the latest at the end.
    pub events: VecDeque<ClusterEvent>,
    /// The errors, the latest at the end.
    pub errors: VecDeque<Line>,
    /// The total number of errors.
    pub failed: u64,
    /// The total numbers of lines and events, by which a plain console finds unprinted ones.
    pub said: (u64, u64),
}

impl Output {
    /// Adds an answer.
    pub fn say(&mut self, at: Now, verdict: Verdict, text: impl Into<String>) {
        let line = Line { verdict, text: text.into(), at };
        if matches!(verdict, Verdict::Refused | Verdict::Unknown) {
            push(&mut self.errors, line.clone());
            self.failed += 1;
        }
        push(&mut self.lines, line);
        self.said.0 += 1;
    }

    /// Adds an event.
    pub fn happened(&mut self, happening: ClusterEvent) {
        push(&mut self.events, happening);
        self.said.1 += 1;
    }

    /// Clears the answers.
    pub fn clear(&mut self) {
        self.lines.clear();
    }
}

fn push<T>(lines: &mut VecDeque<T>, line: T) {
    if lines.len() == LINES_MAX {
        lines.pop_front();
    }
    lines.push_back(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_stay_and_memory_is_bounded() {
        let mut output = Output::default();
        output.say(Now::default(), Verdict::Refused, "no");
        for number in 0..2 * LINES_MAX {
            output.say(Now::default(), Verdict::Done, number.to_string());
        }
        assert_eq!((output.lines.len(), output.errors.len()), (LINES_MAX, 1));
        output.clear();
        assert_eq!((output.lines.len(), output.said.0), (0, 2 * LINES_MAX as u64 + 1));
    }
}
