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

/// The signals that a console answers to.
pub struct ConsoleSignals {
    ends: EndSignals,
    resized: Signal,
}

impl ConsoleSignals {
    /// Listens for them from now on.
    ///
    /// # Errors
    /// When the system does not let it.
    pub fn new() -> Result<Self, Stop> {
        Ok(Self { ends: EndSignals::new()?, resized: signal(SignalKind::window_change())? })
    }

    /// The next signal: whether it is the end.
    pub async fn next(&mut self) -> bool {
        tokio::select! {
            () = self.ends.next() => true,
            _ = self.resized.recv() => false,
        }
    }
}
