//! `backup`: writes the whole state, as of one index, to a file.
//!
//! Guarantees that the file appears under its name only when it is complete and on the disk, and
//! that it has every write that was acknowledged before the command began.

use std::fs::{self, File};
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use kvorum_protocol::backup::{Header, Writer};
use kvorum_protocol::client::Route;
use kvorum_protocol::message::{Answer, SnapshotName, SnapshotRequest};
use kvorum_protocol::{Client, Value};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde_json::json;

use super::print;
use crate::arguments::Global;
use crate::exit::Failure;
use crate::signals::EndSignals;
use crate::target::{self, Discovered, Named};

/// The interval between two updates of the progress line.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Writes a backup.
pub async fn backup(file: &Path, global: &Global, named: Named) -> Result<(), Failure> {
    if file.exists() {
        return Err(Failure::usage(format!("{} exists; name another file", file.display())));
    }
    let target = target::choose(global, named, Discovered::look(), false)?;
    let (client, _runner) = target.open(global).await?;
    // Two commands may write to one name: each writes beside it, and the first one to end gets it.
    let mut aside = file.as_os_str().to_owned();
    aside.push(format!(".{:08x}.part", rand::random::<u32>()));
    let aside = PathBuf::from(aside);
    let mut told = EndSignals::new()?;
    let written = tokio::select! {
        written = write(&client, &aside) => written,
        () = told.next() => Err(Failure::failed("told to end before the backup was whole")),
    };
    let (header, keys) = match written {
        Ok(done) => done,
        Err(stop) => {
            let _ = fs::remove_file(&aside);
            return Err(stop);
        }
    };
    give_name(&aside, file).map_err(|error| {
        let (aside, file) = (aside.display(), file.display());
        Failure::failed(format!(
            "the backup is whole, but stays {aside}: cannot make {file}: {error}"
        ))
    })?;
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        File::open(folder)?.sync_all()?;
    }
    let bytes = fs::metadata(file)?.len();
    let index = header.index;
    let text = format!("{}: index {index}, {keys} keys, {bytes} bytes", file.display());
    let json =
        json!({ "file": file.display().to_string(), "index": index, "keys": keys, "bytes": bytes });
    print(global.output, &text, &json)
}

/// Gives a file its name, unless a file of that name exists by now.
fn give_name(aside: &Path, file: &Path) -> std::io::Result<()> {
    match renameat_with(CWD, aside, CWD, file, RenameFlags::NOREPLACE) {
        // Not every file system supports this; then a hard link does it.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            fs::hard_link(aside, file)?;
            fs::remove_file(aside)
        }
        done => Ok(done?),
    }
}

fn cannot(file: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot write {}: {error}", file.display()))
}

async fn write(client: &Client, aside: &Path) -> Result<(Header, u64), Failure> {
    let status = client.status(&Route::Any).await?;
    // All parts come from one replica: the one that answered, because the leader may not be among
    // the endpoints that were named.
    let route = Route::Through(status.name);
    let opened = client.snapshot(SnapshotRequest::Open, &route).await?;
    let Answer::Snapshot { snapshot, index, keys } = opened else {
        return Err(Failure::failed("the replica's answer to a backup makes no sense"));
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let taken_us = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
    let header = Header { cluster: status.cluster, index, taken_us };
    let failed = |error: std::io::Error| cannot(aside, &error);
    let file = BufWriter::new(File::create_new(aside).map_err(failed)?);
    let mut writer = Writer::begin(file, header.clone()).map_err(failed)?;
    let copied = copy(client, &route, snapshot, keys, &mut writer).await;
    let _ = client.snapshot(SnapshotRequest::Close { snapshot }, &route).await;
    let copied = copied?;
    let file = writer.end().map_err(failed)?;
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    Ok((header, copied))
}

/// Copies all parts, and returns how many keys they hold.
async fn copy(
    client: &Client,
    route: &Route,
    snapshot: SnapshotName,
    keys: u64,
    writer: &mut Writer<BufWriter<File>>,
) -> Result<u64, Failure> {
    let mut progress = Progress::new(keys);
    let (mut after, mut copied) = (Some(Value::from("")), 0);
    while let Some(from) = after {
        let request = SnapshotRequest::Part { snapshot, after: from };
        let Answer::Part { part, keys, next } = client.snapshot(request, route).await? else {
            return Err(Failure::failed("the replica's answer to a backup makes no sense"));
        };
        writer.part(part.0)?;
        copied += keys;
        progress.show(copied)?;
        after = next;
    }
    progress.end()?;
    Ok(copied)
}

/// A progress line on a terminal.
struct Progress {
    expected: u64,
    shown: Option<Instant>,
    is_shown: bool,
}

impl Progress {
    fn new(expected: u64) -> Self {
        Self { expected, shown: None, is_shown: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, copied: u64) -> Result<(), Failure> {
        const WIDTH: u64 = 30;
        let is_due = self.shown.is_none_or(|shown| shown.elapsed() >= PROGRESS_INTERVAL);
        if self.is_shown && is_due {
            self.shown = Some(Instant::now());
            // The expected number of keys is an estimate.
            let expected = self.expected.max(copied).max(1);
            let full = usize::try_from(WIDTH * copied / expected).unwrap_or(0);
            let bar = "#".repeat(full) + &".".repeat(30 - full.min(30));
            eprint!("\r[{bar}] {copied} of about {expected}");
            std::io::stderr().flush()?;
        }
        Ok(())
    }

    fn end(&self) -> Result<(), Failure> {
        if self.is_shown && self.shown.is_some() {
            eprintln!();
        }
        Ok(std::io::stderr().flush()?)
    }
}
