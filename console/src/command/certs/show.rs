//! `certs show`: shows the certificates in a folder, in a file, or of a cluster.
//!
//! Guarantees that what is of no use is shown with its place, the reason and a remedy, and that the
//! command fails then. Changes nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use kvorum_tls::{
    AUTHORITY_KEY_FILE, AUTHORITY_SECRET, Authority, CA_FILE, CERTIFICATE_FILE, Credentials,
    Description, KEY_FILE, Tls, client_secret, read_folder, read_private, read_text, signer,
};

use super::look::{Lookout, Met};
use super::{Context, print_rows};
use crate::arguments::Format;
use crate::certificate::Row;
#[cfg(feature = "local")]
use crate::credentials;
use crate::credentials::{Own, USERS};
use crate::exit::{Exit, Failure};
use crate::platform::Platform;
use crate::rotation::{Files, Held, Stage};
use crate::secrets::Secrets;

/// How deep below a folder certificates are looked for.
const DEPTH: u32 = 2;
/// The part of an authority that signs.
const SIGNS: &str = "an authority, which signs";
/// The part of an authority that does not.
const IS_TRUSTED: &str = "an authority, which is trusted";
/// The first line of a file with a key holds this.
const KEY_MARK: &str = "PRIVATE KEY-----";

/// Prints certificates, and fails if one of them is of no use.
fn show(format: Format, rows: &[Row]) -> Result<(), Failure> {
    print_rows(format, rows)?;
    let now = Timestamp::now();
    match rows.iter().filter(|row| !row.is_usable(now)).count() {
        0 => Ok(()),
        wrong => Err(Failure::failed(format!("{wrong} of {} are of no use", rows.len()))),
    }
}

/// Shows the certificates in a folder or a file.
pub(super) fn show_path(path: &Path, format: Format) -> Result<(), Failure> {
    if !path.is_dir() {
        return show(format, &of_file(path)?);
    }
    let mut folders = Vec::new();
    collect(path, DEPTH, &mut folders);
    let rows: Vec<_> = folders.iter().flat_map(|folder| of_folder(folder)).collect();
    match rows.is_empty() {
        true => Err(Failure::new(
            Exit::NotFound,
            format!(
                "{} has no certificates, nor has a folder in it: they are called {CA_FILE} and \
                 {CERTIFICATE_FILE}",
                path.display()
            ),
        )),
        false => show(format, &rows),
    }
}

/// Returns every certificate in a file.
fn of_file(path: &Path) -> Result<Vec<Row>, Failure> {
    let text = read_text(path).map_err(Failure::failed)?;
    let all = Description::read_all(&text).map_err(|error| {
        let cure = match text.contains(KEY_MARK) {
            true => "it is a key; show the folder that it is in",
            false => "is it a certificate in PEM form, and whole?",
        };
        Failure::failed(format!("{}: {error}: {cure}", path.display()))
    })?;
    let place = path.display().to_string();
    let row = |says: &Description| {
        let by = signer(std::slice::from_ref(says), &all).map(|one| one.fingerprint);
        Row { place: place.clone(), says: Some(says.clone()), by, part: None, problem: None }
    };
    Ok(all.iter().map(row).collect())
}

/// Collects the folders that hold certificates, in order.
fn collect(folder: &Path, depth: u32, into: &mut Vec<PathBuf>) {
    if [CA_FILE, CERTIFICATE_FILE, KEY_FILE].iter().any(|file| folder.join(file).exists()) {
        into.push(folder.to_owned());
    }
    if depth == 0 {
        return;
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut inner: Vec<_> = entries.map(|entry| entry.path()).filter(|one| one.is_dir()).collect();
    inner.sort();
    for folder in inner {
        collect(&folder, depth - 1, into);
    }
}

/// Returns the certificates in one folder: an authority's, or those for `--tls-dir`.
pub(super) fn of_folder(folder: &Path) -> Vec<Row> {
    let place = folder.display().to_string();
    let is_authority = folder.join(AUTHORITY_KEY_FILE).exists();
    let files = [CA_FILE, CERTIFICATE_FILE].into_iter().filter_map(|file| {
        let text = read_text(&folder.join(file)).ok()?;
        Some((file.to_owned(), text))
    });
    let files: Files = files.collect();
    match is_authority {
        true => {
            let key = read_private(&folder.join(AUTHORITY_KEY_FILE));
            of_authority(&place, &files, key)
        }
        false => vec![of_credentials(place, &files, read_folder(folder).map(drop))],
    }
}

/// Returns the certificates of an authority: of the one that signs, and of those that are trusted.
fn of_authority(place: &str, files: &Files, key: Result<String, String>) -> Vec<Row> {
    let bundle = files.get(CA_FILE).map_or("", String::as_str);
    let all = match Description::read_all(bundle) {
        Ok(all) => all,
        Err(error) => {
            let problem = format!("{CA_FILE}: {error}; restore it");
            return vec![Row::unreadable(place.to_owned(), problem)];
        }
    };
    let read = key.and_then(|key| {
        let read = Authority::from_pem(bundle, &key).and_then(|read| read.description());
        read.map_err(|error| format!("{AUTHORITY_KEY_FILE}: {error}; restore it"))
    });
    let signs = read.as_ref().ok().map(|signs| signs.fingerprint);
    let problem = read.as_ref().err();
    let row = |says: Description| {
        let is_signing = signs == Some(says.fingerprint);
        let part = Some(if is_signing { SIGNS } else { IS_TRUSTED });
        let (by, problem) = (Some(says.fingerprint), problem.cloned());
        Row { place: place.to_owned(), says: Some(says), by, part, problem }
    };
    all.into_iter().map(row).collect()
}

/// Returns the certificate of credentials; `whole` says why they are of no use, if they are.
fn of_credentials(place: String, files: &Files, whole: Result<(), String>) -> Row {
    let missing = [CA_FILE, CERTIFICATE_FILE].into_iter().find(|file| !files.contains_key(*file));
    let read = |file: &str| {
        let text = files.get(file).map_or("", String::as_str);
        Description::read_all(text).unwrap_or_default()
    };
    let (authorities, chain) = (read(CA_FILE), read(CERTIFICATE_FILE));
    let by = signer(&chain, &authorities).map(|one| one.fingerprint);
    let problem = whole.err().or_else(|| missing.map(|file| format!("it has no {file}")));
    Row { place, says: chain.into_iter().next(), by, part: None, problem }
}

/// Shows the certificates of a cluster: those that it keeps, and those that its replicas show.
pub(super) async fn show_cluster(context: &Context) -> Result<(), Failure> {
    let (mut rows, mut authorities) = (Vec::new(), Vec::new());
    if let Ok(secrets) = Secrets::of_platform(&context.platform) {
        authorities = kept_authority(&secrets, &mut rows).await?;
        for user in USERS {
            kept_client(&secrets, user, &mut rows).await?;
        }
    }
    match own_credentials(context)? {
        None => crate::note::note(
            "this program has no certificate of the cluster (--tls-dir), so it does not look at \
             those that the replicas show",
        ),
        Some(tls) => {
            authorities.extend(tls.credentials().iter().flat_map(Credentials::authorities));
            let met = Lookout::of(&context.platform).meet_all(&tls).await;
            rows.extend(met.into_iter().map(|(name, met)| of_replica(name, met, &authorities)));
        }
    }
    show(context.global.output, &rows)
}

/// Adds the certificates in the authority's secret; returns them.
async fn kept_authority(
    secrets: &Secrets,
    rows: &mut Vec<Row>,
) -> Result<Vec<Description>, Failure> {
    let secret = match secrets.read(AUTHORITY_SECRET).await {
        Ok(secret) => secret,
        Err(failure) => return passed_over(failure).map(|()| Vec::new()),
    };
    if let Ok(Some(held)) = Held::read(&secret.files)
        && held.stage != Stage::Rest
    {
        crate::note::note(format!(
            "the authority is being replaced; {}. 'kvorum certs rotate --authority' goes on",
            held.stage
        ));
    }
    if secret.files.is_empty() {
        crate::note::note(format!("{} is empty: the replicas fill it", secret.place));
        return Ok(Vec::new());
    }
    let key = secret.files.get(AUTHORITY_KEY_FILE).cloned();
    let key = key.ok_or_else(|| format!("it has no {AUTHORITY_KEY_FILE}; restore it"));
    let found = of_authority(&secret.place, &secret.files, key);
    let all = found.iter().filter_map(|row| row.says.clone()).collect();
    rows.extend(found);
    Ok(all)
}

/// Adds the certificate in a client's secret.
async fn kept_client(secrets: &Secrets, user: &str, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let secret = match secrets.read(&client_secret(user)).await {
        Ok(secret) => secret,
        Err(failure) => return passed_over(failure),
    };
    let part = |file: &str| secret.files.get(file).map_or("", String::as_str);
    let whole = Credentials::from_pem(part(CA_FILE), part(CERTIFICATE_FILE), part(KEY_FILE));
    let whole = whole.map(drop).map_err(|error| {
        format!("it is of no use: {error}; the replicas make it anew when its data is removed")
    });
    rows.push(of_credentials(secret.place, &secret.files, whole));
    Ok(())
}

/// Notes a secret that is not there, or that this user may not read; any other failure stays one.
fn passed_over(failure: Failure) -> Result<(), Failure> {
    match failure.exit {
        Exit::NotFound | Exit::NotAuthorized => {
            crate::note::note(failure.message);
            Ok(())
        }
        _ => Err(failure),
    }
}

/// Returns this program's own certificate, if it has one.
fn own_credentials(context: &Context) -> Result<Option<Arc<Tls>>, Failure> {
    let named = context.global.tls_dir();
    let encryption = match &context.platform {
        Platform::Kubernetes(kube) => kube.dial().encryption,
        #[cfg(feature = "local")]
        Platform::Local(folder) if named.is_none() => credentials::of_local(folder)?,
        _ => Own { tls_dir: named.map(Path::to_owned), ..Own::default() }.dial()?.encryption,
    };
    Ok(encryption.tls())
}

/// Returns the certificate that a replica shows.
fn of_replica(name: String, met: Met, authorities: &[Description]) -> Row {
    let place = format!("{name}, as it shows");
    let (peer, entered) = match met {
        Ok(met) => met,
        Err(why) => return Row::unreadable(place, why),
    };
    let chain = peer.descriptions();
    let by = signer(&chain, authorities).map(|one| one.fingerprint);
    let problem = entered.err().map(|error| error.to_string());
    Row { place, says: chain.into_iter().next(), by, part: None, problem }
}
