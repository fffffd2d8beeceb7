//! Pure: subscriptions by what they are told.
//!
//! Guarantees that an entry is passed to those that it concerns at a cost that does not depend on
//! how many others there are. Does not know at which index each stands.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use super::Id;

/// The subscriptions, and how long each has heard nothing.
#[derive(Default)]
pub struct ByKey {
    /// Those that are told of every entry.
    all: BTreeSet<Id>,
    /// Those that are told of the keys that begin with a prefix.
    prefixes: BTreeMap<Arc<[u8]>, BTreeSet<Id>>,
    /// Those that report progress, by what had passed when they were last sent something.
    silent: BTreeSet<(u64, Id)>,
    /// The bytes of all entries that ever passed.
    passed: u64,
}

impl ByKey {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && self.prefixes.is_empty()
    }

    /// Adds a subscription to the keys with a prefix, or to every entry.
    pub fn insert(&mut self, id: Id, prefix: Option<&Arc<[u8]>>) {
        match prefix {
            None => self.all.insert(id),
            Some(prefix) => self.prefixes.entry(Arc::clone(prefix)).or_default().insert(id),
        };
    }

    /// Removes a subscription.
    pub fn remove(&mut self, id: Id, prefix: Option<&Arc<[u8]>>) {
        let Some(prefix) = prefix else {
            self.all.remove(&id);
            return;
        };
        if let Some(ids) = self.prefixes.get_mut(prefix) {
            ids.remove(&id);
            if ids.is_empty() {
                self.prefixes.remove(prefix);
            }
        }
    }

    /// Returns those that are told of an entry that changes a key, or none.
    #[must_use]
    pub fn interested(&self, key: Option<&[u8]>) -> Vec<Id> {
        let mut ids: Vec<Id> = self.all.iter().copied().collect();
        let Some(key) = key else { return ids };
        let mut below = Bound::Included(key);
        // Whatever lies between a prefix of the key and the key begins with that prefix. So what
        // the key has in common with the next lower one is the longest that is still to be found.
        while let Some((prefix, told)) =
            self.prefixes.range::<[u8], _>((Bound::Unbounded, below)).next_back()
        {
            let common = prefix.iter().zip(key).take_while(|(a, b)| a == b).count();
            below = match common == prefix.len() {
                true => {
                    ids.extend(told);
                    Bound::Excluded(&key[..common])
                }
                false => Bound::Included(&key[..common]),
            };
        }
        ids
    }

    /// Records that an entry of some bytes passes all of them.
    pub fn pass(&mut self, bytes: usize) {
        self.passed += bytes as u64;
    }

    /// Returns when a subscription was sent something that heard nothing for some bytes.
    #[must_use]
    pub fn heard_before(&self, silent: usize) -> u64 {
        self.passed.saturating_sub(silent as u64)
    }

    /// Returns the bytes for which a subscription heard nothing.
    #[must_use]
    pub fn silent_since(&self, heard: u64) -> usize {
        usize::try_from(self.passed - heard).unwrap_or(usize::MAX)
    }

    /// Has a subscription report progress from when it was last sent something.
    pub fn listen(&mut self, id: Id, heard: u64) {
        self.silent.insert((heard, id));
    }

    /// Ends that.
    pub fn ignore(&mut self, id: Id, heard: u64) {
        self.silent.remove(&(heard, id));
    }

    /// Returns those that heard nothing for some bytes or more.
    #[must_use]
    pub fn overdue(&self, bytes: usize) -> Vec<Id> {
        let Some(before) = self.passed.checked_sub(bytes as u64) else { return Vec::new() };
        self.silent.iter().take_while(|(heard, _)| *heard <= before).map(|(_, id)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::ClientKey;

    fn id(call: usize) -> Id {
        (ClientKey(1), call as u64)
    }

    proptest! {
        /// Short strings of two letters have many prefixes in common.
        #[test]
        fn those_whose_prefix_a_key_has_are_told(
            prefixes in prop::collection::vec(prop::option::of("[ab]{0,5}"), 0..20),
            keys in prop::collection::vec(prop::option::of("[ab]{0,6}"), 0..20),
            gone in prop::collection::vec(any::<bool>(), 20),
        ) {
            let shared = |prefix: &Option<String>| {
                prefix.as_ref().map(|prefix| Arc::<[u8]>::from(prefix.as_bytes()))
            };
            let mut by_key = ByKey::default();
            for (call, prefix) in prefixes.iter().enumerate() {
                by_key.insert(id(call), shared(prefix).as_ref());
            }
            for (call, prefix) in prefixes.iter().enumerate().filter(|(call, _)| gone[*call]) {
                by_key.remove(id(call), shared(prefix).as_ref());
            }
            let left = || prefixes.iter().enumerate().filter(|(call, _)| !gone[*call]);
            prop_assert_eq!(by_key.is_empty(), left().count() == 0);
            for key in keys {
                let is_told = |prefix: &Option<String>| match (prefix, &key) {
                    (None, _) => true,
                    (Some(prefix), Some(key)) => key.starts_with(prefix.as_str()),
                    (Some(_), None) => false,
                };
                let expected: Vec<Id> =
                    left().filter(|(_, prefix)| is_told(prefix)).map(|(c, _)| id(c)).collect();
                let mut told = by_key.interested(key.as_ref().map(String::as_bytes));
                told.sort_unstable();
                prop_assert_eq!(told, expected);
            }
        }
    }

    #[test]
    fn those_that_heard_nothing_for_long_are_overdue() {
        let mut by_key = ByKey::default();
        by_key.listen(id(1), 0);
        by_key.pass(60);
        by_key.listen(id(2), by_key.heard_before(0));
        assert_eq!(by_key.overdue(100), []);
        by_key.pass(40);
        assert_eq!(by_key.overdue(100), [id(1)]);
        assert_eq!(by_key.silent_since(60), 40);
        by_key.ignore(id(1), 0);
        by_key.listen(id(1), by_key.heard_before(0));
        assert_eq!(by_key.overdue(40), [id(2)]);
        assert_eq!(by_key.overdue(41), []);
    }
}
