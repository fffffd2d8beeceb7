//! A replica's end of a connection: encrypted, or plain where that is allowed.
//!
//! The first byte of a connection says which it is: a TLS record begins with 0x16, and a frame of
//! Kvorum's with the upper byte of a length below 16 MiB, which is 0.

use std::io;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
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
    /// An encrypted one, and who is at its other end.
    Encrypted(Wire, Peer),
    /// A plain one, which is allowed.
    Plain(Wire),
    /// A plain one, where all have to be encrypted.
    NotEncrypted(TcpStream),
}

/// Begins a connection that was accepted on a port. Without `tls`, it is plain.
///
/// # Errors
/// When the stream breaks, or the other end shows no certificate that fits the port.
pub async fn accept(
    tls: Option<&Tls>,
    mode: Mode,
    port: Port,
    stream: TcpStream,
) -> io::Result<Accepted> {
    let Some(tls) = tls.filter(|_| mode != Mode::Off) else {
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
    Ok(match mode {
        Mode::Require => Accepted::NotEncrypted(stream),
        Mode::Accept | Mode::Off => Accepted::Plain(Wire::Plain(stream)),
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
