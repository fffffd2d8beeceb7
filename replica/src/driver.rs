//! The driver's single loop: drain, step, sync, send.
//!
//! One thread owns the engine and the disk. Each turn drains the inboxes (bounded), steps the
//! engine for each input, and hands the output to the links and clients; messages that report a
//! durable fact wait in the [gate]. The sync runs on a thread of its own, so that meanwhile
//! heartbeats and read probes are answered and work for the next sync accumulates.
//!
//! The invariants; `tests/simulation/` checks I1 at each message and I5 at each decision, and
//! removes them to confirm that data is then lost:
//! - I1 A consensus message that tells of this replica's own disk leaves only after a sync that
//!   began after it was taken has returned. An answer to a client needs no further sync: what is
//!   decided is durable at a majority by I1 and I5.
//! - I2 The writes to the log that survive a crash form a prefix: one journal, one frame for each
//!   call. The state is what they lead to, or marked as copied (`storage/replay.rs`).
//! - I3 A failed write or sync ends the process; a sync is never retried.
//! - I4 Held messages to a peer keep their order, and those of an ended session are dropped.
//! - I5 A leader's entries leave beside its own sync, and its own acceptance of them counts only
//!   once that has returned (`engine/consensus/acceptances.rs`).
//!
//! A leader whose sync does not return, while another member's disk works, sends no heartbeats, so
//! that it loses its leadership.

mod events;
mod fair_queue;
pub mod gate;
pub mod link_handle;
pub mod metrics;
mod notices;
mod outbound;
mod outlets;
mod pace;
mod reader;
pub mod sinks;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use kvorum_protocol::message::{Answer, Event, Refusal, ServerFrame};
use kvorum_protocol::status::{ReplicaId, Status};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::driver::gate::Gate;
use crate::driver::metrics::Metrics;
use crate::engine::store::Store;
use crate::engine::{
    ClientKey, Engine, Input, Options, Output, Rejection, SLOW_TICKS, Session, Time,
};
use crate::marker::Mark;
use crate::shares::room::AccountId;
pub use events::{ClientEvent, ControlEvent, PeerEvent};
use fair_queue::{FairQueue, Turn};
use link_handle::LinkHandle;
pub use outlets::Outlets;
use pace::Pace;
pub use pace::TICK;
use reader::{Job, Readers};
use sinks::Sinks;

/// The engine's unit of time, in milliseconds.
const TICK_MS: u64 = 10;
/// Duration of a sync beyond which the other members are asked whether their disks work.
const SYNC_SLOW: Duration = Duration::from_millis(TICK_MS * SLOW_TICKS);
/// Duration of a sync beyond which a replica is not ready: requests should go to another one.
const SYNC_OVERDUE: Duration = Duration::from_millis(500);
/// Inputs taken from each inbox in one turn: bounds how long a heartbeat waits.
const TURN_INPUTS_MAX: usize = 1024;
/// Messages from peers that may wait for a turn. When the inbox is full, links stop reading.
pub const PEERS_INBOX: usize = 4096;
/// Calls from clients that may wait for a turn. When it is full, a call is refused as overload.
pub const CLIENTS_INBOX: usize = 8192;
/// Events from the process around the driver that may wait for a turn. When it is full, the tasks
/// that send them wait; the driver waits for none of them.
pub const CONTROL_INBOX: usize = 64;
/// Ticks between two status updates for probes and metrics.
const PUBLISH_TICKS: u64 = 10;
/// Ticks between two checks of the disk's compaction debt.
const DEBT_TICKS: u64 = 100;
/// Ticks between two log lines about progress.
const PROGRESS_TICKS: u64 = 1000;

/// Looks (reads of the desired replica count) that may wait for the orchestrator.
pub const SCALE_READS_MAX: usize = 8;

/// The inboxes of a driver.
pub struct Inboxes {
    /// Events from links.
    pub peers: mpsc::Receiver<PeerEvent>,
    /// Events from clients.
    pub clients: mpsc::Receiver<ClientEvent>,
    /// Events from the process around the driver.
    pub control: mpsc::Receiver<ControlEvent>,
}

/// The loop and the state that it owns.
pub struct Driver<S: Store> {
    engine: Engine<S>,
    gate: Gate,
    links: HashMap<ReplicaId, (Session, LinkHandle)>,
    clients: Sinks,
    queue: FairQueue,
    syncs: std::sync::mpsc::Sender<S::Durable>,
    readers: Readers,
    sync_began: Option<Instant>,
    outlets: Outlets,
    ticks: u64,
    last_progress: u64,
}

impl<S: Store + Clone + Send + 'static> Driver<S> {
    /// Runs until a stop is requested; no thread holds the store any more when it returns. Must be
    /// called on a thread of its own.
    pub fn run(store: S, options: Options, mut inboxes: Inboxes, outlets: Outlets) {
        let (synced_by, mut synced) = mpsc::unbounded_channel();
        let (syncs, due) = std::sync::mpsc::channel();
        let disk = store.clone();
        let metrics = Arc::clone(&outlets.metrics);
        let sync = std::thread::Builder::new()
            .name("sync".to_owned())
            .spawn(move || sync_loop(&disk, &due, &synced_by, &metrics))
            .expect("a process can start its second thread");
        let (readers, mut found, [reader, scanner]) = Readers::spawn(store.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime without I/O needs nothing of the system");
        let mut driver = Self {
            engine: Engine::new(store, options),
            gate: Gate::default(),
            links: HashMap::new(),
            clients: Sinks::default(),
            queue: FairQueue::default(),
            syncs,
            readers,
            sync_began: None,
            outlets,
            ticks: 0,
            last_progress: 0,
        };
        runtime.block_on(driver.turn_until_stopped(&mut inboxes, &mut synced, &mut found));
        // The disk must be closed before this process opens it again.
        drop((driver, found));
        for thread in [sync, reader, scanner] {
            let _ = thread.join();
        }
    }

    async fn turn_until_stopped(
        &mut self,
        inboxes: &mut Inboxes,
        synced: &mut mpsc::UnboundedReceiver<()>,
        found: &mut mpsc::Receiver<Input>,
    ) {
        let began = tokio::time::Instant::now();
        let mut pace = Pace::new(began.elapsed());
        let next_tick = sleep(TICK);
        tokio::pin!(next_tick);
        let (mut from_peers, mut from_clients) = (Vec::new(), Vec::new());
        let mut from_process = Vec::new();
        loop {
            // When too much waits for a sync, no more input is taken from clients. Peers' input
            // still is: it has bounds of its own, and includes heartbeats. So is the process's, of
            // which there is little: the replica must hear that it shall stop.
            let is_open = !self.gate.is_full();
            let has_more = self.engine.has_more() || is_open && self.queue.has_next();
            tokio::select! {
                biased;
                Some(()) = synced.recv() => self.synced(),
                Some(read) = found.recv() => self.engine.step(read),
                () = &mut next_tick => {}
                _ = inboxes.peers.recv_many(&mut from_peers, TURN_INPUTS_MAX) => {}
                _ = inboxes.clients.recv_many(&mut from_clients, TURN_INPUTS_MAX), if is_open => {}
                _ = inboxes.control.recv_many(&mut from_process, CONTROL_INBOX) => {}
                () = std::future::ready(()), if has_more => {}
            }
            let now = self.time();
            self.engine.step(Input::Now(now));
            (0..pace.take_passed(began.elapsed())).for_each(|_| self.tick());
            while let Ok(read) = found.try_recv() {
                self.engine.step(read);
            }
            // Events that arrived meanwhile share the turn, and so the sync.
            drain(&mut inboxes.peers, &mut from_peers);
            if is_open {
                drain(&mut inboxes.clients, &mut from_clients);
            }
            for event in from_peers.drain(..) {
                self.peer_event(event);
            }
            // Input that has arrived was not late, however long this thread waited to be scheduled:
            // so it comes before the tick. And time must advance, however much other work there is.
            (0..pace.take_due(began.elapsed())).for_each(|_| self.tick());
            // What the process observed comes before what clients ask for.
            let mut stop = None;
            drain(&mut inboxes.control, &mut from_process);
            for event in from_process.drain(..) {
                stop = self.control_event(event).or(stop);
            }
            self.queued_calls(is_open, now.monotonic_us);
            for event in from_clients.drain(..) {
                self.client_event(event, now.monotonic_us);
            }
            self.turn();
            pace.set_quiet(self.engine.is_quiet() && self.sync_began.is_none());
            if next_tick.deadline() != began + pace.deadline() {
                next_tick.as_mut().reset(began + pace.deadline());
            }
            if let Some(reply) = stop {
                let untold = self.engine.end_epoch();
                let durable = self.engine.store().durable();
                self.engine.store().sync(durable);
                let _ = reply.send(untold);
                return;
            }
        }
    }

    fn tick(&mut self) {
        self.ticks += 1;
        self.engine.step(Input::SyncIsSlow(self.sync_takes(SYNC_SLOW)));
        self.engine.step(Input::Tick);
        if self.ticks.is_multiple_of(PUBLISH_TICKS) {
            self.publish();
        }
        if self.ticks.is_multiple_of(DEBT_TICKS) {
            self.look_at_debt();
        }
        if self.ticks.is_multiple_of(PROGRESS_TICKS) && self.engine.applied() != self.last_progress
        {
            self.last_progress = self.engine.applied();
            let status = self.engine.status();
            info!(
                decided = status.decided,
                applied = status.applied,
                accepted = status.accepted,
                leader = status.leader,
                "progress"
            );
        }
    }

    fn look_at_debt(&mut self) {
        let (debt, metrics) = (self.engine.store().debt(), &self.outlets.metrics);
        metrics.debt_bytes.store(debt.bytes, Ordering::Relaxed);
        metrics.debt_files.store(debt.files, Ordering::Relaxed);
        metrics.slows_writes.store(debt.slows_writes, Ordering::Relaxed);
        self.engine.step(Input::Debt { slows_writes: debt.slows_writes });
    }

    fn publish(&self) {
        let status = self.engine.status();
        let metrics = &self.outlets.metrics;
        metrics.dropped.store(self.engine.dropped(), Ordering::Relaxed);
        let (writes, reads) = self.engine.waiting();
        metrics.waiting_writes.store(writes as u64, Ordering::Relaxed);
        metrics.waiting_reads.store(reads as u64, Ordering::Relaxed);
        let now_us = self.time().monotonic_us;
        metrics.waits_us.store(self.queue.waits_us(now_us), Ordering::Relaxed);
        metrics.turned_us.store(now_us, Ordering::Relaxed);
        metrics.sync_is_overdue.store(self.sync_takes(SYNC_OVERDUE), Ordering::Relaxed);
        self.outlets.status.send_if_modified(|shown| {
            let is_news = shown.as_ref().is_none_or(|last| !last.is_as(&status));
            *shown = Some(Arc::new(status));
            is_news
        });
    }

    fn time(&self) -> Time {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Time { monotonic_us: us(self.outlets.began.elapsed()), wall_us: us(wall) }
    }

    fn peer_event(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::Up { peer, session, link } => {
                // Output for the old session's messages leaves by that session, or not at all.
                self.turn();
                self.gate.drop_peer(peer);
                self.links.insert(peer, (session, link));
                self.engine.step(Input::PeerUp { peer, session });
            }
            PeerEvent::Down { peer, session } => {
                self.turn();
                self.link_down(peer, session);
            }
            PeerEvent::Message { peer, session, message, permit } => {
                self.engine.step(Input::Peer { peer, session, message });
                drop(permit);
            }
            PeerEvent::Greet { peer, theirs, reply } => {
                let _ = reply.send(self.engine.greet(peer, theirs.as_ref()));
            }
            PeerEvent::Judge { claim, reply } => {
                let verdict = self.engine.judge(&claim);
                if let Err(rejection @ Rejection::OtherDisk { .. }) = &verdict {
                    warn!(%rejection, "a peer is turned away");
                }
                let _ = reply.send((verdict, self.engine.start_seen(claim.theirs.last_saw)));
            }
            PeerEvent::Met { theirs, reply } => {
                self.engine.step(Input::Met(theirs));
                let _ = reply.send(());
            }
            PeerEvent::Disowned { peer, is_proven } => {
                self.engine.step(Input::Disowned { peer, is_proven });
            }
        }
    }

    fn client_event(&mut self, event: ClientEvent, now_us: u64) {
        match event {
            ClientEvent::Up { client, sink } => {
                let name = self.engine.leader_name();
                self.clients.insert(client, sink);
                self.clients.push(client, ServerFrame::Leader { name });
                let applied = self.engine.applied();
                self.clients.push(client, ServerFrame::Ping { applied });
            }
            ClientEvent::Call { account, input } => self.call(account, input, now_us),
            ClientEvent::Input { input, rooms } => {
                if let Input::ClientGone { client } = &input {
                    self.clients.remove(*client);
                    self.queue.gone(*client);
                }
                self.engine.step(input);
                drop(rooms);
            }
        }
    }

    /// Gives a client's call to the engine, or lets it wait for its turn.
    fn call(&mut self, account: AccountId, input: Input, now_us: u64) {
        let Input::Client { client, call, .. } = &input else { return };
        let (client, call) = (*client, *call);
        match self.queue.add(account, input, now_us) {
            Turn::Now(input) => self.engine.step(input),
            Turn::Later => {}
            Turn::Refused { waits_us } => self.refuse(client, call, waits_us),
        }
    }

    /// Refuses a call as overload: its client shall come back when those before it are served.
    fn refuse(&self, client: ClientKey, call: u64, waits_us: u64) {
        self.outlets.metrics.overloads.fetch_add(1, Ordering::Relaxed);
        let answer = Answer::Refused(Refusal::busy(Duration::from_micros(waits_us)));
        self.clients.push(client, ServerFrame::Answer { call, answer });
    }

    /// Gives calls whose turn it is to the engine, if it takes input from clients.
    fn queued_calls(&mut self, is_open: bool, now_us: u64) {
        for late in self.queue.take_late(now_us) {
            self.refuse(late.client, late.call, late.waits_us);
        }
        let most = if is_open { TURN_INPUTS_MAX } else { 0 };
        for input in std::iter::from_fn(|| self.queue.next()).take(most) {
            self.engine.step(input);
        }
    }

    /// Handles an event from the process; returns to whom to reply when it is a request to stop.
    fn control_event(&mut self, event: ControlEvent) -> Option<oneshot::Sender<Option<Mark>>> {
        match event {
            ControlEvent::Input(input) => self.engine.step(input),
            ControlEvent::Past { incarnation, reply } => {
                let _ = reply.send(self.engine.store().past(incarnation));
            }
            ControlEvent::Stop { reply } => return Some(reply),
        }
        None
    }

    /// Ends a turn: sends the engine's output, and begins a sync if one is due.
    fn turn(&mut self) {
        let clients = &self.clients;
        let has_room = |client| clients.has_room(client);
        for output in self.engine.turn(&has_room) {
            self.output(output);
        }
        self.outlets.show_accounts(self.engine.store().accounts());
        self.begin_sync();
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Send { to, message, after } => self.send(to, message, after),
            Output::Read { asker, wanted, number } => {
                self.readers.read(Job { asker, wanted, number });
            }
            Output::Scan { origin, scan } => self.readers.scan(origin, scan),
            Output::Sync(written) => self.gate.wait_for(written),
            Output::Mark(mark) => self.mark(mark),
            // The engine repeats a read that finds no room here.
            Output::ReadScale(read) => drop(self.outlets.scale_reads.try_send(read)),
            Output::Known(known) => drop(self.outlets.known.send_replace(known)),
            Output::Frame { client, frame } => {
                if let ServerFrame::Answer { call, .. } = &frame {
                    self.queue.answered(client, *call);
                }
                self.clients.push(client, frame);
            }
            Output::Status { to, status } => {
                let status: Arc<Status> = Arc::from(status);
                for (client, call) in to {
                    let event = Event::Status(Arc::clone(&status));
                    self.clients.push(client, ServerFrame::Event { call, event });
                }
            }
            Output::LeaderChanged(name) => self.clients.push_to_all(&ServerFrame::Leader { name }),
            Output::EndClient { client } => self.clients.remove(client),
            Output::EndSession { peer } => {
                if let Some((session, _)) = self.links.get(&peer) {
                    self.link_down(peer, *session);
                }
            }
            Output::Crash => {
                warn!("a client asked for a crash, and faults are allowed");
                std::process::abort();
            }
            Output::Notice(notice) => self.notice(&notice),
        }
    }

    fn mark(&self, mark: Mark) {
        let claim = self.engine.store().claim(mark);
        // If a claim is under way already, the engine repeats this one.
        let _ = self.outlets.marks.try_send(claim);
    }

    /// Whether a sync is under way and has taken longer than `time`.
    fn sync_takes(&self, time: Duration) -> bool {
        self.sync_began.is_some_and(|began| began.elapsed() > time)
    }

    fn begin_sync(&mut self) {
        if self.gate.begin() {
            self.sync_began = Some(Instant::now());
            let durable = self.engine.store().durable();
            self.syncs.send(durable).expect("the sync thread lives as long as the driver");
        }
    }

    /// Releases what the sync under way covers, after it has returned.
    fn synced(&mut self) {
        self.sync_began = None;
        self.engine.step(Input::SyncIsSlow(false));
        if let Some(written) = self.gate.take_synced() {
            self.engine.step(Input::Synced(written));
        }
        for (to, message) in self.gate.complete() {
            self.push(to, message);
        }
    }
}

fn drain<T>(inbox: &mut mpsc::Receiver<T>, into: &mut Vec<T>) {
    while into.len() < TURN_INPUTS_MAX {
        match inbox.try_recv() {
            Ok(event) => into.push(event),
            Err(_) => return,
        }
    }
}

/// Runs the sync thread: one sync at a time, whenever the driver requests one.
fn sync_loop<S: Store>(
    disk: &S,
    due: &std::sync::mpsc::Receiver<S::Durable>,
    synced: &mpsc::UnboundedSender<()>,
    metrics: &Metrics,
) {
    while let Ok(durable) = due.recv() {
        let began = Instant::now();
        disk.sync(durable);
        metrics.synced(began.elapsed());
        if synced.send(()).is_err() {
            return;
        }
    }
}
