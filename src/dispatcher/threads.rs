//! How the dispatcher starts threads, and accepts connections.

use std::io;
use std::thread;
use std::time::Duration;

use crate::logging::sparse::Sparse;

/// Threads need little: a parsed request, a line of JSON.
const STACK: usize = 256 * 1024;

pub(super) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let builder = thread::Builder::new().name(name.to_owned());
    builder.stack_size(STACK).spawn(run).map(drop)
}

/// Accepts for ever. A failure is logged and tried again a little later: it passes (a full table of open
/// files) or comes with one connection only.
pub(super) fn accept_all<C>(
    what: &str,
    accept: impl Fn() -> io::Result<C>,
    mut admit: impl FnMut(C),
) {
    let mut failures = Sparse::default();
    loop {
        match accept() {
            Ok(connection) => admit(connection),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if let Some(skipped) = failures.due() {
                    log::error!("{what}: cannot accept a connection: {error}{skipped}");
                }
                thread::sleep(Duration::from_millis(200));
            }
        }
    }
}
