//! Pure: the rights of users, judged where their requests are handled.
//!
//! A request is judged when it arrives, by the accounts that this replica has applied. They may be
//! behind: what they forbid is judged once more as of an index at which a read is linearizable, and
//! only then refused. What they allow is judged once more where it takes effect: a write where it
//! is applied, a read where it is served, a subscription at each change of the accounts.
//!
//! Guarantees that nothing takes effect after a right was taken away, and that nobody is refused
//! what was granted before.

use kvorum_protocol::access::{AccessError, AccessQuery, AccessReport};
use kvorum_protocol::authentication::TOKEN_SECONDS_MAX;
use kvorum_protocol::data::Operation;
use kvorum_protocol::message::{Answer, Consistency, Refusal, Request};

use super::Requests;
use super::reads::Read;
use crate::engine::context::Context;
use crate::engine::health::Health;
use crate::engine::message::{Origin, Output};
use crate::engine::store::Store;
use crate::state::accounts::Accounts;
use crate::state::rights::{self, User};
use crate::state::tokens::{self, Claims};
use crate::state::version::Version;

/// Judges a request of a client that has just arrived; returns the user and the request if it is
/// allowed. Otherwise it is answered, now or later.
pub(in crate::engine) fn judge<S: Store>(
    requests: &mut Requests,
    cx: &mut Context<S>,
    health: &Health<'_>,
    origin: Origin,
    (user, request): (User, Request),
) -> Option<(User, Request)> {
    if user.is_almighty() {
        return Some((user, request));
    }
    match rights::judge(&cx.store.accounts(), &user, &request) {
        Ok(()) => return Some((user, request)),
        Err(forbidden) if user.is_fixed() => {
            cx.answer(origin, Answer::Refused(forbidden.refusal(&user)));
        }
        Err(_) => {
            let read = Read::new(origin, Some(request), cx.now).by(user);
            requests.read(cx, health, Consistency::Linearizable, read);
        }
    }
    None
}

/// Returns the reason why a read must not be served to its user, if it must not.
pub(super) fn refusal<S: Store>(cx: &Context<S>, read: &Read) -> Option<Refusal> {
    let request = read.request.as_ref().filter(|_| !read.user.is_almighty())?;
    let judged = rights::judge(&cx.store.accounts(), &read.user, request);
    judged.err().map(|forbidden| forbidden.refusal(&read.user))
}

/// Whether a program of this cluster may not know such an operation.
pub(super) fn is_too_new<S: Store>(cx: &Context<S>, operation: &Operation) -> bool {
    matches!(operation, Operation::Access(_)) && cx.store.version() < Version::ACCOUNTS
}

/// Returns the refusal of an operation that a program of this cluster may not know.
pub(super) fn too_new() -> Refusal {
    Refusal::Unavailable(
        "the cluster has no users yet: some replica runs an older program, or the cluster has only \
         just begun"
            .to_owned(),
    )
}

/// Returns the answer to a question about users, roles and rights.
pub(super) fn report<S: Store>(cx: &Context<S>, user: &User, query: AccessQuery) -> AccessReport {
    let accounts = cx.store.accounts();
    match query {
        AccessQuery::Whoami => AccessReport::Whoami(rights::whoami(&accounts, user)),
        AccessQuery::Users => AccessReport::Users(accounts.users()),
        AccessQuery::Roles => AccessReport::Roles(accounts.roles()),
        AccessQuery::Token { seconds } => token(&accounts, user, cx.time.wall_us, seconds),
    }
}

/// Makes a token for a user, that stands for its password.
fn token(accounts: &Accounts, user: &User, now_us: u64, seconds: u32) -> AccessReport {
    let User::Client(name) = user else { return AccessReport::Nothing(AccessError::NoPassword) };
    let (Some(password), Some(secret)) = (accounts.password_of(name), accounts.token_secret())
    else {
        return AccessReport::Nothing(AccessError::NoPassword);
    };
    let until_us = now_us + u64::from(seconds.min(TOKEN_SECONDS_MAX)) * 1_000_000;
    let claims = Claims { user: name.to_string(), since: password.since, until_us };
    AccessReport::Token { token: tokens::issue(secret, &claims), until_us }
}

impl Requests {
    /// Ends the connections of those that have a subscription to which they lost the right. To be
    /// called before anything is sent that was decided after that.
    pub(in crate::engine) fn judge_subscriptions<S: Store>(&mut self, cx: &mut Context<S>) {
        for client in self.subscriptions.judge(&cx.store.accounts()) {
            cx.push(Output::EndClient { client });
        }
    }
}
