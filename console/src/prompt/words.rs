//! Pure: the division of a line into words.
//!
//! Words are separated by blanks, commands by `;`. A quoted part (`'…'`, `"…"`, `$'…'`) keeps its
//! blanks; in the latter two, and outside of quotes, a backslash escapes: `\n`, `\t`, `\r`, `\0`,
//! `\xFF`, `\u{1F600}`, anything else stands for itself. So every key and value can be typed.
//! Guarantees that each word carries its position in the line. Does not know commands.

use std::ops::Range;

use super::LineError;

/// A word and its position.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Word {
    /// The bytes that the word stands for.
    pub bytes: Vec<u8>,
    /// The bytes of the line that the word takes up.
    pub at: Range<usize>,
    /// Whether some of it was quoted, so that it is not a flag.
    pub is_quoted: bool,
}

/// Splits a line into commands, each a list of words. Commands without words are left out.
///
/// # Errors
/// Returns an error if a quote does not end or an escape is invalid.
pub fn split(line: &str) -> Result<Vec<Vec<Word>>, LineError> {
    let mut splitter = Splitter { line, at: 0, commands: vec![Vec::new()] };
    splitter.run()?;
    Ok(splitter.commands.into_iter().filter(|words| !words.is_empty()).collect())
}

/// Writes bytes as one word of a line, quoted where needed.
#[must_use]
pub fn quote(bytes: &[u8]) -> String {
    let text = std::str::from_utf8(bytes);
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:=,@%+~!?*#&|<>()[]{}".contains(c);
    match text {
        Ok(text) if !text.is_empty() && text.chars().all(is_plain) => text.to_owned(),
        Ok(text) => {
            let escaped = text.chars().map(|c| match c {
                '"' | '\\' => format!("\\{c}"),
                '\n' => "\\n".to_owned(),
                '\t' => "\\t".to_owned(),
                c if crate::output::is_printable(c) => c.to_string(),
                c => format!("\\u{{{:x}}}", u32::from(c)),
            });
            format!("\"{}\"", escaped.collect::<String>())
        }
        Err(_) => format!("\"{}\"", bytes.escape_ascii().to_string().replace("\\'", "'")),
    }
}

struct Splitter<'a> {
    line: &'a str,
    at: usize,
    commands: Vec<Vec<Word>>,
}

impl Splitter<'_> {
    fn peek(&self) -> Option<char> {
        self.line[self.at..].chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn run(&mut self) -> Result<(), LineError> {
        while let Some(next) = self.peek() {
            match next {
                ';' => {
                    self.take();
                    self.commands.push(Vec::new());
                }
                blank if blank.is_whitespace() => {
                    self.take();
                }
                _ => {
                    let word = self.word()?;
                    self.commands.last_mut().expect("there is always one").push(word);
                }
            }
        }
        Ok(())
    }

    fn word(&mut self) -> Result<Word, LineError> {
        let from = self.at;
        let (mut bytes, mut is_quoted) = (Vec::new(), false);
        while let Some(next) = self.peek() {
            if next == ';' || next.is_whitespace() {
                break;
            }
            let is_dollar = self.line[self.at..].starts_with("$'");
            match next {
                '\'' | '"' => {
                    is_quoted = true;
                    self.quoted(next == '"', &mut bytes)?;
                }
                '$' if is_dollar => {
                    is_quoted = true;
                    self.take();
                    self.quoted(true, &mut bytes)?;
                }
                '\\' => self.escape(&mut bytes)?,
                _ => {
                    self.take();
                    bytes.extend(next.encode_utf8(&mut [0; 4]).bytes());
                }
            }
        }
        Ok(Word { bytes, at: from..self.at, is_quoted })
    }

    fn quoted(&mut self, has_escapes: bool, bytes: &mut Vec<u8>) -> Result<(), LineError> {
        let from = self.at;
        let quote = self.take().expect("a quote begins it");
        loop {
            match self.peek() {
                None => {
                    let remedy = format!("close it with {quote}");
                    return Err(LineError::new(from..self.at, "the quote does not end", remedy));
                }
                Some(end) if end == quote => {
                    self.take();
                    return Ok(());
                }
                Some('\\') if has_escapes => self.escape(bytes)?,
                Some(plain) => {
                    self.take();
                    bytes.extend(plain.encode_utf8(&mut [0; 4]).bytes());
                }
            }
        }
    }

    fn escape(&mut self, bytes: &mut Vec<u8>) -> Result<(), LineError> {
        let from = self.at;
        self.take();
        let remedy = "write \\\\ for a backslash, \\n, \\t, \\xFF or \\u{…} for others";
        let wrong = |to, what: &str| Err(LineError::new(from..to, what, remedy));
        match self.take() {
            None => return wrong(self.at, "nothing follows the backslash"),
            Some('n') => bytes.push(b'\n'),
            Some('t') => bytes.push(b'\t'),
            Some('r') => bytes.push(b'\r'),
            Some('0') => bytes.push(0),
            Some('x') => {
                let digits = self.line.get(self.at..self.at + 2);
                let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                let Some(byte) = byte else {
                    return wrong(self.at, "\\x takes two hexadecimal digits");
                };
                self.at += 2;
                bytes.push(byte);
            }
            Some('u') => {
                let rest = &self.line[self.at..];
                let inner = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
                let number = inner.and_then(|(hex, _)| u32::from_str_radix(hex, 16).ok());
                let Some(character) = number.and_then(char::from_u32) else {
                    return wrong(self.at, "\\u takes the number of a character in braces");
                };
                self.at += inner.map_or(0, |(hex, _)| hex.len() + 2);
                bytes.extend(character.encode_utf8(&mut [0; 4]).bytes());
            }
            Some(plain) => bytes.extend(plain.encode_utf8(&mut [0; 4]).bytes()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(line: &str) -> Vec<Vec<String>> {
        let text = |word: &Word| String::from_utf8_lossy(&word.bytes).into_owned();
        let commands = split(line).expect("the line is sound");
        commands.iter().map(|words| words.iter().map(text).collect()).collect()
    }

    #[test]
    fn lines_are_words() {
        let cases: [(&str, &[&[&str]]); 8] = [
            ("", &[]),
            (" ;; ", &[]),
            ("put a 1", &[&["put", "a", "1"]]),
            ("put k 'a b' ; get k", &[&["put", "k", "a b"], &["get", "k"]]),
            (r#"put k "a \"b\" \n;" "#, &[&["put", "k", "a \"b\" \n;"]]),
            (r"a\ b $'\t'", &[&["a b", "\t"]]),
            (r"'\n' ''", &[&["\\n", ""]]),
            (r"\u{e5} å", &[&["å", "å"]]),
        ];
        for (line, expected) in cases {
            assert_eq!(words(line), expected, "{line}");
        }
        assert_eq!(split(r"\xff").map(|w| w[0][0].bytes.clone()), Ok(vec![0xff]));
    }

    #[test]
    fn what_does_not_end_says_where_it_began() {
        let cases = [
            ("put k 'a b", 6..10),
            (r"put \", 4..5),
            (r"\xg1", 0..2),
            (r"\xé", 0..2),
            (r"\u{110000}", 0..2),
            ("a\"", 1..2),
        ];
        for (line, at) in cases {
            assert_eq!(split(line).map_err(|error| error.at), Err(at), "{line}");
        }
    }

    /// Quotes the bytes, splits the result and returns the word, if it is the only one.
    fn read_back(bytes: &[u8]) -> Option<Vec<u8>> {
        let commands = split(&quote(bytes)).expect("a quoted word is sound");
        match &commands[..] {
            [words] if words.len() == 1 => Some(words[0].bytes.clone()),
            _ => None,
        }
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_typed(bytes: Vec<u8>) {
            let read = read_back(&bytes);
            prop_assert_eq!(read, Some(bytes));
        }
    }

    #[test]
    fn every_short_string_can_be_typed() {
        for length in 0..=2 {
            for number in 0..1_u32 << (8 * length) {
                let bytes = &number.to_be_bytes()[4 - length..];
                assert_eq!(read_back(bytes).as_deref(), Some(bytes), "{}", quote(bytes));
            }
        }
    }
}
