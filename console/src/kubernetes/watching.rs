//! A watch on objects of one kind, for as long as the caller asks for reports.
//!
//! Guarantees that a watch is restarted forever, with pauses that grow to a bound, and that it
//! counts as failing from the first error until it has run for a while without one: a list that
//! succeeds says nothing about the watch that follows. Does not know what the objects are for.

use std::fmt::Debug;
use std::pin::Pin;
use std::time::Duration;

use kube::runtime::watcher;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_stream::{Stream, StreamExt};

use super::access::Access;
use super::trouble;
use crate::exit::{Exit, Failure};

/// How long a watch lasts, in seconds: an API server that is gone without a word is noticed then.
const WATCH_SECONDS: u32 = 20;
/// The first pause after a watch that failed.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// The pause after a watch that was refused: each new one begins with a list of all objects.
const PAUSE_REFUSED: Duration = Duration::from_secs(10);
/// How long a watch must run after its list to count as working.
const SETTLED_AFTER: Duration = Duration::from_secs(3);

/// A report of a watch.
pub enum WatchEvent<K> {
    /// An event about the objects.
    Event(watcher::Event<K>),
    /// The objects cannot be watched, and why; repeated when the reason is of another kind.
    Fails(Failure),
    /// The objects are watched again.
    Works,
}

/// The course of a watch, by its errors and successes. Pure: the caller provides the time.
#[derive(Default)]
struct Course {
    /// The pause before the next start; zero as long as the watch works.
    pause: Duration,
    /// The failure as last reported; `None` once it was reported that the watch works.
    failing: Option<Exit>,
    /// The time at which it counts as working, if no error comes before.
    settles: Option<Instant>,
}

impl Course {
    /// Records an error; returns whether to report it.
    fn failed(&mut self, how: Exit) -> bool {
        self.settles = None;
        self.pause = match how {
            Exit::NotAuthorized => PAUSE_REFUSED,
            _ => (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX),
        };
        self.failing.replace(how) != Some(how)
    }

    /// Records that the list at the start of the watch succeeded.
    fn listed(&mut self, now: Instant) {
        self.settles = Some(now + SETTLED_AFTER);
    }

    /// Records that the watch ran until it counts as working; returns whether to report that.
    fn settled(&mut self) -> bool {
        (self.pause, self.settles) = (Duration::ZERO, None);
        self.failing.take().is_some()
    }
}

/// A watch on objects of one kind.
pub struct Watching<K> {
    api: Api<K>,
    access: Access,
    config: watcher::Config,
    events: Pin<Box<dyn Stream<Item = watcher::Result<watcher::Event<K>>> + Send>>,
    /// Whether the last event was an error.
    has_failed: bool,
    course: Course,
}

impl<K> Watching<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    /// Watches the objects that `config` selects.
    pub fn new(api: Api<K>, access: &Access, config: watcher::Config) -> Self {
        let config = config.timeout(WATCH_SECONDS);
        Self {
            events: Box::pin(watcher(api.clone(), config.clone())),
            api,
            access: access.clone(),
            config,
            has_failed: false,
            course: Course::default(),
        }
    }

    /// Returns the next report. Nothing is lost when the caller stops waiting.
    pub async fn next(&mut self) -> WatchEvent<K> {
        loop {
            if self.has_failed {
                sleep(self.course.pause).await;
                // A resumed watch would report nothing until an object changes.
                self.events = Box::pin(watcher(self.api.clone(), self.config.clone()));
                self.has_failed = false;
            }
            let event = match self.course.settles {
                Some(at) => timeout_at(at, self.events.next()).await,
                None => Ok(self.events.next().await),
            };
            match event {
                Ok(Some(Ok(event))) => {
                    if matches!(event, watcher::Event::InitDone) {
                        self.course.listed(Instant::now());
                    }
                    return WatchEvent::Event(event);
                }
                Ok(Some(Err(error))) => {
                    self.has_failed = true;
                    let stop = trouble::of_watch(&self.access, &error);
                    if self.course.failed(stop.exit) {
                        return WatchEvent::Fails(stop);
                    }
                }
                Ok(None) => return std::future::pending().await,
                Err(_) => {
                    if self.course.settled() {
                        return WatchEvent::Works;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An event in the course of a watch.
    enum Comes {
        Error(Exit),
        List,
        Quiet,
    }

    #[test]
    fn a_failure_is_told_once_and_its_end_once() {
        use Comes::{Error, List, Quiet};
        use Exit::{NotAuthorized, Unavailable};
        // The event, whether it is reported, and the pause before the next start in milliseconds.
        let cases: &[&[(Comes, bool, u64)]] = &[
            &[(List, false, 0), (Quiet, false, 0)],
            // Refused: the list succeeds each time, and the watch after it does not.
            &[
                (List, false, 0),
                (Error(NotAuthorized), true, 10_000),
                (List, false, 10_000),
                (Error(NotAuthorized), false, 10_000),
                (List, false, 10_000),
                (Quiet, true, 0),
                (Quiet, false, 0),
            ],
            // An outage that ends in a refusal, which is another reason.
            &[
                (Error(Unavailable), true, 200),
                (Error(Unavailable), false, 400),
                (Error(Unavailable), false, 800),
                (Error(Unavailable), false, 1600),
                (Error(Unavailable), false, 3000),
                (Error(Unavailable), false, 3000),
                (Error(NotAuthorized), true, 10_000),
                (Error(Unavailable), true, 3000),
                (List, false, 3000),
                (Quiet, true, 0),
                (Error(Unavailable), true, 200),
            ],
        ];
        for (number, case) in cases.iter().enumerate() {
            let mut course = Course::default();
            for (step, (comes, told, pause)) in case.iter().enumerate() {
                let tells = match comes {
                    Error(how) => course.failed(*how),
                    List => {
                        course.listed(Instant::now());
                        false
                    }
                    Quiet => course.settled(),
                };
                let paused = course.pause.as_millis();
                assert_eq!((tells, paused), (*told, u128::from(*pause)), "case {number}, {step}");
            }
        }
    }

    #[test]
    fn an_error_after_a_list_takes_back_that_it_settles() {
        let mut course = Course::default();
        course.listed(Instant::now());
        assert!(course.settles.is_some());
        course.failed(Exit::NotAuthorized);
        assert!(course.settles.is_none(), "it would be told that it works while it does not");
    }
}
