//! Snapshot tests of every screen at four sizes: its text and its styles.
//!
//! A change of the console shows up as a change of `tests/screens/snapshots/`, to be reviewed and
//! accepted: `INSTA_UPDATE=always cargo test --release -p kvorum --test screens` rewrites them.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use super::console::{Console, SCREENS};
use kvorum::app::Settings;
use kvorum::app::cluster::State;
use kvorum::app::output::Verdict;
use kvorum::arguments::ThemeName;
use kvorum::exit::Failure;
use kvorum::message::{Event, Observation};
use kvorum::view;
use kvorum_protocol::Status;
use kvorum_protocol::status::Role;
use ratatui::buffer::Buffer;
use ratatui::style::Style;

/// The columns and rows of each size.
const SIZES: [(u16, u16); 4] = [(160, 45), (80, 24), (60, 12), (20, 5)];
/// One letter for each style of a screen.
const LETTERS: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// Returns a screen's text, then its styles: a letter for each cell, and each letter's meaning.
fn dump(buffer: &Buffer) -> String {
    let mut text = view::picture::text(buffer);
    let mut styles: Vec<Style> = Vec::new();
    let mut grid = String::new();
    for row in buffer.content.chunks(usize::from(buffer.area.width)) {
        for cell in row {
            let style = Style::new().fg(cell.fg).bg(cell.bg).add_modifier(cell.modifier);
            let at = styles.iter().position(|known| *known == style).unwrap_or_else(|| {
                styles.push(style);
                styles.len() - 1
            });
            grid.push(LETTERS.chars().nth(at).unwrap());
        }
        grid.push('\n');
    }
    for (letter, style) in LETTERS.chars().zip(&styles) {
        let (fg, bg) = (style.fg.unwrap(), style.bg.unwrap());
        writeln!(text, "{letter}: {fg} on {bg} {:?}", style.add_modifier).unwrap();
    }
    text + &grid
}

fn settings(theme: ThemeName, ascii: bool) -> Settings {
    Settings { theme, ascii, target: "memory".to_owned(), ..Settings::default() }
}

#[tokio::test(start_paused = true)]
async fn screens_are_as_they_were() {
    for (theme, word) in [(ThemeName::Auto, "color"), (ThemeName::Mono, "mono")] {
        for (name, keys) in SCREENS {
            let mut console = Console::start(settings(theme, false), 3).await;
            console.press(keys).await;
            assert_screens(&mut console, name, word);
        }
        let mut console = Console::start(settings(theme, false), 3).await;
        console.feed(Event::NotAttached(Failure::failed("no cluster is named, and none runs")));
        assert_screens(&mut console, "connect", word);
        let mut console = Console::start(settings(theme, false), 3).await;
        console.press("b").await;
        console.press("xy").await;
        console.wait(200).await;
        console.wait(500).await;
        assert_screens(&mut console, "failover", word);
    }
}

fn assert_screens(console: &mut Console, name: &str, theme: &str) {
    let mut all = String::new();
    for (width, height) in SIZES {
        console.feed(Event::Resize { width, height });
        writeln!(all, "== {width}x{height}").unwrap();
        all.push_str(&dump(&console.draw(width, height)));
    }
    let name = format!("{name} {theme}").replace(' ', "-");
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!(name, all);
    });
}

/// Puts the second replica into a state.
fn bring(console: &mut Console, state: State, status: &Status) {
    let node = status.name.clone();
    let told =
        |role, is_ready| Observation::Status(Box::new(Status { role, is_ready, ..status.clone() }));
    // A further replica, of which nothing is known yet.
    let new = || "kvorum-3".to_owned();
    let seen = match state {
        State::Leader => told(Role::Leader, true),
        State::Follower => told(Role::Follower, true),
        State::Alone => told(Role::Leader, false),
        State::Candidate => told(Role::Candidate, false),
        State::Recovering => told(Role::Recovering, false),
        State::Gathering => told(Role::Gathering, false),
        State::Outside => told(Role::Outside, false),
        State::Joining => told(Role::Joining, false),
        State::Retired => told(Role::Retired, false),
        State::Silent => Observation::Silent { node, for_time: Duration::from_secs(3) },
        State::Down => Observation::Down { node, why: "the connection was lost".to_owned() },
        State::Starting => Observation::Up { node: new() },
        State::Unknown => Observation::Member { node: new() },
    };
    console.feed(Event::Observation(seen));
}

/// Without styles and with ASCII only, each state must still differ from every other.
#[tokio::test(start_paused = true)]
async fn every_state_is_told_by_text_alone() {
    for (width, height) in [(160, 45), (80, 24), (60, 12)] {
        let mut told = BTreeSet::new();
        for state in State::ALL {
            let mut console = Console::start(settings(ThemeName::Mono, true), 3).await;
            let second = console.app.cluster.node("kvorum-1").unwrap().status.clone().unwrap();
            bring(&mut console, state, &second);
            let is_new = matches!(state, State::Starting | State::Unknown);
            let (name, node) = if is_new { ("n4", "kvorum-3") } else { ("n2", "kvorum-1") };
            assert_eq!(console.app.cluster.node(node).unwrap().state(), state);
            console.feed(Event::Resize { width, height });
            let text = console.text(width, height);
            let is_row =
                |line: &&str| line.contains(&format!(" {name} ")) && !line.contains("Nodes");
            let line = text.lines().find(is_row);
            let line = line.unwrap_or_else(|| panic!("{state:?} in\n{text}"));
            // Only the glyph and the word count: other differences may not always be present.
            let words: Vec<&str> = line.split_whitespace().collect();
            let at = words.iter().position(|word| *word == name).unwrap();
            let at = at + 1 + usize::from(words[at + 1].starts_with("kvorum"));
            assert!(told.insert(words[at..at + 2].join(" ")), "{state:?} in {told:?}");
        }
    }
    let words: BTreeSet<_> = Verdict::ALL.iter().map(|verdict| verdict.word()).collect();
    assert_eq!(words.len(), Verdict::ALL.len());
}

/// The health of the whole cluster is shown by text alone too, at every size.
#[tokio::test(start_paused = true)]
async fn every_health_is_told_by_text_alone() {
    let cases: [(&str, &str); 6] = [
        ("all is well", ""),
        ("one is down", ":kill n2 --yes\n"),
        ("the leader is down", ":kill n1 --yes\n"),
        ("the quorum is lost", ":kill n2 --yes\n:kill n3\nkvorum-2\n"),
        ("nobody is there", ":kill n2 --yes\n:kill n3\nkvorum-2\n:kill n1\nkvorum-0\n"),
        ("it stands still", " "),
    ];
    for (width, height) in SIZES {
        let mut told = BTreeSet::new();
        for (name, keys) in cases {
            let mut console = Console::start(settings(ThemeName::Mono, true), 3).await;
            console.press(keys).await;
            console.feed(Event::Resize { width, height });
            let text = console.text(width, height);
            let first = text.lines().next().unwrap().to_owned();
            assert!(told.insert(first.clone()), "{name} at {width}x{height}: {first} in {told:?}");
        }
    }
}
