//! Pure: the handling of the answers to calls.
//!
//! Guarantees that an answer is reported with its call, its place and its duration, and that a
//! write of unknown outcome is reported as unknown and nothing else.

use std::time::Duration;

use kvorum_protocol::Key;
use kvorum_protocol::data::Outcome;

use super::acts;
use crate::app::keys::Found;
use crate::app::output::Verdict;
use crate::app::{App, Page, Pending, Purpose, Undo};
use crate::exit::{Exit, Failure};
use crate::message::{CallId, Effect, Previous, Reply};
use crate::output;
use crate::prompt::words;

/// The longest value that can be edited in the prompt, in bytes.
const EDIT_BYTES_MAX: usize = 8 * 1024;

/// Takes in an answer.
pub fn answered(app: &mut App, id: CallId, result: Result<Reply, Failure>) -> Vec<Effect> {
    let Some(pending) = app.calls.remove(&id) else { return Vec::new() };
    let took = app.now.monotonic.saturating_sub(pending.since);
    match (pending.purpose.clone(), result) {
        (Purpose::Page, result) => page(app, id, result),
        (Purpose::Inspect, Ok(Reply::Inspected { pair, nodes })) => {
            if let Some(open) = app.keys.inspected.as_mut().filter(|open| open.call == id) {
                open.found = Some(Found { pair, nodes });
            }
        }
        (Purpose::Inspect, Err(stop)) => {
            app.keys.inspected = app.keys.inspected.take().filter(|open| open.call != id);
            refused(app, &pending, &stop);
        }
        (Purpose::Edit { key }, Ok(Reply::Value(pair))) => edit(app, &key, pair.as_ref()),
        (Purpose::Logs, Ok(Reply::Lines(found))) => {
            if let Some(Page::Logs { lines, .. }) = &mut app.page {
                // The end of a log is the part of interest.
                app.scroll = found.len();
                *lines = Some(found);
            }
        }
        (Purpose::Logs, Err(stop)) => {
            app.page = None;
            refused(app, &pending, &stop);
        }
        (Purpose::Say { key }, Ok(reply)) => said(app, &pending, key, reply, took),
        (Purpose::Demo, Ok(reply)) => said(app, &pending, None, reply, took),
        (_, Err(stop)) => refused(app, &pending, &stop),
        (_, Ok(_)) => {
            let text = format!("{}: the answer makes no sense", pending.text);
            app.output.say(app.now, Verdict::Refused, text);
        }
    }
    Vec::new()
}

fn page(app: &mut App, id: CallId, result: Result<Reply, Failure>) {
    // A page requested before the prefix changed is of no use.
    if app.keys.loading != Some(id) {
        return;
    }
    app.keys.loading = None;
    match result {
        Ok(Reply::Page(page)) => {
            let later: Vec<_> = app.log.after(page.index).cloned().collect();
            app.keys.fill(page, later.iter());
        }
        Ok(_) => app.keys.trouble = Some("the answer makes no sense".to_owned()),
        Err(stop) => app.keys.trouble = Some(stop.message),
    }
}

fn refused(app: &mut App, pending: &Pending, stop: &Failure) {
    let next = match stop.exit {
        Exit::Unknown => format!(" — get {} tells", pending.text.rsplit(' ').next().unwrap_or("")),
        _ => String::new(),
    };
    let text = format!("{}: {}{next}", pending.text, stop.message);
    acts::say_refused(app, &pending.purpose, Verdict::of(stop), text);
}

fn said(app: &mut App, pending: &Pending, key: Option<Key>, reply: Reply, took: Duration) {
    let what = &pending.text;
    let took = format!("in {}", output::milliseconds(took));
    let (verdict, text) = match reply {
        Reply::Written { outcome, previous } => {
            let (verdict, text) = written(what, outcome, &took);
            let undo = key.and_then(|key| undo_of(key, outcome, previous, what));
            let hint = if undo.is_some() { "  (u takes it back)" } else { "" };
            app.undo = undo.or(app.undo.take());
            (verdict, format!("{text}{hint}"))
        }
        Reply::Value(Some(pair)) => {
            let value = app.shown_value(output::preview(&pair.value.0));
            (Verdict::Done, format!("{what} = {value}  revision {} {took}", pair.revision))
        }
        Reply::Value(None) => (Verdict::Note, format!("{what}: there is no such key  {took}")),
        Reply::Done(how) => (Verdict::Done, format!("{what}: {how} {took}")),
        Reply::Page(_) | Reply::Inspected { .. } | Reply::Lines(_) => {
            (Verdict::Refused, format!("{what}: the answer makes no sense"))
        }
    };
    app.output.say(app.now, verdict, text);
}

fn written(what: &str, outcome: Outcome, took: &str) -> (Verdict, String) {
    match outcome {
        Outcome::Put { revision } | Outcome::Deleted { revision, existed: true } => {
            (Verdict::Done, format!("{what} at revision {revision} {took}"))
        }
        Outcome::Deleted { existed: false, .. } => {
            (Verdict::Note, format!("{what}: there is no such key  {took}"))
        }
        Outcome::ConditionFailed { current: None } => {
            (Verdict::Refused, format!("{what}: not done, the key does not exist"))
        }
        Outcome::ConditionFailed { current: Some(revision) } => {
            (Verdict::Refused, format!("{what}: not done, the key has revision {revision} now"))
        }
        Outcome::Expired => {
            (Verdict::Refused, format!("{what}: not done, it was too long on its way; try again"))
        }
        Outcome::AccessChanged | Outcome::AccessUnchanged(_) | Outcome::Forbidden => {
            (Verdict::Refused, format!("{what}: the answer makes no sense"))
        }
    }
}

/// Returns how to undo a write, if the previous value is known.
fn undo_of(key: Key, outcome: Outcome, previous: Previous, what: &str) -> Option<Undo> {
    let what = what.to_owned();
    let value = match previous {
        Previous::Unknown => return None,
        Previous::Absent => None,
        Previous::Value(value) => Some(value),
    };
    match outcome {
        Outcome::Put { revision } => Some(Undo { key, value, revision: Some(revision), what }),
        Outcome::Deleted { existed: true, .. } => {
            value.map(|value| Undo { key, value: Some(value), revision: None, what })
        }
        _ => None,
    }
}

fn edit(app: &mut App, key: &Key, pair: Option<&kvorum_protocol::message::Pair>) {
    let Some(pair) = pair else {
        let text = format!("edit {}: there is no such key", output::preview(&key.0));
        app.output.say(app.now, Verdict::Note, text);
        return;
    };
    if pair.value.0.len() > EDIT_BYTES_MAX {
        let text = format!(
            "edit {}: its value has {} bytes, too many for a line; put {} @FILE takes a file",
            output::preview(&key.0),
            pair.value.0.len(),
            words::quote(&key.0)
        );
        app.output.say(app.now, Verdict::Refused, text);
        return;
    }
    let mut value = words::quote(&pair.value.0);
    if pair.value.0.starts_with(b"@") {
        // A single @ in front would name a file.
        value = words::quote(&[b"@", &pair.value.0[..]].concat());
    }
    let line = format!("put {} {value} --if-revision {}", words::quote(&key.0), pair.revision);
    if app.prompt.is_open || app.dialog.is_some() {
        let text = format!("edit {}: the prompt is in use", output::preview(&key.0));
        app.output.say(app.now, Verdict::Note, text);
        return;
    }
    app.prompt.open(&line);
}
