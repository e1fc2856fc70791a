//! A journal over restarts, damage, limits and full disks.

mod work;

use std::fs;
use std::io::Write;

use super::*;
use crate::support::skip::skip_test;
use crate::sys::scratch::Scratch;

const LIMITS: Limits = Limits {
    size: 1 << 20,
    segment: 1 << 16,
    history: 1 << 17,
};

fn open(scratch: &Scratch) -> (Journal, Vec<String>) {
    open_with(scratch, LIMITS)
}

fn open_with(scratch: &Scratch, limits: Limits) -> (Journal, Vec<String>) {
    let mut found = Vec::new();
    let each = |_, text: &[u8]| found.push(String::from_utf8(text.to_vec()).unwrap());
    let journal = Journal::open(scratch.path(), limits, each).unwrap();
    (journal, found)
}

fn read_all(journal: &Journal, from: Position) -> Vec<String> {
    let mut reader = Reader::new(journal, from);
    let mut all = Vec::new();
    while let Some(found) = reader.next_record().unwrap() {
        match found {
            Scanned::Record(_, text) => all.push(String::from_utf8(text).unwrap()),
            Scanned::Damaged(_, bytes) => all.push(format!("damaged {}", bytes.len())),
        }
    }
    all
}

fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range
        .map(|n| format!("record {n} {}", "x".repeat(n % 700)))
        .collect()
}

fn as_bytes(records: &[String]) -> Vec<&[u8]> {
    records.iter().map(String::as_bytes).collect()
}

fn fill(journal: &Journal, records: &[String]) -> Vec<Position> {
    let append = |record: &String| journal.append(record.as_bytes()).unwrap();
    records.iter().map(append).collect()
}

#[test]
fn records_come_back_in_order_over_segments_and_restarts() {
    let scratch = Scratch::new("journal");
    let records = numbered(0..1000);
    let (journal, _) = open(&scratch);
    let starts = fill(&journal, &records[..600]);
    assert!(journal.end().segment > 2, "{}", journal.end());
    drop(journal);
    let (journal, found) = open(&scratch);
    assert_eq!(found, records[..600]);
    assert!(journal.sync().unwrap(), "what was left by the one before");
    fill(&journal, &records[600..]);
    assert!(journal.sync().unwrap() && !journal.sync().unwrap());
    assert_eq!(read_all(&journal, Position::default()), records);
    assert_eq!(read_all(&journal, starts[321]), records[321..]);
    assert_eq!(read_all(&journal, journal.end()), [""; 0]);
    let text = journal.read_at(starts[77]).unwrap();
    assert_eq!(text, records[77].as_bytes());
    assert_eq!(journal.distance(Position::default()), journal.size());
    assert_eq!(journal.distance(journal.end()), 0);
}

#[test]
fn records_that_are_written_together_are_as_if_they_came_alone() {
    let scratch = Scratch::new("journal");
    let mut records = numbered(0..1000);
    let (journal, _) = open(&scratch);
    let starts: Vec<Position> = journal
        .append_all(&as_bytes(&records))
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert!(journal.end().segment > 2, "{}", journal.end());
    for (start, record) in starts.iter().zip(&records) {
        assert_eq!(journal.read_at(*start).unwrap(), record.as_bytes());
    }
    // One that no journal can hold costs none of its neighbours.
    let results = journal.append_all(&[b"before", b"line\nfeed", b"behind"]);
    assert!(matches!(
        results[..],
        [Ok(_), Err(Refused::Unfit(Unfit::LineFeed)), Ok(_)]
    ));
    records.extend(["before", "behind"].map(str::to_owned));
    assert!(journal.append_all(&[]).is_empty());
    assert_eq!(read_all(&journal, Position::default()), records);
    drop(journal);
    assert_eq!(open(&scratch).1, records);
}

#[test]
fn of_records_that_come_together_those_are_kept_that_there_is_room_for() {
    let scratch = Scratch::new("journal");
    let limits = Limits {
        size: 3000,
        ..LIMITS
    };
    let (journal, _) = open_with(&scratch, limits);
    let record = |number: usize| format!("{number} {}", "x".repeat(988));
    let records: Vec<String> = (0..5).map(record).collect();
    let results = journal.append_all(&as_bytes(&records));
    let taken: Vec<bool> = results.iter().map(Result::is_ok).collect();
    assert_eq!(taken, [true, true, true, false, false]);
    assert!(matches!(results[4], Err(Refused::Full)));
    assert_eq!(read_all(&journal, Position::default()), records[..3]);
}

#[test]
fn a_last_record_that_was_cut_at_any_byte_is_gone_and_no_other() {
    let scratch = Scratch::new("journal");
    let records = ["first", "second", "third"].map(str::to_owned);
    let (journal, _) = open(&scratch);
    let starts = fill(&journal, &records);
    let end = journal.end().offset;
    drop(journal);
    let path = scratch.path().join("0000000001.journal");
    let whole = fs::read(&path).unwrap();
    for cut in starts[2].offset..end {
        fs::write(&path, &whole[..cut as usize]).unwrap();
        let (journal, found) = open(&scratch);
        assert_eq!(found, records[..2], "cut at {cut}");
        assert_eq!(journal.append(b"next").unwrap(), starts[2]);
        assert_eq!(read_all(&journal, starts[1]), ["second", "next"]);
    }
}

#[test]
fn a_damaged_record_is_told_and_those_after_it_are_read() {
    let scratch = Scratch::new("journal");
    let (journal, _) = open(&scratch);
    let starts = fill(&journal, &["one", "two", "three"].map(str::to_owned));
    let path = scratch.path().join("0000000001.journal");
    let mut bytes = fs::read(&path).unwrap();
    bytes[starts[1].offset as usize + 10] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(
        read_all(&journal, starts[0]),
        ["one", "damaged 12", "three"]
    );
    assert_eq!(journal.read_at(starts[1]), None);
    journal.keep_damaged(1);
    assert_eq!(
        fs::read(scratch.path().join("0000000001.damaged")).unwrap(),
        bytes
    );
    drop(journal);
    assert_eq!(open(&scratch).1, ["one", "three"]);
}

#[test]
fn a_file_of_nonsense_is_no_trouble() {
    let scratch = Scratch::new("journal");
    fs::write(
        scratch.path().join("0000000007.journal"),
        vec![0u8; 6 << 20],
    )
    .unwrap();
    fs::write(scratch.path().join("notes.txt"), "no segment").unwrap();
    let (journal, found) = open_with(
        &scratch,
        Limits {
            size: 1 << 30,
            ..LIMITS
        },
    );
    assert!(found.is_empty());
    journal.append(b"after").unwrap();
    assert_eq!(
        read_all(&journal, Position::default()).pop().unwrap(),
        "after"
    );
}

#[test]
fn a_journal_at_its_limit_refuses_until_records_are_released() {
    let scratch = Scratch::new("journal");
    let (journal, _) = open(&scratch);
    let record = "y".repeat(1000);
    let mut count = 0;
    let refused = loop {
        match journal.append(record.as_bytes()) {
            Ok(_) => count += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, Refused::Full), "{refused}");
    assert!((1000..1100).contains(&count), "{count}");
    assert!(journal.size() <= LIMITS.size);
    // Half of it is needed by nobody any more.
    let half = Position {
        segment: journal.end().segment / 2,
        offset: 0,
    };
    journal.release(half).unwrap();
    assert!(journal.append(record.as_bytes()).is_ok());
    assert!(journal.start() <= half);
    // All of it: what remains is the history.
    journal.release(journal.end()).unwrap();
    assert!(
        journal.size() <= LIMITS.history + 2 * LIMITS.segment,
        "{}",
        journal.size()
    );
    assert!(journal.size() >= LIMITS.history, "{}", journal.size());
    drop(journal);
    assert!(!open(&scratch).1.is_empty());
}

#[test]
fn who_waits_is_woken_by_the_next_record() {
    let scratch = Scratch::new("journal");
    let (journal, _) = open(&scratch);
    let journal = Arc::new(journal);
    assert!(!journal.wait_past(journal.end(), Duration::ZERO, || false));
    let waiter = {
        let journal = Arc::clone(&journal);
        std::thread::spawn(move || {
            journal.wait_past(
                Position {
                    segment: 1,
                    offset: 0,
                },
                Duration::from_secs(10),
                || false,
            )
        })
    };
    journal.append(b"x").unwrap();
    assert!(waiter.join().unwrap());
}

#[test]
fn positions_are_read_as_they_are_shown() {
    let position = Position {
        segment: 12,
        offset: 345,
    };
    assert_eq!(position.to_string().parse(), Ok(position));
    for bad in ["", "1", "1:", ":1", "1:-2", "a:b"] {
        assert_eq!(bad.parse::<Position>(), Err(()), "{bad}");
    }
}

/// A file system of 64 KiB in a mount namespace of the test's own.
#[test]
fn a_full_disk_refuses_records_whole_and_takes_them_again_later() {
    let run = || {
        if crate::sys::scratch::enter_mount_namespace().is_err() {
            skip_test(
                "a_full_disk_refuses_records_whole_and_takes_them_again_later",
                "needs root",
            );
            return;
        }
        let scratch = Scratch::new("journal");
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "none"])
            .arg(scratch.path())
            .status();
        assert!(mount.unwrap().success());
        let ballast = scratch.path().join("ballast");
        fs::write(&ballast, vec![0u8; 20_000]).unwrap();
        let (journal, _) = open(&scratch);
        let mut kept = Vec::new();
        let refused = loop {
            let record = format!("record {} {}", kept.len(), "z".repeat(777));
            match journal.append(record.as_bytes()) {
                Ok(_) => kept.push(record),
                Err(refused) => break refused,
            }
        };
        let Refused::Io(error) = refused else {
            panic!("{refused}")
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(read_all(&journal, Position::default()), kept);
        fs::remove_file(&ballast).unwrap();
        kept.push("room again".to_owned());
        journal.append(b"room again").unwrap();
        assert_eq!(read_all(&journal, Position::default()), kept);
        drop(journal);
        assert_eq!(open(&scratch).1, kept);
        let umount = std::process::Command::new("umount")
            .arg(scratch.path())
            .status();
        assert!(umount.unwrap().success());
    };
    std::thread::spawn(run).join().unwrap();
}

#[test]
fn what_the_disk_has_refused_is_written_again_as_it_was() {
    let scratch = Scratch::new("journal");
    let (journal, _) = open(&scratch);
    fill(&journal, &numbered(0..300));
    let before = journal.end();
    for one in &mut journal.lock().unsynced {
        one.has_failed = true;
    }
    fill(&journal, &numbered(300..310));
    assert!(journal.sync().unwrap() && !journal.sync().unwrap());
    assert!(journal.end() > before);
    assert_eq!(read_all(&journal, Position::default()), numbered(0..310));
    // A file that is shorter than it should be stays so.
    let path = scratch.path().join("0000000001.journal");
    fs::write(&path, "short").unwrap();
    segments::write_again(scratch.path(), 1, 100_000).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "short");
    // One that nobody needs any more has been removed.
    segments::write_again(scratch.path(), 77, 1).unwrap();
}

/// Too many open files, a disk that fails for a moment: the next attempt begins the segment.
#[test]
fn a_segment_that_could_not_be_begun_is_begun_later() {
    let scratch = Scratch::new("journal");
    let limits = Limits {
        segment: 1,
        ..LIMITS
    };
    let (journal, _) = open_with(&scratch, limits);
    fill(&journal, &numbered(0..1));
    let obstacle = segments::path(scratch.path(), 2);
    fs::create_dir(&obstacle).unwrap();
    assert!(matches!(journal.append(b"refused"), Err(Refused::Io(_))));
    fs::remove_dir(&obstacle).unwrap();
    fs::write(&obstacle, "").unwrap();
    fill(&journal, &numbered(1..3));
    assert!(journal.sync().unwrap(), "the directory as well");
    assert_eq!(read_all(&journal, Position::default()), numbered(0..3));
    drop(journal);
    assert_eq!(open_with(&scratch, limits).1, numbered(0..3));
}

#[test]
fn a_record_that_is_gone_is_not_another_one() {
    let scratch = Scratch::new("journal");
    let limits = Limits {
        history: 0,
        ..LIMITS
    };
    let (journal, _) = open_with(&scratch, limits);
    let records = numbered(0..1000);
    let starts = fill(&journal, &records);
    let text = |at| {
        journal
            .read_at(at)
            .map(|text| String::from_utf8(text).unwrap())
    };
    assert_eq!(text(starts[0]).as_ref(), Some(&records[0]));
    journal.release(starts[999]).unwrap();
    assert!(journal.start() > starts[0]);
    assert_eq!(text(starts[0]), None);
    assert_eq!(text(journal.end()), None);
    assert_eq!(text(starts[999]).as_ref(), Some(&records[999]));
}

#[test]
fn what_comes_after_a_torn_line_stands_behind_a_whole_one() {
    let scratch = Scratch::new("journal");
    let (journal, _) = open(&scratch);
    journal.append(b"one").unwrap();
    let path = segments::path(scratch.path(), 1);
    // Neither written to nor cut, and there can be no new segment.
    let unwritable = Arc::new(File::open(&path).unwrap());
    let good = std::mem::replace(&mut journal.lock().file, unwritable);
    let next = segments::path(scratch.path(), 2);
    fs::write(&next, "in the way").unwrap();
    assert!(matches!(journal.append(b"two"), Err(Refused::Io(_))));
    (&*good).write_all(b"0badc0de tw").unwrap();
    assert!(matches!(journal.append(b"two"), Err(Refused::Io(_))));
    journal.lock().file = good;
    let at = journal.append(b"three").unwrap();
    assert_eq!(journal.read_at(at).as_deref(), Some(&b"three"[..]));
    fs::remove_file(next).unwrap();
    drop(journal);
    assert_eq!(open(&scratch).1, ["one", "three"]);
}
