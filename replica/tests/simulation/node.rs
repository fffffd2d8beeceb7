//! One simulated process: an engine on a disk in memory, a gate, and a sync that takes time.

use std::collections::BTreeMap;

use kvorum_protocol::status::{ClusterId, Configuration, ConfigurationId, Member, ReplicaId, Role};
use kvorum_replica::engine::{ClientKey, Engine, Input, Options, Output, PeerMessage, Session};
use kvorum_replica::gate::Gate;
use kvorum_replica::snapshot::{Found, Snapshots, Wanted};
use kvorum_replica::state_machine::Table;
use kvorum_replica::storage::memory::{Memory, MemorySnapshots};
use kvorum_replica::storage::segments::LogLimits;
use kvorum_replica::storage::{Identity, Store};
use kvorum_replica::version::Version;

use super::rules::Rules;

/// A log that is cut often, and of which little travels at once, so that much is copied. Still a
/// copy is a little faster than what the clients write, or somebody would never be in step.
const LIMITS: LogLimits =
    LogLimits { window: 2000, step: 1000, sync: 800, chunk: 400, segment: 200 };

/// Ticks between two comparisons of the replicas' states: few, so that each seed has some.
const CHECKSUM_TICKS: u64 = 150;

/// The cluster that is simulated.
pub const CLUSTER: ClusterId = ClusterId(1);

/// What runs while a process is up.
pub struct Process {
    pub engine: Engine<Memory>,
    pub snapshots: MemorySnapshots,
    pub gate: Gate,
    /// Writes that the sync under way makes durable when it returns.
    pub syncing: Option<usize>,
    /// When that sync began.
    pub sync_began_us: u64,
    /// The session that this process believes in, for each peer.
    pub sessions: BTreeMap<ReplicaId, Session>,
}

/// One replica: its disk, and its process while it is up.
pub struct Node {
    pub id: ReplicaId,
    pub disk: Memory,
    pub process: Option<Process>,
    /// Rises with each start: what an earlier process scheduled is void.
    pub life: u64,
    /// It is stopped until then, and knows nothing of it.
    pub paused_until_us: u64,
    /// A sync that begins before then ends no earlier.
    pub stalled_until_us: u64,
    /// Its disk is slow until then.
    pub slow_until_us: u64,
    /// Its disk was replaced by an empty one: it must never vote again.
    pub lost_disk: bool,
    /// What it has now is an older copy of the disk that it had.
    pub is_copy: bool,
    /// Nobody starts it before then.
    pub down_until_us: u64,
    /// It is over: its volume has another id by now, or is lost.
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

    /// A replica that joins with an empty disk.
    pub fn joiner(identity: Identity, members: Configuration) -> Self {
        Self::on(Memory::crashable(identity, members, LIMITS), Version::NEWEST)
    }

    /// A replica as a disk has it.
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
        if !rules.commits_at_once {
            self.disk.tear_commits();
        }
        let options =
            Options { allows_faults: false, newest: self.newest, checksum_ticks: CHECKSUM_TICKS };
        self.process = Some(Process {
            engine: Engine::without(rules.engine, self.disk.clone(), options),
            snapshots: self.disk.snapshots(),
            gate: Gate::default(),
            syncing: None,
            sync_began_us: 0,
            sessions: BTreeMap::new(),
        });
    }

    /// Ends the process; of what no sync covered, the first `kept` writes survive.
    pub fn crash(&mut self, kept: usize, nonce: u64) {
        self.process = None;
        self.paused_until_us = 0;
        self.disk = self.disk.restart(kept, nonce);
        // A process syncs its new incarnation before it introduces itself.
        self.disk.sync_writes(self.disk.unsynced());
    }

    /// Ends the process, and puts an empty disk where its disk was.
    pub fn lose_disk(&mut self, nonce: u64) {
        let replicas = self.disk.chain().current.members.len() as u64;
        let empty = Self::new(self.id.0, replicas, nonce, self.newest);
        *self = Self { life: self.life, lost_disk: true, ..empty };
    }
}

impl Process {
    /// Whether a sync is under way and has taken longer.
    pub fn sync_takes(&self, time_us: u64, now_us: u64) -> bool {
        self.syncing.is_some() && now_us > self.sync_began_us + time_us
    }

    /// Takes in one input, as the driver does.
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

    /// What the replica is.
    pub fn role(&self) -> Role {
        self.engine.status().role
    }

    /// Reads what is wanted beside the engine.
    pub fn read(&mut self, wanted: &Wanted, number: u64) -> Option<Found> {
        self.snapshots.read(wanted, number)
    }

    /// Ends a turn.
    pub fn turn(&mut self) -> Vec<Output> {
        self.engine.turn(&|_: ClientKey| true)
    }

    /// The session by which a message to a peer leaves.
    pub fn session(&self, peer: ReplicaId) -> Option<Session> {
        self.sessions.get(&peer).copied()
    }

    /// Holds or frees a gated message.
    pub fn gate(
        &mut self,
        to: ReplicaId,
        message: PeerMessage,
        durable: bool,
    ) -> Option<PeerMessage> {
        self.gate.push(to, message, durable)
    }
}
