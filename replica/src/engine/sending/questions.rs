//! Pure: a count of the reads that run outside the engine, by asker.
//!
//! Guarantees that the reading threads have a bounded number of questions waiting, per client, per
//! peer and in total: an asker with too many is refused, and no other asker waits behind it. Peers
//! that catch up find room, however much clients ask.

use std::collections::BTreeMap;

use kvorum_protocol::status::ReplicaId;

use crate::engine::message::{ClientKey, Origin};
use crate::limits::{CLIENT_QUESTIONS_MAX, QUESTIONS_EACH_MAX, QUESTIONS_MAX, SCANS_MAX};

/// The client or peer that asks a question.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Asker {
    Client(ClientKey),
    Peer(ReplicaId),
}

impl From<Origin> for Asker {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Client { client, .. } => Self::Client(client),
            Origin::Peer { peer, .. } => Self::Peer(peer),
        }
    }
}

/// The numbers of reads under way.
#[derive(Default)]
pub(in crate::engine) struct Questions {
    /// Pages of keys being read.
    scans: usize,
    /// Questions for state and old entries, by asker.
    asked: BTreeMap<Asker, usize>,
}

impl Questions {
    /// Counts the read of another page of keys; returns false when too many are under way.
    pub(in crate::engine) fn begin_scan(&mut self) -> bool {
        let has_room = self.scans < SCANS_MAX;
        self.scans += usize::from(has_room);
        has_room
    }

    /// Records that a page was read.
    pub(in crate::engine) fn end_scan(&mut self) {
        self.scans = self.scans.saturating_sub(1);
    }

    /// Counts a question for state or old entries; returns false when its asker, or all together,
    /// have too many under way.
    pub(in crate::engine) fn begin(&mut self, origin: Origin) -> bool {
        let asker = Asker::from(origin);
        let is_client = |asker: &Asker| matches!(asker, Asker::Client(_));
        let counted = |of: &dyn Fn(&Asker) -> bool| -> usize {
            self.asked.iter().filter(|(asker, _)| of(asker)).map(|(_, count)| count).sum()
        };
        let clients_have_room = counted(&is_client) < CLIENT_QUESTIONS_MAX;
        let own = self.asked.get(&asker).copied().unwrap_or(0);
        let has_room = own < QUESTIONS_EACH_MAX
            && counted(&|_| true) < QUESTIONS_MAX
            && (clients_have_room || !is_client(&asker));
        if has_room {
            self.asked.insert(asker, own + 1);
        }
        has_room
    }

    /// Records that the answer to a question was read.
    pub(in crate::engine) fn end(&mut self, origin: Origin) {
        if let Some(own) = self.asked.get_mut(&origin.into()) {
            *own -= 1;
            if *own == 0 {
                self.asked.remove(&origin.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::message::Session;

    fn client(client: u64) -> Origin {
        Origin::Client { client: ClientKey(client), call: 1 }
    }

    fn peer(peer: u64) -> Origin {
        Origin::Peer { peer: ReplicaId(peer), session: Session(1), call: 1 }
    }

    #[test]
    fn one_asker_has_few_questions_and_all_have_a_bounded_number() {
        let mut questions = Questions::default();
        let taken = (0..100).filter(|_| questions.begin(client(1))).count();
        assert_eq!(taken, QUESTIONS_EACH_MAX);
        questions.end(client(1));
        assert!(questions.begin(client(1)), "one was answered");
        let others = (2..1000).filter(|other| questions.begin(client(*other))).count();
        assert_eq!(others, CLIENT_QUESTIONS_MAX - QUESTIONS_EACH_MAX);
        let peers = (0..1000).filter(|other| questions.begin(peer(*other))).count();
        assert_eq!(peers, QUESTIONS_MAX - CLIENT_QUESTIONS_MAX, "clients leave room for peers");
        assert!(questions.asked.len() <= QUESTIONS_MAX, "whoever is refused is not kept");
        for other in 1..1000 {
            for _ in 0..QUESTIONS_EACH_MAX {
                questions.end(client(other));
                questions.end(peer(other));
            }
        }
        questions.end(peer(0));
        assert!(questions.asked.is_empty());
        let scans = (0..1000).filter(|_| questions.begin_scan()).count();
        assert_eq!(scans, SCANS_MAX);
    }
}
