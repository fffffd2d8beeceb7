//! The attempts of a request: which replica to try, for how long, and which one next.
//!
//! Guarantees that attempts end at the deadline, that a replica which does not answer is left for
//! another one, and that names which cannot be resolved do not keep the client from replicas that
//! were reached before, or from replicas that those know. Does not know what a lost attempt means
//! for a write.

mod pool;
mod renewal;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::stream::FuturesUnordered;
use kvorum_tls::Encryption;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_stream::StreamExt;

use super::pin::{Pin, changes};
use super::remembered::host_name;
use super::{ClientError, Route};
use crate::WIRE_VERSION_ADDRESSES;
use crate::authentication::Unauthenticated;
use crate::connection::{ConnectError, Connection};
use crate::dial::Dial;
use crate::handshake::HandshakeRefusal;
use crate::message::{Answer, Refusal, Request};
use crate::status::ClusterId;
use pool::Pool;

/// Time limit of the first attempt of a call; each further one gets twice as long. A paused replica
/// must not use up the whole deadline.
const ATTEMPT_PATIENCE: Duration = Duration::from_millis(500);

/// Head start of an endpoint before the next one is tried beside it: most answer sooner, and one
/// that is gone may not answer at all.
const HEAD_START: Duration = Duration::from_millis(100);

/// The longest time that a client waits because a replica says so: another one may take over.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(2);

/// A client comes back after at most so many times what the replica says.
const RETRY_SPREAD: f64 = 2.0;

/// The address at which a replica accepts clients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// The replica's name, when it is known beforehand.
    pub name: Option<String>,
    /// `host:port`, or whatever a [`Dial`] understands.
    pub address: String,
}

/// A function that returns where the replicas are now; called before each attempt, because a
/// restarted replica may listen elsewhere.
pub type Resolve = Arc<dyn Fn() -> Vec<Endpoint> + Send + Sync>;

/// The result of one attempt.
pub(super) enum Tried {
    Answer(Answer),
    Lost(String),
}

/// The connections of a client, by address. Clones share them.
#[derive(Clone)]
pub(super) struct Attempts {
    resolve: Resolve,
    pub(super) pin: Arc<Pin>,
    dial: Dial,
    /// Held for one map operation, never across an await.
    pool: Arc<Mutex<Pool>>,
}

/// The attempts of one request.
pub(super) struct Tries<'a> {
    attempts: &'a Attempts,
    route: Route,
    deadline: Instant,
    patience: Duration,
    pauses: ExponentialBackoff,
    /// The time after which the replica of the last attempt wants to be asked again.
    retry_after: Option<Duration>,
    /// Position in the rotation of endpoints; each failed attempt moves it on.
    turn: usize,
    begun: bool,
    /// The endpoint of the attempt under way.
    current: Endpoint,
    /// The address that is not tried first again, because it did not answer.
    shunned: Option<String>,
    last: Option<String>,
    /// The refusal of a replica of another cluster.
    stranger: Option<String>,
}

impl Attempts {
    pub(super) fn new(resolve: Resolve, cluster: Option<ClusterId>, dial: Dial) -> Self {
        Self { resolve, pin: Arc::new(Pin::new(cluster)), dial, pool: Arc::default() }
    }

    pub(super) fn begin(&self, route: Route, deadline: Instant) -> Tries<'_> {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(10))
            .with_max_delay(Duration::from_millis(200))
            .with_jitter()
            .without_max_times()
            .build();
        Tries {
            attempts: self,
            route,
            deadline,
            patience: ATTEMPT_PATIENCE,
            pauses,
            retry_after: None,
            turn: 0,
            begun: false,
            current: Endpoint { name: None, address: String::new() },
            shunned: None,
            last: None,
            stranger: None,
        }
    }

    fn pool<T>(&self, with: impl FnOnce(&mut Pool) -> T) -> T {
        with(&mut self.pool.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the endpoints in the order in which to try them.
    fn order(&self, route: &Route, turn: usize, shunned: Option<&str>) -> Vec<Endpoint> {
        let mut endpoints = (self.resolve)();
        if !endpoints.is_empty() {
            let turns = turn % endpoints.len();
            endpoints.rotate_left(turns);
        }
        self.pool(|pool| {
            let named = |pool: &Pool, endpoint: &Endpoint| {
                endpoint.name.clone().or_else(|| pool.names.get(&endpoint.address).cloned())
            };
            let others = pool.remembered.others(|name| {
                endpoints.iter().any(|endpoint| {
                    let known = named(pool, endpoint);
                    known.as_deref().or(host_name(&endpoint.address)) == Some(name)
                })
            });
            endpoints.extend(others);
            // A restarted replica listens elsewhere; its old address is forgotten.
            let is_known = |address: &String| endpoints.iter().any(|e| e.address == *address);
            pool.connections.retain(|address, _| is_known(address));
            pool.connecting.retain(|address, _| is_known(address));
            pool.names.retain(|address, _| is_known(address));
            pool.remembered.retain(is_known);
            match route {
                // An address that never answered may be the one that is asked for.
                Route::Through(wanted) => {
                    endpoints.retain(|e| named(pool, e).is_none_or(|name| name == *wanted));
                }
                Route::Any => endpoints.sort_by_key(|endpoint| {
                    let is_open =
                        pool.connections.get(&endpoint.address).is_some_and(|c| c.is_open());
                    let name = named(pool, endpoint);
                    let is_leader = pool.leader.is_some() && name == pool.leader;
                    let is_shunned = shunned == Some(endpoint.address.as_str());
                    // A name that no reached replica is known by may use up all the time that there
                    // is.
                    let is_reachable = pool.remembered.of(endpoint, name.as_deref()).is_some();
                    (is_shunned, !is_leader, turn == 0 && !is_open, !is_reachable)
                }),
            }
        });
        endpoints
    }

    /// Returns the open connection that a first attempt takes, if there is one: then the endpoints
    /// need not be resolved.
    fn ready(&self, route: &Route) -> Option<(Endpoint, Arc<Connection>)> {
        self.pool(|pool| {
            let name = match route {
                Route::Through(name) => Some(name),
                Route::Any => pool.leader.as_ref(),
            }?;
            let is_it = |open: &Connection| self.is_usable(open) && open.welcome().name == *name;
            let found = pool.connections.iter().find(|(_, connection)| is_it(connection));
            found.map(|(address, connection)| {
                let name = Some(connection.welcome().name.clone());
                (Endpoint { name, address: address.clone() }, Arc::clone(connection))
            })
        })
    }

    fn open(&self, address: &str) -> Option<Arc<Connection>> {
        self.pool(|pool| pool.connections.get(address).filter(|open| self.is_usable(open)).cloned())
    }

    fn is_usable(&self, connection: &Connection) -> bool {
        connection.is_open() && self.pin.admits(connection.welcome().cluster)
    }

    /// Returns a connection to the replica at an address, of whatever cluster.
    pub(super) async fn visit(&self, address: &str) -> Result<Arc<Connection>, ConnectError> {
        match self.open(address) {
            Some(connection) => Ok(connection),
            None => self.dial.connect(address, None).await.map(Arc::new),
        }
    }

    /// Returns where the replicas are now.
    pub(super) fn endpoints(&self) -> Vec<Endpoint> {
        (self.resolve)()
    }

    async fn connect(
        &self,
        endpoint: &Endpoint,
        until: Instant,
    ) -> Result<Arc<Connection>, ConnectError> {
        let until = until.min(Instant::now() + self.dial.patience());
        let connected = timeout_at(until, self.connect_in_turn(endpoint)).await;
        connected.unwrap_or_else(|_| {
            let (address, reason) = (endpoint.address.clone(), "no answer in time".to_owned());
            Err(ConnectError::Unreachable { address, reason })
        })
    }

    async fn connect_in_turn(&self, endpoint: &Endpoint) -> Result<Arc<Connection>, ConnectError> {
        let address = &endpoint.address;
        if let Some(connection) = self.open(address) {
            return Ok(connection);
        }
        let connecting =
            self.pool(|pool| Arc::clone(pool.connecting.entry(address.to_owned()).or_default()));
        let _one_at_a_time = connecting.lock().await;
        if let Some(connection) = self.open(address) {
            return Ok(connection);
        }
        let connection = Arc::new(self.dial(endpoint).await?);
        self.pool(|pool| {
            pool.names.insert(address.to_owned(), connection.welcome().name.clone());
            pool.connections.insert(address.to_owned(), Arc::clone(&connection));
        });
        Ok(connection)
    }

    /// Opens a connection, by the endpoint's address or where its replica was before.
    async fn dial(&self, endpoint: &Endpoint) -> Result<Connection, ConnectError> {
        let address = &endpoint.address;
        let (before, cluster) = self.pool(|pool| {
            let name = endpoint.name.as_deref().or(pool.names.get(address).map(String::as_str));
            let remembered = &pool.remembered;
            let before = remembered.of(endpoint, name).filter(|_| self.dial.has_numbers());
            (before, self.pin.get().or(remembered.cluster_at(address)))
        });
        let (connection, at) = self.dial.reach(address, before, cluster).await?;
        let connection = self.pin.admit(connection, address)?;
        if let Some(at) = at {
            let cluster = connection.welcome().cluster;
            self.pool(|pool| pool.remembered.reached(address, at, cluster));
        }
        Ok(connection)
    }

    /// Asks a replica where the others are, from time to time: it may be gone when they are needed.
    fn ask_for_others(&self, connection: &Arc<Connection>) {
        let knows = connection.welcome().version >= WIRE_VERSION_ADDRESSES;
        let is_to = |pool: &mut Pool| pool.remembered.is_to_ask(Instant::now());
        if !knows || !self.dial.has_numbers() || !self.pool(is_to) {
            return;
        }
        let (pool, connection) = (Arc::clone(&self.pool), Arc::clone(connection));
        tokio::spawn(async move {
            let until = Instant::now() + ATTEMPT_PATIENCE;
            let asked = timeout_at(until, connection.call(Request::Addresses)).await;
            if let Ok(Ok(Answer::Addresses(others))) = asked {
                let mut pool = pool.lock().unwrap_or_else(PoisonError::into_inner);
                pool.remembered.told(others, connection.welcome().cluster);
            }
        });
    }
}

impl Tries<'_> {
    /// Returns the connection for the next attempt; `None` when the deadline has passed.
    pub(super) async fn next(&mut self) -> Result<Option<Arc<Connection>>, ClientError> {
        loop {
            if self.begun {
                self.turn += 1;
                let pause = self.pauses.next().unwrap_or(ATTEMPT_PATIENCE);
                // Time is left for one more attempt, whatever the replica says.
                let left = self.deadline.saturating_duration_since(Instant::now()) / 2;
                let pause = self.retry_after.take().map_or(pause, |after| after.min(left));
                let resume = (Instant::now() + pause).min(self.deadline);
                sleep_until(resume).await;
            }
            self.begun = true;
            if Instant::now() >= self.deadline {
                return Ok(None);
            }
            let reached = self.reach().await?;
            if Instant::now() >= self.deadline {
                return Ok(None);
            }
            if reached.is_some() {
                return Ok(reached);
            }
        }
    }

    /// Makes one round over the endpoints: each begins when one before it failed or had its head
    /// start.
    async fn reach(&mut self) -> Result<Option<Arc<Connection>>, ClientError> {
        if self.turn == 0
            && let Some((endpoint, connection)) = self.attempts.ready(&self.route)
        {
            self.attempts.pool(|pool| pool.learn(connection.leader()));
            self.attempts.ask_for_others(&connection);
            self.attempts.renew();
            self.current = endpoint;
            return Ok(Some(connection));
        }
        let order = self.attempts.order(&self.route, self.turn, self.shunned.as_deref());
        let (attempts, deadline) = (self.attempts, self.deadline);
        let (mut left, mut dials) = (order.iter(), FuturesUnordered::new());
        let (mut hopeless, mut waiting_helps) = (None, order.is_empty());
        loop {
            dials.extend(left.next().map(|endpoint| async move {
                (endpoint, attempts.connect(endpoint, deadline).await)
            }));
            let next = match left.as_slice() {
                [] => deadline,
                [..] => deadline.min(Instant::now() + HEAD_START),
            };
            match timeout_at(next, dials.next()).await {
                Err(_) if Instant::now() >= deadline => return Ok(None),
                Err(_) => {}
                Ok(None) => break,
                Ok(Some((endpoint, Ok(connection)))) if self.is_wanted(&connection) => {
                    self.current.clone_from(endpoint);
                    attempts.pool(|pool| pool.learn(connection.leader()));
                    attempts.ask_for_others(&connection);
                    return Ok(Some(connection));
                }
                Ok(Some((_, Ok(_)))) => {}
                Ok(Some((endpoint, Err(error)))) => {
                    let helps = self.failed(endpoint, &error);
                    waiting_helps |= helps;
                    hopeless = hopeless.or(Some(error).filter(|_| !helps));
                }
            }
        }
        match (hopeless, &self.route) {
            (Some(error), _) if !waiting_helps => Err(ClientError::Target(error)),
            (None, Route::Through(name)) if !waiting_helps => Err(self.no_such_node(name)),
            _ => Ok(None),
        }
    }

    /// Records that an endpoint cannot be connected to, and returns whether waiting may help.
    fn failed(&mut self, endpoint: &Endpoint, error: &ConnectError) -> bool {
        self.last = Some(error.to_string());
        self.shunned = Some(endpoint.address.clone());
        if error.is_other_cluster() {
            self.stranger.clone_from(&self.last);
        }
        match error {
            ConnectError::Unreachable { .. } => true,
            ConnectError::Refused { refusal, .. } => match refusal {
                HandshakeRefusal::TooManyConnections { .. } => true,
                HandshakeRefusal::NotEncrypted => {
                    matches!(self.attempts.dial.encryption, Encryption::Promised(_))
                }
                HandshakeRefusal::Unauthenticated(Unauthenticated::Busy) => true,
                HandshakeRefusal::Unauthenticated(_)
                | HandshakeRefusal::Version { .. }
                | HandshakeRefusal::OtherCluster { .. } => false,
            },
            ConnectError::NotKvorum { .. }
            | ConnectError::Distrusted { .. }
            | ConnectError::Forbidden { .. } => false,
        }
    }

    fn is_wanted(&self, connection: &Connection) -> bool {
        match &self.route {
            Route::Any => true,
            Route::Through(name) => connection.welcome().name == *name,
        }
    }

    fn no_such_node(&self, name: &str) -> ClientError {
        let mut known: Vec<String> =
            self.attempts.pool(|pool| pool.names.values().cloned().collect());
        known.extend((self.attempts.resolve)().into_iter().filter_map(|endpoint| endpoint.name));
        known.sort();
        known.dedup();
        ClientError::NoSuchNode { name: name.to_owned(), known: known.join(", ") }
    }

    /// Opens a separate connection to the endpoint of the attempt under way.
    pub(super) async fn connect_anew(&self) -> Result<Connection, ConnectError> {
        self.attempts.dial(&self.current).await
    }

    /// Records that the replica of a connection accepts no further one.
    pub(super) fn failed_anew(&mut self, connection: &Connection, error: &ConnectError) {
        self.last = Some(error.to_string());
        self.shunned = Some(self.current.address.clone());
        self.attempts.pool(|pool| pool.forget(&connection.welcome().name));
    }

    /// Makes one attempt, with a time limit that grows from attempt to attempt.
    pub(super) async fn call(&mut self, connection: &Connection, request: Request) -> Tried {
        let until = (Instant::now() + self.patience).min(self.deadline);
        self.patience = self.patience.saturating_mul(2);
        let tried = self.call_until(connection, request, until).await;
        if matches!(tried, Tried::Lost(_)) {
            self.shunned = Some(self.current.address.clone());
            self.attempts.pool(|pool| pool.forget(&connection.welcome().name));
        }
        tried
    }

    /// Makes one attempt that may take until the deadline.
    pub(super) async fn call_to_end(&mut self, connection: &Connection, request: Request) -> Tried {
        self.call_until(connection, request, self.deadline).await
    }

    async fn call_until(
        &mut self,
        connection: &Connection,
        request: Request,
        until: Instant,
    ) -> Tried {
        if connection.welcome().version < request.version() {
            let why = "it runs an older program, which does not know this request".to_owned();
            return Tried::Answer(Answer::Refused(Refusal::Unavailable(why)));
        }
        let (node, changes) = (&connection.welcome().name, changes(&request));
        let called = timeout_at(until, connection.call(request)).await;
        let answer = called.as_ref().ok().and_then(|called| called.as_ref().ok());
        let settled = self.attempts.pin.heard_of(connection, changes, answer);
        let lost = match (settled, called) {
            (Err(refusal), _) => format!("{node}: {refusal}"),
            (Ok(()), Ok(Ok(answer))) => return Tried::Answer(answer),
            (Ok(()), Ok(Err(lost))) => format!("{node}: {lost}"),
            (Ok(()), Err(_)) => format!("{node} did not answer in time"),
        };
        self.last = Some(lost.clone());
        Tried::Lost(lost)
    }

    /// Records a refusal that may pass, and the leader it names.
    pub(super) fn note(&mut self, connection: &Connection, refusal: &Refusal) {
        self.last = Some(format!("{}: {refusal}", connection.welcome().name));
        if let Refusal::Busy { retry_after_ms } = refusal {
            // All that were refused at one time would come back at one time.
            let retry_after = Duration::from_millis(u64::from(*retry_after_ms));
            let retry_after = retry_after.mul_f64(rand::random_range(1.0..RETRY_SPREAD));
            self.retry_after = Some(retry_after.min(RETRY_AFTER_MAX));
        }
        let leader = match refusal {
            Refusal::NotLeader { leader } => leader.clone(),
            // It may belong to another cluster than those that serve, and lead in that one.
            Refusal::Unavailable(_) if self.attempts.pin.get().is_none() => {
                self.shunned = Some(self.current.address.clone());
                None
            }
            _ => connection.leader(),
        };
        self.attempts.pool(|pool| {
            pool.forget(&connection.welcome().name);
            pool.learn(leader);
        });
    }

    /// Returns the error of the last attempt, and the refusal of a replica of another cluster.
    pub(super) fn last(&self) -> String {
        let last = self.last.clone().unwrap_or_else(|| "no replica is known".to_owned());
        match &self.stranger {
            Some(stranger) if *stranger != last => format!("{last}; {stranger}"),
            _ => last,
        }
    }
}

#[cfg(test)]
mod tests;
