//! Sockets of this host and whose they are, as the kernel lists them (proc_pid_net(5), proc_pid_fd(5)). Only root sees
//! those of other users' processes.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};

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

/// Returns true if a process has a socket that listens on a TCP port; none where this user cannot see.
pub fn listens(pid: i32, port: u16) -> Option<bool> {
    let table = |name| fs::read_to_string(format!("/proc/thread-self/net/{name}"));
    let tables = [table("tcp").ok()?, table("tcp6").unwrap_or_default()];
    let mut inodes = tables.iter().flat_map(|table| listening(table, port));
    let own = of(pid)?;
    Some(inodes.any(|inode| own.contains(&inode)))
}

/// The inodes of a table's sockets that listen on a port.
fn listening(table: &str, port: u16) -> Vec<u64> {
    let end = format!(":{port:04X}");
    let inode = |line| {
        let words: Vec<&str> = str::split_whitespace(line).collect();
        let is_there = words.get(1)?.ends_with(&end) && *words.get(3)? == "0A";
        words.get(9)?.parse().ok().filter(|_| is_there)
    };
    table.lines().skip(1).filter_map(inode).collect()
}

/// An established connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Of its socket here.
    pub inode: u64,
    /// Bytes that came and were not read.
    pub unread: u64,
}

/// The first connection to there, whosever it is.
pub fn connection_to(address: SocketAddr) -> Option<Connection> {
    let table = match address.ip() {
        IpAddr::V4(_) => "tcp",
        IpAddr::V6(_) => "tcp6",
    };
    let table = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
    find_connection(&table, address)
}

fn find_connection(table: &str, to: SocketAddr) -> Option<Connection> {
    let wanted = format!("{}:{:04X}", written(to.ip()), to.port());
    table.lines().skip(1).find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_up = *words.get(2)? == wanted && *words.get(3)? == "01";
        let (_, unread) = words.get(4)?.split_once(':')?;
        let connection = Connection {
            inode: words.get(9)?.parse().ok()?,
            unread: u64::from_str_radix(unread, 16).ok()?,
        };
        is_up.then_some(connection)
    })
}

/// Words of four bytes in the host's order, in hexadecimal digits.
fn written(ip: IpAddr) -> String {
    let bytes = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = bytes
        .chunks(4)
        .map(|word| word.try_into().map_or(0, u32::from_ne_bytes));
    words.map(|word| format!("{word:08X}")).collect()
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
        assert!(listening("junk\n\n 0: x\n", 1).is_empty());
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
                Connection {
                    unread: 4,
                    ..before
                }
            );
            link.read_exact(&mut [0; 4]).unwrap();
            assert_eq!(connection_to(address).unwrap(), before);
        }
        assert_eq!(
            find_connection("junk\n\n 0: x", "127.0.0.1:1".parse().unwrap()),
            None
        );
    }
}
