//! The rules that a negative control takes out, and what a run counts.

/// The rules under test; a negative control takes one out.
#[expect(clippy::struct_excessive_bools, reason = "each is a rule of its own")]
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Messages that tell a durable fact wait for a sync.
    pub gates_messages: bool,
    /// A sync covers the writes up to the moment when the messages were taken, or later.
    pub syncs_after_taking: bool,
    /// A replica whose disk is not the one that its peers remember is turned away.
    pub knows_disks: bool,
    /// The harness looks at each message whether what it tells is durable.
    pub checks_messages: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            gates_messages: true,
            syncs_after_taking: true,
            knows_disks: true,
            checks_messages: true,
        }
    }
}

/// What happened in one seed.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Tally {
    pub messages: u64,
    pub syncs: u64,
    pub crashes: u64,
    pub lost_writes: u64,
    pub broken_sessions: u64,
    pub lost_disks: u64,
    pub decided: u64,
    pub writes: u64,
    pub reads: u64,
    pub simulated_ms: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.syncs += other.syncs;
        self.crashes += other.crashes;
        self.lost_writes += other.lost_writes;
        self.broken_sessions += other.broken_sessions;
        self.lost_disks += other.lost_disks;
        self.decided += other.decided;
        self.writes += other.writes;
        self.reads += other.reads;
        self.simulated_ms += other.simulated_ms;
    }
}
