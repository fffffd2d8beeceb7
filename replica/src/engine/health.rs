//! Pure: the reason why a replica does not serve, as a sentence with the remedy.
//!
//! Guarantees to report the reason that must be resolved before any other counts. Does not know the
//! reader.

use kvorum_protocol::message::Refusal;
use kvorum_protocol::status::Member;

use super::catch_up::CatchUp;
use super::context::Context;
use super::disk::Disk;
use super::hand_over::HandOver;
use super::membership::Membership;
use super::scrub::Scrub;
use crate::engine::store::Store;
use crate::planner;
use crate::state::chain::Standing;

/// Ticks without a link after which a member is reported as gone.
const GONE_TICKS: u64 = 200;

/// The parts that decide whether this replica serves.
pub(super) struct Health<'a> {
    pub(super) membership: &'a Membership,
    pub(super) hand_over: &'a HandOver,
    pub(super) catch_up: &'a CatchUp,
    pub(super) scrub: &'a Scrub,
    pub(super) disk: &'a Disk,
}

impl Health<'_> {
    /// Whether a leader proposes writes: neither a hand-over nor the end of the configuration is
    /// under way.
    pub(super) fn proposes(&self) -> bool {
        !self.hand_over.is_under_way() && !self.membership.seals.has_proposed()
    }

    /// Returns why this replica's state must not be read, or `None` if it may be.
    pub(super) fn refuses_reads<S: Store>(&self, cx: &Context<S>) -> Option<Refusal> {
        let is_closed =
            cx.quarantine.is_some() || cx.is_genesis() || cx.fences.disowned_by.is_some();
        self.trouble(cx).filter(|_| is_closed).map(Refusal::Unavailable)
    }

    /// Returns what keeps this replica from serving; `None` when all is well.
    pub(super) fn trouble<S: Store>(&self, cx: &Context<S>) -> Option<String> {
        let why = Self::disk_trouble(cx).or_else(|| Self::standing_trouble(cx));
        let why =
            why.or_else(|| Self::beginning_trouble(cx)).or_else(|| Self::majority_trouble(cx));
        why.or_else(|| self.state_trouble(cx)).or_else(|| self.leading_trouble(cx))
    }

    /// Reports that this replica's disk is not the one that a peer or the marker remembers.
    fn disk_trouble<S: Store>(cx: &Context<S>) -> Option<String> {
        let by = cx.other_disk()?;
        Some(cx.fences.mark_refused.clone().unwrap_or_else(|| {
            format!(
                "{by} remembers this replica with another disk, so it has forgotten what it \
                 promised and must not vote; bring back its own disk, or let it be replaced"
            )
        }))
    }

    /// Reports that this replica is no member, or a member of a configuration that is over.
    fn standing_trouble<S: Store>(cx: &Context<S>) -> Option<String> {
        match cx.standing() {
            Standing::Member => {}
            Standing::Joiner if cx.peers.linked().next().is_none() => {
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
                let id = cx.configuration.id.0;
                return Some(format!(
                    "this replica is no member of configuration {id} any more: it may be removed; \
                     when its ordinal is wanted again it joins by itself, under a new id"
                ));
            }
        }
        if cx.is_over() {
            let (own, latest) = (cx.configuration.id.0, cx.fences.latest.0);
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
    fn beginning_trouble<S: Store>(cx: &Context<S>) -> Option<String> {
        if cx.consensus.is_none() {
            let missing = cx.peers.not_met().join(", ");
            return Some(format!(
                "a new cluster starts when every member was met once; not met yet: {missing}"
            ));
        }
        if let Some(why) = &cx.fences.mark_refused {
            return Some(why.clone());
        }
        if cx.is_genesis() {
            return Some(
                "the cluster is being made: it serves when a majority of the replicas wanted are \
                 members"
                    .to_owned(),
            );
        }
        None
    }

    /// Reports a state that is wrong, or behind.
    fn state_trouble<S: Store>(&self, cx: &Context<S>) -> Option<String> {
        if let Some(quarantine) = &cx.quarantine {
            let index = quarantine.index;
            return Some(format!(
                "this replica's state differed from that of the majority at index {index}: it \
                 serves nothing until it has copied theirs, which it does by itself; look for the \
                 cause, which may be its disk or its memory"
            ));
        }
        // The status shows the progress; the sentence stays the same meanwhile.
        if let Some(source) = self.catch_up.source() {
            let from = cx.peers.name(source);
            return Some(format!(
                "this replica is far behind and copies what it lacks from {from}; it serves again \
                 by itself when it has it"
            ));
        }
        if let Some(index) = self.scrub.differ_at() {
            return Some(format!(
                "the replicas' states differed at index {index}, and no majority had the same: \
                 which is right, they cannot know; make a backup of each, compare, and begin anew \
                 with `kvorum restore`"
            ));
        }
        None
    }

    /// Reports what a replica that leads, or could lead, lacks.
    fn leading_trouble<S: Store>(&self, cx: &Context<S>) -> Option<String> {
        if cx.leads_alone() {
            return Some(
                "this replica leads, but has no link to a majority: nothing is decided until \
                 enough of the others are back"
                    .to_owned(),
            );
        }
        self.disk.trouble(cx.now)
    }

    /// Reports that a majority has not been there for a while, and what to do about it.
    fn majority_trouble<S: Store>(cx: &Context<S>) -> Option<String> {
        let peers = &cx.peers;
        let members = &cx.configuration.members;
        let is_gone = |member: &&Member| {
            let is_other = member.replica != cx.me;
            is_other && peers.silent_ticks(member.replica, cx.now) >= GONE_TICKS
        };
        let (gone, quorum) = (members.iter().filter(is_gone), cx.configuration.quorum());
        let left = members.len() - gone.clone().count();
        if left >= quorum {
            return None;
        }
        let names = gone.clone().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ");
        let of = format!("{left} of {} members are there, {quorum} are needed", members.len());
        let scale = cx.wanted;
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
