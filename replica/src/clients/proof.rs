//! What shows which user a client is, and for how long it does.
//!
//! | proof | until |
//! |---|---|
//! | a certificate | it is over, or its authority is not trusted any more |
//! | a token | its time is over, or the user's password is another one |
//! | a password | the user's password is another one |
//!
//! Guarantees that passwords are checked one after the other, in turns that are shared fairly among
//! hosts: each takes processor time and memory on purpose.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kvorum_protocol::authentication::{
    Authentication, Token, Unauthenticated, is_password, pretend_check,
};
use kvorum_tls::Peer;
use tokio::time::sleep;

use super::{Clients, DOUBT_SPREAD};
use crate::shares::Party;
use crate::state::accounts::Accounts;
use crate::state::rights::User;
use crate::state::tokens;

/// What shows which user a client is.
pub(super) enum Proof {
    /// Nothing: the connection is not encrypted, where that is allowed.
    None,
    /// A certificate.
    Certificate(Peer),
    /// A token.
    Token(Token),
    /// A password.
    Password {
        /// The user.
        user: String,
        /// The index at which the password was set.
        since: u64,
    },
}

impl Clients {
    /// Finds out which user a client is, by what it says in its hello.
    pub(super) async fn authenticate(
        &self,
        hello: &[u8],
        from: SocketAddr,
    ) -> Result<(User, Proof), Unauthenticated> {
        match Authentication::read(hello).ok_or(Unauthenticated::Malformed)? {
            Authentication::Token(token) => {
                let claims = tokens::check(&*self.accounts()?, &token, now_us())?;
                Ok((User::Client(claims.user.into()), Proof::Token(token)))
            }
            Authentication::Password { user, password } => {
                let since = self.check_password(&user, password, from).await?;
                Ok((User::Client(user.as_str().into()), Proof::Password { user, since }))
            }
        }
    }

    /// Checks a password, when it is its turn; returns the index at which it was set.
    async fn check_password(
        &self,
        user: &str,
        password: String,
        from: SocketAddr,
    ) -> Result<u64, Unauthenticated> {
        let party = Party::at(from.ip());
        let share = self.checks.take(party).ok_or(Unauthenticated::Busy)?;
        let turn = tokio::select! {
            turn = self.check.acquire() => turn.map_err(|_| Unauthenticated::Busy)?,
            () = share.given_up() => return Err(Unauthenticated::Busy),
        };
        let known = self.accounts()?.password_of(user).cloned();
        let checked = tokio::task::spawn_blocking(move || match known {
            Some(known) => is_password(&password, &known.hash).then_some(known.since),
            None => {
                pretend_check(&password);
                None
            }
        });
        let checked = checked.await.unwrap_or_default();
        drop(turn);
        checked.ok_or(Unauthenticated::Password)
    }

    /// Returns the accounts, once they are known.
    fn accounts(&self) -> Result<Arc<Accounts>, Unauthenticated> {
        self.accounts.borrow().clone().ok_or(Unauthenticated::Busy)
    }

    /// Waits until a proof shows nothing any more.
    pub(super) async fn doubted(&self, proof: &Proof) {
        match (proof, self.encryption.tls()) {
            (Proof::None, _) | (Proof::Certificate(_), None) => std::future::pending().await,
            (Proof::Certificate(peer), Some(tls)) => {
                tls.doubted(peer, rand::random_range(DOUBT_SPREAD)).await;
            }
            (Proof::Token(token), _) => {
                let left = |accounts: &Accounts| {
                    let now_us = now_us();
                    let claims = tokens::check(accounts, token, now_us).ok()?;
                    Some(Duration::from_micros(claims.until_us.saturating_sub(now_us)))
                };
                self.while_known(left).await;
            }
            (Proof::Password { user, since }, _) => {
                let left = |accounts: &Accounts| {
                    let is_same = accounts.password_of(user).is_some_and(|now| now.since == *since);
                    is_same.then_some(Duration::MAX)
                };
                self.while_known(left).await;
            }
        }
    }

    /// Waits as long as the accounts leave some time.
    async fn while_known(&self, left: impl Fn(&Accounts) -> Option<Duration>) {
        let mut accounts = self.accounts.clone();
        loop {
            let rest = accounts.borrow_and_update().as_ref().and_then(|now| left(now));
            let Some(rest) = rest else { return };
            tokio::select! {
                () = sleep(rest) => {}
                changed = accounts.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }
}

/// Returns the time by the machine's clock, in microseconds since 1970.
fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}
