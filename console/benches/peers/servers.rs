//! What the processes of a store have used, as Linux counts it.

use std::fs;
use std::ops::Sub;

use kvorum_harness::cluster::memory_kib;
use rustix::process::Pid;

/// Milliseconds of one of the system's clock ticks, of which there are 100 a second.
const TICK_MS: f64 = 10.0;

/// The processes of a store.
pub struct Servers(pub Vec<Pid>);

/// What processes have used.
#[derive(Clone, Copy)]
pub struct Usage {
    /// Processor time, in milliseconds.
    pub cpu_ms: f64,
    /// What they had written to the disk, in KiB.
    pub written_kib: f64,
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            cpu_ms: self.cpu_ms - before.cpu_ms,
            written_kib: self.written_kib - before.written_kib,
        }
    }
}

impl Servers {
    /// Returns what all of them have used so far.
    pub fn usage(&self) -> Usage {
        let read = |process: &Pid, file| {
            fs::read_to_string(format!("/proc/{}/{file}", process.as_raw_nonzero())).unwrap()
        };
        let cpu = |process| {
            // The name, in parentheses, may have blanks.
            let stat: String = read(process, "stat").rsplit(')').next().unwrap().to_owned();
            let fields: Vec<&str> = stat.split_whitespace().collect();
            [11, 12].map(|at: usize| fields[at].parse::<f64>().unwrap()).iter().sum::<f64>()
        };
        let written = |process| field(&read(process, "io"), "write_bytes:") as f64;
        Usage {
            cpu_ms: self.0.iter().map(cpu).sum::<f64>() * TICK_MS,
            written_kib: self.0.iter().map(written).sum::<f64>() / 1024.0,
        }
    }

    /// Returns the most memory that one of them had, in MiB.
    pub fn peak_mib(&self) -> u64 {
        let peak = |process: &Pid| memory_kib(*process, "VmHWM").unwrap() / 1024;
        self.0.iter().map(peak).max().unwrap_or(0)
    }
}

/// Returns the number after a name at the beginning of a line.
fn field(text: &str, name: &str) -> u64 {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    rest.split_whitespace().next().unwrap().parse().unwrap()
}
