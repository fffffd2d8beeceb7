//! Pure: every bound of a replica's memory; checks that together they fit into its pod.
//!
//! | use | most | bounded by |
//! |---|---|---|
//! | connections of clients | 20 MiB | [`CONNECTIONS_MAX`] × [`CONNECTION_BYTES`] |
//! | their encryption | 47 MiB | [`CONNECTIONS_MAX`] × [`TLS_BYTES`] |
//! | connections that shake hands, or wait for it | 18 MiB | [`GREETINGS_MAX`], [`ARRIVALS_MAX`] |
//! | requests that are being received | 8 MiB | [`BEGUN_BYTES_MAX`] |
//! | requests until their answer has left | 24 MiB | [`REQUESTS_BYTES_MAX`] |
//! | answers and events until they have left | 24 MiB | [`CLIENTS_BYTES_MAX`] |
//! | subscriptions | 6 MiB | [`SUBSCRIPTIONS_MAX`], [`PREFIXES_BYTES_MAX`] |
//! | reads that wait for an index | 8 MiB | [`READS_BYTES_MAX`] |
//! | questions to the disk that wait for a thread | 4 MiB | [`SCANS_MAX`], [`QUESTIONS_MAX`] |
//! | results of reads from the disk | 9 MiB | [`FOUND_MAX`] × [`FOUND_BYTES`] |
//! | writes that are not decided | 11 MiB | [`PROPOSALS_BYTES_MAX`] |
//! | calls to the leader, beside their messages | 2 MiB | [`RELAYS_MAX`] |
//! | messages to peers until they leave | 82 MiB | [`OUTBOUND_BYTES_MAX`], [`URGENT_BYTES_MAX`] |
//! | messages being received from peers | 45 MiB | [`MESSAGE_BYTES_MAX`], [`PART_BYTES_FREE`] |
//! | sessions with non-members | 5 MiB | [`GUESTS_MAX`], [`GUEST_PART_BYTES`] |
//! | messages from peers until they are handled | 30 MiB | [`INBOUND_BYTES_MAX`] |
//! | output of one turn | 8 MiB | [`TURN_BYTES_MAX`], twice |
//! | entries being applied, and their changes | 10 MiB | [`APPLY_BYTES_MAX`], [`READ_ENTRIES`] |
//! | RocksDB | 64 MiB | [`ROCKSDB_BYTES_MAX`] |
//! | the check of a password | 8 MiB | [`CHECK_BYTES`] |
//! | the program itself | 24 MiB | [`PROGRAM_BYTES`] |
//!
//! Guarantees, checked at compile time, that the sum is below [`SUM_BYTES_MAX`] and that bounds
//! which depend on each other fit. Contents are shared where possible (a value that waits for six
//! peers is stored once), but each bound counts them separately: so a replica stays far below the
//! sum. Anything beyond a bound is refused, waits at its source, or ends the connection or session
//! that has most; each constant says which.

use kvorum_protocol::authentication::CHECK_BYTES;
use kvorum_protocol::limits::{
    CURSOR_BYTES_MAX, KEY_BYTES_MAX, SCAN_BYTES_MAX, SCAN_PAIRS_MAX, VALUE_BYTES_MAX,
};
use kvorum_protocol::weight::OVERHEAD;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Memory limit of the pod; `deploy/base/statefulset.yaml` has the same value, which a test
/// compares.
pub const POD_BYTES: usize = 512 * MIB;
/// Upper limit of the sum of all bounds. The rest is for memory that an allocator cannot give back,
/// and for files that the system counts as the pod's memory.
pub const SUM_BYTES_MAX: usize = 456 * MIB;

/// Most members in a cluster.
pub const MEMBERS_MAX: usize = crate::planner::MEMBERS_MAX as usize;

/// Most client connections at once, if the descriptor limit allows. A further one is refused.
pub const CONNECTIONS_MAX: usize = 1000;
/// Memory of an idle connection: a read buffer, a small request that is being received, its tasks.
pub const CONNECTION_BYTES: usize = 20 * KIB;
/// Memory of a connection's encryption: what was sent, what was received and what is being decoded,
/// each at most one record of 16 KiB.
pub const TLS_BYTES: usize = 48 * KIB;
/// Most connections whose user is not known yet. A further one ends the oldest of its host.
pub const ARRIVALS_MAX: usize = CONNECTIONS_MAX;
/// Most connections that shake hands at a time; the others wait for their turn.
pub const GREETINGS_MAX: usize = 256;
/// Memory of a connection that shakes hands: the longest message of a handshake.
pub const GREETING_BYTES: usize = 64 * KIB;
/// Memory of a connection that waits for its turn.
pub const ARRIVAL_BYTES: usize = 2 * KIB;
/// Requests up to this length are received without a share of [`BEGUN_BYTES_MAX`].
pub const SMALL_REQUEST_BYTES: usize = 8 * KIB;
/// Bytes of longer requests that are being received from all clients. Beyond this, a connection is
/// not read for a while.
pub const BEGUN_BYTES_MAX: usize = 8 * MIB;
/// Bytes of requests from all clients that were received and whose answers have not left. Beyond
/// this, calls are refused as overload.
pub const REQUESTS_BYTES_MAX: usize = 24 * MIB;
/// Room of a call beside its request. Its origin and its places in queues take less; but queues are
/// bounded by number, too, and one who has all the room that it may have leaves places in them.
pub const CALL_BYTES: usize = REQUESTS_BYTES_MAX / READS_MAX;
/// Bytes queued for a connection beyond which no further events are sent to it.
pub const EVENTS_BYTES_MAX: usize = MIB;
/// Bytes queued for a connection beyond which it is closed: it does not read its answers.
pub const CLIENT_BYTES_MAX: usize = 16 * MIB;
/// Bytes queued for all connections beyond which the one that has most is closed.
pub const CLIENTS_BYTES_MAX: usize = 24 * MIB;
/// Most subscriptions over all connections. One connection may have as many as are left.
pub const SUBSCRIPTIONS_MAX: usize = 16 * 1024;
/// Bytes of all subscriptions' prefixes. Beyond this, the next one is refused as overload.
pub const PREFIXES_BYTES_MAX: usize = 2 * MIB;

/// Most reads that wait; the next one is refused as overload.
pub const READS_MAX: usize = 16 * 1024;
/// Most bytes of keys and bounds in reads that wait; the next one is refused as overload.
pub const READS_BYTES_MAX: usize = 8 * MIB;
/// Most scans (reads of a page of keys) at a time; the next one is refused as overload.
pub const SCANS_MAX: usize = 256;
/// Most questions for state or old entries that a client or peer has under way; the next one is
/// answered as *busy*. Each needs one, and a second one after it gave up the first.
pub const QUESTIONS_EACH_MAX: usize = 2;
/// The same limit for all clients and peers together.
pub const QUESTIONS_MAX: usize = 128;
/// The same limit for all clients together: peers catch up beside them, and do not wait long.
pub const CLIENT_QUESTIONS_MAX: usize = 16;
/// Most results of reads that the driver has not taken yet. When full, the reader threads wait.
pub const FOUND_MAX: usize = 3;
/// Largest size of a page or chunk: it ends after the pair that makes it long enough.
pub const FOUND_BYTES: usize = 3 * MIB;
/// Bytes of requests of one kind (reads, writes, scans) that the engine has at a time; the next one
/// waits for its turn. Below what it takes of writes, and of calls to the leader.
pub const KIND_BYTES_MAX: usize = RELAYS_BYTES_MAX - KEY_BYTES_MAX - VALUE_BYTES_MAX;
/// Bytes of answers to reads, and of events, that one turn produces; the rest waits for the next
/// turn. They are produced faster than any connection accepts them.
pub const TURN_BYTES_MAX: usize = 4 * MIB;

/// Bytes of decided entries that are applied in one commit; the rest waits for the next one.
pub const APPLY_BYTES_MAX: usize = MIB;
/// Entries that are read from the log at a time: a bound may be exceeded by this many.
pub const READ_ENTRIES: usize = 4;

/// Most writes that are not decided; the next one is refused as overload.
pub const PROPOSALS_MAX: usize = 16 * 1024;
/// Memory of an entry beside its key and value.
pub const ENTRY_BYTES: usize = 64;
/// Most bytes of keys and values in writes that are not decided; the next one is refused as
/// overload. Each write waits for every peer.
pub const PROPOSALS_BYTES_MAX: usize = 11 * MIB;
/// Most calls to the leader under way; the next one is refused as overload.
pub const RELAYS_MAX: usize = 16 * 1024;
/// Most bytes of keys and values in calls to the leader; the next one is refused as overload. They
/// wait for the link: well below its queue limit, because a client must not end a session.
pub const RELAYS_BYTES_MAX: usize = 8 * MIB;

/// Longest message between replicas, in bytes: the entries that a peer lacks ([`SYNC_BYTES_MAX`]),
/// and those not decided, of this leader and of the previous one. A longer message ends the
/// session.
pub const MESSAGE_BYTES_MAX: usize = SYNC_BYTES_MAX + 2 * PROPOSALS_BYTES_MAX;
/// Most bytes of decided entries that one message carries for a peer that lacks them.
pub const SYNC_BYTES_MAX: usize = 8 * MIB;
/// Longest part of a message in one frame, in bytes: an urgent message waits for at most one part.
pub const FRAGMENT_BYTES_MAX: usize = 256 * KIB;
/// Bytes of a message that every link may assemble; longer ones, one at a time over all links.
pub const PART_BYTES_FREE: usize = 2 * MIB;
/// The same for a link to a non-member: it has nothing long to send before it is asked.
pub const GUEST_PART_BYTES: usize = 64 * KIB;
/// Most sessions with non-members: future and former members. The next one is closed.
pub const GUESTS_MAX: usize = 8;
/// Bytes of peers' messages that were received and not handled. Beyond this, links are not read.
pub const INBOUND_BYTES_MAX: usize = MESSAGE_BYTES_MAX;
/// Bytes of messages that may wait for one peer: for a sync, for the link, or to be written. Beyond
/// this, its session ends and both sides start over with what is missing.
pub const PEER_BYTES_MAX: usize = MESSAGE_BYTES_MAX + PROPOSALS_BYTES_MAX;
/// The same for all peers; beyond this, the session of the peer that has most ends.
pub const OUTBOUND_BYTES_MAX: usize = 76 * MIB;
/// Bytes of messages that wait for a sync beyond which the driver takes no further calls from
/// clients until the sync returns. They are part of what waits for peers.
pub const HELD_BYTES_MAX: usize = OUTBOUND_BYTES_MAX / 2;
/// Bytes of urgent messages that may wait for one peer beside the others: a few thousand messages.
pub const URGENT_BYTES_MAX: usize = MIB;

/// RocksDB's memory for blocks read from disk.
pub const BLOCK_CACHE_BYTES: usize = 16 * MIB;
/// RocksDB's memory for writes not yet in a table file, over all column families.
pub const WRITE_BUFFERS_BYTES: usize = 32 * MIB;
/// Memory of all of RocksDB: those two, reads of compactions and iterators, and the log's buffer.
pub const ROCKSDB_BYTES_MAX: usize = BLOCK_CACHE_BYTES + WRITE_BUFFERS_BYTES + 16 * MIB;
/// Memory of the program, its threads' stacks, and everything small.
pub const PROGRAM_BYTES: usize = 24 * MIB;

/// Sum of all bounds.
pub const SUM_BYTES: usize = CONNECTIONS_MAX * (CONNECTION_BYTES + TLS_BYTES)
    + (GREETINGS_MAX * GREETING_BYTES + ARRIVALS_MAX * ARRIVAL_BYTES)
    + BEGUN_BYTES_MAX
    + REQUESTS_BYTES_MAX
    + CLIENTS_BYTES_MAX
    + (SUBSCRIPTIONS_MAX * 2 * OVERHEAD + PREFIXES_BYTES_MAX)
    + READS_BYTES_MAX
    + QUESTIONS_BYTES_MAX
    + FOUND_MAX * FOUND_BYTES
    + PROPOSALS_BYTES_MAX
    + RELAYS_MAX * OVERHEAD
    + (OUTBOUND_BYTES_MAX + (MEMBERS_MAX - 1) * URGENT_BYTES_MAX)
    + (MESSAGE_BYTES_MAX + (MEMBERS_MAX - 1) * (PART_BYTES_FREE + 2 * FRAGMENT_BYTES_MAX))
    + GUESTS_MAX * (GUEST_PART_BYTES + 2 * FRAGMENT_BYTES_MAX)
    + INBOUND_BYTES_MAX
    + 2 * TURN_BYTES_MAX
    + 2 * (APPLY_BYTES_MAX + READ_ENTRIES * (KEY_BYTES_MAX + VALUE_BYTES_MAX))
    + ROCKSDB_BYTES_MAX
    + CHECK_BYTES
    + PROGRAM_BYTES;

/// Questions to the reader threads: the three bounds of a page, or a place in a snapshot.
const QUESTIONS_BYTES_MAX: usize = SCANS_MAX * (3 * KEY_BYTES_MAX + 2 * OVERHEAD)
    + QUESTIONS_MAX * (CURSOR_BYTES_MAX + 2 * OVERHEAD);

const _: () = {
    assert!(SUM_BYTES <= SUM_BYTES_MAX);
    assert!(SUM_BYTES_MAX < POD_BYTES);
    assert!(CALL_BYTES >= 2 * OVERHEAD && PROPOSALS_MAX >= READS_MAX && RELAYS_MAX >= READS_MAX);
    // A leader must be able to propose to all peers in one turn without losing one of them.
    let proposed = PROPOSALS_BYTES_MAX + PROPOSALS_MAX * ENTRY_BYTES + OVERHEAD;
    assert!(proposed * (MEMBERS_MAX - 1) <= OUTBOUND_BYTES_MAX);
    assert!(PEER_BYTES_MAX <= OUTBOUND_BYTES_MAX);
    assert!(RELAYS_BYTES_MAX * 2 <= PEER_BYTES_MAX);
    // One call, one message and one page always fit when nothing else is there.
    let request = KEY_BYTES_MAX + VALUE_BYTES_MAX + KIB;
    assert!(request <= BEGUN_BYTES_MAX && request + CALL_BYTES <= REQUESTS_BYTES_MAX);
    assert!(request <= RELAYS_BYTES_MAX);
    assert!(RELAYS_BYTES_MAX <= PROPOSALS_BYTES_MAX);
    let page = SCAN_BYTES_MAX + request + SCAN_PAIRS_MAX as usize * OVERHEAD;
    assert!(page <= FOUND_BYTES);
    assert!(FOUND_BYTES <= CLIENT_BYTES_MAX);
    assert!(CLIENT_BYTES_MAX <= CLIENTS_BYTES_MAX);
    assert!(PART_BYTES_FREE >= request && MESSAGE_BYTES_MAX <= u32::MAX as usize);
};

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes in the table above add up to the sum of the constants.
    #[test]
    fn the_table_adds_up() {
        let text = include_str!("limits.rs");
        let rows = text.lines().filter_map(|line| line.strip_prefix("//! | ")?.split('|').nth(1));
        let sizes = rows.filter_map(|size| size.trim().strip_suffix(" MiB")?.parse::<usize>().ok());
        let sum: usize = sizes.sum();
        assert!((sum * MIB).abs_diff(SUM_BYTES) < 4 * MIB, "{sum} MiB, and {SUM_BYTES} bytes");
    }
}
