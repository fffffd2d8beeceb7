//! A replica's end of a connection: encrypted, or plain where that is allowed.
//!
//! The first byte of a connection says which it is: a TLS record begins with 0x16, and a frame of
//! Kvorum's with the upper byte of a length below 16 MiB, which is 0.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsStream;

use crate::connection::{Peer, Port, Tls};

/// The first byte of a TLS handshake record (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: u8 = 0x16;

/// Whether connections are encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// All are.
    Require,
    /// Those of others that can; for a cluster that moves over.
    Accept,
    /// None is.
    Off,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Require => "require",
            Self::Accept => "accept",
            Self::Off => "off",
        })
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "require" => Ok(Self::Require),
            "accept" => Ok(Self::Accept),
            "off" => Ok(Self::Off),
            other => Err(format!("'{other}' is none of require, accept and off")),
        }
    }
}

/// How one party encrypts.
#[derive(Clone, Default)]
pub enum Encryption {
    /// Not at all.
    #[default]
    Off,
    /// With those that can; in plain form with the others.
    Accept(Arc<Tls>),
    /// With everybody.
    Require(Arc<Tls>),
    /// With everybody, as soon as there are credentials; until then not at all.
    Promised(watch::Receiver<Option<Arc<Tls>>>),
    /// Not at all, because there are credentials that this program may not have; why, and the cure.
    Denied(Arc<str>),
}

impl Encryption {
    /// Returns the means of encrypting, if there are any now.
    #[must_use]
    pub fn tls(&self) -> Option<Arc<Tls>> {
        match self {
            Self::Off | Self::Denied(_) => None,
            Self::Accept(tls) | Self::Require(tls) => Some(Arc::clone(tls)),
            Self::Promised(tls) => tls.borrow().clone(),
        }
    }

    /// Whether a connection that is accepted may be plain.
    #[must_use]
    pub fn allows_plain(&self) -> bool {
        matches!(self, Self::Off | Self::Accept(_))
    }
}

impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "Off",
            Self::Accept(_) => "Accept",
            Self::Require(_) => "Require",
            Self::Promised(_) => "Promised",
            Self::Denied(_) => "Denied",
        })
    }
}

/// A connection of a replica.
#[derive(Debug)]
pub enum Wire {
    /// Everybody on the way can read it.
    Plain(TcpStream),
    /// Only the two ends can.
    Encrypted(Box<TlsStream<TcpStream>>),
}

/// The beginning of a connection that was accepted.
#[derive(Debug)]
pub enum Accepted {
    /// An encrypted one, and who is at its other end; a client may not have said that yet.
    Encrypted(Wire, Option<Peer>),
    /// A plain one, which is allowed.
    Plain(Wire),
    /// A plain one, where all have to be encrypted.
    NotEncrypted(TcpStream),
}

/// Begins a connection that was accepted on a port.
///
/// # Errors
/// When the stream breaks, or the other end shows no certificate that fits the port.
pub async fn accept(
    encryption: &Encryption,
    port: Port,
    stream: TcpStream,
) -> io::Result<Accepted> {
    let Some(tls) = encryption.tls() else {
        return Ok(Accepted::Plain(Wire::Plain(stream)));
    };
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if first[0] == HANDSHAKE_RECORD {
        let (stream, peer) = tls.accept(port, stream).await?;
        return Ok(Accepted::Encrypted(Wire::Encrypted(Box::new(stream.into())), peer));
    }
    Ok(match encryption.allows_plain() {
        true => Accepted::Plain(Wire::Plain(stream)),
        false => Accepted::NotEncrypted(stream),
    })
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Encrypted(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Encrypted(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Encrypted(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Encrypted(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
            Self::Encrypted(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Encrypted(stream) => stream.is_write_vectored(),
        }
    }
}
