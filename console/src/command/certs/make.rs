//! `certs make`: makes folders with certificates, for whoever is given one.
//!
//! Guarantees that all folders are checked before the first is made, that files are readable by
//! their owner only, and that an authority that is there is used and never replaced.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kvorum_tls::{
    AUTHORITY_KEY_FILE, AUTHORITY_SECRET, Authority, CA_FILE, CERTIFICATE_FILE, CLIENT_LIFETIME,
    Identity, KEY_FILE, Owner, client_secret, read_private, read_text, write_private,
};

use super::{print_rows, show};
use crate::arguments::Global;
use crate::arguments::certs::Make;
use crate::exit::{Exit, Failure};
use crate::rotation::{Held, Stage};
use crate::secrets::Secrets;
use crate::target::{self, Discovered, Named};

/// A day, in seconds.
const DAY: u64 = 24 * 60 * 60;

/// A certificate that is to be made.
struct Wanted {
    folder: PathBuf,
    identity: Identity,
    hosts: Vec<String>,
}

/// Makes certificates.
pub(super) async fn make(make: &Make, global: &Global, named: Named) -> Result<(), Failure> {
    if make.replicas.is_empty() && make.clients.is_empty() {
        return Err(Failure::usage(
            "say for whom: --client USER, or, with --cluster, --replica NAME",
        ));
    }
    check_folders(make)?;
    let held;
    let ((authority, trusted), word) = match &make.cluster {
        Some(word) => {
            held = own(&make.out.join(AUTHORITY_SECRET), word)?;
            (held.giving(), word.clone())
        }
        None => {
            let (of_cluster, word) = of_cluster(global, named).await?;
            held = of_cluster;
            (held.giving(), word)
        }
    };
    let now = SystemTime::now();
    let lifetime =
        make.days.map_or(CLIENT_LIFETIME, |days| Duration::from_secs(u64::from(days) * DAY));
    check_end(authority, now + lifetime)?;
    let mut rows = Vec::new();
    for Wanted { folder, identity, hosts } in wanted(make, &word) {
        let issued = authority.issue(&identity, &hosts, now, lifetime);
        let parts = [
            (KEY_FILE, issued.key.as_str()),
            (CERTIFICATE_FILE, &issued.certificate),
            (CA_FILE, trusted),
        ];
        write(&folder, &parts, !make.replace)?;
        rows.extend(show::of_folder(&folder));
    }
    print_rows(global.output, &rows)
}

/// Returns the certificates that are to be made, each in a folder of its own.
fn wanted(make: &Make, word: &str) -> Vec<Wanted> {
    let replicas = make.replicas.iter().map(|replica| Wanted {
        folder: make.out.join(&replica.name),
        identity: Identity::replica(word, &replica.name),
        hosts: replica.hosts.clone(),
    });
    let clients = make.clients.iter().map(|user| Wanted {
        folder: make.out.join(client_secret(user)),
        identity: Identity::client(word, user),
        hosts: Vec::new(),
    });
    replicas.chain(clients).collect()
}

/// Checks that no folder is meant twice, and that nothing would be overwritten unasked.
fn check_folders(make: &Make) -> Result<(), Failure> {
    let mut folders: Vec<_> = wanted(make, "").into_iter().map(|one| one.folder).collect();
    folders.sort();
    if let Some(twice) = folders.windows(2).find(|two| two[0] == two[1]) {
        return Err(Failure::usage(format!("{} is meant twice", twice[0].display())));
    }
    let is_full = |folder: &&PathBuf| match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    };
    match folders.iter().find(is_full) {
        Some(full) if !make.replace => Err(Failure::failed(format!(
            "{} is there already, and nothing was made: name another --out, or renew what is \
             there by --replace",
            full.display()
        ))),
        _ => Ok(()),
    }
}

/// Checks that an authority is valid until a certificate by it is over.
fn check_end(authority: &Authority, end: SystemTime) -> Result<(), Failure> {
    let says = authority.description().map_err(|error| Failure::failed(error.to_string()))?;
    match says.not_after < end {
        true => Err(Failure::failed(format!(
            "the authority {} ends before the certificate would: give fewer --days, or replace the \
             authority",
            says.fingerprint
        ))),
        false => Ok(()),
    }
}

/// Returns what is in the folder of an authority; makes one if there is none.
fn own(folder: &Path, word: &str) -> Result<Held, Failure> {
    let (certificate, key) = (folder.join(CA_FILE), folder.join(AUTHORITY_KEY_FILE));
    match (certificate.exists(), key.exists()) {
        (false, false) => {
            let authority = Authority::generate(word, SystemTime::now());
            let parts = [(AUTHORITY_KEY_FILE, &*authority.key()), (CA_FILE, authority.bundle())];
            write(folder, &parts, true)?;
            crate::note::note(format!(
                "made an authority in {}: whoever reads it may become anybody",
                folder.display()
            ));
        }
        (true, true) => {}
        (has_certificate, _) => {
            let missing = if has_certificate { &key } else { &certificate };
            return Err(Failure::failed(format!(
                "{} is missing, and what belongs to it is there: restore it, or move {} away for a \
                 new authority",
                missing.display(),
                folder.display()
            )));
        }
    }
    let parts = [
        (CA_FILE.to_owned(), read_text(&certificate).map_err(Failure::failed)?),
        (AUTHORITY_KEY_FILE.to_owned(), read_private(&key).map_err(Failure::failed)?),
    ];
    let of_no_use = |error: &dyn std::fmt::Display| {
        Failure::failed(format!("the authority in {} is of no use: {error}", folder.display()))
    };
    let held = Held::read(&parts.into()).map_err(|error| of_no_use(&error))?;
    let held = held.ok_or_else(|| of_no_use(&"it is empty"))?;
    match &held.new.owner {
        Owner::Authority(name) if is_of(name, word) => Ok(held),
        Owner::Authority(name) => Err(Failure::usage(format!(
            "the authority in {} is '{}', and not one of {word}; name another --out",
            folder.display(),
            name.escape_debug()
        ))),
        _ => Err(of_no_use(&"its certificate is not one of an authority")),
    }
}

/// Whether an authority's name is that of a cluster; one that was made elsewhere may have any.
fn is_of(name: &str, word: &str) -> bool {
    let own = Authority::name_of("");
    name.strip_prefix(&own).is_none_or(|of| of == word)
}

/// Returns what is in the authority's secret of a cluster that Kubernetes or this machine runs, and
/// the cluster's word.
async fn of_cluster(global: &Global, named: Named) -> Result<(Held, String), Failure> {
    let target = target::choose(global, named, Discovered::look(), false)?;
    crate::note::note(format!("using {}", target.describe()));
    let secrets = Secrets::of_target(&target, global).await?;
    let secret = secrets.read(AUTHORITY_SECRET).await?;
    let held = Held::read(&secret.files).map_err(|error| {
        Failure::failed(format!("the authority in {} is damaged: {error}", secret.place))
    })?;
    let Some(held) = held else {
        return Err(Failure::new(
            Exit::Unavailable,
            format!(
                "{} is empty: the replicas fill it when they start, unless they have certificates \
                 from elsewhere (--tls-dir)",
                secret.place
            ),
        ));
    };
    if held.stage == Stage::Prepared {
        crate::note::note(
            "the authority is being replaced: make this once more after the next step",
        );
    }
    Ok((held, secrets.cluster_word()))
}

/// Writes files that only their owner may read into a folder, which is made if it is not there.
fn write(folder: &Path, files: &[(&str, &str)], is_new: bool) -> Result<(), Failure> {
    let cannot = |path: &Path, error: &io::Error| {
        Failure::failed(format!("cannot write {}: {error}", path.display()))
    };
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| cannot(folder, &error))?;
    for (file, text) in files {
        let path = folder.join(file);
        write_private(&path, text, is_new).map_err(|error| cannot(&path, &error))?;
    }
    Ok(())
}
