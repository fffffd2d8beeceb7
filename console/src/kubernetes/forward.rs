//! A byte stream to a pod's port, through the API server.
//!
//! One stream is one port-forward: nothing listens on this machine. Guarantees that a stream goes
//! to the intended pod and not to the next one of its name, and that it ends when that pod is seen
//! to be gone: the port-forward itself may report it a second later. Does not detect other
//! failures: the connection on the stream has its own heartbeats.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kvorum_protocol::client::Carrier;
use kvorum_protocol::dial::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use super::pods::{All, PodView, Pods};

/// The prefix of a pod's address.
const SCHEME: &str = "pod:";

/// Returns `host:port`, also for an address with colons.
#[must_use]
pub fn host_port(ip: &str, port: u16) -> String {
    match ip.contains(':') {
        true => format!("[{ip}]:{port}"),
        false => format!("{ip}:{port}"),
    }
}

/// Returns the address of a pod's port for clients: `pod:NAME/UID:PORT`. It is unique to the pod.
#[must_use]
pub fn address(pod: &PodView) -> String {
    format!("{SCHEME}{}/{}:{}", pod.name, pod.uid, pod.clients_port)
}

/// Returns the parts of such an address: the pod's name, its UID, and the port.
fn parts(address: &str) -> Option<(&str, &str, u16)> {
    let (pod, port) = address.strip_prefix(SCHEME)?.rsplit_once(':')?;
    let (name, uid) = pod.split_once('/')?;
    Some((name, uid, port.parse().ok()?))
}

/// Returns a dialer that connects to such addresses.
#[must_use]
pub fn dial(pods: Api<Pod>, seen: Arc<Pods>) -> Carrier {
    Carrier::By(Arc::new(move |address| {
        let (pods, seen) = (pods.clone(), seen.changes());
        async move {
            let (name, uid, port) = parts(&address)
                .ok_or_else(|| io::Error::other(format!("'{address}' is no pod's address")))?;
            let forwarded = pods.portforward(name, &[port]).await;
            let mut forwarder = forwarded.map_err(|error| refusal(name, &error))?;
            let stream = forwarder.take_stream(port);
            let stream = stream.ok_or_else(|| io::Error::other("the forward has no stream"))?;
            let gone = gone(seen, name.to_owned(), uid.to_owned()).boxed();
            Ok(Box::new(OfPod { stream, gone: Some(gone) }) as Box<dyn Stream>)
        }
        .boxed()
    }))
}

/// Waits until a pod is no longer seen. When the pods are not watched any more, waits for ever.
async fn gone(mut pods: watch::Receiver<All>, name: String, uid: String) {
    let is_there = |pods: &All| pods.get(&name).is_some_and(|pod| pod.uid == uid);
    if pods.wait_for(|pods| !is_there(pods)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A stream to a pod, which ends when the pod is gone.
struct OfPod<S> {
    stream: S,
    /// The wait for the pod to be gone; `None` once it is.
    gone: Option<BoxFuture<'static, ()>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for OfPod<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // The data that the pod sent before is delivered first.
        let told = Pin::new(&mut self.stream).poll_read(context, buffer);
        if told.is_ready() {
            return told;
        }
        if let Some(gone) = &mut self.gone {
            ready!(gone.poll_unpin(context));
            self.gone = None;
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, "the pod is gone")))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for OfPod<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Returns the error for a port-forward that was refused; `PermissionDenied` when it is a right
/// that is missing, so that nobody waits for it.
fn refusal(name: &str, error: &kube::Error) -> io::Error {
    match error {
        kube::Error::Api(status) if status.code == 403 => io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "no port-forward: ask for get and create on pods/portforward: {}",
                status.message
            ),
        ),
        // The API server asks the node, which answers in its own words.
        kube::Error::Api(status) if status.code == 404 || status.message.contains("not found") => {
            io::Error::other(format!("the pod {name} is gone"))
        }
        kube::Error::Api(status) => {
            let first = status.message.lines().next().unwrap_or_default();
            let first = first.split(": Failed to parse").next().unwrap_or_default();
            io::Error::other(format!("no port-forward: {first}"))
        }
        kube::Error::UpgradeConnection(error) => io::Error::other(format!(
            "no port-forward (may you get and create pods/portforward?): {error}"
        )),
        other => io::Error::other(format!("no port-forward: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn pods(uids: &[(&str, &str)]) -> All {
        let pod = |(name, uid): &(&str, &str)| {
            let (name, uid) = ((*name).to_owned(), (*uid).to_owned());
            let pod = PodView { name: name.clone(), uid, ..PodView::default() };
            (name, pod)
        };
        uids.iter().map(pod).collect()
    }

    #[tokio::test]
    async fn a_stream_ends_with_its_pod() {
        let (seen, looks) = watch::channel(pods(&[("a", "1"), ("b", "1")]));
        let (stream, mut pod) = tokio::io::duplex(8);
        let gone = gone(looks, "a".into(), "1".into()).boxed();
        let mut stream = OfPod { stream, gone: Some(gone) };
        seen.send_replace(pods(&[("a", "1")]));
        pod.write_all(b"1").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'1', "another one went");
        pod.write_all(b"2").await.unwrap();
        seen.send_replace(pods(&[("a", "2")]));
        assert_eq!(stream.read_u8().await.unwrap(), b'2', "it was said before");
        for _ in 0..2 {
            let error = stream.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    }

    #[test]
    fn an_address_names_one_pod() {
        assert_eq!(parts("pod:kvorum-1/0a-1b:7301"), Some(("kvorum-1", "0a-1b", 7301)));
        for wrong in ["kvorum-1:7301", "pod:kvorum-1:7301", "pod:kvorum-1/u:x", ""] {
            assert_eq!(parts(wrong), None, "{wrong}");
        }
        assert_eq!(host_port("10.0.0.1", 1), "10.0.0.1:1");
        assert_eq!(host_port("fd00::1", 1), "[fd00::1]:1");
    }
}
