//! The lock of a replica's folder.
//!
//! Guarantees that one process at a time uses a folder, whatever the folder contains. The system
//! releases the lock when the process ends, in any way. The file holds the process's id, for
//! operators and for `kvorum kill`.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::storage::OpenError;

/// The number of attempts to take the lock.
const TRIES: u32 = 5;
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// Takes the lock of a folder. It is held for as long as the file is open.
pub fn take(folder: &Path) -> Result<File, OpenError> {
    let path = folder.join("lock");
    let unusable = |reason: String| OpenError::unusable(folder, &reason);
    let mut options = File::options();
    let file = options.create(true).truncate(false).read(true).write(true).open(&path);
    let file = file.map_err(|error| unusable(format!("{}: {error}", path.display())))?;
    let mut tries = 0;
    let locked = loop {
        let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
        tries += 1;
        // A process that checks whether the lock is held holds it for an instant.
        if locked != Err(Errno::WOULDBLOCK) || tries == TRIES {
            break locked;
        }
        std::thread::sleep(PAUSE);
    };
    match locked {
        Ok(()) => {
            let _ = fs::write(&path, std::process::id().to_string());
            Ok(file)
        }
        Err(Errno::WOULDBLOCK) => {
            let holder = fs::read_to_string(&path).unwrap_or_default();
            let holder = match holder.trim() {
                "" => String::new(),
                pid => format!(" (process {pid})"),
            };
            Err(OpenError::Locked { folder: folder.to_owned(), holder })
        }
        Err(error) => Err(unusable(error.to_string())),
    }
}
