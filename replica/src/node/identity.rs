//! Gives a replica its identity when the membership follows an orchestrator.
//!
//! Guarantees that a cluster is created once: an intent is synced to the volume, then the cluster's
//! marker is created with it, then the identity is written; a crash after any step is harmless. A
//! volume without an identity joins if there is a marker, or if another replica that answers
//! belongs to a cluster, and never creates a second cluster. A retired volume keeps its identity
//! until it has another one.
//!
//! Does not know the disk beyond the folder; `replica` opens it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use kvorum_protocol::Client;
use kvorum_protocol::client::{Options, Route};
use kvorum_protocol::status::{ClusterId, Configuration, ConfigurationId, Member, ReplicaId};
use kvorum_tls::Encryption;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::info;

use crate::engine::store::IdentityStore;
use crate::orchestrator::folder::{ANOTHER_FILE, INTENT_FILE};
use crate::orchestrator::{self, Orchestrator, OrchestratorError, Origin};
use crate::planner::ordinal;
use crate::state::chain::Standing;
use crate::state::machine::Table;
use crate::storage::Database;
use crate::storage::rocks::open::NewIdentity;

/// Time between two attempts to join.
const TRY_INTERVAL: Duration = Duration::from_millis(200);
/// Time between two attempts to read the marker.
const MARKER_INTERVAL: Duration = Duration::from_secs(3);
/// Time limit of one attempt.
const TRY_PATIENCE: Duration = Duration::from_secs(2);

/// The inputs that a replica needs to get an identity.
pub struct Birth<'a> {
    /// The orchestrator, which reports the desired replicas and keeps the marker.
    pub orchestrator: &'a Orchestrator,
    /// How the other replicas are talked to.
    pub encryption: &'a Encryption,
    /// The replica's volume.
    pub data: &'a Path,
    /// The replica's name.
    pub name: &'a str,
    /// The cluster, if it is known.
    pub cluster: Option<ClusterId>,
    /// The reason why the replica waits, for probes.
    pub waiting: &'a watch::Sender<String>,
}

impl Birth<'_> {
    /// Returns the identity for a volume that has none; waits for the cluster if there is none.
    pub async fn newborn(&self) -> io::Result<NewIdentity> {
        let intent = self.intent(INTENT_FILE)?;
        loop {
            let Self { orchestrator, encryption, name, cluster, .. } = self;
            let origin = orchestrator::origin(orchestrator, name, *cluster, intent, encryption);
            let why = match origin.await {
                Ok(Origin::Begins(cluster)) => {
                    info!("begins the cluster");
                    let replica = ReplicaId(1);
                    let members = vec![Member { replica, name: self.name.to_owned() }];
                    let members = Configuration { id: ConfigurationId(1), members };
                    return Ok(NewIdentity { cluster, replica, members });
                }
                Ok(Origin::Joins(cluster)) => match self.ask(cluster, intent).await {
                    Ok((replica, members)) => {
                        info!(replica = replica.0, "joins under this id");
                        return Ok(NewIdentity { cluster, replica, members });
                    }
                    Err(why) => why,
                },
                Err(error) => error.to_string(),
            };
            self.wait(format!("this replica has no identity yet, and asks for one: {why}")).await;
        }
    }

    /// Removes the intent once the identity is on the volume.
    pub fn done(&self) {
        self.forget(INTENT_FILE);
    }

    /// Ends the request for another id: the volume has got one, or keeps the one that it has.
    pub fn asks_no_more(&self) {
        self.forget(ANOTHER_FILE);
    }

    /// Removes a number with which the volume made a request. If the file stays, a repeated request
    /// only gets the same answer again.
    fn forget(&self, file: &str) {
        let _ = fs::remove_file(self.data.join(file));
        let _ = File::open(self.data).and_then(|folder| folder.sync_all());
    }

    /// Whether the volume has asked for another id and not stored one: another id may have been
    /// assigned already, and the volume's current id forgotten.
    pub fn has_asked(&self) -> bool {
        self.data.join(ANOTHER_FILE).exists()
    }

    /// Creates the marker again if it is missing: while a volume with an identity exists, no other
    /// cluster must be created. Returns the other cluster if the marker belongs to another one.
    pub async fn keep_marker(
        &self,
        cluster: ClusterId,
    ) -> Result<Option<ClusterId>, OrchestratorError> {
        let marked = orchestrator::mark(self.orchestrator, cluster).await?;
        Ok(Some(marked.cluster).filter(|marked| *marked != cluster))
    }

    /// Returns the other cluster when the marker turns out to belong to another one. Until the
    /// marker can be read, the replica serves; peers and clients that know their cluster reject it.
    pub async fn foreign(&self, cluster: ClusterId) -> ClusterId {
        loop {
            match self.keep_marker(cluster).await {
                Ok(None) => return std::future::pending().await,
                Ok(Some(marked)) => return marked,
                Err(_) => sleep(MARKER_INTERVAL).await,
            }
        }
    }

    /// Returns the members that a joiner should contact: they may differ by now from those that its
    /// volume knows. Waits until a replica reports them.
    pub async fn contacts(&self, database: &Database) -> Vec<Member> {
        if database.chain().standing(database.identity().replica) != Standing::Joiner {
            return Vec::new();
        }
        loop {
            match self.client(database.identity().cluster).status(&Route::Any).await {
                Ok(status) => return status.configuration.members,
                Err(error) => self.wait(format!("looking for the members: {error}")).await,
            }
        }
    }

    /// Gets another id for a volume whose id is over; `None` when the replica is not wanted.
    pub async fn another_id(&self, cluster: ClusterId) -> io::Result<Option<NewIdentity>> {
        let intent = self.intent(ANOTHER_FILE)?;
        while self.is_wanted().await {
            match self.ask(cluster, intent).await {
                Ok((replica, members)) => {
                    info!(replica = replica.0, "comes back under this id");
                    return Ok(Some(NewIdentity { cluster, replica, members }));
                }
                Err(why) => {
                    self.wait(format!("this replica's id is over, and it asks for another: {why}"))
                        .await;
                }
            }
        }
        Ok(None)
    }

    async fn is_wanted(&self) -> bool {
        let wanted = self.orchestrator.wanted().await.ok().zip(ordinal(self.name));
        wanted.is_some_and(|(wanted, ordinal)| wanted.has(ordinal))
    }

    fn client(&self, cluster: ClusterId) -> Client {
        let dial = self.encryption.clone().into();
        let options = Options { cluster: Some(cluster), deadline: TRY_PATIENCE, dial };
        Client::new(self.orchestrator.clients(self.name), options)
    }

    async fn ask(
        &self,
        cluster: ClusterId,
        nonce: u64,
    ) -> Result<(ReplicaId, Configuration), String> {
        self.client(cluster).join(self.name, nonce).await.map_err(|error| error.to_string())
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

    /// Returns a number that the volume keeps in a file until it has the identity it asks for.
    fn intent(&self, file: &str) -> io::Result<u64> {
        let path = self.data.join(file);
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
