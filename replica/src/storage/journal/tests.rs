//! Tests of the journal in a folder: reads, syncs, cuts, damage, and crashes at any point.

use proptest::prelude::*;

use super::recovery::recover;
use super::*;
use crate::storage::log::LogWrite;

const ID: ConfigurationId = ConfigurationId(1);

fn opened(folder: &Path) -> Journal {
    Journal::open(folder, recover(folder).expect("it is sound")).expect("it can be opened")
}

fn sync(journal: &Journal) {
    journal.write(journal.take()).expect("it can be written");
}

fn entry(number: u64) -> Entry {
    Entry::Join { name: "x".repeat(usize::try_from(number % 900).expect("small")), nonce: number }
}

fn append(journal: &Journal, from: usize, numbers: std::ops::Range<u64>) {
    journal
        .append(&Frame::Writes(ID, vec![LogWrite::AppendAt(from, numbers.map(entry).collect())]));
}

fn read(journal: &Journal, from: usize, to: usize) -> Vec<u64> {
    let mut found = Vec::new();
    let visit = |entry: Entry| match entry {
        Entry::Join { nonce, .. } => {
            found.push(nonce);
            true
        }
        other => panic!("{other:?}"),
    };
    journal.each(ID, from, to, visit).expect("it is sound");
    found
}

fn file_count(folder: &Path) -> usize {
    fs::read_dir(folder).expect("it is there").count()
}

#[test]
fn entries_are_read_from_memory_from_files_and_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let journal = opened(folder.path());
    for round in 0..400_u64 {
        append(
            &journal,
            usize::try_from(round * 100).expect("small"),
            round * 100..(round + 1) * 100,
        );
        if round.is_multiple_of(7) {
            sync(&journal);
        }
    }
    assert!(file_count(folder.path()) > 1, "several files");
    let expected: Vec<u64> = (0..40_000).collect();
    assert_eq!(read(&journal, 0, 40_000), expected);
    assert_eq!(read(&journal, 12_345, 12_350), expected[12_345..12_350]);
    assert_eq!(
        read(&journal, 39_990, 50_000),
        expected[39_990..],
        "it ends before what is not there"
    );
    drop(journal);
    // Round 399 is divisible by 7.
    let journal = opened(folder.path());
    assert_eq!(read(&journal, 0, 40_000), expected);
}

#[test]
fn what_is_appended_while_a_sync_is_under_way_waits_for_the_next() {
    let folder = tempfile::tempdir().expect("a folder");
    let journal = opened(folder.path());
    append(&journal, 0, 0..5);
    let taken = journal.take();
    append(&journal, 5, 5..9);
    assert_eq!(read(&journal, 0, 9).len(), 9);
    journal.write(taken).expect("it can be written");
    assert_eq!(read(&journal, 0, 9).len(), 9);
    drop(journal);
    let journal = opened(folder.path());
    assert_eq!(read(&journal, 0, 9), [0, 1, 2, 3, 4]);
    append(&journal, 5, 15..19);
    sync(&journal);
    assert_eq!(read(&opened(folder.path()), 3, 9), [3, 4, 15, 16, 17, 18]);
}

#[test]
fn files_go_when_their_entries_are_cut() {
    let folder = tempfile::tempdir().expect("a folder");
    let journal = opened(folder.path());
    let cut = |position| journal.append(&Frame::Writes(ID, vec![LogWrite::Compact(position)]));
    for round in 0..400_u64 {
        append(
            &journal,
            usize::try_from(round * 100).expect("small"),
            round * 100..(round + 1) * 100,
        );
    }
    sync(&journal);
    let before = file_count(folder.path());
    cut(30_000);
    assert_eq!(file_count(folder.path()), before, "not before the cut is durable");
    sync(&journal);
    assert!(file_count(folder.path()) < before);
    assert_eq!(read(&journal, 30_000, 40_000).len(), 10_000);
    let again = opened(folder.path());
    assert_eq!(read(&again, 30_000, 40_000).len(), 10_000);
    assert_eq!(again.numbers(ID), journal.numbers(ID));
    // Beyond the end: nothing of the log is left but its numbers.
    cut(50_000);
    append(&journal, 50_000, 7..8);
    sync(&journal);
    assert_eq!(read(&opened(folder.path()), 50_000, 50_001), [7]);
}

#[test]
fn a_file_that_is_lost_or_cut_is_noticed() {
    let make = || {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = opened(folder.path());
        for round in 0..400_u64 {
            let from = usize::try_from(round * 100).expect("small");
            append(&journal, from, round * 100..(round + 1) * 100);
            sync(&journal);
        }
        folder
    };
    let damaged = |folder: &Path| match recover(folder) {
        Err(recovery::RecoveryError::Damaged(what)) => what,
        other => panic!("{:?}", other.map(|found| found.end)),
    };
    let lost = make();
    fs::remove_file(path_of(lost.path(), 1)).expect("it is there");
    assert!(damaged(lost.path()).contains("lacks entry 0"));
    // Cut between two frames, it looks whole; but the next file does not continue it.
    let cut = make();
    let path = path_of(cut.path(), 1);
    let bytes = fs::read(&path).expect("it is there");
    let (_, first) = Frame::decode(Place { file: 1, offset: 0 }, &bytes).expect("it is sound");
    fs::write(&path, &bytes[..first]).expect("it can be written");
    assert!(damaged(cut.path()).contains("does not continue"));
    fs::write(&path, &bytes[..bytes.len() - 1]).expect("it can be written");
    assert!(damaged(cut.path()).contains("no sound frame"));
    // A gap among files that are all cut is what removals may leave.
    let gap = make();
    let journal = opened(gap.path());
    journal.append(&Frame::Writes(ID, vec![LogWrite::Compact(40_000)]));
    let taken = journal.take();
    journal.write(Taken { keep_from: 0, ..taken }).expect("it can be written");
    drop(journal);
    fs::remove_file(path_of(gap.path(), 2)).expect("it is there");
    let journal = opened(gap.path());
    assert!(!path_of(gap.path(), 1).exists(), "the rest goes too");
    assert_eq!(journal.numbers(ID).expect("it has a log").accepted, 40_000);
}

#[derive(Clone, Debug)]
enum Step {
    Append(u8),
    Overwrite { back: u8, count: u8 },
    Cut(u8),
    Sync,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..30u8).prop_map(Step::Append),
        3 => (0..40u8, 0..9u8).prop_map(|(back, count)| Step::Overwrite { back, count }),
        1 => any::<u8>().prop_map(Step::Cut),
        3 => Just(Step::Sync),
        2 => Just(Step::Crash),
    ]
}

/// A log as a list.
#[derive(Clone, Default)]
struct Model {
    compacted: usize,
    entries: Vec<u64>,
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_journal_is_a_list_and_a_crash_keeps_what_was_synced(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = opened(folder.path());
        let (mut model, mut synced) = (Model::default(), Model::default());
        let mut number = 0;
        for step in &steps {
            let end = model.compacted + model.entries.len();
            match step {
                Step::Append(_) | Step::Overwrite { .. } => {
                    let (from, count) = match step {
                        Step::Append(count) => (end, u64::from(*count)),
                        Step::Overwrite { back, count } => {
                            (end.saturating_sub(usize::from(*back)).max(model.compacted),
                            u64::from(*count))
                        }
                        _ => unreachable!(),
                    };
                    append(&journal, from, number..number + count);
                    model.entries.truncate(from - model.compacted);
                    model.entries.extend(number..number + count);
                    number += count;
                }
                Step::Cut(share) => {
                    let cut = model.entries.len() * usize::from(*share) / 255;
                    model.compacted += cut;
                    model.entries.drain(..cut);
                    let write = LogWrite::Compact(model.compacted);
                    journal.append(&Frame::Writes(ID, vec![write]));
                }
                Step::Sync => {
                    sync(&journal);
                    synced = model.clone();
                }
                Step::Crash => {
                    journal = opened(folder.path());
                    model = synced.clone();
                }
            }
            let end = model.compacted + model.entries.len();
            prop_assert_eq!(&read(&journal, model.compacted, end), &model.entries, "{:?}", step);
            let middle = model.compacted + model.entries.len() / 2;
            prop_assert_eq!(
                &read(&journal, middle, end + 3)[..],
                &model.entries[model.entries.len() / 2..]
            );
        }
    }
}

/// The last file was made, and then the power went; nothing but it and the numbers is left.
#[test]
fn the_file_that_says_where_a_log_stands_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let journal = opened(folder.path());
    append(&journal, 0, 0..3);
    journal.append(&Frame::Writes(ID, vec![LogWrite::Compact(3)]));
    sync(&journal);
    drop(journal);
    fs::write(path_of(folder.path(), 2), []).expect("it can be made");
    let journal = opened(folder.path());
    sync(&journal);
    drop(journal);
    let journal = opened(folder.path());
    assert_eq!(journal.numbers(ID).expect("it has a log").compacted, 3);
    append(&journal, 3, 3..5);
    sync(&journal);
    assert_eq!(read(&opened(folder.path()), 3, 5), [3, 4]);
}

/// Nothing of what a file held before comes back, wherever the process ends.
#[test]
fn a_cut_file_is_written_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut journal = opened(folder.path());
    let (mut again, mut most) = (0, 0);
    for round in 0..60_usize {
        let (from, number) = (round * 100, round as u64 * 100);
        append(&journal, from, number..number + 100);
        let kept = from.saturating_sub(300);
        journal.append(&Frame::Writes(ID, vec![LogWrite::Compact(kept)]));
        sync(&journal);
        let end = journal.end();
        let about = fs::metadata(path_of(folder.path(), end.file)).expect("it is there");
        again += u32::from(about.len() > end.offset);
        most = most.max(file_count(folder.path()));
        let expected: Vec<u64> = (kept as u64..number + 100).collect();
        assert_eq!(read(&journal, kept, from + 100), expected);
        let copy = copied(folder.path());
        assert_eq!(read(&opened(copy.path()), kept, from + 100), expected);
        if round % 20 == 19 {
            journal = opened(folder.path());
        }
    }
    assert!(again > 10, "{again} times the last file held what was there before");
    assert!(most <= 6 + SPARES_MAX, "{most} files");
}

/// Copies a folder, as a crash would leave it.
fn copied(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    for file in fs::read_dir(folder).expect("it is there").flatten() {
        fs::copy(file.path(), copy.path().join(file.file_name())).expect("it can be copied");
    }
    copy
}

/// A file that somebody reads keeps its contents.
#[test]
fn a_file_that_is_read_is_not_written_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let journal = opened(folder.path());
    append(&journal, 0, 0..100);
    sync(&journal);
    let file = journal.state().open_file(1).expect("it is there");
    let contents = |file: &File| {
        let mut bytes = vec![0; 1000];
        file.read_exact_at(&mut bytes, 0).expect("it is as long");
        bytes
    };
    let before = contents(&file);
    for round in 1..20 {
        append(&journal, round * 100, round as u64 * 100..round as u64 * 100 + 100);
        journal.append(&Frame::Writes(ID, vec![LogWrite::Compact(round * 100)]));
        sync(&journal);
    }
    assert!(!path_of(folder.path(), 1).exists() && !spare_of(folder.path(), 1).exists());
    assert_eq!(contents(&file), before);
}
