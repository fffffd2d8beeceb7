//! Random faults.

use std::collections::BTreeSet;

use bytes::Bytes;
use kvorum_protocol::status::{ReplicaId, Role};
use kvorum_replica::engine::{Input, PeerMessage};
use kvorum_replica::state::entry::Entry;
use kvorum_replica::state::machine::Table;
use kvorum_replica::state::version::Version;
use omnipaxos::ClusterConfig;
use omnipaxos::messages::Message;
use omnipaxos::messages::sequence_paxos::{Compaction, PaxosMessage, PaxosMsg};
use omnipaxos::storage::StopSign;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::cluster::Cluster;
use super::event::Event;
use super::node::Node;

/// Time after which a silent session ends, as in the transport.
const SILENCE_MAX_US: u64 = 2_000_000;

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Crash,
    PowerLoss,
    LostDisk,
    Break,
    Flap,
    Cut,
    Heal,
    Pause,
    OneWay,
    Scenario,
    SlowDisk,
    ClockJump,
    Forged,
    Altered,
    Copied,
    Scale,
    LostHints,
    InterruptedCopies,
    Stray,
    OtherMarker,
}

impl Fault {
    /// Returns the fault in the words of a script, or a description where a script has no command
    /// for it.
    fn words(self, victim: ReplicaId, link: (ReplicaId, ReplicaId)) -> String {
        let (victim, low, high) = (victim.0, link.0.0, link.1.0);
        match self {
            Self::Crash => format!("crash n{victim}"),
            Self::LostDisk => format!("crash n{victim}, lose_disk n{victim}"),
            Self::Break => format!("cut n{low} n{high}, heal n{low} n{high}"),
            Self::Cut => format!("cut n{low} n{high}"),
            Self::Pause => format!("pause n{victim}"),
            Self::Altered => format!("alter n{victim}"),
            Self::Copied => format!("copy_disk n{victim}"),
            Self::SlowDisk | Self::ClockJump => format!("# {self:?} n{victim}"),
            Self::Flap | Self::OneWay | Self::Forged | Self::Stray => {
                format!("# {self:?} n{low} n{high}")
            }
            Self::PowerLoss | Self::Heal | Self::Scenario | Self::Scale => format!("# {self:?}"),
            Self::LostHints | Self::InterruptedCopies | Self::OtherMarker => format!("# {self:?}"),
        }
    }
}

/// A fault that was caused.
struct Made {
    at_us: u64,
    fault: Fault,
    victim: ReplicaId,
    link: (ReplicaId, ReplicaId),
}

/// The weight of each kind of fault among all.
const WEIGHTS: [(Fault, u32); 20] = [
    (Fault::Crash, 16),
    (Fault::PowerLoss, 4),
    (Fault::LostDisk, 1),
    (Fault::Break, 7),
    (Fault::Flap, 4),
    (Fault::Cut, 4),
    (Fault::Heal, 8),
    (Fault::Pause, 6),
    (Fault::OneWay, 6),
    (Fault::Scenario, 4),
    (Fault::SlowDisk, 4),
    (Fault::ClockJump, 4),
    (Fault::Forged, 4),
    (Fault::Altered, 1),
    (Fault::Copied, 2),
    (Fault::Scale, 8),
    (Fault::LostHints, 2),
    (Fault::InterruptedCopies, 2),
    (Fault::Stray, 16),
    (Fault::OtherMarker, 2),
];

/// The faults of one seed: some kinds are left out, because one fault can keep another from
/// showing anything (Groce and others, "Swarm testing", 2012).
pub struct Faults {
    kinds: Vec<Fault>,
    /// The average time from one fault to the next, in microseconds.
    pub pace_us: u64,
    /// The number of faults so far, with those that were left out.
    count: u32,
    /// The numbers of the faults that are left out.
    pub without: BTreeSet<u32>,
    /// The faults that were caused.
    made: Vec<Made>,
}

impl Faults {
    pub fn random(random: &mut StdRng) -> Self {
        let mut kinds = Vec::new();
        for (fault, weight) in WEIGHTS {
            if fault == Fault::Heal || random.random_bool(0.6) {
                kinds.extend(std::iter::repeat_n(fault, weight as usize));
            }
        }
        let paces = [50_000, 120_000, 250_000, 600_000];
        let pace_us = paces[random.random_range(0..paces.len())];
        Self { kinds, pace_us, count: 0, without: BTreeSet::new(), made: Vec::new() }
    }

    /// Returns the faults of a cluster that is scaled again and again.
    pub fn of_scaling(random: &mut StdRng) -> Self {
        let mut faults = Self::random(random);
        faults.kinds.extend([Fault::Scale; 25]);
        faults.kinds.extend([Fault::LostDisk; 3]);
        faults
    }

    /// Returns the faults so far, in the words of a script.
    pub fn in_words(&self) -> Vec<String> {
        let words = |made: &Made| {
            format!("{:>8} ms  {}", made.at_us / 1000, made.fault.words(made.victim, made.link))
        };
        self.made.iter().map(words).collect()
    }

    fn next(&self, random: &mut StdRng) -> Fault {
        self.kinds[random.random_range(0..self.kinds.len())]
    }
}

impl Cluster {
    pub(super) fn crash(&mut self, id: ReplicaId) {
        let unsynced = self.node(id).disk.unsynced();
        let kept = self.random.random_range(0..=unsynced);
        self.tally.crashes += 1;
        self.tally.lost_writes += (unsynced - kept) as u64;
        let nonce = self.random.random();
        self.node(id).crash(kept, nonce);
        if self.node(id).newest < Version::NEWEST && self.random.random_bool(0.5) {
            self.tally.upgrades += 1;
            self.node(id).newest = Version::NEWEST;
        }
        for (low, high) in self.links_of(id) {
            self.break_link(low, high);
        }
        self.workload.disconnected(id);
        // Some stay away for long, so that the others must do without what only they know.
        let longest = if self.random.random_bool(0.1) { 8_000_000 } else { 600_000 };
        let after = self.random.random_range(10_000..longest);
        self.schedule(after, Event::Restart { node: id });
    }

    /// Replaces a disk by an empty one; one replica at most, so that a majority remembers.
    fn lose_disk(&mut self, id: ReplicaId) {
        if self.scaling.is_some() {
            return self.lose_volume(id);
        }
        let is_one_gone = self.is_altered || self.nodes.iter().any(|node| node.lost_disk);
        if is_one_gone || self.node(id).process.is_none() {
            return;
        }
        self.crash(id);
        self.tally.lost_disks += 1;
        let nonce = self.random.random();
        self.node(id).lose_disk(nonce);
    }

    /// Adds a key to a replica's state that no client wrote; clients never ask for it. One replica
    /// at most, so that a majority has the right state.
    fn alter(&mut self, id: ReplicaId) {
        let compares = |node: &Node| node.newest >= Version::CHECKSUMS && !node.lost_disk;
        if !self.is_altered && self.scaling.is_none() && self.nodes.iter().all(compares) {
            self.is_altered = true;
            self.tally.alterations += 1;
            self.node(id).disk.alter(&Bytes::from("altered"));
        }
    }

    pub(super) fn trouble(&mut self) -> Result<(), String> {
        if self.is_calm {
            return Ok(());
        }
        let after = self.random.random_range(1_000..2 * self.faults.pace_us);
        self.schedule(after, Event::Trouble);
        self.faults.count += 1;
        // Each fault has its own random numbers, so that a run without it is otherwise the same.
        let own = StdRng::seed_from_u64(self.random.random());
        if self.faults.without.contains(&self.faults.count) {
            return Ok(());
        }
        let others = std::mem::replace(&mut self.random, own);
        let done = self.make_trouble();
        self.random = others;
        done
    }

    fn make_trouble(&mut self) -> Result<(), String> {
        let there = self.nodes.iter().filter(|node| !node.is_gone).map(|node| node.id);
        let there: Vec<_> = there.collect();
        let victim = there[self.random.random_range(0..there.len())];
        let links: Vec<_> = self.links.keys().copied().collect();
        // A single replica has no links.
        let link = match links.len() {
            0 => (victim, victim),
            count => links[self.random.random_range(0..count)],
        };
        let fault = self.faults.next(&mut self.random);
        self.faults.made.push(Made { at_us: self.now_us, fault, victim, link });
        match fault {
            Fault::Crash if self.node(victim).process.is_some() => self.crash(victim),
            Fault::Crash => {}
            Fault::PowerLoss => self.lose_power(),
            Fault::LostDisk => self.lose_disk(victim),
            Fault::Break => self.break_link(link.0, link.1),
            Fault::Flap => self.flap(link),
            Fault::Cut => {
                self.break_link(link.0, link.1);
                self.cut(link);
            }
            Fault::Heal => self.heal(),
            Fault::Pause => self.pause(victim),
            Fault::OneWay => self.mute(link),
            Fault::Scenario => self.scenario(),
            Fault::SlowDisk => {
                self.tally.slow_disks += 1;
                let slow = self.random.random_range(200_000..2_000_000);
                self.slow_down(victim, slow);
            }
            Fault::ClockJump => return self.jump(victim),
            Fault::Forged => return self.forge(link),
            Fault::Altered => self.alter(victim),
            Fault::Copied => self.copy(victim),
            Fault::Scale => self.scale_at_random(),
            Fault::LostHints => self.lose_hints(),
            Fault::InterruptedCopies => self.interrupt_copies(),
            Fault::Stray => return self.stray(link),
            Fault::OtherMarker => self.replace_marker(),
        }
        Ok(())
    }

    /// Ends all faults.
    pub(super) fn calm(&mut self) {
        self.is_calm = true;
        self.heal();
        self.mute_until.clear();
        self.end_spells();
        self.nodes.iter_mut().for_each(|node| node.slow_until_us = 0);
        if let Some(scaling) = &mut self.scaling {
            scaling.foreign_until_us = 0;
        }
        self.calm_scaling();
    }

    /// Heals all cut links.
    pub(super) fn heal(&mut self) {
        self.links.values_mut().for_each(|link| link.is_cut = false);
    }

    /// Breaks a link again and again.
    fn flap(&mut self, (low, high): (ReplicaId, ReplicaId)) {
        self.tally.flaps += 1;
        let mut after = 0;
        for _ in 0..self.random.random_range(3..10) {
            after += self.random.random_range(5_000..100_000);
            self.schedule(after, Event::Break { low, high });
        }
    }

    fn cut(&mut self, link: (ReplicaId, ReplicaId)) {
        self.tally.cuts += 1;
        if let Some(link) = self.links.get_mut(&link) {
            link.is_cut = true;
        }
    }

    /// Crashes all replicas at once by a power loss.
    fn lose_power(&mut self) {
        self.tally.power_losses += 1;
        for id in self.nodes.iter().map(|node| node.id).collect::<Vec<_>>() {
            if self.node(id).process.is_some() {
                self.crash(id);
            }
        }
    }

    /// Stops a process for a while, without its noticing.
    fn pause(&mut self, id: ReplicaId) {
        let longest = if self.random.random_bool(0.2) { 4_000_000 } else { 500_000 };
        let time = self.random.random_range(20_000..longest);
        self.pause_for(id, time);
    }

    /// As above, for a given time.
    pub fn pause_for(&mut self, id: ReplicaId, time: u64) {
        self.tally.pauses += 1;
        let until = self.now_us + time;
        let node = self.node(id);
        // Events that wait for the end of a pause stay in order.
        node.paused_until_us = node.paused_until_us.max(until);
        for link in self.links_of(id) {
            self.silence(link, time);
        }
    }

    /// Makes a disk slow for a while.
    pub fn slow_down(&mut self, id: ReplicaId, time_us: u64) {
        self.node(id).slow_until_us = self.now_us + time_us;
    }

    /// Makes a disk sync nothing for a while.
    pub fn stall(&mut self, id: ReplicaId, time_us: u64) {
        self.node(id).stalled_until_us = self.now_us + time_us;
    }

    /// Makes a link carry one way only for a while.
    fn mute(&mut self, (low, high): (ReplicaId, ReplicaId)) {
        self.tally.one_way += 1;
        let direction = if self.random.random_bool(0.5) { (low, high) } else { (high, low) };
        let time = self.random.random_range(20_000..3_000_000);
        self.mute_until.insert(direction, self.now_us + time);
        self.silence((low, high), time);
    }

    /// Lets the ends of a link that carries nothing notice it, if it lasts long enough.
    fn silence(&mut self, (low, high): (ReplicaId, ReplicaId), time: u64) {
        if time > SILENCE_MAX_US {
            let session = self.links.get(&(low, high)).and_then(|link| link.session);
            self.schedule(SILENCE_MAX_US, Event::Silent { low, high, session });
        }
    }

    fn links_of(&self, id: ReplicaId) -> Vec<(ReplicaId, ReplicaId)> {
        self.links.keys().filter(|(low, high)| *low == id || *high == id).copied().collect()
    }

    /// Causes one of the three partial losses of connectivity of the Omni-Paxos paper (section 2):
    /// all but one replica are linked with that one only; the same, and the leader with no replica;
    /// the leader and another replica are not linked.
    fn scenario(&mut self) {
        self.tally.scenarios += 1;
        let there = self.nodes.iter().filter(|node| !node.is_gone);
        let ids: Vec<_> = there.map(|node| node.id).collect();
        if ids.len() < 3 {
            return;
        }
        let is_leader = |id: &ReplicaId| {
            self.engine(*id).is_some_and(|engine| engine.status().role == Role::Leader)
        };
        let leader = ids.iter().copied().find(is_leader).unwrap_or(ids[0]);
        let others: Vec<_> = ids.into_iter().filter(|id| *id != leader).collect();
        let hub = others[self.random.random_range(0..others.len())];
        let kind = self.random.random_range(0..3);
        for link in self.links.keys().copied().collect::<Vec<_>>() {
            let has = |id| link.0 == id || link.1 == id;
            let is_cut = match kind {
                0 => !has(hub),
                1 => !has(hub) || has(leader),
                _ => has(hub) && has(leader),
            };
            if is_cut {
                self.break_link(link.0, link.1);
                self.cut(link);
            }
        }
        let heals = self.random.random_range(200_000..3_000_000);
        self.schedule(heals, Event::Heal);
    }

    /// Lets a clock jump: many ticks come at once.
    fn jump(&mut self, id: ReplicaId) -> Result<(), String> {
        if self.node(id).process.is_none() {
            return Ok(());
        }
        self.tally.clock_jumps += 1;
        for _ in 0..self.random.random_range(5..300) {
            self.turn(id, Input::Tick)?;
        }
        Ok(())
    }

    /// Delivers a message that no replica sends: of another version, or caused by a bug.
    fn forge(&mut self, (from, to): (ReplicaId, ReplicaId)) -> Result<(), String> {
        let Some(engine) = self.engine(to) else { return Ok(()) };
        let (configuration, decided) = (engine.store().chain().current.id, engine.status().decided);
        let Some(process) = &self.node(to).process else { return Ok(()) };
        let Some(session) = process.session(from) else { return Ok(()) };
        self.tally.forged += 1;
        let decided = usize::try_from(decided).expect("indexes are small");
        let nodes = (1..=self.nodes.len() as u64).collect();
        let next = ClusterConfig { configuration_id: 9, nodes, flexible_quorum: None };
        let msg = match self.random.random_range(0..3) {
            0 => PaxosMsg::Compaction(Compaction::Trim(decided)),
            1 => PaxosMsg::ForwardStopSign(StopSign::with(next, None)),
            _ => PaxosMsg::ProposalForward(vec![Entry::Noop]),
        };
        let message = Message::SequencePaxos(PaxosMessage { from: from.0, to: to.0, msg });
        let message = PeerMessage::Paxos { configuration, message };
        self.turn(to, Input::Peer { peer: from, session, message })
    }
}
