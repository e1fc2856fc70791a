//! Says that a test is skipped, past the harness, which keeps the output of tests that pass. `tests/run.sh` lists these.

use std::io::Write as _;

/// By the name of the test, which is that of its thread: `cargo test NAME` is that test.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    skip_test(thread.name().unwrap_or("a test"), reason);
}

/// From another thread than the test's own.
pub fn skip_test(name: &str, reason: &str) {
    // In one piece: others write there, too.
    let line = format!("SKIP: {name}: {reason}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// The first of these programs that is not installed. Where a package is built nobody has installed what tests use.
pub fn missing<'a>(programs: &[&'a str]) -> Option<&'a str> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let is_there = |name: &str| {
        let mut folders = path.split(':');
        folders.any(|folder| std::path::Path::new(folder).join(name).exists())
    };
    programs.iter().copied().find(|name| !is_there(name))
}
