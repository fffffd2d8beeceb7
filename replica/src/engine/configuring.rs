//! Pure: moves a replica from one configuration to the next.
//!
//! A configuration change is an entry: the first stop sign that is decided seals its configuration,
//! and the next one begins at the following index, on every replica, with a log of its own. A
//! replica that applies it leaves the instance of the consensus library behind and starts one for
//! the next configuration, if it is a member. A replica that has not applied it, and still sends
//! messages of the sealed configuration, is notified that it is over, and fetches what it lacks
//! like any replica that is behind.
//!
//! Guarantees that nothing decided in a configuration beyond its stop sign takes effect, that a
//! message never starts an instance, and that a log is removed only when the next configuration has
//! decided an entry. The library's own stop signs are not used: it counts one twice when a replica
//! that has it is brought into step. Does not know why the members change.

use kvorum_protocol::status::{ConfigurationId, Member};

use super::context::Context;
use crate::engine::store::Store;
use crate::state::chain::Chain;
use crate::state::machine::Changes;

/// The part that a replica had in the configuration that ends.
#[derive(Clone, Copy)]
pub(super) struct Part {
    /// Whether it led.
    led: bool,
    /// Whether some member stays.
    is_continued: bool,
}

impl Part {
    /// Returns this replica's part in the configuration that ends with the chain.
    pub(super) fn of<S: Store>(cx: &Context<S>, next: &Chain) -> Self {
        let stays = |member: &Member| next.current.name_of(member.replica).is_some();
        let is_continued = cx.configuration.members.iter().any(stays);
        Self { led: cx.is_leading(), is_continued }
    }

    /// Lets the leader lead on. It knows best how far the log is, so the change does not have to
    /// wait for an election.
    pub(super) fn resume<S: Store>(self, cx: &mut Context<S>) {
        match &mut cx.consensus {
            Some(consensus) if self.led => consensus.lead_on(),
            Some(consensus) if self.is_continued => consensus.hold_back(),
            Some(_) | None => {}
        }
    }
}

/// Takes the replicas that a changed chain names; returns whether the known ones are others than
/// before.
#[must_use]
pub(super) fn know<S: Store>(cx: &mut Context<S>, chain: &Chain) -> bool {
    cx.standings.know(chain);
    let are_others = cx.peers.reconfigure(chain, cx.me, &cx.store, cx.now);
    if are_others {
        cx.tell_known();
    }
    are_others
}

/// Records replicas that were reported to this one and that its state does not know yet: they are
/// the members, of a later configuration if it has a number. This replica fetches from them the
/// entries that led there.
pub(super) fn learned<S: Store>(
    cx: &mut Context<S>,
    members: &[Member],
    configuration: Option<ConfigurationId>,
) {
    let later = configuration
        .filter(|configuration| *configuration > cx.configuration.id && cx.rules.tells_ends());
    cx.standings.learn(members, later);
    if cx.peers.learn(members, cx.me, &cx.store, cx.now) {
        cx.tell_known();
    }
}

/// Violates the protocol on purpose, for a negative control: commits the next configuration because
/// a message names it, at whatever index this replica is.
pub(super) fn start_without_state<S: Store>(cx: &mut Context<S>, next: ConfigurationId) {
    let (mut chain, applied) = (cx.store.chain(), cx.store.applied());
    if cx.is_member() && next.0 == chain.current.id.0 + 1 {
        (chain.current.id, chain.began) = (next, applied);
        cx.store.commit(Changes { chain: Some(chain), applied, ..Changes::default() });
    }
}
