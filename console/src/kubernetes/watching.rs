//! Objects of one kind, watched for as long as somebody asks.
//!
//! Guarantees that watching begins again for ever, with pauses that grow to a bound, and that it
//! counts as failing from the first error until it has gone on for a while without one: a list that
//! is answered says nothing of the watch that follows. Does not know what the objects are for.

use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use kube::runtime::watcher;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout_at};

use super::config::Access;
use super::trouble;
use crate::exit::{Exit, Stop};

/// How long a watch lasts, in seconds: an API server that is gone without a word is noticed then.
const WATCH_SECONDS: u32 = 20;
/// First pause after a watch that failed.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// Longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// The pause after one that was refused: each new one begins with a list of everything.
const PAUSE_REFUSED: Duration = Duration::from_secs(10);
/// A watch that went on for so long after its list works.
const SETTLED_AFTER: Duration = Duration::from_secs(3);

/// What a watch tells.
pub enum Told<K> {
    /// Something of the objects.
    Event(watcher::Event<K>),
    /// They cannot be watched, and why; again when the reason is of another kind.
    Fails(Stop),
    /// They are watched again.
    Works,
}

/// A watch.
pub struct Watching<K> {
    api: Api<K>,
    access: Access,
    config: watcher::Config,
    events: BoxStream<'static, watcher::Result<watcher::Event<K>>>,
    /// How long to wait before it begins again; nothing as long as it works.
    pause: Duration,
    /// What came last was an error.
    has_failed: bool,
    /// How it fails, as was told; nothing once it was told that it works.
    failing: Option<Exit>,
    settles: Option<Instant>,
}

impl<K> Watching<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    /// Watches what `config` selects.
    pub fn new(api: Api<K>, access: &Access, config: watcher::Config) -> Self {
        let config = config.timeout(WATCH_SECONDS);
        Self {
            events: watcher(api.clone(), config.clone()).boxed(),
            api,
            access: access.clone(),
            config,
            pause: Duration::ZERO,
            has_failed: false,
            failing: None,
            settles: None,
        }
    }

    /// What happens next. Nothing is lost when it is not waited for to the end.
    pub async fn next(&mut self) -> Told<K> {
        loop {
            if self.has_failed {
                sleep(self.pause).await;
                // One that goes on where it was says nothing until an object changes.
                self.events = watcher(self.api.clone(), self.config.clone()).boxed();
                self.has_failed = false;
            }
            let event = match self.settles {
                Some(at) => timeout_at(at, self.events.next()).await,
                None => Ok(self.events.next().await),
            };
            match event {
                Ok(Some(Ok(event))) => {
                    if matches!(event, watcher::Event::InitDone) {
                        self.settles = Some(Instant::now() + SETTLED_AFTER);
                    }
                    return Told::Event(event);
                }
                Ok(Some(Err(error))) => {
                    (self.has_failed, self.settles) = (true, None);
                    let stop = trouble::of_watch(&self.access, &error);
                    self.pause = match stop.exit {
                        Exit::NotAuthorized => PAUSE_REFUSED,
                        _ => (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX),
                    };
                    if self.failing.replace(stop.exit) != Some(stop.exit) {
                        return Told::Fails(stop);
                    }
                }
                Ok(None) => return std::future::pending().await,
                Err(_) => {
                    (self.pause, self.settles) = (Duration::ZERO, None);
                    if self.failing.take().is_some() {
                        return Told::Works;
                    }
                }
            }
        }
    }
}
