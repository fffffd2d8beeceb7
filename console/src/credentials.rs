//! The certificate that this program shows to replicas, and where it comes from.
//!
//! | target | source |
//! |---|---|
//! | any, with `--tls-dir DIR` | that folder |
//! | a local cluster | `tls/client-admin` in its folder |
//! | Kubernetes | the `Secret` SET-client-admin, or SET-client-view where only that may be read |
//!
//! Guarantees that a certificate which changes is taken over within a minute, as long as the
//! program runs, and that the last one stays in use when its source is out of order. Without a
//! source nothing is encrypted: replicas that want it say so. A Secret that the replicas have not
//! filled yet is looked at until they have.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kvorum_protocol::access::{ADMIN, VIEW};
use kvorum_protocol::authentication::Authentication;
use kvorum_protocol::client::Dial;
use kvorum_tls::{
    CA_FILE, CERTIFICATE_FILE, Credentials, Encryption, Tls, read_authorities, read_folder,
};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::exit::Failure;

/// The users whose certificates a cluster has from its beginning, the mightier one first.
pub const USERS: [&str; 2] = [ADMIN, VIEW];
/// The time between two looks at a folder.
const FOLDER_INTERVAL: Duration = Duration::from_secs(10);
/// The time between two looks at a Secret.
pub const SECRET_INTERVAL: Duration = Duration::from_secs(30);
/// The same as long as there is nothing in it.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
/// The references to credentials of the task that keeps them: its own, and that of what it shows.
const USED_HERE: usize = 2;

/// Returns how to encrypt with the certificate in a folder; or without one, if there is only
/// `ca.crt`: then a token or a password says who this is.
///
/// # Errors
/// When it is of no use: the file, the reason and the cure.
pub fn of_folder(folder: &Path) -> Result<Encryption, Failure> {
    if let Some(authorities) = read_authorities(folder).map_err(Failure::usage)? {
        let trusting = Tls::trusting(&authorities).map_err(|error| {
            Failure::usage(format!("{} is of no use: {error}", folder.join(CA_FILE).display()))
        })?;
        return Ok(Encryption::Require(trusting));
    }
    let read = read_folder(folder).map_err(Failure::usage)?;
    let folder = folder.to_owned();
    let again = move || {
        let folder = folder.clone();
        async move { read_folder(&folder).ok() }
    };
    Ok(kept(Some(read), FOLDER_INTERVAL, again))
}

/// What the command line says of the user that this program is.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// The folder of its certificate.
    pub tls_dir: Option<PathBuf>,
    /// A token or a password, which count more than a certificate.
    pub authentication: Option<Arc<Authentication>>,
}

impl Own {
    /// Returns how to connect to replicas at addresses: encrypted where a certificate is given.
    ///
    /// # Errors
    /// When the certificate is of no use.
    pub fn dial(&self) -> Result<Dial, Failure> {
        let encryption = self.tls_dir.as_deref().map(of_folder).transpose()?.unwrap_or_default();
        Ok(Dial { authentication: self.authentication.clone(), ..encryption.into() })
    }
}

/// Returns how to encrypt with a local cluster.
///
/// # Errors
/// As [`of_folder`].
pub fn of_local(folder: &Path) -> Result<Encryption, Failure> {
    let own = folder.join("tls").join("client-admin");
    match own.join(CERTIFICATE_FILE).exists() {
        true => of_folder(&own),
        false => Ok(Encryption::Off),
    }
}

/// Returns how to encrypt with credentials that are read `again` in each interval; the first ones
/// may still be missing.
pub fn kept<F>(
    read: Option<Credentials>,
    interval: Duration,
    again: impl Fn() -> F + Send + 'static,
) -> Encryption
where
    F: Future<Output = Option<Credentials>> + Send,
{
    let (shown, tls) = watch::channel(read.map(Tls::new));
    let first = tls.borrow().clone();
    tokio::spawn(async move {
        loop {
            let now = shown.borrow().clone();
            sleep(if now.is_some() { interval } else { FIRST_INTERVAL }).await;
            // They are not used any more.
            let is_used = now.as_ref().is_some_and(|tls| Arc::strong_count(tls) > USED_HERE);
            if !is_used && shown.is_closed() {
                return;
            }
            match (again().await, now) {
                (Some(read), None) => drop(shown.send_replace(Some(Tls::new(read)))),
                (Some(read), Some(tls))
                    if !tls.credentials().is_some_and(|own| own.is_same(&read)) =>
                {
                    tls.replace(read);
                }
                _ => {}
            }
        }
    });
    match first {
        Some(tls) => Encryption::Require(tls),
        None => Encryption::Promised(tls),
    }
}
