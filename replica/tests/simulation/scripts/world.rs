//! A cluster in which only the actions of a script happen, and which records their results.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;

use kvorum_protocol::message::{Answer, Event, Request, ServerFrame};
use kvorum_protocol::status::{Configuration, ConfigurationId, ReplicaId, Status};
use kvorum_replica::engine::store::{Identity, IdentityStore};
use kvorum_replica::engine::{After, Input, Output, PeerMessage, Session, Verdict};
use kvorum_replica::marker::{Mark, Marker};
use kvorum_replica::planner::Scale;
use kvorum_replica::state::rights::User;
use kvorum_replica::state::version::Version;
use kvorum_replica::storage::memory::Memory;

use super::super::event::pair;
use super::super::marker;
use super::super::node::{Node, Process};
use super::command::Until;
use super::words;

/// Rounds of delivering and syncing after which a script counts as never settling.
const ROUNDS_MAX: usize = 10_000;
/// The first connection of joiners that request an id; lower ones are clients.
pub(super) const JOINERS: u64 = 1000;

/// A message under way.
pub(super) struct Frame {
    pub from: ReplicaId,
    pub to: ReplicaId,
    session: Session,
    message: PeerMessage,
}

impl Frame {
    /// Whether it goes to `to`, and comes from `from` if one is given.
    fn is_between(&self, from: Option<ReplicaId>, to: ReplicaId) -> bool {
        self.to == to && from.is_none_or(|from| self.from == from)
    }
}

/// The facts about a replica that were written down last.
#[derive(Default)]
pub(super) struct Told {
    pub decided: u64,
    pub may_go: bool,
    /// The coverage of a lone replica's last sync: an index, and a round of reads.
    synced: Option<(u64, u64)>,
}

/// The cluster of a script.
#[derive(Default)]
pub struct World {
    pub(super) nodes: BTreeMap<ReplicaId, Node>,
    pub(super) links: BTreeMap<(ReplicaId, ReplicaId), Session>,
    pub(super) cut: BTreeSet<(ReplicaId, ReplicaId)>,
    pub(super) paused: BTreeSet<ReplicaId>,
    /// Messages under way, in the order in which they were sent.
    pub(super) frames: Vec<Frame>,
    /// Inputs that replicas get at once: the answers to their reads, looks and marks.
    pub(super) answers: VecDeque<(ReplicaId, Input)>,
    pub(super) sessions: u64,
    pub(super) marker: Option<Marker>,
    pub(super) has_marker: bool,
    pub(super) wanted: Option<u32>,
    /// The request of each call, in words.
    pub(super) calls: BTreeMap<u64, String>,
    /// Requests that clients may repeat, by their words.
    pub(super) requests: BTreeMap<String, Request>,
    /// The user that the clients are; `None` while they may do everything.
    pub(super) user: Option<User>,
    pub(super) copies: BTreeMap<ReplicaId, Memory>,
    /// The last message of each replica to each other one.
    pub(super) said: BTreeMap<(ReplicaId, ReplicaId), String>,
    pub(super) configurations: BTreeMap<ConfigurationId, Configuration>,
    pub(super) told: BTreeMap<ReplicaId, Told>,
    pub(super) tells_all: bool,
    lines: String,
}

impl World {
    /// Starts a new cluster, and links its replicas.
    pub fn begin(&mut self, replicas: u64) -> Result<(), String> {
        self.has_marker = true;
        for id in 1..=replicas {
            let node = Node::new(id, replicas, nonce(id, 0), Version::NEWEST);
            let Identity { cluster, nonce, .. } = *node.disk.identity();
            self.marker.get_or_insert_with(|| Marker::new(cluster, nonce));
            self.nodes.insert(ReplicaId(id), node);
        }
        (1..=replicas).try_for_each(|id| self.start(ReplicaId(id)))?;
        self.scale(u32::try_from(replicas).expect("clusters are small"))
    }

    /// Lets time pass until `leader` leads and all replicas are in step; writes down only their
    /// final state.
    pub fn elect(&mut self, leader: ReplicaId) -> Result<(), String> {
        self.run(200, Some(Until::Leader))?;
        if !Until::Leads(leader).holds(self) {
            let leads = self.running().find(|id| Until::Leads(*id).holds(self));
            self.hand_over(leads.expect("it was waited for"), Some(leader))?;
        }
        self.run(30, None)?;
        self.lines.clear();
        self.state()
    }

    /// Returns the lines written since the last call.
    pub fn take_lines(&mut self) -> String {
        std::mem::take(&mut self.lines)
    }

    /// Returns the replicas whose process runs.
    pub fn running(&self) -> impl Iterator<Item = ReplicaId> {
        self.nodes.iter().filter(|(_, node)| node.process.is_some()).map(|(id, _)| *id)
    }

    /// Returns the status of a running replica.
    pub fn status(&self, id: ReplicaId) -> Option<Status> {
        let process = self.nodes.get(&id)?.process.as_ref();
        process.map(|process| process.engine.status())
    }

    pub(super) fn tell(&mut self, line: std::fmt::Arguments<'_>) {
        self.lines.write_fmt(line).expect("a string takes what is written");
        self.lines.push('\n');
    }

    pub(super) fn node(&mut self, id: ReplicaId) -> Result<&mut Node, String> {
        self.nodes.get_mut(&id).ok_or_else(|| format!("there is no {}", words::node(id)))
    }

    pub(super) fn process(&mut self, id: ReplicaId) -> Result<&mut Process, String> {
        let process = self.node(id)?.process.as_mut();
        process.ok_or_else(|| format!("{} does not run", words::node(id)))
    }

    pub(super) fn stopped(&mut self, id: ReplicaId) -> Result<&mut Node, String> {
        match self.node(id)? {
            node if node.process.is_none() => Ok(node),
            _ => Err(format!("{} runs", words::node(id))),
        }
    }

    /// Rewrites a replica's text with the names of replicas that scripts use.
    pub(super) fn in_words(&self, text: &str) -> String {
        let mut names: Vec<_> = self.nodes.values().filter(|node| !node.is_gone).collect();
        names.sort_by_key(|node| std::cmp::Reverse(node.disk.identity().name.len()));
        names.iter().fold(text.to_owned(), |text, node| {
            text.replace(&node.disk.identity().name, &words::node(node.id))
        })
    }

    // Time, messages and syncs.

    /// Lets a tick pass at a replica, or at all running ones.
    pub fn tick(&mut self, id: Option<ReplicaId>) -> Result<(), String> {
        let all: Vec<_> = self.running().filter(|one| !self.paused.contains(one)).collect();
        let one = id.map(|id| vec![id]);
        one.unwrap_or(all).into_iter().try_for_each(|id| self.take(id, Input::Tick))
    }

    /// Lets ticks pass, and settles after each.
    pub fn run(&mut self, ticks: u64, until: Option<Until>) -> Result<(), String> {
        for _ in 0..ticks {
            self.link_again()?;
            self.settle()?;
            if until.is_some_and(|until| until.holds(self)) {
                return Ok(());
            }
            self.tick(None)?;
        }
        self.settle()?;
        match until {
            Some(until) if !until.holds(self) => Err(format!("not within {ticks} ticks")),
            _ => Ok(()),
        }
    }

    /// Delivers and syncs until no message or sync is under way.
    pub fn settle(&mut self) -> Result<(), String> {
        for _ in 0..ROUNDS_MAX {
            let frames = self.take_frames(|_| true);
            if frames.is_empty() && self.due().is_empty() {
                return Ok(());
            }
            frames.into_iter().try_for_each(|frame| self.arrive(frame))?;
            self.due().into_iter().try_for_each(|id| self.sync_once(id))?;
        }
        Err("it does not settle".to_owned())
    }

    /// Returns the replicas whose messages or decisions wait for a sync.
    fn due(&self) -> Vec<ReplicaId> {
        self.nodes.keys().copied().filter(|id| self.is_due(*id)).collect()
    }

    /// Whether messages of a replica, or its decisions, wait for a sync.
    fn is_due(&self, id: ReplicaId) -> bool {
        let process = self.nodes[&id].process.as_ref();
        process.is_some_and(|process| process.syncing.is_some()) && !self.paused.contains(&id)
    }

    /// Takes the messages that are meant and can arrive out of those under way.
    fn take_frames(&mut self, is_meant: impl Fn(&Frame) -> bool) -> Vec<Frame> {
        let paused = &self.paused;
        let arrives = |frame: &mut Frame| is_meant(frame) && !paused.contains(&frame.to);
        self.frames.extract_if(.., arrives).collect()
    }

    /// Delivers messages under way to a replica.
    pub fn deliver(
        &mut self,
        to: ReplicaId,
        from: Option<ReplicaId>,
        count: Option<usize>,
    ) -> Result<(), String> {
        let mut frames = self.take_frames(|frame| frame.is_between(from, to));
        let rest = frames.split_off(count.unwrap_or(frames.len()).min(frames.len()));
        self.frames.splice(0..0, rest);
        frames.into_iter().try_for_each(|frame| self.arrive(frame))
    }

    /// Loses the messages under way to a replica.
    pub fn lose(&mut self, to: ReplicaId, from: Option<ReplicaId>) -> Result<(), String> {
        self.node(to)?;
        for frame in self.take_frames(|frame| frame.is_between(from, to)) {
            let of = self.configuration_of(frame.from, &frame.message);
            let what = words::message(&frame.message, &of);
            self.tell(format_args!("{} never gets: {what}", words::node(to)));
        }
        Ok(())
    }

    fn arrive(&mut self, frame: Frame) -> Result<(), String> {
        let Frame { from, to, session, message } = frame;
        if self.status(to).is_none() {
            return Ok(());
        }
        self.take(to, Input::Peer { peer: from, session, message })
    }

    /// Syncs a replica's disk until no message or decision waits for it.
    pub fn sync(&mut self, id: ReplicaId) -> Result<(), String> {
        self.process(id)?;
        if !self.is_due(id) {
            self.tell(format_args!("{} has nothing to sync", words::node(id)));
        }
        while self.is_due(id) {
            self.sync_once(id)?;
        }
        Ok(())
    }

    /// Ends the sync under way: the writes it covers are durable, and messages that waited for it
    /// leave.
    fn sync_once(&mut self, id: ReplicaId) -> Result<(), String> {
        let node = self.node(id)?;
        let Some(process) = &mut node.process else { return Ok(()) };
        let Some(covered) = process.syncing.take() else { return Ok(()) };
        node.disk.sync_writes(covered);
        let written = process.gate.take_synced();
        let free = process.gate.complete();
        let decides = written.filter(|it| it.index > 0).map(|it| (it.index, it.round));
        let told = &mut self.told.entry(id).or_default().synced;
        let is_news = decides.is_some() && *told != decides;
        *told = decides.or(*told);
        if is_news || self.tells_all || free.iter().any(|(_, it)| !words::is_routine(it)) {
            self.tell(format_args!("{} syncs", words::node(id)));
        }
        for (to, message) in free {
            self.send(id, to, message);
        }
        if let Some(written) = written {
            self.take(id, Input::Synced(written))?;
        }
        self.begin_sync(id);
        Ok(())
    }

    fn begin_sync(&mut self, id: ReplicaId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let unsynced = node.disk.unsynced();
        if let Some(process) = &mut node.process
            && process.gate.begin()
        {
            process.syncing = Some(unsynced);
        }
    }

    /// Sends a message, if a session allows it.
    fn send(&mut self, from: ReplicaId, to: ReplicaId, message: PeerMessage) {
        let session = self.nodes[&from].process.as_ref().and_then(|it| it.session(to));
        let Some(session) = session.filter(|it| self.links.get(&pair(from, to)) == Some(it)) else {
            return;
        };
        self.frames.push(Frame { from, to, session, message });
    }

    // Inputs and outputs of a replica.

    /// Gives a replica an input, ends its turn, and handles its outputs; then the inputs that
    /// follow at once.
    pub fn take(&mut self, id: ReplicaId, input: Input) -> Result<(), String> {
        self.process(id)?;
        self.answers.push_back((id, input));
        while let Some((id, input)) = self.answers.pop_front() {
            let Ok(process) = self.process(id) else { continue };
            process.step(input);
            loop {
                for output in self.process(id)?.turn() {
                    self.output(id, output)?;
                }
                self.observe(id);
                if !self.process(id)?.engine.has_more() {
                    break;
                }
            }
            self.begin_sync(id);
        }
        Ok(())
    }

    fn output(&mut self, id: ReplicaId, output: Output) -> Result<(), String> {
        match output {
            Output::Send { to, message, after } => {
                let waits = if after == After::Sync { ", after its sync" } else { "" };
                self.tell_sent(id, to, &message, waits);
                if let Some(message) = self.process(id)?.gate(to, message, after) {
                    self.send(id, to, message);
                }
            }
            Output::Frame { client, frame: ServerFrame::Answer { call, answer } } => {
                let asked = self.calls.get(&call).cloned().unwrap_or_default();
                let (who, what) = (words::node(id), words::answer(&answer));
                self.tell(format_args!("{who} answers '{asked}': {what}"));
                if let (Answer::Joined { replica, configuration }, JOINERS..) = (answer, client.0) {
                    self.joined(client.0 - JOINERS, replica, configuration)?;
                }
            }
            Output::Read { asker, wanted, number } => {
                if let Some(found) = self.process(id)?.read(&wanted, number) {
                    self.answers.push_back((id, Input::Read { asker, found }));
                }
            }
            Output::Sync(written) => self.process(id)?.gate.wait_for(written),
            Output::Mark(mark) => self.mark(id, mark),
            Output::ReadScale(read) => {
                let wanted = self.wanted.map(|replicas| Scale { start: 0, replicas });
                if let Some(wanted) = wanted {
                    let input = Input::Scale { wanted: Some(wanted), read: Some(read) };
                    self.answers.push_back((id, input));
                }
            }
            Output::EndClient { .. } => {
                self.tell(format_args!("{} ends the client's connection", words::node(id)));
            }
            Output::EndSession { peer } => self.end_session(id, peer, false)?,
            Output::Notice(notice) => self.notice(id, notice),
            Output::Frame {
                frame: ServerFrame::Event { event: Event::Key(event), .. }, ..
            } => {
                let key = String::from_utf8_lossy(&event.key.0);
                self.tell(format_args!("{} tells of {key}, {}", words::node(id), event.index));
            }
            Output::Frame { .. } | Output::Status { .. } | Output::LeaderChanged(_) => {}
            Output::Known(_) => {}
            Output::Scan { .. } | Output::Crash => return Err(format!("{output:?}")),
        }
        Ok(())
    }

    /// Sends a mark to the marker, which answers at once.
    fn mark(&mut self, id: ReplicaId, mark: Mark) {
        let Some(marker) = &mut self.marker else { return };
        let verdicts = match self.has_marker {
            true => marker::tell(marker, &self.nodes[&id].disk, mark),
            false => vec![Verdict::Unreachable("nobody answers".to_owned())],
        };
        if let Some(configuration) = mark.solo {
            let what = match &verdicts[0] {
                Verdict::Refused(why) => format!("refuses: {why}"),
                Verdict::Unreachable(_) => "is out of reach".to_owned(),
                Verdict::Foreign(_) => "names another cluster".to_owned(),
                _ => "names it".to_owned(),
            };
            let (who, number) = (words::node(id), configuration.0);
            self.tell(format_args!(
                "{who} asks to be alone in configuration {number}: the marker {what}"
            ));
        }
        let inputs = verdicts.into_iter().map(|verdict| (id, Input::Marked { mark, verdict }));
        self.answers.extend(inputs);
    }
}

impl World {
    /// Asks the marker, for a process that starts, whether its disk is the one that it knows.
    pub(super) fn ask_marker(&mut self, id: ReplicaId) -> Result<(), String> {
        let marker = self.marker.as_ref().filter(|_| self.has_marker);
        let disk = &self.nodes[&id].disk;
        let verdict = marker.and_then(|marker| marker::at_start(marker, disk));
        if let Some(Verdict::Refused(why)) = &verdict {
            let what = self.in_words(why);
            self.tell(format_args!("the marker refuses {}: {what}", words::node(id)));
        }
        let mark = Mark::default();
        verdict.map_or(Ok(()), |verdict| self.take(id, Input::Marked { mark, verdict }))
    }
}

/// Returns the number that a volume draws at a start.
pub(super) fn nonce(id: u64, start: u64) -> u64 {
    id * 1000 + start + 1
}
