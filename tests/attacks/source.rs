//! TCP connections from an address of one's choice: all of 127.0.0.0/8 is this host, and for the daemons each address is
//! somebody else.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Longest wait of a connection for whatever it waits for; an attack that hangs would be no bounded one.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects from this address, which the standard library cannot.
pub fn connect(from: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let SocketAddr::V4(to) = to else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::socket(libc::AF_INET, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let name = |address: Ipv4Addr, port: u16| libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(address).to_be(),
        },
        sin_zero: [0; 8],
    };
    let (own, other) = (name(from, 0), name(*to.ip(), to.port()));
    let size = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: both names live through both calls and have that size.
    let connected = unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const own).cast(), size) == 0
            && libc::connect(socket.as_raw_fd(), (&raw const other).cast(), size) == 0
    };
    if !connected {
        return Err(io::Error::last_os_error());
    }
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}
