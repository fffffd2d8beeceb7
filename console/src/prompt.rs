//! Pure: the prompt: the line being typed, its history, and the error in it so far.
//!
//! | module | what it is |
//! |---|---|
//! | [`words`] | a line as words |
//! | [`grammar`] | words as commands |
//! | [`complete`] | the possible continuations |
//!
//! Guarantees that a line is checked while it is typed and that a wrong one is never lost. Does not
//! carry out commands.

pub mod complete;
pub mod grammar;
pub mod words;

use std::collections::VecDeque;

use tui_input::{Input, InputRequest};

use complete::{Completion, Known};
pub use grammar::{Command, Grammar, LineError, PaneName, View, What};

/// The most lines that the history keeps.
const HISTORY_MAX: usize = 500;

/// The prompt: the line, its history and its grammar.
#[derive(Clone, Default, Debug)]
pub struct Prompt {
    input: Input,
    /// Whether keys go to the line.
    pub is_open: bool,
    history: VecDeque<String>,
    /// The line of the history that is shown, counted from the last one, and what was typed before.
    browsed: Option<(usize, String)>,
    /// The grammar by which lines are read.
    pub grammar: Grammar,
    /// The error in the line so far.
    pub wrong: Option<LineError>,
    /// The possible continuations, after a Tab.
    pub offered: Completion,
}

impl Prompt {
    /// Returns the line.
    #[must_use]
    pub fn line(&self) -> &str {
        self.input.value()
    }

    /// Returns the cursor's position in the line, in characters.
    #[must_use]
    pub fn cursor(&self) -> usize {
        self.input.cursor()
    }

    /// Opens the prompt with a line.
    pub fn open(&mut self, line: &str) {
        self.is_open = true;
        self.set(line);
    }

    /// Closes the prompt and forgets the line.
    pub fn close(&mut self) {
        self.is_open = false;
        self.set("");
    }

    fn set(&mut self, line: &str) {
        self.input = Input::new(line.to_owned());
        self.offered = Completion::default();
        self.wrong = None;
        self.browsed = None;
    }

    /// Edits the line.
    pub fn edit(&mut self, request: InputRequest) {
        self.input.handle(request);
        self.offered = Completion::default();
    }

    /// Inserts pasted text; a character that a line cannot hold becomes a blank.
    pub fn paste(&mut self, text: &str) {
        let room = grammar::LINE_BYTES_MAX.saturating_sub(self.line().len());
        let mut bytes = 0;
        for character in text.trim_end_matches(['\r', '\n']).chars() {
            bytes += character.len_utf8();
            if bytes > room {
                break;
            }
            let shown = if character.is_control() { ' ' } else { character };
            self.edit(InputRequest::InsertChar(shown));
        }
    }

    /// Takes the line out to be carried out, and adds it to the history.
    pub fn take(&mut self) -> String {
        let line = self.line().to_owned();
        self.remember(&line);
        self.close();
        line
    }

    /// Closes the prompt; the line stays in the history.
    pub fn put_aside(&mut self) {
        self.take();
    }

    fn remember(&mut self, line: &str) {
        if line.trim().is_empty() || self.history.back().is_some_and(|last| last == line) {
            return;
        }
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(line.to_owned());
    }

    /// Shows an earlier line of the history.
    pub fn earlier(&mut self) {
        let (back, typed) = match &self.browsed {
            None => (1, self.line().to_owned()),
            Some((back, typed)) => (back + 1, typed.clone()),
        };
        self.browse(back, typed);
    }

    /// Shows a later line of the history, or what was typed.
    pub fn later(&mut self) {
        match self.browsed.clone() {
            Some((1, typed)) => self.set(&typed),
            Some((back, typed)) => self.browse(back - 1, typed),
            None => {}
        }
    }

    fn browse(&mut self, back: usize, typed: String) {
        let line = self.history.len().checked_sub(back).and_then(|at| self.history.get(at));
        if let Some(line) = line.cloned() {
            self.set(&line);
            self.browsed = Some((back, typed));
        }
    }

    /// The set of actions that are possible here has changed.
    #[must_use]
    pub fn completion(&self, known: &Known) -> Completion {
        match self.cursor() == self.line().chars().count() {
            true => complete::complete(&self.grammar, self.line(), known),
            false => Completion::default(),
        }
    }

    /// Completes the word under the cursor as far as it is unambiguous; offers the rest.
    pub fn complete(&mut self, known: &Known) {
        let completion = self.completion(known);
        let common = completion.common();
        if common.is_empty() {
            return;
        }
        let is_certain = completion.words.len() == 1;
        let mut line = self.line()[..completion.from].to_owned();
        line.push_str(common);
        if is_certain {
            line.push(' ');
        }
        let browsed = self.browsed.take();
        self.set(&line);
        self.browsed = browsed;
        if !is_certain {
            self.offered = completion;
        }
    }

    /// Reads the line.
    ///
    /// # Errors
    /// When the line is wrong; the error says how.
    pub fn read(&mut self) -> Result<Vec<Command>, LineError> {
        let line = self.input.value().to_owned();
        self.grammar.read(&line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_is_walked_and_what_was_typed_stays() {
        let mut prompt = Prompt::default();
        for line in ["put a 1", "get a", "get a", " "] {
            prompt.open(line);
            prompt.take();
        }
        prompt.open("del");
        prompt.earlier();
        assert_eq!(prompt.line(), "get a");
        prompt.earlier();
        prompt.earlier();
        assert_eq!(prompt.line(), "put a 1");
        prompt.later();
        prompt.later();
        assert_eq!(prompt.line(), "del");
    }

    #[test]
    fn tab_completes_what_is_certain_and_offers_the_rest() {
        let known = Known { nodes: vec!["kvorum-0".into(), "kvorum-1".into()], keys: Vec::new() };
        let mut prompt = Prompt::default();
        prompt.open("ki");
        prompt.complete(&known);
        assert_eq!(prompt.line(), "kill ");
        prompt.edit(InputRequest::InsertChar('k'));
        prompt.complete(&known);
        assert_eq!((prompt.line(), prompt.offered.words.len()), ("kill kvorum-", 2));
    }

    #[test]
    fn what_is_pasted_is_one_line_and_bounded() {
        let mut prompt = Prompt::default();
        prompt.open("");
        prompt.paste("put a 1\nput b 2\u{1b}\n");
        assert_eq!(prompt.line(), "put a 1 put b 2 ");
        prompt.paste(&"x".repeat(2 * grammar::LINE_BYTES_MAX));
        assert_eq!(prompt.line().len(), grammar::LINE_BYTES_MAX);
    }
}
