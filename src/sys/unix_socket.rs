//! UNIX sockets with a file that lets nobody in before it has its mode and owner (unix(7)).

use std::fs::{File, Permissions};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;

use super::{check, owned};

/// Binds a datagram socket.
///
/// # Errors
/// As of bind(2); a name that is too long.
pub fn datagram(path: &Path) -> io::Result<UnixDatagram> {
    bind(path, libc::SOCK_DGRAM).map(UnixDatagram::from)
}

/// Binds a stream socket, to which nobody can connect before [`listen`].
///
/// # Errors
/// As of [`datagram`].
pub fn stream(path: &Path) -> io::Result<UnixListener> {
    bind(path, libc::SOCK_STREAM).map(UnixListener::from)
}

/// Has a bound socket take connections.
///
/// # Errors
/// As of listen(2).
pub fn listen(socket: &UnixListener) -> io::Result<()> {
    // SAFETY: the descriptor is open. The kernel takes -1 for as many as net.core.somaxconn allows.
    check(unsafe { libc::listen(socket.as_raw_fd(), -1) }).map(drop)
}

fn bind(path: &Path, kind: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: plain data, for which zeros are a value.
    let mut name: libc::sockaddr_un = unsafe { mem::zeroed() };
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= name.sun_path.len() {
        let text = format!("its name is longer than {} bytes", name.sun_path.len() - 1);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    name.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in name.sun_path.iter_mut().zip(bytes) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    // SAFETY: no pointers.
    let socket = owned(unsafe { libc::socket(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0) })?;
    // The file gets the mode that the socket has by then. The umask would be that of all threads.
    let socket = File::from(socket);
    socket.set_permissions(Permissions::from_mode(0o0))?;
    let length = mem::size_of_val(&name) as libc::socklen_t;
    // SAFETY: the name and its length are valid over the call; its path ends with a zero.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const name).cast(), length) })?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::scratch::Scratch;
    use std::fs;
    use std::os::unix::net::UnixStream;

    #[test]
    fn nobody_gets_in_before_the_mode_is_set() {
        let scratch = Scratch::new("bound");
        let [one, other] = ["one", "other"].map(|name| scratch.path().join(name));
        let _datagram = datagram(&one).unwrap();
        let listener = stream(&other).unwrap();
        for path in [&one, &other] {
            let mode = fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0, "{}", path.display());
        }
        assert!(
            UnixStream::connect(&other).is_err(),
            "root may pass the mode"
        );
        fs::set_permissions(&other, Permissions::from_mode(0o600)).unwrap();
        listen(&listener).unwrap();
        let _client = UnixStream::connect(&other).unwrap();
        listener.accept().unwrap();
        let error = datagram(&one).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let long = scratch.path().join("x".repeat(200));
        let error = stream(&long).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(stream(&scratch.path().join("none/x")).is_err());
    }
}
