//! The lock on a relay's port range: an abstract UNIX socket (unix(7)), which exists once in each network namespace
//! and goes away with its process, however that ends. Each relay has it while it runs.

use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Before the range's first port in the socket's name.
const NAME: &str = "mediaproxy-relay-";

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
    let address = SocketAddr::from_abstract_name(format!("{NAME}{first_port}"))?;
    let _socket = UnixDatagram::bind_addr(&address)?;
    Ok(RangeLock { _socket })
}

/// The first ports of ranges whose locks are held in this network namespace, and the inodes of their sockets. To look
/// is not to take: a relay that starts at this moment is not kept from it.
pub fn held() -> Vec<(u16, u64)> {
    parse(&fs::read_to_string("/proc/thread-self/net/unix").unwrap_or_default())
}

/// Whether a relay whose range begins with this port runs in this network namespace.
pub fn is_held(first_port: u16) -> bool {
    held().iter().any(|(held, _)| *held == first_port)
}

/// Of a table of UNIX sockets (proc_pid_net(5)); the name of an abstract one begins with @ there.
fn parse(table: &str) -> Vec<(u16, u64)> {
    let lock = |line: &str| {
        let mut words = line.split_whitespace().skip(6);
        let inode = words.next()?.parse().ok()?;
        let port = words.next()?.strip_prefix('@')?.strip_prefix(NAME)?;
        Some((port.parse().ok()?, inode))
    };
    table.lines().filter_map(lock).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn held_once_for_each_range_until_dropped() {
        let [mine, other] = unused_ports();
        assert!(!is_held(mine));
        let held = lock(mine).unwrap();
        assert!(is_held(mine) && !is_held(other));
        assert_eq!(lock(mine).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        lock(other).unwrap();
        drop(held);
        // A program that another test starts has it, too, from its fork to its exec.
        while let Err(error) = lock(mine) {
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
            thread::yield_now();
        }
    }

    #[test]
    fn locks_are_read_from_the_kernels_table() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0: 00000002 00000000 00000000 0002 01 77 @mediaproxy-relay-40000\n\
            0: 00000002 00000000 00000000 0002 01 78 @mediaproxy-relay-x\n\
            0: 00000002 00000000 00000000 0002 01 79\n0: 0 0 0 0 0 80 /mediaproxy-relay-1\n\n";
        assert_eq!(parse(table), [(40000, 77)]);
    }

    /// Ports at which no relay's range begins, since they are odd, nor those of another run of the tests.
    fn unused_ports() -> [u16; 2] {
        let first = 1025 + 4 * (std::process::id() % 16_000) as u16;
        [first, first + 2]
    }
}
