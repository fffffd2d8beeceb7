//! Notices that another cluster has taken the place of the one that is watched.
//!
//! Guarantees that a console is not told of a cluster as if it were another one's continuation: one
//! that was restored or made anew behind the same addresses gives other revisions to other writes.
//! A replica of another cluster beside those of one's own is told as down, with the reason.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep;

/// How long only replicas of another cluster answer before it has taken the place: one's own may be
/// starting.
const REPLACED_AFTER: Duration = Duration::from_secs(3);
/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// What is known of one that is watched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It is of the cluster.
    Own,
    /// It is of another one; what it says.
    Stranger(String),
}

/// What is known of all.
#[derive(Default)]
pub struct Strangers(Mutex<BTreeMap<String, Standing>>);

impl Strangers {
    /// Something is known of one, or nothing.
    pub fn note(&self, who: &str, standing: Option<Standing>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match standing {
            Some(standing) => drop(all.insert(who.to_owned(), standing)),
            None => drop(all.remove(who)),
        }
    }

    /// What a stranger says where there is nobody else.
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

    /// Waits until another cluster has taken the place; what it says.
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
