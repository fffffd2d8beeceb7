//! The beginning of clients' connections: from the socket to a user that is known.
//!
//! A connection waits for its turn to shake hands, shows its certificate, and gets a share of the
//! connections. Guarantees that a flood of strangers, or of one user, keeps nobody else out: each
//! step has a bound, and whoever has most gives way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kvorum_protocol::WIRE_VERSION_OLDEST;
use kvorum_protocol::authentication::Unauthenticated;
use kvorum_protocol::frame;
use kvorum_protocol::handshake::{ClientHello, HandshakeRefusal, MAGIC};
use kvorum_protocol::limits::{HANDSHAKE_BYTES_MAX, HANDSHAKE_TIMEOUT};
use kvorum_tls::{Accepted, Identity, Port, ReplicaName, Subject, Wire};
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
use tracing::debug;

use super::proof::Proof;
use super::requests::Requests;
use super::{Caller, Clients, NOTHING_SAID, send_hello};
use crate::engine::ClientKey;
use crate::limits::{ARRIVALS_MAX, GREETINGS_MAX};
use crate::shares::{GivesUp, Party, Share, Shares};
use crate::state::rights::User;

/// Time limit for telling a connection that it is refused.
const REFUSAL_PATIENCE: Duration = Duration::from_millis(500);

/// The steps of a connection, each with its bound.
struct Doors {
    /// Connections whose user is not known yet.
    arrivals: Arc<Shares>,
    /// Those of them that shake hands.
    greetings: Arc<Shares>,
    /// Notified when one of these has ended.
    greeted: Notify,
    /// Connections of users.
    connections: Arc<Shares>,
    most: usize,
}

/// A connection whose user is known.
pub(super) struct Arrival {
    pub(super) requests: Requests<ReadHalf<Wire>>,
    pub(super) write: WriteHalf<Wire>,
    pub(super) hello: ClientHello,
    pub(super) user: User,
    pub(super) from: SocketAddr,
    proof: Proof,
}

/// The turn of a connection to shake hands; its end, however it comes, is the turn of another one.
struct Turn<'a> {
    share: Option<Share>,
    greeted: &'a Notify,
}

impl Turn<'_> {
    /// Waits until the turn must end.
    async fn given_up(&self) {
        match &self.share {
            Some(share) => share.given_up().await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // First, so that whoever is woken finds room.
        drop(self.share.take());
        self.greeted.notify_one();
    }
}

impl Doors {
    /// Waits for the turn of a party to shake hands.
    async fn greeting(&self, party: &Party) -> Turn<'_> {
        loop {
            if let Some(share) = self.greetings.take(party.clone()) {
                return Turn { share: Some(share), greeted: &self.greeted };
            }
            self.greeted.notified().await;
        }
    }
}

impl Clients {
    /// Accepts connections, forever, at most `connections_max` of users at once.
    pub async fn listen(self, listener: TcpListener, connections_max: usize) {
        let doors = Arc::new(Doors {
            arrivals: Shares::new(ARRIVALS_MAX.min(connections_max), GivesUp::Oldest),
            greetings: Shares::new(GREETINGS_MAX, GivesUp::Newest),
            greeted: Notify::new(),
            connections: Shares::new(connections_max, GivesUp::Newest),
            most: connections_max,
        });
        loop {
            let (stream, from, share) = doors.arrivals.accept(&listener).await;
            let _ = stream.set_nodelay(true);
            let (clients, doors) = (self.clone(), Arc::clone(&doors));
            tokio::spawn(async move {
                let arrival = tokio::select! {
                    arrival = timeout(HANDSHAKE_TIMEOUT, clients.arrive(&doors, stream, from)) => {
                        arrival.ok().flatten()
                    }
                    () = share.given_up() => None,
                };
                drop(share);
                if let Some(arrival) = arrival {
                    clients.admit(&doors, arrival).await;
                }
            });
        }
    }

    /// Shakes hands with a connection, until its user is known.
    async fn arrive(&self, doors: &Doors, stream: TcpStream, from: SocketAddr) -> Option<Arrival> {
        let turn = doors.greeting(&Party::at(from.ip())).await;
        let accepted = tokio::select! {
            accepted = kvorum_tls::accept(&self.encryption, Port::Clients, stream) => accepted,
            () = turn.given_up() => return None,
        };
        drop(turn);
        let (wire, certified) = match accepted {
            Ok(Accepted::Plain(wire)) => (wire, None),
            Ok(Accepted::Encrypted(wire, certified)) => (wire, certified),
            Ok(Accepted::NotEncrypted(stream)) => {
                self.refusals.connection(from, "it does not encrypt");
                let refusal = refuse(stream, HandshakeRefusal::NotEncrypted);
                let _ = timeout(REFUSAL_PATIENCE, refusal).await;
                return None;
            }
            Err(error) => {
                match kvorum_tls::distrust(&error) {
                    Some(why) => self.refusals.connection(from, &why),
                    None => debug!(%from, %error, "no connection"),
                }
                return None;
            }
        };
        let is_plain = matches!(wire, Wire::Plain(_));
        let (read, mut write) = tokio::io::split(wire);
        let mut requests = Requests::new(read, HANDSHAKE_BYTES_MAX, Arc::clone(&self.begun));
        let hello = match read_hello(&mut requests).await {
            Ok(hello) => hello,
            Err(why) => {
                let is_strange = why != NOTHING_SAID;
                self.metrics.malformed.fetch_add(u64::from(is_strange), Ordering::Relaxed);
                debug!(why, "a client's handshake failed");
                return None;
            }
        };
        let known = match (hello.authentication.is_empty(), certified) {
            (false, _) => self.authenticate(&hello.authentication, from).await,
            (true, Some(peer)) => Ok((user_of(&peer.identity), Proof::Certificate(peer))),
            (true, None) if is_plain => Ok((User::Anonymous, Proof::None)),
            (true, None) => Err(Unauthenticated::Nothing),
        };
        match known {
            Ok((user, proof)) => Some(Arrival { requests, write, hello, user, from, proof }),
            Err(why) => {
                self.refusals.connection(from, &why.to_string());
                let refusal = send_hello(&mut write, Err(HandshakeRefusal::Unauthenticated(why)));
                let _ = timeout(REFUSAL_PATIENCE, refusal).await;
                None
            }
        }
    }

    /// Serves a connection until it ends, if there is room for one more of its user.
    async fn admit(&self, doors: &Doors, arrival: Arrival) {
        let Arrival { requests, mut write, hello, user, from, proof } = arrival;
        let party = Party::of(user.name(), from.ip());
        let Some(share) = doors.connections.take(party.clone()) else {
            self.metrics.refused_connections.fetch_add(1, Ordering::Relaxed);
            let most = u32::try_from(doors.most).unwrap_or(u32::MAX);
            let refusal = HandshakeRefusal::TooManyConnections { most };
            let refusal = send_hello(&mut write, Err(refusal));
            let _ = timeout(REFUSAL_PATIENCE, refusal).await;
            return;
        };
        self.metrics.connections.fetch_add(1, Ordering::Relaxed);
        let client = ClientKey(self.keys.fetch_add(1, Ordering::Relaxed) + 1);
        let account = self.room.account(party);
        let token_until_us = proof.token_end();
        let version = WIRE_VERSION_OLDEST;
        let caller = Caller { client, user, from, account, version, token_until_us };
        let over = async {
            tokio::select! {
                () = self.doubted(&proof) => debug!(%from, "what it showed is over"),
                () = share.given_up() => debug!(%from, "gives way to one that has fewer"),
            }
        };
        self.connection((requests, write), hello, caller, over).await;
        self.metrics.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Returns the user that a certificate names.
fn user_of(identity: &Identity) -> User {
    match &identity.subject {
        Subject::Client(name) => User::Client(name.as_str().into()),
        Subject::Replica(ReplicaName::One(name)) => User::Replica(Some(name.clone())),
        Subject::Replica(ReplicaName::Any) => User::Replica(None),
    }
}

/// Reads what a client says first.
async fn read_hello(requests: &mut Requests<ReadHalf<Wire>>) -> Result<ClientHello, &'static str> {
    let begun = match requests.next().await {
        Ok(Some(begun)) => begun,
        Ok(None) => return Err(NOTHING_SAID),
        Err(_) => return Err("no frame"),
    };
    let hello: ClientHello = frame::decode(&begun.bytes).map_err(|_| "no hello")?;
    match hello.magic == MAGIC {
        true => Ok(hello),
        false => Err("another protocol"),
    }
}

async fn refuse(stream: impl AsyncRead + AsyncWrite, refusal: HandshakeRefusal) {
    let (read, mut write) = tokio::io::split(stream);
    let mut requests = Requests::new(read, HANDSHAKE_BYTES_MAX, Arc::new(Semaphore::new(0)));
    // The hello is read first: closing the connection with it unread would reset it, and the
    // refusal would be lost.
    let _ = requests.next().await;
    let _ = send_hello(&mut write, Err(refusal)).await;
}
