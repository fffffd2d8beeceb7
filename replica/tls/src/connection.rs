//! Encrypted connections: opened and accepted with credentials that may change meanwhile.
//!
//! New connections use the credentials of the moment. Guarantees that whoever holds a connection
//! learns when its other end is no longer to be believed: its certificate is over, or its authority
//! is not trusted any more.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::{AlertDescription, CertificateError, ClientConfig, CommonState, Error, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::credentials::{Certificate, Credentials, CredentialsError, certificates, trust};
use crate::description::Description;
use crate::identity::Identity;
use crate::verification::{Trust, Verifier, provider};

/// The name that a connection asks for. It is not sent, and not compared: a certificate says who
/// its owner is.
const SERVER_NAME: &str = "kvorum";
/// Most bytes that wait to be sent to a client: one record, as there are many clients.
const RECORD_BYTES: usize = 16 << 10;
/// How long one that is refused may take to read why.
const ALERT_PATIENCE: Duration = Duration::from_millis(500);
/// Most bytes that one that is refused may send meanwhile.
const UNREAD_BYTES_MAX: usize = 64 << 10;

/// A port of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Port {
    /// The one for other replicas.
    Peers,
    /// The one for clients.
    Clients,
}

impl Port {
    /// Returns the port's protocol, as RFC 7301 (ALPN) has both ends name it.
    fn protocol(self) -> &'static [u8] {
        match self {
            Self::Peers => b"kvorum/p1",
            Self::Clients => b"kvorum/c1",
        }
    }
}

/// The other end of an encrypted connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The one that its certificate names.
    pub identity: Identity,
    /// The time until which its certificate is valid.
    pub not_after: SystemTime,
    chain: Vec<CertificateDer<'static>>,
}

impl Peer {
    /// Describes the certificate that it showed, and those between it and an authority.
    #[must_use]
    pub fn descriptions(&self) -> Vec<Description> {
        let read = self.chain.iter().map(|one| Description::read(one.clone()));
        read.filter_map(Result::ok).collect()
    }
}

/// One party's means of opening and accepting encrypted connections.
pub struct Tls {
    now: watch::Sender<Arc<Now>>,
    replaced: AtomicU64,
}

/// The credentials of the moment, and what connections are made with.
struct Now {
    /// `None` for one who only trusts.
    credentials: Option<Credentials>,
    trust: Arc<Trust>,
    /// `None` likewise: it cannot serve.
    accept: Option<[Arc<ServerConfig>; 2]>,
    connect: [Arc<ClientConfig>; 2],
}

impl Now {
    fn new(credentials: Credentials) -> Self {
        let both = [Port::Peers, Port::Clients];
        Self {
            accept: Some(both.map(|port| Arc::new(accepting(&credentials, port)))),
            connect: both
                .map(|port| Arc::new(connecting(&credentials.trust, Some(&credentials), port))),
            trust: Arc::clone(&credentials.trust),
            credentials: Some(credentials),
        }
    }

    fn trusting(trust: Arc<Trust>) -> Self {
        let both = [Port::Peers, Port::Clients];
        let connect = both.map(|port| Arc::new(connecting(&trust, None, port)));
        Self { credentials: None, trust, accept: None, connect }
    }
}

fn verifier(trust: &Arc<Trust>, own: Option<&Credentials>, replicas_only: bool) -> Arc<Verifier> {
    let cluster = own.map(|own| own.certificate.identity.cluster.clone());
    Arc::new(Verifier { trust: Arc::clone(trust), cluster, replicas_only })
}

fn accepting(credentials: &Credentials, port: Port) -> ServerConfig {
    let own = SingleCertAndKey::from(Arc::clone(&credentials.shown));
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3")
        .with_client_cert_verifier(verifier(
            &credentials.trust,
            Some(credentials),
            port == Port::Peers,
        ))
        .with_cert_resolver(Arc::new(own));
    config.alpn_protocols = vec![port.protocol().to_vec()];
    // A session that is resumed would not show its certificate again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

fn connecting(trust: &Arc<Trust>, own: Option<&Credentials>, port: Port) -> ClientConfig {
    let config = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier(trust, own, true));
    let mut config = match own {
        Some(own) => {
            let shown = SingleCertAndKey::from(Arc::clone(&own.shown));
            config.with_client_cert_resolver(Arc::new(shown))
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![port.protocol().to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config
}

impl Tls {
    /// Creates the means of a party with these credentials.
    #[must_use]
    pub fn new(credentials: Credentials) -> Arc<Self> {
        let now = watch::Sender::new(Arc::new(Now::new(credentials)));
        Arc::new(Self { now, replaced: AtomicU64::new(0) })
    }

    /// Creates the means of a client that trusts these authorities and has no certificate: it says
    /// by other means who it is.
    ///
    /// # Errors
    /// When they do not parse.
    pub fn trusting(authorities: &str) -> Result<Arc<Self>, CredentialsError> {
        let now = Now::trusting(trust(&certificates(authorities)?)?);
        Ok(Arc::new(Self { now: watch::Sender::new(Arc::new(now)), replaced: AtomicU64::new(0) }))
    }

    /// Replaces the credentials. Connections that are open stay, as long as [`Tls::doubted`] lets
    /// them.
    pub fn replace(&self, credentials: Credentials) {
        self.now.send_replace(Arc::new(Now::new(credentials)));
        self.replaced.fetch_add(1, Ordering::Release);
    }

    /// Returns how often the credentials were replaced: a connection that was opened before the
    /// last time shows earlier ones.
    #[must_use]
    pub fn replaced(&self) -> u64 {
        self.replaced.load(Ordering::Acquire)
    }

    /// Returns the credentials of the moment; `None` for one who only trusts.
    #[must_use]
    pub fn credentials(&self) -> Option<Credentials> {
        self.now.borrow().credentials.clone()
    }

    /// Opens an encrypted connection over a stream.
    ///
    /// # Errors
    /// When the stream breaks, or the other end is not a replica of this cluster; [`explain`] says
    /// it in a sentence.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        port: Port,
        stream: S,
    ) -> io::Result<(client::TlsStream<S>, Peer)> {
        let config = Arc::clone(&self.now.borrow().connect[port as usize]);
        let name = ServerName::try_from(SERVER_NAME).expect("it is a host name");
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        let peer = peer(stream.get_ref().1, port)?.ok_or_else(nobody)?;
        Ok((stream, peer))
    }

    /// Accepts an encrypted connection on a stream. A client may show no certificate.
    ///
    /// # Errors
    /// When the stream breaks, or the other end shows a certificate that does not fit the port, or
    /// none at the port for replicas.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        port: Port,
        stream: S,
    ) -> io::Result<(server::TlsStream<S>, Option<Peer>)> {
        let config = self.now.borrow().accept.as_ref().map(|all| Arc::clone(&all[port as usize]));
        let config = config.ok_or_else(nobody)?;
        let accepted = TlsAcceptor::from(config).accept(stream).into_fallible().await;
        let mut stream = match accepted {
            Ok(stream) => stream,
            Err((error, stream)) => {
                let _ = timeout(ALERT_PATIENCE, drain(stream)).await;
                return Err(error);
            }
        };
        if port == Port::Clients {
            stream.get_mut().1.set_buffer_limit(Some(RECORD_BYTES));
        }
        let peer = peer(stream.get_ref().1, port)?;
        Ok((stream, peer))
    }

    /// Waits until the other end of a connection is no longer to be believed. `early` is how long
    /// before the end of its certificate that is; callers spread it, so that not all connections
    /// are made anew at once.
    pub async fn doubted(&self, peer: &Peer, early: Duration) {
        let mut changes = self.now.subscribe();
        let left = |now: SystemTime| peer.not_after.duration_since(now).unwrap_or_default();
        loop {
            let trust = Arc::clone(&changes.borrow_and_update().trust);
            if trust.check(&peer.chain, UnixTime::now()).is_err() {
                return;
            }
            let rest = left(SystemTime::now()).saturating_sub(early);
            tokio::select! {
                () = tokio::time::sleep(rest) => return,
                changed = changes.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }
}

/// Returns the error of one that shows no certificate where one is needed.
fn nobody() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it shows no certificate")
}

/// Returns the other end of a connection whose handshake is over, if it shows a certificate.
fn peer(connection: &CommonState, port: Port) -> io::Result<Option<Peer>> {
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    if connection.alpn_protocol() != Some(port.protocol()) {
        return Err(invalid("it does not say which port it means"));
    }
    let chain = connection.peer_certificates().unwrap_or_default();
    let Some(own) = chain.first() else { return Ok(None) };
    let certificate = Certificate::read(own).map_err(|error| invalid(&error.to_string()))?;
    let chain = chain.iter().map(|one| one.clone().into_owned()).collect();
    Ok(Some(Peer { identity: certificate.identity, not_after: certificate.not_after, chain }))
}

/// Lets the other end read why it is refused: a connection that is closed before everything that
/// came was read is reset, and the reason is lost.
async fn drain<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let _ = stream.shutdown().await;
    let (mut unread, mut left) = ([0; 1024], UNREAD_BYTES_MAX);
    while let Ok(read @ 1..) = stream.read(&mut unread).await {
        left = left.saturating_sub(read);
        if left == 0 {
            return;
        }
    }
}

/// Says in a clause why a connection failed.
#[must_use]
pub fn explain(error: &io::Error) -> String {
    distrust(error).unwrap_or_else(|| error.to_string())
}

/// Whether the other end of a connection does something else than what was expected there.
#[must_use]
pub fn is_other_protocol(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    matches!(
        inner,
        Some(
            Error::InvalidMessage(_)
                | Error::AlertReceived(AlertDescription::NoApplicationProtocol)
        )
    )
}

/// Says in a clause why one end of an encrypted connection does not trust the other; `None` when
/// the connection failed for another reason.
#[must_use]
pub fn distrust(error: &io::Error) -> Option<String> {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>())?;
    let said = match inner {
        Error::AlertReceived(alert) => match alert {
            // Of two authorities of one name, it trusts the other one.
            AlertDescription::UnknownCA | AlertDescription::DecryptError => {
                "it does not trust the authority that signed this side's certificate"
            }
            AlertDescription::CertificateExpired => {
                "this side's certificate is over, or not valid yet, by its clock"
            }
            AlertDescription::CertificateRequired => "it wants a certificate",
            AlertDescription::NoApplicationProtocol => "this is its port for something else",
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied => {
                "this side's certificate is not one that it lets in here: it is of another \
                 cluster, or not for this"
            }
            _ => return Some(format!("it ended the encrypted connection: {inner}")),
        },
        Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => "none of the authorities that this side trusts has signed its certificate",
        Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "its certificate is over; renew it, or compare the clocks",
        Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => "its certificate is not valid yet; compare the clocks",
        Error::InvalidCertificate(
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
        ) => "its certificate is not for this: a client's does not serve",
        Error::InvalidCertificate(CertificateError::Other(other)) => {
            return Some(other.to_string());
        }
        Error::InvalidMessage(_) => "it does not encrypt",
        Error::NoCertificatesPresented => "it shows no certificate",
        other => return Some(other.to_string()),
    };
    Some(said.to_owned())
}
