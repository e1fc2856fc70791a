//! One program for all fuzz targets: libFuzzer's own `main` calls in here, FUZZ_TARGET names the target.
//! run.sh builds it with coverage and runs it; the targets are in targets/.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

mod targets;

static TARGET: OnceLock<&targets::Target> = OnceLock::new();

/// The target to run, or the end of the process with the names that there are.
fn choose() -> &'static targets::Target {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let found = targets::TARGETS.iter().find(|target| target.name == name);
    match found {
        Some(target) => target,
        None => {
            let names: Vec<&str> = targets::TARGETS.iter().map(|target| target.name).collect();
            eprintln!("FUZZ_TARGET is \"{name}\"; there are: {}", names.join(" "));
            std::process::exit(2);
        }
    }
}

/// Before the first input, whose time libFuzzer limits.
fn start() {
    targets::start();
    (TARGET.get_or_init(choose).prepare)();
}

fuzz_target!(init: start(), |data: &[u8]| {
    (TARGET.get_or_init(choose).run)(data)
});
