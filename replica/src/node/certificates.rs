//! The certificates of a replica, and of the clients that its cluster provides for.
//!
//! With `--tls-dir`, the replica's certificate is read from a folder, and read again when it
//! changes. Otherwise the replicas of a cluster share an authority, which the orchestrator keeps:
//! whichever is first makes it, each makes its own certificate with it, and any of them keeps those
//! of the two clients up to date.
//!
//! Guarantees that credentials which are of use stay in use until better ones are there, whatever
//! becomes of their source; and that an authority is never replaced by a new one while a replica
//! still knows it.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use kvorum_protocol::access::{ADMIN, VIEW};
use kvorum_tls::{
    AUTHORITY_KEY_FILE, AUTHORITY_SECRET, Authority, CA_FILE, CERTIFICATE_FILE, CLIENT_LIFETIME,
    Certificate, Credentials, Encryption, Identity, Issued, KEY_FILE, Mode, REPLICA_LIFETIME,
    Subject, Tls, client_secret, read_folder,
};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::driver::metrics::Metrics;
use crate::node::settings::Settings;
use crate::node::start_error::StartError;
use crate::orchestrator::secrets::{SECRETS_FOLDER, write_files};
use crate::orchestrator::{ClusterEvent, Files, Folder, Orchestrator, Secret};

/// The folder on the volume with the last credentials, for a start without the orchestrator.
const CACHE_FOLDER: &str = "tls";
/// The age at which a replica's certificate is renewed.
const RENEWAL_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// The rest of a replica's certificate at which it should have been renewed long ago.
const WARNING_REST: Duration = Duration::from_secs(24 * HOUR);
/// The time between two warnings of that.
const WARNING_INTERVAL: Duration = Duration::from_secs(HOUR);
/// An hour, in seconds.
const HOUR: u64 = 60 * 60;
/// What is left of a client's certificate when it is renewed.
const CLIENT_RENEWAL_REST: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The time between two looks at a folder of credentials.
const FOLDER_INTERVAL: Duration = Duration::from_secs(10);
/// The pause after an attempt to get the first credentials failed.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Where a replica's credentials come from.
enum Source {
    /// A folder that somebody else keeps up to date.
    Folder(PathBuf),
    /// The cluster's own authority.
    Authority(Box<Issuing>),
}

/// The making of certificates with the cluster's own authority.
struct Issuing {
    orchestrator: Orchestrator,
    name: String,
    /// The folder with the last credentials.
    cache: PathBuf,
    /// The authority as it was read last.
    authority: Option<Files>,
}

/// The certificates of a replica, to be kept up to date.
pub struct Certificates {
    source: Source,
    name: String,
    mode: Mode,
    tls: Option<Arc<Tls>>,
}

impl Certificates {
    /// Gets a replica's first credentials; waits for the orchestrator if there is no other way.
    pub async fn obtain(
        settings: &Settings,
        orchestrator: Option<&Orchestrator>,
        waiting: &watch::Sender<String>,
    ) -> Result<Self, StartError> {
        let name = settings.name.clone();
        let source = match (&settings.tls_dir, orchestrator) {
            (Some(folder), _) => Source::Folder(folder.clone()),
            (None, Some(orchestrator)) => Source::Authority(Box::new(Issuing {
                orchestrator: orchestrator.clone(),
                name: name.clone(),
                cache: settings.data.join(CACHE_FOLDER),
                authority: None,
            })),
            (None, None) => Source::Folder(PathBuf::new()),
        };
        let mut certificates = Self { source, name, mode: settings.tls, tls: None };
        while certificates.mode != Mode::Off && certificates.tls.is_none() {
            match certificates.renew().await {
                Ok(()) => {}
                Err(why) if settings.tls_dir.is_some() => {
                    return Err(StartError::Certificates(why));
                }
                Err(why) => certificates.fall_back(why, waiting).await,
            }
        }
        Ok(certificates)
    }

    /// Uses the last credentials, if there are any that are valid; else waits a moment.
    async fn fall_back(&mut self, why: String, waiting: &watch::Sender<String>) {
        let Source::Authority(issuing) = &self.source else { return };
        match read_folder(&issuing.cache) {
            Ok(cached) if cached.certificate.not_after > SystemTime::now() => {
                warn!(why, "no certificates: this replica uses its last one");
                self.tls = Some(Tls::new(cached));
            }
            _ => {
                let why = format!("waiting for certificates: {why}");
                if waiting.send_if_modified(|last| std::mem::replace(last, why.clone()) != why) {
                    info!("{why}");
                }
                sleep(RETRY_PAUSE).await;
            }
        }
    }

    /// Returns how this replica encrypts.
    #[must_use]
    pub fn encryption(&self) -> Encryption {
        match (self.mode, &self.tls) {
            (Mode::Off, _) | (_, None) => Encryption::Off,
            (Mode::Accept, Some(tls)) => Encryption::Accept(Arc::clone(tls)),
            (Mode::Require, Some(tls)) => Encryption::Require(Arc::clone(tls)),
        }
    }

    /// Keeps the certificates up to date, forever.
    pub async fn keep(mut self, metrics: Arc<Metrics>) {
        if self.tls.is_none() {
            return;
        }
        let mut warned = None;
        let interval = match &self.source {
            Source::Folder(_) => FOLDER_INTERVAL,
            Source::Authority(issuing) => issuing.orchestrator.secrets_interval(),
        };
        let mut trouble = String::new();
        loop {
            self.show_end(&metrics, &mut warned).await;
            sleep(interval).await;
            match self.renew().await {
                Ok(()) => trouble.clear(),
                Err(why) if why == trouble => {}
                Err(why) => {
                    warn!(why, "the certificates stay as they are");
                    trouble = why;
                }
            }
        }
    }

    /// Shows until when the certificate is valid, and warns when that is soon: by then it should
    /// have been renewed.
    async fn show_end(&self, metrics: &Metrics, warned: &mut Option<Instant>) {
        let Some(tls) = &self.tls else { return };
        let Some(own) = tls.credentials() else { return };
        let end = own.certificate.not_after;
        let since = end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        metrics.certificate_end.store(since.as_secs(), Ordering::Relaxed);
        let rest = end.duration_since(SystemTime::now()).unwrap_or_default();
        if rest > WARNING_REST || warned.is_some_and(|at| at.elapsed() < WARNING_INTERVAL) {
            return;
        }
        *warned = Some(Instant::now());
        let hours = rest.as_secs() / HOUR;
        let why = format!(
            "the certificate of {} ends in {hours} hours and was not renewed: then neither the \
             other replicas nor clients connect to it any more",
            self.name
        );
        warn!("{why}");
        let Source::Authority(issuing) = &self.source else { return };
        if let Some(recorder) = issuing.orchestrator.recorder(&self.name) {
            let (reason, name) = ("Certificate", None);
            recorder.tell(ClusterEvent { is_warning: true, reason, note: why, name }).await;
        }
    }

    /// Gets the credentials that should be in use now, and uses them.
    async fn renew(&mut self) -> Result<(), String> {
        let current = self.tls.as_ref().and_then(|tls| tls.credentials());
        let renewed = match &mut self.source {
            Source::Folder(folder) => read_own(folder, &self.name).map(Some)?,
            Source::Authority(issuing) => issuing.renew(current.as_ref()).await?,
        };
        let Some(renewed) = renewed
            .filter(|renewed| current.as_ref().is_none_or(|current| !current.is_same(renewed)))
        else {
            return Ok(());
        };
        info!(identity = %renewed.certificate.identity, "has a new certificate");
        match &self.tls {
            Some(tls) => tls.replace(renewed),
            None => self.tls = Some(Tls::new(renewed)),
        }
        Ok(())
    }
}

/// Makes the certificates of the clients of the cluster in an orchestrating folder, before its
/// replicas run; without encryption, removes them, so that no client uses them.
///
/// # Errors
/// Why it was not possible.
pub async fn provide(folder: &Path, mode: Mode) -> Result<(), String> {
    if mode == Mode::Off {
        for user in [ADMIN, VIEW] {
            let own = folder.join(SECRETS_FOLDER).join(client_secret(user));
            match fs::remove_dir_all(&own) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(format!("cannot remove {}: {error}", own.display()));
                }
                _ => {}
            }
        }
        return Ok(());
    }
    let (orchestrator, name) = (Orchestrator::Folder(Folder::new(folder)), String::new());
    let mut issuing = Issuing { orchestrator, name, cache: PathBuf::new(), authority: None };
    let authority = issuing.authority().await?;
    for user in [ADMIN, VIEW] {
        issuing.provide_for(user, &authority, SystemTime::now()).await?;
    }
    Ok(())
}

/// Reads a replica's credentials in a folder.
fn read_own(folder: &Path, name: &str) -> Result<Credentials, String> {
    let read = read_folder(folder)?;
    match &read.certificate.identity.subject {
        Subject::Replica(own) if own.is(name) => Ok(read),
        _ => Err(format!(
            "the certificate in {} is that of {}, and this replica is {name}",
            folder.display(),
            read.certificate.identity
        )),
    }
}

impl Issuing {
    /// Returns new credentials, if the current ones are not to be used any longer.
    async fn renew(
        &mut self,
        current: Option<&Credentials>,
    ) -> Result<Option<Credentials>, String> {
        let before = self.authority.clone();
        let authority = self.authority().await?;
        let now = SystemTime::now();
        for user in [ADMIN, VIEW] {
            self.provide_for(user, &authority, now).await?;
        }
        // Any change of the authority's secret gives everybody a new certificate: that is also how
        // it is asked for, by a part that says when. No clock is compared for it.
        let is_due = current.is_none_or(|current| {
            let rest = current.certificate.not_after.duration_since(now).unwrap_or_default();
            rest + RENEWAL_AGE < REPLICA_LIFETIME
        });
        if !is_due && before == self.authority {
            return Ok(None);
        }
        let identity = Identity::replica(&self.orchestrator.cluster_word(), &self.name);
        let hosts = self.orchestrator.hosts(&self.name);
        let issued = authority.issue(&identity, &hosts, now, REPLICA_LIFETIME);
        let own = Credentials::from_pem(authority.bundle(), &issued.certificate, &issued.key);
        if let Err(error) = self.remember(&credential_files(authority.bundle(), issued)) {
            warn!(%error, "cannot remember the certificate on the volume");
        }
        own.map(Some).map_err(|error| error.to_string())
    }

    /// Returns the cluster's authority; makes it if there is none, and restores it if it is
    /// damaged and this replica knows it.
    async fn authority(&mut self) -> Result<Authority, String> {
        loop {
            let secret = self.read(AUTHORITY_SECRET).await?;
            let read = read_authority(&secret);
            let (authority, files) = match (read, &self.authority) {
                (Ok(Some(authority)), _) => {
                    self.authority = Some(secret.files);
                    return Ok(authority);
                }
                // What it held before is still what everybody trusts.
                (Ok(None) | Err(_), Some(known)) => {
                    warn!(place = secret.place(), "puts the authority back");
                    (None, known.clone())
                }
                (Ok(None), None) => {
                    let word = self.orchestrator.cluster_word();
                    let authority = Authority::generate(&word, SystemTime::now());
                    let files = authority_files(&authority);
                    (Some(authority), files)
                }
                (Err(why), None) => return Err(why),
            };
            let replaced = self.orchestrator.replace_secret(secret, files.clone()).await;
            let is_replaced = replaced.map_err(|error| error.to_string())?;
            // Else it is read again: another replica was first, or it is what this one put back.
            if let (true, Some(authority)) = (is_replaced, authority) {
                self.authority = Some(files);
                return Ok(authority);
            }
        }
    }

    async fn read(&self, name: &str) -> Result<Secret, String> {
        self.orchestrator.secret(name).await.map_err(|error| error.to_string())
    }

    /// Makes a client's certificate, if there is none that is of use for long enough.
    async fn provide_for(
        &self,
        user: &str,
        authority: &Authority,
        now: SystemTime,
    ) -> Result<(), String> {
        let secret = self.read(&client_secret(user)).await?;
        let identity = Identity::client(&self.orchestrator.cluster_word(), user);
        let is_of_use = |certificate: &Certificate| {
            let rest = certificate.not_after.duration_since(now).unwrap_or_default();
            certificate.identity == identity && rest > CLIENT_RENEWAL_REST
        };
        // A certificate that an earlier authority signed is of use only as long as that is trusted.
        let read = authority.read_signed(secret.part(CERTIFICATE_FILE), secret.part(KEY_FILE));
        let is_current = secret.part(CA_FILE) == authority.bundle();
        if is_current && read.is_ok_and(|read| is_of_use(&read)) {
            return Ok(());
        }
        let issued = authority.issue(&identity, &[], now, CLIENT_LIFETIME);
        let files = credential_files(authority.bundle(), issued);
        // Another replica may have been first: then its certificate is as good.
        let replaced = self.orchestrator.replace_secret(secret, files).await;
        replaced.map(drop).map_err(|error| error.to_string())
    }

    /// Keeps the credentials on the volume, for a start without the orchestrator.
    fn remember(&self, files: &Files) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.cache)?;
        write_files(&self.cache, files)
    }
}

/// Reads the authority in its secret; `None` when nobody has filled it.
fn read_authority(secret: &Secret) -> Result<Option<Authority>, String> {
    let (bundle, key) = (secret.part(CA_FILE), secret.part(AUTHORITY_KEY_FILE));
    if bundle.is_empty() && key.is_empty() {
        return Ok(None);
    }
    Authority::from_pem(bundle, key).map(Some).map_err(|error| {
        format!(
            "the authority in {} is damaged: {error}; restore {CA_FILE} and {AUTHORITY_KEY_FILE}, \
             or remove both, so that a new one is made, and start all replicas again",
            secret.place()
        )
    })
}

fn authority_files(authority: &Authority) -> Files {
    Files::from([
        (CA_FILE.to_owned(), authority.bundle().to_owned()),
        (AUTHORITY_KEY_FILE.to_owned(), authority.key()),
    ])
}

fn credential_files(bundle: &str, issued: Issued) -> Files {
    Files::from([
        (CA_FILE.to_owned(), bundle.to_owned()),
        (CERTIFICATE_FILE.to_owned(), issued.certificate),
        (KEY_FILE.to_owned(), issued.key),
    ])
}
