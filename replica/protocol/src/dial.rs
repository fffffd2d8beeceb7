//! Opens byte streams to the client port of a replica.
//!
//! Guarantees that a connection is opened within its time limit or reported as failed, whatever
//! carries the stream, and that an address that worked is reached even when its name cannot be
//! resolved. Does not know what is sent over it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use kvorum_tls::{Encryption, Peer, Port, Tls};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::authentication::Authentication;
use crate::connection::{ConnectError, Connection};
use crate::handshake::HandshakeRefusal;
use crate::status::ClusterId;

/// Time limit for opening a connection by TCP, with the handshake.
const TCP_PATIENCE: Duration = Duration::from_secs(1);
/// The same by other means, which may have to go through intermediaries.
const OTHER_PATIENCE: Duration = Duration::from_secs(4);

/// Head start of a dial by name before the address that worked is tried beside it.
const NAME_HEAD_START: Duration = Duration::from_millis(200);

/// A byte stream in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A function that opens a stream to an address.
pub type Open =
    Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> + Send + Sync>;

/// A function that resolves `host:port`.
pub type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<SocketAddr>> + Send + Sync>;

/// The means of connecting to replicas.
#[derive(Clone, Debug, Default)]
pub struct Dial {
    /// The means of opening streams.
    pub carrier: Carrier,
    /// How what is sent over them is encrypted.
    pub encryption: Encryption,
    /// The user that this is, if it is not that of the certificate.
    pub authentication: Option<Arc<Authentication>>,
}

/// The means of opening streams.
#[derive(Clone, Default)]
pub enum Carrier {
    /// By TCP, to `host:port`.
    #[default]
    Tcp,
    /// By TCP, with names that this function resolves instead of the system.
    Names(Lookup),
    /// By this function, such as a port-forward, which defines what an address is. Messages show
    /// only the part before a slash.
    By(Open),
}

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "Tcp",
            Self::Names(_) => "Names",
            Self::By(_) => "By",
        })
    }
}

impl From<Carrier> for Dial {
    fn from(carrier: Carrier) -> Self {
        Self { carrier, ..Self::default() }
    }
}

impl From<Encryption> for Dial {
    fn from(encryption: Encryption) -> Self {
        Self { encryption, ..Self::default() }
    }
}

impl Dial {
    /// Returns the time limit for opening a connection.
    #[must_use]
    pub fn patience(&self) -> Duration {
        match &self.carrier {
            Carrier::Tcp | Carrier::Names(_) => TCP_PATIENCE,
            Carrier::By(_) => OTHER_PATIENCE,
        }
    }

    /// Whether a replica can be reached by a numeric address too.
    pub(crate) fn has_numbers(&self) -> bool {
        !matches!(self.carrier, Carrier::By(_))
    }

    /// Opens a connection and performs the handshake.
    ///
    /// # Errors
    /// When the address does not answer in time, is not a replica, or refuses.
    pub async fn connect(
        &self,
        address: &str,
        cluster: Option<ClusterId>,
    ) -> Result<Connection, ConnectError> {
        let reached = self.reach(address, None, cluster).await;
        reached.map(|(connection, _)| connection)
    }

    /// Opens an encrypted connection, and tells the certificate that the replica shows, and whether
    /// it lets this party in. Nothing is asked of it.
    ///
    /// # Errors
    /// When the address does not answer in time, or is not one that these credentials trust.
    pub async fn meet(
        &self,
        address: &str,
        tls: &Tls,
    ) -> Result<(Peer, Result<(), ConnectError>), ConnectError> {
        let opening = async {
            let (stream, _) = self.open(address).await?;
            tls.connect(Port::Clients, stream).await
        };
        let reason = || format!("no answer within {:?}", self.patience());
        let unreachable =
            |_| ConnectError::Unreachable { address: address.to_owned(), reason: reason() };
        let met = timeout(self.patience(), opening).await.map_err(unreachable)?;
        let (stream, peer) = met.map_err(|error| ConnectError::broken(address, &error))?;
        // A replica judges the other end's certificate after this end has judged its own.
        let entered = Connection::start(stream, address, None, None).await;
        Ok((peer, entered.map(drop)))
    }

    /// Opens a connection as `connect` does; when the name takes long or fails, it tries the
    /// address `before`, where the replica of that name and cluster was reached before. Also
    /// returns the numeric address connected to.
    pub(crate) async fn reach(
        &self,
        address: &str,
        before: Option<(SocketAddr, ClusterId)>,
        cluster: Option<ClusterId>,
    ) -> Result<(Connection, Option<SocketAddr>), ConnectError> {
        let may_fall_back = matches!(self.encryption, Encryption::Accept(_));
        let tls = self.encryption.tls();
        match self.reach_as(address, before, cluster, tls.as_deref()).await {
            // An older replica does not encrypt, and closes a connection that begins so.
            Err(error) if may_fall_back => {
                self.reach_as(address, before, cluster, None).await.map_err(|_| error)
            }
            Err(error) => Err(self.denied(error)),
            reached => reached,
        }
    }

    /// Gives the reason why there is no certificate, to a replica that wants one.
    fn denied(&self, error: ConnectError) -> ConnectError {
        match (&self.encryption, error) {
            (
                Encryption::Denied(why),
                ConnectError::Refused { address, refusal: HandshakeRefusal::NotEncrypted },
            ) => ConnectError::Forbidden { address, reason: why.to_string() },
            (_, error) => error,
        }
    }

    async fn reach_as(
        &self,
        address: &str,
        before: Option<(SocketAddr, ClusterId)>,
        cluster: Option<ClusterId>,
        tls: Option<&Tls>,
    ) -> Result<(Connection, Option<SocketAddr>), ConnectError> {
        let opening = async {
            let by_name = async {
                let opened = self.open(address).await?;
                io::Result::Ok((opened, cluster))
            };
            let by_number = before.map(|(before, its)| async move {
                let opened = by_tcp(TcpStream::connect(before).await)?;
                // Another replica may be there by now.
                Ok((opened, Some(its)))
            });
            let ((stream, at), cluster) = first_of(NAME_HEAD_START, by_name, by_number).await?;
            let stream: Box<dyn Stream> = match tls {
                None => stream,
                Some(tls) => Box::new(tls.connect(Port::Clients, stream).await?.0),
            };
            io::Result::Ok((stream, at, cluster))
        };
        let unreachable =
            |reason: String| ConnectError::Unreachable { address: address.to_owned(), reason };
        match timeout(self.patience(), opening).await {
            Err(_) => Err(unreachable(format!("no answer within {:?}", self.patience()))),
            Ok(Err(error)) => Err(ConnectError::broken(address, &error)),
            Ok(Ok((stream, at, cluster))) => {
                let own = self.authentication.as_deref();
                Ok((Connection::start(stream, address, cluster, own).await?, at))
            }
        }
    }

    async fn open(&self, address: &str) -> io::Result<Opened> {
        match &self.carrier {
            Carrier::Tcp => by_tcp(TcpStream::connect(address).await),
            Carrier::Names(lookup) => {
                let at = lookup(address.to_owned()).await?;
                by_tcp(TcpStream::connect(at).await)
            }
            Carrier::By(open) => Ok((open(address.to_owned()).await?, None)),
        }
    }
}

/// A stream, and its numeric address if it has one.
type Opened = (Box<dyn Stream>, Option<SocketAddr>);

fn by_tcp(stream: io::Result<TcpStream>) -> io::Result<Opened> {
    let stream = stream?;
    let _ = stream.set_nodelay(true);
    let at = stream.peer_addr().ok();
    Ok((Box::new(stream), at))
}

/// Returns the first success: by the name, or, if that takes longer than its head start or fails,
/// by the address that worked last, if there is one.
///
/// # Errors
/// When both fail: the error of the dial by name.
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
