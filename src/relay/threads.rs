//! Threads whose panic ends the process, so that the service manager starts it whole again: no half of a relay can lose
//! calls silently.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use log::error;

/// Starts a thread.
///
/// # Errors
/// A sentence with its name.
pub(super) fn start(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let started = spawn(name, run);
    started
        .map(drop)
        .map_err(|error| format!("cannot start the {name} thread: {error}"))
}

/// Starts a thread that somebody waits for.
pub(super) fn spawn(
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<thread::JoinHandle<()>> {
    let builder = thread::Builder::new().name(name.to_owned());
    let name = name.to_owned();
    builder.spawn(move || {
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            error!("the {name} thread has failed: the process ends, to be started again");
            crate::logging::last_words();
            std::process::abort();
        }
    })
}
