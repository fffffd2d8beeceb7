//! Pure: the subscriptions to statuses.
//!
//! Guarantees that a subscriber is sent each status that is new to it and for which it has room,
//! the newest instead of those that it missed. Does not make statuses.

use std::collections::BTreeMap;

use kvorum_protocol::status::{ReplicaId, Role, Status};

use super::Id;
use crate::engine::ClientKey;
use crate::state::rights::User;

/// Ticks between two statuses that differ by no more than indexes.
const STATUS_TICKS: u64 = 10;

/// The part of the status that is sent at once when it changes, so that the time in the status is
/// the time of the change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turning {
    /// The replica's role.
    pub role: Role,
    /// The leader that it follows, and whether it is in step.
    pub leader: Option<(ReplicaId, bool)>,
    /// The number of the ballot that it promised.
    pub ballot: u32,
    /// The number of times that a link began, ended, was cut or healed.
    pub link_changes: u64,
}

/// A subscription to statuses.
struct StatusCursor {
    /// The number of the status that was sent last.
    told: u64,
    /// The subscriber.
    user: User,
}

/// All subscriptions to statuses.
#[derive(Default)]
pub struct Statuses {
    cursors: BTreeMap<Id, StatusCursor>,
    /// The last status that was new, and its number.
    news: Option<Status>,
    number: u64,
    /// The tick at which a status was last sent, and the `Turning` at that time.
    told: Option<(u64, Turning)>,
}

impl Statuses {
    /// Opens a subscription.
    pub fn open(&mut self, id: Id, user: User) {
        self.cursors.insert(id, StatusCursor { told: 0, user });
    }

    /// Ends a subscription, if it is one to statuses; returns whether it is.
    pub fn cancel(&mut self, id: Id) -> bool {
        self.cursors.remove(&id).is_some()
    }

    /// Returns the number of subscriptions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cursors.len()
    }

    /// Whether nobody wants statuses.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cursors.is_empty()
    }

    /// Returns a connection's subscriptions.
    pub fn of(&self, client: ClientKey) -> impl Iterator<Item = Id> {
        self.cursors.range((client, 0)..=(client, u64::MAX)).map(|(id, _)| *id)
    }

    /// Returns the connections and users of all subscriptions.
    pub fn users(&self) -> impl Iterator<Item = (ClientKey, &User)> {
        self.cursors.iter().map(|((client, _), cursor)| (*client, &cursor.user))
    }

    /// Whether a status is to be sent now: `turning` changed, or it is time. To be called once a
    /// turn.
    pub fn are_due(&mut self, now: u64, turning: Turning) -> bool {
        let is_due = self.told.is_none_or(|(at, last)| last != turning || now >= at + STATUS_TICKS);
        if is_due {
            self.told = Some((now, turning));
        }
        is_due
    }

    /// Returns the subscriptions to which a status is to be sent: it is new to them, and they have
    /// room. A status in which only the time has changed is not new.
    pub fn take_due(&mut self, status: &Status, has_room: &dyn Fn(ClientKey) -> bool) -> Vec<Id> {
        if self.news.as_ref().is_none_or(|last| !last.is_as(status)) {
            self.news = Some(status.clone());
            self.number += 1;
        }
        let number = self.number;
        let due = self
            .cursors
            .iter_mut()
            .filter(|((client, _), cursor)| cursor.told < number && has_room(*client));
        due.map(|(id, cursor)| {
            cursor.told = number;
            *id
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_told_at_once_and_progress_ten_times_a_second() {
        let calm = Turning { role: Role::Follower, leader: None, ballot: 1, link_changes: 0 };
        let cases = [
            (0, calm, true),
            (0, calm, false),
            (STATUS_TICKS - 1, calm, false),
            (STATUS_TICKS, calm, true),
            (STATUS_TICKS, Turning { link_changes: 1, ..calm }, true),
            (STATUS_TICKS, Turning { link_changes: 1, ..calm }, false),
            (STATUS_TICKS + 1, Turning { role: Role::Leader, ..calm }, true),
            (STATUS_TICKS + 2, Turning { role: Role::Leader, ..calm }, false),
            (2 * STATUS_TICKS + 1, Turning { role: Role::Leader, ..calm }, true),
        ];
        let mut statuses = Statuses::default();
        for (now, turning, is_due) in cases {
            assert_eq!(statuses.are_due(now, turning), is_due, "{now} {turning:?}");
        }
    }
}
