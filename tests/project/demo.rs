//! `make demo` as a newcomer runs it, but for the terminal: exit status 0, what it says, nothing left behind.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn the_demo_loses_nothing_and_leaves_nothing() {
    let binaries = Path::new(env!("CARGO_BIN_EXE_media-relay"))
        .parent()
        .unwrap();
    let demo = binaries.join("examples/demo");
    assert!(
        demo.exists(),
        "{}: build it by `cargo build --example demo` (a plain `cargo test` does)",
        demo.display()
    );
    let scratch = std::env::temp_dir().join(format!("mediaproxy-demo-test-{}", std::process::id()));
    fs::create_dir(&scratch).unwrap();
    let run = Command::new(demo)
        .arg(binaries)
        .env("TMPDIR", &scratch)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let left: Vec<_> = fs::read_dir(&scratch).unwrap().flatten().collect();
    fs::remove_dir_all(&scratch).unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{}\n{said}\n{errors}", run.status);
    assert!(said.contains("nothing lost, doubled or crossed"), "{said}");
    let tables = said.split("`media-admin summary` had said").nth(1).unwrap();
    assert!(
        tables.contains("alice@example.com") && tables.contains("active"),
        "{said}"
    );
    assert!(!said.contains("{\""), "JSON is for programs: {said}");
    assert!(!said.contains('\x1b'), "no terminal, no colours");
    assert!(left.is_empty(), "left in the scratch directory: {left:?}");
}
