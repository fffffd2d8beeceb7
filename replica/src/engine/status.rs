//! Pure: what a replica says about itself.
//!
//! Guarantees that whatever keeps the replica from serving is said in words, with the cure.

use kvorum_protocol::status::{Ballot, Member, ReplicaId, Role, Status};
use omnipaxos::ballot_leader_election::Ballot as SlotBallot;

use super::Engine;
use super::consensus::Consensus;
use super::subscriptions::Turning;
use crate::chain::Standing;
use crate::planner;
use crate::storage::Store;

/// Ticks after which a member without a link is gone, for people.
const GONE_TICKS: u64 = 200;

/// A replica that lags the decided index it knows by more than this is not ready.
const READY_LAG_MAX: u64 = 1024;

impl<S: Store> Engine<S> {
    /// The leader of the promised ballot, and whether this replica is in step with it.
    pub(super) fn leader(&self) -> Option<(ReplicaId, bool)> {
        self.consensus.as_ref()?.leader()
    }

    /// The leader's name, when this replica is in step with it.
    pub fn leader_name(&self) -> Option<String> {
        let (leader, _) = self.leader().filter(|(_, is_in_step)| *is_in_step)?;
        self.configuration.name_of(leader).map(str::to_owned)
    }

    /// How far this replica has applied the log.
    pub fn applied(&self) -> u64 {
        self.store.applied()
    }

    /// The index up to which this replica cannot tell what the entries did.
    pub(super) fn compacted(&self) -> u64 {
        self.log_begins_after().max(self.store.since())
    }

    /// Messages that were dropped because they must not be.
    pub fn dropped(&self) -> u64 {
        self.consensus.as_ref().map_or(0, Consensus::dropped)
    }

    /// Writes and reads that wait for something.
    pub fn waiting(&self) -> (usize, usize) {
        (self.proposals.count(), self.reads.count())
    }

    /// What this replica says about itself; the caller adds the times.
    pub fn status(&self) -> Status {
        let me = self.store.identity();
        let applied = self.store.applied();
        let role = self.role();
        let (ballot, accepted, decided) = match &self.consensus {
            // A copied state may be ahead of the log.
            Some(c) => (c.promise(), c.accepted().max(applied), c.decided().max(applied)),
            None => (SlotBallot::default(), applied, applied),
        };
        let leads = usize::try_from(ballot.pid).ok().and_then(|slot| slot.checked_sub(1));
        let leads = leads.and_then(|index| self.configuration.members.get(index));
        let replica = leads.map_or(ReplicaId(0), |member| member.replica);
        Status {
            name: me.name.clone(),
            replica: self.me,
            cluster: me.cluster,
            incarnation: me.incarnation,
            configuration: self.configuration.clone(),
            role,
            leader: self.leader_name(),
            ballot: Ballot { number: ballot.n, replica },
            accepted,
            decided,
            applied,
            compacted: self.compacted(),
            catching_up: self.catching_up(),
            is_ready: matches!(role, Role::Leader | Role::Follower)
                && decided - applied <= READY_LAG_MAX
                && !self.leads_alone()
                && !self.is_genesis()
                && self.quarantine.is_none(),
            allows_faults: self.options.allows_faults,
            version: self.store.version().0,
            same_at: self.checking.same_at(),
            membership: self.membership(),
            links: self.outbox.peers.links(),
            trouble: self.trouble(),
            monotonic_us: 0,
            wall_us: 0,
        }
    }

    /// What of the status is told at once when it changes.
    pub(super) fn turning(&self) -> Turning {
        Turning {
            role: self.role(),
            leader: self.leader(),
            ballot: self.consensus.as_ref().map_or(0, |consensus| consensus.promise().n),
            link_changes: self.outbox.peers.link_changes(),
        }
    }

    /// Whether this replica leads and could not have anything decided.
    fn leads_alone(&self) -> bool {
        let linked = self.outbox.peers.connected().count() + 1;
        linked < self.configuration.quorum() && self.role() == Role::Leader
    }

    fn role(&self) -> Role {
        match self.leader() {
            _ if self.other_disk().is_some() => Role::Outside,
            _ if !self.is_member() => match self.standing() {
                Standing::Joiner | Standing::Member => Role::Joining,
                Standing::Retired => Role::Retired,
            },
            _ if self.consensus.is_none() => Role::Gathering,
            Some((leader, true)) if leader == self.me => Role::Leader,
            Some((leader, false)) if leader == self.me => Role::Candidate,
            Some((_, true)) => Role::Follower,
            Some((_, false)) | None => Role::Recovering,
        }
    }

    pub(super) fn trouble(&self) -> Option<String> {
        if let Some(by) = self.other_disk() {
            if let Some(why) = &self.mark_refused {
                return Some(why.clone());
            }
            return Some(format!(
                "{by} remembers this replica with another disk, so it has forgotten what it \
                 promised and must not vote; bring back its own disk, or let it be replaced"
            ));
        }
        match self.standing() {
            Standing::Member => {}
            Standing::Joiner if self.outbox.peers.linked().next().is_none() => {
                return Some(
                    "none of the replicas that have the state can be reached: where they run, look \
                     at the network and the name service (DNS) between here and there; where they \
                     do not, start them, or scale back up to as many as there were (kvorum scale, \
                     or kubectl scale)"
                        .to_owned(),
                );
            }
            Standing::Joiner => {
                return Some(
                    "this replica copies the state and becomes a member by itself when it has it"
                        .to_owned(),
                );
            }
            Standing::Retired => {
                let id = self.configuration.id.0;
                return Some(format!(
                    "this replica is no member of configuration {id} any more: it may be removed; \
                     when its ordinal is wanted again it joins by itself, under a new id"
                ));
            }
        }
        if self.is_over() {
            let (own, latest) = (self.configuration.id.0, self.latest.0);
            return Some(format!(
                "this replica is at configuration {own}, which is over: configuration {latest} \
                 has a leader, as the cluster's marker knows. It fetches what it lacks from the \
                 members of that one when they are there; if they are lost for good, go on with \
                 what is left by `kvorum recover`"
            ));
        }
        if self.consensus.is_none() {
            let missing = self.outbox.peers.not_met().join(", ");
            return Some(format!(
                "a new cluster starts when every member was met once; not met yet: {missing}"
            ));
        }
        if let Some(why) = &self.mark_refused {
            return Some(why.clone());
        }
        if self.is_genesis() {
            return Some(
                "the cluster is being made: it serves when a majority of the replicas wanted are \
                 members"
                    .to_owned(),
            );
        }
        if let Some(why) = self.majority_trouble() {
            return Some(why);
        }
        if let Some(quarantine) = &self.quarantine {
            let index = quarantine.index;
            return Some(format!(
                "this replica's state differed from that of the majority at index {index}: it \
                 serves nothing until it has copied theirs, which it does by itself; look for the \
                 cause, which may be its disk or its memory"
            ));
        }
        // How far it is stands in the status; the sentence stays the same meanwhile.
        if let Some(from) = self.fetches_from() {
            return Some(format!(
                "this replica is far behind and copies what it lacks from {from}; it serves again \
                 by itself when it has it"
            ));
        }
        if let Some(index) = self.checking.differ_at() {
            return Some(format!(
                "the replicas' states differed at index {index}, and no majority had the same: \
                 which is right, they cannot know; make a backup of each, compare, and begin anew \
                 with `kvorum restore`"
            ));
        }
        if self.leads_alone() {
            return Some(
                "this replica leads, but has no link to a majority: nothing is decided until \
                 enough of the others are back"
                    .to_owned(),
            );
        }
        if self.is_disk_full() {
            let (free, reserve) = self.disk;
            return Some(format!(
                "the disk is nearly full: {free} bytes are free and {reserve} are kept in reserve; \
                 make room, or give the volume more"
            ));
        }
        self.slow_disk.trouble(self.now)
    }

    /// Who remembers this replica with another disk, so that it does not vote.
    fn other_disk(&self) -> Option<&str> {
        let is_out = self.consensus.is_none() && self.is_member();
        let told = self.turned_away_by.as_ref().filter(|_| is_out);
        self.disowned_by.as_ref().or(told).map(String::as_str)
    }

    /// What to do about a majority that has not been there for a while.
    fn majority_trouble(&self) -> Option<String> {
        let peers = &self.outbox.peers;
        let members = &self.configuration.members;
        let is_gone = |member: &&Member| {
            let is_other = member.replica != self.me;
            is_other && peers.silent_ticks(member.replica, self.now) >= GONE_TICKS
        };
        let (gone, quorum) = (members.iter().filter(is_gone), self.configuration.quorum());
        let left = members.len() - gone.clone().count();
        if left >= quorum {
            return None;
        }
        let names = gone.clone().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ");
        let of = format!("{left} of {} members are there, {quorum} are needed", members.len());
        let scale = self.scale_wanted();
        let ordinals = gone.filter_map(|member| planner::ordinal(&member.name));
        let mut unwanted: Vec<_> = ordinals.filter(|o| scale.is_some_and(|s| !s.has(*o))).collect();
        unwanted.sort_unstable();
        let last = unwanted.get(quorum - left - 1).or(unwanted.last());
        Some(match last.zip(scale) {
            Some((last, scale)) => {
                let replicas = last + 1 - scale.start.min(*last);
                format!(
                    "{of}: {names} ended before the others could go on without them. Nothing is \
                     lost; scale back up to {replicas} replicas (kvorum scale {replicas}, or \
                     kubectl scale), and down again when they are there"
                )
            }
            None => format!(
                "{of}: {names} cannot be reached from here. Where they run, look at the network \
                 and the name service (DNS) in between; where they do not, start them; if what \
                 they had is lost for good, go on with what is left by `kvorum recover`"
            ),
        })
    }
}
