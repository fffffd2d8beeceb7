//! Fair shares of the memory for requests.
//!
//! As long as most of the room is free, a party may have as much as it wants. The last part is kept
//! for those that have little. Guarantees that the total is never exceeded, and that a party which
//! has much leaves room for the requests of all others.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Party;

/// One in this many bytes is kept for parties that have no more than so much themselves.
const KEPT: usize = 8;

/// The room of all parties.
pub struct Budget {
    room: Arc<Semaphore>,
    most: usize,
    /// The accounts of all parties that have a connection. Locked when a connection begins.
    parties: Mutex<Parties>,
}

#[derive(Default)]
struct Parties {
    accounts: HashMap<Party, Weak<Owned>>,
    last: u64,
}

/// The number of a party's account, as long as the party has a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AccountId(pub u64);

/// What one party has, over all its connections.
#[derive(Clone)]
pub struct Account(Arc<Owned>);

struct Owned {
    id: AccountId,
    bytes: AtomicUsize,
}

/// Room for one request; dropping it returns the room.
pub struct Room {
    #[expect(dead_code, reason = "it is only held")]
    permit: OwnedSemaphorePermit,
    account: Account,
    bytes: usize,
}

impl Budget {
    /// Creates a budget of this many bytes.
    #[must_use]
    pub fn new(most: usize) -> Arc<Self> {
        let room = Arc::new(Semaphore::new(most));
        Arc::new(Self { room, most, parties: Mutex::default() })
    }

    /// Returns the account of a user, the same for all its connections; of a host, if there is no
    /// user.
    pub fn account(&self, mut party: Party) -> Account {
        let mut parties = self.parties.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that have gone; there are never many more than connections.
        parties.accounts.retain(|_, account| account.strong_count() > 0);
        if party.user.is_some() {
            party = Party::of(party.user, Ipv4Addr::UNSPECIFIED.into());
        }
        if let Some(known) = parties.accounts.get(&party).and_then(Weak::upgrade) {
            return Account(known);
        }
        parties.last += 1;
        let new = Arc::new(Owned { id: AccountId(parties.last), bytes: AtomicUsize::new(0) });
        parties.accounts.insert(party, Arc::downgrade(&new));
        Account(new)
    }

    /// Takes room for a request; `None` when there is none, or none for one that has so much.
    pub fn take(&self, account: &Account, bytes: usize) -> Option<Room> {
        let kept = self.most / KEPT;
        let is_greedy = account.bytes() + bytes > kept;
        if is_greedy && self.room.available_permits() < bytes + kept {
            return None;
        }
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.room).try_acquire_many_owned(permits).ok()?;
        account.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        Some(Room { permit, account: account.clone(), bytes })
    }

    /// Whether a party has more than the part that is kept for those that have little.
    #[must_use]
    pub fn has_much(&self, account: &Account) -> bool {
        account.bytes() > self.most / KEPT
    }
}

impl Account {
    /// Returns the number of the account.
    #[must_use]
    pub fn id(&self) -> AccountId {
        self.0.id
    }

    fn bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.account.0.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 800;

    fn party(user: &str) -> Party {
        Party::of(Some(user.into()), [10, 0, 0, 1].into())
    }

    #[test]
    fn one_who_floods_leaves_room_for_the_others() {
        let budget = Budget::new(MOST);
        let (flood, other) = (budget.account(party("flood")), budget.account(party("other")));
        let again = budget.account(Party::of(Some("flood".into()), [10, 0, 0, 2].into()));
        let mut taken = Vec::new();
        taken.extend(std::iter::from_fn(|| budget.take(&flood, 10)));
        assert_eq!(taken.len(), 70, "all but the part that is kept");
        assert!(budget.take(&again, 10).is_none(), "another connection is the same party");
        assert!(again.id() == flood.id() && other.id() != flood.id());
        assert!(budget.has_much(&flood) && !budget.has_much(&other));
        let others: Vec<_> = std::iter::from_fn(|| budget.take(&other, 10)).collect();
        assert_eq!(others.len(), 10);
        taken.truncate(30);
        assert!(budget.take(&other, 10).is_some() && budget.take(&flood, 10).is_some());
    }

    #[test]
    fn room_and_accounts_are_returned() {
        let budget = Budget::new(MOST);
        for _ in 0..3 {
            let account = budget.account(party("a"));
            let all: Vec<_> = std::iter::from_fn(|| budget.take(&account, 100)).collect();
            assert_eq!(all.len(), 7);
            drop(all);
            assert_eq!((account.bytes(), budget.room.available_permits()), (0, MOST));
        }
        drop(budget.account(party("b")));
        drop(budget.account(party("c")));
        assert!(budget.parties.lock().unwrap().accounts.len() <= 1);
    }
}
