//! Pure: a replica's options, and the safety rules that a negative control switches off.
//!
//! A test harness that finds nothing proves something only if it finds the effect of a missing
//! rule. So the rules whose absence cannot be simulated from outside can be switched off at the
//! start of an engine, in a build with the feature `negative-controls`, which only tests have.
//! Guarantees that no other build can be without a rule: there each is a constant.

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

/// Declares the rules: switches for negative controls, and constants in every other build.
macro_rules! rules {
    ($($(#[doc = $meaning:literal])+ $name:ident;)+) => {
        /// The rules in force; by default all are.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct Rules {
            $(
                $(#[doc = $meaning])+
                #[cfg(feature = "negative-controls")]
                pub $name: bool,
            )+
            /// The memory of lanes: what is remembered, and for how long.
            #[cfg(feature = "negative-controls")]
            pub lanes: LaneMemory,
        }

        impl Default for Rules {
            fn default() -> Self {
                Self {
                    $(
                        #[cfg(feature = "negative-controls")]
                        $name: true,
                    )+
                    #[cfg(feature = "negative-controls")]
                    lanes: LaneMemory::default(),
                }
            }
        }

        #[cfg(feature = "negative-controls")]
        impl Rules {
            $(
                pub(super) const fn $name(self) -> bool {
                    self.$name
                }
            )+

            pub(super) const fn lanes(self) -> LaneMemory {
                self.lanes
            }
        }

        #[cfg(not(feature = "negative-controls"))]
        impl Rules {
            $(
                pub(super) const fn $name(self) -> bool {
                    true
                }
            )+

            pub(super) fn lanes(self) -> LaneMemory {
                LaneMemory::default()
            }
        }
    };
}

rules! {
    /// A read also waits for the entries that were in the log when its leader began to lead: the
    /// leader may not know yet that they were decided and acknowledged.
    has_read_barrier;
    /// An answer to a leader's probe counts only for the round that asked for it.
    tells_rounds;
    /// A frame of a replaced session is dropped.
    tells_sessions;
    /// Only messages of the whitelist reach the library.
    has_whitelist;
    /// The log is compacted only up to the applied index.
    compacts_what_is_applied;
    /// A message that stands for compacted entries reaches the library only when the state has
    /// them.
    waits_for_state;
    /// A checksum covers the state as of its own entry.
    checks_at_the_index;
    /// Nothing takes effect in a configuration after its stop sign.
    seals;
    /// A leader counts its own acceptance of an entry only when a sync has made it durable.
    counts_what_is_synced;
    /// A lone replica decides only entries that a sync made durable.
    solo_waits_for_sync;
    /// A lone replica decides only when the marker names it.
    asks_marker;
    /// The log of a sealed configuration is kept until the next one has decided an entry.
    keeps_sealed_log;
    /// A message of a later configuration makes a replica fetch the entries that led there, and
    /// starts no instance.
    frames_start_nothing;
    /// A confirmed read counts only for the configuration in which it was confirmed.
    reads_know_configuration;
    /// No member is removed before the desired replica count was looked up again.
    looks_again;
    /// A configuration is sealed only when a majority of the next members has every entry.
    seals_what_heirs_have;
    /// A replica that lacks the entries leading to a later configuration learns of it from the
    /// replicas that left and through client ports, and fetches them.
    tells_ends;
    /// A message counts only from peers that may send it.
    knows_speakers;
    /// A state that differs from the majority's is no longer used.
    quarantines;
    /// A disk that ends in an earlier epoch than a peer or the marker remembers is an older copy.
    compares_epochs;
    /// A replica does not vote in a configuration that is over according to the marker.
    heeds_latest;
    /// A lone replica that the marker no longer names stops serving.
    renews_mark;
}
