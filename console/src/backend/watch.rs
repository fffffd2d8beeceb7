//! Watches a cluster: one connection per replica, and one log.
//!
//! Guarantees that watching never fails: a replica that cannot be reached is reported as down, with
//! the reason, and retried forever, with pauses that grow to a bound. Reads and writes of keys use
//! other connections, so a dead replica delays none of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kvorum_protocol::Client;
use kvorum_protocol::client::{Dial, Events, Resolve, Route};
use kvorum_protocol::connection::Connection;
use kvorum_protocol::message::{Answer, EntryEvent, Event, Refusal, Subscription};
use kvorum_protocol::status::{Role, Status};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_stream::StreamExt;

use super::strangers::{Standing, Strangers};
use crate::exit::{Exit, Failure};
use crate::message::Observation;
use crate::message::SILENT_AFTER;
use crate::sink::Sink;

/// The first pause before a replica is dialed again.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The time between two checks whether a connection is silent.
const SILENCE_INTERVAL: Duration = Duration::from_secs(1);
/// The number of entries shown from before the console attached.
const TAIL: u64 = 1000;
/// The maximum number of entries reported at once.
const ENTRIES_MAX: usize = 1024;

/// The time between two lookups of the replicas to watch.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// A function that returns the names of the replicas to watch now.
pub type Names = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// A replica to watch.
#[derive(Clone, Debug)]
pub enum Watched {
    /// By its name; its address is looked up at each dial.
    Named(String),
    /// At this address; it reports its name itself.
    At(String),
}

/// The state shared by the watchers.
#[derive(Clone)]
pub struct Watch {
    /// The lookup of the replicas' addresses.
    pub resolve: Resolve,
    /// The client for the log; it knows which cluster this is.
    pub client: Arc<Client>,
    /// The replicas that belong to another cluster, if any.
    pub strangers: Arc<Strangers>,
    /// The names of the replicas to watch, where they change.
    pub names: Option<Names>,
    /// The way to connect to replicas.
    pub dial: Dial,
}

impl Watch {
    /// Creates a watch over TCP, without any names yet.
    pub fn new(resolve: Resolve, client: Arc<Client>) -> Self {
        let strangers = Arc::default();
        Self { resolve, client, strangers, names: None, dial: Dial::default() }
    }

    /// Watches until the sink is closed, or another cluster has taken the place of this one.
    pub async fn run(self, watched: Vec<Watched>, sink: Sink) {
        let (leader_known, leader) = watch::channel((None, 0));
        let leader_known = Arc::new(leader_known);
        let mut tasks = JoinSet::new();
        let replica =
            || Replica { of: self.clone(), leader: Arc::clone(&leader_known), sink: sink.clone() };
        for one in watched {
            tasks.spawn(replica().watch(one));
        }
        tasks.spawn(follow_log(Arc::clone(&self.client), leader, sink.clone()));
        let named = async {
            match &self.names {
                Some(names) => watch_named(names, &replica, &sink).await,
                None => std::future::pending().await,
            }
        };
        // Dropping the set ends the watchers.
        tokio::select! {
            () = named => {}
            () = sink.closed() => {}
            why = self.strangers.have_taken_over() => {
                let why = format!("another cluster has taken this one's place: {why}");
                sink.lost(Failure::new(Exit::Unavailable, why)).await;
            }
        }
    }
}

/// Watches the replicas that exist, as they come and go.
async fn watch_named(names: &Names, replica: &(dyn Fn() -> Replica + Sync), sink: &Sink) {
    let mut watched: BTreeMap<String, JoinSet<()>> = BTreeMap::new();
    loop {
        let names = names();
        for name in &names {
            if !watched.contains_key(name) {
                let mut task = JoinSet::new();
                task.spawn(replica().watch(Watched::Named(name.clone())));
                watched.insert(name.clone(), task);
            }
        }
        let gone: Vec<_> = watched.keys().filter(|name| !names.contains(name)).cloned().collect();
        for node in gone {
            // Dropping its set ends the watcher.
            watched.remove(&node);
            replica().of.strangers.note(&node, None);
            sink.tell(Observation::Gone { node }).await;
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// The known leader, and the highest applied index known of any replica.
type Leader = (Option<String>, u64);

/// The reason why a replica is not connected, and its standing, if known.
type Gone = (String, Option<Standing>);

fn gone(why: impl ToString) -> Gone {
    (why.to_string(), None)
}

fn stranger(why: &impl ToString) -> Gone {
    (why.to_string(), Some(Standing::Stranger(why.to_string())))
}

/// The watcher of one replica.
struct Replica {
    of: Watch,
    leader: Arc<watch::Sender<Leader>>,
    sink: Sink,
}

impl Replica {
    async fn watch(self, watched: Watched) {
        let mut name = match &watched {
            Watched::Named(name) => Some(name.clone()),
            Watched::At(_) => None,
        };
        if let Some(node) = name.clone() {
            self.sink.tell(Observation::Member { node }).await;
        }
        let mut pause = PAUSE_MIN;
        let mut said = String::new();
        loop {
            let of = match &watched {
                Watched::Named(name) => name,
                Watched::At(address) => address,
            };
            let (why, standing) = match self.dial(&watched).await {
                Ok(connection) => {
                    pause = PAUSE_MIN;
                    said.clear();
                    let node = connection.welcome().name.clone();
                    name = Some(node.clone());
                    self.of.strangers.note(of, Some(Standing::Own));
                    self.attend(&node, connection).await
                }
                Err(gone) => gone,
            };
            self.of.strangers.note(of, standing);
            let is_heard = match (&name, &watched) {
                (Some(node), _) => {
                    self.sink.tell(Observation::Down { node: node.clone(), why }).await
                }
                // Only the address is known of a replica that was never reached.
                (None, Watched::At(_)) if why != said => {
                    said.clone_from(&why);
                    self.sink
                        .tell(Observation::Process { node: "endpoint".to_owned(), what: why })
                        .await
                }
                (None, _) => true,
            };
            if !is_heard {
                return;
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn dial(&self, watched: &Watched) -> Result<Connection, Gone> {
        let address = match watched {
            Watched::At(address) => Some(address.clone()),
            Watched::Named(name) => {
                let endpoints = (self.of.resolve)();
                let found = endpoints.into_iter().find(|e| e.name.as_ref() == Some(name));
                found.map(|endpoint| endpoint.address)
            }
        };
        let address = address.ok_or_else(|| gone("it does not listen anywhere yet"))?;
        let opened = self.of.dial.connect(&address, self.of.client.cluster()).await;
        opened.map_err(|error| match error.is_other_cluster() {
            true => stranger(&error),
            false => gone(error),
        })
    }

    /// Reports the status of a connected replica until the connection ends; returns the reason.
    async fn attend(&self, node: &str, connection: Connection) -> Gone {
        self.sink.tell(Observation::Up { node: node.to_owned() }).await;
        let connection = Arc::new(connection);
        let mut events = match Events::open(Arc::clone(&connection), Subscription::Status).await {
            Ok(events) => events,
            Err(Some(Answer::Refused(refusal))) => {
                // Another one would not let this user in either.
                if matches!(refusal, Refusal::Forbidden { .. }) {
                    let why = format!("{node} refuses: {refusal}");
                    self.sink.lost(Failure::new(Exit::NotAuthorized, why)).await;
                }
                return gone(refusal);
            }
            Err(Some(_)) => return gone("it does not tell its status"),
            Err(None) => return gone("the connection was lost"),
        };
        let mut looks = interval(SILENCE_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_silent = false;
        loop {
            let seen = tokio::select! {
                event = events.next() => match event {
                    Some(Event::Status(status)) => {
                        if let Err(refusal) = self.of.client.heard(&status) {
                            return stranger(&refusal);
                        }
                        was_silent = false;
                        self.note_leader(&status);
                        Observation::Status(Box::new(Arc::unwrap_or_clone(status)))
                    }
                    Some(_) => continue,
                    None => return gone("the connection was lost"),
                },
                _ = looks.tick() => {
                    let for_time = connection.silence();
                    let is_silent = for_time > SILENT_AFTER;
                    if !is_silent && !was_silent {
                        continue;
                    }
                    was_silent = is_silent;
                    Observation::Silent { node: node.to_owned(), for_time }
                }
            };
            if !self.sink.tell(seen).await {
                return gone("");
            }
        }
    }

    fn note_leader(&self, status: &Status) {
        let leads = status.role == Role::Leader;
        self.leader.send_if_modified(|(leader, applied)| {
            let is_first = *applied == 0 && status.applied > 0;
            *applied = status.applied.max(*applied);
            let is_news = leads && leader.as_ref() != Some(&status.name);
            if is_news {
                *leader = Some(status.name.clone());
            }
            is_news || is_first
        });
    }
}

/// Reports the log in order, each entry once; from the leader where there is one.
async fn follow_log(client: Arc<Client>, mut leader: watch::Receiver<Leader>, sink: Sink) {
    let Ok(first) = leader.wait_for(|(leader, _)| leader.is_some()).await.map(|known| known.1)
    else {
        return;
    };
    let mut next = (first + 1).saturating_sub(TAIL).max(1);
    loop {
        let at = leader.borrow_and_update().0.clone();
        let route = at.map_or(Route::Any, Route::Through);
        match client.subscribe(Subscription::Log { from: next }, &route).await {
            Ok(events) => match tell_log(events, next, &mut leader, &sink).await {
                Some(after) => next = after,
                None => return,
            },
            Err(kvorum_protocol::ClientError::Refused {
                refusal: kvorum_protocol::message::Refusal::Compacted { from },
                ..
            }) => {
                sink.tell(Observation::LogReset).await;
                next = from;
            }
            Err(_) => sleep(PAUSE_MAX).await,
        }
    }
}

/// Reports entries until the stream ends or another replica leads; returns the next index. Returns
/// `None` when the watch has ended.
async fn tell_log(
    mut events: Events,
    mut next: u64,
    leader: &mut watch::Receiver<Leader>,
    sink: &Sink,
) -> Option<u64> {
    let node = events.node().to_owned();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            changed = leader.changed() => {
                changed.ok()?;
                let is_elsewhere = leader.borrow().0.as_ref().is_some_and(|name| *name != node);
                if is_elsewhere { None } else { continue }
            }
        };
        let Some(event) = event else { return Some(next) };
        let mut entries = Vec::new();
        let mut reset = take(event, &mut entries);
        while entries.len() < ENTRIES_MAX && reset.is_none() {
            let Some(event) = events.try_next() else { break };
            reset = take(event, &mut entries);
        }
        if let Some(last) = entries.last() {
            next = last.index + 1;
            if !sink.tell(Observation::Log { node: node.clone(), entries }).await {
                return None;
            }
        }
        if let Some(from) = reset {
            sink.tell(Observation::LogReset).await;
            return Some(from);
        }
    }
}

/// Takes an entry out of an event; returns the index where the log resumes after compaction.
fn take(event: Event, entries: &mut Vec<EntryEvent>) -> Option<u64> {
    match event {
        Event::Entry(entry) => {
            entries.push(entry);
            None
        }
        Event::Compacted { from } => Some(from),
        Event::Status(_) | Event::Key(_) | Event::Progress { .. } => None,
    }
}

/// Forwards a supervisor's reports about its processes.
pub async fn pass_on(mut reports: mpsc::Receiver<(String, String)>, sink: Sink) {
    while let Some((node, what)) = reports.recv().await {
        if !sink.tell(Observation::Process { node, what }).await {
            return;
        }
    }
}
