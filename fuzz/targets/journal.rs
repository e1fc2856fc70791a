//! A journal's segment with anything in it: opening tells the same records as reading, and what is appended comes
//! after them. No fuzzer finds a checksum, so each line gets the right one; one that begins with `!` is taken as it is.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use mediaproxy::accounting::Record;
use mediaproxy::journal::{Journal, Limits, Position, Reader, Scanned};

const LIMITS: Limits = Limits {
    size: 64 << 20,
    segment: 1 << 20,
    history: 0,
};

/// A directory in memory where there is one.
pub fn directory() -> PathBuf {
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
        if let Scanned::Record(end, text) = found {
            assert!(end <= journal.end());
            records.push(text);
        }
    }
    records
}

/// The CRC-32 of zlib, bit by bit: another one than the journal's own.
fn checksum(text: &[u8]) -> u32 {
    let mut sum = !0u32;
    for byte in text {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg());
        }
    }
    !sum
}

/// The segment, and the texts of the whole lines that have a checksum.
pub fn segment(data: &[u8]) -> (Vec<u8>, Vec<&[u8]>) {
    let (mut segment, mut texts) = (Vec::new(), Vec::new());
    for line in data.split_inclusive(|b| *b == b'\n') {
        match line.strip_prefix(b"!") {
            Some(raw) => segment.extend_from_slice(raw),
            None => {
                let text = line.strip_suffix(b"\n");
                let begins_a_line = segment.last().is_none_or(|b| *b == b'\n');
                texts.extend(text.filter(|_| begins_a_line));
                let sum = checksum(text.unwrap_or(line));
                segment.extend_from_slice(format!("{sum:08x} ").as_bytes());
                segment.extend_from_slice(line);
            }
        }
    }
    (segment, texts)
}

pub fn run(data: &[u8]) {
    let (segment, texts) = segment(data);
    let directory = directory();
    fs::create_dir(&directory).expect("a directory");
    fs::write(directory.join("0000000001.journal"), segment).expect("a segment");
    let (journal, mut told) = open(&directory);
    assert_eq!(read(&journal), told);
    let mut rest = told.iter();
    for text in texts {
        assert!(rest.any(|told| told == text), "a whole record is told");
    }
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
