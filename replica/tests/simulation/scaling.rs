//! Clusters that are scaled: a model of the orchestrator that starts and ends their replicas.
//!
//! Each ordinal has a volume and, while it is wanted, a process (all at once, as a `StatefulSet`
//! with parallel management does it). A process that is not wanted is asked to end, and ends when
//! it has left; some are killed before. A volume without an identity, or with a retired one,
//! requests a new one.

use kvorum_protocol::message::{Admin, Answer, Request};
use kvorum_protocol::status::{Configuration, ReplicaId, Role, Status};
use kvorum_replica::engine::store::{Identity, IdentityStore};
use kvorum_replica::engine::{ClientKey, Input, ScaleRead};
use kvorum_replica::marker::Marker;
use kvorum_replica::planner::{Scale, ordinal};
use kvorum_replica::state::chain::Standing;
use kvorum_replica::state::entry::Entry;
use kvorum_replica::state::machine::Table;
use kvorum_replica::state::rights::User;
use kvorum_replica::state::version::Version;
use rand::RngExt;
use rand::rngs::StdRng;

use super::cluster::Cluster;
use super::event::{Event, Link, pair};
use super::node::{CLUSTER, Node};

/// Most replicas.
const REPLICAS_MAX: u32 = 7;
/// Time after which every replica knows that another one is gone.
const STEADY_US: u64 = 200_000;
/// The first client key of joiners that request an id; lower ones are clients.
pub const JOINERS: u64 = 1000;
/// Probability that a leaving process is killed instead, at each look.
const KILLS_LEAVERS: f64 = 0.02;

/// The wanted number of replicas, and the state of each ordinal.
pub struct Scaling {
    pub wanted: u32,
    pods: Vec<Pod>,
    /// The cluster's marker.
    pub(super) marker: Option<Marker>,
    /// The time until which another cluster's marker is in its place.
    pub(super) foreign_until_us: u64,
    /// The time until which the wanted number stays, as the loss of a volume is not yet known. A
    /// cluster of two members one of which is lost never comes back by itself.
    steady_until_us: u64,
    /// Whether a majority that was killed while it left is brought back, once all faults are over.
    is_rescued: bool,
    /// Whether the wanted number is reported to no replica.
    is_silent: bool,
    /// An ordinal that gets no report, and whose looks get no answer.
    deaf: Option<u32>,
}

/// The state of an ordinal.
#[derive(Clone, Copy, Default)]
struct Pod {
    /// The replica on its volume.
    replica: Option<ReplicaId>,
    /// The nonce of its request for an id; 0 for none.
    nonce: u64,
}

impl Scaling {
    pub fn new(wanted: u32) -> Self {
        let pods = vec![Pod::default(); REPLICAS_MAX as usize];
        Self {
            wanted,
            pods,
            marker: None,
            foreign_until_us: 0,
            steady_until_us: 0,
            is_rescued: false,
            is_silent: false,
            deaf: None,
        }
    }

    pub fn random(random: &mut StdRng) -> Self {
        Self { is_rescued: true, ..Self::new(random.random_range(1..=5)) }
    }
}

/// Whether a replica has to look around: a member that is not ready, or a joiner that none of the
/// replicas it knows accepts. It may have been a member since, and left.
fn is_stranded(standing: Standing, status: &Status) -> bool {
    match standing {
        Standing::Member => !status.is_ready,
        Standing::Joiner => status.links.iter().all(|link| !link.is_up),
        Standing::Retired => false,
    }
}

impl Cluster {
    /// Creates the cluster by its first replica.
    pub(super) fn begin_scaling(&mut self) {
        let Some(scaling) = &mut self.scaling else { return };
        let identity = self.nodes[0].disk.identity();
        let (cluster, nonce) = (identity.cluster, identity.nonce);
        scaling.marker = Some(Marker::new(cluster, nonce));
        scaling.pods[0].replica = Some(identity.replica);
        for ordinal in 0..REPLICAS_MAX {
            self.schedule(u64::from(ordinal) * 1_000, Event::Pod { ordinal });
        }
    }

    /// Sets the wanted number of replicas.
    pub fn scale_to(&mut self, replicas: u32) {
        if let Some(scaling) = &mut self.scaling {
            scaling.wanted = replicas;
            self.tally.scalings += 1;
        }
    }

    pub(super) fn scale_at_random(&mut self) {
        let wanted = self.random.random_range(1..=REPLICAS_MAX);
        if self.scaling.as_ref().is_some_and(|scaling| self.now_us >= scaling.steady_until_us) {
            self.scale_to(wanted);
        }
    }

    /// Scales a cluster up whose majority was killed while it left, so that it is there again:
    /// enough for any configuration that a running replica is in.
    pub(super) fn calm_scaling(&mut self) {
        let runs = |id: ReplicaId| {
            let node = &self.nodes[self.place(id)];
            !node.is_gone && !node.lost_disk && self.is_to_run(id)
        };
        let mut needed = 1;
        let is_member = |node: &Node| node.disk.chain().standing(node.id) == Standing::Member;
        // A copy of a disk votes nowhere.
        let votes = |node: &Node| node.process.is_some() && !node.lost_disk && is_member(node);
        if !self.nodes.iter().any(votes) {
            // Some replica has what the members of the last configuration still have to fetch.
            needed = REPLICAS_MAX;
        }
        for node in self.nodes.iter().filter(|node| votes(node)) {
            let chain = node.disk.chain();
            let members = chain.current.members.iter();
            let there = members.clone().filter(|member| runs(member.replica)).count();
            if there < chain.current.quorum() {
                let ordinals = members.filter_map(|member| ordinal(&member.name));
                needed = ordinals.max().map_or(1, |ordinal| ordinal + 1).max(needed);
            }
        }
        if let Some(scaling) = self.scaling.as_mut().filter(|scaling| scaling.is_rescued) {
            scaling.wanted = scaling.wanted.max(needed);
        }
    }

    /// Whether the process of a replica is wanted.
    pub(super) fn is_to_run(&self, id: ReplicaId) -> bool {
        let Some(scaling) = &self.scaling else { return true };
        let name = &self.nodes[self.place(id)].disk.identity().name;
        ordinal(name).is_some_and(|ordinal| ordinal < scaling.wanted)
    }

    /// Looks after an ordinal.
    pub(super) fn pod(&mut self, ordinal: u32) -> Result<(), String> {
        let again = self.random.random_range(5_000..80_000);
        self.schedule(again, Event::Pod { ordinal });
        if self.is_calm {
            self.calm_scaling();
        }
        let Some(scaling) = &self.scaling else { return Ok(()) };
        let (wanted, pod) = (scaling.wanted, scaling.pods[ordinal as usize]);
        let is_wanted = ordinal < wanted;
        let Some(id) = pod.replica else {
            if is_wanted {
                self.ask_for_id(ordinal);
            }
            return Ok(());
        };
        let node = self.node(id);
        if node.paused_until_us > self.now_us {
            return Ok(());
        }
        let node = self.node(id);
        let standing = node.disk.chain().standing(id);
        let Some(process) = &node.process else {
            // A process that crashed is restarted after a while.
            let is_due = self.nodes[self.place(id)].life == 0 || self.random.random_bool(0.1);
            if is_wanted && is_due && self.node(id).down_until_us <= self.now_us {
                self.start_and_ask(id)?;
            }
            return Ok(());
        };
        let (role, status) = (process.role(), process.engine.status());
        let may_go = status.membership.may_go;
        let is_over = match role {
            Role::Retired | Role::Joining => !is_wanted && may_go,
            _ => false,
        };
        let is_killed = !is_wanted && !self.is_calm && self.random.random_bool(KILLS_LEAVERS);
        if is_over || is_killed {
            self.tally.left += u64::from(is_over);
            self.tally.killed_leavers += u64::from(is_killed && !is_over);
            // A process that ends in order syncs first.
            let disk = self.node(id).disk.clone();
            if is_over {
                disk.sync_writes(disk.unsynced());
            }
            self.crash(id);
            return Ok(());
        }
        let is_stranded = is_stranded(standing, &status);
        let is_superseded = is_stranded && self.look_around(id)?;
        // A copy of a disk that was brought back, whatever it was when it was taken.
        let is_out = role == Role::Outside;
        let asks_on = self.scaling.as_ref().is_some_and(|s| s.pods[ordinal as usize].nonce != 0);
        if (standing == Standing::Retired || is_superseded || is_out || asks_on) && is_wanted {
            // It runs meanwhile: some may learn only from it that their configuration is over.
            self.ask_for_id(ordinal);
        }
        if standing != Standing::Member {
            let Configuration { id: newer, members } = self.some_configuration();
            self.turn(id, Input::Learned { members, configuration: Some(newer) })?;
        }
        if !self.hears(ordinal) {
            return Ok(());
        }
        self.say(ordinal, wanted)
    }

    /// Whether the wanted number is reported to an ordinal.
    fn hears(&self, ordinal: u32) -> bool {
        let scaling = self.scaling.as_ref();
        scaling.is_some_and(|scaling| !scaling.is_silent && scaling.deaf != Some(ordinal))
    }

    /// Reports a wanted number to a replica, true or not.
    pub fn say(&mut self, ordinal: u32, wanted: u32) -> Result<(), String> {
        let Some(id) = self.replica_of(ordinal) else { return Ok(()) };
        if self.node(id).process.is_none() {
            return Ok(());
        }
        let wanted = Some(Scale { start: 0, replicas: wanted });
        self.turn(id, Input::Scale { wanted, read: None })
    }

    /// Answers a replica that looks up the wanted number; some answers are lost.
    pub(super) fn look(&mut self, node: ReplicaId, look: ScaleRead) -> Result<(), String> {
        let name = &self.nodes[self.place(node)].disk.identity().name;
        let ordinal = ordinal(name).ok_or_else(|| format!("{name} has no ordinal, and looks"))?;
        let is_heard = self.hears(ordinal);
        let is_lost = !self.is_calm && self.random.random_bool(0.1);
        let Some(scaling) = &self.scaling else { return Ok(()) };
        let wanted = Some(Scale { start: 0, replicas: scaling.wanted });
        if is_heard && !is_lost {
            let (life, delay) = (self.node(node).life, self.random.random_range(500..20_000));
            let input = Box::new(Input::Scale { wanted, read: Some(look) });
            self.schedule(delay, Event::Read { node, life, input });
        }
        Ok(())
    }

    /// Cuts an ordinal off from reports of the wanted number, or none.
    pub fn set_deaf(&mut self, ordinal: Option<u32>) {
        if let Some(scaling) = &mut self.scaling {
            scaling.deaf = ordinal;
        }
    }

    /// Stops all reports of the wanted number, or resumes them.
    pub fn set_silent(&mut self, is_silent: bool) {
        if let Some(scaling) = &mut self.scaling {
            scaling.is_silent = is_silent;
        }
    }

    /// Returns the replica of an ordinal.
    pub fn replica_of(&self, ordinal: u32) -> Option<ReplicaId> {
        self.scaling.as_ref()?.pods[ordinal as usize].replica
    }

    /// Kills the process of an ordinal, which is started again only if it is wanted.
    pub fn kill(&mut self, ordinal: u32) {
        if let Some(id) = self.replica_of(ordinal)
            && self.node(id).process.is_some()
        {
            self.crash(id);
        }
    }

    /// Kills the process of an ordinal for a while.
    pub fn keep_down(&mut self, ordinal: u32, time_us: u64) {
        self.kill(ordinal);
        if let Some(id) = self.replica_of(ordinal) {
            self.node(id).down_until_us = self.now_us + time_us;
        }
    }

    /// Destroys the volume of an ordinal, and its process with it.
    pub fn destroy(&mut self, ordinal: u32) {
        if let Some(id) = self.replica_of(ordinal) {
            self.drop_volume(id);
        }
    }

    /// Returns the ordinals of the members of the last configuration that was decided.
    pub fn members(&self) -> Vec<u32> {
        let mut ordinals = self.member_ordinals(self.checker.members());
        ordinals.sort_unstable();
        ordinals
    }

    /// Whether a replica is a member of the last configuration that was decided.
    pub fn has_member(&self, id: ReplicaId) -> bool {
        self.checker.members().contains(&id)
    }

    /// Returns the number of configurations so far.
    pub fn configurations(&self) -> usize {
        self.checker.configurations()
    }

    /// Asks a process to end; it will be started again.
    pub fn request_stop(&mut self, ordinal: u32) -> Result<(), String> {
        match self.replica_of(ordinal) {
            Some(id) => self.turn(id, Input::WantsStop),
            None => Ok(()),
        }
    }

    /// Whether a running replica may end.
    pub fn may_go(&self, ordinal: u32) -> bool {
        let engine = self.replica_of(ordinal).and_then(|id| self.engine(id));
        engine.is_some_and(|engine| engine.status().membership.may_go)
    }

    /// Returns the reported problem that keeps a running replica from serving.
    pub fn trouble_of(&self, ordinal: u32) -> Option<String> {
        let node = &self.nodes[self.place(self.replica_of(ordinal)?)];
        node.process.as_ref()?.engine.status().trouble
    }

    /// Lets time pass until a condition holds.
    pub fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) -> Result<(), String> {
        let deadline = self.now_us + 20_000_000;
        while !holds(self) {
            if self.now_us > deadline {
                return Err(format!("not {what}: {}", self.describe()));
            }
            self.pass(5_000)?;
        }
        Ok(())
    }

    /// Lets a replica that is not ready ask a running one for the members; whether it has left.
    fn look_around(&mut self, id: ReplicaId) -> Result<bool, String> {
        let newer = self.some_configuration();
        if newer.id <= self.node(id).disk.chain().current.id {
            return Ok(false);
        }
        let is_over = newer.name_of(id).is_none();
        let configuration = Some(newer.id);
        self.turn(id, Input::Learned { members: newer.members, configuration })?;
        Ok(is_over)
    }

    /// Returns the configuration as a random running replica knows it.
    fn some_configuration(&mut self) -> Configuration {
        let running = self.nodes.iter().filter(|node| node.process.is_some());
        let running: Vec<_> = running.collect();
        let any = running[self.random.random_range(0..running.len())];
        any.disk.chain().current
    }

    /// Requests an id, for a volume without one or with a retired one, at a running replica.
    fn ask_for_id(&mut self, ordinal: u32) {
        let running = self.nodes.iter().filter(|node| node.process.is_some());
        let running: Vec<_> = running.map(|node| node.id).collect();
        if running.is_empty() {
            return;
        }
        let node = running[self.random.random_range(0..running.len())];
        let fresh: u64 = self.random.random();
        let Some(scaling) = &mut self.scaling else { return };
        let pod = &mut scaling.pods[ordinal as usize];
        if pod.nonce == 0 {
            pod.nonce = fresh.max(1);
        }
        let (client, nonce) = (ClientKey(JOINERS + u64::from(ordinal)), pod.nonce);
        let request = Request::Admin(Admin::Join { name: format!("kvorum-{ordinal}"), nonce });
        let input = Input::Client { client, call: nonce, user: User::Anonymous, request };
        let life = self.node(node).life;
        let delay = self.random.random_range(50..5_000);
        self.schedule(delay, Event::Read { node, life, input: Box::new(input) });
    }

    /// Gives a volume its id.
    pub(super) fn joined(&mut self, client: ClientKey, answer: Answer) {
        let Answer::Joined { replica, configuration } = answer else { return };
        let place = usize::try_from(client.0 - JOINERS).expect("ordinals are few");
        let nonce: u64 = self.random.random();
        let keeps_state = self.random.random_bool(0.5);
        let is_known = self.nodes.iter().any(|node| node.id == replica);
        let Some(scaling) = &mut self.scaling else { return };
        let pod = &mut scaling.pods[place];
        let old = pod.replica;
        // A late answer, or it became a member while it asked.
        let votes = |old| self.nodes.iter().any(|node| node.id == old && !node.is_copy);
        if old.is_some_and(|old| configuration.name_of(old).is_some() && votes(old)) {
            pod.nonce = 0;
        }
        if is_known || pod.nonce == 0 {
            return;
        }
        (pod.replica, pod.nonce) = (Some(replica), 0);
        self.tally.joined += 1;
        let retired = old.map(|old| self.node(old)).filter(|node| !node.lost_disk || node.is_copy);
        // A process that ends in order syncs first.
        if let Some(node) = &retired {
            node.disk.sync_writes(node.disk.unsynced());
        }
        let node = match retired.filter(|_| keeps_state) {
            Some(node) => Node::on(node.disk.rejoin(replica, nonce), Version::NEWEST),
            None => Node::joiner(
                Identity {
                    cluster: CLUSTER,
                    replica,
                    name: format!("kvorum-{place}"),
                    incarnation: 1,
                    nonce,
                },
                configuration,
            ),
        };
        if let Some(old) = old {
            if self.node(old).process.is_some() {
                self.crash(old);
            }
            self.end_of(old);
        }
        for other in self.nodes.iter().filter(|node| !node.is_gone).map(|node| node.id) {
            self.links.insert(pair(replica, other), Link::default());
        }
        self.nodes.push(node);
        for (low, high) in self.links.keys().copied().collect::<Vec<_>>() {
            if high == replica || low == replica {
                self.schedule(1_000, Event::Connect { low, high });
            }
        }
    }

    /// Ends a replica, whose id is over.
    fn end_of(&mut self, id: ReplicaId) {
        self.node(id).is_gone = true;
        for (low, high) in self.links.keys().copied().collect::<Vec<_>>() {
            if low == id || high == id {
                self.break_link(low, high);
                self.links.remove(&(low, high));
            }
        }
    }

    /// Loses a volume, if the others can do without it.
    pub(super) fn lose_volume(&mut self, id: ReplicaId) {
        if self.can_lose_one() && self.node(id).process.is_some() {
            self.drop_volume(id);
        }
    }

    /// Whether the cluster can do without a volume: the configuration lives and is the wanted one,
    /// it has three members or more, and none of them is lost already.
    pub(super) fn can_lose_one(&self) -> bool {
        let members = self.checker.members().to_vec();
        let is_intact = |node: &Node| !node.lost_disk;
        let all_there = members.iter().all(|member| is_intact(&self.nodes[self.place(*member)]));
        let wanted = self.scaling.as_ref().map_or(0, |scaling| scaling.wanted as usize);
        let is_wanted = members.len() == wanted && members.iter().all(|one| self.is_to_run(*one));
        let is_seal = |entry: &Entry| matches!(entry, Entry::StopSign(_));
        let changes = self.nodes.iter().any(|node| node.disk.unapplied().iter().any(is_seal));
        let is_stable = is_wanted && !changes && self.checker.lives();
        members.len() >= 3 && is_stable && all_there
    }

    /// Keeps the wanted number for a while: a disk was lost, and no replica knows it yet.
    pub(super) fn steady_after_loss(&mut self) {
        let steady_until_us = self.now_us + STEADY_US;
        if let Some(scaling) = &mut self.scaling {
            scaling.steady_until_us = steady_until_us;
        }
    }

    fn drop_volume(&mut self, id: ReplicaId) {
        if self.node(id).process.is_some() {
            self.crash(id);
        }
        self.tally.lost_disks += 1;
        self.node(id).lost_disk = true;
        let name = self.node(id).disk.identity().name.clone();
        self.end_of(id);
        let place = ordinal(&name).expect("names have ordinals") as usize;
        let steady_until_us = self.now_us + STEADY_US;
        if let Some(scaling) = &mut self.scaling {
            scaling.pods[place] = Pod::default();
            scaling.steady_until_us = steady_until_us;
        }
    }
}
