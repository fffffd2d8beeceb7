//! Links between replicas: the beginning and the end of sessions.

use kvorum_protocol::status::ReplicaId;
use kvorum_replica::engine::store::IdentityStore;
use kvorum_replica::engine::{
    Claim, Engine, Greeting, Input, PeerMessage, Rejection, SLOW_TICKS, Session,
};
use kvorum_replica::state::machine::Table;
use kvorum_replica::state::start::Start;
use kvorum_replica::storage::memory::Memory;
use omnipaxos::messages::Message;
use rand::RngExt;

use super::checker::Checker;
use super::cluster::{Cluster, TICK_US};
use super::event::{Event, pair};

/// Time after which both ends know that a session is over.
const END_IS_KNOWN_US: u64 = 60_000;
/// Duration of a sync after which a replica asks the others, as in the driver.
const SYNC_SLOW_US: u64 = SLOW_TICKS * TICK_US;
/// Probability that a frame of a broken session comes late, rather than not at all.
const COMES_LATE: f64 = 0.5;

/// Checks whether a replica accepts another one as the replica that it remembers.
pub fn judgement(ours: &Engine<Memory>, theirs: &Engine<Memory>) -> Result<(), Rejection> {
    let replica = |engine: &Engine<Memory>| engine.store().identity().replica;
    let Greeting { mine, seen, .. } = ours.greet(replica(theirs), None)?;
    // The transport does this by signatures.
    let start = theirs.start_seen(mine.last_saw);
    let is_its = |start: &Start| seen.is_none_or(|seen| start.secret.key() == seen.key);
    let reaches = start.filter(is_its).map(|start| start.reaches());
    let theirs = theirs.greet(replica(ours), None)?.mine;
    ours.judge(&Claim { theirs, seen, reaches })
}

impl Cluster {
    pub(super) fn connect(&mut self, low: ReplicaId, high: ReplicaId) -> Result<(), String> {
        if !self.links.contains_key(&(low, high)) {
            return Ok(());
        }
        let retry = self.random.random_range(5_000..60_000);
        self.schedule(retry, Event::Connect { low, high });
        let now_us = self.now_us;
        let mut answers = |id| {
            let node = self.node(id);
            node.process.is_some() && node.paused_until_us <= now_us
        };
        let both_up = answers(low) && answers(high);
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
            // No frame of the session arrives before the end knows the session.
            self.arrivals.insert((peer, node, session), self.now_us + delay);
            self.schedule(delay, Event::Up { node, life, peer, session });
        }
        Ok(())
    }

    /// Lets a replica judge a peer, as the transport does. A rejected peer learns that its disk is
    /// not the remembered one.
    fn judge(&mut self, id: ReplicaId, peer: ReplicaId) -> Result<bool, String> {
        let lost_disk = self.node(peer).lost_disk;
        let (Some(theirs), Some(ours)) = (self.engine(peer), self.engine(id)) else {
            return Ok(false);
        };
        let is_member = ours.store().chain().current.name_of(peer).is_some();
        match judgement(ours, theirs) {
            Ok(()) => Ok(true),
            Err(Rejection::OtherDisk { .. }) if lost_disk => {
                if !self.rules.knows_disks {
                    return Ok(true);
                }
                self.turn(peer, Input::Disowned { peer: id, is_proven: true })?;
                Ok(false)
            }
            // Not every replica knows yet which replicas join, or left.
            Err(Rejection::NoMember { .. }) if self.scaling.is_some() => Ok(false),
            // A replica that has left does not hold back the version.
            Err(Rejection::Version { .. }) if !is_member => Ok(false),
            Err(other) => Err(format!("{id:?} rejects {peer:?}, which lost no disk: {other}")),
        }
    }

    /// Begins a session at one end of a link.
    pub(super) fn session_begins(
        &mut self,
        id: ReplicaId,
        peer: ReplicaId,
        session: Session,
    ) -> Result<(), String> {
        let Some(theirs) = self.engine(peer) else { return Ok(()) };
        let theirs = theirs.greet(id, None).map_err(|why| why.to_string())?.mine;
        let Some(process) = &mut self.node(id).process else { return Ok(()) };
        process.engine.step(Input::Met(theirs));
        self.turn(id, Input::PeerUp { peer, session })
    }

    pub(super) fn engine(&self, id: ReplicaId) -> Option<&Engine<Memory>> {
        self.nodes[self.place(id)].process.as_ref().map(|process| &process.engine)
    }

    /// Breaks a link: some frames under way still arrive, and each end notices later.
    pub(super) fn break_link(&mut self, low: ReplicaId, high: ReplicaId) {
        let Some(link) = self.links.get_mut(&(low, high)) else { return };
        let Some(session) = link.session.take() else { return };
        self.tally.broken_sessions += 1;
        for (from, to) in [(low, high), (high, low)] {
            let last = self.now_us + self.random.random_range(0..2_000);
            let is_cut_off = |time: u64, event: &Event| match event {
                Event::Deliver { from: f, to: t, session: s, .. } => {
                    (*f, *t, *s) == (from, to, session) && time > last
                }
                _ => false,
            };
            let gone = self.events.iter().filter(|((time, _), event)| is_cut_off(*time, event));
            for at in gone.map(|(at, _)| *at).collect::<Vec<_>>() {
                let event = self.events.remove(&at).expect("it was just listed");
                // Not before the other end knows that the session is over: links have no gaps.
                if self.random.random_bool(COMES_LATE) {
                    self.tally.late_frames += 1;
                    let late = self.random.random_range(END_IS_KNOWN_US..400_000);
                    self.schedule(late, event);
                }
            }
            let life = self.node(to).life;
            let delay = self.random.random_range(0..END_IS_KNOWN_US);
            self.schedule(delay, Event::Down { node: to, life, peer: from, session });
        }
    }

    /// Informs a replica whether its sync takes long, as the driver does at each tick.
    pub(super) fn look_at_sync(&mut self, id: ReplicaId) {
        let now_us = self.now_us;
        if let Some(process) = &mut self.node(id).process {
            let is_slow = process.sync_takes(SYNC_SLOW_US, now_us);
            process.step(Input::SyncIsSlow(is_slow));
        }
    }

    /// Sends a message of a replica, if its sessions allow it.
    pub(super) fn send(
        &mut self,
        from: ReplicaId,
        to: ReplicaId,
        message: PeerMessage,
    ) -> Result<(), String> {
        let now_us = self.now_us;
        let node = self.node(from);
        let Some(process) = &node.process else { return Ok(()) };
        let Some(session) = process.session(to) else { return Ok(()) };
        let is_heartbeat = matches!(&message, PeerMessage::Paxos { message: Message::BLE(_), .. });
        if is_heartbeat && process.engine.falls_silent() {
            return Ok(());
        }
        let disk = node.disk.clone();
        self.tally.messages += 1;
        if self.loses_hint(&message) {
            return Ok(());
        }
        if self.rules.checks_messages {
            Checker::message(&disk, &message)?;
        }
        Checker::is_known(&message, self.node(to).newest)?;
        let current = self.links.get(&pair(from, to)).and_then(|link| link.session);
        if current != Some(session) {
            // The other end is gone: the bytes are lost.
            return Ok(());
        }
        let delay = self.random.random_range(50..1_500);
        let mute = self.mute_until.get(&(from, to)).copied().unwrap_or(0);
        let mut arrival = (now_us + delay).max(mute);
        // Urgent messages have a lane of their own.
        if !message.is_urgent() {
            let last = self.arrivals.entry((from, to, session)).or_default();
            arrival = arrival.max(*last + 1);
            *last = arrival;
        }
        let message = Box::new(message);
        self.schedule(arrival - now_us, Event::Deliver { from, to, session, message });
        Ok(())
    }
}
