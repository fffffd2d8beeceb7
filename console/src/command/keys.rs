//! The commands `put`, `get`, `delete` and `scan`.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;

use kvorum_protocol::Value;
use kvorum_protocol::data::{Condition, Operation, Outcome};
use kvorum_protocol::limits::SCAN_PAIRS_MAX;
use kvorum_protocol::message::{Pair, Scan};
use serde_json::json;

use super::{Context, print};
use crate::arguments::{Format, Put};
use crate::exit::{Exit, Failure};
use crate::node::Node;
use crate::output;
use crate::value::{Source, key_of};

pub async fn put(context: &Context, put: Put) -> Result<(), Failure> {
    let condition = put.condition();
    let operation = Operation::Put {
        key: key_of(&put.key),
        value: Value(Source::of(&put.value).read()?),
        condition,
    };
    write(context, operation, put.node).await
}

pub async fn delete(
    context: &Context,
    key: OsString,
    node: Option<Node>,
    if_revision: Option<u64>,
) -> Result<(), Failure> {
    let condition = if_revision.map_or(Condition::Always, Condition::AtRevision);
    write(context, Operation::Delete { key: key_of(&key), condition }, node).await
}

async fn write(context: &Context, operation: Operation, node: Option<Node>) -> Result<(), Failure> {
    operation.validate().map_err(|limit| Failure::usage(limit.to_string()))?;
    let route = context.leader_or(node.as_ref()).await?;
    let key = operation.key().map(|key| output::shown(&key.0)).unwrap_or_default();
    let outcome = context.client.write(operation, &route).await?;
    let format = context.global.output;
    match outcome {
        Outcome::Put { revision } => print(
            format,
            &format!("put {key} at revision {revision}"),
            &json!({ "revision": revision }),
        ),
        Outcome::Deleted { revision, existed: true } => {
            let json = json!({ "revision": revision, "existed": true });
            print(format, &format!("deleted {key} at revision {revision}"), &json)
        }
        Outcome::Deleted { existed: false, .. } => {
            Err(Failure::new(Exit::NotFound, format!("there is no key {key}")))
        }
        Outcome::ConditionFailed { current: None } => {
            Err(Failure::failed(format!("not done: there is no key {key}")))
        }
        Outcome::ConditionFailed { current: Some(revision) } => {
            Err(Failure::failed(format!("not done: {key} has revision {revision}")))
        }
        Outcome::Expired => {
            Err(Failure::failed("not done: the request was too long on its way; try again"))
        }
        Outcome::AccessChanged | Outcome::AccessUnchanged(_) | Outcome::Forbidden => {
            Err(Failure::failed("the answer makes no sense for the request"))
        }
    }
}

pub async fn get(context: &Context, key: OsString, node: Option<Node>) -> Result<(), Failure> {
    let key = key_of(&key);
    kvorum_protocol::data::validate_key(&key).map_err(|limit| Failure::usage(limit.to_string()))?;
    let route = context.leader_or(node.as_ref()).await?;
    let pair = context.client.get(key.clone(), context.consistency(), &route).await?;
    let Some(pair) = pair else {
        let message = format!("there is no key {}", output::shown(&key.0));
        return Err(Failure::new(Exit::NotFound, message));
    };
    let format = context.global.output;
    let mut out = std::io::stdout().lock();
    // The value is altered for display only on a terminal.
    if format == Format::Raw || format == Format::Table && !out.is_terminal() {
        out.write_all(&pair.value.0)?;
        return Ok(out.flush()?);
    }
    drop(out);
    let text = output::text(&pair.value.0);
    if format == Format::Table && text.as_bytes() != &pair.value.0[..] {
        crate::note::note(
            "what cannot be printed is shown as escapes; -o raw, or a pipe, has the bytes",
        );
    }
    print(format, &text, &output::pair_json(&pair, false))
}

pub async fn scan(
    context: &Context,
    prefix: OsString,
    node: Option<Node>,
    limit: u64,
    from: Option<OsString>,
    keys_only: bool,
) -> Result<(), Failure> {
    let route = context.leader_or(node.as_ref()).await?;
    let mut from = from.map_or(Vec::new(), |key| key.as_bytes().to_vec());
    let mut left = if limit == 0 { u64::MAX } else { limit };
    let is_shown = std::io::stdout().is_terminal();
    let format = context.global.output;
    let mut listing = Listing { format, keys_only, is_shown, json: Vec::new() };
    let mut pages = 0;
    loop {
        pages += 1;
        let page = Scan {
            prefix: prefix.as_bytes().to_vec(),
            from,
            until: Vec::new(),
            limit: u32::try_from(left).unwrap_or(SCAN_PAIRS_MAX).min(SCAN_PAIRS_MAX),
            keys_only,
            consistency: context.consistency(),
        };
        let page = context.client.scan(page, &route).await?;
        left -= page.pairs.len() as u64;
        listing.pairs(&page.pairs)?;
        match page.next {
            Some(next) if left > 0 => from = next.0.to_vec(),
            next => {
                listing.end()?;
                if pages > 1 {
                    crate::note::note(
                        "these are several pages, each as of its own moment; 'kvorum backup' is of \
                         one",
                    );
                }
                if let Some(next) = next {
                    let word = output::shell_word(&next.0);
                    crate::note::note(format!("there is more; go on with --from={word}"));
                }
                return Ok(());
            }
        }
    }
}

/// A printer of pairs as they arrive.
struct Listing {
    format: Format,
    keys_only: bool,
    /// Whether the output is a terminal, where long values are cut.
    is_shown: bool,
    json: Vec<serde_json::Value>,
}

impl Listing {
    fn pairs(&mut self, pairs: &[Pair]) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        for pair in pairs {
            match (self.format, self.keys_only) {
                (Format::Table, true) => writeln!(out, "{}", output::shown(&pair.key.0))?,
                (Format::Table, false) => {
                    let value = if self.is_shown { output::preview } else { output::shown };
                    writeln!(out, "{}\t{}", output::shown(&pair.key.0), value(&pair.value.0))?;
                }
                (Format::Raw, _) => out.write_all(&raw_line(pair, self.keys_only)?)?,
                (Format::Jsonl, _) => writeln!(out, "{}", output::pair_json(pair, self.keys_only))?,
                (Format::Json, _) => self.json.push(output::pair_json(pair, self.keys_only)),
            }
        }
        Ok(out.flush()?)
    }

    fn end(&mut self) -> Result<(), Failure> {
        match self.format {
            Format::Json => print(self.format, "", &json!(std::mem::take(&mut self.json))),
            _ => Ok(()),
        }
    }
}

/// Returns a pair unescaped, in one line; rejects one that could be read as other pairs.
fn raw_line(pair: &Pair, keys_only: bool) -> Result<Vec<u8>, Failure> {
    let (key, value) = (&pair.key.0[..], &pair.value.0[..]);
    let parts: &[&[u8]] = if keys_only { &[key, b"\n"] } else { &[key, b"\t", value, b"\n"] };
    let breaks = |bytes: &[u8], ends: &[u8]| bytes.iter().any(|byte| ends.contains(byte));
    let is_broken = match keys_only {
        true => breaks(key, b"\n"),
        false => breaks(key, b"\t\n") || breaks(value, b"\n"),
    };
    if is_broken {
        return Err(Failure::failed(format!(
            "{} has a line end or a tab in it, so that a raw list cannot be told apart; \
             use -o jsonl",
            output::shown(key)
        )));
    }
    Ok(parts.concat())
}
