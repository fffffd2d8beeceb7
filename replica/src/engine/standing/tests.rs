//! Tests of which senders may send which message, from a table.

use kvorum_protocol::data::{ClientId, Condition, LaneId, Operation, RequestId};
use kvorum_protocol::message::{Answer, Request};
use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::messages::Message;
use omnipaxos::messages::sequence_paxos::{PaxosMessage, PaxosMsg, PrepareReq};

use super::*;
use crate::planner::Scale;
use crate::state::chain::Joiner;
use crate::state::snapshot::{Digest, FetchRequest, FetchResponse};
use kvorum_protocol::status::Configuration;

const NOW: ConfigurationId = ConfigurationId(5);

/// Returns messages with the senders that may send them: a letter for each of a stranger, a joiner,
/// a replica elsewhere, a member and the leader.
fn table() -> Vec<(&'static str, PeerMessage)> {
    let n = Ballot::default();
    let paxos = |configuration| {
        let msg = PaxosMsg::PrepareReq(PrepareReq { n });
        let message = Message::SequencePaxos(PaxosMessage { from: 1, to: 2, msg });
        PeerMessage::Paxos { configuration: ConfigurationId(configuration), message }
    };
    let lane = LaneId { client: ClientId(1), number: 1 };
    let operation = Operation::Delete { key: "a".into(), condition: Condition::Always };
    let id = RequestId { lane, sequence: 1 };
    let request = Request::Write { id, valid_until: 9, operation };
    let wanted = Scale { start: 0, replicas: 3 };
    let (configuration, ballot, call, index) = (NOW, n, 1, 1);
    vec![
        ("sjeml", paxos(4)),
        ("ml", paxos(5)),
        ("eml", paxos(6)),
        ("ml", PeerMessage::Probe { configuration, ballot, round: 1 }),
        ("ml", PeerMessage::ProbeAnswer { configuration, ballot, round: 1 }),
        ("ml", PeerMessage::Relay { call, request: request.clone() }),
        ("ml", PeerMessage::UserRelay { call, user: "app".to_owned(), request }),
        ("sjeml", PeerMessage::RelayAnswer { call, answer: Answer::Done }),
        ("ml", PeerMessage::ReadIndex { call }),
        ("sjeml", PeerMessage::ReadIndexAnswer { call, index: Ok(1) }),
        ("l", PeerMessage::TransferLeadership { configuration, ballot }),
        ("l", PeerMessage::DeferLeadership { configuration, ballot }),
        ("sjeml", PeerMessage::Fetch { call, wanted: FetchRequest::Snapshot }),
        ("sjeml", PeerMessage::Fetched { call, found: FetchResponse::Busy }),
        ("jml", PeerMessage::StateProgress { index }),
        ("ml", PeerMessage::Checksum { index, digest: Digest::default() }),
        ("eml", PeerMessage::ConfigurationOver { configuration, index, is_dismissed: false }),
        ("ml", PeerMessage::RequestStop { has_leave: true }),
        ("ml", PeerMessage::PermitStop),
        ("ml", PeerMessage::ReadScale { number: 1 }),
        ("ml", PeerMessage::ScaleReport { wanted, number: Some(1) }),
        ("ml", PeerMessage::ScaleReport { wanted, number: None }),
        ("l", PeerMessage::StateDiffers { index, sound: vec![] }),
    ]
}

#[test]
fn each_message_counts_from_those_who_may_say_it() {
    use Speaker::{Elsewhere, Joiner, Leader, Member, Stranger};
    let letters = [('s', Stranger), ('j', Joiner), ('e', Elsewhere), ('m', Member), ('l', Leader)];
    for (who, message) in table() {
        for (letter, speaker) in letters {
            let expected = who.contains(letter);
            assert_eq!(counts(&message, speaker, NOW), expected, "{speaker:?}: {message:?}");
        }
    }
}

#[test]
fn who_somebody_is_comes_from_the_state_and_from_clients_ports() {
    use Speaker::{Elsewhere, Member as M, Stranger};
    let member = |id: u64| Member { replica: ReplicaId(id), name: format!("kvorum-{id}") };
    let members = |ids: &[u64]| ids.iter().map(|id| member(*id)).collect::<Vec<_>>();
    let configuration = |id| Configuration { id: ConfigurationId(id), members: members(&[1, 2]) };
    let mut chain = Chain::new(configuration(5));
    chain.former = members(&[3]);
    chain.joiners = vec![Joiner { member: member(4), nonce: 7 }];
    let mut standings = Standings::of(&chain);
    let who = |standings: &Standings| [1, 3, 4, 6].map(|id| standings.speaker(ReplicaId(id)));
    assert_eq!(who(&standings), [M, Elsewhere, Speaker::Joiner, Stranger]);
    standings.learn(&members(&[4, 6]), Some(ConfigurationId(7)));
    assert_eq!(who(&standings), [M, Elsewhere, Elsewhere, Elsewhere]);
    assert_eq!(standings.later(), Some(ConfigurationId(7)));
    standings.learn(&members(&[6]), Some(ConfigurationId(6)));
    assert_eq!(standings.later(), Some(ConfigurationId(7)), "the latest counts");
    standings.know(&Chain { current: configuration(7), ..chain });
    assert_eq!(standings.later(), None, "it has come there");
}
