//! Pure: a walk through several cluster sizes, and its measurements.
//!
//! Guarantees that the walk ends at the size at which it began. Does not act itself.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;

use super::{Facts, milliseconds};
use crate::message::{Now, Proof};

/// How long each size is shown.
const SHOWN: Duration = Duration::from_secs(2);

/// A walk in progress.
#[derive(Clone, Default, Debug)]
pub(super) struct Walk {
    /// The remaining sizes.
    sizes: VecDeque<u32>,
    /// The size to be reached, and when it was requested.
    now: Option<(u32, Duration)>,
    /// When it was reached.
    reached: Option<Duration>,
    steps: Vec<Step>,
}

/// One step of the walk.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Step {
    /// The desired number of replicas.
    pub replicas: u32,
    /// The time until that many replicas were members and served.
    pub took_ms: f64,
    /// The longest time without an acknowledged write during the step.
    pub gap_ms: f64,
}

/// The measured figures.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Scaled {
    /// The verification of the writes.
    #[serde(flatten)]
    pub proof: Proof,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

impl Walk {
    /// Plans the walk of a cluster: up to five, down to one, and back to the given size.
    pub(super) fn from(replicas: usize) -> Self {
        let back = u32::try_from(replicas).unwrap_or(3).max(1);
        Self { sizes: [5, 1, back].into(), ..Self::default() }
    }

    /// Starts on the next size and returns it, if there is one.
    pub(super) fn next(&mut self, now: Now) -> Option<u32> {
        let size = self.sizes.pop_front()?;
        (self.now, self.reached) = (Some((size, now.monotonic)), None);
        Some(size)
    }

    /// Whether the size has been reached and shown for a while.
    pub(super) fn is_there(&mut self, facts: &Facts<'_>, now: Now) -> bool {
        let Some((size, asked)) = self.now else { return true };
        let cluster = facts.cluster;
        let members = cluster.nodes().filter(|node| cluster.is_member(&node.name)).count();
        let is_whole = members == size as usize
            && cluster.wanted() == members
            && cluster.ready() >= members
            && cluster.leader().is_some();
        if is_whole && self.reached.is_none() {
            self.reached = Some(now.monotonic);
        }
        let Some(reached) = self.reached else { return false };
        if now.monotonic < reached + SHOWN {
            return false;
        }
        self.steps.push(Step {
            replicas: size,
            took_ms: to_ms(reached.saturating_sub(asked)),
            gap_ms: to_ms(facts.writes.gap_since(asked)),
        });
        true
    }

    pub(super) fn caption(&self) -> String {
        match self.now {
            Some((1, _)) => "one replica is wanted: the others leave, and writes go on".to_owned(),
            Some((size, _)) => {
                format!("{size} replicas are wanted: the members follow, and writes go on")
            }
            None => String::new(),
        }
    }

    pub(super) fn figures(&self, proof: Proof) -> Scaled {
        Scaled { proof, steps: self.steps.clone() }
    }
}

fn to_ms(time: Duration) -> f64 {
    milliseconds(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

impl std::fmt::Display for Scaled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for Step { replicas, took_ms, gap_ms } in &self.steps {
            write!(f, "→ {replicas} in {took_ms:.0} ms, {gap_ms:.0} ms without writes; ")?;
        }
        let Proof { acknowledged, lost, doubled, unknown, .. } = &self.proof;
        write!(f, "acknowledged {acknowledged}, lost {lost}, doubled {doubled}, unknown {unknown}")
    }
}
