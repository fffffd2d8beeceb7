//! The actions of a script on a cluster: on its links, processes and disks, as a client, and as the
//! orchestrator.

use bytes::Bytes;
use kvorum_protocol::access::{Access, AccessChange, KeyRange};
use kvorum_protocol::data::{ClientId, Condition, Key, LaneId, Operation, RequestId, Value};
use kvorum_protocol::message::{Admin, Consistency, Request, Subscription};
use kvorum_protocol::status::{ClusterId, Configuration, ReplicaId};
use kvorum_replica::engine::store::{Identity, IdentityStore};
use kvorum_replica::engine::{ClientKey, Engine, Input, Introduction, Rejection, Session};
use kvorum_replica::planner::Scale;
use kvorum_replica::state::rights::User;
use kvorum_replica::storage::memory::Memory;

use super::super::event::pair;
use super::super::links::judgement;
use super::super::node::Node;
use super::super::rules::{Rules, SESSION_ENTRIES};
use super::words;
use super::world::{JOINERS, World, nonce};

/// Actions on links.
impl World {
    /// Ends the session of a link, and prevents new ones.
    pub fn cut(&mut self, a: ReplicaId, b: ReplicaId, keeps: bool) -> Result<(), String> {
        self.cut.insert(pair(a, b));
        self.end_session(a, b, keeps)
    }

    /// Lets a link begin a new session.
    pub fn heal(&mut self, a: ReplicaId, b: ReplicaId) -> Result<(), String> {
        self.cut.remove(&pair(a, b));
        self.link(a, b)
    }

    /// Ends the session of a link, if there is one.
    pub(super) fn end_session(
        &mut self,
        a: ReplicaId,
        b: ReplicaId,
        keeps: bool,
    ) -> Result<(), String> {
        let Some(session) = self.links.remove(&pair(a, b)) else { return Ok(()) };
        if !keeps {
            self.frames.retain(|frame| pair(frame.from, frame.to) != pair(a, b));
        }
        for (id, peer) in [(a, b), (b, a)] {
            if self.status(id).is_some() {
                self.take(id, Input::PeerDown { peer, session })?;
            }
        }
        Ok(())
    }

    /// Begins a session, if both run, may be linked, and accept each other.
    fn link(&mut self, a: ReplicaId, b: ReplicaId) -> Result<(), String> {
        let ends = pair(a, b);
        let runs = |id| self.status(id).is_some() && !self.paused.contains(&id);
        if !runs(a) || !runs(b) || self.cut.contains(&ends) || self.links.contains_key(&ends) {
            return Ok(());
        }
        for (judge, other) in [(ends.1, ends.0), (ends.0, ends.1)] {
            let (ours, theirs) = (self.engine(judge)?, self.engine(other)?);
            if let Err(why) = judgement(ours, theirs) {
                let (judge_name, name) = (words::node(judge), words::node(other));
                let what = self.in_words(&why.to_string());
                let last = self.said.insert((judge, other), what.clone());
                if last.as_ref() != Some(&what) {
                    self.tell(format_args!("{judge_name} turns {name} away: {what}"));
                }
                if matches!(why, Rejection::OtherDisk { .. }) {
                    self.take(other, Input::Disowned { peer: judge, is_proven: true })?;
                }
                return Ok(());
            }
        }
        self.sessions += 1;
        let session = Session(self.sessions);
        self.links.insert(ends, session);
        let introductions = (self.introduction(a, b)?, self.introduction(b, a)?);
        self.process(a)?.engine.step(Input::Met(introductions.1));
        self.process(b)?.engine.step(Input::Met(introductions.0));
        self.take(a, Input::PeerUp { peer: b, session })?;
        self.take(b, Input::PeerUp { peer: a, session })
    }

    fn engine(&self, id: ReplicaId) -> Result<&Engine<Memory>, String> {
        let process = self.nodes.get(&id).and_then(|node| node.process.as_ref());
        let engine = process.map(|process| &process.engine);
        engine.ok_or_else(|| format!("{} does not run", words::node(id)))
    }

    fn introduction(&self, id: ReplicaId, to: ReplicaId) -> Result<Introduction, String> {
        let greeting = self.engine(id)?.greet(to, None).map_err(|why| why.to_string())?;
        Ok(greeting.mine)
    }

    /// Tries all links that are down, as the transport always does.
    pub(super) fn link_again(&mut self) -> Result<(), String> {
        let running: Vec<_> = self.running().collect();
        running.into_iter().try_for_each(|id| self.link_all(id))
    }

    /// Links a replica with all others.
    fn link_all(&mut self, id: ReplicaId) -> Result<(), String> {
        let others: Vec<_> = self.running().filter(|other| *other != id).collect();
        others.into_iter().try_for_each(|other| self.link(id, other))
    }
}

/// Actions on processes and disks.
impl World {
    /// Starts a process on its existing disk, and links it with all others.
    pub fn start(&mut self, id: ReplicaId) -> Result<(), String> {
        self.stopped(id)?.start(Rules::default());
        self.ask_marker(id)?;
        self.link_all(id)
    }

    /// Ends a process without a sync.
    pub fn crash(&mut self, id: ReplicaId, keeps: usize) -> Result<(), String> {
        self.process(id)?;
        let node = self.node(id)?;
        let (keeps, nonce) = (keeps.min(node.disk.unsynced()), nonce(id.0, node.life));
        node.crash(keeps, nonce);
        let peers: Vec<_> =
            self.links.keys().copied().filter(|(a, b)| *a == id || *b == id).collect();
        peers.into_iter().try_for_each(|(a, b)| self.end_session(a, b, false))
    }

    /// Ends a process that syncs first.
    pub fn stop(&mut self, id: ReplicaId) -> Result<(), String> {
        let disk = self.node(id)?.disk.clone();
        disk.sync_writes(disk.unsynced());
        self.crash(id, 0)
    }

    /// Pauses a replica, or lets it go on.
    pub fn pause(&mut self, id: ReplicaId, is_paused: bool) -> Result<(), String> {
        self.process(id)?;
        if is_paused {
            self.paused.insert(id);
        } else {
            self.paused.remove(&id);
        }
        Ok(())
    }

    /// Replaces a disk by an empty one.
    pub fn lose_disk(&mut self, id: ReplicaId) -> Result<(), String> {
        let node = self.stopped(id)?;
        let nonce = nonce(id.0, node.life);
        node.lose_disk(nonce);
        Ok(())
    }

    /// Copies a disk in its current state.
    pub fn copy_disk(&mut self, id: ReplicaId) -> Result<(), String> {
        let disk = &self.node(id)?.disk;
        let copy = disk.copied(disk.unsynced());
        self.copies.insert(id, copy);
        Ok(())
    }

    /// Replaces the disk by its copy.
    pub fn bring_back(&mut self, id: ReplicaId) -> Result<(), String> {
        let copy = self.copies.get(&id).cloned();
        let copy = copy.ok_or_else(|| format!("there is no copy of {}", words::node(id)))?;
        let node = self.stopped(id)?;
        node.disk = copy.restart(0, nonce(id.0, node.life));
        node.disk.sync_writes(node.disk.unsynced());
        Ok(())
    }

    /// Changes a key behind a replica's back.
    pub fn alter(&mut self, id: ReplicaId, key: &str) -> Result<(), String> {
        self.node(id)?.disk.alter(&Bytes::copy_from_slice(key.as_bytes()));
        Ok(())
    }

    /// Includes routine messages in the output from now on, or excludes them.
    pub fn tell_all(&mut self, all: bool) -> Result<(), String> {
        if self.tells_all == all {
            return Err("that is told already, or not".to_owned());
        }
        self.tells_all = all;
        Ok(())
    }

    /// Writes down the state of each replica.
    pub fn state(&mut self) -> Result<(), String> {
        if self.nodes.is_empty() {
            return Err("there is no cluster".to_owned());
        }
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            let who = words::node(id);
            let Some(status) = self.status(id) else {
                self.tell(format_args!("{who} does not run"));
                continue;
            };
            let (ballot, configuration) = (status.ballot.number, &status.configuration);
            let (number, members) = (configuration.id.0, words::members(&configuration.members));
            let role = format!("{:?}", status.role).to_lowercase();
            let log = format!("accepted {}, decided {}", status.accepted, status.decided);
            self.tell(format_args!(
                "{who} {role}, b{ballot}, {log}, configuration {number}: {members}"
            ));
        }
        Ok(())
    }

    /// Writes down the problem that keeps a replica from serving.
    pub fn trouble(&mut self, id: ReplicaId) -> Result<(), String> {
        let status = self.process(id)?.engine.status();
        let waits = status.membership.waits.map(|why| format!("waits: {why}"));
        let trouble = status.trouble.or(waits).unwrap_or_else(|| "all is well".to_owned());
        let trouble = self.in_words(&trouble);
        self.tell(format_args!("{}: {trouble}", words::node(id)));
        Ok(())
    }
}

/// Actions of clients.
impl World {
    /// Writes a key, as a client.
    pub fn put(
        &mut self,
        id: ReplicaId,
        key: &str,
        value: &str,
        condition: Condition,
        valid_until: Option<u64>,
    ) -> Result<(), String> {
        let value = Value(Bytes::copy_from_slice(value.as_bytes()));
        let operation = Operation::Put { key: Key::from(key.to_owned()), value, condition };
        self.write(id, operation, valid_until)
    }

    /// Deletes a key, as a client.
    pub fn delete(&mut self, id: ReplicaId, key: &str, if_: Condition) -> Result<(), String> {
        self.write(id, Operation::Delete { key: Key::from(key.to_owned()), condition: if_ }, None)
    }

    fn write(
        &mut self,
        id: ReplicaId,
        operation: Operation,
        valid_until: Option<u64>,
    ) -> Result<(), String> {
        let name = words::operation(&operation);
        let number = u32::try_from(self.requests.len()).expect("scripts are short");
        let lane = LaneId { client: ClientId(1), number };
        let told = self.process(id)?.engine.applied();
        let valid_until = valid_until.unwrap_or(told + SESSION_ENTRIES);
        let request_id = RequestId { lane, sequence: 1 };
        let request = Request::Write { id: request_id, valid_until, operation };
        self.requests.insert(name.clone(), request.clone());
        self.ask(id, 0, name, request)
    }

    /// Sends a client's request once more.
    pub fn again(&mut self, id: ReplicaId, name: &str) -> Result<(), String> {
        let request = self.requests.get(name).cloned();
        let request = request.ok_or_else(|| format!("nobody asked '{name}'"))?;
        self.ask(id, 0, name.to_owned(), request)
    }

    /// Reads a key, as a client.
    pub fn get(&mut self, id: ReplicaId, key: &str, local: bool) -> Result<(), String> {
        let consistency = if local { Consistency::Local } else { Consistency::Linearizable };
        self.ask(
            id,
            0,
            format!("get {key}"),
            Request::Get { key: Key::from(key.to_owned()), consistency },
        )
    }

    /// Makes the client a user from now on.
    pub fn be(&mut self, user: &str) {
        self.user = Some(User::Client(user.into()));
    }

    /// Adds a user with a role of the same name, which has a right to the keys with a prefix.
    pub fn allow(
        &mut self,
        id: ReplicaId,
        user: &str,
        access: Access,
        prefix: &str,
    ) -> Result<(), String> {
        let (user, role) = (user.to_owned(), user.to_owned());
        let range = KeyRange::prefix(prefix.as_bytes());
        let changes = [
            AccessChange::AddUser { user: user.clone() },
            AccessChange::AddRole { role: role.clone() },
            AccessChange::Grant { role: role.clone(), range, access },
            AccessChange::GiveRole { user, role },
        ];
        let mut write = |change| self.write(id, Operation::Access(change), None);
        changes.into_iter().try_for_each(&mut write)
    }

    /// Takes such a right away.
    pub fn forbid(&mut self, id: ReplicaId, user: &str, prefix: &str) -> Result<(), String> {
        let (role, range) = (user.to_owned(), KeyRange::prefix(prefix.as_bytes()));
        self.write(id, Operation::Access(AccessChange::Revoke { role, range }), None)
    }

    /// Subscribes to the keys with a prefix, as a client.
    pub fn watch(&mut self, id: ReplicaId, prefix: &str) -> Result<(), String> {
        let subscription = Subscription::Keys { prefix: prefix.as_bytes().to_vec(), from: 0 };
        self.ask(id, 1, format!("watch {prefix}"), Request::Subscribe(subscription))
    }

    /// Hands leadership over, as an administrator.
    pub fn hand_over(&mut self, id: ReplicaId, to: Option<ReplicaId>) -> Result<(), String> {
        let name = |to| self.nodes.get(&to).map(|node| node.disk.identity().name.clone());
        let to = to.and_then(name).unwrap_or_default();
        self.ask(id, 0, "hand-over".to_owned(), Request::Admin(Admin::HandOver { to }))
    }

    fn ask(
        &mut self,
        id: ReplicaId,
        client: u64,
        name: String,
        request: Request,
    ) -> Result<(), String> {
        let call = self.calls.len() as u64 + 1;
        self.calls.insert(call, name);
        let (client, user) = (ClientKey(client), self.user.clone().unwrap_or(User::Anonymous));
        self.take(id, Input::Client { client, call, user, request })
    }
}

/// Actions of the orchestrator.
impl World {
    /// Makes the marker reachable, or unreachable.
    pub fn reach_marker(&mut self, is_reached: bool) -> Result<(), String> {
        self.marker.as_ref().ok_or("there is no marker before there is a cluster")?;
        self.has_marker = is_reached;
        Ok(())
    }

    /// Makes the marker name a cluster.
    pub fn mark_for(&mut self, cluster: ClusterId) -> Result<(), String> {
        let marker = self.marker.as_mut().ok_or("there is no marker before there is a cluster")?;
        marker.cluster = cluster;
        Ok(())
    }

    /// Sets the wanted number of replicas, and reports it.
    pub fn scale(&mut self, replicas: u32) -> Result<(), String> {
        self.wanted = Some(replicas);
        let running: Vec<_> = self.running().collect();
        running.into_iter().try_for_each(|id| self.hear(id))
    }

    /// Reports another number to a replica than the wanted one.
    pub fn mislead(&mut self, id: ReplicaId, replicas: u32) -> Result<(), String> {
        self.take(id, Input::Scale { wanted: Some(Scale { start: 0, replicas }), read: None })
    }

    fn hear(&mut self, id: ReplicaId) -> Result<(), String> {
        let wanted = self.wanted.map(|replicas| Scale { start: 0, replicas });
        self.take(id, Input::Scale { wanted, read: None })
    }

    /// Requests an id at a replica, for the volume of an ordinal.
    pub fn join(&mut self, id: ReplicaId, ordinal: u32) -> Result<(), String> {
        let name = format!("kvorum-{ordinal}");
        let nonce = nonce(100 + u64::from(ordinal), self.nodes.len() as u64);
        let request = Request::Admin(Admin::Join { name, nonce });
        let client = JOINERS + u64::from(ordinal);
        self.ask(id, client, format!("join kvorum-{ordinal}"), request)
    }

    /// Starts a new replica on a volume that has got an id, in the place of its earlier one.
    pub(super) fn joined(
        &mut self,
        ordinal: u64,
        replica: ReplicaId,
        members: Configuration,
    ) -> Result<(), String> {
        let name = format!("kvorum-{ordinal}");
        let (cluster, nonce) =
            (self.nodes[&ReplicaId(1)].disk.identity().cluster, nonce(replica.0, 0));
        let old =
            self.nodes.values().find(|node| node.disk.identity().name == name && !node.is_gone);
        if let Some(old) = old.map(|node| node.id) {
            if self.status(old).is_some() {
                self.stop(old)?;
            }
            self.node(old)?.is_gone = true;
        }
        let identity = Identity { cluster, replica, name, incarnation: 1, nonce };
        self.nodes.insert(replica, Node::joiner(identity, members));
        self.start(replica)?;
        self.hear(replica)
    }
}
