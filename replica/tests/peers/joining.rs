//! Tests of replicas that join or come back: single engines, on both kinds of disk where the disk
//! matters, whose peers are played by the test.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use kvorum_protocol::message::{Admin, Answer, Refusal, Request, ServerFrame};
use kvorum_protocol::status::{ClusterId, Configuration, ConfigurationId, Member, ReplicaId};
use kvorum_replica::engine::peers::Peers;
use kvorum_replica::engine::store::{CopyStore, Identity, LogLimits, StateStore, Store};
use kvorum_replica::engine::{
    ClientKey, Engine, Input, Notice, Options, Output, PeerMessage, Session, Verdict,
};
use kvorum_replica::marker::Mark;
use kvorum_replica::state::chain::{Chain, Joiner};
use kvorum_replica::state::entry::Entry;
use kvorum_replica::state::machine::{Changes, Table};
use kvorum_replica::state::rights::User;
use kvorum_replica::state::snapshot::{
    Chunk, FetchRequest, FetchResponse, Header, InstallWrite, Quarantine, SnapshotId,
};
use kvorum_replica::state::version::Version;
use kvorum_replica::storage::Database;
use kvorum_replica::storage::memory::Memory;
use kvorum_replica::storage::rocks::open::{NewIdentity, Owner};

const OPTIONS: Options =
    Options { allows_faults: false, newest: Version::NEWEST, checksum_ticks: 0 };

fn member(id: u64) -> Member {
    Member { replica: ReplicaId(id), name: format!("kvorum-{}", id - 1) }
}

fn configuration(id: u32, members: &[u64]) -> Configuration {
    Configuration {
        id: ConfigurationId(id),
        members: members.iter().map(|id| member(*id)).collect(),
    }
}

fn chain(id: u32, members: &[u64], began: u64) -> Chain {
    Chain {
        current: configuration(id, members),
        began,
        former: Vec::new(),
        joiners: vec![Joiner { member: member(9), nonce: 7 }],
        next_replica: ReplicaId(10),
    }
}

fn header(chain: Chain, applied: u64) -> Header {
    Header { applied, items: 0, version: Version::NEWEST, chain }
}

fn memory(id: u64, members: Configuration) -> Memory {
    let identity = Identity {
        cluster: ClusterId(1),
        replica: ReplicaId(id),
        name: member(id).name,
        incarnation: 1,
        nonce: 1,
    };
    Memory::crashable(identity, members, LogLimits::default())
}

fn database(folder: &Path, id: u64, members: Configuration) -> Database {
    let newborn = NewIdentity { cluster: ClusterId(1), replica: ReplicaId(id), members };
    let owner = Owner {
        cluster: Some(ClusterId(1)),
        name: member(id).name,
        newest: Version::NEWEST,
        newborn: Some(newborn),
    };
    let on_fatal = Arc::new(|what: &str| panic!("{what}"));
    Database::open(folder, &owner, 1, LogLimits::default(), on_fatal).unwrap()
}

/// Returns the answer of a replica with the chain `theirs` and `decided` entries to one that is
/// behind.
fn reply(theirs: &Chain, decided: u64, wanted: &FetchRequest) -> FetchResponse {
    let id = theirs.current.id;
    match wanted {
        FetchRequest::Snapshot => FetchResponse::Snapshot {
            snapshot: SnapshotId { nonce: u64::from(id.0), number: decided },
            header: header(theirs.clone(), decided),
        },
        FetchRequest::Chunk { snapshot, .. } if snapshot.nonce == u64::from(id.0) => {
            FetchResponse::Chunk(Chunk { items: Vec::new(), next: None })
        }
        FetchRequest::Chunk { .. } | FetchRequest::Close { .. } => FetchResponse::Gone,
        FetchRequest::Entries { configuration, from } => {
            let (read, _) = theirs.log_of(*from);
            let entries = match *from > theirs.began && *from <= decided {
                true => vec![Entry::Noop; usize::try_from(decided - from + 1).unwrap()],
                false => Vec::new(),
            };
            FetchResponse::entries_of(read, *configuration, *from, entries, decided)
        }
    }
}

/// Runs a joiner that was given configuration 5 and hears of it from its leader, which is busy at
/// first; returns its applied index and configuration. The second member lags for ten seconds, in
/// configuration 4. The others' logs begin after the first state that they send, so it requests
/// another.
fn follow<S: Store>(store: S) -> (u64, ConfigurationId) {
    let mut engine = Engine::new(store, OPTIONS);
    let peers = [1, 2, 3].map(ReplicaId);
    for peer in peers {
        engine.step(Input::PeerUp { peer, session: Session(peer.0) });
    }
    let (newer, older) = (chain(5, &[1, 2, 3], 20), chain(4, &[1, 2], 3));
    let (mut is_busy, mut copies, mut open) = (true, 0, BTreeSet::new());
    for tick in 0..6_000u64 {
        if tick.is_multiple_of(3) {
            let configuration = ConfigurationId(5);
            let message =
                PeerMessage::ConfigurationOver { configuration, index: 100, is_dismissed: false };
            engine.step(Input::Peer { peer: peers[0], session: Session(1), message });
        }
        engine.step(Input::Tick);
        for output in engine.turn(&|_| true) {
            let Output::Send { to, message: PeerMessage::Fetch { call, wanted }, .. } = output
            else {
                continue;
            };
            if let FetchRequest::Close { snapshot } = wanted {
                open.remove(&(to, snapshot));
                continue;
            }
            let found = match &wanted {
                FetchRequest::Snapshot if to == peers[0] && std::mem::take(&mut is_busy) => {
                    FetchResponse::Busy
                }
                wanted if to == peers[1] && tick < 1000 => reply(&older, 15, wanted),
                FetchRequest::Snapshot if copies == 0 => reply(&newer, 60, &wanted),
                FetchRequest::Entries { from, .. } if *from <= 100 => FetchResponse::Gone,
                wanted => reply(&newer, 100, wanted),
            };
            if let FetchResponse::Snapshot { snapshot, .. } = &found {
                copies += 1;
                open.insert((to, *snapshot));
            }
            let message = PeerMessage::Fetched { call, found };
            engine.step(Input::Peer { peer: to, session: Session(to.0), message });
        }
    }
    assert!(open.is_empty(), "they keep the log for it: {open:?}");
    (engine.applied(), engine.store().configuration_id())
}

#[test]
fn a_joiner_copies_from_those_who_are_where_it_is_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let told = || configuration(5, &[1, 2, 3]);
    let expected = (100, ConfigurationId(5));
    assert_eq!(follow(memory(9, told())), expected, "in memory");
    assert_eq!(follow(database(folder.path(), 9, told())), expected, "on RocksDB");
}

/// The volume has a state of a configuration before the given one: its requests for entries get no
/// answer, and so it copies a state.
#[test]
fn a_joiner_that_nobody_answers_copies_a_state() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = database(folder.path(), 9, configuration(5, &[1, 2, 3]));
    store.commit(Changes { applied: 15, from_peer: true, ..Changes::default() });
    assert_eq!(follow(store), (100, ConfigurationId(5)));
}

/// Returns the engine of a single leader that may decide.
fn alone() -> Engine<Memory> {
    let mut engine = Engine::new(memory(1, configuration(1, &[1])), OPTIONS);
    let mark = Mark { solo: Some(ConfigurationId(1)), ..Mark::default() };
    engine.step(Input::Marked { mark, verdict: Verdict::Done });
    settle(&mut engine);
    engine
}

/// Lets a single leader decide its entries and raise its version, and returns the answers to
/// clients.
fn settle(engine: &mut Engine<Memory>) -> Vec<(ClientKey, u64, Answer)> {
    let mut told = Vec::new();
    for _ in 0..250 {
        engine.step(Input::Tick);
        for output in engine.turn(&|_| true) {
            match output {
                Output::Sync(written) => engine.step(Input::Synced(written)),
                Output::Frame { client, frame: ServerFrame::Answer { call, answer } } => {
                    told.push((client, call, answer));
                }
                _ => {}
            }
        }
    }
    told
}

fn ask(engine: &mut Engine<Memory>, client: u64, nonce: u64, name: &str) {
    let request = Request::Admin(Admin::Join { name: name.to_owned(), nonce });
    engine.step(Input::Client {
        client: ClientKey(client),
        call: nonce,
        user: User::Anonymous,
        request,
    });
}

/// Of many requests for an id under one name the last gets one, and all are answered.
#[test]
fn whoever_is_overtaken_is_told() {
    let mut engine = alone();
    for round in 0..3u64 {
        for nonce in 1..=64 {
            ask(&mut engine, nonce, 100 * round + nonce, "kvorum-3");
        }
        let told = settle(&mut engine);
        assert_eq!(told.len(), 64, "round {round}: {told:?}");
        let ids = told.iter().filter(|(.., answer)| matches!(answer, Answer::Joined { .. }));
        let ids: Vec<_> = ids.map(|(_, call, _)| *call).collect();
        assert!(ids.contains(&(100 * round + 64)), "round {round}: the last, of {ids:?}");
        let is_refused = |answer: &Answer| match answer {
            Answer::Refused(Refusal::Unavailable(why)) => why.contains("under this name since"),
            other => matches!(other, Answer::Joined { .. }),
        };
        assert!(told.iter().all(|(.., answer)| is_refused(answer)), "round {round}: {told:?}");
    }
}

/// A leader without a majority cannot give ids: no request waits, or takes a place, for ever.
#[test]
fn whoever_waits_for_an_id_does_not_wait_for_ever() {
    let mut engine = alone();
    let hold = |engine: &mut Engine<Memory>, ticks: u64| -> Vec<Answer> {
        let mut told = Vec::new();
        for _ in 0..ticks {
            engine.step(Input::Tick);
            for output in engine.turn(&|_| true) {
                if let Output::Frame { frame: ServerFrame::Answer { answer, .. }, .. } = output {
                    told.push(answer);
                }
            }
        }
        told
    };
    for nonce in 1..=64 {
        ask(&mut engine, 1, nonce, "kvorum-3");
    }
    ask(&mut engine, 2, 65, "kvorum-3");
    assert_eq!(hold(&mut engine, 10), [Answer::Refused(Refusal::Overloaded)]);
    engine.step(Input::ClientGone { client: ClientKey(1) });
    ask(&mut engine, 2, 66, "kvorum-3");
    assert_eq!(hold(&mut engine, 10), [], "there is room, and no sync");
    assert_eq!(hold(&mut engine, 500), [Answer::Refused(Refusal::NoQuorum)]);
}

#[test]
fn only_names_like_the_members_get_an_id() {
    let mut engine = alone();
    let names = ["", "evil-1", "kvorum-03", "kvorum", "\u{1b}]0;owned\u{7}kvorum-1", "kvorum-4\n"];
    for name in names {
        ask(&mut engine, 1, 1, name);
        let told = settle(&mut engine);
        let [(_, _, Answer::Refused(Refusal::Unavailable(why)))] = told.as_slice() else {
            panic!("{name:?}: {told:?}");
        };
        assert!(!why.chars().any(char::is_control), "{why:?}");
    }
    ask(&mut engine, 1, 1, "kvorum-3");
    assert!(matches!(settle(&mut engine).as_slice(), [(.., Answer::Joined { .. })]));
}

/// A replica is in quarantine, and all its sound peers were replaced while it was away.
#[test]
fn one_in_quarantine_gets_its_state_from_a_later_configuration() {
    let mut store = memory(1, configuration(5, &[1, 2, 3]));
    store.commit(Changes { applied: 50, from_peer: true, ..Changes::default() });
    let sound = vec![ReplicaId(2), ReplicaId(3)];
    store.write_install(InstallWrite::Quarantine(Quarantine { index: 40, sound }));
    let mut engine = Engine::new(store, OPTIONS);
    let (peer, session) = (ReplicaId(7), Session(7));
    let members = vec![member(7), member(8)];
    engine.step(Input::Learned { members, configuration: Some(ConfigurationId(6)) });
    engine.step(Input::PeerUp { peer, session });
    let (mut copied, mut asked) = (false, 0);
    for tick in 0..1500u64 {
        engine.step(Input::Tick);
        for output in engine.turn(&|_| true) {
            match output {
                Output::Send { to, message: PeerMessage::Fetch { call, wanted }, .. } => {
                    assert!(tick >= 499, "those who are sound are waited for: {wanted:?}");
                    asked += u32::from(wanted == FetchRequest::Snapshot);
                    // At first the peer has not reached the later configuration itself.
                    let theirs = match asked {
                        1 => chain(5, &[1, 2, 3], 3),
                        _ => chain(6, &[7, 8], 60),
                    };
                    let found = reply(&theirs, 70, &wanted);
                    let message = PeerMessage::Fetched { call, found };
                    engine.step(Input::Peer { peer: to, session, message });
                }
                Output::Notice(Notice::Copied { .. }) => copied = true,
                _ => {}
            }
        }
    }
    assert!(copied && asked >= 2, "asked {asked} times");
    let store = engine.store();
    assert_eq!((store.quarantine(), store.applied()), (None, 70));
    assert_eq!(store.configuration_id(), ConfigurationId(6));
}

/// A recently learned peer does not count as silent since before it was known.
#[test]
fn silence_begins_when_somebody_is_known() {
    let store = memory(1, configuration(1, &[1, 2]));
    let mut peers = Peers::new(&store.chain(), ReplicaId(1), Version::NEWEST, &store);
    assert_eq!(peers.silent_ticks(ReplicaId(2), 900), 900);
    let known = store.chain().join("kvorum-2", 7);
    peers.reconfigure(&known, ReplicaId(1), &store, 900);
    assert_eq!(peers.silent_ticks(ReplicaId(3), 900), 0);
    peers.learn(&[member(4)], ReplicaId(1), &store, 950);
    assert_eq!(peers.silent_ticks(ReplicaId(4), 1000), 50);
}
