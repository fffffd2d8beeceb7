//! The client: finds the leader, retries, and reports the fate of a write.
//!
//! Guarantees that a write is applied at most once however often it is tried; that every wait ends
//! at the deadline; that the reported fate covers all attempts: one attempt whose outcome is
//! unknown makes the write unknown until its outcome is seen; and that a client belongs to one
//! cluster for its life (`pin`). Does not know where replicas come from; the caller's [`Resolve`]
//! returns them.

mod attempts;
mod lanes;
mod pin;
mod remembered;
mod streams;
mod survey;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::access::{AccessQuery, AccessReport};
use crate::connection::ConnectError;
use crate::data::{Condition, Key, LimitError, Operation, Outcome, Value};
use crate::handshake::HandshakeRefusal;
use crate::limits::SESSION_ENTRIES;
use crate::message::{
    Admin, Answer, Consistency, Page, Pair, Refusal, Request, Scan, SnapshotRequest, Subscription,
};
use crate::status::{ClusterId, Configuration, ReplicaId, Status};
use attempts::{Attempts, Tried};
use lanes::Lanes;
use streams::Streams;

pub use crate::dial::{Carrier, Dial};
pub use crate::events::Events;
pub use attempts::{Endpoint, Resolve};

/// The replica that a request goes to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Route {
    /// The leader where it is known, else any replica that answers.
    #[default]
    Any,
    /// This replica, by name, and no other. It relays to the leader what it cannot do itself.
    Through(String),
}

/// The fate of a write that the client did not see decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// The write did not happen and will not.
    Refused,
    /// The write may or may not have happened, or may still happen.
    Unknown,
}

/// The reason why a request did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The request exceeds a limit and was not sent.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// A replica refused, and a retry would not help.
    #[error("{node} refuses: {refusal}")]
    Refused {
        /// The replica that refused.
        node: String,
        /// Its reason.
        refusal: Refusal,
    },
    /// No replica took the request before the deadline. It did not happen.
    #[error("no replica could do it within {waited:?}: {last}")]
    Unavailable {
        /// Time spent trying.
        waited: Duration,
        /// The error of the last attempt.
        last: String,
    },
    /// A replica may have taken the write, and none reported its outcome before the deadline.
    #[error("the outcome is unknown after {waited:?}: {last}")]
    Unknown {
        /// Time spent trying.
        waited: Duration,
        /// The error of the last attempt that may have been taken.
        last: String,
    },
    /// The target is not the expected one, and waiting would not help.
    #[error(transparent)]
    Target(#[from] ConnectError),
    /// The target has no replica of that name.
    #[error("there is no replica '{name}'; there are: {known}")]
    NoSuchNode {
        /// The name asked for.
        name: String,
        /// The names known.
        known: String,
    },
}

impl ClientError {
    /// Returns the fate of a write that ended with this error.
    #[must_use]
    pub fn fate(&self) -> Fate {
        match self {
            Self::Unknown { .. } => Fate::Unknown,
            _ => Fate::Refused,
        }
    }
}

/// The behaviour of a client.
#[derive(Clone)]
pub struct Options {
    /// The cluster that the client insists on; `None` takes the first that serves it, for the
    /// client's life.
    pub cluster: Option<ClusterId>,
    /// Time limit of one request with all its attempts.
    pub deadline: Duration,
    /// The means of connecting to replicas.
    pub dial: Dial,
}

impl Default for Options {
    fn default() -> Self {
        Self { cluster: None, deadline: Duration::from_secs(5), dial: Dial::default() }
    }
}

/// A client of one cluster. Cheap to share behind an [`Arc`]; calls run concurrently.
pub struct Client {
    attempts: Attempts,
    lanes: Lanes,
    streams: Streams,
    options: Options,
}

impl Client {
    /// Creates a client that finds replicas by `resolve`. It connects on the first request.
    #[must_use]
    pub fn new(resolve: Resolve, options: Options) -> Self {
        let attempts = Attempts::new(resolve, options.cluster, options.dial.clone());
        Self { attempts, lanes: Lanes::new(), streams: Streams::default(), options }
    }

    /// Creates a client of fixed addresses (`host:port`).
    #[must_use]
    pub fn of_addresses(addresses: &[String], options: Options) -> Self {
        let endpoints: Vec<Endpoint> = addresses
            .iter()
            .map(|address| Endpoint { name: None, address: address.clone() })
            .collect();
        Self::new(Arc::new(move || endpoints.clone()), options)
    }

    /// Sets a key.
    ///
    /// # Errors
    /// See [`ClientError`]; [`ClientError::fate`] returns the fate of the write.
    pub async fn put(&self, key: Key, value: Value, route: &Route) -> Result<Outcome, ClientError> {
        self.write(Operation::Put { key, value, condition: Condition::Always }, route).await
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn delete(&self, key: Key, route: &Route) -> Result<Outcome, ClientError> {
        self.write(Operation::Delete { key, condition: Condition::Always }, route).await
    }

    /// Carries out one operation, exactly once if it succeeds.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn write(&self, operation: Operation, route: &Route) -> Result<Outcome, ClientError> {
        operation.validate()?;
        let started = Instant::now();
        let deadline = started + self.options.deadline;
        let Ok(mut lane) = timeout_at(deadline, self.lanes.take()).await else {
            let last = "too many writes of this client are in flight".to_owned();
            return Err(ClientError::Unavailable { waited: since(started), last });
        };
        let mut id = lane.next();
        let mut tries = self.attempts.begin(route.clone(), deadline);
        // Fixed by the first attempt: a later promise would let an attempt be applied after the
        // lane that remembers an earlier one was forgotten.
        let mut promised = None;
        let mut doubt: Option<String> = None;
        loop {
            let connection = match tries.next().await {
                Ok(Some(connection)) => connection,
                Ok(None) => break,
                // No replica is left to ask, but an earlier attempt may have been taken.
                Err(error) if doubt.is_some() => {
                    doubt = doubt.map(|doubt| format!("{doubt}; then: {error}"));
                    break;
                }
                Err(error) => {
                    self.lanes.give_back(lane);
                    return Err(error);
                }
            };
            let valid_until =
                *promised.get_or_insert_with(|| connection.applied() + SESSION_ENTRIES);
            let request = Request::Write { id, valid_until, operation: operation.clone() };
            match tries.call(&connection, request).await {
                Tried::Answer(Answer::Written(Outcome::Expired)) if doubt.is_some() => break,
                // It did not happen and never will: retry with a new promise, and so as a new
                // request.
                Tried::Answer(Answer::Written(Outcome::Expired)) => {
                    (id, promised) = (lane.next(), None);
                }
                Tried::Answer(Answer::Written(outcome)) => {
                    self.lanes.give_back(lane);
                    return Ok(outcome);
                }
                Tried::Answer(Answer::Refused(refusal)) if is_final(&refusal) => {
                    if doubt.is_some() {
                        break;
                    }
                    self.lanes.give_back(lane);
                    let node = connection.welcome().name.clone();
                    return Err(ClientError::Refused { node, refusal });
                }
                Tried::Answer(Answer::Refused(refusal)) => tries.note(&connection, &refusal),
                Tried::Answer(Answer::Unknown(reason)) => doubt = Some(reason.to_string()),
                Tried::Answer(_) => doubt = Some("the answer makes no sense".to_owned()),
                Tried::Lost(reason) => doubt = Some(reason),
            }
        }
        let waited = since(started);
        Err(match doubt {
            // The lane is not used again: its write may still be decided.
            Some(last) => ClientError::Unknown { waited, last },
            None => {
                self.lanes.give_back(lane);
                ClientError::Unavailable { waited, last: tries.last() }
            }
        })
    }

    /// Reads a key.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get(
        &self,
        key: Key,
        consistency: Consistency,
        route: &Route,
    ) -> Result<Option<Pair>, ClientError> {
        match self.read(Request::Get { key, consistency }, route).await? {
            Answer::Value(pair) => Ok(pair),
            _ => Err(self.nonsense()),
        }
    }

    /// Reads a page of keys.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn scan(&self, scan: Scan, route: &Route) -> Result<Page, ClientError> {
        match self.read(Request::Scan(scan), route).await? {
            Answer::Page(page) => Ok(page),
            _ => Err(self.nonsense()),
        }
    }

    /// Asks which user this client is, or for all users or roles.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn access(
        &self,
        query: AccessQuery,
        route: &Route,
    ) -> Result<AccessReport, ClientError> {
        match self.read(Request::Access(query), route).await? {
            Answer::Access(report) => Ok(report),
            _ => Err(self.nonsense()),
        }
    }

    /// Performs one step of copying the state; all steps go to the same replica.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn snapshot(
        &self,
        request: SnapshotRequest,
        route: &Route,
    ) -> Result<Answer, ClientError> {
        self.read(Request::Snapshot(request), route).await
    }

    /// Requests the status of a replica. With `Route::Any` and no cluster yet, a replica that
    /// serves is preferred: others may belong to a cluster that never will.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status(&self, route: &Route) -> Result<Status, ClientError> {
        match self.read(Request::Status, route).await? {
            Answer::Status(status) if *route == Route::Any && self.cluster().is_none() => {
                Ok(self.serving().await.unwrap_or(*status))
            }
            Answer::Status(status) => Ok(*status),
            _ => Err(self.nonsense()),
        }
    }

    /// Returns the cluster that the client belongs to, once it is known.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        self.attempts.pin.get()
    }

    /// Records a replica's status that the client did not request itself. If that replica serves,
    /// the client belongs to its cluster.
    ///
    /// # Errors
    /// When the client belongs to another cluster.
    pub fn heard(&self, status: &Status) -> Result<(), HandshakeRefusal> {
        self.attempts.pin.heard(status.cluster, status.is_ready)
    }

    /// Requests an id for a replica that has none and wants to become a member, and the members. A
    /// retry with the same nonce gets the same id.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn join(
        &self,
        name: &str,
        nonce: u64,
    ) -> Result<(ReplicaId, Configuration), ClientError> {
        let join = Request::Admin(Admin::Join { name: name.to_owned(), nonce });
        match self.read(join, &Route::Any).await? {
            Answer::Joined { replica, configuration } => Ok((replica, configuration)),
            _ => Err(self.nonsense()),
        }
    }

    /// Sends an administrative request to a replica. Tried once: a retry could do it twice.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn administer(&self, admin: Admin, route: &Route) -> Result<(), ClientError> {
        let started = Instant::now();
        let mut tries = self.attempts.begin(route.clone(), started + self.options.deadline);
        let Some(connection) = tries.next().await? else {
            return Err(ClientError::Unavailable { waited: since(started), last: tries.last() });
        };
        let node = connection.welcome().name.clone();
        match tries.call_to_end(&connection, Request::Admin(admin)).await {
            Tried::Answer(Answer::Done) => Ok(()),
            Tried::Answer(Answer::Refused(refusal)) => Err(ClientError::Refused { node, refusal }),
            Tried::Answer(_) => Err(self.nonsense()),
            Tried::Lost(last) => Err(ClientError::Unknown { waited: since(started), last }),
        }
    }

    /// Opens a subscription at one replica. All that are open there share a connection, which is
    /// not the one of the calls. The stream ends when the connection does.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn subscribe(
        &self,
        subscription: Subscription,
        route: &Route,
    ) -> Result<Events, ClientError> {
        let request = Request::Subscribe(subscription.clone());
        request.validate()?;
        let started = Instant::now();
        let deadline = started + self.options.deadline;
        if self.cluster().is_none() {
            // A replica that does not serve clients has a log to stream, too.
            self.status(route).await?;
        }
        let mut tries = self.attempts.begin(route.clone(), deadline);
        while let Some(calls) = tries.next().await? {
            let node = calls.welcome().name.clone();
            let place = timeout_at(deadline, self.streams.to(&node).lock_owned()).await;
            let Ok(mut place) = place else { break };
            let shared = place.upgrade().filter(|connection| connection.is_open());
            let connection = match shared {
                Some(connection) => connection,
                // Another task has just found out that it does not answer.
                None if !calls.is_open() => continue,
                None => match tries.connect_anew().await {
                    Ok(connection) => Arc::new(connection),
                    Err(error) => {
                        tries.failed_anew(&calls, &error);
                        continue;
                    }
                },
            };
            if connection.welcome().name == node {
                *place = Arc::downgrade(&connection);
            }
            drop(place);
            let asked = subscription.clone().in_version(connection.welcome().version);
            let opened = timeout_at(deadline, Events::open(Arc::clone(&connection), asked)).await;
            match opened {
                Ok(Ok(events)) if self.attempts.pin.holds(&connection) => return Ok(events),
                Ok(Ok(_)) => {}
                // The next attempt opens another connection.
                Ok(Err(Some(Answer::Refused(Refusal::TooManySubscriptions { .. })))) => {
                    self.streams.leave(&node, &connection);
                }
                Ok(Err(Some(Answer::Refused(refusal)))) if is_final(&refusal) => {
                    return Err(ClientError::Refused { node, refusal });
                }
                Ok(Err(Some(Answer::Refused(refusal)))) => tries.note(&connection, &refusal),
                Ok(Err(_)) | Err(_) => {}
            }
        }
        Err(ClientError::Unavailable { waited: since(started), last: tries.last() })
    }

    async fn read(&self, request: Request, route: &Route) -> Result<Answer, ClientError> {
        request.validate()?;
        let started = Instant::now();
        let mut tries = self.attempts.begin(route.clone(), started + self.options.deadline);
        while let Some(connection) = tries.next().await? {
            match tries.call(&connection, request.clone()).await {
                Tried::Answer(Answer::Refused(refusal)) if is_final(&refusal) => {
                    let node = connection.welcome().name.clone();
                    return Err(ClientError::Refused { node, refusal });
                }
                Tried::Answer(Answer::Refused(refusal)) => tries.note(&connection, &refusal),
                Tried::Answer(answer) => return Ok(answer),
                Tried::Lost(_) => {}
            }
        }
        Err(ClientError::Unavailable { waited: since(started), last: tries.last() })
    }

    fn nonsense(&self) -> ClientError {
        ClientError::Unavailable {
            waited: self.options.deadline,
            last: "the answer makes no sense for the request".to_owned(),
        }
    }
}

/// Returns the time since `started`, in whole milliseconds, for messages.
fn since(started: Instant) -> Duration {
    Duration::from_millis(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// Whether a retry, at this replica or another, cannot help.
fn is_final(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::Limit(_)
        | Refusal::DiskFull { .. }
        | Refusal::Compacted { .. }
        | Refusal::FaultsForbidden
        | Refusal::SnapshotGone
        | Refusal::UnknownReplica { .. }
        | Refusal::TooManySubscriptions { .. }
        | Refusal::Forbidden { .. } => true,
        Refusal::NoLeader
        | Refusal::NotLeader { .. }
        | Refusal::NoQuorum
        | Refusal::Overloaded
        | Refusal::Busy { .. }
        | Refusal::HandingOver
        | Refusal::Unavailable(_) => false,
    }
}
