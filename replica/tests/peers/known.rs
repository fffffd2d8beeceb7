//! Tests that a replica remembers few others, however many ids are given out.

use kvorum_protocol::status::{ClusterId, Configuration, ConfigurationId, Member, ReplicaId};
use kvorum_replica::engine::peers::Peers;
use kvorum_replica::engine::store::Identity;
use kvorum_replica::engine::{Known, Session};
use kvorum_replica::state::chain::Chain;
use kvorum_replica::state::version::Version;
use kvorum_replica::storage::memory::Memory;

const ME: ReplicaId = ReplicaId(1);
/// The members, and the most that a chain remembers of others.
const KNOWN_MAX: usize = 64;

fn member(id: u64) -> Member {
    Member { replica: ReplicaId(id), name: format!("kvorum-{}", id - 1) }
}

fn configuration(id: u32, members: &[u64]) -> Configuration {
    let members = members.iter().map(|id| member(*id)).collect();
    Configuration { id: ConfigurationId(id), members }
}

struct Fixture {
    store: Memory,
    chain: Chain,
    peers: Peers,
}

impl Fixture {
    fn new() -> Self {
        let identity = Identity {
            cluster: ClusterId(1),
            replica: ME,
            name: "kvorum-0".to_owned(),
            incarnation: 1,
            nonce: 1,
        };
        let chain = Chain::new(configuration(1, &[1, 2, 3]));
        let store = Memory::new(identity, configuration(1, &[1, 2, 3]));
        let peers = Peers::new(&chain, ME, Version::NEWEST, &store);
        Self { store, chain, peers }
    }

    fn join(&mut self, name: &str, nonce: u64) -> ReplicaId {
        self.chain = self.chain.clone().join(name, nonce);
        self.peers.reconfigure(&self.chain, ME, &self.store, 0);
        self.chain.id_of(nonce).unwrap()
    }

    fn configure(&mut self, members: &[u64]) {
        let id = self.chain.current.id.0 + 1;
        let next = configuration(id, members);
        self.chain = self.chain.clone().next(&next, u64::from(id) * 10).unwrap();
        self.peers.reconfigure(&self.chain, ME, &self.store, 0);
    }

    fn is_member(&self, id: u64) -> Option<bool> {
        let known = self.peers.known();
        known.iter().find(|known| known.member.replica.0 == id).map(|known| known.is_member)
    }
}

#[test]
fn a_replica_whose_volume_is_empty_at_each_start_is_known_once() {
    let mut all = Fixture::new();
    for nonce in 0..1000 {
        all.join("kvorum-3", nonce);
    }
    let named: Vec<Known> =
        all.peers.known().into_iter().filter(|known| known.member.name == "kvorum-3").collect();
    assert_eq!(named.len(), 1, "{named:?}");
    for nonce in 1000..3000 {
        all.join(&format!("kvorum-{nonce}"), nonce);
        assert!(all.peers.known().len() < KNOWN_MAX);
    }
}

#[test]
fn strangers_with_sessions_are_forgotten_when_these_end() {
    let mut all = Fixture::new();
    let ids: Vec<_> = (0..200u64)
        .map(|nonce| {
            let id = all.join(&format!("kvorum-{}", 100 + nonce % 40), nonce);
            all.peers.up(id, Session(nonce));
            id
        })
        .collect();
    for (id, session) in ids.iter().zip(0..) {
        assert!(all.peers.knows(*id), "a session is no reason to forget");
        assert!(all.peers.down(*id, Session(session), 5));
    }
    assert!(all.peers.known().len() < KNOWN_MAX, "{}", all.peers.known().len());
}

#[test]
fn members_are_told_from_those_who_left_and_those_who_join() {
    let mut all = Fixture::new();
    let joiner = all.join("kvorum-3", 7).0;
    assert_eq!((all.is_member(2), all.is_member(joiner)), (Some(true), Some(false)));
    all.configure(&[1, 2, joiner]);
    assert_eq!((all.is_member(3), all.is_member(joiner)), (Some(false), Some(true)));
    // The members that another replica reports count until the state has newer ones.
    assert!(all.peers.learn(&[member(20), member(21)], ME, &all.store, 0));
    assert_eq!(all.is_member(20), Some(true));
    assert!(all.peers.learn(&[member(21), member(22)], ME, &all.store, 0));
    assert_eq!((all.is_member(20), all.is_member(22)), (None, Some(true)));
    assert!(!all.peers.learn(&[], ME, &all.store, 0), "nothing was said");
    all.join("kvorum-9", 8);
    assert_eq!(all.is_member(22), Some(true), "a joiner changes nothing about that");
    all.configure(&[1, 2, 22]);
    assert_eq!((all.is_member(21), all.is_member(22)), (None, Some(true)));
}
