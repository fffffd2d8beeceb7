//! Keeps a program's files private from the other users of its machine.
//!
//! Values are stored in plain form in table files, write-ahead logs and backups. So all new files
//! and folders are for their owner only, whatever the umask was, and folders that an older program
//! created are tightened when they are opened.
//!
//! Guarantees that no other user gets a right. Takes no right from a group that was given the
//! folder on purpose: Kubernetes does so with an `fsGroup`, under which the pod may run as any
//! user, and marks it by the folder's set-group-ID bit together with the group's write permission.
//! Rights that the system does not let us change stay as they are, and do not prevent the start.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::Mode;
use tracing::warn;

/// The permission bits of others, and those of a group.
const OTHERS: u32 = 0o007;
const GROUP: u32 = 0o070;
/// The bits of a folder that was given to its group on purpose.
const GIVEN_TO_GROUP: u32 = 0o2020;

/// Makes everything that this process and its child processes create from here on private to its
/// owner.
pub fn make_private() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

/// Removes the rights of others to a folder and to its contents down to a depth: 0 is the folder
/// itself. Links are not followed.
pub fn tighten(folder: &Path, depth: usize) {
    let Ok(found) = fs::symlink_metadata(folder) else { return };
    let is_given = found.permissions().mode() & GIVEN_TO_GROUP == GIVEN_TO_GROUP;
    let taken = if is_given { OTHERS } else { OTHERS | GROUP };
    if let Err(error) = take(folder, taken, depth) {
        let folder = folder.display();
        warn!(%error, "others may keep rights to what is in {folder}");
    }
}

fn take(path: &Path, taken: u32, depth: usize) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if found.is_symlink() {
        return Ok(());
    }
    let mode = found.permissions().mode();
    let mut done = match mode & taken {
        0 => Ok(()),
        _ => fs::set_permissions(path, Permissions::from_mode(mode & 0o7777 & !taken)),
    };
    if found.is_dir() && depth > 0 {
        for entry in fs::read_dir(path)? {
            let inner = match take(&entry?.path(), taken, depth - 1) {
                // The file was removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            };
            done = done.and(inner);
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).expect("it is there").permissions().mode() & 0o7777
    }

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is ours");
    }

    #[test]
    fn others_lose_their_rights_and_a_group_keeps_what_it_was_given() {
        // The modes of the folder and of a file in it: before, and after.
        let cases = [
            ((0o755, 0o644), (0o700, 0o600)),
            ((0o775, 0o664), (0o700, 0o600)),
            ((0o700, 0o600), (0o700, 0o600)),
            ((0o2755, 0o644), (0o2700, 0o600)),
            ((0o2777, 0o666), (0o2770, 0o660)),
        ];
        for (before, after) in cases {
            let folder = tempfile::tempdir().expect("a folder");
            let (top, inner) = (folder.path().join("data"), folder.path().join("data/db"));
            fs::create_dir_all(&inner).expect("a folder");
            let (file, outside) = (inner.join("file"), folder.path().join("outside"));
            for path in [&file, &outside] {
                fs::write(path, "").expect("a file");
                set(path, before.1);
            }
            std::os::unix::fs::symlink(&outside, top.join("link")).expect("a link");
            set(&top, before.0);
            tighten(&top, 2);
            assert_eq!((mode(&top), mode(&file)), after, "{before:?}");
            assert_eq!(mode(&outside), before.1, "what a link names is not ours");
        }
        tighten(Path::new("/nowhere"), 2);
    }
}
