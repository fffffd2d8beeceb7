//! The addresses where peers were reached last, in memory and in a file on the volume.
//!
//! Names may not resolve for a while although the replicas are there: the name service is down, or
//! does not know yet that a replica moved. Guarantees that a reader of the file sees a whole one or
//! none, and that addresses of a bounded number of names are kept. An address may belong to another
//! replica by now: the handshake tells which replica is there.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use kvorum_protocol::message::Address;
use tokio::sync::watch;
use tracing::debug;

use crate::transport::addresses::write_whole;

/// The file's name in a replica's folder.
pub const FILE_NAME: &str = "peers.json";
/// Most names whose addresses are kept: those of all members, and of some that come and go. Beyond
/// this, a name other than the one just reached is forgotten.
const NAMES_MAX: usize = 16;

/// The addresses where peers were reached last.
pub struct Reached {
    file: PathBuf,
    /// The port for clients, if it is the same for all replicas.
    clients: Option<u16>,
    /// The addresses of peers, by name. Locked while the file is written, which is rare.
    addresses: Mutex<BTreeMap<String, SocketAddr>>,
    /// The peers' addresses for clients.
    shown: watch::Sender<Vec<Address>>,
}

impl Reached {
    /// Reads the addresses that an earlier process with this folder reached. `clients` is the port
    /// for clients, if all replicas have the same one.
    #[must_use]
    pub fn of(folder: &Path, clients: Option<u16>) -> Self {
        let file = folder.join(FILE_NAME);
        let read = || serde_json::from_slice(&fs::read(&file)?).map_err(io::Error::from);
        let addresses: BTreeMap<String, SocketAddr> = read().unwrap_or_else(|error: io::Error| {
            // The addresses are needed only where names do not resolve.
            debug!(%error, "no addresses of peers are remembered");
            BTreeMap::new()
        });
        let reached = Self {
            file,
            clients,
            addresses: Mutex::new(addresses),
            shown: watch::Sender::default(),
        };
        reached.with(|addresses| reached.show(addresses));
        reached
    }

    fn with<T>(&self, with: impl FnOnce(&mut BTreeMap<String, SocketAddr>) -> T) -> T {
        with(&mut self.addresses.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the peers' addresses for clients, as they change.
    #[must_use]
    pub fn clients(&self) -> watch::Receiver<Vec<Address>> {
        self.shown.subscribe()
    }

    /// Returns the address where a peer was reached last.
    pub(super) fn of_name(&self, name: &str) -> Option<SocketAddr> {
        self.with(|addresses| addresses.get(name).copied())
    }

    /// Records the address where a peer was reached.
    pub(super) fn note(&self, name: &str, address: SocketAddr) {
        self.with(|addresses| {
            if addresses.insert(name.to_owned(), address) == Some(address) {
                return;
            }
            if addresses.len() > NAMES_MAX {
                let other = addresses.keys().find(|other| *other != name).cloned();
                other.and_then(|other| addresses.remove(&other));
            }
            self.show(addresses);
            if let Err(error) = write_whole(&self.file, addresses) {
                debug!(%error, file = %self.file.display(), "cannot remember addresses of peers");
            }
        });
    }

    fn show(&self, addresses: &BTreeMap<String, SocketAddr>) {
        let Some(port) = self.clients else { return };
        let shown = addresses.iter().map(|(name, address)| Address {
            name: name.clone(),
            clients: SocketAddr::new(address.ip(), port).to_string(),
        });
        self.shown.send_replace(shown.collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_outlive_the_process_and_are_bounded() {
        let folder = tempfile::tempdir().expect("a folder");
        let address = |number: u8| SocketAddr::from(([10, 0, 0, number], 7300));
        let reached = Reached::of(folder.path(), Some(7301));
        reached.note("kvorum-1", address(1));
        reached.note("kvorum-2", address(2));
        reached.note("kvorum-1", address(3));
        drop(reached);
        let reached = Reached::of(folder.path(), Some(7301));
        assert_eq!(reached.of_name("kvorum-1"), Some(address(3)));
        let clients = reached.clients().borrow().clone();
        let shown: Vec<_> = clients.iter().map(|a| (&*a.name, &*a.clients)).collect();
        assert_eq!(shown, [("kvorum-1", "10.0.0.3:7301"), ("kvorum-2", "10.0.0.2:7301")]);
        for number in 0..200 {
            reached.note(&format!("kvorum-{number}"), address(number));
            assert_eq!(reached.of_name(&format!("kvorum-{number}")), Some(address(number)));
        }
        assert_eq!(reached.clients().borrow().len(), NAMES_MAX);
        fs::write(folder.path().join(FILE_NAME), "{").expect("it can be written");
        assert_eq!(Reached::of(folder.path(), None).of_name("kvorum-1"), None, "damaged");
    }
}
