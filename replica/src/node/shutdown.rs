//! Waits, after a replica's process was asked to end, until the cluster does without the replica.
//!
//! | reason to end | when it ends |
//! |---|---|
//! | all are to end | at once |
//! | it is to be started again | when the leader permits it: a majority is there without it |
//! | it is not wanted any more | when the others have decided an entry without it |
//!
//! Guarantees that it ends when its patience does, whatever the others do, and that a long wait is
//! explained to the operator. Does not know signals, nor how a replica closes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvorum_protocol::status::{Role, Status};
use kvorum_tls::Encryption;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::driver::ControlEvent;
use crate::engine::Input;
use crate::node::rediscovery::superseded;
use crate::orchestrator::{ClusterEvent, Orchestrator, OrchestratorError};
use crate::planner::{Scale, ordinal};

/// Time between two checks whether the replica may go.
const INTERVAL: Duration = Duration::from_millis(20);
/// How long a replica waits before it reports why.
const EXPLAINED_AFTER: Duration = Duration::from_secs(10);

/// The reason why a replica is asked to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// All replicas are to end: none is wanted, or the record of the desired count is gone.
    Stop,
    /// The replica will be started again. Also assumed when the orchestrator does not answer.
    Restart,
    /// The replica is not wanted any more.
    Leave,
}

impl End {
    /// Returns the reason why a replica that is asked to end now has to end; `None` when the
    /// orchestrator does not answer.
    async fn now(orchestrator: &Orchestrator, name: &str) -> Option<Self> {
        match (orchestrator.wanted().await, ordinal(name)) {
            (Ok(Scale { replicas: 0, .. }) | Err(OrchestratorError::Gone(_)), _) => {
                Some(Self::Stop)
            }
            (Ok(wanted), Some(ordinal)) if !wanted.has(ordinal) => Some(Self::Leave),
            (Ok(_), _) => Some(Self::Restart),
            (Err(_), _) => None,
        }
    }

    /// Sends the current reason to end, repeatedly, because it may change.
    async fn tell(orchestrator: &Orchestrator, name: &str, told: watch::Sender<Option<Self>>) {
        let began = Instant::now();
        loop {
            let end = Self::now(orchestrator, name).await;
            let is_patient = began.elapsed() < orchestrator.answer_patience();
            if let Some(end) = end.or((!is_patient).then_some(Self::Restart)) {
                told.send_replace(Some(end));
            }
            sleep(orchestrator.end_interval()).await;
        }
    }
}

/// A replica that was asked to end.
pub struct Leaving<'a> {
    /// The orchestrator, which knows the reason to end.
    pub orchestrator: &'a Orchestrator,
    /// How the other replicas are talked to.
    pub encryption: &'a Encryption,
    /// The replica's name.
    pub name: &'a str,
    /// The longest time that it waits.
    pub patience: Duration,
    /// The replica's status.
    pub status: watch::Receiver<Option<Arc<Status>>>,
    /// The inbox of the replica's driver.
    pub driver: &'a mpsc::Sender<ControlEvent>,
}

impl Leaving<'_> {
    /// Waits until the cluster does without the replica, or its patience is over.
    pub async fn wait(&self) {
        let Self { orchestrator, encryption, name, .. } = self;
        let (tell, end) = watch::channel(None);
        let is_superseded = AtomicBool::new(false);
        let look = async {
            let status = self.status.clone();
            superseded(orchestrator, encryption, name, status, self.driver).await;
            is_superseded.store(true, Ordering::Relaxed);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = End::tell(orchestrator, name, tell) => {}
            () = look => {}
            () = self.explain(end.clone()) => {}
            () = sleep(self.patience) => {
                let end = *end.borrow();
                self.force(end).await;
            }
            () = self.may_go(end.clone(), &is_superseded) => {}
        }
    }

    /// Waits until the cluster does without the replica.
    async fn may_go(&self, ends: watch::Receiver<Option<End>>, is_superseded: &AtomicBool) {
        let mut told = None;
        // The status from before is no answer: the replica may have become a member since. The next
        // one is, although nobody is notified of it when it says the same.
        let before = self.status.borrow().clone();
        let place = |status: &Option<Arc<Status>>| status.as_ref().map(Arc::as_ptr);
        let mut is_news = false;
        loop {
            sleep(INTERVAL).await;
            let status = self.status.borrow().clone();
            is_news |= place(&status) != place(&before) || self.status.has_changed().is_err();
            let Some(end) = *ends.borrow() else { continue };
            // Permission to go counts for the reason with which the replica asked for it.
            let is_asked = end == End::Leave || told == Some(end);
            let may_go = |status: &Status| status.membership.may_go && is_asked;
            let is_out = |status: &Status| status.role == Role::Outside;
            let is_done = |status: Arc<Status>| is_out(&status) || may_go(&status);
            if end == End::Stop || is_news && status.is_none_or(is_done) {
                return;
            }
            if told != Some(end) {
                info!(?end, "ends when the cluster does without it");
                told = Some(end);
            }
            if end == End::Restart {
                if is_superseded.load(Ordering::Relaxed) {
                    // No member is there to give permission, and the replica's volume stays.
                    return;
                }
                let input = Input::WantsStop;
                let _ = self.driver.send(ControlEvent::Input(input)).await;
            }
        }
    }

    /// Reports, once, why the replica has not ended for a while. Never returns.
    async fn explain(&self, ends: watch::Receiver<Option<End>>) {
        sleep(EXPLAINED_AFTER.min(self.patience)).await;
        let (name, why) = (self.name, self.why(*ends.borrow()));
        let patience = self.patience.as_secs();
        let note = format!("{name} was told to end, and waits for {patience} s at most: {why}");
        self.warn("StopWaits", note).await;
        std::future::pending::<()>().await;
    }

    /// Reports that the replica ends although the cluster does not do without it yet.
    async fn force(&self, end: Option<End>) {
        let (name, patience, why) = (self.name, self.patience.as_secs(), self.why(end));
        let note = format!("{name} ends after {patience} s, and the others need it: {why}");
        self.warn("ForcedStop", note).await;
    }

    async fn warn(&self, reason: &'static str, note: String) {
        warn!("{note}");
        if let Some(recorder) = self.orchestrator.recorder(self.name) {
            recorder.tell(ClusterEvent { is_warning: true, reason, note, name: None }).await;
        }
    }

    fn why(&self, end: Option<End>) -> String {
        let status = self.status.borrow().clone();
        let Some(status) = status else { return "it has only begun".to_owned() };
        let is_member = |name: &str| status.configuration.members.iter().any(|m| m.name == name);
        let gone = status.links.iter().filter(|link| !link.is_up && is_member(&link.peer));
        let gone: Vec<_> = gone.map(|link| link.peer.as_str()).collect();
        why(end, status.membership.waits.as_deref(), &gone)
    }
}

/// Explains why a replica waits: its reason to end, why the leader changes no members, and the
/// names of the members out of reach.
fn why(end: Option<End>, waits: Option<&str>, gone: &[&str]) -> String {
    let Some(end) = end else {
        return "nobody says whether it is to be started again".to_owned();
    };
    let what = match end {
        End::Stop => "all are to end",
        End::Restart => "without it, no majority would be there and in step",
        End::Leave => "it is not wanted any more, but the others do not go on without it",
    };
    let waits = match (waits, end) {
        (Some(waits), _) => format!(": {waits}"),
        (None, End::Leave) => "; their leader tells why".to_owned(),
        (None, _) => String::new(),
    };
    match gone {
        [] => format!("{what}{waits}"),
        gone => format!("{what}{waits}; out of reach: {}", gone.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::time::timeout;

    use super::*;
    use crate::engine::{Engine, Options};
    use crate::orchestrator::folder::{Folder, SET_FILE};
    use crate::state::version::Version;
    use crate::storage::memory::Memory;

    const PATIENCE: Duration = Duration::from_secs(600);
    const NAME: &str = "kvorum-1";

    /// A replica that is not wanted any more, with the sender of what it says.
    struct Unwanted {
        _folder: tempfile::TempDir,
        orchestrator: Orchestrator,
        says: watch::Sender<Option<Arc<Status>>>,
        driver: mpsc::Sender<ControlEvent>,
        _told: mpsc::Receiver<ControlEvent>,
    }

    impl Unwanted {
        fn that_says(status: Status) -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join(SET_FILE), r#"{"replicas": 1}"#).unwrap();
            let orchestrator = Orchestrator::Folder(Folder::new(folder.path()));
            let says = watch::Sender::new(Some(Arc::new(status)));
            let (driver, told) = mpsc::channel(8);
            Self { _folder: folder, orchestrator, says, driver, _told: told }
        }

        fn is_told_to_end(&self) -> Leaving<'_> {
            let Self { orchestrator, says, driver, .. } = self;
            let (encryption, status) = (&Encryption::Off, says.subscribe());
            Leaving { orchestrator, encryption, name: NAME, patience: PATIENCE, status, driver }
        }
    }

    fn member() -> Status {
        let options = Options { allows_faults: false, newest: Version::NEWEST, checksum_ticks: 0 };
        Engine::new(Memory::of_two(2), options).status()
    }

    fn outside() -> Status {
        Status { role: Role::Outside, ..member() }
    }

    /// The replica was outside, and has become a member since.
    #[tokio::test]
    async fn what_it_said_before_it_was_told_to_end_is_no_leave() {
        let replica = Unwanted::that_says(outside());
        let leaving = replica.is_told_to_end();
        let mut waits = pin!(leaving.wait());
        assert!(timeout(INTERVAL * 10, &mut waits).await.is_err(), "it said so before");
        replica.says.send_replace(Some(Arc::new(member())));
        assert!(timeout(INTERVAL * 10, &mut waits).await.is_err(), "it is a member");
        replica.says.send_replace(Some(Arc::new(outside())));
        timeout(PATIENCE, waits).await.expect("it is outside");
    }

    /// A replica outside has no news, and says the same again and again without notifying anybody.
    #[tokio::test]
    async fn a_replica_that_is_outside_and_says_so_again_ends() {
        let replica = Unwanted::that_says(outside());
        let leaving = replica.is_told_to_end();
        let mut waits = pin!(leaving.wait());
        assert!(timeout(INTERVAL * 10, &mut waits).await.is_err(), "it said so before");
        replica.says.send_if_modified(|shown| {
            *shown = Some(Arc::new(outside()));
            false
        });
        timeout(INTERVAL * 100, waits).await.expect("it is outside still");
    }

    #[test]
    fn one_that_waits_says_why() {
        let nobody_says = why(None, Some("not looked at"), &["kvorum-1"]);
        assert_eq!(nobody_says, "nobody says whether it is to be started again");
        assert_eq!(
            why(Some(End::Restart), None, &["kvorum-1", "kvorum-2"]),
            "without it, no majority would be there and in step; out of reach: kvorum-1, kvorum-2"
        );
        assert_eq!(
            why(Some(End::Leave), Some("kvorum-0 has not caught up"), &[]),
            "it is not wanted any more, but the others do not go on without it: kvorum-0 has not \
             caught up"
        );
    }
}
