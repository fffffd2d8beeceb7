//! The connections that a client's subscriptions share: one to each replica.
//!
//! Guarantees that many who subscribe at once open one connection, and that a connection lives as
//! long as it has a subscription.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::connection::Connection;

/// The connection to a replica, if there is one. Locked while one is opened.
pub type Place = Arc<tokio::sync::Mutex<Weak<Connection>>>;

/// The connections, by the replica's name.
#[derive(Default)]
pub struct Streams {
    places: Mutex<BTreeMap<String, Place>>,
}

impl Streams {
    /// Returns the place of a replica's connection.
    pub fn to(&self, node: &str) -> Place {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        // There are as many as replicas; those of replicas that are gone are empty.
        places.retain(|name, place| {
            let is_held = Arc::strong_count(place) > 1;
            name == node || is_held || place.try_lock().is_ok_and(|held| held.strong_count() > 0)
        });
        Arc::clone(places.entry(node.to_owned()).or_default())
    }

    /// Has the next subscription open another connection than this one, which is full. While
    /// somebody opens one, that is the next one.
    pub fn leave(&self, node: &str, connection: &Arc<Connection>) {
        if let Ok(mut place) = self.to(node).try_lock()
            && place.as_ptr() == Arc::as_ptr(connection)
        {
            *place = Weak::new();
        }
    }
}
