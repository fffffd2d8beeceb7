//! Probes and metrics over HTTP.
//!
//! | path | 200 when |
//! |---|---|
//! | `/livez` | the driver turned within `LIVE_MAX` |
//! | `/readyz` | the replica votes, knows a leader, lags little, and its disk answers |
//! | `/metrics` | always; Prometheus's text |
//!
//! Guarantees that liveness is local: a lost majority makes a replica unready, not dead. Holds
//! whatever connects to a bounded share.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use kvorum_protocol::status::Status;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::metrics::Metrics;

/// A driver that has not turned for so long is dead.
const LIVE_MAX: Duration = Duration::from_secs(10);
/// Connections at once; further ones wait in the system's queue.
const CONNECTIONS_MAX: usize = 64;
/// A connection is closed after so long, whatever it does.
const CONNECTION_MAX: Duration = Duration::from_secs(30);
/// Pause after a failed accept: descriptors may have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the answers are made of.
#[derive(Clone)]
pub struct Health {
    /// The replica's status; `None` before the driver's first turn.
    pub status: watch::Receiver<Option<Arc<Status>>>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// When the process began.
    pub began: Instant,
    /// What keeps the replica from starting; empty once it has.
    pub waiting_for: watch::Receiver<String>,
}

/// Serves for ever.
pub async fn serve(listener: TcpListener, health: Health) {
    let router = Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(health);
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Ends only with the process: the listener never fails, it pauses.
    let _ = axum::serve(Capped { listener, permits }, router).await;
}

async fn live(State(health): State<Health>) -> impl IntoResponse {
    let is_starting = health.status.borrow().is_none();
    let turned = Duration::from_micros(health.metrics.turned_us.load(Ordering::Relaxed));
    if is_starting || health.began.elapsed().saturating_sub(turned) < LIVE_MAX {
        (StatusCode::OK, "live\n".to_owned())
    } else {
        let text = format!("the driver has not turned for more than {LIVE_MAX:?}\n");
        (StatusCode::SERVICE_UNAVAILABLE, text)
    }
}

async fn ready(State(health): State<Health>) -> impl IntoResponse {
    let unready = |why: String| (StatusCode::SERVICE_UNAVAILABLE, why + "\n");
    let status = health.status.borrow().clone();
    match status {
        None => unready(health.waiting_for.borrow().clone()),
        Some(_) if health.metrics.sync_is_overdue.load(Ordering::Relaxed) => {
            unready("the disk does not answer".to_owned())
        }
        Some(status) if status.is_ready => (StatusCode::OK, "ready\n".to_owned()),
        Some(status) => {
            let role = format!("{:?}, no leader to follow", status.role);
            unready(status.trouble.clone().unwrap_or(role))
        }
    }
}

async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let status = health.status.borrow().clone();
    ([(header::CONTENT_TYPE, TEXT)], health.metrics.text(status.as_ref()))
}

/// A listener that takes only so many connections at once, each for only so long.
struct Capped {
    listener: TcpListener,
    permits: Arc<Semaphore>,
}

/// A connection that gives back its place, and that reads an end when its time is over.
struct Limited {
    stream: TcpStream,
    over: Pin<Box<tokio::time::Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl axum::serve::Listener for Capped {
    type Io = Limited;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Limited, SocketAddr) {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, from)) => {
                    let over = Box::pin(tokio::time::sleep(CONNECTION_MAX));
                    return (Limited { stream, over, _permit: permit }, from);
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl AsyncRead for Limited {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.over.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Limited {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if self.over.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(std::io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
