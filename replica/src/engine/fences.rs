//! Pure: the fences of a replica: what keeps it from voting although it is a member.
//!
//! | fence | put up by | stops |
//! |---|---|---|
//! | another disk is remembered | a proven member, or the marker | lost and copied disks |
//! | a later configuration has a leader | the marker | copies of all volumes of an earlier one |
//! | the marker names another replica | the marker | a lone replica that was replaced |
//!
//! Guarantees nothing by itself: [`introductions`](super::introductions) and
//! [`marking`](super::marking) put the fences up, and the [context](super::context) heeds them.

use kvorum_protocol::status::ConfigurationId;

/// What keeps a replica from voting.
pub(super) struct Fences {
    /// The peer, or the marker, that remembers this replica with another disk.
    pub(super) disowned_by: Option<String>,
    /// The peer that rejected this replica without proof of being the one it remembers.
    pub(super) turned_away_by: Option<String>,
    /// The latest configuration that has a leader, according to the marker.
    pub(super) latest: ConfigurationId,
    /// The reason why this replica may not decide alone.
    pub(super) mark_refused: Option<String>,
}

impl Default for Fences {
    fn default() -> Self {
        let (disowned_by, turned_away_by, mark_refused) = (None, None, None);
        Self { disowned_by, turned_away_by, latest: ConfigurationId(0), mark_refused }
    }
}
