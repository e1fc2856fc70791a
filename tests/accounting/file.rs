//! A file as a backend of accounting, on a disk that is full.

use std::fs;

use mediaproxy::accounting::{Backend, DeliveryResult, file};
use mediaproxy::config::FileSection;

use crate::support::records::{deliver, expected_sums, records as numbered, sums};
use crate::support::small_disk::SmallDisk;

#[test]
fn a_full_disk_leaves_whole_lines() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let path = disk.path().join("sessions.jsonl");
    let section = FileSection { path: path.clone() };
    let mut backend = file::File::new(&section);
    let records = numbered(0..1000);
    let mut settled = 0;
    let full = loop {
        let mut verdicts = Vec::new();
        let part = &records[settled..settled + 10];
        match backend.deliver(part, &mut verdicts) {
            Ok(()) => settled += verdicts.len(),
            Err(full) => break full.0,
        }
    };
    assert!(
        full.starts_with(&format!("{}: No space left", path.display())),
        "{full}"
    );
    let there = fs::read_to_string(&path).unwrap();
    assert!(there.ends_with('\n'));
    assert_eq!(sums(&there), expected_sums(&records[..settled]));
    // Another instance, as after a crash, with what may have been delivered.
    disk.enlarge();
    let mut backend = file::File::new(&section);
    let verdicts = deliver(&mut backend, &records[settled - 5..]);
    assert_eq!(verdicts[..5], vec![DeliveryResult::Known; 5]);
    assert!(
        verdicts[5..]
            .iter()
            .all(|verdict| *verdict == DeliveryResult::Delivered)
    );
    assert_eq!(
        sums(&fs::read_to_string(&path).unwrap()),
        expected_sums(&records)
    );
}
