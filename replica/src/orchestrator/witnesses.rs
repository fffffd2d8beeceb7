//! Asks the other replicas whether a cluster exists already.
//!
//! The cluster's [marker](crate::marker) records that; but it may be lost while the cluster lives,
//! and a replica that has lost its volume as well would begin a second one. A replica listens for
//! clients only when it belongs to a cluster, and names that cluster to each client.
//!
//! Guarantees an answer within [`PATIENCE`]. A replica that answers belongs to a cluster that has
//! begun. Silence proves nothing, and is all that the first replica of a new cluster ever gets.

use std::io;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use kvorum_protocol::client::{Dial, Endpoint, Resolve};
use kvorum_protocol::connection::ConnectError;
use kvorum_protocol::status::ClusterId;
use kvorum_tls::Encryption;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::StreamExt;

/// How long the others are asked. A live replica answers within milliseconds. A replica that begins
/// a cluster on Kubernetes waits this long, once in its life, for others that are only starting:
/// they may have volumes of a cluster whose marker is lost. An operator who installs a cluster
/// waits this long too. Where only the addresses of listening replicas are known, no time is spent
/// on those that do not listen.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How long one replica may take to answer, before it is asked again.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);
/// The time between two rounds.
const INTERVAL: Duration = Duration::from_millis(100);

/// The answer of one of the other replicas.
enum Said {
    /// It belongs to a cluster.
    Belongs(ClusterId),
    /// It is there, but does not say to which cluster it belongs; with the reason.
    Hides(String),
    /// No replica listens at its address.
    Nobody,
    /// No answer: it may be starting, or out of reach.
    Nothing,
}

/// Returns the cluster that the others belong to, and the name of one that said so.
///
/// # Errors
/// When a replica belongs to a cluster but does not say which, or when two belong to different
/// ones.
pub async fn living(
    others: &Resolve,
    encryption: &Encryption,
) -> Result<Option<(ClusterId, String)>, String> {
    let began = Instant::now();
    loop {
        let ask = |endpoint| ask(endpoint, encryption);
        let asked = others().into_iter().map(ask).collect::<FuturesUnordered<_>>();
        let all: Vec<(String, Said)> = asked.collect().await;
        let of = |said: &Said| match said {
            Said::Belongs(cluster) => Some(*cluster),
            _ => None,
        };
        let belong: Vec<_> = all.iter().filter_map(|(who, said)| Some((of(said)?, who))).collect();
        if let [(cluster, who), rest @ ..] = belong.as_slice() {
            return match rest.iter().find(|(other, _)| other != cluster) {
                None => Ok(Some((*cluster, (*who).clone()))),
                Some((other, whose)) => Err(format!(
                    "{who} belongs to cluster {cluster}, and {whose} to cluster {other}: remove \
                     the replicas of the one that is not to stay, with their volumes"
                )),
            };
        }
        let hides = all.iter().find_map(|(who, said)| match said {
            Said::Hides(why) => Some(format!("{who} belongs to a cluster, but {why}")),
            _ => None,
        });
        let is_certain = all.iter().all(|(_, said)| matches!(said, Said::Nobody));
        match hides {
            Some(why) => return Err(why),
            None if is_certain || began.elapsed() + INTERVAL > PATIENCE => return Ok(None),
            None => sleep(INTERVAL).await,
        }
    }
}

async fn ask(endpoint: Endpoint, encryption: &Encryption) -> (String, Said) {
    let Endpoint { name, address } = endpoint;
    let asked = async {
        // A port on which nobody listens is told apart from one that does not answer.
        match TcpStream::connect(&address).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Said::Nobody,
            Err(_) => return Said::Nothing,
        }
        let dial = Dial::from(encryption.clone());
        match dial.connect(&address, None).await {
            Ok(connection) => Said::Belongs(connection.welcome().cluster),
            Err(ConnectError::Refused { refusal, .. }) => Said::Hides(refusal.to_string()),
            // It belongs to a cluster whose authority is another one than that of this replica.
            Err(error @ ConnectError::Distrusted { .. }) => Said::Hides(error.to_string()),
            // Another program listens where a replica did.
            Err(ConnectError::NotKvorum { .. }) => Said::Nobody,
            Err(ConnectError::Unreachable { .. } | ConnectError::Forbidden { .. }) => Said::Nothing,
        }
    };
    let said = timeout(ANSWER_PATIENCE, asked).await.unwrap_or(Said::Nothing);
    (name.unwrap_or(address), said)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::SinkExt;
    use kvorum_protocol::frame;
    use kvorum_protocol::handshake::{HandshakeRefusal, MAGIC, ServerHello, Welcome};
    use kvorum_protocol::limits::HANDSHAKE_BYTES_MAX;
    use tokio::net::TcpListener;
    use tokio_util::codec::Framed;

    use super::*;

    /// Starts a replica that answers each client with the verdict; returns its endpoint.
    async fn replica(name: &str, verdict: Result<u128, HandshakeRefusal>) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let endpoint = Endpoint { name: Some(name.to_owned()), address };
        let welcome = |cluster| Welcome {
            version: 1,
            name: String::new(),
            cluster: ClusterId(cluster),
            leader: None,
            applied: 0,
            frame_bytes_max: 0,
        };
        let hello = ServerHello { magic: MAGIC, verdict: verdict.map(welcome) };
        let hello = frame::encode(&hello, HANDSHAKE_BYTES_MAX).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut frames = Framed::new(stream, frame::codec(HANDSHAKE_BYTES_MAX));
                let _ = frames.next().await;
                let _ = frames.send(hello.clone()).await;
            }
        });
        endpoint
    }

    async fn ask_those(endpoints: &[&Endpoint]) -> Result<Option<(ClusterId, String)>, String> {
        let endpoints: Vec<_> = endpoints.iter().copied().cloned().collect();
        let others: Resolve = Arc::new(move || endpoints.clone());
        living(&others, &Encryption::Off).await
    }

    #[tokio::test]
    async fn whoever_belongs_to_a_cluster_says_which() {
        let first = replica("kvorum-1", Ok(7)).await;
        let same = replica("kvorum-2", Ok(7)).await;
        let other = replica("kvorum-3", Ok(8)).await;
        let full = replica("kvorum-4", Err(HandshakeRefusal::TooManyConnections { most: 1 })).await;
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gone = nobody.local_addr().unwrap().to_string();
        drop(nobody);
        let gone = Endpoint { name: Some("kvorum-5".to_owned()), address: gone };
        assert_eq!(ask_those(&[]).await, Ok(None));
        assert_eq!(ask_those(&[&gone]).await, Ok(None));
        let found = ask_those(&[&gone, &first, &same]).await.unwrap();
        assert_eq!(found.map(|(cluster, _)| cluster), Some(ClusterId(7)));
        let two = ask_those(&[&first, &other]).await.unwrap_err();
        assert!(two.contains("kvorum-1") && two.contains("kvorum-3"), "{two}");
        let hides = ask_those(&[&gone, &full]).await.unwrap_err();
        assert!(hides.contains("kvorum-4 belongs to a cluster"), "{hides}");
    }
}
