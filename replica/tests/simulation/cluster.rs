//! The simulated world: virtual time, links with sessions, faults, and the loop over events.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_protocol::message::ServerFrame;
use kvorum_protocol::status::ReplicaId;
use kvorum_replica::engine::{Engine, Input, Output, PeerMessage, Rejection, Session};
use kvorum_replica::storage::memory::Memory;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::checker::Checker;
use super::event::{Event, Link};
use super::node::Node;
use super::rules::{Rules, Tally};
use super::workload::Workload;

/// Microseconds of one tick.
const TICK_US: u64 = 10_000;
/// All faults end after four of five steps, and then the cluster must converge.
const CALM_FIFTHS: u32 = 4;

pub struct Cluster {
    rules: Rules,
    random: StdRng,
    now_us: u64,
    /// By time and order of scheduling.
    events: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    nodes: Vec<Node>,
    links: BTreeMap<(ReplicaId, ReplicaId), Link>,
    /// When the last frame of a session arrives, by direction: links are FIFO.
    arrivals: BTreeMap<(ReplicaId, ReplicaId, Session), u64>,
    next_session: u64,
    is_calm: bool,
    checker: Checker,
    workload: Workload,
    tally: Tally,
}

impl Cluster {
    pub fn new(seed: u64, rules: Rules) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let replicas = if random.random_bool(0.7) { 3 } else { 5 };
        let nodes = (1..=replicas).map(|id| Node::new(id, replicas, random.random())).collect();
        let mut cluster = Self {
            rules,
            now_us: 0,
            events: BTreeMap::new(),
            scheduled: 0,
            nodes,
            links: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            next_session: 0,
            is_calm: false,
            checker: Checker::default(),
            workload: Workload::new(replicas),
            tally: Tally::default(),
            random,
        };
        for id in 1..=replicas {
            cluster.start(ReplicaId(id));
            for other in id + 1..=replicas {
                let (low, high) = (ReplicaId(id), ReplicaId(other));
                cluster.links.insert((low, high), Link::default());
                cluster.schedule(1_000, Event::Connect { low, high });
            }
        }
        for client in 0..cluster.workload.clients() {
            cluster.schedule(500_000, Event::Client { client });
        }
        cluster.schedule(800_000, Event::Trouble);
        cluster
    }

    /// Runs so many events, the last fifth without faults; then everything must have converged.
    pub fn run(mut self, steps: u32) -> Result<Tally, String> {
        let calm_at = steps / 5 * CALM_FIFTHS;
        for step in 0..steps {
            if step == calm_at {
                self.calm();
            }
            self.step()?;
        }
        // The calm lasts until the clients have what they wait for, or too long.
        let deadline = self.now_us + 20_000_000;
        self.workload.stop();
        while !(self.workload.is_done() && self.has_converged()) {
            if self.now_us > deadline {
                return Err(format!("no convergence: {}", self.describe()));
            }
            self.step()?;
        }
        self.nodes.retain(|node| !node.lost_disk);
        self.checker.finish(&self.nodes)?;
        self.tally.decided = self.checker.decided();
        self.tally.writes = self.workload.writes();
        self.tally.reads = self.workload.reads();
        self.tally.simulated_ms = self.now_us / 1000;
        Ok(self.tally)
    }

    fn step(&mut self) -> Result<(), String> {
        let Some(((time, _), event)) = self.events.pop_first() else {
            return Err("nothing will ever happen again".to_owned());
        };
        self.now_us = time;
        match event {
            Event::Tick { node, life } if self.lives(node, life) => {
                let jitter = self.random.random_range(0..2_000);
                self.schedule(TICK_US + jitter, Event::Tick { node, life });
                self.turn(node, Input::Tick)
            }
            Event::Deliver { from, to, session, message } => {
                self.turn(to, Input::Peer { peer: from, session, message: *message })
            }
            Event::Up { node, life, peer, session } if self.lives(node, life) => {
                self.session_begins(node, peer, session)
            }
            Event::Down { node, life, peer, session } if self.lives(node, life) => {
                self.turn(node, Input::PeerDown { peer, session })
            }
            Event::Connect { low, high } => self.connect(low, high),
            Event::Synced { node, life } if self.lives(node, life) => self.synced(node),
            Event::Restart { node } => {
                self.start(node);
                Ok(())
            }
            Event::Client { client } => self.client(client),
            Event::Trouble => {
                self.trouble();
                Ok(())
            }
            Event::Tick { .. } | Event::Up { .. } | Event::Down { .. } | Event::Synced { .. } => {
                Ok(())
            }
        }
    }

    fn schedule(&mut self, after_us: u64, event: Event) {
        self.scheduled += 1;
        self.events.insert((self.now_us + after_us, self.scheduled), event);
    }

    fn node(&mut self, id: ReplicaId) -> &mut Node {
        let index = usize::try_from(id.0 - 1).expect("replica ids are small");
        &mut self.nodes[index]
    }

    fn lives(&mut self, id: ReplicaId, life: u64) -> bool {
        let node = self.node(id);
        node.process.is_some() && node.life == life
    }

    fn start(&mut self, id: ReplicaId) {
        self.node(id).start();
        let life = self.node(id).life;
        let phase = self.random.random_range(0..TICK_US);
        self.schedule(phase, Event::Tick { node: id, life });
    }

    /// An input of a replica, and often the end of its turn: the driver takes in whatever has come
    /// before it sends anything.
    fn turn(&mut self, id: ReplicaId, input: Input) -> Result<(), String> {
        let ends_turn = matches!(input, Input::Tick) || self.random.random_bool(0.6);
        let Some(process) = &mut self.node(id).process else { return Ok(()) };
        process.step(input);
        if !ends_turn {
            return Ok(());
        }
        let outputs = process.turn();
        let index = usize::try_from(id.0 - 1).expect("replica ids are small");
        self.checker.observe(&self.nodes[index])?;
        for output in outputs {
            self.output(id, output)?;
        }
        self.begin_sync(id);
        Ok(())
    }

    fn output(&mut self, id: ReplicaId, output: Output) -> Result<(), String> {
        match output {
            Output::Send { to, message } => self.send(id, to, message),
            Output::Gated { to, message, durable } => {
                let gates = self.rules.gates_messages;
                let process = self.node(id).process.as_mut().expect("it just had its turn");
                let free = if gates { process.gate(to, message, durable) } else { Some(message) };
                match free {
                    Some(message) => self.send(id, to, message),
                    None => Ok(()),
                }
            }
            Output::Frame { client, frame: ServerFrame::Answer { call, answer } } => {
                let index = usize::try_from(client.0).expect("clients are few");
                self.workload.answered(index, call, answer, &mut self.checker, &self.nodes)
            }
            Output::Frame { .. } | Output::LeaderChanged(_) | Output::Notice(_) => Ok(()),
            Output::Cut { .. } | Output::Crash => Err(format!("nobody asked for {output:?}")),
        }
    }

    fn send(&mut self, from: ReplicaId, to: ReplicaId, message: PeerMessage) -> Result<(), String> {
        self.tally.messages += 1;
        let node = self.node(from);
        if let Some(process) = &node.process {
            let Some(session) = process.session(to) else { return Ok(()) };
            let disk = node.disk.clone();
            if self.rules.checks_messages {
                Checker::message(&disk, &message)?;
            }
            let current = self.links.get(&pair(from, to)).and_then(|link| link.session);
            if current != Some(session) {
                // The other end has gone: the bytes go nowhere.
                return Ok(());
            }
            let delay = self.random.random_range(50..1_500);
            let arrival = (self.now_us + delay)
                .max(self.arrivals.get(&(from, to, session)).copied().unwrap_or(0) + 1);
            // What is urgent has a lane of its own.
            let arrival = if message.is_urgent() { self.now_us + delay } else { arrival };
            if !message.is_urgent() {
                self.arrivals.insert((from, to, session), arrival);
            }
            let message = Box::new(message);
            let event = Event::Deliver { from, to, session, message };
            self.schedule(arrival - self.now_us, event);
        }
        Ok(())
    }

    fn begin_sync(&mut self, id: ReplicaId) {
        let syncs_after_taking = self.rules.syncs_after_taking;
        let node = self.node(id);
        let unsynced = node.disk.unsynced();
        let Some(process) = &mut node.process else { return };
        if !process.gate.begin() {
            return;
        }
        // A sync that began before the messages were taken misses the last write of their turn.
        let covered = if syncs_after_taking { unsynced } else { unsynced.saturating_sub(1) };
        process.syncing = Some(covered);
        let life = node.life;
        let slow = self.random.random_bool(0.02);
        let time = self.random.random_range(300..if slow { 80_000 } else { 4_000 });
        self.schedule(time, Event::Synced { node: id, life });
    }

    fn synced(&mut self, id: ReplicaId) -> Result<(), String> {
        self.tally.syncs += 1;
        let node = self.node(id);
        let disk = node.disk.clone();
        let process = node.process.as_mut().expect("only a living process syncs");
        disk.sync_writes(process.syncing.take().expect("a sync was under way"));
        for (to, message) in process.gate.complete() {
            self.send(id, to, message)?;
        }
        self.begin_sync(id);
        Ok(())
    }

    fn connect(&mut self, low: ReplicaId, high: ReplicaId) -> Result<(), String> {
        let retry = self.random.random_range(5_000..60_000);
        self.schedule(retry, Event::Connect { low, high });
        let both_up = self.node(low).process.is_some() && self.node(high).process.is_some();
        let session = Session(self.next_session + 1);
        let Some(link) = self.links.get_mut(&(low, high)) else { return Ok(()) };
        if !both_up || link.is_cut || link.session.is_some() {
            return Ok(());
        }
        // The dialer judges first; then the acceptor does, and a welcome may get lost.
        if !self.judge(high, low)? || !self.judge(low, high)? {
            return Ok(());
        }
        let Some(link) = self.links.get_mut(&(low, high)) else { return Ok(()) };
        link.session = Some(session);
        self.next_session += 1;
        for (node, peer) in [(low, high), (high, low)] {
            let life = self.node(node).life;
            let delay = self.random.random_range(50..1_000);
            // Nothing of the session arrives before the end knows the session.
            self.arrivals.insert((peer, node, session), self.now_us + delay);
            self.schedule(delay, Event::Up { node, life, peer, session });
        }
        Ok(())
    }

    /// Two replicas judge each other, as the transport lets them. One that is turned away learns
    /// that its disk is not the one that is remembered.
    fn judge(&mut self, id: ReplicaId, peer: ReplicaId) -> Result<bool, String> {
        let lost_disk = self.node(peer).lost_disk;
        let (Some(theirs), Some(ours)) = (self.engine(peer), self.engine(id)) else {
            return Ok(false);
        };
        let told = ours.introduce(peer).last_saw;
        let verdict = ours.judge(&theirs.introduce(id), told, theirs.proof(told));
        match verdict {
            Ok(()) => Ok(true),
            Err(Rejection::OtherDisk { .. }) if lost_disk => {
                if !self.rules.knows_disks {
                    return Ok(true);
                }
                self.turn(peer, Input::Disowned { peer: id })?;
                Ok(false)
            }
            Err(other) => Err(format!("{id:?} rejects {peer:?}, which lost no disk: {other}")),
        }
    }

    /// One end of a link takes up a session.
    fn session_begins(
        &mut self,
        id: ReplicaId,
        peer: ReplicaId,
        session: Session,
    ) -> Result<(), String> {
        let Some(theirs) = self.engine(peer).map(|theirs| theirs.introduce(id)) else {
            return Ok(());
        };
        let Some(process) = &mut self.node(id).process else { return Ok(()) };
        process.engine.meet(&theirs);
        self.turn(id, Input::PeerUp { peer, session })
    }

    fn engine(&self, id: ReplicaId) -> Option<&Engine<Memory>> {
        let index = usize::try_from(id.0 - 1).expect("replica ids are small");
        self.nodes[index].process.as_ref().map(|process| &process.engine)
    }

    /// A link breaks: some of what was under way still arrives, and each end learns it later.
    fn break_link(&mut self, low: ReplicaId, high: ReplicaId) {
        let Some(link) = self.links.get_mut(&(low, high)) else { return };
        let Some(session) = link.session.take() else { return };
        self.tally.broken_sessions += 1;
        for (from, to) in [(low, high), (high, low)] {
            let last = self.now_us + self.random.random_range(0..2_000);
            self.events.retain(|(time, _), event| match event {
                Event::Deliver { from: f, to: t, session: s, .. } => {
                    (*f, *t, *s) != (from, to, session) || *time <= last
                }
                _ => true,
            });
            let life = self.node(to).life;
            let delay = self.random.random_range(0..60_000);
            self.schedule(delay, Event::Down { node: to, life, peer: from, session });
        }
    }

    fn crash(&mut self, id: ReplicaId) {
        let unsynced = self.node(id).disk.unsynced();
        let kept = self.random.random_range(0..=unsynced);
        self.tally.crashes += 1;
        self.tally.lost_writes += (unsynced - kept) as u64;
        let nonce = self.random.random();
        self.node(id).crash(kept, nonce);
        let pairs: BTreeSet<_> = self.links.keys().copied().collect();
        for (low, high) in pairs.into_iter().filter(|(low, high)| *low == id || *high == id) {
            self.break_link(low, high);
        }
        self.workload.disconnected(id);
        // Some stay away for long, so that the others must do without what only they know.
        let longest = if self.random.random_bool(0.1) { 8_000_000 } else { 600_000 };
        let after = self.random.random_range(10_000..longest);
        self.schedule(after, Event::Restart { node: id });
    }

    /// One replica at most loses its disk, so that a majority remembers.
    fn lose_disk(&mut self, id: ReplicaId) {
        if self.nodes.iter().any(|node| node.lost_disk) || self.node(id).process.is_none() {
            return;
        }
        self.crash(id);
        self.tally.lost_disks += 1;
        let nonce = self.random.random();
        self.node(id).lose_disk(nonce);
    }

    fn trouble(&mut self) {
        if self.is_calm {
            return;
        }
        let after = self.random.random_range(20_000..500_000);
        self.schedule(after, Event::Trouble);
        let count = self.nodes.len() as u64;
        let victim = ReplicaId(self.random.random_range(1..=count));
        let links: Vec<_> = self.links.keys().copied().collect();
        let link = links[self.random.random_range(0..links.len())];
        match self.random.random_range(0..40) {
            39 => self.lose_disk(victim),
            0..16 if self.node(victim).process.is_some() => self.crash(victim),
            16..20 => {
                // Power is lost everywhere at once.
                for id in (1..=count).map(ReplicaId) {
                    if self.node(id).process.is_some() {
                        self.crash(id);
                    }
                }
            }
            20..28 => self.break_link(link.0, link.1),
            28..32 => {
                self.break_link(link.0, link.1);
                self.links.get_mut(&link).expect("it was just listed").is_cut = true;
            }
            _ => self.links.get_mut(&link).expect("it was just listed").is_cut = false,
        }
    }

    fn calm(&mut self) {
        self.is_calm = true;
        self.links.values_mut().for_each(|link| link.is_cut = false);
    }

    fn client(&mut self, client: usize) -> Result<(), String> {
        let pause = self.random.random_range(1_000..30_000);
        self.schedule(pause, Event::Client { client });
        let asked = self.workload.next(client, self.now_us, &mut self.random, &self.checker);
        let Some((replica, input)) = asked else { return Ok(()) };
        if self.node(replica).process.is_none() {
            self.workload.refused(client);
            return Ok(());
        }
        self.turn(replica, input)
    }

    fn has_converged(&self) -> bool {
        self.nodes.iter().filter(|node| !node.lost_disk).all(|node| {
            let process = node.process.as_ref();
            process.is_some_and(|process| process.engine.applied() == self.checker.decided())
        })
    }

    fn describe(&self) -> String {
        let nodes: Vec<String> = self
            .nodes
            .iter()
            .map(|node| match &node.process {
                None => "down".to_owned(),
                Some(process) => {
                    let status = process.engine.status();
                    let links: String =
                        status.links.iter().map(|l| if l.is_up { '+' } else { '-' }).collect();
                    format!(
                        "{} {:?} b{} d{}/a{} {links}",
                        status.name,
                        status.role,
                        status.ballot.number,
                        status.decided,
                        status.accepted
                    )
                }
            })
            .collect();
        format!(
            "{} of {} decided; {}",
            nodes.join("; "),
            self.checker.decided(),
            self.workload.describe()
        )
    }
}

fn pair(a: ReplicaId, b: ReplicaId) -> (ReplicaId, ReplicaId) {
    (a.min(b), a.max(b))
}
