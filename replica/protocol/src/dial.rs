//! How a byte stream to a replica's client port is opened.
//!
//! Guarantees that whatever carries the stream, a connection is opened within its patience or said
//! not to be. Does not know what is said over it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::connection::{ConnectError, Connection};
use crate::status::ClusterId;

/// How long opening a connection by TCP may take, with the handshake.
const TCP_PATIENCE: Duration = Duration::from_secs(1);
/// The same by something else, which may have to go through others.
const OTHER_PATIENCE: Duration = Duration::from_secs(4);

/// A byte stream in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Opens a stream to an address.
pub type Open =
    Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> + Send + Sync>;

/// How streams are opened.
#[derive(Clone, Default)]
pub enum Dial {
    /// By TCP, to `host:port`.
    #[default]
    Tcp,
    /// By something else, such as a port-forward; what an address is, it knows.
    By(Open),
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "Tcp",
            Self::By(_) => "By",
        })
    }
}

impl Dial {
    /// How long opening a connection may take.
    #[must_use]
    pub fn patience(&self) -> Duration {
        match self {
            Self::Tcp => TCP_PATIENCE,
            Self::By(_) => OTHER_PATIENCE,
        }
    }

    /// Opens a connection and shakes hands.
    ///
    /// # Errors
    /// When the address does not answer in time, is no replica, or refuses.
    pub async fn connect(
        &self,
        address: &str,
        cluster: Option<ClusterId>,
    ) -> Result<Connection, ConnectError> {
        let opening = async {
            match self {
                Self::Tcp => {
                    let stream = TcpStream::connect(address).await?;
                    let _ = stream.set_nodelay(true);
                    Ok(Box::new(stream) as Box<dyn Stream>)
                }
                Self::By(open) => open(address.to_owned()).await,
            }
        };
        let unreachable =
            |reason: String| ConnectError::Unreachable { address: address.to_owned(), reason };
        match timeout(self.patience(), opening).await {
            Err(_) => Err(unreachable(format!("no answer within {:?}", self.patience()))),
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Ok(Ok(stream)) => Connection::start(stream, address, cluster).await,
        }
    }
}
