//! Pure: how keys, values, statuses and entries are shown.
//!
//! Guarantees that bytes which a terminal would obey are shown escaped wherever text is printed.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use kvorum_protocol::message::{EntryEvent, EntryKind, KeyEvent, Pair};
use kvorum_protocol::status::{ClusterId, Membership, Role, Status};
use serde_json::{Value as Json, json};

/// Bytes of a value that a list shows.
const PREVIEW_BYTES: usize = 160;

/// Bytes as one line of text: printable UTF-8 as it is, the rest escaped.
#[must_use]
pub fn line(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.chars().all(is_printable) => text.to_owned(),
        Ok(text) => text
            .chars()
            .flat_map(|c| if is_printable(c) { vec![c] } else { c.escape_debug().collect() })
            .collect(),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}

/// A value as one line of a list: cut when it is long.
#[must_use]
pub fn preview(bytes: &[u8]) -> String {
    if bytes.len() <= PREVIEW_BYTES {
        return line(bytes);
    }
    // A character that is cut in two must not turn the whole line into escapes.
    let end = (PREVIEW_BYTES - 3..=PREVIEW_BYTES)
        .rev()
        .find(|end| std::str::from_utf8(&bytes[..*end]).is_ok());
    let shown = line(&bytes[..end.unwrap_or(PREVIEW_BYTES)]);
    format!("{shown}… ({} bytes)", bytes.len())
}

/// Bytes as one word of a shell.
#[must_use]
pub fn shell_word(bytes: &[u8]) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(byte);
    match !bytes.is_empty() && bytes.iter().all(is_plain) {
        true => String::from_utf8_lossy(bytes).into_owned(),
        false => format!("$'{}'", bytes.escape_ascii()),
    }
}

/// A value as text: like [`line()`], but with line ends and tabs.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    let lines = bytes
        .split(|byte| *byte == b'\n')
        .map(|part| part.split(|byte| *byte == b'\t').map(line).collect::<Vec<_>>().join("\t"));
    match std::str::from_utf8(bytes) {
        Ok(_) => lines.collect::<Vec<_>>().join("\n"),
        Err(_) => line(bytes),
    }
}

/// Whether a character moves nothing and hides nothing.
pub(crate) fn is_printable(c: char) -> bool {
    let hides_or_turns = matches!(
        c,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
    );
    !c.is_control() && !hides_or_turns
}

/// Puts bytes into a JSON object: as text where they are UTF-8, else in hexadecimal.
fn put_bytes(object: &mut Json, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object[name] = json!(text),
        Err(_) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            object[format!("{name}_hex")] = json!(hex);
        }
    }
}

/// A pair as JSON.
#[must_use]
pub fn pair_json(pair: &Pair, keys_only: bool) -> Json {
    let mut object = json!({ "revision": pair.revision });
    put_bytes(&mut object, "key", &pair.key.0);
    if !keys_only {
        put_bytes(&mut object, "value", &pair.value.0);
    }
    object
}

/// An entry as JSON.
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

/// An entry as one line.
#[must_use]
pub fn entry_line(event: &EntryEvent) -> String {
    let key = event.key.as_ref().map_or(String::new(), |key| line(&key.0));
    let value = event.preview.as_ref().map_or(String::new(), |value| line(&value.0));
    let rest = match &event.preview {
        Some(shown) if (shown.0.len() as u64) < event.value_bytes => {
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

/// What an entry is, in one word.
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
    }
}

/// A change of a key as JSON.
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

/// A change of a key as one line.
#[must_use]
pub fn change_line(event: &KeyEvent) -> String {
    let key = line(&event.key.0);
    match &event.value {
        Some(value) => format!("{:>8}  put    {key}  {}", event.index, line(&value.0)),
        None => format!("{:>8}  delete {key}", event.index),
    }
}

/// A status as JSON.
#[must_use]
pub fn status_json(name: &str, status: Result<&Status, &str>) -> Json {
    match status {
        Ok(status) => {
            // JSON numbers are too short for a cluster's id; it goes in as text.
            let shown = Status { cluster: ClusterId(0), ..status.clone() };
            let mut object = serde_json::to_value(shown).unwrap_or_default();
            object["cluster"] = json!(status.cluster.to_string());
            object["reachable"] = json!(true);
            object
        }
        Err(why) => json!({ "name": name, "reachable": false, "trouble": why }),
    }
}

/// What a replica does, in one word.
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

/// What each replica says, or why it says nothing.
pub type Said = (String, Result<Status, String>);

/// The cluster's status as a table.
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

/// How the members follow what is wanted, where they are not those wanted.
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
    // Names and reasons are a replica's words.
    lines.iter().map(|said| format!("\n{}", line(said.as_bytes()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        let cases: [(&[u8], &str, &str); 6] = [
            (b"plain", "plain", "plain"),
            ("åäö ✓".as_bytes(), "åäö ✓", "åäö ✓"),
            (b"a\nb\tc", "a\\nb\\tc", "a\nb\tc"),
            (b"\x1b[31mred", "\\u{1b}[31mred", "\\u{1b}[31mred"),
            (b"\xff\x00\n", "\\xff\\x00\\n", "\\xff\\x00\\n"),
            ("a\u{202e}b".as_bytes(), "a\\u{202e}b", "a\\u{202e}b"),
        ];
        for (bytes, as_line, as_text) in cases {
            assert_eq!(line(bytes), as_line);
            assert_eq!(text(bytes), as_text);
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
