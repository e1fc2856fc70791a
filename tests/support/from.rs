//! TCP connections from an address that the test chooses: on loopback each host of 127.0.0.0/8 is one's own.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

fn at(address: Ipv4Addr, port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(address).to_be(),
        },
        sin_zero: [0; 8],
    }
}

/// Connects to an IPv4 address.
pub fn connect_from(source: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let SocketAddr::V4(to) = to else {
        panic!("{to} is no IPv4 address");
    };
    // SAFETY: takes no pointers; the descriptor that it returns is nobody else's.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let size = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    type Call = unsafe extern "C" fn(libc::c_int, *const libc::sockaddr, libc::socklen_t) -> i32;
    let calls: [(Call, libc::sockaddr_in); 2] = [
        (libc::bind, at(source, 0)),
        (libc::connect, at(*to.ip(), to.port())),
    ];
    for (call, address) in calls {
        // SAFETY: the descriptor is open, and the address is read before the call returns.
        if unsafe { call(socket.as_raw_fd(), (&raw const address).cast(), size) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(TcpStream::from(socket))
}
