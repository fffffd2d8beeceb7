//! Tests of the prompt's grammar.

use super::*;
use proptest::prelude::*;

fn read(line: &str) -> Result<Vec<Command>, LineError> {
    Grammar::default().read(line)
}

#[test]
fn the_grammar_is_sound() {
    Line::command().debug_assert();
}

/// The command lines of the seed and of the OmniPaxos demos.
#[test]
fn every_command_line_of_the_ancestors_is_read() {
    let lines = [
        "put a 1",
        "put a 1 2",
        "put a 1 8002",
        "get a",
        "get a 8001",
        "delete a",
        "delete a 8003",
        "connection 1 2 false",
        "scenario qloss",
        "batch 10000",
        "clear",
        "help",
        ":put a 1; get a",
        "del a",
        "",
    ];
    let mut grammar = Grammar::default();
    for line in lines {
        assert!(grammar.read(line).is_ok(), "{line}");
    }
}

#[test]
fn an_error_has_its_place_and_its_remedy() {
    let cases = [
        ("pu a 1", 0..2, "no command 'pu'", "did you mean"),
        ("xyzzy", 0..5, "no command 'xyzzy'", "help lists"),
        ("put a b c", 8..9, "'c' is not a node", "a value with blanks needs quotes"),
        ("put a", 5..5, "<VALUE> is missing", "write: put KEY VALUE [NODE]"),
        ("get a 8001 z", 11..12, "'z' is one word too many", "needs quotes"),
        (":get a --frob", 7..13, "no flag --frob", "write: get"),
        ("get a;put b", 11..11, "<VALUE> is missing", "write: put"),
        ("put k 'a", 6..8, "the quote does not end", "close it"),
        ("delete a --if-revision x", 23..24, "invalid digit", "write: delete"),
        ("theme pink", 6..10, "'pink' makes no sense", "one of auto, mono"),
        ("put a 1 --if-absent --if-revision 3", 8..19, "does not go with", "write: put"),
        ("batch 0", 6..7, "0 is not in", "write: batch"),
    ];
    for (line, at, what, remedy) in cases {
        let error = read(line).expect_err(line);
        assert_eq!(error.at, at, "{line}: {error}");
        assert!(error.what.contains(what), "{line}: {}", error.what);
        assert!(error.remedy.contains(remedy), "{line}: {}", error.remedy);
    }
}

#[test]
fn nodes_know_their_place() {
    let places = |line: &str| {
        let commands = read(line).expect("the line is sound");
        commands[0].nodes().into_iter().map(|(_, at)| at).collect::<Vec<_>>()
    };
    assert_eq!(places("put 1 1 1"), vec![8..9; 1]);
    assert_eq!(places("cut n1 n1"), [4..6, 7..9]);
    assert_eq!(places("kill 8001 --yes"), vec![5..9; 1]);
    assert!(places("put a 1").is_empty());
}

/// The pieces from which lines are made: words of the grammar, and noise.
const PIECES: [&str; 40] = [
    "put",
    "get",
    "delete",
    "scan",
    "kill",
    "scale",
    "hand-over",
    "cut",
    "heal",
    "log",
    "watch",
    "status",
    "undo",
    "edit",
    "probe",
    "theme",
    "filter",
    "help",
    "quit",
    "a",
    "1",
    "8001",
    "n2",
    "leader",
    "--yes",
    "--if-absent",
    "--if-revision",
    "--",
    "-",
    "'",
    "\"",
    "\\",
    ";",
    ":",
    "$'",
    "@",
    "\u{1b}[31m",
    "å",
    "\u{202e}",
    "",
];

#[test]
fn an_error_shows_no_control_characters() {
    for line in ["get put ' ; \u{1b}'", "get a '\u{1b}[31m'", "'\u{202e}x'", "put a '\u{7}' b c"] {
        let error = read(line).unwrap_err().to_string();
        assert!(!error.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{line:?}: {error:?}");
    }
}

/// Tries random lines; `KVORUM_LINES` sets how many.
#[test]
fn no_line_makes_it_panic() {
    let lines = std::env::var("KVORUM_LINES").ok().and_then(|lines| lines.parse().ok());
    let lines = lines.unwrap_or(20_000_u32);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(lines) };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let pieces = prop::collection::vec(
        prop_oneof![prop::sample::select(&PIECES[..]).prop_map(str::to_owned), ".{0,8}"],
        0..8,
    );
    let grammar = std::cell::RefCell::new(Grammar::default());
    let strategy = (pieces, prop::bool::ANY);
    let read = runner.run(&strategy, |(pieces, has_blanks)| {
        let line = pieces.join(if has_blanks { " " } else { "" });
        if let Err(error) = grammar.borrow_mut().read(&line) {
            prop_assert!(error.at.start <= error.at.end && error.at.end <= line.len());
            prop_assert!(line.is_char_boundary(error.at.start), "{line:?} {error:?}");
            prop_assert!(line.is_char_boundary(error.at.end), "{line:?} {error:?}");
            prop_assert!(!error.what.is_empty() && !error.remedy.is_empty(), "{line:?}");
            prop_assert!(!error.to_string().contains('\u{1b}'), "{line:?} {error:?}");
        }
        Ok(())
    });
    read.unwrap_or_else(|failure| panic!("{failure}"));
}
