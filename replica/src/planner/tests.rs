//! Tests of the planner: with data, and against a model of the system that runs the replicas.

use super::*;
use proptest::prelude::*;

fn member(id: u64, ordinal: u32) -> Member {
    Member { replica: ReplicaId(id), name: format!("kvorum-{ordinal}") }
}

fn fit(id: u64, ordinal: u32) -> Candidate {
    Candidate { member: member(id, ordinal), is_linked: true, has_state: true, silent_ticks: 0 }
}

fn dead(id: u64, ordinal: u32) -> Candidate {
    let silent_ticks = REPLACE_TICKS;
    Candidate { is_linked: false, has_state: false, silent_ticks, ..fit(id, ordinal) }
}

fn behind(id: u64, ordinal: u32) -> Candidate {
    Candidate { has_state: false, ..fit(id, ordinal) }
}

fn view(replicas: u32, members: Vec<Candidate>, joiners: Vec<Candidate>) -> View {
    View {
        wanted: Some(Scale { start: 0, replicas }),
        leader: members[0].member.replica,
        members,
        joiners,
        is_genesis: false,
        waited_ticks: 0,
    }
}

/// Returns the planned members as `id@ordinal`, or a description of any other plan.
fn told(view: &View) -> String {
    match plan(view) {
        Plan::Stay => "stay".to_owned(),
        Plan::HandOver(to) => format!("hand over to {}", to.0),
        Plan::Wait(why) => format!("wait: {why}"),
        Plan::Change(members) => {
            let ids = members.iter().map(|m| format!("{}@{}", m.replica.0, &m.name[7..]));
            ids.collect::<Vec<_>>().join(" ")
        }
    }
}

#[test]
fn an_ordinal_ends_the_name() {
    for (name, expected) in [("kvorum-0", Some(0)), ("a-b-12", Some(12)), ("kvorum", None)] {
        assert_eq!(ordinal(name), expected, "{name}");
    }
    for name in ["kvorum-", "kvorum-01", "kvorum-+1", "kvorum-x", "kvorum-99999999999"] {
        assert_eq!(ordinal(name), None, "{name}");
    }
}

#[test]
fn members_follow_what_is_wanted() {
    let three = || vec![fit(1, 0), fit(2, 1), fit(3, 2)];
    let five = || vec![fit(1, 0), fit(2, 1), fit(3, 2), fit(4, 3), fit(5, 4)];
    let ended = |view: View| View { waited_ticks: TOGETHER_TICKS, ..view };
    let led_by = |leader, view: View| View { leader: ReplicaId(leader), ..view };
    let genesis = |view: View| View { is_genesis: true, ..view };
    let cases: Vec<(&str, View, &str)> = vec![
        ("all are there", view(3, three(), vec![]), "stay"),
        ("up", view(5, three(), vec![fit(4, 3), fit(5, 4)]), "1@0 2@1 3@2 4@3 5@4"),
        (
            "one is not ready",
            view(5, three(), vec![fit(4, 3), behind(5, 4)]),
            "wait: waiting for kvorum-4",
        ),
        ("for long", ended(view(5, three(), vec![fit(4, 3), behind(5, 4)])), "1@0 2@1 3@2 4@3"),
        ("none came", view(5, three(), vec![]), "wait: waiting for kvorum-3, kvorum-4"),
        ("down at once", view(1, five(), vec![]), "1@0"),
        ("the leader leaves", led_by(5, view(3, five(), vec![])), "hand over to 1"),
        ("up and down", view(2, vec![fit(1, 0), fit(3, 2)], vec![fit(4, 1)]), "1@0 4@1"),
        ("down without waiting", view(2, vec![fit(1, 0), fit(3, 2)], vec![]), "1@0"),
        ("a dead one stays", view(3, vec![fit(1, 0), fit(2, 1), dead(3, 2)], vec![]), "stay"),
        ("swap", view(3, vec![fit(1, 0), fit(2, 1), dead(3, 2)], vec![fit(9, 2)]), "1@0 2@1 9@2"),
        ("no swap yet", view(3, three(), vec![fit(9, 2)]), "stay"),
        ("swap later", view(3, vec![fit(1, 0), fit(2, 1), dead(3, 2)], vec![behind(9, 2)]), "stay"),
        (
            "down past a dead one",
            view(3, vec![fit(4, 3), dead(1, 0), fit(2, 1), fit(3, 2), fit(5, 4)], vec![]),
            "hand over to 2",
        ),
        (
            "too few stay",
            view(1, vec![fit(2, 1), dead(1, 0), fit(3, 2)], vec![]),
            "wait: 0 of the new members",
        ),
        ("stop", view(0, three(), vec![]), "wait: no replica is wanted"),
        (
            "genesis",
            genesis(view(3, vec![fit(1, 0)], vec![])),
            "wait: waiting for kvorum-1, kvorum-2",
        ),
        ("half", ended(genesis(view(3, vec![fit(1, 0)], vec![fit(2, 2)]))), "1@0 2@2"),
        (
            "not half",
            ended(genesis(view(5, vec![fit(1, 0)], vec![fit(2, 2)]))),
            "wait: waiting for kvorum-1",
        ),
        ("genesis of one", genesis(view(1, vec![fit(1, 0)], vec![])), "1@0"),
    ];
    for (name, view, expected) in cases {
        let told = told(&view);
        assert!(told.starts_with(expected), "{name}: {told}");
    }
    let shifted = View { wanted: Some(Scale { start: 2, replicas: 2 }), ..view(0, five(), vec![]) };
    assert_eq!(told(&shifted), "hand over to 3");
    assert_eq!(told(&View { leader: ReplicaId(3), ..shifted }), "3@2 4@3");
    assert_eq!(told(&View { wanted: None, ..view(9, three(), vec![]) }), "stay");
}

/// Only a name with the members' base counts, and no replica count makes a cluster too large.
#[test]
fn nobody_becomes_a_member_under_another_name() {
    let named = |id: u64, name: &str| {
        let member = Member { replica: ReplicaId(id), name: name.to_owned() };
        Candidate { member, ..fit(id, 0) }
    };
    let three = || vec![fit(1, 0), fit(2, 1), fit(3, 2)];
    for name in ["evil-1", "evil-3", "kvorum-03", "kvorum-+3", "kvorum", "-3", "other-kvorum-3"] {
        let view = view(4, three(), vec![named(9, name)]);
        let planned = told(&View { waited_ticks: TOGETHER_TICKS, ..view });
        let expected = "wait: waiting for kvorum-3: not started, or without the state";
        assert_eq!(planned, expected, "{name}");
    }
    let all = |ids: std::ops::RangeInclusive<u32>| -> Vec<_> {
        ids.map(|id| fit(u64::from(id), id - 1)).collect()
    };
    let full = |replicas| view(replicas, all(1..=7), vec![]);
    assert_eq!(told(&full(7)), "stay");
    let joiners = all(8..=20);
    for (view, wanted) in [(full(u32::MAX), u32::MAX), (View { joiners, ..full(20) }, 20)] {
        let expected = format!("wait: {wanted} replicas are wanted, and a cluster has 7 members");
        assert!(told(&view).starts_with(&expected), "{}", told(&view));
    }
    let wild = Scale { start: u32::MAX, replicas: u32::MAX };
    let planned = told(&View { wanted: Some(wild), ..view(0, three(), vec![]) });
    assert!(planned.starts_with("wait: 0 of the new members are there"), "{planned}");
    // Of two joiners for one ordinal only one becomes a member.
    let twice = vec![fit(8, 3), fit(9, 3)];
    assert_eq!(told(&view(4, three(), twice)), "1@0 2@1 3@2 8@3");
}

/// A model of a `StatefulSet` and of the replicas that it starts and ends. Pods of wanted ordinals
/// run sooner or later (all at once, or each when the previous one is a member); pods that are not
/// wanted end at any time, whether they have left or not.
#[derive(Clone, Debug)]
struct World {
    wanted: u32,
    members: Vec<(u64, u32)>,
    joiners: Vec<(u64, u32)>,
    /// By ordinal: the id on the volume, whether it runs, since when it does not, and whether it
    /// has the state.
    pods: std::collections::BTreeMap<u32, (u64, bool, u64, bool)>,
    next_id: u64,
    now: u64,
    ordered: bool,
    /// The replica to which leadership was handed over last.
    heir: u64,
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Resize(u32),
    Start(u32),
    End(u32),
    LoseDisk(u32),
    CatchUp(u32),
    Pass(u64),
    Plan,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        1 => (1..=7u32).prop_map(Act::Resize),
        4 => (0..7u32).prop_map(Act::Start),
        2 => (0..7u32).prop_map(Act::End),
        1 => (0..7u32).prop_map(Act::LoseDisk),
        4 => (0..7u32).prop_map(Act::CatchUp),
        2 => (1..300u64).prop_map(Act::Pass),
        6 => Just(Act::Plan),
    ]
}

impl World {
    fn new(ordered: bool) -> Self {
        let pods = [(0, (1, true, 0, true))].into();
        let (members, joiners) = (vec![(1, 0)], vec![]);
        Self { wanted: 3, members, joiners, pods, next_id: 2, now: 0, ordered, heir: 1 }
    }

    fn is_member(&self, ordinal: u32) -> bool {
        let pod = self.pods.get(&ordinal);
        pod.is_some_and(|(id, runs, ..)| *runs && self.members.contains(&(*id, ordinal)))
    }

    fn start(&mut self, ordinal: u32) {
        let is_turn = !self.ordered || (0..ordinal).all(|lower| self.is_member(lower));
        if ordinal >= self.wanted || !is_turn {
            return;
        }
        let known = self.pods.get(&ordinal).copied();
        let has_place =
            |id| self.members.contains(&(id, ordinal)) || self.joiners.contains(&(id, ordinal));
        match known.filter(|(id, ..)| has_place(*id)) {
            Some((id, _, since, has_state)) => {
                self.pods.insert(ordinal, (id, true, since, has_state));
            }
            // A new volume, or one whose id is retired.
            None => {
                self.pods.insert(ordinal, (self.next_id, true, 0, false));
                self.joiners.retain(|(_, other)| *other != ordinal);
                self.joiners.push((self.next_id, ordinal));
                self.next_id += 1;
            }
        }
    }

    fn candidate(&self, (id, ordinal): (u64, u32)) -> Candidate {
        let pod = self.pods.get(&ordinal).filter(|(other, ..)| *other == id);
        let (runs, has_state) = pod.map_or((false, false), |(_, runs, _, has)| (*runs, *has));
        let since = self.pods.get(&ordinal).map_or(0, |(_, _, since, _)| *since);
        let silent_ticks = if runs { 0 } else { self.now - since };
        Candidate { member: member(id, ordinal), is_linked: runs, has_state, silent_ticks }
    }

    fn view(&self, waited_ticks: u64) -> Option<View> {
        let members: Vec<_> = self.members.iter().map(|one| self.candidate(*one)).collect();
        let up: Vec<_> = members.iter().filter(|one| one.is_linked && one.has_state).collect();
        // Without a majority there is no leader, and no plan.
        let any = up.get(usize::try_from(self.now).unwrap() % up.len().max(1))?;
        let heir = up.iter().find(|one| one.member.replica.0 == self.heir);
        let leader = heir.unwrap_or(any).member.replica;
        (up.len() > members.len() / 2).then_some(())?;
        Some(View {
            wanted: Some(Scale { start: 0, replicas: self.wanted }),
            leader,
            joiners: self.joiners.iter().map(|one| self.candidate(*one)).collect(),
            // Where each pod waits until the previous one is ready, a new cluster is never ready.
            is_genesis: self.members == [(1, 0)] && !self.ordered,
            members,
            waited_ticks,
        })
    }

    fn plan(&mut self, waited_ticks: u64) -> Result<(), TestCaseError> {
        let Some(view) = self.view(waited_ticks) else { return Ok(()) };
        let target = match plan(&view) {
            Plan::Change(target) => target,
            Plan::HandOver(to) => {
                self.heir = to.0;
                return Ok(());
            }
            Plan::Stay | Plan::Wait(_) => return Ok(()),
        };
        let all = || view.members.iter().chain(&view.joiners);
        let is_fit = |m: &Member| all().any(|one| one.member == *m && one.is_fit());
        let fit = target.iter().filter(|member| is_fit(member)).count();
        prop_assert!(fit > target.len() / 2, "no majority of {target:?} is there: {view:?}");
        let stays = |one: &&Candidate| one.is_fit() && target.contains(&one.member);
        let leads_on = target.iter().any(|member| member.replica == view.leader);
        prop_assert!(leads_on || !view.members.iter().any(|one| stays(&one)), "{view:?}");
        for one in &view.members {
            let name = &one.member.name;
            let stays = target.contains(&one.member);
            let is_replaced = target.iter().any(|member| member.name == *name);
            let is_wanted = ordinal(name).is_some_and(|ordinal| ordinal < self.wanted);
            prop_assert!(stays || !is_wanted || (is_replaced && !one.is_linked), "{view:?}");
        }
        let ids: std::collections::BTreeSet<_> = target.iter().map(|m| &m.name).collect();
        prop_assert_eq!(ids.len(), target.len(), "one of a name");
        let place = |m: &Member| (m.replica.0, ordinal(&m.name).unwrap());
        self.members = target.iter().map(place).collect();
        self.joiners.retain(|joiner| !self.members.contains(joiner));
        Ok(())
    }

    fn act(&mut self, act: Act) -> Result<(), TestCaseError> {
        match act {
            Act::Resize(replicas) => self.wanted = replicas,
            Act::Start(ordinal) => self.start(ordinal),
            Act::End(ordinal) => {
                if let Some(pod) = self.pods.get_mut(&ordinal).filter(|pod| pod.1) {
                    (pod.1, pod.2) = (false, self.now);
                }
            }
            // One at a time, and never one of a pair: `recover` is for that.
            Act::LoseDisk(ordinal) => {
                let others = self.members.iter().filter(|(_, o)| *o != ordinal);
                let up = others.filter(|(_, other)| self.is_member(*other)).count();
                if up > self.members.len() / 2 && self.pods.contains_key(&ordinal) {
                    self.pods.insert(ordinal, (0, false, self.now, false));
                }
            }
            Act::CatchUp(ordinal) => {
                if let Some(pod) = self.pods.get_mut(&ordinal).filter(|pod| pod.1) {
                    pod.3 = true;
                }
            }
            Act::Pass(ticks) => self.now += ticks,
            Act::Plan => return self.plan(self.now % (2 * TOGETHER_TICKS)),
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever happens, each plan is safe; and when all wanted replicas run, they become the
    /// members.
    #[test]
    fn members_become_those_wanted(
        acts in prop::collection::vec(act(), 0..80),
        ordered in any::<bool>(),
    ) {
        let mut world = World::new(ordered);
        for act in acts {
            world.act(act)?;
        }
        // A lost volume stays lost; every other replica comes back. So a majority does.
        for (id, ordinal) in world.members.clone() {
            if let Some(pod) = world.pods.get_mut(&ordinal).filter(|pod| pod.0 == id) {
                (pod.1, pod.3) = (true, true);
            }
        }
        for _ in 0..40 {
            for ordinal in 0..world.wanted {
                world.start(ordinal);
                world.act(Act::CatchUp(ordinal))?;
            }
            world.now += REPLACE_TICKS;
            world.plan(TOGETHER_TICKS)?;
        }
        let is_led = world.view(0).is_some();
        let mut ordinals: Vec<_> = world.members.iter().map(|(_, ordinal)| *ordinal).collect();
        ordinals.sort_unstable();
        if is_led {
            prop_assert_eq!(ordinals, (0..world.wanted).collect::<Vec<_>>(), "{:?}", world);
        }
    }
}
