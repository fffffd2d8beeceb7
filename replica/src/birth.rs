//! How a replica comes by its identity, when the members follow an orchestrator.
//!
//! Guarantees that a cluster begins once: an intent is synced to the volume, then the cluster's
//! marker is made with it, then the identity; a crash after any step is harmless. A volume that
//! belongs to nobody while there is a marker joins, and never begins a second cluster. A retired
//! volume keeps its identity until it has another one.
//!
//! Does not know the disk beyond the folder; `replica` opens it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use kvorum_protocol::Client;
use kvorum_protocol::client::{Options, Route};
use kvorum_protocol::status::{ClusterId, Configuration, ConfigurationId, Member, ReplicaId};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::chain::Standing;
use crate::marker::Marker;
use crate::orchestrator::{self, Folder, Origin};
use crate::planner::{Scale, ordinal};
use crate::state_machine::Table;
use crate::storage::open::Newborn;
use crate::storage::{Database, Store};

/// Time between two tries to join.
const TRY_INTERVAL: Duration = Duration::from_millis(200);
/// How long one try may take.
const TRY_PATIENCE: Duration = Duration::from_secs(2);
/// The file that holds the intent.
const INTENT: &str = "intent";

/// What a replica needs to come by an identity.
pub struct Birth<'a> {
    /// Who says what is wanted, and keeps the marker.
    pub folder: &'a Folder,
    /// The replica's volume.
    pub data: &'a Path,
    /// Its name.
    pub name: &'a str,
    /// The cluster.
    pub cluster: ClusterId,
    /// What it waits for, for probes.
    pub waiting: &'a watch::Sender<String>,
}

impl Birth<'_> {
    /// Who the replica is, whose volume belongs to nobody; waits for the cluster if there is none.
    pub async fn newborn(&self) -> io::Result<Newborn> {
        let intent = self.intent()?;
        loop {
            let why = match orchestrator::origin(self.folder, self.name, self.cluster, intent).await
            {
                Ok(Origin::Begins(_)) => {
                    info!("begins the cluster");
                    let replica = ReplicaId(1);
                    let members = vec![Member { replica, name: self.name.to_owned() }];
                    let members = Configuration { id: ConfigurationId(1), members };
                    return Ok(Newborn { replica, members });
                }
                Ok(Origin::Joins(_)) => match self.ask(intent).await {
                    Ok((replica, members)) => {
                        info!(replica = replica.0, "joins under this id");
                        return Ok(Newborn { replica, members });
                    }
                    Err(why) => why,
                },
                Err(error) => error.to_string(),
            };
            self.wait(format!("this replica has no identity yet, and asks for one: {why}")).await;
        }
    }

    /// The identity is on the volume: the intent has served.
    pub fn done(&self) {
        // One that comes back would only ask once more for the id that it got.
        let _ = fs::remove_file(self.data.join(INTENT));
        let _ = File::open(self.data).and_then(|folder| folder.sync_all());
    }

    /// Makes the marker anew if it is missing: while there is a volume with an identity, no other
    /// cluster must begin.
    pub async fn keep_marker(&self) {
        let marker = Marker { cluster: self.cluster, nonce: rand::random(), solo: None };
        if let Err(error) = self.folder.make_marker(marker).await {
            warn!(%error, "cannot tell whether the cluster has its marker");
        }
    }

    /// The members that a joiner should talk to: they may be others by now than those that its
    /// volume knows. Waits until somebody tells.
    pub async fn contacts(&self, database: &Database) -> Vec<Member> {
        if database.chain().standing(database.identity().replica) != Standing::Joiner {
            return Vec::new();
        }
        loop {
            match self.client().status(&Route::Any).await {
                Ok(status) => return status.configuration.members,
                Err(error) => self.wait(format!("looking for the members: {error}")).await,
            }
        }
    }

    /// Gets a retired volume another id, for as long as it is wanted; `None` when it is not.
    pub async fn another_id(&self) -> io::Result<Option<Newborn>> {
        let intent = self.intent()?;
        while self.is_wanted().await {
            match self.ask(intent).await {
                Ok((replica, members)) => {
                    info!(replica = replica.0, "comes back under this id");
                    return Ok(Some(Newborn { replica, members }));
                }
                Err(why) => {
                    self.wait(format!("this replica left, and wants to come back: {why}")).await;
                }
            }
        }
        Ok(None)
    }

    async fn is_wanted(&self) -> bool {
        let wanted = self.folder.wanted().await.ok().zip(ordinal(self.name));
        wanted.is_some_and(|(wanted, ordinal)| wanted.has(ordinal))
    }

    fn client(&self) -> Client {
        let options = Options { cluster: Some(self.cluster), deadline: TRY_PATIENCE };
        Client::new(self.folder.clients(self.name), options)
    }

    async fn ask(&self, nonce: u64) -> Result<(ReplicaId, Configuration), String> {
        self.client().join(self.name, nonce).await.map_err(|error| error.to_string())
    }

    async fn wait(&self, why: String) {
        self.waiting.send_if_modified(|last| {
            let is_new = *last != why;
            if is_new {
                info!("{why}");
                *last = why;
            }
            is_new
        });
        sleep(TRY_INTERVAL).await;
    }

    /// A number that this volume keeps until it has an identity.
    fn intent(&self) -> io::Result<u64> {
        let path = self.data.join(INTENT);
        let read = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
        if let Some(intent) = read {
            return Ok(intent);
        }
        let (intent, aside): (u64, _) = (rand::random(), self.data.join("intent.new"));
        let mut file = File::create(&aside)?;
        writeln!(file, "{intent}")?;
        file.sync_all()?;
        fs::rename(&aside, &path)?;
        File::open(self.data)?.sync_all()?;
        Ok(intent)
    }
}

/// What a replica is told to end for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// All are to end: none is wanted.
    Stop,
    /// It is wanted, so it will be started again. So it is taken to be when nobody can tell.
    Restart,
    /// It is not wanted any more.
    Leave,
}

impl End {
    /// What a replica that is told to end now is told to end for.
    pub async fn now(folder: &Folder, name: &str) -> Self {
        match (folder.wanted().await, ordinal(name)) {
            (Ok(Scale { replicas: 0, .. }), _) => Self::Stop,
            (Ok(wanted), Some(ordinal)) if !wanted.has(ordinal) => Self::Leave,
            _ => Self::Restart,
        }
    }
}
