//! The record of who was let in and who was not: one structured line for each refusal.

use std::net::SocketAddr;

use kvorum_protocol::message::Request;
use tracing::warn;

use crate::state::rights::{Touch, User, touches};

/// Records that a connection was refused.
pub(super) fn refused_connection(from: SocketAddr, why: &str) {
    warn!(target: "audit", allowed = false, %from, why, "connection");
}

/// Records that a request was refused: who wanted to do what, and the right that is missing.
pub(super) fn refused_request(user: &User, from: SocketAddr, request: &Request, right: &str) {
    let user = user.to_string();
    let what = describe(touches(request));
    warn!(target: "audit", allowed = false, user, %from, what, right, "request");
}

/// Describes what a request touches; keys are escaped, and cut.
fn describe(touch: Touch<'_>) -> String {
    use crate::state::rights::Keys;
    /// Most bytes of a key in a line.
    const SHOWN_BYTES_MAX: usize = 128;
    let shown = |key: &[u8]| key[..key.len().min(SHOWN_BYTES_MAX)].escape_ascii().to_string();
    let keys = |keys: Keys<'_>| match keys {
        Keys::One(key) => format!("key {}", shown(key)),
        Keys::Prefix(prefix) => format!("keys from prefix '{}'", shown(prefix)),
    };
    match touch {
        Touch::Read(range) => format!("read {}", keys(range)),
        Touch::Write(range) => format!("write {}", keys(range)),
        Touch::Observe => "see the replicas".to_owned(),
        Touch::Operate => "operate the cluster".to_owned(),
        Touch::Join(name) => format!("join as {}", name.escape_debug()),
    }
}
