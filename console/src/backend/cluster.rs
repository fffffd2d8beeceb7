//! A backend of real replicas, reached by their client ports: in Kubernetes, on this machine, or at
//! addresses.
//!
//! Guarantees that a call ends by the client's deadline with one of the four fates. Does not know
//! what the console shows of it.

#[cfg(feature = "local")]
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future, stream};
use kvorum_protocol::access::{Access, AccessQuery, AccessReport, Whoami};
use kvorum_protocol::client::{Options, Route};
use kvorum_protocol::data::{Condition, Operation, Outcome};
use kvorum_protocol::message::{Admin, Consistency, Event, Pair, Scan, Subscription};
use kvorum_protocol::{Client, ClientError, Fate, Key, Value};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Backend;
use super::watch::{Names, Watch, Watched, pass_on};
use crate::exit::Failure;
use crate::kubernetes::{Kube, happenings};
use crate::message::{Call, Observation, Place, Previous, Reply, Source};
use crate::platform::{Platform, blocking};
use crate::probe::{Store, Task, Written};
use crate::sink::Sink;

/// The number of keys in a page.
const PAGE_PAIRS: u32 = 500;
/// The number of a batch's writes in flight at once.
const BATCH_WIDTH: usize = 64;
/// The number of attempts at a write for which the previous value is known for certain.
const EXACT_TRIES: u32 = 3;
/// The time to wait for each replica when all are asked.
const ASK_PATIENCE: Duration = Duration::from_secs(1);
/// The interval between checks whether an action that was not allowed is allowed by now.
const RIGHTS_INTERVAL: Duration = Duration::from_secs(15);
/// The time that a local cluster of this console may take to stop. Shorter than its caller waits.
#[cfg(feature = "local")]
const STOP_PATIENCE: Duration = Duration::from_millis(1500);

/// A cluster of real replicas.
pub struct RealCluster {
    client: Arc<Client>,
    watch: Watch,
    watched: Vec<Watched>,
    place: Place,
    platform: Platform,
    /// The supervisor's reports and the replicas themselves, when this process runs them.
    own: Mutex<Own>,
}

/// The parts of a cluster that this process runs itself.
#[derive(Default)]
struct Own {
    reports: Option<mpsc::Receiver<(String, String)>>,
    #[cfg(feature = "local")]
    running: Option<crate::local::Running>,
    /// The cluster's temporary folder, removed when the cluster has stopped.
    temporary: Option<tempfile::TempDir>,
}

impl RealCluster {
    /// Opens a cluster of replicas at addresses.
    pub async fn at(addresses: &[String], options: Options) -> Result<Self, Failure> {
        crate::target::check_addresses(addresses)?;
        let dial = options.dial.clone();
        let client = Arc::new(Client::of_addresses(addresses, options));
        let watch = Watch { dial, ..Watch::new(Arc::new(Vec::new), Arc::clone(&client)) };
        let watched = addresses.iter().cloned().map(Watched::At).collect();
        Ok(Self::make(client, watch, watched, Platform::Unmanaged(addresses.to_vec())).await)
    }

    /// Opens a cluster that Kubernetes runs.
    pub async fn of_pods(kube: Arc<Kube>, deadline: Duration) -> Self {
        let (resolve, dial) = (kube.resolve(), kube.dial());
        let options = Options { deadline, dial: dial.clone(), ..Options::default() };
        let client = Arc::new(Client::new(Arc::clone(&resolve), options));
        let pods = Arc::clone(kube.pods());
        let names: Option<Names> = Some(Arc::new(move || pods.names()));
        let watch = Watch { names, dial, ..Watch::new(resolve, Arc::clone(&client)) };
        Self::make(client, watch, Vec::new(), Platform::Kubernetes(kube)).await
    }

    /// Opens the local cluster in a folder, run by another process.
    #[cfg(feature = "local")]
    pub async fn local(folder: PathBuf, mut options: Options) -> Result<Self, Failure> {
        use crate::local::{client, encrypted, resolve};
        encrypted(&folder, &mut options)?;
        let dial = options.dial.clone();
        let client = client(&folder, options)?;
        let names = Some(crate::local::names(&folder));
        let watch = Watch { names, dial, ..Watch::new(resolve(&folder), Arc::clone(&client)) };
        Ok(Self::make(client, watch, Vec::new(), Platform::Local(folder)).await)
    }

    async fn make(
        client: Arc<Client>,
        watch: Watch,
        watched: Vec<Watched>,
        platform: Platform,
    ) -> Self {
        let place = platform.place().await;
        Self { client, watch, watched, place, platform, own: Mutex::default() }
    }

    /// Starts a local cluster that this process runs.
    #[cfg(feature = "local")]
    pub async fn start(
        plan: &crate::local::Plan,
        deadline: Duration,
        temporary: Option<tempfile::TempDir>,
    ) -> Result<Self, Failure> {
        /// The most reports queued; further ones are dropped, they are for information only.
        const REPORTS_MAX: usize = 64;
        let (told, reports) = mpsc::channel(REPORTS_MAX);
        let report: crate::local::Report = Arc::new(move |name, what| {
            let _ = told.try_send((name.to_owned(), what.to_owned()));
        });
        // The folder is created and locked on a thread that may block.
        let (runtime, plan) = (tokio::runtime::Handle::current(), plan.clone());
        let start = move || runtime.block_on(crate::local::Running::start(&plan, &report));
        let running = blocking(start).await?;
        let options = Options { deadline, ..Options::default() };
        let mut cluster = Self::local(running.folder.path.clone(), options).await?;
        cluster.place.is_own = true;
        let own = Own { reports: Some(reports), running: Some(running), temporary };
        cluster.own = Mutex::new(own);
        Ok(cluster)
    }

    fn own<T>(&self, with: impl FnOnce(&mut Own) -> T) -> T {
        with(&mut self.own.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn do_call(&self, call: Call) -> Result<Reply, Failure> {
        match call {
            Call::Put { key, value, condition, node } => {
                let value = read_source(value).await?;
                let write = |condition| Operation::Put {
                    key: key.clone(),
                    value: Value(value.clone()),
                    condition,
                };
                self.write(&key, condition, &write, &route(node)).await
            }
            Call::Delete { key, condition, node } => {
                let write = |condition| Operation::Delete { key: key.clone(), condition };
                self.write(&key, condition, &write, &route(node)).await
            }
            Call::Get { key, consistency, node } => {
                Ok(Reply::Value(self.client.get(key, consistency, &route(node)).await?))
            }
            Call::Scan { prefix, from, consistency, node } => {
                let (until, limit, keys_only) = (Vec::new(), PAGE_PAIRS, false);
                let scan = Scan { prefix, from, until, limit, keys_only, consistency };
                Ok(Reply::Page(self.client.scan(scan, &route(node)).await?))
            }
            Call::Inspect { key, nodes } => self.inspect(key, nodes).await,
            Call::Batch { count } => self.batch(count).await,
            Call::Logs { node } => Ok(Reply::Lines(self.platform.logs(&node).await?)),
            Call::Kill { node, how } => {
                Ok(Reply::Done(self.platform.kill(&self.client, &node, how).await?))
            }
            Call::Scale { replicas } => {
                self.platform.scale(replicas).await?;
                Ok(Reply::Done(format!("{replicas} wanted;")))
            }
            Call::HandOver { from, to } => {
                let admin = Admin::HandOver { to: to.unwrap_or_default() };
                self.client.administer(admin, &Route::Through(from)).await?;
                Ok(Reply::Done("asked for".to_owned()))
            }
            Call::Cut { node, peer } => {
                self.client.administer(Admin::Cut { peer }, &Route::Through(node)).await?;
                Ok(Reply::Done("cut".to_owned()))
            }
            Call::Heal { node, peer } => self.heal(node, peer).await,
        }
    }

    /// Writes so that the previous value is known, unless other clients write at the same time.
    async fn write(
        &self,
        key: &Key,
        condition: Condition,
        write: &(dyn Fn(Condition) -> Operation + Sync),
        route: &Route,
    ) -> Result<Reply, Failure> {
        write(condition).validate().map_err(|limit| Failure::usage(limit.to_string()))?;
        for _ in 0..EXACT_TRIES {
            let before = self.client.get(key.clone(), Consistency::Linearizable, route).await?;
            let (expected, previous) = match &before {
                None => (Condition::Absent, Previous::Absent),
                Some(pair) => {
                    (Condition::AtRevision(pair.revision), Previous::Value(pair.value.0.clone()))
                }
            };
            // The cluster judges a condition that fails, and a delete of an absent key.
            let is_theirs = condition != Condition::Always && condition != expected;
            if is_theirs || before.is_none() && matches!(write(condition), Operation::Delete { .. })
            {
                break;
            }
            match self.client.write(write(expected), route).await? {
                Outcome::ConditionFailed { .. } if condition == Condition::Always => {}
                outcome => return Ok(Reply::Written { outcome, previous }),
            }
        }
        let outcome = self.client.write(write(condition), route).await?;
        Ok(Reply::Written { outcome, previous: Previous::Unknown })
    }

    async fn inspect(&self, key: Key, nodes: Vec<String>) -> Result<Reply, Failure> {
        let mut asked = JoinSet::new();
        for node in nodes {
            let (client, key) = (Arc::clone(&self.client), key.clone());
            asked.spawn(async move {
                let route = Route::Through(node.clone());
                let has = timeout(ASK_PATIENCE, client.get(key, Consistency::Local, &route)).await;
                let has = match has {
                    Ok(Ok(pair)) => Ok(pair.map(|pair: Pair| pair.revision)),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err(format!("no answer within {ASK_PATIENCE:?}")),
                };
                (node, has)
            });
        }
        let pair = self.client.get(key, Consistency::Linearizable, &Route::Any).await?;
        let mut nodes = asked.join_all().await;
        nodes.sort_by(|(a, _), (b, _)| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
        Ok(Reply::Inspected { pair, nodes })
    }

    async fn batch(&self, count: u32) -> Result<Reply, Failure> {
        let began = Instant::now();
        let put = |number: u32| {
            let key = Key::from(format!("batch/{number:07}"));
            let client = Arc::clone(&self.client);
            async move { client.put(key, Value::from(number.to_string()), &Route::Any).await }
        };
        let puts = stream::iter(0..count).map(put).buffer_unordered(BATCH_WIDTH);
        puts.try_for_each(|_| future::ok(())).await?;
        let seconds = began.elapsed().as_secs_f64();
        let rate = f64::from(count) / seconds.max(0.001);
        Ok(Reply::Done(format!("{rate:.0} puts a second;")))
    }

    /// Heals a link at both ends: either may have cut it.
    async fn heal(&self, node: String, peer: String) -> Result<Reply, Failure> {
        let here = Admin::Heal { peer: peer.clone() };
        let there = Admin::Heal { peer: node.clone() };
        self.client.administer(here, &Route::Through(node)).await?;
        self.client.administer(there, &Route::Through(peer)).await?;
        Ok(Reply::Done("healed".to_owned()))
    }
}

/// Reports what the user may do here, until nothing is missing. Checks at least once: on attaching,
/// neither the API server nor the cluster may have reported what is allowed.
async fn tell_rights(client: Arc<Client>, platform: Platform, mut place: Place, sink: Sink) {
    loop {
        sleep(RIGHTS_INTERVAL).await;
        let Some(mut now) = platform.told_place().await else { continue };
        let Ok(own) = rights_of(&client).await else { continue };
        restrict(&mut now, own.as_ref());
        if now != place && !sink.tell(Observation::Place(now.clone())).await {
            return;
        }
        place = now;
        let Place { no_kill, no_scale, no_logs, no_write, no_operation, .. } = &place;
        let missing = [no_kill, no_scale, no_logs, no_write, no_operation];
        if missing.into_iter().all(Option::is_none) {
            return;
        }
    }
}

/// Asks the cluster what the user may do; `None` when the answer is about something else.
async fn rights_of(client: &Client) -> Result<Option<Whoami>, ClientError> {
    Ok(match client.access(AccessQuery::Whoami, &Route::Any).await? {
        AccessReport::Whoami(own) => Some(own),
        _ => None,
    })
}

/// Says of a place what the user may not do there.
fn restrict(place: &mut Place, own: Option<&Whoami>) {
    let Some(own) = own.filter(|own| !own.is_root) else { return };
    let user = &own.user;
    place.no_operation = Some(format!("{user} has no right to operate the cluster"));
    let may_write = own.rights.iter().any(|right| right.access.includes(Access::Write));
    place.no_write = (!may_write).then(|| format!("{user} has no right to write any key"));
}

fn route(node: Option<String>) -> Route {
    node.map_or(Route::Any, Route::Through)
}

/// Reads a value on a thread that may block.
async fn read_source(source: Source) -> Result<Bytes, Failure> {
    match source {
        Source::Bytes(bytes) => Ok(bytes),
        source => blocking(move || source.read()).await,
    }
}

impl Backend for RealCluster {
    fn place(&self) -> Place {
        self.place.clone()
    }

    fn watch(self: Arc<Self>, sink: Sink) -> Task<()> {
        Box::pin(async move {
            // These tasks end with this one.
            let mut aside = JoinSet::new();
            if let Some(reports) = self.own(|own| own.reports.take()) {
                aside.spawn(pass_on(reports, sink.clone()));
            }
            if let Platform::Kubernetes(kube) = &self.platform {
                aside.spawn(happenings::tell(Arc::clone(kube), sink.clone()));
            }
            let (client, platform) = (Arc::clone(&self.client), self.platform.clone());
            aside.spawn(tell_rights(client, platform, self.place.clone(), sink.clone()));
            self.watch.clone().run(self.watched.clone(), sink).await;
        })
    }

    fn call(self: Arc<Self>, call: Call) -> Task<Result<Reply, Failure>> {
        Box::pin(async move { self.do_call(call).await })
    }

    fn store(self: Arc<Self>) -> Arc<dyn Store> {
        self
    }

    fn stop(self: Arc<Self>) -> Task<()> {
        Box::pin(async move {
            #[cfg(feature = "local")]
            if let Some(running) = self.own(|own| own.running.take()) {
                running.stop(STOP_PATIENCE).await;
            }
            if let Some(temporary) = self.own(|own| own.temporary.take()) {
                let _ = tokio::task::spawn_blocking(move || temporary.close()).await;
            }
        })
    }
}

impl Store for RealCluster {
    fn put(self: Arc<Self>, key: Key, value: Value) -> Task<Result<u64, Fate>> {
        Box::pin(async move {
            match self.client.put(key, value, &Route::Any).await {
                Ok(Outcome::Put { revision }) => Ok(revision),
                Ok(_) => Err(Fate::Refused),
                Err(error) => Err(error.fate()),
            }
        })
    }

    fn delete(self: Arc<Self>, key: Key) -> Task<Result<(), String>> {
        Box::pin(async move {
            let deleted = self.client.delete(key, &Route::Any).await;
            deleted.map(|_| ()).map_err(|error| error.to_string())
        })
    }

    fn pairs(self: Arc<Self>, prefix: Vec<u8>) -> Task<Result<Vec<Pair>, String>> {
        Box::pin(async move {
            let (mut pairs, mut from) = (Vec::new(), Vec::new());
            loop {
                let scan = Scan {
                    prefix: prefix.clone(),
                    from,
                    until: Vec::new(),
                    limit: 0,
                    keys_only: false,
                    consistency: Consistency::Linearizable,
                };
                let page = self.client.scan(scan, &Route::Any).await;
                let page = page.map_err(|error| error.to_string())?;
                pairs.extend(page.pairs);
                match page.next {
                    Some(next) => from = next.0.to_vec(),
                    None => return Ok(pairs),
                }
            }
        })
    }

    fn history(
        self: Arc<Self>,
        prefix: Vec<u8>,
        from: u64,
        until: u64,
    ) -> Task<Result<Vec<Written>, String>> {
        Box::pin(async move {
            let (mut written, mut next) = (Vec::new(), from.max(1));
            while next <= until {
                let subscription = Subscription::Keys { prefix: prefix.clone(), from: next };
                let events = self.client.subscribe(subscription, &Route::Any).await;
                let mut events = events.map_err(|error| error.to_string())?;
                while next <= until {
                    match events.next().await {
                        Some(Event::Key(change)) => {
                            next = change.index + 1;
                            if let Some(value) = change.value {
                                written.push(Written { index: change.index, value });
                            }
                        }
                        Some(Event::Compacted { .. }) => {
                            return Err("the log of that time is compacted".to_owned());
                        }
                        Some(Event::Progress { next: told }) => next = told,
                        Some(_) => {}
                        // The stream broke: subscribe again from `next`.
                        None => break,
                    }
                }
            }
            Ok(written)
        })
    }
}
