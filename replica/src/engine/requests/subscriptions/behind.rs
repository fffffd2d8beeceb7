//! Pure: tells subscriptions that are behind what they lack.
//!
//! Guarantees that many of them take one reading of the log together, and that a turn sends a
//! bounded part. Does not tell those that are in step; the parent does.

use std::collections::BTreeSet;

use kvorum_protocol::message::Event;

use super::events::news;
use super::{CURSOR_BYTES_MAX, Id, Place, Subscriptions, Turn, silent_bytes_max};
use crate::engine::ClientKey;
use crate::engine::store::{Decided, Store};
use crate::limits::TURN_BYTES_MAX;

impl Subscriptions {
    /// Sends to those that are not in step what they lack. A part of the log is read for all of
    /// them at once, from where the last one stands: so they come together, however many there are.
    pub(super) fn tell_due<S: Store>(&mut self, store: &S, turn: &mut Turn<'_>) {
        let mut bytes = 0;
        loop {
            let ids = self.due_with_room(turn.has_room);
            let next = |id: &Id| match self.cursors[id].place {
                Place::Apart { next, .. } => next,
                Place::InStep { .. } => u64::MAX,
            };
            let Some(first) = ids.iter().map(next).min() else { return };
            if first > self.told_to {
                return self.sort_out(&ids);
            }
            if bytes >= TURN_BYTES_MAX / 2 {
                self.is_late = true;
                return;
            }
            let decided = turn.read(store, first, self.told_to);
            if decided.entries.is_empty() {
                for id in ids.into_iter().filter(|id| next(id) == first).collect::<Vec<_>>() {
                    bytes += turn.event(id, Event::Compacted { from: turn.compacted + 1 });
                    self.cancel(id.0, id.1);
                }
                continue;
            }
            self.tell_part((first, &decided), silent_bytes_max(store), &mut bytes, turn);
        }
    }

    /// Returns those that are not in step and whose connections have room.
    fn due_with_room(&self, has_room: &dyn Fn(ClientKey) -> bool) -> Vec<Id> {
        let with_room = self.due.iter().filter(|(client, _)| has_room(**client));
        with_room.flat_map(|(client, calls)| calls.iter().map(|call| (*client, *call))).collect()
    }

    /// Has those that were sent everything be in step, and the others wait for their first entry.
    fn sort_out(&mut self, ids: &[Id]) {
        for id in ids {
            let cursor = &self.cursors[id];
            let Place::Apart { next, silent } = cursor.place else { continue };
            if next > self.told_to + 1 {
                self.not_due(*id, cursor.prefix.clone().as_ref());
                self.later.insert((next, *id));
            } else {
                self.catches_up(*id, silent);
            }
        }
    }

    /// Sends a part of the log to those that are not in step and have room.
    fn tell_part(
        &mut self,
        (first, decided): (u64, &Decided),
        silent_max: usize,
        bytes: &mut usize,
        turn: &mut Turn<'_>,
    ) {
        let (mut end, mut passed) = (first, 0);
        // Those that were told something, and those that could not be told of the last entry.
        let (mut told, mut stopped) = (BTreeSet::new(), BTreeSet::new());
        for news in news(first, decided) {
            *bytes += news.weight();
            for id in self.behind.interested(news.key()) {
                let cursor = &self.cursors[&id];
                let Place::Apart { next, .. } = cursor.place else { continue };
                if next > news.index || !(turn.has_room)(id.0) {
                    continue;
                }
                if *bytes >= TURN_BYTES_MAX / 2 + CURSOR_BYTES_MAX {
                    stopped.insert(id);
                    continue;
                }
                *bytes += turn.event(id, news.event(cursor.prefix.is_some()));
                told.insert(id);
            }
            (end, passed) = (news.index + 1, passed + news.weight());
            if *bytes >= TURN_BYTES_MAX / 2 {
                break;
            }
        }
        for id in self.due_with_room(turn.has_room) {
            let Some(cursor) = self.cursors.get_mut(&id) else { continue };
            let Place::Apart { next, silent } = &mut cursor.place else { continue };
            if *next >= end {
                continue;
            }
            *silent = if told.contains(&id) { 0 } else { *silent + passed };
            *next = if stopped.contains(&id) { end - 1 } else { end };
            if cursor.reports && *silent >= silent_max && *next == end {
                *silent = 0;
                *bytes += turn.event(id, Event::Progress { next: end });
            }
        }
    }
}
