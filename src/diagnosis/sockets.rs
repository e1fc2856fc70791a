//! Sockets of this host and whose they are, as the kernel lists them (proc_pid_net(5), proc_pid_fd(5)). Only root sees
//! those of other users' processes.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};

use super::host_facts::PROC_NET;

/// The inodes of all sockets that a process has; none where this user cannot see.
pub fn of(pid: i32) -> Option<HashSet<u64>> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    // One that was closed meanwhile is not its any more.
    let sockets = files.flatten().filter_map(|file| {
        let target = fs::read_link(file.path()).ok()?;
        let inode = target.to_str()?.strip_prefix("socket:[")?;
        inode.strip_suffix(']')?.parse().ok()
    });
    Some(sockets.collect())
}

/// The process that has a socket; none where this user cannot see it.
pub fn owner(inode: u64) -> Option<i32> {
    let all = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(|pid| of(*pid).is_some_and(|sockets| sockets.contains(&inode)))
}

/// A socket as the kernel lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    pub local: SocketAddr,
    remote: SocketAddr,
    state: u8,
    /// Bytes that came and were not read.
    pub unread: u64,
    pub inode: u64,
}

/// Of linux/tcp.h.
const ESTABLISHED: u8 = 1;
const LISTEN: u8 = 10;

/// All sockets of a table: `tcp`, `tcp6`, `udp` or `udp6`.
pub fn listed(table: &str) -> impl Iterator<Item = Socket> {
    let text = fs::read_to_string(format!("{PROC_NET}/{table}")).unwrap_or_default();
    parse(&text).into_iter()
}

pub(super) fn parse(table: &str) -> Vec<Socket> {
    let socket = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (_, unread) = words.get(4)?.split_once(':')?;
        Some(Socket {
            local: address(words.get(1)?)?,
            remote: address(words.get(2)?)?,
            state: u8::from_str_radix(words.get(3)?, 16).ok()?,
            unread: u64::from_str_radix(unread, 16).ok()?,
            inode: words.get(9)?.parse().ok()?,
        })
    };
    table.lines().skip(1).filter_map(socket).collect()
}

/// Words of four bytes in the host's order, in hexadecimal digits, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (digits, port) = text.split_once(':')?;
    let word = |at: usize| {
        let word = u32::from_str_radix(digits.get(at..at + 8)?, 16).ok()?;
        Some(u32::from_be_bytes(word.to_ne_bytes()))
    };
    let ip = match digits.len() {
        8 => IpAddr::from(word(0)?.to_be_bytes()),
        _ => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let bits = words
                .iter()
                .fold(0, |bits, word| bits << 32 | u128::from(*word));
            IpAddr::from(bits.to_be_bytes())
        }
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// Returns true if a process has a socket that listens on a TCP port; none where this user cannot see.
pub fn listens(pid: i32, port: u16) -> Option<bool> {
    let own = of(pid)?;
    let mut sockets = listed("tcp").chain(listed("tcp6"));
    Some(
        sockets
            .any(|one| one.state == LISTEN && one.local.port() == port && own.contains(&one.inode)),
    )
}

/// The first connection to there, whosever it is.
pub fn connection_to(address: SocketAddr) -> Option<Socket> {
    let table = if address.is_ipv4() { "tcp" } else { "tcp6" };
    listed(table).find(|one| one.state == ESTABLISHED && one.remote == address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::processes::name;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    #[test]
    fn a_port_is_of_who_listens_there_and_of_nobody_else() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(listens(own, address.port()), Some(true));
        let link = TcpStream::connect(address).unwrap();
        let port = link.local_addr().unwrap().port();
        assert_eq!(listens(own, port), Some(false), "it does not listen");
        assert_eq!(listens(i32::MAX, address.port()), None);
        assert!(parse("junk\n\n 0: x\n").is_empty());
    }

    #[test]
    fn a_socket_has_an_owner_with_a_name() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        let inode = link.to_str().unwrap();
        let inode = inode["socket:[".len()..inode.len() - 1].parse().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        // A program that another test starts has it, too, from its fork to its exec.
        while owner(inode) != Some(own) {
            std::thread::yield_now();
        }
        assert_eq!(owner(u64::MAX), None);
        let program = std::env::current_exe().unwrap();
        let program = program.file_name().unwrap().to_str().unwrap();
        // Of a test it is the thread's that asks; the process's is that of its first one.
        assert!(name(own).is_some_and(|name| program.starts_with(&name)));
    }

    #[test]
    fn connections_and_what_they_have_not_read() {
        for here in ["127.0.0.1:0", "[::1]:0"] {
            // Not every host has IPv6.
            let Ok(listener) = TcpListener::bind(here) else {
                continue;
            };
            let address = listener.local_addr().unwrap();
            assert_eq!(connection_to(address), None, "it only listens");
            let mut link = TcpStream::connect(address).unwrap();
            let before = connection_to(address).unwrap();
            assert_eq!(before.unread, 0);
            let (mut peer, _) = listener.accept().unwrap();
            peer.write_all(b"pong").unwrap();
            while connection_to(address).unwrap().unread == 0 {
                std::thread::yield_now();
            }
            assert_eq!(
                connection_to(address).unwrap(),
                Socket {
                    unread: 4,
                    ..before
                }
            );
            link.read_exact(&mut [0; 4]).unwrap();
            assert_eq!(connection_to(address).unwrap(), before);
        }
    }
}
