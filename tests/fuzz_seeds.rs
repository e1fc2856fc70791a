//! The fuzzer's seeds, every crash ever found among them, through the same targets as in fuzz/: whole, and
//! cut. Those that are certificates are made for the occasion.

#[path = "../fuzz/targets/mod.rs"]
mod targets;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Places at which a long seed is cut; a shorter one is cut after each byte.
const CUTS: usize = 300;

fn seeds() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds")
}

#[test]
fn every_seed_through_its_target() {
    targets::start();
    for target in targets::TARGETS {
        let count = run_all(target, &seeds().join(target.name));
        assert!(count > 0, "{} has no seeds", target.name);
    }
}

#[test]
fn certificates_and_lists_made_by_openssl_through_their_targets() {
    targets::start();
    let made = std::env::temp_dir().join(format!("mediaproxy-seeds-{}", std::process::id()));
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/make-seeds.sh");
    let status = std::process::Command::new(script)
        .arg(&made)
        .status()
        .unwrap();
    assert!(status.success());
    for target in targets::TARGETS {
        let directory = made.join(target.name);
        if directory.exists() {
            assert!(run_all(target, &directory) > 1, "{}", target.name);
        }
    }
    std::fs::remove_dir_all(made).unwrap();
}

/// Every file of a directory, whole and cut. How many there were.
fn run_all(target: &targets::Target, directory: &Path) -> usize {
    (target.prepare)();
    let files = std::fs::read_dir(directory).unwrap_or_else(|error| {
        panic!("{}: {error}", directory.display());
    });
    let mut count = 0;
    for file in files {
        let path = file.unwrap().path();
        let data = std::fs::read(&path).unwrap();
        // Shown with the panic where there is one.
        println!("{}", path.display());
        (target.run)(&data);
        for end in (0..data.len()).step_by(data.len() / CUTS + 1) {
            (target.run)(&data[..end]);
        }
        count += 1;
    }
    count
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
