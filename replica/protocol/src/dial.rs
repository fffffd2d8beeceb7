//! How a byte stream to a replica's client port is opened.
//!
//! Guarantees that whatever carries the stream, a connection is opened within its patience or said
//! not to be, and that a name which cannot be looked up is no reason not to reach an address that
//! worked. Does not know what is said over it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
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

/// How long a dial by name has before the address that worked is tried beside it.
const NAME_HEAD_START: Duration = Duration::from_millis(200);

/// A byte stream in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Opens a stream to an address.
pub type Open =
    Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> + Send + Sync>;

/// Looks up where `host:port` is.
pub type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<SocketAddr>> + Send + Sync>;

/// How streams are opened.
#[derive(Clone, Default)]
pub enum Dial {
    /// By TCP, to `host:port`.
    #[default]
    Tcp,
    /// The same, with names that are looked up by somebody else than the system.
    Names(Lookup),
    /// By something else, such as a port-forward; what an address is, it knows. People are shown
    /// what comes before a slash.
    By(Open),
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "Tcp",
            Self::Names(_) => "Names",
            Self::By(_) => "By",
        })
    }
}

impl Dial {
    /// How long opening a connection may take.
    #[must_use]
    pub fn patience(&self) -> Duration {
        match self {
            Self::Tcp | Self::Names(_) => TCP_PATIENCE,
            Self::By(_) => OTHER_PATIENCE,
        }
    }

    /// Whether what an address is may be reached by a number too.
    pub(crate) fn has_numbers(&self) -> bool {
        !matches!(self, Self::By(_))
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
        let reached = self.reach(address, None, cluster).await;
        reached.map(|(connection, _)| connection)
    }

    /// The same; when the name takes long or fails, where the cluster's replica of that name was
    /// reached before is tried. With the connection comes where it goes, as a number.
    pub(crate) async fn reach(
        &self,
        address: &str,
        before: Option<(SocketAddr, ClusterId)>,
        cluster: Option<ClusterId>,
    ) -> Result<(Connection, Option<SocketAddr>), ConnectError> {
        let opening = async {
            let by_name = async {
                let opened = self.open(address).await?;
                io::Result::Ok((opened, cluster))
            };
            let by_number = before.map(|(before, its)| async move {
                let opened = by_tcp(TcpStream::connect(before).await)?;
                // Somebody else may be there by now.
                Ok((opened, Some(its)))
            });
            first_of(NAME_HEAD_START, by_name, by_number).await
        };
        let unreachable =
            |reason: String| ConnectError::Unreachable { address: address.to_owned(), reason };
        match timeout(self.patience(), opening).await {
            Err(_) => Err(unreachable(format!("no answer within {:?}", self.patience()))),
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Ok(Ok(((stream, at), cluster))) => {
                Ok((Connection::start(stream, address, cluster).await?, at))
            }
        }
    }

    async fn open(&self, address: &str) -> io::Result<Opened> {
        match self {
            Self::Tcp => by_tcp(TcpStream::connect(address).await),
            Self::Names(lookup) => {
                let at = lookup(address.to_owned()).await?;
                by_tcp(TcpStream::connect(at).await)
            }
            Self::By(open) => Ok((open(address.to_owned()).await?, None)),
        }
    }
}

/// A stream, and where it goes as a number if it has one.
type Opened = (Box<dyn Stream>, Option<SocketAddr>);

fn by_tcp(stream: io::Result<TcpStream>) -> io::Result<Opened> {
    let stream = stream?;
    let _ = stream.set_nodelay(true);
    let at = stream.peer_addr().ok();
    Ok((Box::new(stream), at))
}

/// What comes first: by the name, or, if that takes longer than its head start or fails, by the
/// address that worked last, if there is one.
///
/// # Errors
/// When there is neither: what the name came to.
pub async fn first_of<T, E>(
    head_start: Duration,
    by_name: impl Future<Output = Result<T, E>>,
    by_address: Option<impl Future<Output = Result<T, E>>>,
) -> Result<T, E> {
    let Some(by_address) = by_address else { return by_name.await };
    let (mut by_name, mut by_address) = (pin!(by_name), pin!(by_address));
    match timeout(head_start, &mut by_name).await {
        Ok(Ok(opened)) => return Ok(opened),
        Ok(Err(error)) => return by_address.await.map_err(|_| error),
        Err(_) => {}
    }
    tokio::select! {
        named = &mut by_name => match named {
            Ok(opened) => Ok(opened),
            Err(error) => by_address.await.map_err(|_| error),
        },
        addressed = &mut by_address => match addressed {
            Ok(opened) => Ok(opened),
            Err(_) => by_name.await,
        },
    }
}
