//! `recover`: the guarded way back when a majority of a local cluster's replicas is lost for good.
//!
//! The replica that got furthest, by the ballot and length of its log, gives the state: what it had
//! applied, and every entry that it had accepted, for any of them may have been acknowledged. A new
//! cluster, with a new id, begins with it.
//!
//! Guarantees that nothing is done while a majority is there or the cluster runs, nor before what
//! may be lost was said and the cluster's digits were given; and that the old folder is kept. A
//! replica of the old cluster that turns up again is a stranger to the new one.

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvorum_protocol::status::{ClusterId, ConfigurationId, ReplicaId};
use kvorum_replica::chain::{Chain, Standing};
use kvorum_replica::entry::Entry;
use kvorum_replica::snapshot::{Cursor, Found, Snapshots, Wanted};
use kvorum_replica::state_machine::Table;
use kvorum_replica::storage::log::{LogDisk, LogNumbers};
use kvorum_replica::storage::open::Owner;
use kvorum_replica::storage::seed::Seed;
use kvorum_replica::storage::segments::LogLimits;
use kvorum_replica::storage::{Ballot, Database, OpenError, Store};

use super::folder::{self, Folder, REPLICAS_MAX, StatefulSet};
use crate::arguments::Recover;
use crate::exit::{Exit, Stop};

/// Digits of the cluster's id that have to be given.
const DIGITS: usize = 8;

/// A replica that is left.
struct Survivor {
    name: String,
    replica: ReplicaId,
    chain: Chain,
    database: Database,
    numbers: LogNumbers,
}

impl Survivor {
    /// How far it got: the later configuration counts, then the later ballot, then the longer log.
    fn reach(&self) -> (ConfigurationId, Option<Ballot>, usize) {
        (self.chain.current.id, self.numbers.accepted_round, self.numbers.accepted)
    }
}

/// Goes on with what is left.
pub fn run(recover: &Recover) -> Result<(), Stop> {
    let path = recover.data.clone().map_or_else(folder::default_path, Ok)?;
    StatefulSet::read(&path)?;
    let Folder { path, set, lock } = Folder::open(&path, None)?;
    let (best, left) = survivors(&path, &set)?;
    let total = best.chain.current.members.len();
    if left > total / 2 {
        let folder = path.display();
        return Err(Stop::usage(format!(
            "{left} of {total} replicas are there, a majority: nothing needs to be recovered; \
             start the cluster with 'kvorum local --data {folder}'"
        )));
    }
    let Survivor { name, numbers, .. } = &best;
    let (decided, accepted) = (numbers.decided, numbers.accepted);
    let undecided = match decided + 1 {
        first if first > accepted => String::new(),
        first => format!(
            " Writes from {first} to {accepted} stay, whether they were acknowledged or not."
        ),
    };
    println!(
        "{left} of {total} replicas are left, no majority. {name} got furthest: it has every entry \
         up to index {accepted}. Writes after that, if any were acknowledged, are lost.{undecided}"
    );
    confirm(recover, set.cluster)?;
    let replicas = set.replicas.max(1);
    let new = StatefulSet { cluster: ClusterId(rand::random()), replicas };
    let aside = beside(&path, "recovering");
    new.make(&aside, |folder, owner| seed(&best, folder, owner))?;
    let cannot = |error: std::io::Error| folder::cannot_make(&path, &error);
    // RocksDB removes files by their names when it ends: they must still be its own.
    best.database.close();
    drop(best);
    let lost = beside(&path, &format!("lost-{}", &set.cluster.to_string()[..DIGITS]));
    fs::rename(&path, &lost).map_err(cannot)?;
    fs::rename(&aside, &path).map_err(cannot)?;
    drop(lock);
    println!(
        "a new cluster, {}, has the state as of index {accepted} in {}. The old folder is {}. \
         Start the new one with 'kvorum local --data {}'",
        new.cluster,
        path.display(),
        lost.display(),
        path.display(),
    );
    Ok(())
}

fn beside(path: &Path, what: &str) -> PathBuf {
    PathBuf::from(format!("{}.{what}", path.display()))
}

/// The member that got furthest, and how many members are left, of the configuration that it is in.
fn survivors(folder: &Path, set: &StatefulSet) -> Result<(Survivor, usize), Stop> {
    let mut all = Vec::new();
    for name in (0..REPLICAS_MAX).map(folder::name) {
        let data = folder.join(&name);
        // What is opened without being there is made.
        if !data.join("db").join("CURRENT").exists() {
            if data.exists() {
                println!("{name}: lost, {} holds no database", data.display());
            }
            continue;
        }
        let owner = Owner { newborn: None, ..set.owner(&name) };
        let database = match open(&data, &owner) {
            Ok(opened) => opened,
            Err(error) => {
                println!("{name}: lost: {error}");
                continue;
            }
        };
        if database.quarantine().is_some() {
            println!("{name}: lost: its state differed from that of the majority");
            continue;
        }
        let (chain, replica) = (database.chain(), database.identity().replica);
        if chain.standing(replica) != Standing::Member {
            println!("{name}: not a member of the cluster");
            continue;
        }
        let numbers = database.log(chain.current.id).0.numbers();
        println!("{name}: there, {} entries accepted", numbers.accepted);
        all.push(Survivor { name, replica, chain, database, numbers });
    }
    let none =
        || Stop::failed("no replica is left; make a new cluster of a backup: kvorum restore");
    let best = (0..all.len()).rev().max_by_key(|place| all[*place].reach()).ok_or_else(none)?;
    let best = all.swap_remove(best);
    let is_member = |one: &&Survivor| best.chain.current.name_of(one.replica).is_some();
    let left = all.iter().filter(is_member).count() + 1;
    Ok((best, left))
}

fn open(folder: &Path, owner: &Owner) -> Result<Database, OpenError> {
    let on_fatal = Arc::new(|what: &str| panic!("{what}"));
    Database::open(folder, owner, rand::random(), LogLimits::default(), on_fatal)
}

/// Whoever goes on must have read what may be lost.
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
fn seed(from: &Survivor, folder: &Path, owner: &Owner) -> Result<(), Stop> {
    let failed = |error: OpenError| Stop::failed(error.to_string());
    let database = &from.database;
    let on_fatal = Arc::new(|what: &str| panic!("{what}"));
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
    seed.end(&tail(from, applied));
    Ok(())
}

fn tail(from: &Survivor, applied: u64) -> Vec<Entry> {
    let first = usize::try_from(applied).expect("indexes fit the address space");
    let log = from.database.log(from.database.chain().current.id);
    match first < from.numbers.accepted {
        true => log.0.read(first, from.numbers.accepted),
        false => Vec::new(),
    }
}
