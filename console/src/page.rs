//! Pure: pages of text, as they are drawn and copied.
//!
//! Guarantees that no page contains anything that a terminal would obey.

use crate::app::{App, Page};
use crate::prompt::grammar::usage;
use crate::text::{fit, time_of_day};
use crate::{keymap, output};

/// Returns the lines of a page of text.
#[must_use]
pub fn lines(app: &App, page: &Page) -> Vec<String> {
    match page {
        Page::Help => help(app),
        Page::Errors if app.output.errors.is_empty() => vec!["There are no errors.".to_owned()],
        Page::Errors => app
            .output
            .errors
            .iter()
            .rev()
            .map(|line| {
                let at = time_of_day(line.at.wall_us, &app.settings.zone);
                let text = output::line(line.text.as_bytes());
                format!("{at}  {:<7}  {text}", line.verdict.word())
            })
            .collect(),
        Page::Logs { lines: None, .. } => vec!["reading…".to_owned()],
        Page::Logs { lines: Some(lines), .. } => {
            lines.iter().map(|line| output::line(line.as_bytes())).collect()
        }
    }
}

/// Lists keys and commands, from the tables by which they are read.
fn help(app: &App) -> Vec<String> {
    let mut lines = Vec::new();
    for (mode, pane) in keymap::PARTS {
        lines.push(keymap::title(mode, pane).to_uppercase());
        for (keys, what) in keymap::part(mode, pane) {
            lines.push(format!("  {} {what}", fit(&keys, 18)));
        }
        lines.push(String::new());
    }
    lines.push("COMMANDS  (: opens the prompt; ; parts commands)".to_owned());
    for command in app.prompt.grammar.commands().get_subcommands() {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        lines.push(format!("  {}", usage(command)));
        lines.push(format!("      {about}"));
    }
    lines.push(String::new());
    lines
        .push("NODE is kvorum-0, n1 or 1 (the first), 8001 (the first), leader or any.".to_owned());
    lines
}
