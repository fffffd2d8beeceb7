//! A byte stream to a pod's port, through the API server.
//!
//! One stream is one port-forward: nothing listens on this machine. Guarantees that a stream goes
//! to the pod that was meant and not to the next one of its name. Does not know when it is dead:
//! the connection on it has heartbeats of its own.

use std::io;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kvorum_protocol::client::Dial;
use kvorum_protocol::dial::Stream;

use super::pods::PodView;

/// What an address of a pod begins with.
const SCHEME: &str = "pod:";

/// `host:port`, also of an address with colons.
#[must_use]
pub fn host_port(ip: &str, port: u16) -> String {
    match ip.contains(':') {
        true => format!("[{ip}]:{port}"),
        false => format!("{ip}:{port}"),
    }
}

/// The address of a pod's port for clients: `pod:NAME/UID:PORT`. Another pod has another one.
#[must_use]
pub fn address(pod: &PodView) -> String {
    format!("{SCHEME}{}/{}:{}", pod.name, pod.uid, pod.clients_port)
}

/// The parts of such an address: the pod's name and the port.
fn parts(address: &str) -> Option<(&str, u16)> {
    let (pod, port) = address.strip_prefix(SCHEME)?.rsplit_once(':')?;
    let (name, _) = pod.split_once('/')?;
    Some((name, port.parse().ok()?))
}

/// Connects to such addresses.
#[must_use]
pub fn dial(pods: Api<Pod>) -> Dial {
    Dial::By(std::sync::Arc::new(move |address| {
        let pods = pods.clone();
        async move {
            let (name, port) = parts(&address)
                .ok_or_else(|| io::Error::other(format!("'{address}' is no pod's address")))?;
            let forwarded = pods.portforward(name, &[port]).await;
            let mut forwarder =
                forwarded.map_err(|error| io::Error::other(refusal(name, &error)))?;
            let stream = forwarder.take_stream(port);
            let stream = stream.ok_or_else(|| io::Error::other("the forward has no stream"))?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        }
        .boxed()
    }))
}

fn refusal(name: &str, error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 404 => format!("the pod {name} is gone"),
        kube::Error::Api(status) if status.code == 403 => format!(
            "no port-forward: ask for get and create on pods/portforward: {}",
            status.message
        ),
        kube::Error::UpgradeConnection(error) => {
            format!("no port-forward (may you get and create pods/portforward?): {error}")
        }
        other => format!("no port-forward: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_one_pod() {
        assert_eq!(parts("pod:kvorum-1/0a-1b:7301"), Some(("kvorum-1", 7301)));
        for wrong in ["kvorum-1:7301", "pod:kvorum-1:7301", "pod:kvorum-1/u:x", ""] {
            assert_eq!(parts(wrong), None, "{wrong}");
        }
        assert_eq!(host_port("10.0.0.1", 1), "10.0.0.1:1");
        assert_eq!(host_port("fd00::1", 1), "[fd00::1]:1");
    }
}
