//! Pure: the console's view of the replicas, and the events derived from it.
//!
//! Guarantees that a replica once seen stays in its place, up or down, until it is neither a member
//! nor running; and that every change an operator cares about becomes one [`ClusterEvent`]. Does
//! not know what is drawn.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kvorum_protocol::Status;
use kvorum_protocol::status::{Configuration, Membership, Reign, Role};

use crate::message::{Now, Observation, SILENT_AFTER};
use crate::output::Said;

/// All replicas, by name.
#[derive(Clone, Default, Debug)]
pub struct Cluster {
    pub(super) nodes: BTreeMap<(usize, String), Node>,
    /// The last known leader.
    leader: Option<String>,
    /// The highest ballot seen, together with its configuration.
    reign: Option<Reign>,
    /// The latest configuration seen.
    pub(super) configuration: Option<Configuration>,
    /// Replicas that no longer run; they stay listed as long as they are members.
    pub(super) gone: BTreeSet<String>,
    /// The membership that the leader last reported.
    pub(super) membership: Membership,
}

impl Cluster {
    /// Builds the cluster from one status reply, or error, per replica.
    #[must_use]
    pub fn of(said: &[Said]) -> Self {
        let mut cluster = Self::default();
        for (name, told) in said {
            let (node, status) = (name.clone(), told.clone().map(Box::new));
            let seen =
                status.map_or_else(|why| Observation::Down { node, why }, Observation::Status);
            cluster.observe(Now::default(), &seen);
        }
        cluster
    }
}

/// One replica.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name, such as `kvorum-0`.
    pub name: String,
    /// The console's connection to it.
    pub link: Link,
    /// The status it last reported.
    pub status: Option<Status>,
    /// How long the connection has been silent, if longer than `SILENT_AFTER`.
    pub silent: Option<Duration>,
    /// The state of its pod and the container's restart count, on Kubernetes.
    pub pod: Option<(String, i32)>,
}

/// The console's connection to a replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Link {
    /// Nothing is known yet.
    Unknown,
    /// The connection is established.
    Up,
    /// There is no connection.
    Down {
        /// When it was lost, on the console's clock.
        since: Duration,
        /// The reason.
        why: String,
    },
}

/// The state of a replica, in one word.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum State {
    /// It leads and serves.
    Leader,
    /// It follows and serves.
    Follower,
    /// It leads, but without a majority.
    Alone,
    /// It is collecting promises.
    Candidate,
    /// It is being brought up to date.
    Recovering,
    /// It has not yet reached all other replicas.
    Gathering,
    /// It may not vote.
    Outside,
    /// It is copying the state, and becomes a member afterwards.
    Joining,
    /// It is no longer a member.
    Retired,
    /// It is connected and has not reported a status yet.
    Starting,
    /// It is connected and silent.
    Silent,
    /// There is no connection.
    Down,
    /// Nothing has been seen of it yet.
    Unknown,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 13] = [
        Self::Leader,
        Self::Follower,
        Self::Alone,
        Self::Candidate,
        Self::Recovering,
        Self::Gathering,
        Self::Outside,
        Self::Joining,
        Self::Retired,
        Self::Starting,
        Self::Silent,
        Self::Down,
        Self::Unknown,
    ];
}

impl Node {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), link: Link::Unknown, status: None, silent: None, pod: None }
    }

    /// Whether it is connected, not silent, and has reported a status.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.link == Link::Up && self.silent.is_none() && self.status.is_some()
    }

    /// Returns its state.
    #[must_use]
    pub fn state(&self) -> State {
        let status = match (&self.link, &self.status) {
            (Link::Unknown, _) => return State::Unknown,
            (Link::Down { .. }, _) => return State::Down,
            (Link::Up, _) if self.silent.is_some() => return State::Silent,
            (Link::Up, None) => return State::Starting,
            (Link::Up, Some(status)) => status,
        };
        match status.role {
            Role::Leader if status.is_ready => State::Leader,
            Role::Leader => State::Alone,
            Role::Candidate => State::Candidate,
            Role::Follower => State::Follower,
            Role::Recovering => State::Recovering,
            Role::Gathering => State::Gathering,
            Role::Outside => State::Outside,
            Role::Joining => State::Joining,
            Role::Retired => State::Retired,
        }
    }

    /// Returns its position among the replicas, from 0.
    #[must_use]
    pub fn ordinal(&self) -> usize {
        ordinal(&self.name)
    }

    /// Returns its short name: `n2` for `kvorum-1`.
    #[must_use]
    pub fn short(&self) -> String {
        short(&self.name)
    }
}

/// Returns a replica's position, from its name.
fn ordinal(name: &str) -> usize {
    let number = name.rsplit_once('-').and_then(|(_, ordinal)| ordinal.parse().ok());
    number.unwrap_or(usize::MAX / 2)
}

/// Returns the short name of a replica: `n2` for `kvorum-1`.
#[must_use]
pub fn short(name: &str) -> String {
    match ordinal(name) {
        number if number < 10_000 => format!("n{}", number + 1),
        _ => name.to_owned(),
    }
}

/// The kind of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A replica became the leader.
    Leader,
    /// The connection to a replica was lost.
    Lost,
    /// The connection to a replica is back.
    Returned,
    /// A replica serves again, or for the first time.
    Ready,
    /// A replica reports what keeps it from serving.
    Trouble,
    /// The members changed, or a change of members is blocked.
    Members,
    /// A link was cut on purpose.
    Cut,
    /// A cut link was healed.
    Healed,
    /// A supervisor's report about a process.
    Process,
    /// A demo's message.
    Demo,
}

/// An event.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct ClusterEvent {
    /// When it happened, in microseconds since 1970.
    pub wall_us: u64,
    /// The kind.
    pub kind: Kind,
    /// The replica concerned, if it concerns one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The event in words.
    pub text: String,
}

impl Cluster {
    /// Returns the replicas, ordered by the number in their names.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// Returns one replica.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(&(ordinal(name), name.to_owned()))
    }

    /// Returns how many replicas are known.
    #[must_use]
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Whether enough was seen to judge the quorum: a leader, and each replica in some state.
    pub fn is_seen(&self) -> bool {
        let unseen = |node: &Node| matches!(node.state(), State::Unknown | State::Starting);
        self.leader().is_some() && !self.nodes().any(unseen)
    }

    /// Returns how many replicas serve.
    #[must_use]
    pub fn ready(&self) -> usize {
        let is_ready = |node: &&Node| {
            node.is_live() && node.status.as_ref().is_some_and(|status| status.is_ready)
        };
        self.nodes().filter(is_ready).count()
    }

    /// Returns the current leader: the replica that reports leading with the highest ballot.
    #[must_use]
    pub fn leader(&self) -> Option<&str> {
        let leads = |node: &&Node| matches!(node.state(), State::Leader | State::Alone);
        let reign = |node: &&Node| node.status.as_ref().map(Status::reign);
        self.nodes().filter(leads).max_by_key(reign).map(|node| node.name.as_str())
    }

    /// Returns the number of the highest ballot seen.
    #[must_use]
    pub fn ballot(&self) -> u32 {
        self.reign.map_or(0, |(_, ballot)| ballot.number)
    }

    /// Returns the highest decided index that a live replica reports.
    #[must_use]
    pub fn decided(&self) -> u64 {
        let live = self.nodes().filter(|node| node.is_live());
        live.filter_map(|node| node.status.as_ref()).map(|s| s.decided).max().unwrap_or(0)
    }

    /// Returns how many decided entries a replica has not applied.
    #[must_use]
    pub fn lag(&self, node: &Node) -> Option<u64> {
        let status = node.status.as_ref()?;
        Some(self.decided().saturating_sub(status.applied))
    }

    /// Returns the latest configuration that a replica reported: its id and number of members.
    #[must_use]
    pub fn configuration(&self) -> Option<(u32, usize)> {
        self.configuration.as_ref().map(|now| (now.id.0, now.members.len()))
    }

    /// Returns the names of all replicas.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.nodes().map(|node| node.name.clone()).collect()
    }

    /// Takes in an observation and returns the events that follow from it.
    pub fn observe(&mut self, now: Now, seen: &Observation) -> Vec<ClusterEvent> {
        match seen {
            Observation::Member { node } => {
                self.entry(node);
                Vec::new()
            }
            Observation::Gone { node } => {
                self.gone.insert(node.clone());
                self.remove_gone();
                Vec::new()
            }
            Observation::Up { node } => self.up(now, node),
            Observation::Down { node, why } => self.down(now, node, why),
            Observation::Silent { node, for_time } => {
                let node = self.entry(node);
                node.silent = Some(*for_time).filter(|silent| *silent > SILENT_AFTER);
                Vec::new()
            }
            Observation::Status(status) => self.status(status),
            Observation::Process { node, what } => {
                let (node, text) = (Some(node.clone()), format!("{} {what}", short(node)));
                vec![ClusterEvent { wall_us: now.wall_us, kind: Kind::Process, node, text }]
            }
            Observation::Pod { node, state, restarts } => {
                self.entry(node).pod = Some((state.clone(), *restarts));
                Vec::new()
            }
            Observation::Log { .. } | Observation::LogReset | Observation::Place(_) => Vec::new(),
        }
    }

    fn entry(&mut self, name: &str) -> &mut Node {
        self.gone.remove(name);
        let key = (ordinal(name), name.to_owned());
        self.nodes.entry(key).or_insert_with(|| Node::new(name))
    }

    fn up(&mut self, now: Now, name: &str) -> Vec<ClusterEvent> {
        let node = self.entry(name);
        let was_down = matches!(node.link, Link::Down { .. });
        node.link = Link::Up;
        node.silent = None;
        // The status from before the connection was lost is out of date.
        node.status = None;
        let text = format!("{} is back", short(name));
        let back = happening(now.wall_us, Kind::Returned, name, text);
        was_down.then_some(back).into_iter().collect()
    }

    fn down(&mut self, now: Now, name: &str, why: &str) -> Vec<ClusterEvent> {
        let node = self.entry(name);
        let was_up = node.link == Link::Up;
        if !matches!(node.link, Link::Down { .. }) {
            node.link = Link::Down { since: now.monotonic, why: why.to_owned() };
        } else if let Link::Down { why: known, .. } = &mut node.link {
            why.clone_into(known);
        }
        node.silent = None;
        let text = format!("{} is gone: {why}", short(name));
        was_up.then(|| happening(now.wall_us, Kind::Lost, name, text)).into_iter().collect()
    }

    fn status(&mut self, status: &Status) -> Vec<ClusterEvent> {
        let (name, wall_us) = (status.name.clone(), status.wall_us);
        let mut happened = Vec::new();
        let known = self.configuration.as_ref().map(|configuration| configuration.id);
        if known <= Some(status.configuration.id) {
            happened = self.reconfigured(status);
            for member in &status.configuration.members {
                let key = (ordinal(&member.name), member.name.clone());
                self.nodes.entry(key).or_insert_with(|| Node::new(&member.name));
            }
        }
        let node = self.entry(&name);
        node.link = Link::Up;
        node.silent = None;
        let before = node.status.replace(status.clone());
        happened.extend(changes(before.as_ref(), status));
        self.reign = self.reign.max(Some(status.reign()));
        // Two leaders may have the same number; the higher replica id makes the higher ballot.
        let leads = status.role == Role::Leader && Some(status.reign()) == self.reign;
        if leads && self.leader.as_ref() != Some(&name) {
            let from = match self.leader.replace(name.clone()) {
                Some(old) => format!("{} → ", short(&old)),
                None => String::new(),
            };
            let text = format!("leader {from}{}, ballot {}", short(&name), status.ballot.number);
            happened.push(happening(wall_us, Kind::Leader, &name, text));
        }
        happened
    }
}

pub(super) fn happening(wall_us: u64, kind: Kind, node: &str, text: String) -> ClusterEvent {
    ClusterEvent { wall_us, kind, node: Some(node.to_owned()), text }
}

/// Returns the events between one status of a replica and the next.
fn changes(before: Option<&Status>, status: &Status) -> Vec<ClusterEvent> {
    let mut happened = Vec::new();
    let (name, wall_us) = (&status.name, status.wall_us);
    let was_ready = before.is_some_and(|before| before.is_ready);
    if status.is_ready && !was_ready {
        let text = format!("{} is ready, at index {}", short(name), status.applied);
        happened.push(happening(wall_us, Kind::Ready, name, text));
    }
    let trouble = |status: Option<&Status>| status.and_then(|status| status.trouble.clone());
    if let Some(why) = status.trouble.clone().filter(|why| trouble(before).as_ref() != Some(why)) {
        let text = format!("{}: {why}", short(name));
        happened.push(happening(wall_us, Kind::Trouble, name, text));
    }
    for link in &status.links {
        // Only the end that cut the link reports it.
        let old = before.and_then(|before| before.links.iter().find(|l| l.peer == link.peer));
        let was_cut = old.is_some_and(|link| link.is_cut);
        if link.is_cut != was_cut {
            let (kind, what) = match link.is_cut {
                true => (Kind::Cut, "is cut"),
                false => (Kind::Healed, "is healed"),
            };
            let text = format!("link {}–{} {what}", short(name), short(&link.peer));
            happened.push(happening(wall_us, kind, name, text));
        }
    }
    happened
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::testing::{cluster_of, down, status_of};

    fn texts(happened: &[ClusterEvent]) -> Vec<&str> {
        happened.iter().map(|happening| happening.text.as_str()).collect()
    }

    #[test]
    fn a_dead_replica_keeps_its_place_and_comes_back() {
        let mut cluster = cluster_of(3);
        assert_eq!((cluster.leader(), cluster.ready()), (Some("kvorum-0"), 3));
        let lost = down(&mut cluster, 0);
        assert_eq!(texts(&lost), ["n1 is gone: connection lost"]);
        assert_eq!((cluster.leader(), cluster.ready(), cluster.count()), (None, 2, 3));
        assert!(down(&mut cluster, 0).is_empty(), "it is said once");
        let mut heir = status_of(3, 2);
        heir.role = Role::Leader;
        heir.ballot.number = 9;
        let elected = cluster.observe(Now::default(), &Observation::Status(Box::new(heir)));
        assert_eq!(texts(&elected), ["leader n1 → n3, ballot 9"]);
        let back = cluster.observe(Now::default(), &Observation::Up { node: "kvorum-0".into() });
        assert_eq!(texts(&back), ["n1 is back"]);
        assert_eq!(cluster.node("kvorum-0").map(Node::state), Some(State::Starting));
    }

    #[test]
    fn a_deposed_leader_that_does_not_know_it_is_not_the_leader() {
        let mut cluster = cluster_of(3);
        let mut heir = status_of(3, 1);
        heir.role = Role::Leader;
        heir.ballot.number += 1;
        cluster.observe(Now::default(), &Observation::Status(Box::new(heir)));
        assert_eq!(cluster.leader(), Some("kvorum-1"));
        let stale = Observation::Status(Box::new(status_of(3, 0)));
        let stale = cluster.observe(Now::default(), &stale);
        assert!(texts(&stale).is_empty());
        assert_eq!(cluster.leader(), Some("kvorum-1"));
    }

    #[test]
    fn of_two_leaders_with_one_number_the_higher_replica_leads() {
        let mut cluster = cluster_of(3);
        let mut other = status_of(3, 2);
        other.role = Role::Leader;
        other.ballot.replica = other.replica;
        let elected = cluster.observe(Now::default(), &Observation::Status(Box::new(other)));
        assert_eq!(texts(&elected), ["leader n1 → n3, ballot 2"]);
        let late = Observation::Status(Box::new(status_of(3, 0)));
        let late = cluster.observe(Now::default(), &late);
        assert!(texts(&late).is_empty(), "the lower ballot is no new leader");
        assert_eq!(cluster.leader(), Some("kvorum-2"));
        // Each configuration numbers its ballots from the start.
        let mut next = status_of(3, 1);
        next.configuration.id.0 += 1;
        (next.role, next.ballot.number) = (Role::Leader, 1);
        let elected = cluster.observe(Now::default(), &Observation::Status(Box::new(next)));
        assert!(texts(&elected).contains(&"leader n3 → n2, ballot 1"), "{elected:?}");
    }

    #[test]
    fn replicas_are_in_the_order_of_their_numbers() {
        let mut cluster = Cluster::default();
        for name in ["kvorum-10", "kvorum-2", "other", "kvorum-0"] {
            cluster.observe(Now::default(), &Observation::Member { node: name.into() });
        }
        assert_eq!(cluster.names(), ["kvorum-0", "kvorum-2", "kvorum-10", "other"]);
    }
}
