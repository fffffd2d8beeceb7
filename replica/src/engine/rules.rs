//! Pure: a replica's options, and the safety rules that a negative control switches off.
//!
//! A test harness that finds nothing proves something only if it finds the effect of a missing
//! rule. So the rules whose absence cannot be simulated from outside can be switched off at the
//! start of an engine. Guarantees that [`Engine::new`](super::Engine::new) has them all; only tests
//! call [`Engine::with_rules`](super::Engine::with_rules).

use crate::state::machine::LaneMemory;
use crate::state::version::Version;

/// The options of a replica, from its settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Whether administrators may cut links and crash the replica.
    pub allows_faults: bool,
    /// The newest version that the replica may have.
    pub newest: Version,
    /// Ticks between two comparisons of the replicas' states; 0 for none.
    pub checksum_ticks: u64,
}

/// The rules in force; production has the default.
#[expect(clippy::struct_excessive_bools, reason = "each is a rule of its own")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// A read also waits for the entries that were in the log when its leader began to lead: the
    /// leader may not know yet that they were decided and acknowledged.
    pub has_read_barrier: bool,
    /// An answer to a leader's probe counts only for the round that asked for it.
    pub tells_rounds: bool,
    /// A frame of a replaced session is dropped.
    pub tells_sessions: bool,
    /// Only messages of the whitelist reach the library.
    pub has_whitelist: bool,
    /// The log is compacted only up to the applied index.
    pub compacts_what_is_applied: bool,
    /// A message that stands for compacted entries reaches the library only when the state has
    /// them.
    pub waits_for_state: bool,
    /// A checksum covers the state as of its own entry.
    pub checks_at_the_index: bool,
    /// Nothing takes effect in a configuration after its stop sign.
    pub seals: bool,
    /// A lone replica decides only entries that a sync made durable.
    pub solo_waits_for_sync: bool,
    /// A lone replica decides only when the marker names it.
    pub asks_marker: bool,
    /// The log of a sealed configuration is kept until the next one has decided an entry.
    pub keeps_sealed_log: bool,
    /// A message of a later configuration makes a replica fetch the entries that led there, and
    /// starts no instance.
    pub frames_start_nothing: bool,
    /// A confirmed read counts only for the configuration in which it was confirmed.
    pub reads_know_configuration: bool,
    /// No member is removed before the desired replica count was looked up again.
    pub looks_again: bool,
    /// A configuration is sealed only when a majority of the next members has every entry.
    pub seals_what_heirs_have: bool,
    /// A replica that lacks the entries leading to a later configuration learns of it from the
    /// replicas that left and through client ports, and fetches them.
    pub tells_ends: bool,
    /// A message counts only from peers that may send it.
    pub knows_speakers: bool,
    /// A state that differs from the majority's is no longer used.
    pub quarantines: bool,
    /// A disk that ends in an earlier epoch than a peer or the marker remembers is an older copy.
    pub compares_epochs: bool,
    /// A replica does not vote in a configuration that is over according to the marker.
    pub heeds_latest: bool,
    /// A lone replica that the marker no longer names stops serving.
    pub renews_mark: bool,
    /// The memory of lanes: what is remembered, and for how long.
    pub lanes: LaneMemory,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            has_read_barrier: true,
            tells_rounds: true,
            tells_sessions: true,
            has_whitelist: true,
            compacts_what_is_applied: true,
            waits_for_state: true,
            checks_at_the_index: true,
            quarantines: true,
            seals: true,
            solo_waits_for_sync: true,
            asks_marker: true,
            keeps_sealed_log: true,
            frames_start_nothing: true,
            reads_know_configuration: true,
            looks_again: true,
            compares_epochs: true,
            heeds_latest: true,
            renews_mark: true,
            seals_what_heirs_have: true,
            tells_ends: true,
            knows_speakers: true,
            lanes: LaneMemory::default(),
        }
    }
}
