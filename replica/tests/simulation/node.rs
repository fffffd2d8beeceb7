//! One simulated process: an engine on an in-memory disk, a gate, and a sync that takes time.

use std::collections::BTreeMap;

use kvorum_protocol::status::{ClusterId, Configuration, ConfigurationId, Member, ReplicaId, Role};
use kvorum_replica::driver::gate::Gate;
use kvorum_replica::engine::store::{CopyStore, Identity, IdentityStore, LogLimits};
use kvorum_replica::engine::{
    After, ClientKey, Engine, Input, Options, Output, PeerMessage, Session,
};
use kvorum_replica::state::machine::Table;
use kvorum_replica::state::snapshot::{FetchRequest, FetchResponse, Snapshots};
use kvorum_replica::state::version::Version;
use kvorum_replica::storage::memory::{Memory, MemorySnapshots};

use super::rules::Rules;

/// Limits with which the log is compacted often and messages are small, so that much is copied. A
/// copy still is a little faster than the clients' writes, or some replicas would never catch up.
const LIMITS: LogLimits =
    LogLimits { window: 2000, step: 1000, sync: 800, chunk: 400, segment: 200 };

/// Ticks between two comparisons of the replicas' states: few, so that each seed has some.
const CHECKSUM_TICKS: u64 = 150;

/// The simulated cluster.
pub const CLUSTER: ClusterId = ClusterId(1);

/// The parts of a running process.
pub struct Process {
    pub engine: Engine<Memory>,
    pub snapshots: MemorySnapshots,
    pub gate: Gate,
    /// Number of writes that the sync under way makes durable when it returns.
    pub syncing: Option<usize>,
    /// The time when that sync began.
    pub sync_began_us: u64,
    /// The current session with each peer, as this process knows it.
    pub sessions: BTreeMap<ReplicaId, Session>,
}

/// One replica: its disk, and its process while it is up.
pub struct Node {
    pub id: ReplicaId,
    pub disk: Memory,
    pub process: Option<Process>,
    /// The number of the process; it rises with each start, and events of earlier lives are void.
    pub life: u64,
    /// The time until which the process is paused, without its noticing.
    pub paused_until_us: u64,
    /// The end of a stall: a sync that begins before it ends no earlier.
    pub stalled_until_us: u64,
    /// The time until which the disk is slow.
    pub slow_until_us: u64,
    /// Whether the disk was replaced by an empty one: the replica must never vote again.
    pub lost_disk: bool,
    /// Whether the disk is an older copy of the disk that the replica had.
    pub is_copy: bool,
    /// The time before which the process is not started.
    pub down_until_us: u64,
    /// Whether the replica is over: its volume has another id by now, or is lost.
    pub is_gone: bool,
    /// The newest version that its program knows.
    pub newest: Version,
}

pub fn configuration(replicas: u64) -> Configuration {
    let member = |id| Member { replica: ReplicaId(id), name: format!("kvorum-{}", id - 1) };
    Configuration { id: ConfigurationId(1), members: (1..=replicas).map(member).collect() }
}

impl Node {
    pub fn new(id: u64, replicas: u64, nonce: u64, newest: Version) -> Self {
        let identity = Identity {
            cluster: CLUSTER,
            replica: ReplicaId(id),
            name: format!("kvorum-{}", id - 1),
            incarnation: 1,
            nonce,
        };
        let disk = Memory::crashable(identity, configuration(replicas), LIMITS);
        Self::on(disk, newest)
    }

    /// Creates a replica that joins with an empty disk.
    pub fn joiner(identity: Identity, members: Configuration) -> Self {
        Self::on(Memory::crashable(identity, members, LIMITS), Version::NEWEST)
    }

    /// Creates a replica from its disk.
    pub fn on(disk: Memory, newest: Version) -> Self {
        disk.sync_writes(disk.unsynced());
        Self {
            id: disk.identity().replica,
            disk,
            process: None,
            life: 0,
            paused_until_us: 0,
            stalled_until_us: 0,
            slow_until_us: 0,
            lost_disk: false,
            is_copy: false,
            down_until_us: 0,
            is_gone: false,
            newest,
        }
    }

    pub fn start(&mut self, rules: Rules) {
        self.life += 1;
        self.disk.replays_with(rules.engine.lanes);
        if !rules.writes_state_at_once {
            self.disk.tear_state();
        }
        if !rules.keeps_what_the_disk_lacks {
            self.disk.cut_freely();
        }
        let options =
            Options { allows_faults: false, newest: self.newest, checksum_ticks: CHECKSUM_TICKS };
        self.process = Some(Process {
            engine: Engine::with_rules(rules.engine, self.disk.clone(), options),
            snapshots: self.disk.snapshots(),
            gate: Gate::default(),
            syncing: None,
            sync_began_us: 0,
            sessions: BTreeMap::new(),
        });
    }

    /// Ends the process; of the writes that no sync covered, the first `kept` survive.
    pub fn crash(&mut self, kept: usize, nonce: u64) {
        self.process = None;
        self.paused_until_us = 0;
        self.disk = self.disk.restart(kept, nonce);
        // A process syncs its new incarnation before it introduces itself.
        self.disk.sync_writes(self.disk.unsynced());
    }

    /// Ends the process, and replaces its disk by an empty one.
    pub fn lose_disk(&mut self, nonce: u64) {
        let replicas = self.disk.chain().current.members.len() as u64;
        let empty = Self::new(self.id.0, replicas, nonce, self.newest);
        *self = Self { life: self.life, lost_disk: true, ..empty };
    }
}

impl Process {
    /// Whether a sync is under way and has taken longer than `time_us`.
    pub fn sync_takes(&self, time_us: u64, now_us: u64) -> bool {
        self.syncing.is_some() && now_us > self.sync_began_us + time_us
    }

    /// Handles one input, as the driver does.
    pub fn step(&mut self, input: Input) {
        match &input {
            Input::PeerUp { peer, session } => {
                self.gate.drop_peer(*peer);
                self.sessions.insert(*peer, *session);
            }
            Input::PeerDown { peer, session } if self.sessions.get(peer) == Some(session) => {
                self.gate.drop_peer(*peer);
                self.sessions.remove(peer);
            }
            _ => {}
        }
        self.engine.step(input);
    }

    /// Returns the replica's role.
    pub fn role(&self) -> Role {
        self.engine.status().role
    }

    /// Reads from the snapshots, beside the engine.
    pub fn read(&mut self, wanted: &FetchRequest, number: u64) -> Option<FetchResponse> {
        self.snapshots.read(wanted, number)
    }

    /// Ends a turn.
    pub fn turn(&mut self) -> Vec<Output> {
        self.engine.turn(&|_: ClientKey| true)
    }

    /// Returns the session by which a message to a peer leaves.
    pub fn session(&self, peer: ReplicaId) -> Option<Session> {
        self.sessions.get(&peer).copied()
    }

    /// Passes a message to the gate, which holds or returns it.
    pub fn gate(
        &mut self,
        to: ReplicaId,
        message: PeerMessage,
        after: After,
    ) -> Option<PeerMessage> {
        self.gate.push(to, message, after)
    }
}
