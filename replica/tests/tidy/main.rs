//! The style law, as a test.
//!
//! - A file has at most 500 lines, a function 70, a line 100 characters.
//! - A file opens with what it is (`//!`).
//! - A file whose header begins with `//! Pure:` names no runtime, socket, file, database, cluster,
//!   clock or randomness.
//! - What shows at the top level is what is agreed there, and each crate has its license.
//! - A comment names its subject ([`RIDDLES`]).
//! - Files import each other without a circle, and so do folders ([`imports`]).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod imports;

use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const LINE_CHARACTERS_MAX: usize = 100;

/// What a pure file may not name.
const IMPURE: [&str; 10] = [
    "tokio::",
    "std::net",
    "std::fs",
    "std::thread",
    "rocksdb::",
    "kube::",
    "Instant::now",
    "SystemTime",
    "rand::",
    "std::env",
];

/// What no file may hold.
const UNFINISHED: [&str; 4] = ["todo!(", "unimplemented!(", "dbg!(", "#[ignore"];

/// Turns with which no sentence of a comment begins: they say neither what a thing is nor who acts.
const RIDDLES: [&str; 9] = [
    "Whoever ",
    "Somebody ",
    "Nobody ",
    "So many ",
    "That of ",
    "Those who ",
    "One that ",
    "Who ",
    "What it is of ",
];

/// What may show at the top level.
const TOP_LEVEL: [&str; 9] = [
    "Cargo.toml",
    "Cargo.lock",
    "replica",
    "console",
    "deploy",
    "Dockerfile.replica",
    "Dockerfile.console",
    "README.md",
    "LICENSE",
];

/// Returns the top of the checkout. Cargo runs tests in their package's folder; a path from the
/// time of compilation could be another checkout's that shared the target folder.
fn root() -> PathBuf {
    std::env::current_dir().unwrap().parent().unwrap().to_owned()
}

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// What is wrong with a file.
fn complaints(name: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() > FILE_LINES_MAX {
        found.push(format!("{name} has {} lines", lines.len()));
    }
    if !text.starts_with("//! ") {
        found.push(format!("{name} does not say what it is"));
    }
    for (number, line) in (1..).zip(&lines) {
        if line.chars().count() > LINE_CHARACTERS_MAX {
            found.push(format!("{name}:{number} is too long"));
        }
        let is_law = name.contains("tests/tidy/");
        for word in UNFINISHED.iter().filter(|word| !is_law && line.contains(*word)) {
            found.push(format!("{name}:{number} holds {word}"));
        }
        let is_code = !line.trim_start().starts_with("//");
        if !is_law && !is_code && is_riddle(line) {
            found.push(format!("{name}:{number} begins a sentence with what it does not name"));
        }
        for word in
            IMPURE.iter().filter(|word| text.starts_with("//! Pure:") && line.contains(*word))
        {
            if is_code {
                found.push(format!("{name}:{number} is pure and names {word}"));
            }
        }
    }
    for (start, length) in long_functions(&lines) {
        found.push(format!("{name}:{start} is a function of {length} lines"));
    }
    found
}

/// Whether a sentence of a line of comment begins with one of the [`RIDDLES`].
fn is_riddle(line: &str) -> bool {
    let text = line.trim_start().trim_start_matches(['/', '!']).trim_start();
    let sentences = text.split(". ").map(str::trim_start);
    sentences.into_iter().any(|sentence| RIDDLES.iter().any(|turn| sentence.starts_with(turn)))
}

/// Functions over the limit: first line and length. A formatted function ends where a line closes
/// a brace at the indentation at which it began.
fn long_functions(lines: &[&str]) -> Vec<(usize, usize)> {
    let mut long = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let words = ["fn ", "pub fn ", "pub(super) fn ", "pub(crate) fn ", "async fn "];
        let words = words.iter().chain(&["pub async fn ", "pub const fn ", "pub(super) async fn "]);
        if !words.clone().any(|word| code.starts_with(word)) {
            continue;
        }
        // A trait's function may have no body, and a body may be empty.
        let signature = lines[index..].iter().find(|line| line.ends_with(['{', '}', ';']));
        if signature.is_some_and(|line| line.ends_with(';') || line.ends_with("{}")) {
            continue;
        }
        let end = format!("{}}}", &line[..line.len() - code.len()]);
        if let Some(length) = lines[index..].iter().position(|line| *line == end)
            && length + 1 > FUNCTION_LINES_MAX
        {
            long.push((index + 1, length + 1));
        }
    }
    long
}

#[test]
fn the_law_is_kept() {
    let root = root();
    let mut files = Vec::new();
    for folder in ["replica", "console"] {
        sources(&root.join(folder), &mut files);
    }
    assert!(files.len() > 20, "the sources were found");
    let complaints: Vec<String> = files
        .iter()
        .flat_map(|path| {
            let name = path.strip_prefix(&root).unwrap().display().to_string();
            complaints(&name, &fs::read_to_string(path).unwrap())
        })
        .collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn the_top_level_shows_what_is_agreed() {
    for entry in fs::read_dir(root()).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let is_known = name.starts_with('.') || name == "target" || TOP_LEVEL.contains(&&*name);
        assert!(is_known, "{name} does not belong at the top level");
    }
    for folder in [".", "replica", "replica/protocol", "console"] {
        assert!(root().join(folder).join("LICENSE").exists(), "{folder} has a license");
    }
}

/// The paths that a text has between backquotes and that begin with a folder at the top level.
fn paths_in(text: &str) -> Vec<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    let is_path = |words: &&str| words.starts_with("replica/") || words.starts_with("console/");
    quoted.filter(is_path).collect()
}

#[test]
fn the_maps_name_what_is_there() {
    let docs =
        fs::read_dir(root().join("replica/docs")).unwrap().map(|entry| entry.unwrap().path());
    let maps: Vec<_> = docs.chain([root().join("replica/ARCHITECTURE.md")]).collect();
    let mut count = 0;
    for map in maps {
        // A decision tells of what was there on its day.
        let is_past = map.ends_with("decisions.md") || map.ends_with("CHANGELOG.md");
        let text = fs::read_to_string(&map).unwrap();
        for path in paths_in(&text).into_iter().filter(|_| !is_past) {
            assert!(root().join(path).exists(), "{} names {path}", map.display());
            count += 1;
        }
    }
    assert!(count > 80, "the maps were read: {count} paths");
}

/// A reader who opens the folder should not have to scroll.
#[test]
fn the_readme_of_the_replica_is_short_and_its_links_lead_somewhere() {
    let text = fs::read_to_string(root().join("replica/README.md")).unwrap();
    assert!(text.lines().count() <= 120);
    let links = text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
    let missing: Vec<_> =
        links.filter(|link| !root().join("replica").join(link).exists()).collect();
    assert_eq!(missing, Vec::<&str>::new());
}

#[test]
fn the_law_finds_what_breaks_it() {
    let long_line = format!("//! A file.\n// {}\n", "x".repeat(LINE_CHARACTERS_MAX));
    let long_file = "//! A file.\n".to_owned() + &"\n".repeat(FILE_LINES_MAX);
    let long_function =
        format!("//! A file.\nfn f() {{\n{}}}\n", "    f();\n".repeat(FUNCTION_LINES_MAX));
    // What has no body has no length, and what comes after it is still judged.
    let without_body = long_function.replace("fn f() {", "fn g(\n);\nfn f() {");
    // An empty block in it ends nothing.
    let empty_block = long_function.replacen("    f();\n", "    if f() {}\n", 1);
    let only_signatures = format!(
        "//! A file.\ntrait T {{\n    fn f(\n    );\n{}}}\n",
        "    // A line.\n".repeat(FUNCTION_LINES_MAX)
    );
    let cases = [
        (without_body.as_str(), 1),
        (empty_block.as_str(), 1),
        (only_signatures.as_str(), 0),
        ("//! A file.\nfn f() {\n}\n", 0),
        ("fn f() {}\n", 1),
        ("//! Pure: a file.\nuse tokio::net::TcpStream;\n", 1),
        ("//! Pure: a file.\n// tokio:: is only talked about.\n", 0),
        ("//! A file.\n/// That of a new cluster.\nfn f() {\n}\n", 1),
        ("//! A file. Nobody calls it.\n", 1),
        ("//! A file.\n// The value that nobody reads.\n", 0),
        (long_line.as_str(), 1),
        (long_file.as_str(), 1),
        (long_function.as_str(), 1),
    ];
    for (text, expected) in cases {
        assert_eq!(complaints("file.rs", text).len(), expected, "{text}");
    }
}
