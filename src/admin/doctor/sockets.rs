//! Whose sockets are whose (proc_pid_net(5), proc_pid_fd(5)). Only root sees those of other users' processes.

use std::collections::HashSet;
use std::fs;

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

/// A process's name: the first 15 bytes of its program's.
pub fn name(pid: i32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

/// Whether a process has a socket that listens on a TCP port; none where this user cannot see.
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

#[cfg(test)]
mod tests {
    use super::*;
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
}
