//! Fair shares of a limited number of connections.
//!
//! As long as there is room, a party may have as many as it wants. When there is none, the user who
//! has most gives one up to a user who has fewer; among connections of one user, or before anybody
//! is known to be a user, the host that has most. Guarantees that the number is never exceeded, and
//! that no user and no host keeps the others out.

pub mod room;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Pause after a failed accept: descriptors may have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The connection that a party gives up when there is no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GivesUp {
    /// The oldest, also for a new one of its own: connections are short, and an old one hangs.
    Oldest,
    /// The newest, for a party that has at least two fewer: connections last, and one that is at
    /// work stays.
    Newest,
}

/// The one at the other end of a connection, as far as it is known.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Party {
    /// The user, once it is known.
    pub user: Option<Arc<str>>,
    host: IpAddr,
}

impl Party {
    /// Returns the party at an address, who may be anybody.
    #[must_use]
    pub fn at(address: IpAddr) -> Self {
        Self { user: None, host: host_of(address) }
    }

    /// Returns a user at an address.
    #[must_use]
    pub fn of(user: Option<Arc<str>>, address: IpAddr) -> Self {
        Self { user, ..Self::at(address) }
    }
}

/// Returns the address that stands for a host: a network of IPv6 gives its host 2⁶⁴ addresses.
#[must_use]
pub fn host_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// The connections of all parties.
pub struct Shares {
    most: usize,
    gives_up: GivesUp,
    /// Locked for one addition or removal.
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    all: BTreeMap<u64, (Party, CancellationToken)>,
    next: u64,
}

/// One connection's share; dropping it returns the room.
pub struct Share {
    shares: Arc<Shares>,
    number: u64,
    end: CancellationToken,
}

impl Shares {
    /// Creates room for at most this many connections.
    #[must_use]
    pub fn new(most: usize, gives_up: GivesUp) -> Arc<Self> {
        Arc::new(Self { most, gives_up, open: Mutex::default() })
    }

    /// Waits for the next connection that gets a share, as one of a party that may be anybody. A
    /// connection that gets none is closed.
    pub async fn accept(
        self: &Arc<Self>,
        listener: &TcpListener,
    ) -> (TcpStream, SocketAddr, Share) {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    if let Some(share) = self.take(Party::at(from.ip())) {
                        return (stream, from, share);
                    }
                }
                Err(error) => {
                    debug!(%error, "could not accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Takes a share for a connection of a party; `None` when there is no room, and nobody gives
    /// any up.
    pub fn take(self: &Arc<Self>, party: Party) -> Option<Share> {
        let mut open = self.open();
        if open.all.len() >= self.most {
            let users = |party: &Party| party.user.clone();
            let known = party.user.clone().map(Some);
            let victim = known.and_then(|own| self.victim(&open, own, users));
            let hosts = |party: &Party| party.host;
            let victim = victim.or_else(|| self.victim(&open, party.host, hosts));
            let (_, end) = open.all.remove(&victim?)?;
            end.cancel();
        }
        let (number, end) = (open.next, CancellationToken::new());
        open.next += 1;
        open.all.insert(number, (party, end.clone()));
        Some(Share { shares: Arc::clone(self), number, end })
    }

    /// Returns the connection that the group with most gives up to a new one of the group `own`, if
    /// it does.
    fn victim<G: Eq + std::hash::Hash>(
        &self,
        open: &Open,
        own: G,
        group: impl Fn(&Party) -> G,
    ) -> Option<u64> {
        let mut groups: HashMap<G, (usize, u64)> = HashMap::new();
        for (number, (party, _)) in &open.all {
            let (count, chosen) = groups.entry(group(party)).or_insert((0, *number));
            *count += 1;
            if self.gives_up == GivesUp::Newest {
                *chosen = *number;
            }
        }
        let own = groups.get(&own).map_or(0, |(count, _)| *count);
        let (most, chosen) = groups.into_values().max_by_key(|(count, _)| *count)?;
        let gives = match self.gives_up {
            GivesUp::Oldest => most >= own,
            GivesUp::Newest => most > own + 1,
        };
        gives.then_some(chosen)
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Waits until the connection must end, because another party gets its room.
    pub async fn given_up(&self) {
        self.end.cancelled().await;
    }

    /// Returns what is cancelled when the connection must end.
    #[must_use]
    pub fn end(&self) -> CancellationToken {
        self.end.clone()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shares.open().all.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 8;

    fn party(user: &str, host: u8) -> Party {
        Party::of((!user.is_empty()).then(|| user.into()), [10, 0, 0, host].into())
    }

    #[test]
    fn one_user_may_have_all_and_keeps_nobody_out() {
        let shares = Shares::new(MOST, GivesUp::Newest);
        let greedy: Vec<_> = (0..MOST).map(|_| shares.take(party("greedy", 1)).unwrap()).collect();
        assert!(shares.take(party("greedy", 1)).is_none(), "its own does not count");
        let other = || shares.take(party("other", 1));
        let mut others: Vec<_> = (0..MOST / 2).map(|_| other().unwrap()).collect();
        assert!(other().is_none(), "both have half");
        let ended: Vec<bool> = greedy.iter().map(|one| one.end.is_cancelled()).collect();
        assert_eq!(ended, [false, false, false, false, true, true, true, true], "the newest go");
        others.pop();
        assert!(shares.take(party("third", 1)).is_some(), "room is returned with the share");
    }

    #[test]
    fn one_host_of_a_user_keeps_no_other_host_out() {
        let shares = Shares::new(MOST, GivesUp::Newest);
        let greedy: Vec<_> = (0..MOST).map(|_| shares.take(party("app", 1)).unwrap()).collect();
        let others: Vec<_> = std::iter::from_fn(|| shares.take(party("app", 2))).collect();
        assert_eq!(others.len(), MOST / 2);
        assert_eq!(greedy.iter().filter(|one| one.end.is_cancelled()).count(), MOST / 2);
    }

    #[test]
    fn connections_that_hang_give_way() {
        let shares = Shares::new(MOST, GivesUp::Oldest);
        let rare = shares.take(party("", 1)).unwrap();
        let flood: Vec<_> = (0..10 * MOST).map(|_| shares.take(party("", 2)).unwrap()).collect();
        assert!(!rare.end.is_cancelled(), "a flood ends its own");
        assert_eq!(flood.iter().filter(|one| !one.end.is_cancelled()).count(), MOST - 1);
        let more = shares.take(party("", 1)).unwrap();
        assert!(!rare.end.is_cancelled() && !more.end.is_cancelled());
    }

    #[test]
    fn room_is_returned_once() {
        let shares = Shares::new(MOST, GivesUp::Oldest);
        for _ in 0..100 {
            let all: Vec<_> = (0..2 * MOST).map(|_| shares.take(party("a", 1)).unwrap()).collect();
            assert_eq!(shares.open().all.len(), MOST);
            drop(all);
            assert_eq!(shares.open().all.len(), 0);
        }
    }

    #[test]
    fn a_network_of_ipv6_is_one_host() {
        let host = |text: &str| host_of(text.parse().unwrap());
        assert_eq!(host("2001:db8::1"), host("2001:db8::ffff:1"));
        assert_ne!(host("2001:db8::1"), host("2001:db8:0:1::1"));
        assert_eq!(host("::ffff:10.0.0.1"), host("10.0.0.1"));
        assert_ne!(host("10.0.0.1"), host("10.0.0.2"));
    }
}
