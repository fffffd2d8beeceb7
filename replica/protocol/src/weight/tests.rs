//! Tests of the weights of all messages.

use super::*;
use crate::access::{Access, AccessChange, AccessQuery, KeyRange};
use crate::authentication::Token;
use crate::data::{ClientId, Condition, LaneId, Operation, RequestId};
use crate::frame;
use crate::limits::FRAME_BYTES_MAX;
use crate::message::{Consistency, EntryKind, SnapshotName};
use crate::status::{
    Ballot, CatchingUp, ClusterId, ConfigurationId, JoinerStatus, LinkStatus, Member, ReplicaId,
    Role,
};
use serde::Serialize;
use std::sync::Arc;

const LARGE: usize = 10_000;

fn text() -> String {
    "t".repeat(LARGE)
}

fn bytes() -> Value {
    Value::from(vec![7; LARGE])
}

fn key() -> Key {
    Key::from(vec![7; LARGE])
}

fn configuration() -> Configuration {
    let member = |id| Member { replica: ReplicaId(id), name: text() };
    Configuration { id: ConfigurationId(1), members: (1..=7).map(member).collect() }
}

fn status() -> Status {
    let joiner = JoinerStatus { name: text(), index: u64::MAX, is_linked: true };
    let link = LinkStatus { peer: text(), is_up: true, is_cut: false, sessions: u64::MAX };
    Status {
        name: text(),
        replica: ReplicaId(u64::MAX),
        cluster: ClusterId(u128::MAX),
        incarnation: u64::MAX,
        configuration: configuration(),
        role: Role::Leader,
        leader: Some(text()),
        ballot: Ballot { number: u32::MAX, replica: ReplicaId(u64::MAX) },
        accepted: u64::MAX,
        decided: u64::MAX,
        applied: u64::MAX,
        compacted: u64::MAX,
        catching_up: Some(CatchingUp {
            from: text(),
            target: u64::MAX,
            items: u64::MAX,
            items_expected: u64::MAX,
            bytes: u64::MAX,
        }),
        membership: Membership {
            wanted: Some(u32::MAX),
            joiners: vec![joiner],
            leaving: vec![text()],
            waits: Some(text()),
            may_go: false,
        },
        is_ready: true,
        version: 1,
        same_at: u64::MAX,
        allows_faults: true,
        links: vec![link],
        trouble: Some(text()),
        monotonic_us: u64::MAX,
        wall_us: u64::MAX,
    }
}

fn refusals() -> Vec<Refusal> {
    let most = u32::MAX;
    let first = Refusal::Limit(LimitError::KeyTooLong { bytes: u64::MAX });
    // The next variant in the order of the wire, so that a new one cannot be left out.
    let next = |refusal: &Refusal| match refusal {
        Refusal::Limit(_) => Some(Refusal::NoLeader),
        Refusal::NoLeader => Some(Refusal::NotLeader { leader: Some(text()) }),
        Refusal::NotLeader { .. } => Some(Refusal::NoQuorum),
        Refusal::NoQuorum => Some(Refusal::Overloaded),
        Refusal::Overloaded => Some(Refusal::HandingOver),
        Refusal::HandingOver => Some(Refusal::Unavailable(text())),
        Refusal::Unavailable(_) => Some(Refusal::DiskFull { free: u64::MAX, reserve: u64::MAX }),
        Refusal::DiskFull { .. } => Some(Refusal::Compacted { from: u64::MAX }),
        Refusal::Compacted { .. } => Some(Refusal::FaultsForbidden),
        Refusal::FaultsForbidden => Some(Refusal::UnknownReplica { name: text(), members: text() }),
        Refusal::UnknownReplica { .. } => Some(Refusal::SnapshotGone),
        Refusal::SnapshotGone => Some(Refusal::TooManySubscriptions { most }),
        Refusal::TooManySubscriptions { .. } => {
            Some(Refusal::Forbidden { user: "app".into(), right: "to read all keys".into() })
        }
        Refusal::Forbidden { .. } => Some(Refusal::Busy { retry_after_ms: u32::MAX }),
        Refusal::Busy { .. } => None,
    };
    std::iter::successors(Some(first), next).collect()
}

fn range() -> KeyRange {
    KeyRange { from: bytes().0, until: Some(bytes().0) }
}

fn rights() -> Vec<Right> {
    vec![Right { range: range(), access: Access::ReadWrite }; 3]
}

fn users() -> Vec<UserReport> {
    vec![UserReport { user: text(), roles: vec![text(), text()], has_password: true }; 2]
}

fn answers() -> Vec<Answer> {
    let pair = || Pair { key: key(), value: bytes(), revision: u64::MAX };
    let page = || Page { pairs: vec![pair(), pair()], next: Some(key()), index: u64::MAX };
    let snapshot = SnapshotName { nonce: u64::MAX, number: u64::MAX };
    let address = || Address { name: text(), clients: text() };
    let first = Answer::Written(Outcome::Put { revision: u64::MAX });
    let next = |answer: &Answer| match answer {
        Answer::Written(_) => Some(Answer::Value(Some(pair()))),
        Answer::Value(_) => Some(Answer::Page(page())),
        Answer::Page(_) => Some(Answer::Status(Box::new(status()))),
        Answer::Status(_) => Some(Answer::Subscribed { from: u64::MAX }),
        Answer::Subscribed { .. } => Some(Answer::Done),
        Answer::Done => Some(Answer::Refused(Refusal::NoLeader)),
        Answer::Refused(_) => Some(Answer::Unknown(Doubt::NoQuorum)),
        Answer::Unknown(_) => Some(Answer::Snapshot { snapshot, index: u64::MAX, keys: u64::MAX }),
        Answer::Snapshot { .. } => {
            Some(Answer::Part { part: bytes(), keys: u64::MAX, next: Some(bytes()) })
        }
        Answer::Part { .. } => {
            let configuration = configuration();
            Some(Answer::Joined { replica: ReplicaId(u64::MAX), configuration })
        }
        Answer::Joined { .. } => Some(Answer::Addresses(vec![address(), address()])),
        Answer::Addresses(_) => Some(Answer::Access(AccessReport::Users(users()))),
        Answer::Access(AccessReport::Users(_)) => {
            let role = RoleReport { role: text(), is_root: true, rights: rights() };
            Some(Answer::Access(AccessReport::Roles(vec![role])))
        }
        Answer::Access(AccessReport::Roles(_)) => {
            let (user, roles) = (text(), vec![text(), text()]);
            let own = Whoami { user, roles, is_root: true, rights: rights() };
            Some(Answer::Access(AccessReport::Whoami(own)))
        }
        Answer::Access(AccessReport::Whoami(_)) => {
            let token = Token(vec![7; LARGE]);
            Some(Answer::Access(AccessReport::Token { token, until_us: u64::MAX }))
        }
        Answer::Access(AccessReport::Token { .. } | AccessReport::Nothing(_)) => None,
    };
    let all = std::iter::successors(Some(first), next);
    all.chain(refusals().into_iter().map(Answer::Refused)).collect()
}

fn events() -> Vec<Event> {
    let entry = EntryEvent {
        index: u64::MAX,
        kind: EntryKind::Put,
        key: Some(key()),
        preview: Some(bytes()),
        value_bytes: u64::MAX,
        took_effect: true,
    };
    let change = KeyEvent { index: u64::MAX, key: key(), value: Some(bytes()) };
    let next = move |event: &Event| match event {
        Event::Status(_) => Some(Event::Entry(entry.clone())),
        Event::Entry(_) => Some(Event::Key(change.clone())),
        Event::Key(_) => Some(Event::Compacted { from: u64::MAX }),
        Event::Compacted { .. } => Some(Event::Progress { next: u64::MAX }),
        Event::Progress { .. } => None,
    };
    std::iter::successors(Some(Event::Status(Arc::new(status()))), next).collect()
}

fn requests() -> Vec<Request> {
    let lane = LaneId { client: ClientId(u128::MAX), number: u32::MAX };
    let id = RequestId { lane, sequence: u64::MAX };
    let condition = Condition::AtRevision(u64::MAX);
    let operation = Operation::Put { key: key(), value: bytes(), condition };
    let scan = Scan {
        prefix: vec![7; LARGE],
        from: vec![7; LARGE],
        until: vec![7; LARGE],
        limit: u32::MAX,
        keys_only: true,
        consistency: Consistency::Local,
    };
    let snapshot = SnapshotName { nonce: u64::MAX, number: u64::MAX };
    let first = Request::Write { id, valid_until: u64::MAX, operation };
    let next = move |request: &Request| match request {
        Request::Write { .. } => Some(Request::Get { key: key(), consistency: Consistency::Local }),
        Request::Get { .. } => Some(Request::Scan(scan.clone())),
        Request::Scan(_) => Some(Request::Status),
        Request::Status => {
            let prefix = vec![7; LARGE];
            Some(Request::Subscribe(Subscription::Keys { prefix, from: u64::MAX }))
        }
        Request::Subscribe(Subscription::Keys { .. }) => {
            let prefix = vec![7; LARGE];
            Some(Request::Subscribe(Subscription::Watch { prefix, from: u64::MAX }))
        }
        Request::Subscribe(_) => {
            Some(Request::Admin(Admin::Join { name: text(), nonce: u64::MAX }))
        }
        Request::Admin(_) => {
            Some(Request::Snapshot(SnapshotRequest::Part { snapshot, after: bytes() }))
        }
        Request::Snapshot(_) => Some(Request::Addresses),
        Request::Addresses => Some(Request::Access(AccessQuery::Users)),
        Request::Access(_) => None,
    };
    let changes = [
        AccessChange::AddUser { user: text() },
        AccessChange::GiveRole { user: text(), role: text() },
        AccessChange::Grant { role: text(), range: range(), access: Access::Read },
        AccessChange::Revoke { role: text(), range: range() },
        AccessChange::SetPassword { user: text(), hash: Some(text()), secret: [7; 32] },
    ];
    let changes = changes.map(|change| {
        let operation = Operation::Access(change);
        Request::Write { id, valid_until: u64::MAX, operation }
    });
    let names =
        [Admin::HandOver { to: text() }, Admin::Cut { peer: text() }, Admin::Heal { peer: text() }];
    let all = std::iter::successors(Some(first), next);
    all.chain(changes).chain(names.into_iter().map(Request::Admin)).collect()
}

/// Asserts that a weight is at most the contents and a few overheads, and at least the bytes on the
/// wire.
fn assert_weighed<M: Serialize + std::fmt::Debug>(message: &M, weight: usize) {
    let encoded = frame::encode(message, FRAME_BYTES_MAX).expect("it is below the limit").len();
    assert!(weight >= encoded, "weighs {weight}, and has {encoded} bytes: {message:?}");
    let most = encoded + 24 * OVERHEAD;
    assert!(weight <= most, "weighs {weight}, and has {encoded} bytes: {message:?}");
}

#[test]
fn every_message_weighs_what_it_holds() {
    let call = u64::MAX;
    for answer in answers() {
        let frame = ServerFrame::Answer { call, answer };
        assert_weighed(&frame, frame.weight());
    }
    for event in events() {
        let frame = ServerFrame::Event { call, event };
        assert_weighed(&frame, frame.weight());
    }
    for frame in [ServerFrame::Leader { name: Some(text()) }, ServerFrame::Ping { applied: 1 }] {
        assert_weighed(&frame, frame.weight());
    }
    for request in requests() {
        let frame = ClientFrame::Call { call, request };
        assert_weighed(&frame, frame.weight());
    }
    for frame in [ClientFrame::Cancel { call }, ClientFrame::Ping] {
        assert_weighed(&frame, frame.weight());
    }
}

#[test]
fn what_is_kept_of_a_request_is_short() {
    for request in requests() {
        let holds_a_key = match &request {
            Request::Write { .. } | Request::Get { .. } | Request::Scan(_) => true,
            Request::Subscribe(_) | Request::Snapshot(_) => true,
            Request::Status | Request::Admin(_) | Request::Addresses | Request::Access(_) => false,
        };
        assert_eq!(request.validate().is_err(), holds_a_key, "{request:?}");
    }
    let prefix = vec![7; KEY_BYTES_MAX];
    let longest = Request::Subscribe(Subscription::Keys { prefix, from: 0 });
    assert_eq!(longest.validate(), Ok(()));
}

#[test]
fn texts_for_people_are_cut_between_characters() {
    for text in ["x".repeat(TEXT_BYTES_MAX), String::new(), "short".to_owned()] {
        assert_eq!(bounded(text.clone()), text);
    }
    for character in ["x", "ü", "語", "👨"] {
        let cut = bounded(character.repeat(2 * TEXT_BYTES_MAX));
        assert!(cut.len() <= TEXT_BYTES_MAX && cut.ends_with('…'), "{}", cut.len());
    }
    for refusal in refusals() {
        let weight = refusal.bounded().weight();
        assert!(weight <= OVERHEAD + 2 * TEXT_BYTES_MAX, "{weight}");
    }
}
