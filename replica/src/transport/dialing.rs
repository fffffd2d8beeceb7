//! Dials peers: decides who dials whom, where, and how often.
//!
//! Of two members the one with the higher id dials; the other one dials only when there is no link
//! for a while, because it may have moved to an address that the first cannot know. A non-member
//! dials the members, and is dialed for a limited time only: former members, and joiners that never
//! came, are not looked for.
//!
//! Guarantees one dial at a time for a name, whichever ids had it; none for a name that is no
//! longer known; and that a peer whose name cannot be resolved is dialed where it was reached last.

use std::collections::BTreeMap;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use kvorum_protocol::dial::first_of;
use kvorum_protocol::status::ReplicaId;
use kvorum_tls::{Encryption, Tls};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::info;

use super::handshake::Failure;
use super::meeting::Met;
use super::{MEETING_PATIENCE, Transport};
use crate::engine::Known;

/// First pause between two dials.
const DIAL_PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest pause between two dials of a member. A restarted peer waits at most this long.
const DIAL_PAUSE_MAX: Duration = Duration::from_millis(500);
/// Longest pause between two dials of a non-member.
const GUEST_PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long a non-member is dialed; after that, only the non-member itself dials.
const GUEST_PATIENCE: Duration = Duration::from_secs(50);
/// How long the replica with the lower id waits to be dialed before it dials.
const CALL_BACK_PATIENCE: Duration = Duration::from_secs(1);
/// Head start of a dial by name before the address that worked last is tried as well.
const NAME_HEAD_START: Duration = Duration::from_millis(300);

/// The next step for a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    /// Do nothing until the known replicas change.
    Wait,
    /// Check again in a while.
    Look,
    /// Dial the name, expecting the replica with this id.
    Dial(ReplicaId),
}

/// The state of the dials of one name.
struct Dials {
    /// The time since when there is no link, and no member of that name.
    guest_since: Option<Instant>,
    /// Number of dials since the last link.
    tries: usize,
    pauses: ExponentialBackoff,
    is_member: bool,
}

impl Dials {
    fn new() -> Self {
        let pauses = pauses(DIAL_PAUSE_MAX);
        Self { guest_since: None, tries: 0, pauses, is_member: true }
    }

    /// Returns the next step; `ids` have had the name, each with whether it is a member.
    fn next(
        &mut self,
        ids: &[(ReplicaId, bool)],
        is_linked: impl Fn(ReplicaId) -> bool,
        now: Instant,
    ) -> Next {
        let mut ids = ids.to_vec();
        // Members come first, then the ids that got the name last.
        ids.sort_by_key(|(id, is_member)| (!is_member, std::cmp::Reverse(*id)));
        let Some((_, is_member)) = ids.first().copied() else { return Next::Wait };
        if is_member != self.is_member {
            let longest = if is_member { DIAL_PAUSE_MAX } else { GUEST_PAUSE_MAX };
            (self.is_member, self.pauses) = (is_member, pauses(longest));
            self.guest_since = None;
        }
        if ids.iter().any(|(id, _)| is_linked(*id)) {
            *self = Self { pauses: self.pauses_anew(), is_member, ..Self::new() };
            return Next::Look;
        }
        if !is_member {
            let since = *self.guest_since.get_or_insert(now);
            if now.duration_since(since) > GUEST_PATIENCE {
                return Next::Wait;
            }
        }
        Next::Dial(ids[self.tries % ids.len()].0)
    }

    fn pauses_anew(&self) -> ExponentialBackoff {
        pauses(if self.is_member { DIAL_PAUSE_MAX } else { GUEST_PAUSE_MAX })
    }

    /// Counts a dial and returns the pause after it.
    fn pause(&mut self) -> Duration {
        self.tries += 1;
        self.pauses.next().unwrap_or(DIAL_PAUSE_MAX)
    }
}

impl Transport {
    /// Dials all known replicas, forever.
    pub async fn dial_known(self) {
        let mut known = self.known.clone();
        // Dropping the set ends the dials.
        let mut dials = JoinSet::new();
        let mut names: BTreeMap<String, AbortHandle> = BTreeMap::new();
        loop {
            let now: Vec<String> = {
                let known = known.borrow_and_update();
                let others = known.iter().filter(|known| known.member.replica != self.me);
                others.map(|known| known.member.name.clone()).collect()
            };
            names.retain(|name, dial| {
                let is_known = now.contains(name);
                if !is_known {
                    dial.abort();
                }
                is_known
            });
            for name in now {
                names.entry(name).or_insert_with_key(|name| {
                    dials.spawn(self.clone().dial(name.clone(), known.clone()))
                });
            }
            while dials.try_join_next().is_some() {}
            if known.changed().await.is_err() {
                return;
            }
        }
    }

    /// Dials the replica that has a name, as long as the name is known and there is no link.
    async fn dial(self, name: String, mut known: watch::Receiver<Vec<Known>>) {
        let (mut dials, mut last) = (Dials::new(), String::new());
        loop {
            let ids = self.ids_of(&name, &known.borrow_and_update());
            let peer = match dials.next(&ids, |id| self.is_linked(id), Instant::now()) {
                Next::Dial(peer) => peer,
                Next::Look => {
                    sleep(DIAL_PAUSE_MAX).await;
                    continue;
                }
                Next::Wait if known.changed().await.is_ok() => continue,
                Next::Wait => return,
            };
            if self.me < peer && !self.is_missing(peer).await {
                continue;
            }
            match self.try_dial(peer, &name).await {
                Ok(met) => {
                    last.clear();
                    self.session(met).await;
                    dials = Dials::new();
                }
                Err(failure) => {
                    let why = failure.to_string();
                    if why != last {
                        info!(peer = name, why, "no link yet");
                        last = why;
                    }
                }
            }
            let due = Instant::now() + dials.pause();
            // A change of this name's ids, such as a new member, ends the pause; others do not.
            while let Ok(changed) = timeout_at(due, known.changed()).await {
                if changed.is_err() {
                    return;
                }
                if self.ids_of(&name, &known.borrow_and_update()) != ids {
                    break;
                }
            }
        }
    }

    fn ids_of(&self, name: &str, known: &[Known]) -> Vec<(ReplicaId, bool)> {
        let others = known.iter().filter(|known| known.member.replica != self.me);
        let named = others.filter(|known| known.member.name == name);
        named.map(|known| (known.member.replica, known.is_member)).collect()
    }

    /// Waits for a peer that should dial this replica; returns whether it has not.
    async fn is_missing(&self, peer: ReplicaId) -> bool {
        sleep(CALL_BACK_PATIENCE).await;
        !self.is_linked(peer)
    }

    async fn try_dial(&self, peer: ReplicaId, name: &str) -> Result<Met, Failure> {
        match self.dial_as(peer, name, self.encryption.tls().as_deref()).await {
            // An older replica does not encrypt, and closes a connection that begins so.
            Err(failure) if matches!(self.encryption, Encryption::Accept(_)) => {
                self.dial_as(peer, name, None).await.map_err(|_| failure)
            }
            met => met,
        }
    }

    async fn dial_as(
        &self,
        peer: ReplicaId,
        name: &str,
        tls: Option<&Tls>,
    ) -> Result<Met, Failure> {
        let reached = self.reached.of_name(name).filter(|_| self.book.has_names());
        let by_name = async {
            match self.book.resolve(name) {
                Ok(address) => connect(&address).await,
                Err(why) => Err(why),
            }
        };
        let by_address = reached.map(|reached| async move { connect(&reached.to_string()).await });
        let stream =
            first_of(NAME_HEAD_START, by_name, by_address).await.map_err(Failure::Unreachable)?;
        let reached = stream.peer_addr();
        let (wire, certified) = self.encrypt(stream, tls).await?;
        let met = self.meet(wire, certified, Some(peer)).await?;
        if let Ok(reached) = reached
            && self.book.has_names()
        {
            self.reached.note(name, reached);
        }
        Ok(met)
    }
}

async fn connect(address: &str) -> Result<TcpStream, String> {
    match timeout(MEETING_PATIENCE, TcpStream::connect(address)).await {
        Err(_) => Err(format!("{address}: no answer")),
        Ok(Err(error)) => Err(format!("{address}: {error}")),
        Ok(Ok(stream)) => Ok(stream),
    }
}

fn pauses(longest: Duration) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(DIAL_PAUSE_MIN)
        .with_max_delay(longest)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    const NOBODY: fn(ReplicaId) -> bool = |_| false;

    /// Returns the dials of a name within `minutes`.
    fn dials_in(minutes: u64, ids: &[(u64, bool)]) -> Vec<(Duration, u64)> {
        let ids: Vec<_> = ids.iter().map(|(id, is_member)| (ReplicaId(*id), *is_member)).collect();
        let (began, mut dials, mut dialed) = (Instant::now(), Dials::new(), Vec::new());
        let mut now = began;
        while now < began + Duration::from_secs(60 * minutes) {
            match dials.next(&ids, NOBODY, now) {
                Next::Dial(peer) => {
                    dialed.push((now - began, peer.0));
                    now += dials.pause();
                }
                Next::Wait => return dialed,
                Next::Look => panic!("nobody is linked"),
            }
        }
        dialed
    }

    #[test]
    fn who_is_no_member_is_dialed_less_and_less_and_then_not_at_all() {
        let dialed = dials_in(60, &[(4, false), (7, false), (9, false)]);
        let (last, _) = dialed.last().expect("it is dialed at first");
        assert!(*last < Duration::from_secs(60), "{dialed:?}");
        assert!(dialed.len() < 16, "{dialed:?}");
        let first: Vec<_> = dialed.iter().take(4).map(|(_, id)| *id).collect();
        assert_eq!(first, [9, 7, 4, 9], "the last that had the name first, each in turn");
    }

    #[test]
    fn a_member_is_dialed_for_ever_and_often() {
        let dialed = dials_in(10, &[(3, true)]);
        assert!(dialed.len() > 500, "{}", dialed.len());
        let gaps = dialed.windows(2).map(|pair| pair[1].0.saturating_sub(pair[0].0));
        assert!(gaps.max() <= Some(2 * DIAL_PAUSE_MAX));
        let both = dials_in(1, &[(9, false), (3, true)]);
        assert_eq!(both[0].1, 3, "a member before who is none");
        assert!(both.iter().any(|(_, id)| *id == 9), "the name may be another one's by now");
    }

    #[test]
    fn a_name_that_is_linked_is_not_dialed() {
        let (mut dials, now) = (Dials::new(), Instant::now());
        let ids = [(ReplicaId(3), true), (ReplicaId(9), false)];
        assert_eq!(dials.next(&ids, |id| id == ReplicaId(9), now), Next::Look);
        assert_eq!(dials.next(&[], NOBODY, now), Next::Wait, "nobody has it any more");
        // The member left, its session ended, and it is dialed for a limited time from then on.
        let left = [(ReplicaId(3), false)];
        let much_later = now + 10 * GUEST_PATIENCE;
        assert_eq!(dials.next(&left, |_| true, much_later), Next::Look);
        assert_eq!(dials.next(&left, NOBODY, much_later), Next::Dial(ReplicaId(3)));
        let end = much_later + GUEST_PATIENCE + Duration::from_secs(1);
        assert_eq!(dials.next(&left, NOBODY, end), Next::Wait);
        let back = [(ReplicaId(3), true)];
        assert_eq!(dials.next(&back, NOBODY, end), Next::Dial(ReplicaId(3)), "a member again");
    }

    /// A peer whose name does not resolve is reached at its last address; else the name counts.
    #[tokio::test]
    async fn names_may_be_gone_when_replicas_are_not() {
        let no_name = || Err("no such name".to_owned());
        let slow = async |answer: Result<u8, String>| {
            sleep(2 * NAME_HEAD_START).await;
            answer
        };
        assert_eq!(
            first_of(NAME_HEAD_START, ready(Ok::<_, String>(1)), Some(ready(Ok(2)))).await,
            Ok(1)
        );
        assert_eq!(first_of(NAME_HEAD_START, ready(no_name()), Some(ready(Ok(2)))).await, Ok(2));
        assert_eq!(
            first_of(NAME_HEAD_START, pending(), Some(ready(Ok::<_, String>(2)))).await,
            Ok(2),
            "it hangs"
        );
        assert_eq!(
            first_of(NAME_HEAD_START, slow(Ok(1)), Some(ready(Err(String::new())))).await,
            Ok(1)
        );
        assert_eq!(first_of(NAME_HEAD_START, slow(no_name()), Some(slow(Ok(2)))).await, Ok(2));
        let both = first_of(
            NAME_HEAD_START,
            ready(no_name()),
            Some(ready(Err::<u8, _>("refused".to_owned()))),
        );
        assert_eq!(both.await, no_name(), "why there is none is what the name came to");
        let without = None::<std::future::Ready<Result<u8, String>>>;
        assert_eq!(first_of(NAME_HEAD_START, ready(no_name()), without).await, no_name());
    }
}
