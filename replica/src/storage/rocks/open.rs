//! Opens a folder as a sound disk, or reports why it cannot be used.
//!
//! Guarantees that a folder which belongs to another replica, holds less than was synced, or has a
//! damaged file is rejected with a sentence that says how to get the replica back.

use std::fs::{self, File};
use std::path::Path;

use kvorum_protocol::status::{ClusterId, Configuration, ConfigurationId, Member, ReplicaId};
use rocksdb::{DB, WriteBatch, WriteOptions};
use serde::de::DeserializeOwned;

use super::open_error::OpenError;
use super::record::{self, RecordError};
use super::starts::StartRecord;
use super::{keys, put};
use crate::engine::store::Identity;
use crate::state::chain::Chain;
use crate::state::start::{Epoch, Secret};
use crate::state::version::Version;
use crate::storage::durable::{Durable, SideFile};
use crate::storage::journal::Journal;
use crate::storage::journal::frame::Place;
use crate::storage::journal::recovery::{RecoveryError, recover};
use crate::storage::log::LogNumbers;

/// The value of the record that says that the logs are in a journal.
pub(super) const HAS_JOURNAL: u8 = 1;

/// The replica that a folder is to belong to.
#[derive(Clone, Debug)]
pub struct Owner {
    /// The cluster that the folder has to belong to; `None` to accept any cluster.
    pub cluster: Option<ClusterId>,
    /// The replica's name.
    pub name: String,
    /// The newest version that the replica may have.
    pub newest: Version,
    /// The identity to use if the folder has none; `None` when the folder must have one.
    pub newborn: Option<NewIdentity>,
}

/// The identity of a replica that starts on an empty folder.
#[derive(Clone, Debug)]
pub struct NewIdentity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The replica's id.
    pub replica: ReplicaId,
    /// The members, as far as the replica knows them.
    pub members: Configuration,
}

impl NewIdentity {
    /// Returns the identity of a member of a cluster that begins with the given names: the slots
    /// are the ids.
    ///
    /// # Panics
    /// When the name is not one of them.
    #[must_use]
    pub fn given(cluster: ClusterId, name: &str, genesis: &[String]) -> Self {
        let member =
            |(slot, name): (u64, &String)| Member { replica: ReplicaId(slot), name: name.clone() };
        let members: Vec<_> = (1..).zip(genesis).map(member).collect();
        let own = members.iter().find(|member| member.name == name);
        let replica = own.expect("a replica is among the members that it is given").replica;
        Self { cluster, replica, members: Configuration { id: ConfigurationId(1), members } }
    }
}

impl Owner {
    /// Whether a folder with that identity belongs to the owner.
    fn is_of(&self, found: &Identity) -> bool {
        self.cluster.is_none_or(|cluster| cluster == found.cluster) && self.name == found.name
    }

    fn describe(&self) -> String {
        match self.cluster {
            Some(cluster) => format!("{} of cluster {cluster}", self.name),
            None => self.name.clone(),
        }
    }

    /// Returns the replica's identity at its first start.
    #[must_use]
    pub fn identity(&self, newborn: &NewIdentity, nonce: u64) -> Identity {
        let NewIdentity { cluster, replica, .. } = *newborn;
        Identity { cluster, replica, name: self.name.clone(), incarnation: 1, nonce }
    }
}

/// A database that is open but not yet known to be sound.
pub(super) struct Opened<'a> {
    pub(super) folder: &'a Path,
    /// The sequence number of the last recovered write.
    pub(super) recovered: u64,
    pub(super) db: DB,
}

impl Opened<'_> {
    pub(super) fn get<V: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<V>, OpenError> {
        let family = self.db.cf_handle(keys::META).expect("opened with the database");
        let damaged = |what: String| OpenError::Damaged { folder: self.folder.to_owned(), what };
        let name = key.escape_ascii();
        let bytes = match self.db.get_pinned_cf(family, key) {
            Ok(bytes) => bytes,
            Err(error) => return Err(damaged(format!("{name} in db/: {error}"))),
        };
        let Some(bytes) = bytes else { return Ok(None) };
        match record::decode(key, &bytes) {
            Ok(value) => Ok(Some(value)),
            Err(error @ RecordError::Damaged) => Err(damaged(format!("{name} in db/: {error}"))),
            Err(error @ RecordError::Newer { .. }) => {
                Err(OpenError::Newer { folder: self.folder.to_owned(), what: error.to_string() })
            }
        }
    }

    /// Reads the cluster's version, and rejects one that this program does not know.
    pub(super) fn version(&self, owner: &Owner) -> Result<Version, OpenError> {
        let version: Version = self.get(keys::VERSION)?.unwrap_or_default();
        if version > owner.newest {
            let newest = owner.newest;
            let what = format!("its cluster has version {version}, and this is {newest}");
            return Err(OpenError::Newer { folder: self.folder.to_owned(), what });
        }
        Ok(version)
    }

    /// Reads the folder's identity, or writes the owner's; then records one more start.
    pub(super) fn recover(
        &self,
        owner: &Owner,
        nonce: u64,
        version: Version,
    ) -> Result<(Identity, Epoch, Chain), OpenError> {
        let found: Option<Identity> = self.get(keys::IDENTITY)?;
        let is_new = found.is_none();
        let unborn = || OpenError::Uninitialized { folder: self.folder.to_owned() };
        let identity = match found {
            None => owner.identity(owner.newborn.as_ref().ok_or_else(unborn)?, nonce),
            Some(identity) if owner.is_of(&identity) => {
                Identity { incarnation: identity.incarnation + 1, nonce, ..identity }
            }
            Some(other) => {
                return Err(OpenError::Foreign {
                    folder: self.folder.to_owned(),
                    found: format!("{} of cluster {}", other.name, other.cluster),
                    wanted: owner.describe(),
                });
            }
        };
        let chain = match (self.get(keys::CONFIGURATION)?, &owner.newborn) {
            (Some(chain), _) => chain,
            (None, Some(newborn)) => Chain::told(newborn.members.clone(), newborn.replica),
            (None, None) => return Err(unborn()),
        };
        let began: Epoch = self.get(keys::EPOCH)?.unwrap_or_default();
        let epoch = began.next();
        let start = StartRecord { secret: Secret::new(rand::random()), began };
        let mut batch = WriteBatch::default();
        let family = self.db.cf_handle(keys::META).expect("opened with the database");
        put(&mut batch, family, &keys::start(identity.incarnation), &start);
        put(&mut batch, family, keys::EPOCH, &epoch);
        batch.put_cf(family, keys::IDENTITY, record::encode_for_disk(keys::IDENTITY, &identity));
        if is_new {
            put(&mut batch, family, keys::JOURNAL, &HAS_JOURNAL);
        }
        put(&mut batch, family, keys::CONFIGURATION, &chain);
        put(&mut batch, family, keys::VERSION, &version);
        put(&mut batch, family, &keys::nonce(identity.incarnation), &nonce);
        let written = self.db.write_opt(batch, &WriteOptions::default());
        let synced = written.and_then(|()| self.db.flush_wal(true));
        synced.map_err(|error| OpenError::Unusable {
            folder: self.folder.to_owned(),
            reason: error.to_string(),
        })?;
        Ok((identity, epoch, chain))
    }

    /// Opens the journal and the side file, and rejects a disk that holds less than was synced.
    /// `id` is the configuration that the state is in.
    pub(super) fn open_journal(
        &self,
        side_path: &Path,
        id: ConfigurationId,
    ) -> Result<(Journal, SideFile), OpenError> {
        let unusable = |error: std::io::Error| OpenError::unusable(self.folder, &error);
        let folder = self.folder.join("journal");
        if self.get::<u8>(keys::JOURNAL)?.is_none() {
            let numbers = self.old_numbers(id)?;
            self.open_side_file(side_path, id, numbers, Place::FIRST)?;
            self.migrate(&folder)?;
        }
        if !folder.exists() {
            fs::create_dir(&folder)
                .and_then(|()| File::open(self.folder)?.sync_all())
                .map_err(unusable)?;
        }
        let found = recover(&folder).map_err(|error| match error {
            RecoveryError::Damaged(what) => self.damaged(what),
            newer @ RecoveryError::Newer { .. } => {
                OpenError::Newer { folder: self.folder.to_owned(), what: newer.to_string() }
            }
            RecoveryError::Io(error) => unusable(error),
        })?;
        // The state may not have reached the last configuration when the process ended.
        let id = found.newest().max(Some(id)).unwrap_or(id);
        let side = self.open_side_file(side_path, id, found.numbers(id), found.end)?;
        Ok((Journal::open(&folder, found).map_err(unusable)?, side))
    }

    pub(super) fn damaged(&self, what: String) -> OpenError {
        OpenError::Damaged { folder: self.folder.to_owned(), what }
    }

    fn open_side_file(
        &self,
        path: &Path,
        id: ConfigurationId,
        numbers: Option<LogNumbers>,
        journal: Place,
    ) -> Result<SideFile, OpenError> {
        let unusable = |error: std::io::Error| OpenError::unusable(self.folder, &error);
        let opened = match (path.exists(), numbers) {
            // Nothing was ever promised, so no sync of a promise can be missing.
            (false, None) => return SideFile::create(path).map_err(unusable),
            (false, Some(_)) => None,
            (true, _) => SideFile::open(path).map_err(unusable)?,
        };
        let Some((side, synced)) = opened else {
            return Err(self.damaged("`durable` is missing or no slot of it is sound".to_owned()));
        };
        let recovered = Durable::of(id, &numbers.unwrap_or_default(), self.recovered, journal);
        if recovered.covers(&synced) {
            return Ok(side);
        }
        Err(self.damaged(format!(
            "it holds less than was synced: {}, where `durable` says {}",
            held(&recovered),
            held(&synced),
        )))
    }
}

/// Describes what a disk holds.
fn held(of: &Durable) -> String {
    format!(
        "{} writes, journal up to {}.{}, promise {:?} and {} entries of round {:?}",
        of.writes, of.journal.file, of.journal.offset, of.promise, of.accepted, of.accepted_round
    )
}
