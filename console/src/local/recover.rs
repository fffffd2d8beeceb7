//! The command `recover`: rebuilds a local cluster whose majority of replicas is lost for good.
//!
//! The replica that got [furthest](kvorum_replica::offline::recover) provides the state. A new
//! cluster, with a new id, begins with that state and continues at an index
//! [far above](seed::LEAP) that of the state.
//!
//! Guarantees that nothing is done while a majority is there or a replica runs, nor before it is
//! known of each folder whether it is lost, nor before the possible loss was shown and the
//! cluster's digits were given; that the old folder is kept; and, where the file system can
//! exchange two folders, that one of the two clusters is in its place at every moment. A replica of
//! the old cluster that comes back does not belong to the new one.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use kvorum_protocol::status::{ClusterId, Member};
use kvorum_replica::marker::Marker;
use kvorum_replica::offline::recover::{Find, Left, Survivor, Unsure, find, judge, latest};
use kvorum_replica::orchestrator;
use kvorum_replica::state::chain::Standing;
use kvorum_replica::storage::rocks::open::Owner;
use kvorum_replica::storage::rocks::seed;
use rustix::fs::{CWD, RenameFlags, rename, renameat_with};
use rustix::io::Errno;

use super::folder::{self, Folder, REPLICAS_MAX, SET_FILE, StatefulSet};
use crate::arguments::Recover;
use crate::exit::{Exit, Failure};
use crate::output::shell_path;

/// The number of digits of the cluster's id that have to be given.
const DIGITS: usize = 8;

/// Describes a replica that is left where it is not a member, or gets no vote.
fn what(one: &Survivor) -> String {
    match (one.standing(), one.outdated_by()) {
        (_, Some(by)) => {
            format!(" (an older copy, or another disk, than {by} remembers: it gets no vote)")
        }
        (Standing::Member, None) => String::new(),
        (Standing::Joiner, None) => " (not a member yet, as far as it knows)".to_owned(),
        (Standing::Retired, None) => " (it had left the cluster)".to_owned(),
    }
}

/// Makes a new cluster from the state that is left.
pub fn run(recover: &Recover) -> Result<(), Failure> {
    let path = recover.data.clone().map_or_else(folder::default_path, Ok)?;
    StatefulSet::read(&path)?;
    let Folder { path, set, lock } = Folder::open(&path, None)?;
    let marker = orchestrator::Folder::new(&path).marker_now()?;
    let own = marker.as_ref().filter(|marker| marker.cluster == set.cluster);
    let left = survivors(&path, &set, own)?;
    let (best, total) = (left.best(), left.total());
    if left.can_serve(marker.as_ref()) {
        let left = left.members();
        let folder = shell_path(&path);
        // The members may not have learned that fewer replicas are wanted.
        let count = u32::try_from(total).ok().filter(|total| *total > set.replicas);
        let count = count.map_or_else(String::new, |total| format!(" --replicas {total}"));
        return Err(Failure::usage(format!(
            "{left} of {total} replicas are there, a majority: nothing needs to be recovered; \
             start the cluster with 'kvorum local --data {folder}{count}'"
        )));
    }
    let lost = beside(&path, &format!("lost-{}", &set.cluster.to_string()[..DIGITS]));
    if lost.try_exists()? {
        let lost = lost.display();
        return Err(Failure::usage(format!(
            "{lost}, where the old folder is to be kept, is there already; move it away and \
             repeat the command"
        )));
    }
    let end = best.end();
    let (cluster, replicas) = (ClusterId(rand::random()), set.replicas.max(1));
    let Some(after) = seed::leap(end, cluster) else {
        return Err(Failure::failed(format!("no cluster can go on after index {end}")));
    };
    say(best, left.members(), total);
    confirm(recover, set.cluster)?;
    let new = StatefulSet { cluster, replicas };
    let aside = beside(&path, "recovering");
    new.make(&aside, |folder, owner| make(best, folder, owner))?;
    left.close();
    exchange(&aside, &path, &lost)?;
    drop(lock);
    println!(
        "a new cluster, {}, has the state as of index {end} in {}, and goes on after {after}. The \
         old folder is {}. Start the new one with 'kvorum local --data {}', or, when it is for \
         Kubernetes, bring its folders onto the volumes as deploy/README.md says. Clients of the \
         old one that still run have to be started anew",
        new.cluster,
        path.display(),
        lost.display(),
        shell_path(&path),
    );
    Ok(())
}

fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{what}"));
    PathBuf::from(name)
}

/// Puts a new folder in the place of an old one, which is kept under another name.
///
/// # Errors
/// When nothing was exchanged.
fn exchange(new: &Path, path: &Path, kept: &Path) -> Result<(), Failure> {
    let exchanged = match at_once(new, path, kept) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => one_by_one(new, path, kept),
        other => other.map_err(io::Error::from),
    };
    exchanged.map_err(|error| match error.kind() {
        io::ErrorKind::ResourceBusy => Failure::failed(format!(
            "{} cannot be put aside ({error}): it seems to be a mount point. Nothing was changed; \
             move what is in it to a folder in it, and recover that",
            path.display()
        )),
        _ => folder::cannot_make(path, &error),
    })?;
    let synced = path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all());
    if let Err(error) = synced {
        crate::note::note(format!("the new names may not be on the disk yet: {error}"));
    }
    Ok(())
}

/// Exchanges the folders in one step, which not every file system supports.
fn at_once(new: &Path, path: &Path, kept: &Path) -> Result<(), Errno> {
    // The old folder never gets the new one's name: the next run removes what has that name.
    rename(new, kept)?;
    renameat_with(CWD, kept, CWD, path, RenameFlags::EXCHANGE).inspect_err(|_| {
        let _ = rename(kept, new);
    })
}

/// Exchanges the folders in two steps, between which neither is in place.
fn one_by_one(new: &Path, path: &Path, kept: &Path) -> io::Result<()> {
    fs::rename(path, kept)?;
    fs::rename(new, path).inspect_err(|_| {
        let _ = fs::rename(kept, path);
    })
}

/// Prints what is left, and what may be lost.
fn say(best: &Survivor, left: usize, total: usize) {
    let (name, end) = (best.name(), best.end());
    let undecided = match best.decided() + 1 {
        first if first > end => String::new(),
        first => {
            format!(" Writes from {first} to {end} stay, whether they were acknowledged or not.")
        }
    };
    let what = match left > total / 2 {
        _ if total == 1 && best.votes() => {
            format!("{name} is an older copy of the only replica: its last index is {end}.")
        }
        true => format!(
            "{left} of {total} replicas are left, and none of them has got what was decided. \
             {name} got furthest: it has every entry up to index {end}."
        ),
        false => format!(
            "{left} of {total} replicas are left, no majority. {name} got furthest: it has every \
             entry up to index {end}."
        ),
    };
    println!("{what} Writes after that, if any were acknowledged, are lost.{undecided}");
}

/// Reads all replicas that are left, and picks the one that got furthest.
fn survivors(folder: &Path, set: &StatefulSet, marker: Option<&Marker>) -> Result<Left, Failure> {
    let mut all = Vec::new();
    for name in (0..REPLICAS_MAX).map(folder::name) {
        match survivor(&folder.join(&name), &name, set)? {
            Find::Left(survivor) => all.push(*survivor),
            Find::Lost(why) => println!("{name}: lost: {why}"),
            Find::Nothing => {}
        }
    }
    judge(&mut all, marker);
    for one in &all {
        println!("{}: there, the last index is {}{}", one.name(), one.end(), what(one));
    }
    let members = latest(&all).map_or_else(Vec::new, |latest| latest.members.clone());
    for Member { name, .. } in &members {
        if !folder.join(name).try_exists()? {
            println!("{name}: not in {}", folder.display());
        }
    }
    Left::of(all).ok_or_else(|| {
        Failure::failed("no replica is left; make a new cluster of a backup: kvorum restore")
    })
}

/// Looks for a replica in its folder. Fails if it cannot be said whether it is lost.
fn survivor(data: &Path, name: &str, set: &StatefulSet) -> Result<Find, Failure> {
    if let Some(process) = folder::process_of(data) {
        let process = process.as_raw_nonzero();
        return Err(Failure::failed(format!(
            "{name} may not be lost: process {process} runs on {}. Nothing was done; end it first",
            data.display()
        )));
    }
    // Damage found later ends the command, because others may be sound.
    let shown = data.display();
    let remedy = format!("if it is lost, move {shown} away and repeat the command");
    let on_fatal = folder::end_on(format!("{shown} cannot be read"), remedy);
    find(data, name, &set.owner(name), on_fatal).map_err(|unsure| match unsure {
        // The folder may be the cluster's, and the file another cluster's.
        Unsure::Foreign { .. } => Failure::failed(format!(
            "{name} may not be lost: {unsure}. Nothing was done; name the folder as its replica, \
             write into {SET_FILE} which cluster is to go on, or move the folder away"
        )),
        Unsure::Closed(error) => Failure::failed(format!(
            "{name} may not be lost: {error}. Nothing was done; see to that first"
        )),
        Unsure::Io(error) => error.into(),
    })
}

/// Asks the user to confirm, by typing digits of the cluster's id, that the loss is accepted.
fn confirm(recover: &Recover, cluster: ClusterId) -> Result<(), Failure> {
    let digits = cluster.to_string()[..DIGITS].to_owned();
    let typed = match &recover.confirm {
        Some(typed) => typed.clone(),
        None if std::io::stdin().is_terminal() => {
            eprint!("Type {digits} to go on with that: ");
            std::io::stderr().flush()?;
            let mut typed = String::new();
            std::io::stdin().read_line(&mut typed)?;
            typed
        }
        None => String::new(),
    };
    match typed.trim() == digits {
        true => Ok(()),
        false => Err(Failure::new(
            Exit::NeedsYes,
            format!("nothing was done; to go on with that, repeat with --confirm {digits}"),
        )),
    }
}

/// Copies a survivor's state, and the entries that it accepted after it.
fn make(from: &Survivor, folder: &Path, owner: &Owner) -> Result<(), Failure> {
    from.copy_to(folder, owner, folder::end_on_write(folder)).map_err(Failure::failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_exchanged_and_the_old_one_is_kept() {
        type Way = fn(&Path, &Path, &Path) -> io::Result<()>;
        let ways: [Way; 2] =
            [|new, path, kept| at_once(new, path, kept).map_err(io::Error::from), one_by_one];
        for (number, way) in ways.into_iter().enumerate() {
            let folder = tempfile::tempdir().unwrap();
            let at = |name: &str| folder.path().join(name);
            for name in ["cluster", "cluster.recovering"] {
                fs::create_dir(at(name)).unwrap();
                fs::write(at(name).join("was"), name).unwrap();
            }
            let was = |name: &str| fs::read_to_string(at(name).join("was")).ok();
            let go = || way(&at("cluster.recovering"), &at("cluster"), &at("cluster.lost"));
            go().unwrap();
            assert_eq!(was("cluster").as_deref(), Some("cluster.recovering"), "way {number}");
            assert_eq!(was("cluster.lost").as_deref(), Some("cluster"), "way {number}");
            assert!(!at("cluster.recovering").exists(), "way {number}");
            // There is no folder to put in its place: everything stays.
            go().unwrap_err();
            assert_eq!(was("cluster").as_deref(), Some("cluster.recovering"), "way {number}");
            assert_eq!(was("cluster.lost").as_deref(), Some("cluster"), "way {number}");
        }
    }
}
