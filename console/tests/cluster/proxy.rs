//! A proxy in front of a replica's client port, with connections that can be cut.

use std::path::PathBuf;

use kvorum_replica::transport::addresses::{Addresses, FILE_NAME};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Proxy {
    pub address: String,
    cuts: watch::Sender<u64>,
}

impl Proxy {
    /// Starts a proxy in front of the replica in a folder.
    pub async fn start(folder: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (cuts, cut) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (folder, mut cut) = (folder.clone(), cut.clone());
                cut.mark_unchanged();
                tokio::spawn(async move {
                    let Ok(addresses) = Addresses::read(&folder.join(FILE_NAME)) else { return };
                    let Ok(mut far) = TcpStream::connect(addresses.clients).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { address, cuts }
    }

    /// Cuts every connection, with whatever is in progress on it.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}
