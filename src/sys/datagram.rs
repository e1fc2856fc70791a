//! UNIX datagram sockets of other programs.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// Does a call on a socket again that a signal has broken off. One with a time-out comes back with EINTR even where no
/// handler ran, as when the process was stopped and goes on.
///
/// # Errors
/// Those of the call, without that.
pub fn undisturbed<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Somebody reads there, whom this process may write to.
///
/// # Errors
/// Why not.
pub fn listens(path: &Path) -> io::Result<()> {
    UnixDatagram::unbound()?.connect(path)
}

/// Returns false where there is none, or where what it was made by has ended; true where it may not be written to.
pub fn is_there(path: &Path) -> bool {
    match listens(path) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

/// The first of them where somebody reads, else the first that is there, else the first.
pub fn first_there(paths: &[PathBuf]) -> &Path {
    let reads = paths.iter().find(|path| listens(path).is_ok());
    let there = reads.or_else(|| paths.iter().find(|path| is_there(path)));
    there
        .or(paths.first())
        .map_or(Path::new(""), PathBuf::as_path)
}
