//! The simulated world: virtual time, the event loop, and the effect of each event.

use std::collections::{BTreeMap, VecDeque};

use kvorum_protocol::message::{Answer, ServerFrame};
use kvorum_protocol::status::ReplicaId;
use kvorum_replica::engine::store::{IdentityStore, StateStore};
use kvorum_replica::engine::{ClientKey, Engine, Input, Notice, Output, Session};
use kvorum_replica::state::version::Version;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::checker::Checker;
use super::event::{Event, Link, pair};
use super::faults::Faults;
use super::node::Node;
use super::rules::{Rules, Tally};
use super::scaling::{JOINERS, Scaling};
use super::shrinking::Limits;
use super::strays::Spells;
use super::workload::Workload;

/// Duration of one tick, in microseconds.
pub const TICK_US: u64 = 10_000;
/// Part of the steps, in fifths, after which all faults end; then the cluster must converge.
const CALM_FIFTHS: u32 = 4;
/// Probability that an answer is lost on its way to the client.
const LOSES_ANSWERS: f64 = 0.03;
/// Most events that a traced run remembers.
const TRACE_MAX: usize = 60;

pub struct Cluster {
    pub(super) rules: Rules,
    pub(super) random: StdRng,
    pub(super) now_us: u64,
    /// Scheduled events, by time and order of scheduling.
    pub(super) events: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    pub(super) nodes: Vec<Node>,
    pub(super) links: BTreeMap<(ReplicaId, ReplicaId), Link>,
    /// The arrival time of the last frame of a session, by direction: links are FIFO.
    pub(super) arrivals: BTreeMap<(ReplicaId, ReplicaId, Session), u64>,
    /// The time until which a direction carries nothing.
    pub(super) mute_until: BTreeMap<(ReplicaId, ReplicaId), u64>,
    pub(super) next_session: u64,
    /// The times until which hints get lost, and copies are interrupted.
    pub(super) spells: Spells,
    /// The kinds of faults that this seed has, and their pace.
    pub(super) faults: Faults,
    pub(super) is_calm: bool,
    /// In some seeds: the model that scales the cluster.
    pub(super) scaling: Option<Scaling>,
    /// Whether a replica's state was altered behind its back.
    pub(super) is_altered: bool,
    pub(super) checker: Checker,
    pub(super) workload: Workload,
    pub(super) tally: Tally,
    /// The last events, if the run is traced.
    trace: Option<VecDeque<String>>,
}

impl Cluster {
    pub fn new(seed: u64, rules: Rules) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let scaling = random.random_bool(0.3).then(|| Scaling::random(&mut random));
        Self::make(random, rules, scaling)
    }

    /// Creates a cluster that is scaled again and again.
    pub fn scaled_at_random(seed: u64, rules: Rules) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let scaling = Scaling::random(&mut random);
        let faults = Faults::of_scaling(&mut random);
        Self { faults, ..Self::make(random, rules, Some(scaling)) }
    }

    /// Creates a calm cluster that begins with `wanted` replicas and can be scaled.
    pub fn of_wanted(seed: u64, wanted: u32, rules: Rules) -> Self {
        let random = StdRng::seed_from_u64(seed);
        let mut cluster = Self::make(random, rules, Some(Scaling::new(wanted)));
        cluster.calm();
        cluster
    }

    fn make(mut random: StdRng, rules: Rules, scaling: Option<Scaling>) -> Self {
        let replicas = match &scaling {
            Some(_) => 1,
            None if random.random_bool(0.7) => 3,
            None => 5,
        };
        // Some clusters begin with an older program, and get the newer one as replicas restart.
        let is_old = scaling.is_none() && random.random_bool(0.2);
        let newest = if is_old { Version::FIRST } else { Version::NEWEST };
        let node = |id| Node::new(id, replicas, random.random(), newest);
        let nodes = (1..=replicas).map(node).collect();
        let mut cluster = Self {
            rules,
            now_us: 0,
            events: BTreeMap::new(),
            scheduled: 0,
            nodes,
            links: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            mute_until: BTreeMap::new(),
            next_session: 0,
            spells: Spells::default(),
            faults: Faults::random(&mut random),
            is_calm: false,
            is_altered: false,
            scaling,
            checker: Checker::new(replicas),
            workload: Workload::default(),
            tally: Tally::default(),
            trace: None,
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
        cluster.begin_scaling();
        for client in 0..cluster.workload.slots() {
            cluster.schedule(500_000, Event::Client { client });
        }
        cluster.schedule(800_000, Event::Trouble);
        cluster
    }

    /// Limits the clients and faults of the same seed.
    pub fn limited(mut self, limits: &Limits) -> Self {
        self.faults.without.clone_from(&limits.without);
        let is_left_out =
            |event: &Event| matches!(event, Event::Client { client } if *client >= limits.clients);
        self.events.retain(|_, event| !is_left_out(event));
        self
    }

    /// Returns the faults so far, in the words of a script.
    pub fn faults_so_far(&self) -> Vec<String> {
        self.faults.in_words()
    }

    /// Records the last events, to help understand a violation.
    pub fn traced(mut self) -> Self {
        self.trace = Some(VecDeque::new());
        self
    }

    /// Runs `steps` events, the last fifth without faults; then all replicas must converge.
    pub fn run(&mut self, steps: u32) -> Result<Tally, String> {
        let calm_at = steps / 5 * CALM_FIFTHS;
        for step in 0..steps {
            if step == calm_at {
                self.calm();
            }
            self.step()?;
        }
        // The calm lasts until the clients have their answers, or the deadline passes.
        let deadline = self.now_us + 20_000_000;
        self.workload.stop();
        while !(self.workload.is_done() && self.has_converged()) {
            if self.now_us > deadline {
                return Err(format!("no convergence: {}", self.describe()));
            }
            self.step()?;
        }
        let members = self.checker.members().to_vec();
        self.nodes.retain(|node| !node.lost_disk && members.contains(&node.id));
        self.checker.finish(&self.nodes)?;
        let checked = self.workload.history().check().map_err(|violation| violation.to_string())?;
        self.tally.answered = checked.answered as u64;
        self.tally.unknown = checked.unknown as u64;
        self.tally.decided = self.checker.decided();
        self.tally.simulated_ms = self.now_us / 1000;
        Ok(self.tally)
    }

    /// Creates a cluster with fixed members, without faults except those that a test causes.
    pub fn without_faults(seed: u64) -> Self {
        let mut cluster = Self::make(StdRng::seed_from_u64(seed), Rules::default(), None);
        cluster.calm();
        cluster
    }

    /// Lets time pass.
    pub fn pass(&mut self, time_us: u64) -> Result<(), String> {
        let until = self.now_us + time_us;
        while self.now_us < until {
            self.step()?;
        }
        Ok(())
    }

    /// Returns the replica that leads and serves, as most replicas see it.
    pub fn leader(&self) -> Option<ReplicaId> {
        let mut votes = BTreeMap::new();
        for node in &self.nodes {
            let process = node.process.as_ref().filter(|_| node.paused_until_us <= self.now_us);
            let status = process.map(|process| process.engine.status());
            if let Some(leader) = status.filter(|status| status.is_ready).and_then(|s| s.leader) {
                *votes.entry(leader).or_insert(0) += 1;
            }
        }
        let (name, count) = votes.into_iter().max_by_key(|(_, count)| *count)?;
        let is_most = 2 * count > self.nodes.len();
        self.nodes.iter().find(|node| is_most && node.disk.identity().name == name).map(|n| n.id)
    }

    /// Returns the last events of a traced run.
    pub fn history(&self) -> String {
        let lines = self.trace.iter().flatten().map(String::as_str);
        lines.collect::<Vec<_>>().join("\n")
    }

    fn step(&mut self) -> Result<(), String> {
        let Some(((time, _), event)) = self.events.pop_first() else {
            return Err("nothing will ever happen again".to_owned());
        };
        self.now_us = time;
        let paused = event.at().map(|id| self.node(id).paused_until_us);
        if let Some(until) = paused.filter(|until| *until > time) {
            self.schedule(until - time, event);
            return Ok(());
        }
        if let Some(trace) = &mut self.trace {
            if trace.len() == TRACE_MAX {
                trace.pop_front();
            }
            trace.push_back(format!("{time} {event:?}").chars().take(240).collect());
        }
        self.happen(event)
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Tick { node, life } if self.lives(node, life) => {
                let jitter = self.random.random_range(0..2_000);
                self.schedule(TICK_US + jitter, Event::Tick { node, life });
                self.look_at_sync(node);
                self.turn(node, Input::Tick)
            }
            Event::Deliver { from, to, session, message } => {
                let dropped = |cluster: &Self| cluster.engine(to).map_or(0, Engine::dropped);
                let before = dropped(self);
                self.turn(to, Input::Peer { peer: from, session, message: *message })?;
                if dropped(self) > before {
                    return Err(format!("{to:?} drops what {from:?} sends by the protocol"));
                }
                Ok(())
            }
            Event::Up { node, life, peer, session } if self.lives(node, life) => {
                self.session_begins(node, peer, session)
            }
            Event::Down { node, life, peer, session } if self.lives(node, life) => {
                self.turn(node, Input::PeerDown { peer, session })
            }
            Event::Connect { low, high } => self.connect(low, high),
            Event::Synced { node, life } if self.lives(node, life) => self.synced(node),
            Event::Read { node, life, input } if self.lives(node, life) => self.turn(node, *input),
            Event::Restart { node } => {
                let may = self.node(node).down_until_us <= self.now_us;
                let may = may && !self.node(node).is_gone && self.is_to_run(node);
                if may { self.start_and_ask(node) } else { Ok(()) }
            }
            Event::BringBack { node, copy } => {
                self.bring_back(node, &copy);
                Ok(())
            }
            Event::Pod { ordinal } => self.pod(ordinal),
            Event::Client { client } => {
                self.client(client);
                Ok(())
            }
            Event::Ask { node, client, input } => {
                if self.node(node).process.is_none() {
                    self.workload.refused(client);
                    return Ok(());
                }
                self.turn(node, *input)
            }
            Event::Silent { low, high, session } => {
                if self.links.get(&(low, high)).is_some_and(|link| link.session == session) {
                    self.break_link(low, high);
                }
                Ok(())
            }
            Event::Break { low, high } => {
                self.break_link(low, high);
                Ok(())
            }
            Event::Heal => {
                self.heal();
                Ok(())
            }
            Event::Trouble => self.trouble(),
            Event::Tick { .. } | Event::Up { .. } | Event::Down { .. } => Ok(()),
            Event::Synced { .. } | Event::Read { .. } => Ok(()),
        }
    }

    pub(super) fn schedule(&mut self, after_us: u64, event: Event) {
        self.scheduled += 1;
        self.events.insert((self.now_us + after_us, self.scheduled), event);
    }

    /// Returns a replica's position among the nodes.
    pub(super) fn place(&self, id: ReplicaId) -> usize {
        let found = self.nodes.iter().position(|node| node.id == id);
        found.expect("whoever has an id is a node")
    }

    pub(super) fn node(&mut self, id: ReplicaId) -> &mut Node {
        let place = self.place(id);
        &mut self.nodes[place]
    }

    pub(super) fn lives(&mut self, id: ReplicaId, life: u64) -> bool {
        let node = self.node(id);
        node.process.is_some() && node.life == life
    }

    pub(super) fn start(&mut self, id: ReplicaId) {
        let rules = self.rules;
        if self.node(id).process.is_some() {
            return;
        }
        self.node(id).start(rules);
        let life = self.node(id).life;
        let phase = self.random.random_range(0..TICK_US);
        self.schedule(phase, Event::Tick { node: id, life });
    }

    /// Handles an input of a replica, and often ends its turn: the driver takes in all pending
    /// inputs before it sends anything.
    pub(super) fn turn(&mut self, id: ReplicaId, input: Input) -> Result<(), String> {
        let ends_turn = matches!(input, Input::Tick) || self.random.random_bool(0.6);
        let Some(process) = &mut self.node(id).process else { return Ok(()) };
        process.step(input);
        if !ends_turn {
            return Ok(());
        }
        let outputs = process.turn();
        let place = self.place(id);
        self.checker.observe(place, &self.nodes, &self.rules)?;
        for output in outputs {
            self.output(id, output)?;
        }
        self.begin_sync(id);
        Ok(())
    }

    fn output(&mut self, id: ReplicaId, output: Output) -> Result<(), String> {
        match output {
            Output::Send { to, message, after } => {
                let gates = self.rules.gates_messages;
                let process = self.node(id).process.as_mut().expect("it just had its turn");
                let free = if gates { process.gate(to, message, after) } else { Some(message) };
                match free {
                    Some(message) => self.send(id, to, message),
                    None => Ok(()),
                }
            }
            Output::Frame { client, frame: ServerFrame::Answer { answer, .. } }
                if client.0 >= JOINERS =>
            {
                self.joined(client, answer);
                Ok(())
            }
            Output::Frame { client, frame: ServerFrame::Answer { call, answer } } => {
                self.answer(id, client, call, answer)
            }
            Output::Read { asker, wanted, number } => {
                let delay = self.random.random_range(50..5_000);
                let node = self.node(id);
                let (life, process) = (node.life, node.process.as_mut());
                let found = process.and_then(|process| process.read(&wanted, number));
                if let Some(found) = found {
                    let (found, late) = self.interrupt(asker, found);
                    let input = Box::new(Input::Read { asker, found });
                    self.schedule(delay + late, Event::Read { node: id, life, input });
                }
                Ok(())
            }
            Output::Notice(notice) => {
                match notice {
                    Notice::Compacted { .. } => self.tally.compactions += 1,
                    Notice::Configured { .. } => self.tally.changes += 1,
                    Notice::Behind { .. } => self.tally.catching_up += 1,
                    Notice::Copied { .. } => self.tally.copies += 1,
                    Notice::Quarantined { .. } | Notice::Differ { .. } if !self.is_altered => {
                        return Err(format!("{id:?}: {notice:?}, and nothing was altered"));
                    }
                    Notice::Quarantined { .. } => self.tally.quarantines += 1,
                    _ => {}
                }
                Ok(())
            }
            Output::Sync(written) => {
                let process = self.node(id).process.as_mut().expect("it just had its turn");
                process.gate.wait_for(written);
                Ok(())
            }
            Output::Mark(mark) => {
                self.mark(id, mark);
                Ok(())
            }
            Output::ReadScale(read) => self.look(id, read),
            Output::Frame { .. } | Output::Status { .. } => Ok(()),
            Output::LeaderChanged(_) | Output::Known(_) | Output::EndClient { .. } => Ok(()),
            Output::EndSession { peer } => {
                let (low, high) = pair(id, peer);
                self.break_link(low, high);
                Ok(())
            }
            Output::Scan { .. } | Output::Crash => Err(format!("nobody asked for {output:?}")),
        }
    }

    /// Sends an answer to a client; it may get lost.
    fn answer(
        &mut self,
        id: ReplicaId,
        client: ClientKey,
        call: u64,
        answer: Answer,
    ) -> Result<(), String> {
        let is_read = matches!(answer, Answer::Value(_));
        if is_read && self.node(id).disk.quarantine().is_some() {
            return Err(format!("{id:?} serves a state in quarantine"));
        }
        let index = usize::try_from(client.0).expect("clients are few");
        if self.random.random_bool(LOSES_ANSWERS) {
            self.tally.lost_answers += 1;
            self.workload.lost(index);
            return Ok(());
        }
        let (checker, tally) = (&mut self.checker, &mut self.tally);
        self.workload.answered(index, call, answer, checker, &self.nodes, tally)
    }

    pub(super) fn begin_sync(&mut self, id: ReplicaId) {
        let (syncs_after_taking, now_us) = (self.rules.syncs_after_taking, self.now_us);
        let node = self.node(id);
        let unsynced = node.disk.unsynced();
        let Some(process) = &mut node.process else { return };
        if !process.gate.begin() {
            return;
        }
        // A sync that began before the messages were taken misses the last write of their turn.
        let covered = if syncs_after_taking { unsynced } else { unsynced.saturating_sub(1) };
        process.syncing = Some(covered);
        process.sync_began_us = now_us;
        let life = node.life;
        let is_slow = node.slow_until_us > now_us || self.random.random_bool(0.02);
        let mut time = self.random.random_range(300..if is_slow { 80_000 } else { 4_000 });
        if !self.is_calm && self.random.random_bool(0.001) {
            time = self.random.random_range(500_000..4_000_000);
            self.tally.stuck_syncs += 1;
        }
        let time = time.max(self.node(id).stalled_until_us.saturating_sub(now_us));
        self.schedule(time, Event::Synced { node: id, life });
    }

    fn synced(&mut self, id: ReplicaId) -> Result<(), String> {
        self.tally.syncs += 1;
        let node = self.node(id);
        let disk = node.disk.clone();
        let process = node.process.as_mut().expect("only a living process syncs");
        disk.sync_writes(process.syncing.take().expect("a sync was under way"));
        process.step(Input::SyncIsSlow(false));
        let written = process.gate.take_synced();
        for (to, message) in process.gate.complete() {
            self.send(id, to, message)?;
        }
        if let Some(written) = written {
            self.turn(id, Input::Synced(written))?;
        }
        self.begin_sync(id);
        Ok(())
    }

    fn client(&mut self, client: usize) {
        let pause = self.random.random_range(1_000..60_000);
        self.schedule(pause, Event::Client { client });
        let (checker, tally) = (&self.checker, &mut self.tally);
        let there = self.nodes.iter().filter(|node| !node.is_gone).map(|node| node.id);
        let there: Vec<_> = there.collect();
        let (now_us, random) = (self.now_us, &mut self.random);
        let asked = self.workload.next(client, now_us, random, checker, tally, &there);
        if let Some((node, input)) = asked {
            let delay = self.random.random_range(50..1_500);
            self.schedule(delay, Event::Ask { node, client, input: Box::new(input) });
        }
    }
}
