//! The attempts of a request: which replica, how long, and what next.
//!
//! Guarantees that attempts end at the deadline and that a replica which does not answer is left
//! for another one. Does not know what a lost attempt means for a write.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::pin::{Pin, changes};
use super::{ClientError, Route};
use crate::connection::{ConnectError, Connection};
use crate::dial::Dial;
use crate::handshake::HandshakeRefusal;
use crate::message::{Answer, Refusal, Request};
use crate::status::ClusterId;

/// How long the first attempt of a call may take; each further one twice as long. A paused
/// replica must not use up the whole deadline.
const ATTEMPT_PATIENCE: Duration = Duration::from_millis(500);

/// Where a replica's clients connect to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// The replica's name, when it is known beforehand.
    pub name: Option<String>,
    /// `host:port`, or whatever a [`Dial`] understands.
    pub address: String,
}

/// Says where the replicas are now; asked before each attempt, because a replica that was started
/// again may listen elsewhere.
pub type Resolve = Arc<dyn Fn() -> Vec<Endpoint> + Send + Sync>;

/// What one attempt came to.
pub(super) enum Tried {
    Answer(Answer),
    Lost(String),
}

/// The connections of a client, by address.
pub(super) struct Attempts {
    resolve: Resolve,
    pub(super) pin: Pin,
    dial: Dial,
    /// Held for one map operation, never across an await.
    pool: Mutex<Pool>,
}

#[derive(Default)]
struct Pool {
    /// Held, by address, by the one caller that connects; the others wait and use what it got.
    connecting: HashMap<String, Arc<tokio::sync::Mutex<()>>>,
    connections: HashMap<String, Arc<Connection>>,
    /// The names that addresses answered with.
    names: HashMap<String, String>,
    leader: Option<String>,
}

impl Pool {
    /// A replica says who leads. One that knows none may be the only one that does not: it is
    /// behind, or was asked for its status only.
    fn learn(&mut self, leader: Option<String>) {
        if leader.is_some() {
            self.leader = leader;
        }
    }

    /// A replica is gone or does not lead.
    fn forget(&mut self, name: &str) {
        if self.leader.as_deref() == Some(name) {
            self.leader = None;
        }
    }
}

/// The attempts of one request.
pub(super) struct Tries<'a> {
    attempts: &'a Attempts,
    route: Route,
    deadline: Instant,
    patience: Duration,
    pauses: ExponentialBackoff,
    /// Where the rotation stands; each failed attempt moves it on.
    turn: usize,
    begun: bool,
    /// Where the attempt under way goes.
    current: String,
    /// Not tried first again: it did not answer.
    shunned: Option<String>,
    last: Option<String>,
    /// What one of another cluster said.
    stranger: Option<String>,
}

impl Attempts {
    pub(super) fn new(resolve: Resolve, cluster: Option<ClusterId>, dial: Dial) -> Self {
        Self { resolve, pin: Pin::new(cluster), dial, pool: Mutex::new(Pool::default()) }
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
            turn: 0,
            begun: false,
            current: String::new(),
            shunned: None,
            last: None,
            stranger: None,
        }
    }

    fn pool<T>(&self, with: impl FnOnce(&mut Pool) -> T) -> T {
        with(&mut self.pool.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The endpoints in the order in which to try them.
    fn order(&self, route: &Route, turn: usize, shunned: Option<&str>) -> Vec<Endpoint> {
        let mut endpoints = (self.resolve)();
        if endpoints.is_empty() {
            return endpoints;
        }
        let turns = turn % endpoints.len();
        endpoints.rotate_left(turns);
        self.pool(|pool| {
            // A replica that was started again listens elsewhere; where it listened is forgotten.
            let is_known = |address: &String| endpoints.iter().any(|e| e.address == *address);
            pool.connections.retain(|address, _| is_known(address));
            pool.connecting.retain(|address, _| is_known(address));
            pool.names.retain(|address, _| is_known(address));
            let name = |endpoint: &Endpoint| {
                endpoint.name.clone().or_else(|| pool.names.get(&endpoint.address).cloned())
            };
            match route {
                // An address that never answered may be the one that is asked for.
                Route::Through(wanted) => {
                    endpoints.retain(|e| name(e).is_none_or(|name| name == *wanted));
                }
                Route::Any => endpoints.sort_by_key(|endpoint| {
                    let is_open =
                        pool.connections.get(&endpoint.address).is_some_and(|c| c.is_open());
                    let is_leader = pool.leader.is_some() && name(endpoint) == pool.leader;
                    let is_shunned = shunned == Some(endpoint.address.as_str());
                    (is_shunned, !is_leader, turn == 0 && !is_open)
                }),
            }
        });
        endpoints
    }

    /// The open connection that a first attempt takes, if there is one: then nobody has to say
    /// where the replicas are.
    fn ready(&self, route: &Route) -> Option<(String, Arc<Connection>)> {
        self.pool(|pool| {
            let name = match route {
                Route::Through(name) => Some(name),
                Route::Any => pool.leader.as_ref(),
            }?;
            let is_it = |open: &Connection| self.is_usable(open) && open.welcome().name == *name;
            let found = pool.connections.iter().find(|(_, connection)| is_it(connection));
            found.map(|(address, connection)| (address.clone(), Arc::clone(connection)))
        })
    }

    fn open(&self, address: &str) -> Option<Arc<Connection>> {
        self.pool(|pool| pool.connections.get(address).filter(|open| self.is_usable(open)).cloned())
    }

    fn is_usable(&self, connection: &Connection) -> bool {
        connection.is_open() && self.pin.admits(connection.welcome().cluster)
    }

    /// A connection of its own to an address, to the client's cluster.
    async fn connect_anew(&self, address: &str) -> Result<Connection, ConnectError> {
        let connection = self.dial.connect(address, self.pin.get()).await?;
        self.pin.admit(connection, address)
    }

    /// A connection to whoever is at an address, of whatever cluster.
    pub(super) async fn visit(&self, address: &str) -> Result<Arc<Connection>, ConnectError> {
        match self.open(address) {
            Some(connection) => Ok(connection),
            None => self.dial.connect(address, None).await.map(Arc::new),
        }
    }

    /// Where the replicas are now.
    pub(super) fn endpoints(&self) -> Vec<Endpoint> {
        (self.resolve)()
    }

    async fn connect(
        &self,
        address: &str,
        until: Instant,
    ) -> Result<Arc<Connection>, ConnectError> {
        let until = until.min(Instant::now() + self.dial.patience());
        let connected = timeout_at(until, self.connect_in_turn(address)).await;
        connected.unwrap_or_else(|_| {
            let (address, reason) = (address.to_owned(), "no answer in time".to_owned());
            Err(ConnectError::Unreachable { address, reason })
        })
    }

    async fn connect_in_turn(&self, address: &str) -> Result<Arc<Connection>, ConnectError> {
        if let Some(connection) = self.open(address) {
            return Ok(connection);
        }
        let connecting =
            self.pool(|pool| Arc::clone(pool.connecting.entry(address.to_owned()).or_default()));
        let _one_at_a_time = connecting.lock().await;
        if let Some(connection) = self.open(address) {
            return Ok(connection);
        }
        let connection = Arc::new(self.connect_anew(address).await?);
        self.pool(|pool| {
            pool.names.insert(address.to_owned(), connection.welcome().name.clone());
            pool.connections.insert(address.to_owned(), Arc::clone(&connection));
        });
        Ok(connection)
    }
}

impl Tries<'_> {
    /// The connection for the next attempt; `None` when the deadline has come.
    pub(super) async fn next(&mut self) -> Result<Option<Arc<Connection>>, ClientError> {
        loop {
            if self.begun {
                self.turn += 1;
                let pause = self.pauses.next().unwrap_or(ATTEMPT_PATIENCE);
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

    /// One round over the endpoints.
    async fn reach(&mut self) -> Result<Option<Arc<Connection>>, ClientError> {
        if self.turn == 0
            && let Some((address, connection)) = self.attempts.ready(&self.route)
        {
            self.attempts.pool(|pool| pool.learn(connection.leader()));
            self.current = address;
            return Ok(Some(connection));
        }
        let order = self.attempts.order(&self.route, self.turn, self.shunned.as_deref());
        let mut hopeless = None;
        let mut waiting_helps = order.is_empty();
        for endpoint in &order {
            if Instant::now() >= self.deadline {
                return Ok(None);
            }
            match self.attempts.connect(&endpoint.address, self.deadline).await {
                Ok(connection) if self.is_wanted(&connection) => {
                    self.current.clone_from(&endpoint.address);
                    self.attempts.pool(|pool| pool.learn(connection.leader()));
                    return Ok(Some(connection));
                }
                Ok(_) => {}
                Err(error) => {
                    self.last = Some(error.to_string());
                    self.shunned = Some(endpoint.address.clone());
                    if error.is_other_cluster() {
                        self.stranger.clone_from(&self.last);
                    }
                    match error {
                        ConnectError::Unreachable { .. }
                        | ConnectError::Refused {
                            refusal: HandshakeRefusal::TooManyConnections { .. },
                            ..
                        } => waiting_helps = true,
                        other => hopeless = Some(other),
                    }
                }
            }
        }
        match (hopeless, &self.route) {
            (Some(error), _) if !waiting_helps => Err(ClientError::Target(error)),
            (None, Route::Through(name)) if !waiting_helps => Err(self.no_such_node(name)),
            _ => Ok(None),
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

    /// A connection of its own to where the attempt under way goes.
    pub(super) async fn connect_anew(&self) -> Result<Connection, ConnectError> {
        self.attempts.connect_anew(&self.current).await
    }

    /// Makes one attempt, with a patience that grows from attempt to attempt.
    pub(super) async fn call(&mut self, connection: &Connection, request: Request) -> Tried {
        let until = (Instant::now() + self.patience).min(self.deadline);
        self.patience = self.patience.saturating_mul(2);
        let tried = self.call_until(connection, request, until).await;
        if matches!(tried, Tried::Lost(_)) {
            self.shunned = Some(self.current.clone());
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

    /// Remembers a refusal that may pass, and where it points.
    pub(super) fn note(&mut self, connection: &Connection, refusal: &Refusal) {
        self.last = Some(format!("{}: {refusal}", connection.welcome().name));
        let leader = match refusal {
            Refusal::NotLeader { leader } => leader.clone(),
            _ => connection.leader(),
        };
        self.attempts.pool(|pool| {
            pool.forget(&connection.welcome().name);
            pool.learn(leader);
        });
    }

    /// What the last attempt met, and what one of another cluster said.
    pub(super) fn last(&self) -> String {
        let last = self.last.clone().unwrap_or_else(|| "no replica is known".to_owned());
        match &self.stranger {
            Some(stranger) if *stranger != last => format!("{last}; {stranger}"),
            _ => last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leads_is_forgotten_only_with_a_reason() {
        let mut pool = Pool::default();
        let leader = |name: &str| Some(name.to_owned());
        pool.learn(leader("a"));
        pool.learn(None);
        pool.forget("b");
        assert_eq!(pool.leader, leader("a"), "b knows no leader, or is gone");
        pool.learn(leader("c"));
        assert_eq!(pool.leader, leader("c"));
        pool.forget("c");
        assert_eq!(pool.leader, None);
    }
}
