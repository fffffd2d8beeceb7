//! Detects that another cluster has taken the place of the watched one.
//!
//! Guarantees that the console never presents one cluster as the continuation of another: a cluster
//! that was restored or created anew behind the same addresses gives other revisions to other
//! writes. A replica of another cluster beside those of the watched one is reported as down, with
//! the reason.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep;

/// The time that only replicas of another cluster must answer before it has taken the place: the
/// watched cluster's own replicas may be starting.
const REPLACED_AFTER: Duration = Duration::from_secs(3);
/// The interval between two checks.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// The relation of a watched replica to the watched cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// The replica belongs to the watched cluster.
    Own,
    /// The replica belongs to another cluster; the text is the reason that was given.
    Stranger(String),
}

/// The standing of each watched replica, by its name or address.
#[derive(Default)]
pub struct Strangers(Mutex<BTreeMap<String, Standing>>);

impl Strangers {
    /// Records the standing of a replica, or forgets it for `None`.
    pub fn note(&self, who: &str, standing: Option<Standing>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match standing {
            Some(standing) => drop(all.insert(who.to_owned(), standing)),
            None => drop(all.remove(who)),
        }
    }

    /// Returns a stranger's reason if strangers are the only replicas known.
    fn alone(&self) -> Option<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut said = None;
        for standing in all.values() {
            match standing {
                Standing::Own => return None,
                Standing::Stranger(why) => said = Some(why.clone()),
            }
        }
        said
    }

    /// Waits until another cluster has taken the place, and returns the reason.
    pub async fn have_taken_over(&self) -> String {
        let mut since = None;
        loop {
            sleep(LOOK_INTERVAL).await;
            match self.alone() {
                None => since = None,
                Some(why) => {
                    if since.get_or_insert_with(Instant::now).elapsed() > REPLACED_AFTER {
                        return why;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_beside_ones_own_takes_nothing_over() {
        let all = Strangers::default();
        assert_eq!(all.alone(), None, "nobody is known");
        all.note("kvorum-0", Some(Standing::Stranger("other".to_owned())));
        assert_eq!(all.alone().as_deref(), Some("other"));
        all.note("kvorum-1", Some(Standing::Own));
        assert_eq!(all.alone(), None);
        all.note("kvorum-1", None);
        assert_eq!(all.alone().as_deref(), Some("other"), "it is gone");
    }
}
