//! Checks whether the disk has room.
//!
//! Guarantees that a replica does not open a full disk: it could not even report that then.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::error;

use crate::driver::ControlEvent;
use crate::engine::Input;
use crate::node::settings::Settings;
use crate::storage::OpenError;

/// Time between two checks of the free space.
const DISK_INTERVAL: Duration = Duration::from_secs(1);

/// Returns the bytes that are free for this process on the disk of a folder.
fn free_bytes(folder: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Waits until the disk has room: a replica that opened a full disk could not even report that.
pub async fn wait_for_room(
    settings: &Settings,
    waiting: &watch::Sender<String>,
) -> Result<(), OpenError> {
    let mut told = false;
    loop {
        let free = free_bytes(&settings.data)
            .map_err(|error| OpenError::unusable(&settings.data, &error))?;
        if free >= settings.disk_reserve {
            waiting.send_replace("starting".to_owned());
            return Ok(());
        }
        let why = format!(
            "the disk of {} is full: {free} bytes are free, and {} are kept in reserve; make room, \
             and this replica starts by itself",
            settings.data.display(),
            settings.disk_reserve
        );
        if !told {
            error!("{why}");
            told = true;
        }
        waiting.send_replace(why);
        sleep(DISK_INTERVAL).await;
    }
}

/// Reports the free space to the driver, until the driver ends.
pub async fn watch_disk(settings: Settings, driver: mpsc::Sender<ControlEvent>) {
    let reserve = settings.disk_reserve;
    loop {
        let folder = settings.data.clone();
        let looked = tokio::task::spawn_blocking(move || free_bytes(&folder)).await;
        if let Ok(Ok(free)) = looked {
            let input = Input::Disk { free, reserve };
            if driver.send(ControlEvent::Input(input)).await.is_err() {
                return;
            }
        }
        sleep(DISK_INTERVAL).await;
    }
}
