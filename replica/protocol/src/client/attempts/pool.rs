//! A client's connections, by address, and the replicas at their other ends.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::remembered::Remembered;
use crate::connection::Connection;

/// The connections, and what replicas reported when they were asked.
#[derive(Default)]
pub(super) struct Pool {
    /// The locks by address, each held by the one caller that connects; the others wait and use its
    /// connection.
    pub(super) connecting: HashMap<String, Arc<tokio::sync::Mutex<()>>>,
    pub(super) connections: HashMap<String, Arc<Connection>>,
    /// The names that addresses answered with.
    pub(super) names: HashMap<String, String>,
    pub(super) leader: Option<String>,
    pub(super) remembered: Remembered,
    /// How often the credentials had been replaced when the connections were last made anew.
    pub(super) renewed: u64,
}

impl Pool {
    /// Records the leader that a replica reported. A replica that knows none may be the only one
    /// that does not: it is behind, or was asked for its status only.
    pub(super) fn learn(&mut self, leader: Option<String>) {
        if leader.is_some() {
            self.leader = leader;
        }
    }

    /// Forgets that a replica leads: it is gone, or does not lead.
    pub(super) fn forget(&mut self, name: &str) {
        if self.leader.as_deref() == Some(name) {
            self.leader = None;
        }
    }
}
