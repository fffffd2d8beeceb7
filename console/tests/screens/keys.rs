//! Tests of the console without a terminal: every screen at every size, random keys, their effects.

use std::time::Duration;

use super::console::{Console, SCREENS};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use kvorum::app::Settings;
use kvorum::arguments::ThemeName;
use kvorum::exit::Failure;
use kvorum::message::{Call, Event};
use kvorum::view;
use proptest::prelude::*;
use ratatui::layout::Rect;

#[tokio::test(start_paused = true)]
async fn no_size_makes_a_screen_panic() {
    for (name, keys) in SCREENS {
        let mut console = Console::start(Settings::default(), 3).await;
        console.press(keys).await;
        for width in 0..=200 {
            for height in (0..=60).step_by(if width % 7 == 0 { 1 } else { 6 }) {
                let buffer = console.draw(width, height);
                assert_eq!(buffer.area, Rect::new(0, 0, width, height), "{name}");
            }
        }
        let detached = Failure::failed("there is no cluster here\u{1b}[31m");
        console.feed(Event::NotAttached(detached));
        for (width, height) in [(0, 0), (1, 1), (20, 5), (60, 12), (200, 60)] {
            console.draw(width, height);
        }
    }
}

/// Text typed in a shared console cannot be finished by the next viewer, and is not lost.
#[tokio::test(start_paused = true)]
async fn a_shared_prompt_closes_by_itself() {
    let shared = Settings { is_shared: true, ..Settings::default() };
    let mut console = Console::start(shared, 3).await;
    console.press(":kill n2").await;
    console.wait(29_000).await;
    assert!(console.app.prompt.is_open);
    console.wait(1_000).await;
    assert!(!console.app.prompt.is_open, "after 30 s");
    assert!(console.text(160, 45).contains("30 s without a key"));
    console.press(":").await;
    console.feed(Event::Key(KeyEvent::new(KeyCode::Up, KeyModifiers::NONE)));
    assert_eq!(console.app.prompt.line(), "kill n2");
    console.feed(Event::Resize { width: 100, height: 30 });
    assert!(!console.app.prompt.is_open, "somebody else came");
    let mut own = Console::start(Settings::default(), 3).await;
    own.press(":kill n2").await;
    own.wait(60_000).await;
    assert!(own.app.prompt.is_open, "nobody else can type in it");
}

/// A kill that leaves processes behind requires the typed name, whatever the quorum.
#[tokio::test(start_paused = true)]
async fn to_kill_by_force_takes_the_name() {
    let mut console = Console::start(Settings::default(), 3).await;
    console.press(":kill n2 --force\n").await;
    assert!(console.text(160, 45).contains("type kvorum-1"));
    let kills = |console: &Console| {
        console.called.iter().filter(|call| matches!(call, Call::Kill { .. })).count()
    };
    console.press("y\n").await;
    assert_eq!(kills(&console), 0);
    console.press(":kill n2 --force\n").await;
    console.wait(1_000).await;
    console.press("kvorum-1\n").await;
    assert_eq!(kills(&console), 1);
}

/// The text that each screen must contain, at sizes with room for it.
#[tokio::test(start_paused = true)]
async fn screens_say_what_they_are_for() {
    let cases: [(&str, &str, &[&str]); 12] = [
        ("overview", "", &["3/3 ready", "LIVE", "LEADER", "follower", "1 Nodes", "2 Log"]),
        ("keys", "3", &["3 Keys", "user:0000000", "40 keys, page 1"]),
        ("inspect", "3\n", &["revision 1", "value of 0", "on nodes"]),
        ("kill", "x", &["Kill n1 kvorum-0?", "LEADER", "quorum KEPT", "y yes"]),
        ("lost", ":kill n2 --yes\n:kill n3\n", &["quorum LOST", "type kvorum-2"]),
        ("delete", "3d", &["Delete user:0000000?", "y yes"]),
        ("put", ":put a 1\n", &["put a at revision 41", "u takes it back"]),
        ("undo", ":put a 1\nu", &["Delete a?"]),
        ("wrong", ":put a b c", &["9: 'c' is not a node", "quotes"]),
        ("nobody", ":get a n9", &["there is no node n9", "kvorum-0, kvorum-1, kvorum-2"]),
        ("help", "?", &["EVERYWHERE", "kill the selected node"]),
        ("quorum of the scale", ":scale 5\n", &["Scale to 5?", "3 needed"]),
    ];
    for (name, keys, parts) in cases {
        let mut console = Console::start(Settings::default(), 3).await;
        console.press(keys).await;
        for size in [(160, 45), (80, 24)] {
            let text = console.text(size.0, size.1);
            for part in parts {
                let is_hidden = size.0 == 80 && part.contains("Log");
                assert!(is_hidden || text.contains(part), "{name}: {part} in\n{text}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn ascii_is_ascii_and_mono_has_no_color() {
    let settings = Settings { ascii: true, theme: ThemeName::Mono, ..Settings::default() };
    for (name, keys) in SCREENS {
        let mut console = Console::start(settings.clone(), 3).await;
        console.press(keys).await;
        for (width, height) in [(160, 45), (80, 24), (60, 12), (20, 5)] {
            let buffer = console.draw(width, height);
            let text = view::picture::text(&buffer);
            assert!(text.is_ascii(), "{name}\n{text}");
            let colored = buffer.content.iter().any(|cell| {
                cell.fg != ratatui::style::Color::Reset || cell.bg != ratatui::style::Color::Reset
            });
            assert!(!colored, "{name} has a color");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_leader_is_killed_by_two_keys_and_comes_back() {
    let mut console = Console::start(Settings::default(), 3).await;
    console.press("x").await;
    assert!(console.backend.calls().iter().all(|call| !call.is_destructive()));
    console.press("y").await;
    assert!(matches!(console.called.last(), Some(Call::Kill { node, .. }) if node == "kvorum-0"));
    assert!(console.text(80, 24).contains("down"));
    console.wait(200).await;
    assert!(console.text(80, 24).contains("leader n2"), "{}", console.text(80, 24));
    console.wait(400).await;
    assert!(console.text(80, 24).contains("3/3 ready"), "{}", console.text(80, 24));
}

#[tokio::test(start_paused = true)]
async fn a_read_only_console_changes_nothing() {
    let settings = Settings { readonly: true, ..Settings::default() };
    let mut console = Console::start(settings, 3).await;
    for keys in ["xy", "3dy", "+y", "b", "Ly", ":put a 1\n", ":kill n2 --yes\n", ":batch 3\n"] {
        console.press(keys).await;
        console.press("\u{1b}\u{1b}").await;
    }
    let changed = |call: &Call| call.is_destructive() || matches!(call, Call::Put { .. });
    assert!(!console.called.iter().any(changed), "{:?}", console.called);
    assert!(console.text(80, 24).contains("READ-ONLY"));
}

/// Keys and lines that a person or a cat may press. They contain no `y`, no name and no `--yes`.
const PRESSES: [&str; 30] = [
    "x",
    "d",
    "+",
    "-",
    "s",
    "L",
    "c",
    "h",
    "H",
    "u",
    "D",
    "p",
    "\n",
    "\u{1b}",
    "\t",
    "1",
    "2",
    "3",
    "4",
    "5",
    "6",
    "z",
    " ",
    "j",
    "k",
    "Y",
    "n",
    ":kill n2\n",
    ":delete user:0000001\n",
    ":scale 1\n",
];

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, ..ProptestConfig::with_cases(64)
    })]

    #[test]
    fn nothing_is_destroyed_without_a_yes(
        presses in prop::collection::vec(prop::sample::select(&PRESSES[..]), 0..120),
        with_yes in prop::bool::ANY,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut console = Console::start(Settings::default(), 3).await;
            for press in presses {
                console.press(press).await;
                if with_yes {
                    // A yes carries out the act in question, and nothing else.
                    let asked = console.app.dialog.is_some();
                    let before = console.backend.calls().len();
                    console.press("y").await;
                    let new = &console.backend.calls()[before..];
                    let destroyed = new.iter().filter(|call| call.is_destructive()).count();
                    assert!(destroyed <= usize::from(asked), "{new:?}");
                    console.wait(50).await;
                }
                console.draw(80, 24);
            }
            if !with_yes {
                let calls = console.backend.calls();
                assert!(calls.iter().all(|call| !call.is_destructive()), "{calls:?}");
            }
        });
    }
}

/// Text arrives all at once, whatever it contains and wherever, and in parts: nothing is done to
/// the cluster. `KVORUM_BURSTS` sets how often.
#[tokio::test(start_paused = true)]
async fn a_burst_of_text_does_nothing() {
    use rand::rngs::StdRng;
    use rand::seq::IndexedRandom;
    use rand::{RngExt, SeedableRng};
    const PLACES: [&str; 10] = ["", "1", "2", "3", "4", "5", "6", "3z", "?", ":"];
    const QUESTIONS: [&str; 7] = ["x", "d", "+", "-", "L", "D", ":kill n2"];
    const WORDS: [&str; 22] = [
        "expiry date",
        "delete my key please",
        "\n",
        "y",
        "x",
        "d",
        "+",
        "-",
        "L",
        "D",
        "H",
        "u",
        "w",
        "yes",
        "kvorum-1",
        "kvorum-2\n",
        ":kill n2 --yes\n",
        ":scale 1 --yes\n",
        " --yes",
        "p",
        "\u{1b}",
        "put a b\n",
    ];
    let bursts = std::env::var("KVORUM_BURSTS").ok().and_then(|text| text.parse().ok());
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut console = Console::start(Settings::default(), 3).await;
    for _ in 0..bursts.unwrap_or(5_000_u32) {
        console.press(PLACES.choose(&mut random).unwrap()).await;
        if random.random_range(0..3) == 0 {
            console.press(QUESTIONS.choose(&mut random).unwrap()).await;
        }
        console.now.monotonic += Duration::from_secs(1);
        let words = (0..random.random_range(1..8)).map(|_| *WORDS.choose(&mut random).unwrap());
        let text: Vec<char> = "ab".chars().chain(words.collect::<String>().chars()).collect();
        // The first part has several keys: a single one would count as a key press.
        let (mut rest, mut size) = (&text[..], 2 + random.random_range(0..8));
        while !rest.is_empty() {
            let (part, others) = rest.split_at(size.min(rest.len()));
            console.burst(part);
            (rest, size) = (others, random.random_range(1..12));
            console.now.monotonic += Duration::from_millis(random.random_range(0..250));
        }
        console.now.monotonic += Duration::from_secs(1);
        console.press("\u{1b}\u{1b}").await;
        assert!(!console.app.is_quitting, "{text:?}");
        let reads = |call: &Call| {
            matches!(
                call,
                Call::Get { .. } | Call::Scan { .. } | Call::Inspect { .. } | Call::Logs { .. }
            )
        };
        assert!(console.called.iter().all(reads), "{text:?}: {:?}", console.called);
        assert!(console.app.demo.is_none(), "{text:?}");
    }
}

/// Random keys and events, with a redraw after each; `KVORUM_PRESSES` sets how many.
#[tokio::test(start_paused = true)]
async fn random_keys_do_not_make_it_panic() {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    let presses = std::env::var("KVORUM_PRESSES").ok().and_then(|text| text.parse().ok());
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut console = Console::start(Settings::default(), 3).await;
    let codes = [
        KeyCode::Enter,
        KeyCode::Esc,
        KeyCode::Tab,
        KeyCode::BackTab,
        KeyCode::Up,
        KeyCode::Down,
        KeyCode::Left,
        KeyCode::Right,
        KeyCode::PageUp,
        KeyCode::PageDown,
        KeyCode::Home,
        KeyCode::End,
        KeyCode::Backspace,
        KeyCode::Delete,
    ];
    for _ in 0..presses.unwrap_or(20_000_u32) {
        let code = match random.random_range(0..4) {
            0 => codes[random.random_range(0..codes.len())],
            _ => KeyCode::Char(char::from(random.random_range(b' '..=b'~'))),
        };
        let modifiers = match random.random_range(0..10) {
            0 => KeyModifiers::CONTROL,
            _ => KeyModifiers::NONE,
        };
        // The console goes on even if a key requests its end.
        console.feed(Event::Key(KeyEvent::new(code, modifiers)));
        console.app.is_quitting = false;
        if random.random_range(0..20) == 0 {
            console.wait(random.random_range(0..300)).await;
            let (width, height) = (random.random_range(0..200), random.random_range(0..60));
            console.feed(Event::Resize { width, height });
        }
        console.draw(console.app.size.0, console.app.size.1);
    }
}
