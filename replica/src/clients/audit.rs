//! The record of who was let in and who was not: one structured line for each refusal, and with
//! `--audit all` one for each request that was let in.

use std::net::SocketAddr;

use kvorum_protocol::message::Request;
use tracing::{info, warn};

use crate::state::rights::{Touch, User, touches};

/// Most bytes of what a request touches in a line.
const SHOWN_BYTES_MAX: usize = 256;

/// Records that a connection was refused.
pub(super) fn refused_connection(from: SocketAddr, why: &str) {
    warn!(target: "audit", allowed = false, %from, why, "connection");
}

/// Records that a request was refused: who wanted to do it, and the right that is missing.
pub(super) fn refused_request(user: &User, from: SocketAddr, right: &str) {
    let user = user.to_string();
    warn!(target: "audit", allowed = false, user, %from, right, "request");
}

/// Records a request that is passed on: who makes it, and what it touches. It may still be refused,
/// by another line.
pub(super) fn request(user: &User, from: SocketAddr, request: &Request) {
    let user = user.to_string();
    let touched = touches(request);
    let what = touched.iter().map(describe).collect::<Vec<_>>().join(", ");
    info!(target: "audit", user, %from, what, "request");
}

/// Describes what a request touches; keys are escaped, and cut.
fn describe(touch: &Touch<'_>) -> String {
    let mut text = match touch {
        Touch::Read(range) => format!("read {range}"),
        Touch::Write(range) => format!("write {range}"),
        Touch::Observe => "see the replicas".to_owned(),
        Touch::Own => "see its own rights".to_owned(),
        Touch::Operate => "operate the cluster".to_owned(),
        Touch::Administer => "administer users, or copy everything".to_owned(),
        Touch::Join(name) => format!("join as {}", name.escape_default()),
    };
    // Whatever is in it is escaped, and so of one byte each.
    text.truncate(SHOWN_BYTES_MAX);
    text
}
