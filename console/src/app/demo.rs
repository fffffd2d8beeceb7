//! Pure: the director of the demos, which are a failover and the scaling of a cluster.
//!
//! Each step has a caption, a condition for going on and a deadline for that condition. Guarantees
//! that the demo ends, that it turns off what it turned on, and that its result consists of
//! measurements. Does not act itself: it issues orders.

use std::time::Duration;

use serde::Serialize;

mod scaling;

use super::cluster::{Cluster, short};
use super::failover::{Failover, Stamps};
use super::writes::{ProbeState, Writes};
use crate::arguments::DemoName;
use crate::message::{Now, Proof};
pub use scaling::Scaled;
use scaling::Walk;

/// How long the writes run before the leader is killed, and again once the cluster has recovered.
const CALM: Duration = Duration::from_secs(3);
/// How long a step may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many times the kill is repeated because the killed replica no longer led.
const MISSES_MAX: u32 = 3;
/// Writes that must be acknowledged before the leader is killed.
const WRITES_MIN: u64 = 100;

/// The demo in progress.
#[derive(Clone, Debug)]
pub struct Demo {
    /// Which demo it is.
    name: DemoName,
    /// The sizes to go through, in the scaling demo.
    walk: Walk,
    /// The current step.
    pub step: Step,
    /// When the step began.
    since: Duration,
    /// The killed leader, and its incarnation at that time.
    victim: Option<(String, u64)>,
    /// How many times the killed replica turned out not to lead any more.
    misses: u32,
    /// The stamps of its failover; later events are not part of it.
    stamps: Option<Stamps>,
    /// The result, at the end.
    pub result: Option<Result<Outcome, String>>,
    /// Whether the user asked to skip the waiting time.
    hurried: bool,
    /// Why an order was refused.
    refusal: Option<String>,
}

/// A step of a demo.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Step {
    /// Waits until every replica serves.
    Gather,
    /// Writes run.
    Calm,
    /// The leader is killed; lasts until the first acknowledged write after that.
    Failover,
    /// Waits until the killed replica is back and up to date.
    Return,
    /// The cluster is scaled to one size after another.
    Scale,
    /// Writes continue.
    After,
    /// Every acknowledged write is read back.
    Prove,
    /// The end.
    Done,
}

/// An order that the demo issues.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// Turns the write probe on or off.
    Probe(bool),
    /// Kills a replica by SIGKILL.
    Kill(String),
    /// Scales to another number of replicas.
    Scale(u32),
    /// Shows a message.
    Say(String),
}

/// The result of a demo.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(untagged)]
pub enum Outcome {
    /// The figures of the failover demo.
    Failover(Figures),
    /// The figures of the scaling demo.
    Scale(Scaled),
}

impl Outcome {
    /// Whether writes were acknowledged and every guarantee held for them.
    #[must_use]
    pub fn is_proof(&self) -> bool {
        let proof = match self {
            Self::Failover(figures) => &figures.proof,
            Self::Scale(scaled) => &scaled.proof,
        };
        proof.acknowledged > 0 && proof.is_kept()
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failover(figures) => figures.fmt(f),
            Self::Scale(scaled) => scaled.fmt(f),
        }
    }
}

/// The measured figures. Times are in milliseconds; stamps count from the kill.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Figures {
    /// The verification of the writes.
    #[serde(flatten)]
    pub proof: Proof,
    /// The longest time without an acknowledged write, across the failover.
    pub gap_ms: f64,
    /// When the leader was killed, in microseconds since 1970.
    pub killed_us: u64,
    /// When a replica first noticed that the leader was gone.
    pub noticed_ms: Option<f64>,
    /// When another replica became the leader.
    pub elected_ms: f64,
    /// When the first write was acknowledged after that.
    pub first_write_ms: f64,
    /// The killed leader.
    pub leader_before: String,
    /// The new leader.
    pub leader_after: String,
    /// How many replicas there are.
    pub replicas: usize,
}

/// The state that the director observes.
pub struct Facts<'a> {
    /// The replicas.
    pub cluster: &'a Cluster,
    /// The probe.
    pub writes: &'a Writes,
    /// The failover.
    pub failover: &'a Failover,
}

impl Demo {
    /// Starts a demo now.
    #[must_use]
    pub fn new(name: DemoName, now: Now) -> Self {
        Self {
            name,
            walk: Walk::default(),
            step: Step::Gather,
            since: now.monotonic,
            victim: None,
            misses: 0,
            stamps: None,
            result: None,
            hurried: false,
            refusal: None,
        }
    }

    /// Whether the demo has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.step == Step::Done
    }

    /// Returns the caption shown on the screen.
    #[must_use]
    pub fn caption(&self) -> String {
        let victim = self.victim.as_ref().map(|(name, _)| short(name)).unwrap_or_default();
        match self.step {
            Step::Gather => "waiting until every replica serves".to_owned(),
            Step::Calm => {
                "200 writes a second, each synced at a majority before it is acknowledged"
                    .to_owned()
            }
            Step::Failover => {
                format!("{victim}, the leader, was killed by SIGKILL: the others elect a new one")
            }
            Step::Return => format!("writes go on; {victim} comes back and catches up"),
            Step::Scale => self.walk.caption(),
            Step::After if self.name == DemoName::Scale => {
                "as many replicas as at the beginning, and writes went on".to_owned()
            }
            Step::After => format!("{victim} is back and in step: all replicas serve again"),
            Step::Prove => "reading again every write that was acknowledged".to_owned(),
            Step::Done => match &self.result {
                Some(Ok(figures)) => figures.to_string(),
                Some(Err(why)) => format!("the demo failed: {why}"),
                None => String::new(),
            },
        }
    }

    /// Goes on to the next step if the current one only waits for time to pass.
    pub fn hurry(&mut self) {
        self.hurried = true;
    }

    /// Records that an order was refused: the demo fails.
    pub fn refused(&mut self, why: String) {
        self.refusal.get_or_insert(why);
    }

    /// Checks whether the step is over, and returns the orders to carry out.
    pub fn advance(&mut self, facts: &Facts<'_>, now: Now) -> Vec<Order> {
        if self.is_over() {
            return Vec::new();
        }
        if let Some(why) = self.refusal.take() {
            return self.fail(facts, why, now);
        }
        let in_step = now.monotonic.saturating_sub(self.since);
        if in_step > PATIENCE {
            return self.fail(facts, format!("no end of the step: {}", self.caption()), now);
        }
        let is_calm = in_step >= CALM || std::mem::take(&mut self.hurried);
        let writes = facts.writes;
        match self.step {
            Step::Gather if is_whole(facts.cluster) => {
                self.go(Step::Calm, now, vec![Order::Probe(true)])
            }
            Step::Calm if is_calm && writes.acknowledged >= WRITES_MIN => match self.name {
                DemoName::Failover => self.kill(facts, now),
                DemoName::Scale => {
                    self.walk = Walk::from(facts.cluster.wanted());
                    self.scale(now)
                }
            },
            Step::Scale if self.walk.is_there(facts, now) => self.scale(now),
            Step::Failover => {
                self.stamps = facts.failover.last.clone().filter(|last| last.writes.is_some());
                match self.stamps {
                    Some(_) => self.go(Step::Return, now, Vec::new()),
                    // Another replica already led when the kill came, and the console did not know.
                    None if self.misses < MISSES_MAX && self.is_back(facts.cluster) => {
                        self.misses += 1;
                        self.go(Step::Calm, now, Vec::new())
                    }
                    None => Vec::new(),
                }
            }
            Step::Return if self.is_back(facts.cluster) => self.go(Step::After, now, Vec::new()),
            Step::After if is_calm => self.go(Step::Prove, now, vec![Order::Probe(false)]),
            Step::Prove if writes.state == ProbeState::Off => self.finish(facts, now),
            _ => Vec::new(),
        }
    }

    fn go(&mut self, step: Step, now: Now, mut orders: Vec<Order>) -> Vec<Order> {
        self.step = step;
        self.since = now.monotonic;
        self.hurried = false;
        orders.push(Order::Say(self.caption()));
        orders
    }

    /// Goes on to the next size, or to the next step if there is none.
    fn scale(&mut self, now: Now) -> Vec<Order> {
        match self.walk.next(now) {
            Some(replicas) => self.go(Step::Scale, now, vec![Order::Scale(replicas)]),
            None => self.go(Step::After, now, Vec::new()),
        }
    }

    fn kill(&mut self, facts: &Facts<'_>, now: Now) -> Vec<Order> {
        let Some(leader) = facts.cluster.leader().map(str::to_owned) else { return Vec::new() };
        let status = facts.cluster.node(&leader).and_then(|node| node.status.as_ref());
        self.victim = Some((leader.clone(), status.map_or(0, |status| status.incarnation)));
        self.go(Step::Failover, now, vec![Order::Kill(leader)])
    }

    /// Whether the killed replica was restarted and every replica serves.
    fn is_back(&self, cluster: &Cluster) -> bool {
        let Some((name, incarnation)) = &self.victim else { return false };
        let status = cluster.node(name).and_then(|node| node.status.as_ref());
        status.is_some_and(|s| s.incarnation > *incarnation && s.is_ready) && is_whole(cluster)
    }

    fn fail(&mut self, facts: &Facts<'_>, why: String, now: Now) -> Vec<Order> {
        self.result = Some(Err(why));
        let is_on = facts.writes.state == ProbeState::On;
        let orders = is_on.then_some(Order::Probe(false)).into_iter().collect();
        self.go(Step::Done, now, orders)
    }

    fn finish(&mut self, facts: &Facts<'_>, now: Now) -> Vec<Order> {
        let proof = match &facts.writes.proof {
            Some(Ok(proof)) => proof.clone(),
            Some(Err(why)) => return self.fail(facts, why.clone(), now),
            None => return self.fail(facts, "the probe did not report".to_owned(), now),
        };
        if self.name == DemoName::Scale {
            self.result = Some(Ok(Outcome::Scale(self.walk.figures(proof))));
            return self.go(Step::Done, now, Vec::new());
        }
        // A leader that took over from the first one with the same ballot number still counts.
        let first = self.stamps.as_ref();
        let is_same = |last: &&Stamps| {
            last.writes.is_some() && first.is_some_and(|first| first.killed == last.killed)
        };
        let figures = facts.failover.last.as_ref().filter(is_same).or(first).and_then(|last| {
            let killed = last.killed?;
            let after = |stamp: u64| milliseconds(stamp.saturating_sub(killed));
            let (leader_after, _, elected) = last.elected.clone()?;
            Some(Outcome::Failover(Figures {
                proof,
                gap_ms: milliseconds(last.gap_us()?),
                killed_us: killed,
                noticed_ms: last.noticed.map(after),
                elected_ms: after(elected),
                first_write_ms: after(last.writes?.1),
                leader_before: last.from.clone(),
                leader_after,
                replicas: facts.cluster.count(),
            }))
        });
        // The stamps that are present show which one is missing.
        let missing = || format!("a stamp of the failover is missing: {first:?}");
        self.result = Some(figures.ok_or_else(missing));
        self.go(Step::Done, now, Vec::new())
    }
}

fn is_whole(cluster: &Cluster) -> bool {
    cluster.count() > 1 && cluster.ready() == cluster.count() && cluster.leader().is_some()
}

/// Converts microseconds to milliseconds, to a tenth.
#[expect(clippy::cast_precision_loss, reason = "tenths of a millisecond of some seconds fit")]
fn milliseconds(us: u64) -> f64 {
    ((us + 50) / 100) as f64 / 10.0
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Proof { acknowledged, lost, doubled, unknown, unknown_happened } = &self.proof;
        write!(
            f,
            "{} → {}, {:.0} ms without writes; acknowledged {acknowledged}, lost {lost}, doubled \
             {doubled}, unknown {unknown}",
            short(&self.leader_before),
            short(&self.leader_after),
            self.gap_ms
        )?;
        match unknown {
            0 => Ok(()),
            _ => write!(f, " ({unknown_happened} of them happened)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::testing::{cluster_of, down, status_of};
    use crate::message::{Ack, Observation, ProbeReport};
    use kvorum_protocol::status::Role;

    fn at(ms: u64) -> Now {
        Now { monotonic: Duration::from_millis(ms), wall_us: ms * 1000 }
    }

    fn acks(range: std::ops::Range<u64>) -> Vec<Ack> {
        let ack = |ms| Ack { at: at(ms).monotonic, wall_us: ms * 1000, took: Duration::ZERO };
        range.map(ack).collect()
    }

    struct Stage {
        cluster: Cluster,
        writes: Writes,
        failover: Failover,
        demo: Demo,
    }

    impl Stage {
        fn new() -> Self {
            let mut failover = Failover::default();
            failover.status(&status_of(3, 0));
            Self {
                cluster: cluster_of(3),
                writes: Writes::default(),
                failover,
                demo: Demo::new(DemoName::Failover, at(0)),
            }
        }

        fn advance(&mut self, ms: u64) -> Vec<Order> {
            let (cluster, writes, failover) = (&self.cluster, &self.writes, &self.failover);
            let mut orders = self.demo.advance(&Facts { cluster, writes, failover }, at(ms));
            orders.retain(|order| !matches!(order, Order::Say(_)));
            orders
        }

        fn write(&mut self, range: std::ops::Range<u64>) {
            let acks = acks(range);
            for ack in &acks {
                self.failover.acknowledged(ack);
            }
            let (unknown, refused, skipped, in_flight) = (0, 0, 0, 0);
            self.writes.report(ProbeReport::Acks { acks, unknown, refused, skipped, in_flight });
        }

        fn see(&mut self, status: kvorum_protocol::Status) {
            self.failover.status(&status);
            self.cluster.observe(at(0), &Observation::Status(Box::new(status)));
        }
    }

    #[test]
    fn the_demo_runs_to_its_figures() {
        let mut stage = Stage::new();
        assert_eq!(stage.advance(1), [Order::Probe(true)]);
        stage.writes.start();
        stage.write(1..3000);
        assert_eq!(stage.advance(2999), []);
        assert_eq!(stage.advance(3001), [Order::Kill("kvorum-0".into())]);
        stage.failover.killed("kvorum-0", true, 3_001_000);
        down(&mut stage.cluster, 0);
        let mut heir = status_of(3, 1);
        (heir.role, heir.wall_us) = (Role::Leader, 3_150_000);
        heir.ballot.number += 1;
        stage.see(heir);
        assert_eq!(stage.advance(3150), []);
        stage.write(3200..3210);
        assert_eq!(stage.advance(3210), []);
        assert_eq!(stage.demo.step, Step::Return);
        let mut back = status_of(3, 0);
        (back.role, back.incarnation) = (Role::Follower, back.incarnation + 1);
        stage.see(back);
        assert_eq!(stage.advance(3300), []);
        // Leadership may move on; the demo reports the failover that it caused.
        let mut later = status_of(3, 2);
        later.role = Role::Leader;
        later.ballot.number += 2;
        stage.see(later);
        stage.demo.hurry();
        assert_eq!(stage.advance(3301), [Order::Probe(false)]);
        stage.writes.report(ProbeReport::Proving);
        assert_eq!(stage.advance(3302), []);
        let proof = Proof { acknowledged: 3009, ..Proof::default() };
        stage.writes.report(ProbeReport::Proven(Ok(proof)));
        assert_eq!(stage.advance(3303), []);
        let outcome = stage.demo.result.expect("it is done").expect("it went well");
        let Outcome::Failover(figures) = outcome else { panic!("another demo: {outcome}") };
        assert!(figures.proof.is_kept());
        let times = (figures.gap_ms, figures.elected_ms, figures.first_write_ms);
        assert_eq!(times, (201.0, 149.0, 199.0));
    }

    #[test]
    fn who_led_no_more_was_the_wrong_one_to_kill() {
        let mut stage = Stage::new();
        stage.advance(1);
        stage.writes.start();
        stage.write(1..3000);
        assert_eq!(stage.advance(3001), [Order::Kill("kvorum-0".into())]);
        let mut back = status_of(3, 0);
        (back.role, back.incarnation) = (Role::Follower, back.incarnation + 1);
        stage.see(back);
        let mut leads = status_of(3, 1);
        leads.role = Role::Leader;
        leads.ballot.number += 1;
        stage.cluster.observe(at(0), &Observation::Status(Box::new(leads)));
        assert_eq!(stage.advance(3500), []);
        assert_eq!(stage.demo.step, Step::Calm);
        assert_eq!(stage.advance(6500), [Order::Kill("kvorum-1".into())]);
    }

    #[test]
    fn an_order_that_is_refused_ends_the_demo() {
        let mut stage = Stage::new();
        stage.advance(1);
        stage.writes.start();
        stage.demo.refused("kill n1: no right to".to_owned());
        assert_eq!(stage.advance(2), [Order::Probe(false)]);
        assert_eq!(stage.demo.result, Some(Err("kill n1: no right to".to_owned())));
    }

    #[test]
    fn a_demo_that_hangs_ends_and_turns_the_probe_off() {
        let mut stage = Stage::new();
        stage.advance(1);
        stage.writes.start();
        assert_eq!(stage.advance(60_002), [Order::Probe(false)]);
        assert!(stage.demo.result.is_some_and(|result| result.is_err()));
    }
}
