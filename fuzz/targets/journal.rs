//! A journal's segment with anything in it: opening tells the same records as reading, and what is appended comes
//! after them.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use mediaproxy::accounting::Record;
use mediaproxy::journal::{Found, Journal, Limits, Position, Reader};

const LIMITS: Limits = Limits {
    size: 64 << 20,
    segment: 1 << 20,
    history: 0,
};

/// A directory in memory where there is one.
fn directory() -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let memory = PathBuf::from("/dev/shm");
    let base = if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    };
    base.join(format!("mediaproxy-fuzz-{}-{number}", std::process::id()))
}

fn open(directory: &std::path::Path) -> (Journal, Vec<Vec<u8>>) {
    let mut told = Vec::new();
    let journal = Journal::open(directory, LIMITS, |_, text| told.push(text.to_vec()));
    (
        journal.expect("a journal can be opened whatever is in it"),
        told,
    )
}

fn read(journal: &Journal) -> Vec<Vec<u8>> {
    let mut reader = Reader::new(journal, Position::default());
    let mut records = Vec::new();
    while let Some(found) = reader.next_record().expect("it can be read") {
        if let Found::Record(end, text) = found {
            assert!(end <= journal.end());
            records.push(text);
        }
    }
    records
}

pub fn run(data: &[u8]) {
    let directory = directory();
    fs::create_dir(&directory).expect("a directory");
    fs::write(directory.join("0000000001.journal"), data).expect("a segment");
    let (journal, mut told) = open(&directory);
    assert_eq!(read(&journal), told);
    for text in &told {
        // What it holds may be no record of a session.
        let _ = std::str::from_utf8(text).map(Record::parse);
    }
    journal.append(b"after").expect("there is room");
    told.push(b"after".to_vec());
    assert_eq!(read(&journal), told);
    drop(journal);
    assert_eq!(open(&directory).1, told);
    fs::remove_dir_all(directory).expect("it goes");
}
