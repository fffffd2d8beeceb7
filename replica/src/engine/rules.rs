//! Pure: how a replica is to behave, and the safety rules that a negative control takes out.
//!
//! A harness that finds nothing proves something only if it finds what a missing rule does. So the
//! rules whose absence cannot be played from outside can be switched off at the start of an
//! engine. Guarantees that [`Engine::new`](super::Engine::new) has them all; nothing but tests
//! calls [`Engine::without`](super::Engine::without).

use crate::state_machine::LaneMemory;
use crate::version::Version;

/// How a replica is to behave, as its settings say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Whether administrators may cut links and crash it.
    pub allows_faults: bool,
    /// The newest version that it may have.
    pub newest: Version,
    /// Ticks between two comparisons of the replicas' states; 0 for none.
    pub checksum_ticks: u64,
}

/// What holds; production has the default.
#[expect(clippy::struct_excessive_bools, reason = "each is a rule of its own")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// A read waits for what was in the log when its leader began to lead, too: the leader may not
    /// know yet that it was decided and acknowledged.
    pub has_read_barrier: bool,
    /// An answer to a leader's probe counts for the round that asked for it.
    pub tells_rounds: bool,
    /// A frame of a replaced session is dropped.
    pub tells_sessions: bool,
    /// Only messages of the whitelist reach the library.
    pub has_whitelist: bool,
    /// The log is cut only before what is applied.
    pub compacts_what_is_applied: bool,
    /// What stands for compacted entries reaches the library only when the state has them.
    pub waits_for_state: bool,
    /// A checksum is of the state as of its entry.
    pub checks_at_the_index: bool,
    /// Nothing takes effect in a configuration after its stop sign.
    pub seals: bool,
    /// One replica alone decides what a sync made durable.
    pub solo_waits_for_sync: bool,
    /// One replica alone decides only when the marker names it.
    pub asks_marker: bool,
    /// The log of a sealed configuration stays until the next one has decided an entry.
    pub keeps_sealed_log: bool,
    /// A message of a later configuration makes a replica fetch what led there, and starts nothing.
    pub frames_start_nothing: bool,
    /// A confirmed read counts for the configuration in which it was confirmed.
    pub reads_know_configuration: bool,
    /// Nobody is removed before it was looked again how many replicas are wanted.
    pub looks_again: bool,
    /// A configuration is sealed only when a majority of the next members has everything.
    pub seals_what_heirs_have: bool,
    /// Whoever needs what led to a later configuration is told of it by those who left, and by
    /// clients' means, and fetches it.
    pub tells_ends: bool,
    /// A message counts only from those who may say it.
    pub knows_speakers: bool,
    /// A state that differs from a majority's is not used any more.
    pub quarantines: bool,
    /// A disk that ends in an earlier epoch than somebody remembers is an older copy.
    pub compares_epochs: bool,
    /// Nobody votes in a configuration of which the marker knows that it is over.
    pub heeds_latest: bool,
    /// A lone replica that the marker does not name any more stops serving.
    pub renews_mark: bool,
    /// What is remembered of lanes, and for how long.
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
