//! Pure: the answers to reads whose index is applied.
//!
//! Guarantees that each read is judged once more, by the rights as they are now, and answered or
//! passed on once.

use kvorum_protocol::data::Value;
use kvorum_protocol::message::{Answer, Pair, Refusal, Request, SnapshotRequest};

use super::judging;
use super::reads::Read;
use crate::engine::context::{Cleared, Context};
use crate::engine::health::Health;
use crate::engine::message::Output;
use crate::engine::sending::Sending;
use crate::engine::store::Store;
use crate::state::snapshot::FetchRequest;

/// Serves a read; returns the approximate size of the answer in bytes.
pub(super) fn serve<S: Store>(
    cx: &mut Context<S>,
    health: &Health<'_>,
    sending: &mut Sending,
    read: &Read,
) -> usize {
    if let Some(refusal) = health.refuses_reads(cx) {
        cx.refuse_read(read, refusal);
        return 0;
    }
    if let Some(refusal) = judging::refusal(cx, read) {
        cx.refuse_read(read, refusal);
        return 0;
    }
    let bytes;
    let answer = match &read.request {
        Some(Request::Get { key, .. }) => {
            let pair = cx.store.key(&key.0).map(|record| Pair {
                key: key.clone(),
                value: Value(record.value),
                revision: record.revision,
            });
            bytes = pair.as_ref().map_or(0, Pair::bytes);
            Answer::Value(pair)
        }
        Some(Request::Scan(scan)) => {
            // The scan may have to skip many keys, and no other request should wait for that.
            if sending.questions.begin_scan() {
                let (origin, scan) = (read.origin, scan.clone());
                cx.push(Output::Scan { origin, scan });
                return 0;
            }
            bytes = 0;
            Answer::Refused(Refusal::Overloaded)
        }
        Some(Request::Snapshot(SnapshotRequest::Open)) => {
            sending.fetch(cx, read.origin, FetchRequest::Snapshot);
            return 0;
        }
        Some(Request::Access(query)) => {
            bytes = 0;
            Answer::Access(judging::report(cx, &read.user, *query))
        }
        Some(request) => {
            let request = request.clone();
            cx.cleared.push(Cleared { origin: read.origin, user: read.user.clone(), request });
            return 0;
        }
        None => return 0,
    };
    cx.answer(read.origin, answer);
    bytes
}
