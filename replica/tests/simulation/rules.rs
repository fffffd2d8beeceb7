//! The rules that a negative control removes, and the counters of a run.

use kvorum_replica::engine;
use kvorum_replica::state::machine::LaneMemory;

/// Entries of a session in the simulation: few, so that lanes are forgotten within a seed.
pub const SESSION_ENTRIES: u64 = 60;

/// The rules under test; a negative control removes one.
#[expect(clippy::struct_excessive_bools, reason = "each is a rule of its own")]
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Messages that report a durable fact wait for a sync.
    pub gates_messages: bool,
    /// A sync covers the writes up to the moment when the messages were taken, or later.
    pub syncs_after_taking: bool,
    /// A replica whose disk is not the one that its peers remember is rejected.
    pub knows_disks: bool,
    /// The state is written to the disk together with its applied index.
    pub writes_state_at_once: bool,
    /// The log is cut only up to what the state on the disk has.
    pub keeps_what_the_disk_lacks: bool,
    /// The harness checks for each message that the facts it reports are durable.
    pub checks_messages: bool,
    /// The harness checks at each change that the next members have the acknowledged writes.
    pub checks_seals: bool,
    /// Messages come that a faulty peer might send.
    pub has_strays: bool,
    /// The rules of the engine itself.
    pub engine: engine::Rules,
}

impl Default for Rules {
    fn default() -> Self {
        let lanes = LaneMemory::of(SESSION_ENTRIES);
        Self {
            gates_messages: true,
            syncs_after_taking: true,
            knows_disks: true,
            writes_state_at_once: true,
            keeps_what_the_disk_lacks: true,
            checks_messages: true,
            checks_seals: true,
            has_strays: true,
            engine: engine::Rules { lanes, ..engine::Rules::default() },
        }
    }
}

/// Declares the counters, so that each one is added up and printed.
macro_rules! tally {
    ($($name:ident: $text:literal,)*) => {
        /// What happened in one seed, or in many.
        #[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
        pub struct Tally {
            $(#[doc = $text] pub $name: u64,)*
        }

        impl Tally {
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// Each count with what it counts.
            pub fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$(($text, self.$name),)*]
            }
        }
    };
}

tally! {
    simulated_ms: "simulated milliseconds",
    messages: "messages",
    syncs: "syncs",
    crashes: "crashes",
    power_losses: "of them of the whole cluster",
    lost_writes: "unsynced writes lost",
    lost_disks: "lost disks",
    copied_disks: "of them replaced by an older copy",
    replaced_markers: "times another cluster's marker stood there",
    broken_sessions: "broken sessions",
    late_frames: "frames of broken sessions that came late",
    flaps: "links that broke again and again",
    cuts: "cut links",
    scenarios: "scenarios of partial connectivity",
    one_way: "links that carried one way only",
    pauses: "paused processes",
    clock_jumps: "clocks that jumped",
    slow_disks: "slow disks",
    stuck_syncs: "syncs that were stuck",
    forged: "messages that must not be",
    strays: "messages of faulty or late peers, and of joiners",
    lost_hints: "times that hints got lost",
    interrupted_copies: "times that copies were interrupted",
    lost_answers: "answers lost on the way to a client",
    compactions: "logs cut",
    catching_up: "replicas so far behind that they fetched entries",
    copies: "copies of the state",
    alterations: "states altered behind a replica's back",
    quarantines: "states quarantined",
    changes: "changes of the members, at each replica",
    scalings: "times that another number of replicas was wanted",
    joined: "volumes that got an id",
    left: "replicas that left in order",
    killed_leavers: "replicas killed while they left",
    upgrades: "programs replaced by newer ones",
    retries: "requests tried again",
    decided: "entries decided",
    answered: "operations answered and checked",
    unknown: "writes of unknown outcome",
    expired: "requests that expired",
}
