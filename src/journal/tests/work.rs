//! What a journal does beyond what can be read from it afterwards: how often it writes, and what it writes once more.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use crate::journal::*;
use crate::sys::scratch::Scratch;

const LIMITS: Limits = Limits {
    size: 1 << 16,
    segment: 1 << 15,
    history: 0,
};

fn open(scratch: &Scratch) -> Journal {
    Journal::open(scratch.path(), LIMITS, |_, _| ()).unwrap()
}

/// Calls of write(2) by this thread alone; none where the kernel does not count them.
fn writes() -> Option<u64> {
    let text = fs::read_to_string("/proc/thread-self/io").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("syscw: "))?;
    line.parse().ok()
}

#[test]
fn what_comes_together_is_one_write() {
    let scratch = Scratch::new("journal-work");
    let journal = open(&scratch);
    let texts: Vec<String> = (0..100).map(|n| format!("record {n}")).collect();
    let texts: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
    let Some(before) = writes() else {
        return;
    };
    assert!(journal.append_all(&texts).iter().all(Result::is_ok));
    let count = writes().unwrap() - before;
    assert!((1..=2).contains(&count), "{count} writes");
}

/// The kernel takes what it could not bring to disk for written: without another write, a power cut loses it.
#[test]
fn what_the_disk_has_refused_is_really_written_again() {
    let scratch = Scratch::new("journal-work");
    let journal = open(&scratch);
    journal.append(b"one").unwrap();
    journal.sync().unwrap();
    let path = scratch.path().join("0000000001.journal");
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let age = |path| fs::metadata(path).unwrap().modified().unwrap();
    let make_old = || {
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(long_ago).unwrap();
    };
    journal.append(b"two").unwrap();
    make_old();
    journal.sync().unwrap();
    assert_eq!(age(&path), long_ago, "a sync alone writes nothing");
    journal.append(b"three").unwrap();
    for one in &mut journal.lock().unsynced {
        one.has_failed = true;
    }
    make_old();
    journal.sync().unwrap();
    assert!(age(&path) > long_ago, "it was written again");
    // Once is enough.
    make_old();
    assert!(!journal.sync().unwrap());
    assert_eq!(age(&path), long_ago);
}

#[test]
fn it_is_nearly_full_beyond_three_quarters() {
    let scratch = Scratch::new("journal-work");
    let journal = open(&scratch);
    assert!(!journal.is_nearly_full());
    while journal.size() + 1010 <= LIMITS.size / 4 * 3 {
        journal.append(&[b'x'; 1000]).unwrap();
        assert!(!journal.is_nearly_full(), "{}", journal.size());
    }
    journal.append(&[b'x'; 1000]).unwrap();
    journal.append(&[b'x'; 1000]).unwrap();
    assert!(journal.is_nearly_full(), "{}", journal.size());
}

/// A sync that failed is told, and what it was for is known to need more than another sync.
#[test]
fn a_sync_that_failed_is_remembered() {
    let scratch = Scratch::new("journal-work");
    let journal = open(&scratch);
    journal.append(b"one").unwrap();
    // fdatasync(2) of a pipe is EINVAL.
    let (_reader, writer) = std::io::pipe().unwrap();
    let pipe = Arc::new(File::from(OwnedFd::from(writer)));
    for one in &mut journal.lock().unsynced {
        one.file = Arc::clone(&pipe);
    }
    journal.sync().unwrap_err();
    let state = journal.lock();
    assert!(!state.unsynced.is_empty());
    assert!(state.unsynced.iter().all(|one| one.has_failed));
}

#[test]
fn there_is_room_for_a_longest_record_or_not() {
    let scratch = Scratch::new("journal-work");
    let limits = Limits {
        size: MAX_RECORD as u64 + 10_000,
        segment: 1 << 20,
        history: 0,
    };
    let journal = Journal::open(scratch.path(), limits, |_, _| ()).unwrap();
    assert!(journal.has_room());
    while journal.size() < 10_000 - 1010 {
        assert!(journal.has_room(), "{}", journal.size());
        journal.append(&[b'x'; 1000]).unwrap();
    }
    journal.append(&[b'x'; 1000]).unwrap();
    assert!(!journal.has_room(), "{}", journal.size());
}

#[test]
fn without_syncs_no_file_stays_open() {
    let scratch = Scratch::new("journal-work");
    let limits = Limits {
        size: 1 << 20,
        segment: 1 << 10,
        history: 0,
    };
    let journal = Journal::open(scratch.path(), limits, |_, _| ()).unwrap();
    for _ in 0..100 {
        journal.append(&[b'x'; 500]).unwrap();
        journal.skip_sync();
    }
    let files = fs::read_dir("/proc/self/fd").unwrap();
    let targets = files.filter_map(|file| fs::read_link(file.unwrap().path()).ok());
    let ours = targets.filter(|target| target.starts_with(scratch.path()));
    assert!(ours.count() <= 2);
    // What comes then is synced if that is wanted.
    journal.append(b"one").unwrap();
    assert!(journal.sync().unwrap());
}
