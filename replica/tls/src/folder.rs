//! Credentials in a folder, under the names that Kubernetes and cert-manager give them.
//!
//! Guarantees that a key which others may read is refused, and that a file is seen whole or not at
//! all. The certificate and its key are two files: a reader between two renewals may find that they
//! do not fit, and should look again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::credentials::Credentials;

/// The file of the authorities to trust.
pub const CA_FILE: &str = "ca.crt";
/// The file of the certificate.
pub const CERTIFICATE_FILE: &str = "tls.crt";
/// The file of the certificate's key.
pub const KEY_FILE: &str = "tls.key";
/// The secret of a cluster's authority, which holds [`CA_FILE`] and [`AUTHORITY_KEY_FILE`].
pub const AUTHORITY_SECRET: &str = "ca";
/// The file of an authority's key.
pub const AUTHORITY_KEY_FILE: &str = "ca.key";
/// Longest file, in bytes.
const FILE_BYTES_MAX: u64 = 256 << 10;
/// The permissions that a key's file may not have: everything of others, and a group's but to read.
const OPEN_TO_OTHERS: u32 = 0o037;

/// Returns the name of the secret with a client's certificate.
#[must_use]
pub fn client_secret(user: &str) -> String {
    format!("client-{user}")
}

/// Reads the credentials in a folder.
///
/// # Errors
/// A sentence with the file, the reason and the cure.
pub fn read_folder(folder: &Path) -> Result<Credentials, String> {
    let authorities = read_text(&folder.join(CA_FILE))?;
    let chain = read_text(&folder.join(CERTIFICATE_FILE))?;
    let key = read_private(&folder.join(KEY_FILE))?;
    Credentials::from_pem(&authorities, &chain, &key)
        .map_err(|error| format!("the credentials in {} are of no use: {error}", folder.display()))
}

/// Reads the authorities in a folder that has no certificate of its own; `None` if it has one.
///
/// # Errors
/// A sentence with the file and the reason.
pub fn read_authorities(folder: &Path) -> Result<Option<String>, String> {
    match folder.join(CERTIFICATE_FILE).exists() {
        true => Ok(None),
        false => read_text(&folder.join(CA_FILE)).map(Some),
    }
}

/// Reads a file that anybody may read.
///
/// # Errors
/// A sentence with the file and the reason.
pub fn read_text(path: &Path) -> Result<String, String> {
    let failed = |error: io::Error| format!("cannot read {}: {error}", path.display());
    let file = File::open(path).map_err(failed)?;
    read_bounded(&file).map_err(failed)
}

fn read_bounded(file: &File) -> io::Result<String> {
    let mut text = String::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    match read as u64 > FILE_BYTES_MAX {
        true => Err(io::Error::other(format!("it is longer than {FILE_BYTES_MAX} bytes"))),
        false => Ok(text),
    }
}

/// Reads a key's file.
///
/// # Errors
/// A sentence with the file, the reason and the cure; so also when others may read it.
pub fn read_private(path: &Path) -> Result<String, String> {
    let failed = |error: io::Error| format!("cannot read {}: {error}", path.display());
    let file = File::open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    let me = rustix::process::geteuid().as_raw();
    let is_of_others = found.uid() != me && found.uid() != 0;
    // A group may read what Kubernetes mounts for it.
    let mode = found.permissions().mode();
    if mode & OPEN_TO_OTHERS != 0 || is_of_others {
        return Err(format!(
            "{} may be read or replaced by other users (mode {:o}, user {}), so it is not used; \
             run: chmod 600 {0}, as its owner",
            path.display(),
            mode & 0o777,
            found.uid(),
        ));
    }
    read_bounded(&file).map_err(failed)
}

/// Writes a file that only its owner may read, whole or not at all. With `is_new`, one that is
/// there already stays as it is.
///
/// # Errors
/// The system's; `AlreadyExists` with `is_new` when there is one.
pub fn write_private(path: &Path, text: &str, is_new: bool) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let _ = fs::remove_file(&aside);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    let done = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    let done = done.and_then(|()| match is_new {
        true => fs::hard_link(&aside, path),
        false => fs::rename(&aside, path),
    });
    let _ = fs::remove_file(&aside);
    done
}
