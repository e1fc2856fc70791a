//! Whose the TCP ports are on which something listens (proc_pid_net(5), proc_pid_fd(5)).

use std::fs;
use std::path::Path;

/// Whether a process has a socket that listens on a TCP port; none where this user cannot see.
pub fn has(pid: i32, port: u16) -> Option<bool> {
    let table = |name| fs::read_to_string(format!("/proc/thread-self/net/{name}"));
    let tables = [table("tcp").ok()?, table("tcp6").unwrap_or_default()];
    let inodes = tables.iter().flat_map(|table| listening(table, port));
    let wanted: Vec<String> = inodes.map(|inode| format!("socket:[{inode}]")).collect();
    let files = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    // One that was closed meanwhile is not it.
    let mut targets = files
        .flatten()
        .filter_map(|file| fs::read_link(file.path()).ok());
    Some(targets.any(|target| wanted.iter().any(|socket| target == Path::new(socket))))
}

/// The inodes of a table's sockets that listen on a port.
fn listening(table: &str, port: u16) -> Vec<&str> {
    let end = format!(":{port:04X}");
    let inode = |line| {
        let words: Vec<&str> = str::split_whitespace(line).collect();
        let is_there = words.get(1)?.ends_with(&end) && *words.get(3)? == "0A";
        words.get(9).filter(|_| is_there).copied()
    };
    table.lines().skip(1).filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_port_is_of_who_listens_there_and_of_nobody_else() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(has(own, address.port()), Some(true));
        let link = TcpStream::connect(address).unwrap();
        let port = link.local_addr().unwrap().port();
        assert_eq!(has(own, port), Some(false), "it does not listen");
        assert_eq!(has(i32::MAX, address.port()), None);
        assert!(listening("junk\n\n 0: x\n", 1).is_empty());
    }
}
