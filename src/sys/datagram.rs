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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::scratch::Scratch;

    #[test]
    fn a_call_that_a_signal_broke_off_is_done_again() {
        let mut results = [
            Err(io::ErrorKind::Interrupted.into()),
            Err(io::ErrorKind::Interrupted.into()),
            Ok(7),
            Err(io::ErrorKind::TimedOut.into()),
        ]
        .into_iter();
        assert_eq!(undisturbed(|| results.next().unwrap()).unwrap(), 7);
        let error = undisturbed(|| results.next().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn the_first_socket_where_somebody_reads() {
        let scratch = Scratch::new("sockets");
        let paths = ["a", "b", "c"].map(|name| scratch.path().join(name));
        assert_eq!(first_there(&paths), paths[0], "none is there");
        let _read = UnixDatagram::bind(&paths[2]).unwrap();
        // Left by a crash.
        drop(UnixDatagram::bind(&paths[1]).unwrap());
        assert!(!is_there(&paths[0]) && !is_there(&paths[1]) && is_there(&paths[2]));
        assert_eq!(first_there(&paths), paths[2]);
        // Somebody else's, of another kind.
        let _stream = std::os::unix::net::UnixListener::bind(&paths[0]).unwrap();
        assert!(!is_there(&paths[0]));
        assert_eq!(first_there(&[]), Path::new(""));
    }
}
