//! Pure: the history of the write probe: acknowledged writes in columns of 100 ms.
//!
//! With columns of one second a failover would be invisible; at 100 ms it is a hole. Guarantees
//! that memory is bounded, and that a column without writes is empty rather than missing. Does not
//! write.

use std::collections::VecDeque;
use std::time::Duration;

use crate::message::{Ack, ProbeReport, Proof};

/// The width of one column.
pub const COLUMN: Duration = Duration::from_millis(100);
/// Columns kept: one minute.
const COLUMNS_MAX: usize = 600;
/// Gaps kept; each is longer than all that follow, so few are enough.
const GAPS_MAX: usize = 1000;
/// Latencies kept for the percentiles: ten seconds of the probe.
const LATENCIES_MAX: usize = 2000;

/// The write probe, as the console knows it.
#[derive(Clone, Default, Debug)]
pub struct Writes {
    /// The state of the probe.
    pub state: ProbeState,
    columns: VecDeque<u32>,
    /// The number of the first column kept.
    first: u64,
    latencies: VecDeque<Duration>,
    /// When the last write was acknowledged.
    last: Option<Duration>,
    /// The longest times without an acknowledged write: when each ended, and how long it lasted.
    /// Each is longer than all that follow.
    gaps: VecDeque<(Duration, Duration)>,
    /// Writes acknowledged since the probe was turned on.
    pub acknowledged: u64,
    /// Writes since then whose outcome is unknown.
    pub unknown: u64,
    /// Writes since then that were refused and did not happen.
    pub refused: u64,
    /// Writes in flight now.
    pub in_flight: u64,
    /// The verification of the last probe's writes.
    pub proof: Option<Result<Proof, String>>,
}

/// The state of the probe.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum ProbeState {
    /// It is off.
    #[default]
    Off,
    /// It writes.
    On,
    /// It reads back its writes.
    Proving,
}

impl Writes {
    /// Starts over, because the probe was turned on.
    pub fn start(&mut self) {
        *self = Self { state: ProbeState::On, ..Self::default() };
    }

    /// Takes in a report of the probe.
    pub fn report(&mut self, report: ProbeReport) {
        match report {
            ProbeReport::Acks { acks, unknown, refused, skipped: _, in_flight } => {
                for ack in &acks {
                    self.acknowledge(ack);
                }
                self.unknown += unknown;
                self.refused += refused;
                self.in_flight = in_flight;
            }
            ProbeReport::Proving => self.state = ProbeState::Proving,
            ProbeReport::Proven(proof) => {
                self.state = ProbeState::Off;
                self.in_flight = 0;
                self.proof = Some(proof);
            }
        }
    }

    fn acknowledge(&mut self, ack: &Ack) {
        self.acknowledged += 1;
        if self.latencies.len() == LATENCIES_MAX {
            self.latencies.pop_front();
        }
        self.latencies.push_back(ack.took);
        let gap = ack.at.saturating_sub(self.last.unwrap_or(ack.at));
        self.last = self.last.max(Some(ack.at));
        while self.gaps.back().is_some_and(|(_, shorter)| *shorter <= gap) {
            self.gaps.pop_back();
        }
        self.gaps.push_back((ack.at, gap));
        if self.gaps.len() > GAPS_MAX {
            self.gaps.pop_front();
        }
        let column = column_of(ack.at);
        if self.columns.is_empty() {
            self.first = column;
        }
        while column >= self.first + self.columns.len() as u64 {
            self.columns.push_back(0);
            if self.columns.len() > COLUMNS_MAX {
                self.columns.pop_front();
                self.first += 1;
            }
        }
        if let Some(place) = column.checked_sub(self.first).and_then(|at| usize::try_from(at).ok())
        {
            self.columns[place] += 1;
        }
    }

    /// Returns the longest time without an acknowledged write that ended at or after a moment.
    #[must_use]
    pub fn gap_since(&self, moment: Duration) -> Duration {
        let later = self.gaps.iter().find(|(ended, _)| *ended >= moment);
        later.map_or(Duration::ZERO, |(_, gap)| *gap)
    }

    /// Returns the number of acknowledged writes in a column.
    #[must_use]
    pub fn column(&self, number: u64) -> u32 {
        let place = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        place.and_then(|place| self.columns.get(place)).copied().unwrap_or(0)
    }

    /// Returns the number of the first column kept, if there was a write.
    #[must_use]
    pub fn first_column(&self) -> Option<u64> {
        (!self.columns.is_empty()).then_some(self.first)
    }

    /// Returns two percentiles, given in percent, of the latencies of the last writes.
    #[must_use]
    pub fn percentiles(&self, of_hundred: [usize; 2]) -> Option<[Duration; 2]> {
        let mut sorted: Vec<Duration> = self.latencies.iter().copied().collect();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        Some(of_hundred.map(|share| sorted[(sorted.len() * share / 100).min(last)]))
    }
}

/// Returns the number of the column that holds a time.
#[must_use]
pub fn column_of(at: Duration) -> u64 {
    u64::try_from(at.as_millis() / COLUMN.as_millis()).unwrap_or(u64::MAX)
}

/// Formats a proof in one line.
#[must_use]
pub fn proof_line(proof: &crate::message::Proof) -> String {
    let unknown = match proof.unknown {
        0 => "unknown 0".to_owned(),
        unknown => format!("unknown {unknown} ({} happened)", proof.unknown_happened),
    };
    format!(
        "acknowledged {} · lost {} · doubled {} · {unknown}",
        proof.acknowledged, proof.lost, proof.doubled
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acks(times_ms: &[u64]) -> ProbeReport {
        let ack = |ms: &u64| Ack {
            at: Duration::from_millis(*ms),
            wall_us: ms * 1000,
            took: Duration::from_millis(ms % 100),
        };
        let acks = times_ms.iter().map(ack).collect();
        ProbeReport::Acks { acks, unknown: 0, refused: 0, skipped: 0, in_flight: 0 }
    }

    #[test]
    fn a_gap_is_seen_and_memory_is_bounded() {
        let mut writes = Writes::default();
        writes.start();
        writes.report(acks(&[1000, 1010, 1099, 1100, 1500]));
        let columns: Vec<u32> = (9..17).map(|number| writes.column(number)).collect();
        assert_eq!(columns, [0, 3, 1, 0, 0, 0, 1, 0]);
        assert_eq!(writes.acknowledged, 5);
        // A write acknowledged before the first column is counted but not drawn.
        writes.report(acks(&[500]));
        assert_eq!((writes.acknowledged, writes.column(5)), (6, 0));
        writes.report(acks(&[10_000_000]));
        assert_eq!((writes.columns.len(), writes.column(100_000)), (COLUMNS_MAX, 1));
    }

    #[test]
    fn percentiles_are_of_the_last_writes() {
        let mut writes = Writes::default();
        assert_eq!(writes.percentiles([50, 99]), None);
        writes.report(acks(&(1..=100).collect::<Vec<_>>()));
        let of = writes.percentiles([50, 99]).expect("there were writes");
        assert_eq!(of.map(|latency| latency.as_millis()), [50, 99]);
    }
}
