//! Pure: every bound of the protocol between clients and replicas.
//!
//! Guarantees that the bounds fit each other (checked at compile time below). Does not know the
//! bounds between replicas, which are the replica's own business.

use std::time::Duration;

/// Most members of a cluster: with more, each write would wait longer and be no safer than with
/// seven.
pub const MEMBERS_MAX: u32 = 7;

/// Longest key, in bytes. Keys are kept in every index block and shown on one line of a console.
pub const KEY_BYTES_MAX: usize = 4 * 1024;

/// Longest value, in bytes. A value travels in one frame and is held several times in memory on its
/// way to a quorum; larger data belongs in an object store.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;

/// Longest frame between a client and a replica, in bytes, without its length prefix.
/// It holds the largest put, and a page of a scan that ends with the largest pair.
pub const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Longest frame before the handshake is done, in bytes: an unknown client must not make a replica
/// reserve more than this.
pub const HANDSHAKE_BYTES_MAX: usize = 4 * 1024;

/// Longest position in a snapshot that a client may send, in bytes: a key and its encoding.
pub const CURSOR_BYTES_MAX: usize = KEY_BYTES_MAX + 64;

/// Longest human-readable text in an answer, in bytes; a longer one is cut. Such texts repeat names
/// that a client chose and messages of other systems.
pub const TEXT_BYTES_MAX: usize = 1024;

/// Most pairs in one page of a scan.
pub const SCAN_PAIRS_MAX: u32 = 1000;

/// A page of a scan ends after the pair that makes it reach this many bytes.
pub const SCAN_BYTES_MAX: usize = 1024 * 1024;

/// A page of a scan ends after the pair for which this many bytes were read. A page of keys only
/// leaves out the values, but has to read them.
pub const SCAN_READ_BYTES_MAX: usize = 8 * SCAN_BYTES_MAX;

/// Most calls that one connection may have in flight. A replica reads no further frame from a
/// connection that has this many; so a client that never reads cannot make it queue more.
pub const CALLS_MAX: usize = 1024;

/// Most subscriptions on one connection; fewer where other connections have many. The next one is
/// refused.
pub const SUBSCRIPTIONS_MAX: usize = 8 * 1024;

/// A lane is forgotten when this many entries were applied since its last use, and a command is
/// void when it is applied this many entries after the index that its client was given. The two
/// being one number is what makes an unknown lane mean "never applied".
pub const SESSION_ENTRIES: u64 = 1 << 20;

/// Longest name of a user or a role, in bytes.
pub const ACCESS_NAME_BYTES_MAX: usize = 63;

/// How long either side waits for the other's part of the handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// Either side sends a ping when it has sent nothing for this long.
pub const PING_INTERVAL: Duration = Duration::from_secs(1);

/// A connection on which nothing arrived for this long is closed.
pub const SILENCE_MAX: Duration = Duration::from_secs(5);

const _: () = {
    assert!(KEY_BYTES_MAX + VALUE_BYTES_MAX + 1024 <= FRAME_BYTES_MAX);
    assert!(SCAN_BYTES_MAX + KEY_BYTES_MAX + VALUE_BYTES_MAX + 16 * 1024 <= FRAME_BYTES_MAX);
    // The page's own overhead: a revision and two lengths for each pair, 20 bytes at most.
    assert!(SCAN_PAIRS_MAX as usize * 20 <= 64 * 1024);
    assert!(HANDSHAKE_BYTES_MAX < FRAME_BYTES_MAX);
    assert!(PING_INTERVAL.as_secs() * 3 < SILENCE_MAX.as_secs());
};
