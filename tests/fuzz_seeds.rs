//! The fuzzer's seeds, every crash ever found among them, through the same targets as in fuzz/: whole, and
//! cut after each byte.

#[path = "../fuzz/targets/mod.rs"]
mod targets;

use std::collections::BTreeSet;
use std::path::PathBuf;

fn seeds() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds")
}

#[test]
fn every_seed_through_its_target() {
    targets::start();
    for target in targets::TARGETS {
        let directory = seeds().join(target.name);
        let files = std::fs::read_dir(&directory).unwrap_or_else(|error| {
            panic!("{}: {error}", directory.display());
        });
        let mut count = 0;
        for file in files {
            let path = file.unwrap().path();
            let data = std::fs::read(&path).unwrap();
            // Shown with the panic where there is one.
            println!("{}", path.display());
            for end in 0..=data.len() {
                (target.run)(&data[..end]);
            }
            count += 1;
        }
        assert!(count > 0, "{} has no seeds", target.name);
    }
}

#[test]
fn every_directory_of_seeds_has_a_target() {
    let names: BTreeSet<String> = targets::TARGETS.iter().map(|t| t.name.to_owned()).collect();
    let directories: BTreeSet<String> = std::fs::read_dir(seeds())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names, directories);
}
