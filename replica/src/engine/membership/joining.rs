//! Pure: the requests for an id, from replicas that want to become members.
//!
//! A joiner gets its id from the replicated state, by an entry that the leader proposes.
//!
//! Guarantees that an id is given once, by an entry; that every request for an id is answered, and
//! takes no place for longer than it waits. Does not decide which replicas become members; the
//! [planner](crate::planner) does.

use kvorum_protocol::message::{Answer, Refusal};
use kvorum_protocol::name;
use kvorum_protocol::status::Member;

use crate::engine::consensus::Consensus;
use crate::engine::context::Context;
use crate::engine::message::{ClientKey, Origin};
use crate::engine::store::Store;
use crate::planner::{self, MEMBERS_MAX, Scale};
use crate::state::entry::Entry;
use crate::state::version::Version;

/// The maximum number of pending joins; further ones are refused as overload.
const JOINS_MAX: usize = 64;
/// The time limit of a pending join, in ticks; then the joiner may ask again.
const JOIN_TICKS: u64 = 500;

/// The refusal of a join when another replica asked for an id under the same name since.
const OVERTAKEN: &str = "another replica asked for an id under this name since: of one name the \
                         last counts; see that only one process has this name, and ask again";

/// The pending joins.
#[derive(Default)]
pub(in crate::engine) struct Joins {
    pending: Vec<Join>,
}

/// A pending join: a request for an id, by the joiner's nonce.
struct Join {
    origin: Origin,
    nonce: u64,
    /// The index of the entry that assigns the id, unless the joiner has its id already.
    index: u64,
    deadline: u64,
}

/// Checks whether a joiner may have a name; the error says what is wrong with it.
fn check_name(name: &str, members: &[Member]) -> Result<(), String> {
    name::check(name).map_err(|none| none.to_string())?;
    if !planner::belongs(name, members) {
        let first = members.first().map_or("", |member| member.name.as_str());
        return Err(format!(
            "{name} is not named as the members of this cluster are, of which one is {first}: it \
             cannot become one; start it with a name of theirs, or with another cluster's folder \
             or StatefulSet"
        ));
    }
    Ok(())
}

/// Whether a name's ordinal can never be a member's. Every joiner that asks gets an id, so this
/// limits the ids to as many as there can be members.
fn is_beyond<S: Store>(cx: &Context<S>, name: &str) -> bool {
    let wanted = cx.wanted.zip(planner::ordinal(name));
    let most = |scale| Scale { replicas: MEMBERS_MAX, ..scale };
    wanted.is_some_and(|(scale, ordinal)| !most(scale).has(ordinal))
}

impl Joins {
    /// Handles a request for an id from a replica that wants to become a member.
    pub(in crate::engine) fn ask<S: Store>(
        &mut self,
        cx: &mut Context<S>,
        origin: Origin,
        (name, nonce): (String, u64),
        is_changing: bool,
    ) {
        let refusal = if !cx.is_leading() {
            Some(Refusal::NotLeader { leader: cx.leader_name() })
        } else if let Err(why) = check_name(&name, &cx.configuration.members) {
            Some(Refusal::Unavailable(why))
        } else if is_beyond(cx, &name) {
            Some(Refusal::Unavailable(format!(
                "{name} is beyond the {MEMBERS_MAX} replicas that a cluster can have: scale to \
                 that many or fewer"
            )))
        } else if cx.store.version() < Version::JOINERS {
            let (has, needs) = (cx.store.version(), Version::JOINERS);
            Some(Refusal::Unavailable(format!(
                "the cluster has version {has}, and its members can change from version {needs} \
                 on: update every replica"
            )))
        } else if self.pending.len() >= JOINS_MAX {
            Some(Refusal::Overloaded)
        } else {
            is_changing.then_some(Refusal::HandingOver)
        };
        if let Some(refusal) = refusal {
            return cx.answer(origin, Answer::Refused(refusal));
        }
        if cx.store.chain().id_of(nonce).is_none() {
            cx.propose(Entry::Join { name, nonce });
        }
        let index = cx.consensus.as_ref().map_or(0, Consensus::accepted);
        self.pending.push(Join { origin, nonce, index, deadline: cx.now + JOIN_TICKS });
        self.answer(cx);
    }

    /// Answers the pending joins that have an id by now; the entry that assigned it is decided. Of
    /// one name the last request counts: the others are refused as overtaken.
    pub(in crate::engine) fn answer<S: Store>(&mut self, cx: &mut Context<S>) {
        if self.pending.is_empty() {
            return;
        }
        let (chain, applied) = (cx.store.chain(), cx.store.applied());
        self.pending.retain(|join| {
            let answer = match chain.id_of(join.nonce) {
                Some(replica) => Answer::Joined { replica, configuration: chain.current.clone() },
                None if applied < join.index => return true,
                None => Answer::Refused(Refusal::Unavailable(OVERTAKEN.to_owned())),
            };
            cx.answer(join.origin, answer);
            false
        });
    }

    /// Drops what waits for a client: its connection ended.
    pub(in crate::engine) fn client_gone(&mut self, client: ClientKey) {
        let is_gone = |origin| matches!(origin, Origin::Client { client: c, .. } if c == client);
        self.pending.retain(|join| !is_gone(join.origin));
    }

    /// Refuses joins that waited too long; a retry with the same nonce gets the same id.
    pub(in crate::engine) fn expire<S: Store>(&mut self, cx: &mut Context<S>) {
        let now = cx.now;
        self.pending.retain(|join| {
            let waits = now < join.deadline;
            if !waits {
                cx.answer(join.origin, Answer::Refused(Refusal::NoQuorum));
            }
            waits
        });
    }

    /// Refuses all pending joins, because this replica no longer leads: the joiners ask again.
    pub(in crate::engine) fn abandon<S: Store>(&mut self, cx: &mut Context<S>) {
        for Join { origin, .. } in std::mem::take(&mut self.pending) {
            let refusal = Refusal::NotLeader { leader: None };
            cx.answer(origin, Answer::Refused(refusal));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tests::Cluster;
    use kvorum_protocol::message::{Admin, Request};

    fn join(cluster: &mut Cluster, name: &str, nonce: u64) -> Option<Answer> {
        let (leader, _) = cluster.roles();
        let name = name.to_owned();
        let call = cluster.request(leader, Request::Admin(Admin::Join { name, nonce }));
        cluster.settle();
        cluster.answer(call).cloned()
    }

    #[test]
    fn an_id_is_given_once() {
        let mut cluster = Cluster::of(3);
        let first = join(&mut cluster, "kvorum-3", 7);
        let Some(Answer::Joined { replica, .. }) = first else { panic!("{first:?}") };
        assert!(replica.0 > 3, "no other disk ever had it");
        let again = join(&mut cluster, "kvorum-3", 7);
        assert!(matches!(again, Some(Answer::Joined { replica: id, .. }) if id == replica));
        let other = join(&mut cluster, "kvorum-3", 8);
        assert!(matches!(other, Some(Answer::Joined { replica: id, .. }) if id > replica));
    }

    #[test]
    fn a_name_that_fits_no_member_is_refused() {
        let mut cluster = Cluster::of(3);
        for name in ["etcd-3", "kvorum", ""] {
            let answer = join(&mut cluster, name, 9);
            assert!(matches!(answer, Some(Answer::Refused(_))), "{name:?}: {answer:?}");
        }
    }
}
