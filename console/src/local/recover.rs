//! The command `recover`: rebuilds a local cluster whose majority of replicas is lost for good.
//!
//! The replica that got furthest, by its configuration, then by the ballot and length of its log,
//! provides the state: what it had applied, and every write that it had accepted, because any of
//! them may have been acknowledged; unless another one had copied more than that. It need not be a
//! member any more, nor one yet: a replica that left kept what was decided until then, and one that
//! joined has copied it. A new cluster, with a new id, begins with that state and continues at an
//! index [far above](seed::LEAP) that of the state.
//!
//! Guarantees that nothing is done while a majority is there or a replica runs, nor before it is
//! known of each folder whether it is lost, nor before the possible loss was shown and the
//! cluster's digits were given; that the old folder is kept; and, where the file system can
//! exchange two folders, that one of the two clusters is in its place at every moment. A replica of
//! the old cluster that comes back does not belong to the new one.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use kvorum_protocol::status::{ClusterId, ConfigurationId, Member, ReplicaId};
use kvorum_replica::marker::{Claim, Mark, Marker};
use kvorum_replica::orchestrator;
use kvorum_replica::state::chain::{Chain, Standing};
use kvorum_replica::state::entry::Entry;
use kvorum_replica::state::machine::Table;
use kvorum_replica::state::snapshot::{Cursor, Found, Snapshots, Wanted};
use kvorum_replica::storage::log::{LogDisk, LogNumbers};
use kvorum_replica::storage::rocks::open::Owner;
use kvorum_replica::storage::rocks::seed::{self, Seed};
use kvorum_replica::storage::segments::LogLimits;
use kvorum_replica::storage::{Ballot, Database, OpenError, Seen, Store};
use rustix::fs::{CWD, RenameFlags, rename, renameat_with};
use rustix::io::Errno;

use super::folder::{self, Folder, REPLICAS_MAX, SET_FILE, StatefulSet};
use crate::arguments::Recover;
use crate::exit::{Exit, Stop};
use crate::output::shell_path;

/// The number of digits of the cluster's id that have to be given.
const DIGITS: usize = 8;

/// A replica whose state is left.
struct Survivor {
    name: String,
    replica: ReplicaId,
    chain: Chain,
    database: Database,
    numbers: LogNumbers,
    /// The replica, or the marker, that remembers a later disk of it, if any: it gets no vote then.
    outdated_by: Option<String>,
}

impl Survivor {
    /// Returns its progress: by the later configuration, then the later ballot, then the longer
    /// log.
    fn reach(&self) -> (ConfigurationId, Option<Ballot>, usize) {
        (self.chain.current.id, self.numbers.accepted_round, self.numbers.accepted)
    }

    /// Whether it votes in its configuration, as far as it knows.
    fn votes(&self) -> bool {
        self.chain.standing(self.replica) == Standing::Member
    }

    /// Whether it holds any state to continue with: a joiner begins with none.
    fn has_state(&self) -> bool {
        self.votes() || self.database.applied() > 0
    }

    /// Describes it where it is not a member, or gets no vote.
    fn what(&self) -> String {
        match (self.chain.standing(self.replica), &self.outdated_by) {
            (_, Some(by)) => {
                format!(" (an older copy, or another disk, than {by} remembers: it gets no vote)")
            }
            (Standing::Member, None) => String::new(),
            (Standing::Joiner, None) => " (not a member yet, as far as it knows)".to_owned(),
            (Standing::Retired, None) => " (it had left the cluster)".to_owned(),
        }
    }

    /// Whether it continues the disk that a peer remembers, as replicas judge each other.
    fn continues(&self, seen: Seen) -> bool {
        let start = self.database.start(seen.incarnation);
        start.is_some_and(|start| start.secret.key() == seen.key && start.reaches() >= seen.epoch)
    }

    /// Returns the claim that it would make to the marker.
    fn claim(&self, solo: Option<ConfigurationId>) -> Claim {
        let epoch = self.database.epoch();
        self.database.claim(Mark { solo, epoch, ..Mark::default() })
    }

    /// Returns the last index that it has.
    fn end(&self) -> u64 {
        self.database.applied().max(self.numbers.accepted as u64)
    }

    /// Whether the cluster's marker lets it decide alone.
    fn is_let(&self, marker: &Marker) -> bool {
        let claim = self.claim(Some(self.chain.current.id));
        marker.claim(claim, &self.database.history(marker)).is_ok()
    }
}

/// Makes a new cluster from the state that is left.
pub fn run(recover: &Recover) -> Result<(), Stop> {
    let path = recover.data.clone().map_or_else(folder::default_path, Ok)?;
    StatefulSet::read(&path)?;
    let Folder { path, set, lock } = Folder::open(&path, None)?;
    let marker = orchestrator::Folder::new(&path).marker_now()?;
    let own = marker.as_ref().filter(|marker| marker.cluster == set.cluster);
    let left = survivors(&path, &set, own)?;
    let (best, total) = (&left.best, left.total());
    if left.can_serve(marker.as_ref()) {
        let left = left.members;
        let folder = shell_path(&path);
        // The members may not have learned that fewer replicas are wanted.
        let count = u32::try_from(total).ok().filter(|total| *total > set.replicas);
        let count = count.map_or_else(String::new, |total| format!(" --replicas {total}"));
        return Err(Stop::usage(format!(
            "{left} of {total} replicas are there, a majority: nothing needs to be recovered; \
             start the cluster with 'kvorum local --data {folder}{count}'"
        )));
    }
    let lost = beside(&path, &format!("lost-{}", &set.cluster.to_string()[..DIGITS]));
    if lost.try_exists()? {
        let lost = lost.display();
        return Err(Stop::usage(format!(
            "{lost}, where the old folder is to be kept, is there already; move it away and \
             repeat the command"
        )));
    }
    let end = best.end();
    let (cluster, replicas) = (ClusterId(rand::random()), set.replicas.max(1));
    let Some(after) = seed::leap(end, cluster) else {
        return Err(Stop::failed(format!("no cluster can go on after index {end}")));
    };
    say(best, left.members, total);
    confirm(recover, set.cluster)?;
    let new = StatefulSet { cluster, replicas };
    let aside = beside(&path, "recovering");
    new.make(&aside, |folder, owner| make(best, folder, owner))?;
    // RocksDB removes files by their names when it closes: those must still be its own files.
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
fn exchange(new: &Path, path: &Path, kept: &Path) -> Result<(), Stop> {
    let exchanged = match at_once(new, path, kept) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => one_by_one(new, path, kept),
        other => other.map_err(io::Error::from),
    };
    exchanged.map_err(|error| match error.kind() {
        io::ErrorKind::ResourceBusy => Stop::failed(format!(
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
    let (name, end, applied) = (&best.name, best.end(), best.database.applied());
    let decided = applied.max(best.numbers.decided as u64);
    let undecided = match decided + 1 {
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

/// The replicas that are left of a cluster.
struct Left {
    /// The replica that got furthest.
    best: Survivor,
    /// The others.
    others: Vec<Survivor>,
    /// The number of members of the latest configuration among them that get a vote.
    members: usize,
}

impl Left {
    /// Returns the number of members of the latest configuration.
    fn total(&self) -> usize {
        self.best.chain.current.members.len()
    }

    /// Whether the cluster can serve with what is left: a majority of the latest configuration is
    /// there, and at least one of its members has reached that configuration. Where all are still
    /// in earlier ones, only replicas that left know how it began, and those are never started.
    fn can_serve(&self, marker: Option<&Marker>) -> bool {
        let latest = self.best.chain.current.id;
        let own = marker.filter(|marker| marker.cluster == self.best.database.identity().cluster);
        if own.is_some_and(|marker| marker.configuration > latest) {
            // Entries may have been decided that no replica here has.
            return false;
        }
        let is_in = |one: &&Survivor| one.chain.current.id == latest && one.votes();
        let all = std::iter::once(&self.best).chain(&self.others);
        match (all.clone().find(is_in), self.total()) {
            _ if self.members <= self.total() / 2 => false,
            (None, _) => false,
            (Some(only), 1) => marker.is_none_or(|marker| only.is_let(marker)),
            (Some(_), _) => true,
        }
    }

    fn close(self) {
        for one in std::iter::once(self.best).chain(self.others) {
            one.database.close();
        }
    }
}

/// Reads all replicas that are left, and picks the one that got furthest.
fn survivors(folder: &Path, set: &StatefulSet, marker: Option<&Marker>) -> Result<Left, Stop> {
    let mut all = Vec::new();
    for name in (0..REPLICAS_MAX).map(folder::name) {
        match survivor(&folder.join(&name), &name, set)? {
            Ok(survivor) => all.push(survivor),
            Err(Some(why)) => println!("{name}: {why}"),
            Err(None) => {}
        }
    }
    judge(&mut all, marker);
    for one in &all {
        println!("{}: there, the last index is {}{}", one.name, one.end(), one.what());
    }
    let none =
        || Stop::failed("no replica is left; make a new cluster of a backup: kvorum restore");
    let places = || (0..all.len()).rev().filter(|place| all[*place].has_state());
    let longest = places().max_by_key(|place| all[*place].reach()).ok_or_else(none)?;
    let furthest = places().max_by_key(|place| all[*place].database.applied()).ok_or_else(none)?;
    // An applied entry was decided, whatever a log says.
    let is_ahead = all[furthest].database.applied() > all[longest].end();
    let latest = all[longest].chain.current.clone();
    for Member { name, .. } in &latest.members {
        if !folder.join(name).try_exists()? {
            println!("{name}: not in {}", folder.display());
        }
    }
    let is_member =
        |one: &&Survivor| latest.name_of(one.replica).is_some() && one.outdated_by.is_none();
    let members = all.iter().filter(is_member).count();
    let best = all.swap_remove(if is_ahead { furthest } else { longest });
    Ok(Left { best, others: all, members })
}

/// Marks the replicas of which another replica, or the marker, remembers a later disk.
fn judge(all: &mut [Survivor], marker: Option<&Marker>) {
    let knows_better = |one: &Survivor, by: &Survivor| {
        by.database.seen(one.replica).is_some_and(|seen| !one.continues(seen))
    };
    let outdated_by = |one: &Survivor| {
        let by_one = all.iter().find(|by| knows_better(one, by)).map(|by| by.name.clone());
        let is_behind = |marker: &Marker| {
            marker.check_reach(one.claim(None), &one.database.history(marker)).is_err()
        };
        let by_marker = || marker.is_some_and(is_behind).then(|| "the cluster's marker".to_owned());
        by_one.or_else(by_marker)
    };
    let found: Vec<_> = all.iter().map(outdated_by).collect();
    for (one, by) in all.iter_mut().zip(found) {
        one.outdated_by = by;
    }
}

/// Opens a replica's folder; returns the reason if it is of no use, or nothing if it does not
/// exist. Fails if that cannot be determined.
fn survivor(
    data: &Path,
    name: &str,
    set: &StatefulSet,
) -> Result<Result<Survivor, Option<String>>, Stop> {
    // Opening a database that does not exist would create it.
    if !Database::is_in(data)? {
        let lost = || format!("lost, {} holds no database", data.display());
        return Ok(Err(data.exists().then(lost)));
    }
    if let Some(process) = folder::process_of(data) {
        let process = process.as_raw_nonzero();
        return Err(Stop::failed(format!(
            "{name} may not be lost: process {process} runs on {}. Nothing was done; end it first",
            data.display()
        )));
    }
    let owner = Owner { newborn: None, ..set.owner(name) };
    let database = match open(data, &owner) {
        Ok(database) => database,
        Err(error @ (OpenError::Damaged { .. } | OpenError::Unborn { .. })) => {
            return Ok(Err(Some(format!("lost: {error}"))));
        }
        // The folder may be the cluster's, and the file another cluster's.
        Err(OpenError::Foreign { folder, found, wanted }) => {
            let folder = folder.display();
            return Err(Stop::failed(format!(
                "{name} may not be lost: {folder} belongs to {found}, and here should be {wanted}. \
                 Nothing was done; name the folder as its replica, write into {SET_FILE} which \
                 cluster is to go on, or move the folder away"
            )));
        }
        Err(
            error @ (OpenError::Unusable { .. }
            | OpenError::Locked { .. }
            | OpenError::Newer { .. }),
        ) => {
            return Err(Stop::failed(format!(
                "{name} may not be lost: {error}. Nothing was done; see to that first"
            )));
        }
    };
    if database.quarantine().is_some() {
        return Ok(Err(Some("lost: its state differed from that of the majority".to_owned())));
    }
    let (chain, replica) = (database.chain(), database.identity().replica);
    let numbers = database.log(chain.current.id).0.numbers();
    let name = name.to_owned();
    Ok(Ok(Survivor { name, replica, chain, database, numbers, outdated_by: None }))
}

/// Opens a survivor. Damage found later ends the command, because others may be sound.
fn open(data: &Path, owner: &Owner) -> Result<Database, OpenError> {
    let folder = data.display().to_string();
    let remedy = format!("if it is lost, move {folder} away and repeat the command");
    let on_fatal = folder::end_on(format!("{folder} cannot be read"), remedy);
    Database::open(data, owner, rand::random(), LogLimits::default(), on_fatal)
}

/// Asks the user to confirm, by typing digits of the cluster's id, that the loss is accepted.
fn confirm(recover: &Recover, cluster: ClusterId) -> Result<(), Stop> {
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
        false => Err(Stop::new(
            Exit::NeedsYes,
            format!("nothing was done; to go on with that, repeat with --confirm {digits}"),
        )),
    }
}

/// Copies a survivor's state, and the entries that it accepted after it.
fn make(from: &Survivor, folder: &Path, owner: &Owner) -> Result<(), Stop> {
    let failed = |error: OpenError| Stop::failed(error.to_string());
    let database = &from.database;
    let on_fatal = folder::end_on_write(folder);
    let (nonce, applied) = (rand::random(), database.applied());
    let mut seed = Seed::begin(folder, owner, nonce, applied, on_fatal).map_err(failed)?;
    let mut snapshots = database.snapshots();
    let Some(Found::Snapshot { snapshot, .. }) = snapshots.read(&Wanted::Snapshot, 1) else {
        return Err(Stop::failed(format!("the state of {} cannot be read", from.name)));
    };
    let mut after = Some(Cursor::Start);
    while let Some(cursor) = after {
        let wanted = Wanted::Chunk { snapshot, after: cursor };
        let Some(Found::Chunk(chunk)) = snapshots.read(&wanted, 0) else {
            return Err(Stop::failed(format!("the state of {} cannot be read", from.name)));
        };
        after = chunk.next;
        seed.add(chunk.items);
    }
    let after = seed.end(&tail(from, applied));
    after.map(drop).ok_or_else(|| Stop::failed("indexes do not go so far"))
}

fn tail(from: &Survivor, applied: u64) -> Vec<Entry> {
    let first = usize::try_from(applied).expect("indexes fit the address space");
    let log = from.database.log(from.database.chain().current.id);
    match first < from.numbers.accepted {
        true => log.0.read(first, from.numbers.accepted),
        false => Vec::new(),
    }
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
