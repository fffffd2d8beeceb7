//! Pure: the formats of keys, values, statuses and entries.
//!
//! Guarantees that bytes which a terminal would interpret are escaped wherever text is printed, and
//! that no two keys look alike.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use kvorum_protocol::message::{EntryEvent, EntryKind, KeyEvent, Pair};
use kvorum_protocol::status::{ClusterId, Membership, Role, Status};
use serde_json::{Value as Json, json};

/// The number of bytes of a value that a list shows.
const PREVIEW_BYTES: usize = 160;

/// Formats a time in milliseconds, human-readable.
#[must_use]
pub fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// Formats a sentence as one line: printable UTF-8 as it is, the rest escaped. Arbitrary bytes in
/// it must have gone through [`shown()`] before.
#[must_use]
pub fn line(sentence: &[u8]) -> String {
    escape(sentence, |c| c == '\\')
}

/// Formats a key or a value as one line: printable UTF-8 as it is, the rest escaped, and the
/// backslash too, so that the result stands for these bytes only.
#[must_use]
pub fn shown(bytes: &[u8]) -> String {
    escape(bytes, |_| false)
}

/// Formats bytes as text: escapes backslashes and what is not printable, except what is kept.
fn escape(bytes: &[u8], is_kept: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        let (mut before, mut characters) = (None, chunk.valid().chars().peekable());
        while let Some(c) = characters.next() {
            let joins =
                is_joiner(c) && [before, characters.peek().copied()].map(is_joined) == [true; 2];
            match c {
                c if is_kept(c) || joins => escaped.push(c),
                '\\' => escaped.push_str("\\\\"),
                c if is_printable(c) => escaped.push(c),
                c => escaped.extend(c.escape_debug()),
            }
            before = Some(c);
        }
        for byte in chunk.invalid() {
            let _ = write!(escaped, "\\x{byte:02x}");
        }
    }
    escaped
}

/// Formats a value as one line of a list; a long value is cut.
#[must_use]
pub fn preview(bytes: &[u8]) -> String {
    if bytes.len() <= PREVIEW_BYTES {
        return shown(bytes);
    }
    // A character cut in two must not turn the whole line into escapes.
    let end = (PREVIEW_BYTES - 3..=PREVIEW_BYTES)
        .rev()
        .find(|end| std::str::from_utf8(&bytes[..*end]).is_ok());
    let start = shown(&bytes[..end.unwrap_or(PREVIEW_BYTES)]);
    format!("{start}… ({} bytes)", bytes.len())
}

/// Quotes bytes as one word of a shell: in a form that every shell knows, if they are printable.
#[must_use]
pub fn shell_word(bytes: &[u8]) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(byte);
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && bytes.iter().all(is_plain) => text.to_owned(),
        Ok(text) if text.chars().all(is_printable) => {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
        _ => format!("$'{}'", bytes.escape_ascii()),
    }
}

/// Quotes a path as one word of a shell.
#[must_use]
pub fn shell_path(path: &Path) -> String {
    shell_word(path.as_os_str().as_bytes())
}

/// Formats a value as text, with line ends and tabs. If anything is escaped, so are backslashes.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    let is_kept = |c| matches!(c, '\n' | '\t');
    let plain = escape(bytes, |c| is_kept(c) || c == '\\');
    if plain.as_bytes() == bytes { plain } else { escape(bytes, is_kept) }
}

/// Whether a character neither moves nor hides anything on the terminal.
pub(crate) fn is_printable(c: char) -> bool {
    let hides_or_turns = matches!(
        c,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
    );
    !c.is_control() && !hides_or_turns
}

/// Whether a character joins or separates its neighbors, as in Persian and in family emoji.
fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}')
}

/// Whether a character looks different when it is joined to another one.
fn is_joined(c: Option<char>) -> bool {
    c.is_some_and(|c| !c.is_ascii() && is_printable(c))
}

/// Puts bytes into a JSON object: as text where they are UTF-8, else in hexadecimal.
pub(crate) fn put_bytes(object: &mut Json, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object[name] = json!(text),
        Err(_) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            object[format!("{name}_hex")] = json!(hex);
        }
    }
}

/// Formats a pair as JSON.
#[must_use]
pub fn pair_json(pair: &Pair, keys_only: bool) -> Json {
    let mut object = json!({ "revision": pair.revision });
    put_bytes(&mut object, "key", &pair.key.0);
    if !keys_only {
        put_bytes(&mut object, "value", &pair.value.0);
    }
    object
}

/// Formats an entry as JSON.
#[must_use]
pub fn entry_json(event: &EntryEvent) -> Json {
    let mut object = json!({
        "index": event.index,
        "kind": kind(event.kind),
        "took_effect": event.took_effect,
    });
    if let Some(key) = &event.key {
        put_bytes(&mut object, "key", &key.0);
    }
    if let Some(preview) = &event.preview {
        put_bytes(&mut object, "preview", &preview.0);
        object["value_bytes"] = json!(event.value_bytes);
    }
    object
}

/// Formats an entry as one line.
#[must_use]
pub fn entry_line(event: &EntryEvent) -> String {
    let key = event.key.as_ref().map_or(String::new(), |key| shown(&key.0));
    let value = event.preview.as_ref().map_or(String::new(), |value| shown(&value.0));
    let rest = match &event.preview {
        Some(start) if (start.0.len() as u64) < event.value_bytes => {
            format!("… ({} bytes)", event.value_bytes)
        }
        _ => String::new(),
    };
    let changed = event.took_effect || event.key.is_none();
    let void = if changed { "" } else { "  (no change)" };
    format!("{:>8}  {:<6} {key}  {value}{rest}{void}", event.index, kind(event.kind))
        .trim_end()
        .to_owned()
}

/// Returns the kind of an entry, in one word.
#[must_use]
pub fn kind(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Noop => "noop",
        EntryKind::Put => "put",
        EntryKind::Delete => "delete",
        EntryKind::StopSign => "stop",
        EntryKind::Version => "version",
        EntryKind::Checksum => "check",
        EntryKind::Join => "join",
        EntryKind::Access => "access",
    }
}

/// Formats a change of a key as JSON.
#[must_use]
pub fn change_json(event: &KeyEvent) -> Json {
    let name = if event.value.is_some() { "put" } else { "delete" };
    let mut object = json!({ "index": event.index, "change": name });
    put_bytes(&mut object, "key", &event.key.0);
    if let Some(value) = &event.value {
        put_bytes(&mut object, "value", &value.0);
    }
    object
}

/// Formats a change of a key as one line.
#[must_use]
pub fn change_line(event: &KeyEvent) -> String {
    let key = shown(&event.key.0);
    match &event.value {
        Some(value) => format!("{:>8}  put    {key}  {}", event.index, shown(&value.0)),
        None => format!("{:>8}  delete {key}", event.index),
    }
}

/// Formats a status as JSON.
#[must_use]
pub fn status_json(name: &str, status: Result<&Status, &str>) -> Json {
    match status {
        Ok(status) => {
            // JSON numbers are too small for a cluster's id; it is written as text.
            let shown = Status { cluster: ClusterId(0), ..status.clone() };
            let mut object = serde_json::to_value(shown).unwrap_or_default();
            object["cluster"] = json!(status.cluster.to_string());
            object["reachable"] = json!(true);
            object
        }
        Err(why) => json!({ "name": name, "reachable": false, "trouble": why }),
    }
}

/// Returns a replica's role, in one word.
#[must_use]
pub fn role(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Candidate => "candidate",
        Role::Follower => "follower",
        Role::Recovering => "recovering",
        Role::Gathering => "gathering",
        Role::Outside => "outside",
        Role::Joining => "joining",
        Role::Retired => "retired",
    }
}

/// A replica's name, and its status or the reason why it gave none.
pub type Said = (String, Result<Status, String>);

/// Formats the cluster's status as a table.
#[must_use]
pub fn status_table(said: &[Said]) -> String {
    let decided = said.iter().filter_map(|(_, s)| s.as_ref().ok()).map(|s| s.decided).max();
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(["NODE", "ROLE", "READY", "BALLOT", "DECIDED", "APPLIED", "LAG", "LINKS"]);
    for (name, status) in said {
        let Ok(status) = status else {
            table.add_row([&*line(name.as_bytes()), "unreachable", "no", "", "", "", "", ""]);
            continue;
        };
        let up = status.links.iter().filter(|link| link.is_up).count();
        let owner = status.configuration.name_of(status.ballot.replica).unwrap_or("-");
        table.add_row([
            line(name.as_bytes()),
            role(status.role).to_owned(),
            if status.is_ready { "yes" } else { "no" }.to_owned(),
            format!("{} of {}", status.ballot.number, line(owner.as_bytes())),
            status.decided.to_string(),
            status.applied.to_string(),
            decided.unwrap_or(0).saturating_sub(status.applied).to_string(),
            format!("{up} of {}", status.links.len()),
        ]);
    }
    for column in 4..=6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    text.push_str(&membership_lines(said));
    for (name, status) in said {
        let trouble = match status {
            Ok(status) => status.trouble.as_deref(),
            Err(why) => Some(why.as_str()),
        };
        if let Some(trouble) = trouble {
            text.extend(["\n", &line(name.as_bytes()), ": ", &line(trouble.as_bytes())]);
        }
        let catching_up = status.as_ref().ok().and_then(|status| status.catching_up.as_ref());
        if let Some(copied) = catching_up.filter(|copied| copied.items_expected > 0) {
            let (items, expected) = (copied.items, copied.items_expected.max(copied.items));
            let mib = copied.bytes >> 20;
            let far = format!(" ({items} of about {expected} keys are there, {mib} MiB)");
            text.push_str(&far);
        }
    }
    text
}

/// Describes the configuration, and the changes under way to the wanted number of members.
fn membership_lines(said: &[Said]) -> String {
    let statuses = said.iter().filter_map(|(_, status)| status.as_ref().ok());
    let Some(status) = statuses.max_by_key(|s| (s.configuration.id, s.role == Role::Leader)) else {
        return String::new();
    };
    let Membership { wanted, joiners, leaving, waits, .. } = &status.membership;
    let (id, count) = (status.configuration.id.0, status.configuration.members.len());
    let wanted = wanted.map_or(String::new(), |wanted| format!(", {wanted} wanted"));
    let plural = if count == 1 { "" } else { "s" };
    let mut lines = vec![format!("configuration {id}: {count} member{plural}{wanted}")];
    for joiner in joiners.iter().filter(|joiner| joiner.is_linked) {
        lines.push(format!("{} joins: it has the state up to {}", joiner.name, joiner.index));
    }
    lines.extend(leaving.iter().map(|name| format!("{name} leaves")));
    lines.extend(waits.iter().map(|why| format!("the members stay as they are: {why}")));
    // Names and reasons are text that a replica sent.
    lines.iter().map(|said| format!("\n{}", line(said.as_bytes()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        let (family, persian) = ("👨\u{200d}👩\u{200d}👧", "می\u{200c}خواهم");
        let cases: [(&[u8], &str, &str); 10] = [
            (b"plain", "plain", "plain"),
            ("åäö ✓".as_bytes(), "åäö ✓", "åäö ✓"),
            (b"a\nb\tc", "a\\nb\\tc", "a\nb\tc"),
            (b"\x1b[31mred", "\\u{1b}[31mred", "\\u{1b}[31mred"),
            ("å\u{fffd}".as_bytes(), "å\u{fffd}", "å\u{fffd}"),
            (b"\xff\x00\n\\", "\\xff\\0\\n\\\\", "\\xff\\0\n\\\\"),
            (br"C:\new", r"C:\\new", r"C:\new"),
            ("a\u{202e}b\u{200d}".as_bytes(), "a\\u{202e}b\\u{200d}", "a\\u{202e}b\\u{200d}"),
            (family.as_bytes(), family, family),
            (persian.as_bytes(), persian, persian),
        ];
        for (bytes, as_line, as_text) in cases {
            assert_eq!(shown(bytes), as_line);
            assert_eq!(text(bytes), as_text);
            assert_eq!(line(shown(bytes).as_bytes()), as_line, "a sentence keeps what is shown");
        }
    }

    /// Reverses the escapes of [`shown()`].
    fn unescape(shown: &str) -> Vec<u8> {
        let (mut bytes, mut rest) = (Vec::new(), shown);
        let number = |digits: &str| u32::from_str_radix(digits, 16).unwrap();
        while let Some(c) = rest.chars().next() {
            let mut length = c.len_utf8();
            let mut character = c;
            if c == '\\' {
                length = 2;
                character = match rest.as_bytes()[1] {
                    b'\\' => '\\',
                    b'n' => '\n',
                    b't' => '\t',
                    b'r' => '\r',
                    b'0' => '\0',
                    b'u' => {
                        let end = rest.find('}').unwrap();
                        length = end + 1;
                        char::from_u32(number(&rest[3..end])).unwrap()
                    }
                    b'x' => {
                        bytes.push(u8::try_from(number(&rest[2..4])).unwrap());
                        rest = &rest[4..];
                        continue;
                    }
                    other => panic!("{other} is no escape"),
                };
            }
            bytes.extend(character.encode_utf8(&mut [0; 4]).bytes());
            rest = &rest[length..];
        }
        bytes
    }

    #[test]
    fn whatever_is_shown_stands_for_one_thing_only() {
        let short = (0..=u16::MAX).map(|two| two.to_be_bytes().to_vec());
        let text = ["\\", "n", "x", "ff", "\u{200d}", "👩", "\u{1b}", "é", "u{", "}", "0"];
        // Any numbers do, as long as they are many (Knuth, The Art of Computer Programming, 3.3.4).
        let mut number: u64 = 1;
        let mut draw = |below: usize| {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(number >> 33).expect("it is short") % below
        };
        let mut mixed = Vec::new();
        for _ in 0..20_000 {
            let mut bytes = Vec::new();
            for _ in 0..draw(8) {
                match draw(3) {
                    0 => bytes.push(u8::try_from(draw(256)).expect("it is a byte")),
                    _ => bytes.extend(text[draw(text.len())].bytes()),
                }
            }
            mixed.push(bytes);
        }
        for bytes in short.chain(mixed) {
            assert_eq!(unescape(&shown(&bytes)), bytes, "{}", shown(&bytes));
        }
    }

    #[test]
    fn a_word_of_a_shell_is_one() {
        let cases: [(&[u8], &str); 5] = [
            (b"plain-1.2/x", "plain-1.2/x"),
            ("my data ü".as_bytes(), "'my data ü'"),
            (b"it's", r"'it'\''s'"),
            (b"", "''"),
            (b"a\n\xff", r"$'a\n\xff'"),
        ];
        for (bytes, word) in cases {
            assert_eq!(shell_word(bytes), word);
        }
    }

    #[test]
    fn json_holds_any_bytes() {
        let pair =
            |value: &'static [u8]| Pair { key: "k".into(), value: value.into(), revision: 7 };
        let json = |value| pair_json(&pair(value), false).to_string();
        assert_eq!(json(b"v"), r#"{"key":"k","revision":7,"value":"v"}"#);
        assert_eq!(json(b"\xff"), r#"{"key":"k","revision":7,"value_hex":"ff"}"#);
    }
}
