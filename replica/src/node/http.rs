//! Probes and metrics over HTTP.
//!
//! | path | 200 when |
//! |---|---|
//! | `/livez` | the driver turned within `LIVE_MAX` |
//! | `/readyz` | the replica votes, knows a leader, lags little, and its disk responds |
//! | `/metrics` | always; Prometheus text format |
//!
//! Guarantees that liveness is local: a lost majority makes a replica unready, not dead. Limits the
//! resources that connections can take.

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
use tokio::sync::watch;

use crate::driver::metrics::Metrics;
use crate::shares::{GivesUp, Shares};

/// How long a driver may go without a turn before it counts as dead.
const LIVE_MAX: Duration = Duration::from_secs(10);
/// Most connections at once; a further one closes the oldest of the host that has most, so that one
/// that only holds connections open cannot block the probes.
const CONNECTIONS_MAX: usize = 64;
/// Longest duration of a connection; it is closed then, whatever it does.
const CONNECTION_MAX: Duration = Duration::from_secs(30);

/// The data from which the answers are made.
#[derive(Clone)]
pub struct Health {
    /// The replica's status; `None` before the driver's first turn.
    pub status: watch::Receiver<Option<Arc<Status>>>,
    /// The replica's counters.
    pub metrics: Arc<Metrics>,
    /// The start of the process.
    pub began: Instant,
    /// The reason why the replica has not started; empty once it has.
    pub waiting_for: watch::Receiver<String>,
}

/// Serves probes and metrics, forever.
pub async fn serve(listener: TcpListener, health: Health) {
    let router = Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(health);
    // Ends only with the process: the listener never fails, it pauses.
    let _ = axum::serve(
        Capped { listener, open: Shares::new(CONNECTIONS_MAX, GivesUp::Oldest) },
        router,
    )
    .await;
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

/// A listener that limits the number of connections and the duration of each.
struct Capped {
    listener: TcpListener,
    open: Arc<Shares>,
}

/// A connection that reads an end of file when its time is over.
struct Limited {
    stream: TcpStream,
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_over: bool,
}

impl Limited {
    /// Whether the connection's time is over. A future that has completed must not be polled again.
    fn poll_over(&mut self, context: &mut Context<'_>) -> bool {
        self.is_over = self.is_over || self.over.as_mut().poll(context).is_ready();
        self.is_over
    }
}

impl axum::serve::Listener for Capped {
    type Io = Limited;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Limited, SocketAddr) {
        let (stream, from, share) = self.open.accept(&self.listener).await;
        // Dropped with the connection, whose share it has.
        let over = async move {
            let _ = tokio::time::timeout(CONNECTION_MAX, share.given_up()).await;
        };
        (Limited { stream, over: Box::pin(over), is_over: false }, from)
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
        if self.poll_over(context) {
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
        if self.poll_over(context) {
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
