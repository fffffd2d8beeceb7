//! Pure: the reason why a replica does not serve, as a sentence with the remedy.
//!
//! Guarantees to report the reason that must be resolved before any other counts. Does not know the
//! reader.

use kvorum_protocol::status::Member;

use super::Engine;
use crate::chain::Standing;
use crate::planner;
use crate::storage::Store;

/// Ticks without a link after which a member is reported as gone.
const GONE_TICKS: u64 = 200;

impl<S: Store> Engine<S> {
    /// Returns what keeps this replica from serving; `None` when all is well.
    pub(super) fn trouble(&self) -> Option<String> {
        let why = self.disk_trouble().or_else(|| self.standing_trouble());
        let why = why.or_else(|| self.beginning_trouble()).or_else(|| self.majority_trouble());
        why.or_else(|| self.state_trouble()).or_else(|| self.leading_trouble())
    }

    /// Reports that this replica's disk is not the one that a peer or the marker remembers.
    fn disk_trouble(&self) -> Option<String> {
        let by = self.cx.other_disk()?;
        Some(self.cx.fences.mark_refused.clone().unwrap_or_else(|| {
            format!(
                "{by} remembers this replica with another disk, so it has forgotten what it \
                 promised and must not vote; bring back its own disk, or let it be replaced"
            )
        }))
    }

    /// Reports that this replica is no member, or a member of a configuration that is over.
    fn standing_trouble(&self) -> Option<String> {
        match self.cx.standing() {
            Standing::Member => {}
            Standing::Joiner if self.cx.peers.linked().next().is_none() => {
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
                let id = self.cx.configuration.id.0;
                return Some(format!(
                    "this replica is no member of configuration {id} any more: it may be removed; \
                     when its ordinal is wanted again it joins by itself, under a new id"
                ));
            }
        }
        if self.cx.is_over() {
            let (own, latest) = (self.cx.configuration.id.0, self.cx.fences.latest.0);
            return Some(format!(
                "this replica is at configuration {own}, which is over: configuration {latest} \
                 has a leader, as the cluster's marker knows. It fetches what it lacks from the \
                 members of that one when they are there; if they are lost for good, go on with \
                 what is left by `kvorum recover`"
            ));
        }
        None
    }

    /// Reports that the cluster has not begun, or not for this replica.
    fn beginning_trouble(&self) -> Option<String> {
        if self.cx.consensus.is_none() {
            let missing = self.cx.peers.not_met().join(", ");
            return Some(format!(
                "a new cluster starts when every member was met once; not met yet: {missing}"
            ));
        }
        if let Some(why) = &self.cx.fences.mark_refused {
            return Some(why.clone());
        }
        if self.cx.is_genesis() {
            return Some(
                "the cluster is being made: it serves when a majority of the replicas wanted are \
                 members"
                    .to_owned(),
            );
        }
        None
    }

    /// Reports a state that is wrong, or behind.
    fn state_trouble(&self) -> Option<String> {
        if let Some(quarantine) = &self.cx.quarantine {
            let index = quarantine.index;
            return Some(format!(
                "this replica's state differed from that of the majority at index {index}: it \
                 serves nothing until it has copied theirs, which it does by itself; look for the \
                 cause, which may be its disk or its memory"
            ));
        }
        // The status shows the progress; the sentence stays the same meanwhile.
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
        None
    }

    /// Reports what a replica that leads, or could lead, lacks.
    fn leading_trouble(&self) -> Option<String> {
        if self.cx.leads_alone() {
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
        self.slow_disk.trouble(self.cx.now)
    }

    /// Reports that a majority has not been there for a while, and what to do about it.
    fn majority_trouble(&self) -> Option<String> {
        let peers = &self.cx.peers;
        let members = &self.cx.configuration.members;
        let is_gone = |member: &&Member| {
            let is_other = member.replica != self.cx.me;
            is_other && peers.silent_ticks(member.replica, self.cx.now) >= GONE_TICKS
        };
        let (gone, quorum) = (members.iter().filter(is_gone), self.cx.configuration.quorum());
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
