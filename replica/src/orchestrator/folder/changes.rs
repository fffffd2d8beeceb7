//! The moments at which a file of a folder may have changed.
//!
//! Guarantees that a file which is written or put into the folder by this machine is noticed at
//! once, and anything else at the next look. Does not know what the file contains.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use futures::stream::unfold;
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, Interval, interval_at};

use super::Hints;

/// The time between two looks where the system reports changes.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// The same where it does not: too many folders may be watched already.
const LOOK_OFTEN_INTERVAL: Duration = Duration::from_millis(100);
/// Bytes of reports that are read at a time.
const REPORTS_BYTES: usize = 4096;

struct Watched {
    file: CString,
    /// The system's reports about the folder, if it gives any.
    reports: Option<AsyncFd<OwnedFd>>,
    looks: Interval,
}

/// Returns a stream with one item each time that a file of a folder may have changed.
pub(in crate::orchestrator) fn changes(folder: &Path, file: &str) -> Hints {
    let (folder, file) = (folder.to_owned(), CString::new(file).expect("a file's name"));
    // Begun by the task that waits, which has a runtime.
    Box::pin(unfold(None, move |watched| {
        let mut watched =
            watched.unwrap_or_else(|| Watched::of(file.clone(), reports_of(&folder).ok()));
        async move {
            watched.change().await;
            Some(((), Some(watched)))
        }
    }))
}

#[expect(deprecated, reason = "its successor is unsafe, and this one owns its descriptor")]
fn reports_of(folder: &Path) -> std::io::Result<AsyncFd<OwnedFd>> {
    let reports = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    let changes = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::DELETE;
    inotify::add_watch(&reports, folder, changes)?;
    AsyncFd::new(reports)
}

impl Watched {
    fn of(file: CString, reports: Option<AsyncFd<OwnedFd>>) -> Self {
        let every = if reports.is_some() { LOOK_INTERVAL } else { LOOK_OFTEN_INTERVAL };
        Self { file, reports, looks: interval_at(Instant::now() + every, every) }
    }

    /// Waits until the file may have changed.
    async fn change(&mut self) {
        let reported = async {
            match &self.reports {
                Some(reports) => is_reported(reports, &self.file).await,
                None => std::future::pending().await,
            }
        };
        let is_broken = tokio::select! {
            reported = reported => reported.is_err(),
            _ = self.looks.tick() => false,
        };
        if is_broken {
            *self = Self::of(std::mem::take(&mut self.file), None);
        }
    }
}

/// Waits for a report about a file.
async fn is_reported(reports: &AsyncFd<OwnedFd>, file: &CString) -> std::io::Result<()> {
    loop {
        let mut guard = reports.readable().await?;
        let mut bytes = [MaybeUninit::uninit(); REPORTS_BYTES];
        let mut reader = Reader::new(reports.get_ref(), &mut bytes);
        let mut is_news = false;
        loop {
            match reader.next() {
                // A report without a name says that reports were lost.
                Ok(report) => is_news |= report.file_name().is_none_or(|name| name == &**file),
                Err(rustix::io::Errno::WOULDBLOCK) => break,
                Err(error) => return Err(error.into()),
            }
        }
        guard.clear_ready();
        if is_news {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::time::timeout;
    use tokio_stream::StreamExt;

    use super::*;

    const SOON: Duration = Duration::from_millis(1500);

    #[tokio::test]
    async fn a_change_is_noticed_at_once_and_of_this_file_only() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("file"), folder.path().join("other"));
        let mut changes = changes(folder.path(), "file");
        let writes = async {
            tokio::time::sleep(LOOK_OFTEN_INTERVAL).await;
            fs::write(&other, "1").unwrap();
            tokio::time::sleep(LOOK_OFTEN_INTERVAL).await;
            fs::rename(&other, &file).unwrap();
            Instant::now()
        };
        let noticed = async {
            timeout(SOON, changes.next()).await.expect("it is noticed");
            Instant::now()
        };
        let (written, noticed) = tokio::join!(writes, noticed);
        assert!(noticed + LOOK_OFTEN_INTERVAL > written, "the other file is none of ours");
        fs::write(&file, "2").unwrap();
        timeout(SOON, changes.next()).await.expect("it is noticed when it is written over");
    }

    /// A folder that cannot be watched is looked at.
    #[tokio::test]
    async fn what_is_not_reported_is_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let mut changes = changes(&folder.path().join("later"), "file");
        timeout(SOON, changes.next()).await.expect("it is looked for often");
    }
}
