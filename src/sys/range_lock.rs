//! The lock on a relay's port range: an abstract UNIX socket (unix(7)), which exists once in each network namespace
//! and goes away with its process, however that ends.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Held as long as it lives.
#[derive(Debug)]
pub struct RangeLock {
    _socket: UnixDatagram,
}

/// Takes the lock of the range that begins with this port.
///
/// # Errors
/// `AddrInUse` where another relay in this network namespace holds it.
pub fn lock(first_port: u16) -> io::Result<RangeLock> {
    let address = SocketAddr::from_abstract_name(format!("mediaproxy-relay-{first_port}"))?;
    let _socket = UnixDatagram::bind_addr(&address)?;
    Ok(RangeLock { _socket })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn held_once_for_each_range_until_dropped() {
        let [mine, other] = unused_ports();
        let held = lock(mine).unwrap();
        assert_eq!(lock(mine).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        lock(other).unwrap();
        drop(held);
        // A program that another test starts has it, too, from its fork to its exec.
        while let Err(error) = lock(mine) {
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
            thread::yield_now();
        }
    }

    /// Ports at which no relay's range begins, since they are odd, nor those of another run of the tests.
    fn unused_ports() -> [u16; 2] {
        let first = 1025 + 4 * (std::process::id() % 16_000) as u16;
        [first, first + 2]
    }
}
