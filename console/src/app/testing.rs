//! Pure: replicas and entries made up for unit tests.

use kvorum_protocol::message::{EntryEvent, EntryKind};
use kvorum_protocol::status::{
    Ballot, ClusterId, Configuration, ConfigurationId, LinkStatus, Member, ReplicaId, Role,
};
use kvorum_protocol::{Key, Status, Value};

use super::cluster::{Cluster, ClusterEvent};
use crate::message::{Now, Observation};

/// Returns the status of a replica in a healthy cluster that the first one leads.
pub fn status_of(total: usize, place: usize) -> Status {
    let name = |place: usize| format!("kvorum-{place}");
    let id = |place: usize| ReplicaId(place as u64 + 1);
    let member = |place| Member { replica: id(place), name: name(place) };
    let link = |peer| LinkStatus { peer: name(peer), is_up: true, is_cut: false, sessions: 1 };
    Status {
        name: name(place),
        replica: id(place),
        cluster: ClusterId(7),
        incarnation: 1,
        configuration: Configuration {
            id: ConfigurationId(1),
            members: (0..total).map(member).collect(),
        },
        role: if place == 0 { Role::Leader } else { Role::Follower },
        leader: Some(name(0)),
        ballot: Ballot { number: 2, replica: id(0) },
        accepted: 100,
        decided: 100,
        applied: 100,
        compacted: 0,
        catching_up: None,
        membership: kvorum_protocol::status::Membership::default(),
        is_ready: true,
        version: 2,
        same_at: 0,
        allows_faults: true,
        links: (0..total).filter(|peer| *peer != place).map(link).collect(),
        trouble: None,
        monotonic_us: 0,
        wall_us: 0,
    }
}

/// Returns a healthy cluster.
pub fn cluster_of(total: usize) -> Cluster {
    let mut cluster = Cluster::default();
    for place in 0..total {
        cluster.observe(Now::default(), &Observation::Status(Box::new(status_of(total, place))));
    }
    cluster
}

/// Takes down the connection to a replica.
pub fn down(cluster: &mut Cluster, place: usize) -> Vec<ClusterEvent> {
    let (node, why) = (format!("kvorum-{place}"), "connection lost".to_owned());
    cluster.observe(Now::default(), &Observation::Down { node, why })
}

/// Returns a put of `key-INDEX`.
pub fn entry(index: u64) -> EntryEvent {
    EntryEvent {
        index,
        kind: EntryKind::Put,
        key: Some(Key::from(format!("key-{index}"))),
        preview: Some(Value::from(format!("value {index}"))),
        value_bytes: 10,
        took_effect: true,
    }
}
