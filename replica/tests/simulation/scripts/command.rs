//! The commands of a script.

use std::str::FromStr;

use kvorum_protocol::access::Access;
use kvorum_protocol::data::Condition;
use kvorum_protocol::status::{ReplicaId, Role};
use kvorum_replica::engine::Input;

use super::super::marker::OTHER_CLUSTER;
use super::super::node::CLUSTER;
use super::world::World;

/// A replica by its id: `n2`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Node(pub ReplicaId);

impl FromStr for Node {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_prefix('n').and_then(|number| number.parse().ok());
        number.map(|id| Self(ReplicaId(id))).ok_or_else(|| format!("'{text}' is no replica"))
    }
}

/// What a run of ticks waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// A replica leads and serves.
    Leader,
    /// This replica does.
    Leads(ReplicaId),
    /// The leader has so many members.
    Members(usize),
    /// This replica may end.
    MayGo(ReplicaId),
    /// This replica follows a leader, in step.
    Follows(ReplicaId),
}

impl FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let node = |text: &str| text.parse::<Node>().map(|node| node.0);
        match text.split_once('-') {
            None if text == "leader" => Ok(Self::Leader),
            Some((id, "leads")) => Ok(Self::Leads(node(id)?)),
            Some((id, "follows")) => Ok(Self::Follows(node(id)?)),
            Some((id, "may-go")) => Ok(Self::MayGo(node(id)?)),
            Some((count, "members")) => {
                count.parse().map(Self::Members).map_err(|why| format!("'{count}': {why}"))
            }
            _ => Err(format!("'{text}' is nothing to wait for")),
        }
    }
}

/// What a write asks of the key.
#[derive(Clone, Copy, Default)]
pub struct If(Option<Condition>);

impl If {
    fn condition(self) -> Condition {
        self.0.unwrap_or(Condition::Always)
    }
}

impl FromStr for If {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "absent" => Ok(Self(Some(Condition::Absent))),
            revision => match revision.parse() {
                Ok(revision) => Ok(Self(Some(Condition::AtRevision(revision)))),
                Err(_) => Err(format!("'{text}' is neither 'absent' nor a revision")),
            },
        }
    }
}

/// What a right allows.
pub struct AccessWord(Access);

impl FromStr for AccessWord {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Access::Read, Access::Write, Access::ReadWrite];
        let found = all.into_iter().find(|access| access.to_string() == text);
        found.map(Self).ok_or_else(|| format!("'{text}' is no access"))
    }
}

/// What a script may say.
#[derive(goldenscript::Command)]
pub enum Command {
    /// Starts a new cluster of so many replicas, all linked; with `leader=n1` also lets time pass
    /// until that one leads, and tells nothing of it.
    Cluster {
        replicas: u64,
        #[arg(key)]
        leader: Option<Node>,
    },
    /// Lets so many ticks pass at one replica, or at all; nothing is delivered.
    Tick { ticks: u64, node: Option<Node> },
    /// Delivers what is under way to a replica, or only what is from another one, or only so many.
    Deliver {
        to: Node,
        #[arg(key)]
        from: Option<Node>,
        #[arg(key)]
        count: Option<usize>,
    },
    /// Loses what is under way to a replica, from all or from one.
    Lose {
        to: Node,
        #[arg(key)]
        from: Option<Node>,
    },
    /// Ends the sync of a replica's disk: the messages that waited for it leave.
    Sync(Node),
    /// Delivers and syncs until nothing is under way.
    Settle,
    /// Lets up to so many ticks pass, and settles after each, until something holds.
    Run {
        ticks: u64,
        #[arg(key)]
        until: Option<Until>,
    },
    /// Ends the session of a link, and lets none begin. With `keeps=true` frames that are under way
    /// arrive later.
    Cut {
        a: Node,
        b: Node,
        #[arg(key, optional)]
        keeps: bool,
    },
    /// Lets a link begin a new session.
    Heal { a: Node, b: Node },
    /// Ends a process without a sync; of its unsynced writes the first few may survive.
    Crash {
        node: Node,
        #[arg(key, optional)]
        keeps: usize,
    },
    /// Starts a process on the disk that is there.
    Start(Node),
    /// Holds a replica, as SIGSTOP does: no ticks, nothing delivered, no sync.
    Pause(Node),
    /// Lets it go on.
    Resume(Node),
    /// Ends a process in order: it syncs first.
    Stop(Node),
    /// Puts an empty disk in the place of a stopped replica's.
    LoseDisk(Node),
    /// Copies a disk as it is, writes that no sync covered too.
    CopyDisk(Node),
    /// Puts the copy in the place of a stopped replica's disk.
    BringBack(Node),
    /// Changes a key behind a replica's back.
    Alter { node: Node, key: String },
    /// A client writes keys.
    Put {
        node: Node,
        #[arg(key = "if", optional)]
        r#if: If,
        #[arg(key)]
        valid_until: Option<u64>,
        #[arg(key, many)]
        pairs: Vec<(String, String)>,
    },
    /// A client deletes a key.
    Delete {
        node: Node,
        key: String,
        #[arg(key = "if", optional)]
        r#if: If,
    },
    /// A client asks once more, elsewhere or at the same replica, with the id of the request.
    Again { node: Node, request: String },
    /// A client reads a key, linearizably or what a replica has.
    Get {
        node: Node,
        key: String,
        #[arg(key, optional)]
        local: bool,
    },
    /// The clients are this user from now on; at first they may do everything.
    As(String),
    /// An administrator adds a user, with a right to the keys with a prefix.
    Allow { node: Node, user: String, access: AccessWord, prefix: String },
    /// An administrator takes that right away.
    Forbid { node: Node, user: String, prefix: String },
    /// A client subscribes to the keys with a prefix.
    Watch { node: Node, prefix: String },
    /// An administrator hands leadership over.
    HandOver { node: Node, to: Option<Node> },
    /// The orchestrator wants so many replicas, and tells all who run.
    Scale(u32),
    /// A replica is told another number than the one that is wanted.
    Mislead { node: Node, replicas: u32 },
    /// The volume of an ordinal asks a replica for an id.
    Join { node: Node, ordinal: u32 },
    /// A process is told to end, and will be started again.
    RequestStop(Node),
    /// The marker cannot be reached any more.
    CutMarker,
    /// The marker can be reached again.
    HealMarker,
    /// Another cluster's marker is put in the place of this one's.
    ReplaceMarker,
    /// This cluster's marker is put back.
    RestoreMarker,
    /// The disk has so many bytes free, and keeps so many in reserve.
    Disk {
        node: Node,
        #[arg(key)]
        free: u64,
        #[arg(key)]
        reserve: u64,
    },
    /// Tells heartbeats and what disks remember of each other from now on, or no more.
    Show(bool),
    /// Tells how each replica is.
    State,
    /// Tells what keeps a replica from serving.
    Trouble(Node),
}

impl Command {
    /// Carries it out.
    pub fn run(&self, world: &mut World) -> Result<(), String> {
        match self {
            Self::Cluster { replicas, leader } => {
                world.begin(*replicas)?;
                leader.map_or(Ok(()), |leader| world.elect(leader.0))
            }
            Self::Tick { ticks, node } => {
                for _ in 0..*ticks {
                    world.tick(node.map(|node| node.0))?;
                }
                Ok(())
            }
            Self::Deliver { to, from, count } => {
                world.deliver(to.0, from.map(|from| from.0), *count)
            }
            Self::Lose { to, from } => world.lose(to.0, from.map(|from| from.0)),
            Self::Sync(node) => world.sync(node.0),
            Self::Settle => world.settle(),
            Self::Run { ticks, until } => world.run(*ticks, *until),
            Self::Cut { a, b, keeps } => world.cut(a.0, b.0, *keeps),
            Self::Heal { a, b } => world.heal(a.0, b.0),
            Self::Crash { node, keeps } => world.crash(node.0, *keeps),
            Self::Start(node) => world.start(node.0),
            Self::Pause(node) => world.pause(node.0, true),
            Self::Resume(node) => world.pause(node.0, false),
            Self::Stop(node) => world.stop(node.0),
            Self::LoseDisk(node) => world.lose_disk(node.0),
            Self::CopyDisk(node) => world.copy_disk(node.0),
            Self::BringBack(node) => world.bring_back(node.0),
            Self::Alter { node, key } => world.alter(node.0, key),
            Self::Put { node, r#if, valid_until, pairs } => {
                pairs.iter().try_for_each(|(key, value)| {
                    world.put(node.0, key, value, r#if.condition(), *valid_until)
                })
            }
            Self::Delete { node, key, r#if } => world.delete(node.0, key, r#if.condition()),
            Self::Again { node, request } => world.again(node.0, request),
            Self::Get { node, key, local } => world.get(node.0, key, *local),
            Self::As(user) => {
                world.be(user);
                Ok(())
            }
            Self::Allow { node, user, access, prefix } => {
                world.allow(node.0, user, access.0, prefix)
            }
            Self::Forbid { node, user, prefix } => world.forbid(node.0, user, prefix),
            Self::Watch { node, prefix } => world.watch(node.0, prefix),
            Self::HandOver { node, to } => world.hand_over(node.0, to.map(|to| to.0)),
            Self::Scale(replicas) => world.scale(*replicas),
            Self::Mislead { node, replicas } => world.mislead(node.0, *replicas),
            Self::Join { node, ordinal } => world.join(node.0, *ordinal),
            Self::RequestStop(node) => world.take(node.0, Input::WantsStop),
            Self::CutMarker => world.reach_marker(false),
            Self::HealMarker => world.reach_marker(true),
            Self::ReplaceMarker => world.mark_for(OTHER_CLUSTER),
            Self::RestoreMarker => world.mark_for(CLUSTER),
            Self::Disk { node, free, reserve } => {
                world.take(node.0, Input::Disk { free: *free, reserve: *reserve })
            }
            Self::Show(all) => world.tell_all(*all),
            Self::State => world.state(),
            Self::Trouble(node) => world.trouble(node.0),
        }
    }
}

impl Until {
    /// Whether it holds.
    pub fn holds(self, world: &World) -> bool {
        let leads = |id: ReplicaId| {
            let status = world.status(id);
            status.is_some_and(|status| status.role == Role::Leader && status.is_ready)
        };
        match self {
            Self::Leader => world.running().any(leads),
            Self::Leads(id) => leads(id),
            Self::Members(count) => world.running().any(|id| {
                leads(id)
                    && world.status(id).is_some_and(|it| it.configuration.members.len() == count)
            }),
            Self::MayGo(id) => world.status(id).is_some_and(|status| status.membership.may_go),
            Self::Follows(id) => world
                .status(id)
                .is_some_and(|status| status.role == Role::Follower && status.is_ready),
        }
    }
}
