//! UNIX datagram sockets of other programs.

use std::ffi::OsStr;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use super::{check, count};

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

/// Who has sent a datagram, as the kernel says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sender {
    /// None where the kernel was not asked for it by [`name_senders`].
    pub user: Option<u32>,
    /// The file that its socket is bound to.
    pub path: Option<PathBuf>,
}

/// Room for who has sent it and nothing else: the kernel closes descriptors that there is no room for.
#[repr(align(8))]
struct Control([u8; 32]);

/// Has the kernel say the user of whoever sends to a socket.
///
/// # Errors
/// As of setsockopt(2).
pub fn name_senders(socket: &UnixDatagram) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = mem::size_of_val(&on) as libc::socklen_t;
    // SAFETY: the option's value is an int that lives over the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PASSCRED,
            (&raw const on).cast(),
            length,
        )
    };
    check(set).map(drop)
}

/// Waits until there is a datagram, or the socket is shut down.
///
/// # Errors
/// As of recv(2).
pub fn await_one(socket: &UnixDatagram) -> io::Result<()> {
    let (nothing, flags) = (std::ptr::null_mut(), libc::MSG_PEEK);
    // SAFETY: the kernel writes no byte.
    count(unsafe { libc::recv(socket.as_raw_fd(), nothing, 0, flags) }).map(drop)
}

/// Takes one datagram that is there, cut to the buffer's length, with who has sent it.
///
/// # Errors
/// As of recvmsg(2); `WouldBlock` where there is none.
pub fn receive(socket: &UnixDatagram, buffer: &mut [u8]) -> io::Result<(usize, Sender)> {
    // SAFETY: both are plain data, for which zeros are a value.
    let (mut name, mut header): (libc::sockaddr_un, libc::msghdr) = unsafe { mem::zeroed() };
    let mut control = Control([0; 32]);
    let mut piece = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = mem::size_of_val(&name) as libc::socklen_t;
    header.msg_iov = &raw mut piece;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len() as _;
    // SAFETY: the header points to a name, a buffer and control data with their lengths, all alive.
    let length =
        count(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) })?;
    let start = mem::offset_of!(libc::sockaddr_un, sun_path);
    let path = name.sun_path.map(i8_to_u8);
    let path = path.get(..(header.msg_namelen as usize).saturating_sub(start));
    let path = path.and_then(|path| path.split(|&byte| byte == 0).next());
    Ok((
        length,
        Sender {
            user: user(&header),
            path: path
                .filter(|path| !path.is_empty())
                .map(|path| PathBuf::from(OsStr::from_bytes(path))),
        },
    ))
}

fn i8_to_u8(byte: libc::c_char) -> u8 {
    byte.to_ne_bytes()[0]
}

/// The user in a header's control data.
fn user(header: &libc::msghdr) -> Option<u32> {
    // SAFETY: the kernel has filled the control data of this header, and only as far as it says; the macros stay within.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(header);
        while let Some(control) = at.as_ref() {
            if control.cmsg_level == libc::SOL_SOCKET && control.cmsg_type == libc::SCM_CREDENTIALS
            {
                return Some(
                    libc::CMSG_DATA(at)
                        .cast::<libc::ucred>()
                        .read_unaligned()
                        .uid,
                );
            }
            at = libc::CMSG_NXTHDR(header, at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::scratch::Scratch;

    #[test]
    fn the_kernel_says_who_has_sent_it() {
        let scratch = Scratch::new("senders");
        let [own, other] = ["own", "other"].map(|name| scratch.path().join(name));
        let socket = UnixDatagram::bind(&own).unwrap();
        name_senders(&socket).unwrap();
        let unnamed = UnixDatagram::unbound().unwrap();
        unnamed.send_to(b"one", &own).unwrap();
        let named = UnixDatagram::bind(&other).unwrap();
        named.send_to(b"longer", &own).unwrap();
        let mut buffer = [0; 4];
        let user = Some(crate::sys::users::own_number());
        let path = None;
        assert_eq!(
            receive(&socket, &mut buffer).unwrap(),
            (3, Sender { user, path })
        );
        let path = Some(other);
        assert_eq!(
            receive(&socket, &mut buffer).unwrap(),
            (4, Sender { user, path })
        );
        assert_eq!(&buffer, b"long");
    }

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
