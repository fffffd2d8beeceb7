//! Pure: the completion of a line: the words that could come next.
//!
//! Guarantees that the words offered come from the grammar and from what the console knows, so that
//! a new command is completed without a change here. Does not interpret the line.

use super::grammar::Grammar;
use super::words;

/// The maximum number of words offered.
const OFFERED_MAX: usize = 12;

/// The names known to the console that a line may contain.
#[derive(Clone, Default, Debug)]
pub struct Known {
    /// The names of the replicas.
    pub nodes: Vec<String>,
    /// Keys that the console has seen.
    pub keys: Vec<Vec<u8>>,
}

/// The possible replacements for the word under the cursor.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Completion {
    /// Where that word begins in the line.
    pub from: usize,
    /// The words, in order.
    pub words: Vec<String>,
}

impl Completion {
    /// Returns the longest common prefix of the words.
    #[must_use]
    pub fn common(&self) -> &str {
        let Some(first) = self.words.first() else { return "" };
        let shared = |word: &String| {
            first.char_indices().zip(word.chars()).take_while(|((_, a), b)| a == b).count()
        };
        let characters = self.words.iter().map(shared).min().unwrap_or(0);
        let end = first.char_indices().nth(characters).map_or(first.len(), |(at, _)| at);
        &first[..end]
    }
}

/// Returns the words that could come at the end of a line.
#[must_use]
pub fn complete(grammar: &Grammar, line: &str, known: &Known) -> Completion {
    let from = line.rfind([' ', ';', ':']).map_or(0, |at| at + 1);
    let (before, part) = line.split_at(from);
    let commands = words::split(before.trim_start_matches([' ', ':'])).unwrap_or_default();
    let is_new = before.trim_end().is_empty() || before.trim_end().ends_with([';', ':']);
    let words = if is_new { &[][..] } else { commands.last().map_or(&[][..], Vec::as_slice) };
    let mut offered = match words.first() {
        None => grammar
            .commands()
            .get_subcommands()
            .map(|command| command.get_name().to_owned())
            .collect(),
        Some(name) => {
            let name = String::from_utf8_lossy(&name.bytes);
            grammar.find(&name).map_or(Vec::new(), |command| {
                arguments(command, &words[1..], part.starts_with('-'), known)
            })
        }
    };
    offered.retain(|word| word.starts_with(part) && word != part);
    offered.sort();
    offered.dedup();
    offered.truncate(OFFERED_MAX);
    Completion { from, words: offered }
}

fn arguments(
    command: &clap::Command,
    before: &[words::Word],
    is_flag: bool,
    known: &Known,
) -> Vec<String> {
    if is_flag {
        let longs = command.get_arguments().filter_map(clap::Arg::get_long);
        return longs.map(|long| format!("--{long}")).collect();
    }
    let place = before.iter().filter(|word| word.is_quoted || word.bytes.first() != Some(&b'-'));
    let Some(argument) = command.get_positionals().nth(place.count()) else { return Vec::new() };
    let values = argument.get_possible_values();
    if !values.is_empty() {
        return values.iter().map(|value| value.get_name().to_owned()).collect();
    }
    match argument.get_id().as_str() {
        "node" | "peer" => {
            let fixed = ["leader", "any"].map(str::to_owned);
            known.nodes.iter().cloned().chain(fixed).collect()
        }
        "key" | "prefix" => known.keys.iter().map(|key| words::quote(key)).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_come_next_comes_from_the_grammar() {
        let known = Known {
            nodes: vec!["kvorum-0".into(), "kvorum-1".into()],
            keys: vec![b"color".to_vec(), b"a b".to_vec()],
        };
        let grammar = Grammar::default();
        let cases: [(&str, usize, &[&str]); 9] = [
            ("pu", 0, &["put"]),
            (":sca", 1, &["scale", "scan"]),
            ("get c", 4, &["color"]),
            ("get ", 4, &["\"a b\"", "color"]),
            ("get color kv", 10, &["kvorum-0", "kvorum-1"]),
            ("put a 1; kill l", 14, &["leader"]),
            ("theme d", 6, &["dark"]),
            ("kill n1 --y", 8, &["--yes"]),
            ("nonsense x", 9, &[]),
        ];
        for (line, from, words) in cases {
            let completion = complete(&grammar, line, &known);
            assert_eq!(
                (completion.from, &completion.words[..]),
                (from, &words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()[..]),
                "{line}"
            );
        }
        assert_eq!(complete(&grammar, "get color kv", &known).common(), "kvorum-");
        assert_eq!(Completion::default().common(), "");
    }
}
