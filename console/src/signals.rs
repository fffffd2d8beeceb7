//! The signals that end a console or a local cluster.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::Stop;

/// SIGINT, SIGTERM and SIGHUP.
pub struct EndSignals {
    signals: [Signal; 3],
}

impl EndSignals {
    /// Listens for them from now on.
    ///
    /// # Errors
    /// When the system does not let it.
    pub fn new() -> Result<Self, Stop> {
        Ok(Self {
            signals: [
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            ],
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
