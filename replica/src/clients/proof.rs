//! What shows which user a client is, and for how long it does.
//!
//! | proof | until |
//! |---|---|
//! | a certificate | it is over, or its authority is not trusted any more |
//! | a token | its time is over, or the user's password is another one |
//! | a password | the user's password is another one |
//!
//! Guarantees that passwords are checked one after the other, in turns that are shared fairly among
//! hosts: each takes processor time and memory on purpose, also when its client has gone meanwhile.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use kvorum_protocol::authentication::{
    Authentication, Token, Unauthenticated, is_password, pretend_check,
};
use kvorum_tls::Peer;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::{Clients, DOUBT_SPREAD};
use crate::shares::{Party, Share};
use crate::state::accounts::Accounts;
use crate::state::rights::User;
use crate::state::tokens;

/// The time between two looks whether the thread that checks passwords is still used.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// What shows which user a client is.
pub(super) enum Proof {
    /// Nothing: the connection is not encrypted, where that is allowed.
    None,
    /// A certificate.
    Certificate(Peer),
    /// A token.
    Token {
        /// The token.
        token: Token,
        /// The time at which it ends, in microseconds since 1970.
        until_us: u64,
    },
    /// A password.
    Password {
        /// The user.
        user: String,
        /// The index at which the password was set.
        since: u64,
    },
}

impl Proof {
    /// Returns the time at which it ends, in microseconds since 1970, if it is a token.
    pub(super) fn token_end(&self) -> Option<u64> {
        match self {
            Self::Token { until_us, .. } => Some(*until_us),
            Self::None | Self::Certificate(_) | Self::Password { .. } => None,
        }
    }
}

/// A password that waits to be checked.
struct Check {
    password: String,
    /// The hash to compare it with; `None` when there is no such user.
    hash: Option<String>,
    /// Receives whether it is right.
    reply: oneshot::Sender<bool>,
    /// Its place among those that wait, until it is checked.
    share: Share,
    party: Party,
}

/// The passwords that wait. There are few: each has a share.
#[derive(Default)]
pub(super) struct Checks {
    /// Locked to add one, or to take one.
    waiting: Mutex<VecDeque<Check>>,
    arrived: Condvar,
}

impl Checks {
    /// Starts the thread that checks passwords, one after the other, as long as they are used.
    pub(super) fn start() -> Arc<Self> {
        let checks = Arc::new(Self::default());
        let used = Arc::downgrade(&checks);
        let check = move || {
            let mut last = None;
            while let Some(checks) = used.upgrade() {
                if let Some(check) = checks.next(last.as_ref()) {
                    last = Some(check.party.clone());
                    check.run();
                }
            }
        };
        let thread = std::thread::Builder::new().name("passwords".to_owned());
        thread.spawn(check).expect("a process can start a thread");
        checks
    }

    fn add(&self, check: Check) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(check);
        self.arrived.notify_one();
    }

    /// Takes the next one, of another host than the last one if there is any, so that no host has
    /// to wait for all that another one asks; `None` after a while without any.
    fn next(&self, last: Option<&Party>) -> Option<Check> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let is_none = |waiting: &mut VecDeque<Check>| waiting.is_empty();
        let waited = self.arrived.wait_timeout_while(waiting, IDLE_MAX, is_none);
        let (mut waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let is_other = |check: &Check| Some(&check.party) != last;
        let position = waiting.iter().position(is_other).unwrap_or(0);
        waiting.remove(position)
    }
}

impl Check {
    fn run(self) {
        let Self { password, hash, reply, share, party: _ } = self;
        // The client may have gone meanwhile.
        if !reply.is_closed() {
            let is_right = hash.as_ref().is_some_and(|hash| is_password(&password, hash));
            if hash.is_none() {
                pretend_check(&password);
            }
            let _ = reply.send(is_right);
        }
        drop(share);
    }
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
                let until_us = claims.until_us;
                Ok((User::Client(claims.user.into()), Proof::Token { token, until_us }))
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
        let known = self.accounts()?.password_of(user).cloned();
        let (since, hash) = known.map_or((0, None), |known| (known.since, Some(known.hash)));
        let share = self.checks.take(party.clone()).ok_or(Unauthenticated::Busy)?;
        let end = share.end();
        let (reply, checked) = oneshot::channel();
        self.checker.add(Check { password, hash, reply, share, party });
        let is_right = tokio::select! {
            checked = checked => checked.map_err(|_| Unauthenticated::Busy)?,
            () = end.cancelled() => return Err(Unauthenticated::Busy),
        };
        if is_right { Ok(since) } else { Err(Unauthenticated::Password) }
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
            (Proof::Token { token, .. }, _) => {
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
pub(super) fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}
