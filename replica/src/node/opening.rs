//! Opens what a replica starts from: its disk, and what it learned from others before.
//!
//! Guarantees that a disk is opened only when it has room and has an identity.

use std::io;
use std::sync::Arc;

use kvorum_protocol::status::ClusterId;
use kvorum_tls::Encryption;
use tokio::sync::watch;
use tracing::warn;

use crate::engine::store::{IdentityStore, LogLimits, Store};
use crate::engine::{Input, Verdict};
use crate::marker::{Claim, Mark};
use crate::node::disk_space::wait_for_room;
use crate::node::identity::Birth;
use crate::node::settings::{Settings, StorageKind};
use crate::node::start_error::StartError;
use crate::orchestrator::{self, Orchestrator};
use crate::state::start::Secret;
use crate::storage::memory::Memory;
use crate::storage::rocks::open::{NewIdentity, Owner};
use crate::storage::{Database, OnFatal, OpenError};

/// An open disk.
pub enum Disk {
    /// A disk in memory.
    Memory(Memory),
    /// A disk on a volume.
    Database(Database),
}

/// The open disk of a replica, and the first inputs for its engine.
pub struct Opened {
    /// The replica's disk.
    pub disk: Disk,
    /// The first inputs for the engine: the members that others reported, and, if the cluster's
    /// marker says so, that its disk must not vote.
    pub first: Vec<Input>,
    /// The claim with which to ask the marker about the disk, if that was not possible yet.
    pub claim: Option<Claim>,
}

/// What a replica asks when its disk alone does not tell who it is.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// The orchestrator, if there is one.
    pub orchestrator: Option<&'a Orchestrator>,
    /// How the other replicas are talked to.
    pub encryption: &'a Encryption,
}

/// Opens a replica's disk. With `another`, a retired volume continues under that id.
pub async fn open(
    settings: &Settings,
    Surroundings { orchestrator, encryption }: Surroundings<'_>,
    another: Option<NewIdentity>,
    waiting: &watch::Sender<String>,
    on_fatal: OnFatal,
) -> Result<Opened, StartError> {
    let (mut owner, nonce) = (settings.owner(), rand::random());
    let Settings { data, name, cluster, .. } = settings;
    let birth = orchestrator.map(|orchestrator| Birth {
        orchestrator,
        encryption,
        data,
        name,
        cluster: *cluster,
        waiting,
    });
    let failed = |error: io::Error| OpenError::unusable(data, &error);
    if settings.storage == StorageKind::Memory {
        let memory = in_memory(owner, nonce, birth.as_ref(), another).await.map_err(failed)?;
        return Ok(Opened { disk: Disk::Memory(memory), first: Vec::new(), claim: None });
    }
    wait_for_room(settings, waiting).await?;
    let limits = LogLimits::keeping(settings.log_keep);
    let open = |owner: &Owner| Database::open(data, owner, nonce, limits, Arc::clone(&on_fatal));
    let mut database = match (open(&owner), &birth) {
        (Err(OpenError::Uninitialized { .. }), Some(birth)) => {
            owner.newborn = Some(birth.newborn().await.map_err(failed)?);
            open(&owner)?
        }
        (opened, _) => opened?,
    };
    let mut contacts = Vec::new();
    if let Some(birth) = birth {
        let cluster = database.identity().cluster;
        let marked = birth.keep_marker(cluster).await.unwrap_or_else(|error| {
            warn!(%error, "cannot tell whether the cluster has its marker");
            None
        });
        let foreign =
            |marked| foreign(settings, cluster, marked, &birth.orchestrator.marker_place());
        if let Some(marked) = marked {
            return Err(foreign(marked).into());
        }
        contacts = match another {
            Some(NewIdentity { replica, members, .. }) => {
                database.rejoin(replica, nonce);
                birth.asks_no_more();
                members.members
            }
            // Only a joiner checks the marker here: it may wait forever for members that are
            // elsewhere.
            None => tokio::select! {
                biased;
                members = birth.contacts(&database) => members,
                marked = birth.foreign(cluster) => return Err(foreign(marked).into()),
            },
        };
        birth.done();
    }
    let mut first = vec![Input::Learned { members: contacts, configuration: None }];
    let claim = match orchestrator {
        Some(orchestrator) => ask_marker(orchestrator, &database, &mut first).await,
        None => None,
    };
    Ok(Opened { disk: Disk::Database(database), first, claim })
}

/// Creates an empty disk in memory, for a replica that has got an identity.
async fn in_memory(
    mut owner: Owner,
    nonce: u64,
    birth: Option<&Birth<'_>>,
    another: Option<NewIdentity>,
) -> io::Result<Memory> {
    if let Some(birth) = birth {
        owner.newborn = match another {
            Some(another) => Some(another),
            None => Some(birth.newborn().await?),
        };
        birth.done();
    }
    let newborn = owner.newborn.as_ref().expect("settings name the members, or others do");
    let memory = Memory::new(owner.identity(newborn, nonce), newborn.members.clone());
    Ok(memory.with_secret(Secret::new(rand::random())))
}

/// Asks the cluster's marker whether it knows the disk better; returns the claim to ask with later
/// when the marker is out of reach, or another cluster's.
async fn ask_marker(
    orchestrator: &Orchestrator,
    database: &Database,
    first: &mut Vec<Input>,
) -> Option<Claim> {
    let past = |start| std::future::ready(Ok(database.past(start)));
    let own = database.claim(Mark { epoch: database.epoch(), ..Mark::default() });
    match orchestrator::known_better(orchestrator, own, past).await {
        Ok(None) => None,
        Ok(Some(Verdict::Foreign(_))) => Some(own),
        Ok(Some(verdict)) => {
            first.push(Input::Marked { mark: own.mark, verdict });
            None
        }
        Err(_) => Some(own),
    }
}

/// Returns the error for a volume of another cluster than the one that the marker names here.
fn foreign(settings: &Settings, cluster: ClusterId, marked: ClusterId, place: &str) -> OpenError {
    OpenError::Foreign {
        folder: settings.data.clone(),
        found: format!("{} of cluster {cluster}", settings.name),
        wanted: format!(
            "cluster {marked}, which the marker ({place}) names (if the volume's cluster is the \
             one to stay, remove the marker: it is made anew)"
        ),
    }
}
