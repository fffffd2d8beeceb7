//! The console in line mode: prints what is new since the last call.
//!
//! Guarantees that each answer and each event is printed once, in the order of their times. Does
//! not wait for a reader; when the reader is gone, the console ends.

use std::io::Write;

use super::Runtime;
use crate::app::dialog::Dialog;
use crate::output;
use crate::text::time_of_day;

impl Runtime {
    pub(super) fn print_lines(&mut self) {
        let (said, happened) = self.app.output.said;
        let zone = &self.app.settings.zone;
        let new = usize::try_from(happened - self.printed.1).unwrap_or(usize::MAX);
        let events = self.app.output.events.iter().rev().take(new).map(|event| {
            let text = output::line(event.text.as_bytes());
            (event.wall_us, format!("event   {text}"))
        });
        let new = usize::try_from(said - self.printed.0).unwrap_or(usize::MAX);
        let lines = self.app.output.lines.iter().rev().take(new).map(|line| {
            let text = output::line(line.text.as_bytes());
            (line.at.wall_us, format!("{:<7} {text}", line.verdict.word()))
        });
        let mut all: Vec<(u64, String)> = events.chain(lines).collect();
        all.reverse();
        all.sort_by_key(|(at, _)| *at);
        self.printed = (said, happened);
        let mut out = std::io::stdout().lock();
        for (at, text) in all {
            let _ = writeln!(out, "{} {text}", time_of_day(at, zone));
        }
        let title = |dialog: &Dialog| (dialog.title.clone(), dialog.lines.clone());
        let asked = self.asked.as_ref().map(title);
        if let Some(dialog) = self.app.dialog.as_ref().filter(|d| asked != Some(title(d))) {
            let answer = match dialog.tier {
                crate::app::dialog::Tier::Yes => "y or n".to_owned(),
                crate::app::dialog::Tier::Name => format!("type {}", dialog.name()),
                crate::app::dialog::Tier::Never => "Enter".to_owned(),
            };
            let text = dialog.lines.join(" ");
            let _ = writeln!(out, "ask     {} {text} [{answer}]", dialog.title);
        }
        self.asked.clone_from(&self.app.dialog);
        // The reader may be gone; that ends line mode.
        if out.flush().is_err() {
            self.app.is_quitting = true;
        }
    }

    pub(super) fn print_events(&mut self) {
        let happened = self.app.output.said.1;
        let new = usize::try_from(happened - self.printed.1).unwrap_or(usize::MAX);
        let kept = self.app.output.events.len();
        let mut out = std::io::stdout().lock();
        for event in self.app.output.events.iter().skip(kept.saturating_sub(new)) {
            let json = serde_json::to_string(event).unwrap_or_default();
            if writeln!(out, "{json}").and_then(|()| out.flush()).is_err() {
                self.app.is_quitting = true;
            }
        }
        self.printed.1 = happened;
    }
}
