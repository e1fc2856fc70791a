//! Tests that need a process of their own: the program runs one of its tests again, alone and in other circumstances.

use std::path::PathBuf;

/// This program, and what makes it run that test alone. The first is what `module_path!()` is where the test stands.
pub fn this_program(module: &str, test: &str) -> (PathBuf, Vec<String>) {
    // The harness leaves out the program's own name.
    let (_, module) = module.split_once("::").expect("tests are in modules");
    let name = format!("{module}::{test}");
    (
        std::env::current_exe().unwrap(),
        vec![name, "--exact".to_owned(), "--nocapture".to_owned()],
    )
}

/// A name that is no test's is no error of the harness: none is run then.
#[track_caller]
pub fn assert_has_passed(output: &std::process::Output) {
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}{errors}");
    assert!(told.contains(" 1 passed"), "{told}{errors}");
}
