//! The file to which a replica writes its listening addresses.
//!
//! Where the system chooses ports, peers and clients on the same machine find a replica by it.
//! Guarantees that a reader sees a whole file or none. Does not say that the replica is alive.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The file's name in a replica's folder.
pub const FILE_NAME: &str = "addresses.json";

/// The addresses on which a replica listens, each as `host:port`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Addresses {
    /// The replica's name.
    pub name: String,
    /// The address for peers.
    pub peers: String,
    /// The address for clients.
    pub clients: String,
    /// The address for probes and metrics.
    pub http: String,
    /// The id of the listening process.
    pub process: u32,
}

impl Addresses {
    /// Reads the addresses from a file.
    pub fn read(path: &Path) -> io::Result<Self> {
        serde_json::from_slice(&fs::read(path)?).map_err(io::Error::from)
    }

    /// Writes the file, whole or not at all.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        write_whole(path, self)
    }
}

/// Writes a JSON file so that a reader sees the whole file or none. Does not sync it.
pub(crate) fn write_whole(path: &Path, what: &impl Serialize) -> io::Result<()> {
    let aside = path.with_extension("json.new");
    let mut file = fs::File::create(&aside)?;
    serde_json::to_writer_pretty(&mut file, what)?;
    file.write_all(b"\n")?;
    fs::rename(&aside, path)
}
